"""Random schedules of random programs.

In: a program's plan. Out: Hypothesis strategies of reductions in parts, and of legal nests for its
kernels. Invariant: only steps that `apply` (or `split`) takes are taken, in the order in which they
are recorded; nothing here knows which nests are good.

    made = in_parts(made, draw(random_splits(made, target)), target)
    draw(random_plan(made, target))                     the plan with nests of its own
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod

import hypothesis.strategies as st

from sdlc.schedule.contraction import contraction
from sdlc.schedule.draft import Setting
from sdlc.schedule.fits import misfit
from sdlc.schedule.group import Group
from sdlc.schedule.layout import assign_orders, vector_of
from sdlc.schedule.nest import (
    Bind,
    Kind,
    Loop,
    Matrix,
    Nest,
    Place,
    Refused,
    Reorder,
    SplitReduce,
    Spread,
    Stage,
    Staged,
    Step,
    Tile,
    initial,
)
from sdlc.schedule.plan import Plan, Scheduled
from sdlc.schedule.plan import scheduled as by_default
from sdlc.schedule.point import DEFAULT
from sdlc.schedule.split import MOST_WAYS, split, statistics_of
from sdlc.schedule.steps import apply, complete, schedule, settled
from sdlc.target import MatrixInstruction, Target

Splits = tuple[tuple[int, SplitReduce], ...]
"""Which kernels of a plan, by their numbers, are made in parts, the last first."""

MOST_STEPS, MOST_COPIES, MOST_LANES, MOST_ITERATIONS = 9, 32, 128, 64
MOST_SERIAL = 4096
"""Iterations of a work-item, one after the other, in its loops and those of its stages."""
TILES = (1, 2, 3, 4, 5, 8, 16)


@dataclass(slots=True)
class Draft:
    """A nest on its way. `taken` are the legal steps, `refused` how many were not."""

    group: Group
    nest: Nest
    taken: list[Step]
    refused: int = 0

    def take_all(self, *steps: Step) -> bool:
        """Whether all the steps are legal; none is taken otherwise."""
        nest, taken = self.nest, list(self.taken)
        if all(self.take(step) for step in steps):
            return True
        self.nest, self.taken = nest, taken
        return False

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
def random_steps(
    draw: st.DrawFn, group: Group, instructions: Sequence[MatrixInstruction] = ()
) -> Draft:
    """Legal steps for a group, whatever they are good for: outer loops, stages, their loops."""
    draft = Draft(group, initial(group), [])
    if instructions:
        _matrix(draw, draft, group, "", instructions)
    for number in range(draw(st.integers(0, MOST_STEPS)) if draft.nest.loops else 0):
        draft.take(draw(_step(draft.nest.loops, "", number)))
    for inner in reversed(group.inner):
        _stage(draw, draft, inner.name)
        if instructions:
            _matrix(draw, draft, inner, f"{inner.name}/", instructions)
        for number in range(draw(st.integers(0, 4))):
            staged = next((s for s in draft.nest.stages if s.value == inner.name), None)
            if staged is not None:
                draft.take(draw(_inside(staged, number)))
    _shorten(draft)
    if draw(st.booleans()):
        _share(draft)
    return draft


def _matrix(
    draw: st.DrawFn,
    draft: Draft,
    part: Group,
    prefix: str,
    instructions: Sequence[MatrixInstruction],
) -> None:
    """A tile of a contraction by an instruction, its rows over one axis or two."""
    form = contraction(part)
    if form is None or not (form.m and form.n and form.k) or not draw(st.booleans()):
        return
    of = draw(st.sampled_from(list(instructions)))
    tiles: list[Step] = []

    def tiled(axis: str, size: int) -> str:
        inner = f"{prefix}{axis}.cell"
        tiles.append(Tile(prefix + axis, size, inner))
        return inner

    rows = draw(st.permutations([a.name for a in form.m]))[: draw(st.integers(1, 2))]
    inside = draw(st.sampled_from((2, 4))) if len(rows) > 1 else 1
    sizes = (of.m // inside, inside)
    columns, terms = (draw(st.sampled_from([a.name for a in axes])) for axes in (form.n, form.k))
    sides = tuple(tiled(axis, size) for axis, size in zip(rows, sizes, strict=False))
    step = Matrix(sides, (tiled(columns, of.n),), (tiled(terms, of.k),), of)
    draft.take_all(*tiles, step)


def _share(draft: Draft) -> None:
    """Stages in the places of later ones, wherever that is legal."""
    for first in draft.nest.stages:
        for later in draft.nest.stages:
            with suppress(Refused):
                steps = [_in_place_of(step, first.value, later.value) for step in draft.taken]
                if steps != draft.taken:
                    schedule(draft.group, tuple(steps))
                    draft.nest = _replayed(draft.group, steps)
                    draft.taken = steps


def _in_place_of(step: Step, value: str, later: str) -> Step:
    own = isinstance(step, Stage) and step.value == value != later
    return replace(step, shares=later) if own else step  # type: ignore[call-arg]


def _replayed(group: Group, steps: Sequence[Step]) -> Nest:
    nest = initial(group)
    for step in steps:
        nest = apply(nest, step, group)
    return nest


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
    spreads = st.builds(
        Spread, st.just(staged.value), st.sampled_from((1, 2, 4)), st.sampled_from((1, 1, 2, 4))
    )
    if not staged.nest.loops:
        return spreads
    return st.one_of(spreads, _step(staged.nest.loops, f"{staged.value}/", number))


def _stage(draw: st.DrawFn, draft: Draft, value: str) -> None:
    """A stage beside the last one, outermost or in the body of a serial loop: of those drawn, the
    first legal one."""
    if draft.nest.stages and draw(st.booleans()):
        beside = draft.nest.stages[0]
        if draft.take(Stage(value, beside.at, beside.place, beside.pad)):
            return
    serial = ["", *(lp.name for lp in settled(draft.nest).loops if lp.kind is Kind.SERIAL)]
    places = (Place.LOCAL,) if draft.nest.multiplies else tuple(Place)
    place, pad = draw(st.sampled_from(places)), draw(st.integers(0, 2))
    for at in draw(st.permutations(serial)):
        if draft.take(Stage(value, at, place, pad)):
            return


@st.composite
def random_schedule(draw: st.DrawFn, item: Scheduled, made: Plan, target: Target) -> Scheduled:
    """A kernel with a nest of its own, or its default one where that cannot be staged or does not
    fit the target."""
    draft = draw(random_steps(item.group, target.caps.matrix))
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


# ---- reductions in parts


@st.composite
def random_splits(draw: st.DrawFn, made: Plan, target: Target) -> Splits:
    """Some of the plan's reductions in some number of parts, as far as that is legal."""
    found: Splits = ()
    for number, item in enumerate(made.kernels):
        folded = statistics_of(item.base) or item.base
        if not folded.over or not draw(st.booleans()):
            continue
        axis = draw(st.sampled_from(folded.over))
        most = min(max(axis.extent, 2), MOST_WAYS)
        step = SplitReduce(axis.name, draw(st.integers(2, most)))
        try:
            both = split(item.base, step)
        except Refused as problem:
            assert problem.reason
            continue
        buffers = target.caps.max_storage_buffers
        if all(len(g.operands) + len(g.stores) <= buffers for g in both):
            found = ((number, step), *found)
    return found


def in_parts(made: Plan, splits: Splits, target: Target) -> Plan:
    """The plan with these kernels in two, by default schedules."""
    for number, step in splits:
        item = made.kernels[number]
        both = split(item.base, step)
        kept = {(s.node, s.field): made.orders[(s.node, s.field)] for s in item.base.stores}
        own, vectors = assign_orders(both, kept, target.profile.vector)
        orders = {**own, **made.orders}
        caps, enabled = target.caps, made.enabled
        limits = caps.max_groups, orders, caps.local_bytes, enabled
        setting = Setting(target.profile, *limits, matrix=caps.matrix)
        kernels: Iterator[Scheduled] = (
            by_default(g, vector_of(g, vectors), setting, target, DEFAULT) for g in both
        )
        all_ = (*made.kernels[:number], *kernels, *made.kernels[number + 1 :])
        made = replace(made, kernels=all_, orders=orders)
    return made
