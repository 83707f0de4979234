"""Taking a producer into the kernel of its reader.

In: two groups, one of which reads what the other stores. Out: the reader with the producer as an
inner group. Invariant: the meaning is the same; the value is no longer stored, so nothing else may
read it.

    v[i, p] = sum over q of B[p, q] * t[i, q]     with     t[i, q] = sum over r of B[i, r] * x[r, q]
    becomes one group over x, in which t is an inner group
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import replace

from sdlc.graph.expr import Axis, Expr, Index, Read, rebuild, substitute
from sdlc.graph.names import free_name
from sdlc.graph.node import Input, Map, Node, Reduce
from sdlc.graph.types import DType
from sdlc.schedule.bijection import inverse
from sdlc.schedule.group import Group, Output

Substitution = dict[Axis, Expr]


class Absorbed:
    """A producer as an inner group of its reader; `read` gives what its stored value is there."""

    def __init__(self, producer: Group, name: str) -> None:
        self.store = producer.stores[0]
        self.axes = producer.axes
        places = arrangement(producer)
        assert places is not None
        self.places = places
        self.node = placeholder(name, self.store, self.axes)
        here = tuple(Index(a) for a in self.axes)
        output = replace(self.store, node=self.node, field=0, indices=here)
        self.group = replace(producer, name=name, stores=(output,), inner=())

    def read(self, expr: Read, moved: Substitution | None = None) -> Read:
        """A read of the stored value as one of the inner group's, with axes moved."""
        node = self.store.node
        assert isinstance(node, (Map, Reduce))
        found = tuple(substitute(i, moved) if moved else i for i in expr.indices)
        indices = dict(zip(node.axes, found, strict=True))
        return Read(self.node, tuple(substitute(self.places[a], indices) for a in self.axes))

    def replaced(self, expr: Expr, moved: Substitution | None = None) -> Expr:
        """An expression with every read of the stored value replaced."""

        def change(e: Expr) -> Expr | None:
            if isinstance(e, Read) and e.source is self.store.node:
                return self.read(e, moved)
            return None

        return rebuild(expr, change)


def arrangement(group: Group) -> Substitution | None:
    """A group's axes in terms of those of the one value that it stores; None if it stores several
    or only part of one."""
    if len(group.stores) != 1 or not isinstance(group.stores[0].node, (Map, Reduce)):
        return None
    store = group.stores[0]
    assert isinstance(store.node, (Map, Reduce))
    return inverse(store.indices, store.node.axes, group.axes)


def placeholder(name: str, store: Output, axes: tuple[Axis, ...]) -> Node:
    """What readers inside the kernel name a value by that exists nowhere else."""
    dtype = store.node.dtypes[store.field]
    kept = DType.F32 if dtype is DType.F16 else dtype
    return Input(f"{name}.{store.node.origin.name}", tuple(a.extent for a in axes), kept)


def absorbed_into(reader: Group, producer: Group) -> Group:
    """The reader with the producer, and the producer's own inner groups, inside."""
    taken = {g.name for g in (reader, *reader.inner, *producer.inner)}
    made = Absorbed(producer, free_name(producer.name, taken))
    inner = tuple(
        replace(
            g,
            lift=tuple(made.replaced(e) for e in g.lift),
            stores=tuple(replace(s, value=made.replaced(s.value)) for s in g.stores),
        )
        for g in reader.inner
    )
    return replace(
        reader,
        lift=tuple(made.replaced(e) for e in reader.lift),
        stores=tuple(replace(s, value=made.replaced(s.value)) for s in reader.stores),
        origins=tuple(dict.fromkeys((*producer.origins, *reader.origins))),
        inner=(*producer.inner, made.group, *inner),
    )


def readers_of(groups: tuple[Group, ...]) -> dict[Node, set[int]]:
    """Which groups, by number, read each value."""
    readers: dict[Node, set[int]] = defaultdict(set)
    for number, group in enumerate(groups):
        for source, _ in group.operands:
            readers[source].add(number)
    return readers


def shared_value(
    source: Node, kept: frozenset[Node], readers: Mapping[Node, Collection[int]]
) -> str:
    """Why a value has to be stored whatever its reader does, or ''; `kept` are the results."""
    if source in kept:
        return "it is a result of the program"
    return f"it has {len(readers[source])} readers" if len(readers[source]) != 1 else ""
