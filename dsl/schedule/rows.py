"""A map and the statistics that it needs in one kernel: a work-group for each row.

In: groups, or a group and a setting. Out: groups in which a reduction that one map reads, row by
row, is computed inside it; steps. Invariant: a row is the points of the map that read one result;
every row's statistics are computed once, by the work-items that then compute the row.

    out[b, i] = (x[b, i] - mean[b]) * …          row b: all i
    out[b, c, s] = (x[b, c, s] - mean[b, c / 10]) * …   row (b, c / 10): 10 channels, all s
"""

from __future__ import annotations

from dataclasses import replace
from math import lcm, prod

from sdlc.graph.expr import Apply, Axis, Expr, Index, Literal, Read, rebuild, substitute
from sdlc.graph.node import Map, Node
from sdlc.graph.rewrite import read_through
from sdlc.schedule.absorb import absorbed_into, arrangement, readers_of, shared_value
from sdlc.schedule.contraction import constant_factor, contraction
from sdlc.schedule.draft import (
    Setting,
    bind_groups,
    divisor,
    flat_strides,
    share,
    vector_width,
)
from sdlc.schedule.group import Group
from sdlc.schedule.held_rows import held_rows_steps
from sdlc.schedule.nest import Bind, Kind, Loop, Place, Reorder, Stage, Step, Tile, initial
from sdlc.schedule.reasons import Journal
from sdlc.schedule.staging import NestDraft
from sdlc.target import Profile

MANY, LEAST = 64, 8
"""Where more work-items than this share a row, each has that many elements of it at least."""

ALONE = 16
"""Every work-item folds statistics over so few elements for itself; then a row may have several
work-groups."""

LONG_ROW, MOST_AGAIN = 1 << 13, 4
"""Elements of a row whose statistics may be folded by several work-groups, each for itself, and how
many: they are a third of what a work-group does that folds, reads again and stores a row, and two
thirds of what four do."""

AHEAD = 8
"""Steps of statistics that are written out where work-items lie side by side."""

MOST_BESIDE = 64
"""Work-items side by side along one axis at most."""

WRITTEN = 4
"""Registers for each element of a part of a row that a compiler writes out and keeps from the first
pass to the second: a part that is short enough to be written out has to fit."""

BESIDE = 4
"""Work-groups for each of those that keep a device busy, where rows have several."""

MOST_ROW = 1 << 20
"""Longer rows are too few to keep a device busy."""


def nest_rows(
    groups: tuple[Group, ...], kept: frozenset[Node], profile: Profile, journal: Journal
) -> tuple[Group, ...]:
    """The groups with every reduction that one map reads row by row inside that map, unless only
    vectors share a row and it has no room for them."""
    readers = readers_of(groups)
    made: list[Group | None] = list(groups)
    producers = {s.node: n for n, g in enumerate(groups) for s in g.stores}
    for number, group in enumerate(groups):
        if group.monoid is not None or group.inner:
            continue
        for source, _ in group.operands:
            at = producers.get(source)
            producer = made[at] if at is not None else None
            if producer is None or not _is_statistics(producer):
                continue
            why = shared_value(source, kept, readers) or _no_rows(group, source, profile)
            whole = group if why else _with_statistics(group, producer)
            if not why and rows_of(whole, whole.inner[-1].stores[0].node) is None:
                why = "where its epilogue is read, its rows are not those of the reader"
            journal.tell("rows", producer, why)
            if not why:
                assert at is not None
                made[at], made[number] = None, whole
                break
    return tuple(g for g in made if g is not None)


def continue_rows(
    groups: tuple[Group, ...], kept: frozenset[Node], most: int, journal: Journal
) -> tuple[Group, ...]:
    """The groups with every map that alone reads a map of rows, element by element, computed with
    it; a kernel binds at most `most` buffers. (Before statistics are inside, such a pair may read
    too much.)"""
    readers = readers_of(groups)
    made: list[Group | None] = list(groups)
    for number, rows in enumerate(groups):
        if rows.monoid is not None or len(rows.inner) != 1 or len(rows.stores) != 1:
            continue
        node = rows.stores[0].node
        if shared_value(node, kept, readers):
            continue
        at = next(iter(readers[node]))
        whole = _continued(rows, made[at], most)
        if whole is not None:
            made[number], made[at] = None, whole
            journal.tell("rows", whole, "")
    return tuple(g for g in made if g is not None)


