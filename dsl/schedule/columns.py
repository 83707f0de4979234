"""Contractions of few columns: a work-item takes all of them.

In: a contraction, a setting. Out: the axis of K along which neighbours of both factors arrive as
one load, where there are fewer columns than a vector has lanes; and, on targets where factors pass
through local memory, the group with its right factor as an inner group, and steps. Invariant: the
steps are legal; what a work-item reads of the left factor no other reads, so it stays in memory,
and all of a work-group read the same of the right one.

    for k.block { right[K' × N] to local memory; barrier
                  for k { results[rows × N] of every work-item += left * right } }
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from sdlc.graph.expr import Axis, Read, apply, axes_of, reads_of
from sdlc.graph.node import Input, Role
from sdlc.schedule.affine import affine
from sdlc.schedule.contraction import Contraction, contraction
from sdlc.schedule.draft import (
    Setting,
    bind_groups,
    flat_strides,
    share,
    vector_width,
    written_out,
)
from sdlc.schedule.group import Group
from sdlc.schedule.nest import Bind, Kind, Place, Reorder, Spread, Stage, Step, Tile, initial
from sdlc.schedule.operands import is_gather, operand, read_operand
from sdlc.schedule.staging import NestDraft
from sdlc.target import Profile

LEAST_ROWS = 64
"""Fewer rows than this are not worth a tile of their own kind."""


def gathered_axis(group: Group, profile: Profile) -> Axis | None:
    """The axis of K that a contraction of few columns wants innermost in both factors: vectors
    along a window's pixels would start anywhere."""
    form = contraction(group)
    if form is None or group.inner or form.fields > 1 or not form.n:
        return None
    if _columns(form) >= profile.scalar_columns:
        return None
    if prod(a.extent for a in form.m) < LEAST_ROWS:
        return None
    reads = reads_of(form.left, form.right)
    able = (a for a in form.k if a.extent % profile.gather == 0)
    found = (a for a in able if all(_may_lie_along(r, a) for r in reads if a in axes_of(r)))
    return max(found, key=lambda a: a.extent, default=None)


def stored_along(group: Group, setting: Setting) -> Axis | None:
    """The same, where both factors are stored so."""
    form, axis = contraction(group), gathered_axis(group, setting.profile)
    if form is None or axis is None:
        return None
    strides = (flat_strides(e, setting.orders).get(axis) for e in (form.left, form.right))
    return axis if all(s == 1 for s in strides) else None


def _columns(form: Contraction) -> int:
    return prod(a.extent for a in form.n)


def _may_lie_along(read: Read, axis: Axis) -> bool:
    """Whether what is read can be stored with neighbours along an axis side by side."""
    moving = [d for d, index in enumerate(read.indices) if axis in axes_of(index)]
    form = affine(read.indices[moving[0]]) if len(moving) == 1 else None
    if form is None or form[0][axis] != 1:
        return False
    given = isinstance(read.source, Input) and read.source.role is not Role.WEIGHT
    return not given or moving[0] == len(read.indices) - 1


def with_right(group: Group, lanes: Axis | None, setting: Setting) -> Group | str:
    """The contraction with its right factor as an inner group, or why that does not pay."""
    form, profile = contraction(group), setting.profile
    if form is None or group.inner or form.fields > 1:
        return "it is no contraction on its own"
    if not profile.slice or not profile.registers or profile.factor_slice:
        return "factors do not pass through local memory on the target"
    if prod(a.extent for a in form.m) < LEAST_ROWS:
        return f"it has fewer than {LEAST_ROWS} rows"
    along = stored_along(group, setting)
    if along is None and (lanes not in form.n or _columns(form) > profile.register_tile[1]):
        return "a work-item does not take all columns"
    if is_gather(form.right) or _depth(form, setting) < profile.gather:
        return "what is summed over has no slices that are long enough"
    last = lanes if along is None else along
    assert last is not None
    right = operand(group, "right", form.right, [*form.batch, *form.k, *form.n], last)
    lift = (apply("mul", form.left, read_operand(right)),)
    return replace(group, lift=lift, inner=(right,))


def _order(form: Contraction, setting: Setting) -> list[Axis]:
    """K from the outermost in the left factor's storage to the innermost."""
    strides = flat_strides(form.left, setting.orders)
    return sorted(form.k, key=lambda a: (-strides.get(a, 1 << 40), a.extent))


def _depth(form: Contraction, setting: Setting) -> int:
    """How much of K a slice takes: whole loads, one vector a work-item at most."""
    profile = setting.profile
    extent = _order(form, setting)[-1].extent
    most = profile.lanes * profile.vector // _columns(form)
    lanes = profile.gather
    return max(
        (d for d in range(lanes, min(most, extent) + 1, lanes) if extent % d == 0), default=0
    )


def right_steps(
    group: Group, form: Contraction, lanes: Axis | None, setting: Setting
) -> tuple[Step, ...]:
    """Copies of all columns and of some rows, the other rows over work-items; slices of K. `form`
    is the contraction's before its right factor became an inner group; `lanes`: the columns' axis
    that vectors run along, None where all are scalars."""
    profile = setting.profile
    draft = NestDraft(group, initial(group))
    for axis in form.n:
        width = vector_width(axis.extent, profile.vector) if axis == lanes else 1
        draft.tile(axis.name, width, Kind.VECTOR, "vec")
        draft.tile(axis.name, draft.nest.loop(axis.name).extent, Kind.UNROLL, "tile")
    _rows(draft, form, setting)
    left = {a: draft.nest.loop(a.name).extent for a in group.axes}
    draft.take(*bind_groups(group.axes, left, setting))
    *others, last = (a.name for a in _order(form, setting))
    draft.take(Reorder((*others, last)))
    inner, depth = f"{last}.in", _depth(form, setting)
    draft.take(Tile(last, depth, inner))
    draft.tile(inner, written_out(depth, profile), Kind.UNROLL, "unroll")
    draft.take(Stage("right", last, Place.LOCAL))
    stage = next(s for s in draft.nest.stages if s.value == "right")
    draft.take(Spread("right", vector_width(stage.region.extents[-1], profile.vector)))
    return tuple(draft.steps)


def _rows(draft: NestDraft, form: Contraction, setting: Setting) -> None:
    """A tile of rows as large as one of several columns that are fetched, with loops around; the
    rest side by side in work-items, the innermost first."""
    profile = setting.profile
    rows, lanes = max(1, prod(profile.register_tile) // 2 // _columns(form)), profile.lanes
    rows, dim = 1 << (rows.bit_length() - 1), 0
    for axis in reversed([a for a in draft.group.axes if a in form.m]):
        size = share(draft.nest.loop(axis.name).extent, rows)
        draft.tile(axis.name, size, Kind.UNROLL, "tile")
        rows //= size
        size = share(draft.nest.loop(axis.name).extent, lanes)
        if size > 1 and dim < 3:
            lane = f"{axis.name}.lane"
            draft.take(Tile(axis.name, size, lane), Bind(lane, Kind.LANE, dim))
            lanes, dim = lanes // size, dim + 1
