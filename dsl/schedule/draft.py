"""What tactics build with: their setting, sizes of tiles, and drafts of steps.

In: extents and limits. Out: tile sizes and steps. Invariant: a draft's steps are legal in order:
each takes from an axis's outermost loop.

    divisor(12, 5) == 4        share(13, 8) == 8 (guarded)        vector_width(40, 16) == 8
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sdlc.graph.expr import Axis, Expr, reads_of
from sdlc.graph.mechanisms import PLACED, SCHEDULED
from sdlc.schedule.affine import affine
from sdlc.schedule.layout import Orders
from sdlc.schedule.nest import Bind, Kind, Reorder, Step, Tile
from sdlc.schedule.reasons import Journal
from sdlc.target import MatrixInstruction, Profile

EVERY = frozenset(rule.name for rule in (*SCHEDULED, *PLACED))
"""The names of all mechanisms."""

RESERVE = 18
"""Registers for buffers' addresses, work-items' numbers and what a compiler loads ahead."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a tactic may look at besides the group; `enabled` are the mechanisms that it may use."""

    profile: Profile
    max_groups: int
    orders: Orders
    local_bytes: int = 1 << 30
    enabled: frozenset[str] = EVERY
    journal: Journal = field(default_factory=Journal, compare=False)
    """Where a tactic says what it did not do, and why."""
    matrix: tuple[MatrixInstruction, ...] = ()

    @property
    def instruction(self) -> MatrixInstruction | None:
        """The matrix instruction that the profile names, where the target has it."""
        return next((i for i in self.matrix if i.name == self.profile.matrix), None)


@dataclass(slots=True)
class Draft:
    """Steps found so far; `left` is the extent of every axis's outermost loop."""

    left: dict[Axis, int]
    steps: list[Step] = field(default_factory=list)

    def take(self, axis: Axis, size: int, kind: Kind, label: str, dim: int = 0) -> None:
        """Moves `size` elements of the axis's outermost loop into a loop of this kind."""
        if size > 1:
            inner = f"{axis.name}.{label}"
            self.steps += [Tile(axis.name, size, inner), Bind(inner, kind, dim)]
            self.left[axis] = -(-self.left[axis] // size)

    def loop(self, axis: Axis, size: int, label: str) -> None:
        """Moves `size` elements into a serial loop."""
        if size > 1:
            self.steps.append(Tile(axis.name, size, f"{axis.name}.{label}"))
            self.left[axis] = -(-self.left[axis] // size)

    def bind_rest(self, axes: Iterable[Axis], setting: Setting) -> None:
        """Runs what is left over work-groups."""
        self.steps += bind_groups(axes, self.left, setting)

    def bind_in_turn(self, axes: Iterable[Axis], setting: Setting) -> None:
        """The same, in the order in which the loops are: elements are read once, so that nothing is
        gained by another."""
        self.steps += [s for s in bind_groups(axes, self.left, setting) if isinstance(s, Bind)]


def bind_groups(axes: Iterable[Axis], left: Mapping[Axis, int], setting: Setting) -> list[Step]:
    """Outermost loops of extents `left` over work-groups, from dimension 0 on. Where a work-group
    is one work-item, a core takes one after the other: the last axis is the fastest."""
    steps: list[Step] = []
    dim, size = 0, 1
    axes = list(axes)
    if axes and setting.profile.lanes == 1:
        steps.append(Reorder(tuple(a.name for a in axes)))
    for axis in reversed(axes):
        if size * left[axis] > setting.max_groups and size > 1 and dim < 2:
            dim, size = dim + 1, 1
        size *= left[axis]
        steps.append(Bind(axis.name, Kind.GROUP, dim))
    return steps


def divisor(extent: int, limit: int) -> int:
    """The largest divisor of an extent that is at most `limit`."""
    return next(d for d in range(min(extent, max(limit, 1)), 0, -1) if extent % d == 0)


def written_out(extent: int, profile: Profile) -> int:
    """How many steps of a reduced loop are written out: a divisor of its extent, of whole gathered
    loads where those divide it."""
    lanes, most = profile.gather, profile.unroll
    if extent % lanes or most < lanes:
        return divisor(extent, most)
    return lanes * divisor(extent // lanes, most // lanes)


def share(extent: int, limit: int) -> int:
    """A tile of at most `limit`: exact where that wastes little, else guarded."""
    exact = divisor(extent, limit)
    return exact if 2 * exact > limit or exact == extent else min(limit, extent)


def vector_width(extent: int, limit: int) -> int:
    """The widest power-of-two vector that divides an extent."""
    width = 1
    while width * 2 <= limit and extent % (width * 2) == 0:
        width *= 2
    return width


def flat_strides(expr: Expr, orders: Orders) -> dict[Axis, int]:
    """How far apart in storage neighbours along each axis are, in the first read that says so."""
    found: dict[Axis, int] = {}
    for read in reads_of(expr):
        order = orders.get((read.source, read.field))
        if order is None:
            continue
        stride = 1
        for d in reversed(order):
            form = affine(read.indices[d])
            for axis, factor in form[0].items() if form is not None else ():
                found.setdefault(axis, abs(factor) * stride)
            stride *= read.source.shape[d]
    return found
