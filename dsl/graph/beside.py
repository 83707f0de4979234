"""Products of one operand by several weights: the weights side by side, and one product.

In: a sum of products of something by a weight, or a map over such sums and more weights. Out: a
view of one node that computes all of its kind at once, by weights that are joined when they are
loaded. Invariant: each element is computed from what it was computed from before; only nodes that
agree in everything but their weights are joined, and that are read alike, so that they are stored
alike, or that end in one node, which needs them at once (`attempt_together`).

    y[b, i < n] = sum over k of x[b, k] * v[i, k];   z[b, i < m] = sum over k of x[b, k] * w[i, k]
    yz[b, i < n + m] = sum over k of x[b, k] * vw[i, k]; y[b, i] = yz[b, i]; z[b, i] = yz[b, i + n]
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from sdlc.graph.affine import affine, bare_axis
from sdlc.graph.expr import (
    ZERO,
    Apply,
    Axis,
    Expr,
    Index,
    Literal,
    Read,
    apply,
    children,
    i32,
    rebuild,
    substitute,
    walk,
)
from sdlc.graph.guards import Surroundings
from sdlc.graph.node import (
    Input,
    Map,
    Node,
    Reduce,
    element_count,
    expressions,
    is_static,
    reads,
)
from sdlc.graph.rewrite import is_view, read_through
from sdlc.graph.rules import Asked, Refused, Rule

MOST = 3 << 19
"""Elements of a joined result at most: it is kept until its last part has been read. Where all
parts end in one node, there may be more."""

MOST_WEIGHT = 1 << 24
"""Elements of the weight of what is joined again at most: it is made when weights are loaded, where
what it is made of is there as well."""

AT_ONCE = 4
"""Weights that are put side by side in one step: a kernel binds few buffers."""

DEEP = 3
"""Readers that are looked through for how something is read."""

FAR = 8
"""Nodes that are followed from a product to where it ends: views, a softmax, another product."""

JOINED = Axis("joined", 1)


@dataclass(frozen=True, slots=True)
class _Form:
    """A node but for its weights and its extent along `position`, the axis to join along; `like`
    is equal for nodes that may be joined. `start` is where it begins in what all of them read."""

    node: Map | Reduce
    position: int
    weights: tuple[Read, ...]
    start: int
    like: tuple[object, ...]


def looks_at(node: Node) -> bool:
    """Whether a node is a product by a weight, or a map of a part of such products."""
    match node:
        case Reduce(monoid=monoid, lift=(Apply(op="mul"),)):
            return monoid.is_sum and any(map(is_static, _sources_of(node)))
        case Map():
            return not is_view(node.body) and any(_part(s) for s in _sources_of(node))
    return False


def _sources_of(node: Node) -> Iterable[Node]:
    return (r.source for r in reads(node))


def _part(node: Node) -> bool:
    """Whether a node is a part of another one, moved along one axis."""
    return isinstance(node, Map) and is_view(node.body) and _moved(node) is not None


def _moved(node: Map) -> tuple[int, int] | None:
    """The axis along which a view is moved, by its number, and by how much; every other index is an
    axis of its own, in order."""
    body = node.body
    if not isinstance(body, Read) or len(body.indices) != len(node.axes):
        return None
    found: list[tuple[int, int]] = []
    for number, (index, axis) in enumerate(zip(body.indices, node.axes, strict=True)):
        form = affine(index)
        if form is None or form[0] != {axis: 1}:
            return None
        if form[1] or axis.extent != body.source.shape[number]:
            found.append((number, form[1]))
    return found[0] if len(found) == 1 else None


def attempt(rule: Rule, node: Node, asked: Asked) -> Node | Refused:
    """The node as a view of its kind computed together."""
    assert isinstance(node, Map | Reduce)
    around = asked.around
    form = _form(node)
    if form is None:
        return Refused("it has no axis along which only weights and the result move")
    if node in around.results:
        return Refused("it is a result of the program")
    if any(r in around.results and _alone(r, node, around) for r in around.readers.get(node, ())):
        return Refused("what is made of it by weights is a result of the program")
    family = _family(form, around)
    if not family:
        return Refused("all that it reads is known when weights are loaded")
    if isinstance(node, Map) and (len(family) > 1 and not _whole(family)):
        return Refused("its kind does not cover what all of them read")
    chunk = family if isinstance(node, Map) else _chunk(family, node)
    if len(chunk) < 2:
        return Refused("nothing else of its kind is read alike, or the result would be too large")
    return _view(form, chunk)


def attempt_together(rule: Rule, node: Node, asked: Asked) -> Node | Refused:
    """The node as a view of those of its kind that end in one node with it, computed together."""
    assert isinstance(node, Map | Reduce)
    form = _form(node)
    if form is None:
        return Refused("it has no axis along which only weights and the result move")
    family = [] if node in asked.around.results else _together_read(form, asked.around)
    again = bool(_parts_of(node, asked.around))
    if len(family) < 2 and again:
        return Refused("it is computed together with others already")
    if len(family) < 2 or (isinstance(node, Map) and not _whole(family)):
        return Refused("nothing else of its kind ends in a node that it ends in")
    if again and sum(element_count(w.source) for f in family for w in f.weights) > MOST_WEIGHT:
        return Refused("the joined weight would be too large")
    size = sum(element_count(f.node) * f.node.dtypes[0].itemsize for f in family)
    why = asked.profitable(rule, {"parts": len(family), "bytes": size, "again": int(again)})
    return Refused(why) if why else _view(form, family)


# ---- what is of one kind -------------------------------------------------------------------------


@lru_cache(maxsize=8192)
def _form(node: Map | Reduce) -> _Form | None:
    if len(node.dtypes) != 1 or not node.dtypes[0].is_float:
        return None
    exprs = tuple(_seen_through(e) for e in expressions(node))
    found = [e for e in walk(*exprs) if isinstance(e, Read)]
    weights = tuple(r for r in found if is_static(r.source))
    others = [r for r in found if not is_static(r.source)]
    for position in reversed(range(len(node.axes))):
        start = _start(others, node.axes[position], isinstance(node, Map))
        if start is not None and weights and all(_at(r, node.axes[position]) >= 0 for r in weights):
            return _Form(node, position, weights, start, _like(node, position, exprs))
    return None


def _seen_through(expr: Expr) -> Expr:
    """The expression with views that are parts of something read through."""

    def change(e: Expr) -> Expr | None:
        if isinstance(e, Read) and isinstance(e.source, Map) and e.fill is None and _part(e.source):
            return read_through(e, e.source)
        return None

    return rebuild(expr, change)


def _start(reads: Sequence[Read], axis: Axis, moves: bool) -> int | None:
    """Where the reads begin along an axis: those of a map are all at it, those of a product not."""
    if not moves:
        return None if any(Index(axis) in walk(*r.indices) for r in reads) else 0
    starts = {_offset(r, axis) for r in reads}
    return next(iter(starts)) if len(starts) == 1 else None


def _offset(read: Read, axis: Axis) -> int | None:
    """How far beyond an axis a read is, where one index is the axis and a constant."""
    at = [i for i in read.indices if Index(axis) in walk(i)]
    form = affine(at[0]) if len(at) == 1 and read.fill is None else None
    return form[1] if form is not None and form[0] == {axis: 1} else None


def _at(read: Read, axis: Axis) -> int:
    """The dimension of a weight that an axis runs along whole, or -1."""
    at = [n for n, i in enumerate(read.indices) if Index(axis) in walk(i)]
    whole = len(at) == 1 and bare_axis(read.indices[at[0]]) == axis
    whole = whole and read.fill is None and read.source.shape[at[0]] == axis.extent
    return at[0] if whole else -1


def _like(node: Map | Reduce, position: int, exprs: tuple[Expr, ...]) -> tuple[object, ...]:
    """What nodes that may be joined agree in, besides how they are read."""
    axes = node.axes
    names: dict[Axis, Expr] = {a: Index(Axis(str(n), a.extent)) for n, a in enumerate(axes)}
    names[axes[position]] = Index(JOINED)
    over = node.over if isinstance(node, Reduce) else ()
    names |= {a: Index(Axis(f"over{n}", a.extent)) for n, a in enumerate(over)}
    made = tuple(_without_weights(substitute(e, names)) for e in exprs)
    others = tuple(a.extent for n, a in enumerate(axes) if n != position)
    monoid = node.monoid if isinstance(node, Reduce) else None
    return (position, others, monoid, node.dtypes, node.wide, made)


def _without_weights(expr: Expr) -> Expr:
    """The expression with weights told by their types and places alone, and without the offset at
    which parts begin."""
    count = 0

    def change(e: Expr) -> Expr | None:
        nonlocal count
        if not isinstance(e, Read):
            return None
        indices = tuple(Index(JOINED) if Index(JOINED) in walk(i) else i for i in e.indices)
        if not is_static(e.source):
            return Read(e.source, indices, e.field, e.fill)
        shape = tuple(
            1 if i is Index(JOINED) else n for i, n in zip(indices, e.source.shape, strict=True)
        )
        count += 1
        return Read(Input(f"weight{count}", shape, e.source.dtypes[e.field]), indices)

    return rebuild(expr, change)


def _uses(node: Node, around: Surroundings, depth: int) -> frozenset[object]:
    """How a node is read: the skeletons of its readers' expressions, and how those are read that
    read nothing else but weights (a view, a sum with a bias)."""
    found: set[object] = set()
    for reader in around.readers.get(node, ()):
        words = tuple(_word(e, node) for e in walk(*expressions(reader)))
        alone = _alone(reader, node, around)
        further = _uses(reader, around, depth - 1) if alone and depth else frozenset()
        found.add((type(reader).__name__, words, further))
    return frozenset(found)


def _alone(reader: Node, node: Node, around: Surroundings) -> bool:
    """Whether a reader is a map of this node and weights alone."""
    return isinstance(reader, Map) and all(
        s is node or is_static(s) for s in around.sources[reader]
    )


def _word(e: Expr, node: Node) -> object:
    match e:
        case Read(source=source):
            return "it" if source is node else "other"
        case Apply(op=op):
            return op
        case Literal(value=value):
            return value
    return type(e).__name__, len(tuple(children(e)))


def _family(form: _Form, around: Surroundings) -> list[_Form]:
    """The nodes that may be joined with this one, itself among them, in order."""
    uses = _uses(form.node, around, DEEP)
    alike = (
        f
        for f in _alike(form, around)
        if f.node is form.node or _uses(f.node, around, DEEP) == uses
    )
    return sorted(alike, key=lambda f: f.start)


def _together_read(form: _Form, around: Surroundings) -> list[_Form]:
    """Those of its kind that end in what this one ends in. Of what is computed together with others
    already, those whose every part ends with the same part of this one, each kind of use once:
    what is used alike would have been joined, if it were not too large."""
    parts = _parts_of(form.node, around)
    found = [f for f in _alike(form, around) if _end_together(form.node, f.node, around)]
    kinds = {_uses(f.node, around, DEEP) for f in found}
    if parts and len(kinds) < len(found):
        return []
    return sorted(found, key=lambda f: f.start)


def _end_together(node: Node, other: Node, around: Surroundings) -> bool:
    """Whether two nodes end in one, or, if parts of them are read, part by part."""
    parts, others = (_parts_of(n, around) for n in (node, other))
    if len(parts) != len(others):
        return False
    pairs = zip(parts or [node], others or [other], strict=True)
    return all(_ends(a, around) & _ends(b, around) for a, b in pairs)


def _parts_of(node: Node, around: Surroundings) -> list[Node]:
    """The parts of a node that are read, by their places."""
    found: list[tuple[int, Node]] = []
    for reader in around.readers.get(node, ()):
        place = _moved(reader) if isinstance(reader, Map) and is_view(reader.body) else None
        if place is not None:
            found.append((place[1], reader))
    return [reader for _, reader in sorted(found, key=lambda pair: pair[0])]


def _ends(node: Node, around: Surroundings) -> frozenset[Node]:
    """What reads a node, what reads that, and so on."""
    found: dict[Node, None] = {}
    front = [node]
    for _ in range(FAR):
        front = [r for n in front for r in around.readers.get(n, ()) if r not in found]
        found |= dict.fromkeys(front)
    return frozenset(found)


def _alike(form: _Form, around: Surroundings) -> Iterable[_Form]:
    """The nodes, this one among them, that agree with it in everything but their weights."""
    dynamic = [s for s in _through(form.node) if not is_static(s)]
    for node in dict.fromkeys(r for s in dynamic[:1] for r in _readers(s, around)):
        if isinstance(node, Map | Reduce) and looks_at(node) and node not in around.results:
            other = _form(node)
            if other is not None and other.like == form.like:
                yield other


def _through(node: Node) -> list[Node]:
    """What a node reads, parts of something read through."""
    exprs = (_seen_through(e) for e in expressions(node))
    return [e.source for e in walk(*exprs) if isinstance(e, Read)]


def _readers(node: Node, around: Surroundings) -> Iterable[Node]:
    for reader in around.readers.get(node, ()):
        yield reader
        if _part(reader):
            yield from around.readers.get(reader, ())


def _whole(family: Sequence[_Form]) -> bool:
    """Whether maps read all of what their parts are of, one behind the other."""
    end = 0
    for form in family:
        if form.start != end:
            return False
        end += form.node.shape[form.position]
    read = {s for s in _through(family[0].node) if not is_static(s)}
    return all(source.shape[family[0].position] == end for source in read)


def _chunk(family: Sequence[_Form], node: Node) -> list[_Form]:
    """Of the family the part with this node that is computed together: one after the other, as long
    as the result is not too large."""
    chunks: list[list[_Form]] = [[]]
    total = 0
    for form in family:
        total += element_count(form.node)
        if chunks[-1] and total > MOST:
            chunks.append([])
            total = element_count(form.node)
        chunks[-1].append(form)
    return next(c for c in chunks if any(f.node is node for f in c))


# ---- joining -------------------------------------------------------------------------------------


def _view(form: _Form, chunk: Sequence[_Form]) -> Map:
    """The node's part of what the chunk computes."""
    node, position = form.node, form.position
    before = 0
    for other in chunk:
        if other.node is node:
            break
        before += other.node.shape[position]
    places: list[Expr] = [Index(a) for a in node.axes]
    places[position] = apply("add", places[position], i32(before)) if before else places[position]
    read = Read(_together(chunk), tuple(places))
    return Map(node.axes, read, node.dtypes[0], node.origin, node.wide)


