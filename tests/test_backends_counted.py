"""Loops that count by the places that they go through: the same elements, as often."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from backend_kernels import one_dimensional
from kernels import LX, LY, add, mul, numbers, read, write
from sdlc.backends.counted import FEW
from sdlc.backends.legalize import legalize
from sdlc.backends.printer import print_kernel
from sdlc.graph.types import DType
from sdlc.kernel.interpret import Trap, interpret
from sdlc.kernel.ir import (
    F32,
    I32,
    Access,
    Assign,
    Barrier,
    Buffer,
    Declare,
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
from sdlc.kernel.rewrite import map_statements
from sdlc.target import Capabilities

CAPS = Capabilities(("opencl",), vector_widths=(1, 2, 4), integer_bits=32, counted_loops=True)
X, W, OUT = read("x", 4096), read("w", 4096), write("out", 16)
PLACES = Buffer("places", DType.I32, 16, Space.GLOBAL, Access.READ)
KEPT = Buffer("kept", X.dtype, 2048, Space.LOCAL, Access.READ_WRITE)
TOTAL, BLOCK = Var("total", F32), Var("block", I32)


def products(name: str, extent: int, steps: tuple[int, int, int], apart: int) -> For:
    """A loop of `total += x[…] * w[…] + …`, at places that move by these steps."""
    at, place, own = Var(name, I32), Var(f"at_{name}", I32), Var(f"own_{name}", I32)
    first = Load(X, add(place, i32(apart)))
    value = call("fma", first, Load(W, add(mul(at, steps[1]), LX)), TOTAL)
    more = call("fma", Load(X, add(place, 3)), Load(W, add(mul(at, steps[2]), own)), value)
    body = (
        Let(own, mul(BLOCK, 5)),
        Let(place, add(add(mul(at, steps[0]), mul(LX, 3)), mul(BLOCK, 7))),
        Assign(TOTAL, more),
    )
    return For(at, extent, body)


def folded(*inner: Stmt) -> Kernel:
    """A loop over blocks that holds such loops."""
    body = (
        Declare(TOTAL, f32(0.0)),
        For(BLOCK, 3, inner),
        Store(OUT, LX, TOTAL),
    )
    return one_dimensional("k", (X, W, OUT), body, 16)


def counted(kernel: Kernel) -> list[For]:
    return [s for s in statements(kernel.body) if isinstance(s, For) and s.until is not None]


def results(kernel: Kernel) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.asarray(interpret(kernel, {"x": numbers(4096), "w": numbers(4096)})["out"])


STEPS = st.integers(0, 9)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(("opencl", "wgsl")),
    st.integers(1, 60),
    st.integers(1, 60),
    st.tuples(STEPS, STEPS, STEPS),
    st.integers(0, 20),
)
def test_loops_that_count_by_places_compute_the_same(
    language: str, first: int, second: int, steps: tuple[int, int, int], apart: int
) -> None:
    kernel = folded(products("p", first, steps, apart), products("q", second, (4, 1, 2), 1))
    made = legalize(kernel, replace(CAPS, languages=(language,)), language)
    np.testing.assert_array_equal(results(kernel), results(made))
    long = 2 * second > FEW or language == "wgsl"
    assert long in {loop.var.name == "q" for loop in counted(made)} or not long


def test_the_text_counts_by_a_place() -> None:
    kernel = folded(products("p", 60, (5, 2, 3), 7), products("q", 60, (4, 1, 2), 1))
    made = legalize(kernel, CAPS, "opencl")
    text = print_kernel(made, "opencl", CAPS).text
    assert text.count("while (place") == 2 and "int p =" not in text and "int q =" not in text
    assert "int place = block * 7 + lane_x * 3 + 3;" in text and "place = place + 5;" in text
    wgsl = print_kernel(legalize(kernel, CAPS, "wgsl"), "wgsl", CAPS).text
    assert wgsl.count("while (place") == 2


def test_loops_in_no_loop_count_by_places_too() -> None:
    """What a block of all keys folds is in no loop over blocks."""
    one, other = products("p", 60, (5, 2, 3), 7), products("q", 60, (4, 1, 2), 1)
    for inner, wanted in (((one, other), ["p", "q"]), ((one,), [])):
        body = (Declare(TOTAL, f32(0.0)), Let(BLOCK, i32(1)), *inner, Store(OUT, LX, TOTAL))
        kernel = one_dimensional("k", (X, W, OUT), body, 16)
        made = legalize(kernel, CAPS, "opencl")
        assert [loop.var.name for loop in counted(made)] == wanted
        np.testing.assert_array_equal(results(kernel), results(made))


@pytest.mark.parametrize("caps", [CAPS, replace(CAPS, counted_loops=False)])
def test_which_loops_count_by_places(caps: Capabilities) -> None:
    one, other = products("p", 60, (5, 2, 3), 7), products("q", 60, (4, 1, 2), 1)
    few = products("r", FEW // 2, (4, 1, 2), 1)
    lane = If(call("lt", LX, i32(8)), ())

    def names(*inner: Stmt) -> list[str]:
        return [loop.var.name for loop in counted(legalize(folded(*inner), caps, "opencl"))]

    there = caps.counted_loops
    assert names(one, few, other) == (["p", "q"] if there else [])
    top = replace(other, body=(Assign(TOTAL, call("max", Load(X, other.var), TOTAL)),))
    assert names(one, few, top) == (["p"] if there else [])
    assert names(one) == []  # A single loop is the compiler's to write out.
    asks = replace(other, body=(*other.body, replace(lane, condition=call("lt", other.var, LX))))
    assert names(one, asks) == (["p"] if there else [])
    squared = Load(X, call("min", call("mul", other.var, other.var), i32(7)))
    bent = replace(other, body=(*other.body, Assign(TOTAL, call("fma", squared, squared, TOTAL))))
    assert names(one, bent) == (["p"] if there else [])
    read_place = add(mul(other.var, 2), Load(PLACES, LX))
    found = call("fma", Load(X, read_place), TOTAL, TOTAL)
    moved = replace(other, extent=2 * FEW, body=(Assign(TOTAL, found),))
    assert names(one, moved) == (["p"] if there else [])


def test_a_loop_that_waits_keeps_its_count() -> None:
    """A barrier in a loop that goes on until a place is reached is divergent, for what compilers
    can tell."""
    place = add(mul(LY, 16), LX)
    one, other = products("p", 60, (5, 2, 3), 7), products("q", 60, (4, 1, 2), 1)
    waits = replace(one, body=(*one.body, Store(KEPT, place, TOTAL), Barrier()))
    kernel = replace(folded(waits, other, products("r", 60, (1, 1, 1), 0)), arrays=(KEPT,))
    made = legalize(kernel, CAPS, "opencl")
    assert [loop.var.name for loop in counted(made)] == ["q", "r"]
    np.testing.assert_array_equal(results(kernel), results(made))


@pytest.mark.parametrize("by", [-1, 1])
def test_the_interpreter_traps_a_wrong_end(by: int) -> None:
    made = legalize(
        folded(products("p", 60, (5, 2, 3), 7), products("q", 60, (4, 1, 2), 1)), CAPS, "opencl"
    )
    ends = {loop.until[1] for loop in counted(made) if loop.until is not None}

    def wrong(stmt: Stmt) -> tuple[Stmt, ...]:
        if isinstance(stmt, Let) and stmt.var in ends:
            return (replace(stmt, value=add(stmt.value, i32(9 * by))),)
        return (stmt,)

    with pytest.raises(Trap, match="goes on by" if by > 0 else "ends by"):
        results(replace(made, body=map_statements(made.body, wrong)))
