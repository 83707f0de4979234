"""Rows normalised inside the contraction that multiplies them: one kernel, and the same meaning."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings

from sdlc.api import make_request
from sdlc.backends.target import load_target
from sdlc.graph.node import Graph
from sdlc.graph.types import DType
from sdlc.kernel.ir import (
    Barrier,
    For,
    Load,
    Space,
    Store,
    statement_expressions,
    statements,
    walk,
)
from sdlc.program.interpreted import run_interpreted
from sdlc.program.pipeline import compile_graph, compile_plan
from sdlc.proof.inputs import values
from sdlc.proof.narrow import narrowed
from sdlc.proof.tolerance import Numerics, check, tolerance
from sdlc.schedule.nest import Kind, Place
from sdlc.schedule.plan import EVERY, plan
from sdlc.target import Capabilities, Profile, Target

CAPS = Capabilities(("opencl",), vector_widths=(1, 2, 4, 8, 16), max_storage_buffers=16)
HEAD = "op entry(x: T[b, s, k], a: T[k], w: T[n, k], v: T[n, k]) -> T[b, s, n] {"
ROWS = {
    "layer": "y = layer_normalize(x, a, a)",
    "rms": "y = rms_normalize(x, a)",
    "softmax": "y = softmax(x)",
    "length": "y = l2_normalize(x)",
}
PRODUCTS = {
    "one": "return matmul_nt(y, w)",
    "gated": "return matmul_nt(y, w) * silu(matmul_nt(y, v))",
    "moved": "z = matmul_nt(y, w)\n out[c, r, p] = exp(z[c, r, n - 1 - p])\n return out",
}
SIZES = st.sampled_from((2, 3, 4, 5, 7, 8, 13, 16, 17, 33))


def graph_of(rows: str, product: str, sizes: dict[str, int], precision: str = "f32") -> Graph:
    text = f"{HEAD}\n{ROWS[rows]}\n{PRODUCTS[product]}\n}}"
    return make_request(text, "cpu", "entry", sizes, (None, precision)).graph()


def target(profile: Profile) -> Target:
    return Target("test", "test", CAPS, profile, load_target("cpu").peak)


PRIVATE = st.builds(
    Profile,
    vector=st.sampled_from((1, 4, 8, 16)),
    lanes=st.just(1),
    register_tile=st.sampled_from(((1, 4), (2, 8), (4, 16), (8, 8))),
    reduction_lanes=st.just(1),
    unroll=st.sampled_from((1, 4)),
)
SHARED = st.builds(
    Profile,
    vector=st.sampled_from((1, 2, 4)),
    lanes=st.sampled_from((8, 32)),
    register_tile=st.sampled_from(((1, 4), (2, 4), (4, 8))),
    reduction_lanes=st.just(4),
    unroll=st.sampled_from((1, 4)),
    slice=st.sampled_from((8, 16)),
    depth=st.sampled_from((1, 2)),
)
FETCHING = st.builds(
    Profile,
    vector=st.sampled_from((1, 4)),
    lanes=st.sampled_from((8, 32)),
    register_tile=st.sampled_from(((2, 4), (4, 8), (8, 8))),
    reduction_lanes=st.just(4),
    unroll=st.sampled_from((1, 4)),
    factor_slice=st.sampled_from((8, 16)),
    gather=st.sampled_from((1, 4)),
    registers=st.sampled_from((0, 64)),
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    PRIVATE | SHARED | FETCHING,
    st.sampled_from(sorted(ROWS)),
    st.sampled_from(sorted(PRODUCTS)),
    st.tuples(st.sampled_from((64, 67)), SIZES, SIZES),
    st.integers(0, 2**31),
)
@example(Profile(2, 8, (1, 4), 4, 1, slice=8, depth=1), "layer", "moved", (64, 4, 8), 0)
def test_rows_inside_a_product_compute_the_definition(
    profile: Profile, rows: str, product: str, sizes: tuple[int, int, int], seed: int
) -> None:
    """Rows beside zero, and one whose elements are equal."""
    s, k, n = sizes
    graph = graph_of(rows, product, {"b": 2, "s": s, "k": k, "n": n})
    program = compile_graph(graph, target(profile))
    rng = np.random.default_rng(seed)
    inputs = {i.name: rng.standard_normal(i.shape).astype(np.float32) for i in graph.inputs}
    inputs["x"] += np.float32(5)
    inputs["x"][0, 0] = 3
    allowed = tolerance(graph, inputs, {})
    check(allowed, run_interpreted(program, inputs, {}), Numerics.RESCALED)


@pytest.mark.parametrize("name", ["cpu", "nvidia"])
def test_rows_far_from_zero_keep_their_deviations(name: str) -> None:
    """A mean of 4096 deviations: squares less the square of the mean would leave nothing."""
    graph = graph_of("layer", "one", {"b": 1, "s": 128, "k": 64, "n": 16})
    program = compile_graph(graph, load_target(name))
    assert len(program.dispatches) == 1
    rng = np.random.default_rng(1)
    inputs = {i.name: rng.standard_normal(i.shape).astype(np.float32) for i in graph.inputs}
    inputs["x"] += np.float32(4096)
    allowed = tolerance(graph, inputs, {})
    check(allowed, run_interpreted(program, inputs, {}), Numerics.REASSOCIATED)


@pytest.mark.parametrize("kind", ["equal rows", "offset", "masked"])
@pytest.mark.parametrize("rows", ["layer", "rms"])
def test_rows_before_a_matrix_instruction_are_normalised_exactly(rows: str, kind: str) -> None:
    """In halves: rows are normalised before they are rounded, by numbers that each row has once."""
    graph = graph_of(rows, "one", {"b": 2, "s": 65, "k": 48, "n": 24}, "f16")
    made = plan(graph, load_target("nvidia-matrix"))
    (own,) = made.kernels
    assert own.nest.matrix is not None
    assert [s.value for s in own.nest.stages if not s.at] == [own.group.inner[0].name, "rows"]
    program = compile_plan(graph, made, load_target("nvidia-matrix"), DType.F16)
    inputs = {i.name: values(i.dtype, i.shape, "ordinary", 1) for i in graph.inputs}
    inputs["x"] = values(DType.F16, (2, 65, 48), kind, 2)
    truth = narrowed(graph, [own.group]) or graph
    check(tolerance(truth, inputs, {}), run_interpreted(program, inputs, {}), Numerics.REASSOCIATED)


def test_a_matrix_instruction_waits_for_few_barriers() -> None:
    """Work-items combine several rows' statistics at once."""
    graph = graph_of("layer", "one", {"b": 1, "s": 8192, "k": 320, "n": 320}, "f16")
    program = compile_graph(graph, load_target("nvidia-matrix"), DType.F16)
    (kernel,) = program.kernels.values()
    assert sum(isinstance(s, Barrier) for s in statements(kernel.body)) <= 14  # 44 one by one


