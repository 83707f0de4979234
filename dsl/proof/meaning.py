"""What a group computes, as a graph over the values that it reads.

In: a group. Out: a node for each value that it stores. Invariant: nodes read only what the group's
kernel reads; slots, inner groups and arrangements are spelled out, nothing is simplified. What is
held inside may be read beyond its extent, by blocks that are cut short: there it is 0.

    c[m, n] = (sum over k of a[m, k] * b[k, n]) + d[n]      two nodes: the sum, and the map over it
"""

from __future__ import annotations

from sdlc.graph.expr import Axis, Expr, Index, Literal, Read, Slot, rebuild, substitute
from sdlc.graph.node import Map, Node, Reduce
from sdlc.graph.types import DType
from sdlc.schedule.bijection import inverse
from sdlc.schedule.group import Group, Output

Value = tuple[Node, int]


def stored_by(group: Group) -> dict[Value, Map]:
    """For every value that the group stores a map that computes it. Leaves out those that it stores
    only a part of."""
    held: dict[Value, Map] = {}
    for part in group.inner:
        for store, made in _made(part, held):
            held[store.node, store.field] = made
    return {(store.node, store.field): made for store, made in _made(group, held)}


def _made(group: Group, held: dict[Value, Map]) -> list[tuple[Output, Map]]:
    """The stores of one part, with a map for each; `held` are the inner values before it."""

    def read(e: Expr) -> Expr | None:
        if not isinstance(e, Read) or (e.source, e.field) not in held:
            return None
        indices = tuple(rebuild(i, read) for i in e.indices)
        fill = Literal(False, e.dtype) if e.dtype is DType.BOOL else Literal(0, e.dtype)
        return Read(held[e.source, e.field], indices, 0, fill)

    state = _state(group, tuple(rebuild(e, read) for e in group.lift))
    here = tuple(Index(a) for a in group.axes)

    def result(e: Expr) -> Expr | None:
        return Read(state, here, e.field) if isinstance(e, Slot) and state is not None else None

    found = []
    for store in group.stores:
        value = rebuild(rebuild(store.value, read), result)
        axes, places = _places(store, group)
        if places is not None:
            body = substitute(value, places)
            node = Map(axes, body, store.node.dtypes[store.field], store.node.origin)
            found.append((store, node))
    return found


def _state(group: Group, lift: tuple[Expr, ...]) -> Reduce | None:
    if group.monoid is None:
        return None
    dtypes = tuple(f.dtype for f in group.monoid.fields)
    return Reduce(group.axes, group.over, group.monoid, lift, dtypes, group.origins[0])


def _places(store: Output, group: Group) -> tuple[tuple[Axis, ...], dict[Axis, Expr] | None]:
    """The axes of a stored value, and the group's axes in terms of them (None: it is a part)."""
    if not isinstance(store.node, (Map, Reduce)):
        return group.axes, {}
    return store.node.axes, inverse(store.indices, store.node.axes, group.axes)
