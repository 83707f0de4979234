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

from sdlc.graph.expr import Axis, Index, Read, walk
from sdlc.graph.node import Node
from sdlc.schedule.affine import affine
from sdlc.schedule.group import Group
from sdlc.schedule.nest import Kind, Loop, Nest
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


@dataclass(frozen=True, slots=True)
class _Place:
    """One index: its coefficients (None: not affine), the axes that it depends on, its extent."""

    terms: tuple[tuple[Axis, int], ...] | None
    axes: frozenset[Axis]
    limit: int

    def extent(self, loops: Sequence[Loop]) -> int:
        """Distinct values over some loops."""
        own = [lp for lp in loops if lp.axis in self.axes]
        count = prod(lp.extent for lp in own)
        if self.terms is not None:
            factors = dict(self.terms)
            span = sum(abs(factors.get(lp.axis, 0)) * lp.stride * (lp.extent - 1) for lp in own)
            count = min(count, 1 + span)
        return min(count, self.limit)


@dataclass(frozen=True, slots=True)
class _Stream:
    """One value that is read or written: its index expressions by storage order, and its size."""

    value: tuple[Node, int]
    indices: tuple[_Place, ...]
    itemsize: int
    written: bool

    def footprint(self, loops: Sequence[Loop]) -> float:
        """Bytes that it touches over some loops, in whole lines."""
        places = [place.extent(loops) for place in self.indices]
        if not places:
            return float(LINE)
        inner = max(places[-1] * self.itemsize, LINE)
        whole = prod(place.limit for place in self.indices) * self.itemsize
        return float(max(LINE, min(inner * prod(places[:-1]), whole)))


def traffic_of(group: Group, nest: Nest, orders: Orders, peak: Peak) -> Traffic:
    """The bytes of one launch that miss each cache."""
    streams = _streams(group, orders)
    loops = _from_the_innermost(nest)
    found = [_traffic(streams, loops, size) for size in peak.cache_bytes]
    missed = tuple(sum(each.values()) for each in found)
    last = found[-1]
    read = sum(n for s, n in last.items() if not s.written)
    written = sum(n for s, n in last.items() if s.written)
    return Traffic(missed, int(read), int(written))


def _streams(group: Group, orders: Orders) -> tuple[_Stream, ...]:
    reads = [e for e in walk(*group.expressions) if isinstance(e, Read)]
    streams = [_stream(r, orders, False) for r in reads]
    stores = (Read(s.node, s.indices, s.field) for s in group.stores)
    return tuple(dict.fromkeys((*streams, *(_stream(r, orders, True) for r in stores))))


def _stream(read: Read, orders: Orders, written: bool) -> _Stream:
    value = (read.source, read.field)
    order = orders.get(value, tuple(range(len(read.indices))))
    indices = []
    for d in order:
        form = affine(read.indices[d])
        axes = frozenset(e.axis for e in walk(read.indices[d]) if isinstance(e, Index))
        terms = None if form is None else tuple(form[0].items())
        indices.append(_Place(terms, axes, read.source.shape[d]))
    return _Stream(value, tuple(indices), read.source.dtypes[read.field].itemsize, written)


def _from_the_innermost(nest: Nest) -> tuple[Loop, ...]:
    """The loops in the order in which a core runs through them, the fastest first.

    Vectors and copies, then the lanes of a work-group, loops, and work-groups, whose dimension 0
    runs fastest."""
    inside = (Kind.VECTOR, Kind.UNROLL, Kind.LANE, Kind.SERIAL)
    made = [lp for kind in inside for lp in reversed(nest.loops) if lp.kind is kind]
    groups = [lp for lp in reversed(nest.loops) if lp.kind is Kind.GROUP]
    return (*made, *sorted(groups, key=lambda lp: lp.dim))


def _traffic(
    streams: Sequence[_Stream], loops: Sequence[Loop], capacity: int
) -> dict[_Stream, float]:
    """Bytes of every stream that miss a cache of this size."""
    touched = {s: s.footprint(()) for s in streams}
    moved = dict(touched)
    for i, loop in enumerate(loops):
        fits = sum(touched.values()) <= capacity
        after = {s: s.footprint(loops[: i + 1]) for s in streams}
        for s in streams:
            moved[s] *= after[s] / touched[s] if fits else loop.extent
        touched = after
    merged: dict[tuple[tuple[Node, int], bool], _Stream] = {}
    for s in streams:
        key = (s.value, s.written)
        if key not in merged or moved[s] > moved[merged[key]]:
            merged[key] = s
    return {s: moved[s] for s in merged.values()}
