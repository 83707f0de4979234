"""Level 4: the kernel. *How* one dispatch computes: loops, address spaces, barriers, vectors.

    kernel  = Kernel(name, buffers, body, grid, group)
    stmt    = Let(var, value)                      an immutable local
            | Declare(var, value)                  a mutable local with its first value
            | Assign(var, value)
            | Store(buffer, index, value, guard)   value's lanes to index, index + 1, …; where guard
            | For(var, extent, body, axis)         var = 0 … extent - 1, labelled by its axis
            | If(condition, body)                  condition must be uniform if body holds a Barrier
            | Barrier()                            all lanes of a work-group; orders local memory
            | MatrixMultiply(instruction, into, left, right)    into += left × right, by a sub-group
    expr    = Literal | Var | WorkId | Call(op, args) | Cast | Load(buffer, index, type)
            | Vector(parts) | Extract(vector, lanes)

Types are a `DType` and a number of lanes (1, 2, 4, 8, 16). Expressions have no effects and are
interned: the same expression is the same object, and knows its type, operands, variables and (an
integer sum) linear form from the moment that it is made. `Call` is elementwise over lanes: operands
have equal lanes, or one lane, which is broadcast; the operators are those of `graph.scalar`.
Integer `floordiv` and `mod` floor; the simplifier proves operands non-negative where it can.
Arithmetic is in f32, i32 and bool, and in f16 where a target has it (`caps.f16_arithmetic`): sums,
products, extrema, comparisons and selections of f16 operands round to f16. Elsewhere an f16 exists
only as the type of a `Load` from an f16 buffer (cast to f32 before use) and of the value of a
`Store` (a `Cast` to f16). An f16 comes from, and goes to, f32 only. A `Load` with lanes reads
consecutive elements. Every index of a `Load` must be proven in bounds whether or not its value is
used: a guarded read clamps its index and selects. There are no pointers, calls, returns or whiles.

The matrices of a `MatrixMultiply` are held by the work-items of a sub-group: those with consecutive
numbers in a work-group, from a multiple of the sub-group's size on. Each gives its elements of both
factors, as expressions of one or more lanes, and has its elements of the result in variables;
who has which is a fact of the instruction (`target.Holding`). All of a sub-group reach it together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from enum import Enum
from functools import lru_cache
from math import prod
from typing import Any, ClassVar
from typing import Literal as OneOf

from sdlc.graph.intern import Interned
from sdlc.graph.scalar import result_type
from sdlc.graph.types import DType, Origin
from sdlc.kernel.linear import Linear, affine
from sdlc.target import MatrixInstruction


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Type(metaclass=Interned):
    dtype: DType
    lanes: int = 1

    def __str__(self) -> str:
        return self.dtype.value + (f"x{self.lanes}" if self.lanes > 1 else "")


F32, F16, I32, BOOL = (Type(d) for d in (DType.F32, DType.F16, DType.I32, DType.BOOL))


class Space(Enum):
    GLOBAL = "global"
    LOCAL = "local"
    PRIVATE = "private"


class Access(Enum):
    READ = "read"
    WRITE = "write"
    READ_WRITE = "read_write"


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Buffer(metaclass=Interned):
    """An array of `size` scalars of `dtype`. Global buffers are the kernel's parameters. With
    `lanes` above 1, every access has that many lanes, or a part of them, at a multiple of its own:
    the text may declare an array of vectors. Indices and `size` count scalars all the same. One
    that `overlaps` may be bound to the bytes of another one of the kernel."""

    name: str
    dtype: DType
    size: int
    space: Space = Space.GLOBAL
    access: Access = Access.READ
    lanes: int = 1
    overlaps: bool = False


MANY_LITERALS = 50_000
"""As many integers as the indices of a large program have in them."""

_set = object.__setattr__
"""Gives a frozen object what it derives from its fields, once, as it is made."""


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Literal(metaclass=Interned):
    value: float | int | bool
    type: Type
    form: Linear | None = field(init=False)
    operands: ClassVar[tuple[Expr, ...]] = ()
    variables: ClassVar[Variables] = frozenset()

    def __post_init__(self) -> None:
        _set(self, "form", ({}, int(self.value)) if self.type is I32 else None)


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Var(metaclass=Interned):
    """A local. Names are unique within a kernel."""

    name: str
    type: Type
    form: ClassVar[Linear | None] = None
    operands: ClassVar[tuple[Expr, ...]] = ()

    @property
    def variables(self) -> Variables:
        return frozenset((self,))


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class WorkId(metaclass=Interned):
    """The work-group's index (`group`) or the work-item's index within it (`lane`)."""

    kind: OneOf["group", "lane"]
    dim: int
    type: ClassVar[Type] = I32
    form: ClassVar[Linear | None] = None
    operands: ClassVar[tuple[Expr, ...]] = ()

    @property
    def variables(self) -> Variables:
        return frozenset((self,))


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Call(metaclass=Interned):
    op: str
    args: tuple[Expr, ...]
    type: Type = field(init=False)
    form: Linear | None = field(init=False)
    operands: tuple[Expr, ...] = field(init=False)
    variables: Variables = field(init=False)

    def __post_init__(self) -> None:
        args = self.args
        kind = _type_of(self.op, tuple([a.type for a in args]))
        _set(self, "type", kind)
        _set(self, "form", affine(self.op, args) if kind is I32 else None)
        _set(self, "operands", args)
        _set(self, "variables", _variables(args))


@lru_cache(maxsize=1024)
def _type_of(op: str, operands: tuple[Type, ...]) -> Type:
    dtype = result_type(op, tuple(t.dtype for t in operands))
    return Type(dtype, max(t.lanes for t in operands))


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Cast(metaclass=Interned):
    """Conversion of every lane to `dtype`; float to i32 truncates."""

    value: Expr
    dtype: DType
    type: Type = field(init=False)
    form: ClassVar[Linear | None] = None
    operands: tuple[Expr, ...] = field(init=False)
    variables: Variables = field(init=False)

    def __post_init__(self) -> None:
        _set(self, "type", Type(self.dtype, self.value.type.lanes))
        _set(self, "operands", (self.value,))
        _set(self, "variables", self.value.variables)


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Load(metaclass=Interned):
    buffer: Buffer
    index: Expr
    lanes: int = 1
    type: Type = field(init=False)
    form: ClassVar[Linear | None] = None
    operands: tuple[Expr, ...] = field(init=False)
    variables: Variables = field(init=False)

    def __post_init__(self) -> None:
        _set(self, "type", Type(self.buffer.dtype, self.lanes))
        _set(self, "operands", (self.index,))
        _set(self, "variables", self.index.variables)


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Vector(metaclass=Interned):
    """A vector from its lanes, scalars all of one type; two or more."""

    parts: tuple[Expr, ...]
    type: Type = field(init=False)
    form: ClassVar[Linear | None] = None
    operands: tuple[Expr, ...] = field(init=False)
    variables: Variables = field(init=False)

    def __post_init__(self) -> None:
        _set(self, "type", Type(self.parts[0].type.dtype, len(self.parts)))
        _set(self, "operands", self.parts)
        _set(self, "variables", _variables(self.parts))


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Extract(metaclass=Interned):
    """`count` consecutive lanes of a vector from lane `first` on; one lane is a scalar."""

    value: Expr
    first: int
    count: int = 1
    type: Type = field(init=False)
    form: ClassVar[Linear | None] = None
    operands: tuple[Expr, ...] = field(init=False)
    variables: Variables = field(init=False)

    def __post_init__(self) -> None:
        _set(self, "type", Type(self.value.type.dtype, self.count))
        _set(self, "operands", (self.value,))
        _set(self, "variables", self.value.variables)


Expr = Literal | Var | WorkId | Call | Cast | Load | Vector | Extract
Variables = frozenset[Var | WorkId]


def _variables(operands: tuple[Expr, ...]) -> Variables:
    """What occurs in any operand; one set is shared where it has everything."""
    found = operands[0].variables
    for operand in operands[1:]:
        more = operand.variables
        if not more <= found:
            found = more if found < more else found | more
    return found


@dataclass(frozen=True, slots=True)
class Let:
    var: Var
    value: Expr


@dataclass(frozen=True, slots=True)
class Declare:
    var: Var
    value: Expr


@dataclass(frozen=True, slots=True)
class Assign:
    var: Var
    value: Expr


@dataclass(frozen=True, slots=True)
class Store:
    buffer: Buffer
    index: Expr
    value: Expr
    guard: Expr | None = None


@dataclass(frozen=True, slots=True)
class For:
    """`var` runs over 0 … extent - 1; `axis` labels the loop by the source's axis. `until` are a
    place that the body carries and a local: the place is less than that one exactly as long as the
    loop goes on, so that the text counts by it where the body does not read `var`."""

    var: Var
    extent: int
    body: tuple[Stmt, ...]
    axis: str = ""
    until: tuple[Var, Var] | None = None


@dataclass(frozen=True, slots=True)
class If:
    condition: Expr
    body: tuple[Stmt, ...]


@dataclass(frozen=True, slots=True)
class Barrier:
    pass


@dataclass(frozen=True, slots=True)
class MatrixMultiply:
    """`into` += left × right. `into` are mutable scalars, one an element that a work-item holds of
    the result; `left` and `right` its elements of the factors in order, in vectors or scalars."""

    instruction: MatrixInstruction
    into: tuple[Var, ...]
    left: tuple[Expr, ...]
    right: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Exchange:
    """`var` is the `value` of the work-item whose number in the work-group, dimension 0 the
    fastest, differs in the bits of `distance`, within sub-groups of `lanes`; all reach it."""

    var: Var
    value: Expr
    distance: int
    lanes: int


Stmt = Let | Declare | Assign | Store | For | If | Barrier | MatrixMultiply | Exchange


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel: `buffers` are its global parameters in binding order, `arrays` its local and
    private ones; `grid` is in work-groups, `group` in work-items; `nest` is the loop nest, printed;
    `origins` are the definitions that it came from, for the header of the generated text."""

    name: str
    buffers: tuple[Buffer, ...]
    arrays: tuple[Buffer, ...]
    body: tuple[Stmt, ...]
    grid: tuple[int, int, int]
    group: tuple[int, int, int]
    nest: str = ""
    origins: tuple[Origin, ...] = ()

    @property
    def work_items(self) -> int:
        """Work-items of one work-group."""
        return prod(self.group)

    @property
    def local_bytes(self) -> int:
        """Bytes of local memory of one work-group."""
        return sum(a.size * a.dtype.itemsize for a in self.arrays if a.space is Space.LOCAL)

    def __str__(self) -> str:
        from sdlc.kernel.show import show_kernel

        return show_kernel(self)

    def __reduce__(self) -> tuple[object, ...]:
        """For `pickle`: expressions come first, operands before users, so that none is written
        within another, however deep it is."""
        held = (e for stmt in statements(self.body) for e in statement_expressions(stmt))
        values = tuple(getattr(self, f.name) for f in fields(self))
        return _written, (tuple(walk(*held)), *values)


