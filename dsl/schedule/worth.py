"""Whether an instance of a rule pays on a target, by the cost model.

In: a rule that is an equation, sizes, a target. Out: '' where the right side should take clearly
less time than the left, else why not. Invariant: both sides are planned as they would be compiled,
after the rules that come with them; what depends only on weights costs nothing, as it is hoisted.

    Estimates(target).dearer(rule, {"b": 2, "c": 320, "h": 8, "w": 8, "o": 320})
    "estimated at 1.9 ms instead of 1.2"

Which parameters are weights is not known of an instance's sizes. Those are taken for weights that
the result's first axis (the batch) does not index.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from sdlc.graph.expr import Expr, Index, Read, rebuild, walk
from sdlc.graph.hoist import hoist
from sdlc.graph.node import Graph, Input, Map, Node, Reduce, Role, expressions
from sdlc.graph.rules import Rule, Sizes, rewrite
from sdlc.graph.types import DType
from sdlc.schedule.cost import seconds_of
from sdlc.schedule.plan import plan
from sdlc.target import Target

WORTH = 0.8
"""The share of the time that a rule's right side may be estimated at: estimates are a fifth off,
and what is rounded more must be clearly quicker."""


@dataclass(slots=True)
class Estimates:
    """Predicted seconds of both sides of rules, each instance once. `along` are rules that both
    sides are rewritten with first, as a program would be."""

    target: Target
    along: Sequence[Rule] = ()
    precision: DType = DType.F32
    _known: dict[tuple[str, tuple[tuple[str, int], ...]], str] = field(default_factory=dict)

    def dearer(self, rule: Rule, sizes: Sizes) -> str:
        """Why the rule does not pay at these sizes, '' where it does or cannot be told."""
        key = (rule.name, tuple(sorted(sizes.items())))
        if key not in self._known:
            self._known[key] = self._compared(rule, sizes)
        return self._known[key]

    def _compared(self, rule: Rule, sizes: Sizes) -> str:
        if rule.sides is None:
            return ""
        left, right = rule.sides(sizes, self.precision)
        known = weights_of(left)
        before, after = (self._seconds(with_weights(g, known)) for g in (left, right))
        if after < WORTH * before:
            return ""
        return f"estimated at {1e3 * after:.3g} ms instead of {1e3 * before:.3g}"

    def _seconds(self, graph: Graph) -> float:
        run = hoist(rewrite(graph, self.along)[0]).run
        made = plan(run, self.target)
        return seconds_of(made.kernels, self.target, made.orders)


def weights_of(graph: Graph) -> frozenset[str]:
    """The inputs that the first axis of the only result does not index, where some others are."""
    node = graph.outputs[0][1]
    if not isinstance(node, (Map, Reduce)) or not node.axes:
        return frozenset()
    first = Index(node.axes[0])
    reads = [e for e in walk(*expressions(node)) if isinstance(e, Read)]
    moved = {r.source for r in reads if first in walk(*r.indices)}
    found = {r.source.name for r in reads if isinstance(r.source, Input) and r.source not in moved}
    return frozenset(found) if moved else frozenset()


def with_weights(graph: Graph, names: frozenset[str]) -> Graph:
    """The graph with these inputs as weights."""
    made: dict[Node, Node] = {}

    def node_of(node: Node) -> Node:
        if node not in made:
            made[node] = _changed(node, names, expr_of)
        return made[node]

    def expr_of(expr: Expr) -> Expr:
        return rebuild(expr, change)

    def change(expr: Expr) -> Expr | None:
        if not isinstance(expr, Read):
            return None
        fill = None if expr.fill is None else expr_of(expr.fill)
        indices = tuple(expr_of(i) for i in expr.indices)
        return Read(node_of(expr.source), indices, expr.field, fill)

    outputs = tuple((name, node_of(node), f) for name, node, f in graph.outputs)
    return Graph(graph.name, outputs, tuple(i for i in graph.inputs if i.name not in names))


def _changed(node: Node, names: frozenset[str], change: Callable[[Expr], Expr]) -> Node:
    match node:
        case Input() if node.name in names:
            return Input(node.name, node.extents, node.dtype, Role.WEIGHT, node.origin)
        case Map():
            return replace(node, body=change(node.body))
        case Reduce():
            return replace(node, lift=tuple(change(e) for e in node.lift))
        case _:
            return node
