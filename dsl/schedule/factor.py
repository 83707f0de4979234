"""Rows that a contraction multiplies, normalised in its kernel, with their statistics.

In: groups, or a group and its steps so far. Out: contractions that hold the map of their left
factor and the reduction over its rows as inner groups; steps. Invariant: the statistics belong to
rows of the left factor that lie along K alone, so a work-group needs no more than the rows that
it multiplies; they are computed once a work-group, before its passes over K.

    y[m, k] = (x[m, k] - mean[m]) * …;  out[m, n] = sum over k of y[m, k] * w[k, n]
    becomes one kernel: stage the statistics of some m, then y of these m, then all n
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from sdlc.graph.expr import (
    Apply,
    Axis,
    Expr,
    Index,
    Read,
    apply,
    axes_of,
    reads_of,
    rebuild,
    substitute,
)
from sdlc.graph.node import Input, Node
from sdlc.graph.types import DType
from sdlc.schedule.absorb import absorbed_into, readers_of, shared_value
from sdlc.schedule.affine import bare_axis
from sdlc.schedule.contraction import Contraction, contraction
from sdlc.schedule.draft import Setting, divisor, vector_width
from sdlc.schedule.group import Group, Output
from sdlc.schedule.nest import Bind, Kind, Place, Stage, Step, Tile, initial
from sdlc.schedule.reasons import Journal
from sdlc.schedule.staging import NestDraft, covering
from sdlc.target import Profile, Target

LEAST_TILES = 4
"""Row tiles a core, where a work-item takes all columns: with fewer, cores stand idle."""

MOST_HELD = 1 << 15
"""Elements of rows that a work-item may hold: they stay in a cache of its core."""

FETCHED = 32
"""Registers for addresses, work-items' numbers, and what is on its way to local memory."""

SHARING = 8
"""Work-items of a matrix instruction's sub-group that fold one row's statistics together: so many
rows at once wait for one another, rather than one."""

AHEAD = 10
"""Steps of such statistics that are written out: their loads are under way together. Measured on an
H100: 8192 rows of 320 before 320 columns take 33.7 us in one kernel, 35.9 without this, and 41.4 in
two; 512 rows of 1280 before as many columns 34.6 and 36.0 in two."""

WRITTEN_OUT = 32
"""Where registers are counted: terms of a loop over statistics that a compiler writes out, with all
their loads under way. Measured with Mesa's compiler for an Adreno 740: 12 steps of two rows take 24
registers of four scalars, 12 of one row, 20 of two, and 12 of four take 16."""

ROWS = 8
"""Rows whose statistics advance together: their counts are one, and none waits for another."""


def nest_factors(
    groups: tuple[Group, ...],
    kept: frozenset[Node],
    target: Target,
    journal: Journal,
) -> tuple[Group, ...]:
    """The groups with every map of rows that one contraction multiplies inside it."""
    readers = readers_of(groups)
    made: list[Group | None] = list(groups)
    for number, producer in enumerate(groups):
        if not _is_rows(producer):
            continue
        node = producer.stores[0].node
        found = shared_value(node, kept, readers) or _nested(
            made[next(iter(readers[node]))], producer, target
        )
        journal.tell("nest_factors", producer, found if isinstance(found, str) else "")
        if isinstance(found, Group):
            made[number], made[next(iter(readers[node]))] = None, found
    return tuple(g for g in made if g is not None)


def _is_rows(group: Group) -> bool:
    """Whether a group is a map with the statistics of its rows."""
    inner = group.inner
    return (
        group.monoid is None
        and len(group.stores) == 1
        and len(inner) == 1
        and inner[0].monoid is not None
        and contraction(inner[0]) is None
    )


def _nested(reader: Group | None, rows: Group, target: Target) -> Group | str:
    """The reader with the rows inside, or why it stays without them."""
    form = contraction(reader) if reader is not None else None
    if reader is None or form is None or reader.inner:
        return "its reader is no contraction on its own"
    why = _not_multiplied(reader, form, rows) or _does_not_pay(form, target)
    if why:
        return why
    whole = absorbed_into(reader, rows)
    if len(whole.operands) + len(whole.stores) > target.caps.max_storage_buffers:
        return "the kernel would bind too many buffers"
    return whole


def _not_multiplied(reader: Group, form: Contraction, rows: Group) -> str:
    """Why a contraction does not read the map in its left factor only, row by row along K."""
    node = rows.stores[0].node
    found = [r for r in reader.reads if r.source is node]
    inside = [r for r in reads_of(form.left) if r.source is node]
    beside = [r for r in reads_of(*form.rights) if r.source is node]
    places = _places(found[0], rows) if found else None
    if len(found) != 1 or found != inside or beside:
        return "it is no left factor, or more than that"
    if places is None or found[0].fill is not None:
        return "its rows are read in another arrangement"
    own = (r for r in rows.reads if (r.source, r.field) in rows.held)
    across = {places.get(a) for r in own for a in axes_of(*r.indices)}
    whole = prod(a.extent for a in form.k)
    if not across.isdisjoint(form.k) or prod(a.extent for a in rows.inner[0].over) > whole:
        return "its statistics are not those of what is summed over"
    return ""


