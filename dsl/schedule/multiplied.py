"""Folded states whose products within a block are matrix instructions.

In: a group over blocks with inner groups, a `Setting` whose profile names an instruction. Out: the
group with the factors of its products as inner groups of the instruction's type, and steps; or why
not. Invariant: the steps are legal; everything that rows (queries) exchange lies in local memory;
dimension 0 of the work-items is a sub-group, dimension 1 the sub-groups, each with its own rows.

    attention over blocks of keys:   local queries
      for block { local keys, values; scores = queries × keys; top; weight, in halves; sum_l;
                  sum_o = weight × values; o = o * exp(…) + sum_o }
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby
from math import prod

from sdlc.graph.expr import Axis, Expr, Read, apply, rebuild
from sdlc.graph.node import Map, Node
from sdlc.graph.types import DType
from sdlc.schedule.contraction import contraction
from sdlc.schedule.distributed import own_elements, unheld
from sdlc.schedule.draft import Setting, bind_groups, divisor, flat_strides, vector_width
from sdlc.schedule.fits import local_bytes
from sdlc.schedule.fragments import ACCESS, PAD, is_rounded
from sdlc.schedule.group import Group
from sdlc.schedule.nest import Bind, Kind, Matrix, Place, Spread, Stage, Step, Tile, initial
from sdlc.schedule.operands import is_gather, operand, power, read_operand
from sdlc.schedule.region import moved_by
from sdlc.schedule.staging import NestDraft, row_axes
from sdlc.schedule.streamed import Shape, share_part
from sdlc.target import Holding, MatrixInstruction

SHAPES = ((2, 2), (4, 1), (2, 1), (1, 1))
"""Sub-groups of a work-group, and matrices down that each has: what is streamed serves all of
them, and what a sub-group reads of it all of its own."""

OWN_SHAPES = ((4, 2), (8, 1), *SHAPES)
"""The same where work-items keep their results: local memory has room for more rows."""

MOST_RESULTS = 112
"""Results of all products within a block that a work-item holds in registers at most."""

MOST_COPIES = 5
"""Products along K that are written out."""


@dataclass(frozen=True, slots=True)
class _Product:
    """An inner product with its instruction, and the inner groups that hold its factors; the left
    one is missing where it is held already."""

    part: Group
    instruction: MatrixInstruction
    left: Group | None
    right: Group


def multiplied(group: Group, setting: Setting) -> tuple[Group, tuple[Step, ...]] | str:
    """The group with its factors in local memory, and its schedule; or why it has none."""
    rows, wide = row_axes(group)
    if setting.instruction is None:
        return "the profile names no matrix instruction"
    if len(wide) != 1 or not rows or len(group.over) != 1 or group.wide:
        return "its state has no rows and columns"
    group = _rounded(group, setting)
    products = [_product(group, p, setting) for p in group.inner if contraction(p) is not None]
    if not products or any(p is None for p in products):
        return "its products have no shape of a matrix instruction"
    found = [p for p in products if p is not None]
    whole = _with(group, found)
    row = max(rows[-2:], key=lambda a: a.extent)
    for tiled, shapes in ((_distributed, OWN_SHAPES), (_tiled, SHAPES)):
        for shape in shapes:
            draft = tiled(whole, found, row, wide[0], shape, setting)
            if draft is not None and local_bytes(whole, draft.nest) <= setting.local_bytes:
                return whole, tuple(draft.steps)
    return "a block takes more than local memory"


def _rounded(group: Group, setting: Setting) -> Group:
    """The group with maps that a product multiplies (weights) in the instruction's type."""
    of = setting.instruction
    assert of is not None
    forms = [f for p in group.inner if (f := contraction(p)) is not None]
    lefts = {f.left.source for f in forms if isinstance(f.left, Read)}
    made: dict[Node, Node] = {}
    for part in group.inner:
        node = part.stores[0].node
        if isinstance(node, Map) and node in lefts:
            made[node] = replace(node, dtype=DType(of.inputs))
    return replace(
        group,
        lift=tuple(_renamed(e, made) for e in group.lift),
        inner=tuple(_with_nodes(p, made) for p in group.inner),
    )


