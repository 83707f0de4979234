"""Folds of monoids over whole domains, in NumPy.

In: a `Reduce`, the values that it reads. Out: an array over the node's axes for each field.
Invariant: the result is `combine` applied over the domain, in some order, to the lift and the
identity; memory stays bounded whatever the domain, because it is walked in boxes.

`fold` is the definition. `contract` computes a sum of products as matrix products, a reordering
of the same sum; it is a shortcut that the tests hold against `fold`, in f64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod
from typing import Any

import numpy as np

from sdlc.graph.expr import Apply, Axis, Expr, Index, Read, walk
from sdlc.graph.node import Monoid, Reduce
from sdlc.graph.reference_expr import Arithmetic, Box, Scope, Values, boxes, covering
from sdlc.graph.types import Array

POINTS = 1 << 20
"""Points of a box: 8 MiB for each f64 temporary."""

LONGEST_RUN = 512
"""The longest run that is folded one state after another."""

WINDOW = 16
"""The longest reduced axis that a contraction walks one value at a time."""


def combine(
    monoid: Monoid, left: Sequence[Array], right: Sequence[Array], arithmetic: Arithmetic
) -> list[Array]:
    """The combination of two (arrays of) states, field by field."""
    scope = Scope(Box((), ()), {}, arithmetic, monoid.name, slots=(left, right))
    values = zip(monoid.combine, monoid.fields, strict=True)
    return [arithmetic.hold(scope.evaluate(e), f.dtype) for e, f in values]


def identity(monoid: Monoid, arithmetic: Arithmetic) -> list[Array]:
    return [arithmetic.hold(f.identity, f.dtype) for f in monoid.fields]


def fold(node: Reduce, values: Values, arithmetic: Arithmetic, name: str) -> list[Array]:
    """The definition: lift everywhere, combine halves until one state is left."""
    start = identity(node.monoid, arithmetic)
    results = [np.empty(node.shape, s.dtype) for s in start]
    width = min(POINTS, prod(a.extent for a in node.over))
    for outer in boxes(node.axes, POINTS // width):
        state: list[Array] | None = None
        for inner in boxes(node.over, POINTS):
            scope = Scope(outer.join(inner), values, arithmetic, name)
            part = _fold_box(node, scope, (*outer.shape, prod(inner.shape)))
            state = part if state is None else combine(node.monoid, state, part, arithmetic)
        whole = start if state is None else _begun(node.monoid, start, state, arithmetic)
        for result, value in zip(results, whole, strict=True):
            result[outer.slices] = value
    return results


def _begun(
    monoid: Monoid, start: list[Array], state: list[Array], arithmetic: Arithmetic
) -> list[Array]:
    """The identity combined with all else: it changes no number, so programs may leave it out. With
    random roundings there is no number where an infinity without it were a number with it."""
    made = combine(monoid, start, state, arithmetic)
    if arithmetic.rounding is None:
        return made
    pairs = zip(state, made, strict=True)
    lost = reduce(np.logical_or, (np.isinf(alone) & np.isfinite(begun) for alone, begun in pairs))
    if not lost.any():
        return made
    none = np.where(lost, np.nan, 0.0)
    return [_without_number(value, none, arithmetic) for value in made]


def _without_number(value: Array, none: Array, arithmetic: Arithmetic) -> Array:
    """A field where `none` is no number."""
    if value.dtype.kind == "f":
        return np.asarray(np.add(value, none))
    return value if arithmetic.doubt is None else arithmetic.doubt(value, [none])


def _fold_box(node: Reduce, scope: Scope, shape: tuple[int, ...]) -> list[Array]:
    """The fold over one box; `shape` is that of the outer axes and the count of lifted states."""
    lifted = []
    for lift, field in zip(node.lift, node.monoid.fields, strict=True):
        value = scope.arithmetic.hold(scope.evaluate(lift), field.dtype)
        lifted.append(np.broadcast_to(value, scope.box.shape).reshape(shape))
    if scope.arithmetic.order is not None:
        places = scope.arithmetic.order(shape)
        lifted = [np.take_along_axis(value, places, axis=-1) for value in lifted]
    if scope.arithmetic.rounding is not None:
        return _in_order(node.monoid, lifted, scope.arithmetic)
    return halve(node.monoid, lifted, scope.arithmetic)


def halve(monoid: Monoid, states: list[Array], arithmetic: Arithmetic) -> list[Array]:
    """The combination of all states along the last axis, as a balanced tree."""
    while (count := states[0].shape[-1]) > 1:
        half = count // 2
        left = [s[..., :half] for s in states]
        right = [s[..., half : 2 * half] for s in states]
        made = combine(monoid, left, right, arithmetic)
        rest = [s[..., 2 * half :] for s in states]
        states = [np.concatenate(p, axis=-1) for p in zip(made, rest, strict=True)]
    return [s[..., 0] for s in states]


def _in_order(monoid: Monoid, states: list[Array], arithmetic: Arithmetic) -> list[Array]:
    """One state after another: the order in which rounding errors grow most. Long runs are parted,
    as no program folds them one by one either."""
    count = states[0].shape[-1]
    if count > LONGEST_RUN:
        whole = count // LONGEST_RUN * LONGEST_RUN
        parts = [s[..., :whole].reshape(*s.shape[:-1], -1, LONGEST_RUN) for s in states]
        made = _in_order(monoid, parts, arithmetic)
        rest = [s[..., whole:] for s in states]
        joined = [np.concatenate(p, axis=-1) for p in zip(made, rest, strict=True)]
        return _in_order(monoid, joined, arithmetic)
    total = [s[..., 0] for s in states]
    for k in range(1, count):
        total = combine(monoid, total, [s[..., k] for s in states], arithmetic)
    return total


# ---- sums of products --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Product:
    """A lift `left * right` with the axes that each factor depends on."""

    left: Expr
    right: Expr
    left_axes: frozenset[Axis]
    right_axes: frozenset[Axis]

    def size(self, steps: dict[Axis, int]) -> int:
        """Points of the larger factor's box."""
        factors = (self.left_axes, self.right_axes)
        return max(prod(steps[a] for a in axes) for axes in factors)