def _together(chunk: Sequence[_Form]) -> Map | Reduce:
    """The node that computes a chunk: the first one, along a longer axis, with joined weights."""
    first = chunk[0]
    node, old = first.node, first.node.axes[first.position]
    axis = Axis(old.name, sum(f.node.shape[f.position] for f in chunk))
    joined = {
        read: side_by_side([f.weights[n].source for f in chunk], _at(read, old))
        for n, read in enumerate(first.weights)
    }

    def change(e: Expr) -> Expr | None:
        return replace_source(e, joined[e]) if isinstance(e, Read) and e in joined else None

    exprs = tuple(rebuild(_seen_through(e), change) for e in expressions(node))
    exprs = tuple(substitute(e, {old: Index(axis)}) for e in exprs)
    axes = tuple(axis if a is old else a for a in node.axes)
    if isinstance(node, Map):
        return replace(node, axes=axes, body=exprs[0])
    return replace(node, axes=axes, lift=exprs)


def replace_source(read: Read, source: Node) -> Read:
    return Read(source, read.indices, 0, read.fill)


def side_by_side(parts: Sequence[Node], dimension: int) -> Node:
    """Tensors that differ along one dimension as one, one behind the other."""
    if len(parts) == 1:
        return parts[0]
    if len(parts) > AT_ONCE:
        size = -(-len(parts) // AT_ONCE)
        return side_by_side(
            [side_by_side(parts[n : n + size], dimension) for n in range(0, len(parts), size)],
            dimension,
        )
    shape = list(parts[0].shape)
    shape[dimension] = sum(p.shape[dimension] for p in parts)
    axes = tuple(Axis(f"d{n}", extent) for n, extent in enumerate(shape))
    dtype = parts[0].dtypes[0]
    body: Expr = ZERO
    end = shape[dimension]
    for part in reversed(parts):
        end -= part.shape[dimension]
        places: list[Expr] = [Index(a) for a in axes]
        if end:
            places[dimension] = apply("sub", places[dimension], i32(end))
        body = Read(part, tuple(places), 0, body)
    return Map(axes, body, dtype, parts[0].origin)
