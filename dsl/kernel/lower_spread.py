"""A stage whose elements are shared out evenly over all work-items of a group.

In: a map, the region that is held. Out: statements. Invariant: every element of the region is
stored by one work-item; neighbours in the region belong to neighbouring work-items, so that they
read neighbouring memory.

    for n < 4 { chunk = lane + 64 * n; a'[4 * chunk …] = a[chunk / 8, chunk % 8 * 4 …] }

A work-item may also take neighbours along the axis before: where those lie side by side in memory,
it reads them as vectors, which it stores turned.
"""

from __future__ import annotations

from math import prod

from sdlc.kernel import ir as k
from sdlc.kernel.linear import linear
from sdlc.kernel.lower_names import LANE, Names, clamped, mixed
from sdlc.kernel.lower_part import Part, Work, stored
from sdlc.kernel.translate import Scope, translate
from sdlc.kernel.vectorize import replaced, vectorize
from sdlc.schedule.group import Group
from sdlc.schedule.nest import Staged

UNROLLED = 16
"""At most this many chunks of a work-item are written out; more become a loop."""


def spread(work: Work, stage: Staged, group: Group, names: Names) -> None:
    """Emits the stage."""
    extents = stage.region.extents
    chunks = prod(extents) // (stage.spread * stage.deep)
    lanes = prod(work.group_size)
    passes = -(-chunks // lanes)
    lane = work.simplifier.visit(_lane(work.group_size))
    if passes <= UNROLLED:
        for turn in range(passes):
            _chunk(work, stage, group, names, k.call("add", lane, k.i32(turn * lanes)))
        return
    var = work.emit.fresh("chunk", k.I32)
    work.simplifier.bounds.ranges[var] = (0, passes - 1)
    work.emit.open(var)
    number = k.call("add", lane, k.call("mul", var, k.i32(lanes)))
    _chunk(work, stage, group, names, number)
    work.emit.close(passes, stage.value)


def _lane(size: tuple[int, int, int]) -> k.Expr:
    """The number of a work-item in its group, dimension 0 the fastest."""
    digits = [(k.WorkId("lane", dim), size[dim]) for dim in (2, 1, 0) if size[dim] > 1]
    return mixed([(work, extent) for work, extent in digits])


def _chunk(work: Work, stage: Staged, group: Group, names: Names, number: k.Expr) -> None:
    visit, width = work.simplifier.visit, stage.spread
    extents = stage.region.extents
    chunks = prod(extents) // (width * stage.deep)
    kept = visit(k.call("lt", number, k.i32(chunks)))
    number = visit(k.call("min", number, k.i32(chunks - 1)))
    offsets = _digits(number, extents, (stage.deep, width))
    jobs = []
    for turn in range(stage.deep):
        if turn:
            offsets[-2] = k.call("add", offsets[-2], k.i32(1))
        jobs += _jobs(work, stage, group, offsets, kept)
    Part(work, group, stage.nest, names, f"{stage.value}/").emit_stores(jobs)


def _jobs(
    work: Work, stage: Staged, group: Group, offsets: list[k.Expr], kept: k.Expr
) -> list[k.Store]:
    """The stores of one vector, at these offsets in the region."""
    visit, width = work.simplifier.visit, stage.spread
    first = work.held[(group.stores[0].node, group.stores[0].field)].first
    raw, axes = {}, {}
    for axis, start, offset in zip(group.axes, first, offsets, strict=True):
        raw[axis] = visit(k.call("add", start, offset))
        whole = axis is group.axes[-1] and axis.extent % width == 0 and _at_multiple(start, width)
        axes[axis] = visit(clamped(raw[axis], axis.extent, width if whole else 1, LANE, least=0))
    scope = Scope(axes, {}, work.storage, work.held, raw, lanes=width)
    jobs = []
    for output in group.stores:
        value = visit(translate(output.value, scope))
        if width > 1:
            value = vectorize(value, LANE, width, work.simplifier)
            value = value if value.type.lanes == width else k.Vector((value,) * width)
        held = work.held[(output.node, output.field)]
        flat = visit(held.flat(tuple(raw[a] for a in group.axes)))
        index = visit(replaced(flat, {LANE: k.i32(0)}))
        jobs.append(stored(held.buffer, index, value, kept))
    return jobs


def _at_multiple(start: k.Expr, width: int) -> bool:
    """Whether an index is a multiple of the width, as far as its linear form tells."""
    terms, constant = linear(start)
    return all(c % width == 0 for c in (*terms.values(), constant))


def _digits(number: k.Expr, extents: tuple[int, ...], chunk: tuple[int, int]) -> list[k.Expr]:
    """The offset along every axis of a chunk's first vector, with the vector's lane: the last axis
    advances by a vector, the one before it by as many as a chunk has."""
    sizes = (*(1,) * (len(extents) - 2), *chunk)[-len(extents) :]
    made: list[k.Expr] = []
    for extent, size in zip(reversed(extents), reversed(sizes), strict=True):
        digit = k.call("mod", number, k.i32(extent // size))
        made.append(k.call("mul", digit, k.i32(size)) if size > 1 else digit)
        number = k.call("floordiv", number, k.i32(extent // size))
    made.reverse()
    if chunk[1] > 1:
        made[-1] = k.call("add", made[-1], LANE)
    return made
