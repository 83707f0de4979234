"""Linear forms: integer sums as coefficients of atoms and a constant.

In: i32 scalars. Out: `Linear`, `({atom: coefficient, …}, constant)`, without zero coefficients.
Invariant: atoms are not affine themselves; a form is shared, so nobody changes it. An expression
knows its form from the moment that it is made (`Call.form`); None stands for `{itself: 1}`.

    linear((x + y) * 4 - y + 1)      ({x: 4, y: 3}, 1)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdlc.kernel.ir import Expr

Linear = tuple[dict["Expr", int], int]
NOTHING: Linear = ({}, 0)


def linear(expr: Expr) -> Linear:
    """The form of an i32 scalar; anything else is an atom."""
    form = expr.form
    return ({expr: 1}, 0) if form is None else form


def combine(left: Linear, right: Linear, factor: int = 1) -> Linear:
    """left + factor * right."""
    constant = left[1] + factor * right[1]
    if not right[0]:
        return left[0], constant
    terms = dict(left[0])
    for atom, coefficient in right[0].items():
        total = terms.get(atom, 0) + factor * coefficient
        if total:
            terms[atom] = total
        else:
            terms.pop(atom, None)
    return terms, constant


def scale(form: Linear, factor: int) -> Linear:
    return ({a: c * factor for a, c in form[0].items()}, form[1] * factor) if factor else NOTHING


def affine(op: str, args: tuple[Expr, ...]) -> Linear | None:
    """The form of an operator applied to i32 scalars; None where the result is an atom."""
    match op:
        case "add":
            return combine(linear(args[0]), linear(args[1]))
        case "sub":
            return combine(linear(args[0]), linear(args[1]), -1)
        case "neg":
            return scale(linear(args[0]), -1)
        case "mul":
            left, right = linear(args[0]), linear(args[1])
            if not left[0]:
                return scale(right, left[1])
            return None if right[0] else scale(left, right[1])
    return None
