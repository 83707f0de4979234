"""Which reductions are split over work-groups: those that leave a device idle.

In: groups with their storage orders, a target, and who estimates. Out: groups, some of them two.
Invariant: a group is split only where both kernels together are estimated to take clearly less
time than the one, and where its parts are no larger than another value of the program and hardly
raise the memory that it needs; nothing but axes, extents and the target's table is looked at.

    out[128, 1280] over 11520 on 132 cores: 40 work-groups      → 8 parts: 320 and a sum of 8
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import inf, prod

from sdlc.graph.expr import Axis
from sdlc.graph.node import Const, Input, Node, Role, byte_count
from sdlc.schedule.again import live_bytes
from sdlc.schedule.contraction import constant_factor, contraction
from sdlc.schedule.cost import Estimate
from sdlc.schedule.digest import digest_of
from sdlc.schedule.fragments import slice_of
from sdlc.schedule.group import Group
from sdlc.schedule.layout import Orders, Value, assign_orders, vector_of
from sdlc.schedule.nest import Refused, SplitReduce
from sdlc.schedule.reasons import Journal
from sdlc.schedule.split import split, statistics_of, ways_of
from sdlc.target import Target

CLEARLY = 0.8
"""A split must be estimated to take at most this much of the whole's time: estimates err."""

LEAST = 64
"""Reductions of fewer elements are not looked at."""

FULL = 2
"""Work-groups for each core with which nothing is idle."""

MORE = 1.1
"""Parts may raise the most bytes that are live to this much of it."""

Estimating = Callable[[Group, Axis | None, Orders], Estimate]
"""The estimate of a group's default schedule, with its vector axis and storage orders."""


@dataclass(frozen=True, slots=True)
class _Way:
    """A split, why it is `refused`, or what both kernels and the parts' storage take."""

    step: SplitReduce
    refused: str
    seconds: float = inf
    nbytes: int = 0


@dataclass(slots=True)
class Splitting:
    """Decides for each group; equal groups are looked at once. `kept` are the program's results."""

    target: Target
    estimating: Estimating
    journal: Journal
    kept: frozenset[Node]
    _known: dict[str, tuple[Estimate, tuple[_Way, ...]]] = field(default_factory=dict)

    def groups(
        self, groups: Iterable[Group], orders: Orders, vectors: dict[Value, Axis]
    ) -> tuple[Group, ...]:
        """The groups, with those split that gain by it."""
        groups, made = tuple(groups), list[Group]()
        for group, room in zip(groups, _rooms(groups, self.kept), strict=True):
            step, why = self.chosen(group, vector_of(group, vectors), orders, room)
            both = (group,) if step is None else split(group, step)
            for each in both if is_reduction(group) else ():
                self.journal.tell("split_reductions", each, why)
            made += both
        return tuple(made)

    def chosen(
        self, group: Group, lanes: Axis | None, orders: Orders, room: int
    ) -> tuple[SplitReduce | None, str]:
        """The step that splits a group into parts of at most `room` bytes, or None and why not."""
        reason = self._too_small(group)
        if reason:
            return None, reason
        key = digest_of(group, lanes, orders, {})
        if key not in self._known:
            whole = self.estimating(group, lanes, orders)
            self._known[key] = whole, self._ways(group, orders) if self._idle(whole) else ()
        return self._best(*self._known[key], room)

    def _too_small(self, group: Group) -> str:
        """Why a split cannot pay, without an estimate."""
        profile, part = self.target.profile, statistics_of(group)
        folded = part or group
        if not is_reduction(group):
            return "nothing is reduced"
        if prod(a.extent for a in folded.over) < LEAST:
            return f"fewer than {LEAST} elements are folded"
        rows, columns = profile.register_tile
        each = 1 if part is not None else profile.lanes * rows * columns
        if folded.points > FULL * self.target.peak.cores * each:
            return "there are results enough for all cores"
        return ""

    def _idle(self, whole: Estimate) -> bool:
        """Whether a kernel leaves cores idle for longer than two launches take."""
        peak = self.target.peak
        long = 2 * peak.launch_seconds <= CLEARLY * whole.seconds
        return long and whole.groups < FULL * peak.cores

    def _best(
        self, whole: Estimate, ways: tuple[_Way, ...], room: int
    ) -> tuple[SplitReduce | None, str]:
        """The step that takes least time."""
        peak = self.target.peak
        if whole.groups >= FULL * peak.cores:
            return None, f"its {whole.groups} work-groups keep all cores busy"
        if not self._idle(whole):
            return None, _dearer(2 * peak.launch_seconds, whole.seconds)
        fitting = [way for way in ways if way.nbytes <= room]
        best = min(fitting, key=lambda way: way.seconds, default=None)
        if best is not None and best.seconds <= CLEARLY * whole.seconds:
            return best.step, ""
        if best is not None and best.seconds < inf:
            return None, _dearer(best.seconds, whole.seconds)
        if len(fitting) < len(ways):
            return None, "its parts would take more memory than all else"
        return None, ways[0].refused if ways else "no number of parts suits its reduced axes"

    def _ways(self, group: Group, orders: Orders) -> tuple[_Way, ...]:
        """What each split would take, or why it cannot be."""
        of, form = self.target.instruction, contraction(group)
        slice_ = slice_of(of, self.target.profile) if of is not None and form is not None else 0
        return tuple(self._way(group, step, orders) for step in ways_of(group, slice_))

    def _way(self, group: Group, step: SplitReduce, orders: Orders) -> _Way:
        try:
            both = split(group, step)
            most = self.target.caps.max_storage_buffers
            if any(len(g.operands) + len(g.stores) > most for g in both):
                return _Way(step, f"a kernel would read more than {most} buffers")
            kept = {(s.node, s.field): orders[(s.node, s.field)] for s in group.stores}
            own, vectors = assign_orders(both, kept, self.target.profile.vector)
            every = {**own, **orders}
            seconds = sum(self.estimating(g, vector_of(g, vectors), every).seconds for g in both)
            return _Way(step, "", seconds, sum(byte_count(s.node, s.field) for s in both[0].stores))
        except Refused as problem:
            return _Way(step, problem.reason)


def _rooms(groups: tuple[Group, ...], kept: frozenset[Node]) -> list[int]:
    """The bytes that parts of each group may take: with what lives beside it hardly more than is
    live at another time, and no more than the largest value takes, weights apart."""
    values = {v for g in groups for v in (*g.operands, *((s.node, s.field) for s in g.stores))}
    largest = max(byte_count(*v) for v in values if not _is_weight(v[0]))
    live = live_bytes(groups, kept)
    most = max(largest, int(MORE * max(live)))
    return [min(largest, most - now) for now in live]


def _is_weight(node: Node) -> bool:
    return isinstance(node, Const) or (isinstance(node, Input) and node.role is Role.WEIGHT)


def is_reduction(group: Group) -> bool:
    """Whether the group, or what it holds for its rows, folds more than constants weigh."""
    folded = statistics_of(group) or group
    return folded.monoid is not None and constant_factor(folded) is None


def _dearer(split_in: float, whole: float) -> str:
    return f"at best {1e6 * split_in:.3g} µs in parts, {1e6 * whole:.3g} as one"
