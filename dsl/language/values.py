"""What names stand for while a program is elaborated.

In: nothing. Out: the kinds of value. Invariant: values are immutable; compile-time values are plain
Python (`int float bool str None tuple`), scalars of a statement in index notation are graph
expressions, everything else is one of the classes below.

    Tensor(node, field)          a node's output
    Elementwise(axes, body, F16) a whole-tensor expression that is not a node yet
    Record(node, monoid)         a reduction with several fields, or with a `finish`
    RecordPoint(parts, monoid)   one point of a record, or an operand of a monoid's `combine`
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeGuard

from sdlc.graph.expr import Apply, Axis, Expr, Index, Literal, Read, Slot
from sdlc.graph.node import Node, Reduce
from sdlc.graph.types import DType
from sdlc.language.syntax import MonoidDefinition


@dataclass(frozen=True, slots=True)
class Tensor:
    """`element` is its type for the language where it is stored as another one (`precision`)."""

    node: Node
    field: int = 0
    element: DType | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.node.shape

    @property
    def dtype(self) -> DType:
        return self.element or self.node.dtypes[self.field]

    def at(self, indices: tuple[Expr, ...], guarded: bool = False) -> Expr:
        """One element; `guarded`: 0 where the indices are out of range."""
        return _element(self.node, indices, self.field, guarded)


@dataclass(frozen=True, slots=True)
class Elementwise:
    """`body` at every point of `axes`, to be stored as `dtype`."""

    axes: tuple[Axis, ...]
    body: Expr
    dtype: DType

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(a.extent for a in self.axes)


@dataclass(frozen=True, slots=True)
class Record:
    node: Reduce
    monoid: MonoidDefinition

    @property
    def shape(self) -> tuple[int, ...]:
        return self.node.shape

    def at(self, indices: tuple[Expr, ...], guarded: bool = False) -> RecordPoint:
        fields = range(len(self.node.dtypes))
        parts = tuple(_element(self.node, indices, f, guarded) for f in fields)
        return RecordPoint(parts, self.monoid)


@dataclass(frozen=True, slots=True)
class RecordPoint:
    """`raw`: read the monoid's own fields, not those of its `finish`."""

    parts: tuple[Expr, ...]
    monoid: MonoidDefinition
    raw: bool = False


def field_names(monoid: MonoidDefinition) -> list[str]:
    """The fields that readers see: those of `finish`, if there is one."""
    if monoid.finish:
        return [name for bind in monoid.finish for name in bind.names]
    return [f.name for f in monoid.fields]


@dataclass(frozen=True, slots=True)
class RecordField:
    """`s.m` before its indices are known: `pick` gives the field at one point of the record."""

    record: Record
    name: str
    pick: Callable[[RecordPoint], Expr]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.record.shape

    def at(self, indices: tuple[Expr, ...], guarded: bool = False) -> Expr:
        return self.pick(self.record.at(indices, guarded))


@dataclass(frozen=True, slots=True)
class Poison:
    """The value of what failed; whatever uses it fails without another message."""


POISON = Poison()

Scalar = int | float | bool
Value = (
    int
    | float
    | bool
    | str
    | None
    | tuple["Value", ...]
    | Expr
    | Tensor
    | Elementwise
    | Record
    | RecordPoint
    | RecordField
    | Poison
)

WholeTensor = Tensor | Elementwise


def zero(dtype: DType) -> Literal:
    return Literal(False if dtype is DType.BOOL else 0 if dtype is DType.I32 else 0.0, dtype)


def _element(node: Node, indices: tuple[Expr, ...], field: int, guarded: bool) -> Expr:
    read = Read(node, indices, field)
    return Read(node, indices, field, zero(read.dtype)) if guarded else read


def is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def is_expression(value: object) -> TypeGuard[Expr]:
    return isinstance(value, (Literal, Index, Read, Apply, Slot))


def is_tensor(value: object) -> TypeGuard[WholeTensor]:
    return isinstance(value, (Tensor, Elementwise))


def is_static(value: object) -> bool:
    """Whether a value is known when the program is built."""
    return value is None or isinstance(value, (int, float, bool, str, tuple))


def shape_text(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def type_text(dtype: DType, shape: tuple[int, ...]) -> str:
    return f"{dtype.value}{shape_text(shape)}"


def show(value: Value) -> str:
    """A compile-time value as it is written."""
    match value:
        case bool():
            return "true" if value else "false"
        case None:
            return "none"
        case str():
            return f'"{value}"'
        case tuple():
            return "[" + ", ".join(show(v) for v in value) + "]"
        case int() | float():
            return str(value)
        case _:
            return describe(value)


_ARTICLES = {"i32": "an integer", "f32": "a float", "bool": "a boolean"}


def describe(value: Value) -> str:
    """A value in words, for messages: `the integer 3`, `a tensor f16[2, 8]`."""
    match value:
        case bool():
            return f"the boolean {show(value)}"
        case int():
            return f"the integer {value}"
        case float():
            return f"the float {value}"
        case str():
            return f"the string {show(value)}"
        case None:
            return "`none`"
        case tuple():
            return f"a list of {len(value)}"
        case Tensor() | Elementwise():
            return f"a tensor {type_text(value.dtype, value.shape)}"
        case Record():
            return f"a record of `{value.monoid.name}` with the shape {shape_text(value.shape)}"
        case RecordPoint():
            return f"a record of `{value.monoid.name}`"
        case RecordField():
            return f"field `{value.name}` of a record with the shape {shape_text(value.shape)}"
        case Poison():
            return "an erroneous value"
        case _:
            return f"{_ARTICLES[value.dtype.value]} ({value.dtype.value})"
