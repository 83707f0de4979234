"""Contractions by matrix instructions: tiles for work-groups, sub-groups and fragments.

In: a contraction, a setting whose profile names an instruction. Out: the group with both factors as
inner groups of the instruction's type, and steps. Invariant: the steps are legal; a work-group's
sub-groups each have a tile of fragments, and read both factors from slices in local memory, K
innermost, so that a work-item's neighbours along K are one register.

    for k.block { left[M × K'] and right[N × K'] to local memory, in halves; barrier
                  for k { fragments of results += fragments of left × fragments of right } }
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from sdlc.graph.expr import Axis, Expr, apply, reads_of
from sdlc.graph.types import DType
from sdlc.schedule.contraction import Contraction, contraction
from sdlc.schedule.draft import Setting, bind_groups, flat_strides, vector_width
from sdlc.schedule.factor import factor_rows, local_statistics, with_row_values, written_in
from sdlc.schedule.group import Group
from sdlc.schedule.nest import (
    Bind,
    Kind,
    Matrix,
    Place,
    Reorder,
    Spread,
    Stage,
    Step,
    Tile,
    initial,
)
from sdlc.schedule.operands import is_gather, operand, power, read_operand
from sdlc.schedule.staging import NestDraft
from sdlc.target import MatrixInstruction, Profile

MOST_BEYOND = 4
"""At most one in so many columns may be computed beyond the last."""

ACCESS = 16
"""Bytes that a work-item fetches at once."""

PAD = 16
"""Bytes after each row in local memory, so that rows start in different banks."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """Fragments down and across that a sub-group has, and sub-groups down and across."""

    rows: int
    columns: int
    down: int
    across: int


SHAPES = (
    Tiles(4, 8, 2, 2),
    Tiles(4, 4, 2, 2),
    Tiles(2, 4, 2, 2),
    Tiles(2, 2, 2, 2),
    Tiles(1, 2, 2, 2),
)
"""From the largest: it reads its factors the least often."""


def with_fragments(group: Group, setting: Setting) -> Group | str:
    """The contraction with its factors as inner groups of halves, or why not."""
    of = setting.instruction
    beside = any(part.monoid is None for part in group.inner)
    group = with_row_values(group)
    form = contraction(group)
    if of is None or form is None:
        return "the profile names no matrix instruction"
    if group.wide:
        return "its factors are not to be rounded"
    if not setting.profile.slice or beside:
        return "its factors do not pass through local memory"
    column = column_of(form, of)
    if column is None or prod(a.extent for a in form.m) < of.m:
        return f"its results are no {of.m} × {of.n}"
    axis, _ = depth_of(form, of, setting)
    if axis is None:
        return f"no reduced axis has {of.k} elements"
    if any(is_gather(e) for e in (form.left, *form.rights)):
        return "an index of a factor is read from memory"
    if not all(is_rounded(e, of) for e in (form.left, *form.rights)):
        return f"a factor is made of no values of {of.inputs}"
    dtype = DType(of.inputs)
    left = operand(group, "left", form.left, [*form.batch, *form.m, *form.k], axis, dtype)
    rights = [
        operand(group, f"right{n or ''}", e, [*form.batch, *form.n, *form.k], axis, dtype)
        for n, e in enumerate(form.rights)
    ]
    lift = tuple(apply("mul", read_operand(left), read_operand(right)) for right in rights)
    return replace(group, lift=lift, inner=(*group.inner, left, *rights))


def deep_axis(group: Group, of: MatrixInstruction | None) -> Axis | None:
    """The axis of K that a group wants innermost in its factors, if an instruction suits it."""
    lean = written_in(group, True) if factor_rows(group) is not None else group
    form = contraction(lean) if of is not None and len(lean.inner) < 2 else None
    if of is None or form is None or column_of(form, of) is None or group.wide:
        return None
    suits = all(is_rounded(e, of) for e in (form.left, *form.rights))
    enough = prod(a.extent for a in form.m) >= of.m
    longest = max(form.k, key=lambda a: a.extent, default=None)
    deep = suits and enough and longest is not None and longest.extent >= of.k
    return longest if deep else None


def deep_right(part: Group, of: MatrixInstruction | None) -> Axis | None:
    """The axis of K that a product within a kernel wants innermost in its right factor, so that
    neighbours along it are one register: if it is fetched in whole accesses."""
    form = contraction(part) if of is not None else None
    if of is None or form is None or form.fields > 1 or len(form.k) != 1 or len(form.n) != 1:
        return None
    whole = form.k[0].extent % (ACCESS // DType(of.inputs).itemsize) == 0
    enough = form.n[0].extent >= of.n and any(a.extent >= of.m for a in form.m)
    return form.k[0] if whole and enough and is_rounded(form.right, of) else None


def is_rounded(factor: Expr, of: MatrixInstruction) -> bool:
    """Whether a factor is of the instruction's type, or computed from values of that type: what a
    program of that precision would have stored so."""
    found = {r.source.dtypes[r.field].value for r in reads_of(factor)}
    return of.inputs in found


def column_of(form: Contraction, of: MatrixInstruction) -> Axis | None:
    """The axis along the columns of fragments: the longest of N."""
    longest = max(form.n, key=lambda a: a.extent, default=None)
    return longest if longest is not None and longest.extent >= of.n else None


def depth_of(form: Contraction, of: MatrixInstruction, setting: Setting) -> tuple[Axis | None, int]:
    """The axis of K that slices are taken along, the innermost of the left factor's storage, and
    how long they are: a slice takes as many bytes as one of f32."""
    strides = flat_strides(form.left, setting.orders)
    long = [a for a in form.k if a.extent >= of.k]
    axis = min(long, key=lambda a: (strides.get(a, 1 << 40), -a.extent), default=None)
    if axis is None:
        return None, 0
    most = slice_of(of, setting.profile)
    exact = [d for d in range(of.k, most + 1, of.k) if axis.extent % d == 0]
    return axis, max(exact, default=of.k)


def slice_of(of: MatrixInstruction, profile: Profile) -> int:
    """The elements of K of a whole slice, which takes as many bytes as one of f32."""
    size = DType(of.inputs).itemsize
    return max(of.k, profile.slice * DType.F32.itemsize // size // of.k * of.k)


def fragment_steps(group: Group, form: Contraction, setting: Setting) -> tuple[Step, ...]:
    """Tiles and slices. `form` is the contraction's before its factors became inner groups."""
    of = setting.instruction
    assert of is not None
    tiles = _tiles(form, of, setting)
    draft = NestDraft(group, initial(group))
    column, (axis, depth) = column_of(form, of), depth_of(form, of, setting)
    assert column is not None and axis is not None
    rows = _rows(draft, [a for a in group.axes if a in form.m], of, tiles)
    columns = _split(draft, column, of.n, tiles.columns, tiles.across, 2)
    terms = f"{axis.name}.in"
    draft.take(Tile(axis.name, depth, terms))
    if depth > of.k:
        draft.take(Tile(terms, of.k, f"{axis.name}.cell"), Bind(terms, Kind.UNROLL))
        terms = f"{axis.name}.cell"
    draft.take(Matrix(rows, (columns,), (terms,), of))
    left = {a: draft.nest.loop(a.name).extent for a in group.axes}
    order = [a for a in group.axes if a not in form.m and a != column]
    order += [*(a for a in group.axes if a in form.m), column]
    draft.take(*bind_groups(order, left, setting))
    draft.take(Reorder(tuple(a.name for a in (*(k for k in form.k if k != axis), axis))))
    size = DType(of.inputs).itemsize
    for part in reversed(group.inner):
        if part.monoid is not None:
            local_statistics(draft, part, setting)
            continue
        if part.axes and not {*form.k} & {*part.axes}:
            draft.take(Stage(part.name, "", Place.LOCAL), Spread(part.name, 1))
            continue
        draft.take(Stage(part.name, axis.name, Place.LOCAL, PAD // size))
        stage = next(s for s in draft.nest.stages if s.value == part.name)
        draft.take(Spread(part.name, vector_width(stage.region.extents[-1], ACCESS // size)))
    return tuple(draft.steps)


def _tiles(form: Contraction, of: MatrixInstruction, setting: Setting) -> Tiles:
    """The largest shape that fits local memory and the columns, and gives every core a work-group,
    or the smallest."""
    column = column_of(form, of)
    assert column is not None
    m, pitch = prod(a.extent for a in form.m), _pitch(form, of, setting)
    others = prod(a.extent for a in (*form.batch, *(x for x in form.n if x != column)))
    found = SHAPES[-1]
    for shape in SHAPES:
        columns = max(1, shape.columns // form.fields)
        found = replace(shape, columns=columns)
        height = of.m * shape.rows * shape.down
        width = of.n * columns * shape.across
        across = -(-column.extent // width)
        beyond = across * width - column.extent
        if (height + form.fields * width) * pitch > setting.local_bytes:
            continue
        if MOST_BEYOND * beyond > column.extent:
            continue
        if others * -(-m // height) * across >= setting.profile.groups:
            break
    return found


def _pitch(form: Contraction, of: MatrixInstruction, setting: Setting) -> int:
    """Bytes of a slice of one row in local memory."""
    return depth_of(form, of, setting)[1] * DType(of.inputs).itemsize + PAD


def _rows(
    draft: NestDraft, axes: list[Axis], of: MatrixInstruction, tiles: Tiles
) -> tuple[str, ...]:
    """Rows of fragments, fragments and sub-groups over the axes of M from the innermost; the
    longest takes what is left. The loops within a fragment, the last the fastest."""
    longest = max(axes, key=lambda a: a.extent)
    inside, copies, down = of.m, tiles.rows, tiles.down
    found: list[str] = []
    for axis in [*(a for a in reversed(axes) if a != longest), longest]:
        last = axis == longest
        own = inside if last else power(axis.extent, inside)
        each = copies if last else power(axis.extent // own, copies)
        ways = down if last else power(axis.extent // own // each, down)
        if own * each * ways > 1:
            name = _split(draft, axis, own, each, ways, 1)
            if own > 1:
                found.insert(0, name)
        inside, copies, down = inside // own, copies // each, down // ways
    return tuple(found)


def _split(draft: NestDraft, axis: Axis, own: int, each: int, ways: int, dim: int) -> str:
    """An axis over work-groups, `ways` sub-groups, `each` fragments and `own` elements of one: the
    name of the last loop."""
    way, tile, inner = (f"{axis.name}.{word}" for word in ("way", "tile", "in"))
    draft.take(Tile(axis.name, own * each * ways, way), Tile(way, own * each, tile))
    draft.take(Tile(tile, own, inner))
    if ways > 1:
        draft.take(Bind(way, Kind.LANE, dim))
    draft.take(Bind(tile, Kind.UNROLL))
    return inner
