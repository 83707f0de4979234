"""Affine forms of index expressions.

In: integer expressions of the graph. Out: coefficients by axis, or None where the expression is not
affine. Example: `affine(2*y + i - 1)` is `({y: 2, i: 1}, -1)`.
"""

from __future__ import annotations

from sdlc.graph.expr import Apply, Axis, Expr, Index, Literal

Affine = tuple[dict[Axis, int], int]


def affine(expr: Expr) -> Affine | None:
    """Coefficients by axis and the constant of an affine integer expression."""
    match expr:
        case Literal(value=int(value)):
            return {}, int(value)
        case Index(axis=axis):
            return {axis: 1}, 0
        case Apply(op="add", args=(left, right)):
            return _sum(affine(left), affine(right), 1)
        case Apply(op="sub", args=(left, right)):
            return _sum(affine(left), affine(right), -1)
        case Apply(op="neg", args=(value,)):
            return _scaled(affine(value), -1)
        case Apply(op="mul", args=(left, right)):
            return _product(affine(left), affine(right))
        case _:
            return None


def bare_axis(expr: Expr) -> Axis | None:
    """The axis of an expression that is just an axis."""
    form = affine(expr)
    if form is None or form[1] != 0 or list(form[0].values()) != [1]:
        return None
    return next(iter(form[0]))


def _sum(left: Affine | None, right: Affine | None, sign: int) -> Affine | None:
    if left is None or right is None:
        return None
    terms = dict(left[0])
    for axis, c in right[0].items():
        terms[axis] = terms.get(axis, 0) + sign * c
    return {a: c for a, c in terms.items() if c}, left[1] + sign * right[1]


def _scaled(form: Affine | None, factor: int) -> Affine | None:
    if form is None:
        return None
    return {a: c * factor for a, c in form[0].items() if c * factor}, form[1] * factor


def _product(left: Affine | None, right: Affine | None) -> Affine | None:
    if left is None or right is None:
        return None
    if not left[0]:
        return _scaled(right, left[1])
    if not right[0]:
        return _scaled(left, right[1])
    return None
