"""Several reductions in one kernel: product monoids over shared loads.

In: groups. Out: groups, some merged. Invariant: every value that is still stored is the same; a
merged group reads its common factor once for all its fields.

    pair       out[i] = y[i] * f(y[i + n]) where y[j] = sum over k of x[k] * w[j, k]
               becomes (sum of x[k] * w[i, k], sum of x[k] * w[i + n, k]): no y twice as wide
    siblings   q[i] = sum of x[k] * a[i, k];  v[i] = sum of x[k] * b[i, k]
               become one reduction with two fields that stores both
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable
from dataclasses import replace

from sdlc.graph.expr import Axis, Expr, Index, Read, Slot, rebuild, substitute
from sdlc.graph.node import Field, Map, Monoid, Node, Reduce, element_count
from sdlc.schedule.absorb import arrangement, readers_of, shared_value
from sdlc.schedule.affine import affine
from sdlc.schedule.contraction import contraction
from sdlc.schedule.group import Group
from sdlc.schedule.reasons import Journal

MOST_FIELDS = 4
"""At most this many reductions share a kernel: each takes its part of the registers."""


def product_monoid(monoids: Iterable[Monoid]) -> Monoid:
    """The monoid of tuples: every field combines as it did."""
    fields: list[Field] = []
    combine: list[Expr] = []
    for monoid in monoids:
        first = len(fields)
        for field in monoid.fields:
            fields.append(replace(field, name=f"{field.name}{len(fields)}"))
        for expr in monoid.combine:
            combine.append(_of_field(expr, first))
    return Monoid("product", tuple(fields), tuple(combine))


def _of_field(expr: Expr, by: int) -> Expr:
    """The expression with every slot `by` fields further on."""

    def change(e: Expr) -> Expr | None:
        return Slot(e.side, e.field + by, e.dtype) if isinstance(e, Slot) else None

    return rebuild(expr, change)


# ---- pairs ---------------------------------------------------------------------------------------


def pair(
    groups: tuple[Group, ...], kept: frozenset[Node], max_reads: int, journal: Journal
) -> tuple[Group, ...]:
    """The groups with every contraction that one map reads in disjoint parts made part of it."""
    readers = readers_of(groups)
    made: list[Group | None] = list(groups)
    producers = {g.stores[0].node: n for n, g in enumerate(groups) if len(g.stores) == 1}
    for number, group in enumerate(groups):
        if group.monoid is not None or group.inner or len(group.stores) != 1:
            continue
        for source, _ in group.operands:
            at = producers.get(source)
            producer = made[at] if at is not None else None
            if producer is None or producer.inner or contraction(producer) is None:
                continue
            found = shared_value(source, kept, readers) or _paired(group, producer, max_reads)
            if isinstance(found, str):
                journal.tell("pair_reductions", producer, found)
                continue
            journal.tell("pair_reductions", group, "")
            assert at is not None
            made[at], made[number] = None, found
            break
    return tuple(g for g in made if g is not None)


def _paired(group: Group, producer: Group, max_reads: int) -> Group | str:
    """The map with the reductions that it reads as fields of one, or why not."""
    assert producer.monoid is not None
    node = producer.stores[0].node
    places = arrangement(producer)
    reads = [r for r in group.reads if r.source is node]
    if places is None or not isinstance(node, (Map, Reduce)):
        return "it stores only a part of its value, or several"
    if why := _overlapping(reads, group):
        return why
    over = _apart(producer.over, group.axes)
    monoid = product_monoid([producer.monoid] * len(reads))
    width = len(producer.monoid.fields)
    lift: list[Expr] = []
    values: dict[Read, Expr] = {}
    for number, read in enumerate(reads):
        indices = dict(zip(node.axes, read.indices, strict=True))
        moved = {a: substitute(places[a], indices) for a in producer.axes}
        lift += [substitute(e, moved | over) for e in producer.lift]
        value = _of_field(producer.stores[0].value, number * width)
        values[read] = substitute(value, moved)
    store = group.stores[0]
    body = rebuild(store.value, lambda e: values.get(e) if isinstance(e, Read) else None)
    made = replace(
        group,
        over=tuple(e.axis for e in over.values()),
        monoid=monoid,
        lift=tuple(lift),
        stores=(replace(store, value=body),),
        origins=tuple(dict.fromkeys((*producer.origins, *group.origins))),
    )
    many = len(made.operands) > max_reads
    return f"both would read more than {max_reads} values" if many else made


def _apart(over: tuple[Axis, ...], axes: tuple[Axis, ...]) -> dict[Axis, Index]:
    """Indices in place of reduced axes, under other names where the map has axes of theirs."""
    taken = {a.name for a in (*over, *axes)}
    made: dict[Axis, Index] = {}
    for axis in over:
        name = axis.name
        while any(name == a.name for a in axes) or (name != axis.name and name in taken):
            name += "_r"
        taken.add(name)
        made[axis] = Index(Axis(name, axis.extent))
    return made


def _overlapping(reads: list[Read], group: Group) -> str:
    """Why the reads together are not of each element once, at axes of the map with distinct
    offsets; '' where they are."""
    if len(reads) < 2:
        return "its reader reads it in one place"
    if len(reads) > MOST_FIELDS or any(r.fill is not None for r in reads):
        return f"its reader reads it in more than {MOST_FIELDS} places, or beyond its borders"
    forms = [[affine(i) for i in r.indices] for r in reads]
    found = [[f for f in form if f is not None] for form in forms]
    terms = {tuple(frozenset(f[0].items()) for f in form) for form in found}
    offsets = {tuple(f[1] for f in form) for form in found}
    whole = all(list(f[0].values()) in ([], [1]) for f in found[0])
    once = len(reads) * group.points == element_count(reads[0].source)
    if once and found == forms and len(terms) == 1 and len(offsets) == len(reads) and whole:
        return ""
    return "the parts that its reader reads do not make it up, each element once"


# ---- siblings ------------------------------------------------------------------------------------


def siblings(groups: tuple[Group, ...], max_reads: int, journal: Journal) -> tuple[Group, ...]:
    """The groups with contractions of one left factor and equal extents computed together, where
    none depends on another."""
    made: list[Group | None] = list(groups)
    able = [n for n, g in enumerate(groups) if _may_share(g)]
    places = {s.node: n for n, g in enumerate(groups) for s in g.stores}
    whys = dict.fromkeys(able, "no other contraction has its extents")
    for number in able:
        first = made[number]
        if first is None:
            continue
        extents = _extents(first)
        for later in able[bisect(able, number) :]:
            other = made[later]
            if other is None or len(other.lift) > 1 or _extents(other) != extents:
                continue
            apart = all(places.get(source, -1) < number for source, _ in other.operands)
            found = _together(first, other, max_reads) if apart else "the other depends on it"
            if isinstance(found, str):
                whys[later], whys[number] = found, whys[number] and found
                continue
            first, made[later], whys[number] = found, None, ""
            del whys[later]
            if len(first.lift) == MOST_FIELDS:
                break
        made[number] = first
    for number, why in whys.items():
        journal.tell("share_operand", groups[number], why)
    return tuple(g for g in made if g is not None)


def _extents(group: Group) -> list[int]:
    return [x.extent for x in (*group.axes, *group.over)]


def _may_share(group: Group) -> bool:
    return (
        not group.inner
        and len(group.lift) < MOST_FIELDS
        and len(group.stores) == len(group.lift)
        and contraction(group) is not None
    )


def _together(first: Group, other: Group, max_reads: int) -> Group | str:
    """Both groups as one, if they have one left factor once `other`'s axes are named alike, or why
    not."""
    a, b = contraction(first), contraction(other)
    assert a is not None and b is not None and first.monoid is not None and other.monoid is not None
    if not a.m or not a.n:
        return "one of its factors has no axes of its own"
    names: dict[Axis, Expr] = {
        y: Index(x)
        for x, y in zip((*first.axes, *first.over), (*other.axes, *other.over), strict=True)
    }
    if substitute(b.left, names) is not a.left or len(a.n) != len(b.n):
        return "others of its extents have another left factor"
    width = len(first.monoid.fields)

    def named(expr: Expr) -> Expr:
        return substitute(_of_field(expr, width), names)

    stores = tuple(
        replace(s, value=named(s.value), indices=tuple(substitute(i, names) for i in s.indices))
        for s in other.stores
    )
    made = replace(
        first,
        monoid=product_monoid((first.monoid, other.monoid)),
        lift=(*first.lift, *(substitute(e, names) for e in other.lift)),
        stores=(*first.stores, *stores),
        origins=tuple(dict.fromkeys((*first.origins, *other.origins))),
    )
    many = len(made.operands) + len(made.stores) > max_reads
    return f"both would take more than {max_reads} buffers" if many else made
