"""Level 3 to level 4: a group and its nest become a kernel.

In: a group (what), a nest (where), the storage of every value. Out: a `Kernel`. Invariant: for any
legal nest the kernel computes the group's definition; points beyond an inexact axis are neither
stored nor combined. One path serves maps, reductions and contractions:

    group and lane ids; output loops {
      accumulators = identity                      one a point of the register tile
      reduced loops { accumulator = combine(accumulator, lift) }
      fold of vector lanes; tree over work-items
      stores
    }
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from sdlc.graph.expr import Axis, Expr
from sdlc.graph.node import Monoid, Node
from sdlc.graph.types import DType, Origin
from sdlc.kernel import ir as k
from sdlc.kernel.emit import Emitter
from sdlc.kernel.intervals import Bounds
from sdlc.kernel.simplify import Ranges, Simplifier, simplify
from sdlc.kernel.translate import Scope, Storage, translate
from sdlc.kernel.vectorize import contiguous, depends, replaced, vectorize
from sdlc.schedule.group import Group, Output
from sdlc.schedule.nest import Kind, Loop, Nest

Value = tuple[Node, int]
Point = dict[k.Expr, k.Expr]
LANE = k.Var("lane_of_vector", k.I32)


@dataclass(frozen=True, slots=True)
class _Names:
    """The values of a nest's loops and axes (`axes` never beyond the extent, `raw` possibly), the
    conditions of being inside an inexact axis, and what is known of ranges."""

    loops: dict[str, k.Expr]
    axes: dict[Axis, k.Expr]
    raw: dict[Axis, k.Expr]
    inside: dict[Axis, k.Expr]
    ranges: Ranges


class _Lowering:
    """The state of lowering one group."""

    def __init__(self, group: Group, nest: Nest, storage: dict[Value, Storage]) -> None:
        self.group, self.nest, self.storage = group, nest, storage
        self.names = _names(nest)
        self.simplifier = Simplifier(Bounds(self.names.ranges))
        self.simplify = self.simplifier.visit
        buffers = {s.buffer.name for s in storage.values()}
        self.emit = Emitter(frozenset(buffers | loop_names(nest)))
        self.arrays: list[k.Buffer] = []
        vector = [lp for lp in nest.loops if lp.kind is Kind.VECTOR]
        self.vector = vector[0] if vector else None
        self.width = self.vector.extent if self.vector else 1
        self.vector_reduces = self.vector is not None and nest.is_reduced(self.vector)
        self.tile = _points(nest, reduced=False)
        self.shared = tuple(lp for lp in nest.loops if lp.kind is Kind.LANE and nest.is_reduced(lp))

    def run(self) -> tuple[k.Stmt, ...]:
        loops = [lp for lp in self.nest.loops if lp.kind is Kind.SERIAL]
        outer = [lp for lp in loops if not self.nest.is_reduced(lp)]
        inner = [lp for lp in loops if self.nest.is_reduced(lp)]
        self._open(outer)
        results = self._reduced(inner) if self.group.monoid else [{} for _ in self.tile]
        self._store(results)
        self._close(outer)
        return self.emit.body()

    def _open(self, loops: list[Loop]) -> None:
        for loop in loops:
            var = self.names.loops[loop.name]
            assert isinstance(var, k.Var)
            self.emit.open(var)

    def _close(self, loops: list[Loop]) -> None:
        for loop in reversed(loops):
            self.emit.close(loop.extent, loop.axis.name)

    # ---- expressions

    def _scalar(self, expr: Expr, slots: Mapping[tuple[int, int], k.Expr]) -> k.Expr:
        """A graph expression for one lane of one point, loop variables free."""
        scope = Scope(self.names.axes, slots, self.storage)
        return self.simplify(translate(expr, scope))

    def _at(self, expr: k.Expr, point: Point) -> k.Expr:
        """The expression at a point of the register tile."""
        return self.simplify(replaced(expr, point)) if point else expr

    def _wide(self, expr: k.Expr) -> k.Expr:
        if self.vector is None:
            return expr
        return vectorize(expr, LANE, self.width, self.simplifier)

    # ---- reduction

    def _reduced(self, loops: list[Loop]) -> list[dict[tuple[int, int], k.Expr]]:
        """Emits the reduction; gives the results of every tile point as slots."""
        monoid = self.group.monoid
        assert monoid is not None
        accumulators = [self._accumulators(monoid) for _ in self.tile]
        for loop in loops:
            self._open([loop])
        self._accumulate(monoid, accumulators)
        self._close(loops)
        results: list[list[k.Expr]] = [list(a) for a in accumulators]
        if self.vector_reduces:
            results = [self._fold_lanes(monoid, a) for a in results]
        if self.shared:
            results = [self._tree(monoid, a) for a in results]
        return [{(0, f): v for f, v in enumerate(a)} for a in results]

    def _accumulators(self, monoid: Monoid) -> tuple[k.Var, ...]:
        made = []
        for f in monoid.fields:
            var = self.emit.fresh(f"total_{f.name}", k.Type(f.dtype, self.width))
            self.emit.declare(var, splat(identity(f.identity, f.dtype), self.width))
            made.append(var)
        return tuple(made)

    def _accumulate(self, monoid: Monoid, accumulators: list[tuple[k.Var, ...]]) -> None:
        lift = [self._guarded(self._scalar(e, {}), f) for f, e in enumerate(self.group.lift)]
        steps: list[tuple[tuple[k.Var, ...], list[k.Expr]]] = []
        for copy in _points(self.nest, reduced=True):
            for point, targets in zip(self.tile, accumulators, strict=True):
                values = [self._wide(self._at(e, {**copy, **point})) for e in lift]
                steps.append((targets, combined(monoid, targets, values)))
        prepared = iter(self.emit.prepare(v for _, values in steps for v in values))
        for targets, values in steps:
            made = [self.emit.settle(next(prepared)) for _ in values]
            if len(made) > 1:
                # Every new value is of the old state: none is assigned before all are known.
                made = [self.emit.bind(self.emit.fresh("next", v.type), v) for v in made]
            for target, value in zip(targets, made, strict=True):
                self.emit.assign(target, value)

    def _guarded(self, value: k.Expr, field: int) -> k.Expr:
        """`value`, or the identity beyond the extent of an inexact reduced axis."""
        assert self.group.monoid is not None
        of = self.group.monoid.fields[field]
        for axis in self.group.over:
            if axis in self.names.inside:
                kept = self.names.inside[axis]
                value = k.call("select", kept, value, identity(of.identity, of.dtype))
        return value

    def _fold_lanes(self, monoid: Monoid, values: list[k.Expr]) -> list[k.Expr]:
        """The lanes of vector accumulators combined by halves."""
        width = self.width
        while width > 1:
            width //= 2
            low = [k.Extract(v, 0, width) for v in values]
            high = [k.Extract(v, width, width) for v in values]
            values = self._bound(combined(monoid, low, high))
        return values

    def _bound(self, values: list[k.Expr]) -> list[k.Expr]:
        """Named copies of expressions that read mutable variables."""
        made = [self.emit.settle(v) for v in self.emit.prepare(values)]
        return [self.emit.bind(self.emit.fresh("total", v.type), v) for v in made]

    def _tree(self, monoid: Monoid, values: list[k.Expr]) -> list[k.Expr]:
        """Lanes that share a reduction combine through local memory, by halves."""
        ways = prod(lp.extent for lp in self.shared)
        digits = [(self.names.loops[lp.name], lp.extent) for lp in self.shared]
        mine = self.simplify(_mixed(digits))
        others = [
            (self.names.loops[lp.name], lp.extent)
            for lp in self.nest.loops
            if lp.kind is Kind.LANE and lp not in self.shared
        ]
        rows = prod(extent for _, extent in others)
        row = k.call("mul", _mixed(others), k.i32(ways)) if others else k.i32(0)
        lanes = values[0].type.lanes
        wide, size = k.i32(lanes), rows * ways * lanes
        arrays = [self._local(f.name, f.dtype, size) for f in monoid.fields]
        cell = self.simplify(k.call("mul", k.call("add", row, mine), wide))
        here = self.emit.bind(self.emit.fresh("cell", k.I32), cell)
        values = self._settled(values)
        if self.emit.depth:
            self.emit.add(k.Barrier())  # what the loop's last pass left is still being read
        self.emit.add(*(k.Store(a, here, v) for a, v in zip(arrays, values, strict=True)))
        self.emit.add(k.Barrier())
        half = ways // 2
        while half:
            # Lanes beyond `half` look at their row's last cell, which nobody writes meanwhile.
            other = k.call("min", k.call("add", mine, k.i32(half)), k.i32(ways - 1))
            there = self.simplify(k.call("mul", k.call("add", row, other), wide))
            active = self.simplify(k.call("lt", mine, k.i32(half)))
            left: list[k.Expr] = [k.Load(a, here, lanes) for a in arrays]
            right: list[k.Expr] = [k.Load(a, there, lanes) for a in arrays]
            named = self._bound(combined(monoid, left, right))
            self.emit.add(
                *(k.Store(a, here, v, active) for a, v in zip(arrays, named, strict=True)),
                k.Barrier(),
            )
            half //= 2
        first = self.simplify(k.call("mul", row, wide))
        return [k.Load(a, first, lanes) for a in arrays]

    def _settled(self, values: list[k.Expr]) -> list[k.Expr]:
        return [self.emit.settle(v) for v in self.emit.prepare(values)]

    def _local(self, stem: str, dtype: DType, size: int) -> k.Buffer:
        name = self.emit.fresh(f"shared_{stem}", k.I32).name
        array = k.Buffer(name, dtype, size, k.Space.LOCAL, k.Access.READ_WRITE)
        self.arrays.append(array)
        return array

    # ---- stores

    def _store(self, results: list[dict[tuple[int, int], k.Expr]]) -> None:
        jobs = []
        for point, slots in zip(self.tile, results, strict=True):
            for output in self.group.stores:
                jobs += self._stores(output, point, slots)
        values = [e for job in jobs for e in (job.index, job.value, job.guard) if e is not None]
        made = iter(self.emit.prepare(values))
        for job in jobs:
            index, value = self.emit.settle(next(made)), self.emit.settle(next(made))
            guard = None if job.guard is None else self.emit.settle(next(made))
            self.emit.add(k.Store(job.buffer, index, value, guard))

    def _stores(
        self, output: Output, point: Point, slots: dict[tuple[int, int], k.Expr]
    ) -> list[k.Store]:
        storage = self.storage[(output.node, output.field)]
        symbols = {key: k.Var(f"slot{key[1]}", k.Type(v.type.dtype)) for key, v in slots.items()}
        value = self._at(self._scalar(output.value, symbols), point)
        exact = Scope(self.names.raw, {}, self.storage)
        flat = storage.flat(tuple(translate(i, exact) for i in output.indices))
        index = self._at(self.simplify(flat), point)
        guard = self._at(self._store_guard(), point)
        results: Point = {symbols[key]: v for key, v in slots.items()}
        if self.vector is None or self.vector_reduces:
            return [_stored(storage.buffer, index, replaced(value, results), guard)]
        return self._vector_stores(storage.buffer, index, value, guard, results)

    def _vector_stores(
        self,
        buffer: k.Buffer,
        index: k.Expr,
        value: k.Expr,
        guard: k.Expr,
        results: Point,
    ) -> list[k.Store]:
        """One vector store where lanes are consecutive and all inside, else one a lane."""
        wide = replaced(self._wide(value), results)
        lanes = [self._at(guard, {LANE: k.i32(n)}) for n in range(self.width)]
        varies = depends(guard, frozenset({LANE}))
        if contiguous(index, LANE) and not varies:
            start = self._at(index, {LANE: k.i32(0)})
            return [_stored(buffer, start, splat(wide, self.width), guard)]
        made = []
        for number in range(self.width):
            one = k.Extract(wide, number) if wide.type.lanes > 1 else wide
            place = self._at(index, {LANE: k.i32(number)})
            made.append(_stored(buffer, place, one, lanes[number]))
        return made

    def _store_guard(self) -> k.Expr:
        """Whether a point is inside every inexact axis, and this lane holds a shared result."""
        guard: k.Expr = k.Literal(True, k.BOOL)
        for axis in self.group.axes:
            if axis in self.names.inside:
                guard = k.call("and", guard, self.names.inside[axis])
        for loop in self.shared:
            guard = k.call("and", guard, k.call("eq", self.names.loops[loop.name], k.i32(0)))
        return self.simplify(guard)


def lower(group: Group, nest: Nest, storage: dict[Value, Storage], name: str) -> k.Kernel:
    """The kernel of a group under a nest.

    `storage` has an entry for every value that the group reads or stores.
    """
    work = _Lowering(group, nest, storage)
    body = work.run()
    used = {(r.source, r.field) for r in group.reads}
    stored = [(s.node, s.field) for s in group.stores]
    buffers = [storage[v].buffer for v in (*_ordered(group, used), *stored)]
    grid = tuple(nest.size(Kind.GROUP, d) for d in range(3))
    lanes = tuple(nest.size(Kind.LANE, d) for d in range(3))
    origins = tuple(dict.fromkeys(Origin(o.name, o.definition, o.span) for o in group.origins))
    return k.Kernel(
        name,
        tuple(dict.fromkeys(buffers)),
        tuple(work.arrays),
        body,
        (grid[0], grid[1], grid[2]),
        (lanes[0], lanes[1], lanes[2]),
        str(nest),
        origins,
    )


def _ordered(group: Group, used: set[Value]) -> list[Value]:
    return [v for v in group.operands if v in used]


def _stored(buffer: k.Buffer, index: k.Expr, value: k.Expr, guard: k.Expr) -> k.Store:
    kept = None if isinstance(guard, k.Literal) and guard.value else guard
    if value.type.dtype is not buffer.dtype:
        value = k.Cast(value, buffer.dtype)
    return k.Store(buffer, index, value, kept)


def identity(value: float, dtype: DType) -> k.Expr:
    """A monoid field's identity as a literal of its type."""
    match dtype:
        case DType.I32:
            return k.i32(int(value))
        case DType.BOOL:
            return k.Literal(bool(value), k.BOOL)
        case _:
            return k.f32(value)


