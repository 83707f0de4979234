"""Tools of the kernel-to-kernel rewrites: rebuild expressions, put locals before a statement.

In: a kernel and a function over its expressions. Out: the kernel rewritten. Invariant: an
expression that is not changed stays the same object; statements keep their order; a local that a
change introduces stands directly before the statement that reads it.

    expand(kernel, lambda e, here: twice(here.bind(e.args[0], "x")) if is_twice(e) else e)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from sdlc.graph.types import DType
from sdlc.kernel.intervals import interval
from sdlc.kernel.ir import (
    Assign,
    Buffer,
    Call,
    Declare,
    Expr,
    For,
    If,
    Kernel,
    Let,
    Literal,
    Load,
    MatrixMultiply,
    Stmt,
    Store,
    Type,
    Var,
    WorkId,
    i32,
    statement_expressions,
    statements,
    walk,
    with_factors,
    with_operands,
)

Change = Callable[[Expr], Expr]
Ranges = dict[Expr, tuple[int, int]]


def rebuild(expr: Expr, change: Change, memo: dict[Expr, Expr]) -> Expr:
    """`expr` with `change` applied to every subexpression, operands first."""
    found = memo.get(expr)
    if found is None:
        before = expr.operands
        after = tuple([rebuild(o, change, memo) for o in before])
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


def map_expressions(kernel: Kernel, change: Change) -> Kernel:
    """`change` applied to every subexpression of the kernel, operands first."""
    memo: dict[Expr, Expr] = {}

    def visit(stmt: Stmt) -> tuple[Stmt, ...]:
        return (with_expressions(stmt, lambda e: rebuild(e, change, memo)),)

    return replace(kernel, body=map_statements(kernel.body, visit))


def expressions(kernel: Kernel) -> Iterator[Expr]:
    """Every distinct subexpression of each statement."""
    for stmt in statements(kernel.body):
        yield from walk(*statement_expressions(stmt))


class Fresh:
    """Names that the kernel does not use yet."""

    def __init__(self, kernel: Kernel) -> None:
        self._taken = {b.name for b in (*kernel.buffers, *kernel.arrays)}
        for stmt in statements(kernel.body):
            if isinstance(stmt, Let | Declare | For):
                self._taken.add(stmt.var.name)

    def name(self, like: str) -> str:
        made, count = like, 1
        while made in self._taken:
            count += 1
            made = f"{like}_{count}"
        self._taken.add(made)
        return made


def work_ranges(kernel: Kernel) -> Ranges:
    """The ranges of the work ids."""
    ranges: Ranges = {}
    for dim in range(3):
        ranges[WorkId("group", dim)] = (0, kernel.grid[dim] - 1)
        ranges[WorkId("lane", dim)] = (0, kernel.group[dim] - 1)
    return ranges


@dataclass(slots=True)
class Here:
    """A place before a statement: what is known of integers there, and where new locals go."""

    fresh: Fresh
    ranges: Ranges
    before: list[Stmt] = field(default_factory=list)
    arrays: list[Buffer] = field(default_factory=list)
    bound: dict[Expr, Var] = field(default_factory=dict)

    def bind(self, value: Expr, like: str) -> Expr:
        """A local with this value, one for each value of a statement; atoms stay themselves."""
        if isinstance(value, Var | Literal | WorkId):
            return value
        if value not in self.bound:
            self.bound[value] = self.local(value, like)
        return self.bound[value]

    def local(self, value: Expr, like: str) -> Var:
        """A new local with this value."""
        var = Var(self.fresh.name(like), value.type)
        self.before.append(Let(var, value))
        self.learn(var, value)
        return var

    def learn(self, var: Var, value: Expr) -> None:
        known = interval(value, self.ranges) if value.type == Type(DType.I32) else None
        if known is not None:
            self.ranges[var] = known

    def non_negative(self, expr: Expr) -> bool:
        return self._at_least(expr, 0)

    def positive(self, expr: Expr) -> bool:
        return self._at_least(expr, 1)

    def _at_least(self, expr: Expr, limit: int) -> bool:
        known = interval(expr, self.ranges)
        return known is not None and known[0] >= limit


def expand(
    kernel: Kernel,
    change: Callable[[Expr, Here], Expr],
    store: Callable[[Store, Here], Store] = lambda stmt, here: stmt,
) -> Kernel:
    """`change(expr, here)` applied to every subexpression of every statement, operands first, then
    `store` to every store; both may put locals before the statement (`here.bind`) and add private
    arrays (`here.arrays`)."""
    here = Here(Fresh(kernel), work_ranges(kernel))

    def visit(body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
        made: list[Stmt] = []
        for stmt in body:
            memo: dict[Expr, Expr] = {}
            here.before, here.bound = [], {}
            change_one: Change = lambda e: rebuild(e, lambda x: change(x, here), memo)  # noqa: B023, E731
            stmt = with_expressions(stmt, change_one)
            if isinstance(stmt, Store):
                stmt = store(stmt, here)
            made += here.before
            if isinstance(stmt, Let):
                here.learn(stmt.var, stmt.value)
            if isinstance(stmt, For):
                here.ranges[stmt.var] = (0, max(0, stmt.extent - 1))
            if isinstance(stmt, For | If):
                stmt = replace(stmt, body=visit(stmt.body))
            made.append(stmt)
        return tuple(made)

    body = visit(kernel.body)
    return replace(kernel, body=body, arrays=(*kernel.arrays, *here.arrays))


def definitions(kernel: Kernel) -> dict[Expr, Expr]:
    """The values of immutable locals."""
    return {s.var: s.value for s in statements(kernel.body) if isinstance(s, Let)}


def divisible(index: Expr, by: int, values: dict[Expr, Expr]) -> bool:
    """Whether an index is provably a multiple of `by`; `values` are those of the locals."""
    match index:
        case Literal():
            return int(index.value) % by == 0
        case Call(op="add" | "sub" | "min" | "max", args=args):
            return all(divisible(a, by, values) for a in args)
        case Call(op="select", args=(_, then, otherwise)):
            return divisible(then, by, values) and divisible(otherwise, by, values)
        case Call(op="mul", args=args):
            return any(divisible(a, by, values) for a in args)
        case Var() if index in values:
            return divisible(values[index], by, values)
    return by == 1


def accesses(kernel: Kernel) -> Iterator[tuple[Buffer, Expr, int]]:
    """(buffer, index, lanes) of every load and store."""
    for stmt in statements(kernel.body):
        if isinstance(stmt, Store):
            yield stmt.buffer, stmt.index, stmt.value.type.lanes
        for e in walk(*statement_expressions(stmt)):
            if isinstance(e, Load):
                yield e.buffer, e.index, e.lanes


def change_buffers(kernel: Kernel, made: dict[str, Buffer]) -> Kernel:
    """Buffers of these names replaced, in every access too."""

    def visit(stmt: Stmt) -> tuple[Stmt, ...]:
        if isinstance(stmt, Store) and stmt.buffer.name in made:
            return (replace(stmt, buffer=made[stmt.buffer.name]),)
        return (stmt,)

    def change(e: Expr) -> Expr:
        if isinstance(e, Load) and e.buffer.name in made:
            return Load(made[e.buffer.name], e.index, e.lanes)
        return e

    kernel = map_expressions(kernel, change)
    return replace(
        kernel,
        body=map_statements(kernel.body, visit),
        buffers=tuple(made.get(b.name, b) for b in kernel.buffers),
        arrays=tuple(made.get(b.name, b) for b in kernel.arrays),
    )


def plus(index: Expr, add: int) -> Expr:
    """`index + add`, without a sum of literals."""
    match index:
        case Literal():
            return i32(int(index.value) + add)
        case Call(op="add", args=(base, Literal() as more)):
            return plus(base, int(more.value) + add)
    return Call("add", (index, i32(add))) if add else index
