"""Parts that are combined where their value is read: no kernel of its own for it.

In: groups of which some combine parts (`split.py`), and who estimates. Out: groups; readers that
combine the parts themselves, and store the value where others read it as well. Invariant: every
value that is still stored is the same but for its rounding; a kernel disappears only where the one
that takes its work is estimated to take no longer than both, and no more bytes are live at most.

    s[i] = fold over p < 8 of parts[p, i];  y[i] = f(s[i]);  z[i, j] = s[i] * …
    becomes one kernel: s[i] = parts[0, i] + … + parts[7, i];  y[i] = f(parts[0, i] + …)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sdlc.graph.expr import Expr, Index, Read, Slot, i32, reads_of, rebuild, substitute
from sdlc.graph.node import Map, Monoid, Node, Reduce
from sdlc.graph.rewrite import read_through
from sdlc.schedule.absorb import absorbed_into, arrangement, readers_of
from sdlc.schedule.again import live_bytes
from sdlc.schedule.bijection import inverse
from sdlc.schedule.group import Group, Output
from sdlc.schedule.layout import Orders
from sdlc.schedule.split import MOST_WAYS, statistics_of

MOST_READS = 2 * MOST_WAYS + 8
"""Bounds the size of a kernel's expressions."""

Seconds = Callable[[Group], float]
"""The estimate of a group's default schedule."""


@dataclass(frozen=True, slots=True)
class Combining:
    """Takes what combines parts into a reader; a kernel binds at most `most` buffers, at most
    `room` bytes are live; `kept` are the program's results."""

    seconds: Seconds
    orders: Orders
    kept: frozenset[Node]
    most: int
    room: int

    def groups(self, groups: Sequence[Group]) -> tuple[Group, ...]:
        """The groups without those that a reader does the work of, in execution order."""
        made: list[Group | None] = list(groups)
        readers = {node: sorted(numbers) for node, numbers in readers_of(tuple(groups)).items()}
        for number in range(len(groups)):
            own = made[number]
            numbers = readers.get(own.stores[0].node, []) if own is not None else []
            first = made[numbers[0]] if numbers else None
            if own is None or first is None or not is_combining(own):
                continue
            alone = len(numbers) == 1 and own.stores[0].node not in self.kept
            then = list(made)
            then[number], then[numbers[0]] = None, self._taken(own, first, alone)
            if then[numbers[0]] is not None and self._fits(then):
                made = then
        return _present(made)

    def _fits(self, groups: Sequence[Group | None]) -> bool:
        return max(live_bytes(_present(groups), self.kept)) <= self.room

    def _taken(self, group: Group, reader: Group, alone: bool) -> Group | None:
        """The reader with the group's work, if that pays; `alone`: nothing else reads the value."""
        store = group.stores[0]
        whole = with_parts(reader, group, self.orders[store.node, store.field], alone)
        if whole is None or len(whole.operands) + len(whole.stores) > self.most:
            return None
        apart = self.seconds(group) + self.seconds(reader)
        return whole if self.seconds(whole) <= apart else None


def _present(groups: Sequence[Group | None]) -> tuple[Group, ...]:
    return tuple(g for g in groups if g is not None)


def is_combining(group: Group) -> bool:
    """Whether a group is the fold of parts that another kernel stores, and what follows it."""
    if group.monoid is None or group.inner or len(group.over) != 1 or len(group.stores) != 1:
        return False
    (part,) = group.over
    return part.extent <= MOST_WAYS and all(
        isinstance(e, Read) and isinstance(e.source, Reduce) and e.source.axes[0] == part
        for e in group.lift
    )


def with_parts(reader: Group, group: Group, order: tuple[int, ...], alone: bool) -> Group | None:
    """The reader with what a group that combines parts computes written into it, or None where it
    does not read every element about once. Unless `alone`, it stores the value as well.

    What rows and their statistics both read is an inner group, its axes in the `order` of storage.
    """
    node, written, statistics = group.stores[0].node, _written(group), statistics_of(reader)
    found = _reads(node, *(s.value for s in reader.stores))
    inside = _reads(node, *reader.lift, *(e for g in reader.inner for e in g.expressions))
    if written is None or len(found) != 1 or reader.points > 2 * group.points:
        return None
    if (reader.inner and statistics is None) or (inside and statistics is None):
        return None
    own = () if alone else _stored(found[0], reader, group)
    if own is None:
        return None
    whole = replace(reader, stores=(*reader.stores, *own))
    if inside:
        return absorbed_into(whole, _as_group(written, group, order))

    def change(e: Expr) -> Expr | None:
        return read_through(e, written) if isinstance(e, Read) and e.source is node else None

    stores = tuple(replace(s, value=rebuild(s.value, change)) for s in whole.stores)
    origins = tuple(dict.fromkeys((*group.origins, *reader.origins)))
    whole = replace(whole, stores=stores, origins=origins)
    return whole if len(whole.reads) <= MOST_READS else None


def _as_group(written: Map, group: Group, order: tuple[int, ...]) -> Group:
    """The map as a group of its own."""
    store = Output(group.stores[0].node, 0, tuple(Index(a) for a in written.axes), written.body)
    axes = tuple(written.axes[d] for d in order)
    return Group(group.name, axes, (), None, (), (store,), group.origins)


def _reads(node: Node, *exprs: Expr) -> list[Read]:
    return [r for r in reads_of(*exprs) if r.source is node]


def _stored(read: Read, reader: Group, group: Group) -> tuple[Output, ...] | None:
    """The value's store where a reader reads every element once, at the place that it reads."""
    store = group.stores[0]
    assert isinstance(store.node, (Map, Reduce))
    if read.fill is not None or inverse(read.indices, store.node.axes, reader.axes) is None:
        return None
    return (Output(store.node, store.field, read.indices, read),)


def _written(group: Group) -> Map | None:
    """What the group stores as a map over the stored value's axes, parts and all."""
    places, store = arrangement(group), group.stores[0]
    if places is None or not isinstance(store.node, (Map, Reduce)):
        return None
    assert group.monoid is not None
    (part,) = group.over
    states = [
        tuple(substitute(e, {part: i32(number)}) for e in group.lift)
        for number in range(part.extent)
    ]
    while len(states) > 1:
        pairs = list(zip(states[::2], states[1::2], strict=False))
        last = states[-1:] if len(states) % 2 else []
        states = [_combine(group.monoid, a, b) for a, b in pairs] + last
    body = substitute(_filled(store.value, states[0], ()), places)
    dtype = store.node.dtypes[store.field]
    return Map(store.node.axes, body, dtype, store.node.origin, store.node.wide)


State = tuple[Expr, ...]


def _combine(monoid: Monoid, left: State, right: State) -> State:
    return tuple(_filled(e, left, right) for e in monoid.combine)


def _filled(expr: Expr, left: State, right: State) -> Expr:
    """An expression with what its slots hold."""

    def change(e: Expr) -> Expr | None:
        return (left, right)[e.side][e.field] if isinstance(e, Slot) else None

    return rebuild(expr, change)