def splat(value: k.Expr, width: int) -> k.Expr:
    """`value` in `width` lanes."""
    if value.type.lanes == width:
        return value
    return k.Vector((value,) * width)


def combined(monoid: Monoid, left: Sequence[k.Expr], right: Sequence[k.Expr]) -> list[k.Expr]:
    """The monoid's combine of two states; a product that is added becomes a fused multiply-add."""
    slots = {(0, f): v for f, v in enumerate(left)} | {(1, f): v for f, v in enumerate(right)}
    scope = Scope({}, slots, {})
    return [_fused(translate(e, scope)) for e in monoid.combine]


def _fused(e: k.Expr) -> k.Expr:
    if isinstance(e, k.Call) and e.op == "add" and e.type.dtype is DType.F32:
        for value, other in ((e.args[1], e.args[0]), (e.args[0], e.args[1])):
            if isinstance(value, k.Call) and value.op == "mul":
                return k.call("fma", value.args[0], value.args[1], other)
    return e


def _points(nest: Nest, reduced: bool) -> list[Point]:
    """The copies that unrolled loops ask for, as values of their variables."""
    loops = [lp for lp in nest.loops if lp.kind is Kind.UNROLL and nest.is_reduced(lp) is reduced]
    return [
        {_loop_var(lp): k.i32(n) for lp, n in zip(loops, choice, strict=True)}
        for choice in product(*(range(lp.extent) for lp in loops))
    ]


