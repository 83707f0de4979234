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


def test_what_is_exchanged_in_a_loop_is_there_only_within() -> None:
    other = Var("other", F32)
    whole = kernel(call("add", SCALED, other))
    *before, loop = whole.body
    assert isinstance(loop, For)
    loop = replace(loop, body=(Exchange(other, Load(X, LX), 1, ITEMS), *loop.body))
    made = settle_local_values(replace(whole, body=(*before, loop)))
    verify(made)
    assert loop_loads(made) == 0
