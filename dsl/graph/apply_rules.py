"""The right side of an equation in place of a node.

In: a right side (a graph over metavariables) and a match. Out: a node that computes what the
matched one did, over the same axes. Invariant: a node of the right side gets only those ambient
axes that it depends on, so what is made of weights alone stays so; reads stay in bounds.

    u[i, c] = sum over k of g[i, k] * w[k, c]   with w := weight[k, c], ambient axes b, h
    gives the same u, without b and h; y[i, c] = x[c] * u[i, c] gets those that x := t[b, h, c] has
"""

from __future__ import annotations

from dataclasses import replace

from sdlc.graph.expr import Axis, Expr, Index, Read, rebuild, substitute
from sdlc.graph.match import Bound, Match
from sdlc.graph.match_solve import axes_of
from sdlc.graph.node import Input, Map, Node, Reduce
from sdlc.graph.types import DType, Origin


def instantiate(right: Node, pattern_axes: tuple[Axis, ...], match: Match, stored: DType) -> Node:
    """`right`, whose axes correspond to `pattern_axes`, for the node of the match.

    A metavariable that has to be a tensor is stored as `stored`; where the match has something
    wide, all is.
    """
    assert isinstance(right, Map | Reduce)
    root = match.root
    images = [match.axes[a] for a in pattern_axes]
    lifting = _Lifting(match, stored)
    renamed: dict[Axis, Expr] = {a: Index(b) for a, b in zip(right.axes, images, strict=True)}
    origin = replace(lifting.origin(right), name=root.origin.name)
    if isinstance(right, Map):
        body = lifting.expr(right.body, renamed)
        return Map(root.axes, body, root.dtypes[0], origin, match.wide)
    over = lifting.renamed(right.over, root.axes)
    renamed |= {a: Index(b) for a, b in zip(right.over, over, strict=True)}
    lift = tuple(lifting.expr(e, renamed) for e in right.lift)
    return Reduce(root.axes, over, right.monoid, lift, root.dtypes, origin, match.wide)


class _Lifting:
    """The nodes of one right side, lifted over the ambient axes of one match."""

    def __init__(self, match: Match, stored: DType) -> None:
        self.match, self.stored = match, stored
        images = set(match.axes.values())
        self.ambient = tuple(a for a in match.root.axes if a not in images)
        self.done: dict[Node, tuple[Node, tuple[Axis, ...]]] = {}
        self.made: dict[str, tuple[Node, tuple[Axis, ...]]] = {}

    def origin(self, node: Node) -> Origin:
        """Where the right side stands, as called from what it replaces."""
        at, own = self.match.root.origin, node.origin
        if own.span is None:
            return replace(at, name=own.name, definition=own.definition)
        calls = (*own.sites, *((at.span,) if at.span else ()), *at.sites)
        return replace(own, scope=at.scope, sites=calls, program=at.program)

    def renamed(self, axes: tuple[Axis, ...], taken: tuple[Axis, ...]) -> tuple[Axis, ...]:
        """`axes` with names that none of `taken` has."""
        names = {a.name for a in taken}
        found = []
        for axis in axes:
            name = axis.name.partition("$")[0]
            while name in names:
                name += "_"
            names.add(name)
            found.append(Axis(name, axis.extent))
        return tuple(found)

    def used(self, *exprs: Expr) -> tuple[Axis, ...]:
        found = axes_of(*exprs)
        return tuple(a for a in self.ambient if a in found)

    def node(self, node: Node) -> tuple[Node, tuple[Axis, ...]]:
        """A node of the right side, and the ambient axes that now stand in front of its own."""
        if node not in self.done:
            self.done[node] = self._node(node)
        return self.done[node]

    def _node(self, node: Node) -> tuple[Node, tuple[Axis, ...]]:
        if not isinstance(node, Map | Reduce):
            return node, ()
        own = self.renamed(node.axes, self.ambient)
        places: dict[Axis, Expr] = {a: Index(b) for a, b in zip(node.axes, own, strict=True)}
        if isinstance(node, Map):
            body = self.expr(node.body, places)
            front = self.used(body)
            made = Map((*front, *own), body, node.dtype, self.origin(node), self.match.wide)
            return made, front
        over = self.renamed(node.over, (*self.ambient, *own))
        places |= {a: Index(b) for a, b in zip(node.over, over, strict=True)}
        lift = tuple(self.expr(e, places) for e in node.lift)
        front = self.used(*lift)
        origin, wide = self.origin(node), self.match.wide
        axes = (*front, *own)
        return Reduce(axes, over, node.monoid, lift, node.dtypes, origin, wide), front

    def expr(self, expr: Expr, places: dict[Axis, Expr]) -> Expr:
        def change(e: Expr) -> Expr | None:
            if isinstance(e, Index):
                return places.get(e.axis)
            if not isinstance(e, Read):
                return None
            indices = tuple(self.expr(i, places) for i in e.indices)
            fill = None if e.fill is None else self.expr(e.fill, places)
            if isinstance(e.source, Input) and e.source.name in self.match.bound:
                return self.variable(e.source.name, indices, fill)
            source, front = self.node(e.source)
            return Read(source, (*(Index(a) for a in front), *indices), e.field, fill)

        return rebuild(expr, change)

    def variable(self, name: str, indices: tuple[Expr, ...], fill: Expr | None) -> Expr:
        """An element of what a metavariable stands for."""
        bound = self.match.bound[name]
        places = dict(zip(bound.params, indices, strict=True))
        if fill is None:
            return substitute(bound.body, places)
        if is_tensor(bound):
            assert isinstance(bound.body, Read)
            inside = substitute(bound.body, places)
            assert isinstance(inside, Read)
            return Read(inside.source, inside.indices, inside.field, fill)
        source, front = self.tensor(name, bound)
        return Read(source, (*(Index(a) for a in front), *indices), 0, fill)

    def tensor(self, name: str, bound: Bound) -> tuple[Node, tuple[Axis, ...]]:
        """A map that holds what a metavariable stands for: it is read where it may be out."""
        if name not in self.made:
            own = self.renamed(bound.params, self.ambient)
            places: dict[Axis, Expr] = {a: Index(b) for a, b in zip(bound.params, own, strict=True)}
            body = substitute(bound.body, places)
            front = self.used(body)
            at = self.match.root.origin
            origin = replace(at, name=name.partition("$")[0])
            dtype = self.stored if body.dtype.is_float else body.dtype
            self.made[name] = Map((*front, *own), body, dtype, origin, self.match.wide), front
        return self.made[name]


def is_tensor(bound: Bound) -> bool:
    """Whether a metavariable is the whole of a tensor's dimensions, others being ambient."""
    body = bound.body
    if not isinstance(body, Read) or body.fill is not None:
        return False
    at = {
        i.axis: n
        for i, n in zip(body.indices, body.source.shape, strict=True)
        if isinstance(i, Index)
    }
    bare = sum(isinstance(i, Index) and i.axis in bound.params for i in body.indices)
    others = [i for i in body.indices if not (isinstance(i, Index) and i.axis in bound.params)]
    whole = all(at.get(p) == p.extent for p in bound.params)
    return whole and bare == len(bound.params) and not axes_of(*others) & set(bound.params)
