"""Tuning: the points of a group's space, digests, records, and what a plan makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from graphs import map_graph, matmul_graph, statistics_graph, window_graph
from sdlc.backends.target import load_target
from sdlc.graph.node import Graph
from sdlc.program.interpreted import run_interpreted
from sdlc.program.isolated import Isolation
from sdlc.program.pipeline import compile_plan
from sdlc.program.profile_data import RandomWeights, random_inputs
from sdlc.proof.tolerance import Numerics, check, tolerance
from sdlc.schedule.digest import digest_of, label_of
from sdlc.schedule.fits import misfit
from sdlc.schedule.plan import Plan, plan
from sdlc.schedule.point import DEFAULT, Point, point_of
from sdlc.schedule.space import Candidate, Situation, candidates, in_order, space
from sdlc.target import Target

GRAPHS = {
    "map": lambda: map_graph(7, 24),
    "matmul": lambda: matmul_graph(17, 6, 24),
    "window": lambda: window_graph(2, 5, 16, 3),
    "statistics": lambda: statistics_graph(3, 40),
}
TARGETS = ("cpu", "nvidia", "llvmpipe")


def situated(graph: Graph, target: Target) -> tuple[Plan, Situation]:
    made = plan(graph, target)
    return made, Situation(target, made.orders)


@cache
def spaces(graph: str, name: str) -> tuple[Graph, Plan, tuple[tuple[Candidate, ...], ...]]:
    made, situation = situated(GRAPHS[graph](), load_target(name))
    found = tuple(candidates(k.group, k.lanes, situation) for k in made.kernels)
    return GRAPHS[graph](), made, found


# ---- points


def test_a_point_overrides_a_profile_and_names_only_its_fields() -> None:
    profile = load_target("cpu").profile
    point = point_of({"unroll": 2, "vector": profile.vector}, profile)
    assert point == Point((("unroll", 2),)) and str(point) == "unroll 2"
    assert point.applied(profile) == replace(profile, unroll=2) and str(DEFAULT) == "default"
    with pytest.raises(ValueError, match="no field `speed`"):
        Point((("speed", 2),)).applied(profile)
    with pytest.raises(ValueError, match="`register_tile` cannot be 4"):
        Point((("register_tile", 4),)).applied(profile)


def test_the_space_comes_from_the_target() -> None:
    cpu, gpu = space(load_target("cpu")), space(load_target("nvidia"))
    assert cpu["lanes"] == (1,) and len(gpu["lanes"]) > 2
    assert cpu["reduction_lanes"] == (1,) and 128 in gpu["reduction_lanes"]
    for values in (cpu, gpu):
        assert all(values.values())


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("graph", GRAPHS)
def test_candidates_fit_and_hold_the_default(name: str, graph: str) -> None:
    target = load_target(name)
    _, made, every = spaces(graph, name)
    for kernel, found in zip(made.kernels, every, strict=True):
        assert [c.point for c in found].count(DEFAULT) == 1
        assert len({c.kernel.steps for c in found}) == len(found)
        seconds = [c.estimate.seconds for c in found]
        assert seconds == sorted(seconds)
        for each in found:
            if each.point != DEFAULT:
                assert misfit(kernel.group, each.kernel.nest, made.orders, target) is None
        first = in_order(found, 3)
        assert first[0].point == DEFAULT and len(first) <= 4


@st.composite
def offered(draw: st.DrawFn) -> tuple[Graph, Plan]:
    """A program at random points of every group's space."""
    names = st.sampled_from(sorted(GRAPHS)), st.sampled_from(TARGETS)
    graph, made, found = spaces(draw(names[0]), draw(names[1]))
    kernels = tuple(c[draw(st.integers(0, len(c) - 1))].kernel for c in found)
    return graph, replace(made, kernels=kernels)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(offered())
def test_every_offered_point_computes_the_definition(case: tuple[Graph, Plan]) -> None:
    graph, made = case
    program = compile_plan(graph, made, load_target("cpu"))
    inputs, weights = random_inputs(program), RandomWeights(program)
    found = run_interpreted(program, inputs, weights)
    check(tolerance(graph, inputs, weights), found, Numerics.REASSOCIATED)


def test_an_isolated_kernel_computes_its_part() -> None:
    target = load_target("cpu")
    graph = matmul_graph(9, 8, 16)
    made = plan(graph, target)
    alone = Isolation.of(graph, made, target).program(made.kernels[0])
    assert len(alone.dispatches) == 1 and not any(t.weight for t in alone.tensors.values())
    inputs = random_inputs(alone)
    (result,) = run_interpreted(alone, inputs, {}).values()
    given_: Mapping[str, np.ndarray] = inputs
    x, w, b = (given_[n] for n in ("x", "fc.weight", "fc.bias"))
    assert np.allclose(result, np.maximum(x @ w.T + b, 0), atol=1e-5)


# ---- digests


def digests(graph: Graph, target: Target) -> list[str]:
    made = plan(graph, target)
    return [digest_of(k.group, k.lanes, made.orders, made.blocks) for k in made.kernels]


def test_digests_are_the_same_in_every_run() -> None:
    """Pinned: a change of the text that is digested makes every user's records stale."""
    cpu = load_target("cpu")
    assert digests(matmul_graph(8, 16, 32), cpu) == digests(matmul_graph(8, 16, 32), cpu)
    assert digests(matmul_graph(8, 16, 32), cpu) != digests(matmul_graph(8, 16, 33), cpu)
    assert digests(matmul_graph(8, 16, 32), cpu) == ["6480c32f987703bc"]


def test_labels_say_what_a_group_is() -> None:
    made = plan(matmul_graph(8, 16, 32), load_target("cpu"))
    assert label_of(made.kernels[0].group) == "fc out [8 × 32] over 16"


# ---- a plan at chosen points


def test_a_plan_takes_a_chosen_point_and_says_so() -> None:
    target = load_target("cpu")
    graph = matmul_graph(32, 16, 32)
    (digest,) = digests(graph, target)
    point = Point((("register_tile", (2, 8)),))
    (tuned,) = plan(graph, target, choices={digest: point}).kernels
    (default,) = plan(graph, target).kernels
    assert tuned.note == "tuned: register_tile 2 × 8" and not default.note
    assert tuned.nest != default.nest
    (other,) = plan(graph, target, choices={"0" * 16: point}).kernels
    assert other == default


@pytest.mark.parametrize(
    ("point", "reason"),
    [
        (Point((("register_tile", (64, 64)),)), "registers"),
        (Point((("speed", 1),)), "no field `speed`"),
        (Point((("vector", 0),)), "`vector` cannot be 0"),
    ],
)
def test_an_illegal_point_gives_the_default_with_a_reason(point: Point, reason: str) -> None:
    target = load_target("cpu")
    graph = matmul_graph(64, 16, 64)
    (digest,) = digests(graph, target)
    (made,) = plan(graph, target, choices={digest: point}).kernels
    assert made.note.startswith("tuning record not used") and reason in made.note
    assert made.nest == plan(graph, target).kernels[0].nest
