"""Any legal schedule of any program computes what the program means.

`python -m pytest tests/test_random_schedules.py --examples 10000` draws ten thousand, interpreted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import reject

from conftest import ForAll
from random_schedules import kinds_of, program_of, random_plan
from sdlc.backends.target import load_target
from sdlc.graph.node import Graph
from sdlc.graph.rules import Rule, always, rewrite
from sdlc.graph.show import show_graph
from sdlc.graph.types import DType
from sdlc.language.elaborate_rule import load_rules
from sdlc.language.library import load
from sdlc.proof.sample import work
from sdlc.proof.stages import Arrays, Route, Stage, Subject, fault_of, interpreted, limits, on
from sdlc.schedule.nest import Bind, Kind, schedule
from sdlc.schedule.plan import Plan, plan
from sdlc.target import Target
from stages import device, legalised
from strategies import Case, Given, Tensor, build_graph, cases, weights_of

MOST_POINTS = 1 << 15
"""Interpreting a schedule is slow: larger programs are not drawn."""


@dataclass(frozen=True)
class Drawn:
    """A program with its schedule. `repr` is what a failure shows."""

    case: Case
    graph: Graph
    plan: Plan
    target: Target

    def __repr__(self) -> str:
        shown = (f"{k.group}\n{k.steps}\n{k.nest}" for k in self.plan.kernels)
        return "\n\n".join([repr(self.case), show_graph(self.graph), *shown])

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
    """A program, by the rules or without them, and a schedule of it. `block`: the profile's."""
    case = draw(programs)
    graph = build_graph(case)
    if draw(st.booleans()):
        graph = rewrite(graph, every_rule(), always)[0]
    if work(graph) > MOST_POINTS:
        reject()
    loaded = load_target(target)
    if block is not None:
        loaded = replace(loaded, profile=replace(loaded.profile, block=block))
    return Drawn(case, graph, draw(random_plan(graph, loaded)), loaded)


def prove(drawn: Drawn, stages: tuple[Stage, ...], language: str = "numpy") -> None:
    graph, precision = drawn.graph, drawn.case.precision
    program = program_of(graph, drawn.plan, drawn.target, precision)
    subject = Subject("drawn", graph, graph, program)
    arrays = Arrays(drawn.case.inputs, weights_of(graph))
    allowed = limits(subject, arrays, Route((*stages, interpreted()), language))
    for stage in stages:
        fault = fault_of(stage, subject, arrays, allowed)
        assert fault is None, f"{stage.name}: {fault.problem}\n{drawn!r}"


@pytest.mark.parametrize(("target", "share"), [("cpu", 0.4), ("adreno", 0.3), ("nvidia", 0.3)])
def test_schedules_interpreted(target: str, share: float, for_all: ForAll) -> None:
    """Between them the targets take `--examples` cases."""
    seen: set[str] = set()

    def check(drawn: Drawn) -> None:
        prove(drawn, (interpreted(),))
        seen.update(kinds_of(drawn.plan))

    for_all(scheduled(target, cases(2)), check, 80, share)
    assert {
        "Tile",
        "Reorder",
        *(f"Bind {k}" for k in ("group", "lane", "unroll", "vector")),
    } <= seen


@pytest.mark.parametrize("target", ["cpu", "nvidia"])
def test_blocks_interpreted(target: str, for_all: ForAll) -> None:
    """Folds in blocks: their values live inside the kernel."""
    seen: set[str] = set()

    def check(drawn: Drawn) -> None:
        prove(drawn, (interpreted(),))
        seen.update(kinds_of(drawn.plan))

    programs = cases(1, only=["attention_online", "softmax", "logsumexp"])
    for_all(scheduled(target, programs, block=4), check, 20, 0.1)
    assert "Stage" in seen


@st.composite
def contractions(draw: st.DrawFn) -> Case:
    """Products that are large enough for their factors to pass through local memory."""
    m, n = draw(st.sampled_from((16, 17, 24))), draw(st.sampled_from((16, 20, 33)))
    k = draw(st.sampled_from((4, 5, 8, 16)))
    precision = draw(st.sampled_from(("f32", "f16")))
    x, w, b = (Tensor("x", precision, (m, k)), Tensor("w", precision, (n, k)), (m, n))
    result = Tensor("out", precision, b)
    text = f"model drawn(x: {x.type}, w: {w.type}) -> {result.type} {{\n"
    text += "  y0 = gelu(matmul_nt(x, w))\n  return y0\n}\n"
    kinds, seeds = st.sampled_from(("ordinary", "large", "equal rows")), st.integers(0, 99)
    given = tuple(Given(t, draw(kinds), draw(seeds)) for t in (x, w))
    return Case(text, given, DType(precision))


def test_slices_interpreted(for_all: ForAll) -> None:
    """Factors that pass through local memory."""
    seen: set[str] = set()

    def check(drawn: Drawn) -> None:
        prove(drawn, (interpreted(),))
        seen.update(kinds_of(drawn.plan))

    for_all(scheduled("nvidia", contractions()), check, 25, 0.1)
    assert {"Stage", "Spread"} <= seen


@pytest.mark.parametrize(("target", "language"), [("mali", "opencl"), ("apple", "wgsl")])
def test_schedules_legalised(target: str, language: str, for_all: ForAll) -> None:
    stage = legalised(target, language)
    for_all(scheduled(target, cases(2)), lambda d: prove(d, (stage,), language), 20, 0.02)


@pytest.mark.parametrize(
    ("target", "language", "selector"),
    [("cpu", "opencl", "cpu"), ("adreno", "opencl", "pocl"), ("llvmpipe", "wgsl", "llvmpipe")],
)
def test_schedules_on_devices(target: str, language: str, selector: str, for_all: ForAll) -> None:
    def check(drawn: Drawn) -> None:
        prove(drawn, (on(device(selector)),), language)

    for_all(scheduled(target, cases(2)), check, 6, 0.01)


@pytest.mark.parametrize("selector", ["cpu", "pocl"])
def test_lanes_of_truth_values_are_stored_one_by_one(selector: str) -> None:
    """A vector across rows: its lanes lie apart in storage, and a mask's are 0 or -1."""
    text = "model drawn(x: bool[2, 3]) -> bool[2, 3] { out[i0, i1] = x[i0, i1] }"
    case = Case(text, (Given(Tensor("x", "bool", (2, 3)), "ordinary", 0),), DType.F32)
    graph, target = build_graph(case), load_target("cpu")
    made = plan(graph, target)
    steps = (Bind("i0", Kind.VECTOR),)
    kernels = tuple(
        replace(item, steps=steps, nest=schedule(item.group, steps)) for item in made.kernels
    )
    drawn = Drawn(case, graph, replace(made, kernels=kernels), target)
    prove(drawn, (interpreted(), on(device(selector))), "opencl")
