"""Random kernels whose arithmetic is exact, so that every device must agree to the last bit.

Floats are small integers: sums, products and selections of them are exact in f32, fused or not.
"""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from sdlc.graph.types import Array, DType
from sdlc.kernel.ir import (
    I32,
    Access,
    Assign,
    Buffer,
    Cast,
    Declare,
    Expr,
    Extract,
    For,
    Kernel,
    Let,
    Literal,
    Load,
    Stmt,
    Store,
    Type,
    Var,
    Vector,
    WorkId,
    call,
    i32,
)

LANES = (1, 2, 4, 8)
ITEMS = 4
SIZE = 64
LARGEST_HALF = 2048.0
LX, LOOP = WorkId("lane", 0), Var("step", I32)
INPUTS = tuple(Buffer(f"in_{d.value}", d, SIZE) for d in DType)
BINARY = {
    DType.F32: ("add", "sub", "mul", "min", "max"),
    DType.I32: ("add", "sub", "mul", "min", "max", "floordiv", "mod"),
    DType.BOOL: ("and", "or", "eq", "ne"),
}
UNARY = {DType.F32: ("neg", "abs", "floor"), DType.I32: ("neg", "abs"), DType.BOOL: ("not",)}
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
DTYPES = (DType.F32, DType.I32, DType.BOOL)
Draw = st.DrawFn


def leaf(draw: Draw, type: Type) -> Expr:
    """A literal, a local, a work id or a load at an index that may be unaligned."""
    kinds = ["literal", "load", "load"] + (["work"] if type == I32 else [])
    kind = draw(st.sampled_from(kinds))
    if kind == "work":
        return draw(st.sampled_from((LX, LOOP)))
    if kind == "literal":
        value = draw(st.integers(-4, 4))
        made = {DType.F32: float(value), DType.I32: value, DType.BOOL: value > 0}
        return Literal(made[type.dtype], type)
    half = type.dtype is DType.F32 and draw(st.booleans())
    buffer = next(b for b in INPUTS if b.dtype is (DType.F16 if half else type.dtype))
    offset = draw(st.sampled_from((0, 0, 1, 8)))
    base = call("mul", LX, i32(draw(st.sampled_from((type.lanes, 3)))))
    loaded = Load(buffer, call("add", base, i32(offset)), type.lanes)
    return Cast(loaded, DType.F32) if half else loaded


def operand(draw: Draw, type: Type, depth: int) -> Expr:
    """An expression of `type`, or a scalar that is spread over its lanes."""
    scalar = type.lanes > 1 and draw(st.integers(0, 4)) == 0
    return expression(draw, Type(type.dtype) if scalar else type, depth)


def expression(draw: Draw, type: Type, depth: int) -> Expr:
    if depth == 0:
        return leaf(draw, type)
    dtype, lanes = type.dtype, type.lanes
    kind = draw(
        st.sampled_from(("leaf", "binary", "binary", "unary", "select", "cast", "lanes", "special"))
    )
    same = expression(draw, type, depth - 1)
    match kind:
        case "binary":
            pair = (same, operand(draw, type, depth - 1))
            return call(
                draw(st.sampled_from(BINARY[dtype])), *(pair if draw(st.booleans()) else pair[::-1])
            )
        case "unary":
            return call(draw(st.sampled_from(UNARY[dtype])), same)
        case "select":
            condition = operand(draw, Type(DType.BOOL, lanes), depth - 1)
            return call("select", condition, same, operand(draw, type, depth - 1))
        case "cast":
            source = draw(st.sampled_from([d for d in DTYPES if d is not dtype]))
            return Cast(expression(draw, Type(source, lanes), depth - 1), dtype)
        case "lanes" if lanes > 1:
            return Vector(tuple(expression(draw, Type(dtype), 0) for _ in range(lanes)))
        case "lanes" if lanes < max(LANES):
            wide = expression(draw, Type(dtype, 2 * lanes), depth - 1)
            return Extract(wide, draw(st.integers(0, lanes)), lanes)
        case "special" if dtype is DType.BOOL:
            of = Type(draw(st.sampled_from((DType.F32, DType.I32))), lanes)
            sides = (expression(draw, of, depth - 1), operand(draw, of, depth - 1))
            return call(draw(st.sampled_from(COMPARISONS)), *sides)
        case "special":
            return call("fma", same, operand(draw, type, 0), operand(draw, type, depth - 1))
    return same


