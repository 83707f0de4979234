"""Steps of a schedule, applied to a loop nest.

In: a nest, or a group, and steps. Out: a `Nest`. Invariant: a step is legal, or refused with the
reason and the current nest; the same steps make the same nest.

    before           Tile("x", 4, "x.in"), Bind("x", GROUP), Bind("x.in", UNROLL)      after
    for x < 32                                                                 group x < 8 (×4)
      for k < 9   (reduced)                                                      for k < 9 (reduced)
                                                                                   unroll x.in < 4
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sdlc.schedule.group import Group
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
from sdlc.schedule.region import Unknown, region_of
from sdlc.schedule.sharing import unshared


def schedule(group: Group, steps: tuple[Step, ...]) -> Nest:
    """The nest that the steps make of a group's definition, in one legal order of loops.

    Raises `Refused` for an illegal step or if the nest that results cannot be lowered.
    """
    nest = initial(group)
    for step in steps:
        nest = apply(nest, step, group)
    return complete(nest, group)


def complete(nest: Nest, group: Group) -> Nest:
    """The nest settled, with every inner group that has no stage yet staged where it is needed: in
    the innermost loop of each work-item. Raises `Refused` where that cannot be."""
    from sdlc.schedule.distributed import unheld

    serial = [lp.name for lp in settled(nest).loops if lp.kind is Kind.SERIAL]
    at = serial[-1] if serial else ""
    for part in reversed(group.inner):
        if all(stage.value != part.name for stage in nest.stages):
            nest = apply(nest, Stage(part.name, at, Place.PRIVATE), group)
    for stage in nest.stages:
        _check_lanes(nest, stage)
        reason = unheld(group, nest, stage) or unshared(group, nest, stage)
        if reason:
            step = Stage(stage.value, stage.at, stage.place, stage.pad, stage.shares)
            raise Refused(step, reason, nest, group)
    return settled(nest)


def _check_lanes(nest: Nest, stage: Staged) -> None:
    """Work-items of a stage are the kernel's: no more of them, and all of them where they share a
    reduction."""
    for loop in stage.nest.loops:
        if loop.kind is Kind.LANE:
            own, all_ = stage.nest.size(Kind.LANE, loop.dim), nest.size(Kind.LANE, loop.dim)
            if own > all_ or (own < all_ and stage.nest.is_reduced(loop)):
                step = Bind(f"{stage.value}/{loop.name}", Kind.LANE, loop.dim)
                raise Refused(step, f"the kernel has {all_} work-items there, not {own}", nest)


def apply(nest: Nest, step: Step, group: Group | None = None) -> Nest:
    """One step; raises `Refused`. `group` is what the nest computes: stages need it."""

    def refuse(reason: str) -> Refused:
        return Refused(step, reason, nest, group)

    match step:
        case Stage():
            return _stage(nest, step, group, refuse)
        case Spread():
            return _spread(nest, step, refuse)
        case Matrix():
            from sdlc.schedule.matrix import as_matrix

            return as_matrix(nest, step, group, refuse)
        case SplitReduce():
            raise refuse("it makes two kernels of one, and is taken before there is a nest")
    named = step.names if isinstance(step, Reorder) else (step.name,)
    value = named[0].rpartition("/")[0] if named else ""
    if value:
        return _inside(nest, step, value, refuse)
    return _apply_here(nest, step, refuse)


def _stage(nest: Nest, step: Stage, group: Group | None, refuse: Callable[[str], Refused]) -> Nest:
    inner = {g.name: g for g in group.inner} if group is not None else {}
    if group is None or step.value not in inner:
        raise refuse(f"there is no inner group `{step.value}`")
    if any(s.value == step.value for s in nest.stages):
        raise refuse("it is staged already")
    if step.at and step.at not in [lp.name for lp in nest.loops if lp.kind is Kind.SERIAL]:
        raise refuse(f"there is no serial loop `{step.at}`")
    ordered = settled(nest)
    reader = _outer_reader(ordered, step, group)
    if reader:
        raise refuse(f"`{reader}` reads it outside of that loop")
    inside = (Kind.UNROLL, Kind.VECTOR, Kind.MATRIX)
    varying = (*inside, *((Kind.LANE,) if step.place is not Place.PRIVATE else ()))
    serial = [lp.name for lp in ordered.loops if lp.kind is Kind.SERIAL]
    outside = set(serial[: serial.index(step.at) + 1]) if step.at else set()
    fixed = {
        lp.name
        for lp in ordered.loops
        if lp.kind not in varying and (lp.kind is not Kind.SERIAL or lp.name in outside)
    }
    try:
        private = step.place is Place.PRIVATE
        region = region_of(group, ordered, step.value, frozenset(fixed), strided=private)
    except Unknown as problem:
        raise refuse(str(problem)) from problem
    part = inner[step.value]
    held = zip(part.axes, region.extents, region.steps, strict=True)
    own = [Loop(a.name, a, extent, apart) for a, extent, apart in held]
    loops = (*own, *(Loop(a.name, a, a.extent, 1) for a in part.over))
    made = Nest(loops, frozenset(part.over))
    # Readers are staged before what they read; values are computed in the opposite order.
    staged = Staged(step.value, step.at, step.place, region, made, step.pad, shares=step.shares)
    return replace(nest, stages=(staged, *nest.stages))


def _outer_reader(nest: Nest, step: Stage, group: Group) -> str:
    """A stage that reads the value and stands outside of the loop where it would be computed."""
    part = next(g for g in group.inner if g.name == step.value)
    wanted = {(s.node, s.field) for s in part.stores}
    serial = [lp.name for lp in nest.loops if lp.kind is Kind.SERIAL]
    depth = {name: n for n, name in enumerate(("", *serial))}
    readers = {g.name for g in group.inner if wanted & {(r.source, r.field) for r in g.reads}}
    for stage in nest.stages:
        if stage.value in readers and depth[stage.at] < depth[step.at]:
            return stage.value
    return ""


def _spread(nest: Nest, step: Spread, refuse: Callable[[str], Refused]) -> Nest:
    found = [s for s in nest.stages if s.value == step.value]
    if not found:
        raise refuse("it is not staged")
    if found[0].place is not Place.LOCAL or found[0].nest.reduced:
        raise refuse("only a map in local memory can be spread over work-items")
    if found[0].region.extents[-1] % step.width:
        raise refuse("the width does not divide the innermost extent")
    if (1, *found[0].region.extents)[-2] % step.deep:
        raise refuse("the depth does not divide the extent before the innermost one")
    if any(lp.kind is not Kind.SERIAL for lp in found[0].nest.loops):
        raise refuse("its loops are bound already")
    made = replace(found[0], spread=step.width, deep=step.deep)
    return replace(nest, stages=tuple(made if s is found[0] else s for s in nest.stages))


def _inside(nest: Nest, step: Step, value: str, refuse: Callable[[str], Refused]) -> Nest:
    """A step on the loops of a stage."""
    found = [s for s in nest.stages if s.value == value]
    if not found:
        raise refuse(f"there is no stage `{value}`")
    if found[0].spread:
        raise refuse("a stage that is spread over work-items has no loops of its own")
    start = len(value) + 1
    match step:
        case Reorder():
            own: Step = Reorder(tuple(n[start:] for n in step.names))
        case Tile():
            own = replace(step, name=step.name[start:], inner=step.inner.removeprefix(f"{value}/"))
            loop = next((lp for lp in found[0].nest.loops if lp.name == own.name), None)
            late = nest.stages[0].value != value
            if loop is not None and late and step.size > 0 and loop.extent % step.size:
                raise refuse("what it reads is staged already, without the overhang of this tile")
        case Bind():
            if step.kind is Kind.GROUP:
                raise refuse("work-groups are the whole kernel's")
            own = replace(step, name=step.name[start:])
            loops = (lp for lp in found[0].nest.loops if lp.name == own.name)
            over = any(found[0].nest.is_reduced(lp) for lp in loops)
            if step.kind is Kind.LANE and found[0].place is Place.PRIVATE and not over:
                raise refuse("a work-item computes all that it holds for itself")
        case _:
            raise refuse("a stage has no stages")
    made = replace(found[0], nest=apply(found[0].nest, own))
    return replace(nest, stages=tuple(made if s is found[0] else s for s in nest.stages))


def _apply_here(nest: Nest, step: Tile | Reorder | Bind, refuse: Callable[[str], Refused]) -> Nest:
    names = [lp.name for lp in nest.loops]
    if isinstance(step, Reorder) and not step.names:
        raise refuse("there is nothing to reorder")
    for name in step.names if isinstance(step, Reorder) else (step.name,):
        if name not in names:
            raise refuse(f"there is no loop `{name}`")
    match step:
        case Tile():
            return _tile(nest, step, refuse)
        case Reorder():
            return _reorder(nest, step, refuse)
        case Bind():
            return _bind(nest, step, refuse)


def _tile(nest: Nest, step: Tile, refuse: Callable[[str], Refused]) -> Nest:
    loop = nest.loop(step.name)
    if loop.kind is not Kind.SERIAL:
        raise refuse("only a serial loop can be tiled")
    if step.size < 1:
        raise refuse("a tile has at least one element")
    if loop.extent % step.size and loop.name != loop.axis.name:
        raise refuse("an inner tile that does not divide would run into its neighbour's elements")
    if any(lp.name == step.inner for lp in nest.loops):
        raise refuse(f"there is a loop `{step.inner}` already")
    outer = replace(loop, extent=-(-loop.extent // step.size), stride=loop.stride * step.size)
    inner = replace(loop, name=step.inner, extent=step.size)
    at = nest.loops.index(loop)
    return replace(nest, loops=(*nest.loops[:at], outer, inner, *nest.loops[at + 1 :]))


def _reorder(nest: Nest, step: Reorder, refuse: Callable[[str], Refused]) -> Nest:
    places = sorted(i for i, lp in enumerate(nest.loops) if lp.name in step.names)
    loops = list(nest.loops)
    for place, name in zip(places, step.names, strict=True):
        loops[place] = nest.loop(name)
    of = nest.matrix
    if of is not None and of.in_order(loops) != of.in_order(nest.loops):
        raise refuse("a matrix instruction says in which order its elements are held")
    return replace(nest, loops=tuple(loops))


def _bind(nest: Nest, step: Bind, refuse: Callable[[str], Refused]) -> Nest:
    loop = nest.loop(step.name)
    reduced = nest.is_reduced(loop)
    if loop.kind is not Kind.SERIAL:
        raise refuse("the loop is bound already")
    if reduced and step.kind is Kind.GROUP:
        raise refuse("work-groups cannot share a reduction without a second kernel")
    if step.kind is Kind.VECTOR:
        if nest.matrix is not None or any(lp.kind is Kind.VECTOR for lp in nest.loops):
            raise refuse("the nest has a vector loop already, or a matrix instruction")
        if loop.stride != 1:
            raise refuse("a vector runs along consecutive elements of its axis")
        if loop.extent not in (2, 4, 8, 16):
            raise refuse("a vector has 2, 4, 8 or 16 lanes")
    if step.kind is Kind.LANE and step.dim == 0 and nest.matrix is not None:
        raise refuse("dimension 0 of the lanes is the sub-group")
    if step.kind is Kind.MATRIX:
        raise refuse("the loops of a matrix instruction are bound together")
    made = replace(loop, kind=step.kind, dim=step.dim)
    return replace(nest, loops=tuple(made if lp is loop else lp for lp in nest.loops))


def _rank(nest: Nest, loop: Loop) -> int:
    """The zone of a loop: groups, lanes, output loops, reduced loops, register tile."""
    match loop.kind:
        case Kind.GROUP:
            return 0
        case Kind.LANE:
            return 1
        case Kind.SERIAL:
            return 3 if nest.is_reduced(loop) else 2
        case Kind.UNROLL:
            return 4 if nest.is_reduced(loop) else 5
        case Kind.VECTOR:
            return 6
        case Kind.MATRIX:
            return 7


def settled(nest: Nest) -> Nest:
    """The nest with its loops in the zones that lowering gives them; order within a zone stays.

    Moving output loops outside reduced ones, and unrolled ones inside, is always legal: monoids are
    associative and commutative, and points of output axes do not depend on one another.
    """
    stages = tuple(replace(s, nest=settled(s.nest)) for s in nest.stages)
    return replace(
        nest, loops=tuple(sorted(nest.loops, key=lambda lp: _rank(nest, lp))), stages=stages
    )
