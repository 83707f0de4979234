"""Rows that lie side by side in storage: vector lanes run along the elements of several of them.

In: a map that holds the statistics of its rows, storage orders. Out: the same map, in which each
column of neighbouring rows is folded by itself and a row's columns are combined; steps. Invariant:
the value is the same up to the order of the fold: a monoid is associative and commutative.

    stats[g] = fold over d < 3, s < 4096 of x[g * 3 + d, s]       x is stored channels-last
    columns[p, c] = fold over s < 512 of x[c, p * 512 + s]        vectors of channels c
    stats[g] = fold over p < 8, d < 3 of columns[p, g * 3 + d]
"""

from __future__ import annotations

from dataclasses import replace
from math import lcm, prod

from sdlc.graph.expr import Axis, Expr, Index, Read, apply, axes_of, i32, rebuild
from sdlc.graph.node import Reduce
from sdlc.graph.types import DType
from sdlc.schedule.affine import affine
from sdlc.schedule.draft import Setting, bind_groups, divisor, flat_strides
from sdlc.schedule.group import Group, Output, slot
from sdlc.schedule.nest import Kind, Place, Reorder, Stage, Step, initial
from sdlc.schedule.rows import rows_of
from sdlc.schedule.split import parts_of, statistics_of
from sdlc.schedule.staging import NestDraft

MOST_FOLDED = 8192
"""Elements that one lane folds one after the other: rounding of a running mean grows with their
root."""

MOST_COPIES = 5
"""Vectors of columns that are folded side by side, each with its whole state in registers."""


def with_columns(group: Group, setting: Setting) -> Group | str:
    """The map with the fold of each column of its rows as one more inner group, or why not."""
    part = statistics_of(group)
    if part is None or part.inner or part.monoid is None:
        return "it holds more than the statistics of its rows"
    if setting.profile.reduction_lanes > 1 or setting.profile.vector == 1:
        return "work-items share a row (profile.reduction_lanes)"
    if any(f.dtype is DType.BOOL for f in part.monoid.fields):
        return "a state that holds a bool is not held"
    joined = _joined(part, setting)
    if joined is None:
        return "neighbours in storage are not elements of neighbouring rows"
    columns = _columns(part, *joined)
    if columns is None:
        return "its rows are read in several ways"
    along = _along(group, part, joined[0])
    if along is None or along.extent % _wide(joined[1], setting):
        return "whole rows do not fill vectors"
    return replace(group, inner=(columns, _combined(part, columns, *joined)))


def _joined(part: Group, setting: Setting) -> tuple[Axis, Axis] | None:
    """The axis of rows and the reduced axis that together are innermost in what is folded."""
    strides = _strides(part, setting)
    for row in part.axes:
        for own in part.over:
            near = strides.get(own) == 1 and strides.get(row) == own.extent
            if near and len(part.over) > 1 and own.extent < setting.profile.vector * 4:
                return row, own
    return None


