"""Drawn programs with drawn schedules: how they are made, held against their meaning, and kept.

In: a target, a strategy of programs. Out: a strategy of `Drawn`; a `Drawn` as a record of JSON and
back. Invariant: a record says everything, so what failed can be run again by itself.

    prove(drawn, (interpreted(),));  revived(kept(drawn)).plan == drawn.plan
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from enum import Enum
from functools import cache
from typing import Any

import hypothesis.strategies as st
from hypothesis import reject

from random_schedules import in_parts, random_plan, random_splits
from sdlc.backends.target import load_target
from sdlc.graph.node import Graph
from sdlc.graph.rules import Rule, always, rewrite
from sdlc.graph.show import show_graph
from sdlc.graph.types import DType
from sdlc.language.elaborate_rule import load_rules
from sdlc.language.library import load
from sdlc.program.pipeline import compile_plan
from sdlc.proof.narrow import narrowed
from sdlc.proof.sample import work
from sdlc.proof.stages import Arrays, Route, Subject, fault_of, interpreted, limits
from sdlc.proof.stages import Stage as Level
from sdlc.schedule import nest
from sdlc.schedule.draft import EVERY
from sdlc.schedule.nest import Bind, Kind, Matrix, Place, SplitReduce, Stage, Step
from sdlc.schedule.plan import Plan, Scheduled, plan
from sdlc.schedule.steps import schedule
from sdlc.target import Target
from strategies import FLOATS, Case, Given, Tensor, build_graph, weights_of

MOST_POINTS = 1 << 15
"""Interpreting a schedule is slow: larger programs are not drawn."""
PROFILES: Mapping[str, tuple[int, ...]] = {"gather": (1, 4), "depth": (1, 2), "block": (0, 2, 4)}
"""What is drawn of a profile: what schedules are made by, or kernels are changed by, later on."""


@dataclass(frozen=True, slots=True)
class Making:
    """How a plan was made: the target, whether rules rewrote the program, which mechanisms were
    not used, what the profile says otherwise than the target's, and which kernels of the plan
    (number, axis, ways) were then made in parts."""

    target: str
    rules: bool = False
    without: tuple[str, ...] = ()
    profile: tuple[tuple[str, int], ...] = ()
    splits: tuple[tuple[int, str, int], ...] = ()

    @property
    def machine(self) -> Target:
        found = load_target(self.target)
        return replace(found, profile=replace(found.profile, **dict(self.profile)))

    def graph(self, case: Case) -> Graph:
        graph = build_graph(case)
        return rewrite(graph, every_rule(), always)[0] if self.rules else graph

    def plan(self, graph: Graph) -> Plan:
        made = plan(graph, self.machine, enabled=EVERY - set(self.without))
        splits = tuple((number, SplitReduce(axis, ways)) for number, axis, ways in self.splits)
        return in_parts(made, splits, self.machine)


@dataclass(frozen=True)
class Drawn:
    """A program with its schedule. `repr` is what a failure shows."""

    case: Case
    making: Making
    graph: Graph
    plan: Plan

    def __repr__(self) -> str:
        shown = (f"{k.group}\n{k.steps}\n{k.nest}" for k in self.plan.kernels)
        return "\n\n".join([repr(self.case), repr(self.making), show_graph(self.graph), *shown])

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What Hypothesis prints."""
        printer.text(repr(self))


@cache
def every_rule() -> tuple[Rule, ...]:
    return load_rules(load(None, "op none(x: T[n]) -> T[n] { out[i] = x[i] }"))


@st.composite
def scheduled(
    draw: st.DrawFn, target: str, programs: st.SearchStrategy[Case], block: int | None = None
) -> Drawn:
    """A program, by the rules or without them, by some mechanisms, and a schedule of it. `block`:
    the profile's, where it is not drawn."""
    case = draw(programs)
    making = Making(target, draw(st.booleans()), draw(_without()), draw(_profile(block)))
    graph = making.graph(case)
    if work(graph) > MOST_POINTS:
        reject()
    made = making.plan(graph)
    if draw(st.integers(0, 2)):
        splits = draw(random_splits(made, making.machine))
        making = replace(making, splits=tuple((n, s.axis, s.ways) for n, s in splits))
        made = in_parts(made, splits, making.machine)
    return Drawn(case, making, graph, draw(random_plan(made, making.machine)))


def _without() -> st.SearchStrategy[tuple[str, ...]]:
    """Mechanisms that are not used: none more often than not."""
    some = st.sets(st.sampled_from(sorted(EVERY)), max_size=3)
    return st.one_of(st.just(()), some.map(lambda names: tuple(sorted(names))))


def _profile(block: int | None) -> st.SearchStrategy[tuple[tuple[str, int], ...]]:
    if block is not None:
        return st.just((("block", block),))
    other = st.fixed_dictionaries({}, optional={n: st.sampled_from(v) for n, v in PROFILES.items()})
    return st.one_of(st.just(()), other.map(lambda made: tuple(sorted(made.items()))))


