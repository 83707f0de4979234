"""Joined tensors: what was put side by side is read where it is.

In: a node that reads a map of two parts, `x[i] else (y[i - n] else 0)`. Out: for `concat_read` the
node reading the parts, for `concat_k` a contraction over the joined axis as the sum of two.
Invariant: an element is read from the part that holds it, and from no other.

    z[i] = x[i] else (y[i - n] else 0);  sum over i < n + m of z[i] * w[i]
    concat_read: sum over i < n + m of (x[i] else (y[i - n] else 0)) * w[i]
    concat_k: (sum over i < n of x[i] * w[i]) + (sum over i < m of y[i] * w[i + n])
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sdlc.graph.affine import affine, bare_axis, bounds, normal
from sdlc.graph.expr import (
    Apply,
    Axis,
    Expr,
    Index,
    Literal,
    Read,
    apply,
    i32,
    rebuild,
    substitute,
    walk,
)
from sdlc.graph.match_show import node_name
from sdlc.graph.node import Map, Node, Reduce, expressions, is_static, reads
from sdlc.graph.rewrite import read_through
from sdlc.graph.rules import Asked, Refused, Rule
from sdlc.graph.types import DType

# ---- reading the parts ---------------------------------------------------------------------------


def is_joined(node: Node) -> bool:
    """Whether a map holds tensors one behind the other along one axis, each whole in all others."""
    if not isinstance(node, Map):
        return False
    along: set[Axis] = set()
    part: Expr | None = node.body
    count = 0
    while isinstance(part, Read):
        if len(part.indices) != len(node.axes) or not _is_part(part, along):
            return False
        count += 1
        part = part.fill
    return count > 1 and len(along) == 1 and isinstance(part, Literal)


def _is_part(part: Read, along: set[Axis]) -> bool:
    """Whether a part is read at every axis once, moved in one at most, which is put into `along`;
    there, what it holds lies inside of the axis."""
    axes: set[Axis] = set()
    for index, extent in zip(part.indices, part.source.shape, strict=True):
        form = affine(index)
        if form is None or list(form[0].values()) != [1]:
            return False
        axis, before = next(iter(form[0])), -form[1]
        axes.add(axis)
        if (before, extent) != (0, axis.extent):
            along.add(axis)
            if before < 0 or before + extent > axis.extent:
                return False
    return len(axes) == len(part.indices)


def reads_joined(node: Node) -> bool:
    return isinstance(node, Map | Reduce) and any(_is_read_in_parts(r.source) for r in reads(node))


def _is_read_in_parts(node: Node) -> bool:
    """Whether a joined tensor need not be made: weights are joined once, when they are loaded."""
    return is_joined(node) and not is_static(node)


def read_parts(rule: Rule, node: Node, asked: Asked) -> Node | Refused:
    """The node with every read of a joined map replaced by reads of its parts."""
    assert isinstance(node, Map | Reduce)
    whys: list[str] = []

    def change(e: Expr) -> Expr | None:
        if not isinstance(e, Read) or not _is_read_in_parts(e.source):
            return None
        assert isinstance(e.source, Map)
        if e.source in asked.around.results:
            whys.append(f"`{node_name(e.source)}` is a result of the program, so it is stored")
            return None
        if e.fill is None:
            return rebuild(read_through(e, e.source), change)
        parts = _with_last_fill(e.source.body, e.fill)
        if parts is not e.source.body and not _covered(e.source):
            whys.append(f"`{node_name(e.source)}` has another value outside than between its parts")
            return None
        places = dict(zip(e.source.axes, e.indices, strict=True))
        return rebuild(substitute(parts, places), change)

    exprs = tuple(rebuild(e, change) for e in expressions(node))
    if exprs == expressions(node):
        return Refused(whys[0] if whys else "nothing is joined")
    if isinstance(node, Map):
        return replace(node, body=exprs[0])
    return replace(node, lift=exprs)


def _with_last_fill(part: Expr, fill: Expr) -> Expr:
    """Nested guarded reads with another value where none of them is in range."""
    if not isinstance(part, Read) or part.fill is None:
        return fill
    return Read(part.source, part.indices, part.field, _with_last_fill(part.fill, fill))


def _covered(node: Map) -> bool:
    """Whether every element of a joined map is in one of its parts."""
    part: Expr | None = node.body
    pieces: list[tuple[int, int, int]] = []
    while isinstance(part, Read):
        for index, extent in zip(part.indices, part.source.shape, strict=True):
            form = affine(index)
            assert form is not None
            axis = next(iter(form[0]))
            if (form[1], extent) != (0, axis.extent):
                pieces.append((-form[1], extent - form[1], axis.extent))
        part = part.fill
    end = 0
    for start, stop, _ in sorted(pieces):
        end = max(end, stop) if start <= end else end
    return end == pieces[0][2]


# ---- contracting the parts -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Cut:
    """Along `axis`, which is reduced, the first `at` elements come from one tensor."""

    axis: Axis
    at: int


def contracts_joined(node: Node) -> bool:
    """Whether a sum of products reads parts of something joined."""
    if not isinstance(node, Reduce) or not node.monoid.is_sum:
        return False
    product = node.lift[0]
    return isinstance(product, Apply) and product.op == "mul" and any(map(_is_parts, walk(product)))


def _is_parts(e: Expr) -> bool:
    return isinstance(e, Read) and isinstance(e.fill, Read)


def contract_parts(rule: Rule, node: Node, asked: Asked) -> Node | Refused:
    """The contraction as the sum of those over each part."""
    assert isinstance(node, Reduce)
    cut = _cut(node)
    if isinstance(cut, Refused):
        return cut
    first = _part(node, cut, 0, cut.at)
    second = _part(node, cut, cut.at, cut.axis.extent)
    here = tuple(Index(a) for a in node.axes)
    body = apply("add", Read(first, here), Read(second, here))
    return Map(node.axes, body, node.dtypes[0], node.origin, node.wide)


def _cut(node: Reduce) -> _Cut | Refused:
    why = "nothing is joined"
    for e in walk(*node.lift):
        if not isinstance(e, Read) or not isinstance(e.fill, Read):
            continue
        for position, index in enumerate(e.indices):
            axis, extent = bare_axis(index), e.source.shape[position]
            if axis is not None and axis in node.over and axis.extent > extent:
                return _Cut(axis, extent)
        why = f"`{node_name(e.source)}` is joined along an axis that is not summed over as it is"
    return Refused(why)


def _part(node: Reduce, cut: _Cut, start: int, stop: int) -> Reduce:
    """The contraction over `start` … `stop` of the axis that is cut."""
    axis = Axis(cut.axis.name, stop - start)
    place: Expr = Index(axis) if start == 0 else apply("add", Index(axis), i32(start))
    over = tuple(axis if a == cut.axis else a for a in node.over)
    lift = tuple(_settled(substitute(e, {cut.axis: place})) for e in node.lift)
    return replace(node, over=over, lift=lift, dtypes=(DType.F32,))


def _settled(expr: Expr) -> Expr:
    """The expression with guarded reads decided where their ranges tell: an element that is always
    inside needs no guard, one that is always outside is its fill."""

    def change(e: Expr) -> Expr | None:
        if not isinstance(e, Read):
            return None
        indices = tuple(normal(i) for i in e.indices)
        if e.fill is None:
            return Read(e.source, indices, e.field, None)
        if _always_outside(e.source.shape, indices):
            return _settled(e.fill)
        inner = Read(e.source, indices, e.field, None)
        if _within(inner):
            return inner
        return Read(e.source, indices, e.field, _settled(e.fill))

    return rebuild(expr, change)


def _always_outside(shape: tuple[int, ...], indices: tuple[Expr, ...]) -> bool:
    reaches = (bounds(i) for i in indices)
    return any(
        r is not None and (r[1] < 0 or r[0] >= n) for r, n in zip(reaches, shape, strict=True)
    )


def _within(read: Read) -> bool:
    reaches = (bounds(i) for i in read.indices)
    return all(
        r is not None and r[0] >= 0 and r[1] < n
        for r, n in zip(reaches, read.source.shape, strict=True)
    )
