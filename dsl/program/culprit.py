"""The operator to blame for a value that is no number, where a kernel computes several.

In: what a dispatch stored and read (`watch.Bad`), the graph and the plan that it was made of. Out:
the first node whose value is not finite, when all that the kernel computes is computed one after
another from what it read, in f32 as in the kernel; where all of that is finite, the node that is
stored: storing it was too much. Invariant: only definitions are executed here, no kernel.

    node = culprit(found.bad, planned.parts, planned.plan).node
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from sdlc.graph.hoist import Hoisted, reading
from sdlc.graph.node import (
    Const,
    Graph,
    Input,
    Map,
    Node,
    Reduce,
    Role,
    element_count,
    sources,
)
from sdlc.graph.reference import Mode, evaluate
from sdlc.graph.types import Array, DType, Origin
from sdlc.program.pipeline import tensors_of
from sdlc.program.watch import LOADED, Bad, count_bad, magnitude
from sdlc.schedule.plan import Plan

MOST_NODES = 64
MOST_ELEMENTS = 1 << 27
"""Of a value that is computed again; a larger one is not, and the stored node is blamed."""

Value = tuple[Node, int]


@dataclass(frozen=True, slots=True)
class Culprit:
    """`origin` is where the guilty node comes from; `bad` of `count` values are not finite,
    `largest` is the largest that is; `stored` is the type that it is kept in, None where it is not
    stored at all; `others` are what the same kernel computes."""

    origin: Origin
    bad: int
    count: int
    largest: float
    stored: DType | None
    others: tuple[Origin, ...] = ()


def culprit(bad: Bad, parts: Hoisted, plan: Plan) -> Culprit:
    """Who made a value that is not finite."""
    names, tensors = tensors_of(parts.run, plan)
    values = {name: value for value, name in names.items()}
    stored = values[bad.tensor]
    kept = tensors[bad.tensor].dtype
    if bad.dispatch == LOADED:
        made = next((n for (n, f), w in parts.weights.items() if w is stored[0]), stored[0])
        origin = made.origin
        return Culprit(origin, bad.bad, bad.stored.size, magnitude(bad.stored), kept)
    known = {values[name]: array for name, array in bad.operands.items()}
    known = {value: array for value, array in known.items() if value[0] is not stored[0]}
    inner = _between(stored[0], known)
    others = tuple(dict.fromkeys(node.origin for node in inner or (stored[0],)))
    for node, found in _computed(parts.run, inner, known):
        wrong = sum(map(count_bad, found))
        if wrong and node is not stored[0]:
            size = sum(v.size for v in found)
            return Culprit(node.origin, wrong, size, max(map(magnitude, found)), None, others)
    whole = bad.stored
    return Culprit(stored[0].origin, bad.bad, whole.size, magnitude(whole), kept, others)


def _between(stored: Node, known: Mapping[Value, Array]) -> tuple[Map | Reduce, ...]:
    """The nodes from what is known to what is stored, sources first; none where they cannot be
    computed from it, or are too many or too large."""
    nodes = {node for node, _ in known}
    order: dict[Map | Reduce, None] = {}
    stack: list[tuple[Node, bool]] = [(stored, False)]
    while stack:
        node, done = stack.pop()
        if node in nodes or isinstance(node, Const) or node in order:
            continue
        if not isinstance(node, (Map, Reduce)) or len(order) > MOST_NODES:
            return ()
        if done:
            order[node] = None
        else:
            stack.append((node, True))
            stack.extend((s, False) for s in sources(node))
    large = any(element_count(node) > MOST_ELEMENTS for node in order)
    return () if large else tuple(order)


def _computed(
    graph: Graph, nodes: tuple[Map | Reduce, ...], known: Mapping[Value, Array]
) -> Iterator[tuple[Map | Reduce, list[Array]]]:
    """Every node with the values of its fields, from what is known."""
    if not nodes:
        return
    given = {
        value: Input(f"known {n}", value[0].shape, value[0].dtypes[value[1]], Role.WEIGHT)
        for n, value in enumerate(known)
    }
    places = [(node, field) for node in nodes for field in range(len(node.dtypes))]
    outputs = tuple((str(n), node, field) for n, (node, field) in enumerate(places))
    made = reading(Graph(graph.name, outputs, ()), list(nodes), given)
    arrays = {given[value].name: array for value, array in known.items()}
    with np.errstate(all="ignore"):
        results = evaluate(made, {}, arrays, Mode.F32)
    found: dict[Map | Reduce, list[Array]] = {}
    for n, (node, _) in enumerate(places):
        found.setdefault(node, []).append(results[str(n)])
    yield from found.items()
