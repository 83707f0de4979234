"""What a group is, as a short text that is the same in every run: the key of tuning records.

In: a group, its vector axis and where its values are stored. Out: a digest. Invariant: two groups
have one digest exactly if the same schedule suits both: their axes, extents, expressions, monoids,
types and storage agree; names, constants' data and places in the source do not matter.

    digest_of(group, lanes, plan.orders, plan.blocks)      "9f3c21d07a5b4e11"
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from math import prod

from sdlc.graph.expr import Apply, Axis, Expr, Index, Literal, Read, Slot, children, walk
from sdlc.graph.node import Const, Input, Monoid, Node, Role
from sdlc.schedule.group import Group
from sdlc.schedule.storage import Block

Value = tuple[Node, int]
Orders = Mapping[Value, tuple[int, ...]]
Blocks = Mapping[Value, Block]
DIGITS = 16


def digest_of(group: Group, lanes: Axis | None, orders: Orders, blocks: Blocks) -> str:
    """The digest of a group with the vector axis and the storage that a plan gives it."""
    text = _Text(orders, blocks)
    parts = [text.group(part) for part in group.parts]
    vector = "-" if lanes is None else text.axis(lanes)
    return hashlib.sha256("\n".join((*parts, vector)).encode()).hexdigest()[:DIGITS]


def label_of(group: Group) -> str:
    """What people call a group: its definition, name and extents."""
    origin = group.origins[0]
    axes = " × ".join(str(a.extent) for a in group.axes) or "1"
    over = prod(a.extent for a in group.over)
    name = " ".join(p for p in (origin.definition, group.name) if p)
    return f"{name} [{axes}]" + (f" over {over}" if group.over else "")


class _Text:
    """Axes and values by the order of their appearance."""

    def __init__(self, orders: Orders, blocks: Blocks) -> None:
        self._orders, self._blocks = orders, blocks
        self._axes: dict[Axis, int] = {}
        self._values: dict[Value, int] = {}

    def axis(self, axis: Axis) -> str:
        number = self._axes.setdefault(axis, len(self._axes))
        return f"a{number}<{axis.extent}"

    def group(self, group: Group) -> str:
        indices = (i for s in group.stores for i in s.indices)
        places: dict[Expr, int] = {}
        lines = [", ".join(map(self.axis, group.axes)), ", ".join(map(self.axis, group.over))]
        for e in walk(*group.expressions, *indices):
            places[e] = len(places)
            lines.append(self._expr(e, [places[c] for c in children(e)]))
        lines += self._stores(group, places)
        if group.monoid is not None:
            lines += [self._monoid(group.monoid), _numbers(places[e] for e in group.lift)]
        return "\n".join(lines)

    def _stores(self, group: Group, places: Mapping[Expr, int]) -> Iterable[str]:
        for store in group.stores:
            value = self._value((store.node, store.field))
            yield f"{value}[{_numbers(places[i] for i in store.indices)}] = {places[store.value]}"

    def _expr(self, e: Expr, inner: list[int]) -> str:
        match e:
            case Index():
                return self.axis(e.axis)
            case Literal():
                return f"{e.dtype.value} {e.value!r}"
            case Slot():
                return f"slot {e.side} {e.field}"
            case Apply():
                return f"{e.op} {_numbers(inner)}"
            case Read():
                guard = "guarded" if e.fill is not None else ""
                return f"read {self._value((e.source, e.field))} {_numbers(inner)} {guard}"

    def _value(self, value: Value) -> str:
        """A value's number, and at its first appearance what it is."""
        if value in self._values:
            return f"v{self._values[value]}"
        self._values[value] = len(self._values)
        node, field = value
        order = self._orders.get(value, tuple(range(len(node.shape))))
        block = self._blocks.get(value)
        held = f"/{block.axis}:{block.size}" if block is not None else ""
        kind = node.dtypes[field].value + ("!" if _is_static(node) else "")
        return f"v{self._values[value]}:{kind}[{_numbers(node.shape)}@{_numbers(order)}{held}]"

    def _monoid(self, monoid: Monoid) -> str:
        places: dict[Expr, int] = {}
        lines = [f"{f.dtype.value} {f.identity!r}" for f in monoid.fields]
        for e in walk(*monoid.combine):
            places[e] = len(places)
            lines.append(self._expr(e, [places[c] for c in children(e)]))
        return "; ".join((*lines, _numbers(places[e] for e in monoid.combine)))


def _is_static(node: Node) -> bool:
    return isinstance(node, Const) or (isinstance(node, Input) and node.role is Role.WEIGHT)


def _numbers(values: Iterable[int]) -> str:
    return ",".join(map(str, values))
