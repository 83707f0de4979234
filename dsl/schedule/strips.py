"""Strips: a chain of kernels is run piece by piece where what it stores on its way is large.

In: groups in execution order. Out: groups, those of a chain once for each piece. Invariant: every
value is the same, bit for bit: each piece computes its part of what the chain stores in the end
from its parts of what is between.

    v[i, t, c] = sum over p of B[i, p] * x[4 * t + p, c]        t < 16, in two pieces:
    s[i, t, o] = sum over c of v[i, t, c] * u[i, c, o]          v, s, y of t < 8, then
    y[t, o] = sum over i of A[i] * s[i, t, o]                   v, s, y of 8 <= t

A chain begins with a transform (a short sum weighted by constants), goes on through values that
have one reader each, and ends with the first that is small enough. It is what a bilinear algorithm
becomes. Pieces are those of one axis, at which every group of the chain reads and stores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sdlc.graph.expr import Apply, Axis, Expr, Index, Literal, Read, Slot, apply, i32, rebuild
from sdlc.graph.node import Input, Map, Node, Reduce, byte_count, element_count
from sdlc.schedule.absorb import readers_of, shared_value
from sdlc.schedule.again import live_bytes
from sdlc.schedule.contraction import constant_factor
from sdlc.schedule.group import Group
from sdlc.schedule.reasons import Journal

MOST_PIECES = 16
SHARE = 4
"""What a chain stores at once is at most this part of the largest other value, or so small that it
does not matter: beside large values, those of the chain must not make the peak."""
NAME = "strips"


def in_strips(
    groups: tuple[Group, ...],
    kept: frozenset[Node],
    least: int,
    journal: Journal,
    ordered: Callable[[tuple[Group, ...]], tuple[Group, ...]],
) -> tuple[Group, ...]:
    """The groups with chains in pieces, so that what they store on their way has at most `least`
    elements, or is small beside the largest value of other groups; where more of it fits below the
    most bytes that are live anyway, in fewer. `kept` are results; `ordered` gives the order in
    which groups run."""
    chains = tuple(_chains(groups, kept))
    between = {_stored(groups[n]) for chain in chains for n in chain[:-1]}
    others = (s.node for g in groups for s in g.stores if s.node not in between)
    largest = max(map(element_count, others), default=0)
    room = max(least, largest // SHARE)
    made: dict[tuple[int, ...], tuple[Group, ...]] = {}
    for chain in chains:
        members = _while_large([groups[n] for n in chain], room)
        if not members:
            reason = "what its chain stores on its way is small, or beside other values"
            journal.tell(NAME, groups[chain[0]], reason)
            continue
        pieces = cut(members, room)
        journal.tell(NAME, members[0], "" if pieces else "its groups have no axis in common")
        if pieces:
            made[chain[: len(members)]] = pieces
    if not made:
        return groups
    beside = _Beside(ordered(_assembled(groups, made)), kept, max(room, largest))
    few = {chain: beside.fewer([groups[n] for n in chain], made[chain]) for chain in made}
    return _assembled(groups, few)


def _assembled(
    groups: tuple[Group, ...], made: Mapping[tuple[int, ...], tuple[Group, ...]]
) -> tuple[Group, ...]:
    """The groups with those of some chains, by their numbers, exchanged for others."""
    by_number = {n: () for chain in made for n in chain} | {c[-1]: p for c, p in made.items()}
    return tuple(g for n, group in enumerate(groups) for g in by_number.get(n, (group,)))


class _Beside:
    """What is live beside the pieces of chains, of groups in the order in which they run."""

    def __init__(self, groups: tuple[Group, ...], kept: frozenset[Node], largest: int) -> None:
        live = live_bytes(groups, kept)
        self._live = {id(group): at for group, at in zip(groups, live, strict=True)}
        self._most, self._largest = max(live), largest

    def fewer(self, chain: Sequence[Group], pieces: tuple[Group, ...]) -> tuple[Group, ...]:
        """A chain in as few pieces as keep what is live below the most of all, and each value
        below the largest."""
        count, length = len(pieces) // len(chain), len(chain)
        own = [byte_count(_stored(g), 0) for g in pieces[: length - 1]]
        largest = max(element_count(_stored(g)) for g in chain[:-1])
        wanted = -(-largest // self._largest)
        for place in range(length):
            stored = sum(own[max(0, place - 1) : place + 1])
            others = max(self._live[id(g)] for g in pieces[place::length]) - stored
            wanted = max(wanted, -(-stored * count // max(1, self._most - others)))
        if wanted >= count:
            return pieces
        if wanted == 1:
            return tuple(chain)
        fewer = cut(chain, -(-largest // wanted))
        return fewer if len(fewer) < len(pieces) else pieces


def _chains(groups: Sequence[Group], kept: frozenset[Node]) -> Iterator[tuple[int, ...]]:
    """The numbers of groups that store one value each, which only the next one reads: transforms,
    a product, and what reads that; no group is of two chains, the largest values come first."""
    readers = readers_of(tuple(groups))
    begun: set[int] = set()
    heads = [n for n, g in enumerate(groups) if constant_factor(g) is not None]
    for number in sorted(heads, key=lambda n: -element_count(_stored(groups[n]))):
        if number in begun:
            continue
        chain, ends = [number], 0
        while ends < 2 and len(groups[chain[-1]].stores) == 1:
            value = _stored(groups[chain[-1]])
            if shared_value(value, kept, readers):
                break
            (reader,) = readers[value]
            if reader in begun:
                break
            chain.append(reader)
            ends += ends > 0 or constant_factor(groups[reader]) is None
        begun |= set(chain)
        yield tuple(chain)


def _stored(group: Group) -> Node:
    return group.stores[0].node


def _while_large(chain: Sequence[Group], room: int) -> Sequence[Group]:
    """The groups of a chain up to the one that reads the last value that has no room."""
    large = [n for n, g in enumerate(chain[:-1]) if element_count(_stored(g)) > room]
    return chain[: large[-1] + 2] if large else ()


# ---- the axis ------------------------------------------------------------------------------------

Along = tuple[Axis, int]
"""An axis that is cut, and how many of its points belong to one point of the chain's axis."""


