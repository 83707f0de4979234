"""Private arrays whose cells are all known become locals: the same values, and no array left."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kernels import LX, add, lt, mul, read, write
from sdlc.graph.types import DType
from sdlc.kernel.interpret import interpret
from sdlc.kernel.ir import (
    F32,
    I32,
    Access,
    Assign,
    Buffer,
    Cast,
    Declare,
    Expr,
    For,
    If,
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
from sdlc.kernel.promote import promote_arrays
from sdlc.kernel.verify import verify

ITEMS = 4
X, OUT = read("x", 2 * ITEMS), write("out", 2 * ITEMS)
KEPT = Buffer("kept", DType.F32, 2, Space.PRIVATE, Access.READ_WRITE)
J = Var("j", I32)


def at(index: Expr | int) -> Load:
    return Load(KEPT, i32(index) if isinstance(index, int) else index)


def keep(index: Expr | int, value: Expr, guard: Expr | None = None) -> Store:
    return Store(KEPT, i32(index) if isinstance(index, int) else index, value, guard)


def kernel(*body: Stmt) -> Kernel:
    return Kernel("k", (X, OUT), (KEPT,), body, (1, 1, 1), (ITEMS, 1, 1))


def mine(n: int) -> Expr:
    return add(mul(LX, 2), n)


GIVEN = (keep(0, Load(X, mine(0))), keep(1, Load(X, mine(1))))
SUM = call("add", at(0), at(1))
GIVE = (Store(OUT, mine(0), SUM), Store(OUT, mine(1), at(0)))
CHANGED = For(J, 3, (keep(0, call("mul", at(0), at(1))),))
CASES = {
    "written once": kernel(*GIVEN, *GIVE),
    "written again": kernel(*GIVEN, keep(0, SUM), *GIVE),
    "written in a loop": kernel(*GIVEN, CHANGED, *GIVE),
    "read in a loop": kernel(*GIVEN, For(J, 2, (Store(OUT, add(mul(LX, 2), J), SUM),))),
    "written under a condition": kernel(*GIVEN, If(lt(LX, 2), (keep(1, f32(3.0)),)), *GIVE),
    "written once in a loop, read behind it": kernel(
        GIVEN[0], For(J, 2, (keep(1, Load(X, add(mul(LX, 2), J))),)), *GIVE
    ),
}


def run(made: Kernel) -> np.ndarray:
    data = np.arange(1, 2 * ITEMS + 1, dtype=np.float32)
    return interpret(made, {"x": data})["out"]


@pytest.mark.parametrize("name", CASES)
def test_cells_become_locals(name: str) -> None:
    given = CASES[name]
    made = promote_arrays(given)
    verify(made)
    assert made.arrays == ()
    np.testing.assert_array_equal(run(made), run(given))


def test_what_is_written_once_and_seen_by_all_is_a_name() -> None:
    kinds = {
        name: any(isinstance(s, Declare) for s in statements(promote_arrays(k).body))
        for name, k in CASES.items()
    }
    assert [name for name, variable in kinds.items() if not variable] == [
        "written once",
        "read in a loop",
    ]


def test_names_stay_unique() -> None:
    other = Var("kept1", F32)
    made = promote_arrays(kernel(Let(other, f32(2.0)), *GIVEN, Store(OUT, mine(0), other), *GIVE))
    verify(made)
    named = [s.var.name for s in statements(made.body) if isinstance(s, (Let, Declare))]
    assert len(set(named)) == len(named)


@pytest.mark.parametrize(
    "body",
    [
        (*GIVEN, Store(OUT, mine(0), at(call("mod", LX, i32(2))))),
        (*GIVEN, keep(call("mod", LX, i32(2)), f32(1.0)), *GIVE),
        (*GIVEN, keep(0, f32(1.0), lt(LX, 2)), *GIVE),
        (*GIVEN, Store(OUT, mine(0), Load(KEPT, i32(0), 2)), *GIVE),
    ],
    ids=["read somewhere", "written somewhere", "guarded", "read across cells"],
)
def test_other_arrays_stay(body: tuple[Stmt, ...]) -> None:
    given = kernel(*body)
    assert promote_arrays(given) is given
    shared = replace(KEPT, space=Space.LOCAL)
    assert promote_arrays(replace(given, arrays=(shared,))).arrays == (shared,)
    assert not any(isinstance(s, Assign) for s in statements(given.body))


@pytest.mark.parametrize("again", [False, True])
def test_halves_are_single_cells(again: bool) -> None:
    """Two that are stored one by one and read together are a vector of two locals; where variables
    hold none, and where one store would write both, they stay in their array."""
    halves = replace(KEPT, dtype=DType.F16)
    stores = [Store(halves, i32(n), Cast(Load(X, mine(n)), DType.F16)) for n in (0, 1)]
    if again:
        stores.append(Store(halves, i32(1), Cast(f32(2.5), DType.F16)))
    both = Store(OUT, mul(LX, 2), Cast(Load(halves, i32(0), 2), DType.F32))
    made = replace(kernel(*stores, both), arrays=(halves,))
    promoted = promote_arrays(made, halves=True)
    assert made.arrays and not promoted.arrays and promote_arrays(made) is made
    values = [s.var for s in statements(promoted.body) if isinstance(s, (Let, Declare))]
    assert [v.type.dtype for v in values].count(DType.F16) == 2
    x = np.random.default_rng(0).standard_normal(2 * ITEMS).astype(np.float32)
    want = x.astype(np.float16).astype(np.float32)
    want[1::2] = 2.5 if again else want[1::2]
    for tested in (made, promoted):
        np.testing.assert_array_equal(interpret(tested, {"x": x})["out"], want)
    wide = replace(
        made, body=(Store(halves, i32(0), Cast(Load(X, mul(LX, 2), 2), DType.F16)), both)
    )
    assert promote_arrays(wide, halves=True) is wide
