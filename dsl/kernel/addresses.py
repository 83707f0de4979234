"""Places in memory hold few registers while loops run.

In: a kernel. Out: the same kernel in which a place that is a constant away from a named one is
spelled with that name, a place of a result that shares parts of work-groups' numbers with what
stands before it is made before the loop instead of behind it, and a number of a work-group that is
multiplied before a loop is not kept for a smaller multiple behind it. Invariant: every access is to
the same element.

    a = lane * 66; b = a + 33                    b nowhere; a + 33 in its place
    q = group / 512; for p { … q … }             q = group / 512; at = q * 4096 + lane
    out[group / 512 * 4096 + lane] = sum         for p { … }; out[at] = sum
    a = group * 4096; for p { … a … }            a = group * 4096; for p { … a … }
    out[group * 1024 + lane] = sum               out[a / 4 + lane] = sum

A compiler keeps a quotient that is used before a loop and behind it: several for one place.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import replace

from sdlc.kernel.ir import (
    I32,
    Call,
    Expr,
    For,
    Kernel,
    Let,
    Literal,
    Load,
    Stmt,
    Var,
    WorkId,
    call,
    i32,
    statement_expressions,
    statements,
    walk,
)
from sdlc.kernel.rewrite import map_statements, rebuild, with_expressions
from sdlc.kernel.simplify import simplify_kernel


def few_addresses(kernel: Kernel) -> Kernel:
    """`kernel` with fewer places under way at once, simplified."""
    body = _scaled(_early(_near(kernel.body)))
    return kernel if body == kernel.body else simplify_kernel(replace(kernel, body=body))


def _near(body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
    """Names for a constant beside another name spelled out."""
    fixed = {s.var for s in statements(body) if isinstance(s, Let | For)}
    spelled: dict[Expr, Expr] = {}

    def visit(stmt: Stmt) -> tuple[Stmt, ...]:
        return (with_expressions(stmt, lambda e: rebuild(e, lambda x: spelled.get(x, x), {})),)

    for stmt in statements(body):
        if isinstance(stmt, Let) and _is_near(stmt.value, fixed):
            (made,) = visit(stmt)
            assert isinstance(made, Let)
            spelled[stmt.var] = made.value
    if not spelled:
        return body
    return tuple(s for s in map_statements(body, visit) if not _is_spelled(s, spelled))


def _is_spelled(stmt: Stmt, spelled: dict[Expr, Expr]) -> bool:
    return isinstance(stmt, Let) and stmt.var in spelled


def _is_near(value: Expr, fixed: Set[Var]) -> bool:
    """Whether a value is a constant more than a name that never changes."""
    if not (isinstance(value, Call) and value.op == "add" and value.type == I32):
        return False
    first, second = value.args
    return isinstance(first, Var) and first in fixed and isinstance(second, Literal)


def _early(body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
    """Places behind the first loop made before it, where they are fewer than the quotients in them
    that are there before it anyway."""
    first = next((n for n, s in enumerate(body) if isinstance(s, For)), len(body))
    before, rest = body[:first], body[first:]
    known = {s.var for s in before if isinstance(s, Let)}
    there = _quotients(before)
    early: list[Stmt] = []
    for stmt in rest:
        shares = not there.isdisjoint(_quotients((stmt,)))
        if isinstance(stmt, Let) and shares and _is_early(stmt.value, known):
            known.add(stmt.var)
            early.append(stmt)
    if len(early) >= len(there & _quotients(early)):
        return body
    return (*before, *early, *(s for s in rest if s not in early))


def _scaled(body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
    """Multiples of a work-group's number behind the first loop as parts of those before it, where
    nothing else asks for the number then, and the quotient is a shift."""
    first = next((n for n, s in enumerate(body) if isinstance(s, For)), len(body))
    before, rest = body[:first], body[first:]
    for stmt in before:
        if isinstance(stmt, Let):
            rest = _in_parts(rest, stmt)
    return (*before, *rest)


def _in_parts(body: tuple[Stmt, ...], multiple: Let) -> tuple[Stmt, ...]:
    """The body with smaller multiples of the same number made from one with a name."""
    number, whole = _multiple(multiple.value)
    parts: dict[Expr, Expr] = {}
    for e in _inside(body) if number is not None else ():
        same, factor = _multiple(e)
        ratio = whole // factor if same is number and factor else 0
        if ratio > 1 and ratio & (ratio - 1) == 0 and ratio * factor == whole:
            parts[e] = call("floordiv", multiple.var, i32(ratio))
    if not parts:
        return body

    def visit(stmt: Stmt) -> tuple[Stmt, ...]:
        return (with_expressions(stmt, lambda e: rebuild(e, lambda x: parts.get(x, x), {})),)

    made = map_statements(body, visit)
    return body if any(e is number for e in _inside(made)) else made


def _multiple(e: Expr) -> tuple[WorkId | None, int]:
    """A work-group's number and what it is multiplied by, if that is all of the expression."""
    match e:
        case Call(op="mul", args=(WorkId(kind="group") as number, Literal(value=int(factor)))):
            return number, factor
    return None, 0


def _inside(body: tuple[Stmt, ...]) -> Iterable[Expr]:
    return (e for s in statements(body) for e in walk(*statement_expressions(s)))


def _quotients(body: Iterable[Stmt]) -> set[Expr]:
    """Parts of a work-group's number, whole ones: group / 4 % 8, but not group / 4 in it."""
    found: set[Expr] = set()
    pending = [e for s in statements(tuple(body)) for e in statement_expressions(s)]
    while pending:
        e = pending.pop()
        if isinstance(e, Call) and e.op in ("floordiv", "mod") and _is_of_group(e):
            found.add(e)
        else:
            pending += e.operands
    return found


def _is_of_group(e: Expr) -> bool:
    return any(isinstance(x, WorkId) and x.kind == "group" for x in walk(e))


def _is_early(value: Expr, known: Set[Expr]) -> bool:
    """Whether a value is a place that only needs what is known before the loop."""
    inside = list(walk(value))
    names = {e for e in inside if isinstance(e, Var)}
    return value.type == I32 and names <= known and not any(isinstance(e, Load) for e in inside)
