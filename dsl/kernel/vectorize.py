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


def depends(expr: k.Expr, on: frozenset[k.Var]) -> bool:
    """Whether any of `on` occurs in the expression."""
    return not expr.variables.isdisjoint(on)


def contiguous(index: k.Expr, lane: k.Var) -> bool:
    """Whether consecutive lanes are consecutive elements."""
    terms, _ = linear(index)
    return terms.get(lane) == 1 and not any(
        depends(t, frozenset({lane})) for t in terms if t is not lane
    )


def vectorize(expr: k.Expr, lane: k.Var, width: int, simplifier: Simplifier) -> k.Expr:
    """`expr` for all lanes at once."""
    varying = frozenset({lane})
    memo: dict[k.Expr, k.Expr] = {}

    def at(e: k.Expr, number: int) -> k.Expr:
        return simplifier.visit(replaced(e, {lane: k.i32(number)}))

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
