"""Tools of legalisation: locals before the statement that reads them, what is known there.

In: a kernel and a function over its expressions. Out: the kernel rewritten. Invariant: statements
keep their order; a local that a change introduces stands directly before the statement that reads
it.

    expand(kernel, lambda e, here: twice(here.bind(e.args[0], "x")) if is_twice(e) else e, is_twice)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from sdlc.graph.types import DType
from sdlc.kernel.intervals import interval
from sdlc.kernel.ir import (
    Buffer,
    Call,
    Expr,
    For,
    If,
    Kernel,
    Let,
    Literal,
    Load,
    Stmt,
    Store,
    Type,
    Var,
    WorkId,
    i32,
    statement_expressions,
    statements,
    walk,
)
from sdlc.kernel.rewrite import (
    Change,
    Fresh,
    Ranges,
    Where,
    holding,
    rebuild,
    with_expressions,
    work_ranges,
)


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
    where: Where,
    store: Callable[[Store, Here], Store] | None = None,
) -> Kernel:
    """`change(expr, here)` applied to every subexpression that `where` speaks of, operands first,
    then `store` to every store; both may put locals before the statement (`here.bind`) and add
    private arrays (`here.arrays`)."""
    held = holding(kernel, where)
    if not held and store is None:
        return kernel
    here = Here(Fresh(kernel), work_ranges(kernel))

    def visit(body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
        made: list[Stmt] = []
        for stmt in body:
            memo: dict[Expr, Expr] = {}
            here.before, here.bound = [], {}
            change_one: Change = lambda e: rebuild(e, lambda x: change(x, here), memo, held)  # noqa: B023, E731
            stmt = with_expressions(stmt, change_one)
            if isinstance(stmt, Store) and store is not None:
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


@dataclass(slots=True)
class Multiples:
    """What indices are provably multiples of; `values` are those of the locals."""

    values: dict[Expr, Expr]
    known: dict[tuple[Expr, int], bool] = field(default_factory=dict)

    def divisible(self, index: Expr, by: int) -> bool:
        """Whether an index is a multiple of `by`."""
        key = index, by
        if key not in self.known:
            self.known[key] = self._divisible(index, by)
        return self.known[key]

    def _divisible(self, index: Expr, by: int) -> bool:
        match index:
            case Literal():
                return int(index.value) % by == 0
            case Call(op="add" | "sub" | "min" | "max", args=args):
                return all(self.divisible(a, by) for a in args)
            case Call(op="select", args=(_, then, otherwise)):
                return self.divisible(then, by) and self.divisible(otherwise, by)
            case Call(op="mul", args=args):
                return any(self.divisible(a, by) for a in args)
            case Call(op="floordiv", args=(whole, Literal(value=int(n)))) if by > 1 and n > 0:
                return self.divisible(whole, by * n)
            case Var() if index in self.values:
                return self.divisible(self.values[index], by)
        return by == 1


def accesses(kernel: Kernel) -> Iterator[tuple[Buffer, Expr, int]]:
    """(buffer, index, lanes) of every store and every distinct load."""
    held: list[Expr] = []
    for stmt in statements(kernel.body):
        held += statement_expressions(stmt)
        if isinstance(stmt, Store):
            yield stmt.buffer, stmt.index, stmt.value.type.lanes
    for e in walk(*held):
        if isinstance(e, Load):
            yield e.buffer, e.index, e.lanes


def plus(index: Expr, add: int) -> Expr:
    """`index + add`, without a sum of literals."""
    match index:
        case Literal():
            return i32(int(index.value) + add)
        case Call(op="add", args=(base, Literal() as more)):
            return plus(base, int(more.value) + add)
    return Call("add", (index, i32(add))) if add else index
