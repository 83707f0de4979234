"""Rewrites of expressions that read nodes.

In: expressions and the nodes to dissolve into them. Out: expressions with the same value.
Invariant: a read that was in bounds stays in bounds.

    inline(exp(y[i]), {y})   with y[j] = x[j] + 1   gives   exp(x[i] + 1)
"""

from __future__ import annotations

from collections.abc import Set
from functools import lru_cache
from math import prod

import numpy as np

from sdlc.graph.expr import (
    Expr,
    Index,
    Literal,
    Read,
    Slot,
    apply,
    f32,
    i32,
    rebuild,
    substitute,
    walk,
)
from sdlc.graph.node import Map, Node, Reduce
from sdlc.graph.types import DType


def in_range(index: Expr, extent: int) -> Expr:
    """`0 <= index < extent` as an expression."""
    return apply("and", apply("ge", index, i32(0)), apply("lt", index, i32(extent)))


def clamp(index: Expr, extent: int) -> Expr:
    """`index` moved to the nearest of 0 … extent - 1."""
    return apply("min", apply("max", index, i32(0)), i32(extent - 1))


def conjunction(terms: list[Expr]) -> Expr:
    made = terms[0]
    for term in terms[1:]:
        made = apply("and", made, term)
    return made


@lru_cache(maxsize=4096)
def read_through(read: Read, node: Map) -> Expr:
    """The value of `read`, which reads `node`, without the node.

    A guarded read becomes a select; the indices under it are clamped, so what `node` reads stays in
    bounds. A half-precision node's rounding is dropped: the value is at least as exact.
    """
    if read.fill is None:
        return _as_stored(
            substitute(node.body, dict(zip(node.axes, read.indices, strict=True))), node
        )
    guarded = [
        (i, a)
        for i, a in zip(read.indices, node.axes, strict=True)
        if not (isinstance(i, Index) and i.axis.extent <= a.extent)
    ]
    safe = dict(zip(node.axes, read.indices, strict=True))
    if not guarded:
        return _as_stored(substitute(node.body, safe), node)
    inside = conjunction([in_range(i, a.extent) for i, a in guarded])
    safe |= {a: clamp(i, a.extent) for i, a in guarded}
    return apply("select", inside, _as_stored(substitute(node.body, safe), node), read.fill)


def _as_stored(value: Expr, node: Map) -> Expr:
    """`value` in the arithmetic type of what `node` stores."""
    stored = DType.F32 if node.dtype is DType.F16 else node.dtype
    return value if value.dtype is stored else apply(stored.value, value)


def inline(expr: Expr, dissolved: Set[Node]) -> Expr:
    """`expr` with every read of a `Map` in `dissolved` replaced by the map's body, repeatedly, and
    with results of reductions that are known without computing them."""

    def change(e: Expr) -> Expr | None:
        if isinstance(e, Read) and isinstance(e.source, Reduce) and e.fill is None:
            return known_count(e.source, e.field)
        if isinstance(e, Read) and isinstance(e.source, Map) and e.source in dissolved:
            return inline(read_through(e, e.source), dissolved)
        return None

    return rebuild(expr, change)


def known_count(node: Reduce, field: int) -> Expr | None:
    """The value of a field that only counts: the sum of a literal over every point."""
    lift, of = node.lift[field], node.monoid.fields[field]
    sides = [Slot(side, field, of.dtype) for side in (0, 1)]
    adds = node.monoid.combine[field] in (apply("add", *sides), apply("add", *reversed(sides)))
    if not (adds and isinstance(lift, Literal) and of.dtype is DType.F32 and of.identity == 0):
        return None
    total = float(lift.value) * prod(a.extent for a in node.over)
    return f32(total) if total == float(np.float32(total)) else None


def is_view(body: Expr) -> bool:
    """Whether a map's body only moves elements: one unguarded read at computed places."""
    return (
        isinstance(body, Read)
        and body.fill is None
        and not any(isinstance(e, Read) for i in body.indices for e in walk(i))
    )
