"""The cost model's laws: what never makes an estimate smaller, and that it ranks obvious cases."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from graphs import map_graph, matmul_graph, statistics_graph, window_graph
from sdlc.backends.target import load_target, target_names
from sdlc.graph.hoist import hoist
from sdlc.graph.node import Graph
from sdlc.graph.rules import Rule, rewrite
from sdlc.graph.types import DType
from sdlc.language.elaborate import build
from sdlc.language.elaborate_rule import chosen_rules, load_rules
from sdlc.language.library import load
from sdlc.schedule.cost import Estimate, estimate, seconds_of
from sdlc.schedule.cost_traffic import traffic_of
from sdlc.schedule.plan import Plan, plan
from sdlc.schedule.profit import profitable
from sdlc.schedule.worth import Estimates, weights_of, with_weights
from sdlc.target import Peak, Target

ROOT = Path(__file__).resolve().parent.parent

GRAPHS = {
    "map": lambda n: map_graph(n, 24),
    "matmul": lambda n: matmul_graph(n, 48, 64),
    "window": lambda n: window_graph(16, n, 32, 3),
    "statistics": lambda n: statistics_graph(n, 96),
}


def planned(graph: Graph, target: Target) -> Plan:
    return plan(graph, target)


def total(graph: Graph, target: Target) -> float:
    made = planned(graph, target)
    return seconds_of(made.kernels, target, made.orders)


def one(graph: Graph, target: Target) -> Estimate:
    made = planned(graph, target)
    return estimate(made.kernels[-1], target, made.orders)


@pytest.mark.parametrize("name", target_names())
@pytest.mark.parametrize("graph", GRAPHS)
def test_estimates_are_finite_and_bounded_below(name: str, graph: str) -> None:
    """Never faster than the arithmetic's peak, than the memory, or than a launch."""
    target = load_target(name)
    made = planned(GRAPHS[graph](16), target)
    for kernel in made.kernels:
        found = estimate(kernel, target, made.orders)
        assert found.flop == kernel.group.flop and found.groups >= 1
        assert found.seconds >= found.flop / target.peak.f32_flops
        assert found.seconds >= target.peak.launch_seconds
        stored = sum(
            s.node.dtypes[s.field].itemsize * kernel.group.points for s in kernel.group.stores
        )
        assert found.bytes_written >= stored
        assert found.bound in ("memory", "compute", "launch") and found.bound in str(found)


@pytest.mark.parametrize("name", ["cpu", "nvidia", "adreno"])
@pytest.mark.parametrize("graph", GRAPHS)
def test_more_work_takes_no_less(name: str, graph: str) -> None:
    target = load_target(name)
    times = [total(GRAPHS[graph](n), target) for n in (16, 32, 64, 128)]
    assert times == sorted(times) and times[0] < times[-1]


FASTER = st.fixed_dictionaries(
    {},
    optional={
        "f32_flops": st.just(2.0),
        "bandwidth": st.just(2.0),
        "loads": st.just(2.0),
        "in_flight": st.just(0.5),
        "launch_seconds": st.just(0.5),
        "group_seconds": st.just(0.5),
        "resident": st.just(2),
        "core_registers": st.just(2),
    },
)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(GRAPHS)), st.sampled_from(["cpu", "nvidia"]), FASTER)
def test_a_better_machine_is_never_slower(graph: str, name: str, factors: dict[str, float]) -> None:
    target = load_target(name)
    made = planned(GRAPHS[graph](32), target)
    better = {
        k: type(getattr(target.peak, k))(getattr(target.peak, k) * f) for k, f in factors.items()
    }
    peak: Peak = replace(target.peak, **better)
    for kernel in made.kernels:
        before = estimate(kernel, target, made.orders).seconds
        assert (
            estimate(kernel, replace(target, peak=peak), made.orders).seconds <= before * 1.000001
        )


def test_register_tiles_share_loads() -> None:
    """A contraction with a register tile is predicted faster than without one, on every target."""
    for name in target_names():
        target = load_target(name)
        vector = target.profile.vector
        small = replace(target, profile=replace(target.profile, register_tile=(1, vector)))
        graph = matmul_graph(512, 512, 512)
        assert one(graph, target).compute < one(graph, small).compute, name


def test_what_does_not_fit_is_read_again() -> None:
    target = load_target("cpu")
    fits, large = one(matmul_graph(64, 64, 64), target), one(matmul_graph(64, 4096, 8192), target)
    compulsory = 4 * (64 * 4096 + 4096 * 8192 + 8192)
    assert fits.bytes_read == pytest.approx(4 * (64 * 64 + 64 * 64 + 64), rel=0.1)
    assert large.bytes_read >= compulsory
    small_cache = replace(target.peak, cache_bytes=(1024, 2048, 4096))
    again = one(matmul_graph(64, 4096, 8192), replace(target, peak=small_cache))
    assert again.bytes_read > large.bytes_read


def test_few_groups_leave_cores_idle() -> None:
    target = load_target("nvidia")
    few = one(matmul_graph(64, 512, 64), target)
    many = one(matmul_graph(4096, 512, 64), target)
    assert few.flop / few.compute < many.flop / many.compute