@dataclass(frozen=True, slots=True)
class Cut:
    """By group and part of it, the axis that is cut; by value, its dimension that is."""

    extent: int
    along: tuple[Mapping[str, Along], ...]
    dimensions: Mapping[Node, int]


def cut(chain: Sequence[Group], room: int) -> tuple[Group, ...]:
    """The groups of a chain for each piece in turn, each piece with no larger values between than
    `room`; nothing where no axis goes through all groups."""
    largest = max(element_count(_stored(g)) for g in chain[:-1])
    wanted = -(-largest // room)
    head = _stored(chain[0])
    found = [made for d in range(len(head.shape)) if (made := _through(chain, d)) is not None]
    counts = [(_count(made.extent, wanted), made) for made in found if made.extent > 1]
    if not counts:
        return ()
    count, chosen = min(counts, key=lambda c: (c[0] < wanted, c[0] if c[0] >= wanted else -c[0]))
    size = -(-chosen.extent // count)
    starts = range(0, chosen.extent, size)
    pieces = (_Piece(chosen, start, min(size, chosen.extent - start)) for start in starts)
    return tuple(g for piece in pieces for g in piece.groups(chain))


def _count(extent: int, wanted: int) -> int:
    """Pieces of an axis, equal ones if there can be; as many as there can be, where not so many as
    are wanted."""
    most = min(extent, MOST_PIECES)
    wanted = min(wanted, most)
    most = min(most, 2 * wanted)
    return next((n for n in range(wanted, most + 1) if extent % n == 0), wanted)


def _through(chain: Sequence[Group], dimension: int) -> Cut | None:
    """A dimension of the first group's value, followed through the chain."""
    extent = _stored(chain[0]).shape[dimension]
    dimensions: dict[Node, int] = {}
    along: list[dict[str, Along]] = []
    for number, group in enumerate(chain):
        if number == 0:
            found = _of_head(group, dimension, dimensions)
        else:
            found = _of_reader(group, dimensions, extent)
        if found is None or group.name not in found or _weighs(group, found):
            return None
        along.append(found)
        if number < len(chain) - 1:
            place = _dimension_of(group, found[group.name][0])
            if place is None:
                return None
            dimensions[_stored(group)] = place
    return Cut(extent, tuple(along), dimensions)


def _weighs(group: Group, found: Mapping[str, Along]) -> bool:
    """Whether a constant is read at one of the axes: what it weighs belongs together."""
    factors = ((constant_factor(p), found[p.name][0]) for p in group.parts if p.name in found)
    return any(f is not None and Index(axis) in f.indices for f, axis in factors)


def _of_head(group: Group, dimension: int, dimensions: dict[Node, int]) -> dict[str, Along] | None:
    """The axis that the first group stores at, and those of what it holds that is read there."""
    index = group.stores[0].indices[dimension]
    if not isinstance(index, Index):
        return None
    found = {group.name: (index.axis, 1)}
    for part in reversed(group.inner):
        value, places = _stored(part), set(range(len(part.axes)))
        for reader in group.parts:
            for read in (r for r in reader.reads if r.source is value):
                here = Index(found[reader.name][0]) if reader.name in found else None
                places &= {n for n, i in enumerate(read.indices) if i == here}
        for place in sorted(places)[:1]:
            held = part.stores[0].indices[place]
            if isinstance(held, Index) and _dimension_of(part, held.axis) == place:
                found[part.name] = held.axis, 1
                dimensions[value] = place
    return found


def _of_reader(group: Group, dimensions: dict[Node, int], extent: int) -> dict[str, Along] | None:
    """The axes at which the parts of a group read values that are cut; `dimensions` is told those
    of what it holds."""
    found: dict[str, Along] = {}
    for part in group.parts:
        reads = [r for r in part.reads if r.source in dimensions]
        places = {_axis_at(r, dimensions[r.source], extent) for r in reads}
        if not places:
            continue
        (place, *others) = places
        if others or place is None or place[0] not in part.axes:
            return None
        found[part.name] = place
        if part is not group:
            held = _dimension_of(part, place[0])
            if held is None:
                return None
            dimensions[_stored(part)] = held
    return found


def _axis_at(read: Read, dimension: int, extent: int) -> Along | None:
    """The axis at which a read is in a dimension that is cut: itself, or its quotient."""
    if read.fill is not None:
        return None
    match read.indices[dimension]:
        case Index(axis=axis) if axis.extent % extent == 0:
            each = axis.extent // extent
            return (axis, each) if axis.extent == read.source.shape[dimension] else None
        case Apply(op="floordiv", args=(Index(axis=axis), Literal(value=int(by)))):
            whole = read.source.shape[dimension]
            if -(-axis.extent // by) == whole and whole % extent == 0:
                return axis, whole // extent * by
    return None


def _dimension_of(part: Group, axis: Axis) -> int | None:
    """The dimension of the one value that a part stores along an axis; all must be axes of its
    own."""
    store = part.stores[0]
    axes = [i.axis for i in store.indices if isinstance(i, Index)]
    plain = not part.over or (isinstance(store.value, Slot) and len(part.lift) == 1)
    whole = len(axes) == len(store.indices) == len(part.axes) and set(axes) == set(part.axes)
    return axes.index(axis) if plain and whole else None


# ---- a piece -------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Piece:
    """The points from `start` of the axis of a cut."""

    cut: Cut
    start: int
    size: int

    def groups(self, chain: Sequence[Group]) -> Iterator[Group]:
        values: dict[Node, Node] = {}
        for number, group in enumerate(chain):
            along = self.cut.along[number]
            inner = tuple(self._part(p, along, values, number, held=True) for p in group.inner)
            own = self._part(group, along, values, number, held=number < len(chain) - 1)
            yield replace(own, inner=inner)

    def _part(
        self, part: Group, along: Mapping[str, Along], values: dict[Node, Node], n: int, held: bool
    ) -> Group:
        """One part of a group over its points; where its value is `held` by the piece, a value that
        has these alone, which `values` is told."""
        if part.name not in along:
            return part
        axis, each = along[part.name]
        moved = self._moved(axis, each, values)
        over, lift = part.over, tuple(moved.expr(e) for e in part.lift)
        axes = tuple(moved.axis if a == axis else a for a in part.axes)
        made = replace(part, axes=axes, over=over, lift=lift)
        store = part.stores[0]
        if not held:
            stores = tuple(
                replace(s, indices=tuple(map(moved.expr, s.indices)), value=moved.expr(s.value))
                for s in part.stores
            )
            return replace(made, stores=stores)
        indices = tuple(Index(moved.axis) if i == Index(axis) else i for i in store.indices)
        store = replace(store, indices=indices, value=moved.expr(store.value))
        values[store.node] = node = self._value(store.node, values, each)
        return replace(made, stores=(replace(store, node=node),))

    def _moved(self, axis: Axis, each: int, values: Mapping[Node, Node]) -> _Moved:
        """An axis at the points of the piece; the last point of all may have fewer of its own."""
        start = self.start * each
        extent = min(self.size * each, axis.extent - start)
        return _Moved(axis, Axis(axis.name, extent), start, values, self.cut)

    def _value(self, old: Node, values: Mapping[Node, Node], each: int) -> Node:
        """The points of a value, as a node of its own."""
        dimension = self.cut.dimensions[old]
        if not isinstance(old, (Map, Reduce)):  # a value that exists only inside the kernel
            assert isinstance(old, Input)
            extents = (self.size * each if n == dimension else e for n, e in enumerate(old.shape))
            return replace(old, extents=tuple(extents))
        axis = old.axes[dimension]
        moved = self._moved(axis, each, values)
        axes = tuple(moved.axis if a == axis else a for a in old.axes)
        if isinstance(old, Map):
            return replace(old, axes=axes, body=moved.expr(old.body))
        return replace(old, axes=axes, lift=tuple(map(moved.expr, old.lift)))


@dataclass(frozen=True, slots=True)
class _Moved:
    """Expressions at the points of a piece: `old` is `axis` from `start` on."""

    old: Axis
    axis: Axis
    start: int
    values: Mapping[Node, Node]
    cut: Cut

    def expr(self, expr: Expr) -> Expr:
        return rebuild(expr, self._change)

    def _change(self, e: Expr) -> Expr | None:
        match e:
            case Read() if e.source in self.values:
                at = self.cut.dimensions[e.source]
                indices = (
                    rebuild(i, self._inside) if n == at else self.expr(i)
                    for n, i in enumerate(e.indices)
                )
                return replace(e, source=self.values[e.source], indices=tuple(indices))
            case Apply(
                op="mod" | "floordiv" as op, args=(Index(axis=axis), Literal(value=int(by)))
            ):
                if axis != self.old or self.start % by:
                    return None
                own = apply(op, Index(self.axis), i32(by))
                return own if op == "mod" else _plus(own, self.start // by)
            case Index(axis=axis) if axis == self.old:
                return _plus(Index(self.axis), self.start)
        return None

    def _inside(self, e: Expr) -> Expr | None:
        return Index(self.axis) if e == Index(self.old) else None


def _plus(index: Expr, by: int) -> Expr:
    return apply("add", index, i32(by)) if by else index
