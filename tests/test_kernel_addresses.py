"""Places are spelled with the names that are there, and made before loops that hold their parts."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
from hypothesis import given, settings

from kernels import GX, LX, add, mul, read, write
from sdlc.kernel.addresses import few_addresses
from sdlc.kernel.interpret import interpret
from sdlc.kernel.ir import (
    F32,
    I32,
    Assign,
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
from sdlc.kernel.verify import verify

GROUPS, ITEMS, TERMS, ROWS = 6, 2, 3, 2
PLACES = GROUPS * ITEMS
X, OUT = read("x", PLACES * TERMS * ROWS), write("out", PLACES * ROWS)
J, TOTALS = Var("j", I32), (Var("total", F32), Var("total1", F32))
START, NEXT, AT = Var("start", I32), Var("next", I32), Var("at", I32)


def quotient(by: int) -> Expr:
    return call("floordiv", GX, i32(by))


def kernel(by: int, early: Expr, change: Stmt | None = None) -> Kernel:
    """Each item adds up two rows of terms, from `start` and from `next` on, and stores at `at`,
    which is its number, made from parts of its group's."""
    number = add(mul(quotient(by), i32(by)), call("mod", GX, i32(by)))
    place = mul(add(mul(number, i32(ITEMS)), LX), i32(ROWS))
    terms = [Load(X, add(row, J)) for row in (START, NEXT)]
    sums = [Assign(t, call("add", t, term)) for t, term in zip(TOTALS, terms, strict=True)]
    body = (
        Let(START, mul(add(mul(early, i32(ITEMS)), LX), i32(TERMS * ROWS))),
        Let(NEXT, add(START, TERMS)),
        *(Declare(t, f32(0.0)) for t in TOTALS),
        For(J, TERMS, tuple(sums)),
        *((change,) if change is not None else ()),
        Let(AT, place),
        *(Store(OUT, add(AT, n), t) for n, t in enumerate(TOTALS)),
    )
    return Kernel("k", (X, OUT), (), body, (GROUPS, 1, 1), (ITEMS, 1, 1))


def whole(by: int) -> Expr:
    """The group's number, made from the same parts."""
    return add(mul(quotient(by), i32(by)), call("mod", GX, i32(by)))


def before_the_loop(made: Kernel) -> set[str]:
    loop = next(n for n, s in enumerate(made.body) if isinstance(s, For))
    return {s.var.name for s in made.body[:loop] if isinstance(s, Let)}


def names(made: Kernel) -> set[str]:
    return {s.var.name for s in statements(made.body) if isinstance(s, Let)}


@settings(max_examples=25, deadline=None)
@given(st.sampled_from((1, 2, 3, 4)), st.booleans(), st.integers(0, 2**31))
def test_the_same_elements_are_accessed(by: int, parts: bool, seed: int) -> None:
    given_ = kernel(by, whole(by) if parts else GX)
    made = few_addresses(given_)
    verify(made)
    x = np.random.default_rng(seed).random(X.size, np.float32)
    before, after = (interpret(k, {"x": x.copy()})["out"] for k in (given_, made))
    np.testing.assert_array_equal(before, after)
    np.testing.assert_allclose(after, x.reshape(-1, TERMS).sum(axis=1), rtol=1e-6)


def test_a_place_beside_a_named_one_has_no_name() -> None:
    made = few_addresses(kernel(2, GX))
    assert "next" in names(kernel(2, GX)) and "next" not in names(made) and "start" in names(made)
    loads = [e for s in statements(made.body) for e in walk(*statement_expressions(s))]
    places = {e.index for e in loads if isinstance(e, Load)}
    assert places == {add(J, START), add(J, START, TERMS)}


def test_a_place_that_shares_a_quotient_is_made_before_the_loop() -> None:
    assert "at" not in before_the_loop(kernel(2, whole(2)))
    assert "at" in before_the_loop(few_addresses(kernel(2, whole(2))))


def test_a_place_of_its_own_stays_behind_the_loop() -> None:
    """Where nothing before it needs a quotient, a place made there would only take a register."""
    assert "at" not in before_the_loop(few_addresses(kernel(2, GX)))


def test_what_changes_is_not_read_early() -> None:
    """A variable's value behind a loop is not the one before it."""
    count = Var("count", I32)
    made = kernel(2, whole(2))
    counted = [
        replace(s, body=(*s.body, Assign(count, add(count, 1)))) if isinstance(s, For) else s
        for s in made.body
    ]
    moved = [
        Let(AT, add(s.value, call("sub", count, i32(TERMS))))
        if isinstance(s, Let) and s.var is AT
        else s
        for s in counted
    ]
    body = (Declare(count, i32(0)), *moved)
    late = few_addresses(replace(made, body=body))
    assert "at" not in before_the_loop(late)
