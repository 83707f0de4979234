"""Loops of matrix instructions with two slices under way, and one barrier for each.

In: a loop that fetches slices to local arrays (`prefetch`), what it loads for them. Out: its passes
two by two, each with private variables of its own, and arrays where local memory has room for both;
or None where registers have none. Invariant: the same values are multiplied in the same order. What
a pass stores is not what others may still read: with arrays of its own they have met at the barrier
of the pass between, and so have left the one before; else there is a barrier first, as there was.

    next = a[0];  for n < 8 { barrier; a' = next; barrier; next = a[n + 1]; work(a') }
    one = a[0]; two = a[1];  barrier
    for n < 4 { a' = one; barrier; one = a[2 * n + 2]; work(a');
                a'' = two; barrier; two = a[2 * n + 3]; work(a'') }
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from sdlc.kernel.copies import Copier
from sdlc.kernel.ir import (
    I32,
    Assign,
    Barrier,
    Buffer,
    Declare,
    Expr,
    For,
    Kernel,
    Let,
    Load,
    MatrixMultiply,
    Stmt,
    Store,
    Type,
    Var,
    call,
    i32,
    statement_expressions,
    statements,
    walk,
)
from sdlc.kernel.rewrite import Fresh, rebuild, with_expressions
from sdlc.kernel.simplify import Simplifier
from sdlc.kernel.vectorize import replaced

SLICES = 2
LEAST = 2 * SLICES
"""Fewer passes than this are not worth it."""

MOST_REGISTERS = 160
"""Registers of a product's results and of what is under way; fragments and places need the rest."""


@dataclass(slots=True)
class Rings:
    """What a kernel's rings share; `room` are the bytes of local memory that are left."""

    kernel: Kernel
    names: Fresh
    simplifier: Simplifier
    room: int
    second: dict[str, Buffer] = field(default_factory=dict)

    def made(
        self, loop: For, parts: Sequence[list[Stmt]], loads: Mapping[Expr, Expr]
    ) -> list[Stmt] | None:
        """The loop's passes two by two, or None. `parts` are what stands before it fills its
        arrays, that, and its work; `loads` what it loads for them, in terms of the loop alone."""
        before, fill, after = parts
        arrays = {s.buffer.name: s.buffer for s in fill if isinstance(s, Store)}
        if loop.extent < LEAST or not _is_product(after) or not _fits(after, loads):
            return None
        apart = self._taken(arrays)
        held = [{v: self._variable(v, w.type) for v, w in loads.items()} for _ in range(SLICES)]
        copier, last = Copier(self.names), i32(loop.extent - 1)
        following = call("min", call("add", loop.var, i32(SLICES)), last)

        def piece(number: int, place: Expr, more: bool = True) -> tuple[Stmt, ...]:
            own = held[number]
            filled = [with_expressions(s, lambda e: replaced(e, own)) for s in fill]
            next_ = [Assign(own[v], self._at(w, loop.var, following)) for v, w in loads.items()]
            met = () if apart else (Barrier(),)
            body = (*before, *met, *filled, Barrier(), *(next_ if more else ()), *after)
            copied = copier.body(body, {loop.var: place})
            return self._moved(copied, arrays) if number and apart else copied

        var = Var(self.names.name(loop.var.name), I32)
        self.simplifier.bounds.ranges[var] = (0, loop.extent // SLICES - 1)
        first = call("mul", var, i32(SLICES))
        body = (*piece(0, first), *piece(1, call("add", first, i32(1))))
        rest = piece(0, last, more=False) if loop.extent % SLICES else ()
        ahead = [
            Declare(own[v], self._at(w, loop.var, i32(n)))
            for n, own in enumerate(held)
            for v, w in loads.items()
        ]
        twice = For(var, loop.extent // SLICES, body, loop.axis)
        return [*ahead, *((Barrier(),) if apart else ()), twice, *rest]

    def _taken(self, arrays: Mapping[str, Buffer]) -> bool:
        """Whether there are others for these arrays, which only the loops that fill them read;
        takes them."""
        new = [a for name, a in arrays.items() if name not in self.second]
        nbytes = sum(a.size * a.dtype.itemsize for a in new)
        if nbytes > self.room or _read_elsewhere(self.kernel.body, frozenset(arrays)):
            return False
        self.room -= nbytes
        self.second |= {a.name: replace(a, name=self.names.name(a.name)) for a in new}
        return True

    def _variable(self, value: Expr, type: Type) -> Var:
        load = next(e for e in walk(value) if isinstance(e, Load))
        return Var(self.names.name(f"{load.buffer.name}_next"), type)

    def _at(self, value: Expr, var: Var, place: Expr) -> Expr:
        return self.simplifier.visit(replaced(value, {var: place}))

    def _moved(self, body: Sequence[Stmt], arrays: Mapping[str, Buffer]) -> tuple[Stmt, ...]:
        """Statements with the other arrays in place of these."""
        memo: dict[Expr, Expr] = {}

        def change(e: Expr) -> Expr:
            if isinstance(e, Load) and e.buffer.name in arrays:
                return Load(self.second[e.buffer.name], e.index, e.lanes)
            return e

        made = [with_expressions(s, lambda e: rebuild(e, change, memo)) for s in body]
        return tuple(
            replace(s, buffer=self.second[s.buffer.name])
            if isinstance(s, Store) and s.buffer.name in arrays
            else s
            for s in made
        )


def _fits(after: Sequence[Stmt], loads: Mapping[Expr, Expr]) -> bool:
    """Whether registers have room for what is under way."""
    results = {v for s in after if isinstance(s, MatrixMultiply) for v in s.into}
    words = sum(-(-w.type.lanes * w.type.dtype.itemsize // 4) for w in loads.values())
    return len(results) + SLICES * words <= MOST_REGISTERS


def _is_product(body: Sequence[Stmt]) -> bool:
    """Whether a body only multiplies."""
    return all(isinstance(s, Let | MatrixMultiply) for s in body) and any(
        isinstance(s, MatrixMultiply) for s in body
    )


def _read_elsewhere(body: Sequence[Stmt], arrays: frozenset[str]) -> bool:
    """Whether a statement reads one of the arrays outside of the loops that fill it."""
    for stmt in body:
        if isinstance(stmt, For):
            filled = {s.buffer.name for s in stmt.body if isinstance(s, Store)}
            if _read_elsewhere(stmt.body, arrays - filled):
                return True
            continue
        own = statements((stmt,))
        found = (e for s in own for e in walk(*statement_expressions(s)) if isinstance(e, Load))
        if any(e.buffer.name in arrays for e in found):
            return True
    return False
