"""Biases that are added one after the other: one, made when weights are loaded.

In: a sum of something and two vectors of weights along one axis. Out: a sum of it and one vector.
Invariant: what is added is the sum of both, once rounded as the wider one of them is stored.

    y[b, j] = x[b, j] + c[j];  out[b, j] = y[b, j] + d[j]
    both[j] = c[j] + d[j];     out[b, j] = x[b, j] + both[j]

A norm's shift that went into the product behind it (`fold_affine`) meets that product's bias so.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from sdlc.graph.expr import Apply, Axis, Expr, Index, Read, apply
from sdlc.graph.node import Map, Node, is_static
from sdlc.graph.rewrite import read_through
from sdlc.graph.rules import Asked, Refused, Rule


def looks_at(node: Node) -> bool:
    """Whether a node is a sum of something and two biases."""
    return _sum(node) is not None


@lru_cache(maxsize=8192)
def _sum(node: Node) -> tuple[Expr, Read, Read] | None:
    """What two biases along one axis are added to, and these."""
    outer = _biased(node.body) if isinstance(node, Map) else None
    if outer is None or not isinstance(outer[0], Read) or outer[0].fill is not None:
        return None
    source = outer[0].source
    inner = _biased(read_through(outer[0], source)) if isinstance(source, Map) else None
    if inner is None or inner[1].indices != outer[1].indices:
        return None
    return *inner, outer[1]


def _biased(expr: Expr) -> tuple[Expr, Read] | None:
    """Something that is computed at each run, and a whole vector of weights that is added to it."""
    if not isinstance(expr, Apply) or expr.op != "add":
        return None
    for value, bias in (expr.args, expr.args[::-1]):
        if _is_bias(bias) and not all(is_static(r.source) for r in value.reads):
            assert isinstance(bias, Read)
            return value, bias
    return None


def _is_bias(expr: Expr) -> bool:
    match expr:
        case Read(source=source, indices=(Index(axis=axis),), fill=None):
            return source.shape == (axis.extent,) and is_static(source)
    return False


def attempt(rule: Rule, node: Node, asked: Asked) -> Node | Refused:
    """The node as a sum of what both biases were added to and of one."""
    found = _sum(node)
    assert found is not None and isinstance(node, Map)
    value, *biases = found
    axis = Axis("j", biases[0].source.shape[0])
    terms = (Read(b.source, (Index(axis),), b.field) for b in biases)
    dtype = max((b.source.dtypes[b.field] for b in biases), key=lambda d: d.itemsize)
    origin = replace(node.origin, name="biases")
    both = Map((axis,), apply("add", *terms), dtype, origin, node.wide)
    return replace(node, body=apply("add", value, Read(both, biases[0].indices)))
