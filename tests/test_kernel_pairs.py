"""Neighbours that a work-item loads and stores become pairs, and nothing else changes."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from kernels import LX, add, mul, read, write
from sdlc.graph.types import DType
from sdlc.kernel.interpret import interpret
from sdlc.kernel.ir import (
    F32,
    Access,
    Barrier,
    Buffer,
    Cast,
    Expr,
    Kernel,
    Let,
    Load,
    Space,
    Stmt,
    Store,
    Var,
    call,
    f32,
    i32,
    statements,
)
from sdlc.kernel.pairs import move_pairs, stored_in_pairs
from sdlc.kernel.verify import verify

ITEMS, EACH = 4, 6
X, OUT = read("x", ITEMS * EACH), write("out", ITEMS * EACH)
KEPT = Buffer("kept", DType.F32, ITEMS * EACH, Space.LOCAL, Access.READ_WRITE)
FIRST = Buffer("out", DType.F16, ITEMS * EACH, Space.GLOBAL, Access.WRITE)


def place(number: int) -> Expr:
    return add(mul(LX, i32(EACH)), number)


def kernel(*body: Stmt, out: Buffer = OUT) -> Kernel:
    arrays = (KEPT,) if any(isinstance(s, Store) and s.buffer is KEPT for s in body) else ()
    return Kernel("k", (X, out), arrays, body, (1, 1, 1), (ITEMS, 1, 1))


def widths(made: Kernel, buffer: Buffer = OUT) -> list[int]:
    """Elements of each store."""
    found = (s for s in statements(made.body) if isinstance(s, Store))
    return [s.value.type.lanes for s in found if s.buffer.name == buffer.name]


@st.composite
def bodies(draw: st.DrawFn) -> tuple[Stmt, ...]:
    """Each element stored once in memory and once in a local array, in any order, the latter read
    now and then; some stores are guarded."""
    body: list[Stmt] = []
    order = draw(st.permutations([(b, n) for b in (OUT, KEPT) for n in range(EACH)]))
    named = 0
    for buffer, n in order:
        value = call("mul", Load(X, place(n)), f32(n + 1))
        if draw(st.booleans()) and any(isinstance(s, Store) and s.buffer is KEPT for s in body):
            held = next(s for s in body if isinstance(s, Store) and s.buffer is KEPT)
            body.append(Let(Var(f"v{named}", F32), Load(KEPT, held.index)))
            value = call("add", value, Var(f"v{named}", F32))
            named += 1
        guard = call("lt", LX, i32(3)) if buffer is OUT and draw(st.booleans()) else None
        body.append(Store(buffer, place(n), value, guard))
        if draw(st.integers(0, 5)) == 0:
            body.append(Barrier())
    return tuple(body)


@settings(max_examples=60, deadline=None)
@given(bodies())
def test_the_same_is_stored(body: tuple[Stmt, ...]) -> None:
    whole = kernel(*body)
    made = stored_in_pairs(whole)
    verify(made)
    x = np.arange(ITEMS * EACH, dtype=np.float32)
    before = np.full(ITEMS * EACH, -1, np.float32)
    given = [{"x": x.copy(), "out": before.copy()} for _ in range(2)]
    was, now = (interpret(k, i)["out"] for k, i in zip((whole, made), given, strict=True))
    np.testing.assert_array_equal(now, was)


def test_neighbours_are_one_store_from_an_even_place_on() -> None:
    def stored(*places: int) -> list[int]:
        body = tuple(Store(OUT, place(n), Load(X, place(n))) for n in places)
        return widths(stored_in_pairs(kernel(*body)))

    assert stored(0, 1, 2, 3) == [2, 2]
    assert stored(0, 2, 1, 3) == [2, 2]
    assert stored(1, 2) == [1, 1]
    assert stored(0, 3) == [1, 1]


def test_halves_are_narrowed_together() -> None:
    body = (Store(FIRST, place(n), Cast(Load(X, place(n)), DType.F16)) for n in range(2))
    made = stored_in_pairs(kernel(*body, out=FIRST))
    (store,) = (s for s in made.body if isinstance(s, Store))
    assert isinstance(store.value, Cast) and store.value.type.lanes == 2


@pytest.mark.parametrize(
    "between",
    [
        Barrier(),
        Let(Var("v", F32), Load(KEPT, place(0))),
        Store(KEPT, add(mul(LX, LX), 0), f32(1)),
        Store(KEPT, place(0), f32(1)),
    ],
    ids=["a barrier", "a load of what is stored", "a store to some cell", "a store to its cell"],
)
def test_a_store_stays_before(between: Stmt) -> None:
    first, second = (Store(KEPT, place(n), Load(X, place(n))) for n in range(2))
    made = stored_in_pairs(kernel(first, between, second))
    store = next(s for s in statements(made.body) if isinstance(s, Store))
    assert isinstance(store.value, Load) and store.value.type.lanes == 1


def test_a_store_stays_before_one_to_what_it_reads() -> None:
    first, second = (Store(OUT, place(n), Load(KEPT, place(n))) for n in range(2))
    between = Store(KEPT, place(0), f32(1))
    assert widths(stored_in_pairs(kernel(first, between, second))) == [1, 1]


def test_unlike_guards_stay_apart() -> None:
    first, second = (
        Store(OUT, place(n), Load(X, place(n)), call("lt", LX, i32(n + 2))) for n in range(2)
    )
    assert widths(stored_in_pairs(kernel(first, second))) == [1, 1]


def test_a_kernel_without_matrix_instructions_stays_as_it_is() -> None:
    whole = kernel(*(Store(OUT, place(n), Load(X, place(n))) for n in range(2)))
    assert move_pairs(whole, True) is whole
