"""The interpreter: right results for the examples, and a trap for everything that is forbidden."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from kernels import (
    EXAMPLES,
    LX,
    LY,
    Example,
    add,
    div,
    local,
    lt,
    mod,
    mul,
    private,
    read,
    write,
)
from sdlc.graph.types import Array, DType
from sdlc.kernel.interpret import Trap, interpret
from sdlc.kernel.ir import (
    BOOL,
    F16,
    F32,
    I32,
    Access,
    Assign,
    Barrier,
    Buffer,
    Cast,
    Declare,
    Expr,
    For,
    If,
    Kernel,
    Let,
    Literal,
    Load,
    Stmt,
    Store,
    Var,
    WorkId,
    call,
    f32,
    i32,
)
from sdlc.kernel.simplify import simplify_kernel

OUT = write("out", 64)
K = Var("k", I32)


def kernel(*body: Stmt, buffers: tuple[Buffer, ...] = (OUT,), **more: object) -> Kernel:
    made = Kernel("k", buffers, (), body, (1, 1, 1), (8, 1, 1))
    return replace(made, **more)  # type: ignore[arg-type]


def run(*body: Stmt, **more: object) -> Array:
    return interpret(kernel(*body, **more), {})["out"]


@pytest.mark.parametrize("make", EXAMPLES, ids=lambda m: m.__name__)
def test_examples(make: Callable[[], Example]) -> None:
    example = make()
    for version in (example.kernel, simplify_kernel(example.kernel)):
        found = interpret(version, example.inputs)
        assert found.keys() == example.outputs.keys()
        for name, expected in example.outputs.items():
            np.testing.assert_allclose(found[name], expected, rtol=2e-6, atol=4e-6)


def test_chunks_of_work_groups_make_one_launch() -> None:
    many = replace(
        kernel(Store(write("out", 80000), add(mul(WorkId("group", 0), 8), LX), f32(1.0))),
        buffers=(write("out", 80000),),
        grid=(10000, 1, 1),
    )
    assert interpret(many, {})["out"].sum() == 80000


def test_inputs_are_not_changed_and_missing_cells_are_nan() -> None:
    x = Buffer("x", DType.F32, 8, access=Access.READ_WRITE)
    data = np.arange(8, dtype=np.float32)
    made = interpret(kernel(Store(x, LX, f32(7.0), lt(LX, 2)), buffers=(x,)), {"x": data})
    assert data.tolist() == list(range(8)) and made["x"].tolist() == [7, 7, 2, 3, 4, 5, 6, 7]
    assert np.isnan(run(Store(OUT, LX, f32(0.0)))[8:]).all()


def test_arithmetic_is_32_bit() -> None:
    third = call("div", f32(1.0), Cast(add(LX, 3), DType.F32))
    assert run(Store(OUT, LX, third))[0] == np.float32(1) / np.float32(3)
    big = call("mul", add(LX, 1 << 30), i32(4))
    out = write("out", 8, DType.I32)
    assert run(Store(out, LX, big), buffers=(out,)).tolist() == [4 * i for i in range(8)]
    floored = div(call("sub", LX, i32(5)), 4)
    wrapped = mod(call("sub", LX, i32(5)), 4)
    for made, expected in ((floored, (np.arange(8) - 5) // 4), (wrapped, (np.arange(8) - 5) % 4)):
        assert run(Store(out, LX, made), buffers=(out,)).tolist() == expected.tolist()


def test_half_rounds_and_casts_truncate() -> None:
    out = write("out", 8, DType.F16)
    value = call("add", f32(2048.0), Cast(LX, DType.F32))
    made = run(Store(out, LX, Cast(value, DType.F16)), buffers=(out,))
    assert made.dtype == np.float16 and made[1] == 2048 and made[3] == 2052
    ints = write("out", 8, DType.I32)
    down = Cast(call("div", call("neg", Cast(LX, DType.F32)), f32(2.0)), DType.I32)
    assert run(Store(ints, LX, down), buffers=(ints,)).tolist() == [0, 0, -1, -1, -2, -2, -3, -3]


def test_half_arithmetic_rounds_after_each_operation() -> None:
    half, out = Var("half", F16), write("out", 8)
    value = Cast(add(LX, 2048), DType.F32)
    body = (
        Let(half, Cast(value, DType.F16)),
        Store(out, LX, Cast(call("add", half, Literal(1.0, F16)), DType.F32)),
    )
    rounded = np.arange(2048, 2056).astype(np.float16)
    expected = (rounded + np.float16(1)).astype(np.float32)
    assert run(*body, buffers=(out,)).tolist() == expected.tolist()
    third = Literal(float(np.float16(1 / 3)), F16)
    fused = call("sub", call("fma", third, third, third), call("mul", third, third))
    made = run(Store(out, LX, Cast(fused, DType.F32)), buffers=(out,))[0]
    product = np.float32(third.value) ** 2
    assert made == np.float16(product + np.float32(third.value)) - np.float16(product)


def test_mutables_change_only_in_active_lanes() -> None:
    acc, old = Var("acc", F32), Var("old", F32)
    body = (
        Declare(acc, f32(1.0)),
        Let(old, acc),
        For(K, 3, (If(lt(LX, 4), (Assign(acc, call("add", acc, acc)),)),)),
        Store(OUT, LX, call("add", acc, old)),
    )
    assert run(*body)[:8].tolist() == [9, 9, 9, 9, 2, 2, 2, 2]


def test_a_branch_protects_what_it_holds() -> None:
    x = read("x", 4)
    body = If(lt(LX, 4), (Store(OUT, LX, Load(x, LX)),))
    made = interpret(kernel(body, buffers=(x, OUT)), {"x": np.ones(4, np.float32)})
    assert made["out"][:4].tolist() == [1] * 4


@pytest.mark.parametrize("index", [LX, call("sub", LX, i32(1)), mul(LX, 8)])
def test_out_of_bounds(index: Expr) -> None:
    small = write("out", 7)
    with pytest.raises(Trap, match=r"out of bounds: out\[.*\] of 7\n  in: out\["):
        run(Store(small, index, f32(0.0)), buffers=(small,))


def test_a_vector_must_fit_as_a_whole() -> None:
    value = Literal(0.0, Load(read("x", 4), i32(0), 4).type)
    with pytest.raises(Trap, match=r"out\[61 … 64\]"):
        run(Store(OUT, add(mul(LX, 8), 5), value))
    with pytest.raises(Trap, match="no part of a vector of 4"):
        vectors = replace(OUT, lanes=4)
        run(Store(vectors, add(mul(LX, 4), 1), value), buffers=(vectors,), group=(2, 1, 1))


def test_unwritten_memory() -> None:
    for held in (local("held", 8), private("held", 8)):
        with pytest.raises(Trap, match=r"never written: held\[0\]"):
            run(Store(OUT, LX, Load(held, LX)), arrays=(held,))
        half_done = (
            Store(held, LX, f32(1.0), lt(LX, 4)),
            Store(OUT, LX, Load(held, LX)),
        )
        with pytest.raises(Trap, match=r"never written: held\[4\]"):
            run(*half_done, arrays=(held,))


def test_races_on_local_memory() -> None:
    held = local("held", 8)
    mirrored = call("sub", i32(7), LX)
    exchange = (Store(held, LX, f32(1.0)), Barrier(), Store(OUT, LX, Load(held, mirrored)))
    assert run(*exchange, arrays=(held,))[:8].tolist() == [1] * 8
    again = (*exchange, Store(held, LX, f32(2.0)))
    for racy in ((exchange[0], exchange[2]), again):
        with pytest.raises(Trap, match="race"):
            run(*racy, arrays=(held,))
    with pytest.raises(Trap, match=r"race: work-item \d meets held\[0\], written by another"):
        run(Store(held, i32(0), f32(1.0), lt(LX, 2)), arrays=(held,))


def test_races_on_global_memory_span_work_groups() -> None:
    with pytest.raises(Trap, match="race"):
        run(Store(OUT, LX, f32(1.0)), grid=(2, 1, 1))
    with pytest.raises(Trap, match="race"):
        run(Store(OUT, div(LX, 2), f32(1.0)))
    both = Buffer("out", DType.F32, 16, access=Access.READ_WRITE)
    shift = kernel(Store(both, LX, Load(both, add(LX, 1))), buffers=(both,))
    with pytest.raises(Trap, match="race"):
        interpret(shift, {"out": np.zeros(16, np.float32)})


def test_one_lane_may_overwrite_its_own_cell() -> None:
    made = run(For(K, 4, (Store(OUT, LX, Cast(K, DType.F32)),)))
    assert made[:8].tolist() == [3] * 8


def test_barriers_must_be_uniform() -> None:
    with pytest.raises(Trap, match="barrier"):
        run(If(lt(LX, 4), (Barrier(),)))
    run(If(lt(WorkId("group", 0), 1), (Barrier(),)), grid=(2, 1, 1))


def test_arrays_must_fit() -> None:
    x = read("x", 8)
    copy = kernel(Store(OUT, LX, Load(x, LX)), buffers=(x, OUT))
    with pytest.raises(ValueError, match="no array for the buffer x"):
        interpret(copy, {})
    with pytest.raises(ValueError, match=r"x is f32\[8\], not float64"):
        interpret(copy, {"x": np.zeros(8)})


def test_bools_are_stored_as_numbers() -> None:
    out = write("out", 8, DType.BOOL)
    made = run(Store(out, LX, lt(LX, 2)), buffers=(out,))
    assert made.dtype == np.int32 and made.tolist() == [1, 1, 0, 0, 0, 0, 0, 0]
    assert Literal(True, BOOL).type == lt(LY, 2).type
