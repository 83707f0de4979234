"""Loops cut at their conditions: the same results, in the same order of sums, and no condition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import LX, add, mul, read, write
from sdlc.kernel.cut import MOST_PIECES, cut_loops
from sdlc.kernel.interpret import interpret
from sdlc.kernel.ir import (
    F32,
    I32,
    Assign,
    Call,
    Declare,
    Expr,
    For,
    Kernel,
    Let,
    Load,
    Stmt,
    Store,
    Var,
    call,
    f32,
    i32,
    statement_expressions,
    statements,
    walk,
)
from sdlc.kernel.simplify import simplify_kernel
from sdlc.kernel.verify import verify

ITEMS = 4
K, TOTAL = Var("k", I32), Var("total", F32)


def joined_sum(parts: list[int], outer: int = 1) -> Kernel:
    """out[i] = sum over k of w[k, i] * (the part of x that holds k)[k, i], `outer` times over."""
    extent = sum(parts)
    weights, out = read("w", extent * ITEMS), write("out", ITEMS)
    pieces = [read(f"x{n}", size * ITEMS) for n, size in enumerate(parts)]
    value: Expr = f32(0.0)
    start = extent
    for piece, size in zip(reversed(pieces), reversed(parts), strict=True):
        start -= size
        inside = call("min", call("max", add(K, -start), i32(0)), i32(size - 1))
        held = Load(piece, add(mul(inside, ITEMS), LX))
        reached = call("le", i32(start), K)
        until = call("lt", K, i32(start + size))
        value = call("select", call("and", reached, until), held, value)
    kept = Var("kept", F32)
    body: tuple[Stmt, ...] = (
        Let(kept, value),
        Assign(TOTAL, call("fma", kept, Load(weights, add(mul(K, ITEMS), LX)), TOTAL)),
    )
    loop: Stmt = For(K, extent, body, "k")
    if outer > 1:
        loop = For(Var("again", I32), outer, (loop,), "again")
    whole = (Declare(TOTAL, f32(0.0)), loop, Store(out, LX, TOTAL))
    return Kernel("joined", (*pieces, weights, out), (), whole, (1, 1, 1), (ITEMS, 1, 1))


def inputs_of(kernel: Kernel) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    random = np.random.default_rng(7)
    named = (b for b in kernel.buffers if b.name != "out")
    return {b.name: random.standard_normal(b.size).astype(np.float32) for b in named}


def conditions(kernel: Kernel) -> list[Call]:
    every = (e for s in statements(kernel.body) for e in walk(*statement_expressions(s)))
    return [e for e in every if isinstance(e, Call) and e.op in ("select", "lt", "le", "and")]


def loops(kernel: Kernel) -> list[int]:
    return [s.extent for s in statements(kernel.body) if isinstance(s, For) and s.axis == "k"]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(2, 6), min_size=1, max_size=MOST_PIECES), st.integers(1, 3))
def test_each_part_has_a_loop_and_the_sum_stays(parts: list[int], outer: int) -> None:
    kernel = simplify_kernel(joined_sum(parts, outer))
    made = cut_loops(kernel)
    verify(made)
    assert loops(made) == parts
    assert not conditions(made)
    want, got = (interpret(k, inputs_of(kernel))["out"] for k in (kernel, made))
    np.testing.assert_array_equal(got, want)


def test_names_stay_unique() -> None:
    made = cut_loops(simplify_kernel(joined_sum([3, 4, 5])))
    named = [s.var.name for s in statements(made.body) if isinstance(s, (Let, For, Declare))]
    assert len(named) == len(set(named))


@pytest.mark.parametrize("parts", [[2] * (MOST_PIECES + 1), [7]])
def test_many_parts_or_one_are_left_alone(parts: list[int]) -> None:
    kernel = simplify_kernel(joined_sum(parts))
    assert cut_loops(kernel) is kernel


def test_a_loop_that_stores_results_is_left_alone() -> None:
    """Its stores would have to be shown to be apart, piece by piece."""
    x, out = read("x", 8), write("out", 8 * ITEMS)
    value = call("select", call("lt", K, i32(3)), Load(x, K), f32(0.0))
    store = Store(out, add(mul(K, ITEMS), LX), value)
    kernel = Kernel("maps", (x, out), (), (For(K, 8, (store,), "k"),), (1, 1, 1), (ITEMS, 1, 1))
    assert cut_loops(kernel) is kernel
