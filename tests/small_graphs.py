"""Small graphs built by hand, for tests of the reference and of the tolerance.

graph = softmax(3, 33)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sdlc.graph.expr import ZERO, Axis, Expr, Index, Read, Slot, apply, f32, i32
from sdlc.graph.node import Field, Graph, Input, Map, Monoid, Node, Reduce, Role
from sdlc.graph.types import LOWEST, DType, Origin


def slots(monoid_fields: int) -> tuple[list[Expr], list[Expr]]:
    left = [Slot(0, f, DType.F32) for f in range(monoid_fields)]
    right = [Slot(1, f, DType.F32) for f in range(monoid_fields)]
    return list(left), list(right)


def sum_monoid() -> Monoid:
    (a,), (b,) = slots(1)
    return Monoid("sum", (Field("value", DType.F32, 0.0),), (apply("add", a, b),))


def softmax_monoid() -> Monoid:
    (am, al), (bm, bl) = slots(2)
    top = apply("max", am, bm)
    scaled = [apply("mul", x, apply("exp", apply("sub", m, top))) for m, x in ((am, al), (bm, bl))]
    fields = (Field("m", DType.F32, LOWEST), Field("l", DType.F32, 0.0))
    return Monoid("softmax_stats", fields, (top, apply("add", *scaled)))


def axes(**extents: int) -> list[Axis]:
    return [Axis(name, extent) for name, extent in extents.items()]


def at(source: Node, *indices: Expr | Axis, fill: Expr | None = None, field: int = 0) -> Read:
    exprs = tuple(Index(i) if isinstance(i, Axis) else i for i in indices)
    return Read(source, exprs, field, fill)


def graph_of(node: Node, *inputs: Input, field: int = 0) -> Graph:
    return Graph("test", (("out", node, field),), inputs)


def window(axis: Axis, tap: Axis, stride: int, pad: int) -> Expr:
    moved = apply("add", apply("mul", Index(axis), i32(stride)), Index(tap))
    return apply("sub", moved, i32(pad))


def convolution(
    b: int, c: int, o: int, size: int, *, stride: int = 1, pad: int = 1, taps: int = 3
) -> Graph:
    out = (size + 2 * pad - taps) // stride + 1
    x = Input("x", (b, c, size, size), DType.F32)
    k = Input("k", (o, c, taps, taps), DType.F32, Role.WEIGHT)
    bb, oo, y, xx = axes(b=b, o=o, y=out, x=out)
    cc, i, j = axes(c=c, i=taps, j=taps)
    read = at(x, bb, cc, window(y, i, stride, pad), window(xx, j, stride, pad), fill=ZERO)
    lift = apply("mul", read, at(k, oo, cc, i, j))
    origin = Origin("y", "conv2d", None, "conv_in")
    monoid = sum_monoid()
    node = Reduce((bb, oo, y, xx), (cc, i, j), monoid, (lift,), (DType.F32,), origin)
    return graph_of(node, x)


def softmax(rows: int, width: int) -> Graph:
    x = Input("x", (rows, width), DType.F32)
    b, j, i = axes(b=rows, j=width, i=width)
    lift = (at(x, b, j), f32(1))
    stats = Reduce((b,), (j,), softmax_monoid(), lift, (DType.F32, DType.F32))
    top, total = at(stats, b), at(stats, b, field=1)
    body = apply("div", apply("exp", apply("sub", at(x, b, i), top)), total)
    return graph_of(Map((b, i), body, DType.F32), x)


def drawn(seed: int, *shape: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
