"""Contractions whose operands pass through local memory.

In: a contraction, a setting. Out: the same group with both factors as inner groups, and steps.
Invariant: the steps are legal; a work-group computes a tile of M × N, in passes over K: its
work-items fetch a slice of both factors together, each then works from local memory on results
that lie a work-group's width apart, so that neighbours read neighbouring elements.

    for k.block { left[M × K'] and right[K' × N] to local memory; barrier
                  for k { results[rows × columns] of every work-item += left * right } }

Where only a left factor that is computed passes through it (`profile.factor_slice`), right factors
are read from memory, and a work-item's rows lie side by side for each k.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from sdlc.graph.expr import Axis, Expr, Index, Read, apply, axes_of, reads_of, walk
from sdlc.graph.node import Input
from sdlc.graph.types import DType
from sdlc.schedule.contraction import Contraction, contraction
from sdlc.schedule.draft import Setting, bind_groups, divisor, flat_strides, vector_width
from sdlc.schedule.factor import local_statistics
from sdlc.schedule.group import Group, Output
from sdlc.schedule.nest import Bind, Kind, Nest, Place, Reorder, Spread, Stage, Step, Tile, initial
from sdlc.schedule.staging import NestDraft
from sdlc.target import Profile

LEAST = 16
"""Fewer rows than this are not worth a work-group's tile."""

LEAST_STEPS = 4
"""Steps of a slice that a work-item takes at least."""

WRITTEN = 4
"""Where registers are counted, so many parts of a slice are steps of a loop, not written out."""

PLACE = 2
"""Registers of the address of what is read or stored beside the results."""

FULL = 0.75
"""The share of the registers that results and places may take, beside a step's factors."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A work-item's rows and columns of results, the work-items down and across, and the `ways`
    that share each result, each with its part of every slice."""

    rows: int
    columns: int
    down: int
    across: int
    ways: int = 1
    smaller: int = 1
    """How many times smaller than the profile's a work-item's tile is: slices are longer for it."""

    @property
    def height(self) -> int:
        return self.rows * self.down

    @property
    def width(self) -> int:
        return self.columns * self.across


def with_operands(group: Group, lanes: Axis | None, setting: Setting) -> Group | str:
    """The contraction with its factors as inner groups, or why local memory does not pay for
    it."""
    form = contraction(group)
    if form is None or len(group.inner) > 1:
        return "it is no contraction on its own"
    if not setting.profile.slice:
        return "factors do not pass through local memory on the target"
    if lanes is None or lanes not in form.n:
        return "its vectors do not run along the right factor"
    if prod(a.extent for a in form.m) < LEAST:
        return f"it has fewer than {LEAST} rows"
    depth, axis = _depth(form, setting, 1)
    if axis is None or depth < LEAST_STEPS:
        return "what is summed over has no slices that are long enough"
    if any(is_gather(e) for e in (form.left, *form.rights)):
        return "an index of a factor is read from memory"
    alone = _fitted(group, form, lanes, setting)[1] >= lanes.extent
    if alone and setting.profile.registers and not setting.profile.factor_slice:
        return "a work-item takes all columns: none shares what would take places and registers"
    if setting.profile.factor_slice:
        rows = max(form.m, key=lambda a: a.extent)
        left = operand(group, "left", form.left, [*form.batch, *form.k, *form.m], rows)
        lift = tuple(apply("mul", read_operand(left), right) for right in form.rights)
        return replace(group, lift=lift, inner=(*group.inner, left))
    left = operand(group, "left", form.left, [*form.batch, *form.m, *form.k], axis)
    rights = [
        operand(group, f"right{n or ''}", e, [*form.batch, *form.k, *form.n], lanes)
        for n, e in enumerate(form.rights)
    ]
    lift = tuple(apply("mul", read_operand(left), read_operand(right)) for right in rights)
    return replace(group, lift=lift, inner=(*group.inner, left, *rights))


def is_gather(expr: Expr) -> bool:
    """Whether some index is read from memory."""
    return any(
        isinstance(e, Read) and any(isinstance(i, Read) for i in walk(*e.indices))
        for e in walk(expr)
    )


