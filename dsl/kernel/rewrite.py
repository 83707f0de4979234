"""Tools of passes over kernels: statements and expressions walked and made anew, fresh names.

In: a body or a kernel, and a function over its statements, loops or expressions. Out: what it makes
of them. Invariant: what is not changed stays the same object; statements keep their order.

    map_loops(kernel.body, lambda loop: unrolled(loop) if loop.extent < 4 else (loop,))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import replace

from sdlc.graph.names import free_name
from sdlc.kernel.ir import (
    Assign,
    Buffer,
    Declare,
    Exchange,
    Expr,
    For,
    If,
    Kernel,
    Let,
    Load,
    MatrixMultiply,
    Stmt,
    Store,
    WorkId,
    statement_expressions,
    statements,
    walk,
    with_factors,
    with_operands,
)

Change = Callable[[Expr], Expr]
Where = Callable[[Expr], bool]
Ranges = dict[Expr, tuple[int, int]]


def holding(kernel: Kernel, where: Where) -> set[Expr]:
    """The expressions of a kernel that `where` speaks of, and those that have one in them."""
    found: set[Expr] = set()
    for e in expressions(kernel):
        if where(e) or not found.isdisjoint(e.operands):
            found.add(e)
    return found


def rebuild(
    expr: Expr, change: Change, memo: dict[Expr, Expr], within: Set[Expr] | None = None
) -> Expr:
    """`expr` with `change` applied to every subexpression (of those `within`, where given),
    operands first."""
    if within is not None and expr not in within:
        return expr
    found = memo.get(expr)
    if found is None:
        before = expr.operands
        after = tuple([rebuild(o, change, memo, within) for o in before])
        found = memo[expr] = change(expr if after == before else with_operands(expr, after))
    return found


def with_expressions(stmt: Stmt, change: Change) -> Stmt:
    """`stmt` with `change` applied to the expressions that it holds itself."""
    match stmt:
        case Let() | Declare() | Assign():
            value = change(stmt.value)
            return stmt if value is stmt.value else type(stmt)(stmt.var, value)
        case Store():
            guard = None if stmt.guard is None else change(stmt.guard)
            index, value = change(stmt.index), change(stmt.value)
            if index is stmt.index and value is stmt.value and guard is stmt.guard:
                return stmt
            return Store(stmt.buffer, index, value, guard)
        case If():
            return If(change(stmt.condition), stmt.body)
        case MatrixMultiply():
            return with_factors(stmt, change)
        case Exchange():
            return replace(stmt, value=change(stmt.value))
        case _:
            return stmt


def map_statements(
    body: tuple[Stmt, ...], change: Callable[[Stmt], tuple[Stmt, ...]]
) -> tuple[Stmt, ...]:
    """Each statement replaced by what `change` gives for it; bodies first."""
    made: list[Stmt] = []
    for stmt in body:
        if isinstance(stmt, (For, If)):
            stmt = replace(stmt, body=map_statements(stmt.body, change))
        made += change(stmt)
    return tuple(made)


def map_loops(body: tuple[Stmt, ...], change: Callable[[For], Iterable[Stmt]]) -> tuple[Stmt, ...]:
    """Each loop that stands in no other replaced by what `change` gives for it."""
    made: list[Stmt] = []
    for stmt in body:
        if isinstance(stmt, For):
            made += change(stmt)
        elif isinstance(stmt, If):
            made.append(replace(stmt, body=map_loops(stmt.body, change)))
        else:
            made.append(stmt)
    return tuple(made)


def map_expressions(kernel: Kernel, change: Change, where: Where) -> Kernel:
    """`change` applied to every subexpression of the kernel that `where` speaks of, operands
    first."""
    memo: dict[Expr, Expr] = {}
    held = holding(kernel, where)

    def visit(stmt: Stmt) -> tuple[Stmt, ...]:
        return (with_expressions(stmt, lambda e: rebuild(e, change, memo, held)),)

    if not held:
        return kernel
    return replace(kernel, body=map_statements(kernel.body, visit))


def expressions(kernel: Kernel) -> Iterator[Expr]:
    """Every distinct subexpression, operands before users."""
    return walk(*[e for stmt in statements(kernel.body) for e in statement_expressions(stmt)])


def with_buffers(kernel: Kernel, made: Mapping[str, Buffer]) -> Kernel:
    """Buffers of these names replaced, in every access too; those that become one are listed
    once."""

    def store(stmt: Stmt) -> tuple[Stmt, ...]:
        if isinstance(stmt, Store) and stmt.buffer.name in made:
            return (replace(stmt, buffer=made[stmt.buffer.name]),)
        return (stmt,)

    def load(e: Expr) -> Expr:
        if isinstance(e, Load) and e.buffer.name in made:
            return Load(made[e.buffer.name], e.index, e.lanes)
        return e

    kernel = map_expressions(kernel, load, lambda e: isinstance(e, Load))
    return replace(
        kernel,
        body=map_statements(kernel.body, store),
        buffers=tuple(dict.fromkeys(made.get(b.name, b) for b in kernel.buffers)),
        arrays=tuple(made.get(b.name, b) for b in kernel.arrays),
    )


class Fresh:
    """Names that the kernel does not use yet."""

    def __init__(self, kernel: Kernel) -> None:
        self._taken = {b.name for b in (*kernel.buffers, *kernel.arrays)}
        for stmt in statements(kernel.body):
            if isinstance(stmt, Let | Declare | Exchange | For):
                self._taken.add(stmt.var.name)

    def name(self, like: str) -> str:
        made = free_name(like, self._taken)
        self._taken.add(made)
        return made


def work_ranges(kernel: Kernel) -> Ranges:
    """The ranges of the work ids."""
    ranges: Ranges = {}
    for dim in range(3):
        ranges[WorkId("group", dim)] = (0, kernel.grid[dim] - 1)
        ranges[WorkId("lane", dim)] = (0, kernel.group[dim] - 1)
    return ranges


def definitions(kernel: Kernel) -> dict[Expr, Expr]:
    """The values of immutable locals."""
    return {s.var: s.value for s in statements(kernel.body) if isinstance(s, Let)}