def _continued(rows: Group, reader: Group | None, most: int) -> Group | None:
    """The reader with the map of rows written into it, if it is a map of about as many elements."""
    node, places = rows.stores[0].node, arrangement(rows)
    if reader is None or reader.monoid is not None or reader.inner or not isinstance(node, Map):
        return None
    if places is None or reader.points > 2 * rows.points or reader.name == rows.inner[0].name:
        return None
    if sum(r.source is node for r in reader.reads) != 1:
        return None
    body = substitute(rows.stores[0].value, places)
    written = replace(node, body=body)

    def change(e: Expr) -> Expr | None:
        return read_through(e, written) if isinstance(e, Read) and e.source is node else None

    stores = tuple(replace(s, value=rebuild(s.value, change)) for s in reader.stores)
    origins = tuple(dict.fromkeys((*rows.origins, *reader.origins)))
    whole = replace(reader, stores=stores, inner=rows.inner, origins=origins)
    fits = len(whole.operands) + len(whole.stores) <= most
    statistics = rows.inner[0].stores[0].node
    return whole if fits and rows_of(whole, statistics) is not None else None


def _no_rows(group: Group, source: Node, profile: Profile) -> str:
    """Why a map does not compute the statistics that it reads, or ''."""
    rows = rows_of(group, source)
    if rows is None:
        return "its reader reads it in several ways, or in rows that are cut short"
    if not _pays(rows, profile):
        return "parts of a row do not fill vectors, and no work-items share one"
    return ""


def _pays(rows: dict[Axis, int], profile: Profile) -> bool:
    """Whether the parts of axes that a row has, or those of neighbouring rows together, can be
    vectors where no work-items share it."""
    few = min(2, profile.vector)
    return profile.reduction_lanes > 1 or all(
        vector_width(size, few) == few or axis.extent % lcm(size, profile.vector) == 0
        for axis, size in rows.items()
        if size > 1
    )


def _is_statistics(group: Group) -> bool:
    return (
        group.monoid is not None
        and not group.inner
        and contraction(group) is None
        and constant_factor(group) is None
        and len({s.node for s in group.stores}) == 1
        and 1 < prod(a.extent for a in group.over) <= MOST_ROW
    )


def _with_statistics(group: Group, producer: Group) -> Group:
    """The map with the reduction inside; a reduction stores all its fields under its own node."""
    if arrangement(producer) is not None:
        return absorbed_into(group, producer)
    inner = replace(producer, name=_other_name(producer.name, group.name))
    origins = tuple(dict.fromkeys((*producer.origins, *group.origins)))
    return replace(group, inner=(inner,), origins=origins)


def _other_name(name: str, taken: str) -> str:
    return name if name != taken else f"{name}_inner"


def rows_of(group: Group, source: Node) -> dict[Axis, int] | None:
    """The axes that rows run along and how much of each is one row; None if reads differ."""
    found = {r.indices for r in group.reads if r.source is source}
    if len(found) != 1 or any(r.fill is not None for r in group.reads if r.source is source):
        return None
    sizes: dict[Axis, int] = {}
    for index in next(iter(found)):
        step = _step(index)
        if step is None or step[0] in sizes:
            return None
        sizes[step[0]] = step[1]
    return sizes


def _step(index: Expr) -> tuple[Axis, int] | None:
    """An axis, and how many of its indices share this one."""
    match index:
        case Index(axis=axis):
            return axis, 1
        case Apply(op="floordiv", args=(Index(axis=axis), Literal(value=int(size)))):
            return (axis, int(size)) if axis.extent % int(size) == 0 else None
    return None


