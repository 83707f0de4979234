"""The points of a group's schedule space: what a tuner may choose between.

In: a group with its vector axis, storage orders and a target. Out: `Candidate`s, each a `Point`
with the nest that it gives and its estimate, the best first. Invariant: every candidate's steps are
legal and fit the target's capabilities; the default (no override) is always among them; different
candidates have different nests.

The values of each field come from capabilities and the profile, never from a target's name.

    candidates(kernel.group, lanes, Situation(target, plan.orders))[0].point
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from types import MappingProxyType
from typing import Any

from sdlc.graph.expr import Axis
from sdlc.schedule.cost import Estimate, estimate
from sdlc.schedule.draft import Setting
from sdlc.schedule.group import Group
from sdlc.schedule.layout import Orders
from sdlc.schedule.nest import Refused, Step
from sdlc.schedule.plan import Scheduled, at_point, cheapest, scheduled
from sdlc.schedule.point import DEFAULT, Point, point_of
from sdlc.target import Target

ALIKE = 2
"""Points with one estimate that are measured."""
KEPT = 24
"""Points whose finer settings are tried as well: the best by estimate."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A point that may be built, the kernel to be and its estimate."""

    point: Point
    kernel: Scheduled
    estimate: Estimate


@dataclass(frozen=True, slots=True)
class Situation:
    """What a group's points depend on besides the group."""

    target: Target
    orders: Orders

    @property
    def setting(self) -> Setting:
        return Setting(
            self.target.profile,
            self.target.caps.max_groups,
            self.orders,
            self.target.caps.local_bytes,
            matrix=self.target.caps.matrix,
        )


# ---- the space -----------------------------------------------------------------------------------


def _vectors(target: Target) -> tuple[int, ...]:
    return tuple(w for w in target.caps.vector_widths if w <= 2 * max(4, target.profile.vector))


def _lanes(target: Target) -> tuple[int, ...]:
    profile, most = target.profile, target.caps.max_work_items
    if profile.lanes == 1:
        return (1,)
    return tuple(n for n in (32, 64, 128, 256) if n <= most)


def _tiles(target: Target) -> tuple[tuple[int, int], ...]:
    vector = target.profile.vector
    columns = sorted({vector, 2 * vector, 3 * vector, 4 * vector})
    return tuple(product((1, 2, 4, 6, 8, 12, 16), columns))


def _reduction_lanes(target: Target) -> tuple[int, ...]:
    most = target.profile.reduction_lanes
    if most == 1:
        return (1,)
    return tuple(n for n in (1, 8, 32, 64, 128, 256) if n <= target.caps.max_work_items)


def _scaled(value: int, *factors: float) -> tuple[int, ...]:
    return tuple(sorted({max(1, int(value * f)) for f in factors}))


def _slices(target: Target) -> tuple[int, ...]:
    """None, or some, where the profile holds local memory to be worth it."""
    chosen = target.profile.slice
    return tuple(sorted({0, 8, 16, 32, chosen})) if chosen else (0,)


def _depths(target: Target) -> tuple[int, ...]:
    return (1, 2) if target.profile.slice else (1,)


def _groups(target: Target) -> tuple[int, ...]:
    return _scaled(target.profile.groups, 0.5, 1, 2)


def _points(target: Target) -> tuple[int, ...]:
    return _scaled(target.profile.points, 0.25, 1, 4)