@pytest.mark.parametrize(
    ("rows", "length", "lanes"), [(64, 96, 4), (64, 160, 4), (64, 320, 4), (77, 96, 1)]
)
def test_normalised_rows_are_stored_as_they_are_read(rows: int, length: int, lanes: int) -> None:
    """Rows of one step of K side by side, as a vector, so that WGSL has an array of vectors; every
    work-item fetches as many. Rows beyond the end have places of their own: one by one."""
    graph = graph_of("layer", "one", {"b": 2, "s": rows, "k": length, "n": 96}, "f16")
    program = compile_graph(graph, load_target("mali"), DType.F16)
    (kernel,) = program.kernels.values()
    held = next(a for a in kernel.arrays if a.name.startswith("left"))
    stores = [s for s in statements(kernel.body) if isinstance(s, Store) and s.buffer == held]
    assert {s.value.type.lanes for s in stores} == {lanes}
    assert lanes == 1 or all(s.guard is None for s in stores)
    found = (e for s in statements(kernel.body) for e in walk(*statement_expressions(s)))
    assert {e.lanes for e in found if isinstance(e, Load) and e.buffer == held} == {4}


def kernels(graph: Graph, name: str, *without: str) -> int:
    return len(plan(graph, load_target(name), enabled=EVERY - set(without)).kernels)


@pytest.mark.parametrize("name", ["cpu", "nvidia", "adreno", "mali", "apple"])
@pytest.mark.parametrize("rows", sorted(ROWS))
def test_one_kernel_where_rows_are_many(name: str, rows: str) -> None:
    graph = graph_of(rows, "one", {"b": 2, "s": 128, "k": 96, "n": 96})
    assert kernels(graph, name) == 1
    assert kernels(graph, name, "nest_factors") == 2


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("op entry(x: T[b, k], w: T[n, k]) -> T[b, n] { return matmul_nt(softmax(x), w) }", 4),
        ("op entry(x: T[b, k], w: T[n, k]) -> T[n, b] { return matmul_nt(w, softmax(x)) }", 256),
        (
            "op entry(x: T[b, k], w: T[n, k]) -> T[b, n] "
            "{ y = softmax(x)\n z = matmul_nt(y, w)\n o[i, j] = z[i, j] + y[i, 0]\n return o }",
            256,
        ),
        (
            "op entry(x: T[b, k], w: T[n, k]) -> T[b, n] "
            "{ m[j] = max over i of x[i, j]\n y[i, j] = exp(x[i, j] - m[j])\n"
            "return matmul_nt(y, w) }",
            64,
        ),
    ],
    ids=[
        "few rows",
        "rows of the other factor",
        "rows that the result needs as well",
        "statistics of what is not summed over",
    ],
)
def test_rows_that_stay_a_kernel(text: str, sizes: int) -> None:
    request = make_request(text, "cpu", "entry", {"b": sizes, "k": 64, "n": 32}, (None, "f32"))
    graph = request.graph()
    for name in ("cpu", "nvidia"):
        assert kernels(graph, name) == kernels(graph, name, "nest_factors")


