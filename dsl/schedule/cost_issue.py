"""What one work-item issues: a register-tile model of its instructions.

In: a group, its nest, storage orders and `[peak]`. Out: `Issue`. Invariant: an expression is
evaluated once for every combination of the loops that it depends on, at the depth of the innermost
of them, as `lower` does it: unrolled copies and vector lanes that agree share one evaluation.

    tile of 4 rows × 2 vectors:  a[m, k] 4 loads, b[k, n] 2 loads, 8 multiply-adds a step of k
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod

from sdlc.graph.affine import bounds
from sdlc.graph.expr import Apply, Axis, Expr, Index, Read, children, walk
from sdlc.graph.node import Node
from sdlc.graph.scalar import SCALARS
from sdlc.schedule.affine import affine
from sdlc.schedule.group import Group
from sdlc.schedule.nest import Kind, Loop, Nest, Place, Staged
from sdlc.target import Peak

Orders = Mapping[tuple[Node, int], tuple[int, ...]]

GUARD = 3
"""Operations that a guarded read adds: a comparison, a clamp and a selection."""

LOOP = 2
"""Operations of a serial loop's step: a counter and a branch."""

SPILL = 8
"""Operations that a value without a register costs in each step: a store, a load, and the wait
between them."""

BARRIER = 32
"""Operations that a step of a reduction over work-items costs: store, wait, load."""


HIDDEN = 0.75
"""How much of what is not the slowest resource hides behind it: the rest adds to the time."""


def together(first: float, second: float) -> float:
    """The time of two resources that work side by side."""
    return max(first, second) + (1 - HIDDEN) * min(first, second)


@dataclass(frozen=True, slots=True)
class Issue:
    """One work-item's operations (`slots`: scalars through the multiply-add units; `loads`: scalars
    through the load units), the 32-bit registers that it keeps, and how many of its operations do
    not wait for one another."""

    slots: float
    loads: float
    registers: int
    independent: int

    def seconds(self, peak: Peak) -> float:
        """Seconds of one work-item that keeps a whole core busy."""
        slots = together(self.slots, self.loads / peak.loads)
        return slots * 2 * peak.cores / peak.f32_flops


