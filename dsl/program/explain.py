"""What the compiler made of a program, as data: why, how, how long, where.

In: a graph, the plan of its groups, the program, its printed kernels, what rules said. Out:
`Explanation` (`explain_data`), which prints itself (`explain_text`), becomes a page
(`explain_page`) or JSON (docs/explain.md). Invariant: it reads and never decides; every number is
the program's or the cost model's own; groups and dispatches are in launch order and one to one.

    str(explain(Material((Part("run", graph, plan, program),), target, printed)))
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Protocol

from sdlc.graph.hoist import Hoisted
from sdlc.graph.node import Graph, Map, Node, Reduce
from sdlc.graph.types import Span
from sdlc.kernel.ir import Access, Kernel
from sdlc.language.diagnostics import source_lines
from sdlc.language.library import Library
from sdlc.language.syntax import Module
from sdlc.program.device import KernelText
from sdlc.program.explain_data import (
    Call,
    Defined,
    DispatchFacts,
    Explanation,
    GroupFacts,
    KernelFacts,
    Operand,
    RuleFacts,
    Statement,
    TensorFacts,
    Verdict,
)
from sdlc.program.explain_lines import Meaning, line_nodes, meaning_of
from sdlc.program.memory import lifetimes_of, live_bytes
from sdlc.program.pipeline import load_plan, tensors_of
from sdlc.program.program import Dispatch, Program
from sdlc.program.values import describe
from sdlc.schedule.cost import Estimate, estimate
from sdlc.schedule.group import Group, nodes_of
from sdlc.schedule.plan import Plan, Scheduled
from sdlc.schedule.show import show_step
from sdlc.target import Target

Value = tuple[Node, int]


class Attempted(Protocol):
    """What a rule did at a node: it fired, or it says why not."""

    @property
    def rule(self) -> str: ...
    @property
    def root(self) -> Node | None: ...
    @property
    def fired(self) -> bool: ...
    @property
    def why(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Part:
    """A program of its own, as it was planned: what each run does (`run`), or what is done once,
    when weights are loaded (`load`)."""

    name: str
    graph: Graph
    plan: Plan
    program: Program


@dataclass(frozen=True, slots=True)
class Material:
    """What there is to explain. `printed` are kernels as they were legalised, with their texts;
    `definitions` the sources that kernels may cite; `attempts` what the rules reported."""

    parts: Sequence[Part]
    target: Target
    printed: Sequence[tuple[Kernel, KernelText]]
    definitions: Sequence[Defined] = ()
    attempts: Sequence[Attempted] = ()


def explain(material: Material) -> Explanation:
    """The whole account; the first part is what runs do."""
    run, *_ = material.parts
    groups = tuple(_groups(material))
    dispatches = tuple(d for p in material.parts for d in _dispatches(p, material.target))
    each = [d for d in dispatches if d.part == run.name]
    live = lifetimes_of(run.program.tensors, run.program.dispatches)
    return Explanation(
        name=run.program.name,
        target=run.program.target,
        title=material.target.title,
        precision=run.program.precision.value,
        flop=sum(d.flop for d in each),
        seconds=sum(d.seconds for d in each),
        load_seconds=sum(d.seconds for d in dispatches if d.part != run.name),
        read=sum(d.read for d in each),
        written=sum(d.written for d in each),
        graph="\n".join(str(p.graph) for p in material.parts),
        groups=groups,
        dispatches=dispatches,
        kernels=_kernels(material),
        tensors=tuple(t for p in material.parts for t in _tensors(p)),
        memory=asdict(run.program.memory),
        live=live_bytes(live, len(each)),
        rules=_rules(groups),
        definitions=_cited(material.definitions, groups),
    )


def parts_of(parts: Hoisted, run: Plan, program: Program, target: Target) -> tuple[Part, ...]:
    """The parts of a program, from what `pipeline.plan_graph` gave for its graph."""
    made = Part("run", parts.run, run, program)
    if parts.load is None or program.load is None:
        return (made,)
    load = load_plan(parts.load, parts, run, target)
    return made, Part("load", parts.load, load, program.load)


def definitions_of(library: Library) -> tuple[Defined, ...]:
    """Every definition of a program and of the standard library, with its text, each once."""
    found = (
        Defined(m.file, d.name, d.span.line, _last_line(d.span), _lines(m, d.span))
        for m in library.modules
        for d in m.definitions
    )
    return tuple(dict.fromkeys(found))


def _lines(module: Module, span: Span) -> str:
    return "\n".join(source_lines(module.text)[span.line - 1 : _last_line(span)])


# ---- groups --------------------------------------------------------------------------------------


def _groups(material: Material) -> Iterable[GroupFacts]:
    """What a rule reported of a node belongs to the group of that node, or, where hoisting has made
    the node anew, to the groups of those like it."""
    items = [
        (part.name, number, item, nodes_of(item.group))
        for part in material.parts
        for number, item in enumerate(part.plan.kernels)
    ]
    found = {node for *_, nodes in items for node in nodes}
    tried: dict[object, list[Attempted]] = {}
    for attempt in material.attempts:
        root = attempt.root
        if root is not None:
            tried.setdefault(root if root in found else _likeness(root), []).append(attempt)
    first: dict[str, tuple[Map | Reduce, ...]] = {}
    kernels = (d.kernel for part in material.parts for d in part.program.dispatches)
    for (name, number, item, nodes), kernel in zip(items, kernels, strict=True):
        own = [a for n in nodes for key in (n, _likeness(n)) for a in tried.get(key, ())]
        calls = _calls(item.group.origins[-1].sites, material.definitions)
        statements = _statements(nodes, first.setdefault(kernel, nodes))
        made = _group((name, number), item, nodes, own)
        yield replace(made, calls=calls, statements=statements)


def _statements(nodes: Sequence[Node], first: Sequence[Node]) -> tuple[Statement, ...]:
    """A launch's statements, in the order of those of its kernel's first launch: kernels that mean
    the same are one kernel, wherever they come from."""
    places: dict[Statement, int] = {}
    for place, node in enumerate(first):
        if (statement := _statement(node)) is not None:
            places.setdefault(statement, place)
    alike = len(nodes) == len(first)
    chosen = [nodes[place] for place in places.values()] if alike else nodes
    found = [s for node in chosen if (s := _statement(node)) is not None]
    return tuple(found if alike else dict.fromkeys(found))


def _calls(sites: Sequence[Span], definitions: Sequence[Defined]) -> tuple[Call, ...]:
    return tuple(
        Call(s.file, s.line, d.name, _call_text(source_lines(d.text), s, d.line))
        for s in sites
        for d in definitions
        if d.file == s.file and d.line <= s.line <= d.end_line
    )


def _call_text(lines: Sequence[str], site: Span, first: int) -> str:
    """The lines that a call takes, as one."""
    return " ".join(line.strip() for line in lines[site.line - first : site.end_line - first + 1])


def _likeness(node: Node) -> object:
    return (node.origin, node.shape)


def _group(
    place: tuple[str, int],
    item: Scheduled,
    nodes: Sequence[Node],
    attempts: Sequence[Attempted],
) -> GroupFacts:
    origins = [n.origin for n in nodes]
    return GroupFacts(
        *place,
        definition=item.group.definition or item.group.name,
        text=_text(item.group),
        steps=tuple(show_step(step) for step in item.steps),
        nest=str(item.nest),
        definitions=tuple(dict.fromkeys(o.definition for o in origins if o.definition)),
        scope=item.group.origins[-1].scope,
        calls=(),
        statements=(),
        verdicts=_verdicts(item, attempts),
    )


def _text(group: Group) -> str:
    """A group's definitions, then those of what it computes inside."""
    return "\n".join([str(group), *(f"inside: {inner}" for inner in group.inner)])