def _with_nodes(part: Group, made: dict[Node, Node]) -> Group:
    stores = tuple(
        replace(s, node=made.get(s.node, s.node), value=_renamed(s.value, made))
        for s in part.stores
    )
    return replace(part, lift=tuple(_renamed(e, made) for e in part.lift), stores=stores)


def _renamed(expr: Expr, made: dict[Node, Node]) -> Expr:
    def change(e: Expr) -> Expr | None:
        if not isinstance(e, Read) or e.source not in made:
            return None
        return replace(e, source=made[e.source])

    return rebuild(expr, change)


def _product(group: Group, part: Group, setting: Setting) -> _Product | None:
    """An inner product by the instruction whose K divides its own."""
    form, of = contraction(part), setting.instruction
    assert form is not None and of is not None
    if form.fields > 1 or len(form.k) != 1 or len(form.n) != 1:
        return None
    own = [
        i
        for i in setting.matrix
        if (i.inputs, i.accumulator, i.lanes) == (of.inputs, of.accumulator, of.lanes)
        and form.k[0].extent % i.k == 0
    ]
    held = isinstance(form.left, Read) and (form.left.source, form.left.field) in group.held
    made = (form.right,) if held else (form.left, form.right)
    if not own or not all(is_rounded(e, of) and not is_gather(e) for e in made):
        return None
    batch, dtype = [*form.batch, *form.m], DType(of.inputs)
    name = f"{part.name}_left"
    left = None if held else operand(part, name, form.left, [*batch, *form.k], form.k[0], dtype)
    axes = [*form.batch, *form.k, *form.n]
    last = _nearest(form.right, (form.k[0], form.n[0]), setting)
    right = operand(part, f"{part.name}_right", form.right, axes, last, dtype)
    return _Product(part, max(own, key=lambda i: i.k), left, right)


def _nearest(factor: Expr, axes: tuple[Axis, Axis], setting: Setting) -> Axis:
    """The axis whose neighbours are the closest in storage."""
    strides = flat_strides(factor, setting.orders)
    return min(axes, key=lambda a: strides.get(a, 1 << 40))


def _with(group: Group, products: list[_Product]) -> Group:
    """The group with the products' factors as inner groups, before everything else."""
    made = {p.part.name: p for p in products}
    parts = []
    for part in group.inner:
        form = contraction(part)
        if part.name in made and form is not None:
            product = made[part.name]
            left = form.left if product.left is None else read_operand(product.left)
            part = replace(part, lift=(apply("mul", left, read_operand(product.right)),))
        parts.append(part)
    lefts = [p.left for p in products if p.left is not None]
    return replace(group, inner=(*lefts, *(p.right for p in products), *parts))


