"""Convolutions of few channels on GPUs that load neighbours as one: how they are scheduled, and
that they compute their definition. What phones' own compilers make of them is
`tests/measure_phones.py`."""

from __future__ import annotations

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


@pytest.mark.parametrize(("name", "window"), [("mali", True), ("apple", True), ("cpu", True)])
def test_a_window_is_written_out_where_pixels_lie_side_by_side(name: str, window: bool) -> None:
    """Of channels that lie apart none is loaded with its neighbours, pixels are."""
    item = kernel(asked(FIRST, name, b=1, c=4, h=16, w=16, o=32))
    copies = {x.axis.name for x in item.nest.loops if x.kind is Kind.UNROLL}
    assert ("j" in copies) == window and "d" not in copies


@settings(max_examples=12)
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
