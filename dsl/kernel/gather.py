"""Loads of neighbours become one: scalars that lie side by side arrive as a vector.

In: a kernel and the lanes of a memory access. Out: the kernel in which scalar loads of consecutive
elements in one body, the first at a multiple of `lanes`, are lanes of one load. Invariant: the same
cells are read, all of them in bounds already, from buffers that the body only reads.

    a = x[4 * p];  b = x[4 * p + 1];  …        →        x_four = x[4 * p … 4 * p + 3]
                                                        a = x_four.0;  b = x_four.1;  …

Where a reduced axis is unrolled, the steps of one point of a register tile are such neighbours.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from sdlc.graph.types import DType
from sdlc.kernel.intervals import Bounds
from sdlc.kernel.ir import (
    I32,
    Access,
    Barrier,
    Buffer,
    Cast,
    Expr,
    Extract,
    For,
    If,
    Kernel,
    Let,
    Literal,
    Load,
    Space,
    Stmt,
    Store,
    Var,
    call,
    i32,
    operands,
    statement_expressions,
    statements,
    walk,
    with_operands,
)
from sdlc.kernel.rewrite import Fresh, with_expressions, work_ranges
from sdlc.kernel.simplify import Simplifier, simplify_kernel

Place = tuple[Buffer, Expr]
"""A buffer and the index, in terms of loops and work-items only, of a vector in it."""


def gather_loads(kernel: Kernel, lanes: int, halves: bool = True) -> Kernel:
    """`kernel` with neighbouring scalar loads of one body as loads of `lanes` lanes, simplified.
    `halves`: variables can hold them; else vectors of halves are widened as they are loaded."""
    if lanes < 2:
        return kernel
    gathering = _Gathering(lanes, halves, simplifier_of(kernel), Fresh(kernel))
    body = gathering.body(kernel.body)
    return simplify_kernel(replace(kernel, body=body)) if gathering.found else kernel


def simplifier_of(kernel: Kernel) -> Simplifier:
    """Knows the ranges of work ids and loops; locals of integers are what they stand for."""
    ranges = work_ranges(kernel)
    simplifier = Simplifier(Bounds(ranges))
    for stmt in statements(kernel.body):
        if isinstance(stmt, For):
            ranges[stmt.var] = (0, stmt.extent - 1)
        elif isinstance(stmt, Let) and stmt.var.type == I32:
            simplifier.values[stmt.var] = simplifier.visit(stmt.value)
    return simplifier


@dataclass(slots=True)
class _Gathering:
    lanes: int
    halves: bool
    simplifier: Simplifier
    names: Fresh
    places: dict[Load, tuple[Place, int]] = field(default_factory=dict)
    vectors: dict[Place, Var] = field(default_factory=dict)
    made: dict[Expr, Expr] = field(default_factory=dict)
    found: bool = False

    def body(self, body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
        """Bodies of loops and branches first: they keep their own loads."""
        body = tuple(
            replace(s, body=self.body(s.body)) if isinstance(s, (For, If)) else s for s in body
        )
        still = _still(body)
        whole = self._whole(body, still)
        if not whole:
            return body
        self.found = True
        made: list[Stmt] = []
        for stmt in body:
            for load in _loads(stmt, still):
                if load in whole and self.places[load][0] not in self.vectors:
                    made.append(self._vector(load))
            made.append(with_expressions(stmt, self._visit))
        self.vectors.clear()
        self.made.clear()
        return tuple(made)

    def _whole(self, body: tuple[Stmt, ...], still: frozenset[str]) -> set[Load]:
        """The loads of vectors all of whose lanes the body loads."""
        found: dict[Place, dict[int, Load]] = defaultdict(dict)
        for stmt in body:
            for load in _loads(stmt, still):
                if load not in self.places:
                    self.places[load] = self._place(load)
                place, lane = self.places[load]
                found[place].setdefault(lane, load)
        complete = {p for p, lanes in found.items() if set(range(self.lanes)) <= lanes.keys()}
        return {load for load, (place, _) in self.places.items() if place in complete}

    def _place(self, load: Load) -> tuple[Place, int]:
        index = self.simplifier.visit(load.index)
        lane = self.simplifier.visit(call("mod", index, i32(self.lanes)))
        if not isinstance(lane, Literal) or load.buffer.size % self.lanes:
            return (load.buffer, load), 0
        start = self.simplifier.visit(call("sub", index, lane))
        return (load.buffer, start), int(lane.value)

    def _vector(self, load: Load) -> Stmt:
        """The vector that holds the load's element."""
        place, lane = self.places[load]
        index = load.index if lane == 0 else call("sub", load.index, i32(lane))
        vector: Expr = Load(load.buffer, index, self.lanes)
        if self._widened(load):
            vector = Cast(vector, DType.F32)
        self.vectors[place] = Var(self.names.name(f"{load.buffer.name}_wide"), vector.type)
        return Let(self.vectors[place], vector)

    def _widened(self, load: Load) -> bool:
        return load.buffer.dtype is DType.F16 and not self.halves

    def _visit(self, e: Expr) -> Expr:
        if e not in self.made:
            self.made[e] = self._replaced(e)
        return self.made[e]

    def _replaced(self, e: Expr) -> Expr:
        load = e.value if isinstance(e, Cast) else e
        if isinstance(load, Load) and load in self.places:
            place, lane = self.places[load]
            if place in self.vectors and self._widened(load) == isinstance(e, Cast):
                return Extract(self.vectors[place], lane)
        parts = operands(e)
        return with_operands(e, tuple(self._visit(p) for p in parts)) if parts else e


def _still(body: tuple[Stmt, ...]) -> frozenset[str]:
    """The local and private arrays that are read here and do not change here."""
    if any(isinstance(s, Barrier) for s in statements(body)):
        return frozenset()
    written = {s.buffer.name for s in statements(body) if isinstance(s, Store)}
    return frozenset(
        e.buffer.name
        for s in body
        for e in walk(*statement_expressions(s))
        if isinstance(e, Load) and e.buffer.space is not Space.GLOBAL
    ).difference(written)


def _loads(stmt: Stmt, still: frozenset[str]) -> Iterator[Load]:
    """Scalar loads of buffers that nothing here writes, in a statement without a body."""
    if isinstance(stmt, (For, If)):
        return
    for e in walk(*statement_expressions(stmt)):
        constant = isinstance(e, Load) and (_is_constant(e.buffer) or e.buffer.name in still)
        if isinstance(e, Load) and e.lanes == 1 and constant:
            yield e


def _is_constant(buffer: Buffer) -> bool:
    return buffer.space is Space.GLOBAL and buffer.access is Access.READ
