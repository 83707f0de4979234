"""Every kernel of a program, and the whole of it, held against their definitions.

In: a `Compilation`, a route, an effort. Out: `Verdict`s, kernels first, and what was not checked.
Invariant: nothing is left out silently: what is too large, or cannot stand alone, is in `skipped`
with the reason.

    report = check(compilation, route, Effort(), tell)
    report.failures, report.skipped
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from sdlc.graph.hoist import Hoisted
from sdlc.graph.node import Graph
from sdlc.graph.numerics import Numerics
from sdlc.graph.types import DType
from sdlc.kernel.ir import Access
from sdlc.program.memory import align
from sdlc.program.pipeline import compile_hoisted, load_plan, tensors_of
from sdlc.program.program import Program, TensorRole
from sdlc.proof.falsify import Effort, Verdict, falsify
from sdlc.proof.inputs import arrays_of
from sdlc.proof.narrow import Value, narrowed_whole
from sdlc.proof.pieces import pieces
from sdlc.proof.sample import at_points, sample_of, work
from sdlc.proof.stages import Route, Subject, first_wrong, interpreted
from sdlc.schedule.group import Group
from sdlc.schedule.plan import Plan
from sdlc.target import Target

ALL_POINTS, WHOLE_POINTS = 1 << 20, 1 << 23
"""The most points of a kernel, and of a program, that are evaluated one and all."""

Tell = Callable[[str, int, int], None]
"""Called with the name of what comes next, its number and how many there are."""


@dataclass(frozen=True, slots=True)
class Compilation:
    """A graph, what rules made of it, the program compiled from that, and which node and field of
    the rewritten graph each tensor of the program, and of its load program, holds."""

    graph: Graph
    rewritten: Graph
    program: Program
    values: Mapping[str, Value]
    load_values: Mapping[str, Value]
    groups: tuple[Group, ...]
    load_groups: tuple[Group, ...]
    """What each dispatch computes."""
    numerics: Numerics = Numerics.REASSOCIATED
    fired: tuple[str, ...] = ()
    """The rules that made `rewritten`, and the moves of the schedule."""
    narrowed: Graph | None = None
    """The graph with what kernels hold in half precision on their way, if there is any."""

    @property
    def whole(self) -> Subject:
        """The whole program."""
        own = (self.graph, self.rewritten, self.program, self.numerics)
        return Subject(self.program.name, *own, narrowed=self.narrowed)

    @property
    def pieces(self) -> tuple[Subject, ...]:
        """Every kernel, those of the load program last."""
        run = pieces(self.program, self.values, self.groups)
        load = self.program.load
        return run if load is None else (*run, *pieces(load, self.load_values, self.load_groups))


def compiled(
    graph: Graph,
    rewritten: Graph,
    planned: tuple[Hoisted, Plan],
    target: Target,
    precision: DType = DType.F32,
) -> Compilation:
    """The program of a graph, rewritten and `planned`, with all that its proof needs."""
    parts, scheduled = planned
    program = compile_hoisted(parts, scheduled, target, precision)
    values, groups = _values(parts.run, scheduled), _groups(scheduled)
    load: dict[str, Value] = {}
    load_groups: tuple[Group, ...] = ()
    if parts.load is not None:
        once = load_plan(parts.load, parts, scheduled, target)
        load, load_groups = _values(parts.load, once), _groups(once)
    narrowed = narrowed_whole(parts, groups, load_groups)
    known = (values, load, groups, load_groups)
    return Compilation(graph, rewritten, program, *known, narrowed=narrowed)


def _groups(scheduled: Plan) -> tuple[Group, ...]:
    return tuple(item.group for item in scheduled.kernels)


def _values(graph: Graph, scheduled: Plan) -> dict[str, Value]:
    names, _ = tensors_of(graph, scheduled)
    return {name: value for value, name in names.items()}


@dataclass(frozen=True, slots=True)
class Report:
    """`skipped` are names with the reason why nothing was checked of them."""

    kernels: tuple[Verdict, ...]
    whole: Verdict | None
    skipped: tuple[tuple[str, str], ...]

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        return self.kernels if self.whole is None else (*self.kernels, self.whole)

    @property
    def failures(self) -> tuple[Verdict, ...]:
        return tuple(v for v in self.verdicts if v.fault is not None)


def check(
    made: Compilation, route: Route, effort: Effort, tell: Tell, only: str | None = None
) -> Report:
    """Kernel by kernel, then the whole program; `only`: this kernel alone. Ends early at a kernel
    that is wrong: the whole is then wrong too."""
    subjects, skipped = _subjects(made, route, only)
    verdicts: list[Verdict] = []
    total = len(subjects) + (only is None)
    for number, subject in enumerate(subjects):
        tell(subject.name, number, total)
        verdicts.append(falsify(subject, route, effort))
        if verdicts[-1].fault is not None:
            return Report(tuple(verdicts), None, tuple(skipped))
    if only is not None:
        return Report(tuple(verdicts), None, tuple(skipped))
    points = work(made.graph) + work(made.rewritten)
    if points > 2 * WHOLE_POINTS:
        reason = f"{points:,} points are too many for the reference; its kernels were checked"
        return Report(tuple(verdicts), None, (*skipped, ("the whole program", reason)))
    tell("the whole program", total - 1, total)
    return Report(tuple(verdicts), _whole(made, route, effort), tuple(skipped))


def _subjects(
    made: Compilation, route: Route, only: str | None
) -> tuple[list[Subject], list[tuple[str, str]]]:
    subjects: list[Subject] = []
    skipped: list[tuple[str, str]] = []
    for subject in made.pieces:
        if only not in (None, subject.name):
            continue
        reason = alone_reason(subject)
        if reason:
            skipped.append((subject.name, reason))
        else:
            subjects.append(sized(subject, route))
    return subjects, skipped


def alone_reason(subject: Subject) -> str:
    """Why a kernel cannot be checked alone, or ''."""
    (kernel,) = subject.program.kernels.values()
    if any(b.access is Access.READ_WRITE for b in kernel.buffers):
        return "it changes what it reads; it is checked as part of the whole program only"
    return ""


def sized(subject: Subject, route: Route) -> Subject:
    """The subject, sampled where it is too large for the route to be evaluated point by point."""
    if work(subject.graph) <= ALL_POINTS:
        return subject
    sample = sample_of(subject.program, on_device=route.on_device)
    graph = at_points(subject.graph, sample.points)
    narrow = subject.narrowed and at_points(subject.narrowed, sample.points)
    alone = replace(subject, graph=graph, rewritten=graph, narrowed=narrow)
    return replace(alone, sample=sample, whole=subject.graph)


def _whole(made: Compilation, route: Route, effort: Effort) -> Verdict:
    """The verdict on the whole program; a fault says what all kernels being right leaves over."""
    subject = made.whole
    verdict = falsify(subject, route, effort, whole=True)
    if verdict.fault is None:
        return verdict
    given = {g.name: g.array for g in verdict.example}
    arrays = arrays_of(made.graph, given)
    hints = []
    if verdict.fault.stage == "rewritten":
        hints.append(f"rules that fired: {', '.join(made.fired) or 'none'}")
    elif verdict.fault.stage == "interpreted":
        alone = replace(subject, program=apart(made.program))
        short = Route((interpreted(),), route.language)
        wrong = first_wrong(alone, arrays, short)
        hints.append(
            "every kernel is right alone, but not in this order with these bindings"
            if wrong
            else "it is right where every tensor has a place of its own: the memory plan is wrong"
        )
    return replace(verdict, notes=(*verdict.notes, *hints))


def apart(program: Program) -> Program:
    """The program with every temporary in a place of its own."""
    end = 0
    tensors = dict(program.tensors)
    for tensor in program.tensors.values():
        if tensor.role is TensorRole.TEMPORARY:
            tensors[tensor.name] = replace(tensor, offset=end)
            end = align(end + tensor.nbytes, 256)
    memory = replace(program.memory, arena=end)
    return replace(program, tensors=tensors, memory=memory)
