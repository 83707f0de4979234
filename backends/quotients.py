"""Indices of vectors, counted in vectors.

In: a kernel whose buffers may be arrays of vectors (`vector_buffers`). Out: the kernel in which the
index of each such access is a product of a quotient and the lanes, so that the text need not
divide. Invariant: indices keep their values; integer locals that nothing reads now are gone.

    at = p * 384 + lane * 8;  w[at], w[at + 4]       of an array of float4
    →  at_by4 = p * 96 + lane * 2;  w[at_by4 * 4], w[(at_by4 + 1) * 4]
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from sdlc.backends.rewrite import Here, accesses, expand
from sdlc.kernel.ir import (
    I32,
    Call,
    Expr,
    Kernel,
    Let,
    Literal,
    Load,
    Space,
    Stmt,
    Store,
    Var,
    WorkId,
    call,
    i32,
    statement_expressions,
    statements,
    walk,
)
from sdlc.kernel.rewrite import Fresh, definitions, map_expressions, map_statements
from sdlc.target import Capabilities


def vector_indices(kernel: Kernel, caps: Capabilities, language: str) -> Kernel:
    """An index of an array of vectors → `quotient * lanes`, with locals for quotients of locals."""
    if all(buffer.lanes == 1 for buffer, _, _ in accesses(kernel)):
        return kernel
    quotients = _Quotients(definitions(kernel), Fresh(kernel))

    def change(e: Expr) -> Expr:
        if isinstance(e, Load) and e.lanes > 1 and e.buffer.lanes > 1:
            return Load(e.buffer, quotients.scaled(e.index, e.lanes), e.lanes)
        return e

    def visit(stmt: Stmt) -> tuple[Stmt, ...]:
        lanes = stmt.value.type.lanes if isinstance(stmt, Store) and stmt.buffer.lanes > 1 else 1
        if isinstance(stmt, Store) and lanes > 1:
            return (replace(stmt, index=quotients.scaled(stmt.index, lanes)),)
        return (stmt,)

    kernel = map_expressions(kernel, change, lambda e: isinstance(e, Load) and e.lanes > 1)
    body = quotients.with_locals(map_statements(kernel.body, visit))
    return replace(kernel, body=used_integers(body))


def split_offsets(kernel: Kernel, caps: Capabilities, language: str) -> Kernel:
    """Where sums with an address are dear: an index that is a sum of a constant and of something
    that may be negative → a local, since the text adds the parts to an address one by one."""
    if language != "opencl" or caps.integer_bits >= 64:
        return kernel

    def fitted(index: Expr, here: Here) -> Expr:
        match index:
            case Call(op="mul", args=(inner, Literal() as lanes)):
                return call("mul", fitted(inner, here), lanes)
            case Call(op="add", args=(base, Literal())) if not here.non_negative(base):
                return here.bind(index, "at")
        return index

    def change(e: Expr, here: Here) -> Expr:
        if isinstance(e, Load) and e.buffer.space is Space.GLOBAL:
            return Load(e.buffer, fitted(e.index, here), e.lanes)
        return e

    def store(stmt: Store, here: Here) -> Store:
        if stmt.buffer.space is not Space.GLOBAL:
            return stmt
        return replace(stmt, index=fitted(stmt.index, here))

    return expand(kernel, change, lambda e: isinstance(e, Load), store)


@dataclass(slots=True)
class _Quotients:
    """`locals` are the quotients that were asked for, by the local that they divide."""

    values: dict[Expr, Expr]
    fresh: Fresh
    locals: dict[tuple[Expr, int], tuple[Var, Expr]] = field(default_factory=dict)
    known: dict[tuple[Expr, int], Expr | None] = field(default_factory=dict)

    def scaled(self, index: Expr, by: int) -> Expr:
        found = self.of(index, by)
        return index if found is None else call("mul", found, i32(by))

    def of(self, e: Expr, by: int) -> Expr | None:
        """`e / by` where that has no remainder, as far as the terms show it."""
        if (e, by) not in self.known:
            self.known[(e, by)] = self._of(e, by)
        return self.known[(e, by)]

    def _of(self, e: Expr, by: int) -> Expr | None:
        match e:
            case Literal():
                return None if int(e.value) % by else i32(int(e.value) // by)
            case Call(op="add" | "sub" | "min" | "max", args=(left, right)):
                return self._both(e.op, left, right, by)
            case Call(op="select", args=(condition, left, right)):
                a, b = self.of(left, by), self.of(right, by)
                return None if a is None or b is None else call("select", condition, a, b)
            case Call(op="mul", args=(left, right)):
                for factor, other in ((right, left), (left, right)):
                    found = self.of(factor, by)
                    if found is not None:
                        return other if found is i32(1) else call("mul", other, found)
            case Call(op="floordiv", args=(whole, Literal(value=int(parts)))) if parts > 0:
                found = self.of(whole, by) if self.of(whole, by * parts) is not None else None
                return None if found is None else call("floordiv", found, i32(parts))
            case Var() if e in self.values:
                return self._local(e, by)
        return None

    def _both(self, op: str, left: Expr, right: Expr, by: int) -> Expr | None:
        a, b = self.of(left, by), self.of(right, by)
        return None if a is None or b is None else call(op, a, b)

    def _local(self, var: Var, by: int) -> Expr | None:
        value = self.of(self.values[var], by)
        if value is None or isinstance(value, Var | WorkId | Literal):
            return value
        name = self.fresh.name(f"{var.name}_by{by}")
        self.locals[(var, by)] = Var(name, I32), value
        return self.locals[(var, by)][0]

    def with_locals(self, body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
        """Each quotient behind the local that it divides."""
        made: dict[Expr, list[Stmt]] = {}
        for (divided, _), (var, value) in self.locals.items():
            made.setdefault(divided, []).append(Let(var, value))

        def visit(stmt: Stmt) -> tuple[Stmt, ...]:
            return (stmt, *made.get(stmt.var, ())) if isinstance(stmt, Let) else (stmt,)

        return map_statements(body, visit)


def used_integers(body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
    """The body without integer locals that nothing reads, not even another unused one."""
    values = {s.var: s.value for s in statements(body) if isinstance(s, Let)}
    roots = [e for s in statements(body) if not _integer(s) for e in statement_expressions(s)]
    needed: set[Expr] = set()
    while roots:
        found = {e for e in walk(*roots) if isinstance(e, Var)} - needed
        needed |= found
        roots = [values[v] for v in found if isinstance(v, Var) and v in values]

    def visit(stmt: Stmt) -> tuple[Stmt, ...]:
        unused = isinstance(stmt, Let) and _integer(stmt) and stmt.var not in needed
        return () if unused else (stmt,)

    return map_statements(body, visit)


def _integer(stmt: Stmt) -> bool:
    return isinstance(stmt, Let) and stmt.var.type == I32


def constant_apart(index: Expr) -> tuple[Expr | None, int]:
    """An index as a sum of an expression and a number."""
    match index:
        case Literal():
            return None, int(index.value)
        case Call(op="add", args=(base, Literal() as more)):
            return base, int(more.value)
        case Call(op="sub", args=(base, Literal() as less)):
            return base, -int(less.value)
    return index, 0


def divided(index: Expr, by: int) -> Expr:
    """An exact quotient, divided term by term where the terms show it."""
    made = _divided(index, by)
    return made if made is not None else Call("floordiv", (index, Literal(by, index.type)))


def _divided(index: Expr, by: int) -> Expr | None:
    match index:
        case Literal() if int(index.value) % by == 0:
            return Literal(int(index.value) // by, index.type)
        case Call(op="add" | "sub", args=(left, right)):
            a, b = _divided(left, by), _divided(right, by)
            return None if a is None or b is None else Call(index.op, (a, b))
        case Call(op="mul", args=(left, right)):
            a, b = _divided(left, by), _divided(right, by)
            if b is not None:
                return left if b == Literal(1, index.type) else Call("mul", (left, b))
            return (
                None
                if a is None
                else (right if a == Literal(1, index.type) else Call("mul", (a, right)))
            )
        case Var():
            return Call("floordiv", (index, Literal(by, index.type)))
    return None