def prove(drawn: Drawn, stages: tuple[Level, ...], language: str = "numpy") -> None:
    """Raises AssertionError with the guilty stage where one differs from the program's meaning."""
    graph, precision = drawn.graph, drawn.case.precision
    program = compile_plan(graph, drawn.plan, drawn.making.machine, precision)
    narrow = narrowed(graph, (item.group for item in drawn.plan.kernels))
    subject = Subject("drawn", graph, graph, program, narrowed=narrow)
    arrays = Arrays(drawn.case.inputs, weights_of(graph))
    allowed = limits(subject, arrays, Route((*stages, interpreted()), language))
    for stage in stages:
        fault = fault_of(stage, subject, arrays, allowed)
        assert fault is None, f"{stage.name}: {fault.problem}\n{drawn!r}"


def kinds_of(drawn: Drawn) -> set[str]:
    """The kinds of steps that were taken."""
    found = {_kind(s) for item in drawn.plan.kernels for s in item.steps}
    return found | ({"SplitReduce"} if drawn.making.splits else set())


def _kind(step: Step) -> str:
    match step:
        case Bind():
            return f"Bind {step.kind.value}"
        case Stage(shares=later) if later:
            return "shares"
    return type(step).__name__


@st.composite
def contractions(draw: st.DrawFn, floats: tuple[str, ...] = FLOATS) -> Case:
    """Products that are large enough for their factors to pass through local memory."""
    m, n = draw(st.sampled_from((16, 17, 24))), draw(st.sampled_from((16, 20, 33)))
    k = draw(st.sampled_from((4, 5, 8, 16)))
    precision = draw(st.sampled_from(floats))
    x, w, b = (Tensor("x", precision, (m, k)), Tensor("w", precision, (n, k)), (m, n))
    result = Tensor("out", precision, b)
    text = f"model drawn(x: {x.type}, w: {w.type}) -> {result.type} {{\n"
    text += "  y0 = gelu(matmul_nt(x, w))\n  return y0\n}\n"
    kinds, seeds = st.sampled_from(("ordinary", "large", "equal rows")), st.integers(0, 99)
    given = tuple(Given(t, draw(kinds), draw(seeds)) for t in (x, w))
    return Case(text, given, DType(precision))


# ---- records -------------------------------------------------------------------------------------

Record = dict[str, Any]


def kept_case(case: Case) -> Record:
    """A program and its inputs as JSON."""
    given = [
        [g.tensor.name, g.tensor.element, list(g.tensor.shape), g.kind, g.seed] for g in case.given
    ]
    return {"text": case.text, "given": given, "precision": case.precision.value}


def revived_case(record: Record) -> Case:
    given = tuple(
        Given(Tensor(n, e, tuple(s)), kind, seed) for n, e, s, kind, seed in record["given"]
    )
    return Case(record["text"], given, DType(record["precision"]))


def kept(drawn: Drawn) -> Record:
    """A program, how it was planned, and the steps of each of its kernels, as JSON."""
    making = {f.name: getattr(drawn.making, f.name) for f in fields(Making)}
    steps = [[_kept_step(s) for s in item.steps] for item in drawn.plan.kernels]
    return {**kept_case(drawn.case), "making": making, "steps": steps}


def revived(record: Record) -> Drawn:
    """The drawn program of a record. Raises Refused where its steps are not legal any more."""
    case, made = revived_case(record), record["making"]
    without, profile = tuple(made["without"]), tuple((n, v) for n, v in made["profile"])
    splits = tuple((number, axis, ways) for number, axis, ways in made["splits"])
    making = Making(made["target"], made["rules"], without, profile, splits)
    graph = making.graph(case)
    planned = making.plan(graph)
    kernels = tuple(
        _stepped(item, tuple(_revived_step(s, making.machine) for s in steps))
        for item, steps in zip(planned.kernels, record["steps"], strict=True)
    )
    return Drawn(case, making, graph, replace(planned, kernels=kernels))


def _stepped(item: Scheduled, steps: tuple[Step, ...]) -> Scheduled:
    return replace(item, steps=steps, nest=schedule(item.group, steps))


def _kept_step(step: Step) -> Record:
    values = {f.name: getattr(step, f.name) for f in fields(step)}
    if isinstance(step, Matrix):
        values["instruction"] = step.instruction.name
    plain = {n: v.value if isinstance(v, Enum) else v for n, v in values.items()}
    return {"step": type(step).__name__, **plain}


def _revived_step(record: Record, target: Target) -> Step:
    made = dict(record)
    kind = getattr(nest, made.pop("step"))
    known = {i.name: i for i in target.caps.matrix}
    words: Iterable[tuple[str, Any]] = (
        ("kind", Kind),
        ("place", Place),
        ("instruction", known.__getitem__),
        *((name, tuple) for name in ("names", "rows", "columns", "reduced")),
    )
    for name, convert in words:
        if name in made:
            made[name] = convert(made[name])
    step: Step = kind(**made)
    return step
