"""Rules: equations and named mechanisms that rewrite a graph, and the pass that applies them.

In: a graph, rules. Out: a graph that computes the same, and a report that says for every node that
a rule looks at whether it fired, or why not. Invariant: results keep their names, types and order;
a rule looks at a node at most once. Rules apply in their order until none fires.

    graph, report = rewrite(graph, select(load_rules(library), without=["halo"]))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType

from sdlc.graph.expr import Expr, Read, rebuild
from sdlc.graph.guards import Surroundings, surroundings
from sdlc.graph.node import Graph, Map, Node, Reduce, expressions, sources, topological
from sdlc.graph.numerics import Numerics
from sdlc.graph.types import DType, Origin
from sdlc.language.diagnostics import failure

ROUNDS = 16
"""How often a rule may apply to what it has made itself, and all rules to what the others made."""

Sizes = Mapping[str, int]
Profitable = Callable[["Rule", Sizes], str]
"""Why a match with these sizes does not pay, '' where it does."""
NO_SIZES: Sizes = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a rule does not apply to a node."""

    why: str


@dataclass(frozen=True, slots=True)
class Asked:
    """What an attempt may look at beside its node."""

    around: Surroundings
    profitable: Profitable


Attempting = Callable[["Rule", Node, Asked], Node | Refused]


@dataclass(frozen=True, slots=True)
class Rule:
    """`looks_at` says which nodes are candidates; `attempt` gives the node in place of one.

    A mechanism of the schedule has neither: the schedule asks by name whether it is selected.
    `equation` is the text of a rule that is one; `examples` are sizes of its instances. `worth`
    says why an instance does not pay, as far as its equation knows; `sides` are both sides of the
    equation as programs.
    """

    name: str
    doc: str
    numerics: Numerics
    looks_at: Callable[[Node], bool] | None = None
    attempt: Attempting | None = None
    equation: str = ""
    examples: tuple[Sizes, ...] = ()
    worth: Callable[[Sizes], str] | None = None
    sides: Callable[[Sizes, DType], tuple[Graph, Graph]] | None = None

    @property
    def kind(self) -> str:
        if self.equation:
            return "equation"
        return "mechanism" if self.attempt else "schedule"


@dataclass(frozen=True, slots=True)
class Attempt:
    """A rule looked at the node with this origin; `why` is '' where it fired."""

    rule: str
    origin: Origin
    fired: bool
    why: str = ""

    def __str__(self) -> str:
        place = ".".join(p for p in (self.origin.scope, self.origin.definition) if p)
        where = f"{self.origin.name} of {place}" if place else self.origin.name
        return f"{self.rule}: {where}: {'fired' if self.fired else self.why}"


@dataclass(frozen=True, slots=True)
class RewriteReport:
    attempts: tuple[Attempt, ...] = ()

    def fired(self, rule: str) -> int:
        """How often a rule fired."""
        return sum(a.fired for a in self.attempts if a.rule == rule)

    def refusals(self, rule: str) -> dict[str, int]:
        """Why a rule did not fire, and how often."""
        found: dict[str, int] = {}
        for attempt in self.attempts:
            if attempt.rule == rule and not attempt.fired:
                found[attempt.why] = found.get(attempt.why, 0) + 1
        return found

    def __str__(self) -> str:
        return "".join(f"{attempt}\n" for attempt in self.attempts)


# ---- choosing ----------------------------------------------------------------------------------


def select(
    rules: Sequence[Rule], without: Sequence[str] = (), only: Sequence[str] | None = None
) -> tuple[Rule, ...]:
    """The rules but those in `without`; of those in `only`, if it is given.

    Raises SdlError (E045) for a name that no rule has.
    """
    known = [r.name for r in rules]
    for name in (*without, *(only or ())):
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.5)
            advice = f"did you mean `{near[0]}`?" if near else "`sdlc rules` lists them"
            raise failure("E045", f"there is no rule `{name}`", advice)
    return tuple(r for r in rules if r.name not in without and (only is None or r.name in only))


def by_its_own_word(rule: Rule, sizes: Sizes) -> str:
    """The default of `profitable`: what the rule's `worth` clauses say."""
    return rule.worth(sizes) if rule.worth is not None else ""


def always(rule: Rule, sizes: Sizes) -> str:
    """Every match pays."""
    return ""


# ---- applying ----------------------------------------------------------------------------------


def rewrite(
    graph: Graph, rules: Iterable[Rule], profitable: Profitable = by_its_own_word
) -> tuple[Graph, RewriteReport]:
    """The graph with the rules applied in their order, until none fires."""
    attempts: list[Attempt] = []
    chosen = tuple(r for r in rules if r.attempt is not None)
    seen: set[tuple[str, Node]] = set()
    for _ in range(ROUNDS):
        before = graph
        for rule in chosen:
            graph = _apply(graph, rule, profitable, seen, attempts)
        if graph is before:
            break
    return graph, RewriteReport(tuple(attempts))


def _apply(
    graph: Graph,
    rule: Rule,
    profitable: Profitable,
    seen: set[tuple[str, Node]],
    attempts: list[Attempt],
) -> Graph:
    assert rule.attempt is not None and rule.looks_at is not None
    for _ in range(ROUNDS):
        candidates = [
            n for n in topological(graph) if (rule.name, n) not in seen and rule.looks_at(n)
        ]
        if not candidates:
            return graph
        asked = Asked(surroundings(graph), profitable)
        made: dict[Node, Node] = {}
        for node in candidates:
            seen.add((rule.name, node))
            found = rule.attempt(rule, node, asked)
            why = found.why if isinstance(found, Refused) else ""
            attempts.append(Attempt(rule.name, node.origin, not why, why))
            if not isinstance(found, Refused):
                made[node] = found
        if not made:
            return graph
        graph = replace_nodes(graph, made)
    return graph


def replace_nodes(graph: Graph, made: Mapping[Node, Node]) -> Graph:
    """The graph with nodes replaced, also where the new ones read replaced ones."""
    done: dict[Node, Node] = {}
    stack = [(node, False) for _, node, _ in reversed(graph.outputs)]
    while stack:
        node, entered = stack.pop()
        if node in done:
            continue
        wanted = made.get(node, node)
        if entered:
            done[node] = _with_sources(wanted, done)
        else:
            stack.append((node, True))
            stack.extend((s, False) for s in sources(wanted) if s not in done)
    outputs = tuple((name, done[node], at) for name, node, at in graph.outputs)
    return Graph(graph.name, outputs, graph.inputs)


def _with_sources(node: Node, done: Mapping[Node, Node]) -> Node:
    """The node with every node that it reads replaced."""
    if all(done[s] is s for s in sources(node)) or not isinstance(node, Map | Reduce):
        return node

    def change(e: Expr) -> Expr | None:
        if not isinstance(e, Read) or done[e.source] is e.source:
            return None
        indices = tuple(rebuild(i, change) for i in e.indices)
        fill = None if e.fill is None else rebuild(e.fill, change)
        return Read(done[e.source], indices, e.field, fill)

    exprs = tuple(rebuild(e, change) for e in expressions(node))
    if isinstance(node, Map):
        return Map(node.axes, exprs[0], node.dtype, node.origin)
    return Reduce(node.axes, node.over, node.monoid, exprs, node.dtypes, node.origin)
