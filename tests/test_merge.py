"""Products of reductions and rows: how many kernels a program becomes, and that it stays right."""

from __future__ import annotations

import numpy as np
import pytest

from sdlc.api import make_request
from sdlc.program.interpreted import run_interpreted
from sdlc.proof.tolerance import Numerics, check, tolerance
from strategies import weights_of

PAIR = """
model gated(x: T[b, k]) -> T[b, n] {
  config n = 8
  return geglu(proj: linear(x, 2 * n))
}
"""
SIBLINGS = """
model three(x: T[b, k]) -> T[b, k] {
  q = to_q: linear(x, k)
  key = to_k: linear(x, k)
  v = to_v: linear(x, k; bias = false)
  y[b, i] = q[b, i] * key[b, i] + v[b, i]
  return y
}
"""
RESULTS = """
model results(x: T[b, k]) -> (q: T[b, k], key: T[b, k], v: T[b, k]) {
  return (to_q: linear(x, k)), (to_k: linear(x, k)), (to_v: linear(x, k))
}
"""
CHAIN = """
model chain(x: T[b, k]) -> T[b, k] {
  y = first: linear(x, k)
  z = second: linear(y, k)
  return z
}
"""
ROWS = "model rows(x: T[b, k]) -> T[b, k] { return norm: layer_norm(x) }"
GROUPS = """
model groups(x: T[b, c, h, w]) -> T[b, c, h, w] {
  return silu(norm: group_norm(x; groups = 2))
}
"""
JOINED = """
model joined(x: T[b, c, h, w], y: T[b, c, h, w]) -> T[b, 2 * c, h, w] {
  return silu(norm: group_norm(concat_channels(x, y); groups = 2))
}
"""
TOKENS, PICTURE = {"b": 5, "k": 13}, {"b": 2, "c": 6, "h": 3, "w": 5}
CASES = [
    (PAIR, TOKENS, {"cpu": 1, "adreno": 1}),
    (SIBLINGS, TOKENS, {"cpu": 2, "adreno": 1}),
    (RESULTS, TOKENS, {"cpu": 1, "adreno": 1, "nvidia": 1}),
    (CHAIN, TOKENS, {"cpu": 2}),
    (ROWS, TOKENS, {"cpu": 1, "adreno": 1, "nvidia": 1}),
    (GROUPS, PICTURE, {"cpu": 2, "adreno": 1, "mali": 1}),
    (JOINED, PICTURE, {"adreno": 1, "mali": 1, "apple": 1}),
    (GROUPS, PICTURE | {"c": 20}, {"cpu": 1, "nvidia": 1}),
]
EACH = [(text, sizes, target, n) for text, sizes, wanted in CASES for target, n in wanted.items()]


@pytest.mark.parametrize(("text", "sizes", "target", "kernels"), EACH)
def test_kernels_of_small_programs(
    text: str, sizes: dict[str, int], target: str, kernels: int
) -> None:
    compiled = make_request(text, target, None, sizes, (None, "f32")).build()
    graph, program = compiled.graph, compiled.program
    assert len(program.dispatches) == kernels
    rng = np.random.default_rng(7)
    inputs = {i.name: rng.standard_normal(i.shape).astype(np.float32) for i in graph.inputs}
    weights = weights_of(graph)
    allowed = tolerance(graph, inputs, weights)
    check(allowed, run_interpreted(program, inputs, weights), Numerics.REASSOCIATED)