def _tiled(
    group: Group,
    products: list[_Product],
    row: Axis,
    column: Axis,
    sides: tuple[int, int],
    setting: Setting,
) -> NestDraft | None:
    """The nest of so many sub-groups, each with so many matrices' rows; None where the sizes do not
    divide."""
    of = products[0].instruction
    subgroups, copies = sides
    height = of.m * subgroups * copies
    width = vector_width(column.extent, setting.profile.vector)
    across = power(column.extent // width, of.lanes)
    if row.extent % height or height % (subgroups * of.lanes // across):
        return None
    draft = NestDraft(group, initial(group))
    draft.tile(column.name, width, Kind.VECTOR, "vec")
    _lane(draft, column.name, across, 0)
    _own_rows(draft, row.name, height, subgroups, of.lanes // across)
    left = {a: draft.nest.loop(a.name).extent for a in group.axes}
    draft.take(*bind_groups([a for a in group.axes if a != column], left, setting))
    draft.take(Bind(column.name, Kind.UNROLL))
    made = {p.part.name: p for p in products}
    shape = Shape(of.lanes, subgroups, of.m * copies)
    for part in reversed(group.inner):
        if part.name in made:
            if not _multiplied(draft, made[part.name], sides, Place.LOCAL):
                return None
        elif part.monoid is None and not _reads_held(group, part):
            _streamed(draft, part, group.over[0], setting)
        else:
            pad = 0 if part.monoid is not None else PAD // DType.F16.itemsize
            draft.take(Stage(part.name, group.over[0].name, Place.LOCAL, pad))
            share_part(draft, part, shape, setting)
    return draft


def _distributed(
    group: Group,
    products: list[_Product],
    row: Axis,
    column: Axis,
    sides: tuple[int, int],
    setting: Setting,
) -> NestDraft | None:
    """The nest in which every work-item keeps to the elements that the instruction leaves it with,
    of all that is computed within a block and of the state; None where they do not fit."""
    of = products[0].instruction
    subgroups, copies = sides
    height = of.m * subgroups * copies
    if row.extent % height or column.extent % of.n:
        return None
    draft = NestDraft(group, initial(group))
    draft.take(Tile(row.name, height, f"{row.name}.in"))
    _held_rows(draft, f"{row.name}.in", sides, of)
    _held_columns(draft, column.name, of)
    left = {a: draft.nest.loop(a.name).extent for a in group.axes}
    draft.take(*bind_groups([a for a in group.axes if a != column], left, setting))
    made = {p.part.name: p for p in products}
    for part in reversed(group.inner):
        if part.name in made:
            if not _multiplied(draft, made[part.name], sides, Place.DISTRIBUTED):
                return None
        elif part.monoid is None and not _reads_held(group, part):
            _streamed(draft, part, group.over[0], setting)
        elif not _own_part(draft, part, sides, of):
            return None
    axes = {g.name: g.axes for g in group.inner}
    own = [s for s in draft.nest.stages if s.place is Place.DISTRIBUTED]
    held = sum(own_elements(s, axes[s.value])[1] for s in own if s.nest.matrix is not None)
    alone = all(not unheld(group, draft.nest, stage) for stage in draft.nest.stages)
    return draft if alone and held <= MOST_RESULTS else None


def _own_part(draft: NestDraft, part: Group, sides: tuple[int, int], of: MatrixInstruction) -> bool:
    """What a work-item makes of products' results that it holds; False where rows or columns are
    not those of the instruction."""
    draft.take(Stage(part.name, draft.group.over[0].name, Place.DISTRIBUTED))
    nest = next(s.nest for s in draft.nest.stages if s.value == part.name)
    height = of.m * prod(sides)
    own = [a for a in part.axes if nest.loop(a.name).extent == height]
    long = [a for a in (*part.axes, *part.over) if nest.loop(a.name).extent > 1]
    across = [a for a in long if a not in own[:1]]
    if not own or len(across) != 1 or nest.loop(across[0].name).extent % of.n:
        return False
    _held_rows(draft, f"{part.name}/{own[0].name}", sides, of)
    _held_columns(draft, f"{part.name}/{across[0].name}", of)
    return True


def _held_rows(draft: NestDraft, name: str, sides: tuple[int, int], of: MatrixInstruction) -> None:
    """A work-group's rows over its sub-groups, matrices of each, and who holds those."""
    copies = sides[1]
    each, cell = f"{name}.each", f"{name}.cell"
    draft.take(Tile(name, of.m * copies, each), Tile(each, of.m, cell))
    draft.take(Bind(name, Kind.LANE, 1), Bind(each, Kind.UNROLL))
    _held_cell(draft, cell, of.result, 0)


def _held_columns(draft: NestDraft, name: str, of: MatrixInstruction) -> None:
    """Columns over matrices, and who holds those."""
    cell = f"{name}.cell"
    draft.take(Tile(name, of.n, cell), Bind(name, Kind.UNROLL))
    _held_cell(draft, cell, of.result, 1)


def _held_cell(draft: NestDraft, name: str, holding: Holding, dimension: int) -> None:
    """The rows or columns of one matrix over work-items and what each holds, the longest steps
    first."""
    bits = [(p[dimension], Kind.LANE) for p in holding.lanes if p[dimension]]
    bits += [(p[dimension], Kind.UNROLL) for p in holding.elements if p[dimension]]
    runs = [(kind, len(list(same))) for kind, same in groupby(sorted(bits)[::-1], lambda b: b[1])]
    rest = 1 << len(bits)
    for kind, count in runs:
        rest >>= count
        inner = f"{name}.{rest.bit_length()}"
        if rest > 1:
            draft.take(Tile(name, rest, inner))
        draft.take(Bind(name, kind))
        name = inner


def _lane(draft: NestDraft, name: str, size: int, dim: int) -> None:
    """The innermost `size` of a loop over work-items."""
    if size > 1:
        draft.take(Tile(name, size, f"{name}.lane"), Bind(f"{name}.lane", Kind.LANE, dim))


def _own_rows(draft: NestDraft, name: str, height: int, subgroups: int, beside: int) -> None:
    """A work-group's rows over its sub-groups and `beside` work-items of each, then copies."""
    inner, side = f"{name}.in", f"{name}.beside"
    draft.take(Tile(name, height, inner), Tile(inner, subgroups * beside, side))
    _lane(draft, side, beside, 0)
    draft.take(Bind(side, Kind.LANE, 1), Bind(inner, Kind.UNROLL))


def _reads_held(group: Group, part: Group) -> bool:
    return any((r.source, r.field) in group.held for r in part.reads)


def _streamed(draft: NestDraft, part: Group, over: Axis, setting: Setting) -> None:
    """A factor, fetched by all work-items: block by block, or once where it stays the same."""
    size = part.stores[0].node.dtypes[0].itemsize
    at = over.name if moved_by(draft.group, draft.nest, part.name, over.name) else ""
    row = part.axes[-1].extent if over != part.axes[-1] else 0
    draft.take(Stage(part.name, at, Place.LOCAL, padding(row, size)))
    stage = next(s for s in draft.nest.stages if s.value == part.name)
    draft.take(Spread(part.name, vector_width(stage.region.extents[-1], ACCESS // size)))


def padding(row: int, size: int) -> int:
    """Elements after each row of so many elements: rows that take an odd number of accesses start
    in different banks as they are, others with one access more."""
    return 0 if row * size % (2 * PAD) == PAD else PAD // size


def _multiplied(draft: NestDraft, product: _Product, sides: tuple[int, int], place: Place) -> bool:
    """A product in a place: sub-groups over rows, copies over rows, columns and along K; False
    where it has not as many rows as a work-group, or columns that no matrix has."""
    part, of = product.part, product.instruction
    subgroups, copies = sides
    height = of.m * subgroups * copies
    form = contraction(part)
    assert form is not None
    pad = PAD // 4 if place is Place.LOCAL else 0
    draft.take(Stage(part.name, draft.group.over[0].name, place, pad))
    prefix, n, k = f"{part.name}/", form.n[0], form.k[0]
    nest = next(s.nest for s in draft.nest.stages if s.value == part.name)
    long = [a.name for a in part.axes if nest.loop(a.name).extent == height and a != n]
    if not long or nest.loop(n.name).extent % of.n:
        return False
    m = long[0]
    rows, columns, terms = f"{prefix}{m}.in", f"{prefix}{n.name}.in", f"{prefix}{k.name}.in"
    if copies > 1:
        each = f"{prefix}{m}.each"
        draft.take(Tile(f"{prefix}{m}", of.m * copies, each), Tile(each, of.m, rows))
        draft.take(Bind(each, Kind.UNROLL))
    else:
        draft.take(Tile(f"{prefix}{m}", of.m, rows))
    if subgroups > 1:
        draft.take(Bind(f"{prefix}{m}", Kind.LANE, 1))
    draft.take(Tile(f"{prefix}{n.name}", of.n, columns), Bind(f"{prefix}{n.name}", Kind.UNROLL))
    draft.take(Tile(f"{prefix}{k.name}", of.k, terms))
    draft.tile(f"{prefix}{k.name}", divisor(k.extent // of.k, MOST_COPIES), Kind.UNROLL, "copy")
    draft.take(Matrix((rows,), (columns,), (terms,), of))
    return True
