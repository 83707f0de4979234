"""Rows side by side in storage: whatever is chosen computes the definition, in any sizes."""

from __future__ import annotations

from math import gcd, lcm
from unittest.mock import patch

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from sdlc.backends.target import load_target
from sdlc.graph.node import Graph
from sdlc.graph.types import DType
from sdlc.language.elaborate import build
from sdlc.language.library import load
from sdlc.schedule import interleaved
from sdlc.schedule.nest import Kind
from sdlc.schedule.plan import Plan, plan
from sdlc.target import Profile
from test_staging import in_one_kernel

TEXT = """op norm(x: T[b, h, w, c], scale: T[c]; groups: int = 2) -> T[b, h, w, c] {
  n = c / groups
  stats[b, g < groups] = reduce mean_var over d < n, i < h, j < w of
    (n = 1, mean = x[b, i, j, g * n + d], m2 = 0)
  out[b, i, j, d] = (x[b, i, j, d] - stats.mean[b, d / n]) * rsqrt(stats.var[b, d / n] + 1e-5) *
    scale[d]
}

model rows(x: T[b, h, w, c], scale: T[c]) -> T[b, h, w, c] {
  return norm(x, scale; groups = GROUPS)
}
"""


def norm_graph(b: int, h: int, w: int, groups: int, each: int) -> Graph:
    """A group norm of pictures that have their channels innermost."""
    text = TEXT.replace("GROUPS", str(groups))
    sizes = {"b": b, "h": h, "w": w, "c": groups * each}
    return build(load(None, text), "rows", sizes, {}, DType.F32)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from((2, 4, 8)),
    st.tuples(*(st.sampled_from((1, 2, 3, 4, 5, 7, 8)) for _ in range(2))),
    st.integers(2, 3),
    st.integers(2, 6),
    st.sampled_from((2, 8, 8192)),
    st.integers(0, 2**31),
)
def test_columns_of_neighbouring_rows_compute_the_definition(
    vector: int, size: tuple[int, int], blocks: int, each: int, most: int, seed: int
) -> None:
    profile = Profile(vector, 1, (4, 16), 1, 4)
    graph = norm_graph(2, *size, blocks * vector // gcd(each, vector), each)
    with patch.object(interleaved, "MOST_FOLDED", most):
        assert in_one_kernel(graph, profile, seed) == 2


def _made(each: int, side: int) -> Plan:
    return plan(norm_graph(1, side, side, 32, each), load_target("cpu"))


@pytest.mark.parametrize("each", [2, 3, 10])
def test_vectors_run_along_the_channels_of_several_groups(each: int) -> None:
    """The lanes of a vector are neighbours in memory, not a row of the picture apart."""
    (kernel,) = _made(each, 64).kernels
    columns, rows = kernel.nest.stages
    assert (columns.value, rows.value) == ("stats_columns", "stats")
    for nest in (columns.nest, kernel.nest):
        (vector,) = (lp for lp in nest.loops if lp.kind is Kind.VECTOR)
        assert (vector.extent, vector.stride) == (16, 1)
    assert rows.region.extents == (1, lcm(each, 16) // each)
    assert "vector_rows" in {name for name, fired, *_ in kernel.reasons if fired}


def test_a_lane_folds_a_bounded_number_of_elements() -> None:
    (kernel,) = _made(2, 256).kernels
    columns = kernel.group.inner[0]
    assert [a.extent for a in columns.over] == [32, 256]
    assert columns.axes[0].extent == 8
