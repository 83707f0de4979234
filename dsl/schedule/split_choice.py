"""Which reductions are split over work-groups: those that leave a device idle.

In: groups with their storage orders, a target, and who estimates. Out: groups, some of them two.
Invariant: a group is split only where both kernels together are estimated to take clearly less
time than the one; nothing but axes, extents and the target's table is looked at.

    out[128, 1280] over 11520 on 132 cores: 40 work-groups      → 8 parts: 320 and a sum of 8
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import prod

from sdlc.graph.expr import Axis
from sdlc.schedule.contraction import constant_factor
from sdlc.schedule.cost import Estimate
from sdlc.schedule.digest import digest_of
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

Estimating = Callable[[Group, Axis | None, Orders], Estimate]
"""The estimate of a group's default schedule, with its vector axis and storage orders."""


@dataclass(slots=True)
class Splitting:
    """Decides for each group; equal groups are looked at once."""

    target: Target
    estimating: Estimating
    journal: Journal
    _known: dict[str, tuple[SplitReduce | None, str]] = field(default_factory=dict)

    def groups(
        self, groups: Iterable[Group], orders: Orders, vectors: dict[Value, Axis]
    ) -> tuple[Group, ...]:
        """The groups, with those split that gain by it."""
        made: list[Group] = []
        for group in groups:
            step, why = self.chosen(group, vector_of(group, vectors), orders)
            both = (group,) if step is None else split(group, step)
            for each in both if is_reduction(group) else ():
                self.journal.tell("split_reductions", each, why)
            made += both
        return tuple(made)

    def chosen(
        self, group: Group, lanes: Axis | None, orders: Orders
    ) -> tuple[SplitReduce | None, str]:
        """The step that splits a group, or None and why not."""
        reason = self._too_small(group)
        if reason:
            return None, reason
        key = digest_of(group, lanes, orders, {})
        if key not in self._known:
            self._known[key] = self._best(group, lanes, orders)
        return self._known[key]

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

    def _best(
        self, group: Group, lanes: Axis | None, orders: Orders
    ) -> tuple[SplitReduce | None, str]:
        peak, whole = self.target.peak, self.estimating(group, lanes, orders)
        if whole.groups >= FULL * peak.cores:
            return None, f"its {whole.groups} work-groups keep all cores busy"
        if 2 * peak.launch_seconds > CLEARLY * whole.seconds:
            return None, _dearer(2 * peak.launch_seconds, whole.seconds)
        best: tuple[SplitReduce | None, str] = None, "no number of parts suits its reduced axes"
        least = whole.seconds
        for step in ways_of(group):
            found = self._seconds(group, step, orders)
            if isinstance(found, str):
                best = best if best[0] is not None else (None, found)
            elif found < least:
                least, best = found, (step, "")
            elif best[0] is None:
                best = None, _dearer(found, whole.seconds)
        if least > CLEARLY * whole.seconds:
            return None, best[1] or _dearer(least, whole.seconds)
        return best

    def _seconds(self, group: Group, step: SplitReduce, orders: Orders) -> float | str:
        """The estimate of both kernels, or why they cannot be."""
        try:
            both = split(group, step)
            most = self.target.caps.max_storage_buffers
            if any(len(g.operands) + len(g.stores) > most for g in both):
                return f"a kernel would read more than {most} buffers"
            kept = {(s.node, s.field): orders[(s.node, s.field)] for s in group.stores}
            own, vectors = assign_orders(both, kept, self.target.profile.vector)
            every = {**own, **orders}
            return sum(self.estimating(g, vector_of(g, vectors), every).seconds for g in both)
        except Refused as problem:
            return problem.reason


def is_reduction(group: Group) -> bool:
    """Whether the group, or what it holds for its rows, folds more than constants weigh."""
    folded = statistics_of(group) or group
    return folded.monoid is not None and constant_factor(folded) is None


def _dearer(split_in: float, whole: float) -> str:
    return f"at best {1e6 * split_in:.3g} µs in parts, {1e6 * whole:.3g} as one"
