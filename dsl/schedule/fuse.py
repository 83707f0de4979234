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
from collections.abc import Container
from dataclasses import dataclass
from math import prod

from sdlc.graph.expr import Axis, Expr, Index, Read, axes_of, rebuild, substitute, walk
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
from sdlc.schedule.reasons import Journal

MAX_INLINED_READS = 24
"""Bounds the size of a kernel's expressions."""


MOVES = frozenset({"inline_prologue", "inline_epilogue"})
SLACK = 0.5
"""A map may be computed up to twice an element: a padded reader computes its border too."""
LARGE_SLACK = 1 / 3
"""The largest maps of all, up to three times: beside what they are made from they make the peak."""
MANY = 10 << 20
"""Elements of a large map at least."""


def fuse(
    graph: Graph,
    max_reads: int,
    enabled: frozenset[str] = MOVES,
    journal: Journal | None = None,
    least_large: int = MANY,
) -> tuple[Group, ...]:
    """The groups of a graph, in execution order. Views are always read through; `enabled` names
    the other moves that may be made, `journal` is told what became of each.

    `max_reads` bounds the stored values that one group may read (a device's bindings, less its
    results). A map is only large if it has `least_large` elements.
    """
    journal = journal or Journal()
    order = list(topological(graph))
    readers, depth = _readers(order), _depths(order)
    kept = {node for _, node, _ in graph.outputs}
    dissolved: set[Node] = set()
    bodies: dict[Node, tuple[Expr, ...]] = {}
    maps = (element_count(n) for n in order if isinstance(n, Map) and not is_view(n.body))
    large = max(least_large, max(maps, default=0))
    whys: dict[Node, str] = {}
    for node in order:
        bodies[node] = _dissolve_into(node, dissolved, max_reads)
        if not isinstance(node, Map):
            continue
        if is_view(bodies[node][0]):
            dissolved.update({node} - kept)
        elif "inline_prologue" in enabled:
            whys[node] = _stored(node, readers, kept, large)
            dissolved.update(() if whys[node] else {node})
        if "inline_epilogue" in enabled and (own := _own_epilogues(node, bodies, dissolved, depth)):
            dissolved -= own
            bodies[node] = _dissolve_into(node, dissolved, max_reads)
            whys |= dict.fromkeys(own, "it is computed with the reduction that it reads")
    for node, why in whys.items():
        late = "" if node in dissolved else f"its reader would read more than {max_reads} values"
        journal.tell("inline_prologue", node, why or late)
    found = {n: tuple(e for e in walk(*b) if isinstance(e, Read)) for n, b in bodies.items()}
    told = journal if "inline_epilogue" in enabled else None
    return _groups(_Fusing(graph, order, kept, dissolved, bodies, max_reads, found, told))


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
    epilogues: Journal | None
    """Who is told of epilogues; None where there are to be none."""


def _readers(order: list[Node]) -> dict[Node, list[Node]]:
    readers: dict[Node, list[Node]] = defaultdict(list)
    for node in order:
        for source in sources(node):
            readers[source].append(node)
    return readers


def _depths(order: list[Node]) -> dict[Node, int]:
    """The longest way from an input to every node."""
    depth: dict[Node, int] = {}
    for node in order:
        depth[node] = 1 + max((depth[s] for s in sources(node)), default=0)
    return depth


def _own_epilogues(
    node: Map, bodies: dict[Node, tuple[Expr, ...]], dissolved: set[Node], depth: dict[Node, int]
) -> set[Node]:
    """Of the maps that a map computes itself, those that are better computed with the reduction
    that they read: the map will be the epilogue of one that is done later, so the earlier one would
    be stored as it accumulates."""
    found = _reductions(bodies[node])
    last = max(found, key=lambda r: depth[r], default=None)
    if last is None:
        return set()
    own: set[Node] = set()
    for source in sources(node):
        if not isinstance(source, Map) or source not in dissolved or is_view(bodies[source][0]):
            continue
        of = _reductions(bodies[source])
        if len(of) == 1 and depth[of[0]] < depth[last] and _once(source, of[0], bodies):
            own.add(source)
    return own


