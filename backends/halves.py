"""Halves as a device has them: a type with arithmetic, or a format of memory only.

In: a kernel. Out: the kernel with f16 in those places where `caps` allows it. Invariant: what is
stored stays the same, but for f16 arithmetic, which f32 does at least as exactly.

    p: f16x4 = fma(a, b, p)                  where f16 is memory only
    →  p: f32x4 = fma(f32(a), f32(b), p)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Set
from dataclasses import dataclass, field, replace

import numpy as np

from sdlc.backends.rewrite import Here, Multiples, expand, plus
from sdlc.graph.types import DType
from sdlc.kernel.ir import (
    Assign,
    Buffer,
    Call,
    Cast,
    Declare,
    Expr,
    Extract,
    Kernel,
    Let,
    Literal,
    Load,
    MatrixMultiply,
    Stmt,
    Store,
    Type,
    Var,
    Vector,
    call,
    operands,
    statements,
    with_operands,
)
from sdlc.kernel.rewrite import Fresh, definitions, holding, map_statements, with_expressions
from sdlc.language.diagnostics import SdlError, failure
from sdlc.target import Capabilities


def widen_half_arithmetic(kernel: Kernel, caps: Capabilities, language: str) -> Kernel:
    """Arithmetic and locals in f16, where the language has no such type → the same in f32. Only
    explicit casts round to f16; what rounded after each operation does no more. Locals that only
    hold what was loaded stay f16 where halves are packed."""
    if caps.f16_arithmetic:
        return kernel
    packed = caps.packed_halves and language == "opencl"
    halves = holding(kernel, lambda e: e.type.dtype is DType.F16)
    if not halves:
        return kernel
    widening = _Widening(halves, _moved(kernel.body) if packed else frozenset(), packed)
    return replace(kernel, body=map_statements(kernel.body, widening.statement))


def _moved(body: tuple[Stmt, ...]) -> frozenset[Var]:
    """The half locals whose every value is loaded, or is another such local."""
    values: dict[Var, list[Expr]] = defaultdict(list)
    for stmt in statements(body):
        if isinstance(stmt, (Let, Declare, Assign)) and stmt.var.type.dtype is DType.F16:
            values[stmt.var].append(stmt.value)
    kept = set(values)
    while dropped := {v for v in kept if not all(_is_moved(e, kept) for e in values[v])}:
        kept -= dropped
    return frozenset(kept)


def _is_moved(e: Expr, kept: Set[Var]) -> bool:
    match e:
        case Vector():
            return all(_is_moved(part, kept) for part in e.parts)
        case Extract():
            return _is_moved(e.value, kept)
        case Var():
            return e in kept
    return isinstance(e, Load) and e.type.dtype is DType.F16


@dataclass(slots=True)
class _Widening:
    """`halves` are the expressions that are f16, or have one in them."""

    halves: Set[Expr]
    moved: frozenset[Var]
    packed: bool
    made: dict[Expr, Expr] = field(default_factory=dict)

    def statement(self, stmt: Stmt) -> tuple[Stmt, ...]:
        if isinstance(stmt, (Let, Declare, Assign)) and stmt.var in self.moved:
            return (with_expressions(stmt, self.still),)
        if isinstance(stmt, MatrixMultiply):
            return (with_expressions(stmt, self.factor),)
        stmt = with_expressions(stmt, self.wide)
        match stmt:
            case Let() | Declare() | Assign() if stmt.var.type.dtype is DType.F16:
                return (replace(stmt, var=_widened(stmt.var)),)
            case Store() if stmt.buffer.dtype is DType.F16:
                return (replace(stmt, value=(_chosen if self.packed else _stored)(stmt.value)),)
        return (stmt,)

    def still(self, e: Expr) -> Expr:
        """A half that only moves, as a half."""
        if isinstance(e, Vector):
            return Vector(tuple(self.still(part) for part in e.parts))
        return Load(e.buffer, self.wide(e.index), e.lanes) if isinstance(e, Load) else e

    def factor(self, e: Expr) -> Expr:
        """A factor of a matrix instruction: as it is loaded, or rounded."""
        return self.still(e) if _is_moved(e, self.moved) else Cast(self.wide(e), DType.F16)

    def wide(self, e: Expr) -> Expr:
        """`e`; if it is an f16, as an f32 with its value."""
        if e not in self.halves:
            return e
        if e not in self.made:
            self.made[e] = self._wide(e)
        return self.made[e]

    def _wide(self, e: Expr) -> Expr:
        half = e.type.dtype is DType.F16
        if half and not isinstance(e, Load) and _is_moved(e, self.moved):
            return Cast(e, DType.F32)
        match e:
            case Load():
                load = Load(e.buffer, self.wide(e.index), e.lanes)
                return Cast(load, DType.F32) if half else load
            case Literal() if half:
                return Literal(float(np.float16(e.value)), Type(DType.F32, e.type.lanes))
            case Var() if half:
                return _widened(e)
            case Cast() if half:
                return Cast(Cast(self.wide(e.value), DType.F16), DType.F32)
            case Cast() if e.value.type.dtype is DType.F16:
                return self.wide(e.value)
        before = operands(e)
        after = tuple(self.wide(o) for o in before)
        same = all(a is b for a, b in zip(before, after, strict=True))
        return e if same else with_operands(e, after)


def _widened(var: Var) -> Var:
    return Var(var.name, Type(DType.F32, var.type.lanes))


def _stored(value: Expr) -> Expr:
    """A value for a buffer of halves: rounded once; what is chosen among halves is not rounded."""
    if isinstance(value, Cast) and value.value.type.dtype is DType.F16:
        return value.value
    return Cast(value, DType.F16)


def _chosen(value: Expr) -> Expr:
    """The same, chosen as halves where one condition is that of all lanes."""
    rounded = _stored(value)
    match rounded:
        case Cast(value=Call(op="select", args=(condition, one, other))):
            if condition.type.lanes == 1 and (_has_half(one) or _has_half(other)):
                return call("select", condition, _chosen(one), _chosen(other))
    return rounded


def _has_half(value: Expr) -> bool:
    """Whether a value is a half, or chosen among some."""
    match value:
        case Call(op="select", args=(_, one, other)):
            return _has_half(one) or _has_half(other)
    return isinstance(value, Cast) and value.value.type.dtype is DType.F16


def widen_half_arrays(kernel: Kernel, caps: Capabilities, language: str) -> Kernel:
    """Local and private arrays of halves, where a word cannot be shared by two lanes → f32 arrays
    of rounded values."""
    if caps.f16_arithmetic or language != "wgsl":
        return kernel
    made = {a.name: replace(a, dtype=DType.F32) for a in kernel.arrays if a.dtype is DType.F16}
    if not made:
        return kernel

    def change(e: Expr, here: Here) -> Expr:
        if isinstance(e, Load) and e.buffer.name in made:
            return Cast(Load(made[e.buffer.name], e.index, e.lanes), DType.F16)
        return e

    def visit(stmt: Stmt) -> tuple[Stmt, ...]:
        if isinstance(stmt, Store) and stmt.buffer.name in made:
            value = Cast(stmt.value, DType.F32)
            return (replace(stmt, buffer=made[stmt.buffer.name], value=value),)
        return (stmt,)

    kernel = expand(kernel, change, lambda e: isinstance(e, Load))
    arrays = tuple(made.get(a.name, a) for a in kernel.arrays)
    return replace(kernel, body=map_statements(kernel.body, visit), arrays=arrays)


def align_halves(kernel: Kernel, caps: Capabilities, language: str) -> Kernel:
    """Vectors of halves at an index that may be odd, in a language without f16 → scalar accesses.

    In WGSL two halves share a word, so a store must own whole words: else raises SdlError (D022).
    In OpenCL C `vload_half8` may be unaligned, but a driver without f16 was seen to read it with an
    aligned instruction and crash.
    """
    if caps.f16_arithmetic or not _holds_halves(kernel):
        return kernel
    multiples = Multiples(definitions(kernel))

    def aligned(index: Expr, lanes: int) -> bool:
        return multiples.divisible(index, 2 if language == "wgsl" else lanes)

    def change(e: Expr, here: Here) -> Expr:
        if not isinstance(e, Load) or e.lanes == 1 or e.buffer.dtype is not DType.F16:
            return e
        if aligned(e.index, e.lanes):
            return e
        return Vector(tuple(Load(e.buffer, plus(e.index, n)) for n in range(e.lanes)))

    def visit(stmt: Stmt) -> tuple[Stmt, ...]:
        if not isinstance(stmt, Store) or stmt.buffer.dtype is not DType.F16:
            return (stmt,)
        lanes = stmt.value.type.lanes
        if language == "wgsl":
            if lanes == 1 or not aligned(stmt.index, lanes):
                raise _single_halves(kernel, stmt.buffer)
            return (stmt,)
        return (stmt,) if aligned(stmt.index, lanes) else _one_by_one(stmt, Here(fresh, {}))

    fresh = Fresh(kernel)
    kernel = replace(kernel, body=map_statements(kernel.body, visit))
    return expand(kernel, change, lambda e: isinstance(e, Load) and e.lanes > 1)


def _holds_halves(kernel: Kernel) -> bool:
    """Whether any memory of a kernel is of halves."""
    return any(b.dtype is DType.F16 for b in (*kernel.buffers, *kernel.arrays))


def _one_by_one(stmt: Store, here: Here) -> tuple[Stmt, ...]:
    """A store of a vector as stores of its lanes."""
    value = stmt.value
    if isinstance(value, Cast):
        wide = here.bind(value.value, "value")
        lanes: list[Expr] = [Cast(Extract(wide, n), value.dtype) for n in range(value.type.lanes)]
    else:
        lanes = [Extract(value, n) for n in range(value.type.lanes)]
    made = [replace(stmt, index=plus(stmt.index, n), value=lane) for n, lane in enumerate(lanes)]
    return (*here.before, *made)


def _single_halves(kernel: Kernel, buffer: Buffer) -> SdlError:
    return failure(
        "D022",
        f"kernel {kernel.name} stores single f16 elements of {buffer.name}, and this device "
        "has no 16-bit stores",
        "use --precision f32, or a device with shader-f16",
    )
