"""The loop nest: *where* each axis of a group lives, made by replayable steps.

In: a group and steps. Out: a `Nest`. Invariant: every axis's value is the sum of its loops' indices
times their strides; an axis whose loops cover more than its extent is guarded. A step is legal, or
refused with the reason and the current nest.

    before           Tile("x", 4, "x.in"), Bind("x", GROUP), Bind("x.in", UNROLL)      after
    for x < 32                                                                 group x < 8 (×4)
      for k < 9   (reduced)                                                      for k < 9 (reduced)
                                                                                   unroll x.in < 4
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from math import prod

from sdlc.graph.expr import Axis
from sdlc.schedule.group import Group


class Kind(Enum):
    """Where a loop runs: over work-groups, over the lanes of a group, in a loop, as copies of the
    code, or in the lanes of a vector register."""

    GROUP = "group"
    LANE = "lane"
    SERIAL = "for"
    UNROLL = "unroll"
    VECTOR = "vector"


@dataclass(frozen=True, slots=True)
class Loop:
    """`extent` iterations that each move `axis` by `stride`; `dim` is that of a GROUP or LANE."""

    name: str
    axis: Axis
    extent: int
    stride: int
    kind: Kind = Kind.SERIAL
    dim: int = 0


@dataclass(frozen=True, slots=True)
class Tile:
    """Split a loop: `name` runs over tiles of `size`, `inner` within one, directly inside it.

    rewrite: for x < n  →  for x < ceil(n / size), for x.in < size     (guarded where inexact)
    """

    name: str
    size: int
    inner: str


@dataclass(frozen=True, slots=True)
class Reorder:
    """Put the named loops, in this order, in the places that they hold together."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Bind:
    """Run a loop over work-groups or lanes (dimension `dim`), as copies, or as a vector."""

    name: str
    kind: Kind
    dim: int = 0


Step = Tile | Reorder | Bind


class Refused(Exception):
    """A step that is not legal here, with the reason and the nest as it was."""

    def __init__(self, step: Step, reason: str, nest: Nest) -> None:
        super().__init__(f"{step}: {reason}\n{nest}")
        self.step, self.reason, self.nest = step, reason, nest


@dataclass(frozen=True, slots=True)
class Nest:
    """The loops from the outermost to the innermost; `reduced` are the reduced axes."""

    loops: tuple[Loop, ...]
    reduced: frozenset[Axis]

    def loop(self, name: str) -> Loop:
        return next(lp for lp in self.loops if lp.name == name)

    def of_axis(self, axis: Axis) -> tuple[Loop, ...]:
        return tuple(lp for lp in self.loops if lp.axis == axis)

    def is_exact(self, axis: Axis) -> bool:
        """Whether the axis's loops never run past its extent."""
        return 1 + sum((lp.extent - 1) * lp.stride for lp in self.of_axis(axis)) <= axis.extent

    def is_reduced(self, loop: Loop) -> bool:
        return loop.axis in self.reduced

    def size(self, kind: Kind, dim: int) -> int:
        """The product of the extents bound to one dimension of work-groups or lanes."""
        return prod(lp.extent for lp in self.loops if lp.kind is kind and lp.dim == dim)

    def __str__(self) -> str:
        lines = []
        for depth, lp in enumerate(self.loops):
            place = (
                f"{lp.kind.value}{lp.dim}" if lp.kind in (Kind.GROUP, Kind.LANE) else lp.kind.value
            )
            marks = ["reduced"] if self.is_reduced(lp) else []
            marks += [] if self.is_exact(lp.axis) else ["guarded"]
            stride = f" step {lp.stride}" if lp.stride != 1 else ""
            note = f"  ({', '.join(marks)})" if marks else ""
            lines.append(f"{'  ' * depth}{place} {lp.name} < {lp.extent}{stride}{note}")
        return "\n".join(lines)


def initial(group: Group) -> Nest:
    """The definition itself: a loop an axis, output axes outside reduced ones."""
    loops = tuple(Loop(a.name, a, a.extent, 1) for a in (*group.axes, *group.over))
    return Nest(loops, frozenset(group.over))


def schedule(group: Group, steps: tuple[Step, ...]) -> Nest:
    """The nest that the steps make of a group's definition, in one legal order of loops.

    Raises `Refused` for an illegal step or if the nest that results cannot be lowered.
    """
    nest = initial(group)
    for step in steps:
        nest = apply(nest, step)
    return settled(nest)


def apply(nest: Nest, step: Step) -> Nest:
    """One step; raises `Refused`."""
    names = [lp.name for lp in nest.loops]

    def refuse(reason: str) -> Refused:
        return Refused(step, reason, nest)

    for name in step.names if isinstance(step, Reorder) else (step.name,):
        if name not in names:
            raise refuse(f"there is no loop `{name}`")
    match step:
        case Tile():
            return _tile(nest, step, refuse)
        case Reorder():
            return _reorder(nest, step)
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


def _reorder(nest: Nest, step: Reorder) -> Nest:
    places = sorted(i for i, lp in enumerate(nest.loops) if lp.name in step.names)
    loops = list(nest.loops)
    for place, name in zip(places, step.names, strict=True):
        loops[place] = nest.loop(name)
    return replace(nest, loops=tuple(loops))


def _bind(nest: Nest, step: Bind, refuse: Callable[[str], Refused]) -> Nest:
    loop = nest.loop(step.name)
    reduced = nest.is_reduced(loop)
    if loop.kind is not Kind.SERIAL:
        raise refuse("the loop is bound already")
    if reduced and step.kind is Kind.GROUP:
        raise refuse("work-groups cannot share a reduction without a second kernel")
    if step.kind is Kind.LANE and reduced and loop.extent & (loop.extent - 1):
        raise refuse("lanes that share a reduction must be a power of two")
    if step.kind is Kind.VECTOR:
        if any(lp.kind is Kind.VECTOR for lp in nest.loops):
            raise refuse("the nest has a vector loop already")
        if loop.stride != 1:
            raise refuse("a vector runs along consecutive elements of its axis")
        if loop.extent not in (2, 4, 8, 16):
            raise refuse("a vector has 2, 4, 8 or 16 lanes")
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


def settled(nest: Nest) -> Nest:
    """The nest with its loops in the zones that lowering gives them; order within a zone stays.

    Moving output loops outside reduced ones, and unrolled ones inside, is always legal: monoids are
    associative and commutative, and points of output axes do not depend on one another.
    """
    return replace(nest, loops=tuple(sorted(nest.loops, key=lambda lp: _rank(nest, lp))))
