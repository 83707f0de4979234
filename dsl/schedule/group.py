"""A group: the definitions that one kernel computes, as one map or one reduction.

In: nodes chosen by `fuse`. Out: the meaning that a nest schedules and `lower` prints.
Invariant: expressions read only nodes outside the group, or results of its `inner` groups, which
are computed inside the kernel, each before its readers, region by region where the nest says;
`lift` is over `axes` and `over`; stored values are over `axes` and, where there is a reduction,
`Slot(0, field)` for its results. An inner group's stores are at its own axes.

    Group(axes=(m, n), over=(k,), SUM, lift=(a[m, k] * b[k, n],), stores=(c[m, n] = slot + d[n],))
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from sdlc.graph.expr import Axis, Expr, Read, Slot, cost, reads_of
from sdlc.graph.node import Map, Monoid, Node, Reduce, flop_of, sources
from sdlc.graph.types import Origin


@dataclass(frozen=True, slots=True)
class Output:
    """`node.field[indices] = value`, for every point of the group's axes."""

    node: Node
    field: int
    indices: tuple[Expr, ...]
    value: Expr


@dataclass(frozen=True, slots=True)
class Group:
    """`monoid` is None, and `over` and `lift` empty, for a map."""

    name: str
    axes: tuple[Axis, ...]
    over: tuple[Axis, ...]
    monoid: Monoid | None
    lift: tuple[Expr, ...]
    stores: tuple[Output, ...]
    origins: tuple[Origin, ...]
    inner: tuple[Group, ...] = ()

    @property
    def expressions(self) -> tuple[Expr, ...]:
        return (*self.lift, *(s.value for s in self.stores))

    @property
    def reads(self) -> tuple[Read, ...]:
        """Every distinct read of its own expressions, in order of appearance."""
        return reads_of(*self.expressions)

    @property
    def parts(self) -> tuple[Group, ...]:
        """The inner groups and the group itself, in the order in which they are computed."""
        return (*self.inner, self)

    @property
    def held(self) -> frozenset[tuple[Node, int]]:
        """The values that exist only inside the kernel: what its inner groups compute."""
        return frozenset((s.node, s.field) for g in self.inner for s in g.stores)

    @property
    def operands(self) -> tuple[tuple[Node, int], ...]:
        """The stored values that the kernel reads: (node, field), without repetition."""
        found = dict.fromkeys((r.source, r.field) for p in self.parts for r in p.reads)
        held = self.held
        return tuple(v for v in found if v not in held)

    @property
    def points(self) -> int:
        """Points of the output axes."""
        return prod(a.extent for a in self.axes)

    @property
    def wide(self) -> bool:
        """Whether nothing in the kernel may be rounded to half precision on its way: what it
        computes, or what it reads, is wide."""
        read = (node for node, _ in self.operands)
        return any(isinstance(n, Map | Reduce) and n.wide for n in (*read, *nodes_of(self)))

    @property
    def definition(self) -> str:
        """The definition that most of its work comes from: of the reductions, where it has any."""
        nodes = nodes_of(self)
        work: dict[str, int] = {}
        for node in [n for n in nodes if isinstance(n, Reduce)] or nodes:
            name = node.origin.definition
            work[name] = work.get(name, 0) + flop_of(node)
        return max(work, key=lambda n: work[n], default=self.origins[0].definition)

    @property
    def flop(self) -> int:
        """Floating-point operations of one execution, by the scalar table's costs."""
        combine = () if self.monoid is None else self.monoid.combine
        steps = cost(*self.lift) + cost(*combine)
        each = cost(*(s.value for s in self.stores))
        own = self.points * (steps * prod(a.extent for a in self.over) + each)
        return own + sum(g.flop for g in self.inner)

    def __str__(self) -> str:
        from sdlc.schedule.show import show_group

        return show_group(self)


def nodes_of(group: Group) -> tuple[Map | Reduce, ...]:
    """The definitions that a group computes, those inlined included, sources before readers."""
    outside = {node for node, _ in group.operands}
    order: dict[Map | Reduce, None] = {}
    stack: list[tuple[Node, bool]] = [(s.node, False) for s in reversed(group.stores)]
    entered: set[Node] = set()
    while stack:
        node, done = stack.pop()
        if not isinstance(node, (Map, Reduce)) or node in outside:
            continue
        if done:
            order[node] = None
        elif node not in entered:
            entered.add(node)
            stack.append((node, True))
            stack.extend((s, False) for s in sources(node))
    return tuple(order)


def slot(monoid: Monoid, field: int) -> Slot:
    """The reduction's result `field`, as stored values name it."""
    return Slot(0, field, monoid.fields[field].dtype)
