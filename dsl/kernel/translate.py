"""Scalar expressions of the graph as scalar expressions of a kernel.

In: an expression, the value of every axis, the storage of every value that is read. Out: a kernel
expression of one lane. Invariant: every `Load` is in bounds wherever its operands are in range:
guarded reads clamp their indices and select, so expressions may be evaluated speculatively.
Example: `x[i - 1] else 0` becomes `select(i - 1 >= 0, x[max(i - 1, 0)], 0)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sdlc.graph import expr as g
from sdlc.graph.node import Node
from sdlc.graph.types import DType
from sdlc.kernel import ir as k
from sdlc.kernel.lower_names import LANE, clamped, lanes_of
from sdlc.schedule.distributed import Digit
from sdlc.schedule.storage import Block, stored_strides

_Visit = Callable[[g.Expr], k.Expr]


@dataclass(frozen=True, slots=True)
class Storage:
    """A stored value as a kernel sees it: its buffer, logical shape, the order of its axes, and the
    blocks that one of them may be stored in."""

    buffer: k.Buffer
    shape: tuple[int, ...]
    order: tuple[int, ...]
    block: Block | None = None

    @property
    def strides(self) -> tuple[int, ...]:
        """Elements between neighbours, by logical axis; between blocks for a block's axis."""
        return stored_strides(self.shape, self.order, self.block)

    def flat(self, indices: tuple[k.Expr, ...]) -> k.Expr:
        """The element number of logical indices."""
        total: k.Expr = k.i32(0)
        for axis, (index, stride) in enumerate(zip(indices, self.strides, strict=True)):
            if self.block is not None and axis == self.block.axis:
                size = k.i32(self.block.size)
                total = k.call("add", total, k.call("mod", index, size))
                index = k.call("floordiv", index, size)
            total = k.call("add", total, k.call("mul", index, k.i32(stride)))
        return total


@dataclass(frozen=True, slots=True)
class Held:
    """A part of a value that is kept inside the kernel: by axis, the elements from `first` on that
    are a multiple of `steps` away; or, where `digits` say so, a work-item's own."""

    buffer: k.Buffer
    first: tuple[k.Expr, ...]
    strides: tuple[int, ...]
    steps: tuple[int, ...]
    digits: tuple[Digit, ...] | None = None

    def flat(self, indices: tuple[k.Expr, ...]) -> k.Expr:
        """The element number, in the kept part, of the value's indices."""
        total: k.Expr = k.i32(0)
        if self.digits is not None:
            for digit in self.digits:
                at = k.call("sub", indices[digit.axis], self.first[digit.axis])
                at = k.call("floordiv", at, k.i32(digit.stride))
                at = k.call("mod", at, k.i32(digit.extent))
                total = k.call("add", total, k.call("mul", at, k.i32(digit.weight)))
            return total
        held = zip(indices, self.first, self.strides, self.steps, strict=True)
        for index, first, stride, step in held:
            offset = k.call("sub", index, first)
            if step > 1:
                offset = k.call("floordiv", offset, k.i32(step))
            total = k.call("add", total, k.call("mul", offset, k.i32(stride)))
        return total


@dataclass(frozen=True, slots=True)
class Scope:
    """What names stand for: axes, monoid slots (by side and field), stored values, and values held
    in the kernel; `raw` are the axes as they index those, and remainders
    in the indices of `periodic` values: possibly beyond their extents; `lanes` has the vector whose
    lanes' number is `LANE`."""

    axes: Mapping[g.Axis, k.Expr]
    slots: Mapping[tuple[int, int], k.Expr]
    storage: Mapping[tuple[Node, int], Storage]
    held: Mapping[tuple[Node, int], Held] = field(default_factory=dict)
    raw: Mapping[g.Axis, k.Expr] = field(default_factory=dict)
    periodic: frozenset[tuple[Node, int]] = frozenset()
    lanes: int = 1


