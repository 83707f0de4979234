"""The canonical form of integer sums: linear forms written back as expressions.

In: linear forms. Out: one expression for each form, whatever the order in which it was made.
Invariant: the order of terms depends on their structure only: first positive coefficients, larger
ones first, then negative ones, then the constant.

    sum_of(({lane: 4, group: 64}, -3))      group * 64 + lane * 4 - 3
"""

from __future__ import annotations

from typing import Any

from sdlc.kernel.ir import (
    Call,
    Cast,
    Expr,
    Extract,
    Literal,
    Load,
    Var,
    Vector,
    WorkId,
    call,
    i32,
    operands,
)
from sdlc.kernel.linear import Linear

Key = tuple[Any, ...]


class Order:
    """A total order of expressions by structure. Keys are shared, so comparing them is cheap."""

    def __init__(self) -> None:
        self._keys: dict[Expr, Key] = {}

    def key(self, expr: Expr) -> Key:
        found = self._keys.get(expr)
        if found is None:
            rank, name, number = _head(expr)
            found = (rank, name, number, tuple(self.key(o) for o in operands(expr)))
            self._keys[expr] = found
        return found

    def sum_of(self, form: Linear) -> Expr:
        """The canonical expression of a linear form."""
        terms = sorted(form[0].items(), key=lambda term: (-abs(term[1]), self.key(term[0])))
        total: Expr | None = None
        for atom, coefficient in terms:
            if coefficient > 0:
                made = _product(atom, coefficient)
                total = made if total is None else call("add", total, made)
        if total is None and (form[1] > 0 or not terms):
            total, form = i32(form[1]), (form[0], 0)
        for atom, coefficient in terms:
            if coefficient < 0:
                made = _product(atom, -coefficient)
                total = _negative(atom, coefficient) if total is None else call("sub", total, made)
        assert total is not None
        return _offset(total, form[1])


def _negative(atom: Expr, coefficient: int) -> Expr:
    return call("neg", atom) if coefficient == -1 else call("mul", atom, i32(coefficient))


def _product(atom: Expr, coefficient: int) -> Expr:
    return atom if coefficient == 1 else call("mul", atom, i32(coefficient))


def _offset(total: Expr, constant: int) -> Expr:
    if constant == 0:
        return total
    if constant > 0:
        return call("add", total, i32(constant))
    return call("sub", total, i32(-constant))


def _head(expr: Expr) -> tuple[int, str, float]:
    """Rank, name and number of an expression without its operands."""
    match expr:
        case WorkId():
            return 0, expr.kind, expr.dim
        case Var():
            return 1, expr.name, 0
        case Literal():
            return 2, str(expr.type), float(expr.value)
        case Call():
            return 3, expr.op, 0
        case Cast():
            return 4, expr.dtype.value, 0
        case Load():
            return 5, expr.buffer.name, expr.lanes
        case Extract():
            return 6, "", expr.first * 64 + expr.count
        case Vector():
            return 7, "", len(expr.parts)
