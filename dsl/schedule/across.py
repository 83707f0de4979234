"""Tactics for folded states: vector lanes along the rows of a state.

In: a group over blocks with inner groups, a `Setting`. Out: the same group with what it reads row
by row held by its work-items, and steps. Invariant: the steps are legal; a work-item has some
vectors of rows (queries) and all columns (values); nothing is folded over the lanes of a vector, so
columns need not fill one.

    attention over blocks of keys:   vector rows, unroll values
      stage queries (columns × rows)
      for block { stage scores (keys × rows); top; weight; sums (values × rows) }
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from sdlc.graph.expr import Axis, Expr, Index, apply, axes_of, reads_of
from sdlc.graph.node import Node
from sdlc.schedule.contraction import contraction
from sdlc.schedule.draft import Setting, divisor
from sdlc.schedule.group import Group
from sdlc.schedule.nest import Bind, Kind, Place, Stage, Step, Tile, initial
from sdlc.schedule.operands import operand, read_operand
from sdlc.schedule.rescale import rescaled
from sdlc.schedule.staging import NestDraft, row_axes, share_out

MOST_COLUMNS = 160
"""Columns that are written out for one work-item: their state is in the first cache, and more code
takes a driver seconds. Of more, each work-item has a part, and folds the rows for itself."""

MANY_BLOCKS, MOST_VECTORS = 32, 4
"""From this many blocks on they do not stay in the first caches: several vectors of rows share
them. Measured with heads of 40 over 4096 keys: four vectors take 7 % less time than one."""

LEAST_GROUPS = 256
"""Work-groups that are left, so that every core has many."""


def is_folded(group: Group) -> bool:
    """Whether a group folds a rescaled state over blocks."""
    monoid = group.monoid
    return bool(group.inner) and monoid is not None and rescaled(monoid) is not None


def with_rows(group: Group, setting: Setting) -> Group | str:
    """The folded state with the factors that it reads row by row as inner groups of their own, or
    why its rows cannot be lanes of a vector."""
    row, vector = _row(group), setting.profile.vector
    if setting.profile.reduction_lanes > 1:
        return "work-items share the folds of a work-group (profile.reduction_lanes)"
    if row is None or not 1 < vector <= row.extent:
        return f"no {vector} rows to fill a vector"
    places = row_of_parts(group, row)
    if places is None:
        return "an inner group is read elsewhere than at its row"
    held = group.held
    made: list[Group] = []
    for part in group.inner:
        copies, changed = _held_factors(part, places[part.name], held)
        made += [*copies, changed]
    return replace(group, inner=tuple(made))


def _row(group: Group) -> Axis | None:
    """The axis of rows that is tiled."""
    rows, _ = row_axes(group)
    return max(rows[-2:], key=lambda a: a.extent) if rows else None


def row_of_parts(group: Group, row: Axis) -> dict[str, Axis | None] | None:
    """For every inner group the axis that is the group's `row`, or None where it has none; None
    where some reader's index is more than that axis."""
    found: dict[str, Axis | None] = {"": row}
    stored = {(s.node, s.field): p for p in group.inner for s in p.stores}
    for reader in reversed(group.parts):
        own = found.setdefault("" if reader is group else reader.name, None)
        for read in reader.reads:
            part = stored.get((read.source, read.field))
            if part is None or own is None:
                continue
            places = [n for n, i in enumerate(read.indices) if own in axes_of(i)]
            if not places:
                continue
            if len(places) > 1 or read.indices[places[0]] is not Index(own):
                return None
            axis = part.axes[places[0]]
            if found.setdefault(part.name, axis) is not axis:
                return None
    return found


