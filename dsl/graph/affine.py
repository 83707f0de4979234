"""Affine forms of index expressions.

In: integer expressions of the graph. Out: coefficients by axis, or None where the expression is not
affine. Invariant: an axis of coefficient 0 is left out. Example: `affine(2*y + i - 1)` is
`({y: 2, i: 1}, -1)`.
"""

from __future__ import annotations

from sdlc.graph.expr import Apply, Axis, Expr, Index, Literal
from sdlc.graph.types import DType

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


def bounds(expr: Expr) -> tuple[int, int] | None:
    """The least and the greatest value of an integer expression, None where none is known.

    Exact for an affine form; else the operands are taken to vary independently.
    """
    form = affine(expr)
    if form is not None:
        reach = [c * (a.extent - 1) for a, c in form[0].items()]
        return form[1] + sum(min(r, 0) for r in reach), form[1] + sum(max(r, 0) for r in reach)
    if not isinstance(expr, Apply) or len(expr.args) != 2:
        return None
    left, right = bounds(expr.args[0]), bounds(expr.args[1])
    return None if left is None or right is None else _combined(expr.op, left, right)


def _combined(op: str, a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int] | None:
    match op:
        case "add":
            return a[0] + b[0], a[1] + b[1]
        case "sub":
            return a[0] - b[1], a[1] - b[0]
        case "mul":
            ends = [x * y for x in a for y in b]
            return min(ends), max(ends)
        case "min":
            return min(a[0], b[0]), min(a[1], b[1])
        case "max":
            return max(a[0], b[0]), max(a[1], b[1])
        case "floordiv" if b[0] == b[1] and b[0] > 0:
            return a[0] // b[0], a[1] // b[0]
        case "mod" if b[0] == b[1] and b[0] > 0:
            return (a[0], a[1]) if a[0] >= 0 and a[1] < b[0] else (0, b[0] - 1)
        case _:
            return None


def normal(expr: Expr) -> Expr:
    """An affine expression as one sum, its constant last; others as they are."""
    form = affine(expr)
    if form is None:
        return expr
    made: Expr | None = None
    for axis, factor in form[0].items():
        term = Index(axis) if abs(factor) == 1 else _scaled_index(axis, abs(factor))
        if made is None:
            made = term if factor > 0 else Apply("neg", (term,))
        else:
            made = Apply("add" if factor > 0 else "sub", (made, term))
    if made is None:
        return Literal(form[1], DType.I32)
    if form[1] == 0:
        return made
    return Apply("add" if form[1] > 0 else "sub", (made, Literal(abs(form[1]), DType.I32)))


def _scaled_index(axis: Axis, factor: int) -> Expr:
    return Apply("mul", (Index(axis), Literal(factor, DType.I32)))