@dataclass(frozen=True, slots=True)
class _Item:
    """The loops of one work-item, from the outermost, and how wide an instruction is."""

    serial: tuple[Loop, ...]
    copied: tuple[Loop, ...]
    vector: Loop | None
    near: Axis | None
    """The axis along which neighbouring work-items lie."""
    reduced: frozenset[Axis]
    stepped: frozenset[Axis]
    """The reduced axes through which it goes alone, step by step."""
    simd: int

    def evaluations(self, axes: frozenset[Axis]) -> int:
        """How often an expression of these axes is evaluated, vectors counted once."""
        return self.trips(axes) * prod(lp.extent for lp in self.copied if lp.axis in axes)

    def trips(self, axes: frozenset[Axis]) -> int:
        """Runs of the place where an expression of these axes stands."""
        depth = max((i for i, lp in enumerate(self.serial) if lp.axis in axes), default=-1)
        return prod(lp.extent for lp in self.serial[: depth + 1])

    def width(self, axes: frozenset[Axis]) -> int:
        """Scalars that one evaluation occupies: whole instructions."""
        lanes = self.vector.extent if self.vector is not None and self.vector.axis in axes else 1
        return -(-lanes // self.simd) * self.simd


def issue_of(group: Group, nest: Nest, orders: Orders, peak: Peak) -> Issue:
    """The instructions of one work-item of a scheduled group, its stages included."""
    parts = {g.name: g for g in group.inner}
    if nest.stages:
        orders = ChainMap(_held_orders(nest, parts), orders)  # type: ignore[arg-type]
    own = _issue_of_part(group, nest, orders, peak)
    lanes = prod(lp.extent for lp in nest.loops if lp.kind is Kind.LANE)
    registers = own.registers
    faster = _faster(nest, peak)
    slots, loads = own.slots / faster, own.loads / faster
    busiest = own
    for stage in nest.stages:
        part = _issue_of_part(parts[stage.value], stage.nest, orders, peak)
        times = float(_fills(nest, stage))
        times /= lanes if stage.spread else _faster(stage.nest, peak)
        slots += times * part.slots
        loads += times * part.loads
        if stage.place is Place.LOCAL:
            slots += times * BARRIER * peak.simd
        registers = max(registers, part.registers)
        busiest = max(busiest, replace(part, slots=times * part.slots), key=lambda x: x.slots)
    return Issue(slots, loads, registers, busiest.independent)


def _held_orders(nest: Nest, parts: Mapping[str, Group]) -> Orders:
    """The orders in which stages hold their values: a vector's axis is the innermost."""
    found: dict[tuple[Node, int], tuple[int, ...]] = {}
    for stage in nest.stages:
        part = parts[stage.value]
        wide = {lp.axis for lp in stage.nest.loops if lp.kind is Kind.VECTOR}
        order = tuple(sorted(range(len(part.axes)), key=lambda n: part.axes[n] in wide))
        found |= {(s.node, s.field): order for s in part.stores}
    return found


def _faster(nest: Nest, peak: Peak) -> float:
    """How many times as fast as a work-item's own operations a matrix instruction is."""
    if nest.matrix is None or not peak.matrix_flops:
        return 1.0
    return peak.matrix_flops / peak.f32_flops


def _fills(nest: Nest, stage: Staged) -> int:
    """How often one work-item, or its group, computes a stage."""
    serial = [lp for lp in nest.loops if lp.kind is Kind.SERIAL]
    names = [lp.name for lp in serial]
    depth = names.index(stage.at) + 1 if stage.at in names else 0
    return prod(lp.extent for lp in serial[:depth])


def _issue_of_part(group: Group, nest: Nest, orders: Orders, peak: Peak) -> Issue:
    """The group's own instructions, or those of one filling of a stage."""
    item = _item(nest, peak.simd)
    depends = _dependences(group.expressions)
    slots, loads = _evaluating(group, item, depends, orders)
    slots += _combining(group, nest, item, depends)
    loads += _storing(group, item, orders)
    steps = sum(prod(lp.extent for lp in item.serial[: i + 1]) for i in range(len(item.serial)))
    slots += LOOP * item.simd * steps
    sums, registers = _registers(group, item, depends)
    over = max(0, registers - peak.registers)
    slots += SPILL * over * prod(lp.extent for lp in item.serial)
    return Issue(slots, loads, registers, sums)


def _evaluating(
    group: Group, item: _Item, depends: Mapping[Expr, frozenset[Axis]], orders: Orders
) -> tuple[float, float]:
    """Operations and loads of the lifts and of the stored values."""
    slots, loads = 0.0, 0.0
    for e in walk(*group.expressions):
        axes = depends[e]
        if isinstance(e, Read):
            there = 1.0 if e.fill is None else _share_there(e, item)
            loads += _load(e, axes, item, orders) * (1.0 if there is None else there)
            slots += GUARD * item.evaluations(axes) * item.simd if there is None else 0
        elif isinstance(e, Apply) and e.dtype.is_float:
            slots += _slots(e.op) * item.evaluations(axes) * item.width(axes)
    return slots, loads


def _slots(op: str) -> float:
    """Multiply-adds that take as long as an operation: one, or, for functions, half their FLOP."""
    return max(1.0, SCALARS[op].cost / 2) if SCALARS[op].cost else 0.0


def _item(nest: Nest, simd: int) -> _Item:
    of = {kind: tuple(lp for lp in nest.loops if lp.kind is kind) for kind in Kind}
    near = next((lp.axis for lp in of[Kind.LANE] if lp.dim == 0), None)
    vector = of[Kind.VECTOR][0] if of[Kind.VECTOR] else None
    copied = (*of[Kind.UNROLL], *of[Kind.MATRIX])
    alone = (Kind.SERIAL, Kind.UNROLL)
    stepped = nest.reduced - {lp.axis for lp in nest.loops if lp.kind not in alone}
    return _Item(of[Kind.SERIAL], copied, vector, near, nest.reduced, stepped, simd)


def _dependences(exprs: Iterable[Expr]) -> dict[Expr, frozenset[Axis]]:
    """The axes of every subexpression."""
    found: dict[Expr, frozenset[Axis]] = {}
    for e in walk(*exprs):
        own = frozenset((e.axis,)) if isinstance(e, Index) else frozenset[Axis]()
        found[e] = own.union(*(found[c] for c in children(e)))
    return found


def _share_there(read: Read, item: _Item) -> float | None:
    """The share of a reduction's steps at which a guarded read has a place, where that changes with
    the steps only: their loop is then cut (`kernel/cut.py`), and nobody asks. None: it is asked at
    each step."""
    found = 1.0
    for index, extent in zip(read.indices, read.source.shape, strict=True):
        reach, form = bounds(index), affine(index)
        if reach is not None and reach[0] >= 0 and reach[1] < extent:
            continue
        moving = [axis for axis, factor in form[0].items() if factor] if form is not None else []
        if form is None or len(moving) != 1 or moving[0] not in item.stepped:
            return None
        (axis,) = moving
        places = (form[1] + form[0][axis] * step for step in range(axis.extent))
        found *= sum(0 <= place < extent for place in places) / axis.extent
    return found


# ---- loads ---------------------------------------------------------------------------------------


def _load(read: Read, axes: frozenset[Axis], item: _Item, orders: Orders) -> float:
    """Scalars through the load units for one read: whole instructions, neighbours shared."""
    strides = strides_of(read, orders.get((read.source, read.field)))
    times = item.trips(axes) * distinct(read, item.copied, axes)
    across = strides.get(item.near, 0) if item.near is not None else 0
    return times * _access(axes, strides, item) * _scattered(across, item)


def _access(axes: frozenset[Axis], strides: Mapping[Axis, int], item: _Item) -> int:
    """Scalars of one access: neighbours are one instruction, scattered lanes many."""
    if item.vector is None or item.vector.axis not in axes:
        return item.simd
    if strides.get(item.vector.axis) == 1:
        return item.width(axes)
    return item.vector.extent * item.simd


def _scattered(stride: int, item: _Item) -> int:
    """How many times as long an access takes where neighbouring work-items are `stride` apart."""
    wide = item.vector.extent if item.vector is not None else 1
    return max(1, min(8, stride // max(1, wide)))


def distinct(read: Read, loops: tuple[Loop, ...], axes: frozenset[Axis]) -> int:
    """Distinct places that a read visits over `loops`: sums of axes (windows) overlap."""
    whole = prod(lp.extent for lp in loops if lp.axis in axes)
    count = 1
    for index in read.indices:
        form = affine(index)
        if form is None:
            return whole
        terms = [
            (abs(form[0][lp.axis]) * lp.stride, lp.extent) for lp in loops if lp.axis in form[0]
        ]
        count *= _values(terms)
    return min(count, whole)


def _values(terms: list[tuple[int, int]]) -> int:
    """Distinct values of a sum of `stride × (0 … extent - 1)`: at most every combination, and at
    most what lies between the smallest and the largest on the finest grid."""
    moving = [(stride, extent) for stride, extent in terms if extent > 1]
    if not moving:
        return 1
    finest = min(stride for stride, _ in moving)
    span = sum(stride * (extent - 1) for stride, extent in moving) // finest + 1
    return min(prod(extent for _, extent in moving), span)


def strides_of(read: Read, order: tuple[int, ...] | None) -> dict[Axis, int]:
    """How far apart in storage neighbours along each axis are, in elements."""
    found: dict[Axis, int] = {}
    stride = 1
    for d in reversed(order if order is not None else range(len(read.indices))):
        form = affine(read.indices[d])
        for axis, factor in form[0].items() if form is not None else ():
            found[axis] = found.get(axis, 0) + abs(factor) * stride
        stride *= read.source.shape[d]
    return found


# ---- sums and stores -----------------------------------------------------------------------------


def _combining(
    group: Group, nest: Nest, item: _Item, depends: Mapping[Expr, frozenset[Axis]]
) -> float:
    """Operations that fold lifted values into accumulators, and lanes into one."""
    if group.monoid is None:
        return 0
    each = sum(
        _slots(e.op)
        for e in walk(*group.monoid.combine)
        if isinstance(e, Apply) and e.dtype.is_float
    )
    every = frozenset((*group.axes, *group.over))
    folds = item.evaluations(every) * item.width(every)
    slots = float(each * folds)
    for top, combine in zip(group.lift, group.monoid.combine, strict=True):
        # A product and the sum that it is added to are one instruction.
        if isinstance(top, Apply) and top.op == "mul" and _is_addition(combine):
            slots -= min(item.evaluations(depends[top]) * item.width(depends[top]), folds)
    ways = prod(lp.extent for lp in nest.loops if lp.kind is Kind.LANE and nest.is_reduced(lp))
    rounds = (ways.bit_length() - 1) * item.evaluations(frozenset(group.axes))
    return slots + each * BARRIER * rounds


def _is_addition(combine: Expr) -> bool:
    return isinstance(combine, Apply) and combine.op == "add" and not children(combine.args[0])


def _storing(group: Group, item: _Item, orders: Orders) -> float:
    """Scalars through the load units for the results."""
    loads = 0.0
    axes = frozenset(group.axes)
    for store in group.stores:
        place = Read(store.node, store.indices, store.field)
        strides = strides_of(place, orders.get((store.node, store.field)))
        across = strides.get(item.near, 0) if item.near is not None else 0
        folded = item.vector is not None and item.vector.axis in item.reduced
        access = item.simd if folded else _access(axes, strides, item)
        loads += item.evaluations(axes) * access * _scattered(across, item)
    return loads


def _registers(
    group: Group, item: _Item, depends: Mapping[Expr, frozenset[Axis]]
) -> tuple[int, int]:
    """Independent accumulators (scalars), and all registers of a work-item."""
    out = prod(lp.extent for lp in item.copied if lp.axis not in item.reduced)
    every = frozenset((*group.axes, *group.over))
    sums = out * item.width(every)
    fields = len(group.monoid.fields) if group.monoid is not None else 1
    operands = [
        distinct(e, tuple(lp for lp in item.copied if lp.axis not in item.reduced), depends[e])
        * item.width(depends[e])
        for e in walk(*(group.lift or group.expressions))
        if isinstance(e, Read)
    ]
    # Of the largest operand one value at a time is enough, and one register is for addresses.
    largest = max(operands, default=0)
    kept = sum(operands) - largest + 2 * (item.simd if operands else 0)
    return sums, sums * fields + kept
