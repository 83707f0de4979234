"""Reductions in parts: any monoid, any number of parts; where it pays, where not and why."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import reject

from conftest import ForAll
from graphs import MAX_AND_SUM, SUM, axes, matmul_graph, read, slot, statistics_graph, window_graph
from graphs import given as entry
from random_schedules import random_schedule
from sdlc.backends.target import load_target
from sdlc.graph.expr import ONE, Axis, Expr, apply
from sdlc.graph.node import Field, Graph, Monoid, Reduce
from sdlc.graph.show import show_graph
from sdlc.graph.types import LOWEST, Array, DType, Origin
from sdlc.language.elaborate import build
from sdlc.language.library import load
from sdlc.program.interpreted import run_interpreted
from sdlc.program.pipeline import compile_plan
from sdlc.proof.sample import work
from sdlc.proof.tolerance import Numerics, check, tolerance
from sdlc.schedule import steps as applying
from sdlc.schedule.cost import seconds_of
from sdlc.schedule.draft import Setting
from sdlc.schedule.group import Group
from sdlc.schedule.layout import assign_orders, row_major, vector_of
from sdlc.schedule.merge import product_monoid
from sdlc.schedule.nest import Kind, Refused, SplitReduce, initial
from sdlc.schedule.plan import EVERY, Plan, groups_of, plan, scheduled
from sdlc.schedule.point import DEFAULT
from sdlc.schedule.reasons import Journal
from sdlc.schedule.split import MOST_WAYS, split, statistics_of, ways_of
from sdlc.target import Target
from strategies import build_graph, cases, weights_of
from test_staging import attention_graph

F = DType.F32
SIZES = st.sampled_from((1, 2, 3, 4, 5, 7, 8, 13, 16, 17, 33))


def folds(name: str, op: str, identity: float) -> Monoid:
    return Monoid(name, (Field("value", F, identity),), (apply(op, slot(0), slot(1)),))


MONOIDS = (SUM, folds("top", "max", LOWEST), folds("low", "min", -LOWEST), MAX_AND_SUM)


def folded(draw: st.DrawFn) -> Graph:
    """A monoid, or a product of two, over two axes, of which neither need be divided."""
    chosen = draw(st.lists(st.sampled_from(MONOIDS), min_size=1, max_size=2))
    monoid = product_monoid(chosen) if len(chosen) > 1 else chosen[0]
    i, j, n = axes(i=draw(st.integers(1, 5)), j=draw(SIZES), n=draw(st.integers(1, 3)))
    x = entry("x", i.extent, j.extent, n.extent)
    lift: list[Expr] = []
    for each in chosen:
        lift += [read(x, i, j, n), ONE][: len(each.fields)]
    types = tuple(f.dtype for f in monoid.fields)
    node = Reduce((i,), (j, n), monoid, tuple(lift), types, Origin("folded", "test"))
    outputs = tuple((f"y{f}", node, f) for f in range(len(types)))
    return Graph("folded", outputs, (x,))


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    small = st.integers(1, 5)
    match draw(st.sampled_from(("any", "any", "matmul", "rows", "window", "attention"))):
        case "matmul":
            return matmul_graph(draw(SIZES), draw(SIZES), draw(SIZES))
        case "rows":
            return statistics_graph(draw(small), draw(SIZES))
        case "window":
            return window_graph(
                draw(SIZES), draw(small), draw(SIZES), draw(st.sampled_from((1, 3)))
            )
        case "attention":
            return attention_graph(1, draw(small), draw(SIZES), draw(small), draw(small))
        case _:
            return folded(draw)


TARGETS = st.sampled_from(("nvidia", "adreno", "mali", "cpu")).map(load_target)


@st.composite
def in_parts(draw: st.DrawFn, graph: Graph, target: Target) -> Plan:
    """The plan with groups split as drawn, at least one; the nests are drawn too, or default."""
    made: list[Group] = []
    whole = groups_of(graph, target, EVERY, Journal())
    for group in whole:
        step = draw(steps(group))
        try:
            made += split(group, step)
        except Refused as problem:
            assert problem.reason and str(initial(group)) in str(problem)
            made.append(group)
    if len(made) == len(whole):
        reject()
    kept = {(n, f): row_major((n, f)) for _, n, f in graph.outputs}
    orders, vectors = assign_orders(made, kept, target.profile.vector)
    setting = Setting(target.profile, target.caps.max_groups, orders, target.caps.local_bytes)
    kernels = [scheduled(g, vector_of(g, vectors), setting, target, DEFAULT) for g in made]
    result = Plan(tuple(kernels), orders)
    if draw(st.booleans()):
        kernels = [draw(random_schedule(k, result, target)) for k in kernels]
    return replace(result, kernels=tuple(kernels))


def steps(group: Group) -> st.SearchStrategy[SplitReduce]:
    """Steps on the group's reduced axes, legal or not."""
    names = [a.name for a in (statistics_of(group) or group).over] or ["none"]
    return st.builds(SplitReduce, st.sampled_from(names), st.integers(1, 9))