def operand(
    group: Group,
    name: str,
    value: Expr,
    axes: list[Axis],
    last: Axis,
    dtype: DType = DType.F32,
) -> Group:
    """A factor as a map over the axes that it depends on, `last` the innermost."""
    used = axes_of(value)
    order = (*(a for a in axes if a in used and a != last), *((last,) if last in used else ()))
    node = Input(f"{name}.{group.name}", tuple(a.extent for a in order), dtype)
    store = Output(node, 0, tuple(Index(a) for a in order), value)
    return Group(name, order, (), None, (), (store,), group.origins)


def read_operand(held: Group) -> Expr:
    """What a factor is where it is read: the element of its map."""
    return Read(held.stores[0].node, tuple(Index(a) for a in held.axes))


def _depth(form: Contraction, setting: Setting, smaller: int) -> tuple[int, Axis | None]:
    """How much of K a pass takes, for a tile so many times smaller than the profile's, and along
    which axis: the one that is innermost in storage."""
    strides = flat_strides(form.left, setting.orders)
    long = [a for a in form.k if a.extent > 1] or form.k
    ranked = sorted(long, key=lambda a: (-strides.get(a, 1 << 40), a.extent))
    axis = ranked[-1] if ranked else None
    if axis is None:
        return 0, None
    most = setting.profile.slice * smaller
    found = [d for d in range(4, most + 1, 4) if axis.extent % d == 0]
    return (max(found) if found else divisor(axis.extent, most)), axis