def _held_factors(
    part: Group, row: Axis | None, held: frozenset[tuple[Node, int]]
) -> tuple[list[Group], Group]:
    """The factor of a product that has its row and is read from memory as an inner group, and the
    product that reads that."""
    form = contraction(part)
    if form is None or row is None or row in form.batch:
        return [], part
    copies: dict[Expr, Group] = {}
    for factor in (form.left, *form.rights):
        from_memory = all((r.source, r.field) not in held for r in reads_of(factor))
        if row in axes_of(factor) and from_memory:
            name, axes = f"row{len(copies) or ''}_{part.name}", [*part.axes, *part.over]
            copies.setdefault(factor, operand(part, name, factor, axes, row))
    if not copies:
        return [], part
    left, *rights = (
        read_operand(copies[f]) if f in copies else f for f in (form.left, *form.rights)
    )
    lift = tuple(apply("mul", left, right) for right in rights)
    return list(copies.values()), replace(part, lift=lift)


def across_steps(group: Group, setting: Setting) -> tuple[Step, ...]:
    """The schedule of a state that `with_rows` gave."""
    draft = NestDraft(group, initial(group))
    _, wide = row_axes(group)
    row = _row(group)
    places = row_of_parts(group, row) if row is not None else None
    assert row is not None and places is not None
    columns = MOST_COLUMNS
    for axis in reversed(wide):
        size = divisor(axis.extent, columns)
        draft.tile(axis.name, size, Kind.UNROLL, "tile")
        columns //= size
    _own_rows(draft, row, _vectors(group, row, columns, setting), setting)
    share_out(draft, setting)
    for part in reversed(group.inner):
        at = group.over[-1].name if part.name not in _copies(group) else ""
        draft.take(Stage(part.name, at, Place.PRIVATE))
        _part_steps(draft, part, places[part.name], setting)
    return tuple(draft.steps)


def _copies(group: Group) -> set[str]:
    """The inner groups that hold what is read of a row."""
    held = group.held
    return {
        p.name
        for p in group.inner
        if p.monoid is None and held.isdisjoint((r.source, r.field) for r in p.reads)
    }


def _vectors(group: Group, row: Axis, room: int, setting: Setting) -> int:
    """Vectors of rows that a work-item folds one after the other, where it folds many blocks: each
    block comes from memory once for all of them. `room` is how many its columns leave space for."""
    if group.over[-1].extent < MANY_BLOCKS:
        return 1
    tiles = row.extent // setting.profile.vector
    every = tiles * prod(a.extent for a in row_axes(group)[0] if a is not row)
    return divisor(tiles, min(MOST_VECTORS, room, max(1, every // LEAST_GROUPS)))


def _own_rows(draft: NestDraft, row: Axis, vectors: int, setting: Setting) -> None:
    """All rows of a work-item."""
    if vectors > 1:
        tile = f"{row.name}.tile"
        draft.take(Tile(row.name, vectors * setting.profile.vector, tile))
        _vector(draft, tile, setting)
        draft.take(Bind(tile, Kind.UNROLL))
    else:
        _vector(draft, row.name, setting)


def _vector(draft: NestDraft, name: str, setting: Setting) -> None:
    """A vector of rows."""
    vector = f"{name}.vec"
    draft.take(Tile(name, setting.profile.vector, vector), Bind(vector, Kind.VECTOR))


def _part_steps(draft: NestDraft, part: Group, row: Axis | None, setting: Setting) -> None:
    """A vector of rows; copies along what else is needed, as many as registers hold, and a few
    steps of what is reduced."""
    unroll, (rows, columns) = setting.profile.unroll, setting.profile.register_tile
    stage = next(s for s in draft.nest.stages if s.value == part.name)
    extents = {a: e for a, e in zip(part.axes, stage.region.extents, strict=True) if e > 1}
    if row is not None:
        extents.pop(row, None)
        _vector(draft, f"{part.name}/{row.name}", setting)
    copies = unroll if contraction(part) is None else rows * columns // setting.profile.vector
    for axis in reversed(extents):
        size = divisor(extents[axis], copies)
        draft.tile(f"{part.name}/{axis.name}", size, Kind.UNROLL, "copy")
        copies //= size
    if part.over:
        axis = part.over[-1]
        steps = divisor(axis.extent, unroll)
        draft.tile(f"{part.name}/{axis.name}", steps, Kind.UNROLL, "unroll")
