"""Loops that are counted by the places that they go through.

In: a kernel. Out: the kernel in which a loop of products beside others carries the place of each
of its accesses from one iteration to the next, and goes on until the first of them has gone
all its way. Invariant: every access is to the same element, and the loop runs as often.

    for p < 4 { w = weight[p * 2 + row]; v = value[p * 80 + lane]; … value[p * 80 + lane + 10] … }
    →  at = row;  at1 = lane;  end = row + 8
       while at < end { w = weight[at]; v = value[at1]; … value[at1 + 10] …;  at = at + 2; … }

There is no counter beside the places, and no sum for each of them. A compiler that knows how often
a loop runs writes it out, with all that it loads before what needs it: what an outer loop carries
has no registers left then.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from sdlc.backends.quotients import used_integers
from sdlc.kernel.ir import (
    I32,
    Assign,
    Barrier,
    Call,
    Declare,
    Exchange,
    Expr,
    For,
    Kernel,
    Let,
    Load,
    MatrixMultiply,
    Stmt,
    Store,
    Var,
    call,
    i32,
    statement_expressions,
    statements,
    walk,
)
from sdlc.kernel.linear import Linear, combine, linear
from sdlc.kernel.rewrite import Fresh, map_statements, rebuild, with_expressions
from sdlc.kernel.simplify import simplify
from sdlc.target import Capabilities

SEVERAL, FEW = 2, 96
"""Loops of products beside one another, from which on they carry their places; a loop of no more
multiply-adds than these, all its iterations together, may be written out."""

Terms = frozenset[tuple[Expr, int]]


def count_by_places(kernel: Kernel, caps: Capabilities, language: str) -> Kernel:
    """Where compilers write out what they can count: several loops of products in a loop, or in no
    loop, carry their places. In WGSL, whose implementations add counters of their own, short ones
    too. What else they loop over is short, and theirs to write out."""
    if not caps.counted_loops:
        return kernel
    fresh = Fresh(kernel)
    few = FEW if language == "opencl" else 0

    def inner(stmt: Stmt) -> tuple[Stmt, ...]:
        if not isinstance(stmt, For) or _products(stmt) <= few:
            return (stmt,)
        return _counted(stmt, fresh)

    def outer(stmt: Stmt) -> tuple[Stmt, ...]:
        if not isinstance(stmt, For) or sum(_products(s) > 0 for s in stmt.body) < SEVERAL:
            return (stmt,)
        return (replace(stmt, body=map_statements(stmt.body, inner)),)

    several = sum(_products(s) > 0 for s in kernel.body) >= SEVERAL
    whole = [new for s in kernel.body for new in (inner(s) if several else (s,))]
    return replace(kernel, body=map_statements(tuple(whole), outer))


def _products(stmt: Stmt) -> int:
    """The multiply-adds of a loop."""
    if not isinstance(stmt, For):
        return 0
    inner = [s for s in stmt.body if isinstance(s, For)]
    held = walk(*(e for s in stmt.body for e in statement_expressions(s)))
    own = sum(e.type.lanes for e in held if isinstance(e, Call) and e.op == "fma")
    return stmt.extent * (own + sum(map(_products, inner)))


def _counted(loop: For, fresh: Fresh) -> tuple[Stmt, ...]:
    together = (For, Barrier, MatrixMultiply, Exchange)
    if loop.until is not None or any(isinstance(s, together) for s in statements(loop.body)):
        return (loop,)
    places = _Places(loop, fresh)
    if not places.find():
        return (loop,)
    body = used_integers(map_statements(loop.body, places.moved))
    if any(loop.var in e.variables for s in statements(body) for e in statement_expressions(s)):
        return (loop,)
    return places.around(body)


@dataclass(frozen=True, slots=True)
class _Kind:
    """What the accesses of one place have in common; terms are in units of so many elements."""

    buffer: str
    unit: int
    terms: Terms


@dataclass(slots=True)
class _Places:
    """The places that a loop goes through, each with the least constant of its accesses."""

    loop: For
    fresh: Fresh
    lets: dict[Expr, Expr] = field(default_factory=dict)
    least: dict[_Kind, int] = field(default_factory=dict)
    order: dict[_Kind, tuple[Expr, ...]] = field(default_factory=dict)
    made: dict[_Kind, Var] = field(default_factory=dict)

    def find(self) -> bool:
        """Whether every place that moves with the loop is a sum with it of what stays."""
        body = tuple(statements(self.loop.body))
        self.lets = {s.var: s.value for s in body if isinstance(s, Let) and s.var.type is I32}
        if any(_lanes(a) > max(a.buffer.lanes, 1) for a in _accesses(self.loop.body)):
            return False  # Compilers join what is spelled lane by lane where they see multiples.
        inside = {s.var for s in body if isinstance(s, Let | Declare | Assign)}
        for access in _accesses(self.loop.body):
            kind, constant = self.kind(access)
            moves = dict(kind.terms).get(self.loop.var, 0)
            others = [e for e, _ in kind.terms if e is not self.loop.var]
            bound = inside | {self.loop.var}
            if any(not bound.isdisjoint(e.variables) or _reads(e) for e in others) or moves < 0:
                return False
            if moves:
                self.order.setdefault(kind, tuple(self.form(access.index)[0]))
                self.least[kind] = min(constant, self.least.get(kind, constant))
        for kind in self.least:
            self.made[kind] = Var(self.fresh.name("place"), I32)
        return bool(self.made)

    def kind(self, access: Load | Store) -> tuple[_Kind, int]:
        """Of what kind an access is, and the constant of its place."""
        terms, constant = self.form(access.index)
        buffer = access.buffer
        unit = _lanes(access)
        if any(c % unit for c in (*terms.values(), constant)):
            unit = 1
        kept = frozenset((e, c // unit) for e, c in terms.items())
        return _Kind(buffer.name, unit, kept), constant // unit

    def form(self, index: Expr) -> Linear:
        """The linear form of an index in what stands outside of the loop, and its variable."""
        terms, constant = linear(index)
        made: Linear = {}, constant
        for atom, factor in terms.items():
            value = self.lets.get(atom)
            made = combine(made, ({atom: 1}, 0) if value is None else self.form(value), factor)
        return made

    def moved(self, stmt: Stmt) -> tuple[Stmt, ...]:
        """A statement whose accesses are at the places."""
        memo: dict[Expr, Expr] = {}
        stmt = with_expressions(stmt, lambda e: rebuild(e, self._load, memo))
        return (replace(stmt, index=self._index(stmt)) if isinstance(stmt, Store) else stmt,)

    def _load(self, e: Expr) -> Expr:
        return Load(e.buffer, self._index(e), e.lanes) if isinstance(e, Load) else e

    def _index(self, access: Load | Store) -> Expr:
        kind, constant = self.kind(access)
        if kind not in self.made:
            return access.index
        beyond = constant - self.least[kind]
        index = call("add", self.made[kind], i32(beyond)) if beyond else self.made[kind]
        return call("mul", index, i32(kind.unit)) if kind.unit > 1 else index

    def around(self, body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
        """The loop with such a body: places before it, and what moves them at its end."""
        steps = {kind: dict(kind.terms)[self.loop.var] for kind in self.made}
        before: list[Stmt] = [Declare(v, self._first(k)) for k, v in self.made.items()]
        after = [Assign(v, call("add", v, i32(steps[k]))) for k, v in self.made.items()]
        kind, place = next(iter(self.made.items()))
        end = Var(self.fresh.name("end"), I32)
        way = i32(steps[kind] * self.loop.extent)
        before.append(Let(end, call("add", place, way)))
        return (*before, replace(self.loop, body=(*body, *after), until=(place, end)))

    def _first(self, kind: _Kind) -> Expr:
        made: Expr = i32(self.least[kind])
        factors = dict(kind.terms)
        for e in self.order[kind]:
            if e is not self.loop.var:
                made = call("add", made, call("mul", e, i32(factors[e])))
        return simplify(made, {})


def _accesses(body: tuple[Stmt, ...]) -> Iterator[Load | Store]:
    for stmt in statements(body):
        yield from (e for e in walk(*statement_expressions(stmt)) if isinstance(e, Load))
        if isinstance(stmt, Store):
            yield stmt


def _lanes(access: Load | Store) -> int:
    return access.lanes if isinstance(access, Load) else access.value.type.lanes


def _reads(e: Expr) -> bool:
    return any(isinstance(part, Load) for part in walk(e))
