"""Stages whose elements lie with the work-items that compute them: who holds which, and who may
read them.

In: a stage, the loops that fill it, the loops of its readers. Out: the number of an element among
those of its work-item; or why a reader would need another work-item's. Invariant: what may be read
is computed by the work-item that reads it.

    scores[row, key] by a matrix instruction: work-item l holds rows l / 4 and l / 4 + 8 and columns
    2 * (l % 4), + 1 of every 8; a maximum over keys whose work-items run so too reads its own
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import prod

from sdlc.graph.expr import Axis, Read, reads_of
from sdlc.schedule.contraction import contraction
from sdlc.schedule.group import Group
from sdlc.schedule.matrix import bit_of
from sdlc.schedule.nest import Fragments, Kind, Loop, Nest, Place, Staged
from sdlc.schedule.region import Unknown, axis_forms, form_of, loops_by_key
from sdlc.target import Holding

MOST_ELEMENTS = 1 << 12
"""More places along an axis than this are not compared."""

Bit = tuple[int, int]
"""A dimension of the work-items, and a bit of their number in it."""


@dataclass(frozen=True, slots=True)
class Digit:
    """A part of an element's number: `offset // stride % extent` along an axis, times `weight`."""

    axis: int
    stride: int
    extent: int
    weight: int


@dataclass(frozen=True, slots=True)
class _Moves:
    """How an index moves: with each bit of the work-items' numbers, and to which places for one
    work-item."""

    bits: Mapping[Bit, int]
    places: frozenset[int]


def own_elements(stage: Staged, axes: tuple[Axis, ...]) -> tuple[tuple[Digit, ...], int]:
    """The digits of an element's number among those that a work-item holds, and how many those
    are; the smallest steps of the last axis are neighbours."""
    found: list[Digit] = []
    size = 1
    for number in reversed(range(len(axes))):
        loops = [lp for lp in stage.nest.of_axis(axes[number]) if lp.kind is not Kind.LANE]
        for loop in sorted(loops, key=lambda lp: lp.stride):
            if loop.extent > 1:
                found.append(Digit(number, loop.stride, loop.extent, size))
                size *= loop.extent
    return tuple(found), size


def unheld(group: Group, nest: Nest, stage: Staged) -> str:
    """Why some reader of a stage would need elements that other work-items hold; '' if none."""
    if stage.place is Place.LOCAL:
        return ""
    wanted = {(s.node, s.field) for g in group.inner if g.name == stage.value for s in g.stores}
    multiplied = {s.value for s in nest.stages if s.nest.matrix is not None}
    multiplied |= {group.name} if nest.matrix is not None else set()
    for part in group.parts:
        reads = [r for r in part.reads if (r.source, r.field) in wanted]
        if not reads:
            continue
        if stage.place is Place.PRIVATE:
            if part.name in multiplied and any(r in reads_of(*part.lift) for r in reads):
                return "a matrix instruction reads elements that other work-items hold"
        elif not all(_is_own(group, nest, stage, part, read) for read in reads):
            return f"`{part.name}` reads elements that other work-items hold"
    return ""


def _is_own(group: Group, nest: Nest, stage: Staged, part: Group, read: Read) -> bool:
    """Whether a reader's work-item reads what it computed itself."""
    own = next(g for g in group.inner if g.name == stage.value)
    name = "" if part is group else part.name
    forms = axis_forms(group, nest)[name]
    extents = {key: lp.extent for key, lp in loops_by_key(nest)}
    try:
        for axis, index, first in zip(own.axes, read.indices, stage.region.first, strict=True):
            terms, constant = form_of(index, forms, extents)
            for key, factor in first[0]:
                terms[key] = terms.get(key, 0) - factor
            held = _own_moves(stage.nest, axis)
            moves = _moves(group, nest, name, read, terms, constant - first[1])
            if held.bits != moves.bits or not moves.places <= held.places:
                return False
    except Unknown:
        return False
    return True


def _own_moves(nest: Nest, axis: Axis) -> _Moves:
    loops = nest.of_axis(axis)
    bits = {b: s for lp in loops if lp.kind is Kind.LANE for b, s in _bits(nest, lp, lp.stride)}
    steps = [(lp.stride, lp.extent) for lp in loops if lp.kind is not Kind.LANE]
    return _Moves(bits, _sums(0, steps))


def _moves(
    group: Group, nest: Nest, name: str, read: Read, terms: Mapping[str, int], constant: int
) -> _Moves:
    """How an index with these terms moves within part `name`."""
    stages = {s.value: s.nest for s in nest.stages}
    owners = {key: (stages.get(key.rpartition("/")[0], nest), lp) for key, lp in loops_by_key(nest)}
    own = stages.get(name, nest)
    of = own.matrix
    made = frozenset(n for _, names in of.made for n in names) if of is not None else frozenset()
    bits: dict[Bit, int] = {}
    steps: list[tuple[int, int]] = []
    factors: dict[Axis, int] = {}
    for key, factor in terms.items():
        owner, loop = owners[key]
        if not factor or loop.extent == 1:
            continue
        if owner is own and (loop.name in made or loop.kind is Kind.MATRIX):
            factors[loop.axis] = factor // loop.stride
        elif loop.kind is Kind.LANE:
            bits.update(_bits(owner, loop, factor))
        else:
            steps.append((factor, loop.extent))
    if of is not None and factors:
        part = group if not name else next(g for g in group.inner if g.name == name)
        holding, sides = _side(part, of, read)
        for places, is_lane in ((holding.lanes, True), (holding.elements, False)):
            for number, place in enumerate(places):
                loop, step = bit_of(place, *sides)
                move = factors.get(loop.axis, 0) * loop.stride * step
                if move and is_lane:
                    bits[0, number] = move
                elif move:
                    steps.append((move, 2))
    return _Moves(bits, _sums(constant, steps))


def _side(
    part: Group, of: Fragments, read: Read
) -> tuple[Holding, tuple[tuple[Loop, ...], tuple[Loop, ...]]]:
    """Who holds the factor that is read, and the loops of its rows and columns."""
    form = contraction(part)
    assert form is not None
    if read in reads_of(form.left):
        return of.instruction.left, (of.rows, of.reduced)
    return of.instruction.right, (of.reduced, of.columns)


def _bits(nest: Nest, loop: Loop, factor: int) -> Iterator[tuple[Bit, int]]:
    """The bits of a loop over work-items, the last loop of a dimension the fastest, and how far
    each moves an index. Raises `Unknown` where it has none."""
    bound = [lp for lp in nest.loops if lp.kind is Kind.LANE and lp.dim == loop.dim]
    inner = prod(lp.extent for lp in bound[bound.index(loop) + 1 :])
    if loop.extent & (loop.extent - 1) or inner & (inner - 1):
        raise Unknown("work-items are no power of two")
    start = inner.bit_length() - 1
    for bit in range(loop.extent.bit_length() - 1):
        yield (loop.dim, start + bit), factor << bit


def _sums(constant: int, steps: Iterable[tuple[int, int]]) -> frozenset[int]:
    """Every sum of multiples of the steps below their counts."""
    steps = tuple(steps)
    if prod(count for _, count in steps) > MOST_ELEMENTS:
        raise Unknown("there are too many elements")
    ways = product(*(range(0, step * count, step) for step, count in steps))
    return frozenset(constant + sum(way) for way in ways)
