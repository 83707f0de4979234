"""Several evaluations of a graph as one: a first axis counts them, and nothing is computed for all.

In: a graph and how many times. Out: a graph whose nodes have one more axis, the first. Invariant:
each of its slices means what the graph means; every inexact operation is made once for each, so
that whoever rounds at random rounds each of them anew.

    y[i] = exp(x[i]) + 1, 8 times   →   y[t, i] = exp(t >= 0 ? x[i] : x[i]) + 1
"""

from __future__ import annotations

from dataclasses import replace

from sdlc.graph.expr import Apply, Axis, Expr, Index, Read, apply, i32
from sdlc.graph.node import Graph, Map, Node, Reduce, topological


def repeated(graph: Graph, times: int) -> Graph:
    """The graph `times` over. Inputs and constants are read by all evaluations."""
    repeating = _Repeating(Axis("evaluation'", times))
    for node in topological(graph):
        repeating.add(node)
    outputs = tuple((name, repeating.of(node), field) for name, node, field in graph.outputs)
    return Graph(graph.name, outputs, graph.inputs)


class _Repeating:
    def __init__(self, axis: Axis) -> None:
        self.axis, self.index = axis, Index(axis)
        self._nodes: dict[Node, Map | Reduce] = {}
        self._made: dict[Expr, Expr] = {}

    def add(self, node: Node) -> None:
        """A node whose sources have been added."""
        match node:
            case Map():
                axes, body = (self.axis, *node.axes), self._expr(node.body)
                self._nodes[node] = replace(node, axes=axes, body=body)
            case Reduce():
                axes, lift = (self.axis, *node.axes), tuple(self._expr(e) for e in node.lift)
                self._nodes[node] = replace(node, axes=axes, lift=lift)

    def of(self, node: Node) -> Node:
        """The node's evaluations; an input has them all alike."""
        if node in self._nodes:
            return self._nodes[node]
        axes = tuple(Axis(f"d{d}", n) for d, n in enumerate(node.shape))
        read = Read(node, tuple(Index(a) for a in axes))
        return Map((self.axis, *axes), read, node.dtypes[0], node.origin)

    def _expr(self, expr: Expr) -> Expr:
        if expr not in self._made:
            self._made[expr] = self._new(expr)
        return self._made[expr]

    def _new(self, expr: Expr) -> Expr:
        match expr:
            case Read():
                indices = tuple(self._expr(i) for i in expr.indices)
                fill = None if expr.fill is None else self._expr(expr.fill)
                if expr.source not in self._nodes:
                    return Read(expr.source, indices, expr.field, fill)
                own = self._nodes[expr.source]
                return Read(own, (self.index, *indices), expr.field, fill)
            case Apply():
                args = tuple(self._expr(a) for a in expr.args)
                made = Apply(expr.op, args)
                if made.dtype.is_float and self.axis not in made.axes:
                    return Apply(expr.op, (self._each(args[0]), *args[1:]))
                return made
        return expr

    def _each(self, value: Expr) -> Expr:
        """The value once for each evaluation."""
        return apply("select", apply("ge", self.index, i32(0)), value, value)
