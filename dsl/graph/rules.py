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

from sdlc.graph.expr import Expr, Read, rebuild
from sdlc.graph.guards import Sources, Surroundings, surroundings
from sdlc.graph.node import Graph, Map, Node, Reduce, expressions, sources
from sdlc.graph.numerics import Numerics
from sdlc.graph.types import DType, Span
from sdlc.language.diagnostics import failure

ROUNDS = 16
"""How often a rule may apply to what it has made itself, and all rules to what the others made."""
REACH = 4
"""How many nodes deep a rule may look into what another one made."""

Sizes = Mapping[str, int]
Profitable = Callable[["Rule", Sizes], str]
"""Why a match with these sizes does not pay, '' where it does."""
Admitting = Callable[["Rule", Node, Sizes], str]
"""Why this match may not be, though it would hold and pay, '' where it may."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a rule does not apply to a node."""

    why: str


@dataclass(frozen=True, slots=True)
class Asked:
    """What an attempt may look at beside its node."""

    around: Surroundings
    profitable: Profitable
    admits: Admitting

    @property
    def any_pays(self) -> bool:
        """Whether nobody asks if a match pays."""
        return self.profitable is always


Attempting = Callable[["Rule", Node, Asked], Node | Refused]


@dataclass(frozen=True, slots=True)
class Rule:
    """`looks_at` says which nodes are candidates; `attempt` gives the node in place of one.

    A mechanism of the schedule has neither: the schedule asks by name whether it is selected.
    `equation` is the text of a rule that is one; `examples` are sizes of its instances. `worth`
    says why an instance does not pay, as far as its equation knows; `sides` are both sides of the
    equation as programs, `span` is where it stands.
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
    span: Span | None = None
    borders: bool = False
    """Whether it only takes tests of borders out of loops."""

    @property
    def kind(self) -> str:
        if self.equation:
            return "equation"
        return "mechanism" if self.attempt else "schedule"


@dataclass(frozen=True, slots=True)
class Attempt:
    """A rule looked at a node. `root` is what stands in its place in the rewritten graph, or stood
    there last; `why` is '' where the rule fired."""

    rule: str
    root: Node
    fired: bool
    why: str = ""

    def __str__(self) -> str:
        origin = self.root.origin
        place = ".".join(p for p in (origin.scope, origin.definition) if p)
        where = f"{origin.name} of {place}" if place else origin.name
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
            begun = [other for other in known if name and other.startswith(name)]
            near = begun or get_close_matches(name, known, n=1, cutoff=0.5)
            advice = f"did you mean `{near[0]}`?" if near else "`sdlc rules` lists them"
            raise failure("E045", f"there is no rule `{name}`", advice)
    return tuple(r for r in rules if r.name not in without and (only is None or r.name in only))


def by_its_own_word(rule: Rule, sizes: Sizes) -> str:
    """The default of `profitable`: what the rule's `worth` clauses say."""
    return rule.worth(sizes) if rule.worth is not None else ""


def always(rule: Rule, sizes: Sizes) -> str:
    """Every match pays."""
    return ""


def admit_all(rule: Rule, node: Node, sizes: Sizes) -> str:
    """Every match may be."""
    return ""


# ---- applying ----------------------------------------------------------------------------------


def rewrite(
    graph: Graph,
    rules: Iterable[Rule],
    profitable: Profitable = by_its_own_word,
    admits: Admitting = admit_all,
) -> tuple[Graph, RewriteReport]:
    """The graph with the rules applied in their order, until none fires. An equation that holds at
    a node, and pays, is asked for last whether it is admitted there."""
    run = _Run(graph, profitable, admits)
    chosen = tuple(r for r in rules if r.attempt is not None)
    for count in range(ROUNDS):
        fired = [_apply(run, rule, count > 0) for rule in chosen]
        if not any(fired):
            break
    return run.graph, RewriteReport(tuple(run.attempts.values()))


