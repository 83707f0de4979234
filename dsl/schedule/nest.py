"""The loop nest: *where* each axis of a group lives; and the steps that make it, as records.

In: a group. Out: a `Nest`, first that of its definition. Invariant: every axis's value is the sum
of its loops' indices times their strides; an axis whose loops cover more than its extent is
guarded. `steps.py` applies steps to it.

    str(initial(group))      for x < 32
                               for k < 9   (reduced)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from math import prod

from sdlc.graph.expr import Axis
from sdlc.schedule.group import Group
from sdlc.schedule.region import Region
from sdlc.target import MatrixInstruction


class Kind(Enum):
    """Where a loop runs: over work-groups, over the lanes of a group, in a loop, as copies of the
    code, or in the lanes of a vector register."""

    GROUP = "group"
    LANE = "lane"
    SERIAL = "for"
    UNROLL = "unroll"
    VECTOR = "vector"
    MATRIX = "matrix"
    """Within a matrix instruction."""


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


class Place(Enum):
    """Where a stage's values live: with each work-item, all that it reads; with the work-group; or
    with the work-items of a group, each of which computes what it reads (`distributed.py`)."""

    PRIVATE = "private"
    LOCAL = "local"
    DISTRIBUTED = "distributed"


@dataclass(frozen=True, slots=True)
class Stage:
    """Compute the inner group `value` in the body of loop `at` (of every work-item if empty), as
    far as readers need it there, and keep it in `place`; `pad` elements follow each row. Its loops
    are named `value/loop` in later steps. `shares` names the stage, computed later, that takes its
    place element by element.

    rewrite: for k { … a[i, k] … }  →  for k { for a/i, a/k { a' = … } barrier; … a'[i, k] … }
    """

    value: str
    at: str
    place: Place
    pad: int = 0
    shares: str = ""


@dataclass(frozen=True, slots=True)
class Spread:
    """Share a stage's elements out over all work-items, `width` consecutive ones at a time, of
    `deep` neighbours along the axis before the innermost one."""

    value: str
    width: int
    deep: int = 1


@dataclass(frozen=True, slots=True)
class SplitReduce:
    """Fold the reduced axis in `ways` parts over work-groups, and combine them in another kernel:
    one group becomes two (`sdlc.schedule.split`).

    rewrite: for i { for k < 4096 … } → for p < 8, i { for k < 512 … };  for i { for p < 8 … }
    """

    axis: str
    ways: int


@dataclass(frozen=True, slots=True)
class Matrix:
    """Compute a tile of a contraction by a matrix instruction: the loops `rows` (of M, together as
    many as it has), `columns` (of N) and `reduced` (of K), the last of each the fastest.

    rewrite: for m.in < 16 { for n.in < 8 { for k.in < 16 … } }
          →  lanes and copies of m.in and n.in, as the result is held { matrix k.in }
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    reduced: tuple[str, ...]
    instruction: MatrixInstruction


Step = Tile | Reorder | Bind | Stage | Spread | SplitReduce | Matrix


class Refused(Exception):
    """A step that is not legal here, with the reason, the nest as it was and what it computes."""

    def __init__(self, step: Step, reason: str, nest: Nest, group: Group | None = None) -> None:
        from sdlc.schedule.show import show_step

        super().__init__(f"{show_step(step)}: {reason}\n{nest}")
        self.step, self.reason, self.nest, self.group = step, reason, nest, group


@dataclass(frozen=True, slots=True)
class Staged:
    """A stage of a nest: what part of the value is held, and the loops that fill it. `spread` is
    the width of a `Spread`, or 0, and `deep` what it says."""

    value: str
    at: str
    place: Place
    region: Region
    nest: Nest
    pad: int = 0
    spread: int = 0
    shares: str = ""
    deep: int = 1


@dataclass(frozen=True, slots=True)
class Fragments:
    """What a matrix instruction computes of a nest: the loops of `Matrix` as they were, and the
    names of those that each of rows and columns became, by loop."""

    instruction: MatrixInstruction
    rows: tuple[Loop, ...]
    columns: tuple[Loop, ...]
    reduced: tuple[Loop, ...]
    made: tuple[tuple[str, tuple[str, ...]], ...]

    def in_order(self, loops: Sequence[Loop]) -> list[Loop]:
        """Those that rows and columns became: lanes, then copies, each in their order."""
        names = {name for _, made in self.made for name in made}
        return sorted((lp for lp in loops if lp.name in names), key=lambda lp: lp.kind.value)


@dataclass(frozen=True, slots=True)
class Nest:
    """The loops from the outermost to the innermost; `reduced` are the reduced axes; `stages` are
    in the order in which they are computed."""

    loops: tuple[Loop, ...]
    reduced: frozenset[Axis]
    stages: tuple[Staged, ...] = ()
    matrix: Fragments | None = None

    def loop(self, name: str) -> Loop:
        return next(lp for lp in self.loops if lp.name == name)

    def of_axis(self, axis: Axis) -> tuple[Loop, ...]:
        return tuple(lp for lp in self.loops if lp.axis == axis)

    def is_exact(self, axis: Axis) -> bool:
        """Whether the axis's loops never run past its extent."""
        return self.covered(axis) <= axis.extent

    def covered(self, axis: Axis) -> int:
        """How many indices the axis's loops run over."""
        return 1 + sum((lp.extent - 1) * lp.stride for lp in self.of_axis(axis))

    @property
    def vector_axes(self) -> tuple[Axis, ...]:
        return tuple(lp.axis for lp in self.loops if lp.kind is Kind.VECTOR)

    def is_reduced(self, loop: Loop) -> bool:
        return loop.axis in self.reduced

    @property
    def multiplies(self) -> bool:
        """Whether it or a stage of it is computed by a matrix instruction."""
        return self.matrix is not None or any(s.nest.multiplies for s in self.stages)

    @property
    def subgroup(self) -> int:
        """Work-items of a matrix instruction, all those along dimension 0; 0 where it has none."""
        own = [self.matrix.instruction.lanes] if self.matrix is not None else []
        return max((*own, *(s.nest.subgroup for s in self.stages)), default=0)

    def size(self, kind: Kind, dim: int) -> int:
        """The product of the extents bound to one dimension of work-groups or lanes."""
        return prod(lp.extent for lp in self.loops if lp.kind is kind and lp.dim == dim)

    def __str__(self) -> str:
        from sdlc.schedule.show import show_nest

        return show_nest(self)


def initial(group: Group) -> Nest:
    """The definition itself: a loop an axis, output axes outside reduced ones."""
    loops = tuple(Loop(a.name, a, a.extent, 1) for a in (*group.axes, *group.over))
    return Nest(loops, frozenset(group.over))
