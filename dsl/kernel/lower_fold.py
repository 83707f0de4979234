"""Combining the states of vector lanes and of work-items.

In: a monoid and one state for each lane. Out: the combined state. Invariant: every state takes part
once; between two work-items there is a barrier.

    lanes 0 … 7   →   lanes 0 … 3 combined with 4 … 7   →   …   →   one state
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from sdlc.graph.node import Monoid
from sdlc.graph.types import DType
from sdlc.kernel import ir as k
from sdlc.kernel.lower_names import Names, mixed
from sdlc.kernel.translate import Scope, translate
from sdlc.schedule.nest import Kind, Loop, Nest

if TYPE_CHECKING:
    from sdlc.kernel.lower_part import Work


class Folding:
    """Folds over the lanes of a vector and over the work-items that share a reduction."""

    def __init__(self, work: Work, nest: Nest, names: Names, shared: tuple[Loop, ...]) -> None:
        self.work, self.nest, self.names, self.shared = work, nest, names, shared
        self.emit, self.simplify = work.emit, work.simplifier.visit

    def lanes(self, monoid: Monoid, values: list[k.Expr], width: int) -> list[k.Expr]:
        """The lanes of vector states combined by halves."""
        while width > 1:
            width //= 2
            low = [k.Extract(v, 0, width) for v in values]
            high = [k.Extract(v, width, width) for v in values]
            values = self._bound(combined(monoid, low, high))
        return values

    def _bound(self, values: Sequence[k.Expr]) -> list[k.Expr]:
        """Named copies of expressions that read mutable variables."""
        made = [self.emit.settle(v) for v in self.emit.prepare(values)]
        return [self.emit.bind(self.emit.fresh("total", v.type), v) for v in made]

    def trees(self, monoid: Monoid, states: Sequence[list[k.Expr]]) -> list[list[k.Expr]]:
        """Lanes that share reductions combine through local memory, by halves: as many of a
        work-item's states at once as may."""
        alone = all(lp.dim == 0 and not lp.extent & (lp.extent - 1) for lp in self.shared)
        if alone and self.work.subgroup:
            return [self._butterfly(monoid, state) for state in states]
        most = self.work.together
        batches = (states[n : n + most] for n in range(0, len(states), most))
        return [state for batch in batches for state in self._tree(monoid, batch)]

    def _butterfly(self, monoid: Monoid, state: list[k.Expr]) -> list[k.Expr]:
        """Lanes of a sub-group combine with those that differ in one bit of their number, bit by
        bit: all have the result."""
        bound = [lp for lp in self.nest.loops if lp.kind is Kind.LANE and lp.dim == 0]
        for loop in self.shared:
            distance = prod(lp.extent for lp in bound[bound.index(loop) + 1 :])
            end = distance * loop.extent
            while distance < end:
                lanes = self.work.subgroup
                others = [self.emit.exchange(v, distance, lanes) for v in state]
                state = self._bound(combined(monoid, state, others))
                distance *= 2
        return state

    def _tree(self, monoid: Monoid, states: Sequence[list[k.Expr]]) -> list[list[k.Expr]]:
        """The same of these states at once, each in a part of the arrays of its own."""
        ways = prod(lp.extent for lp in self.shared)
        digits = [(self.names.loops[lp.name], lp.extent) for lp in self.shared]
        mine = self.simplify(mixed(digits))
        others = self._other_lanes()
        rows = prod(extent for _, extent in others)
        row = k.call("mul", mixed(others), k.i32(ways)) if others else k.i32(0)
        lanes = states[0][0].type.lanes
        wide, size = k.i32(lanes), rows * ways * lanes
        names, whole = [f"shared_{f.name}" for f in monoid.fields], size * len(states)
        used = any((name, whole) in self.work.shared for name in names)
        arrays = [
            self.work.shared_array(name, f.dtype, whole)
            for name, f in zip(names, monoid.fields, strict=True)
        ]
        cell = self.simplify(k.call("mul", k.call("add", row, mine), wide))
        here = self.emit.bind(self.emit.fresh("cell", k.I32), cell)
        made = iter(self.emit.prepare(v for state in states for v in state))
        settled = [[self.emit.settle(next(made)) for _ in state] for state in states]
        if self.emit.depth or used:
            self.emit.add(k.Barrier())  # what the arrays held last is still being read
        parts = [k.i32(n * size) for n in range(len(states))]
        for part, values in zip(parts, settled, strict=True):
            at = self.simplify(k.call("add", here, part))
            self.emit.add(*(k.Store(a, at, v) for a, v in zip(arrays, values, strict=True)))
        self.emit.add(k.Barrier())
        left = ways
        while left > 1:
            self._step(monoid, arrays, here, (mine, row, left, ways, lanes), parts)
            left -= left // 2
        first = self.simplify(k.call("mul", row, wide))
        starts = [self.simplify(k.call("add", first, part)) for part in parts]
        return [self._bound([k.Load(a, start, lanes) for a in arrays]) for start in starts]

    def _other_lanes(self) -> list[tuple[k.Expr, int]]:
        """The lanes that tell the rows of a tree apart."""
        own = [
            (self.names.loops[lp.name], lp.extent)
            for lp in self.nest.loops
            if lp.kind is Kind.LANE and lp not in self.shared
        ]
        free: list[tuple[k.Expr, int]] = [
            (k.WorkId("lane", dim), size)
            for dim, size in enumerate(self.work.group_size)
            if size > 1 and self.nest.size(Kind.LANE, dim) == 1
        ]
        return free + own

    def _step(
        self,
        monoid: Monoid,
        arrays: list[k.Buffer],
        here: k.Expr,
        place: tuple[k.Expr, k.Expr, int, int, int],
        parts: Sequence[k.Expr],
    ) -> None:
        mine, row, count, ways, lanes = place
        half = count // 2
        # Lanes beyond `half` look at cells of their row that nobody writes meanwhile.
        other = k.call("min", k.call("add", mine, k.i32(count - half)), k.i32(ways - 1))
        there = self.simplify(k.call("mul", k.call("add", row, other), k.i32(lanes)))
        active = self.simplify(k.call("lt", mine, k.i32(half)))
        found: list[k.Stmt] = []
        for part in parts:
            own, others = (self.simplify(k.call("add", at, part)) for at in (here, there))
            left: list[k.Expr] = [k.Load(a, own, lanes) for a in arrays]
            right: list[k.Expr] = [k.Load(a, others, lanes) for a in arrays]
            named = self._bound(combined(monoid, left, right))
            found += (k.Store(a, own, v, active) for a, v in zip(arrays, named, strict=True))
        self.emit.add(*found, k.Barrier())


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
    return [fused(translate(e, scope)) for e in monoid.combine]


def fused(e: k.Expr) -> k.Expr:
    """A sum with a product in it as a fused multiply-add."""
    if isinstance(e, k.Call) and e.op == "add" and e.type.dtype is DType.F32:
        for value, other in ((e.args[1], e.args[0]), (e.args[0], e.args[1])):
            if isinstance(value, k.Call) and value.op == "mul":
                return k.call("fma", value.args[0], value.args[1], other)
    return e
