"""Inner groups: regions, stages, folds in blocks; each must compute the definition."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from graphs import MAX_AND_SUM, SUM, at, axes, read, slot, weight
from graphs import given as entry
from sdlc.api import make_request
from sdlc.backends.target import load_target
from sdlc.graph.expr import (
    ONE,
    ZERO,
    Apply,
    Axis,
    Index,
    Read,
    Slot,
    apply,
    i32,
    substitute,
    walk,
)
from sdlc.graph.node import Field, Graph, Map, Monoid, Reduce
from sdlc.graph.reference import Mode, evaluate
from sdlc.graph.types import LOWEST, DType, Origin
from sdlc.kernel.ir import Barrier, Declare, Load, statements
from sdlc.kernel.rewrite import expressions
from sdlc.language.elaborate import build
from sdlc.language.library import load
from sdlc.program.interpreted import run_interpreted
from sdlc.program.pipeline import compile_plan, planned
from sdlc.proof.tolerance import Numerics, check, tolerance
from sdlc.schedule.bijection import inverse
from sdlc.schedule.draft import EVERY, Setting
from sdlc.schedule.group import Group
from sdlc.schedule.nest import Kind, Place, Refused, Spread, Stage, Tile
from sdlc.schedule.plan import Scheduled, plan
from sdlc.schedule.rescale import blocks_of, rescaled
from sdlc.schedule.sharing import unshared
from sdlc.schedule.steps import schedule
from sdlc.schedule.tactics import tactics
from sdlc.target import Capabilities, Profile, Target

F = DType.F32
CAPS = Capabilities(("opencl",), vector_widths=(1, 2, 4, 8, 16), max_storage_buffers=16)
SIZES = st.sampled_from((1, 2, 3, 4, 5, 7, 8, 13, 16, 17, 33))
_TOP = apply("max", slot(0), slot(1))


def _scaled(field: int) -> Slot:
    terms = [
        apply("mul", Slot(side, field, F), apply("exp", apply("sub", slot(side), _TOP)))
        for side in (0, 1)
    ]
    return apply("add", *terms)  # type: ignore[return-value]


STATE = Monoid(
    "state",
    (Field("m", F, LOWEST), Field("l", F, 0.0), Field("o", F, 0.0)),
    (_TOP, _scaled(1), _scaled(2)),
)


def target(profile: Profile) -> Target:
    return Target("test", "test", CAPS, profile, load_target("cpu").peak)


def attention_graph(b: int, s: int, t: int, d: int, f: int) -> Graph:
    """The online form: scores, then the state over the keys, then the quotient."""
    bb, ss, tt, dd, ff = axes(b=b, s=s, t=t, d=d, f=f)
    q, key, value = entry("q", b, s, d), entry("k", b, t, d), entry("v", b, t, f)
    lift = (apply("mul", read(q, bb, ss, dd), read(key, bb, tt, dd)),)
    scores = Reduce((bb, ss, tt), (dd,), SUM, lift, (F,), Origin("scores", "attention"))
    terms = (read(scores, bb, ss, tt), ONE, read(value, bb, tt, ff))
    state = Reduce((bb, ss, ff), (tt,), STATE, terms, (F, F, F), Origin("state", "attention"))
    total = apply("div", read(state, bb, ss, ff, field=2), read(state, bb, ss, ff, field=1))
    out = Map((bb, ss, ff), total, F, Origin("out", "attention"))
    return Graph("attention", (("out", out, 0),), (q, key, value))


def in_one_kernel(graph: Graph, profile: Profile, seed: int) -> int:
    """The graph becomes one kernel, which computes what it means in every way that a tactic has
    for it; how many these are."""
    made = plan(graph, target(profile))
    assert len(made.kernels) == 1
    kernel, setting = made.kernels[0], Setting(profile, CAPS.max_groups, made.orders)
    rng = np.random.default_rng(seed)
    inputs = {i.name: 3 * rng.standard_normal(i.shape).astype(np.float32) for i in graph.inputs}
    allowed = tolerance(graph, inputs, {})
    ways = [*tactics(kernel.base, kernel.lanes, setting)]
    for _, whole, steps in ways:
        way = Scheduled(whole, steps, schedule(whole, steps), kernel.lanes)
        program = compile_plan(graph, replace(made, kernels=(way,)), target(profile))
        check(allowed, run_interpreted(program, inputs, {}), Numerics.RESCALED)
    return len(ways)


PROFILES = st.builds(
    Profile,
    vector=st.sampled_from((1, 2, 4, 8)),
    lanes=st.just(1),
    register_tile=st.sampled_from(((1, 4), (2, 8), (4, 16), (8, 8))),
    reduction_lanes=st.just(1),
    unroll=st.sampled_from((1, 2, 4)),
    block=st.sampled_from((1, 2, 4, 7, 16)),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(PROFILES, SIZES, SIZES, st.integers(1, 9), st.integers(1, 17), st.integers(0, 2**31))
def test_attention_in_blocks_computes_the_definition(
    profile: Profile, s: int, t: int, d: int, f: int, seed: int
) -> None:
    graph = attention_graph(2, s, t, d, f)
    fills = 1 < profile.vector <= max(2, s)
    assert in_one_kernel(graph, profile, seed) == (2 if fills else 1)


def weighted_graph(n: int, c: int, o: int) -> Graph:
    """A product whose left factor is a function of what is read: out = exp(x - m) · v."""
    nn, cc, oo = axes(n=n, c=c, o=o)
    x, top, v = entry("x", n, c), entry("m", n), entry("v", c, o)
    left = apply("exp", apply("sub", read(x, nn, cc), read(top, nn)))
    lift = (apply("mul", left, read(v, cc, oo)),)
    out = Reduce((nn, oo), (cc,), SUM, lift, (F,), Origin("out", "weighted"))
    return Graph("weighted", (("out", out, 0),), (x, top, v))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(PROFILES, SIZES, SIZES, SIZES, st.integers(0, 2**31))
def test_a_factor_that_is_held_computes_the_definition(
    profile: Profile, n: int, c: int, o: int, seed: int
) -> None:
    in_one_kernel(weighted_graph(n, c, o), profile, seed)


def test_factors_are_held_where_columns_share_them() -> None:
    """An exponential is made once for forty columns; for one vector of them it may stay inside."""
    cpu = load_target("cpu")
    (kernel,) = plan(weighted_graph(64, 64, 40), cpu).kernels
    assert [stage.value for stage in kernel.nest.stages] == ["left"]
    (kernel,) = plan(weighted_graph(64, 64, 40), cpu, enabled=EVERY - {"hold_factors"}).kernels
    assert not kernel.nest.stages


SHARED = st.builds(
    Profile,
    vector=st.sampled_from((1, 2, 4)),
    lanes=st.sampled_from((4, 8, 32)),
    register_tile=st.sampled_from(((1, 4), (2, 4), (4, 4))),
    reduction_lanes=st.just(4),
    unroll=st.sampled_from((1, 4)),
    block=st.sampled_from((2, 4, 7, 8)),
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(SHARED, SIZES, SIZES, st.integers(1, 5), st.integers(2, 17), st.integers(0, 2**31))
def test_attention_through_local_memory_computes_the_definition(
    profile: Profile, s: int, t: int, d: int, f: int, seed: int
) -> None:
    graph = attention_graph(1, s, t, d, f)
    in_one_kernel(graph, profile, seed)


STREAMED = st.builds(
    Profile,
    vector=st.sampled_from((1, 2, 4)),
    lanes=st.sampled_from((4, 8, 32)),
    register_tile=st.sampled_from(((1, 4), (2, 4), (4, 4))),
    reduction_lanes=st.just(4),
    unroll=st.sampled_from((1, 4)),
    block=st.sampled_from((2, 4, 8)),
    slice=st.just(8),
    depth=st.sampled_from((1, 2)),
    groups=st.sampled_from((1, 8)),
    registers=st.sampled_from((0, 64)),
    gather=st.sampled_from((1, 4)),
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STREAMED, SIZES, SIZES, st.integers(1, 5), st.integers(2, 17), st.integers(0, 2**31))
def test_attention_whose_operands_stream_computes_the_definition(
    profile: Profile, s: int, t: int, d: int, f: int, seed: int
) -> None:
    in_one_kernel(attention_graph(1, s, t, d, f), profile, seed)


STREAMS = Profile(4, 32, (4, 4), 4, 4, 8, depth=2, groups=1)


def test_a_work_group_of_one_waits_for_nothing() -> None:
    """What it stages in local memory only it reads; PoCL's compiler fails at some of the barriers
    that there were (found by drawing)."""
    graph = attention_graph(1, 5, 7, 3, 4)
    made = plan(graph, target(STREAMS))
    group = made.kernels[0].base
    stages = [Stage(p.name, group.over[-1].name, Place.LOCAL) for p in reversed(group.inner)]
    way = Scheduled(group, tuple(stages), schedule(group, stages))
    program = compile_plan(graph, replace(made, kernels=(way,)), target(STREAMS))
    (lowered,) = program.kernels.values()
    assert lowered.group == (1, 1, 1) and len(stages) > 3
    assert not any(isinstance(s, Barrier) for s in statements(lowered.body))
    inputs = {i.name: np.ones(i.shape, np.float32) for i in graph.inputs}
    check(tolerance(graph, inputs, {}), run_interpreted(program, inputs, {}), Numerics.RESCALED)


@pytest.mark.parametrize("columns", [7, 8])
@pytest.mark.parametrize("depth", [1, 2])
def test_what_is_folded_over_an_axis_like_the_columns_is_needed_whole(
    depth: int, columns: int
) -> None:
    """The rows that are folded are attention's own result, whose axis is named like the columns of
    the second one, and is as long: each column needs all of it (found by drawing)."""
    text = """model m(x: T[b, s, 2], k: T[b, 2, n], v: T[b, n, n]) -> T[b, s, n] {
      return attention_online(attention_online(x, k), v)
    }"""
    graph = build(load(None, text), None, {"b": 2, "s": 5, "n": columns}, {}, F)
    in_one_kernel(graph, replace(STREAMS, depth=depth, block=16), 0)


def test_streams_are_staged_a_block_ahead_and_weights_take_the_place_of_scores() -> None:
    graph = attention_graph(1, 64, 64, 16, 16)
    whole = plan(graph, target(STREAMS))
    (kernel,) = whole.kernels
    shared = {s.value: s.shares for s in kernel.nest.stages}
    assert shared["scores"] == "weight" and shared["weight"] == ""
    assert {"scores_right", "sum_o_right"} <= shared.keys()
    assert next(s for s in kernel.nest.stages if s.value == "sum_o").region.steps[1] > 1
    program = compile_plan(graph, whole, target(STREAMS))
    (made,) = program.kernels.values()
    names = {a.name for a in made.arrays}
    assert "weight_kept" not in names and "scores_kept" in names
    assert any(s.var.name == "k_next" for s in statements(made.body) if isinstance(s, Declare))


@pytest.mark.parametrize(("keys", "depth"), [(64, 1), (77, 1), (64, 2)])
def test_streams_take_turns_unless_one_is_under_way(keys: int, depth: int) -> None:
    """Keys have been read when values are fetched: one array of local memory holds both, and where
    blocks overrun the keys too. What is fetched a block ahead keeps its own."""
    graph = attention_graph(1, 20, keys, 16, 16)
    profile = replace(STREAMS, slice=8, depth=depth, block=16)
    whole = plan(graph, target(profile))
    (kernel,) = whole.kernels
    order = [s.value for s in kernel.nest.stages]
    shared = {s.value: s.shares for s in kernel.nest.stages}
    assert order.index("scores") < order.index("sum_o_right") < order.index("top")
    assert shared["scores_right"] == ("sum_o_right" if depth == 1 else "")
    assert shared["scores"] == "weight" and shared["sum_o_right"] == ""
    program = compile_plan(graph, whole, target(profile))
    (made,) = program.kernels.values()
    names = {a.name for a in made.arrays}
    assert ("sum_o_right_kept" in names) is (depth == 2) and "weight_kept" not in names
    assert sum(isinstance(s, Barrier) for s in statements(made.body)) == 6
    in_one_kernel(graph, profile, 0)


@pytest.mark.parametrize(("keys", "size", "deep"), [(64, 16, 4), (77, 12, 4), (77, 10, 2)])
def test_what_lies_side_by_side_is_fetched_as_vectors_and_stored_turned(
    keys: int, size: int, deep: int
) -> None:
    """Elements of a key are neighbours in memory, keys in local memory."""
    graph = attention_graph(1, 20, keys, size, 16)
    profile = replace(STREAMS, slice=8, depth=1, block=16, registers=64, gather=4)
    whole = plan(graph, target(profile))
    (kernel,) = whole.kernels
    found = {s.value: (s.deep, s.spread) for s in kernel.nest.stages if s.spread}
    width = found["scores_right"][1]
    assert found["scores_right"] == (deep, width) and found["sum_o_right"] == (1, 4)
    assert f"spread by {deep} × {width}" in str(kernel.nest)
    program = compile_plan(graph, whole, target(profile))
    (made,) = program.kernels.values()
    lanes = {e.lanes for e in expressions(made) if isinstance(e, Load) and e.buffer.name == "k"}
    assert lanes == ({4} if deep == 4 else {1})
    in_one_kernel(graph, profile, 0)
    (keys_at,) = (s for s in kernel.steps if isinstance(s, Spread) and s.deep > 1)
    wrong = tuple(replace(s, deep=7) if s is keys_at else s for s in kernel.steps)
    with pytest.raises(Refused, match="depth does not divide"):
        schedule(kernel.group, wrong)


@pytest.mark.parametrize(("keys", "steps"), [(77, 14), (64, 16), (80, 10)])
def test_sums_over_keys_are_written_out_further_than_whole_loads(keys: int, steps: int) -> None:
    """Of 28 keys a block 14 at a time, of 20 ten: four at a time leave a loop of mostly counting.
    Scores, whose factors come from memory, keep whole loads."""
    graph = attention_graph(1, 20, keys, 20, 4)
    profile = Profile(
        vector=4, lanes=64, register_tile=(4, 8), reduction_lanes=64, unroll=8, slice=8, gather=4,
        groups=3, across=8, registers=64, block=32 if keys != 80 else 20,
    )  # fmt: skip
    (kernel,) = plan(graph, target(profile)).kernels
    written = {s.name: s.size for s in kernel.steps if isinstance(s, Tile) and "unroll" in s.inner}
    assert written["sum_o/t.in"] == steps and written["scores/d"] == 4, written
    in_one_kernel(graph, profile, 0)


def test_a_stage_gives_its_place_only_to_the_last_that_reads_it() -> None:
    (kernel,) = plan(attention_graph(1, 16, 32, 4, 4), target(STREAMS)).kernels
    steps = list(kernel.steps)
    place = next(n for n, s in enumerate(steps) if isinstance(s, Stage) and s.shares)
    for wrong, reason in (
        ("top", "is no map in the same place"),
        ("scores", "no stage `scores` comes after it"),
    ):
        steps[place] = replace(steps[place], shares=wrong)  # type: ignore[type-var]
        with pytest.raises(Refused, match=reason):
            schedule(kernel.group, tuple(steps))


def test_a_place_is_not_taken_from_what_is_still_read() -> None:
    """By a later stage, or by the one that takes it, at other elements."""
    (kernel,) = plan(attention_graph(1, 16, 16, 4, 4), target(STREAMS)).kernels
    group, nest = kernel.group, kernel.nest
    stage = next(s for s in nest.stages if s.shares)
    assert unshared(group, nest, stage) == ""
    parts = {g.name: g for g in group.inner}
    first, taker, reader = (parts[name] for name in ("scores", stage.shares, "sum_o"))

    def with_part(old: Group, **changed: object) -> Group:
        new = replace(old, **changed)  # type: ignore[arg-type]
        return replace(group, inner=tuple(new if g is old else g for g in group.inner))

    read = next(r for r in reader.reads if r.source is taker.stores[0].node)
    late = apply("add", reader.lift[0], Read(first.stores[0].node, read.indices))
    assert "`sum_o` reads it after" in unshared(with_part(reader, lift=(late,)), nest, stage)
    row, key = taker.axes[-2:]
    turned = {row: Index(key), key: Index(row)}
    stores = tuple(replace(s, value=substitute(s.value, turned)) for s in taker.stores)
    assert "other elements than its own" in unshared(with_part(taker, stores=stores), nest, stage)


def test_many_blocks_are_folded_for_several_vectors_of_rows() -> None:
    """What does not stay in the first caches is read once for all rows of a work-item."""
    for keys, values, vectors in ((1024, 40, 1), (2048, 40, 4), (2048, 80, 2), (2048, 160, 1)):
        (kernel,) = plan(attention_graph(8, 4096, keys, 40, values), load_target("cpu")).kernels
        tile = [lp.extent for lp in kernel.nest.loops if lp.name == "s.tile"]
        assert (tile or [1]) == [vectors], (keys, values)
    profile = replace(load_target("cpu").profile, vector=2, block=1)
    assert in_one_kernel(attention_graph(8, 128, 33, 3, 3), profile, 0) == 2


def test_a_monoid_that_rescales_is_told_by_its_equations() -> None:
    form = rescaled(STATE)
    assert form is not None and form.leaders == (0,) and [f for f, _ in form.weights] == [1, 2]
    assert rescaled(MAX_AND_SUM) is not None
    assert rescaled(SUM) is None
    twisted = replace_combine(STATE, 2, apply("add", Slot(0, 2, F), Slot(1, 2, F)))
    other = rescaled(twisted)
    assert other is not None and other.leaders == (0, 2)
    lopsided = apply("add", Slot(0, 2, F), apply("mul", Slot(1, 2, F), apply("exp", slot(1))))
    assert rescaled(replace_combine(STATE, 2, lopsided)) is None


def replace_combine(monoid: Monoid, field: int, made: object) -> Monoid:
    combine = tuple(made if f == field else c for f, c in enumerate(monoid.combine))
    return Monoid("other", monoid.fields, combine)  # type: ignore[arg-type]


@pytest.mark.parametrize("extent", [1, 2, 7, 16, 33, 64, 77, 97, 100, 4096])
@pytest.mark.parametrize("size", [1, 4, 16, 64])
@pytest.mark.parametrize("vector", [1, 4])
def test_blocks_cover_an_axis(extent: int, size: int, vector: int) -> None:
    (axis,) = axes(t=extent)
    blocks = blocks_of(axis, size, 1, vector)
    total = blocks.outer.extent * blocks.inner.extent
    assert extent <= total < extent + blocks.inner.extent
    inside = Map((blocks.outer, blocks.inner), blocks.kept(ONE, ZERO), F, Origin("in", "test"))
    kept = evaluate(Graph("kept", (("in", inside, 0),), ()), {}, {}, Mode.F64)["in"].ravel()
    assert list(kept) == [1] * extent + [0] * (total - extent)
    assert blocks.is_exact == (total == extent)
    assert blocks.inner.extent <= 2 * size
    assert blocks_of(Axis("t", 77), 32, 1, 4).inner.extent == 28


def test_beyond_the_keys_weights_are_0_and_sums_ask_nothing() -> None:
    graph = attention_graph(1, 16, 77, 16, 16)
    (kernel,) = plan(graph, load_target("adreno")).kernels
    guarded = {
        p.name
        for p in kernel.group.inner
        for e in walk(*p.lift, *(s.value for s in p.stores))
        if isinstance(e, Apply) and e.op == "select"
    }
    assert guarded == {"top", "weight"}


@pytest.mark.parametrize("extent", [1, 7, 9, 77, 100, 4096])
@pytest.mark.parametrize("size", [16, 32, 64])
def test_blocks_are_whole_units(extent: int, size: int) -> None:
    (axis,) = axes(t=extent)
    blocks = blocks_of(axis, size, unit=16)
    inner = blocks.inner.extent
    assert inner % 16 == 0 or inner == extent <= 8
    assert 0 <= blocks.outer.extent * inner - extent < inner <= 2 * size


def test_scores_are_computed_inside() -> None:
    profile = Profile(8, 1, (4, 16), 1, 4, block=16)
    graph = attention_graph(1, 16, 64, 8, 8)
    for enabled, held in ((EVERY, ["row_scores"]), (EVERY - {"vector_rows"}, [])):
        scheduled = plan(graph, target(profile), enabled=enabled).kernels
        assert len(scheduled) == 1
        stages = scheduled[0].nest.stages
        names = [stage.value for stage in stages]
        assert names == [*held, "scores", "top", "weight", "sum_l", "sum_o"]
        vectors = [lp for s in stages for lp in s.nest.loops if lp.kind is Kind.VECTOR]
        assert len(vectors) == len(stages)


@pytest.mark.parametrize("name", ["adreno", "cpu", "nvidia"])
def test_scores_in_phases_lie_in_memory(name: str) -> None:
    """Rows of a picture three times as high are read at remainders of a row, which no tile of rows
    holds in one piece."""
    text = """model m(x: f32[2, 3, 3, 1], w: f32[4, 3, 1, 1], v: f32[2, 4, 3, 5]) -> T[2, 4, 9, 5] {
      return attention_online(conv2d_upsampled(x, w; factor = 3), v)
    }"""
    request = make_request(text, name, None, {}, (None, "f32"))
    rng = np.random.default_rng(5)
    shapes = {"x": (2, 3, 3, 1), "w": (4, 3, 1, 1), "v": (2, 4, 3, 5)}
    inputs = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    graph = request.graph()
    made = planned(graph, request.target, request.rules)
    program = compile_plan(made.graph, made.plan, request.target)
    ran = run_interpreted(program, inputs, {})
    check(tolerance(graph, inputs, {}), ran, Numerics.RESCALED)


@pytest.mark.parametrize("name", ["llvmpipe", "swiftshader"])
def test_scores_that_no_binding_holds_are_not_stored(name: str) -> None:
    """Those of 64 x 64 pixels and eight heads in f32; of 32 x 32 they are, which is quicker."""
    text = "model m(q: T[b, h, s, e]) -> T[b, h, s, e] { return attention_heads(q, q, q) }"
    for pixels, stored in ((1024, True), (4096, False)):
        sizes = {"b": 2, "h": 8, "s": pixels, "e": 12}
        request = make_request(text, name, None, sizes, (None, "f32"))
        made = planned(request.graph(), request.target, request.rules).plan
        values = {s.node.shape for k in made.kernels for s in k.group.stores}
        assert ((2, 8, pixels, pixels) in values) is stored


def test_lanes_of_a_vector_are_rows_where_values_do_not_fill_it() -> None:
    """A head of 12 leaves a quarter of a vector of 16 empty; few rows leave it to the values."""
    profile, cpu = load_target("cpu").profile, load_target("cpu")
    for queries, values, by_rows in ((64, 12, True), (64, 40, True), (8, 64, False)):
        (kernel,) = plan(attention_graph(2, queries, 64, values, values), cpu).kernels
        (vector,) = (lp for lp in kernel.nest.loops if lp.kind is Kind.VECTOR)
        assert vector.extent == profile.vector
        assert (vector.axis.name == "s") == by_rows, (queries, values)


def test_arrangements_are_inverted() -> None:
    i, h, e, s = axes(i=12, h=3, e=4, s=12)
    cut = (apply("floordiv", Index(i), i32(4)), apply("mod", Index(i), i32(4)))
    assert inverse(cut, (h, e), (i,)) == {i: apply("add", apply("mul", Index(h), i32(4)), Index(e))}
    joined = (apply("add", apply("mul", Index(h), i32(4)), Index(e)),)
    assert inverse(joined, (s,), (h, e)) == {
        h: apply("floordiv", Index(s), i32(4)),
        e: apply("mod", Index(s), i32(4)),
    }
    assert inverse(at(h, e), (h, e), (e, h)) == {h: Index(h), e: Index(e)}
    assert inverse(cut[:1], (h,), (i,)) is None
    assert inverse((Index(h), Index(h)), (h, h), (h, e)) is None


def test_weights_named() -> None:
    """Weights of inner contractions take the order that their vectors want."""
    bb, ss, tt, dd = axes(b=1, s=8, t=32, d=4)
    x, w = entry("x", 1, 8, 4), weight("w", 32, 4)
    lift = (apply("mul", read(x, bb, ss, dd), read(w, tt, dd)),)
    scores = Reduce((bb, ss, tt), (dd,), SUM, lift, (F,), Origin("scores", "test"))
    terms = (read(scores, bb, ss, tt), ONE)
    state = Reduce((bb, ss), (tt,), MAX_AND_SUM, terms, (F, F), Origin("state", "test"))
    out = Map((bb, ss), read(state, bb, ss, field=1), F, Origin("out", "test"))
    graph = Graph("lead", (("out", out, 0),), (x,))
    scheduled = plan(graph, target(replace(Profile(8, 1, (4, 16), 1, 4), block=8)))
    assert scheduled.orders[(w, 0)] == (1, 0)


def test_scores_that_are_no_product_are_folded_too() -> None:
    """Sums of windows as scores: keys fill a vector already where the fold of one would."""
    text = """model m(x: T[1, 1, 1, 1], v: T[1, 1, 2, 1]) -> T[1, 1, 2, 1] {
      return attention_online(avg_pool2d(x; pad = 2), v)
    }"""
    graph = build(load(None, text), None, {}, {}, F)
    (kernel,) = plan(graph, load_target("nvidia")).kernels
    assert kernel.nest.stages