@dataclass(frozen=True)
class Drawn:
    """A graph with its plan in parts and its values. `repr` is what a failure shows."""

    graph: Graph
    plan: Plan
    target: Target
    inputs: dict[str, Array]
    precision: DType = F

    def __repr__(self) -> str:
        kernels = "\n\n".join(map(str, self.plan.kernels))
        return f"{self.target.name}\n{show_graph(self.graph)}\n{kernels}"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What Hypothesis prints."""
        printer.text(repr(self))


@st.composite
def small_graphs(draw: st.DrawFn) -> Drawn:
    graph, target = draw(graphs()), draw(TARGETS)
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    inputs = {i.name: rng.standard_normal(i.shape).astype(np.float32) for i in graph.inputs}
    return Drawn(graph, draw(in_parts(graph, target)), target, inputs)


@st.composite
def programs(draw: st.DrawFn) -> Drawn:
    case, target = draw(cases(2)), draw(TARGETS)
    graph = build_graph(case)
    if work(graph) > 1 << 14:
        reject()
    return Drawn(graph, draw(in_parts(graph, target)), target, case.inputs, case.precision)


def prove(drawn: Drawn) -> None:
    graph, weights = drawn.graph, weights_of(drawn.graph)
    program = compile_plan(graph, drawn.plan, drawn.target, drawn.precision)
    results = run_interpreted(program, drawn.inputs, weights)
    check(tolerance(graph, drawn.inputs, weights), results, Numerics.RESCALED)


def test_parts_compute_the_definition(for_all: ForAll) -> None:
    """Random monoids, products, windows, rows and attention, at sizes that nothing divides."""
    for_all(small_graphs(), prove, 40, 0.5)


def test_any_program_in_parts(for_all: ForAll) -> None:
    """Whatever the library folds: norms, softmax, the index of the largest."""
    for_all(programs(), prove, 15, 0.5)


# ---- refusals


def group_of(graph: Graph, target: str = "nvidia", number: int = 0) -> Group:
    return groups_of(graph, load_target(target), EVERY, Journal())[number]


def reason(group: Group, axis: str, ways: int) -> str:
    with pytest.raises(Refused) as caught:
        split(group, SplitReduce(axis, ways))
    return caught.value.reason


def test_refusals_say_why() -> None:
    product = group_of(matmul_graph(4, 12, 8))
    assert reason(product, "i", 2) == "`i` is not a reduced axis"
    assert reason(product, "c", 1) == "an axis of 12 is not split in 1"
    assert reason(product, "c", 13) == "an axis of 12 is not split in 13"
    assert reason(product, "c", 9) == "9 parts of 2 leave one without elements"
    attention = group_of(attention_graph(1, 2, 48, 4, 4))
    assert reason(attention, "t.block", 2) == "2 parts would cut through a block"
    with pytest.raises(Refused, match="two kernels"):
        applying.apply(initial(product), SplitReduce("c", 2))


@pytest.mark.parametrize("extent", [1, 2, 7, 13, 16, 77, 131, 320, 1280, 4096])
def test_offered_steps_are_legal(extent: int) -> None:
    group = group_of(matmul_graph(4, extent, 8))
    for step in ways_of(group):
        parts, combined = split(group, step)
        assert parts.axes[0] == combined.over[0] == Axis(f"{step.axis}.part", step.ways)
        assert step.ways <= MOST_WAYS
    assert bool(ways_of(group)) == (extent > 1)


# ---- where it pays

FEW_QUERIES = attention_graph(8, 1, 4096, 40, 40)
FEW_ROWS = matmul_graph(128, 20480, 1280)
SMALL_PICTURE = window_graph(1280, 8, 1280, 3)


def norm() -> Graph:
    text = "model rows(x: T[4, 262144]) -> T[4, 262144] { return softmax(x) }"
    return build(load(None, text), None, {}, {}, F)


def both(graph: Graph, name: str) -> tuple[Plan, Plan, Target]:
    """The plan with and without splits."""
    target = load_target(name)
    return plan(graph, target), plan(graph, target, enabled=EVERY - {"split_reductions"}), target


@pytest.mark.parametrize("graph", [FEW_ROWS, FEW_QUERIES, norm()])
def test_idle_devices_get_parts(graph: Graph) -> None:
    """Fires, matters (the estimate says by how much) and is optional."""
    split_in, whole, target = both(graph, "nvidia")
    assert len(split_in.kernels) == len(whole.kernels) + 1
    first = next(k for k in split_in.kernels if k.group.name.endswith("_parts"))
    assert first.group.axes[0].name.endswith(".part")
    before = seconds_of(whole.kernels, target, whole.orders)
    assert seconds_of(split_in.kernels, target, split_in.orders) < 0.8 * before


@pytest.mark.parametrize("graph", [SMALL_PICTURE, norm(), matmul_graph(2, 1280, 1280)])
def test_busy_devices_do_not(graph: Graph) -> None:
    split_in, whole, _ = both(graph, "cpu")
    assert str(split_in) == str(whole)


def test_parts_are_no_larger_than_other_values() -> None:
    """As many channels as there are results: parts of these would be the largest value."""
    (why,) = (
        why
        for k in plan(SMALL_PICTURE, load_target("nvidia")).kernels
        for move, _, why, _ in k.reasons
        if move == "split_reductions"
    )
    assert why == "its parts would take more memory than all else"


def test_rows_with_few_statistics_have_several_work_groups() -> None:
    split_in, whole, target = both(norm(), "nvidia")
    groups, lanes = (
        [prod(p.kernels[-1].nest.size(kind, d) for d in range(3)) for p in (split_in, whole)]
        for kind in (Kind.GROUP, Kind.LANE)
    )
    assert groups[1] == 4 * 4  # which fold the statistics of each row four times
    assert groups[0] * lanes[0] > 2 * target.peak.cores * target.profile.lanes
