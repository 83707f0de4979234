"""Scalar expressions of the graph: frozen, interned, without effects.

In: axes, literals, reads of nodes. Out: the bodies of `Map` and the lifts of `Reduce`.
An expression knows its type, the reads in it and the axes that it depends on once it is made.
Invariant: every `Index` names an axis of the node that holds the expression; a `Read` without a
`fill` is in bounds for every point of those axes. A `Read` with a `fill` has the fill's value where
any of its indices is out of range; the fill is only looked at there.
Floats are f32 in every expression: a read of an f16 tensor widens (no `f32` application is needed).

    Index(i)                                an axis as an i32
    Literal(0.5, DType.F32)
    Read(x, (Index(b), i + 1), fill=zero)   x[b, i + 1] else 0
    Apply("mul", (a, b))
    Slot(0, 1)                              field 1 of the left operand of a monoid's combine
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from dataclasses import field as dataclass_field
from itertools import chain
from typing import TYPE_CHECKING, ClassVar

from sdlc.graph.intern import Interned
from sdlc.graph.scalar import SCALARS, result_type
from sdlc.graph.types import DType

if TYPE_CHECKING:
    from sdlc.graph.node import Node


@dataclass(frozen=True, slots=True)
class Axis:
    """A named index with values 0 … extent - 1. Names are unique within a node."""

    name: str
    extent: int

    def __str__(self) -> str:
        return f"{self.name} < {self.extent}"


_set = object.__setattr__
"""Gives a frozen object what it derives from its fields, once, as it is made."""


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Literal(metaclass=Interned):
    value: float | int | bool
    dtype: DType
    reads: ClassVar[tuple[Read, ...]] = ()
    axes: ClassVar[frozenset[Axis]] = frozenset()


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Index(metaclass=Interned):
    axis: Axis
    dtype: ClassVar[DType] = DType.I32
    reads: ClassVar[tuple[Read, ...]] = ()
    axes: frozenset[Axis] = field(init=False)

    def __post_init__(self) -> None:
        _set(self, "axes", frozenset((self.axis,)))


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Read(metaclass=Interned):
    """`source[indices]`, of output field `field` where the source is a reduction with several."""

    source: Node
    indices: tuple[Expr, ...]
    field: int = 0
    fill: Expr | None = None
    axes: frozenset[Axis] = dataclass_field(init=False)
    _inner: tuple[Read, ...] = dataclass_field(init=False)

    def __post_init__(self) -> None:
        _set(self, "axes", axes_of(*children(self)))
        _set(self, "_inner", reads_of(*children(self)))

    @property
    def reads(self) -> tuple[Read, ...]:
        return (*self._inner, self)

    @property
    def dtype(self) -> DType:
        stored = self.source.dtypes[self.field]
        return DType.F32 if stored is DType.F16 else stored


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Apply(metaclass=Interned):
    """A scalar operator of `scalar.SCALARS` applied to operands."""

    op: str
    args: tuple[Expr, ...]
    dtype: DType = field(init=False)
    reads: tuple[Read, ...] = field(init=False)
    axes: frozenset[Axis] = field(init=False)

    def __post_init__(self) -> None:
        dtype = result_type(self.op, tuple([a.dtype for a in self.args]))
        # An f16 value inside an expression is an f32 that was rounded to half precision.
        _set(self, "dtype", DType.F32 if dtype is DType.F16 else dtype)
        _set(self, "reads", reads_of(*self.args))
        _set(self, "axes", axes_of(*self.args))


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Slot(metaclass=Interned):
    """Field `field` of operand `side` (0 left, 1 right) in a monoid's combine."""

    side: int
    field: int
    dtype: DType
    reads: ClassVar[tuple[Read, ...]] = ()
    axes: ClassVar[frozenset[Axis]] = frozenset()


Expr = Literal | Index | Read | Apply | Slot


def reads_of(*exprs: Expr) -> tuple[Read, ...]:
    """Every distinct read in expressions, nested ones included, in order of appearance."""
    parts = [e.reads for e in exprs if e.reads]
    return parts[0] if len(parts) == 1 else tuple(dict.fromkeys(chain(*parts)))


def axes_of(*exprs: Expr) -> frozenset[Axis]:
    """The axes that expressions depend on; one set is shared where it has everything."""
    found: frozenset[Axis] = frozenset()
    for expr in exprs:
        if not expr.axes <= found:
            found = expr.axes if found < expr.axes else found | expr.axes
    return found


ZERO = Literal(0.0, DType.F32)
ONE = Literal(1.0, DType.F32)


def f32(value: float) -> Literal:
    return Literal(float(value), DType.F32)


def i32(value: int) -> Literal:
    return Literal(int(value), DType.I32)


def apply(op: str, *args: Expr) -> Expr:
    return Apply(op, args)


def children(expr: Expr) -> tuple[Expr, ...]:
    """The direct subexpressions, indices and fill of a read included."""
    match expr:
        case Read():
            return expr.indices if expr.fill is None else (*expr.indices, expr.fill)
        case Apply():
            return expr.args
        case _:
            return ()


def walk(*roots: Expr) -> Iterator[Expr]:
    """Every distinct subexpression, children before parents."""
    seen: set[Expr] = set()
    stack: list[tuple[Expr, bool]] = [(root, False) for root in reversed(roots)]
    while stack:
        e, entered = stack.pop()
        if entered:
            yield e
        elif e not in seen:
            seen.add(e)
            below = children(e)
            if not below:
                yield e
                continue
            stack.append((e, True))
            stack.extend([(c, False) for c in reversed(below) if c not in seen])


def rebuild(expr: Expr, change: Callable[[Expr], Expr | None]) -> Expr:
    """`expr` with `change` applied top-down: a result replaces the subexpression and is not
    entered; None keeps it and goes on to its children. Shared subexpressions are visited once."""
    memo: dict[Expr, Expr] = {}

    def visit(e: Expr) -> Expr:
        if e in memo:
            return memo[e]
        made = change(e)
        if made is None:
            match e:
                case Read():
                    indices = tuple([visit(i) for i in e.indices])
                    fill = None if e.fill is None else visit(e.fill)
                    same = indices == e.indices and fill is e.fill
                    made = e if same else Read(e.source, indices, e.field, fill)
                case Apply():
                    args = tuple([visit(a) for a in e.args])
                    made = e if args == e.args else Apply(e.op, args)
                case _:
                    made = e
        memo[e] = made
        return made

    return visit(expr)


def substitute(expr: Expr, values: dict[Axis, Expr]) -> Expr:
    """`expr` with axes replaced by expressions."""
    return rebuild(expr, lambda e: values.get(e.axis) if isinstance(e, Index) else None)


def cost(*exprs: Expr) -> int:
    """FLOP of evaluating the expressions once, shared parts counted once."""
    return sum(
        SCALARS[e.op].cost
        for e in walk(*exprs)
        if isinstance(e, Apply) and (e.dtype.is_float or e.args[0].dtype.is_float)
    )
