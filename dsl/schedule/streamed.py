"""Tactics for folded states whose operands stream through local memory, a block ahead.

In: a group over blocks with inner groups, a `Setting`. Out: the group with the factors of its
products as inner groups, and steps for `steps.schedule`. Invariant: the steps are legal; a
work-group has a tile of rows (queries) and all columns (values), its rows interleaved over the
work-items, so that neighbours read neighbouring rows of what they share.

    attention over blocks of keys:   rows over lanes 1, vectors of values over lanes 0
      for block { local keys, values; scores [rows × keys]; top; weight; sum_l; private sum_o }
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, replace
from math import prod

from sdlc.graph.expr import Axis, apply, reads_of
from sdlc.schedule.contraction import contraction
from sdlc.schedule.draft import Setting, divisor, flat_strides, vector_width, written_out
from sdlc.schedule.fits import local_bytes
from sdlc.schedule.group import Group
from sdlc.schedule.nest import Bind, Kind, Nest, Place, Spread, Stage, Step, Tile, initial
from sdlc.schedule.operands import operand, read_operand
from sdlc.schedule.shared import rows_held
from sdlc.schedule.sharing import unshared
from sdlc.schedule.staging import NestDraft, columns_of, row_axes, share_out


@dataclass(frozen=True, slots=True)
class Shape:
    """Work-items `across` the columns and `down` the rows, of which each has `each`."""

    across: int
    down: int
    each: int

    @property
    def height(self) -> int:
        return self.down * self.each


def streamed(group: Group, setting: Setting) -> tuple[Group, tuple[Step, ...]]:
    """The group with streams and its schedule: as many streams as fit local memory beside half of
    the rows that are wanted, the last ones first."""
    streams = _streams(group)
    for count in range(len(streams), -1, -1):
        whole = _with(group, streams[len(streams) - count :])
        shape = wanted = _shape(whole, setting)
        while True:
            draft = _tiled(whole, shape, setting)
            apart = {s.value for s in draft.nest.stages if unshared(whole, draft.nest, s)}
            draft = _tiled(whole, shape, setting, apart) if apart else draft
            fits = local_bytes(whole, draft.nest) <= setting.local_bytes
            if fits or shape.down == 1:
                break
            shape = replace(shape, down=shape.down // 2)
        if count == 0 or (fits and 2 * shape.down >= wanted.down):
            return whole, tuple(draft.steps)
    raise AssertionError


def _streams(group: Group) -> list[tuple[Group, Group]]:
    """The right factors of inner products that are read from memory, with the products."""
    found = []
    for part in group.inner:
        form = contraction(part)
        if form is None or form.fields > 1 or not form.n:
            continue
        if any((r.source, r.field) in group.held for r in reads_of(form.right)):
            continue
        last = max(form.n, key=lambda a: a.extent)
        axes = [*form.batch, *form.k, *form.n]
        found.append((part, operand(part, f"{part.name}_right", form.right, axes, last)))
    return found


def _with(group: Group, streams: list[tuple[Group, Group]]) -> Group:
    """The group with these streams as inner groups: the first before everything else, each of the
    others behind the product that reads the one before it, whose place it may take."""
    made = dict(streams)
    parts = [made[part] for part, _ in streams[:1]]
    after = dict(zip((part for part, _ in streams), streams[1:], strict=False))
    for part in group.inner:
        form = contraction(part)
        changed = part
        if part in made and form is not None:
            changed = replace(part, lift=(apply("mul", form.left, read_operand(made[part])),))
        parts.append(changed)
        if part in after:
            parts.append(after[part][1])
    return replace(group, inner=tuple(parts))


def _shape(group: Group, setting: Setting) -> Shape:
    profile = setting.profile
    rows, wide = row_axes(group)
    across = 1
    if wide:
        vectors = wide[-1].extent // vector_width(wide[-1].extent, profile.vector)
        across = divisor(vectors, profile.lanes)
    if not rows:
        return Shape(across, 1, 1)
    extent = _row(rows).extent
    each = min(rows_held(group, across, profile), _power(extent))
    down = min(_power(-(-profile.lanes // across)), _power(-(-extent // each)))
    others = prod(a.extent for a in rows) // extent
    while down > 1 and 2 * others * -(-extent // (down * each)) < profile.groups:
        down //= 2
    return Shape(across, down, each)


def _row(rows: list[Axis]) -> Axis:
    return max(rows[-2:], key=lambda a: a.extent)


def _power(number: int) -> int:
    """The smallest power of two that is no less."""
    return 1 << (max(number, 1) - 1).bit_length()


def _tiled(
    group: Group, shape: Shape, setting: Setting, apart: Set[str] = frozenset()
) -> NestDraft:
    """The nest of one shape; what is kept `apart` gives its place to no later stage."""
    draft = NestDraft(group, initial(group))
    rows, wide = row_axes(group)
    if wide:
        width = vector_width(wide[-1].extent, setting.profile.vector)
        draft.tile(wide[-1].name, width, Kind.VECTOR, "vec")
        _lane(draft, wide[-1].name, shape.across, 0)
    if rows:
        _rows(draft, _row(rows).name, shape, 1, Kind.UNROLL)
    share_out(draft, setting)
    own = columns_of(group, wide)
    for part in reversed(group.inner):
        place = "" if part.name in apart else _successor(group, part, setting)
        _stage(draft, part, own[part.name], (shape, place), setting)
    return draft


def _stage(
    draft: NestDraft,
    part: Group,
    own: frozenset[Axis],
    wanted: tuple[Shape, str],
    setting: Setting,
) -> None:
    """One inner group, by its axes that are the group's columns: a stream, a work-item's own
    columns, a row each, or shared by all. `wanted` are the shape, and the stage that takes its
    place later."""
    shape, place = wanted
    vector, at = setting.profile.vector, draft.group.over[-1].name
    reduces = part.monoid is not None and contraction(part) is None
    if _is_stream(draft.group, part):
        draft.take(Stage(part.name, at, Place.LOCAL, 0, place))
        stage = _nest(draft, part)
        last = stage.loop(part.axes[-1].name).extent
        deep = _turned(part, stage.loop(part.axes[-2].name).extent, setting)
        draft.take(Spread(part.name, vector_width(last, vector), deep))
    elif own:
        draft.take(Stage(part.name, at, Place.PRIVATE))
        _own_columns(draft, part, own, setting)
    else:
        draft.take(Stage(part.name, at, Place.LOCAL, 0 if reduces else vector, place))
        share_part(draft, part, shape, setting)


def _is_stream(group: Group, part: Group) -> bool:
    """Whether a part only holds what is read from memory."""
    return part.monoid is None and not any((r.source, r.field) in group.held for r in part.reads)


def _turned(part: Group, extent: int, setting: Setting) -> int:
    """How many neighbours along the axis before the last a work-item fetches: a load's lanes, where
    they lie side by side in memory and registers are counted."""
    (store,) = part.stores
    before = flat_strides(store.value, setting.orders).get(part.axes[-2])
    beside = before == 1 and setting.profile.registers
    return vector_width(extent, setting.profile.gather) if beside else 1


def _successor(group: Group, part: Group, setting: Setting) -> str:
    """The stage that may take the place of a part when it has been read: of a stream the next one,
    unless it is under way then; of what is shared by all the map that is the last to read it, point
    by point."""
    held = {(s.node, s.field) for s in part.stores}
    readers = [g for g in group.parts if any((r.source, r.field) in held for r in g.reads)]
    if _is_stream(group, part):
        read = group.parts.index(readers[-1])
        behind = group.inner[read + 1 :]
        later = next((g for g in behind if _is_stream(group, g)), None)
        return later.name if later is not None and setting.profile.depth < 2 else ""
    last = readers[-1]
    alike = last is not group and last.monoid is None and not last.over
    reduces = part.monoid is not None and contraction(part) is None
    return last.name if alike and not reduces else ""


def _nest(draft: NestDraft, part: Group) -> Nest:
    return next(s.nest for s in draft.nest.stages if s.value == part.name)


def _lane(draft: NestDraft, name: str, size: int, dim: int) -> None:
    """The innermost `size` of a loop over work-items."""
    if size > 1:
        lane = f"{name}.lane"
        draft.take(Tile(name, size, lane), Bind(lane, Kind.LANE, dim))


def _rows(draft: NestDraft, name: str, shape: Shape, beside: int, own: Kind) -> None:
    """Rows over lanes 1, then `beside` of them over lanes 0; the rest, which are a work-item's own,
    as copies or in a loop."""
    if shape.height == 1:
        return
    rest, side = f"{name}.in", f"{name}.beside"
    draft.take(Tile(name, shape.height, rest))
    if beside > 1:
        draft.take(Tile(rest, shape.down * beside, side))
        _lane(draft, side, shape.down, 1)
        draft.take(Bind(side, Kind.LANE, 0))
    else:
        _lane(draft, rest, shape.down, 1)
    if own is not Kind.SERIAL and shape.each > beside:
        draft.take(Bind(rest, own))


def _own_columns(draft: NestDraft, part: Group, own: frozenset[Axis], setting: Setting) -> None:
    """A register tile of what is this work-item's alone."""
    nest = _nest(draft, part)
    for axis in part.axes:
        if nest.loop(axis.name).extent > 1:
            kind = Kind.VECTOR if axis in own else Kind.UNROLL
            draft.take(Bind(f"{part.name}/{axis.name}", kind))
    _unroll(draft, part, setting)


