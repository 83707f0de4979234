"""Partial sums in f16 and gathered loads: what changes, what does not, and by how much."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kernels import LX, add, mul, read, write
from sdlc.graph.types import DType
from sdlc.kernel.gather import gather_loads
from sdlc.kernel.interpret import interpret
from sdlc.kernel.ir import (
    F32,
    I32,
    Assign,
    Call,
    Cast,
    Declare,
    Expr,
    For,
    Kernel,
    Let,
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
from sdlc.kernel.partial import partial_sums
from sdlc.kernel.verify import verify

ITEMS, STEPS = 8, 24
P = Var("p", I32)
TOTAL = Var("total", F32)


def product_sum(dtype: DType, unrolled: int = 4, prologue: bool = False) -> Kernel:
    """out[i] = sum over p < 24 of x[i, p] * w[p, i], `unrolled` steps an iteration."""
    x, w = read("x", ITEMS * STEPS, dtype), read("w", ITEMS * STEPS, dtype)
    out = write("out", ITEMS)

    def wide(e: Expr) -> Expr:
        return Cast(e, DType.F32) if dtype is DType.F16 else e

    body: list[Stmt] = []
    for n in range(unrolled):
        step = add(mul(P, unrolled), n)
        left = Var(f"x_at{n}", F32)
        value = wide(Load(x, add(mul(LX, STEPS), step)))
        body.append(Let(left, call("exp", value) if prologue else value))
        right = wide(Load(w, add(mul(step, ITEMS), LX)))
        body.append(Assign(TOTAL, call("fma", left, right, TOTAL)))
    whole = (
        Declare(TOTAL, f32(0.0)),
        For(P, STEPS // unrolled, tuple(body), "p"),
        Store(out, LX, TOTAL),
    )
    return Kernel("product_sum", (x, w, out), (), whole, (1, 1, 1), (ITEMS, 1, 1))


def given(dtype: DType) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    random = np.random.default_rng(3)
    size = ITEMS * STEPS
    return {n: random.standard_normal(size).astype(dtype.numpy) for n in ("x", "w")}


def expressions_of(kernel: Kernel) -> list[Expr]:
    return [e for s in statements(kernel.body) for e in walk(*statement_expressions(s))]


def half_sums(kernel: Kernel) -> list[Call]:
    """The multiply-adds in f16."""
    made = expressions_of(kernel)
    halves = [e for e in made if isinstance(e, Call) and e.type.dtype is DType.F16]
    return [e for e in halves if e.op == "fma"]


@pytest.mark.parametrize("unrolled", [1, 2, 3, 4, 8, 24])
@pytest.mark.parametrize("steps", [2, 4, 6, 16, 64])
def test_sums_stay_within_what_half_precision_of_a_run_explains(unrolled: int, steps: int) -> None:
    kernel, inputs = product_sum(DType.F16, unrolled), given(DType.F16)
    made = partial_sums(kernel, steps)
    verify(made)
    assert half_sums(made)
    x, w = (inputs[n].astype(np.float64) for n in ("x", "w"))
    products = x.reshape(ITEMS, STEPS) * w.reshape(STEPS, ITEMS).T
    got = interpret(made, inputs)["out"]
    # Each of `steps` roundings errs by half a unit of the largest partial sum that there can be.
    bound = np.abs(products).sum(1) * min(steps, STEPS) * 2.0**-11
    assert (np.abs(got - products.sum(1)) <= bound).all()


def test_a_run_is_no_longer_than_asked_for() -> None:
    made = partial_sums(product_sum(DType.F16, 24), 8)
    assert len(half_sums(made)) == 24 - 3
    loops = [s for s in statements(made.body) if isinstance(s, For)]
    assert not loops
    split = partial_sums(product_sum(DType.F16, 4), 12)
    assert [s.extent for s in statements(split.body) if isinstance(s, For)] == [2, 3]
    whole = partial_sums(product_sum(DType.F16, 4), 24)
    assert [s.extent for s in statements(whole.body) if isinstance(s, For)] == [6]


def test_f32_factors_and_accumulators_stay() -> None:
    kernel = product_sum(DType.F32)
    assert partial_sums(kernel, 16) is kernel
    halves = product_sum(DType.F16)
    assert partial_sums(halves, 0) is halves
    made = partial_sums(halves, 16)
    assert Declare(TOTAL, f32(0.0)) in made.body
    rounded = partial_sums(product_sum(DType.F16, prologue=True), 16)
    verify(rounded)
    cast = [e for e in expressions_of(rounded) if isinstance(e, Cast) and e.dtype is DType.F16]
    assert cast and half_sums(rounded)


def test_a_run_ends_where_the_accumulator_is_used() -> None:
    """As attention does, which rescales what it has summed."""
    kernel = product_sum(DType.F16, 4)
    loop = kernel.body[1]
    assert isinstance(loop, For)
    scaled = Assign(TOTAL, call("mul", TOTAL, f32(0.5)))
    changed = replace(loop, body=(*loop.body[:4], scaled, *loop.body[4:]))
    kernel = replace(kernel, body=(kernel.body[0], changed, kernel.body[2]))
    made = partial_sums(kernel, 16)
    verify(made)
    assert len(half_sums(made)) == 2
    want, got = (interpret(k, given(DType.F16))["out"] for k in (kernel, made))
    np.testing.assert_allclose(got, want, atol=0.02)


def test_neighbours_become_lanes_of_one_load() -> None:
    for dtype in (DType.F16, DType.F32):
        kernel, inputs = product_sum(dtype, 8), given(dtype)
        made = gather_loads(kernel, 4)
        verify(made)
        wide = {e for e in expressions_of(made) if isinstance(e, Load) and e.lanes == 4}
        assert {e.buffer.name for e in wide} == {"x"} and len(wide) == 2
        want, got = (interpret(k, inputs)["out"] for k in (kernel, made))
        np.testing.assert_array_equal(got, want)


def test_what_does_not_start_a_vector_is_left() -> None:
    x, out = read("x", 72), write("out", 8)
    three = call(
        "add", Load(x, mul(LX, 4)), call("add", *(Load(x, add(mul(LX, 4), n)) for n in (1, 2)))
    )
    shifted: Expr = f32(0.0)
    for n in range(1, 5):
        shifted = call("add", shifted, Load(x, add(mul(LX, 4), n)))
    for value in (three, shifted):
        kernel = Kernel("k", (x, out), (), (Store(out, LX, value),), (1, 1, 1), (8, 1, 1))
        assert gather_loads(kernel, 4) is kernel
    assert gather_loads(kernel, 1) is kernel
    written = replace(x, access=out.access)
    kernel = Kernel("k", (written, out), (), (Store(written, LX, f32(1.0)),), (1, 1, 1), (8, 1, 1))
    assert gather_loads(kernel, 4) is kernel


def test_vectors_take_part() -> None:
    """A tile row: a scalar spread over four outputs."""
    x, w = read("x", STEPS, DType.F16), read("w", 4 * STEPS, DType.F16)
    out, total = write("out", 4), Var("total", Type(DType.F32, 4))
    left = Var("left", F32)
    body = (
        Declare(total, call("mul", Cast(Load(w, i32(0), 4), DType.F32), f32(0.0))),
        For(
            P,
            STEPS,
            (
                Let(left, Cast(Load(x, P), DType.F32)),
                Assign(total, call("fma", left, Cast(Load(w, mul(P, 4), 4), DType.F32), total)),
            ),
        ),
        Store(out, mul(LX, 4), total),
    )
    kernel = Kernel("row", (x, w, out), (), body, (1, 1, 1), (1, 1, 1))
    made = partial_sums(kernel, 8)
    verify(made)
    assert half_sums(made)[0].type == Type(DType.F16, 4)
    random = np.random.default_rng(5)
    inputs = {b.name: random.standard_normal(b.size).astype(np.float16) for b in (x, w)}
    want, got = (interpret(k, inputs)["out"] for k in (kernel, made))
    np.testing.assert_allclose(got, want, atol=0.02)
