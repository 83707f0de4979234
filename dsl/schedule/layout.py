"""Storage orders: which axis of each stored value is innermost.

In: groups, a vector width. Out: for every (node, field) the order of its axes in storage, outermost
first. Invariant: run-time inputs are row-major, the program's outputs as `kept` says.

A contraction wants its vector axis innermost in its right factor and in its result (that makes
images channels-last); everything else follows what it reads.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod

from sdlc.graph.expr import Apply, Axis, Expr, Index, Literal, Read, reads_of
from sdlc.graph.node import Const, Input, Node, Role
from sdlc.schedule.affine import affine, bare_axis
from sdlc.schedule.contraction import Contraction, contraction
from sdlc.schedule.group import Group, Output

Value = tuple[Node, int]
Orders = dict[Value, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Wish:
    """An order that a reader would like a value to have."""

    value: Value
    order: tuple[int, ...]


def assign_orders(
    groups: Iterable[Group],
    kept: Orders,
    vector: int,
    permuted: bool = True,
    deep: Callable[[Group], Axis | None] = lambda group: None,
    fetched: bool = False,
    deep_right: Callable[[Group], Axis | None] = lambda part: None,
) -> tuple[Orders, dict[Value, Axis]]:
    """Storage orders, and each contraction's vector axis, by the group's first stored value.

    `kept` are the orders of the program's outputs, `vector` the lanes that the target prefers;
    `deep` gives the axis that a group wants innermost in its factors instead of its vector axis.
    `deep_right` gives the same for the right factor of a product within a kernel.
    Unless `permuted`, all other values are row-major. `fetched`: products within a kernel take
    their right factors from local memory, in vectors of any extent.
    """
    groups = tuple(groups)
    if not permuted:
        return _row_major(groups, kept)
    vectors = {_key(g): v for g in groups if (v := vector_axis(g, vector)) is not None}
    wishes: Orders = {}
    for group in groups:
        inner: list[Wish] = []
        for part in group.inner:
            deepest = deep_right(part)
            if deepest is not None:
                inner += _wishes(part, deepest)
            else:
                inner += _inner_wishes(part, group, vector, fetched)
        own = _wishes(group, deep(group) or vectors.get(_key(group)))
        for wish in _agreed([*inner, *own]):
            wishes.setdefault(wish.value, wish.order)
    orders: Orders = {}
    for group in groups:
        for value in group.operands:
            if value not in orders:
                orders[value] = _source_order(value, wishes)
        for store in group.stores:
            value, lanes = (store.node, store.field), vectors.get(_key(group))
            wished = kept.get(value) or wishes.get(value)
            orders[value] = wished or _store_order(group, store, lanes, vector, orders)
    return orders, vectors


def _row_major(groups: tuple[Group, ...], kept: Orders) -> tuple[Orders, dict[Value, Axis]]:
    """Every value row-major: a contraction's vectors run along an axis that is innermost in its
    result and in a factor, where there is one."""
    stored = ((s.node, s.field) for g in groups for s in g.stores)
    values = dict.fromkeys((*(v for g in groups for v in g.operands), *stored))
    vectors = {_key(g): v for g in groups if (v := _innermost_axis(g)) is not None}
    return {v: kept.get(v, row_major(v)) for v in values}, vectors


def _innermost_axis(group: Group) -> Axis | None:
    form, indices = contraction(group), group.stores[0].indices
    axis = bare_axis(indices[-1]) if indices else None
    if form is None or axis not in (*form.m, *form.n):
        return None
    reads = reads_of(form.left, *form.rights)
    last = [affine(r.indices[-1]) for r in reads if r.indices]
    return axis if any(f is not None and f[0].get(axis) == 1 for f in last) else None


def _key(group: Group) -> Value:
    return group.stores[0].node, group.stores[0].field


def vector_of(group: Group, vectors: dict[Value, Axis]) -> Axis | None:
    """The vector axis that `assign_orders` chose for a group. Groups that store parts of one value
    (`strips.py`) have the same one, each of its own extent."""
    found = vectors.get(_key(group))
    if found is None or found in (*group.axes, *group.over):
        return found
    return next((a for a in group.axes if a.name == found.name), None)


def row_major(value: Value) -> tuple[int, ...]:
    return tuple(range(len(value[0].shape)))


def _source_order(value: Value, wishes: Orders) -> tuple[int, ...]:
    node = value[0]
    free = isinstance(node, Const) or (isinstance(node, Input) and node.role is Role.WEIGHT)
    return wishes.get(value, row_major(value)) if free else row_major(value)


def vector_axis(group: Group, vector: int) -> Axis | None:
    """The output axis of a contraction that runs along vector lanes.

    An axis of the right factor where one is wide enough, preferring those that divide; else one of
    the left; else a batch axis.
    """
    return _vector_axis(group, vector, frozenset())


def _inner_axis(part: Group, group: Group, vector: int) -> Axis | None:
    """The vector axis of an inner group; it stands still along what the whole group reduces."""
    return _vector_axis(part, vector, frozenset(group.over))


def _inner_wishes(part: Group, group: Group, vector: int, fetched: bool) -> Iterable[Wish]:
    """What an inner group wants, but for a left factor that is not vectors along its rows where
    the right one is fetched."""
    lanes, form = _inner_axis(part, group, vector), contraction(part)
    if fetched and form is not None and lanes in form.m:
        return ()
    return _wishes(part, lanes)


def _vector_axis(group: Group, vector: int, still: frozenset[Axis]) -> Axis | None:
    form = contraction(group)
    if form is None:
        return None
    for axes in (form.n, form.m, form.batch):
        moving = [a for a in axes if a not in still]
        ranked = sorted(moving, key=lambda a: (_lanes(a.extent, vector), a.extent))
        if ranked and _lanes(ranked[-1].extent, vector) > 1:
            return ranked[-1]
    wide = max((*form.n, *form.m), key=lambda a: a.extent, default=None)
    return wide if wide is not None and wide.extent > 1 else None


def _lanes(extent: int, vector: int) -> int:
    """The widest vector that divides an extent."""
    width = vector
    while width > 1 and extent % width:
        width //= 2
    return width


def _wishes(group: Group, lanes: Axis | None) -> Iterable[Wish]:
    form = contraction(group)
    if form is None or lanes is None:
        return
    for factor in (form.left, *form.rights):
        for read in reads_of(factor):
            wish = innermost(read, lanes, form)
            if wish is not None:
                yield wish


def _agreed(wishes: list[Wish]) -> list[Wish]:
    """The wishes for values that are not wanted in another order as well, by the same kernel."""
    orders: dict[Value, set[tuple[int, ...]]] = {}
    for wish in wishes:
        orders.setdefault(wish.value, set()).add(wish.order)
    return [w for w in wishes if len(orders[w.value]) == 1]


def innermost(read: Read, lanes: Axis, form: Contraction) -> Wish | None:
    """The order of `read`'s source that puts the vector axis innermost, reduced axes before it."""
    forms = [affine(i) for i in read.indices]
    places = [d for d, f in enumerate(forms) if f is not None and f[0].get(lanes) == 1]
    if len(places) != 1:
        return None
    rest = [d for d in range(len(forms)) if d != places[0]]
    # Reduced dimensions that are small (a window's) go outside the large one.
    rest.sort(key=lambda d: _reduced_extent(read, d, form))
    return Wish((read.source, read.field), (*rest, places[0]))


