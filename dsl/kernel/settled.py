"""What a loop computes from local arrays that it leaves alone is computed before it.

In: a kernel. Out: the kernel in which a loop's expressions of elements of such arrays, at places
that the loop does not change, are locals with a name in front of it. Invariant: the same elements
are read after the same stores: a barrier stands between those and the loop.

    barrier;  for n { a'[…] = (x[n] - mean[row]) * rsqrt(m2[row] / 320) }
    barrier;  settled = rsqrt(m2[row] / 320);  for n { a'[…] = (x[n] - mean[row]) * settled }

Statistics that a work-group has in local memory are read so, once a pass over what they scale.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from sdlc.graph.types import DType
from sdlc.kernel.ir import (
    Barrier,
    Buffer,
    Declare,
    Exchange,
    Expr,
    For,
    If,
    Kernel,
    Let,
    Load,
    Space,
    Stmt,
    Store,
    Var,
    operands,
    statements,
    walk,
    with_operands,
)
from sdlc.kernel.rewrite import Fresh, map_statements, rebuild, with_expressions
from sdlc.kernel.simplify import simplify_kernel

MOST = 8
"""A loop with more of them keeps them all: each takes a register as long as the loop runs."""


def settle_local_values(kernel: Kernel) -> Kernel:
    """`kernel` with such values before its loops, simplified."""
    if all(a.space is not Space.LOCAL for a in kernel.arrays):
        return kernel
    mutable = frozenset(s.var for s in statements(kernel.body) if isinstance(s, Declare))
    body = _in_body(kernel.body, mutable, Fresh(kernel))
    return kernel if body == kernel.body else simplify_kernel(replace(kernel, body=body))


def _in_body(body: tuple[Stmt, ...], mutable: frozenset[Var], names: Fresh) -> tuple[Stmt, ...]:
    """Outer loops first: what they may keep, inner ones need not."""
    made: list[Stmt] = []
    for number, stmt in enumerate(body):
        if isinstance(stmt, For):
            still = _still(body[:number]) - _stored((stmt,))
            settled = _Settled(still, mutable | _bound(stmt), names)
            inside = map_statements(stmt.body, settled.statement)
            if 0 < len(settled.named) <= MOST:
                stmt = replace(stmt, body=inside)
                made += [Let(var, value) for value, var in settled.named.items()]
        if isinstance(stmt, For | If):
            stmt = replace(stmt, body=_in_body(stmt.body, mutable, names))
        made.append(stmt)
    return tuple(made)


def _still(before: tuple[Stmt, ...]) -> frozenset[Buffer]:
    """The local arrays that have been stored, and a barrier since."""
    open_: frozenset[Buffer] = frozenset()
    closed: frozenset[Buffer] = frozenset()
    for stmt in before:
        if isinstance(stmt, Barrier):
            open_, closed = frozenset(), closed | open_
        else:
            stored = _stored((stmt,))
            open_, closed = open_ | stored, closed - stored
    return closed


def _stored(body: tuple[Stmt, ...]) -> frozenset[Buffer]:
    found = (s.buffer for s in statements(body) if isinstance(s, Store))
    return frozenset(b for b in found if b.space is Space.LOCAL)


def _bound(loop: For) -> frozenset[Var]:
    """The variables that exist only in a loop."""
    inside = statements(loop.body)
    return frozenset(
        {loop.var, *(s.var for s in inside if isinstance(s, Let | Declare | Exchange | For))}
    )


@dataclass(slots=True)
class _Settled:
    """Names for what a loop does not change: expressions of `still` arrays without `moving`
    variables."""

    still: frozenset[Buffer]
    moving: frozenset[Var]
    names: Fresh
    named: dict[Expr, Var] = field(default_factory=dict)
    same: dict[Expr, Expr] = field(default_factory=dict)
    """The loop's own locals that are such values, and what they are."""

    def statement(self, stmt: Stmt) -> tuple[Stmt, ...]:
        if not self.still:
            return (stmt,)
        if isinstance(stmt, Let) and self._is_settled(value := self._spelled(stmt.value)):
            self.same[stmt.var] = value
            return ()
        return (with_expressions(stmt, lambda e: self.visit(self._spelled(e))),)

    def _spelled(self, e: Expr) -> Expr:
        """The expression with such locals replaced by what they are."""
        return rebuild(e, lambda x: self.same.get(x, x), {}) if self.same else e

    def visit(self, e: Expr) -> Expr:
        if self._is_settled(e):
            if e not in self.named:
                self.named[e] = Var(self.names.name("settled"), e.type)
            return self.named[e]
        parts = operands(e)
        return with_operands(e, tuple(self.visit(p) for p in parts)) if parts else e

    def _is_settled(self, e: Expr) -> bool:
        # A half is only what is loaded or about to be stored: its cast stays there.
        if e.type.dtype is DType.F16 or not self.moving.isdisjoint(e.variables):
            return False
        loads = [x for x in walk(e) if isinstance(x, Load)]
        return bool(loads) and all(x.buffer in self.still for x in loads)
