"""Where elements lie in storage: orders and blocks, on the host and in kernels."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from graphs import matmul_graph, statistics_graph, window_graph
from sdlc.backends.target import load_target
from sdlc.graph.node import Const, Graph, Input
from sdlc.graph.types import Array, DType
from sdlc.kernel import ir as k
from sdlc.kernel.simplify import simplify
from sdlc.kernel.translate import Storage
from sdlc.program.interpreted import run_interpreted
from sdlc.program.pipeline import compile_plan
from sdlc.program.program import Program, Tensor, TensorRole
from sdlc.program.values import load, store, stored
from sdlc.proof.tolerance import Numerics, check, tolerance
from sdlc.schedule.plan import plan
from sdlc.schedule.storage import Block, stored_count, stored_extents

TARGETS = ("cpu", "nvidia", "adreno")
SIZES = st.sampled_from((1, 2, 3, 4, 5, 7, 8, 13, 16, 17, 33))


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """A tensor with any order, half of them with a block of any axis that need not divide it."""
    shape = tuple(draw(st.lists(st.integers(1, 5), max_size=4)))
    order = tuple(draw(st.permutations(range(len(shape)))))
    block = None
    if shape and draw(st.booleans()):
        block = Block(draw(st.integers(0, len(shape) - 1)), draw(st.integers(1, 9)))
    dtype = draw(st.sampled_from(DType))
    nbytes = stored_count(shape, order, block) * dtype.itemsize
    return Tensor("t", shape, dtype, order, TensorRole.WEIGHT, nbytes, block=block)


def numbered(tensor: Tensor) -> Array:
    """Elements that are all different, none of them zero."""
    made: Array = np.arange(1, prod(tensor.shape) + 1).reshape(tensor.shape)
    return made.astype(tensor.dtype.numpy)


@given(tensors())
def test_what_is_stored_is_loaded(tensor: Tensor) -> None:
    data = store(numbered(tensor), tensor)
    assert len(data) == tensor.nbytes
    np.testing.assert_array_equal(load(data, tensor), numbered(tensor))


@given(tensors())
def test_padding_is_zero_and_nothing_else_is(tensor: Tensor) -> None:
    flat = np.frombuffer(store(numbered(tensor), tensor), tensor.dtype.numpy)
    assert np.count_nonzero(flat) == prod(tensor.shape)
    assert np.count_nonzero(flat) == flat.size or tensor.block is not None


@settings(deadline=None)
@given(tensors())
def test_kernels_find_each_element_where_the_host_puts_it(tensor: Tensor) -> None:
    flat = np.frombuffer(store(numbered(tensor), tensor), tensor.dtype.numpy)
    buffer = k.Buffer("t", tensor.dtype, flat.size)
    storage = Storage(buffer, tensor.shape, tensor.order, tensor.block)
    everywhere = list(np.ndindex(tensor.shape))
    for indices in everywhere[:: max(1, len(everywhere) // 16)]:
        place = simplify(storage.flat(tuple(k.i32(i) for i in indices)), {})
        assert isinstance(place, k.Literal)
        assert flat[int(place.value)] == numbered(tensor)[indices]


def test_a_packed_weight_is_blocks_of_rows() -> None:
    """[o][k] in blocks of 32 outputs, outputs innermost: [o / 32][k][32]."""
    block = Block(0, 32)
    assert stored_extents((70, 9), (0, 1), block) == (3, 9, 32)
    array = np.arange(70.0 * 9).reshape(70, 9)
    tensor = Tensor("w", (70, 9), DType.F32, (0, 1), TensorRole.WEIGHT, 3456, block=block)
    np.testing.assert_array_equal(stored(array, tensor)[1, 4], array[32:64, 4])


# ---- in kernels ----------------------------------------------------------------------------------


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    kind = draw(st.sampled_from((matmul_graph, statistics_graph, window_graph)))
    if kind is window_graph:
        small = st.integers(1, 4)
        return window_graph(draw(small), draw(small), draw(SIZES), draw(st.sampled_from((1, 3))))
    sizes = (draw(SIZES) for _ in range(3 if kind is matmul_graph else 2))
    return kind(*sizes)


def blocked_program(graph: Graph, target: str, draw: st.DrawFn) -> Program:
    """The graph's program with blocks in everything but inputs and results."""
    scheduled = plan(graph, load_target(target))
    results = {(node, field) for _, node, field in graph.outputs}
    free = [
        (node, field)
        for node, field in scheduled.orders
        if (node, field) not in results
        and node.shape
        and (isinstance(node, Const) or not isinstance(node, Input) or node not in graph.inputs)
    ]
    blocks = {
        value: Block(draw(st.integers(0, len(value[0].shape) - 1)), draw(st.integers(1, 33)))
        for value in free
    }
    return compile_plan(graph, replace(scheduled, blocks=blocks), load_target(target))


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), st.sampled_from(TARGETS))
def test_programs_compute_the_same_with_blocks(data: st.DataObject, target: str) -> None:
    graph = data.draw(graphs())
    program = blocked_program(graph, target, data.draw)
    rng = np.random.default_rng(0)
    inputs = {i.name: rng.standard_normal(i.shape).astype(np.float32) for i in graph.inputs}
    weights = {
        t.weight: rng.standard_normal(t.shape).astype(np.float32)
        for t in program.tensors.values()
        if t.weight
    }
    allowed = tolerance(graph, inputs, weights)
    check(allowed, run_interpreted(program, inputs, weights), Numerics.REASSOCIATED)


@pytest.mark.parametrize("lanes", [8, 16, 32])
def test_vectors_inside_of_a_block_are_loaded_whole(lanes: int) -> None:
    """A weight packed for the vector axis costs no gather."""
    graph = matmul_graph(64, 48, 96)
    scheduled = plan(graph, load_target("cpu"))
    weight = next(v for v in scheduled.orders if v[0].shape == (96, 48))
    blocked = replace(scheduled, blocks={weight: Block(0, lanes)}, orders=scheduled.orders)
    plain, packed = (compile_plan(graph, p, load_target("cpu")) for p in (scheduled, blocked))
    assert vector_loads(packed) == vector_loads(plain)


def vector_loads(program: Program) -> list[int]:
    """The lanes of every load of every kernel."""
    return sorted(
        e.lanes
        for kernel in program.kernels.values()
        for stmt in k.statements(kernel.body)
        for e in k.walk(*k.statement_expressions(stmt))
        if isinstance(e, k.Load)
    )