def limited(value: Expr) -> Expr:
    """Within what a half holds exactly."""
    if value.type.dtype is not DType.F16 and value.type.dtype is not DType.F32:
        return value
    low, high = (Literal(v, Type(DType.F32)) for v in (-LARGEST_HALF, LARGEST_HALF))
    return call("max", call("min", value, high), low)


@st.composite
def kernels(draw: Draw) -> Kernel:
    """A kernel of four work-items: locals, a loop that accumulates, a store of each type."""
    lanes = draw(st.sampled_from(LANES))
    outs, body = [], []
    for number, stored in enumerate((*DTYPES, DType.F16)):
        dtype = DType.F32 if stored is DType.F16 else stored
        out = Buffer(f"out_{stored.value}", stored, ITEMS * lanes, access=Access.WRITE)
        outs.append(out)
        held = Var(f"held_{number}", Type(dtype, lanes))
        total = Var(f"total_{number}", Type(dtype, lanes))
        first = fitted(expression(draw, held.type, 2), lanes)
        body += [Let(held, first), Declare(total, held)]
        step = fitted(expression(draw, held.type, 2), lanes)
        op = {DType.F32: "add", DType.I32: "add", DType.BOOL: "or"}[dtype]
        inner: tuple[Stmt, ...] = (Assign(total, call(op, step, total)),)
        if dtype is not DType.BOOL:
            inner = (Assign(total, call("sub", total, held)), *inner)
        body.append(For(LOOP, draw(st.integers(1, 3)), inner, "steps"))
        value = Cast(limited(total), DType.F16) if stored is DType.F16 else total
        # The interpreter shows cells that were not written as NaN, which integers do not have.
        guard = call("lt", LX, i32(3)) if stored.is_float and draw(st.booleans()) else None
        body.append(Store(out, call("mul", LX, i32(lanes)), value, guard))
    used = {e.buffer for e in loads(tuple(body))}
    buffers = tuple(b for b in INPUTS if b in used)
    return Kernel("random", (*buffers, *outs), (), closed(body), (1, 1, 1), (ITEMS, 1, 1))


def fitted(value: Expr, lanes: int) -> Expr:
    """`value` in as many lanes: an operator of scalars only may be one."""
    return value if value.type.lanes == lanes else Vector((value,) * lanes)


def closed(body: list[Stmt]) -> tuple[Stmt, ...]:
    """The loop's variable outside of loops stands for a one-step loop around the locals."""
    return (For(LOOP, 1, tuple(renamed(body)), "once"),)


def renamed(body: list[Stmt]) -> list[Stmt]:
    """The inner loops' variables numbered, so that names are unique."""
    from sdlc.kernel.rewrite import rebuild, with_expressions

    made: list[Stmt] = []
    for number, stmt in enumerate(body):
        if isinstance(stmt, For):
            var = Var(f"step_{number}", I32)
            memo: dict[Expr, Expr] = {}
            inner = tuple(
                with_expressions(
                    s, lambda e, v=var, m=memo: rebuild(e, lambda x: v if x is LOOP else x, m)
                )  # type: ignore[misc]
                for s in stmt.body
            )
            made.append(For(var, stmt.extent, inner, stmt.axis))
        else:
            made.append(stmt)
    return made


def loads(body: tuple[Stmt, ...]) -> list[Load]:
    from sdlc.kernel.ir import statement_expressions, statements, walk

    return [
        e for s in statements(body) for e in walk(*statement_expressions(s)) if isinstance(e, Load)
    ]


def inputs() -> dict[str, Array]:
    random = np.random.default_rng(1)
    made: dict[str, Array] = {}
    for buffer in INPUTS:
        low, high = (0, 2) if buffer.dtype is DType.BOOL else (-4, 5)
        made[buffer.name] = random.integers(low, high, SIZE).astype(buffer.dtype.numpy)
    return made