@pytest.mark.parametrize("name", ["nvidia", "adreno", "mali", "apple"])
def test_statistics_that_work_items_share_are_read_once(name: str) -> None:
    """A norm in one kernel reads its rows twice at most in each of a row's work-groups: lanes share
    the statistics, and do not each read all of them."""
    text = """op f(x: T[b, c, h, w], y: T[b, e, h, w], scale: T[c + e], shift: T[c + e])
      -> T[b, c + e, h, w]
    {
      return silu(group_normalize(concat_channels(x, y), scale, shift; groups = 8))
    }"""
    sizes = {"b": 2, "c": 320, "e": 160, "h": 64, "w": 64}
    graph = build(load(None, text), "f", sizes, {}, DType.F16)
    target = load_target(name)
    rules = chosen_rules(load(None, text), only=["concat_read"])
    made = planned(rewrite(graph, rules)[0], target)
    (kernel,) = [k for k in made.kernels if k.group.inner and k.group.monoid is None]
    whole = 2 * 480 * 64 * 64 * 2
    missed = traffic_of(kernel.group, kernel.nest, made.orders, target.peak).missed
    # Read for the statistics (on nvidia by up to four work-groups), read again, written; 272 if
    # each work-item read all of them.
    assert max(missed) <= (7 if name == "nvidia" else 4) * whole


@pytest.mark.parametrize("name", target_names())
def test_a_joined_operand_costs_what_a_whole_one_does(name: str) -> None:
    """Each step of the sum reads one part of it: its loop is cut, and no step asks which."""
    target, sizes = load_target(name), {"m": 512, "k": 160, "n": 96}
    text = """
    op joined(x: T[m, k], y: T[m, k], w: T[n, 2 * k]) -> T[m, n] {
      out[r, c] = sum over i < 2 * k of (x[r, i] else y[r, i - k] else 0) * w[c, i]
    }"""
    joined = one(build(load(None, text), None, sizes, {}, DType.F32), target)
    text = "op whole(x: T[m, k], w: T[n, k]) -> T[m, n] { return matmul_nt(x, w) }"
    whole = one(build(load(None, text), None, {**sizes, "k": 320}, {}, DType.F32), target)
    assert whole.seconds <= joined.seconds <= 1.05 * whole.seconds


# ---- whether a rule pays


@cache
def equations() -> dict[str, Rule]:
    return {r.name: r for r in load_rules(load(ROOT / "stdlib" / "rules.sdl"))}


@pytest.mark.parametrize("name", ["cpu", "nvidia", "adreno"])
def test_a_rule_pays_where_it_is_predicted_to(name: str) -> None:
    """Four channels are not worth transforms on any target; thousands on small pictures are."""
    rules = equations()
    estimates = Estimates(load_target(name), [rules["halo"]])
    few = {"b": 2, "c": 4, "h": 64, "w": 64, "o": 320}
    many = {"b": 2, "c": 1280, "h": 8, "w": 8, "o": 1280}
    rule = rules["winograd_4"]
    assert "ms instead of" in estimates.dearer(rule, few)
    assert estimates.dearer(rule, many) == ""
    assert estimates.dearer(rule, few) is estimates.dearer(rule, dict(reversed(few.items())))
    assert estimates.dearer(rules["halo"], few) == ""


@pytest.mark.parametrize(("name", "copied"), [("cpu", True), ("mali", False)])
def test_a_copy_with_a_border_is_weighed_against_its_tests(name: str, copied: bool) -> None:
    """A sum that is a result as well is stored without a border: the copy is one more kernel."""
    text = """
    op halved(x: T[b, c, h, w], k: T[o, c, 3, 3]) -> (y: T[b, o, h / 2, w / 2], z: T[b, c, h, w]) {
      z = x * 2
      return conv2d(z, k; stride = 2), z
    }"""
    target = load_target(name)
    sizes = {"b": 2, "c": 320, "h": 64, "w": 64, "o": 320}
    graph = build(load(None, text), None, sizes, {}, DType.F32)
    made, report = rewrite(graph, chosen_rules(load(None, text), only=["halo"]), profitable(target))
    assert report.fired("halo") == copied
    assert len(planned(made, target).kernels) == 2 + copied
    (why,) = report.refusals("halo") or ("",)
    assert copied or "ms instead of" in why


def test_weights_are_what_the_batch_does_not_index() -> None:
    sides = equations()["winograd_4"].sides
    assert sides is not None
    left, right = sides({"b": 2, "c": 2, "h": 4, "w": 4, "o": 2}, DType.F32)
    assert weights_of(left) == {"k"}
    names = [i.name for i in with_weights(right, weights_of(left)).inputs]
    assert names == ["x"]
    assert hoist(with_weights(right, weights_of(left))).load is not None


def test_bilinear_rules_ask_the_model_and_others_do_not() -> None:
    """Where a launch takes a second, more kernels never pay; where it takes none, they may."""
    rules = equations()
    cpu = load_target("cpu")
    sizes = {"b": 2, "c": 320, "h": 64, "w": 64, "o": 320}
    slow = replace(cpu, peak=replace(cpu.peak, launch_seconds=1.0))
    assert "estimated at" in profitable(slow)(rules["winograd_4"], sizes)
    assert profitable(cpu)(rules["winograd_4"], sizes) == ""
    assert profitable(slow)(rules["flash_attention"], {"s": 64, "t": 64, "f": 16}) == ""
