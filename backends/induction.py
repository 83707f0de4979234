"""Products with a loop's variable, where a multiplication of integers is dear: sums instead.

In: a kernel. Out: the kernel in which a local of a loop that is a multiple of the loop's
variable plus what does not change is carried from one iteration to the next. Invariant: at every
place where such a local is read, it has the value that it had.

    for p < 80 { at = p * 640 + lane; … x[at] … }
    →  at = lane;  for p < 80 { … x[at] …;  at = at + 640 }
"""

from __future__ import annotations

from dataclasses import replace

from sdlc.kernel.ir import (
    I32,
    Assign,
    Declare,
    Expr,
    For,
    Kernel,
    Let,
    Stmt,
    Var,
    call,
    i32,
    walk,
)
from sdlc.kernel.linear import linear
from sdlc.kernel.rewrite import map_statements, rebuild
from sdlc.kernel.simplify import simplify
from sdlc.target import Capabilities


def carry_products(kernel: Kernel, caps: Capabilities, language: str) -> Kernel:
    """Integers of 64 bits are dear where multiplications are: a local `p * 640 + lane` of a
    loop over p → a variable that grows by 640."""
    if caps.integer_bits >= 64:
        return kernel
    return replace(kernel, body=map_statements(kernel.body, _carried))


def _carried(stmt: Stmt) -> tuple[Stmt, ...]:
    if not isinstance(stmt, For):
        return (stmt,)
    inside = {s.var for s in stmt.body if isinstance(s, Let | Declare)}
    steps = {s.var: n for s in stmt.body if isinstance(s, Let) and (n := _step(s, stmt, inside))}
    if not steps:
        return (stmt,)
    first = [
        Declare(s.var, _at_first(s.value, stmt.var))
        for s in stmt.body
        if isinstance(s, Let) and s.var in steps
    ]
    kept = [s for s in stmt.body if not (isinstance(s, Let) and s.var in steps)]
    last = [Assign(var, call("add", var, i32(step))) for var, step in steps.items()]
    return (*first, replace(stmt, body=(*kept, *last)))


def _step(let: Let, loop: For, inside: set[Var]) -> int:
    """How much the local grows in an iteration; 0 where it should not be carried: what grows by a
    power of two is cheap as it is."""
    if let.var.type != I32:
        return 0
    terms, _ = linear(let.value)
    step = terms.get(loop.var, 0)
    others = {e for atom in terms if atom is not loop.var for e in walk(atom)}
    if step <= 0 or step & (step - 1) == 0 or loop.var in others or others & inside:
        return 0
    return step


def _at_first(value: Expr, var: Var) -> Expr:
    return simplify(rebuild(value, lambda e: i32(0) if e is var else e, {}), {})
