"""The value of a scalar expression at every point of a box of axes, in NumPy.

In: an expression, the box (a range for each axis of the node), the values of the nodes it reads.
Out: an array that broadcasts over the box, one dimension an axis, of extent 1 where the value does
not depend on the axis. Invariant: an index out of range where the read has no `fill` and its value
is looked at raises AssertionError; nothing is ever clamped into a result.

    Scope(box, values, arithmetic, "y").evaluate(Read(x, (Index(i),)))     x[i] over the box
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from sdlc.graph.expr import Apply, Axis, Expr, Index, Literal, Read, Slot
from sdlc.graph.node import Input, Node
from sdlc.graph.scalar import SCALARS
from sdlc.graph.types import Array, DType

Values = Mapping[tuple[Node, int], Array]
Mask = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]
Rounding = Callable[[str, Array], Array]
"""What a float operator, by its name, makes of its result; `f16` for a store to half precision."""
Order = Callable[[tuple[int, ...]], Indices]
"""In which order states along the last axis of an array of this shape are folded: the places of the
states, an array that broadcasts to the shape."""
Doubt = Callable[[Array, Sequence[Array]], Array]
"""What an operator whose result is no float makes of it, by its arguments: those may be no numbers.
"""

I32_RANGE = (-(2**31), 2**31 - 1)


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How numbers are held: floats as `real`, f16 stores rounded if `half`, i32 as int64.

    `rounding`, if given, replaces the result of each float operator and of each f16 store; states
    are then folded one after another, in `order` if that is given, and an infinity that is lost in
    the identity is no number after it. `doubt` replaces results that are no floats.
    """

    real: np.dtype[Any]
    half: bool = False
    rounding: Rounding | None = None
    order: Order | None = None
    doubt: Doubt | None = None

    def hold(self, value: Any, dtype: DType) -> Array:
        """`value` in the format in which a value of this type takes part in arithmetic."""
        formats = {DType.I32: np.dtype(np.int64), DType.BOOL: np.dtype(np.bool_)}
        return np.asarray(value).astype(formats.get(dtype, self.real), copy=False)

    def store(self, value: Array, dtype: DType) -> Array:
        """`value` after a trip through memory as `dtype`."""
        held = self.hold(value, dtype)
        return self.to_half(held) if dtype is DType.F16 else held

    def to_half(self, value: Array) -> Array:
        if not self.half:
            return value
        if self.rounding is not None:
            return self.rounding("f16", value)
        return value.astype(np.float16).astype(self.real)

    def to_integer(self, value: Array) -> Array:
        if value.dtype.kind == "f":
            value = np.clip(np.nan_to_num(np.trunc(value)), *I32_RANGE)
        return value.astype(np.int64)

    def apply(self, op: str, dtype: DType, args: Sequence[Array]) -> Array:
        match op:
            case "f32":
                value = self.hold(args[0], DType.F32)
            case "f16":
                return self.to_half(self.hold(args[0], DType.F32))
            case "i32":
                value = self.to_integer(args[0])
            case _:
                value = self.hold(SCALARS[op].evaluate(*args), dtype)
        if not dtype.is_float:
            return value if self.doubt is None else self.doubt(value, args)
        if self.rounding is None:
            return value
        return self.rounding(op, value)


