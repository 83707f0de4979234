"""Scalar expressions with a symbolic lane, as vectors.

In: an expression of one lane in which `lane` (0 … width - 1) is free. Out: an expression of `width`
lanes, or a scalar where the lane does not matter. Invariant: lane number l of the result is the
expression with l for `lane`.

    x[4*i + lane] * s   becomes   x[4*i … 4*i+3] * s     one vector load, s broadcast
"""

from __future__ import annotations

from collections.abc import Mapping

from sdlc.kernel import ir as k
from sdlc.kernel.simplify import Simplifier, linear


def replaced(expr: k.Expr, values: Mapping[k.Expr, k.Expr]) -> k.Expr:
    """`expr` with subexpressions replaced, each shared one once."""
    memo: dict[k.Expr, k.Expr] = dict(values)
    only_variables = all(isinstance(v, (k.Var, k.WorkId)) for v in values)

    def visit(e: k.Expr) -> k.Expr:
        found = memo.get(e)
        if found is None:
            if not e.operands or (only_variables and e.variables.isdisjoint(values)):
                return e
            found = memo[e] = k.with_operands(e, tuple([visit(o) for o in e.operands]))
        return found

    return visit(expr)


class Copies:
    """Copies of expressions with other values for variables. What has the same values in several
    copies (a row's factor, for all columns of a tile) is made once."""

    def __init__(self) -> None:
        self._made: dict[tuple[k.Expr, tuple[tuple[k.Expr, k.Expr], ...]], k.Expr] = {}

    def at(self, expr: k.Expr, point: Mapping[k.Expr, k.Expr]) -> k.Expr:
        """`expr` with the variables replaced that `point` has values for."""
        if not expr.operands:
            return point.get(expr, expr)
        own = expr.variables
        values = tuple([item for item in point.items() if item[0] in own])
        if not values:
            return expr
        found = self._made.get((expr, values))
        if found is None:
            found = k.with_operands(expr, tuple([self.at(o, point) for o in expr.operands]))
            self._made[(expr, values)] = found
        return found


def depends(expr: k.Expr, on: frozenset[k.Var]) -> bool:
    """Whether any of `on` occurs in the expression."""
    return not expr.variables.isdisjoint(on)


def contiguous(index: k.Expr, lane: k.Var) -> bool:
    """Whether consecutive lanes are consecutive elements."""
    terms, _ = linear(index)
    return terms.get(lane) == 1 and not any(
        depends(t, frozenset({lane})) for t in terms if t is not lane
    )


def vectorize(
    expr: k.Expr,
    lane: k.Var,
    width: int,
    simplifier: Simplifier,
    memo: dict[k.Expr, k.Expr] | None = None,
) -> k.Expr:
    """`expr` for all lanes at once. `memo` remembers what was made, of the same lane and width."""
    varying = frozenset({lane})
    memo = {} if memo is None else memo

    def at(e: k.Expr, number: int) -> k.Expr:
        numbers: dict[k.Expr, k.Expr] = {lane: k.i32(number)}
        made = simplifier.shifted(e, numbers)
        return made or simplifier.visit(replaced(e, numbers))

    def visit(e: k.Expr) -> k.Expr:
        if e not in memo:
            memo[e] = made(e)
        return memo[e]

    def made(e: k.Expr) -> k.Expr:
        if not depends(e, varying):
            return e
        match e:
            case k.Load() if contiguous(e.index, lane):
                return k.Load(e.buffer, at(e.index, 0), width)
            case k.Cast(value=k.Load() as load) if not contiguous(load.index, lane):
                # Lane by lane: a half-precision element widens before it is put into a vector.
                return k.Vector(tuple(at(e, number) for number in range(width)))
            case k.Load() | k.Var():
                return k.Vector(tuple(at(e, number) for number in range(width)))
            case k.Call() if e.type.dtype.is_float or e.args[0].type.dtype.is_float:
                return k.Call(e.op, tuple(visit(a) for a in e.args))
            case k.Call():
                # Integer and logical arithmetic is cheapest lane by lane: it mostly folds.
                return k.Vector(tuple(at(e, number) for number in range(width)))
            case _:
                return k.with_operands(e, tuple(visit(o) for o in k.operands(e)))

    return visit(expr)
