"""Level 3: groups, storage orders, nests, and that any legal nest computes the definition."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import sdlc
from graphs import map_graph, matmul_graph, statistics_graph, window_graph
from sdlc.backends.target import load_target
from sdlc.graph.node import Graph, Map, Reduce
from sdlc.graph.numerics import Numerics
from sdlc.graph.types import DType
from sdlc.kernel.interpret import interpret
from sdlc.kernel.ir import Kernel
from sdlc.kernel.lower import lower
from sdlc.kernel.simplify import simplify_kernel
from sdlc.kernel.verify import verify
from sdlc.language.elaborate import build
from sdlc.language.library import load
from sdlc.program.interpreted import run_interpreted
from sdlc.program.pipeline import compile_graph, storage_of, tensors_of
from sdlc.program.program import TensorRole
from sdlc.proof.tolerance import check, tolerance
from sdlc.schedule.contraction import contraction
from sdlc.schedule.fuse import fuse
from sdlc.schedule.group import Group
from sdlc.schedule.nest import Bind, Kind, Nest, Refused, Reorder, Tile, initial
from sdlc.schedule.plan import Scheduled, plan
from sdlc.schedule.steps import apply, complete
from sdlc.target import Capabilities, Profile, Target

CAPS = Capabilities(("opencl",), vector_widths=(1, 2, 4, 8, 16), max_storage_buffers=16)
PROFILES = {
    "wide vectors, one lane": Profile(8, 1, (4, 16), 1, 4, points=64, flop=20000),
    "narrow vectors, many lanes": Profile(4, 64, (4, 8), 16),
    "scalars": Profile(1, 32, (2, 2), 8),
}
SIZES = st.sampled_from((1, 2, 3, 4, 5, 7, 8, 13, 16, 17, 33))


def target(profile: Profile) -> Target:
    return Target("test", "test", CAPS, profile, load_target("cpu").peak)


def drawn(graph: Graph, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    rng = np.random.default_rng(seed)
    program = compile_graph(graph, target(PROFILES["scalars"]))
    inputs = {i.name: rng.standard_normal(i.shape).astype(np.float32) for i in graph.inputs}
    weights = {
        t.weight: rng.standard_normal(t.shape).astype(np.float32)
        for t in program.tensors.values()
        if t.weight
    }
    return inputs, weights


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    kind = draw(st.sampled_from((map_graph, matmul_graph, statistics_graph, window_graph)))
    if kind is window_graph:
        small = st.integers(1, 5)
        return window_graph(draw(small), draw(small), draw(SIZES), draw(st.sampled_from((1, 3))))
    if kind is matmul_graph:
        return matmul_graph(draw(SIZES), draw(SIZES), draw(SIZES))
    return kind(draw(SIZES), draw(SIZES))


# ---- grouping


def test_an_elementwise_reader_joins_its_reduction() -> None:
    groups = fuse(matmul_graph(4, 5, 6), 8)
    assert len(groups) == 1
    assert isinstance(groups[0].stores[0].node, Map) and groups[0].monoid is not None


def test_a_sum_is_computed_where_the_later_of_two_reductions_is_stored() -> None:
    """So the earlier one is stored as what it is, not as it accumulates, and may come early."""
    text = """op residual(x: T[m, k], z: T[m, k], w: T[n, k], v: T[n, n], u: T[n, k], a: T[n],
      b: T[n]) -> T[m, n]
    {
      return add_last(matmul_nt(silu(matmul_nt(x, w)), v), a) + add_last(matmul_nt(z, u), b)
    }"""
    sizes = {"m": 6, "k": 8, "n": 8}
    made = sdlc.compile(text, sizes=sizes, target="nvidia", precision="f16").program
    temporaries = [t for t in made.tensors.values() if t.role is TensorRole.TEMPORARY]
    assert len(made.dispatches) == 3
    assert [t.dtype for t in temporaries] == [DType.F16, DType.F16]
    assert "b" not in {name for _, name in made.dispatches[-1].bindings}


def test_a_result_with_two_readers_is_stored() -> None:
    groups = fuse(window_graph(2, 4, 3, 3), 8)
    assert [g.monoid is not None for g in groups] == [False, True, False, False]
    assert isinstance(groups[1].stores[0].node, Reduce)


def test_few_bindings_keep_maps_apart() -> None:
    graph = matmul_graph(4, 5, 6)
    assert len(fuse(graph, 3)) == 1
    assert len(fuse(graph, 2)) == 2


def test_contraction_axes_are_classified() -> None:
    group = fuse(window_graph(2, 4, 3, 3), 8)[1]
    form = contraction(group)
    assert form is not None
    names = [[a.name for a in axes] for axes in (form.batch, form.m, form.n, form.k)]
    assert names == [[], ["b", "y", "x"], ["o"], ["c", "i", "j"]]
    assert contraction(fuse(statistics_graph(3, 4), 8)[0]) is None


def test_vector_axis_is_innermost_in_storage() -> None:
    made = plan(window_graph(4, 4, 16, 3), target(PROFILES["wide vectors, one lane"]))
    conv = made.kernels[1].group
    store = conv.stores[0]
    assert made.orders[(store.node, 0)] == (0, 2, 3, 1)
    weight = next(v for v in conv.operands if v[0].shape == (16, 4, 3, 3))
    assert made.orders[weight] == (2, 3, 1, 0)


def test_what_lies_between_chains_of_transforms_is_stored_as_their_products_are() -> None:
    """Channels innermost, though only transforms write and read it, the last one inside another."""
    text = """model m(x: T[b, c, h, w], k: T[c, c, 3, 3]) -> T[b, c, h, w] {
  return winograd_conv2d(relu(winograd_conv2d(x, k)), k)
}"""
    graph = build(load(None, text), None, {"b": 1, "c": 16, "h": 8, "w": 8}, {}, DType.F32)
    made = plan(graph, load_target("cpu"))
    stored = [s.node for k in made.kernels for s in k.group.stores]
    between, result = (n for n in stored if n.shape == (1, 16, 8, 8))
    assert made.orders[between, 0] == (0, 2, 3, 1) != made.orders[result, 0]


# ---- steps


def group_of(graph: Graph) -> Group:
    return fuse(graph, 8)[0]


def refusal(nest: Nest, *steps: Tile | Bind | Reorder) -> str:
    with pytest.raises(Refused) as caught:
        for step in steps:
            nest = apply(nest, step)
    assert str(nest) in str(caught.value)
    return caught.value.reason


def test_illegal_steps_say_why_and_show_the_nest() -> None:
    nest = initial(group_of(matmul_graph(8, 6, 8)))
    assert "no loop `z`" in refusal(nest, Tile("z", 2, "z.in"))
    assert "at least one" in refusal(nest, Tile("i", 0, "i.in"))
    assert "already" in refusal(nest, Tile("i", 2, "o"))
    assert "second kernel" in refusal(nest, Bind("c", Kind.GROUP))
    assert "2, 4, 8 or 16" in refusal(nest, Bind("c", Kind.VECTOR))
    assert "bound already" in refusal(nest, Bind("i", Kind.GROUP), Bind("i", Kind.LANE))
    wide = Bind("o", Kind.VECTOR)
    assert "vector loop already" in refusal(nest, wide, Bind("i", Kind.VECTOR))
    outer = (Tile("i", 4, "i.in"), Bind("i", Kind.VECTOR))
    neighbour = (Tile("i", 4, "i.in"), Tile("i.in", 3, "i.2"))
    assert "neighbour" in refusal(nest, *neighbour)
    assert "consecutive" in refusal(nest, *outer)


@st.composite
def nests(draw: st.DrawFn, group: Group) -> Nest:
    """Random steps; those that are refused are left out."""
    nest = initial(group)
    for number in range(draw(st.integers(0, 7))):
        name = draw(st.sampled_from([lp.name for lp in nest.loops]))
        size = draw(st.sampled_from((1, 2, 3, 4, 8)))
        kind = draw(st.sampled_from(tuple(Kind)))
        names = draw(st.permutations([lp.name for lp in nest.loops]))
        tile = Tile(name, size, f"{name}.{number}")
        bind = Bind(name, kind, draw(st.integers(0, 2)))
        step = draw(st.sampled_from((tile, bind, Reorder(tuple(names)))))
        try:
            made = apply(nest, step)
        except Refused:
            continue
        if copies(made) <= 32 and lanes(made) <= 128 and fits(made):
            nest = made
    return complete(nest, group)


def copies(nest: Nest) -> int:
    return int(np.prod([lp.extent for lp in nest.loops if lp.kind is Kind.UNROLL]))


def lanes(nest: Nest) -> int:
    return int(np.prod([nest.size(Kind.LANE, d) for d in range(3)]))


def fits(nest: Nest) -> bool:
    """Whether the device has as many work-items along each dimension."""
    return all(nest.size(Kind.LANE, d) <= CAPS.max_group[d] for d in range(3))


def kernel_of(graph: Graph, group: Group, nest: Nest) -> tuple[Kernel, dict[str, str]]:
    """The lowered kernel, and the tensor that each of its buffers holds."""
    made = plan(graph, target(PROFILES["scalars"]))
    names, tensors = tensors_of(graph, made)
    storage = storage_of(Scheduled(group, (), nest), names, tensors)
    kernel = simplify_kernel(lower(group, nest, storage, "kernel"))
    return kernel, {s.buffer.name: names[v] for v, s in storage.items()}


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_legal_nest_computes_the_definition(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from((map_graph, matmul_graph, statistics_graph)))
    small = st.sampled_from((1, 2, 3, 4, 5, 8, 9))
    sizes = [data.draw(small) for _ in range(3 if kind is matmul_graph else 2)]
    graph = kind(*sizes)  # type: ignore[operator]
    inputs, weights = drawn(graph, 0)
    made = plan(graph, target(PROFILES["scalars"]))
    values: dict[str, Any] = {**inputs, **weights}
    tensors = tensors_of(graph, made)[1]
    orders = {n: t.order for n, t in tensors.items()}
    for item in made.kernels:
        nest = data.draw(nests(item.group), label="nest")
        kernel, holds = kernel_of(graph, item.group, nest)
        verify(kernel, Capabilities(("opencl",), vector_widths=(1, 2, 4, 8, 16)))
        arrays = {}
        for buffer in kernel.buffers:
            name = holds[buffer.name]
            if name in values:
                arrays[buffer.name] = values[name].transpose(orders[name]).reshape(-1)
            else:
                arrays[buffer.name] = np.zeros(buffer.size, np.float32)
        results = interpret(kernel, arrays)
        for buffer_name, flat in results.items():
            name = holds[buffer_name]
            if name not in values:
                shape = [tensors[name].shape[d] for d in orders[name]]
                values[name] = flat.reshape(shape).transpose(np.argsort(orders[name]))
    outputs = {name: values[name] for name, _, _ in graph.outputs}
    check(tolerance(graph, inputs, weights), outputs, Numerics.REASSOCIATED)


@pytest.mark.parametrize("profile", PROFILES)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(graph=graphs(), seed=st.integers(0, 9))
def test_default_schedules_compute_the_definition(profile: str, graph: Graph, seed: int) -> None:
    inputs, weights = drawn(graph, seed)
    program = compile_graph(graph, target(PROFILES[profile]))
    outputs = run_interpreted(program, inputs, weights)
    check(tolerance(graph, inputs, weights), outputs, Numerics.REASSOCIATED)


@pytest.mark.parametrize(("m", "n", "order"), [(64, 4096, ["o", "i"]), (4096, 64, ["i", "o"])])
def test_a_core_keeps_the_larger_factor(m: int, n: int, order: list[str]) -> None:
    """Neighbouring work-groups share the tile of the larger factor: its axis is the slower one."""
    (kernel,) = plan(matmul_graph(m, 256, n), load_target("cpu")).kernels
    assert [lp.name for lp in kernel.nest.loops if lp.kind is Kind.GROUP] == order


def test_a_result_without_axes_has_no_order() -> None:
    source = "op total(x: f32[n]) -> (y: f32[]) { y[] = sum over i < n of x[i] }"
    made = sdlc.compile(source, target="cpu", sizes={"n": 1})
    assert len(made.program.dispatches) == 1


JOINED = """
model joined(x: T[b, k]) -> T[b, 13760] {
  param p: T[3200, k]
  param q: T[10560, k]
  z[i < 13760, c < k] = if i < 3200 then exp(p[i, c]) else exp(q[i - 3200, c])
  out[r, i] = sum over c < k of x[r, c] * z[i, c]
}
"""


def test_blocks_across_work_groups_are_proven() -> None:
    """SDXL's joined weights: a work-group's share is an odd number of vectors, a block two."""
    assert sdlc.compile(JOINED, sizes={"b": 2, "k": 1280}).program.load is not None
