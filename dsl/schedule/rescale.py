"""Reductions whose state is rescaled when its leading fields move, folded block by block.

In: a reduction over a monoid with leaders (fields that combine among themselves) and followers
(`a.z * w(a, m) + b.z * w(b, m)`, where m are the combined leaders). Out: the same reduction over
blocks: within a block the leaders come first, then every follower is a plain sum of weighted terms.
Invariant: the value is the same up to rounding, since w(a, m) * w(m, n) = w(a, n) in any monoid.

    softmax statistics     leader m (maximum), follower l, weight exp(a.m - m)
    attention's state      leader m, followers l and o: within a block o is a matrix product
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from sdlc.graph.expr import (
    ONE,
    ZERO,
    Apply,
    Axis,
    Expr,
    Index,
    Literal,
    Read,
    Slot,
    apply,
    axes_of,
    f32,
    i32,
    rebuild,
    substitute,
    walk,
)
from sdlc.graph.node import Field, Map, Monoid, Node, Reduce
from sdlc.graph.types import DType
from sdlc.schedule.absorb import Absorbed, arrangement, readers_of
from sdlc.schedule.group import Group, Output, slot
from sdlc.schedule.reasons import Journal
from sdlc.target import Profile, Target

COMBINED = 2
"""The side of a slot that stands for the combined leaders in a weight."""


@dataclass(frozen=True, slots=True)
class Rescaled:
    """`weights` by follower: the factor of a term with leaders `Slot(0, …)` when the combined
    leaders are `Slot(2, …)`."""

    leaders: tuple[int, ...]
    weights: tuple[tuple[int, Expr], ...]


def rescaled(monoid: Monoid) -> Rescaled | None:
    """How a monoid rescales its followers, by its equations; None if it does not."""
    used = [
        {e.field for e in walk(c) if isinstance(e, Slot)} - {f}
        for f, c in enumerate(monoid.combine)
    ]
    leaders = tuple(f for f, others in enumerate(used) if not others)
    if len(leaders) == len(monoid.fields) or not leaders:
        return None
    weights = []
    for f in range(len(monoid.fields)):
        if f in leaders:
            continue
        weight = _weight(monoid, f, leaders)
        if weight is None:
            return None
        weights.append((f, weight))
    return Rescaled(leaders, tuple(weights))


def _weight(monoid: Monoid, field: int, leaders: tuple[int, ...]) -> Expr | None:
    """w, if the field combines as a.z * w(a, m) + b.z * w(b, m)."""
    combine = monoid.combine[field]
    if not (isinstance(combine, Apply) and combine.op == "add"):
        return None
    found: dict[int, Expr] = {}
    for term in combine.args:
        for side in (0, 1):
            factor = _factor(term, Slot(side, field, monoid.fields[field].dtype))
            if factor is not None:
                found[side] = _of_combined(factor, monoid, leaders)
    if set(found) != {0, 1}:
        return None
    slots = {e.side for e in walk(found[0]) if isinstance(e, Slot)}
    mirrored = rebuild(
        found[1],
        lambda e: Slot(0, e.field, e.dtype) if isinstance(e, Slot) and e.side == 1 else None,
    )
    fields = {e.field for e in walk(found[0]) if isinstance(e, Slot)}
    if mirrored is not found[0] or not slots <= {0, COMBINED} or not fields <= set(leaders):
        return None
    return found[0]


def _factor(term: Expr, state: Slot) -> Expr | None:
    """The other factor of a product with `state`."""
    if isinstance(term, Apply) and term.op == "mul":
        left, right = term.args
        if left is state:
            return right
        if right is state:
            return left
    return None


def _of_combined(expr: Expr, monoid: Monoid, leaders: tuple[int, ...]) -> Expr:
    """The expression with each leader's combination named by a slot of side 2."""
    known = {monoid.combine[f]: Slot(COMBINED, f, monoid.fields[f].dtype) for f in leaders}
    return rebuild(expr, known.get)


@dataclass(frozen=True, slots=True)
class Blocks:
    """A reduced axis in blocks: `outer` of `size`, the last possibly short."""

    axis: Axis
    outer: Axis
    inner: Axis

    @property
    def index(self) -> Expr:
        """The position in the axis, possibly beyond its extent in the last block."""
        size = i32(self.inner.extent)
        return apply("add", apply("mul", Index(self.outer), size), Index(self.inner))

    @property
    def is_exact(self) -> bool:
        return self.outer.extent * self.inner.extent == self.axis.extent

    def moved(self, expr: Expr) -> Expr:
        """An expression over the axis as one over the blocks, never beyond the extent."""
        place = self.index
        if not self.is_exact:
            place = apply("min", place, i32(self.axis.extent - 1))
        return substitute(expr, {self.axis: place})

    def kept(self, value: Expr, otherwise: Expr) -> Expr:
        """`value` inside the axis, `otherwise` beyond it."""
        if self.is_exact:
            return value
        inside = apply("lt", self.index, i32(self.axis.extent))
        return apply("select", inside, value, otherwise)


