"""Contractions with few rows: work-items share K, since there are too few results to go round.

In: a contraction, its vector axis, a setting. Out: steps, or None where there are rows enough.
Invariant: the steps are legal; lanes side by side read side by side, and the partial results of
those that share a result are combined through local memory.

    out[2, 1280] = sum over 1280: a work-group has 32 columns, 32 work-items share each
"""

from __future__ import annotations

from math import prod

from sdlc.graph.expr import Axis
from sdlc.schedule.contraction import Contraction
from sdlc.schedule.draft import (
    Setting,
    bind_groups,
    divisor,
    flat_strides,
    vector_width,
    written_out,
)
from sdlc.schedule.group import Group
from sdlc.schedule.nest import Bind, Kind, Reorder, Step, Tile, initial
from sdlc.schedule.staging import NestDraft

MOST_ROWS = 15
"""With more rows a register tile has enough to do."""

ACROSS = 8
"""Work-items side by side along the columns: a memory transaction's worth of vectors."""


def skinny_steps(
    group: Group, form: Contraction, lanes: Axis, setting: Setting
) -> tuple[Step, ...] | None:
    """The schedule, if few rows and a long K ask for it."""
    profile = setting.profile
    rows = prod(a.extent for a in form.m)
    longest = max(form.k, key=lambda a: a.extent, default=None)
    if longest is None or rows > MOST_ROWS or lanes in form.m or profile.reduction_lanes <= 1:
        return None
    if prod(a.extent for a in form.k) < profile.reduction_lanes:
        return None
    draft = NestDraft(group, initial(group))
    width = vector_width(lanes.extent, profile.vector)
    draft.tile(lanes.name, width, Kind.VECTOR, "vec")
    across = divisor(draft.nest.loop(lanes.name).extent, ACROSS)
    if across > 1:
        lane = f"{lanes.name}.lane"
        draft.take(Tile(lanes.name, across, lane), Bind(lane, Kind.LANE, 0))
    for axis in form.m:
        if axis.extent > 1:
            draft.tile(axis.name, axis.extent, Kind.UNROLL, "tile")
    ways = min(max(profile.reduction_lanes // max(across, 1), 1), longest.extent)
    ways = 1 << (ways.bit_length() - 1)
    if ways == 1:
        return None
    way = f"{longest.name}.way"
    draft.take(Tile(longest.name, ways, way), Bind(way, Kind.LANE, 1))
    unroll = written_out(draft.nest.loop(longest.name).extent, profile)
    draft.tile(longest.name, unroll, Kind.UNROLL, "unroll")
    strides = flat_strides(form.right, setting.orders)
    order = sorted(form.k, key=lambda a: -strides.get(a, 1 << 40))
    draft.take(Reorder(tuple(a.name for a in order)))
    left = {a: draft.nest.loop(a.name).extent for a in group.axes}
    draft.take(*bind_groups(group.axes, left, setting))
    return tuple(draft.steps)
