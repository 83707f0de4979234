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

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

from sdlc.graph.expr import Expr, Index, Read, rebuild, walk
from sdlc.graph.hoist import hoist
from sdlc.graph.node import (
    Graph,
    Input,
    Map,
    Node,
    Reduce,
    Role,
    element_count,
    expressions,
    topological,
)
from sdlc.graph.numerics import Numerics
from sdlc.graph.rules import Rule, Sizes, rewrite
from sdlc.graph.types import DType
from sdlc.schedule.cost import seconds_of
from sdlc.schedule.draft import EVERY
from sdlc.schedule.fetched import is_fetched
from sdlc.schedule.group import Group
from sdlc.schedule.plan import Plan, plan
from sdlc.schedule.strips import NAME as STRIPS
from sdlc.target import Target

Sides = Callable[[Sizes, DType], tuple[Graph, Graph]]
"""Both sides of a rule at some sizes."""

WORTH = 0.8
"""The share of the time that a rule's right side may be estimated at where it rounds more:
estimates are a fifth off, and what is rounded more must be clearly quicker."""


@dataclass(frozen=True, slots=True)
class Compared:
    """Why the right side does not pay, elements of the largest value that it stores on its way, the
    seconds that it saves, and elements of its largest weight."""

    why: str
    stored: int
    saved: float
    weight: int = 0


@dataclass(slots=True)
class Estimates:
    """Predicted seconds of both sides of rules, each instance once. `along` are rules that both
    sides are rewritten with first, as a program would be, but for the rule itself."""

    target: Target
    along: Sequence[Rule] = ()
    precision: DType = DType.F32
    _known: dict[tuple[Sides, tuple[tuple[str, int], ...]], Compared] = field(default_factory=dict)

    def dearer(self, rule: Rule, sizes: Sizes) -> str:
        """Why the rule does not pay at these sizes, '' where it does or cannot be told."""
        return self._compared(rule, sizes).why

    def between(self, rule: Rule, sizes: Sizes) -> int:
        """Elements of the largest value that the right side stores on the way to its result."""
        return self._compared(rule, sizes).stored

    def weight(self, rule: Rule, sizes: Sizes) -> int:
        """Elements of the largest weight that the right side reads."""
        return self._compared(rule, sizes).weight

    def saved(self, rule: Rule, sizes: Sizes) -> float:
        """Seconds by which the right side is quicker."""
        return self._compared(rule, sizes).saved

    def fetches(self, rule: Rule, sizes: Sizes) -> bool:
        """Whether what the left side reads, but for weights, passes through local memory."""
        if rule.sides is None:
            return True
        left = rule.sides(sizes, self.precision)[0]
        names = frozenset(n.name for n in topological(left) if isinstance(n, Input))
        known = weights_of(left)
        return is_fetched(with_weights(left, known), names - known, self.target)

    def _compared(self, rule: Rule, sizes: Sizes) -> Compared:
        if rule.sides is None:
            return Compared("", 0, 0.0)
        key = rule.sides, tuple(sorted(sizes.items()))
        if key not in self._known:
            self._known[key] = self._of_sides(rule, *rule.sides(sizes, self.precision))
        return self._known[key]

    def _of_sides(self, rule: Rule, left: Graph, right: Graph) -> Compared:
        known = weights_of(left)
        along = [r for r in self.along if r.name != rule.name]
        before, after = (self._planned(with_weights(g, known), along) for g in (left, right))
        stored = largest_stored((k.group for k in after.kernels), {n for _, n, _ in right.outputs})
        was, would = (seconds_of(p.kernels, self.target, p.orders) for p in (before, after))
        share = 1.0 if rule.numerics is Numerics.EXACT else WORTH
        dearer = f"estimated at {1e3 * would:.3g} ms instead of {1e3 * was:.3g}"
        weight = max((element_count(n) for n, _ in _weights_read(after)), default=0)
        return Compared("" if would < share * was else dearer, stored, was - would, weight)

    def _planned(self, graph: Graph, along: Sequence[Rule]) -> Plan:
        run = hoist(rewrite(graph, along)[0]).run
        return plan(run, self.target, enabled=EVERY - {STRIPS})


def _weights_read(made: Plan) -> set[tuple[Node, int]]:
    """The weights that the kernels of a plan read."""
    read = {value for k in made.kernels for value in k.group.operands}
    return {v for v in read if isinstance(v[0], Input) and v[0].role is Role.WEIGHT}


def largest_stored(groups: Iterable[Group], but: Collection[Node] = ()) -> int:
    """Elements of the largest value that groups store, or 0."""
    stored = (s.node for g in groups for s in g.stores)
    return max((element_count(n) for n in stored if n not in but), default=0)


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