def test_rows_stay_a_kernel_where_tiles_would_shrink_for_many_columns() -> None:
    """Registers for what is fetched are taken from the tile on a target that has few of them."""
    few, many = ({"b": 2, "s": 128, "k": 64, "n": n} for n in (64, 256))
    mali = load_target("mali")
    small = replace(mali, profile=replace(mali.profile, registers=48))
    found = [len(plan(graph_of("layer", "one", sizes), small).kernels) for sizes in (few, many)]
    assert found == [1, 2]
    for name in ("apple", "mali"):
        assert [kernels(graph_of("layer", "one", sizes), name) for sizes in (few, many)] == [1, 1]
    why = "its many columns would be computed in smaller tiles"
    stored = plan(graph_of("layer", "one", many), small).kernels
    assert ("nest_factors", False, why) in {r[:3] for k in stored for r in k.reasons}


def test_a_work_items_rows_lie_side_by_side() -> None:
    """Where only a normalised factor passes through local memory: the rows of one step of K arrive
    as a vector, and the product's own columns come from memory."""
    graph = graph_of("layer", "one", {"b": 2, "s": 4096, "k": 64, "n": 64})
    (kernel,) = compile_graph(graph, load_target("mali")).kernels.values()
    loops = [s for s in statements(kernel.body) if isinstance(s, For)]
    inner = max(loops, key=lambda s: len(s.body)).body
    found = {e for s in inner for e in walk(*statement_expressions(s)) if isinstance(e, Load)}
    rows, steps = load_target("mali").profile.register_tile[0], 16
    local = [e for e in found if e.buffer.space is Space.LOCAL]
    assert (len(local), {e.lanes for e in local}) == (steps, {rows})
    assert len(found) - len(local) == steps
    held = next(a for a in kernel.arrays if a is local[0].buffer)
    assert held.size == 64 * 2 * (16 + 4)


@pytest.mark.parametrize(("k", "tile", "rows"), [(96, 4, 4), (96, 2, 1), (160, 2, 2)])
def test_statistics_of_short_rows_do_not_fill_registers(k: int, tile: int, rows: int) -> None:
    """Loops of few terms, which compilers write out with all loads under way, are of one row."""
    graph = graph_of("layer", "one", {"b": 2, "s": 1024, "k": k, "n": 96}, "f16")
    adreno = load_target("adreno")
    profile = replace(adreno.profile, register_tile=(tile, 8))
    (kernel,) = plan(graph, replace(adreno, profile=profile)).kernels
    statistics = next(s for s in kernel.nest.stages if s.value == "stats")
    copies = [x.extent for x in statistics.nest.loops if x.kind is Kind.UNROLL]
    assert prod(copies) == rows


@pytest.mark.parametrize(("k", "slices"), [(96, 1), (160, 2), (192, 2), (320, 4), (1280, 16)])
def test_rows_of_every_width_have_long_slices(k: int, slices: int) -> None:
    """So long that a compiler leaves the loop over one, without what fetches it."""
    graph = graph_of("layer", "one", {"b": 2, "s": 1024, "k": k, "n": 96}, "f16")
    (kernel,) = plan(graph, load_target("mali")).kernels
    (axis,) = kernel.group.over
    assert kernel.nest.loop(axis.name).extent == slices
    assert prod(x.extent for x in kernel.nest.loops if x.axis == axis) == k


def test_a_work_item_normalises_its_rows_once() -> None:
    """Staged outside of all loops; a work-group's statistics are in local memory."""
    graph = graph_of("layer", "one", {"b": 2, "s": 128, "k": 64, "n": 96})
    (own,) = plan(graph, load_target("cpu")).kernels
    assert [(s.value, s.at, s.place) for s in own.nest.stages] == [
        ("stats", "", Place.PRIVATE),
        ("out_2", "", Place.PRIVATE),
    ]
    (shared,) = plan(graph, load_target("nvidia")).kernels
    assert (shared.nest.stages[0].at, shared.nest.stages[0].place) == ("", Place.LOCAL)
    height = prod(lp.extent for lp in shared.nest.loops if lp.axis.name in ("b0", "b1", "i"))
    assert prod(shared.nest.stages[0].region.extents) < height == 256
