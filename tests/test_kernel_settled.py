"""What a loop computes from local arrays that it leaves alone: before it, and only then."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kernels import LX, add, mul, read, write
from sdlc.graph.types import DType
from sdlc.kernel.interpret import interpret
from sdlc.kernel.ir import (
    F32,
    I32,
    Access,
    Barrier,
    Buffer,
    Cast,
    Exchange,
    Expr,
    For,
    Kernel,
    Let,
    Literal,
    Load,
    Space,
    Stmt,
    Store,
    Var,
    call,
    i32,
    walk,
)
from sdlc.kernel.settled import settle_local_values
from sdlc.kernel.verify import verify

ITEMS, PASSES = 4, 3
X, OUT = read("x", ITEMS), write("out", ITEMS * PASSES)
KEPT = Buffer("kept", DType.F32, ITEMS, Space.LOCAL, Access.READ_WRITE)
J = Var("j", I32)
NEXT = call("mod", add(LX, i32(1)), i32(ITEMS))
SCALED = call("exp", Load(KEPT, NEXT))


def kernel(inside: Expr, *more: Stmt, barrier: bool = True) -> Kernel:
    """Items fill an array; then each pass stores what `inside` says."""
    fill = (Store(KEPT, LX, Load(X, LX)), *((Barrier(),) if barrier else ()))
    out = Store(OUT, add(mul(LX, i32(PASSES)), J), inside)
    body = (*fill, For(J, PASSES, (out, *more)))
    return Kernel("k", (X, OUT), (KEPT,), body, (1, 1, 1), (ITEMS, 1, 1))


def loop_loads(made: Kernel) -> int:
    """Loads of the array in the loop."""
    loop = next(s for s in made.body if isinstance(s, For))
    stores = [s for s in loop.body if isinstance(s, Store)]
    return sum(isinstance(e, Load) and e.buffer is KEPT for s in stores for e in walk(s.value))


def test_what_a_loop_does_not_change_is_before_it() -> None:
    whole = kernel(SCALED)
    made = settle_local_values(whole)
    verify(made)
    assert loop_loads(whole) == 1 and loop_loads(made) == 0
    assert any(isinstance(s, Let) and SCALED in walk(s.value) for s in made.body)
    x = np.arange(ITEMS, dtype=np.float32) / 8
    before, after = (interpret(k, {"x": x.copy()})["out"] for k in (whole, made))
    np.testing.assert_array_equal(before, after)
    np.testing.assert_allclose(after, np.repeat(np.exp(np.roll(x, -1)), PASSES), rtol=1e-6)


def test_halves_are_rounded_where_they_are_stored() -> None:
    """Found by drawing: the cast of a store is no value of its own, what it rounds is."""
    out = Buffer("out", DType.F16, ITEMS * PASSES, Space.GLOBAL, Access.WRITE)
    whole = kernel(SCALED)
    fill, barrier, loop = whole.body
    assert isinstance(loop, For)
    store = Store(out, add(mul(LX, i32(PASSES)), J), Cast(SCALED, DType.F16))
    body = (fill, barrier, replace(loop, body=(store,)))
    made = settle_local_values(replace(whole, buffers=(X, out), body=body))
    verify(made)
    assert loop_loads(made) == 0


@pytest.mark.parametrize(
    "whole",
    [
        kernel(Load(KEPT, call("mod", add(LX, J), i32(ITEMS)))),
        kernel(SCALED, Barrier(), Store(KEPT, LX, Load(X, LX)), Barrier()),
        kernel(SCALED, barrier=False),
    ],
    ids=["another place each pass", "stored in the loop", "no barrier before"],
)
def test_what_may_change_stays(whole: Kernel) -> None:
    assert settle_local_values(whole) is whole


def nested(values: int) -> Kernel:
    """A loop over a loop that stores sums of what both move and `values` that neither changes."""
    outer = Var("i", I32)
    passes = add(mul(outer, i32(PASSES)), J)
    wide = write("wide", ITEMS * 2 * PASSES * values)
    stores = []
    for number in range(values):
        place = call("mod", add(LX, i32(number)), i32(ITEMS))
        settled = call("exp", mul(Load(KEPT, place), Literal(number / 8, F32)))
        value = add(settled, Load(X, call("mod", passes, i32(ITEMS))))
        at = add(mul(add(mul(LX, i32(2 * PASSES)), passes), i32(values)), i32(number))
        stores.append(Store(wide, at, value))
    fill = (Store(KEPT, LX, Load(X, LX)), Barrier())
    body = (*fill, For(outer, 2, (For(J, PASSES, tuple(stores)),)))
    return Kernel("k", (X, wide), (KEPT,), body, (1, 1, 1), (ITEMS, 1, 1))


@pytest.mark.parametrize(
    ("values", "registers", "outside", "between"),
    [(3, 0, 3, 0), (3, 64, 3, 0), (5, 0, 5, 0), (5, 64, 0, 5), (9, 0, 0, 0), (9, 64, 0, 0)],
)
def test_a_loop_over_loops_keeps_few_where_registers_are_counted(
    values: int, registers: int, outside: int, between: int
) -> None:
    """One for each 16 of them; what is more is before the inner loop, unless it is too much too."""
    whole = nested(values)
    made = settle_local_values(whole, registers)
    verify(made)
    (loop,) = (s for s in made.body if isinstance(s, For))
    counts = [sum(isinstance(s, Let) for s in body) for body in (made.body, loop.body)]
    assert counts == [outside, between]
    x = np.arange(ITEMS, dtype=np.float32) / 8
    before, after = (interpret(k, {"x": x.copy()})["wide"] for k in (whole, made))
    np.testing.assert_array_equal(before, after)


def test_what_is_exchanged_in_a_loop_is_there_only_within() -> None:
    other = Var("other", F32)
    whole = kernel(call("add", SCALED, other))
    *before, loop = whole.body
    assert isinstance(loop, For)
    loop = replace(loop, body=(Exchange(other, Load(X, LX), 1, ITEMS), *loop.body))
    made = settle_local_values(replace(whole, body=(*before, loop)))
    verify(made)
    assert loop_loads(made) == 0