def translate(expr: g.Expr, scope: Scope) -> k.Expr:
    """The expression in the kernel's terms, not simplified."""
    memo: dict[g.Expr, k.Expr] = {}

    def visit(e: g.Expr) -> k.Expr:
        if e not in memo:
            memo[e] = _translated(e, visit, scope)
        return memo[e]

    return visit(expr)


def _translated(e: g.Expr, visit: _Visit, scope: Scope) -> k.Expr:
    match e:
        case g.Literal():
            return k.Literal(e.value, k.Type(e.dtype))
        case g.Index():
            return scope.axes[e.axis]
        case g.Slot():
            return scope.slots[(e.side, e.field)]
        case g.Read():
            return _read(e, visit, scope)
        case g.Apply():
            return _apply(e, tuple(visit(a) for a in e.args))


def _apply(e: g.Apply, args: tuple[k.Expr, ...]) -> k.Expr:
    match e.op:
        case "f32" | "i32":
            return k.Cast(args[0], DType(e.op))
        case "f16":
            return k.Cast(k.Cast(args[0], DType.F16), DType.F32)
        case "bool":
            return k.call("ne", args[0], k.Literal(0, args[0].type))
        case _:
            return k.Call(e.op, args)


def _read(e: g.Read, visit: _Visit, scope: Scope) -> k.Expr:
    if (e.source, e.field) in scope.held:
        return _held(e, visit, scope)
    storage = scope.storage[(e.source, e.field)]
    if (e.source, e.field) in scope.periodic:
        exact = Scope(scope.raw, {}, {})
        places = (translate(i, exact) if is_remainder(i) else visit(i) for i in e.indices)
        return _loaded(storage, tuple(places))
    indices = tuple(visit(i) for i in e.indices)
    if e.fill is None:
        return _loaded(storage, indices)
    widths = [lanes_of(i, n, scope.lanes) for i, n in zip(indices, storage.shape, strict=True)]
    inside = _inside(indices, storage.shape, widths)
    safe = [
        clamped(index, extent, width, LANE, least=0)
        for index, extent, width in zip(indices, storage.shape, widths, strict=True)
    ]
    return k.call("select", inside, _loaded(storage, tuple(safe)), visit(e.fill))


def _inside(indices: Sequence[k.Expr], shape: Sequence[int], widths: Sequence[int]) -> k.Expr:
    """Whether indices are inside of a shape; vectors that are so as a whole ask once."""
    inside: k.Expr = k.Literal(True, k.BOOL)
    for index, extent, width in zip(indices, shape, widths, strict=True):
        start = index if width == 1 else k.call("sub", index, LANE)
        inside = k.call("and", inside, k.call("ge", start, k.i32(0)))
        inside = k.call("and", inside, k.call("lt", start, k.i32(extent)))
    return inside


def is_remainder(index: g.Expr) -> bool:
    """Whether an index repeats, so that no value of its axes is out of range."""
    return isinstance(index, g.Apply) and index.op == "mod"


def _held(e: g.Read, visit: _Visit, scope: Scope) -> k.Expr:
    """A read of a kept value. What is kept covers every index that is computed, so none is
    clamped."""
    held = scope.held[(e.source, e.field)]
    exact = Scope(scope.raw, {}, {})
    indices = tuple(translate(i, exact) for i in e.indices)
    load: k.Expr = k.Load(held.buffer, held.flat(indices))
    if held.buffer.dtype is DType.F16:
        load = k.Cast(load, DType.F32)
    if e.fill is None:
        return load
    shape = e.source.shape
    widths = [lanes_of(i, n, scope.lanes) for i, n in zip(indices, shape, strict=True)]
    return k.call("select", _inside(indices, shape, widths), load, visit(e.fill))


def _loaded(storage: Storage, indices: tuple[k.Expr, ...]) -> k.Expr:
    load = k.Load(storage.buffer, storage.flat(indices))
    return k.Cast(load, DType.F32) if storage.buffer.dtype is DType.F16 else load
