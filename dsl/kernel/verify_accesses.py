"""The memory accesses of a kernel, and which of them may happen at the same time.

In: a kernel. Out: `Access` records with canonical indices, in phases. Invariant: two accesses of
different work-items that no barrier orders stand in one phase; immutable values are resolved, so
an index speaks of work-ids, loop variables, loads and mutable variables only.

A loop with a barrier in it is run by all lanes together, so its variable has one value in a phase:

    for k { A; barrier; B }        phases: {before, A[0]}  {B[k], A[k + 1]}  {B[last], after}

Any other loop variable is free: lanes may be at different iterations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain

from sdlc.graph.types import DType
from sdlc.kernel.intervals import Bounds, Interval
from sdlc.kernel.ir import (
    Barrier,
    Buffer,
    Declare,
    Exchange,
    Expr,
    For,
    If,
    Kernel,
    Let,
    Load,
    MatrixMultiply,
    Space,
    Stmt,
    Store,
    Var,
    WorkId,
    call,
    i32,
    operands,
    statement_expressions,
    statements,
    with_operands,
)
from sdlc.kernel.simplify import Simplifier


@dataclass(frozen=True, slots=True)
class Access:
    """One load or store: `index` is canonical; `bounds` knows the branches around it and its
    guard (`conditions`), `ranges` holds work-ids and loop variables without them; `free` are the
    loop variables that lanes do not share."""

    stmt: Stmt
    buffer: Buffer
    index: Expr
    lanes: int
    write: bool
    conditions: tuple[Expr, ...]
    bounds: Bounds
    ranges: Mapping[Expr, Interval]
    free: frozenset[Expr]


@dataclass(frozen=True, slots=True)
class Branch:
    """A branch that lanes must take together, with its canonical condition."""

    stmt: If
    condition: Expr
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Loop:
    stmt: For
    items: tuple[Item, ...]


Item = Access | Barrier | Branch | Loop
Segment = list[Access]


def has_barrier(body: tuple[Stmt, ...]) -> bool:
    return any(isinstance(s, Barrier) for s in statements(body))


def is_collective(body: tuple[Stmt, ...]) -> bool:
    """Whether there is something in it that lanes must reach together."""
    return any(isinstance(s, (Barrier, Exchange, MatrixMultiply)) for s in statements(body))


def launch_ranges(kernel: Kernel) -> dict[Expr, Interval]:
    """The ranges of work-ids and loop variables."""
    ranges: dict[Expr, Interval] = {}
    for dim in range(3):
        ranges[WorkId("group", dim)] = (0, kernel.grid[dim] - 1)
        ranges[WorkId("lane", dim)] = (0, kernel.group[dim] - 1)
    for stmt in statements(kernel.body):
        if isinstance(stmt, For):
            ranges[stmt.var] = (0, stmt.extent - 1)
    return ranges


class Collector:
    """Walks a kernel and lists its accesses in the structure of its barriers."""

    def __init__(self, kernel: Kernel) -> None:
        self.bounds = Bounds(launch_ranges(kernel))
        self.simplifier = Simplifier(self.bounds)
        declared = (s.var for s in statements(kernel.body) if isinstance(s, Declare))
        self.mutable: set[Var | WorkId] = set(declared)
        self._barriers = has_barrier(kernel.body)
        self._under: dict[tuple[Expr, ...], Bounds] = {(): self.bounds}
        self._loads: dict[Expr, tuple[Load, ...]] = {}
        self.items = self._body(kernel.body, (), frozenset())

    def under(self, conditions: tuple[Expr, ...]) -> Bounds:
        """The bounds where all `conditions` hold."""
        if conditions not in self._under:
            self._under[conditions] = self.under(conditions[:-1]).assuming(conditions[-1])
        return self._under[conditions]

    def _body(
        self, body: tuple[Stmt, ...], conditions: tuple[Expr, ...], free: frozenset[Expr]
    ) -> tuple[Item, ...]:
        items: list[Item] = []
        for stmt in body:
            for expr in statement_expressions(stmt):
                items += self._loads_of(stmt, expr, conditions, free)
            match stmt:
                case Let() if stmt.value.type.dtype in (DType.I32, DType.BOOL):
                    self._resolve(stmt)
                case Store():
                    items.append(self._store(stmt, conditions, free))
                case Barrier():
                    items.append(stmt)
                case For():
                    together = self._barriers and has_barrier(stmt.body)
                    inside = free if together else free | {stmt.var}
                    items.append(Loop(stmt, self._body(stmt.body, conditions, inside)))
                case If():
                    items += self._branch(stmt, conditions, free)
        return tuple(items)

    def _resolve(self, stmt: Let) -> None:
        """A value that no assignment can change stands for its name; others stay unknown."""
        value = self.simplifier.visit(stmt.value)
        if self.mutable.isdisjoint(value.variables):
            self.simplifier.values[stmt.var] = value

    def _branch(
        self, stmt: If, conditions: tuple[Expr, ...], free: frozenset[Expr]
    ) -> tuple[Item, ...]:
        condition = self.simplifier.visit(stmt.condition)
        items = self._body(stmt.body, (*conditions, condition), free)
        return (Branch(stmt, condition, items),) if is_collective(stmt.body) else items

    def _store(self, stmt: Store, conditions: tuple[Expr, ...], free: frozenset[Expr]) -> Access:
        if stmt.guard is not None:
            conditions = (*conditions, self.simplifier.visit(stmt.guard))
        return self._access(stmt, stmt, stmt.value.type.lanes, conditions, free)

    def _loads_of(
        self, stmt: Stmt, expr: Expr, conditions: tuple[Expr, ...], free: frozenset[Expr]
    ) -> Iterator[Access]:
        for load in self._loads_in(expr):
            yield self._access(stmt, load, load.lanes, conditions, free)

    def _loads_in(self, expr: Expr) -> tuple[Load, ...]:
        """Every distinct load of an expression, operands before users."""
        found = self._loads.get(expr)
        if found is None:
            inner = [self._loads_in(o) for o in expr.operands if o.operands]
            parts = [loads for loads in inner if loads]
            found = parts[0] if len(parts) == 1 else tuple(dict.fromkeys(chain(*parts)))
            if isinstance(expr, Load):
                found = (*found, expr)
            self._loads[expr] = found
        return found

    def _access(
        self,
        stmt: Stmt,
        place: Load | Store,
        lanes: int,
        conditions: tuple[Expr, ...],
        free: frozenset[Expr],
    ) -> Access:
        return Access(
            stmt,
            place.buffer,
            self.simplifier.visit(place.index),
            lanes,
            isinstance(place, Store),
            conditions,
            self.under(conditions),
            self.bounds.ranges,
            free,
        )


def accesses(items: Iterable[Item]) -> Iterator[Access]:
    """All accesses, in order."""
    for item in items:
        match item:
            case Access():
                yield item
            case Branch() | Loop():
                yield from accesses(item.items)


def branches(items: Iterable[Item]) -> Iterator[Branch]:
    """The branches that lanes must take together."""
    for item in items:
        if isinstance(item, Branch):
            yield item
        if isinstance(item, (Branch, Loop)):
            yield from branches(item.items)


def phases(items: tuple[Item, ...]) -> list[Segment]:
    """The sets of accesses to local memory that may happen at the same time in one group."""
    closed: list[Segment] = []
    closed += _segments(items, closed)
    return closed


def _segments(items: Iterable[Item], closed: list[Segment]) -> list[Segment]:
    """The accesses between barriers, the first and last segment open; `closed` gets the phases
    that arise within loops."""
    segments: list[Segment] = [[]]
    for item in items:
        match item:
            case Access():
                if item.buffer.space is Space.LOCAL:
                    segments[-1].append(item)
            case Barrier():
                segments.append([])
            case Loop() | Branch():
                first, *middle = _segments(item.items, closed)
                if not middle:
                    segments[-1] += first
                    continue
                *middle, last = middle
                closed += middle
                if isinstance(item, Loop):
                    _join_loop(item.stmt, segments, first, last, closed)
                else:
                    # Groups that skip the branch meet no barrier: what follows joins what was.
                    before = list(segments[-1])
                    segments[-1] += first
                    segments.append(before + last)
    return segments


def _join_loop(
    stmt: For, segments: list[Segment], first: Segment, last: Segment, closed: list[Segment]
) -> None:
    """The end of one iteration meets the beginning of the next."""
    var, end = stmt.var, stmt.extent - 1
    if end > 0:
        again = at_iteration(first, var, call("add", var, i32(1)), (0, end - 1))
        closed.append(at_iteration(last, var, var, (0, end - 1)) + again)
    segments[-1] += at_iteration(first, var, i32(0), (0, 0))
    segments.append(at_iteration(last, var, i32(end), (end, end)))


class Iteration:
    """Ranges in which the loop variable `var` lies within `interval`, and what holds there under
    conditions in which it has `value`."""

    def __init__(
        self, ranges: Mapping[Expr, Interval], var: Var, interval: Interval, done: dict[Expr, Expr]
    ) -> None:
        self.ranges = {**ranges, var: interval}
        self.simplifier = Simplifier(Bounds(self.ranges))
        self._replaced = done
        self._under: dict[tuple[Expr, ...], tuple[tuple[Expr, ...], Bounds]] = {}

    def at(self, expr: Expr) -> Expr:
        return self.simplifier.visit(replaced(expr, self._replaced))

    def under(self, conditions: tuple[Expr, ...]) -> tuple[tuple[Expr, ...], Bounds]:
        """The conditions, and the bounds where they hold."""
        found = self._under.get(conditions)
        if found is None:
            # What a branch or guard says of an atom is said again by the conditions.
            made, bounds = tuple(self.at(c) for c in conditions), self.simplifier.bounds
            for condition in made:
                bounds = bounds.assuming(condition)
            found = self._under[conditions] = made, bounds
        return found


def at_iteration(segment: Segment, var: Var, value: Expr, interval: Interval) -> Segment:
    """The accesses with `value` for the loop variable `var`, which lies within `interval`."""
    made: Segment = []
    known: dict[int, Iteration] = {}
    done: dict[Expr, Expr] = {var: value}
    for a in segment:
        # Accesses share their ranges, so they are told apart by identity.
        here = known.get(id(a.ranges))
        if here is None:
            here = known[id(a.ranges)] = Iteration(a.ranges, var, interval, done)
        conditions, bounds = here.under(a.conditions)
        index = here.at(a.index)
        made.append(
            replace(a, index=index, conditions=conditions, bounds=bounds, ranges=here.ranges)
        )
    return made


def replaced(expr: Expr, done: dict[Expr, Expr]) -> Expr:
    """`expr` with the expressions replaced that `done` maps; it remembers what was visited."""
    if expr not in done:
        parts = operands(expr)
        made = tuple([replaced(p, done) for p in parts])
        done[expr] = expr if made == parts else with_operands(expr, made)
    return done[expr]
