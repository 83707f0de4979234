"""The sums of a contraction by a matrix instruction.

In: a part whose nest has `Fragments`, its accumulators. Out: one `MatrixMultiply` for each fragment
of the results and step of K. Invariant: a work-item gives the elements of both factors that the
instruction says it holds, at the places that the loops say; terms beyond an inexact axis are zero.

    for k.block { left0 = a'[row(lane), k(lane) …]; …; <total …> += <left0 …> times <right0 …> }
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from sdlc.graph.expr import Expr
from sdlc.graph.types import DType
from sdlc.kernel import ir as k
from sdlc.kernel.fragments import packed, place
from sdlc.kernel.lower_names import Names, loop_var
from sdlc.kernel.translate import Scope, translate
from sdlc.kernel.vectorize import vectorize
from sdlc.schedule.contraction import contraction
from sdlc.schedule.nest import Fragments, Kind, Loop
from sdlc.target import Holding

if TYPE_CHECKING:
    from sdlc.kernel.lower_part import Part, Point

PAIR = k.Var("lane_of_pair", k.I32)
REGISTER = 4
"""Bytes of a register: so many elements side by side are one value."""


class Multiplying:
    """Emits the products of one part."""

    def __init__(self, part: Part, fragments: Fragments) -> None:
        self.part, self.fragments = part, fragments
        self.instruction = fragments.instruction
        bits = len(self.instruction.result.elements)
        self.elements = self._elements(bits)
        form = contraction(part.group)
        assert form is not None
        rows, columns, reduced = fragments.rows, fragments.columns, fragments.reduced
        width = self._width(self.instruction.left, 1)
        self.left = self._side(form.left, self.instruction.left, (rows, reduced), width)
        width = self._width(self.instruction.right, 0)
        self.rights = [
            self._side(right, self.instruction.right, (reduced, columns), width)
            for right in form.rights
        ]

    def _elements(self, bits: int) -> list[Point]:
        """The values of the held loops' variables, by element of the result."""
        held = [
            lp
            for lp in self.part.nest.loops
            if lp.kind is Kind.UNROLL and any(lp.name in made for _, made in self.fragments.made)
        ]
        points: list[Point] = []
        for element in range(1 << bits):
            point: Point = {}
            number = element
            for loop in reversed(held):
                point[loop_var(loop, self.part.prefix)] = k.i32(number % loop.extent)
                number //= loop.extent
            points.append(point)
        return points

    def _width(self, holding: Holding, dimension: int) -> int:
        size = DType(self.instruction.inputs).itemsize
        return min(packed(holding, dimension), max(1, REGISTER // size))

    # ---- factors

    def _side(
        self, factor: Expr, holding: Holding, loops: Sequence[tuple[Loop, ...]], width: int
    ) -> list[k.Expr]:
        """What a work-item holds of a factor, in values of `width` elements along K."""
        ranges = self.part.work.simplifier.bounds.ranges
        ranges[PAIR] = (0, width - 1)
        along = 1 if loops[1] is self.fragments.reduced else 0
        lane = k.WorkId("lane", 0)
        made: list[k.Expr] = []
        for element in range(0, holding.count, width):
            numbers = list(place(holding, lane, element))
            if width > 1:
                numbers[along] = k.call("add", numbers[along], PAIR)
            names = self._names(dict(zip(loops, numbers, strict=True)))
            made.append(self._value(factor, names, width))
        return made

    def _names(self, numbers: Mapping[tuple[Loop, ...], k.Expr]) -> Names:
        """Names in which the tile's loops have the values that a row's or column's number gives."""
        part, values = self.part, dict(self.part.names.loops)
        made = dict(self.fragments.made)
        for loops, number in numbers.items():
            for loop in reversed(loops):
                digit = number if loop is loops[0] else k.call("mod", number, k.i32(loop.extent))
                number = k.call("floordiv", number, k.i32(loop.extent))
                for name in made.get(loop.name, (loop.name,)):
                    own = part.nest.loop(name)
                    values[name] = digit if own.stride == loop.stride else k.i32(0)
        return part.names.renamed(values)

    def _value(self, factor: Expr, names: Names, width: int) -> k.Expr:
        """The elements of a factor, of the instruction's type; zero beyond an inexact axis of K."""
        part = self.part
        scope = Scope(names.axes, {}, part.work.storage, part.work.held, names.raw)
        value = translate(factor, scope)
        inputs = DType(self.instruction.inputs)
        for axis in part.group.over:
            if axis in names.inside:
                value = k.call("select", names.inside[axis], value, k.f32(0))
        if value.type.dtype is not inputs:
            value = k.Cast(value, inputs)
        value = part.simplify(value)
        if width == 1:
            return value
        wide = vectorize(value, PAIR, width, part.work.simplifier)
        return wide if wide.type.lanes == width else k.Vector((wide,) * width)

    # ---- products

    def emit(self, states: Sequence[tuple[k.Var, ...]]) -> None:
        """The products of one step: all copies along K, all fragments of the results."""
        part = self.part
        held = set(self.elements[0])
        totals = {
            frozenset(point.items()): state for point, state in zip(part.tile, states, strict=True)
        }
        outer = list(
            dict.fromkeys(
                tuple((v, n) for v, n in point.items() if v not in held) for point in part.tile
            )
        )
        for copy in part.points(reduced=True):
            points = [{**copy, **dict(each)} for each in outer]
            sides = [self.left, *self.rights]
            every = [part.at(e, point) for point in points for side in sides for e in side]
            prepared = iter(part.emit.prepare(every))
            known: dict[k.Expr, k.Var] = {}
            for each in outer:
                left = self._kept("left", len(self.left), prepared, known)
                for field, side in enumerate(self.rights):
                    right = self._kept("right", len(side), prepared, known)
                    into = tuple(
                        totals[frozenset({**dict(each), **element}.items())][field]
                        for element in self.elements
                    )
                    part.emit.multiply(k.MatrixMultiply(self.instruction, into, left, right))

    def _kept(
        self, name: str, count: int, values: Iterator[k.Expr], known: dict[k.Expr, k.Var]
    ) -> tuple[k.Expr, ...]:
        """The next values, each named once."""
        emit, made = self.part.emit, []
        for _ in range(count):
            value = next(values)
            if value not in known:
                known[value] = emit.bind(emit.fresh(name, value.type), value)
            made.append(known[value])
        return tuple(made)
