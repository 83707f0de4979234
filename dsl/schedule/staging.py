"""Tactics for groups that hold inner groups: what one work-item keeps to itself.

In: a group with inner groups, a `Setting`. Out: steps of a schedule. Invariant: the steps are
legal; every inner group is staged in the body of the loop over blocks (or outermost, where nothing
is reduced), as a register tile, a vector along a reduction, or a vector along a map.

    attention over blocks of keys:   unroll queries, vector values
      for block { stage scores (queries × keys); top; weight; sums (queries × values) }
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

from sdlc.graph.expr import Axis, axes_of
from sdlc.schedule.contraction import contraction
from sdlc.schedule.draft import Setting, bind_groups, divisor, vector_width, written_out
from sdlc.schedule.group import Group
from sdlc.schedule.nest import Bind, Kind, Nest, Place, Reorder, Stage, Step, Tile, initial
from sdlc.schedule.steps import apply

MOST_STATES = 96
"""At most this many vectors of state are written out for one work-item."""


@dataclass(slots=True)
class NestDraft:
    """Steps so far, and the nest that they make."""

    group: Group
    nest: Nest
    steps: list[Step] = field(default_factory=list)

    def take(self, *steps: Step) -> None:
        for step in steps:
            self.nest = apply(self.nest, step, self.group)
            self.steps.append(step)

    def tile(self, name: str, size: int, kind: Kind, label: str) -> None:
        """The innermost `size` iterations of a loop, bound to `kind`; the whole loop if it fits."""
        if size <= 1:
            return
        inner = f"{name}.{label}"
        self.take(Tile(name, size, inner))
        if kind is not Kind.SERIAL:
            self.take(Bind(inner, kind))


def private_steps(group: Group, setting: Setting) -> tuple[Step, ...]:
    """Everything within a work-item: inner groups in private arrays."""
    draft = NestDraft(group, initial(group))
    rows, wide = row_axes(group)
    width = _tile_wide(draft, wide, setting)
    _tile_rows(draft, rows, width, setting)
    share_out(draft, setting)
    at = group.over[-1].name if group.over else ""
    for part in reversed(group.inner):
        draft.take(Stage(part.name, at, Place.PRIVATE))
        _part_steps(draft, part, setting)
    return tuple(draft.steps)


def row_axes(group: Group) -> tuple[list[Axis], list[Axis]]:
    """The group's axes that every read of an inner group's result depends on, and the others."""
    found = [axes_of(*r.indices) for r in group.reads if (r.source, r.field) in group.held]
    used = frozenset(group.axes).intersection(*found)
    return [a for a in group.axes if a in used], [a for a in group.axes if a not in used]


def share_out(draft: NestDraft, setting: Setting) -> None:
    """What is left of the axes over work-groups; what is folded in the order of its axes."""
    group = draft.group
    left = {a: draft.nest.loop(a.name).extent for a in group.axes}
    draft.take(*bind_groups(group.axes, left, setting))
    if len(group.over) > 1:
        draft.take(Reorder(tuple(a.name for a in group.over)))


def columns_of(group: Group, wide: Sequence[Axis]) -> dict[str, frozenset[Axis]]:
    """For each inner group its axes along which it is read at the group's own elements of the axes
    `wide`, directly or by what other inner groups make of it. An axis of the same name and extent
    is not one by that: what is folded over it is needed whole."""
    found = {group.name: frozenset(wide)}
    for number, part in reversed(list(enumerate(group.inner))):
        pairs = (
            (place, found[reader.name] & axes_of(index))
            for store in part.stores
            for reader in group.parts[number + 1 :]
            for read in reader.reads
            if (read.source, read.field) == (store.node, store.field)
            for place, index in zip(store.indices, read.indices, strict=True)
        )
        found[part.name] = frozenset().union(*(axes_of(p) for p, moving in pairs if moving))
    return found


def _tile_wide(draft: NestDraft, wide: list[Axis], setting: Setting) -> int:
    """Vectors along the axes that the inner groups' results are shared over; how many."""
    if not wide:
        return 1
    axis = wide[-1]
    width = vector_width(axis.extent, setting.profile.vector)
    if width > 1:
        draft.tile(axis.name, width, Kind.VECTOR, "vec")
    count = divisor(draft.nest.loop(axis.name).extent, MOST_STATES // 4)
    draft.tile(axis.name, count, Kind.UNROLL, "tile")
    return max(count, 1)


def _tile_rows(draft: NestDraft, rows: list[Axis], width: int, setting: Setting) -> None:
    if not rows:
        return
    axis = max(rows[-2:], key=lambda a: a.extent)
    most = min(setting.profile.register_tile[0], max(1, MOST_STATES // width))
    size = divisor(axis.extent, most)
    draft.tile(axis.name, size, Kind.UNROLL, "tile")


def _part_steps(draft: NestDraft, part: Group, setting: Setting) -> None:
    stage = next(s for s in draft.nest.stages if s.value == part.name)
    extents = {a: e for a, e in zip(part.axes, stage.region.extents, strict=True) if e > 1}
    form = contraction(part)
    if form is not None and extents:
        _product_steps(draft, part, extents, setting)
    elif part.monoid is not None:
        _reduction_steps(draft, part, setting)
    elif extents:
        axis = list(extents)[-1]
        draft.tile(f"{part.name}/{axis.name}", covering(extents[axis], setting), Kind.VECTOR, "vec")


def covering(extent: int, setting: Setting) -> int:
    """A vector width for an extent that may be overrun: what is held has room for it."""
    width = vector_width(extent, setting.profile.vector)
    if width >= min(4, setting.profile.vector):
        return width
    return min(setting.profile.vector, 1 << (extent - 1).bit_length()) if extent > 1 else 1


def _product_steps(
    draft: NestDraft, part: Group, extents: dict[Axis, int], setting: Setting
) -> None:
    """A register tile: vectors along one axis, copies along it and along the rows."""
    form = contraction(part)
    assert form is not None
    profile = setting.profile
    columns = [a for a in extents if a in form.n] or list(extents)
    lanes = max(columns, key=lambda a: extents[a])
    width = covering(extents[lanes], setting)
    draft.tile(f"{part.name}/{lanes.name}", width, Kind.VECTOR, "vec")
    vectors = -(-extents[lanes] // width)
    most = max(1, profile.register_tile[0] * profile.register_tile[1] // profile.vector)
    rows = [a for a in extents if a != lanes]
    height = prod(extents[a] for a in rows)
    across = divisor(vectors, max(profile.register_tile[1] // width, most // max(height, 1), 1))
    draft.tile(f"{part.name}/{lanes.name}", across, Kind.UNROLL, "tile")
    left = max(1, most // across)
    for axis in reversed(rows):
        size = divisor(extents[axis], left)
        draft.tile(f"{part.name}/{axis.name}", size, Kind.UNROLL, "tile")
        left //= size
    inner = part.over[-1]
    unroll = written_out(inner.extent, profile)
    draft.tile(f"{part.name}/{inner.name}", unroll, Kind.UNROLL, "unroll")


def _reduction_steps(draft: NestDraft, part: Group, setting: Setting) -> None:
    axis = max(part.over, key=lambda a: a.extent)
    width = setting.profile.vector
    if axis.extent < 2 * width:
        width = vector_width(axis.extent, width)
    draft.tile(f"{part.name}/{axis.name}", width, Kind.VECTOR, "vec")
