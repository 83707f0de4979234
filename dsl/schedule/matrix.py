"""A tile of a contraction as a matrix instruction: the step `Matrix`.

In: a nest and the step. Out: the nest with the tile's rows and columns over the work-items of a
sub-group and over what each holds. Invariant: every point of the tile is computed once, by the
work-item that holds it; the sub-group is dimension 0 of the lanes, whole.

    rows m.in < 16, columns n.in < 8, held ((0, 1), (8, 0)) by lanes ((0, 2), (0, 4), (1, 0) …)
    lane0 m.in.0 < 8, lane0 n.in.0 < 4 step 2; unroll m.in.1 < 2 step 8, unroll n.in.1 < 2
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod

from sdlc.graph.expr import Expr, Read
from sdlc.schedule.contraction import contraction
from sdlc.schedule.group import Group
from sdlc.schedule.nest import Fragments, Kind, Loop, Matrix, Nest, Refused
from sdlc.schedule.nest import Place as Memory
from sdlc.target import Place

Refuse = Callable[[str], Refused]


def as_matrix(nest: Nest, step: Matrix, group: Group | None, refuse: Refuse) -> Nest:
    """The nest after the step, for itself or for a stage in local memory; raises `Refused`."""
    value = step.rows[0].rpartition("/")[0] if step.rows else ""
    if not value:
        return _multiplied(nest, step, group, refuse)
    found = next((s for s in nest.stages if s.value == value), None)
    if found is None or group is None:
        raise refuse(f"there is no stage `{value}`")
    if found.place is Memory.PRIVATE:
        raise refuse("a sub-group's result is no work-item's own")
    start = len(value) + 1
    rows, columns, reduced = (
        tuple(n[start:] for n in side) for side in (step.rows, step.columns, step.reduced)
    )
    own = replace(step, rows=rows, columns=columns, reduced=reduced)
    part = next(g for g in group.inner if g.name == value)
    made = replace(found, nest=_multiplied(found.nest, own, part, refuse))
    return replace(nest, stages=tuple(made if s is found else s for s in nest.stages))


def _multiplied(nest: Nest, step: Matrix, group: Group | None, refuse: Refuse) -> Nest:
    """The nest with its tile by the instruction."""
    names = (*step.rows, *step.columns, *step.reduced)
    known = {lp.name: lp for lp in nest.loops}
    for name in names:
        if name not in known:
            raise refuse(f"there is no loop `{name}`")
        if known[name].kind is not Kind.SERIAL:
            raise refuse(f"the loop `{name}` is bound already")
    if group is None:
        raise refuse("it is not known what the nest computes")
    rows, columns, reduced = (
        tuple(known[n] for n in side) for side in (step.rows, step.columns, step.reduced)
    )
    _check_sizes(step, (rows, columns, reduced), refuse)
    _check_factors(step, group, (rows, columns, reduced), refuse)
    _check_nest(nest, refuse)
    made = _held(rows, columns, step)
    lanes = [m.loop for m in made if m.loop.kind is Kind.LANE]
    copies = [m.loop for m in made if m.loop.kind is Kind.UNROLL]
    loops: list[Loop] = []
    for loop in nest.loops:
        if loop.name == names[0]:
            loops += [*lanes, *copies]
        elif loop.name in step.reduced:
            loops.append(replace(loop, kind=Kind.MATRIX))
        elif loop.name not in names:
            loops.append(loop)
    parts = tuple(
        (lp.name, tuple(m.loop.name for m in made if m.of == lp.name)) for lp in (*rows, *columns)
    )
    fragments = Fragments(step.instruction, rows, columns, reduced, parts)
    return replace(nest, loops=tuple(loops), matrix=fragments)


def _check_sizes(step: Matrix, sides: Sequence[tuple[Loop, ...]], refuse: Refuse) -> None:
    of = step.instruction
    for word, side, size in zip(
        ("rows", "columns", "terms"), sides, (of.m, of.n, of.k), strict=True
    ):
        if prod(lp.extent for lp in side) != size:
            raise refuse(f"{of.name} has {size} {word}")
        if any(lp.extent & (lp.extent - 1) for lp in side):
            raise refuse("its loops must be powers of two")


def _check_factors(
    step: Matrix, group: Group, sides: Sequence[tuple[Loop, ...]], refuse: Refuse
) -> None:
    form = contraction(group)
    if form is None:
        raise refuse("only a sum of products of two factors is a matrix product")
    classes = (("M", form.m), ("N", form.n), ("K", form.k))
    for (word, axes), side in zip(classes, sides, strict=True):
        for loop in side:
            if loop.axis not in axes:
                raise refuse(f"the axis of `{loop.name}` is none of {word}")
    wanted = step.instruction.inputs
    for factor in (form.left, *form.rights):
        if not is_of(factor, wanted):
            raise refuse(f"a factor is no element of a value of {wanted}")
    if any(f.dtype.value != step.instruction.accumulator for f in group.monoid.fields):  # type: ignore[union-attr]
        raise refuse(f"the sums are not of {step.instruction.accumulator}")


def is_of(factor: Expr, dtype: str) -> bool:
    """Whether a factor is an element of a value of this type as it is, or a number beyond."""
    return isinstance(factor, Read) and factor.source.dtypes[factor.field].value == dtype


def _check_nest(nest: Nest, refuse: Refuse) -> None:
    if nest.matrix is not None:
        raise refuse("the nest has a matrix instruction already")
    if any(lp.kind is Kind.VECTOR for lp in nest.loops):
        raise refuse("the nest has a vector loop")
    if any(lp.kind is Kind.LANE and lp.dim == 0 for lp in nest.loops):
        raise refuse("dimension 0 of the lanes is the sub-group")


@dataclass(frozen=True, slots=True)
class _Made:
    """A loop, and the name of the one that it is a part of."""

    loop: Loop
    of: str


def _held(rows: tuple[Loop, ...], columns: tuple[Loop, ...], step: Matrix) -> list[_Made]:
    """Lanes and copies of the tile, the slowest of each kind first."""
    result = step.instruction.result
    found: list[_Made] = []
    for kind, places in ((Kind.LANE, result.lanes), (Kind.UNROLL, result.elements)):
        bits = [bit_of(place, rows, columns) for place in places]
        start = 0
        slow: list[_Made] = []
        while start < len(bits):
            loop, stride = bits[start]
            end = start + 1
            while end < len(bits) and bits[end] == (loop, stride << (end - start)):
                end += 1
            number = sum(m.of == loop.name for m in (*found, *slow))
            name = f"{loop.name}.{number}"
            extent, step_ = 1 << (end - start), loop.stride * stride
            slow.insert(0, _Made(Loop(name, loop.axis, extent, step_, kind), loop.name))
            start = end
        found += slow
    return found


def bit_of(place: Place, rows: tuple[Loop, ...], columns: tuple[Loop, ...]) -> tuple[Loop, int]:
    """The loop that a bit of a row's or column's number belongs to, and its step there."""
    number, loops = (place[0], rows) if place[0] else (place[1], columns)
    for loop in reversed(loops):
        if number < loop.extent:
            return loop, number
        number //= loop.extent
    raise AssertionError("a place beyond the matrix")
