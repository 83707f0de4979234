"""What is selected is loaded first: a compiler then selects, and does not branch around the load.

In: a kernel. Out: the kernel in which, in a loop that sums products, an arm of a selection that
loads from memory has a name of its own before the statement. Invariant: every load is in bounds
already, whether or not its value is used, so that it may always be made.

    total = fma(inside ? x[at] : 0, w, total)    →    arm = x[at]
                                                      total = fma(inside ? arm : 0, w, total)

In OpenCL C `c ? a : b` computes only one of them, which compilers keep as a branch around a load:
they neither load ahead nor share what two branches load.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from sdlc.graph.types import DType
from sdlc.kernel.ir import (
    Assign,
    Call,
    Expr,
    For,
    If,
    Kernel,
    Let,
    Load,
    Space,
    Stmt,
    Var,
    operands,
    statement_expressions,
    statements,
    walk,
    with_operands,
)
from sdlc.kernel.rewrite import Fresh, with_expressions

MOST = 2
"""Loads of a body that are made ahead: each takes registers until it is used."""

ROUNDS = 4
"""A loop of fewer rounds is written out by compilers, which then load ahead for all of them."""


def name_selected_loads(kernel: Kernel) -> Kernel:
    """`kernel` with such arms as locals."""
    body = _in_body(kernel.body, Fresh(kernel), False)
    return kernel if body == kernel.body else replace(kernel, body=body)


def _in_body(body: tuple[Stmt, ...], names: Fresh, sums: bool) -> tuple[Stmt, ...]:
    """`sums`: the body is of a loop that sums products."""
    few = sums and 0 < len(_selected_loads(body)) <= MOST
    made: list[Stmt] = []
    for stmt in body:
        if isinstance(stmt, For):
            inside = stmt.extent >= ROUNDS and _sums_products(stmt)
            made.append(replace(stmt, body=_in_body(stmt.body, names, inside)))
        elif isinstance(stmt, If):
            made.append(replace(stmt, body=_in_body(stmt.body, names, sums)))
        elif few:
            arms = _Arms(names)
            changed = with_expressions(stmt, arms.visit)
            made += (*arms.named.values(), changed)
        else:
            made.append(stmt)
    return tuple(made)


def _sums_products(loop: For) -> bool:
    """Whether some multiply-add is added up in it."""
    assigned = (s.value for s in statements(loop.body) if isinstance(s, Assign))
    return any(isinstance(e, Call) and e.op == "fma" for e in assigned)


def _selected_loads(body: tuple[Stmt, ...]) -> set[Load]:
    """The loads that stand in arms of selections, of the body's own statements."""
    own = (s for s in body if not isinstance(s, For | If))
    found = (e for s in own for e in walk(*statement_expressions(s)))
    selections = (e for e in found if isinstance(e, Call) and e.op == "select")
    return {load for e in selections for arm in e.args[1:] for load in _loads(arm)}


def _loads(e: Expr) -> list[Load]:
    """The loads from global memory in an expression."""
    return [x for x in walk(e) if isinstance(x, Load) and x.buffer.space is Space.GLOBAL]


@dataclass(slots=True)
class _Arms:
    """The arms of one statement's selections, named."""

    names: Fresh
    named: dict[Expr, Let] = field(default_factory=dict)

    def visit(self, e: Expr) -> Expr:
        parts = tuple(self.visit(p) for p in operands(e))
        if isinstance(e, Call) and e.op == "select":
            parts = (parts[0], *(self._arm(p) for p in parts[1:]))
        return with_operands(e, parts) if parts else e

    def _arm(self, arm: Expr) -> Expr:
        if arm.type.dtype is DType.F16 or not _loads(arm):
            return arm
        if arm not in self.named:
            self.named[arm] = Let(Var(self.names.name("arm"), arm.type), arm)
        return self.named[arm].var
