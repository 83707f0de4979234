"""Loops that fetch to local memory load the next slice while they work on this one.

In: a kernel. Out: the kernel in which a loop of the form `barrier; fill local arrays from memory;
barrier; work`, where the work may have barriers of its own, keeps what it will store next in
private variables, loaded a pass ahead. Invariant: the same values are stored at the same places;
the loads that the last pass makes for a pass that does not come are the last pass's own, in bounds.

    for n { barrier; a' = a[n]; barrier; work(a') }
    next = a[0];  for n { barrier; a' = next; barrier; next = a[min(n + 1, last)]; work(a') }

Beside matrix instructions, which take hardly longer for a slice than its loads do, loops with
nothing but such a loop inside are one with it: the first slice of its next run is loaded in time.

    for i < 3 { for n < 5 { … } }   →   for n < 15 { i = n / 5;  … }
"""

from __future__ import annotations

from dataclasses import replace

from sdlc.graph.types import DType
from sdlc.kernel.intervals import Bounds
from sdlc.kernel.ir import (
    I32,
    Access,
    Assign,
    Barrier,
    Cast,
    Declare,
    Expr,
    For,
    Kernel,
    Let,
    Load,
    MatrixMultiply,
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
from sdlc.kernel.rewrite import Fresh, map_loops, work_ranges
from sdlc.kernel.ring import Rings
from sdlc.kernel.simplify import Simplifier, simplify_kernel
from sdlc.kernel.vectorize import replaced
from sdlc.target import Target

MOST_LOADS = 16
"""More loads than this would take too many registers."""

Values = dict[Expr, Expr]


def prefetch_slices(kernel: Kernel, target: Target) -> Kernel:
    """`kernel` with its fetching loops a pass ahead, if two slices are to be under way."""
    if target.profile.depth < 2:
        return kernel
    work = _Prefetching(kernel, target)
    body = map_loops(kernel.body, work.loop)
    if not work.count:
        return kernel
    arrays = (*kernel.arrays, *work.rings.second.values())
    return simplify_kernel(replace(kernel, body=body, arrays=arrays))


class _Prefetching:
    def __init__(self, kernel: Kernel, target: Target) -> None:
        self.halves = target.caps.f16_arithmetic
        self.depth = target.profile.depth
        ranges = work_ranges(kernel)
        for stmt in statements(kernel.body):
            if isinstance(stmt, For):
                ranges[stmt.var] = (0, stmt.extent - 1)
        self.simplifier = Simplifier(Bounds(ranges))
        self.names = Fresh(kernel)
        self.joins = any(isinstance(s, MatrixMultiply) for s in statements(kernel.body))
        room = target.caps.local_bytes - kernel.local_bytes
        self.rings = Rings(kernel, self.names, self.simplifier, room)
        self.count = 0

    def loop(self, loop: For) -> list[Stmt]:
        """A loop that fetches, a pass ahead; another, with those inside of it."""
        alone, loop = loop, self._joined(loop) if self.joins else loop
        parts = _parts(loop)
        if parts is None:
            return [replace(loop, body=map_loops(loop.body, self.loop))]
        before, fill, after = parts
        lets: Values = {}
        for stmt in (*before, *fill):
            if isinstance(stmt, Let):
                lets[stmt.var] = replaced(stmt.value, lets)
        loads = _fetched(fill, self.halves)
        if not loads or len(loads) > MOST_LOADS:
            return [alone]
        self.count += 1
        whole = {value: replaced(value, lets) for value in loads}
        ring = self.rings.made(loop, parts, whole) if self.depth > 2 else None
        if ring is not None:
            return ring
        following = call("min", call("add", loop.var, i32(1)), i32(loop.extent - 1))
        ahead: list[Stmt] = []
        next_: list[Stmt] = []
        values: Values = {}
        for value, load in loads.items():
            name = self.names.name(f"{load.buffer.name}_next")
            values[value] = var = Var(name, value.type)
            ahead.append(Declare(var, self._at(whole[value], loop.var, i32(0))))
            next_.append(Assign(var, self._at(whole[value], loop.var, following)))
        filled = [_with(stmt, values) for stmt in fill]
        made = (*before, Barrier(), *filled, Barrier(), *next_, *after)
        return [*ahead, replace(loop, body=made)]

    def _joined(self, loop: For) -> For:
        """A loop with nothing but one that fetches inside, as one with it; another as it is."""
        lets = [s for s in loop.body if isinstance(s, Let)]
        rest = [s for s in loop.body if not isinstance(s, Let)]
        if len(rest) != 1 or loop.body[-1] is not rest[0] or not isinstance(rest[0], For):
            return loop
        inner = self._joined(rest[0])
        if _parts(inner) is None or any(isinstance(e, Load) for s in lets for e in walk(s.value)):
            return loop
        var, each = Var(self.names.name(f"{loop.var.name}_{inner.var.name}"), I32), inner.extent
        extent = loop.extent * each
        self.simplifier.bounds.ranges[var] = (0, extent - 1)
        places = (
            Let(loop.var, call("floordiv", var, i32(each))),
            Let(inner.var, call("mod", var, i32(each))),
        )
        return For(var, extent, (*places, *lets, *inner.body), inner.axis)

    def _at(self, value: Expr, var: Var, place: Expr) -> Expr:
        return self.simplifier.visit(replaced(value, {var: place}))


def _parts(loop: For) -> tuple[list[Stmt], list[Stmt], list[Stmt]] | None:
    """What stands before the first barrier, between it and the second, and after that; None if the
    loop does not have this form."""
    places = [n for n, s in enumerate(loop.body) if isinstance(s, Barrier)]
    if loop.extent < 2 or len(places) < 2:
        return None
    before = list(loop.body[: places[0]])
    fill = list(loop.body[places[0] + 1 : places[1]])
    after = list(loop.body[places[1] + 1 :])
    if not all(isinstance(s, Let) for s in before):
        return None
    for stmt in fill:
        local = isinstance(stmt, Store) and stmt.buffer.space is Space.LOCAL
        if not (isinstance(stmt, Let) or local):
            return None
    changed = {s.buffer for s in statements(loop.body) if isinstance(s, Store)}
    inside = [e for s in (*before, *fill) for e in walk(*statement_expressions(s))]
    for e in inside:
        if isinstance(e, Load) and not _is_constant(e) and e.buffer in changed:
            return None
    if any(isinstance(e, Load) for s in before for e in walk(*statement_expressions(s))):
        return None
    return before, fill, after


def _is_constant(load: Load) -> bool:
    return load.buffer.space is Space.GLOBAL and load.buffer.access is Access.READ


def _fetched(fill: list[Stmt], halves: bool) -> dict[Expr, Load]:
    """What is loaded from memory, each once, with the load in it. `halves` stay halves where
    variables can hold them, so that nothing waits for them; elsewhere they are widened first."""
    found: dict[Expr, Load] = {}
    for e in (e for s in fill for e in walk(*statement_expressions(s))):
        load = e.value if isinstance(e, Cast) and not halves else e
        if isinstance(load, Load) and _is_constant(load):
            half = load.buffer.dtype is DType.F16 and not halves
            if half == isinstance(e, Cast):
                found[e] = load
    return found


def _with(stmt: Stmt, values: Values) -> Stmt:
    match stmt:
        case Let():
            return Let(stmt.var, replaced(stmt.value, values))
        case Store():
            guard = None if stmt.guard is None else replaced(stmt.guard, values)
            return Store(stmt.buffer, stmt.index, replaced(stmt.value, values), guard)
    return stmt