@dataclass(frozen=True, slots=True)
class Box:
    """A range `start, stop` for each axis."""

    axes: tuple[Axis, ...]
    ranges: tuple[tuple[int, int], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(stop - start for start, stop in self.ranges)

    @property
    def slices(self) -> tuple[slice, ...]:
        return tuple(slice(start, stop) for start, stop in self.ranges)

    def join(self, other: Box) -> Box:
        return Box(self.axes + other.axes, self.ranges + other.ranges)


def boxes(axes: tuple[Axis, ...], limit: int) -> Iterator[Box]:
    """Boxes of at most `limit` points that cover the axes once, innermost axes whole first."""
    steps: list[int] = []
    for axis in reversed(axes):
        steps.insert(0, min(axis.extent, max(1, limit)))
        limit //= steps[0]
    return covering(axes, steps)


def covering(axes: tuple[Axis, ...], steps: Sequence[int]) -> Iterator[Box]:
    """Boxes of these sizes (smaller at the upper ends) that cover the axes once."""
    parts = (
        [(start, min(start + step, axis.extent)) for start in range(0, axis.extent, step)]
        for axis, step in zip(axes, steps, strict=True)
    )
    return (Box(axes, ranges) for ranges in product(*parts))


@dataclass(slots=True)
class Scope:
    """Evaluates expressions over one box; equal subexpressions are evaluated once.

    `name` is the node's, for messages; `slots` are the two states of a combine; `looked_at` says
    at which points the value matters (None: everywhere).
    """

    box: Box
    values: Values
    arithmetic: Arithmetic
    name: str
    slots: tuple[Sequence[Array], Sequence[Array]] = ((), ())
    looked_at: Mask | None = None
    _memo: dict[Expr, Array] = field(default_factory=dict)

    def evaluate(self, expr: Expr) -> Array:
        if expr not in self._memo:
            self._memo[expr] = self._evaluate(expr)
        return self._memo[expr]

    def _evaluate(self, expr: Expr) -> Array:
        match expr:
            case Literal(value, dtype):
                return self.arithmetic.hold(value, dtype)
            case Index(axis):
                return self._index(axis)
            case Slot(side, number):
                return self.slots[side][number]
            case Apply(op, args):
                return self.arithmetic.apply(op, expr.dtype, [self.evaluate(a) for a in args])
            case Read():
                return self._read(expr)

    def _index(self, axis: Axis) -> Array:
        position = self.box.axes.index(axis)
        shape = [1] * len(self.box.axes)
        shape[position] = -1
        return np.arange(*self.box.ranges[position]).reshape(shape)

    def _read(self, read: Read) -> Array:
        source = self.values[read.source, read.field]
        rank = len(self.box.axes)
        indices = [self._full_rank(self.evaluate(i), rank) for i in read.indices]
        valid = [(i >= 0) & (i < n) for i, n in zip(indices, source.shape, strict=True)]
        inside = conjunction(valid, rank)
        if read.fill is None or inside.all():
            self._assert_inside(read, indices, inside)
            return gather(source, indices, valid, source.dtype.type(0), rank)
        fill = self._elsewhere(~inside).evaluate(read.fill)
        if fill.ndim == 0:
            return gather(source, indices, valid, fill, rank)
        return np.where(inside, gather(source, indices, valid, fill.dtype.type(0), rank), fill)

    @staticmethod
    def _full_rank(value: Any, rank: int) -> Indices:
        index: Indices = value.reshape((1,) * (rank - value.ndim) + value.shape)
        return index

    def _elsewhere(self, where: Mask) -> Scope:
        """A scope for what is looked at only at these points."""
        if self.looked_at is not None:
            where = where & self.looked_at
        return Scope(self.box, self.values, self.arithmetic, self.name, self.slots, where)

    def _assert_inside(self, read: Read, indices: Sequence[Indices], inside: Mask) -> None:
        wrong = ~inside if self.looked_at is None else ~inside & self.looked_at
        if not wrong.any():
            return
        point = tuple(int(p) for p in np.argwhere(wrong)[0])
        at = [int(np.broadcast_to(i, wrong.shape)[point]) for i in indices]
        source = read.source
        called = source.name if isinstance(source, Input) else source.origin.name
        raise AssertionError(
            f"{self.name} reads {called} of shape {list(source.shape)} "
            f"at {at}, out of range and without an `else`"
        )


def conjunction(masks: Sequence[Mask], rank: int) -> Mask:
    """Where all masks hold, broadcasting."""
    both: Mask = np.ones((1,) * rank, np.bool_)
    for mask in masks:
        both = both & mask
    return both


def gather(
    source: Array, indices: Sequence[Indices], valid: Sequence[Mask], fill: Any, rank: int
) -> Array:
    """`source[indices]` where every index is valid, `fill` elsewhere, broadcasting over the box.

    Indices that vary along distinct axes select one dimension after another (strided views where
    they can be); all others are looked up point by point. Both give the same values.
    """
    varying = [[p for p in range(rank) if i.shape[p] > 1] for i in indices]
    axes = [v[0] for v in varying if v]
    if all(len(v) <= 1 for v in varying) and len(set(axes)) == len(axes):
        vectors = [i.reshape(-1) for i in indices]
        flags = [v.reshape(-1) for v in valid]
        return _expand(_select(source, vectors, flags, fill), varying, rank)
    inside = conjunction(valid, rank)
    clipped = [np.clip(i, 0, n - 1) for i, n in zip(indices, source.shape, strict=True)]
    found: Array = np.asarray(source[tuple(clipped)])
    return found if inside.all() else np.where(inside, found, fill)


def _select(source: Array, vectors: Sequence[Array], flags: Sequence[Array], fill: Any) -> Array:
    """`source` at the outer product of one index vector a dimension."""
    kept = [np.flatnonzero(f) for f in flags]
    found = source
    for dim, (vector, keep) in enumerate(zip(vectors, kept, strict=True)):
        where = _progression(vector[keep])
        found = found[(slice(None),) * dim + (where,)]
    shape = tuple(v.size for v in vectors)
    if found.shape == shape:
        return found
    out = np.full(shape, fill, source.dtype)
    if found.size:
        out[np.ix_(*kept) if not _solid(kept) else _spans(kept)] = found
    return out


def _solid(kept: Sequence[Array]) -> bool:
    return all(k.size == k[-1] - k[0] + 1 for k in kept)


def _spans(kept: Sequence[Any]) -> tuple[slice, ...]:
    return tuple(slice(int(k[0]), int(k[-1]) + 1) for k in kept)


def _progression(vector: Any) -> Any:
    """A slice with these elements if they go up in equal steps, else the vector."""
    if vector.size == 0:
        return slice(0, 0)
    step = int(vector[1] - vector[0]) if vector.size > 1 else 1
    if step < 1 or not (np.diff(vector) == step).all():
        return vector
    return slice(int(vector[0]), int(vector[-1]) + 1, step)


def _expand(found: Array, varying: Sequence[Sequence[int]], rank: int) -> Array:
    """Dimensions moved to the axes that they vary along; extents of 1 everywhere else."""
    long = [dim for dim, axes in enumerate(varying) if axes]
    long.sort(key=lambda dim: varying[dim][0])
    flat = [dim for dim, axes in enumerate(varying) if not axes]
    shape = [1] * rank
    for dim in long:
        shape[varying[dim][0]] = found.shape[dim]
    return found.transpose(flat + long).reshape(shape)
