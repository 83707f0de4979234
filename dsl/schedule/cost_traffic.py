"""Bytes that miss each cache: which loops of a nest reuse what they read.

In: a group, its nest, storage orders and `[peak]`. Out: `Traffic`. Invariant: what is read is read
at least once; a loop reuses a value only if everything that one step of it touches fits the cache.

    for m, for n, for k:  c[m, n] += a[m, k] * b[k, n]
    b is read again for each m, unless b and a row of a fit
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from sdlc.graph.expr import Axis, Expr, Index, Read, walk
from sdlc.graph.node import Node
from sdlc.schedule.affine import affine
from sdlc.schedule.group import Group
from sdlc.schedule.nest import Kind, Nest, Place
from sdlc.schedule.region import axis_forms
from sdlc.target import Peak

Orders = Mapping[tuple[Node, int], tuple[int, ...]]

LINE = 64
"""Bytes that memory and caches move at once."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes that miss each cache of `[peak]`, the innermost first, and those of memory."""

    missed: tuple[float, ...]
    read: int
    written: int

    def seconds(self, peak: Peak) -> float:
        """The slowest of the ways: each cache's misses come from the next, the last's from memory.

        What fits a cache altogether is there already, as the kernel before has left it.
        """
        ways = (*peak.cache_bandwidth[1:], peak.bandwidth)
        whole = self.read + self.written
        fitting = next((i for i, size in enumerate(peak.cache_bytes) if whole <= size), len(ways))
        near = peak.cache_bandwidth[fitting] if fitting < len(ways) else peak.bandwidth
        speeds = (near if i >= fitting else way for i, way in enumerate(ways))
        return max((m / s for m, s in zip(self.missed, speeds, strict=True)), default=0.0)


Steps = tuple[tuple[str, int], ...]
"""How far one iteration of each loop, by key, moves an index."""


@dataclass(frozen=True, slots=True)
class _Run:
    """A loop as the traffic sees it: its key (`stage/loop` within a stage) and its extent."""

    key: str
    extent: int


@dataclass(frozen=True, slots=True)
class _Index:
    """One index of a stored value: how the loops move it (None: not told), which move it, and its
    extent in storage."""

    steps: Steps | None
    loops: frozenset[str]
    limit: int

    def extent(self, inside: Sequence[_Run]) -> int:
        """Distinct values over some loops."""
        own = [run for run in inside if run.key in self.loops]
        count = prod(run.extent for run in own)
        if self.steps is not None:
            moved = dict(self.steps)
            span = sum(abs(moved.get(run.key, 0)) * (run.extent - 1) for run in own)
            count = min(count, 1 + span)
        return min(count, self.limit)


@dataclass(frozen=True, slots=True)
class _Stream:
    """One value that is read or written: its indices by storage order, the size of an element, and
    the loops around the place where that happens."""

    value: tuple[Node, int]
    indices: tuple[_Index, ...]
    itemsize: int
    written: bool
    around: frozenset[str]

    @property
    def loops(self) -> frozenset[str]:
        """The loops that move any index."""
        return frozenset().union(*(index.loops for index in self.indices))

    def footprint(self, inside: Sequence[_Run]) -> float:
        """Bytes that it touches over some loops, in whole lines: apart from one another, or, where
        the innermost dimensions together are shorter than a line, those dimensions whole."""
        places = [index.extent(inside) for index in self.indices]
        if not places:
            return float(LINE)
        apart = max(places[-1] * self.itemsize, LINE) * prod(places[:-1])
        within, row = len(places), self.itemsize
        while within and row * self.indices[within - 1].limit <= LINE:
            within -= 1
            row *= self.indices[within].limit
        return float(max(LINE, min(apart, row * prod(places[:within]))))


def traffic_of(group: Group, nest: Nest, orders: Orders, peak: Peak) -> Traffic:
    """The bytes of one launch that miss each cache."""
    streams = _streams(group, nest, orders)
    loops = _from_the_innermost(nest)
    touched = _touched(streams, loops)
    found = [_traffic(touched, loops, size) for size in peak.cache_bytes]
    missed = tuple(sum(each.values()) for each in found)
    last = found[-1]
    read = sum(n for s, n in last.items() if not s.written)
    written = sum(n for s, n in last.items() if s.written)
    return Traffic(missed, int(read), int(written))


def _streams(group: Group, nest: Nest, orders: Orders) -> tuple[_Stream, ...]:
    """What the kernel reads and writes outside itself, in its own part and in its stages."""
    forms = axis_forms(group, nest)
    parts = {"": group, **{g.name: g for g in group.inner}}
    found: list[_Stream] = []
    for name, axes in forms.items():
        part, around = parts[name], _around(nest, name)
        reads = (r for r in part.reads if (r.source, r.field) not in group.held)
        found += [_stream(r, axes, orders, around, False) for r in reads]
        if not name:
            stores = (Read(s.node, s.indices, s.field) for s in part.stores)
            outside = around - {lp.name for lp in nest.loops if nest.is_reduced(lp)}
            found += [_stream(r, axes, orders, outside, True) for r in stores]
    return tuple(dict.fromkeys(found))