def _places(read: Read, rows: Group) -> dict[Axis, Axis] | None:
    """The reader's axis for each axis of the map, where indices are axes, each another one."""
    here = [bare_axis(i) for i in read.indices]
    there = [bare_axis(i) for i in rows.stores[0].indices]
    if len(set(here)) != len(here):
        return None
    pairs = {b: a for a, b in zip(here, there, strict=True) if a is not None and b is not None}
    return pairs if len(pairs) == len(here) else None


def _does_not_pay(form: Contraction, target: Target) -> str:
    """Why rows had better be stored: a work-item should take all columns of many, or fetch them
    with its group."""
    profile = target.profile
    rows = prod(a.extent for a in (*form.batch, *form.m))
    if profile.lanes > 1 and not (profile.slice or profile.factor_slice):
        return "work-items that fetch nothing together would each normalise it"
    columns = form.fields * prod(a.extent for a in form.n)
    if profile.lanes > 1 and not profile.slice and columns > prod(a.extent for a in form.k):
        whole = profile.register_tile[0] // (2 if form.fields > 2 else 1)
        if fetching_tile(form, profile)[0] < whole:
            return "its many columns would be computed in smaller tiles"
    tiles = -(-rows // profile.register_tile[0])
    if rows < profile.lanes or (profile.lanes == 1 and tiles < LEAST_TILES * target.peak.cores):
        return "there are too few rows"
    if profile.lanes == 1 and not most_tiles(form, profile):
        return "its rows are too long to be held"
    return ""


def fetching_tile(form: Contraction, profile: Profile) -> tuple[int, int]:
    """Rows and columns (of each field) of a work-item's results on a target where only factors that
    are computed pass through local memory: those that leave registers for what is fetched."""
    rows, columns = profile.register_tile
    rows = max(1, rows // 2) if form.fields > 2 else rows
    columns = max(profile.vector, columns // form.fields)
    while 0 < profile.registers < rows * columns * form.fields + rows + profile.vector + FETCHED:
        if columns == profile.vector and rows == 1:
            break
        rows, columns = (rows, columns // 2) if columns > profile.vector else (rows // 2, columns)
    return rows, columns


def most_tiles(form: Contraction, profile: Profile) -> int:
    """Register tiles of whole rows that a work-item may hold."""
    return MOST_HELD // (profile.register_tile[0] * prod(a.extent for a in form.k))


def factor_rows(group: Group) -> Group | None:
    """The map of a contraction's left factor that it holds with the statistics, if it does."""
    if len(group.inner) != 2 or contraction(group) is None:
        return None
    statistics, rows = group.inner
    is_form = statistics.monoid is not None and rows.monoid is None
    return rows if is_form and contraction(statistics) is None else None


def written_in(group: Group, fused: bool) -> Group:
    """The contraction with its map of rows in its factor: the statistics alone stay inside.
    `fused`: a row's own difference and factor are one operation, of what a work-item keeps."""
    statistics, rows = group.inner
    store = rows.stores[0]
    along = frozenset(group.over)

    def change(e: Expr) -> Expr | None:
        if not isinstance(e, Read) or e.source is not store.node:
            return None
        value = substitute(store.value, dict(zip(rows.axes, e.indices, strict=True)))
        return rebuild(value, lambda part: _fused(part, along)) if fused else value

    lift = tuple(rebuild(e, change) for e in group.lift)
    return replace(group, lift=lift, inner=(statistics,))


def _fused(e: Expr, along: frozenset[Axis]) -> Expr | None:
    """`(x - a) * b` of a row's own `a` and `b` as one operation, `x * b + (-a * b)`."""
    match e:
        case Apply(op="mul", args=(Apply(op="sub", args=(x, a)), b)):
            if along.isdisjoint(axes_of(a, b)):
                x = rebuild(x, lambda part: _fused(part, along))
                return apply("fma", x, b, apply("mul", apply("neg", a), b))
    return None


def with_row_values(group: Group) -> Group:
    """A contraction with its statistics inside, and what it makes of those alone in its left factor
    (a row's own factor and shift) as an inner map: computed once a row, not at every slice."""
    form = contraction(group)
    if len(group.inner) != 1 or form is None:
        return group
    (statistics,) = group.inner
    places = dict.fromkeys(r.indices for r in reads_of(form.left) if _is_of(r, statistics))
    axes = [bare_axis(i) for i in next(iter(places), ())]
    own = tuple(a for a in axes if a is not None)
    if len(places) != 1 or len(set(own)) != len(axes):
        return group
    stores: list[Output] = []
    made: dict[Expr, Expr] = {}

    def change(e: Expr) -> Expr | None:
        if not isinstance(e, Apply) or not axes_of(e) <= set(own):
            return None
        if not all(_is_of(r, statistics) for r in reads_of(e)):
            return None
        if e not in made:
            node = Input(f"row{len(stores)}.{group.name}", tuple(a.extent for a in own), DType.F32)
            indices = tuple(Index(a) for a in own)
            stores.append(Output(node, 0, indices, e))
            made[e] = Read(node, indices)
        return made[e]

    lift = tuple(rebuild(e, change) for e in group.lift)
    if not stores:
        return group
    rows = Group("rows", own, (), None, (), tuple(stores), group.origins)
    return replace(group, lift=lift, inner=(statistics, rows))


def _is_of(read: Read, part: Group) -> bool:
    return any((read.source, read.field) == (s.node, s.field) for s in part.stores)


# ---- steps ---------------------------------------------------------------------------------------


def private_factor(group: Group, steps: tuple[Step, ...], setting: Setting) -> tuple[Step, ...]:
    """The steps with the statistics and the rows of each work-item in its own memory: vectors along
    K, some rows together."""
    draft = NestDraft(group, initial(group))
    draft.take(*steps)
    for part in reversed(group.inner):
        draft.take(Stage(part.name, "", Place.PRIVATE))
        along = max(part.over or part.axes[-1:], key=lambda a: a.extent)
        loop = _loop(draft, part, along)
        width = vector_width(loop, setting.profile.vector)
        if part.monoid is None:
            width = covering(loop, setting)
        draft.tile(f"{part.name}/{along.name}", width, Kind.VECTOR, "vec")
        if part.monoid is not None:
            row = max(part.axes, key=lambda a: _loop(draft, part, a))
            size = vector_width(_loop(draft, part, row), ROWS)
            draft.tile(f"{part.name}/{row.name}", size, Kind.UNROLL, "tile")
    return tuple(draft.steps)


def _loop(draft: NestDraft, part: Group, axis: Axis) -> int:
    stage = next(s for s in draft.nest.stages if s.value == part.name)
    return stage.nest.loop(axis.name).extent


def local_statistics(draft: NestDraft, part: Group, setting: Setting) -> None:
    """Statistics in local memory: rows over lanes 1 and 2, K over lanes 0 where they can share it,
    by vectors where slices are loaded ahead, so that all loads of a row are alike. Of a sub-group
    few work-items share a row."""
    draft.take(Stage(part.name, "", Place.LOCAL))
    across = draft.nest.size(Kind.LANE, 0)
    rows = sorted(part.axes, key=lambda a: -_loop(draft, part, a))
    along = max(part.over, key=lambda a: a.extent)
    ways = across if setting.instruction is None else min(across, SHARING)
    if across % ways or not rows or _loop(draft, part, rows[0]) % (across // ways):
        ways = across
    if ways > 1 and ways & (ways - 1) == 0 and ways <= along.extent:
        _share_row(draft, part, along, ways, setting)
    free = [across // ways, draft.nest.size(Kind.LANE, 1), draft.nest.size(Kind.LANE, 2)]
    for row in rows:
        name, extent = f"{part.name}/{row.name}", _loop(draft, part, row)
        for dim, most in enumerate(free):
            lanes = vector_width(extent, most)
            free[dim], extent = most // lanes, extent // lanes
            if lanes > 1:
                inner = f"{name}.lane" if dim == 1 else f"{name}.lane{dim}"
                draft.take(Tile(name, lanes, inner), Bind(inner, Kind.LANE, dim))
    for row, size in _rows_together(draft, part, rows, setting).items():
        draft.tile(f"{part.name}/{row.name}", size, Kind.UNROLL, "tile")


def _rows_together(
    draft: NestDraft, part: Group, rows: list[Axis], setting: Setting
) -> dict[Axis, int]:
    """How many rows' statistics advance together: of the longest axis, or, where registers are
    counted, of every axis, unless their terms are so few that the loop would be written out."""
    together, sizes = ROWS, {}
    for row in rows if setting.profile.registers else rows[:1]:
        sizes[row] = vector_width(_loop(draft, part, row), together)
        together //= sizes[row]
    terms = prod(sizes.values()) * prod(_loop(draft, part, a) for a in part.over)
    return {} if setting.profile.registers and terms < WRITTEN_OUT else sizes


def _share_row(draft: NestDraft, part: Group, along: Axis, ways: int, setting: Setting) -> None:
    """A row's terms over lanes 0, by vectors where slices are loaded ahead."""
    name = f"{part.name}/{along.name}"
    width = vector_width(along.extent, setting.profile.vector)
    if setting.profile.depth > 1 and ways * width <= along.extent:
        draft.tile(name, width, Kind.VECTOR, "vec")
    draft.take(Tile(name, ways, f"{name}.lane"), Bind(f"{name}.lane", Kind.LANE, 0))
    if setting.instruction is not None:
        draft.tile(name, divisor(_loop(draft, part, along), AHEAD), Kind.UNROLL, "ahead")
