"""Packed weights: stored in the blocks that tiles of results read, and right as such."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis import given, settings

from sdlc.backends.target import load_target
from sdlc.graph.node import Graph, Input, Role, topological
from sdlc.graph.types import DType
from sdlc.language.elaborate import build
from sdlc.language.library import load
from sdlc.program.interpreted import run_interpreted
from sdlc.program.pipeline import compile_graph
from sdlc.program.program import Program
from sdlc.proof.tolerance import Numerics, check, tolerance
from sdlc.schedule.contraction import contraction
from sdlc.schedule.draft import EVERY
from sdlc.schedule.plan import plan
from sdlc.schedule.storage import Block

CPU = load_target("cpu")
PRODUCT = """model m(x: T[n, c]; o: int = {o}) -> T[n, o] {{
  param w: T[o, c]
  return matmul_nt(x, w)
}}"""
GATED = """model m(x: T[n, c]; o: int = {o}) -> T[n, o / 2] {{
  param w: T[o, c]
  return geglu(matmul_nt(x, w))
}}"""
MADE = """model m(x: T[n, c]; o: int = {o}) -> T[n, o] {{
  param w: T[o, c]
  param s: T[o, c]
  k[j, p] = exp(w[j, p] - s[j, p])
  return matmul_nt(x, k)
}}"""
WINDOW = """model m(x: T[1, c, n, n]; o: int = {o}) -> T[1, o, n, n] {{
  param w: T[o, c, 3, 3]
  return conv2d(x, w)
}}"""
TWICE = """model m(x: T[n, c]; o: int = {o}) -> (a: T[n, o], b: T[o]) {{
  param w: T[o, c]
  a = matmul_nt(x, w)
  b[j] = max over p < c of w[j, p]
}}"""


LATER = """model m(x: T[n, c]; o: int = {o}) -> T[n, o] {{
  param w: T[o + 32, c]
  y[i, j < o] = sum over p < c of x[i, p] * w[j + 16, p]
  return y
}}"""
LONGER = LATER.replace("o + 32", "o + 8").replace("j + 16", "j")


def graph_of(text: str, n: int, c: int, o: int) -> Graph:
    return build(load(None, text.format(o=o)), None, {"n": n, "c": c}, {}, DType.F32)


def blocks_of(program: Program) -> dict[str, Block]:
    return {t.name: t.block for t in program.tensors.values() if t.block is not None}


def agrees(graph: Graph, program: Program, seed: int) -> None:
    """The interpreted kernels compute what the graph means."""
    rng = np.random.default_rng(seed)
    every = [node for node in topological(graph) if isinstance(node, Input)]
    drawn = {i: rng.standard_normal(i.shape).astype(np.float32) for i in every}
    inputs = {i.name: array for i, array in drawn.items() if i.role is Role.INPUT}
    weights = {i.name: array for i, array in drawn.items() if i.role is Role.WEIGHT}
    got = run_interpreted(program, inputs, weights)
    check(tolerance(graph, inputs, weights), got, Numerics.REASSOCIATED)


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from((PRODUCT, GATED, MADE, WINDOW, TWICE)),
    st.integers(1, 9),
    st.sampled_from((1, 3, 8)),
    st.sampled_from((16, 32, 64, 96, 160, 34, 40)),
    st.integers(0, 2**31),
)
def test_packed_weights_compute_the_definition(
    text: str, n: int, c: int, o: int, seed: int
) -> None:
    graph = graph_of(text, n, c, o)
    agrees(graph, compile_graph(graph, CPU), seed)


def test_a_tile_of_results_reads_one_block() -> None:
    """Blocks are outermost, a tile's elements innermost; the gate's halves are of one size."""
    for text, size in ((PRODUCT, 32), (GATED, 16), (WINDOW, 32)):
        program = compile_graph(graph_of(text, 8, 8, 128), CPU)
        (tensor,) = (t for t in program.tensors.values() if t.block is not None)
        assert tensor.block == Block(0, size) and tensor.order[0] == 0, text


def test_what_load_programs_make_is_packed() -> None:
    program = compile_graph(graph_of(MADE, 8, 8, 128), CPU)
    assert program.load is not None
    assert list(blocks_of(program).values()) == [Block(0, 32)]
    (name,) = blocks_of(program)
    made = blocks_of(program.load)
    assert Block(0, 32) in made.values(), name


def test_a_tile_stays_within_a_block() -> None:
    """It does not where it begins in the middle of one, or where the weight ends within one."""
    for text in (LATER, LONGER):
        graph = graph_of(text, 8, 8, 128)
        made = plan(graph, CPU)
        (kernel,) = made.kernels
        assert contraction(kernel.group) is not None and not made.packed
        agrees(graph, compile_graph(graph, CPU), 0)


def test_weights_stay_as_they_are_where_tiles_do_not_divide_them() -> None:
    """Or where something else reads them, where there is one tile, where orders are off, or where
    work-items read side by side."""
    for text, o in ((PRODUCT, 34), (PRODUCT, 33), (PRODUCT, 32), (TWICE, 128)):
        assert not plan(graph_of(text, 8, 8, o), CPU).packed, (text, o)
    graph = graph_of(PRODUCT, 8, 8, 128)
    assert plan(graph, CPU).packed
    assert not plan(graph, CPU, enabled=EVERY - {"storage_orders"}).packed
    assert not plan(graph, load_target("nvidia")).packed
