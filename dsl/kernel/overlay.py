"""Two buffers of a kernel in one place: what it then means, and whether the launch is sound.

In: a kernel, a buffer that it reads and one that it writes, alike in type and size. Out: the kernel
with one buffer for both, or with both marked as overlapping. Invariant: the first, which `verify`
and the interpreter judge, does what the second does when both are bound to the same bytes.

    out[at] = x[at] + y[at]   over `x`, `out`   →   out[at] = out[at] + y[at]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from sdlc.kernel.ir import (
    Access,
    Assign,
    Barrier,
    Buffer,
    Declare,
    Expr,
    For,
    If,
    Kernel,
    Let,
    Load,
    MatrixMultiply,
    Stmt,
    Store,
    operands,
    with_factors,
    with_operands,
)


def overlaid(kernel: Kernel, read: str, written: str) -> Kernel:
    """The kernel with the buffer `written` in the place of `read`."""
    first, second = (named(kernel, name) for name in (read, written))
    both = replace(second, access=Access.READ_WRITE, lanes=1)
    return with_buffers(kernel, {first: both, second: both})


def overlapping(kernel: Kernel, *names: str) -> Kernel:
    """The kernel with the buffers of these names marked: they may be bound to the same bytes."""
    found = (named(kernel, name) for name in names)
    return with_buffers(kernel, {buffer: replace(buffer, overlaps=True) for buffer in found})


def named(kernel: Kernel, name: str) -> Buffer:
    return next(b for b in kernel.buffers if b.name == name)


def with_buffers(kernel: Kernel, made: Mapping[Buffer, Buffer]) -> Kernel:
    """The kernel with buffers replaced; those that become one are listed once."""
    memo: dict[Expr, Expr] = {}

    def visit(expr: Expr) -> Expr:
        if expr not in memo:
            parts = tuple(visit(part) for part in operands(expr))
            if isinstance(expr, Load):
                memo[expr] = Load(made.get(expr.buffer, expr.buffer), parts[0], expr.lanes)
            else:
                memo[expr] = with_operands(expr, parts) if parts else expr
        return memo[expr]

    def changed(body: tuple[Stmt, ...]) -> Iterator[Stmt]:
        for stmt in body:
            match stmt:
                case Let() | Declare() | Assign():
                    yield replace(stmt, value=visit(stmt.value))
                case Store():
                    buffer = made.get(stmt.buffer, stmt.buffer)
                    guard = None if stmt.guard is None else visit(stmt.guard)
                    yield Store(buffer, visit(stmt.index), visit(stmt.value), guard)
                case For():
                    yield replace(stmt, body=tuple(changed(stmt.body)))
                case If():
                    inner = tuple(changed(stmt.body))
                    yield replace(stmt, condition=visit(stmt.condition), body=inner)
                case MatrixMultiply():
                    yield with_factors(stmt, visit)
                case Barrier():
                    yield stmt

    buffers = tuple(dict.fromkeys(made.get(b, b) for b in kernel.buffers))
    return replace(kernel, buffers=buffers, body=tuple(changed(kernel.body)))
