"""Rows whose elements are computed once, into local memory, for their statistics and themselves.

In: a map that holds what it and its statistics read (`combined.py`). Out: steps. Invariant: a
work-group has one row; its work-items lie along the same axes in the statistics and in the map, as
many as divide them, so that nothing beyond the row is held.

    local x[s, c] of row (b, g);  statistics over s, c by 8 × 64 work-items;  out[s, c] by the same
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

from sdlc.graph.expr import Axis, Expr, axes_of
from sdlc.schedule.affine import bare_axis
from sdlc.schedule.draft import Setting, bind_groups, vector_width
from sdlc.schedule.group import Group
from sdlc.schedule.nest import Bind, Kind, Place, Reorder, Spread, Stage, Step, Tile, initial
from sdlc.schedule.staging import NestDraft


@dataclass(frozen=True, slots=True)
class _Along:
    """A loop of the map and the statistics' axis that runs along the same elements, with the
    work-items that they share."""

    loop: str
    axis: Axis
    ways: int


def held_rows_steps(
    group: Group, stored: list[Axis], sizes: dict[Axis, int], setting: Setting
) -> tuple[Step, ...]:
    """Rows over work-groups; `sizes` are the axes along which rows lie and how much of each is one
    row, `stored` all axes from the outermost in storage."""
    *held, part = group.inner
    draft = NestDraft(group, initial(group))
    inside = {a: a.name for a in stored if a not in sizes}
    for axis, size in sizes.items():
        if size > 1:
            draft.tile(axis.name, size, Kind.SERIAL, "in")
            inside[axis] = f"{axis.name}.in"
    along = _along(group, held[-1], part, inside, draft, setting)
    for dim, found in enumerate(along):
        name = f"{found.loop}.lane"
        draft.take(Tile(found.loop, found.ways, name), Bind(name, Kind.LANE, dim))
    if inside:
        draft.take(Reorder(tuple(inside[a] for a in stored if a in inside)))
    left = {a: draft.nest.loop(a.name).extent for a in group.axes}
    draft.take(*bind_groups([a for a in stored if a in sizes], left, setting))
    draft.take(Stage(part.name, "", Place.PRIVATE))
    for dim, found in enumerate(along):
        name = f"{part.name}/{found.axis.name}"
        draft.take(Tile(name, found.ways, f"{name}.lane"), Bind(f"{name}.lane", Kind.LANE, dim))
    for value in reversed(held):
        draft.take(Stage(value.name, "", Place.LOCAL))
        extent = draft.nest.stages[0].region.extents[-1]
        draft.take(Spread(value.name, vector_width(extent, setting.profile.vector)))
    return tuple(draft.steps)


def _along(
    group: Group,
    value: Group,
    part: Group,
    inside: dict[Axis, str],
    draft: NestDraft,
    setting: Setting,
) -> list[_Along]:
    """Work-items along the axes of the held value, from the innermost, up to three."""
    node, left = value.stores[0].node, setting.profile.reduction_lanes
    own, theirs = (next(r.indices for r in g.reads if r.source is node) for g in (group, part))
    found: list[_Along] = []
    for index, other in reversed(list(zip(own, theirs, strict=True))):
        axis, over = bare_axis(index), _folded(other, part)
        if axis not in inside or over is None or len(found) == 3:
            continue
        loop = draft.nest.loop(inside[axis])
        ways = vector_width(gcd(loop.extent, over.extent), left)
        if ways > 1:
            found.append(_Along(loop.name, over, ways))
            left //= ways
    return found


def _folded(index: Expr, part: Group) -> Axis | None:
    """The one reduced axis that an index moves with."""
    found = axes_of(index) & {*part.over}
    return next(iter(found)) if len(found) == 1 else None
