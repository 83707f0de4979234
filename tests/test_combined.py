"""Parts combined where their value is read: fewer kernels, the same meaning, no more memory."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings

from sdlc.api import make_request
from sdlc.backends.target import load_target
from sdlc.graph.node import Graph
from sdlc.program.interpreted import run_interpreted
from sdlc.program.pipeline import compile_plan
from sdlc.proof.tolerance import Numerics, check, tolerance
from sdlc.schedule.combined import Combining, is_combining
from sdlc.schedule.draft import Setting
from sdlc.schedule.group import Group
from sdlc.schedule.layout import assign_orders, row_major, vector_of
from sdlc.schedule.nest import Place, SplitReduce
from sdlc.schedule.plan import EVERY, Plan, groups_of, plan, scheduled
from sdlc.schedule.point import DEFAULT
from sdlc.schedule.reasons import Journal
from sdlc.schedule.split import split
from sdlc.target import Target

HEAD = "op entry(x: T[b, k, m, l], w: T[n, k], a: T[n], r: T[b, n, m, l]) -> {} {{"
PRODUCT = "y[i, j, p, q] = sum over c of x[i, c, p, q] * w[j, c]\n v = y + r"
VALUE = "T[b, n, m, l]"
READERS = {
    "map": ("u[i, j, p, q] = exp(v[i, j, p, q] * a[j])", VALUE),
    "moved": ("u[q, j, i, p < m] = v[i, j, m - 1 - p, q] * a[j]", "T[l, n, b, m]"),
    "group": ("u = silu(group_normalize(v, a, a; groups = 2))", VALUE),
    "instance": ("u = instance_normalize(v)", VALUE),
    "rows": ("u = softmax(v)", VALUE),
    "layer": ("u = rms_normalize(v, r[0, 0, 0, ..])", VALUE),
}
SIZES = st.sampled_from((1, 2, 3, 4, 5, 8, 13, 16))


def graph_of(reader: str, beside: bool, sizes: dict[str, int]) -> Graph:
    """A product whose sum with `r` a reader takes; where it is `beside`, it is a result as well."""
    body, shape = READERS[reader]
    results = f"(out: {shape}, sum: {VALUE})" if beside else shape
    given = "return u, v" if beside else "return u"
    text = f"{HEAD.format(results)}\n{PRODUCT}\n{body}\n{given}\n}}"
    return make_request(text, "cpu", "entry", sizes, (None, "f32")).graph()


def in_parts(graph: Graph, target: Target, ways: int) -> tuple[Group, ...]:
    """The groups with the product in parts, where it is a group of its own."""
    made: list[Group] = []
    for group in groups_of(graph, target, EVERY, Journal()):
        is_product = group.monoid is not None and [a.name for a in group.over] == ["c"]
        made += split(group, SplitReduce("c", ways)) if is_product else (group,)
    return tuple(made)


def combined(graph: Graph, target: Target, ways: int) -> tuple[Plan, int]:
    """The plan with every value combined by its reader that can be, and how many were."""
    groups = in_parts(graph, target, ways)
    kept = {(n, f): row_major((n, f)) for _, n, f in graph.outputs}
    orders, _ = assign_orders(groups, kept, target.profile.vector)
    results = frozenset(n for n, _ in kept)
    room = 1 << 40
    made = Combining(lambda group: 0.0, orders, results, 16, room).groups(groups)
    orders, vectors = assign_orders(made, kept, target.profile.vector)
    setting = Setting(target.profile, target.caps.max_groups, orders, target.caps.local_bytes)
    kernels = [scheduled(g, vector_of(g, vectors), setting, target, DEFAULT) for g in made]
    return Plan(tuple(kernels), orders), len(groups) - len(made)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(("nvidia", "adreno", "mali", "cpu")),
    st.sampled_from(sorted(READERS)),
    st.booleans(),
    st.tuples(SIZES, SIZES, SIZES, st.sampled_from((2, 3, 4, 7, 8, 16))),
    st.integers(0, 2**31),
)
@example("nvidia", "group", True, (8, 8, 8, 16), 0)
@example("cpu", "group", False, (5, 3, 4, 3), 0)
def test_a_reader_that_combines_parts_computes_the_definition(
    name: str, reader: str, beside: bool, sizes: tuple[int, int, int, int], seed: int
) -> None:
    m, length, n, ways = sizes
    graph = graph_of(reader, beside, {"b": 2, "k": 48, "m": m, "l": length, "n": 2 * n})
    target = load_target(name)
    made, _ = combined(graph, target, ways)
    program = compile_plan(graph, made, target)
    rng = np.random.default_rng(seed)
    inputs = {i.name: rng.standard_normal(i.shape).astype(np.float32) for i in graph.inputs}
    check(tolerance(graph, inputs, {}), run_interpreted(program, inputs, {}), Numerics.RESCALED)


def block(beside: bool = True) -> Graph:
    """A product of few rows with a long sum, whose result is normalised."""
    return graph_of("instance", beside, {"b": 2, "k": 11520, "m": 8, "l": 8, "n": 1280})


def kernels(graph: Graph, name: str, *without: str) -> tuple[Group, ...]:
    made = plan(graph, load_target(name), enabled=EVERY - set(without))
    return tuple(k.group for k in made.kernels)


@pytest.mark.parametrize("beside", [False, True])
def test_a_norm_combines_the_parts_of_what_it_normalises(beside: bool) -> None:
    """Two kernels, as without parts; combined once, in local memory; stored where it is asked."""
    made = plan(block(beside), load_target("nvidia"))
    parts, norm = made.kernels
    assert parts.group.name.endswith("_parts")
    assert [s.place for s in norm.nest.stages] == [Place.LOCAL, Place.PRIVATE]
    assert len(norm.group.stores) == 1 + beside
    assert len(kernels(block(beside), "nvidia", "split_reductions")) == 2
    assert not any(g.name.endswith("_parts") for g in kernels(block(beside), "cpu"))


def test_a_value_keeps_its_kernel_where_that_pays_or_spares_memory() -> None:
    graph, target = block(), load_target("nvidia")
    groups = in_parts(graph, target, 8)
    assert sum(map(is_combining, groups)) == 1
    kept = {(n, f): row_major((n, f)) for _, n, f in graph.outputs}
    orders, _ = assign_orders(groups, kept, 4)
    results = frozenset(n for n, _ in kept)
    always = Combining(lambda group: 0.0, orders, results, 16, 1 << 40)
    assert len(always.groups(groups)) == 2
    for never in (
        replace(always, room=0),
        replace(always, most=3),
        replace(always, seconds=lambda group: 1.0 + 2 * len(group.stores[1:])),
    ):
        assert never.groups(groups) == groups


@pytest.mark.parametrize("name", ["cpu", "nvidia"])
def test_a_result_without_axes_has_a_schedule(name: str) -> None:
    """Nothing is ordered where there are no loops over work-groups."""
    text = "op entry(x: T[n]) -> T[] { out = max over i of x[i]\n return out }"
    graph = make_request(text, "cpu", "entry", {"n": 1}, (None, "f32")).graph()
    assert len(plan(graph, load_target(name)).kernels) == 1
