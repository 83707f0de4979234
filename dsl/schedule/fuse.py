"""From a graph to groups: which definitions share a kernel.

In: a graph. Out: groups in execution order. Invariant: each stored value is written by one group,
before it is read; a group reads at most `max_reads` stored values besides its own results.

Three always-legal moves, none of which looks at an operator:
  view      a map that only moves elements is read through by every reader
  prologue  a map whose elements are each read once, by one node, is computed where it is read
  epilogue  a map that reads a reduction's result point by point is computed where it is stored
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import prod

from sdlc.graph.expr import Axis, Expr, Index, Read, rebuild, substitute, walk
from sdlc.graph.node import (
    Const,
    Graph,
    Input,
    Map,
    Node,
    Reduce,
    element_count,
    expressions,
    reads,
    sources,
    topological,
)
from sdlc.graph.rewrite import inline, is_view
from sdlc.graph.types import Origin
from sdlc.schedule.bijection import inverse
from sdlc.schedule.group import Group, Output, slot

MAX_INLINED_READS = 24
"""Bounds the size of a kernel's expressions."""


MOVES = frozenset({"inline_prologue", "inline_epilogue"})
SLACK = 0.5
"""A map may be computed up to twice an element: a padded reader computes its border too."""


def fuse(graph: Graph, max_reads: int, enabled: frozenset[str] = MOVES) -> tuple[Group, ...]:
    """The groups of a graph, in execution order. Views are always read through; `enabled` names
    the other moves that may be made.

    `max_reads` bounds the stored values that one group may read (a device's bindings, less its
    results).
    """
    order = list(topological(graph))
    readers = _readers(order)
    kept = {node for _, node, _ in graph.outputs}
    dissolved: set[Node] = set()
    bodies: dict[Node, tuple[Expr, ...]] = {}
    for node in order:
        bodies[node] = _dissolve_into(node, dissolved, max_reads)
        if not isinstance(node, Map) or node in kept:
            continue
        body = bodies[node][0]
        if is_view(body) or ("inline_prologue" in enabled and _inlines(node, readers)):
            dissolved.add(node)
    found = {n: tuple(e for e in walk(*b) if isinstance(e, Read)) for n, b in bodies.items()}
    epilogues = "inline_epilogue" in enabled
    return _groups(_Fusing(graph, order, kept, dissolved, bodies, max_reads, found, epilogues))


@dataclass(frozen=True, slots=True)
class _Fusing:
    graph: Graph
    order: list[Node]
    kept: set[Node]
    dissolved: set[Node]
    bodies: dict[Node, tuple[Expr, ...]]
    max_reads: int
    found: dict[Node, tuple[Read, ...]]
    """The reads of every node's expressions."""
    epilogues: bool


def _readers(order: list[Node]) -> dict[Node, list[Node]]:
    readers: dict[Node, list[Node]] = defaultdict(list)
    for node in order:
        for source in sources(node):
            readers[source].append(node)
    return readers


def _dissolve_into(node: Node, dissolved: set[Node], max_reads: int) -> tuple[Expr, ...]:
    """The node's expressions with dissolved maps inlined, as far as the reads allow it.

    A map that one reader must leave out is given back to the stored values for all readers.
    """
    while True:
        bodies = tuple(inline(e, dissolved) for e in expressions(node))
        found = [e for e in walk(*bodies) if isinstance(e, Read)]
        values = {(r.source, r.field) for r in found}
        if len(values) <= max_reads and len(found) <= MAX_INLINED_READS:
            return bodies
        direct = [s for s in sources(node) if s in dissolved]
        if not direct:
            return bodies
        dissolved.discard(max(direct, key=lambda s: len(reads(s))))


def _inlines(node: Map, readers: dict[Node, list[Node]]) -> bool:
    """Whether readers compute this map themselves."""
    if len(readers[node]) != 1:
        return False
    reader = readers[node][0]
    return SLACK * _times_read(node, reader) <= element_count(node)


