"""Small graphs for tests of the middle levels, built without the front end.

In: sizes. Out: graphs that between them have every shape that schedules distinguish: maps,
contractions with windows, guards and epilogues, reductions with several fields.
"""

from __future__ import annotations

from sdlc.graph.expr import ONE, ZERO, Axis, Expr, Index, Read, Slot, apply, f32, i32
from sdlc.graph.node import Field, Graph, Input, Map, Monoid, Node, Reduce, Role
from sdlc.graph.types import LOWEST, DType, Origin

F = DType.F32


def slot(side: int, field: int = 0) -> Slot:
    return Slot(side, field, F)


SUM = Monoid("sum", (Field("total", F, 0.0),), (apply("add", slot(0), slot(1)),))
_MAX = apply("max", slot(0), slot(1))


def _rescaled(side: int) -> Expr:
    return apply("mul", slot(side, 1), apply("exp", apply("sub", slot(side), _MAX)))


MAX_AND_SUM = Monoid(
    "max_and_sum",
    (Field("m", F, LOWEST), Field("l", F, 0.0)),
    (_MAX, apply("add", _rescaled(0), _rescaled(1))),
)


def axes(**extents: int) -> tuple[Axis, ...]:
    return tuple(Axis(n, e) for n, e in extents.items())


def at(*found: Axis) -> tuple[Expr, ...]:
    return tuple(Index(a) for a in found)


def read(node: Node, *found: Axis, field: int = 0) -> Expr:
    return Read(node, at(*found), field)


def given(name: str, *shape: int) -> Input:
    return Input(name, shape, F, Role.INPUT, Origin(name, "test"))


def weight(name: str, *shape: int) -> Input:
    return Input(name, shape, F, Role.WEIGHT, Origin(name.rsplit(".", 1)[-1], "test"))


def map_graph(m: int, n: int) -> Graph:
    """out[j, i] = exp(x[i, j]) * y[j]: a transposed and a broadcast read."""
    i, j = axes(i=m, j=n)
    x, y = given("x", m, n), given("y", n)
    body = apply("mul", apply("exp", read(x, i, j)), read(y, j))
    return Graph("map", (("out", Map((j, i), body, F, Origin("out", "map")), 0),), (x, y))


def matmul_graph(m: int, k: int, n: int) -> Graph:
    """out = relu(x w^T + b)"""
    i, c, o = axes(i=m, c=k, o=n)
    x, w, b = given("x", m, k), weight("fc.weight", n, k), weight("fc.bias", n)
    product = Reduce(
        (i, o), (c,), SUM, (apply("mul", read(x, i, c), read(w, o, c)),), (F,), Origin("y", "fc")
    )
    body = apply("max", apply("add", read(product, i, o), read(b, o)), ZERO)
    return Graph("matmul", (("out", Map((i, o), body, F, Origin("out", "fc")), 0),), (x,))


def window_graph(channels: int, size: int, outputs: int, window: int) -> Graph:
    """A padded two-dimensional window contraction of a scaled input, used twice."""
    b, o, y, x = axes(b=2, o=outputs, y=size, x=size)
    c, i, j = axes(c=channels, i=window, j=window)
    source = given("x", 2, channels, size, size)
    scaled = Map((b, c, y, x), apply("mul", read(source, b, c, y, x), f32(2)), F, Origin("s", "t"))
    shift = i32(window // 2)
    places = [apply("sub", apply("add", Index(a), Index(d)), shift) for a, d in ((y, i), (x, j))]
    inside = Read(scaled, (Index(b), Index(c), *places), 0, ZERO)
    w = weight("conv.weight", outputs, channels, window, window)
    product = apply("mul", inside, read(w, o, c, i, j))
    made = Reduce((b, o, y, x), (c, i, j), SUM, (product,), (F,), Origin("y", "conv"))
    outputs_ = tuple(
        (name, Map((b, o, y, x), apply(op, read(made, b, o, y, x)), F, Origin(name, op)), 0)
        for name, op in (("low", "neg"), ("high", "abs"))
    )
    return Graph("window", outputs_, (source,))


def statistics_graph(rows: int, columns: int) -> Graph:
    """out = exp(x - max) / sum: a reduction with two fields and its reader."""
    b, n, j = axes(b=rows, n=columns, j=columns)
    x = given("x", rows, columns)
    s = Reduce((b,), (j,), MAX_AND_SUM, (read(x, b, j), ONE), (F, F), Origin("s", "softmax"))
    top = apply("exp", apply("sub", read(x, b, n), read(s, b)))
    body = apply("div", top, read(s, b, field=1))
    return Graph("stats", (("out", Map((b, n), body, F, Origin("out", "softmax")), 0),), (x,))
