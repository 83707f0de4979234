"""What kernels round to half precision on their way, as a graph that says so.

In: a graph and the groups that a schedule made of it. Out: the graph in which each group that holds
something in half precision is what it computes, its inner groups spelled out, those in f16. Or None
where no group does. Invariant: other nodes are the graph's own.

    o[i] = sum over p of exp(s[i, p]) * v[p]
    →  w[i, p] : f16 = exp(s[i, p]);  o[i] = sum over p of w[i, p] * v[p]
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from sdlc.graph.expr import Expr, Read, rebuild
from sdlc.graph.hoist import Hoisted
from sdlc.graph.node import Graph, Map, Node, Reduce
from sdlc.graph.types import DType
from sdlc.proof.meaning import stored_by
from sdlc.schedule.group import Group, Output

Value = tuple[Node, int]


def is_narrow(group: Group) -> bool:
    """Whether a kernel holds in half precision what it computes on its way."""
    return any(_rounds(store) for part in group.inner for store in part.stores)


def _rounds(store: Output) -> bool:
    """Whether what is held is in half precision, and no copy of a value that is."""
    if store.node.dtypes[store.field] is not DType.F16:
        return False
    value = store.value
    return not (isinstance(value, Read) and value.source.dtypes[value.field] is DType.F16)


def narrowed(graph: Graph, groups: Iterable[Group]) -> Graph | None:
    """The graph as narrow groups compute it; `groups` are in the order of their dispatches."""
    cut = Cut({})
    for group in filter(is_narrow, groups):
        made = {value: (cut.node(node), 0) for value, node in stored_by(group).items()}
        cut.known.update(made)
    return cut.graph(graph) if cut.known else None


def narrowed_whole(parts: Hoisted, run: Iterable[Group], load: Iterable[Group]) -> Graph | None:
    """The same of a graph that was parted, as one: `run` and `load` are the parts' groups."""
    own = narrowed(parts.run, run)
    if parts.load is None:
        return own
    once = narrowed(parts.load, load)
    if own is None and once is None:
        return None
    weights = {name: (node, field) for name, node, field in (once or parts.load).outputs}
    known: dict[Value, Value] = {(i, 0): weights[i.name] for i in parts.weights.values()}
    return Cut(known).graph(own or parts.run)


class Cut:
    """Nodes rebuilt with `known` values in the place of others."""

    def __init__(self, known: dict[Value, Value]) -> None:
        self.known = known
        self._made: dict[Node, Node] = {}

    def graph(self, graph: Graph) -> Graph:
        """The graph with its outputs rebuilt, or known."""
        outputs = ((name, *self.value((node, field))) for name, node, field in graph.outputs)
        return Graph(graph.name, tuple(outputs), graph.inputs)

    def value(self, value: Value) -> Value:
        """What stands for a value."""
        return self.known.get(value) or (self.node(value[0]), value[1])

    def node(self, node: Node) -> Node:
        """A node rebuilt, whatever stands for its values."""
        if node not in self._made:
            self._made[node] = self._rebuilt(node)
        return self._made[node]

    def _rebuilt(self, node: Node) -> Node:
        match node:
            case Map():
                return replace(node, body=self._expr(node.body))
            case Reduce():
                return replace(node, lift=tuple(self._expr(e) for e in node.lift))
            case _:
                return node

    def _expr(self, expr: Expr) -> Expr:
        return rebuild(expr, self._change)

    def _change(self, expr: Expr) -> Expr | None:
        if not isinstance(expr, Read):
            return None
        indices = tuple(self._expr(i) for i in expr.indices)
        fill = None if expr.fill is None else self._expr(expr.fill)
        source, field = self.value((expr.source, expr.field))
        return Read(source, indices, field, fill)