def _flop(target: Target) -> tuple[int, ...]:
    flop = target.profile.flop
    return tuple(sorted({0, flop // 4, flop, 4 * flop}))


def _unroll(target: Target) -> tuple[int, ...]:
    return tuple(sorted({1, 2, 4, 8, target.profile.unroll}))


Table = Mapping[str, Callable[[Target], tuple[Any, ...]]]
COARSE: Table = MappingProxyType({"vector": _vectors, "lanes": _lanes, "register_tile": _tiles})
FINE: Table = MappingProxyType(
    {
        "unroll": _unroll,
        "slice": _slices,
        "depth": _depths,
        "groups": _groups,
        "reduction_lanes": _reduction_lanes,
        "points": _points,
        "flop": _flop,
    }
)
"""Candidate values by profile field. Coarse fields decide most; fine ones are tried for the best
coarse points."""


def space(target: Target) -> dict[str, tuple[Any, ...]]:
    """Every field that may be overridden, with its values."""
    return {name: values(target) for name, values in (*COARSE.items(), *FINE.items())}


# ---- candidates ----------------------------------------------------------------------------------


def candidates(group: Group, lanes: Axis | None, situation: Situation) -> tuple[Candidate, ...]:
    """The group's distinct points that fit the target, the smallest estimate first."""
    found = _Found(group, lanes, situation)
    found.add(DEFAULT)
    for point in _combinations(DEFAULT, found.moving(COARSE), situation.target):
        found.add(point)
    fine = found.moving(FINE)
    for each in found.ranked()[:KEPT]:
        for point in _combinations(each.point, fine, situation.target):
            found.add(point)
    return found.ranked()


def candidate(
    group: Group, lanes: Axis | None, situation: Situation, point: Point
) -> Candidate | str:
    """The point's kernel and estimate, or why it cannot be."""
    target, setting = situation.target, situation.setting
    if point == DEFAULT:
        made: Scheduled | str = scheduled(group, lanes, setting, target, DEFAULT)
    else:
        made = at_point(group, lanes, setting, target, point)
    if isinstance(made, str):
        return made
    return Candidate(point, made, estimate(made, target, situation.orders))


class _Found:
    """Candidates by the steps that make them; of equal ones the point that says least stays."""

    def __init__(self, group: Group, lanes: Axis | None, situation: Situation) -> None:
        self._group, self._lanes, self._situation = group, lanes, situation
        self._made: dict[tuple[Step, ...], Candidate | str] = {}

    def moving(self, table: Table) -> dict[str, tuple[Any, ...]]:
        """The fields of a table whose values, each alone, make other steps than the default."""
        target = self._situation.target
        every = {name: values(target) for name, values in table.items()}
        default = self._steps(DEFAULT)
        return {
            name: values
            for name, values in every.items()
            if any(self._steps(point_of({name: v}, target.profile)) != default for v in values)
        }

    def add(self, point: Point) -> None:
        steps = self._steps(point)
        if steps is None:
            return
        known = self._made.get(steps)
        if known is None:
            self._made[steps] = candidate(self._group, self._lanes, self._situation, point)
        elif isinstance(known, Candidate) and len(point.overrides) < len(known.point.overrides):
            self._made[steps] = replace(known, point=point)

    def _steps(self, point: Point) -> tuple[Step, ...] | None:
        """The steps, or None where the tactic cannot make any."""
        setting = self._situation.setting
        profile = point.applied(setting.profile)
        try:
            setting = replace(setting, profile=profile)
            return cheapest(self._group, self._lanes, setting, self._situation.target).steps
        except Refused:
            return None

    def ranked(self) -> tuple[Candidate, ...]:
        found = [c for c in self._made.values() if isinstance(c, Candidate)]
        return tuple(sorted(found, key=lambda c: c.estimate.seconds))


def _combinations(
    start: Point, values: Mapping[str, tuple[Any, ...]], target: Target
) -> Iterator[Point]:
    """`start` with every combination of the values; what the profile says anyway is left out."""
    for chosen in product(*([(name, v) for v in of] for name, of in values.items())):
        yield point_of({**dict(start.overrides), **dict(chosen)}, target.profile)


def in_order(found: Iterable[Candidate], most: int) -> tuple[Candidate, ...]:
    """The default, then the best `most` others: of those that the model cannot tell apart at most
    `ALIKE`, the ones that say least."""
    listed = list(found)
    default = [c for c in listed if c.point == DEFAULT]
    others = [c for c in listed if c.point != DEFAULT]
    others.sort(key=lambda c: (_coarse(c), len(c.point.overrides), c.estimate.seconds))
    alike = Counter[float]()
    chosen: list[Candidate] = []
    for each in others:
        alike[_coarse(each)] += 1
        if alike[_coarse(each)] <= ALIKE and len(chosen) < most:
            chosen.append(each)
    return (*default, *chosen)


def _coarse(candidate: Candidate) -> float:
    """The estimate in two digits: finer differences mean nothing."""
    return float(f"{candidate.estimate.seconds:.2g}")