def rows_steps(group: Group, stored: list[Axis], setting: Setting) -> tuple[Step, ...]:
    """Rows over work-groups; the elements of one over vectors, work-items and loops. A row whose
    statistics are quickly folded may have several work-groups."""
    part = group.inner[-1]
    sizes = rows_of(group, part.stores[0].node)
    assert sizes is not None
    if len(group.inner) > 1:
        return held_rows_steps(group, stored, sizes, setting)
    draft = NestDraft(group, initial(group))
    inside: list[str] = []
    for axis in stored:
        size = sizes.get(axis, axis.extent)
        if axis not in sizes and size > 1:
            inside.append(axis.name)
        elif size > 1:
            draft.tile(axis.name, size, Kind.SERIAL, "in")
            inside.append(f"{axis.name}.in")
    if inside:
        extent = draft.nest.loop(inside[-1]).extent
        draft.tile(inside[-1], vector_width(extent, setting.profile.vector), Kind.VECTOR, "vec")
    whole = [a.name for a in reversed(stored) if a not in sizes]
    wide = sorted(whole, key=lambda n: -draft.nest.loop(n).extent)
    alone = prod(a.extent for a in part.over) <= ALONE and setting.profile.reduction_lanes > 1
    rows = prod(draft.nest.loop(a.name).extent for a in sizes)
    side = None if alone or not inside else _side(part, draft.nest.loop(inside[-1]), setting)
    far = [n for n in wide if n != inside[-1]] if side is not None else wide
    lanes = [] if alone else _lanes(part, setting, side)[: len(far)]
    if side is not None and not lanes:
        side, far, lanes = None, wide, _lanes(part, setting, None)[: len(wide)]
    for dim, ((_, ways), name) in enumerate(zip(lanes, far, strict=False)):
        draft.take(Tile(name, ways, f"{name}.lane"), Bind(f"{name}.lane", Kind.LANE, dim))
    if side is not None:
        draft.take(Bind(inside[-1], Kind.LANE, 0), Reorder((f"{far[0]}.lane", inside[-1])))
        ahead = {n: divisor(draft.nest.loop(n).extent, AHEAD) for n in far}
        most = max(ahead, key=lambda n: ahead[n])
        draft.tile(most, ahead[most], Kind.UNROLL, "ahead")
        inside = inside[:-1]
    short = prod(a.extent for a in part.over) < LONG_ROW
    beside = (
        () if short and not alone else (_beside if alone else _again)(draft, far, rows, setting)
    )
    if lanes and len(inside) > 1:
        draft.take(Reorder(tuple(inside)))
    left = {a: draft.nest.loop(a.name).extent for a in group.axes}
    bound = [a for a in stored if a in sizes or a.name in beside]
    draft.take(*bind_groups(bound, left, setting))
    draft.take(Stage(part.name, "", Place.PRIVATE))
    return (*draft.steps, *_statistics_steps(part, lanes, side, setting))


def _side(part: Group, last: Loop, setting: Setting) -> Axis | None:
    """The reduced axis whose vectors work-items take side by side, all of them, for the statistics
    and for the row: one that is innermost in storage, `last` being the row's loop over vectors."""
    strides = _strides(part, setting)
    axis = next((a for a in part.over if strides.get(a) == 1), None)
    if setting.profile.depth < 2 or axis is None or len(part.over) == 1:
        return None
    count = axis.extent // vector_width(axis.extent, setting.profile.vector)
    return axis if 1 < count <= MOST_BESIDE and count == last.extent else None


