"""What is selected in a loop that sums products is loaded before it, and means the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels import LX, add, mul, read, write
from sdlc.graph.types import DType
from sdlc.kernel.interpret import interpret
from sdlc.kernel.ir import (
    I32,
    Assign,
    Call,
    Declare,
    Expr,
    For,
    Kernel,
    Load,
    Stmt,
    Store,
    Type,
    Var,
    call,
    f32,
    i32,
    statement_expressions,
    statements,
    walk,
)
from sdlc.kernel.selected import MOST, ROUNDS, name_selected_loads
from sdlc.kernel.verify import verify

ITEMS = 4
J, SUM = Var("j", I32), Var("sum", Type(DType.F32))


def kernel(rounds: int, before: int, loads: int = 1, fused: bool = True) -> Kernel:
    """Each work-item sums a window of `x` that begins `before` elements before its own, in some
    `loads` each round, by weights."""
    x, w = read("x", ITEMS), read("w", rounds)
    terms: list[Stmt] = []
    for n in range(loads):
        at = add(add(LX, J), i32(n - before))
        inside = call("and", call("le", i32(0), at), call("lt", at, i32(ITEMS)))
        place = call("min", call("max", at, i32(0)), i32(ITEMS - 1))
        value = call("select", inside, Load(x, place), f32(0.0))
        weight: Expr = Load(w, J)
        new = call("fma", value, weight, SUM) if fused else add(SUM, mul(value, weight))
        terms.append(Assign(SUM, new))
    out = write("out", ITEMS)
    body = (Declare(SUM, f32(0.0)), For(J, rounds, tuple(terms)), Store(out, LX, SUM))
    return Kernel("k", (x, w, out), (), body, (1, 1, 1), (ITEMS, 1, 1))


def selected_loads(made: Kernel) -> int:
    """Loads in arms of selections."""
    found = (e for s in statements(made.body) for e in walk(*statement_expressions(s)))
    arms = (a for e in found if isinstance(e, Call) and e.op == "select" for a in e.args[1:])
    return sum(isinstance(x, Load) for arm in arms for x in walk(arm))


@given(rounds=st.integers(ROUNDS, 9), before=st.integers(0, 9), loads=st.integers(1, MOST))
def test_the_loads_of_a_sum_stand_before_it(rounds: int, before: int, loads: int) -> None:
    whole = kernel(rounds, before, loads)
    made = name_selected_loads(whole)
    verify(made)
    assert selected_loads(whole) == loads and selected_loads(made) == 0
    rng = np.random.default_rng(rounds)
    data = {"x": rng.random(ITEMS, np.float32), "w": rng.random(rounds, np.float32)}
    results = [interpret(k, {n: a.copy() for n, a in data.items()})["out"] for k in (whole, made)]
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(
    "whole",
    [
        kernel(ROUNDS - 1, 1),
        kernel(ROUNDS, 1, MOST + 1),
        kernel(ROUNDS, 1, fused=False),
        replace(kernel(ROUNDS, 1), body=(Store(write("out", ITEMS), LX, f32(0.0)),)),
    ],
    ids=["few rounds", "many loads", "no multiply-adds", "no loop"],
)
def test_others_stay_as_they_are(whole: Kernel) -> None:
    assert name_selected_loads(whole) is whole