def _reduced_extent(read: Read, dimension: int, form: Contraction) -> int:
    form_ = affine(read.indices[dimension])
    if form_ is None:
        return 0
    return max((a.extent for a in form_[0] if a in form.k), default=0)


def _store_order(
    group: Group, store: Output, lanes: Axis | None, vector: int, orders: Orders
) -> tuple[int, ...]:
    """The order of what nobody has a wish for: the vector axis innermost, or as what is read. What
    products within a kernel make lies along what vectors divide, where they do not divide that."""
    if lanes is not None:
        return _with_innermost(store, lanes)
    followed, shape = _followed(group, store, orders), store.node.shape
    if any(contraction(part) is not None for part in group.inner) and shape[followed[-1]] % vector:
        own = row_major((store.node, store.field))
        return own if shape[own[-1]] % vector == 0 else followed
    return followed


def _with_innermost(store: Output, lanes: Axis) -> tuple[int, ...]:
    order = list(range(len(store.indices)))
    forms = [affine(i) for i in store.indices]
    place = next((d for d, f in enumerate(forms) if f is not None and f[0].get(lanes) == 1), None)
    if place is not None:
        order.remove(place)
        order.append(place)
    return tuple(order)


def _followed(group: Group, store: Output, orders: Orders) -> tuple[int, ...]:
    """The order of the largest value that is read, carried over axis by axis, also through values
    that exist only inside the kernel."""
    inside: Orders = {}
    for part in group.inner:
        for held in part.stores:
            inside[held.node, held.field] = _carried(part.reads, held, ChainMap(inside, orders))
    reads = (r for part in group.parts for r in part.reads)
    return _carried(reads, store, ChainMap(inside, orders))


def _carried(
    reads: Iterable[Read], store: Output, orders: Mapping[Value, tuple[int, ...]]
) -> tuple[int, ...]:
    """The order of the largest value that is read along what is stored, else row-major."""
    best: tuple[int, ...] | None = None
    size = 0
    position = {bare_axis(i): d for d, i in enumerate(store.indices)}
    for read in reads:
        order = orders.get((read.source, read.field))
        axes = [_moved_along(i) for i in read.indices]
        known = [a for a in axes if a is not None and a in position]
        extent = prod(a.extent for a in known)
        if order is None or extent <= size or len(set(known)) != len(known):
            continue
        carried = [position[a] for a in (axes[d] for d in order) if a in position]
        missing = [d for d in range(len(store.indices)) if d not in carried]
        size, best = extent, (*missing, *carried)
    return best if best is not None else row_major((store.node, store.field))


def _moved_along(index: Expr) -> Axis | None:
    """The axis that an index is, or a quotient of: neighbours along it are neighbours there."""
    match index:
        case Apply(op="floordiv", args=(Index(axis=axis), Literal())):
            return axis
    return bare_axis(index)