def as_product(node: Reduce) -> Product | None:
    """The lift of a sum as a product in which both factors have axes of their own, if it is one."""
    if not node.monoid.is_sum:
        return None
    match node.lift:
        case (Apply("mul", (left, right)),):
            made = Product(left, right, _axes(left), _axes(right))
        case _:
            return None
    here = [a for a in node.axes if a.extent > 1]
    own_left = any(a in made.left_axes - made.right_axes for a in here)
    own_right = any(a in made.right_axes - made.left_axes for a in here)
    covered = set(node.over) <= made.left_axes | made.right_axes
    return made if own_left and own_right and covered else None


def _axes(expr: Expr) -> frozenset[Axis]:
    return frozenset(e.axis for e in walk(expr) if isinstance(e, Index))


def contract(
    node: Reduce, factors: Product, values: Values, arithmetic: Arithmetic, name: str
) -> list[Array]:
    """The sum of products, box by box, each box one (batched) matrix product."""
    total = np.zeros(node.shape, arithmetic.real)
    rank = len(node.axes)
    for box in _contraction_boxes(node, factors):
        scope = Scope(box, values, arithmetic, name)
        left = _on_axes(scope, factors.left, factors.left_axes | set(node.over))
        right = _on_axes(scope, factors.right, factors.right_axes | set(node.over))
        total[box.slices[:rank]] += _matrix_product(left, right, rank)
    return [total]


def _contraction_boxes(node: Reduce, factors: Product) -> Iterator[Box]:
    """Boxes in which neither factor has more than POINTS points; window axes have one value."""
    axes = node.axes + node.over
    windows = _windows(node)
    steps = {a: 1 if a in windows else a.extent for a in axes}
    while factors.size(steps) > POINTS:
        larger = max(
            (factors.left_axes, factors.right_axes), key=lambda s: prod(steps[a] for a in s)
        )
        longest = max((a for a in axes if a in larger), key=lambda a: steps[a])
        steps[longest] = -(-steps[longest] // 2)
    return covering(axes, [steps[a] for a in axes])


def _windows(node: Reduce) -> frozenset[Axis]:
    """Short reduced axes that share an index with another axis, as a convolution's taps do.

    For one value of theirs a read is a strided slice.
    """
    found: set[Axis] = set()
    for read in walk(*node.lift):
        if isinstance(read, Read):
            together = [axes for i in read.indices if len(axes := _axes(i)) > 1]
            found.update(*together)
    return frozenset(a for a in node.over if a in found and a.extent <= WINDOW)


def _on_axes(scope: Scope, factor: Expr, axes: frozenset[Axis]) -> Array:
    """The factor over the box, with full extents on `axes` and extents of 1 elsewhere."""
    value = scope.arithmetic.hold(scope.evaluate(factor), factor.dtype)
    extents = zip(scope.box.axes, scope.box.shape, strict=True)
    return np.broadcast_to(value, tuple(n if a in axes else 1 for a, n in extents))


def _matrix_product(left: Array, right: Array, rank: int) -> Any:
    """The sum over the dimensions after `rank` of `left * right`, as (batched) matrix products."""
    both = [d for d in range(rank) if (left.shape[d] > 1) == (right.shape[d] > 1)]
    rows = [d for d in range(rank) if left.shape[d] > 1 and right.shape[d] == 1]
    columns = [d for d in range(rank) if right.shape[d] > 1 and left.shape[d] == 1]
    reduced = list(range(rank, left.ndim))
    batch = [max(left.shape[d], right.shape[d]) for d in both]
    m, n = [left.shape[d] for d in rows], [right.shape[d] for d in columns]
    k = prod(left.shape[d] for d in reduced)
    a = left.transpose(both + rows + reduced + columns).reshape(prod(batch), prod(m), k)
    b = right.transpose(both + reduced + columns + rows).reshape(prod(batch), k, prod(n))
    made = np.matmul(a, b).reshape(*batch, *m, *n)
    return made.transpose(np.argsort(both + rows + columns))
