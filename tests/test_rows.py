"""Rows with their statistics where work-items lie side by side, and where rows are few."""

from __future__ import annotations

from math import prod

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings

import sdlc
from sdlc.backends.target import load_target
from sdlc.program.interpreted import run_interpreted
from sdlc.program.pipeline import compile_plan
from sdlc.proof.tolerance import Numerics, check, tolerance
from sdlc.schedule.nest import Kind, Nest
from sdlc.schedule.plan import EVERY, plan
from sdlc.target import Profile
from test_interleaved import norm_graph
from test_staging import target


def nest_of(name: str, *sizes: int) -> Nest:
    (kernel,) = plan(norm_graph(*sizes), load_target(name)).kernels
    return kernel.nest


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from((1, 2, 4)),
    st.tuples(*(st.sampled_from((1, 3, 4, 8, 9)) for _ in range(2))),
    st.integers(2, 3),
    st.integers(1, 14),
    st.sampled_from((1, 6)),
    st.integers(0, 2**31),
)
@example(2, (9, 8), 2, 10, 6, 0)
def test_neighbours_along_the_innermost_axis_compute_the_definition(
    vector: int, size: tuple[int, int], groups: int, each: int, cores: int, seed: int
) -> None:
    """Vectors that fill no power of two of work-items, also several work-groups for a row."""
    profile = Profile(
        vector, 32, (4, 4), reduction_lanes=32, unroll=4, slice=16, depth=2, groups=cores * groups
    )
    graph = norm_graph(1, *size, groups, each)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sdlc.schedule.rows.LONG_ROW", 1)
        patched.setattr("sdlc.schedule.rows.ALONE", 0)
        made = plan(graph, target(profile), enabled=EVERY - {"split_reductions"})
    assert len(made.kernels) == 1
    program = compile_plan(graph, made, target(profile))
    rng = np.random.default_rng(seed)
    inputs = {i.name: 3 * rng.standard_normal(i.shape).astype(np.float32) for i in graph.inputs}
    check(tolerance(graph, inputs, {}), run_interpreted(program, inputs, {}), Numerics.REASSOCIATED)


@pytest.mark.parametrize(("each", "side"), [(10, 5), (20, 5), (30, 15), (40, 10)])
def test_work_items_take_neighbours_side_by_side(each: int, side: int) -> None:
    """As many as vectors, for statistics and for what is stored; the rest go along other axes."""
    nest = nest_of("nvidia", 2, 64, 64, 32, each)
    (stage,) = nest.stages
    for made in (stage.nest, nest):
        near = [lp for lp in made.loops if lp.kind is Kind.LANE and lp.dim == 0]
        assert (near[-1].axis.name, near[-1].extent) == ("d", side)
        written = [lp.extent for lp in made.loops if lp.kind is Kind.UNROLL]
        assert prod(written) == 8
    assert stage.nest.size(Kind.LANE, 0) == nest.size(Kind.LANE, 0) <= 512


def test_few_long_rows_have_several_work_groups() -> None:
    """64 rows for 132 cores: two each, but where rows are short or many."""

    def groups(*sizes: int) -> int:
        return prod(lp.extent for lp in nest_of("nvidia", *sizes).loops if lp.kind is Kind.GROUP)

    assert groups(2, 64, 64, 32, 10) == 128
    assert groups(2, 8, 8, 32, 10) == 64
    assert groups(8, 64, 64, 32, 10) == 256


@pytest.mark.parametrize(("size", "groups"), [((10, 20, 3, 5), 2), ((2, 40, 16, 64), 4)])
def test_pictures_stored_row_by_row(size: tuple[int, int, int, int], groups: int) -> None:
    """The axis whose neighbours lie side by side is the row's own innermost one: the others are
    shared among work-items and work-groups (found by drawing)."""
    b, c, h, w = size
    x = f"T[{b}, {c}, {h}, {w}]"
    text = f"op norm(x: {x}, scale: T[{c}], shift: T[{c}]) -> {x} {{\n"
    text += f"  return group_normalize(x, scale, shift; groups = {groups})\n}}"
    program = sdlc.compile(text, target="nvidia").program
    assert len(program.dispatches) == 1