def operand_steps(
    group: Group, form: Contraction, lanes: Axis, setting: Setting
) -> tuple[Step, ...]:
    """Tiles for work-groups and work-items, slices of K, and how the slices are fetched. `form` is
    the contraction's before its factors became inner groups."""
    shape = _shape(group, form, lanes, setting)
    while True:
        draft = _tiled(group, form, lanes, shape, setting)
        if shape.down == 1 or _held_bytes(draft.nest, form, shape) <= setting.local_bytes:
            return tuple(draft.steps)
        shape = replace(shape, down=shape.down // 2)


def _held_bytes(nest: Nest, form: Contraction, shape: Shape) -> int:
    """Bytes of local memory that the stages take, and what ways combine their results in."""
    slices = sum(prod(s.region.extents[:-1]) * (s.region.extents[-1] + s.pad) for s in nest.stages)
    vector = prod(lp.extent for lp in nest.loops if lp.kind is Kind.VECTOR)
    lanes = shape.down * shape.across * shape.ways
    return 4 * (slices + (form.fields * lanes * vector if shape.ways > 1 else 0))


def _tiled(
    group: Group, form: Contraction, lanes: Axis, shape: Shape, setting: Setting
) -> NestDraft:
    """The nest of one shape."""
    draft = NestDraft(group, initial(group))
    _columns(draft, lanes, shape, setting)
    rows = [a for a in group.axes if a in form.m]
    near = setting.profile.factor_slice > 0
    _rows(draft, rows, shape, near)
    left = {a: draft.nest.loop(a.name).extent for a in group.axes}
    order = [*(a for a in group.axes if a not in rows and a != lanes), *rows, lanes]
    draft.take(*bind_groups(order, left, setting))
    depth, axis = _depth(form, setting, shape.smaller)
    assert axis is not None
    draft.take(Reorder(tuple(a.name for a in (*(k for k in form.k if k != axis), axis))))
    _slices(draft, axis.name, depth, shape, setting, _is_deep(form, setting))
    vector = setting.profile.vector
    for part in reversed(group.inner):
        if part.monoid is not None:
            local_statistics(draft, part, setting)
            continue
        if near:
            _columns_of_rows(draft, part, axis, setting)
            continue
        pad = vector if part.name == "left" else 0
        draft.take(Stage(part.name, axis.name, Place.LOCAL, pad))
        stage = next(s for s in draft.nest.stages if s.value == part.name)
        draft.take(Spread(part.name, vector_width(stage.region.extents[-1], vector)))
    return draft


def _slices(
    draft: NestDraft, axis: str, depth: int, shape: Shape, setting: Setting, deep: bool
) -> None:
    """Passes over slices of K; within one, ways, then steps that are written out: half as many
    where K is `deep`."""
    inner = f"{axis}.in"
    draft.take(Tile(axis, depth, inner))
    each = depth // shape.ways
    most = setting.profile.unroll
    if setting.profile.registers:
        most = min(most, max(1, depth // (2 * WRITTEN if deep else WRITTEN)))
    unroll = divisor(each, most)
    if shape.ways > 1:
        name = f"{axis}.way"
        draft.take(Tile(inner, shape.ways * unroll, name), Tile(name, unroll, f"{axis}.unroll"))
        draft.take(Bind(name, Kind.LANE, 2))
        if unroll > 1:
            draft.take(Bind(f"{axis}.unroll", Kind.UNROLL))
    else:
        draft.tile(inner, unroll, Kind.UNROLL, "unroll")


def _shape(group: Group, form: Contraction, lanes: Axis, setting: Setting) -> Shape:
    """The profile's tile, or what registers hold of it; where it leaves a core fewer than two
    work-groups, half as high, with two ways to share each result, unless right factors come from
    memory: each would serve half as many results."""
    profile = setting.profile
    others = prod(a.extent for a in (*form.batch, *(x for x in form.n if x != lanes)))
    m, n = prod(a.extent for a in form.m), lanes.extent
    rows, columns = _fitted(group, form, lanes, setting)
    smaller = max(1, prod(profile.register_tile) // (rows * columns * form.fields))
    # Every field has a slice of its own; where registers are counted, it has fewer columns too.
    narrow = profile.registers and not profile.factor_slice
    beside = 1 if narrow else 1 << (form.fields - 1).bit_length()
    across = min(max(1, profile.across // beside), -(-n // columns))
    down = 1 << (-(-profile.lanes // across) - 1).bit_length()
    depth = _depth(form, setting, smaller)[0]
    full = Shape(rows, columns, down, across, smaller=smaller)
    groups = others * -(-m // full.height) * -(-n // full.width)
    able = rows > 1 and depth % (2 * LEAST_STEPS) == 0 and not profile.factor_slice
    few = groups < 2 * profile.groups
    return replace(full, rows=rows // 2, ways=2) if able and few else full


def _fitted(group: Group, form: Contraction, lanes: Axis, setting: Setting) -> tuple[int, int]:
    """Rows and columns of a work-item's tile: the profile's, halved while it leaves too few
    registers beside the results and the places of what is stored, and read with it, at each vector.
    Several results of one left factor share the tile, and half of it at most, since each has slices
    of its own; so do results of rows that are normalised as they are fetched.
    """
    (rows, columns), vector = setting.profile.register_tile, setting.profile.vector
    fields, profile = form.fields, setting.profile
    if profile.factor_slice or (fields > 1 and not profile.registers):
        return (rows if fields < 3 else max(1, rows // 2)), columns
    columns = max(vector, columns // form.fields)
    each = 1 + PLACE * _places(group, form, lanes, setting)
    # Where only such rows are fetched, the tile is one for them already (`fetching_tile`).
    fetched = setting.profile.factor_slice == 0 and any(p.monoid for p in group.inner)
    halved = fetched or form.fields > 1 or _is_deep(form, setting)
    most = prod(setting.profile.register_tile) // (2 if halved else 1)
    while setting.profile.registers:
        results = rows * columns * form.fields
        if results <= most and results * each <= FULL * setting.profile.registers:
            break
        if columns >= 2 * vector:
            columns //= 2
        elif rows > 2:
            rows //= 2
        else:
            break
    return rows, columns


def _is_deep(form: Contraction, setting: Setting) -> bool:
    """Whether loops over other axes of K, as of a window, are around those over slices and within
    them: each has places of its own in both factors, and in what is on its way to local memory."""
    depth, axis = _depth(form, setting, 1)
    others = any(a.extent > 1 for a in form.k if a != axis)
    return others and axis is not None and axis.extent > depth


def _places(group: Group, form: Contraction, lanes: Axis, setting: Setting) -> float:
    """Addresses for each result of what is stored, and read as it is: one a vector where its lanes
    are neighbours in storage."""
    stored = [Read(s.node, s.indices, s.field) for s in group.stores]
    beside = (*stored, *reads_of(*(s.value for s in group.stores)))
    found = 0.0
    for read in beside:
        if lanes in axes_of(read) and axes_of(read) & {*form.m}:
            inner = read.indices[setting.orders[(read.source, read.field)][-1]]
            found += 1 / setting.profile.vector if lanes in axes_of(inner) else 1
    return found


def _columns(draft: NestDraft, lanes: Axis, shape: Shape, setting: Setting) -> None:
    """Vectors of neighbouring work-items side by side; a work-item's vectors lie further apart."""
    width = min(setting.profile.vector, shape.columns)
    far, lane, vector = (f"{lanes.name}.{word}" for word in ("in", "lane", "vec"))
    draft.take(Tile(lanes.name, shape.columns * shape.across, far))
    draft.take(Tile(far, width * shape.across, lane), Bind(far, Kind.UNROLL))
    if width > 1:
        draft.take(Tile(lane, width, vector), Bind(vector, Kind.VECTOR))
    draft.take(Bind(lane, Kind.LANE, 0))


def _columns_of_rows(draft: NestDraft, part: Group, axis: Axis, setting: Setting) -> None:
    """The left factor in local memory, a work-item's rows side by side for each step of K: they
    arrive as a vector, of which nothing has to be kept for the next steps. It is fetched along K,
    by vectors, K over lanes 0 and rows over lanes 1; where no row is beyond the end, each with a
    place of its own, several rows at once, so that they are stored as a vector too."""
    profile = setting.profile
    draft.take(Stage(part.name, axis.name, Place.LOCAL, profile.vector))
    across, down = draft.nest.size(Kind.LANE, 0), draft.nest.size(Kind.LANE, 1)
    stage = next(s for s in draft.nest.stages if s.value == part.name)
    extents = {a: stage.nest.loop(a.name).extent for a in part.axes}
    rows = [a for a in part.axes if a in draft.group.axes]
    last = part.axes[-1]
    if last in rows and draft.nest.is_exact(last):
        side = vector_width(extents[last], profile.vector)
        draft.tile(f"{part.name}/{last.name}", side, Kind.VECTOR, "vec")
        extents[last] //= side
    name, width = f"{part.name}/{axis.name}", _steps_at_once(extents[axis], across, profile)
    draft.tile(name, width, Kind.UNROLL, "tile")
    lanes = vector_width(extents[axis] // width, across)
    if lanes > 1:
        draft.take(Tile(name, lanes, f"{name}.lane"), Bind(f"{name}.lane", Kind.LANE, 0))
    for row in rows:
        name = f"{part.name}/{row.name}"
        lanes = vector_width(extents[row], down)
        down //= lanes
        if lanes > 1:
            draft.take(Tile(name, lanes, f"{name}.lane"), Bind(f"{name}.lane", Kind.LANE, 1))


def _steps_at_once(extent: int, across: int, profile: Profile) -> int:
    """Steps of K that a work-item fetches side by side: a vector of them, or fewer, where all
    work-items have some then."""
    width = vector_width(extent, max(1, profile.gather))
    if extent % (width * across) and extent % across == 0:
        return vector_width(extent // across, width)
    return width


def _rows(draft: NestDraft, rows: list[Axis], shape: Shape, near: bool) -> None:
    """The tile's rows over the axes of M from the innermost; neighbouring work-items take
    neighbouring rows, or, where those of one lie `near` one another, the next ones of the longest
    axis."""
    down, each = shape.down, shape.rows
    longest = max(rows, key=lambda a: a.extent)
    for number, axis in enumerate([*(a for a in reversed(rows) if a != longest), longest]):
        last = number == len(rows) - 1
        lane = down if last else min(down, power(axis.extent, down))
        rest = -(-axis.extent // lane)
        copies = min(each, 1 << (rest - 1).bit_length()) if last else power(rest, each)
        if near and not last:
            copies = 1
        name, side = f"{axis.name}.in", f"{axis.name}.lane"
        if lane * copies > 1:
            outer, inner, size = (side, name, copies) if near else (name, side, lane)
            draft.take(Tile(axis.name, lane * copies, outer), Tile(outer, size, inner))
            draft.take(Bind(side, Kind.LANE, 1), Bind(name, Kind.UNROLL))
        down, each = max(1, down // lane), max(1, each // copies)


def power(extent: int, limit: int) -> int:
    """The largest power of two that divides an extent, at most `limit`."""
    found = 1
    while found * 2 <= limit and extent % (found * 2) == 0:
        found *= 2
    return found
