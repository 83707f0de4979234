"""The halo: borders in storage instead of guards in the inner loop.

In: a contraction whose factor is read with an `else`. Out: the same, reading a padded copy of what
is computed anyway, in range everywhere. Invariant: the value at every point is the same, bit for
bit. It is about reads, not about convolutions: any window, stride, dilation or offset will do.

    sum over c, i of (x[c, y + i - 1] else 0) * k[c, i]      with a map x
    xp[c, y] = x[c, y - 1] else 0;  sum over c, i of xp[c, y + i] * k[c, i]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

from sdlc.graph.affine import bounds
from sdlc.graph.expr import Apply, Axis, Expr, Index, Literal, Read, apply, i32, rebuild, walk
from sdlc.graph.match_show import node_name, shown
from sdlc.graph.node import Const, Graph, Input, Map, Node, Reduce, Role, element_count, sources
from sdlc.graph.rewrite import is_view
from sdlc.graph.rules import Asked, Refused, Rule, Sizes, replace_nodes
from sdlc.graph.types import DType

READS_THAT_PAY = 64
"""Reads of an element in a contraction that may pay for a copy of a tensor that is stored anyway,
or need not be; whether they do on a target is asked with both graphs (`Sides`)."""
MOST_GROWTH = 2
"""How many times as large a tensor may become."""

Padding = tuple[tuple[int, int], ...]
"""For every dimension, elements before and behind it."""


def looks_at(node: Node) -> bool:
    """Sums of products that read something with an `else`."""
    if not isinstance(node, Reduce) or not node.monoid.is_sum:
        return False
    product = node.lift[0]
    guarded = (isinstance(e, Read) and e.fill is not None for e in walk(product))
    return isinstance(product, Apply) and product.op == "mul" and any(guarded)


@dataclass(frozen=True, slots=True)
class _Padded:
    """A padded copy, and how far its elements moved."""

    node: Map
    before: tuple[int, ...]


def attempt(rule: Rule, node: Node, asked: Asked) -> Node | Refused:
    """The contraction with every guarded read that can be made whole; why, where none can."""
    assert isinstance(node, Reduce)
    guarded = [e for e in walk(*node.lift) if isinstance(e, Read) and e.fill is not None]
    behind = {e.fill for e in guarded if isinstance(e.fill, Read)}
    padded: dict[Read, _Padded] = {}
    why = ""
    for read in guarded:
        if read in behind:
            found: _Padded | Refused = Refused(
                f"`{node_name(read.source)}` is joined to what is read before it: that is no border"
            )
        else:
            found = _padded(rule, node, read, asked)
        if isinstance(found, Refused):
            why = why or found.why
        else:
            padded[read] = found
    return _reading(node, padded) if padded else Refused(why)


def _reading(node: Reduce, padded: Mapping[Read, _Padded]) -> Reduce:
    """The contraction with reads of padded copies in place of guarded ones."""

    def change(e: Expr) -> Expr | None:
        if not isinstance(e, Read) or e not in padded:
            return None
        made = padded[e]
        places = (rebuild(i, change) for i in e.indices)
        return Read(made.node, tuple(map(_moved, places, made.before)), 0, None)

    lift = tuple(rebuild(e, change) for e in node.lift)
    return replace(node, lift=lift)


def _moved(index: Expr, by: int) -> Expr:
    """`index + by`, without a sum of constants."""
    if by == 0:
        return index
    match index:
        case Apply(op="sub", args=(base, Literal(value=int(n)))):
            rest = by - int(n)
        case Apply(op="add", args=(base, Literal(value=int(n)))):
            rest = by + int(n)
        case _:
            base, rest = index, by
    if rest == 0:
        return base
    return apply("add", base, i32(rest)) if rest > 0 else apply("sub", base, i32(-rest))


def _padded(rule: Rule, node: Reduce, read: Read, asked: Asked) -> _Padded | Refused:
    source = read.source
    name = node_name(source)
    if not isinstance(source, Map):
        return Refused(f"`{name}` is no map, so a padded copy would be one more kernel")
    if not isinstance(read.fill, Literal):
        return Refused(f"outside of `{name}` stands `{shown(read.fill)}`, no constant")  # type: ignore[arg-type]
    reach = [bounds(i) for i in read.indices]
    unknown = next((i for i, r in zip(read.indices, reach, strict=True) if r is None), None)
    if unknown is not None:
        return Refused(f"the range of the index `{shown(unknown)}` of `{name}` is not known")
    padding = tuple(
        (max(0, -r[0]), max(0, r[1] - n + 1))
        for r, n in zip(reach, source.shape, strict=True)
        if r is not None
    )
    made = _Padded(_copy(source, padding, read.fill), tuple(before for before, _ in padding))
    sizes = _sizes(node, source, padding, asked)
    rule = replace(rule, sides=_sides(node, read, made, bool(sizes["view"])))
    why = asked.profitable(rule, sizes)
    return Refused(f"`{name}`: {why}") if why else made


@dataclass(frozen=True, slots=True)
class Sides:
    """A contraction that reads beyond borders, and beside it the one that reads a padded copy: what
    a target is asked to weigh where the copy is one more kernel."""

    left: Graph
    right: Graph

    def __call__(self, sizes: Sizes, precision: DType) -> tuple[Graph, Graph]:
        return self.left, self.right


def _sides(node: Reduce, read: Read, made: _Padded, is_view: bool) -> Sides:
    """The contraction of one guarded read, of values that are stored: its source, or, of a view,
    what that reads."""
    held = [s for s in sources(node) if s is not read.source or not is_view]
    held += sources(read.source) if is_view else ()
    cut: dict[Node, Node] = {
        s: _stored(s, f"x{n}") for n, s in enumerate(held) if not isinstance(s, Const)
    }
    graphs = (Graph("halo", (("y", n, 0),)) for n in (node, _reading(node, {read: made})))
    left, right = (replace_nodes(g, cut) for g in graphs)
    return Sides(left, right)


def _stored(source: Node, name: str) -> Node:
    """A value as something that is there already."""
    role = source.role if isinstance(source, Input) else Role.INPUT
    return Input(name, source.shape, source.dtypes[0], role)


def _sizes(node: Reduce, source: Map, padding: Padding, asked: Asked) -> Sizes:
    """What `worth` looks at."""
    elements = element_count(source)
    points = prod(a.extent for a in (*node.axes, *node.over))
    grown = prod(n + a + b for n, (a, b) in zip(source.shape, padding, strict=True))
    kept = source in asked.around.results
    others = sum(r is not node for r in asked.around.readers.get(source, ()))
    view = int(is_view(source.body) and source not in asked.around.results)
    found = {"reads": points // elements, "growth": grown // elements}
    return found | {"others": others + kept, "view": view, "bytes": grown * source.dtype.itemsize}


def worth(sizes: Sizes) -> str:
    """Why a padded copy does not pay."""
    if sizes["growth"] > MOST_GROWTH:
        return f"the copy would be {sizes['growth']} times as large"
    if sizes["view"] and sizes["reads"] < READS_THAT_PAY:
        return f"it is a view, read through, and each element is read {sizes['reads']} times only"
    if sizes["others"] and sizes["reads"] < READS_THAT_PAY:
        return f"something else reads it too, and each element is read {sizes['reads']} times only"
    return ""


def _copy(source: Map, padding: Padding, fill: Literal) -> Map:
    axes = tuple(
        Axis(a.name, a.extent + before + behind)
        for a, (before, behind) in zip(source.axes, padding, strict=True)
    )
    places = tuple(_moved(Index(a), -before) for a, (before, _) in zip(axes, padding, strict=True))
    named = replace(source.origin, name=f"{source.origin.name}_padded")
    return Map(axes, Read(source, places, 0, fill), source.dtype, named, source.wide)
