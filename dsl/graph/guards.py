"""Guards of rules that have a name: what must hold of a match besides the equation.

In: a match and the graph around it. Out: why the rule must not fire, '' where it may. Invariant: a
guard never changes what is computed, only whether a rule pays. Example: `GUARDS["single_use"]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType

from sdlc.graph.expr import Apply, Expr, Read, walk
from sdlc.graph.match import Match
from sdlc.graph.match_show import node_name
from sdlc.graph.node import Graph, Input, Node, Reduce, is_static, sources
from sdlc.graph.types import DType

Sources = Mapping[Node, tuple[Node, ...]]
NOTHING: Sources = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a rule may ask about the graph: its nodes, sources first, what each reads and what reads
    it, which are results, and in which type floats are stored."""

    order: tuple[Node, ...]
    sources: Sources
    readers: Mapping[Node, tuple[Node, ...]]
    results: frozenset[Node]
    precision: DType


def surroundings(graph: Graph, known: Sources = NOTHING) -> Surroundings:
    """`known` are the sources of nodes that were there before: they need no new look."""
    read: dict[Node, tuple[Node, ...]] = {}
    stack = [(node, False) for _, node, _ in reversed(graph.outputs)]
    order: list[Node] = []
    while stack:
        node, entered = stack.pop()
        if entered:
            order.append(node)
        elif node not in read:
            read[node] = known[node] if node in known else sources(node)
            stack.append((node, True))
            stack.extend((s, False) for s in reversed(read[node]))
    readers: dict[Node, list[Node]] = {}
    for node in order:
        for source in read[node]:
            readers.setdefault(source, []).append(node)
    found = {node: tuple(by) for node, by in readers.items()}
    results = frozenset(node for _, node, _ in graph.outputs)
    half = any(DType.F16 in node.dtypes for node in order)
    return Surroundings(tuple(order), read, found, results, DType.F16 if half else DType.F32)


@dataclass(frozen=True, slots=True)
class Guard:
    name: str
    doc: str
    check: Callable[[Match, Surroundings, tuple[str, ...]], str]
    """Why a match is none; the names are what the guard is asked about, as `w` in `static(w)`."""


def _single_use(match: Match, around: Surroundings, names: tuple[str, ...]) -> str:
    covered = {*match.inside, match.root}
    for node in _ordered(match.inside):
        if node in around.results:
            return f"{_described(node)} is a result of the program"
        other = [r for r in around.readers.get(node, ()) if r not in covered]
        if other:
            return f"{_described(node)} is also read by {_described(other[0])}"
    return ""


def _like_readers(match: Match, around: Surroundings, names: tuple[str, ...]) -> str:
    covered = {*match.inside, match.root}
    products = [n for n in covered if isinstance(n, Reduce)]
    for node in _ordered(match.inside):
        if node in around.results:
            return f"{_described(node)} is a result of the program"
        for reader in around.readers.get(node, ()):
            if reader not in covered and not _is_like(reader, node, products):
                return f"{_described(node)} is also read by {_described(reader)}"
    return ""


def _is_like(reader: Node, node: Node, products: Iterable[Reduce]) -> bool:
    """Whether a reader does to a node what one of these products does: the same reduction, over as
    many terms, of its elements multiplied by those of something static."""
    match reader:
        case Reduce(lift=(Apply(op="mul", args=(Read() as one, Read() as other)),)):
            read, beside = (one, other) if one.source is node else (other, one)
            whole = read.source is node and read.fill is None and is_static(beside.source)
            terms = prod(a.extent for a in reader.over)
            return whole and any(
                p.monoid is reader.monoid and prod(a.extent for a in p.over) == terms
                for p in products
            )
    return False


def _static(match: Match, around: Surroundings, names: tuple[str, ...]) -> str:
    for name in names:
        moving = [s for s in _read(match.bound[name].body) if not is_static(s)]
        if moving:
            return f"{_described(moving[0])} is not known when weights are loaded"
    return ""


def _apart(match: Match, around: Surroundings, names: tuple[str, ...]) -> str:
    seen: set[Node] = set()
    for name in names:
        own = set(_read(match.bound[name].body))
        if seen & own:
            return f"{_described(_ordered(seen & own)[0])} is read for several of them"
        seen |= own
    return ""


def _read(expr: Expr) -> Iterable[Node]:
    return (e.source for e in walk(expr) if isinstance(e, Read))


def _described(node: Node) -> str:
    definition = "" if isinstance(node, Input) else node.origin.definition
    return f"`{node_name(node)}`{f' of {definition}' if definition else ''}"


def _ordered(nodes: Iterable[Node]) -> list[Node]:
    return sorted(nodes, key=lambda n: (node_name(n), n.shape))


GUARDS: Mapping[str, Guard] = MappingProxyType(
    {
        g.name: g
        for g in (
            Guard(
                "single_use",
                "Nothing else reads what the left side computes on the way to its result.",
                _single_use,
            ),
            Guard(
                "like_readers",
                "Nothing but such products of static values reads what the left side computes on"
                " the way to its result: the rule applies to all of them or to none.",
                _like_readers,
            ),
            Guard(
                "static",
                "What these metavariables stand for depends on weights and constants alone.",
                _static,
            ),
            Guard("apart", "These metavariables stand for values of different tensors.", _apart),
        )
    }
)
