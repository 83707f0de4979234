"""Tactics: a group and a target's preferences become schedule steps.

In: a group, its vector axis and storage orders, a `Profile`. Out: steps for `steps.schedule`.
Invariant: the steps are legal for every group on every target. Decisions look at axes, extents and
storage, never at what an operator or a GPU is called.

Three shapes: a map runs along its innermost stored axis; a contraction keeps a tile of outputs in
registers; any other reduction is shared by vector lanes or work-items along its longest axis.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from math import prod

from sdlc.graph.expr import Apply, Axis, Expr, Literal, axes_of, reads_of
from sdlc.graph.types import DType
from sdlc.schedule.across import across_steps, is_folded, with_rows
from sdlc.schedule.affine import affine
from sdlc.schedule.columns import right_steps, stored_along, with_right
from sdlc.schedule.contraction import Contraction, constant_factor, contraction
from sdlc.schedule.draft import (
    RESERVE,
    Draft,
    Setting,
    divisor,
    flat_strides,
    share,
    vector_width,
    written_out,
)
from sdlc.schedule.factor import (
    factor_rows,
    fetching_tile,
    most_tiles,
    private_factor,
    written_in,
)
from sdlc.schedule.fragments import fragment_steps, with_fragments
from sdlc.schedule.group import Group
from sdlc.schedule.held import with_held
from sdlc.schedule.interleaved import column_steps, with_columns
from sdlc.schedule.multiplied import multiplied
from sdlc.schedule.nest import Bind, Kind, Reorder, Step, Tile
from sdlc.schedule.operands import operand_steps, with_operands
from sdlc.schedule.rows import rows_steps
from sdlc.schedule.shared import shared_steps
from sdlc.schedule.skinny import skinny_steps
from sdlc.schedule.staging import private_steps
from sdlc.schedule.streamed import streamed
from sdlc.schedule.transform import transform_steps
from sdlc.target import Profile

SHORT_REDUCTION = 16
"""A reduction of fewer elements is not worth sharing."""

MOST_ALONE = 64
"""A work-item folds this many elements alone at most, where there are enough results."""

MOST_TILES = 4
"""Register tiles of rows that share a pass over all columns, so that each is fetched once."""

MIN_GROUPS = 32
"""Work-groups that are left over, so that every core has some, before work-items loop."""


Way = tuple[str, Group, tuple[Step, ...]]
"""A mechanism that is not the default one (or ''), a group as it is computed, and its schedule."""


def tactics(group: Group, lanes: Axis | None, setting: Setting) -> Iterator[Way]:
    """The ways to compute a group, the default first, each with the inner groups that it wants."""
    shared = setting.profile.lanes > 1 and factor_rows(group) is not None
    lean = written_in(group, setting.profile.slice > 0) if shared else group
    form = contraction(lean)
    if form is not None:
        if setting.instruction is not None:
            cells = with_fragments(lean, setting)
            if not isinstance(cells, str):
                yield "", cells, fragment_steps(cells, form, setting)
                return
        there = _fetching(setting, form) if shared else setting
        whole = with_operands(lean, lanes, there)
        setting.journal.tell("local_operands", group, whole if isinstance(whole, str) else "")
        if lanes is not None and not isinstance(whole, str):
            yield "", whole, operand_steps(whole, form, lanes, there)
            return
        alone = with_right(lean, lanes, setting)
        if not isinstance(alone, str):
            columns = lanes if stored_along(lean, setting) is None else None
            yield "", alone, right_steps(alone, form, columns, setting)
            return
    if is_folded(group) and (setting.profile.slice or setting.profile.depth > 1):
        products = multiplied(group, setting)
        yield "", *(streamed(group, setting) if isinstance(products, str) else products)
        return
    yield "", group, steps_for(group, lanes, setting)
    if "hold_factors" in setting.enabled and form is not None and lanes is not None:
        held = with_held(group, lanes, setting)
        setting.journal.tell_refusal("hold_factors", group, held)
        if not isinstance(held, str):
            yield "hold_factors", held, _rows_steps(held, lanes, setting)
    if "vector_rows" in setting.enabled and (is_folded(group) or holds_rows(group)):
        folded = is_folded(group)
        held = with_rows(group, setting) if folded else with_columns(group, setting)
        setting.journal.tell_refusal("vector_rows", group, held)
        if not isinstance(held, str):
            stored = _stored_axes(group, setting)
            steps = across_steps(held, setting) if folded else column_steps(held, stored, setting)
            yield "vector_rows", held, steps


def holds_rows(group: Group) -> bool:
    """Whether a group is a map with the statistics of its rows inside."""
    return bool(group.inner) and group.monoid is None


def _fetching(setting: Setting, form: Contraction) -> Setting:
    """The setting in which a factor that is computed as it is fetched passes through local memory,
    on a target where others do not."""
    profile = setting.profile
    if profile.slice or not profile.factor_slice:
        return setting
    rows, columns = fetching_tile(form, profile)
    tile = rows * 2 if form.fields > 2 else rows, columns
    return replace(
        setting, profile=replace(profile, slice=profile.factor_slice, register_tile=tile)
    )


def steps_for(group: Group, lanes: Axis | None, setting: Setting) -> tuple[Step, ...]:
    """The default schedule of a group."""
    if constant_factor(group) is not None:
        return transform_steps(group, _stored_axes(group, setting), setting)
    if holds_rows(group):
        return rows_steps(group, _stored_axes(group, setting), setting)
    if lanes is not None and factor_rows(group) is not None:
        return _rows_steps(group, lanes, setting)
    if group.inner and setting.profile.reduction_lanes > 1:
        return shared_steps(group, setting)
    if group.inner:
        return private_steps(group, setting)
    form = contraction(group)
    if group.monoid is None:
        return _map_steps(group, setting)
    if form is not None and stored_along(group, setting) is not None:
        return _contraction_steps(group, form, None, setting)
    if form is not None and lanes is not None:
        few = skinny_steps(group, form, lanes, setting)
        return few or _contraction_steps(group, form, lanes, setting)
    return _reduction_steps(group, setting)


def _stored_axes(group: Group, setting: Setting) -> list[Axis]:
    """The output axes from the outermost in storage to the innermost; others come first."""
    store = group.stores[0]
    found: list[Axis] = []
    for d in setting.orders[(store.node, store.field)]:
        form = affine(store.indices[d])
        terms = form[0] if form is not None else dict.fromkeys(axes_of(store.indices[d]), 1)
        for axis in sorted(terms, key=lambda a: -terms[a]):
            if axis in found:
                found.remove(axis)
            found.append(axis)
    return [a for a in group.axes if a not in found] + [a for a in found if a in group.axes]


# ---- maps


def _map_steps(group: Group, setting: Setting) -> tuple[Step, ...]:
    axes = _stored_axes(group, setting)
    draft = Draft({a: a.extent for a in axes})
    if not axes:
        return ()
    inner, profile = axes[-1], setting.profile
    draft.take(inner, vector_width(inner.extent, profile.vector), Kind.VECTOR, "vec")
    _take_lanes(draft, axes, profile.lanes)
    _take_loops(draft, axes, profile.points // max(1, profile.vector))
    draft.bind_in_turn(axes, setting)
    return tuple(draft.steps)


def _take_lanes(draft: Draft, axes: list[Axis], lanes: int, dim: int = 0) -> None:
    """Spreads work-items over the innermost axes, at most three of them."""
    for axis in reversed(axes):
        if dim > 2 or lanes <= 1:
            return
        size = share(draft.left[axis], lanes)
        if size > 1:
            draft.take(axis, size, Kind.LANE, "lane", dim)
            lanes //= size
            dim += 1


def _take_loops(draft: Draft, axes: list[Axis], points: int) -> None:
    """Lets one work-item run over `points` tiles of the innermost axes, leaving some groups."""
    for axis in reversed(axes):
        groups = prod(draft.left[a] for a in axes)
        spare = min(points, groups // MIN_GROUPS)
        if spare <= 1:
            return
        size = divisor(draft.left[axis], spare)
        draft.loop(axis, size, "loop")
        points //= size


# ---- contractions


def _contraction_steps(
    group: Group, form: Contraction, lanes: Axis | None, setting: Setting
) -> tuple[Step, ...]:
    """`lanes`: the axis of vectors; None: the tile is scalars, all columns of some rows."""
    profile = setting.profile
    axes = _stored_axes(group, setting)
    draft = Draft({a: a.extent for a in (*axes, *group.over)})
    row_axes = (
        _all_columns(draft, axes, form, profile)
        if lanes is None
        else _register_tile(draft, axes, form, lanes, profile)
    )
    order = [a for a in (*form.batch, *row_axes, lanes) if a in draft.left]
    order += [a for a in axes if a not in order]
    _take_lanes(draft, order, profile.lanes)
    each = 2 * profile.register_tile[0] * profile.register_tile[1] * _reduced_points(group)
    _take_loops(draft, row_axes, profile.flop // each)
    draft.bind_rest(_in_turn(axes, form, lanes, profile), setting)
    draft.steps += _reduced_loops(group, form, draft, setting)
    return tuple(draft.steps)


def _in_turn(
    axes: list[Axis], form: Contraction, lanes: Axis | None, profile: Profile
) -> list[Axis]:
    """The order in which work-groups take tiles of results, the last axis the fastest. A core that
    takes one after the other keeps what does not change in its cache: that is the larger factor."""
    if profile.lanes > 1 or lanes not in form.n or form.left_larger:
        return axes
    return [a for a in axes if a in form.n] + [a for a in axes if a not in form.n]


def _rows_steps(group: Group, lanes: Axis, setting: Setting) -> tuple[Step, ...]:
    """A contraction that holds the rows of its left factor: a work-item has some rows and takes
    all columns, tile by tile."""
    form = contraction(group)
    assert form is not None
    axes = _stored_axes(group, setting)
    draft = Draft({a: a.extent for a in (*axes, *group.over)})
    row_axes = _register_tile(draft, axes, form, lanes, setting.profile)
    _take_loops(draft, row_axes, min(MOST_TILES, most_tiles(form, setting.profile)))
    draft.bind_rest([a for a in axes if a not in form.n], setting)
    loops = [f"{a.name}.loop" for a in row_axes if _has(draft, f"{a.name}.loop")]
    draft.steps.append(Reorder((*(a.name for a in axes if a in form.n), *loops)))
    draft.steps += _reduced_loops(group, form, draft, setting)
    return private_factor(group, tuple(draft.steps), setting)


def _has(draft: Draft, name: str) -> bool:
    return any(isinstance(s, Tile) and s.inner == name for s in draft.steps)


def _register_tile(
    draft: Draft, axes: list[Axis], form: Contraction, lanes: Axis, profile: Profile
) -> list[Axis]:
    """Vectors and copies along `lanes`, copies along rows; the axes that rows run along."""
    rows, columns = profile.register_tile
    columns = max(profile.vector, columns // form.fields)
    if form.fields * columns > profile.register_tile[1]:
        rows = max(1, rows * profile.register_tile[1] // (form.fields * columns))
    row_axes = [a for a in axes if a in (form.n if lanes in form.m else form.m) and a != lanes]
    full = _is_full(row_axes, form, (rows, columns), profile)
    whole = _whole_rows(row_axes, form, (rows, columns), profile) if full else 0
    if whole:
        rows, columns = whole, profile.vector
    elif full:
        rows, columns = (rows, columns // 2) if columns > profile.vector else (rows // 2, columns)
    width = vector_width(lanes.extent, profile.vector)
    if width == 1 and lanes.extent > 1:
        width = min(profile.vector, 1 << (lanes.extent - 1).bit_length())
    draft.take(lanes, width, Kind.VECTOR, "vec")
    draft.take(lanes, divisor(draft.left[lanes], columns // width), Kind.UNROLL, "tile")
    for axis in reversed(row_axes):
        size = share(draft.left[axis], rows)
        draft.take(axis, size, Kind.UNROLL, "tile")
        rows //= size
    return row_axes


def _all_columns(draft: Draft, axes: list[Axis], form: Contraction, profile: Profile) -> list[Axis]:
    """Copies of all columns, and of as many rows as their tile holds; the axes of rows."""
    for axis in form.n:
        draft.take(axis, axis.extent, Kind.UNROLL, "tile")
    rows = prod(profile.register_tile) // prod(a.extent for a in form.n)
    row_axes = [a for a in axes if a in form.m]
    for axis in reversed(row_axes):
        size = share(draft.left[axis], rows)
        draft.take(axis, size, Kind.UNROLL, "tile")
        rows //= size
    return row_axes


def _whole_rows(
    row_axes: list[Axis], form: Contraction, tile: tuple[int, int], profile: Profile
) -> int:
    """Rows of a tile of one vector that divide the innermost axis where those of `tile` do not: a
    row beyond its end would have a place of its own. 0: none do."""
    rows, columns = tile
    if not row_axes or row_axes[-1].extent % rows == 0:
        return 0
    most = min(rows * columns // profile.vector, row_axes[-1].extent)
    able = (d for d in range(most, rows, -1) if row_axes[-1].extent % d == 0)
    fitting = (d for d in able if not _is_full(row_axes, form, (d, profile.vector), profile))
    return next(fitting, 0)


def _is_full(
    row_axes: list[Axis], form: Contraction, tile: tuple[int, int], profile: Profile
) -> bool:
    """Whether a tile leaves too few registers beside its sums and one step's factors: for the
    loops over K, a place in each factor at every one, for guarded rows, each with its own place,
    and for rows that are loaded several steps at a time, where they are not halves."""
    rows, columns = tile
    values = rows * columns * form.fields + rows + columns * form.fields
    loops = sum(a.extent > 1 for a in form.k)
    places = (form.right_values + 1) * loops + 2 * (form.right_values - 1)
    if row_axes and row_axes[-1].extent % rows:
        places += rows
    if any(r.source.dtypes[r.field] is DType.F32 for r in reads_of(form.left)):
        places += rows * (profile.gather // 2)
    return 0 < profile.registers < values + places + RESERVE


def _reduced_points(group: Group) -> int:
    return prod(a.extent for a in group.over)


def _reduced_loops(
    group: Group, form: Contraction, draft: Draft, setting: Setting
) -> Iterable[Step]:
    """Reduced loops in the order of the left factor's storage, the innermost unrolled.

    A short axis that slides over a tiled one (a window) is unrolled whole: neighbours share loads,
    and what is known of their sum decides most guards; but where neighbours along another reduced
    axis lie side by side and arrive as one load. Where registers are counted, fewer steps are
    written out of several contractions: each loads factors of its own. So are they of a tile of
    scalars, which keeps vectors along K of both factors.
    """
    strides = flat_strides(form.left, setting.orders)
    order = sorted(group.over, key=lambda a: (-strides.get(a, 1 << 40), a.extent))
    yield Reorder(tuple(a.name for a in order))
    tiled = {s.name for s in draft.steps if isinstance(s, Tile) and s.inner.endswith(".tile")}
    gathered = any(strides.get(a) == 1 for a in order)
    windows = () if setting.profile.gather > 1 and gathered else order
    for axis in windows:
        if 1 < axis.extent <= setting.profile.unroll and _slides(axis, tiled, form):
            yield Bind(axis.name, Kind.UNROLL)
            return
    profile = setting.profile
    if profile.registers:
        vectors = any(isinstance(s, Bind) and s.kind is Kind.VECTOR for s in draft.steps)
        values = form.right_values if vectors else 4 * form.right_values
        profile = replace(profile, unroll=max(1, profile.unroll // values))
    size = written_out(order[-1].extent, profile) if order else 1
    if size > 1:
        inner = f"{order[-1].name}.unroll"
        yield Tile(order[-1].name, size, inner)
        yield Bind(inner, Kind.UNROLL)


def _unclamped(index: Expr) -> Expr:
    """An index without the clamps that keep a guarded read within bounds."""
    match index:
        case Apply(op="min" | "max", args=(inner, Literal())):
            return _unclamped(inner)
    return index


def _slides(axis: Axis, tiled: set[str], form: Contraction) -> bool:
    """Whether some index of the left factor is a sum of `axis` and a tiled axis."""
    for read in reads_of(form.left):
        for index in read.indices:
            terms = affine(_unclamped(index))
            if terms is not None and axis in terms[0] and any(a.name in tiled for a in terms[0]):
                return True
    return False


# ---- other reductions


def _reduction_steps(group: Group, setting: Setting) -> tuple[Step, ...]:
    profile = setting.profile
    axes = _stored_axes(group, setting)
    draft = Draft({a: a.extent for a in (*axes, *group.over)})
    strides = flat_strides(group.lift[0], setting.orders)
    shared = max(group.over, key=lambda a: (strides.get(a) == 1, a.extent), default=None)
    if shared is None or _stays_whole(group, strides.get(shared) == 1, profile):
        _take_lanes(draft, axes, profile.lanes)
    elif profile.reduction_lanes > 1:
        _share_among_lanes(draft, axes, shared, profile)
    else:
        _share_among_vector(draft, group, strides, profile)
    each = _reduced_points(group)
    _take_loops(draft, axes, profile.points // max(1, each))
    draft.bind_rest(axes, setting)
    loops = sorted(group.over, key=lambda a: (-strides.get(a, 1 << 40), a.extent))
    if loops:
        draft.steps.append(Reorder(tuple(a.name for a in loops)))
    return tuple(draft.steps)


def _stays_whole(group: Group, is_near: bool, profile: Profile) -> bool:
    """Whether one work-item folds a result alone: it is short, or there are enough of them and
    those of neighbours, not one's own elements, lie side by side."""
    count = _reduced_points(group)
    enough = profile.reduction_lanes > 1 and group.points >= profile.lanes * profile.groups
    return count < SHORT_REDUCTION or (count <= MOST_ALONE and enough and not is_near)


def _share_among_lanes(draft: Draft, axes: list[Axis], shared: Axis, profile: Profile) -> None:
    ways = min(profile.reduction_lanes, 1 << (shared.extent.bit_length() - 1))
    draft.take(shared, ways, Kind.LANE, "lane")
    _take_lanes(draft, axes, profile.lanes // ways, dim=1)


def _share_among_vector(
    draft: Draft, group: Group, strides: dict[Axis, int], profile: Profile
) -> None:
    """Vector lanes along consecutive elements: of an output axis if there is one, else reduced."""
    outputs = [a for a in group.axes if a in axes_of(*group.lift)]
    ranked = [
        *(a for a in outputs if strides.get(a) == 1),
        *sorted(group.over, key=lambda a: (strides.get(a) != 1, -a.extent)),
    ]
    for axis in ranked:
        width = vector_width(axis.extent, profile.vector)
        if width >= min(4, profile.vector):
            draft.take(axis, width, Kind.VECTOR, "vec")
            return
