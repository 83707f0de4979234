"""Random schedules of random programs.

In: a program's plan. Out: Hypothesis strategies of legal nests for its kernels. Invariant: only
steps that `apply` takes are taken, in the order in which they are recorded; nothing here knows
which nests are good.

    draw(random_plan(plan(graph, target), target))      the plan with nests of its own
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import hypothesis.strategies as st

from sdlc.schedule.fits import misfit
from sdlc.schedule.group import Group
from sdlc.schedule.nest import (
    Bind,
    Kind,
    Loop,
    Nest,
    Place,
    Refused,
    Reorder,
    Spread,
    Stage,
    Staged,
    Step,
    Tile,
    apply,
    complete,
    initial,
    schedule,
    settled,
)
from sdlc.schedule.plan import Plan, Scheduled
from sdlc.target import Target

MOST_STEPS, MOST_COPIES, MOST_LANES, MOST_ITERATIONS = 9, 32, 128, 64
MOST_SERIAL = 4096
"""Iterations of a work-item, one after the other, in its loops and those of its stages."""
MOST_WASTE = 64
"""How many times its points a nest runs over: where a launch is mostly guards, that it has no races
is proven by looking at each point, and these would be millions."""
TILES = (1, 2, 3, 4, 5, 8, 16)


@dataclass(slots=True)
class Draft:
    """A nest on its way. `taken` are the legal steps, `refused` how many were not."""

    group: Group
    nest: Nest
    taken: list[Step]
    refused: int = 0

    def take(self, step: Step) -> bool:
        """Whether the step is legal, and leaves a kernel of bearable size."""
        before = str(self.nest)
        try:
            made = apply(self.nest, step, self.group)
        except Refused as problem:
            assert problem.reason and str(problem.nest) in str(problem)
            assert str(self.nest) == before, "a refused step changed the nest"
            self.refused += 1
            return False
        if not bearable(made):
            return False
        self.nest = made
        self.taken.append(step)
        return True


def bearable(nest: Nest) -> bool:
    """Whether a kernel of this nest is small enough to be checked often."""
    loops = [lp for n in (nest, *(s.nest for s in nest.stages)) for lp in n.loops]
    copies = prod(lp.extent for lp in nest.loops if lp.kind is Kind.UNROLL)
    inside = prod(lp.extent for lp in loops if lp.kind in (Kind.UNROLL, Kind.VECTOR))
    lanes = prod(nest.size(Kind.LANE, d) for d in range(3))
    points = prod(lp.extent for lp in nest.loops)
    if points > MOST_WASTE * prod(a.extent for a in {lp.axis for lp in nest.loops}):
        return False
    return copies <= MOST_COPIES and inside <= 16 * MOST_COPIES and lanes <= MOST_LANES


def serial(nest: Nest) -> int:
    """How many iterations a work-item makes."""

    def count(loops: Sequence[Loop]) -> int:
        return prod(lp.extent for lp in loops if lp.kind is Kind.SERIAL)

    own = [lp for lp in nest.loops if lp.kind is Kind.SERIAL]
    names = ["", *(lp.name for lp in own)]
    staged = (count(own[: names.index(s.at)]) * count(s.nest.loops) for s in nest.stages)
    return count(own) + sum(staged)


@st.composite
def random_steps(draw: st.DrawFn, group: Group) -> Draft:
    """Legal steps for a group, whatever they are good for: outer loops, stages, their loops."""
    draft = Draft(group, initial(group), [])
    for number in range(draw(st.integers(0, MOST_STEPS)) if draft.nest.loops else 0):
        draft.take(draw(_step(draft.nest.loops, "", number)))
    for inner in reversed(group.inner):
        _stage(draw, draft, inner.name)
        for number in range(draw(st.integers(0, 4))):
            staged = next((s for s in draft.nest.stages if s.value == inner.name), None)
            if staged is not None:
                draft.take(draw(_inside(staged, number)))
    _shorten(draft)
    return draft


def _shorten(draft: Draft) -> None:
    """Long serial loops over results become work-groups, which are interpreted side by side."""
    staged = {s.at for s in draft.nest.stages}
    for loop in sorted(draft.nest.loops, key=lambda lp: -lp.extent):
        serial = [lp.extent for lp in draft.nest.loops if lp.kind is Kind.SERIAL]
        if prod(serial) <= MOST_ITERATIONS:
            return
        if loop.kind is Kind.SERIAL and loop.name not in staged:
            draft.take(Bind(loop.name, Kind.GROUP, 0))


def _step(loops: Sequence[Loop], prefix: str, number: int) -> st.SearchStrategy[Step]:
    names = [lp.name for lp in loops]
    some = st.sampled_from(names)
    tiles = st.builds(
        lambda name, size: Tile(prefix + name, size, f"{prefix}{name}.{number}"),
        some,
        st.sampled_from(TILES),
    )
    binds = st.builds(
        lambda name, kind, dim: Bind(prefix + name, kind, dim),
        some,
        st.sampled_from(tuple(Kind)),
        st.integers(0, 2),
    )
    orders = st.permutations(names).map(lambda n: Reorder(tuple(prefix + each for each in n)))
    return st.one_of(tiles, binds, orders)


def _inside(staged: Staged, number: int) -> st.SearchStrategy[Step]:
    """A step on the loops of a stage, or its elements shared out over work-items."""
    spreads = st.sampled_from((1, 2, 4)).map(lambda width: Spread(staged.value, width))
    if not staged.nest.loops:
        return spreads
    return st.one_of(spreads, _step(staged.nest.loops, f"{staged.value}/", number))


def _stage(draw: st.DrawFn, draft: Draft, value: str) -> None:
    """A stage outermost or in the body of a serial loop: of those drawn, the first legal one."""
    serial = ["", *(lp.name for lp in settled(draft.nest).loops if lp.kind is Kind.SERIAL)]
    place, pad = draw(st.sampled_from(tuple(Place))), draw(st.integers(0, 2))
    for at in draw(st.permutations(serial)):
        if draft.take(Stage(value, at, place, pad)):
            return


@st.composite
def random_schedule(draw: st.DrawFn, item: Scheduled, made: Plan, target: Target) -> Scheduled:
    """A kernel with a nest of its own, or its default one where that cannot be staged or does not
    fit the target."""
    draft = draw(random_steps(item.group))
    try:
        nest = complete(draft.nest, item.group)
    except Refused:
        return item
    if misfit(item.group, nest, made.orders, target) is not None or serial(nest) > MOST_SERIAL:
        return item
    steps = tuple(draft.taken)
    assert schedule(item.group, steps) == nest, "steps do not replay"
    return replace(item, steps=steps, nest=nest)


@st.composite
def random_plan(draw: st.DrawFn, made: Plan, target: Target) -> Plan:
    """The plan with a schedule of their own for its kernels."""
    kernels = tuple(draw(random_schedule(item, made, target)) for item in made.kernels)
    return replace(made, kernels=kernels)
