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
)
from sdlc.kernel.linear import Linear

Key = tuple[Any, ...]


class Order:
    """A total order of expressions by structure. Keys are shared, so comparing them is cheap; sums
    that differ by a constant (copies of one statement) share what comes before it."""

    def __init__(self) -> None:
        self._keys: dict[Expr, Key] = {}
        self._sums: dict[frozenset[tuple[Expr, int]], Expr] = {}

    def key(self, expr: Expr) -> Key:
        found = self._keys.get(expr)
        if found is None:
            rank, name, number = _head(expr)
            found = (rank, name, number, tuple([self.key(o) for o in expr.operands]))
            self._keys[expr] = found
        return found

    def sum_of(self, form: Linear) -> Expr:
        """The canonical expression of a linear form."""
        terms, constant = form
        if not terms:
            return i32(constant)
        if constant > 0 and max(terms.values()) < 0:
            return self._total(terms, i32(constant))
        key = frozenset(terms.items())
        total = self._sums.get(key)
        if total is None:
            total = self._sums[key] = self._total(terms, None)
        return _offset(total, constant)

    def _total(self, terms: dict[Expr, int], total: Expr | None) -> Expr:
        ordered = sorted(terms.items(), key=lambda term: (-abs(term[1]), self.key(term[0])))
        for atom, coefficient in ordered:
            if coefficient > 0:
                made = _product(atom, coefficient)
                total = made if total is None else call("add", total, made)
        for atom, coefficient in ordered:
            if coefficient < 0:
                made = _product(atom, -coefficient)
                total = _negative(atom, coefficient) if total is None else call("sub", total, made)
        assert total is not None
        return total


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
