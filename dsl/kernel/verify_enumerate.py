"""Exact answers by enumeration, where intervals and linear forms cannot tell.

In: index expressions over work-ids and loop variables. Out: all their values, one array axis for
each variable. Invariant: an answer is exact or refused: expressions that read memory or mutable
variables, and more than `LIMIT` points, are refused with None.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from sdlc.graph.scalar import SCALARS
from sdlc.graph.types import DType
from sdlc.kernel.intervals import Interval
from sdlc.kernel.ir import Call, Cast, Expr, Literal, Var, WorkId, walk
from sdlc.kernel.verify_accesses import Access, Segment

Values = npt.NDArray[Any]
LIMIT = 1 << 22


class Points:
    """A box of values of variables, `axes` in order; expressions are evaluated at all of them."""

    def __init__(self, axes: Iterable[Expr], ranges: Mapping[Expr, Interval]) -> None:
        self.axes = tuple(axes)
        sizes = [ranges[a][1] - ranges[a][0] + 1 for a in self.axes]
        self.shape = tuple(sizes)
        self.count = prod(sizes)
        self._values: dict[Expr, Values] = {}
        for i, axis in enumerate(self.axes):
            low, high = ranges[axis]
            shape = [1] * len(sizes)
            shape[i] = sizes[i]
            self._values[axis] = np.arange(low, high + 1).reshape(shape)

    def evaluate(self, expr: Expr) -> Values:
        """The values of an expression of which `known` says that it can be evaluated."""
        if expr not in self._values:
            match expr:
                case Literal():
                    value: Any = np.asarray(expr.value)
                case Cast():
                    inner = self.evaluate(expr.value)
                    value = inner != 0 if expr.dtype is DType.BOOL else inner.astype(np.int64)
                case Call():
                    value = SCALARS[expr.op].evaluate(*(self.evaluate(a) for a in expr.args))
                case _:
                    raise AssertionError(expr)
            self._values[expr] = np.asarray(value)
        return self._values[expr]

    def holds(self, conditions: Iterable[Expr]) -> Values:
        """Where all conditions hold that can be evaluated; the others are taken to hold."""
        mask = np.asarray(True)
        for condition in conditions:
            if known(condition, self._values.keys()):
                mask = mask & self.evaluate(condition)
        return mask


def known(expr: Expr, variables: Iterable[Expr]) -> bool:
    """Whether an expression can be evaluated from the values of `variables`."""
    given = set(variables)
    for e in walk(expr):
        if e.type.lanes > 1 or e.type.dtype not in (DType.I32, DType.BOOL):
            return False
        if isinstance(e, (Var, WorkId)):
            if e not in given:
                return False
        elif not isinstance(e, (Literal, Call, Cast)):
            return False
    return True


def variables_of(expressions: Iterable[Expr]) -> list[Expr]:
    """The variables of expressions, in order of first use."""
    return [e for e in walk(*expressions) if isinstance(e, (Var, WorkId))]


def outside(access: Access) -> bool | None:
    """Whether an access leaves its buffer at some point; None: that is not known."""
    axes = [v for v in variables_of((access.index, *access.conditions)) if v in access.ranges]
    if not known(access.index, axes):
        return None
    points = Points(axes, access.ranges)
    if points.count > LIMIT:
        return None
    index = points.evaluate(access.index)
    bad = (index < 0) | (index + access.lanes > access.buffer.size)
    return bool((bad & points.holds(access.conditions)).any())


def collision(segment: Segment, owners: tuple[Expr, ...], shared: list[Expr]) -> bool | None:
    """Whether two work-items (told apart by `owners`) touch one cell, one of them writing, for the
    same values of the `shared` variables; None: that is not known."""
    boxes = [_box(access, owners, shared) for access in segment]
    total = sum(box.count * a.lanes for box, a in zip(boxes, segment, strict=True))
    instances = prod(_extents(segment, shared))
    size = segment[0].buffer.size
    if total > LIMIT or instances * size > LIMIT:
        return None
    if len({tuple(a.ranges[s] for s in shared) for a in segment}) > 1:
        return None
    if not all(known(a.index, b.axes) for a, b in zip(segment, boxes, strict=True)):
        return None
    writer = np.full(instances * size, -1)
    for write in (True, False):
        for access, points in zip(segment, boxes, strict=True):
            if access.write is write:
                cells, lanes = _touched(access, points, owners, len(shared))
                if ((writer[cells] != -1) & (writer[cells] != lanes)).any():
                    return True
                if write:
                    writer[cells] = lanes
                    if (writer[cells] != lanes).any():
                        return True
    return False


def _extents(segment: Segment, shared: list[Expr]) -> list[int]:
    ranges = segment[0].ranges
    return [ranges[s][1] - ranges[s][0] + 1 for s in shared]


def _box(access: Access, owners: tuple[Expr, ...], shared: list[Expr]) -> Points:
    """Shared variables first, then those that tell work-items apart, then the free ones."""
    first = (*shared, *owners)
    used = variables_of((access.index, *access.conditions))
    free = [v for v in used if v not in first and v in access.ranges]
    return Points((*first, *free), access.ranges)


def _touched(
    access: Access, points: Points, owners: tuple[Expr, ...], shared: int
) -> tuple[Values, Values]:
    """The cells (counted over the instances of the shared variables) and who touches them."""
    size, axes = access.buffer.size, len(points.axes)
    instance = _number(points.shape[:shared], axes, 0)
    lane = _number(points.shape[shared : shared + len(owners)], axes, shared)
    index = points.evaluate(access.index)
    mask = np.broadcast_to(points.holds(access.conditions), points.shape)
    cells = np.broadcast_to(instance * size + index, points.shape)[mask]
    lanes = np.broadcast_to(lane, points.shape)[mask]
    # An index out of bounds is reported elsewhere; here it only must not wrap around.
    within = np.broadcast_to((index >= 0) & (index + access.lanes <= size), points.shape)[mask]
    cells, lanes = cells[within], lanes[within]
    spread = (cells[:, None] + np.arange(access.lanes)).ravel()
    return spread, np.repeat(lanes, access.lanes)


def _number(sizes: tuple[int, ...], axes: int, first: int) -> Values:
    """The position in the box of some neighbouring axes, as one number."""
    shape = [1] * axes
    shape[first : first + len(sizes)] = sizes
    return np.arange(prod(sizes)).reshape(shape)
