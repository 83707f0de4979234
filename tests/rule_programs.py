"""Programs to test rules with: a left side among other axes, and texts for the mechanisms."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from sdlc.graph.apply_rules import instantiate
from sdlc.graph.expr import Axis, Expr, Index, Read, apply, f32
from sdlc.graph.match import Bound, Match, parameters
from sdlc.graph.node import Graph, Input, Map, Node, Reduce
from sdlc.graph.types import Array, DType, Origin

Range = tuple[int, int]

_CONVOLUTION = """model m(x: T[b, c, h, w], k: T[o, c, s, s]) -> T[b, o, h, w] {
  return conv2d(silu(x), k)
}"""
_TRANSPOSED = """model m(x: T[b, c, h, w], k: T[c, o, 3, 3]) -> T[b, o, 2 * h, 2 * w] {
  return conv_transpose2d(silu(x), k; stride = 2, pad = 1, output_pad = 1)
}"""
_ONE_DIMENSION = """model m(x: T[b, c, w], k: T[o, c, 5], r: T[b, o, w]) -> T[b, o, w] {
  return conv1d(relu(x), k) * 0.5 + r
}"""
_JOINED = """model m(x: T[b, c, h], y: T[b, d, h], k: T[o, c + d, 3]) -> T[b, o, h] {
  return conv1d(concat_channels(x, y), k)
}"""
_JOINED_TWICE = """model m(x: T[b, c], y: T[b, d], z: T[b, c], w: T[2 * c + d, o]) -> T[b, o] {
  s = silu(concat(concat(x, y), z))
  return matmul_nn(concat(concat(x, y), z), w) + matmul_nn(s, w)
}"""
_PARTS = """model m(x: T[b, c], y: T[b, d], w: T[c + d, o]) -> T[b, o] {
  out[b, j] = sum over i < c + d of (x[b, i] else (y[b, i - c] else 0)) * w[i, j]
}"""
_WEIGHTS = """model m(x: T[b, s, c], z: T[b, s, o]) -> T[b, s, o] {
  u = softmax(k: linear(x, o)) + softmax(v: linear(x, o)) * z
  return u + w: linear(x, o; bias = false)
}"""
_TOGETHER = """model m(x: T[b, s, c], z: T[b, s, o]) -> T[b, s, o] {
  u = q: linear(x, o; bias = false)
  v = k: linear(x, o)
  w = v: linear(x, o)
  p[i, j, l] = sum over n < o of u[i, j, n] * v[i, l, n]
  y[i, j, n] = sum over l < s of p[i, j, l] * w[i, l, n]
  return y + z
}"""
_WIDTHS = """model m(x: T[b, c], r: T[b, o]) -> T[b] {
  y = silu(x)
  z = reduce_sum(silu(first: linear(y, o))) + reduce_sum(r)
  for n < 5 {
    z = z + reduce_sum(silu(part.{n}: linear(y, o + n)))
  }
  return z
}"""
_UNLIKE = """model m(x: T[b, c], r: T[b, o]) -> T[b] {
  y = silu(x)
  param weight: T[o, c]
  z[i, j] = sum over p < c of exp(y[i, p]) * weight[j, p]
  u = first: linear(y, o; bias = false)
  v = second: linear(y, o; bias = false)
  return reduce_sum(silu(z)) + reduce_sum(silu(u)) + reduce_sum(silu(v)) + reduce_sum(r)
}"""
_SHIFTED = """model m(x: T[b, s, c], r: T[b, s, o], t: T[b, s, p]) -> T[b, s] {
  y = silu(x)
  z = softmax(first: linear(y, o)) * r + softmax(second: linear(y, o)) * exp(r)
  u = softmax(third: linear(y, p)) * t
  out[i, j] = (sum over n < o of z[i, j, n]) + (sum over n < p of u[i, j, n])
}"""
_BIASES = """model m(x: T[b, s, c]) -> T[b, c, s] {
  param first: T[c]
  param second: T[c]
  y[i, n, j] = exp(x[i, j, n]) + first[n]
  out[i, n, j] = second[n] + y[i, n, j]
}"""
_SMALL: dict[str, Range] = {"b": (1, 2), "c": (1, 3), "h": (2, 7), "w": (3, 5), "o": (1, 3)}
_SIZES: dict[str, Range] = {"b": (1, 3), "c": (1, 4), "d": (1, 5), "o": (1, 3)}

MECHANISM_PROGRAMS: dict[str, tuple[tuple[str, dict[str, Range]], ...]] = {
    "concat_read": (
        (_JOINED, {**_SIZES, "h": (1, 5)}),
        (_JOINED_TWICE, _SIZES),
    ),
    "concat_k": ((_PARTS, _SIZES),),
    "join_weights": (
        (_WEIGHTS, {"b": (1, 2), "s": (1, 3), "c": (1, 4), "o": (1, 5)}),
        (_WIDTHS, {"b": (1, 3), "c": (1, 4), "o": (1, 4)}),
        (_UNLIKE, {"b": (1, 3), "c": (1, 4), "o": (1, 4)}),
    ),
    "join_read_together": ((_TOGETHER, {"b": (1, 2), "s": (1, 3), "c": (1, 4), "o": (1, 4)}),),
    "join_shifts": ((_SHIFTED, {"b": (1, 2), "s": (1, 3), "c": (1, 4), "o": (1, 5), "p": (6, 7)}),),
    "join_biases": ((_BIASES, {"b": (1, 2), "s": (1, 3), "c": (1, 4)}),),
    "halo": (
        (_CONVOLUTION, {**_SMALL, "s": (3, 3)}),
        (_CONVOLUTION, {**_SMALL, "s": (5, 5)}),
        (_TRANSPOSED, _SMALL),
        (_ONE_DIMENSION, {n: r for n, r in _SMALL.items() if n != "h"}),
    ),
}
"""By mechanism: texts of which it changes something, and the ranges of their sizes."""


def embedded(left: Graph, extent: int = 2) -> Graph:
    """The left side of a rule for every `z`, with each operand computed from an input: an axis that
    the rule does not mention, and a prologue."""
    z = Axis("z", extent)
    bound = {v.name: _prologue(v, z) for v in left.inputs}
    root = left.outputs[0][1]
    assert isinstance(root, Map | Reduce)
    place = Map((z, *root.axes), f32(0), root.dtypes[0], Origin("y", "embedded"))
    match = Match(place, {a: a for a in root.axes}, {}, bound, frozenset())
    made = instantiate(root, root.axes, match, DType.F32)
    inputs = tuple(_input(v, z) for v in left.inputs)
    return Graph("embedded", (("out", _after(made), 0),), inputs)


def _input(variable: Input, z: Axis) -> Input:
    return Input(variable.name, (z.extent, *variable.extents), variable.dtype)


def _prologue(variable: Input, z: Axis) -> Bound:
    """`0.5 * x[z, …]` as a map, and its element."""
    axes = tuple(replace(a, name=a.name.replace("$", "_")) for a in parameters(variable))
    places = tuple(Index(a) for a in (z, *axes))
    body = apply("mul", Read(_input(variable, z), places), f32(0.5))
    node = Map((z, *axes), body, variable.dtype, Origin(f"half_{variable.name}", "embedded"))
    params = parameters(variable)
    return Bound(params, Read(node, (Index(z), *(Index(p) for p in params))))


def _after(node: Node) -> Map:
    """An epilogue: what the rule makes is not the program's result."""
    assert isinstance(node, Map | Reduce)
    value: Expr = Read(node, tuple(Index(a) for a in node.axes))
    return Map(node.axes, apply("neg", value), node.dtypes[0], Origin("out", "embedded"))


def values_for(graph: Graph, seed: int) -> dict[str, Array]:
    """Ordinary values for a graph's float inputs."""
    generator = np.random.default_rng(seed)
    return {
        node.name: generator.standard_normal(prod(node.extents))
        .reshape(node.extents)
        .astype(node.dtype.numpy)
        for node in graph.inputs
    }