def _statement(node: Node) -> Statement | None:
    origin, span = node.origin, node.origin.span
    if span is None:
        return None
    return Statement(span.file, span.line, _last_line(span), origin.definition, origin.name)


def _last_line(span: Span) -> int:
    return span.end_line if span.end_column > 1 else max(span.line, span.end_line - 1)


def _verdicts(item: Scheduled, attempts: Sequence[Attempted]) -> tuple[Verdict, ...]:
    """What rules reported of the group's nodes, and what its schedule says of itself; what fired
    first."""
    found = [Verdict("rule", a.rule, a.fired, a.why, _about(a)) for a in attempts]
    found += [Verdict("schedule", *reason) for reason in item.reasons]
    if item.note:
        found.append(Verdict("schedule", "tuning", item.profile is not None, item.note, ""))
    return tuple(dict.fromkeys(sorted(found, key=lambda v: not v.fired)))


def _about(attempt: Attempted) -> str:
    return "" if attempt.root is None else attempt.root.origin.path


def _rules(groups: Iterable[GroupFacts]) -> tuple[RuleFacts, ...]:
    """A rule that fired anywhere in a group counts as fired there."""
    fired: Counter[tuple[str, str]] = Counter()
    missed: Counter[tuple[str, str]] = Counter()
    reasons: dict[tuple[str, str], Counter[str]] = {}
    for group in groups:
        acted = {(v.kind, v.name) for v in group.verdicts if v.fired}
        others = [v for v in group.verdicts if (v.kind, v.name) not in acted]
        fired.update(acted)
        missed.update({(v.kind, v.name) for v in others})
        for v in others:
            reasons.setdefault((v.kind, v.name), Counter())[v.why] += 1
    return tuple(
        RuleFacts(*key, fired[key], missed[key], tuple(reasons.get(key, Counter()).most_common()))
        for key in sorted(fired.keys() | missed.keys())
    )


