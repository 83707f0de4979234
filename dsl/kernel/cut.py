"""Loops are cut where a condition on their variable changes.

In: a kernel. Out: the kernel in which a loop that compares its own variable with a constant is two
loops, one behind the other, and neither asks. Invariant: the same statements run in the same order
with the same values; names stay unique in the kernel.

    for k < 30 { v = (k < 20) ? x[k] : y[k - 20]; … }
    for k < 20 { v = x[k]; … }   for k < 10 { v = y[k]; … }

Tensors that were joined along a reduced axis are read so: a contraction over them asks once for
each piece, and not at each step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from sdlc.kernel.copies import Copier, Values
from sdlc.kernel.ir import (
    Call,
    For,
    Kernel,
    Literal,
    Space,
    Stmt,
    Store,
    Var,
    call,
    i32,
    statement_expressions,
    statements,
    walk,
)
from sdlc.kernel.rewrite import Fresh, map_loops
from sdlc.kernel.simplify import simplify_kernel

MOST_PIECES = 4
"""More pieces than this would be more text than they save questions."""
MOST_STATEMENTS = 2000
"""Nor is a body repeated that makes more statements than this."""


def cut_loops(kernel: Kernel) -> Kernel:
    """`kernel` with its loops cut, simplified."""
    cutting = _Cutting(kernel)
    body = map_loops(kernel.body, cutting.loop)
    return simplify_kernel(replace(kernel, body=body)) if cutting.count else kernel


class _Cutting:
    def __init__(self, kernel: Kernel) -> None:
        self.copier = Copier(Fresh(kernel))
        self.count = 0

    def loop(self, loop: For) -> list[Stmt]:
        loop = replace(loop, body=map_loops(loop.body, self.loop))
        starts = [0] if _stores(loop) else [0, *_changes(loop)]
        size = sum(1 for _ in statements(loop.body)) * len(starts)
        if len(starts) == 1 or len(starts) > MOST_PIECES or size > MOST_STATEMENTS:
            return [loop]
        self.count += 1
        ends = [*starts[1:], loop.extent]
        return [self._piece(loop, a, b) for a, b in zip(starts, ends, strict=True)]

    def _piece(self, loop: For, start: int, end: int) -> For:
        if start == 0:
            return replace(loop, extent=end)
        var = self.copier.fresh(loop.var)
        values: Values = {loop.var: call("add", var, i32(start))}
        return For(var, end - start, self.copier.body(loop.body, values), loop.axis)


def _stores(loop: For) -> bool:
    """Whether results are written in it: such loops are no reductions, and seldom long."""
    stores = (s for s in statements(loop.body) if isinstance(s, Store))
    return any(s.buffer.space is Space.GLOBAL for s in stores)


def _changes(loop: For) -> list[int]:
    """Where, inside of the loop's range, a condition on its variable changes, in order."""
    inside = (e for s in statements(loop.body) for e in walk(*statement_expressions(s)))
    found = {at for e in inside if isinstance(e, Call) for at in _change(e, loop.var)}
    return sorted(at for at in found if 0 < at < loop.extent)


def _change(e: Call, var: Var) -> Iterator[int]:
    """The first value of `var` at which the comparison has another value than before."""
    match e:
        case Call(op="lt" | "ge", args=(v, Literal(value=int(at)))) if v is var:
            yield at
        case Call(op="le" | "gt", args=(v, Literal(value=int(at)))) if v is var:
            yield at + 1
        case Call(op="le" | "gt", args=(Literal(value=int(at)), v)) if v is var:
            yield at
        case Call(op="lt" | "ge", args=(Literal(value=int(at)), v)) if v is var:
            yield at + 1
