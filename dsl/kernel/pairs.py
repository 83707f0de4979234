"""What a work-item holds side by side of a matrix instruction's results is moved together.

In: a kernel. Out: where it has matrix instructions, the kernel in which loads and stores of two
neighbours in one body, the first at an even place, are one. Invariant: the same cells are read and
written; a store moves down to its neighbour's only past loads of other buffers and stores to other
cells, none of which its own value reads, and past no barrier.

    y[2 * p] = a;  y[2 * p + 1] = b        →        y[2 * p … 2 * p + 1] = (a, b)

The instruction says who holds what: a pair of columns, as a rule, and of halves that is one
register. Stored one by one, each takes a transaction of its own.
"""

from __future__ import annotations

from dataclasses import replace

from sdlc.kernel.gather import gather_loads, simplifier_of
from sdlc.kernel.ir import (
    Cast,
    Expr,
    For,
    If,
    Kernel,
    Let,
    Literal,
    Load,
    MatrixMultiply,
    Space,
    Stmt,
    Store,
    Vector,
    call,
    i32,
    statement_expressions,
    statements,
    walk,
)
from sdlc.kernel.simplify import Simplifier, simplify_kernel

PAIR = 2
_Waiting = dict[tuple[str, Expr], tuple[int, Store]]
"""Stores that may become the first of a pair, and where they stand, by buffer and index."""


def move_pairs(kernel: Kernel, halves: bool) -> Kernel:
    """`kernel` with loads and stores of neighbours as pairs, if it has matrix instructions;
    `halves`: variables can hold them."""
    if not any(isinstance(s, MatrixMultiply) for s in statements(kernel.body)):
        return kernel
    return stored_in_pairs(gather_loads(kernel, PAIR, halves))


def stored_in_pairs(kernel: Kernel) -> Kernel:
    """`kernel` with neighbouring stores as one."""
    body = _stored(kernel.body, simplifier_of(kernel))
    return simplify_kernel(replace(kernel, body=body)) if body != kernel.body else kernel


def _stored(body: tuple[Stmt, ...], simplifier: Simplifier) -> tuple[Stmt, ...]:
    """The body with neighbouring stores as one, at the place of the later."""
    made: list[Stmt | None] = []
    waiting: _Waiting = {}
    for stmt in body:
        if isinstance(stmt, For | If):
            stmt = replace(stmt, body=_stored(stmt.body, simplifier))
        if not isinstance(stmt, Store | Let):
            waiting.clear()
        for name in _read(stmt) if waiting else ():
            waiting = {key: held for key, held in waiting.items() if key[0] != name}
        if isinstance(stmt, Store):
            waiting = _unmet(waiting, stmt, simplifier)
        made.append(stmt)
        if not isinstance(stmt, Store) or not _may_pair(stmt):
            continue
        index = simplifier.visit(stmt.index)
        before = simplifier.visit(call("sub", index, i32(1)))
        at, first = waiting.pop((stmt.buffer.name, before), (-1, stmt))
        if at >= 0 and first.guard == stmt.guard:
            made[at], made[-1] = None, _pair(first, stmt)
        elif _is_even(index, simplifier):
            waiting[(stmt.buffer.name, index)] = len(made) - 1, stmt
    return tuple(s for s in made if s is not None)


def _unmet(waiting: _Waiting, store: Store, simplifier: Simplifier) -> _Waiting:
    """Those whose cells, and what they read, the store does not write."""
    found: _Waiting = {}
    for key, (at, first) in waiting.items():
        ahead = simplifier.visit(call("sub", key[1], store.index))
        meets = not isinstance(ahead, Literal) or 0 <= ahead.value < store.value.type.lanes
        same = first.buffer.name == store.buffer.name and meets
        if not same and store.buffer.name not in _read(first):
            found[key] = at, first
    return found


def _may_pair(store: Store) -> bool:
    buffer = store.buffer
    shared = buffer.space is not Space.PRIVATE
    return store.value.type.lanes == 1 and shared and buffer.size % PAIR == 0


def _read(stmt: Stmt) -> set[str]:
    """The buffers that a statement reads."""
    return {e.buffer.name for e in walk(*statement_expressions(stmt)) if isinstance(e, Load)}


def _is_even(index: Expr, simplifier: Simplifier) -> bool:
    rest = simplifier.visit(call("mod", index, i32(PAIR)))
    return isinstance(rest, Literal) and rest.value == 0


def _pair(first: Store, second: Store) -> Store:
    """Both as one; what is narrowed is narrowed together."""
    one, other = first.value, second.value
    if isinstance(one, Cast) and isinstance(other, Cast):
        wide: Expr = Cast(Vector((one.value, other.value)), first.buffer.dtype)
    else:
        wide = Vector((one, other))
    return replace(first, value=wide)