def blocks_of(axis: Axis, size: int, unit: int = 1, vector: int = 1) -> Blocks:
    """An axis in blocks of about `size`: whole if it is short, exact where a large divisor allows
    it, else of whole vectors where that takes no more blocks; whole units each, but where they are
    shorter than half of one."""
    if axis.extent <= 2 * size:
        count = 1
    else:
        divisor = next(d for d in range(size, 0, -1) if axis.extent % d == 0)
        count = axis.extent // divisor if 2 * divisor > size else -(-axis.extent // size)
    inner = -(-axis.extent // count)
    whole = -(-inner // vector) * vector
    if count * inner > axis.extent > (count - 1) * whole:
        inner = whole
    if 2 * inner > unit:
        inner = -(-inner // unit) * unit
        count = -(-axis.extent // inner)
    return Blocks(axis, Axis(f"{axis.name}.block", count), Axis(f"{axis.name}.in", inner))


class Blocked:
    """Builds the inner groups of a rescaled reduction over blocks."""

    def __init__(self, group: Group, form: Rescaled, blocks: Blocks, scores: Group | None) -> None:
        assert group.monoid is not None
        self.group, self.form, self.blocks = group, form, blocks
        self.monoid = group.monoid
        self.origin = group.origins[0]
        self.inner: list[Group] = []
        self.scores = Absorbed(scores, "scores") if scores is not None else None
        if self.scores is not None:
            self.inner.append(self.scores.group)

    def root(self) -> Group:
        """The reduction over blocks, with everything within a block as its inner groups."""
        lift = [self._read_through(e) for e in self.group.lift]
        tops = self._leaders(lift)
        fields: dict[int, Expr] = dict(zip(self.form.leaders, tops, strict=True))
        for number, (field, weight) in enumerate(self.form.weights):
            fields[field] = self._follower(number, field, weight, lift, tops)
        return replace(
            self.group,
            over=(*self._other_reduced(), self.blocks.outer),
            lift=tuple(fields[f] for f in range(len(self.monoid.fields))),
            inner=tuple(self.inner),
        )

    def _other_reduced(self) -> tuple[Axis, ...]:
        return tuple(a for a in self.group.over if a != self.blocks.axis)

    def _read_through(self, expr: Expr) -> Expr:
        """A lift over blocks, reading the producer's inner group instead of its stored value.
        What is held reaches as far as the last block, so its index is not held back."""
        if self.scores is not None:
            expr = self.scores.replaced(expr, {self.blocks.axis: self.blocks.index})
        return self.blocks.moved(expr)

    def _leaders(self, lift: list[Expr]) -> list[Expr]:
        """The leaders of each block, as reads of one inner group."""
        fields = tuple(self.monoid.fields[f] for f in self.form.leaders)
        places = {f: n for n, f in enumerate(self.form.leaders)}
        combine = tuple(
            rebuild(
                self.monoid.combine[f],
                lambda e: Slot(e.side, places[e.field], e.dtype) if isinstance(e, Slot) else None,
            )
            for f in self.form.leaders
        )
        monoid = Monoid(f"{self.monoid.name}_lead", fields, combine)
        terms = tuple(
            self.blocks.kept(lift[f], identity_of(self.monoid.fields[f])) for f in self.form.leaders
        )
        axes = self._axes(terms)
        return self._reduction("top", axes, monoid, terms)

    def _axes(self, terms: tuple[Expr, ...]) -> tuple[Axis, ...]:
        """The axes of a block's result: the group's that the terms depend on, and the block."""
        used = axes_of(*terms)
        every = (*self.group.axes, *self._other_reduced())
        return (*(a for a in every if a in used), self.blocks.outer)

    def _reduction(
        self, name: str, axes: tuple[Axis, ...], monoid: Monoid, lift: tuple[Expr, ...]
    ) -> list[Expr]:
        places = tuple(Index(a) for a in axes)
        dtypes = tuple(f.dtype for f in monoid.fields)
        node = Reduce(
            axes, (self.blocks.inner,), monoid, lift, dtypes, replace(self.origin, name=name)
        )
        stores = tuple(Output(node, f, places, slot(monoid, f)) for f in range(len(dtypes)))
        self.inner.append(
            Group(name, axes, (self.blocks.inner,), monoid, lift, stores, self.group.origins)
        )
        return [Read(node, places, f) for f in range(len(dtypes))]

    def _follower(
        self, number: int, field: int, weight: Expr, lift: list[Expr], tops: list[Expr]
    ) -> Expr:
        """A follower's sum over a block, each term weighted by how its leaders rescale it: beyond
        the axis by 0, so that the sums' loops ask nothing."""
        weights = self._weights(number, weight, lift, tops)
        term = lift[field]
        value = weights if term is ONE else apply("mul", weights, term)
        of = self.monoid.fields[field]
        sums = Monoid("sum", (Field(of.name, of.dtype, 0.0),), (_added(of.dtype),))
        return self._reduction(f"sum_{of.name}", self._axes((value,)), sums, (value,))[0]

    def _weights(self, number: int, weight: Expr, lift: list[Expr], tops: list[Expr]) -> Expr:
        """The weight of every term as a read of an inner map, which equal followers share: zero
        beyond the axis, so that followers need not ask where they are."""
        places = {f: n for n, f in enumerate(self.form.leaders)}

        def change(e: Expr) -> Expr | None:
            if not isinstance(e, Slot):
                return None
            return lift[e.field] if e.side == 0 else tops[places[e.field]]

        value = self.blocks.kept(rebuild(weight, change), ZERO)
        used = axes_of(value)
        every = (*self.group.axes, *self._other_reduced(), self.blocks.outer, self.blocks.inner)
        axes = tuple(a for a in every if a in used)
        node = Map(axes, value, DType.F32, replace(self.origin, name="weight"))
        here = tuple(Index(a) for a in axes)
        if all(s.node is not node for g in self.inner for s in g.stores):
            name = "weight" if number == 0 else f"weight_{number}"
            output = Output(node, 0, here, value)
            self.inner.append(Group(name, axes, (), None, (), (output,), self.group.origins))
        return Read(node, here)


def identity_of(field: Field) -> Expr:
    """The identity of a field as a literal."""
    if field.dtype is DType.BOOL:
        return Literal(bool(field.identity), DType.BOOL)
    return i32(int(field.identity)) if field.dtype is DType.I32 else f32(field.identity)


def _added(dtype: DType) -> Expr:
    return apply("add", Slot(0, 0, dtype), Slot(1, 0, dtype))


def carry(
    groups: tuple[Group, ...], kept: frozenset[Node], target: Target, journal: Journal
) -> tuple[Group, ...]:
    """The groups with every rescaled reduction folded in blocks; a producer that only such a
    reduction reads is computed inside it, block by block. Where work-items share reductions, only
    those whose followers have axes of their own: the others are a reduction like any other. Blocks
    hold whole steps of the matrix instruction that the profile names."""
    profile, of = target.profile, target.instruction
    readers = readers_of(groups)
    made: list[Group | None] = list(groups)
    producers = {g.stores[0].node: n for n, g in enumerate(groups) if len(g.stores) == 1}
    for number, group in enumerate(groups):
        form = rescaled(group.monoid) if group.monoid is not None and not group.inner else None
        if form is None:
            continue
        why = _unfolded(group, form, profile)
        journal.tell("fold_blocks", group, why)
        if why:
            continue
        axis = max(group.over, key=lambda a: a.extent)
        source = _source(group, form, axis)
        absorbed = None
        if source in producers and readers[source] == {number} and source not in kept:
            absorbed = groups[producers[source]]
            if absorbed.inner or arrangement(absorbed) is None:
                absorbed = None
        if absorbed is not None:
            made[producers[absorbed.stores[0].node]] = None
        unit = of.k if of is not None else 1
        blocks = blocks_of(axis, block_size(group, form, profile), unit, profile.vector)
        made[number] = Blocked(group, form, blocks, absorbed).root()
    return tuple(g for g in made if g is not None)


def _unfolded(group: Group, form: Rescaled, profile: Profile) -> str:
    """Why a rescaled reduction is not folded in blocks, or ''."""
    if not profile.block:
        return "the target folds states one by one"
    narrow = axes_of(*(group.lift[f] for f in form.leaders))
    if profile.reduction_lanes > 1 and all(a in narrow for a in group.axes):
        return "no field has axes of its own, so work-items share it like any other reduction"
    return ""


def block_size(group: Group, form: Rescaled, profile: Profile) -> int:
    """How many terms are folded at a time: the profile's block, twice as many where they are still
    fewer than `block_values` of all columns (of heads), or half, where they are more."""
    narrow = axes_of(*(group.lift[f] for f in form.leaders))
    columns = prod(a.extent for a in group.axes if a not in narrow)
    if 2 * profile.block * columns < profile.block_values:
        return 2 * profile.block
    halves = profile.block_values and profile.block * columns > profile.block_values
    return profile.block // 2 if halves else profile.block


def _source(group: Group, form: Rescaled, axis: Axis) -> Node | None:
    """The one value that the leaders' lifts read, at `axis` itself in one place, and nowhere at a
    quotient or remainder: tiles of rows step across those."""
    found = [e for e in walk(*(group.lift[f] for f in form.leaders)) if isinstance(e, Read)]
    others = [r for r in group.reads if r not in found and r.source in {f.source for f in found}]
    if len(found) != 1 or others or found[0].fill is not None:
        return None
    if any(isinstance(e, Apply) and e.op in ("floordiv", "mod") for e in walk(*found[0].indices)):
        return None
    uses = [i for i in found[0].indices if axis in axes_of(i)]
    return found[0].source if uses == [Index(axis)] else None
