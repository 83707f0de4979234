"""Shifts of several products of one operand: one weight, of which each reads its row.

In: a sum of products of something by a weight, plus a vector that is known when weights are loaded.
Out: the same, with the vector as a row of a matrix that holds those of all such sums of that
operand. Invariant: each element is computed from what it was computed from before; only the
place of a weight is another, so a kernel that computes all these sums binds fewer buffers.

    q[b, j] = (sum over k of x[b, k] * v[j, k]) + c[j];  r[b, j] = (… * w[j, k]) + d[j]
    cd[0, j] = c[j], cd[1, j] = d[j];  q[b, j] = (…) + cd[0, j];  r[b, j] = (…) + cd[1, j]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from sdlc.graph.expr import Apply, Axis, Expr, Index, Read, apply, i32
from sdlc.graph.guards import Surroundings
from sdlc.graph.node import Map, Node, Reduce, is_static
from sdlc.graph.rules import Asked, Refused, Rule

MOST = 4
"""Sums at most that share a weight: so many are computed by one kernel."""


@dataclass(frozen=True, slots=True)
class _Shifted:
    """A map that is a sum of products `product` of `operand` and a weight, plus a `shift`."""

    node: Map
    product: Reduce
    operand: Node
    shift: Read

    @property
    def like(self) -> tuple[object, ...]:
        """What sums whose shifts are one weight agree in."""
        shift, over = self.shift, tuple(a.extent for a in self.product.over)
        return self.operand, self.node.shape, over, shift.source.shape, shift.source.dtypes


def looks_at(node: Node) -> bool:
    """Whether a node is a sum of products and a vector of weights."""
    return _shifted(node) is not None


@lru_cache(maxsize=8192)
def _shifted(node: Node) -> _Shifted | None:
    match node:
        case Map(body=Apply(op="add", args=(Read() as one, Read() as other))):
            product, shift = (other, one) if is_static(one.source) else (one, other)
            operand = _operand(product.source)
            index = shift.indices[0] if len(shift.indices) == 1 else None
            whole = isinstance(index, Index) and shift.source.shape == (index.axis.extent,)
            if operand is not None and whole and is_static(shift.source) and shift.fill is None:
                assert isinstance(product.source, Reduce)
                return _Shifted(node, product.source, operand, shift)
    return None


def _operand(node: Node) -> Node | None:
    """What a sum of products multiplies by a weight."""
    match node:
        case Reduce(monoid=monoid, lift=(Apply(op="mul", args=(Read() as one, Read() as other)),)):
            if monoid.is_sum and is_static(one.source) is not is_static(other.source):
                return other.source if is_static(one.source) else one.source
    return None


def attempt(rule: Rule, node: Node, asked: Asked) -> Node | Refused:
    """The node with its shift as a row of those of all of its kind."""
    own = _shifted(node)
    assert own is not None
    family = _family(own, asked.around)
    if not 1 < len(family) <= MOST:
        return Refused(f"the sums of its operand with a shift are {len(family)}, not 2 to {MOST}")
    row = next(n for n, f in enumerate(family) if f.node is node)
    together = _rows([f.shift.source for f in family], own)
    read = Read(together, (i32(row), *own.shift.indices))
    args = own.node.body.args if isinstance(own.node.body, Apply) else ()
    body = apply("add", *(read if a is own.shift else a for a in args))
    return replace(own.node, body=body)


def _family(own: _Shifted, around: Surroundings) -> list[_Shifted]:
    """Sums that agree with this one, itself among them, in order."""
    products = (r for r in around.readers[own.operand] if isinstance(r, Reduce))
    maps = dict.fromkeys(m for p in products for m in around.readers.get(p, ()))
    found = (_shifted(m) for m in maps)
    return [f for f in found if f is not None and f.like == own.like]


def _rows(parts: Sequence[Node], own: _Shifted) -> Map:
    """Vectors as the rows of a matrix."""
    row, column = Axis("row", len(parts)), Axis("column", parts[0].shape[0])
    body: Expr = Read(parts[-1], (Index(column),))
    for number in reversed(range(len(parts) - 1)):
        here = apply("eq", Index(row), i32(number))
        body = apply("select", here, Read(parts[number], (Index(column),)), body)
    return Map((row, column), body, parts[0].dtypes[0], replace(own.node.origin, name="shifts"))
