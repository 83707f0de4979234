"""Wrong kernels: every mutant of the examples is caught, and verifier and interpreter agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from kernels import EXAMPLES, LX, LY, Example, add, div, local, lt, mod, mul, write
from sdlc.kernel.interpret import Trap, interpret
from sdlc.kernel.ir import (
    BOOL,
    F32,
    I32,
    Assign,
    Barrier,
    Call,
    Declare,
    Expr,
    For,
    If,
    Kernel,
    Let,
    Literal,
    Load,
    Stmt,
    Store,
    Var,
    call,
    f32,
    i32,
    operands,
    statement_expressions,
    walk,
    with_operands,
)
from sdlc.kernel.simplify import simplify_kernel
from sdlc.kernel.verify import KernelError, verify

OUT, TILE = write("out", 64), local("tile", 64)
K, J = Var("k", I32), Var("j", I32)
ONE = f32(1.0)


def kernel(*body: Stmt, **more: object) -> Kernel:
    made = Kernel("k", (OUT,), (TILE,), body, (1, 1, 1), (8, 1, 1))
    return replace(made, **more)  # type: ignore[arg-type]


# Mutants


def edits(
    body: tuple[Stmt, ...], change: Callable[[Stmt], Iterator[Stmt | None]]
) -> Iterator[tuple[Stmt, ...]]:
    """Every body in which one statement is changed (None: dropped), at any depth."""
    for i, stmt in enumerate(body):
        for made in change(stmt):
            yield (*body[:i], *(() if made is None else (made,)), *body[i + 1 :])
        if isinstance(stmt, (For, If)):
            for inner in edits(stmt.body, change):
                yield (*body[:i], replace(stmt, body=inner), *body[i + 1 :])


def drop_barrier(stmt: Stmt) -> Iterator[None]:
    if isinstance(stmt, Barrier):
        yield None


def drop_guard(stmt: Stmt) -> Iterator[Stmt]:
    if isinstance(stmt, Store) and stmt.guard is not None:
        yield replace(stmt, guard=None)


def drop_branch(stmt: Stmt) -> Iterator[Stmt]:
    if isinstance(stmt, If):
        yield replace(stmt, condition=Literal(True, BOOL))


def shift_index(stmt: Stmt) -> Iterator[Stmt]:
    if isinstance(stmt, Store):
        yield replace(stmt, index=add(stmt.index, 1))
    yield from changed(stmt, lambda e: Load(e.buffer, add(e.index, 1), e.lanes), Load)


def swap_select(stmt: Stmt) -> Iterator[Stmt]:
    def swap(e: Call) -> Expr:
        return call("select", e.args[0], e.args[2], e.args[1])

    yield from changed(stmt, swap, Call, lambda e: e.op == "select")


def wrong_identity(stmt: Stmt) -> Iterator[Stmt]:
    if isinstance(stmt, Declare) and isinstance(stmt.value, Literal):
        yield replace(stmt, value=Literal(1.0, stmt.value.type))


def changed(stmt: Stmt, change, kind, accept=lambda e: True) -> Iterator[Stmt]:  # type: ignore
    """The statement with one of its subexpressions of a kind changed."""
    for expr in walk(*statement_expressions(stmt)):
        if isinstance(expr, kind) and accept(expr):
            yield substituted(stmt, expr, change(expr))


def substitute(expr: Expr, old: Expr, new: Expr) -> Expr:
    if expr is old:
        return new
    return with_operands(expr, tuple(substitute(o, old, new) for o in operands(expr)))


def substituted(stmt: Stmt, old: Expr, new: Expr) -> Stmt:
    match stmt:
        case Store():
            guard = None if stmt.guard is None else substitute(stmt.guard, old, new)
            index, value = (substitute(e, old, new) for e in (stmt.index, stmt.value))
            return replace(stmt, index=index, value=value, guard=guard)
        case Let() | Declare() | Assign():
            return replace(stmt, value=substitute(stmt.value, old, new))
        case If():
            return replace(stmt, condition=substitute(stmt.condition, old, new))
    return stmt


MUTATIONS = (drop_barrier, drop_guard, drop_branch, shift_index, swap_select, wrong_identity)


def caught(mutant: Kernel, example: Example) -> bool:
    try:
        verify(mutant)
        found = interpret(mutant, example.inputs)
    except (KernelError, Trap):
        return True
    return any(
        not np.allclose(found[name], expected, rtol=1e-5, atol=1e-5)
        for name, expected in example.outputs.items()
    )


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda m: m.__name__)
def test_every_mutant_is_killed(mutate: Callable[[Stmt], Iterator[Stmt | None]]) -> None:
    count = 0
    for make in EXAMPLES:
        example = make()
        made = simplify_kernel(example.kernel)
        for body in edits(made.body, mutate):
            mutant = replace(made, body=body)
            assert caught(mutant, example), mutant
            count += 1
    assert count >= 2


@pytest.mark.parametrize("mutate", [drop_barrier, drop_guard])
def test_the_verifier_alone_kills_these(
    mutate: Callable[[Stmt], Iterator[Stmt | None]],
) -> None:
    for make in EXAMPLES:
        made = simplify_kernel(make().kernel)
        for body in edits(made.body, mutate):
            with pytest.raises(KernelError):
                verify(replace(made, body=body))


# Agreement with the interpreter


LANE = add(mul(LY, 4), LX)


def _index(rng: Random) -> Expr:
    """A sum of digits, sometimes one that keeps lanes apart, sometimes taken apart by // and %."""
    kind = rng.random()
    if kind < 0.5:
        made = add(LANE, rng.choice((0, 0, 8, 16)))
    elif kind < 0.6:
        made = add(mul(LANE, 3), K)
    else:
        scales = (rng.choice((0, 1, 2, 4, 6, 8)) for _ in range(3))
        made = add(*(mul(v, s) for v, s in zip((LX, LY, K), scales, strict=True)))
    if rng.random() < 0.3:
        c, m = rng.choice((2, 3, 4, 8)), rng.choice((2, 3, 4, 8, 9))
        made = add(mul(div(made, c), m), mod(made, c))
    if rng.random() < 0.2:
        made = call(rng.choice(("min", "max", "sub")), made, i32(rng.choice((1, 7, 20))))
    return made if rng.random() < 0.7 else add(made, mul(mod(K, 2), 8))


