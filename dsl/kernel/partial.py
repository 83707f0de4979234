"""Partial sums in f16: short runs of products are summed in half precision, then added in f32.

In: a kernel and how many steps may be summed in f16. Out: the kernel with such sums. Invariant:
accumulators stay f32, and no more than `steps` products are summed in f16 between two additions to
one; at least one factor of each product is an f16 in memory, the other is one too or is rounded.

    total = fma(f32(x0), f32(w0), total)            part = x0 * w0
    total = fma(f32(x1), f32(w1), total)     →      part = fma(x1, w1, part)
                                                    total = total + f32(part)

A loop that adds few products an iteration is split, so that a sum spans several of them:
`for k < 64 { 4 products }` with 16 steps → `for k < 16 { for k_part < 4 { 4 products } add }`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np

from sdlc.graph.types import DType
from sdlc.kernel.ir import (
    I32,
    Assign,
    Call,
    Cast,
    Declare,
    Expr,
    Extract,
    For,
    If,
    Kernel,
    Let,
    Literal,
    Stmt,
    Type,
    Var,
    Vector,
    call,
    i32,
    operands,
    statement_expressions,
    statements,
    walk,
    with_operands,
)
from sdlc.kernel.rewrite import Fresh, map_statements
from sdlc.kernel.simplify import simplify_kernel


def partial_sums(kernel: Kernel, steps: int) -> Kernel:
    """`kernel` with runs of at most `steps` products summed in f16, simplified; below 2 nothing
    changes, nor where no factor is an f16 in memory."""
    if steps < 2 or all(b.dtype is not DType.F16 for b in kernel.buffers):
        return kernel
    names = Fresh(kernel)
    halves = _Halves({s.var: s.value for s in statements(kernel.body) if isinstance(s, Let)}, names)
    body = _Partial(steps, halves, names).body(kernel.body)
    return simplify_kernel(replace(kernel, body=halves.with_twins(body)))


@dataclass(slots=True)
class _Halves:
    """Which f32 values are f16 values widened; `twins` are f16 locals beside f32 ones."""

    values: dict[Var, Expr]
    names: Fresh
    twins: dict[Var, Var] = field(default_factory=dict)
    known: dict[Expr, Expr | None] = field(default_factory=dict)

    def of(self, e: Expr) -> Expr | None:
        """The f16 that `e` widens, or None."""
        if e not in self.known:
            self.known[e] = self._of(e)
        return self.known[e]

    def _of(self, e: Expr) -> Expr | None:
        match e:
            case Cast() if e.value.type.dtype is DType.F16:
                return e.value
            case Var() if e in self.values and e.type.dtype is DType.F32:
                if self.of(self.values[e]) is None:
                    return None
                name = self.names.name(f"{e.name}_half")
                self.twins[e] = Var(name, Type(DType.F16, e.type.lanes))
                return self.twins[e]
            case Literal() if e.type.dtype is DType.F32:
                exact = float(np.float16(e.value)) == e.value
                return Literal(e.value, Type(DType.F16, e.type.lanes)) if exact else None
            case Extract() | Vector():
                return self._with(e, operands(e))
            case Call(op="select"):
                made = self._with(e, e.args[1:])
                return None if made is None else call("select", e.args[0], *operands(made))
        return None

    def _with(self, e: Expr, parts: tuple[Expr, ...]) -> Expr | None:
        found = [self.of(p) for p in parts]
        made = tuple(f for f in found if f is not None)
        if len(made) < len(parts):
            return None
        return with_operands(e, made) if len(parts) == len(operands(e)) else Vector(made)

    def with_twins(self, body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
        """The body with the twins' definitions before those of the locals that they stand for."""

        def visit(stmt: Stmt) -> tuple[Stmt, ...]:
            if not (isinstance(stmt, Let) and stmt.var in self.twins):
                return (stmt,)
            twin, value = self.twins[stmt.var], self.of(stmt.value)
            assert value is not None
            return Let(twin, value), Let(stmt.var, Cast(twin, DType.F32))

        return map_statements(body, visit)


@dataclass(frozen=True, slots=True)
class _Product:
    """What one statement adds to an accumulator: a product of f16 factors."""

    total: Var
    left: Expr
    right: Expr