def _columns(part: Group, row: Axis, own: Axis) -> Group | None:
    """The fold of every column over all but `own`, in parts of a bounded length."""
    assert part.monoid is not None
    column = Axis(f"{row.name}.{own.name}", row.extent * own.extent)

    def change(e: Expr) -> Expr | None:
        form = affine(e) if e.dtype is DType.I32 else None
        both = form is not None and form == ({row: own.extent, own: 1}, 0)
        return Index(column) if both else None

    lift = tuple(rebuild(e, change) for e in part.lift)
    if not axes_of(*lift).isdisjoint((row, own)):
        return None
    axes = tuple(column if a == row else a for a in part.axes)
    over = tuple(a for a in part.over if a != own)
    name = f"{part.name}_columns"
    origin = replace(part.origins[0], name=name)
    fields = part.monoid.fields
    dtypes = tuple(f.dtype for f in fields)
    node = Reduce(axes, over, part.monoid, lift, dtypes, origin, part.wide)
    here = tuple(Index(a) for a in axes)
    stores = tuple(Output(node, f, here, slot(part.monoid, f)) for f in range(len(fields)))
    whole = replace(part, name=name, axes=axes, over=over, lift=lift, stores=stores)
    longest = max(over, key=lambda a: a.extent)
    least = -(-prod(a.extent for a in over) // MOST_FOLDED)
    ways = next((n for n in range(least, longest.extent) if longest.extent % n == 0), 1)
    return parts_of(whole, longest, ways, longest.extent // ways) if ways > 1 else whole


def _combined(part: Group, columns: Group, row: Axis, own: Axis) -> Group:
    """The fold of a row's columns, with the stores of the whole."""
    node = columns.stores[0].node
    place = apply("add", apply("mul", Index(row), i32(own.extent)), Index(own))
    here = tuple(
        Index(a) if a in (*part.axes, *_extra(part, columns)) else place for a in columns.axes
    )
    lift = tuple(Read(node, here, s.field) for s in columns.stores)
    return replace(part, over=(*_extra(part, columns), own), lift=lift)


def _extra(part: Group, columns: Group) -> tuple[Axis, ...]:
    """The axis of a column's parts, where it has some."""
    return columns.axes[: len(columns.axes) - len(part.axes)]


def _along(group: Group, part: Group, row: Axis) -> Axis | None:
    """The axis of the map that runs along the elements of neighbouring rows."""
    store = part.stores[0]
    sizes = rows_of(group, store.node)
    if sizes is None:
        return None
    found = dict(zip(store.indices, sizes, strict=True))
    return found.get(Index(row))


def _wide(own: Axis, setting: Setting) -> int:
    """Elements of the fewest neighbouring rows that fill vectors."""
    return lcm(own.extent, setting.profile.vector)


def column_steps(group: Group, stored: list[Axis], setting: Setting) -> tuple[Step, ...]:
    """The schedule of a map that `with_columns` gave: the fewest rows that fill vectors are a
    work-group's, and vectors run along their elements."""
    columns, rows = group.inner
    own, vector = rows.over[-1], setting.profile.vector
    row = next(a for a in rows.axes if a not in columns.axes)
    along, sizes = _along(group, rows, row), rows_of(group, rows.stores[0].node)
    assert along is not None and sizes is not None
    draft = NestDraft(group, initial(group))
    draft.tile(along.name, _wide(own, setting), Kind.SERIAL, "in")
    _vectors(draft, f"{along.name}.in", vector)
    inside = tuple(a.name for a in stored if a not in sizes)
    if inside:
        draft.take(Reorder(inside))
    left = {a: draft.nest.loop(a.name).extent for a in group.axes}
    draft.take(*bind_groups([a for a in stored if a in sizes], left, setting))
    draft.take(Stage(rows.name, "", Place.PRIVATE), Stage(columns.name, "", Place.PRIVATE))
    column = next(a for a in columns.axes if a not in rows.axes and a not in rows.over)
    _vectors(draft, f"{columns.name}/{column.name}", vector)
    strides = _strides(columns, setting)
    order = sorted(columns.over, key=lambda a: (-strides.get(a, 1 << 40), a.extent))
    draft.take(Reorder(tuple(f"{columns.name}/{a.name}" for a in order)))
    return tuple(draft.steps)


def _vectors(draft: NestDraft, name: str, vector: int) -> None:
    """Vectors along a loop, some of them side by side."""
    draft.tile(name, vector, Kind.VECTOR, "vec")
    extent = draft.nest.loop(name).extent if "/" not in name else _staged(draft, name)
    draft.tile(name, divisor(extent, MOST_COPIES), Kind.UNROLL, "copy")


def _staged(draft: NestDraft, name: str) -> int:
    value, _, own = name.rpartition("/")
    stage = next(s for s in draft.nest.stages if s.value == value)
    return stage.nest.loop(own).extent


def _strides(part: Group, setting: Setting) -> dict[Axis, int]:
    """How far apart in storage neighbours along each axis of what is folded are."""
    found = (flat_strides(lift, setting.orders) for lift in part.lift)
    return next((strides for strides in found if strides), {})