def _guard(rng: Random) -> Expr | None:
    return lt(_index(rng), rng.randint(1, 24)) if rng.random() < 0.2 else None


def _kernel(rng: Random) -> Kernel:
    """Two stores and a load of one local array in a loop, with and without barriers."""
    acc = Var("acc", F32)
    stores = [Store(TILE, _index(rng), ONE, _guard(rng)) for _ in range(rng.randint(1, 2))]
    load = Assign(acc, Load(TILE, _index(rng)))
    barrier = (Barrier(),)
    inner: tuple[Stmt, ...] = (*stores, *barrier * rng.randint(0, 1), load)
    if rng.random() < 0.3:
        inner = (If(lt(_index(rng), 12), (stores[0],)), *barrier, load)
    inner = (*barrier * rng.randint(0, 1), *inner, *barrier * rng.randint(0, 1))
    clear = For(J, 8, (Store(TILE, add(mul(J, 8), LANE), f32(0.0)),))
    out = Store(OUT, substitute(_index(rng), K, i32(1)), ONE, lt(LX, 3))
    body = (Declare(acc, f32(0.0)), clear, Barrier(), For(K, 3, inner), out)
    return kernel(*body, group=(4, 2, 1))


def _refusal(made: Kernel) -> str:
    try:
        verify(made)
    except KernelError as error:
        return str(error)
    return ""


def _trap(made: Kernel) -> str:
    try:
        interpret(made, {})
    except Trap as trap:
        return str(trap)
    return ""


def test_verifier_and_interpreter_agree() -> None:
    """Small kernels without loaded indices are decided exactly, so the two must agree."""
    accepted = 0
    for seed in range(400):
        made = _kernel(Random(seed))
        trap, refusal = _trap(made), _refusal(made)
        assert bool(trap) == bool(refusal), (seed, made, trap, refusal)
        accepted += not refusal
    assert 50 < accepted < 350
