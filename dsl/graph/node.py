"""The graph: four frozen, interned kinds of node that say *what* is computed.

In: expressions. Out: a directed acyclic graph whose edges are the `Read`s in expressions.
Invariant: shapes are static integers; a node's axes have distinct names; `Map.body` reads only
`Map.axes`, `Reduce.lift` reads `Reduce.axes` and `Reduce.over`.

    Map(axes=(i, j), body=x[j, i])                     out[i, j] = x[j, i]
    Reduce(axes=(i,), over=(k,), SUM, lift=(x[i, k],)) out[i] = sum over k of x[i, k]
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from math import prod
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from sdlc.graph.expr import Axis, Expr, Read, Slot, apply, cost, reads_of, walk
from sdlc.graph.intern import Interned
from sdlc.graph.types import Array, DType, Origin

NO_ORIGIN = Origin("value", "")
BY_PROGRAM: Mapping[str, str] = MappingProxyType({"origin": "program"})
"""Equal nodes of one program are one object, wherever they come from; those of another program are
others, since what is said of them has to cite its lines."""


class Role(Enum):
    """What an input is: given at each run, or loaded once by its scope path."""

    INPUT = "input"
    WEIGHT = "weight"


@dataclass(frozen=True, slots=True)
class Field:
    """A component of a monoid's state: its name, type and identity value."""

    name: str
    dtype: DType
    identity: float


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Monoid(metaclass=Interned):
    """`combine[f]` gives field f from `Slot(0, …)` (left) and `Slot(1, …)` (right)."""

    name: str
    fields: tuple[Field, ...]
    combine: tuple[Expr, ...]

    is_sum: bool = field(init=False)
    """Whether this is addition of one f32, by its equation."""
    is_sums: bool = field(init=False)
    """Whether every field is a sum of its own."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_sums", _are_sums(self.fields, self.combine))
        one = len(self.fields) == 1 and self.fields[0].identity == 0
        f32 = one and self.fields[0].dtype is DType.F32
        object.__setattr__(self, "is_sum", f32 and self.is_sums)

    @property
    def is_separate(self) -> bool:
        """Whether no field's combine looks at another field."""
        return all(
            e.field == field
            for field, combine in enumerate(self.combine)
            for e in walk(combine)
            if isinstance(e, Slot)
        )


def _are_sums(fields: tuple[Field, ...], combine: tuple[Expr, ...]) -> bool:
    for number, (one, found) in enumerate(zip(fields, combine, strict=False)):
        sides = [Slot(side, number, one.dtype) for side in (0, 1)]
        if found not in (apply("add", *sides), apply("add", *reversed(sides))):
            return False
    return True


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Input(metaclass=Interned):
    name: str
    extents: tuple[int, ...]
    dtype: DType
    role: Role = Role.INPUT
    origin: Origin = field(default=NO_ORIGIN)
    _interned_by: ClassVar[Mapping[str, str]] = BY_PROGRAM

    @property
    def shape(self) -> tuple[int, ...]:
        return self.extents

    @property
    def dtypes(self) -> tuple[DType, ...]:
        return (self.dtype,)


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Const(metaclass=Interned):
    """A constant array, held as bytes in row-major order."""

    data: bytes
    extents: tuple[int, ...]
    dtype: DType
    origin: Origin = field(default=NO_ORIGIN)
    _interned_by: ClassVar[Mapping[str, str]] = BY_PROGRAM

    @property
    def shape(self) -> tuple[int, ...]:
        return self.extents

    @property
    def dtypes(self) -> tuple[DType, ...]:
        return (self.dtype,)

    @property
    def array(self) -> Array:
        return np.frombuffer(self.data, self.dtype.numpy).reshape(self.extents)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.data).hexdigest()[:12]


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Map(metaclass=Interned):
    """`out[axes] = body`, stored as `dtype`. What is `wide` is nowhere rounded to half precision in
    the kernel that computes it: not in its sums, and not as a factor of them."""

    axes: tuple[Axis, ...]
    body: Expr
    dtype: DType
    origin: Origin = field(default=NO_ORIGIN)
    wide: bool = False
    is_static: bool = field(init=False)
    """Whether it is known when weights are loaded."""
    _interned_by: ClassVar[Mapping[str, str]] = BY_PROGRAM

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_static", all(map(is_static, sources(self))))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(a.extent for a in self.axes)

    @property
    def dtypes(self) -> tuple[DType, ...]:
        return (self.dtype,)


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Reduce(metaclass=Interned):
    """`out.f[axes] = fold of monoid over `over` of lift`, one output tensor a monoid field.

    The fold is in unspecified order, from the identity, in the fields' types; `dtypes` are the
    types in which the results are stored; `wide` is as for a `Map`.
    """

    axes: tuple[Axis, ...]
    over: tuple[Axis, ...]
    monoid: Monoid
    lift: tuple[Expr, ...]
    dtypes: tuple[DType, ...]
    origin: Origin = field(default=NO_ORIGIN)
    wide: bool = False
    is_static: bool = field(init=False)
    """Whether it is known when weights are loaded."""
    _interned_by: ClassVar[Mapping[str, str]] = BY_PROGRAM

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_static", all(map(is_static, sources(self))))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(a.extent for a in self.axes)


Node = Input | Const | Map | Reduce


@dataclass(frozen=True, slots=True)
class Graph:
    """A whole program: named results, each one field of a node, and its name."""

    name: str
    outputs: tuple[tuple[str, Node, int], ...]
    inputs: tuple[Input, ...] = ()
    """The run-time inputs in the order of the model's parameters, unused ones included."""

    def __str__(self) -> str:
        from sdlc.graph.show import show_graph

        return show_graph(self)


def expressions(node: Node) -> tuple[Expr, ...]:
    match node:
        case Map():
            return (node.body,)
        case Reduce():
            return node.lift
        case _:
            return ()


def reads(node: Node) -> tuple[Read, ...]:
    """Every distinct read in a node's expressions, nested ones included."""
    return reads_of(*expressions(node))


def sources(node: Node) -> tuple[Node, ...]:
    """The nodes that this one reads, without repetition, in order of appearance."""
    return tuple(dict.fromkeys(r.source for r in reads(node)))


def topological(graph: Graph) -> Iterator[Node]:
    """Every node that an output needs, sources before readers (depth first, iterative)."""
    done: set[Node] = set()
    for _, root, _ in graph.outputs:
        stack: list[tuple[Node, bool]] = [(root, False)]
        while stack:
            node, expanded = stack.pop()
            if node in done:
                continue
            if expanded:
                done.add(node)
                yield node
            else:
                stack.append((node, True))
                stack.extend((s, False) for s in reversed(sources(node)))


def is_static(node: Node) -> bool:
    """Whether a node is known when weights are loaded."""
    match node:
        case Input():
            return node.role is Role.WEIGHT
        case Const():
            return True
        case _:
            return node.is_static


def element_count(node: Node) -> int:
    return prod(node.shape)


def points_of(node: Node) -> int:
    """How often the expressions of a node are evaluated."""
    over = prod(a.extent for a in node.over) if isinstance(node, Reduce) else 1
    return element_count(node) * over


def flop_of(node: Node) -> int:
    """Floating-point operations of a definition, by the scalar table's costs."""
    combine = node.monoid.combine if isinstance(node, Reduce) else ()
    return points_of(node) * cost(*expressions(node), *combine)


def byte_count(node: Node, field: int) -> int:
    """Bytes of one result as it is stored."""
    return element_count(node) * node.dtypes[field].itemsize
