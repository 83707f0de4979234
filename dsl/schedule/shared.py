"""Tactics for groups that hold inner groups: what a work-group shares through local memory.

In: a group over blocks with inner groups, a `Setting`. Out: steps for `steps.schedule`. Invariant:
the steps are legal; a work-group has a tile of rows (queries) and all columns (values); every
work-item has some rows of it and one vector of columns, and its part of everything that is shared.

    attention over blocks of keys:   rows over lanes 1, vectors of values over lanes 0
      for block { local scores [rows × keys]; top, a row an item; weight; sum_l; private sum_o }
"""

from __future__ import annotations

from sdlc.graph.expr import Axis
from sdlc.schedule.contraction import contraction
from sdlc.schedule.draft import RESERVE, Setting, divisor, vector_width, written_out
from sdlc.schedule.group import Group
from sdlc.schedule.nest import Bind, Kind, Nest, Place, Stage, Step, Tile, initial
from sdlc.schedule.operands import FULL
from sdlc.schedule.staging import NestDraft, columns_of, row_axes, share_out
from sdlc.target import Profile

PAD = 1
"""Elements after each row in local memory, so that rows start in different banks."""


def shared_steps(group: Group, setting: Setting) -> tuple[Step, ...]:
    """The schedule of a folded state on a device whose work-items share local memory."""
    draft = NestDraft(group, initial(group))
    rows, wide = row_axes(group)
    across = _columns(draft, wide, setting)
    row = max(rows[-2:], key=lambda a: a.extent) if rows else None
    down, each = 1, 1
    if row is not None:
        each = min(rows_held(group, across, setting.profile), _power(row.extent))
        down = min(_floor(setting.profile.lanes // across), _power(-(-row.extent // each)))
        while down > 1 and _local_bytes(group, wide, down * each) > setting.local_bytes:
            down //= 2
        _own_rows(draft, "", row, down, each)
    share_out(draft, setting)
    columns = columns_of(group, wide)
    for part in reversed(group.inner):
        private = columns[part.name]
        place = Place.PRIVATE if private else Place.LOCAL
        draft.take(Stage(part.name, group.over[-1].name, place, 0 if private else PAD))
        if private:
            _private_part(draft, part, private, setting)
        else:
            _local_part(draft, part, row, (across, down, each), setting)
    return tuple(draft.steps)


def _local_bytes(group: Group, wide: list[Axis], height: int) -> int:
    """Bytes of local memory that a tile of `height` rows takes: scores and weights hold a block of
    keys of each row, statistics one element."""
    columns = columns_of(group, wide)
    shared = [part for part in group.inner if not columns[part.name]]
    folded = [p for p in shared if p.monoid is not None and contraction(p) is None]
    long = len(shared) - len(folded)
    return 4 * height * (long * (_block_terms(group) + PAD) + len(folded))


def rows_held(group: Group, across: int, profile: Profile) -> int:
    """Rows of a work-item: of each it keeps a vector of its state, of a block's sums and of its
    scores, which leave a quarter of the registers beside addresses."""
    rows, terms = profile.register_tile[0], _block_terms(group)
    vectors = terms // vector_width(terms, profile.vector)
    held = 2 + vectors // divisor(vectors, across)
    room = FULL * profile.registers - RESERVE
    while profile.registers and rows > 1 and held * profile.vector * rows > room:
        rows //= 2
    return rows


def _block_terms(group: Group) -> int:
    """The terms (keys) that a block folds at a time."""
    folded = (p for p in group.inner if p.monoid is not None and contraction(p) is None)
    return max((p.over[-1].extent for p in folded if p.over), default=1)


def _floor(number: int) -> int:
    return 1 << (max(number, 1).bit_length() - 1)


def _power(number: int) -> int:
    return 1 << (max(number, 1) - 1).bit_length()


def _columns(draft: NestDraft, wide: list[Axis], setting: Setting) -> int:
    """One vector of columns a work-item; how many work-items that takes."""
    if not wide:
        return 1
    axis, lanes = wide[-1], setting.profile.lanes
    draft.tile(axis.name, vector_width(axis.extent, setting.profile.vector), Kind.VECTOR, "vec")
    across = divisor(draft.nest.loop(axis.name).extent, lanes)
    if across > 1:
        lane = f"{axis.name}.lane"
        draft.take(Tile(axis.name, across, lane), Bind(lane, Kind.LANE, 0))
    return across


def _own_rows(draft: NestDraft, prefix: str, row: Axis, down: int, each: int) -> None:
    """Rows over lanes 1, `each` neighbouring ones a work-item."""
    name = f"{prefix}{row.name}"
    lane, tile = f"{name}.lane", f"{name}.tile"
    if down > 1:
        draft.take(Tile(name, down * each, lane))
    if each > 1:
        draft.take(Tile(lane if down > 1 else name, each, tile), Bind(tile, Kind.UNROLL))
    if down > 1:
        draft.take(Bind(lane, Kind.LANE, 1))


def _private_part(draft: NestDraft, part: Group, own: frozenset[Axis], setting: Setting) -> None:
    """A register tile of what is this work-item's alone."""
    prefix = f"{part.name}/"
    for axis in part.axes:
        nest = _stage_nest(draft, part)
        extent, free = nest.loop(axis.name).extent, nest.size(Kind.VECTOR, 0) == 1
        if extent > 1:
            fits = axis in own and free and vector_width(extent, setting.profile.vector) == extent
            draft.take(Bind(f"{prefix}{axis.name}", Kind.VECTOR if fits else Kind.UNROLL))
    unroll = written_out(part.over[-1].extent, setting.profile)
    draft.tile(f"{prefix}{part.over[-1].name}", unroll, Kind.UNROLL, "unroll")


def _stage_nest(draft: NestDraft, part: Group) -> Nest:
    return next(s.nest for s in draft.nest.stages if s.value == part.name)


def _local_part(
    draft: NestDraft,
    part: Group,
    row: Axis | None,
    shape: tuple[int, int, int],
    setting: Setting,
) -> None:
    """A part that all work-items fill: rows as they own them, keys over lanes 0; a reduction of a
    row is one work-item's."""
    across, down, each = shape
    prefix = f"{part.name}/"
    nest = _stage_nest(draft, part)
    long = [a for a in part.axes if nest.loop(a.name).extent > 1]
    own = next((a for a in long if nest.loop(a.name).extent == down * each), None)
    if part.monoid is not None and contraction(part) is None:
        if own is not None:
            _one_a_row(draft, prefix, own, (across, down, each))
        return
    if own is not None:
        _own_rows(draft, prefix, own, down, each)
    keys = [a for a in long if a != own]
    if keys:
        _keys(draft, prefix, keys[-1], nest.loop(keys[-1].name).extent, across, setting)
    if part.monoid is not None:
        unroll = written_out(part.over[-1].extent, setting.profile)
        draft.tile(f"{prefix}{part.over[-1].name}", unroll, Kind.UNROLL, "unroll")


def _one_a_row(draft: NestDraft, prefix: str, own: Axis, shape: tuple[int, int, int]) -> None:
    """Rows over as many work-items as there are, the rest of each in a loop."""
    across, down, each = shape
    name = f"{prefix}{own.name}"
    if down > 1:
        draft.take(Tile(name, down, f"{name}.lane"), Bind(f"{name}.lane", Kind.LANE, 1))
    beside = min(each, _floor(across))
    if beside > 1:
        draft.take(Tile(name, beside, f"{name}.beside"), Bind(f"{name}.beside", Kind.LANE, 0))


def _keys(
    draft: NestDraft, prefix: str, keys: Axis, extent: int, across: int, setting: Setting
) -> None:
    name = f"{prefix}{keys.name}"
    width = vector_width(extent, setting.profile.vector)
    draft.tile(name, width, Kind.VECTOR, "vec")
    lanes = divisor(extent // width, across)
    if lanes > 1:
        draft.take(Tile(name, lanes, f"{name}.lane"), Bind(f"{name}.lane", Kind.LANE, 0))
