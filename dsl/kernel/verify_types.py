"""Types, scopes and limits of a kernel: what can be checked without ranges.

In: a kernel and, possibly, a target's capabilities. Out: problems, each a sentence. Invariant: a
kernel without problems is well-typed: every operand has the type that its operator wants, every
name is defined once and before its use; without f16 arithmetic, an f16 stands only between memory
and a cast.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from sdlc.graph.scalar import SCALARS
from sdlc.graph.types import DType
from sdlc.kernel.ir import (
    BOOL,
    F32,
    I32,
    Access,
    Assign,
    Buffer,
    Call,
    Cast,
    Declare,
    Exchange,
    Expr,
    Extract,
    For,
    If,
    Kernel,
    Let,
    Literal,
    Load,
    MatrixMultiply,
    Space,
    Stmt,
    Store,
    Type,
    Var,
    Vector,
    WorkId,
    statement_expressions,
    statements,
)
from sdlc.kernel.show import show_expression, show_statement
from sdlc.target import Capabilities

LANES = (1, 2, 4, 8, 16)
NO_HALVES = frozenset({"floordiv", "mod"})
"""Operators of any number type that are not to be had for f16."""
FLOAT_MAX = 3.4028234663852886e38


def located(problem: str, stmt: Stmt) -> str:
    return f"{problem}\n    in: {show_statement(stmt)}"


def launch_problems(kernel: Kernel) -> Iterator[str]:
    """Buffers, arrays and sizes of the launch."""
    for buffer in (*kernel.buffers, *kernel.arrays):
        is_global = buffer.space is Space.GLOBAL
        if is_global != (buffer in kernel.buffers):
            yield f"{buffer.name} is {buffer.space.value}: buffers are global, arrays are not"
        if buffer.size < 1:
            yield f"{buffer.name} has no elements"
        if buffer.lanes not in LANES or buffer.size % buffer.lanes:
            yield f"{buffer.name} of {buffer.size} elements does not hold vectors of {buffer.lanes}"
    for size in (*kernel.grid, *kernel.group):
        if size < 1:
            yield f"empty launch: grid {kernel.grid}, group {kernel.group}"
    names = [b.name for b in (*kernel.buffers, *kernel.arrays)]
    names += [s.var.name for s in statements(kernel.body) if isinstance(s, (Let, Declare, For))]
    for name in sorted(n for n, times in Counter(names).items() if times > 1):
        yield f"the name {name} is given twice"
    for name in sorted({n for n in names if not n.isidentifier()}):
        yield f"{name!r} is not a name"


def limit_problems(kernel: Kernel, caps: Capabilities) -> Iterator[str]:
    """What the target does not offer."""
    limits: list[tuple[str, int, int]] = [
        ("work-items of a group", kernel.work_items, caps.max_work_items),
        ("bytes of local memory", kernel.local_bytes, caps.local_bytes),
        ("storage buffers", len(kernel.buffers), caps.max_storage_buffers),
    ]
    for dim, name in enumerate("xyz"):
        limits.append((f"work-items along {name}", kernel.group[dim], caps.max_group[dim]))
        limits.append((f"work-groups along {name}", kernel.grid[dim], caps.max_groups))
    for buffer in kernel.buffers:
        size = buffer.size * buffer.dtype.itemsize
        limits.append((f"bytes of the buffer {buffer.name}", size, caps.max_binding))
    for what, wanted, offered in limits:
        if wanted > offered:
            yield f"{wanted} {what}: the target allows {offered}"
    known = set(caps.matrix)
    for stmt in statements(kernel.body):
        if isinstance(stmt, MatrixMultiply) and stmt.instruction not in known:
            yield f"the target has no matrix instruction {stmt.instruction.name}"
    if not caps.f16_storage:
        for buffer in (*kernel.buffers, *kernel.arrays):
            if buffer.dtype is DType.F16:
                yield f"{buffer.name} holds f16: the target stores none"


def type_problems(kernel: Kernel, widths: tuple[int, ...], halves: bool) -> Iterator[str]:
    """Problems of statements and expressions; vectors may have `widths` lanes (or one), and
    arithmetic may be in f16 if `halves`."""
    ids: Scope = {WorkId(kind, dim): False for kind in ("group", "lane") for dim in range(3)}
    yield from Typing(kernel, widths, halves).body(kernel.body, ids)


Scope = dict[Var | WorkId, bool]
"""The variables in sight, and whether they can be assigned."""


class Typing:
    """Checks statements in their scope; an expression is checked once, its variables each time.
    Operators of the same name and types of operands are sound together (`_sound`)."""

    def __init__(self, kernel: Kernel, widths: tuple[int, ...], halves: bool) -> None:
        self.memory = frozenset((*kernel.buffers, *kernel.arrays))
        self.widths = frozenset({1, *widths})
        self.halves = halves
        self.work_items = kernel.work_items
        self._checked: set[Expr] = set()
        self._sound: set[object] = set()

    def body(self, body: tuple[Stmt, ...], outer: Scope) -> Iterator[str]:
        scope = dict(outer)
        for stmt in body:
            for problem in self.statement(stmt, scope):
                yield located(problem, stmt)
            match stmt:
                case Let() | Declare() | Exchange():
                    scope[stmt.var] = isinstance(stmt, Declare)
                case For():
                    yield from self.body(stmt.body, {**scope, stmt.var: False})
                case If():
                    yield from self.body(stmt.body, scope)

    def statement(self, stmt: Stmt, scope: Scope) -> list[str]:
        problems: list[str] = []
        for expr in statement_expressions(stmt):
            kept = (isinstance(stmt, Store) and expr is stmt.value) or isinstance(
                stmt, MatrixMultiply
            )
            problems += self.expression(expr, kept)
            unknown = [v for v in expr.variables.difference(scope) if isinstance(v, Var)]
            for var in sorted(unknown, key=lambda v: v.name):
                problems.append(f"{var.name}: {var.type} is not defined here")
        match stmt:
            case Let() | Declare() | Assign() | Exchange():
                if stmt.value.type is not stmt.var.type:
                    problems.append(
                        f"{stmt.var.name} is {stmt.var.type}, its value {stmt.value.type}"
                    )
                if isinstance(stmt, Assign) and not scope.get(stmt.var, False):
                    problems.append(f"{stmt.var.name} is not a variable that can be assigned")
                if isinstance(stmt, Exchange):
                    problems += self.exchange(stmt)
            case Store():
                problems += self.store(stmt)
            case MatrixMultiply():
                problems += self.product(stmt, scope)
            case For() if stmt.var.type is not I32 or stmt.extent < 1:
                problems.append(f"a loop counts an i32 from 0 to {stmt.extent} - 1")
            case If() if stmt.condition.type is not BOOL:
                problems.append(f"the condition is {stmt.condition.type}, not bool")
        return problems

    def product(self, stmt: MatrixMultiply, scope: Scope) -> Iterator[str]:
        """Of a matrix instruction: elements, their types, and whether sub-groups are whole."""
        instruction = stmt.instruction
        for name, side, held in (
            ("left", stmt.left, instruction.left),
            ("right", stmt.right, instruction.right),
        ):
            count = sum(e.type.lanes for e in side)
            if count != held.count:
                yield f"a work-item holds {held.count} elements of the {name} factor, not {count}"
            kinds = {e.type.dtype for e in side} - {DType(instruction.inputs)}
            for dtype in sorted(kinds, key=lambda d: d.value):
                yield f"the {name} factor is of {instruction.inputs}, not {dtype.value}"
        if len(set(stmt.into)) != instruction.result.count:
            yield f"a work-item holds {instruction.result.count} elements of the result"
        for var in stmt.into:
            if var.type is not Type(DType(instruction.accumulator)):
                yield f"the result is of {instruction.accumulator}, {var.name} is {var.type}"
            if not scope.get(var, False):
                yield f"{var.name} is not a variable that can be assigned"
        if self.work_items % instruction.lanes:
            yield f"{self.work_items} work-items are no whole sub-groups of {instruction.lanes}"

    def exchange(self, stmt: Exchange) -> Iterator[str]:
        """Of values between work-items: one number each, within whole sub-groups."""
        if stmt.value.type is not F32:
            yield f"work-items exchange an f32, not {stmt.value.type}"
        if not 0 < stmt.distance < stmt.lanes or self.work_items % stmt.lanes:
            yield f"no sub-group of {stmt.lanes} has work-items {stmt.distance} apart everywhere"

    def store(self, stmt: Store) -> Iterator[str]:
        buffer = stmt.buffer
        if buffer.access is Access.READ and buffer.space is Space.GLOBAL:
            yield f"{buffer.name} is read-only"
        if stmt.value.type.dtype is not buffer.dtype:
            yield f"{buffer.name} holds {buffer.dtype.value}, the value is {stmt.value.type}"
        if stmt.guard is not None and stmt.guard.type != BOOL:
            yield f"the guard is {stmt.guard.type}, not bool"
        yield from self.place(buffer, stmt.index, stmt.value.type.lanes)
        if 1 < buffer.lanes != stmt.value.type.lanes:  # WGSL may write the rest of the vector too
            lanes = stmt.value.type.lanes
            yield f"{buffer.name} is an array of vectors of {buffer.lanes}, stored with {lanes}"

    def place(self, buffer: Buffer, index: Expr, lanes: int) -> Iterator[str]:
        if buffer not in self.memory:
            yield f"{buffer.name} is not a buffer of this kernel"
        if index.type != I32:
            yield f"the index of {buffer.name} is {index.type}, not i32"
        if buffer.lanes % lanes and buffer.lanes > 1:
            yield f"{buffer.name} is an array of vectors of {buffer.lanes}, accessed with {lanes}"

    def expression(self, expr: Expr, stored: bool = False) -> list[str]:
        """Problems of an expression not seen before; without f16 arithmetic, an f16 may leave it
        only if it is stored."""
        problems: list[str] = []
        if expr not in self._checked:
            self._checked.add(expr)
            for operand in expr.operands:
                if operand not in self._checked or operand.type.dtype is DType.F16:
                    problems += self.expression(operand, isinstance(expr, Cast))
            kind: object = expr
            if isinstance(expr, Call):
                kind = (expr.op, tuple([a.type for a in expr.args]))
            elif isinstance(expr, Var):
                kind = expr.type
            if kind not in self._sound:
                found = [f"{p}: {show_expression(expr)}" for p in self.own_problems(expr)]
                problems += found
                if not found:
                    self._sound.add(kind)
        if not self.halves and not stored and expr.type.dtype is DType.F16:
            problems.append(f"an f16 must be cast before it is used: {show_expression(expr)}")
        return problems

    def own_problems(self, expr: Expr) -> Iterator[str]:
        if expr.type.lanes not in self.widths:
            yield f"vectors of {expr.type.lanes} lanes are not to be had"
        match expr:
            case Literal():
                yield from literal_problems(expr)
            case WorkId() if expr.dim not in (0, 1, 2):
                yield "a work-item has three dimensions"
            case Call():
                yield from call_problems(expr)
            case Load():
                if expr.buffer.access is Access.WRITE and expr.buffer.space is Space.GLOBAL:
                    yield f"{expr.buffer.name} is write-only"
                yield from self.place(expr.buffer, expr.index, expr.lanes)
            case Cast() if expr.dtype is DType.F16 and expr.value.type.dtype is not DType.F32:
                yield f"an f16 is made from an f32, not from {expr.value.type}"
            case Cast() if expr.value.type.dtype is DType.F16 and expr.dtype is not DType.F32:
                yield f"an f16 is cast to f32, not to {expr.dtype.value}"
            case Vector():
                kinds = {p.type for p in expr.parts}
                if kinds != {Type(expr.parts[0].type.dtype)} or len(expr.parts) < 2:
                    yield "the lanes of a vector are two or more scalars of one type"
            case Extract() if expr.first < 0 or expr.first + expr.count > expr.value.type.lanes:
                yield f"there are {expr.value.type.lanes} lanes"


def literal_problems(expr: Literal) -> Iterator[str]:
    value, dtype = expr.value, expr.type.dtype
    wanted = {DType.BOOL: bool, DType.I32: int, DType.F32: float, DType.F16: float}[dtype]
    if type(value) is not wanted:
        yield f"the literal of {dtype.value} is a {type(value).__name__}"
    elif dtype is DType.I32 and not -(2**31) <= value < 2**31:
        yield "the literal does not fit 32 bits"
    elif dtype.is_float and not abs(value) <= FLOAT_MAX:
        yield "the literal is not finite"


def call_problems(expr: Call) -> Iterator[str]:
    row = SCALARS[expr.op]
    types = [a.type.dtype for a in expr.args]
    if len(types) != row.arity:
        yield f"{expr.op} takes {row.arity} operands"
        return
    if any(a.type.lanes not in (1, expr.type.lanes) for a in expr.args):
        yield "operands have different numbers of lanes"
    if row.typing in ("f32", "f16", "i32"):
        yield "a conversion is a Cast"
    agreeing = types[1:] if row.typing == "select" else types
    if len(set(agreeing)) > 1:
        yield f"operands are {', '.join(t.value for t in agreeing)}"
    wanted = {"float": DType.F32, "logic": DType.BOOL}.get(row.typing)
    if wanted is not None and types[0] is not wanted:
        yield f"{expr.op} takes {wanted.value}"
    if row.typing == "same" and types[0] is DType.BOOL:
        yield f"{expr.op} takes numbers"
    if expr.op in NO_HALVES and types[0] is DType.F16:
        yield f"{expr.op} takes f32 or i32"
    if row.typing == "select" and types[0] is not DType.BOOL:
        yield "select takes a bool first"
