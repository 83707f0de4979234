"""Loops that fetch to local memory load the next slice while they work on this one.

In: a kernel. Out: the kernel in which a loop of the form `barrier; fill local arrays from memory;
barrier; work`, where the work may have barriers of its own, keeps what it will store next in
private variables, loaded a pass ahead. Invariant: the same values are stored at the same places;
the loads that the last pass makes for a pass that does not come are the last pass's own, in bounds.

    for n { barrier; a' = a[n]; barrier; work(a') }
    next = a[0];  for n { barrier; a' = next; barrier; next = a[min(n + 1, last)]; work(a') }
"""

from __future__ import annotations

from dataclasses import replace

from sdlc.graph.types import DType
from sdlc.kernel.intervals import Bounds
from sdlc.kernel.ir import (
    Access,
    Assign,
    Barrier,
    Cast,
    Declare,
    Expr,
    For,
    If,
    Kernel,
    Let,
    Load,
    Space,
    Stmt,
    Store,
    Var,
    WorkId,
    call,
    i32,
    statement_expressions,
    statements,
    walk,
)
from sdlc.kernel.simplify import Simplifier, simplify_kernel
from sdlc.kernel.vectorize import replaced

MOST_LOADS = 16
"""More loads than this would take too many registers."""

Values = dict[Expr, Expr]


def prefetch_slices(kernel: Kernel, depth: int) -> Kernel:
    """`kernel` with its fetching loops a pass ahead, if two slices are to be under way."""
    if depth < 2:
        return kernel
    work = _Prefetching(kernel)
    body = work.body(kernel.body, {})
    return simplify_kernel(replace(kernel, body=body)) if work.count else kernel


class _Prefetching:
    def __init__(self, kernel: Kernel) -> None:
        ranges: dict[Expr, tuple[int, int]] = {}
        for dim in range(3):
            ranges[WorkId("group", dim)] = (0, kernel.grid[dim] - 1)
            ranges[WorkId("lane", dim)] = (0, kernel.group[dim] - 1)
        for stmt in statements(kernel.body):
            if isinstance(stmt, For):
                ranges[stmt.var] = (0, stmt.extent - 1)
        self.simplifier = Simplifier(Bounds(ranges))
        self.names = {b.name for b in (*kernel.buffers, *kernel.arrays)}
        self.names |= {s.var.name for s in statements(kernel.body) if isinstance(s, (Let, For))}
        self.names |= {s.var.name for s in statements(kernel.body) if isinstance(s, Declare)}
        self.count = 0

    def body(self, body: tuple[Stmt, ...], outer: Values) -> tuple[Stmt, ...]:
        """The statements of a scope; `outer` are the values of the names in it."""
        made: list[Stmt] = []
        for stmt in body:
            if isinstance(stmt, For):
                made += self._loop(stmt)
            elif isinstance(stmt, If):
                made.append(replace(stmt, body=self.body(stmt.body, outer)))
            else:
                made.append(stmt)
        return tuple(made)

    def _loop(self, loop: For) -> list[Stmt]:
        parts = _parts(loop)
        if parts is None:
            return [replace(loop, body=self.body(loop.body, {}))]
        before, fill, after = parts
        lets: Values = {}
        for stmt in (*before, *fill):
            if isinstance(stmt, Let):
                lets[stmt.var] = replaced(stmt.value, lets)
        loads = _fetched(fill)
        if not loads or len(loads) > MOST_LOADS:
            return [loop]
        self.count += 1
        names = {kept: Var(self._fresh(load), kept.type) for kept, load in loads.items()}
        following = call("min", call("add", loop.var, i32(1)), i32(loop.extent - 1))
        ahead: list[Stmt] = []
        next_: list[Stmt] = []
        for kept, var in names.items():
            whole = replaced(kept, lets)
            ahead.append(Declare(var, self._at(whole, loop.var, i32(0))))
            next_.append(Assign(var, self._at(whole, loop.var, following)))
        values: Values = dict(names)
        filled = [_with(stmt, values) for stmt in fill]
        made = (*before, Barrier(), *filled, Barrier(), *next_, *after)
        return [*ahead, replace(loop, body=made)]

    def _at(self, value: Expr, var: Var, place: Expr) -> Expr:
        return self.simplifier.visit(replaced(value, {var: place}))

    def _fresh(self, load: Load) -> str:
        count, name = 1, f"{load.buffer.name}_next"
        while name in self.names:
            count, name = count + 1, f"{load.buffer.name}_next{count}"
        self.names.add(name)
        return name


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
    inside = [e for s in (*before, *fill) for e in walk(*statement_expressions(s))]
    for e in inside:
        if isinstance(e, Load) and not _is_constant(e):
            return None
    if any(isinstance(e, Load) for s in before for e in walk(*statement_expressions(s))):
        return None
    return before, fill, after


def _is_constant(load: Load) -> bool:
    return load.buffer.space is Space.GLOBAL and load.buffer.access is Access.READ


def _fetched(fill: list[Stmt]) -> dict[Expr, Load]:
    """The loads, by what is kept of each: what has a name is kept as it is; a half without one as
    the f32 that it is used as, or as it is where it is stored so."""
    found: dict[Expr, Load] = {
        s.value: s.value for s in fill if isinstance(s, Let) and isinstance(s.value, Load)
    }
    named = frozenset(found)
    every = [e for s in fill for e in walk(*statement_expressions(s)) if e not in named]
    for e in every:
        widens = isinstance(e, Cast) and isinstance(e.value, Load) and e.value not in named
        if isinstance(e, Cast) and widens and e.value.type.dtype is DType.F16:
            found[e] = e.value  # type: ignore[assignment]
    kept = any(isinstance(s, Store) and s.buffer.dtype is DType.F16 for s in fill)
    for e in every:
        if isinstance(e, Load) and (e.type.dtype is not DType.F16 or e not in found.values()):
            if e.type.dtype is DType.F16 and not kept:
                return {}
            found[e] = e
    return found


def _with(stmt: Stmt, values: Values) -> Stmt:
    match stmt:
        case Let():
            return Let(stmt.var, replaced(stmt.value, values))
        case Store():
            guard = None if stmt.guard is None else replaced(stmt.guard, values)
            return Store(stmt.buffer, stmt.index, replaced(stmt.value, values), guard)
    return stmt
