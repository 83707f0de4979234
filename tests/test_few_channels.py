"""Convolutions of few channels on GPUs that load neighbours as one: how they are scheduled, and
that they compute their definition. What phones' own compilers make of them is
`tests/measure_phones.py`."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdlc.api import Request, make_request
from sdlc.program.interpreted import run_interpreted
from sdlc.program.pipeline import planned
from sdlc.proof.tolerance import Numerics, check, tolerance
from sdlc.schedule.contraction import contraction
from sdlc.schedule.nest import Kind
from sdlc.schedule.plan import Scheduled
from strategies import weights_of

PHONES = ("adreno", "mali", "apple")

FIRST = """model first(x: T[b, c, h, w]; o: int) -> T[b, o, h, w] {
  param weight: T[o, c, 3, 3]
  return conv2d(x, weight)
}"""
"""Pictures that a caller gives, row by row."""

SHARED = """model shared(x: T[b, c, h, w]; o: int) -> T[2 * b, o, h, w] {
  param weight: T[o, c, 3, 3]
  both[n < 2 * b, d, row, col] = x[n % b, d, row, col]
  return conv2d(both, weight)
}"""
"""One picture for two results, as guidance asks for."""


def asked(text: str, target: str, **sizes: int) -> Request:
    return make_request(text, target, None, sizes, (None, "f16"))


def kernel(request: Request) -> Scheduled:
    """The convolution's own kernel."""
    made = planned(request.graph(), request.target, request.rules).plan
    return next(k for k in made.kernels if contraction(k.base) is not None)


def check_interpreted(request: Request, seed: int) -> None:
    """The program, compiled with its rules and interpreted, is the definition."""
    compiled = request.build()
    rng = np.random.default_rng(seed)
    inputs = {
        i.name: (rng.standard_normal(i.shape) / 4).astype(i.dtype.numpy)
        for i in compiled.graph.inputs
    }
    weights = weights_of(compiled.graph)
    allowed = tolerance(compiled.graph, inputs, weights)
    check(allowed, run_interpreted(compiled.program, inputs, weights), Numerics.REASSOCIATED)


@pytest.mark.parametrize("name", ["mali", "apple"])
def test_a_window_is_written_out_where_pixels_lie_side_by_side(name: str) -> None:
    """Of channels that lie apart none is loaded with its neighbours, pixels are: also where they
    are read through a view, whose places are clamped."""
    for text in (FIRST, SHARED):
        item = kernel(asked(text, name, b=1, c=4, h=16, w=16, o=32))
        copies = {x.axis.name for x in item.nest.loops if x.kind is Kind.UNROLL}
        assert "j" in copies and "d" not in copies


@settings(max_examples=12, deadline=None)
@given(
    name=st.sampled_from(PHONES),
    channels=st.integers(1, 5),
    side=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    outputs=st.sampled_from([4, 5, 8, 12]),
    seed=st.integers(0, 99),
)
def test_few_channels_are_summed_as_they_are_defined(
    name: str, channels: int, side: tuple[int, int], outputs: int, seed: int
) -> None:
    sizes = {"b": 1, "c": channels, "h": side[0], "w": side[1], "o": outputs}
    check_interpreted(asked(FIRST, name, **sizes), seed)


LAST = """model last(x: T[b, c, h, w]; o: int) -> T[b, o, h, w] {
  y = silu(first: conv(x, c; size = 1))
  return last: conv(y, o)
}"""
"""A convolution to few outputs of what another kernel stores."""


@pytest.mark.parametrize("outputs", [1, 2, 3])
@pytest.mark.parametrize(("name", "staged"), [("mali", set()), ("adreno", {"right"})])
def test_few_columns_are_scalars_that_load_neighbours_of_k(
    name: str, staged: set[str], outputs: int
) -> None:
    """No vector, all columns in one work-item, both factors stored along what is summed over; only
    what all work-items read alike passes through local memory, and no border is tested."""
    request = asked(LAST, name, b=1, c=16, h=16, w=16, o=outputs)
    made = planned(request.graph(), request.target, request.rules).plan
    item = made.kernels[-1]
    kinds = {x.kind for x in item.nest.loops}
    assert Kind.VECTOR not in kinds and {s.value for s in item.nest.stages} == staged
    copies = prod(x.extent for x in item.nest.loops if x.kind is Kind.UNROLL and x.axis.name == "o")
    assert copies == outputs
    for read in item.base.reads:
        if len(read.indices) == 4:
            assert made.orders[(read.source, read.field)][-1] == 1
            assert read.fill is None


@pytest.mark.parametrize(("outputs", "padded"), [(3, True), (4, True), (64, False)])
def test_borders_are_tested_where_operands_are_fetched(outputs: int, padded: bool) -> None:
    """`adreno` fetches for many columns; of few each work-item reads its own rows."""
    request = asked(LAST, "adreno", b=1, c=64, h=16, w=16, o=outputs)
    report = planned(request.graph(), request.target, request.rules).report
    assert report.fired("halo") == padded


@settings(max_examples=16, deadline=None)
@given(
    name=st.sampled_from(("adreno", "mali")),
    channels=st.sampled_from((3, 4, 8, 12, 20)),
    side=st.tuples(st.integers(7, 13), st.integers(10, 17)),
    outputs=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_few_columns_are_summed_as_they_are_defined(
    name: str, channels: int, side: tuple[int, int], outputs: int, seed: int
) -> None:
    sizes = {"b": 1, "c": channels, "h": side[0], "w": side[1], "o": outputs}
    check_interpreted(asked(LAST, name, **sizes), seed)