@dataclass(slots=True)
class _Partial:
    steps: int
    halves: _Halves
    names: Fresh

    def body(self, body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
        """Innermost loops first; then the runs of this body's own statements."""
        made: list[Stmt] = []
        for stmt in body:
            if isinstance(stmt, For):
                made += self._loop(stmt)
            else:
                made.append(
                    replace(stmt, body=self.body(stmt.body)) if isinstance(stmt, If) else stmt
                )
        return tuple(self._runs(made))

    # ---- sums over several iterations of a loop

    def _loop(self, loop: For) -> list[Stmt]:
        sums = self._sums(loop)
        count = max(sums.values(), default=self.steps)
        span = _divisor(loop.extent, self.steps // count)
        if span < 2:
            return [replace(loop, body=self.body(loop.body))]
        parts = {total: self._part(total) for total in sums}
        first: list[Stmt] = [Declare(p, Literal(0.0, p.type)) for p in parts.values()]
        last: list[Stmt] = [Assign(t, call("add", t, Cast(p, DType.F32))) for t, p in parts.items()]
        body = tuple(self._into(stmt, parts) for stmt in loop.body)
        if span == loop.extent:
            return [*first, replace(loop, body=body), *last]
        inner = Var(self.names.name(f"{loop.var.name}_part"), I32)
        outer = Var(self.names.name(f"{loop.var.name}_run"), I32)
        value = call("add", call("mul", outer, i32(span)), inner)
        step = For(inner, span, (Let(loop.var, value), *body), loop.axis)
        whole = (*first, step, *last)
        return [For(outer, loop.extent // span, whole, loop.axis)]

    def _sums(self, loop: For) -> Counter[Var]:
        """How many products an iteration adds to each accumulator; empty where the loop does more
        than to name values and to add products."""
        found: Counter[Var] = Counter()
        for stmt in loop.body:
            product = self._product(stmt)
            if product is not None:
                found[product.total] += 1
            elif not isinstance(stmt, Let):
                return Counter()
        read = {e for s in loop.body if isinstance(s, Let) for e in walk(s.value)}
        return Counter() if read & found.keys() else found

    def _into(self, stmt: Stmt, parts: dict[Var, Var]) -> Stmt:
        """A product that is added to its part instead."""
        product = self._product(stmt)
        if product is None:
            return stmt
        part = parts[product.total]
        return Assign(part, call("fma", product.left, product.right, part))

    # ---- sums within a body

    def _runs(self, body: list[Stmt]) -> list[Stmt]:
        """Each accumulator's products in runs; a run ends where the accumulator is used."""
        made: list[Stmt] = []
        open_runs: dict[Var, tuple[Var, int]] = {}
        left = self._lengths(body)
        for number, stmt in enumerate(body):
            product = self._product(stmt)
            if product is None or left[number] == (1, 1):
                made.append(stmt)
                continue
            place, length = left[number]
            total = product.total
            if place == 1:
                part = self._part(total)
                open_runs[total] = (part, length)
                made.append(Declare(part, self._times(product, total.type.lanes)))
            else:
                part = open_runs[total][0]
                made.append(Assign(part, call("fma", product.left, product.right, part)))
            if place == length:
                made.append(Assign(total, call("add", total, Cast(part, DType.F32))))
        return made

    def _lengths(self, body: list[Stmt]) -> dict[int, tuple[int, int]]:
        """For each statement that adds a product: its place in its run, and the run's length."""
        runs: dict[Var, list[list[int]]] = {}
        for number, stmt in enumerate(body):
            product = self._product(stmt)
            ended = _used(stmt) - ({product.total} if product else set())
            for used in ended & runs.keys():
                runs[used].append([])
            if product is None:
                continue
            mine = runs.setdefault(product.total, [[]])
            if len(mine[-1]) == self.steps:
                mine.append([])
            mine[-1].append(number)
        places: dict[int, tuple[int, int]] = {}
        for run in (r for mine in runs.values() for r in mine):
            places.update({n: (place + 1, len(run)) for place, n in enumerate(run)})
        return places

    @staticmethod
    def _times(product: _Product, lanes: int) -> Expr:
        made = call("mul", product.left, product.right)
        return made if made.type.lanes == lanes else Vector((made,) * lanes)

    # ---- statements

    def _product(self, stmt: Stmt) -> _Product | None:
        """`total = fma(a, b, total)` with a factor that is an f16 in memory."""
        if not isinstance(stmt, Assign) or stmt.var.type.dtype is not DType.F32:
            return None
        match stmt.value:
            case Call(op="fma", args=(left, right, total)) if total is stmt.var:
                if total in walk(left, right):
                    return None
                halves = [self.halves.of(left), self.halves.of(right)]
                if all(h is None or isinstance(h, Literal) for h in halves):
                    return None
                a, b = (
                    Cast(e, DType.F16) if h is None else h
                    for e, h in zip((left, right), halves, strict=True)
                )
                return _Product(stmt.var, a, b)
        return None

    def _part(self, total: Var) -> Var:
        return Var(self.names.name(f"{total.name}_part"), Type(DType.F16, total.type.lanes))


def _used(stmt: Stmt) -> set[Var]:
    """The variables that a statement, or one of its body, reads or assigns."""
    inner = statements(stmt.body) if isinstance(stmt, (For, If)) else iter((stmt,))
    used: set[Var] = set()
    for s in inner:
        used |= {e for e in walk(*statement_expressions(s)) if isinstance(e, Var)}
        if isinstance(s, Assign):
            used.add(s.var)
    return used


def _divisor(extent: int, limit: int) -> int:
    """The largest divisor of an extent that is at most `limit`."""
    return next((d for d in range(min(extent, limit), 0, -1) if extent % d == 0), 1)