def loop_names(nest: Nest) -> set[str]:
    """The names that a nest's loop variables take in a kernel."""
    return {_loop_var(lp).name for lp in nest.loops}


def _loop_var(loop: Loop) -> k.Var:
    name = loop.name.replace(".", "_").replace("'", "_prime")
    return LANE if loop.kind is Kind.VECTOR else k.Var(name, k.I32)


def _mixed(parts: list[tuple[k.Expr, int]]) -> k.Expr:
    """One number from several digits, the last the fastest."""
    total: k.Expr = k.i32(0)
    for value, extent in parts:
        total = k.call("add", k.call("mul", total, k.i32(extent)), value)
    return total


def _names(nest: Nest) -> _Names:
    loops: dict[str, k.Expr] = {}
    ranges: dict[k.Expr, tuple[int, int]] = {}
    for kind, word in ((Kind.GROUP, "group"), (Kind.LANE, "lane")):
        for dim in range(3):
            bound = [lp for lp in nest.loops if lp.kind is kind and lp.dim == dim]
            ranges[k.WorkId(word, dim)] = (0, nest.size(kind, dim) - 1)  # type: ignore[arg-type]
            loops.update(_digits(bound, k.WorkId(word, dim)))  # type: ignore[arg-type]
    for loop in nest.loops:
        if loop.name not in loops:
            loops[loop.name] = _loop_var(loop)
            ranges[_loop_var(loop)] = (0, loop.extent - 1)
    axes: dict[Axis, k.Expr] = {}
    raw: dict[Axis, k.Expr] = {}
    inside: dict[Axis, k.Expr] = {}
    for axis in dict.fromkeys(lp.axis for lp in nest.loops):
        value: k.Expr = k.i32(0)
        for loop in nest.of_axis(axis):
            step = k.call("mul", loops[loop.name], k.i32(loop.stride))
            value = k.call("add", value, step)
        raw[axis] = simplify(value, ranges)
        if not nest.is_exact(axis):
            inside[axis] = simplify(k.call("lt", value, k.i32(axis.extent)), ranges)
            value = k.call("min", value, k.i32(axis.extent - 1))
        axes[axis] = simplify(value, ranges)
    return _Names(loops, axes, raw, inside, ranges)


def _digits(bound: list[Loop], number: k.Expr) -> dict[str, k.Expr]:
    """Each loop's index from a work-group's or work-item's number, the last loop the fastest."""
    made: dict[str, k.Expr] = {}
    inner = 1
    for loop in reversed(bound):
        digit = k.call("floordiv", number, k.i32(inner)) if inner > 1 else number
        made[loop.name] = k.call("mod", digit, k.i32(loop.extent))
        inner *= loop.extent
    return made
