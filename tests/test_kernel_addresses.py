"""Places are spelled with the names that are there, and made before loops that hold their parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from kernels import GX, LX, add, mul, read, write
from sdlc.graph.types import DType
from sdlc.kernel.addresses import few_addresses
from sdlc.kernel.interpret import interpret
from sdlc.kernel.ir import (
    F32,
    I32,
    Assign,
    Buffer,
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


def test_a_place_beside_a_place_without_a_name_is_spelled_out() -> None:
    far = Var("far", I32)
    term = Load(X, add(call("sub", far, i32(1)), J))

    def change(s: Stmt) -> tuple[Stmt, ...]:
        if isinstance(s, For):
            second = Assign(TOTALS[1], call("add", TOTALS[1], term))
            return (replace(s, body=(s.body[0], second)),)
        return (s, Let(far, add(NEXT, 1))) if isinstance(s, Let) and s.var is NEXT else (s,)

    made = few_addresses(with_more(change))
    verify(made)
    assert not {"next", "far"} & names(made) and "start" in names(made)


def test_a_place_that_shares_a_quotient_is_made_before_the_loop() -> None:
    assert "at" not in before_the_loop(kernel(2, whole(2)))
    assert "at" in before_the_loop(few_addresses(kernel(2, whole(2))))


@pytest.mark.parametrize("early", [GX, quotient(2)], ids=["no quotient", "one for one place"])
def test_a_place_of_its_own_stays_behind_the_loop(early: Expr) -> None:
    """Where it would not replace more than one quotient, it would only take a register."""
    assert "at" not in before_the_loop(few_addresses(kernel(2, early)))


def with_more(change: Callable[[Stmt], tuple[Stmt, ...]], *first: Stmt) -> Kernel:
    """The kernel of two quotients with its statements replaced, and some before them."""
    given_ = kernel(2, whole(2))
    return replace(given_, body=(*first, *(made for s in given_.body for made in change(s))))


def test_what_shares_no_quotient_stays_behind_the_loop() -> None:
    other = Let(Var("other", I32), mul(LX, i32(2)))
    made = with_more(lambda s: (other, s) if isinstance(s, Let) and s.var is AT else (s,))
    moved = few_addresses(replace(made, body=(*made.body, Store(OUT, other.var, f32(0.0)))))
    assert before_the_loop(moved) == {"start", "at"}


COUNT = Var("count", I32)


def test_what_changes_is_not_read_early() -> None:
    """A variable's value behind a loop is not the one before it."""

    def change(s: Stmt) -> tuple[Stmt, ...]:
        if isinstance(s, For):
            return (replace(s, body=(*s.body, Assign(COUNT, add(COUNT, 1)))),)
        if isinstance(s, Let) and s.var is AT:
            return (Let(AT, add(s.value, call("sub", COUNT, i32(TERMS)))),)
        return (s,)

    late = few_addresses(with_more(change, Declare(COUNT, i32(0))))
    assert "at" not in before_the_loop(late)


def test_what_changes_keeps_its_name() -> None:
    """A constant more than what a variable was is no constant more than what it is."""
    was = Var("was", I32)

    def change(s: Stmt) -> tuple[Stmt, ...]:
        if isinstance(s, Let) and s.var is START:
            return (s, Declare(COUNT, i32(0)), Let(was, add(COUNT, 1)), Assign(COUNT, i32(5)))
        if isinstance(s, Let) and s.var is AT:
            return (Let(AT, add(s.value, call("sub", was, i32(1)))),)
        return (s,)

    assert "was" in names(few_addresses(with_more(change)))


def test_what_memory_holds_is_not_read_early() -> None:
    """A loop may store there."""
    held = Load(Buffer("held", DType.I32, GROUPS), GX)

    def change(s: Stmt) -> tuple[Stmt, ...]:
        return (Let(AT, add(s.value, held)),) if isinstance(s, Let) and s.var is AT else (s,)

    assert "at" not in before_the_loop(few_addresses(with_more(change)))


def scaled(first: int, behind: int, *more: Stmt) -> Kernel:
    """Each group adds up `first` terms from its number times that on, and stores at a multiple."""
    x, out = read("x", GROUPS * first), write("out", GROUPS * behind + GROUPS)
    (total, _) = TOTALS
    body = (
        Let(START, mul(GX, i32(first))),
        Declare(total, f32(0.0)),
        For(J, first, (Assign(total, call("add", total, Load(x, add(START, J)))),)),
        Store(out, mul(GX, i32(behind)), total),
        *more,
    )
    return Kernel("k", (x, out), (), body, (GROUPS, 1, 1), (1, 1, 1))


@pytest.mark.parametrize(
    ("first", "behind", "kept"), [(8, 2, False), (12, 3, False), (12, 4, True), (3, 6, True)]
)
def test_a_groups_number_is_not_kept_for_a_part_of_its_multiple(
    first: int, behind: int, kept: bool
) -> None:
    """Where the quotient is a shift: a division by three costs more than a register."""
    given_ = scaled(first, behind)
    made = few_addresses(given_)
    verify(made)
    (store,) = (s for s in made.body if isinstance(s, Store))
    assert (GX in walk(store.index)) == kept
    x = np.random.default_rng(first).random(GROUPS * first, np.float32)
    sums = [interpret(k, {"x": x.copy()})["out"][: GROUPS * behind] for k in (given_, made)]
    np.testing.assert_array_equal(sums[0][::behind], sums[1][::behind])
    np.testing.assert_allclose(sums[1][::behind], x.reshape(GROUPS, -1).sum(axis=1), rtol=1e-6)


def test_a_number_that_is_asked_for_behind_the_loop_is_kept() -> None:
    out = scaled(8, 2).buffers[1]
    whole_ = scaled(8, 2, Store(out, add(GX, i32(GROUPS * 2)), f32(0.0)))
    assert few_addresses(whole_).body == whole_.body