def _unroll(draft: NestDraft, part: Group, setting: Setting) -> None:
    """Steps of a sum as copies: more of a tile of few results, where registers are counted; of what
    local memory holds no whole loads, where those leave fewer than half as many."""
    profile, nest = setting.profile, _nest(draft, part)
    results = nest.size(Kind.VECTOR, 0) * nest.size(Kind.UNROLL, 0)
    most = profile.register_tile[1] // max(results, 1) if profile.registers else 1
    axis = part.over[-1]
    wanted = profile.unroll * max(most, 1)
    size = written_out(axis.extent, replace(profile, unroll=wanted))
    held = all((r.source, r.field) in draft.group.held for r in part.reads)
    if held and profile.registers and 2 * size <= divisor(axis.extent, wanted):
        size = divisor(axis.extent, wanted)
    draft.tile(f"{part.name}/{axis.name}", size, Kind.UNROLL, "unroll")


def share_part(draft: NestDraft, part: Group, shape: Shape, setting: Setting) -> None:
    """A part that all work-items fill: rows as they own them and keys over lanes 0; a reduction of
    a row is one work-item's, by vectors."""
    prefix, nest, vector = f"{part.name}/", _nest(draft, part), setting.profile.vector
    long = [a for a in part.axes if nest.loop(a.name).extent > 1]
    own = next((a for a in long if nest.loop(a.name).extent == shape.height), None)
    keys = [a for a in long if a != own]
    reduces = part.monoid is not None and contraction(part) is None
    lanes = 1
    if keys:
        name, extent = f"{prefix}{keys[-1].name}", nest.loop(keys[-1].name).extent
        width = vector_width(extent, vector)
        draft.tile(name, width, Kind.VECTOR, "vec")
        lanes = divisor(extent // width, shape.across)
        _lane(draft, name, lanes, 0)
    if own is not None:
        beside = _floor(min(shape.each, shape.across // lanes))
        _rows(draft, f"{prefix}{own.name}", shape, beside, Kind.SERIAL if reduces else Kind.UNROLL)
    if reduces and part.over:
        name, extent = f"{prefix}{part.over[-1].name}", part.over[-1].extent
        if all(lp.kind is not Kind.VECTOR for lp in _nest(draft, part).loops):
            draft.tile(name, vector_width(extent, vector), Kind.VECTOR, "vec")
    elif part.over:
        _unroll(draft, part, setting)


def _floor(number: int) -> int:
    """The largest power of two that is no more."""
    return 1 << (max(number, 1).bit_length() - 1)
