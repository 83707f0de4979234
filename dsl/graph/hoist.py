"""Hoisting: what depends only on weights and constants is computed once, when they are loaded.

In: a graph. Out: `Hoisted`: a load graph whose results are weights of the run graph, and that run
graph. Invariant: run graph after load graph = the graph; the load graph reads no run-time input; a
result of the graph is never hoisted (it is written at each run).

    out[i] = x[i] * exp(w[i] + v[i])
    load:  ~f.e[i] = exp(w[i] + v[i])          run:  out[i] = x[i] * ~f.e[i]

A hoisted weight is named `~` and the scope path, definition and name of what it was, in which no
`~` can occur: such a name clashes with no weight of a file. It is unique in its graph and the same
at every compilation.

Nodes are hoisted whole, and not where it costs more than it saves (`_stays`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from sdlc.graph.expr import Expr, Read, rebuild
from sdlc.graph.names import free_name
from sdlc.graph.node import (
    Const,
    Graph,
    Input,
    Map,
    Node,
    Reduce,
    Role,
    element_count,
    flop_of,
    points_of,
    reads,
    sources,
    topological,
)
from sdlc.graph.rewrite import is_view

MARK = "~"
"""Begins the name of every hoisted weight, and of no other."""
GROWTH = 8
"""A hoisted weight takes at most so many times the bytes of what it is computed from (the transform
of a window of 3 × 3 to tiles of 8 × 8 takes 64 / 9 times them) …"""
SMALL = 1 << 16
"""… or so many bytes."""
FLOP_PER_BYTE = 16
"""FLOP that take as long as reading a byte: 60 TFLOP/s to 3 TB/s on a GPU, 480 GFLOP/s to 40 GB/s
on a CPU."""

Value = tuple[Node, int]


@dataclass(frozen=True, slots=True)
class Hoisted:
    """`load` is None where nothing is hoisted, and `run` then the graph itself. `weights` are the
    run graph's names for what the load graph computes."""

    load: Graph | None
    run: Graph
    weights: Mapping[Value, Input]


def hoist(graph: Graph) -> Hoisted:
    """The graph as two: what is computed once, and what is computed at each run."""
    order = list(topological(graph))
    static = _static(graph, order)
    readers = _run_readers(graph, order, static)
    chosen = [n for n in order if n in static and n not in readers.run and n in readers.of]
    found = [n for n in chosen if isinstance(n, (Map, Reduce))]
    if not found:
        return Hoisted(None, graph, {})
    weights = _weights(found, readers, {n.name for n in order if isinstance(n, Input)})
    outputs = tuple((made.name, *value) for value, made in weights.items())
    run = reading(graph, [n for n in order if n in readers.run], weights)
    return Hoisted(Graph(graph.name, outputs), run, weights)


def _static(graph: Graph, order: Iterable[Node]) -> set[Node]:
    """The nodes that depend on weights and constants only, results of the graph excepted."""
    results = {node for _, node, _ in graph.outputs}
    found: set[Node] = set()
    for node in order:
        match node:
            case Input():
                known = node.role is Role.WEIGHT
            case Const():
                known = True
            case _:
                known = node not in results and all(s in found for s in sources(node))
        if known:
            found.add(node)
    return found


@dataclass(frozen=True, slots=True)
class _Readers:
    """What is computed at each run, and by what in it each node is read."""

    run: set[Node]
    of: dict[Node, list[Node]]


def _run_readers(graph: Graph, order: list[Node], static: set[Node]) -> _Readers:
    """Readers come before what they read, so that a node is decided on when it is known who in the
    run graph needs it."""
    found = _Readers({node for _, node, _ in graph.outputs} - static, defaultdict(list))
    for node in reversed(order):
        if node in static and (node not in found.of or not _stays(node, found.of[node])):
            continue
        found.run.add(node)
        for source in sources(node):
            found.of[source].append(node)
    return found


def _stays(node: Node, readers: list[Node]) -> bool:
    """Whether a static node is better computed at each run.

    * A view is no work: its readers read through it.
    * A broadcast may be too large: more than `GROWTH` times what it is computed from and `SMALL`.
    * A map that is read once is computed where it is read, for its FLOP and the bytes that it
      reads; hoisted, for its own bytes.
    """
    if not isinstance(node, (Map, Reduce)):
        return True
    if isinstance(node, Map) and is_view(node.body):
        return True
    stored = element_count(node) * sum(d.itemsize for d in node.dtypes)
    before, flop = _made_from(node)
    if stored > max(GROWTH * before, SMALL):
        return True
    once = isinstance(node, Map) and _times_read(node, readers) <= element_count(node)
    return once and stored > before + flop / FLOP_PER_BYTE


def _made_from(node: Node) -> tuple[int, int]:
    """Bytes of the weights and constants beneath a node, and the FLOP from them to the node."""
    size = flop = 0
    for each in _beneath(node):
        if isinstance(each, (Map, Reduce)):
            flop += flop_of(each)
        else:
            size += element_count(each) * each.dtype.itemsize
    return size, flop


def _beneath(node: Node) -> Iterator[Node]:
    """The node and all that it depends on, once each."""
    seen = {node}
    stack = [node]
    while stack:
        each = stack.pop()
        yield each
        fresh = [s for s in sources(each) if s not in seen]
        seen.update(fresh)
        stack += fresh


def _times_read(node: Node, readers: list[Node]) -> int:
    """How many elements of the node its readers read."""
    return sum(points_of(r) for r in readers for each in reads(r) if each.source is node)


# ---- the two graphs ------------------------------------------------------------------------------


def _weights(found: list[Map | Reduce], readers: _Readers, taken: set[str]) -> dict[Value, Input]:
    """An input for every field of a hoisted node that the run graph reads."""
    made: dict[Value, Input] = {}
    for node in found:
        for field in sorted(
            {r.field for n in readers.of[node] for r in reads(n) if r.source is node}
        ):
            name = free_name(_name(node, field), taken)
            taken.add(name)
            dtype = node.dtypes[field]
            made[(node, field)] = Input(name, node.shape, dtype, Role.WEIGHT, node.origin)
    return made


def _name(node: Map | Reduce, field: int) -> str:
    parts = [node.origin.scope, node.origin.definition, node.origin.name]
    if isinstance(node, Reduce) and len(node.dtypes) > 1:
        parts.append(node.monoid.fields[field].name)
    return MARK + ".".join(p for p in parts if p)


def reading(graph: Graph, run: list[Node], weights: Mapping[Value, Input]) -> Graph:
    """The graph with some values read as these weights; `run` are its nodes in order."""
    made: dict[Node, Node] = {}
    hoisted = {node for node, _ in weights}

    def change(e: Expr) -> Expr | None:
        if not isinstance(e, Read):
            return None
        weight = weights.get((e.source, e.field))
        source, field = (made.get(e.source, e.source), e.field) if weight is None else (weight, 0)
        if source is e.source:
            return None
        indices = tuple(rebuild(i, change) for i in e.indices)
        return Read(source, indices, field, None if e.fill is None else rebuild(e.fill, change))

    for node in run:
        if all(made.get(s, s) is s and s not in hoisted for s in sources(node)):
            continue
        match node:
            case Map():
                made[node] = replace(node, body=rebuild(node.body, change))
            case Reduce():
                made[node] = replace(node, lift=tuple(rebuild(e, change) for e in node.lift))
    outputs = tuple((name, made.get(node, node), field) for name, node, field in graph.outputs)
    return Graph(graph.name, outputs, graph.inputs)