class _Run:
    """A graph on its way. `roots` leads from a node to what it was in the beginning, or when a rule
    made it; `attempts` has the last one for each rule and root; `seen` is what rules have looked
    at, `fired` what they made, which they do not look at again."""

    def __init__(self, graph: Graph, profitable: Profitable, admits: Admitting) -> None:
        self.graph, self.profitable, self.admits = graph, profitable, admits
        self.around = surroundings(graph)
        self.first = frozenset(self.around.order)
        self.roots: dict[Node, Node] = {}
        self.seen: set[tuple[str, Node]] = set()
        self.fired: set[tuple[str, Node]] = set()
        self.attempts: dict[tuple[str, Node], Attempt] = {}

    def root(self, node: Node) -> Node:
        return self.roots.get(node, node)

    def replace(self, rule: Rule, made: dict[Node, Node]) -> None:
        """Puts what a rule made in place; not what would come to read itself, as where the right
        side contains the left one."""
        while True:
            try:
                self.graph, done = _replaced(self.graph, made, self.around.sources)
                break
            except _Circular as circle:
                del made[circle.node]
                why = "what it would become reads it"
                key = rule.name, self.root(circle.node)
                self.attempts[key] = Attempt(rule.name, circle.node, False, why)
        kept = {(name, done.get(node, node)) for name, node in self.fired}
        self.fired = kept | {(rule.name, done[old]) for old in made if old in done}
        for old, new in done.items():
            if old not in made:
                self.roots[new] = self.root(old)
        for key, attempt in self.attempts.items():
            root = done.get(attempt.root, attempt.root)
            if root is not attempt.root:
                self.attempts[key] = Attempt(attempt.rule, root, attempt.fired, attempt.why)
        self.around = surroundings(self.graph, self.around.sources)

    def near_new(self) -> frozenset[Node]:
        """What rules made, and what reads that, directly or through others."""
        found = {n for n in self.around.order if self.root(n) not in self.first}
        edge = found
        for _ in range(REACH):
            edge = {r for n in edge for r in self.around.readers.get(n, ())} - found
            found = found | edge
        return frozenset(found)


def _apply(run: _Run, rule: Rule, again: bool) -> bool:
    """Applies one rule, also to what it made itself; `again`, where something has changed since it
    was tried. Whether it fired."""
    assert rule.attempt is not None and rule.looks_at is not None
    refused: set[Node] = set()
    fired = False
    for _ in range(ROUNDS):
        asked = Asked(run.around, run.profitable, run.admits)
        made: dict[Node, Node] = {}
        where = run.near_new() if again else None
        for node in run.around.order:
            if where is not None and node not in where:
                continue
            root = run.root(node)
            key = rule.name, node
            if key in run.seen or key in run.fired or root in refused or not rule.looks_at(node):
                continue
            run.seen.add(key)
            found = rule.attempt(rule, node, asked)
            why = found.why if isinstance(found, Refused) else ""
            run.attempts[rule.name, root] = Attempt(rule.name, node, not why, why)
            if isinstance(found, Refused):
                refused.add(root)
            else:
                made[node] = found
        if not made:
            break
        run.replace(rule, made)
        fired = fired or bool(made)
    return fired


def replace_nodes(graph: Graph, made: Mapping[Node, Node]) -> Graph:
    """The graph with nodes replaced by others, which do not read them."""
    return _replaced(graph, made, {})[0]


class _Circular(Exception):
    """The replacement of this node would read the node."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self.node = node


def _replaced(
    graph: Graph, made: Mapping[Node, Node], known: Sources
) -> tuple[Graph, dict[Node, Node]]:
    """The graph with nodes replaced, also where the new ones read replaced ones; and what became of
    every node. Raises _Circular."""
    done: dict[Node, Node] = {}
    path: dict[Node, None] = {}
    stack = [(node, False) for _, node, _ in reversed(graph.outputs)]
    while stack:
        node, entered = stack.pop()
        if node in done:
            continue
        wanted = made.get(node, node)
        needs = known[wanted] if wanted in known else sources(wanted)
        if entered:
            del path[node]
            same = all(done[s] is s for s in needs)
            done[node] = wanted if same else _with_sources(wanted, done)
        else:
            path[node] = None
            if any(s in path for s in needs):
                raise _Circular(next(n for n in reversed(path) if n in made))
            stack.append((node, True))
            stack.extend((s, False) for s in needs if s not in done)
    outputs = tuple((name, done[node], at) for name, node, at in graph.outputs)
    return Graph(graph.name, outputs, graph.inputs), done


def _with_sources(node: Node, done: Mapping[Node, Node]) -> Node:
    """The node with every node that it reads replaced."""

    def change(e: Expr) -> Expr | None:
        if not e.reads:
            return e
        if not isinstance(e, Read) or done[e.source] is e.source:
            return None
        indices = tuple(rebuild(i, change) for i in e.indices)
        fill = None if e.fill is None else rebuild(e.fill, change)
        return Read(done[e.source], indices, e.field, fill)

    exprs = tuple(rebuild(e, change) for e in expressions(node))
    if isinstance(node, Map):
        return Map(node.axes, exprs[0], node.dtype, node.origin, node.wide)
    assert isinstance(node, Reduce)
    about = (node.dtypes, node.origin, node.wide)
    return Reduce(node.axes, node.over, node.monoid, exprs, *about)
