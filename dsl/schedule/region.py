"""Which part of an inner group's value its readers need at one place of the nest.

In: a group, its nest so far, the place of a stage. Out: `Region`: for every axis of the inner
group the first index, as a form over loops, and the number of indices. Invariant: every index at
which any reader reads the value while the place's loops stand still lies in the region.

    out[x] = sum over k of a[x*2 + k] * w[k]   with x < 8 by tiles of 4, staged at the tiles' loop:
    a is needed from 8*x on, (4 - 1)*2 + (3 - 1) + 1 = 9 elements
    out[x] = a[x / 3]   with x < 96 by tiles of 48: from 16*x on, 16 elements
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import gcd
from typing import TYPE_CHECKING

from sdlc.graph.expr import Apply, Axis, Expr, Index, Literal, Read
from sdlc.schedule.group import Group

if TYPE_CHECKING:
    from sdlc.schedule.nest import Loop, Nest

Form = tuple[tuple[tuple[str, int], ...], int]
"""Coefficients by loop key, and a constant. The key of a loop of stage `v` is `v/loop`."""

Terms = tuple[dict[str, int], int]


@dataclass(frozen=True, slots=True)
class Region:
    """By axis of the inner group: the `first` index, how many there are, and how far apart."""

    first: tuple[Form, ...]
    extents: tuple[int, ...]
    steps: tuple[int, ...]


class Unknown(Exception):
    """An index whose range over the loops cannot be told; the message says why."""


@dataclass(frozen=True, slots=True)
class _Moves:
    """How far each loop goes, by key, and each quotient that several loops make together: that is
    no sum of theirs, but moves like a loop of its own, of `quotients`' loops."""

    extents: dict[str, int]
    quotients: dict[str, frozenset[str]] = field(default_factory=dict)

    def loops(self, key: str) -> frozenset[str]:
        """The loops that a key stands for."""
        return self.quotients.get(key, frozenset((key,)))

    def quotient(self, terms: Mapping[str, int], constant: int, by: int) -> Terms:
        """The quotient of a sum of loops, as a key of its own from its least value on."""
        low, high = (end + constant for end in _range(terms, self.extents))
        key = f"({' + '.join(f'{c} {n}' for n, c in sorted(terms.items()))} + {constant}) / {by}"
        self.extents[key] = high // by - low // by + 1
        self.quotients[key] = frozenset().union(*(self.loops(n) for n in terms))
        return {key: 1}, low // by


def axis_forms(group: Group, nest: Nest) -> dict[str, dict[Axis, Terms]]:
    """The value of every axis as a form over loops, by part: `""` is the group itself."""
    forms = {"": _forms(nest, "", {})}
    parts = {g.name: g for g in group.inner}
    for stage in nest.stages:
        axes = parts[stage.value].axes
        first = {a: (dict(f[0]), f[1]) for a, f in zip(axes, stage.region.first, strict=True)}
        forms[stage.value] = _forms(stage.nest, f"{stage.value}/", first)
    return forms


def _forms(nest: Nest, prefix: str, first: Mapping[Axis, Terms]) -> dict[Axis, Terms]:
    made: dict[Axis, Terms] = {}
    for axis in dict.fromkeys(lp.axis for lp in nest.loops):
        terms, constant = first.get(axis, ({}, 0))
        own = {f"{prefix}{lp.name}": lp.stride for lp in nest.of_axis(axis)}
        made[axis] = ({**terms, **own}, constant)
    for axis, form in first.items():
        made.setdefault(axis, form)
    return made


