"""Attention's products by matrix instructions: the definition, at every shape that a table's
instructions have; what stays without them, and why."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sdlc.backends.legalize import legalize
from sdlc.backends.target import load_target
from sdlc.graph.mechanisms import DEFAULT
from sdlc.graph.node import Graph
from sdlc.graph.numerics import Numerics
from sdlc.graph.rules import rewrite, select
from sdlc.graph.types import Array, DType
from sdlc.kernel.ir import Barrier, For, Kernel, Let, Load, MatrixMultiply, statements
from sdlc.language.elaborate import build
from sdlc.language.elaborate_rule import load_rules
from sdlc.language.library import load
from sdlc.program.interpreted import run_interpreted
from sdlc.program.pipeline import compile_graph
from sdlc.program.program import Program
from sdlc.proof.tolerance import check, tolerance
from sdlc.schedule.distributed import unheld
from sdlc.schedule.nest import Kind, Matrix, Refused, Stage, Tile, initial
from sdlc.schedule.nest import Place as Memory
from sdlc.schedule.plan import plan
from sdlc.schedule.steps import apply
from sdlc.target import Target
from test_matrix_nest import product_graph

TEXT = """model attended(q: T[2, s, w], k: T[2, t, w], v: T[2, t, w]; causal: bool = false)
  -> T[2, s, w]
{ return attention(q, k, v; heads = 2, causal = causal) }
"""
RULES = select(load_rules(load(None, TEXT)), only=DEFAULT)
TARGET = load_target("nvidia-matrix")


def graph(s: int, t: int, w: int, causal: bool = False) -> Graph:
    return build(load(None, TEXT), None, {"s": s, "t": t, "w": w}, {"causal": causal}, DType.F16)


def compiled(made: Graph, target: Target = TARGET) -> Program:
    return compile_graph(made, target, DType.F16, RULES)


def drawn(made: Graph) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {i.name: rng.standard_normal(i.shape).astype(np.float16) * 2 for i in made.inputs}


def instructions(program: Program) -> set[str]:
    """Those of all kernels, by name."""
    found = (s for k in program.kernels.values() for s in statements(k.body))
    return {s.instruction.name for s in found if isinstance(s, MatrixMultiply)}


@pytest.mark.parametrize(
    ("s", "t", "w", "causal"),
    [
        (32, 96, 80, False),
        (64, 64, 80, True),
        (64, 128, 32, True),
        (16, 72, 48, False),
        (16, 77, 80, True),
    ],
)
def test_attention_computes_its_definition(s: int, t: int, w: int, causal: bool) -> None:
    """With the instructions, and with the loops that stand for them: weights are rounded as if they
    had been stored."""
    made = graph(s, t, w, causal)
    program = compiled(made)
    assert len(program.kernels) == 1 and instructions(program)
    inputs = drawn(made)
    allowed = tolerance(made, inputs, {})
    plain = replace(TARGET.caps, matrix=(), f16_arithmetic=False)
    for change in (lambda k: k, lambda k: legalize(k, plain, "opencl")):
        check(allowed, run_interpreted(program, inputs, {}, change), Numerics.RESCALED)


def test_heads_take_the_instruction_that_divides_them() -> None:
    """40 is no multiple of 16: its scores are made of products of 8 terms, its values of 16."""
    assert instructions(compiled(graph(64, 128, 80))) == {"mma_m16n8k16_f16", "mma_m16n8k8_f16"}
    assert instructions(compiled(graph(64, 128, 64))) == {"mma_m16n8k16_f16"}


@pytest.mark.parametrize(("s", "t", "w"), [(40, 96, 80), (64, 7, 80), (64, 96, 24)])
def test_sizes_that_fill_no_fragments_do_without(s: int, t: int, w: int) -> None:
    assert not instructions(compiled(graph(s, t, w)))


def test_without_the_instruction_the_state_is_folded_all_the_same() -> None:
    assert not instructions(compiled(graph(64, 96, 80), load_target("nvidia")))


def test_work_items_keep_what_the_instruction_leaves_them_with() -> None:
    """Only factors that are fetched pass through local memory; nothing else waits for others."""
    made = plan(compiled_graph(64, 256, 80), TARGET).kernels[-1].nest
    local = {s.value for s in made.stages if s.place is Memory.LOCAL}
    assert local == {"scores_left", "scores_right", "sum_o_right"}
    assert all(s.place is Memory.DISTRIBUTED for s in made.stages if s.value not in local)
    kernel = next(iter(compiled(graph(64, 256, 80)).kernels.values()))
    (loop,) = (s for s in kernel.body if isinstance(s, For))
    assert sum(isinstance(s, Barrier) for s in loop.body) == 2
    assert made.size(Kind.LANE, 0) == 32 and made.size(Kind.LANE, 1) == 2
    outside = [s.value for s in made.stages if not s.at]
    assert outside == ["scores_left"]
    assert {s.value for s in made.stages if s.nest.matrix is not None} == {"scores", "sum_o"}


def test_a_sub_group_has_rows_of_two_matrices() -> None:
    """What it reads of keys and values serves both."""
    made = plan(compiled_graph(64, 256, 80), TARGET).kernels[-1].nest
    products = [s.nest for s in made.stages if s.nest.matrix is not None]
    assert all(any(lp.name.endswith(".each") for lp in nest.loops) for nest in products)


def test_a_stage_is_distributed_only_to_those_who_read_it() -> None:
    """Work-items that divide the keys in another way would need each other's scores."""
    scheduled = plan(compiled_graph(64, 256, 80), TARGET).kernels[-1]
    group, made = scheduled.group, scheduled.nest
    scores = next(s for s in made.stages if s.value == "scores")
    top = next(s for s in made.stages if s.value == "top")
    assert not unheld(group, made, scores)
    for change in (lambda lp: replace(lp, stride=8 // lp.stride), lambda lp: replace(lp, dim=1)):
        keys = [lp for lp in top.nest.loops if lp.axis in top.nest.reduced]
        moved = tuple(
            change(lp) if lp in keys and lp.kind is Kind.LANE else lp for lp in top.nest.loops
        )
        other = replace(top, nest=replace(top.nest, loops=moved))
        stages = tuple(other if s is top else s for s in made.stages)
        assert "`top` reads" in unheld(group, replace(made, stages=stages), scores)


def test_what_many_results_would_take_passes_through_local_memory() -> None:
    """Heads that leave a work-item with more results than registers hold."""
    made = plan(compiled_graph(64, 256, 2 * 224), TARGET).kernels[-1].nest
    places = {s.place for s in made.stages if s.nest.matrix is not None}
    assert places == {Memory.LOCAL}


def test_both_fetched_factors_have_what_is_summed_innermost() -> None:
    """Neighbours along it are one register of the instruction, so nothing is put together."""
    text = TEXT.replace("attention(q, k, v;", "attention(q * 2, k * 2, v * 2;")
    made = build(load(None, text), None, {"s": 64, "t": 128, "w": 80}, {}, DType.F16)
    program = compiled(made)
    kernel = next(k for k in program.kernels.values() if any_products(k))
    products = [s for s in statements(kernel.body) if isinstance(s, MatrixMultiply)]
    named = {s.var: s.value for s in statements(kernel.body) if isinstance(s, Let)}
    rights = [named.get(e, e) for s in products for e in s.right]
    assert all(isinstance(e, Load) and e.lanes == 2 for e in rights)
    inputs = drawn(made)
    check(tolerance(made, inputs, {}), run_interpreted(program, inputs, {}), Numerics.RESCALED)


def any_products(kernel: Kernel) -> bool:
    return any(isinstance(s, MatrixMultiply) for s in statements(kernel.body))


def compiled_graph(s: int, t: int, w: int) -> Graph:
    """The graph as the rules leave it."""
    return rewrite(graph(s, t, w), RULES)[0]


@pytest.mark.parametrize(("head", "block"), [(32, 64), (40, 64), (80, 64), (160, 32), (208, 16)])
def test_blocks_of_long_heads_are_short(head: int, block: int) -> None:
    """`block_values` chooses among half, once and twice the profile's block."""
    made = plan(compiled_graph(64, 256, 2 * head), TARGET).kernels[-1]
    assert made.base.over[0].extent == 256 // block


def test_a_stage_of_one_work_item_is_no_matrix() -> None:
    group = plan(product_graph(64, 64, 64), TARGET).kernels[0].group
    nest = apply(initial(group), Tile("c", 16, "c.in"), group)
    part = group.inner[0].name
    nest = apply(nest, Stage(part, "c", Memory.PRIVATE), group)
    step = Matrix((f"{part}/i",), (f"{part}/c",), (f"{part}/c",), TARGET.caps.matrix[0])
    with pytest.raises(Refused, match="a sub-group's result is no work-item's own"):
        apply(nest, step, group)
    with pytest.raises(Refused, match="there is no stage `moon`"):
        apply(nest, replace(step, rows=("moon/i",)), group)