def _times_read(node: Node, reader: Node) -> int:
    """How many element reads of `node` the reader makes."""
    points = prod(a.extent for a in _domain(reader))
    return sum(points for r in reads(reader) if r.source is node)


def _domain(node: Node) -> tuple[Axis, ...]:
    match node:
        case Map():
            return node.axes
        case Reduce():
            return (*node.axes, *node.over)
        case _:
            return ()


def _groups(fusing: _Fusing) -> tuple[Group, ...]:
    readers: dict[Node, list[Node]] = defaultdict(list)
    stored = [n for n in fusing.order if n not in fusing.dissolved and isinstance(n, (Map, Reduce))]
    for node in stored:
        for source in dict.fromkeys(r.source for r in fusing.found[node]):
            readers[source].append(node)
    epilogue: dict[Node, Reduce] = {}
    for node in stored:
        if isinstance(node, Reduce) and node not in fusing.kept and len(readers[node]) == 1:
            reader = readers[node][0]
            if fusing.epilogues and reader not in epilogue and _is_epilogue(reader, node, fusing):
                epilogue[reader] = node
    absorbed = set(epilogue.values())
    fields = _fields_used(fusing)
    return tuple(
        _with_epilogue(node, epilogue[node], fusing)
        if node in epilogue
        else _alone(node, fusing, fields)
        for node in stored
        if node not in absorbed
    )


def _is_epilogue(reader: Node, reduction: Reduce, fusing: _Fusing) -> bool:
    """Whether `reader` is a map over exactly the reduction's points, in any arrangement."""
    if not isinstance(reader, Map):
        return False
    found = fusing.found[reader]
    own = [r for r in found if r.source is reduction]
    places = {r.indices for r in own}
    if len(places) != 1 or any(r.fill is not None for r in own):
        return False
    others = {(r.source, r.field) for r in found if r.source is not reduction}
    lifted = {(r.source, r.field) for r in fusing.found[reduction]}
    return (
        inverse(next(iter(places)), reduction.axes, reader.axes) is not None
        and len(others | lifted) <= fusing.max_reads
    )


def _with_epilogue(node: Node, reduction: Reduce, fusing: _Fusing) -> Group:
    assert isinstance(node, Map)
    body = fusing.bodies[node][0]
    own = next(r for r in fusing.found[node] if r.source is reduction)
    places = inverse(own.indices, reduction.axes, node.axes)
    assert places is not None

    def change(e: Expr) -> Expr | None:
        if isinstance(e, Read) and e.source is reduction:
            return slot(reduction.monoid, e.field)
        return None

    value = substitute(rebuild(body, change), places)
    indices = tuple(places[a] for a in node.axes)
    return Group(
        node.origin.name,
        reduction.axes,
        reduction.over,
        reduction.monoid,
        fusing.bodies[reduction],
        (Output(node, 0, indices, value),),
        _origins(reduction, node),
    )


def _alone(node: Node, fusing: _Fusing, fields: dict[Node, set[int]]) -> Group:
    body = fusing.bodies[node]
    match node:
        case Map():
            here = tuple(Index(a) for a in node.axes)
            store = Output(node, 0, here, body[0])
            return Group(node.origin.name, node.axes, (), None, (), (store,), _origins(node))
        case Reduce():
            here = tuple(Index(a) for a in node.axes)
            used = sorted(fields[node])
            stores = tuple(Output(node, f, here, slot(node.monoid, f)) for f in used)
            return Group(
                node.origin.name,
                node.axes,
                node.over,
                node.monoid,
                body,
                stores,
                _origins(node),
            )
        case Input() | Const():
            raise AssertionError("inputs and constants are not computed")


def _fields_used(fusing: _Fusing) -> dict[Node, set[int]]:
    """The output fields of every node that something reads."""
    used: dict[Node, set[int]] = defaultdict(set)
    for _, node, field in fusing.graph.outputs:
        used[node].add(field)
    for found in fusing.found.values():
        for read in found:
            used[read.source].add(read.field)
    return used


def _origins(*nodes: Node) -> tuple[Origin, ...]:
    return tuple(dict.fromkeys(n.origin for n in nodes))