def _around(nest: Nest, name: str) -> frozenset[str]:
    """The loops around the body of a part: all of its own, and for a stage those of the nest that
    are outside its place or that its region moves with. Work-items that share a stage are its own
    lanes, whatever they do afterwards."""
    if not name:
        return frozenset(lp.name for lp in nest.loops)
    stage = next(s for s in nest.stages if s.value == name)
    serial = [lp.name for lp in nest.loops if lp.kind is Kind.SERIAL]
    outside = set(serial[: serial.index(stage.at) + 1] if stage.at in serial else ())
    outside |= {lp.name for lp in nest.loops if lp.kind is Kind.GROUP}
    if stage.place is Place.PRIVATE:
        own = {lp.dim for lp in stage.nest.loops if lp.kind is Kind.LANE}
        outside |= {lp.name for lp in nest.loops if lp.kind is Kind.LANE and lp.dim not in own}
    return frozenset((*outside, *(f"{name}/{lp.name}" for lp in stage.nest.loops)))


def _stream(
    read: Read,
    axes: Mapping[Axis, tuple[Mapping[str, int], int]],
    orders: Orders,
    around: frozenset[str],
    written: bool,
) -> _Stream:
    value = (read.source, read.field)
    order = orders.get(value, tuple(range(len(read.indices))))
    indices = tuple(_index(read.indices[d], axes, read.source.shape[d]) for d in order)
    itemsize = read.source.dtypes[read.field].itemsize
    return _Stream(value, indices, itemsize, written, around)


def _index(expr: Expr, axes: Mapping[Axis, tuple[Mapping[str, int], int]], limit: int) -> _Index:
    used = [e.axis for e in walk(expr) if isinstance(e, Index) and e.axis in axes]
    loops = frozenset(key for axis in used for key in axes[axis][0])
    form = affine(expr)
    if form is None:
        return _Index(None, loops, limit)
    steps: dict[str, int] = {}
    for axis, factor in form[0].items():
        for key, step in axes[axis][0].items() if axis in axes else ():
            steps[key] = steps.get(key, 0) + factor * step
    return _Index(tuple(sorted(steps.items())), loops, limit)


def _from_the_innermost(nest: Nest) -> tuple[_Run, ...]:
    """The loops in the order in which a core runs through them, the fastest first.

    Those of stages, vectors and copies, then the lanes of a work-group, loops, and work-groups,
    whose dimension 0 runs fastest."""
    staged = [
        _Run(f"{s.value}/{lp.name}", lp.extent)
        for s in nest.stages
        for lp in reversed(s.nest.loops)
    ]
    inside = (Kind.MATRIX, Kind.VECTOR, Kind.UNROLL, Kind.LANE, Kind.SERIAL)
    made = [lp for kind in inside for lp in reversed(nest.loops) if lp.kind is kind]
    groups = [lp for lp in reversed(nest.loops) if lp.kind is Kind.GROUP]
    ordered = (*made, *sorted(groups, key=lambda lp: lp.dim))
    return (*staged, *(_Run(lp.name, lp.extent) for lp in ordered))


def _touched(streams: Sequence[_Stream], loops: Sequence[_Run]) -> dict[_Stream, tuple[float, ...]]:
    """What every stream touches in no loop, in the innermost one, in the two innermost and so
    on."""
    made = {}
    for s in streams:
        moving, found = s.loops, [s.footprint(())]
        for i, loop in enumerate(loops):
            found.append(s.footprint(loops[: i + 1]) if loop.key in moving else found[-1])
        made[s] = tuple(found)
    return made


def _traffic(
    touched: Mapping[_Stream, Sequence[float]], loops: Sequence[_Run], capacity: int
) -> dict[_Stream, float]:
    """Bytes of every stream that miss a cache of this size. What a loop does not move through
    takes no room while it runs: it is in local memory, or stored later."""
    moved = {s: each[0] for s, each in touched.items()}
    for i, loop in enumerate(loops):
        around = [s for s in touched if loop.key in s.around]
        fits = sum(touched[s][i] for s in around) <= capacity
        for s in around:
            moved[s] *= touched[s][i + 1] / touched[s][i] if fits else loop.extent
    merged: dict[tuple[tuple[Node, int], bool], _Stream] = {}
    for s in touched:
        key = (s.value, s.written)
        if key not in merged or moved[s] > moved[merged[key]]:
            merged[key] = s
    return {s: moved[s] for s in merged.values()}
