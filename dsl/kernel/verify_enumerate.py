"""Exact answers by enumeration, where intervals and linear forms cannot tell.

In: index expressions over work-ids and loop variables. Out: all their values, one array axis for
each variable. Invariant: an answer is exact or refused: expressions that read memory or mutable
variables, and more than `LIMIT` points, are refused with None.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
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


@dataclass(frozen=True, slots=True)
class Place:
    """What one access touches: `axes` are the shared variables first, then those that tell
    work-items apart, then the free ones, each with its range."""

    index: Expr
    lanes: int
    write: bool
    conditions: tuple[Expr, ...]
    axes: tuple[tuple[Expr, Interval], ...]


def collision(segment: Segment, owners: tuple[Expr, ...], shared: list[Expr]) -> bool | None:
    """Whether two work-items (told apart by `owners`) touch one cell, one of them writing, for the
    same values of the `shared` variables; None: that is not known."""
    places = tuple(_place(access, (*shared, *owners)) for access in segment)
    return _collision(places, segment[0].buffer.size, (len(shared), len(owners)))


def _place(access: Access, first: tuple[Expr, ...]) -> Place:
    used = variables_of((access.index, *access.conditions))
    free = [v for v in used if v not in first and v in access.ranges]
    axes = tuple((v, access.ranges[v]) for v in (*first, *free))
    return Place(access.index, access.lanes, access.write, access.conditions, axes)


@lru_cache(maxsize=1024)
def _collision(places: tuple[Place, ...], size: int, counts: tuple[int, int]) -> bool | None:
    """Kernels that fold alike ask alike: what was enumerated is remembered."""
    shared = counts[0]
    boxes = [Points([a for a, _ in p.axes], dict(p.axes)) for p in places]
    total = sum(box.count * p.lanes for box, p in zip(boxes, places, strict=True))
    instances = prod(boxes[0].shape[:shared])
    if total > LIMIT or instances * size > LIMIT:
        return None
    if len({p.axes[:shared] for p in places}) > 1:
        return None
    if not all(known(p.index, b.axes) for p, b in zip(places, boxes, strict=True)):
        return None
    writer = np.full(instances * size, -1)
    for write in (True, False):
        for place, points in zip(places, boxes, strict=True):
            if place.write is write:
                cells, lanes = _touched(place, points, size, counts)
                if ((writer[cells] != -1) & (writer[cells] != lanes)).any():
                    return True
                if write:
                    writer[cells] = lanes
                    if (writer[cells] != lanes).any():
                        return True
    return False


def _touched(
    place: Place, points: Points, size: int, counts: tuple[int, int]
) -> tuple[Values, Values]:
    """The cells (counted over the instances of the shared variables) and who touches them."""
    shared, axes = counts[0], len(points.axes)
    instance = _number(points.shape[:shared], axes, 0)
    lane = _number(points.shape[shared : sum(counts)], axes, shared)
    index = points.evaluate(place.index)
    mask = np.broadcast_to(points.holds(place.conditions), points.shape)
    cells = np.broadcast_to(instance * size + index, points.shape)[mask]
    lanes = np.broadcast_to(lane, points.shape)[mask]
    # An index out of bounds is reported elsewhere; here it only must not wrap around.
    within = np.broadcast_to((index >= 0) & (index + place.lanes <= size), points.shape)[mask]
    cells, lanes = cells[within], lanes[within]
    spread = (cells[:, None] + np.arange(place.lanes)).ravel()
    return spread, np.repeat(lanes, place.lanes)


def _number(sizes: tuple[int, ...], axes: int, first: int) -> Values:
    """The position in the box of some neighbouring axes, as one number."""
    shape = [1] * axes
    shape[first : first + len(sizes)] = sizes
    return np.arange(prod(sizes)).reshape(shape)