def _written(expressions: tuple[Expr, ...], *values: Any) -> Kernel:
    """The kernel that was pickled with its expressions."""
    return Kernel(*values)


@lru_cache(maxsize=MANY_LITERALS)
def i32(value: int) -> Literal:
    return Literal(int(value), I32)


def f32(value: float) -> Literal:
    return Literal(float(value), F32)


def call(op: str, *args: Expr) -> Expr:
    return Call(op, args)


def operands(expr: Expr) -> tuple[Expr, ...]:
    """The direct subexpressions."""
    return expr.operands


def with_operands(expr: Expr, made: tuple[Expr, ...]) -> Expr:
    """`expr` with its direct subexpressions replaced."""
    match expr:
        case Call():
            return Call(expr.op, made)
        case Cast():
            return Cast(made[0], expr.dtype)
        case Extract():
            return Extract(made[0], expr.first, expr.count)
        case Load():
            return Load(expr.buffer, made[0], expr.lanes)
        case Vector():
            return Vector(made)
        case _:
            return expr


def walk(*roots: Expr) -> Iterator[Expr]:
    """Every distinct subexpression, operands before users."""
    seen: set[Expr] = set()
    for root in roots:
        if root not in seen:
            seen.add(root)
            yield from _walk(root, seen)


def _walk(root: Expr, seen: set[Expr]) -> Iterator[Expr]:
    """`root` and what is below it and not `seen`."""
    stack = [(root, iter(root.operands))]
    while stack:
        e, rest = stack[-1]
        for o in rest:
            if o not in seen:
                seen.add(o)
                if o.operands:
                    stack.append((o, iter(o.operands)))
                    break
                yield o
        else:
            stack.pop()
            yield e


def statement_expressions(stmt: Stmt) -> tuple[Expr, ...]:
    """The expressions that a statement holds itself, not those of its body."""
    match stmt:
        case Let() | Declare() | Assign() | Exchange():
            return (stmt.value,)
        case Store():
            guard = () if stmt.guard is None else (stmt.guard,)
            return (stmt.index, stmt.value, *guard)
        case If():
            return (stmt.condition,)
        case MatrixMultiply():
            return (*stmt.left, *stmt.right)
        case _:
            return ()


def with_factors(stmt: MatrixMultiply, change: Callable[[Expr], Expr]) -> MatrixMultiply:
    """The statement with `change` applied to what it holds of its factors."""
    left, right = (tuple(change(e) for e in side) for side in (stmt.left, stmt.right))
    return MatrixMultiply(stmt.instruction, stmt.into, left, right)


def statements(body: tuple[Stmt, ...]) -> Iterator[Stmt]:
    """Every statement, outer before inner, in order."""
    for stmt in body:
        yield stmt
        if isinstance(stmt, (For, If)):
            yield from statements(stmt.body)