def _beside(draft: NestDraft, wide: list[str], rows: int, setting: Setting) -> tuple[str, ...]:
    """Work-items along the longest axes of a row; then, where that leaves a loop along the longest,
    several work-groups for each of `rows` rows. The axes that have some."""
    ways = setting.profile.reduction_lanes
    for dim, name in enumerate(wide[:3]):
        size = share(draft.nest.loop(name).extent, ways)
        if size > 1:
            draft.take(Tile(name, size, f"{name}.lane"), Bind(f"{name}.lane", Kind.LANE, dim))
            ways //= size
    if not wide:
        return ()
    extent, wanted = draft.nest.loop(wide[0]).extent, -(-BESIDE * setting.profile.groups // rows)
    count = next((n for n in range(wanted, extent) if extent % n == 0), extent)
    draft.tile(wide[0], extent // count, Kind.SERIAL, "each")
    return (wide[0],)


def _again(draft: NestDraft, wide: list[str], rows: int, setting: Setting) -> tuple[str, ...]:
    """Where so few long rows leave cores idle, and loads are under way together, several
    work-groups for each, which all fold its statistics, in parts of the longest axis that divides
    so. The axes that have some."""
    most = min(setting.profile.groups // rows, MOST_AGAIN)
    if setting.profile.depth < 2 or prod(a.extent for a in draft.group.inner[-1].over) < LONG_ROW:
        return ()
    for name in wide if most > 1 else ():
        extent = draft.nest.loop(name).extent
        count = divisor(extent, most)
        if count > 1:
            draft.tile(name, extent // count, Kind.SERIAL, "each")
            return (name,)
    return ()


def _lanes(part: Group, setting: Setting, side: Axis | None) -> list[tuple[Axis, int]]:
    """How many work-items share the reduction along its longest axes, beside those that take the
    vectors of `side`: powers of two, `MANY` at least with `LEAST` elements each."""
    points = prod(a.extent for a in part.over)
    left = setting.profile.reduction_lanes
    if left > MANY:
        left = min(left, max(points // LEAST, MANY))
    most = setting.profile.registers // WRITTEN
    if left > 1 and most < points // left <= setting.profile.registers:
        left = min(1 << (-(-points // most) - 1).bit_length(), setting.profile.lanes)
    if side is not None:
        left //= side.extent // vector_width(side.extent, setting.profile.vector)
    found: list[tuple[Axis, int]] = []
    strides = _strides(part, setting)
    over = [a for a in part.over if a != side]
    for axis in sorted(over, key=lambda a: (-a.extent, strides.get(a, 1 << 40)))[:3]:
        ways = min(1 << (axis.extent.bit_length() - 1), 1 << (max(left, 1).bit_length() - 1))
        if ways > 1:
            found.append((axis, ways))
            left //= ways
    return found


def _strides(part: Group, setting: Setting) -> dict[Axis, int]:
    """How far apart in storage neighbours along each reduced axis are, in the first lift that
    reads anything."""
    found = (flat_strides(lift, setting.orders) for lift in part.lift)
    return next((strides for strides in found if strides), {})


def _statistics_steps(
    part: Group, lanes: list[tuple[Axis, int]], side: Axis | None, setting: Setting
) -> list[Step]:
    """Work-items as `lanes` say, neighbours along `side`; a vector along that, or along what is
    left of the innermost axis in storage."""
    strides = _strides(part, setting) if lanes else flat_strides(part.lift[0], setting.orders)
    order = sorted(part.over, key=lambda a: (-strides.get(a, 1 << 40), a.extent))
    axis = side or max(part.over, key=lambda a: (strides.get(a) == 1, a.extent))
    free = not lanes or (setting.profile.depth > 1 and axis not in dict(lanes))
    width = vector_width(axis.extent, setting.profile.vector) if free else 1
    name = f"{part.name}/{axis.name}"
    steps: list[Step] = []
    for dim, (other, ways) in enumerate(lanes):
        lane = f"{part.name}/{other.name}"
        steps += [Tile(lane, ways, f"{lane}.lane"), Bind(f"{lane}.lane", Kind.LANE, dim)]
    if width > 1:
        steps += [Tile(name, width, f"{name}.vec"), Bind(f"{name}.vec", Kind.VECTOR)]
    if side is not None:
        order.remove(side)
        first = f"{part.name}/{lanes[0][0].name}.lane"
        steps += [Bind(name, Kind.LANE, 0), Reorder((first, name))]
    steps.append(Reorder(tuple(f"{part.name}/{a.name}" for a in order)))
    return [*steps, *_ahead(part, order, dict(lanes))] if side is not None else steps


def _ahead(part: Group, order: list[Axis], ways: dict[Axis, int]) -> tuple[Step, ...]:
    """Steps along the axis that leaves a work-item the most, the last of such, written out: their
    loads are under way together."""
    left = {a: divisor(-(-a.extent // ways.get(a, 1)), AHEAD) for a in reversed(order)}
    axis = max(left, key=lambda a: left[a])
    name, size = f"{part.name}/{axis.name}", left[axis]
    if size == 1:
        return ()
    return (Tile(name, size, f"{name}.ahead"), Bind(f"{name}.ahead", Kind.UNROLL))
