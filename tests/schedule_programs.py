"""Programs on which the schedule's mechanisms fire, with ranges of sizes.

In: nothing. Out: `POOL`; `fires_on(mechanism)` finds its programs. Invariant: nothing here says
which mechanism a program is for: a new one finds its own, or needs a program that it fires on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

from sdlc.backends.target import load_target
from sdlc.graph.node import Graph
from sdlc.graph.rules import rewrite, select
from sdlc.graph.types import DType
from sdlc.language.elaborate import build
from sdlc.language.elaborate_rule import load_rules
from sdlc.language.library import load
from sdlc.schedule.plan import EVERY, Plan, plan
from sdlc.target import Target

Sizes = Mapping[str, int]
Ranges = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Pooled:
    """A program, the ranges of its sizes, and a target; `rules` that rewrite it first. Launches
    are `free` where small programs stand for large ones."""

    text: str
    sizes: Ranges
    target: str
    rules: tuple[str, ...] = ()
    block: int = 0
    free: bool = False
    strip: int = 0

    @property
    def largest(self) -> Sizes:
        return {name: high for name, _, high in self.sizes}

    def graph(self, sizes: Sizes, dtype: DType = DType.F32) -> Graph:
        graph = build(load(None, self.text), None, dict(sizes), {}, dtype)
        chosen = select(load_rules(load(None, self.text)), only=self.rules)
        return rewrite(graph, chosen, lambda rule, sizes: "")[0] if self.rules else graph

    def machine(self) -> Target:
        target = load_target(self.target)
        own = target.profile
        profile = replace(own, block=self.block or own.block, strip=self.strip or own.strip)
        peak = replace(target.peak, launch_seconds=0.0) if self.free else target.peak
        return replace(target, profile=profile, peak=peak)

    def plan(self, graph: Graph, enabled: frozenset[str] = EVERY) -> Plan:
        return plan(graph, self.machine(), enabled=enabled)


_NORM = """model m(x: T[b, n, c], scale: T[c], shift: T[c], w: T[o, c]) -> T[b, n, o] {
  return silu(matmul_nt(layer_normalize(x, scale, shift), w))
}"""
_PROJECTIONS = """model m(x: T[n, c], q: T[o, c], k: T[o, c], v: T[o, c])
  -> (a: T[n, o], b: T[n, o]) {
  a = matmul_nt(silu(x), q) + matmul_nt(silu(x), k)
  b = gelu(matmul_nt(silu(x), v))
}"""
_GATED = """model m(x: T[n, c], w: T[o, c]) -> T[n, o / 2] {
  y = matmul_nt(x, w)
  out[i < n, j < o / 2] = y[i, j] * tanh(y[i, j + o / 2])
}"""
_SHIFTED = """model m(x: T[b, n, c], w: T[o, c]) -> (a: T[b, n, o], l: T[b, n], s: T[b, n, c]) {
  y[b, i, j] = sum over p < c of x[b, i, p] * w[j, p]
  a[b, i, j < o] = y[b, i, j] + (y[b, i + 1, j] else 0)
  l = logsumexp(x)
  s[b, i, j] = x[b, i, j] - l[b, i]
}"""
_ATTENTION = """model m(q: T[b, s, e], k: T[b, t, e], v: T[b, t, e]) -> T[b, s, e] {
  return attention(q, k, v)
}"""
_WEIGHTED = """model m(x: T[n, c], m: T[n], v: T[c, o]) -> T[n, o] {
  out[i, j < o] = sum over p < c of exp(x[i, p] - m[i]) * v[p, j]
}"""
_WINDOWS = """model m(x: T[b, c, h, h], k: T[o, c, 3, 3]) -> T[b, o, h, h] {
  return silu(conv2d(silu(x), k))
}"""
_NORMED = """model m(x: T[b, c, h, h], k: T[o, c, 3, 3], g: T[c], s: T[c]) -> T[b, o, h, h] {
  return conv2d(silu(group_normalize(x, g, s; groups = 1)), k)
}"""
_FEW_RESULTS = """model m(x: T[b, c], w: T[o, c]) -> (y: T[b, o], p: T[b, c]) {
  y = matmul_nt(silu(x), w)
  p = softmax(x)
}"""
_ROWS: Ranges = (("b", 1, 2), ("n", 1, 7), ("c", 5, 33), ("o", 1, 9))
_MANY: Ranges = (("b", 1, 2), ("n", 8, 67), ("c", 5, 20), ("o", 3, 9))
_FEW: Ranges = (("n", 1, 9), ("c", 1, 13), ("o", 2, 8))
_PRODUCT: Ranges = (("n", 16, 35), ("c", 4, 16), ("o", 16, 40))
_LONG: Ranges = (("b", 1, 2), ("c", 50, 900), ("o", 1, 5))
_HEADS: Ranges = (("b", 1, 2), ("s", 1, 17), ("t", 1, 33), ("e", 1, 9))
_PICTURE: Ranges = (("b", 1, 1), ("c", 1, 4), ("h", 4, 9), ("o", 1, 5))
_PICTURES: Ranges = (("b", 1, 2), ("c", 1, 4), ("h", 4, 9), ("o", 1, 4))
_LATE = """model m(x: T[s], u: T[n], v: T[n, n]) -> T[s, n] {
  y[i, j] = x[i] * u[j]
  a = matmul_nn(y, v)
  z = matmul_nn(matmul_nn(matmul_nn(matmul_nn(a, v), v), v), v)
  return y + a + z
}"""
_KEPT = """model m(x: T[s], w: T[s, s], u: T[n], v: T[n, n]) -> T[s, n] {
  f[i] = sum over k < s of w[i, k] * x[k]
  y[i, j] = f[i] * u[j]
  a = matmul_nn(y, v)
  z = matmul_nn(matmul_nn(matmul_nn(matmul_nn(a, v), v), v), v)
  return y + a + z
}"""
_BESIDE = """model m(x: T[s, n], u: T[n, n], v: T[n, m], t: T[m, m], w: T[m, n]) -> T[s, n] {
  y = silu(x)
  short = matmul_nn(y, u)
  return short + matmul_nn(matmul_nn(matmul_nn(y, v), t), w) + y
}"""
_ROOM = """model m(x: T[b, c, h, h], k: T[c, c, 3, 3], t: T[2, e], v: T[e, n], w: T[n, e])
  -> (y: T[b, c, h, h], z: T[2, e]) {
  y = silu(conv2d(silu(x), k))
  z = matmul_nn(matmul_nn(t, v), w)
}"""
_UP: Ranges = (("s", 3, 5), ("n", 8, 12), ("m", 30, 40))
_WIDE: Ranges = (("s", 3, 5), ("n", 32, 40))
_ROOMS: Ranges = (("b", 1, 1), ("c", 1, 2), ("h", 4, 8), ("e", 2, 3), ("n", 50, 400))
ROOM = Pooled(_ROOM, _ROOMS, "cpu", ("winograd_2",), strip=50)
"""A convolution beside a value that is larger than all that its strips store."""

POOL = (
    Pooled(_NORM, _ROWS, "nvidia"),
    Pooled(_NORM, _ROWS, "cpu"),
    Pooled(_NORM, _MANY, "nvidia"),
    Pooled(_NORM, _MANY, "cpu"),
    Pooled(_PROJECTIONS, _FEW, "adreno"),
    Pooled(_PROJECTIONS, _PRODUCT, "nvidia"),
    Pooled(_GATED, _FEW, "mali"),
    Pooled(_SHIFTED, _ROWS, "llvmpipe"),
    Pooled(_ATTENTION, _HEADS, "cpu", ("flash_attention",), block=4),
    Pooled(_ATTENTION, _HEADS, "nvidia", ("flash_attention",), block=4),
    Pooled(_FEW_RESULTS, _LONG, "nvidia", free=True),
    Pooled(_WEIGHTED, _PRODUCT, "cpu"),
    Pooled(_WINDOWS, _PICTURE, "cpu", ("winograd_2",)),
    Pooled(_WINDOWS, _PICTURE, "adreno", ("winograd_4",)),
    Pooled(_WINDOWS, _PICTURES, "cpu", ("winograd_2", "halo"), strip=650),
    Pooled(_WINDOWS, _PICTURES, "nvidia", ("winograd_2",), strip=850),
    Pooled(_LATE, _WIDE, "cpu"),
    Pooled(_KEPT, _WIDE, "cpu"),
    Pooled(_BESIDE, _UP, "cpu"),
    Pooled(_WINDOWS, _PICTURES, "cpu", ("winograd_4", "halo"), strip=200),
    Pooled(_NORMED, _PICTURES, "apple", ("winograd_4",), free=True),
    Pooled(_NORMED, _PICTURES, "mali", ("winograd_2", "halo"), strip=200),
    ROOM,
)


@cache
def fired_in(program: Pooled) -> frozenset[str]:
    """The mechanisms that fire on a program at its largest sizes."""
    return program.plan(program.graph(program.largest)).fired


@cache
def fires_on(mechanism: str) -> tuple[Pooled, ...]:
    return tuple(program for program in POOL if mechanism in fired_in(program))