def _reductions(bodies: tuple[Expr, ...]) -> list[Reduce]:
    found = (e.source for e in walk(*bodies) if isinstance(e, Read))
    return list(dict.fromkeys(s for s in found if isinstance(s, Reduce)))


def _once(reader: Map, reduction: Reduce, bodies: dict[Node, tuple[Expr, ...]]) -> bool:
    """Whether a map reads each element of a reduction once, at one place, in any arrangement."""
    own = [r for r in walk(*bodies[reader]) if isinstance(r, Read) and r.source is reduction]
    if any(r.fill is not None for r in own) or len({r.indices for r in own}) != 1:
        return False
    return inverse(own[0].indices, reduction.axes, reader.axes) is not None


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


def _stored(node: Map, readers: dict[Node, list[Node]], kept: Container[Node], large: float) -> str:
    """Why its reader does not compute this map itself, or ''; one of `large` elements is computed
    more often rather than stored."""
    if node in kept:
        return "it is a result of the program"
    if len(readers[node]) != 1:
        return f"it has {len(readers[node])} readers"
    reader = readers[node][0]
    is_large = element_count(node) >= large and _writes_out(reader)
    times = (_places_read if is_large else _times_read)(node, reader) / element_count(node)
    slack = LARGE_SLACK if is_large else SLACK
    return f"its reader reads each element {times:.3g} times" if slack * times > 1 else ""


def _times_read(node: Node, reader: Node) -> int:
    """How many element reads of `node` the reader makes."""
    points = prod(a.extent for a in _domain(reader))
    return sum(points for r in reads(reader) if r.source is node)


def _places_read(node: Node, reader: Node) -> int:
    """How many, where each is made once for all that its place is weighed for."""
    own = (r for r in reads(reader) if r.source is node)
    return sum(prod(a.extent for a in axes_of(*r.indices)) for r in own)


def _writes_out(reader: Node) -> bool:
    """Whether a reader is a sum weighed by a constant matrix, which is written out."""
    return isinstance(reader, Reduce) and any(isinstance(r.source, Const) for r in reads(reader))


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
    depth = _depths(fusing.order)
    for node in sorted(stored, key=lambda n: -depth[n]):
        if isinstance(node, Reduce) and fusing.epilogues is not None:
            why = _no_epilogue(node, readers[node], epilogue, fusing)
            fusing.epilogues.tell("inline_epilogue", node, why)
            if not why:
                epilogue[readers[node][0]] = node
    absorbed = set(epilogue.values())
    fields = _fields_used(fusing)
    return tuple(
        _with_epilogue(node, epilogue[node], fusing)
        if node in epilogue
        else _alone(node, fusing, fields)
        for node in stored
        if node not in absorbed
    )


def _no_epilogue(
    reduction: Reduce, readers: list[Node], taken: Container[Node], fusing: _Fusing
) -> str:
    """Why what reads a reduction is not computed where its results are stored, or ''."""
    if reduction in fusing.kept:
        return "it is a result of the program"
    if len(readers) != 1:
        return f"it has {len(readers)} readers"
    reader = readers[0]
    if not isinstance(reader, Map):
        return "another reduction reads it"
    if reader in taken:
        return "its reader is computed with another reduction"
    return _no_epilogue_in(reader, reduction, fusing)


def _no_epilogue_in(reader: Map, reduction: Reduce, fusing: _Fusing) -> str:
    """The same for its only reader: it is over exactly the reduction's points, in any arrangement,
    or not."""
    found = fusing.found[reader]
    own = [r for r in found if r.source is reduction]
    places = {r.indices for r in own}
    if len(places) != 1 or any(r.fill is not None for r in own):
        return "its reader reads several elements of it at once, or beyond its borders"
    if inverse(next(iter(places)), reduction.axes, reader.axes) is None:
        return "its reader does not read each element once"
    others = {(r.source, r.field) for r in found if r.source is not reduction}
    lifted = {(r.source, r.field) for r in fusing.found[reduction]}
    many = len(others | lifted) > fusing.max_reads
    return f"both would read more than {fusing.max_reads} values" if many else ""


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