# ---- dispatches and tensors ----------------------------------------------------------------------


def _dispatches(part: Part, target: Target) -> Iterable[DispatchFacts]:
    """Launches of one kernel cost the same."""
    costs: dict[str, Estimate] = {}
    for number, dispatch in enumerate(part.program.dispatches):
        if dispatch.kernel not in costs:
            item = part.plan.kernels[number]
            costs[dispatch.kernel] = estimate(item, target, part.plan.orders)
        yield _dispatch((part.name, number), dispatch, part.program, costs[dispatch.kernel])


def _dispatch(
    place: tuple[str, int], dispatch: Dispatch, program: Program, cost: Estimate
) -> DispatchFacts:
    kernel = program.kernels[dispatch.kernel]
    access = {b.name: b.access for b in kernel.buffers}
    operands = tuple(
        Operand(name, tensor, program.tensors[tensor].nbytes, access[name] is not Access.READ)
        for name, tensor in dispatch.bindings
    )
    return DispatchFacts(
        *place,
        label=dispatch.label,
        kernel=dispatch.kernel,
        operands=operands,
        grid=kernel.grid,
        group=kernel.group,
        flop=cost.flop,
        read=cost.bytes_read,
        written=cost.bytes_written,
        seconds=cost.seconds,
        bound=cost.bound,
    )


def _tensors(part: Part) -> Iterable[TensorFacts]:
    live = lifetimes_of(part.program.tensors, part.program.dispatches)
    spans = {t.name: (t.first, t.last) for t in live}
    for t in part.program.tensors.values():
        yield TensorFacts(
            part.name,
            t.name,
            describe(t),
            t.role.value,
            t.nbytes,
            t.offset if t.name in spans else -1,
            *spans.get(t.name, (-1, -1)),
            t.weight,
            t.order,
        )


# ---- kernels -------------------------------------------------------------------------------------


def _kernels(material: Material) -> tuple[KernelFacts, ...]:
    meanings = {name: m for part in material.parts for name, m in _meanings(part).items()}
    return tuple(_kernel(k, t, meanings[t.name]) for k, t in material.printed)


def _meanings(part: Part) -> dict[str, Meaning]:
    """The meaning of every kernel, by its first launch."""
    names, _ = tensors_of(part.graph, part.plan)
    values = {name: value for value, name in names.items()}
    found: dict[str, Meaning] = {}
    for item, dispatch in zip(part.plan.kernels, part.program.dispatches, strict=True):
        if dispatch.kernel not in found:
            bound = {parameter: values[tensor] for parameter, tensor in dispatch.bindings}
            found[dispatch.kernel] = meaning_of(item.group, bound)
    return found


def _kernel(kernel: Kernel, text: KernelText, meaning: Meaning) -> KernelFacts:
    statements = _statements(meaning.nodes, meaning.nodes)
    places = {s: number for number, s in enumerate(statements)}
    links = []
    for line, nodes in zip(
        text.text.splitlines(), line_nodes(kernel, text.statements, meaning), strict=True
    ):
        own = {places[s] for n in nodes if (s := _statement(n)) in places}
        links.append(tuple(sorted(own or _cited_in(line, statements))))
    return KernelFacts(kernel.name, text.language, text.text, statements, tuple(links))


def _cited_in(line: str, statements: Sequence[Statement]) -> set[int]:
    """The statements that a comment of a kernel's head names by file and line."""
    if not line.startswith("//"):
        return set()
    return {n for n, s in enumerate(statements) if f" {s.file}:{s.line} " in line}


def _cited(definitions: Sequence[Defined], groups: Iterable[GroupFacts]) -> tuple[Defined, ...]:
    """The definitions in which any group's statements stand."""
    places = {(s.file, s.line) for g in groups for s in g.statements}
    return tuple(
        d for d in definitions if any((d.file, n) in places for n in range(d.line, d.end_line + 1))
    )