def region_of(
    group: Group, nest: Nest, value: str, fixed: frozenset[str], strided: bool = False
) -> Region:
    """The region of inner group `value` that readers need while the loops `fixed` stand still;
    `strided`: without what lies between indices that all are a step apart.

    Raises `Unknown` where an index is not a sum of loops.
    """
    moves = _Moves({key: lp.extent for key, lp in loops_by_key(nest)})
    found = _places(group, nest, value, moves)
    if any(not place for place in found):
        raise Unknown("nothing reads it at this place")
    if any(not fixed.isdisjoint(loops) for loops in moves.quotients.values()):
        raise Unknown("loops that stand still there are part of a quotient")
    spans = [_span(place, fixed, moves.extents) for place in found]
    steps = [_step(place, fixed, moves.extents) if strided else 1 for place in found]
    counts = tuple((s[1] - 1) // step + 1 for s, step in zip(spans, steps, strict=True))
    return Region(tuple(s[0] for s in spans), counts, tuple(steps))


def moved_by(group: Group, nest: Nest, value: str, loop: str) -> frozenset[Axis]:
    """The axes of inner group `value` along which its readers move with a loop (by key)."""
    moves = _Moves({key: lp.extent for key, lp in loops_by_key(nest)})
    part = next(g for g in group.inner if g.name == value)
    places = _places(group, nest, value, moves)
    return frozenset(
        a
        for a, place in zip(part.axes, places, strict=True)
        if any(loop in moves.loops(key) for terms, _ in place for key in terms)
    )


def _places(group: Group, nest: Nest, value: str, moves: _Moves) -> list[list[Terms]]:
    """By axis of the inner group, the indices at which readers that are placed already read it."""
    forms = axis_forms(group, nest)
    part = next(g for g in group.inner if g.name == value)
    wanted = {(s.node, s.field) for s in part.stores}
    found: list[list[Terms]] = [[] for _ in part.axes]
    for reader in group.parts:
        name = "" if reader is group else reader.name
        if reader is not group and name not in forms:
            continue
        for read in reader.reads:
            if (read.source, read.field) in wanted:
                for place, index in zip(found, read.indices, strict=True):
                    place.append(form_of(index, forms[name], moves.extents, moves.quotient))
    return found


def loops_by_key(nest: Nest) -> Iterable[tuple[str, Loop]]:
    """Every loop of the nest and of its stages, with its key."""
    yield from ((lp.name, lp) for lp in nest.loops)
    for stage in nest.stages:
        yield from ((f"{stage.value}/{lp.name}", lp) for lp in stage.nest.loops)


def _span(
    places: list[Terms], fixed: frozenset[str], extents: Mapping[str, int]
) -> tuple[Form, int]:
    """The first index and the number of indices from it that cover all places."""
    bases = {tuple(sorted((n, c) for n, c in t.items() if n in fixed)) for t, _ in places}
    if len(bases) != 1:
        raise Unknown("its readers move through it differently")
    lows, highs = [], []
    for terms, constant in places:
        low, high = _range({n: c for n, c in terms.items() if n not in fixed}, extents)
        lows.append(low + constant)
        highs.append(high + constant)
    return (next(iter(bases)), min(lows)), max(highs) - min(lows) + 1


def _step(places: list[Terms], fixed: frozenset[str], extents: Mapping[str, int]) -> int:
    """What all indices from the first one on are multiples of; 1 if there is one index."""
    moves = [c for t, _ in places for n, c in t.items() if n not in fixed and extents[n] > 1]
    constants = [constant for _, constant in places]
    return max(gcd(*moves, *(c - constants[0] for c in constants)), 1)


def _range(terms: Mapping[str, int], extents: Mapping[str, int]) -> tuple[int, int]:
    ends = [c * (extents[n] - 1) for n, c in terms.items()]
    return sum(e for e in ends if e < 0), sum(e for e in ends if e > 0)


def _no_quotient(terms: Mapping[str, int], constant: int, by: int) -> Terms:
    raise Unknown(f"loops step across a multiple of {by}")


def form_of(
    expr: Expr,
    axes: Mapping[Axis, Terms],
    extents: Mapping[str, int],
    quotient: Callable[[Mapping[str, int], int, int], Terms] = _no_quotient,
) -> Terms:
    """An index as a form over loops; `quotient` gives what stands for one that is none."""

    def visit(e: Expr) -> Terms:
        match e:
            case Literal():
                return {}, int(e.value)
            case Index(axis=axis):
                return axes[axis]
            case Apply(op="add", args=(left, right)):
                return _sum(visit(left), visit(right), 1)
            case Apply(op="sub", args=(left, right)):
                return _sum(visit(left), visit(right), -1)
            case Apply(op="neg", args=(value,)):
                return _sum(({}, 0), visit(value), -1)
            case Apply(op="mul", args=(left, right)):
                return _product(visit(left), visit(right))
            case Apply(op="floordiv" | "mod" as op, args=(left, Literal(value=int(by)))) if by > 0:
                return _divided(op, visit(left), int(by), extents, quotient)
            case Read():
                raise Unknown("an index is read from memory")
            case _:
                raise Unknown("an index is not a sum of axes")

    return visit(expr)


def _sum(left: Terms, right: Terms, sign: int) -> Terms:
    terms = dict(left[0])
    for name, c in right[0].items():
        terms[name] = terms.get(name, 0) + sign * c
    return {n: c for n, c in terms.items() if c}, left[1] + sign * right[1]


def _product(left: Terms, right: Terms) -> Terms:
    if left[0] and right[0]:
        raise Unknown("an index is a product of axes")
    (terms, constant), (_, factor) = (left, right) if left[0] else (right, left)
    return {n: c * factor for n, c in terms.items() if c * factor}, constant * factor


def _divided(
    op: str,
    form: Terms,
    by: int,
    extents: Mapping[str, int],
    across: Callable[[Mapping[str, int], int, int], Terms],
) -> Terms:
    """A quotient or remainder whose divisor the loops' strides respect, or a quotient that loops
    step `across`."""
    whole = {n: c // by for n, c in form[0].items() if c % by == 0}
    rest = {n: c for n, c in form[0].items() if c % by}
    low, high = _range(rest, extents)
    quotient = (low + form[1]) // by
    if (high + form[1]) // by != quotient:
        if op == "mod":
            raise Unknown(f"loops step across a multiple of {by}")
        return _sum((whole, 0), across(rest, form[1], by), 1)
    if op == "floordiv":
        return whole, quotient
    return rest, form[1] - quotient * by
