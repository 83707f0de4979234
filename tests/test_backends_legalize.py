"""Legalisation keeps the meaning of kernels, and refuses what no rewrite can fit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from backend_kernels import (
    EXACT,
    crossing_lanes,
    divisions,
    even_grid,
    half_windows,
    large_grid,
    large_group,
    one_dimensional,
    wide_vectors,
)
from backend_strategies import inputs, kernels
from conftest import ForAll
from kernels import LX, Example, add, mul, numbers, read, staged_matmul, write
from sdlc.backends.legalize import PASSES, legalize, within_language
from sdlc.backends.printer import print_kernel
from sdlc.backends.rewrite import Multiples, accesses, plus
from sdlc.graph.types import Array, DType
from sdlc.kernel.interpret import interpret
from sdlc.kernel.ir import (
    F32,
    I32,
    Access,
    Assign,
    Barrier,
    Buffer,
    Call,
    Cast,
    Declare,
    For,
    If,
    Kernel,
    Let,
    Load,
    Space,
    Store,
    Var,
    call,
    f32,
    i32,
)
from sdlc.kernel.rewrite import expressions
from sdlc.kernel.verify import verify
from sdlc.language.diagnostics import SdlError
from sdlc.target import Capabilities

MANY = 32
ARRAYS = (("rare", Space.LOCAL), ("busy", Space.LOCAL), ("alone", Space.PRIVATE))
LIMITS: dict[str, Capabilities] = {
    "opencl": Capabilities(
        ("opencl",),
        vector_widths=(1, 2, 4, 8, 16),
        max_work_items=4096,
        max_group=(4096, 4096, 64),
        max_storage_buffers=MANY,
    ),
    "opencl with dear addresses": Capabilities(
        ("opencl",),
        f16_arithmetic=True,
        vector_widths=(1, 2, 4, 8, 16),
        max_work_items=4096,
        max_group=(4096, 4096, 64),
        max_storage_buffers=MANY,
        integer_bits=32,
    ),
    "opencl with packed halves": Capabilities(
        ("opencl",),
        vector_widths=(1, 2, 4, 8, 16),
        max_work_items=4096,
        max_group=(4096, 4096, 64),
        max_storage_buffers=MANY,
        packed_halves=True,
    ),
    "wgsl": Capabilities(("wgsl",), f16_arithmetic=True, max_storage_buffers=MANY),
    "wgsl without f16": Capabilities(("wgsl",), max_storage_buffers=MANY, max_groups=1000),
    "scalars": Capabilities(
        ("opencl",),
        f16_arithmetic=True,
        vector_widths=(1,),
        max_storage_buffers=MANY,
        missing_functions=("erf", "pow", "tanh", "sin", "cos"),
    ),
}
NO_SINGLE_HALVES = "wgsl without f16"


def same(want: dict[str, Array], got: dict[str, Array]) -> None:
    """Equal wherever the kernel wrote."""
    assert want.keys() == got.keys()
    for name, array in want.items():
        wrote = ~np.isnan(array.astype(np.float64))
        np.testing.assert_array_equal(got[name][wrote], array[wrote], err_msg=name)


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("make", EXACT)
def test_examples_keep_their_meaning(make: Callable[[], Example], limits: str) -> None:
    example, caps = make(), LIMITS[limits]
    want = interpret(example.kernel, example.inputs)
    same(want, interpret(legalize(example.kernel, caps, caps.languages[0]), example.inputs))


@pytest.mark.parametrize("limits", [n for n in LIMITS if n != NO_SINGLE_HALVES])
def test_random_kernels_keep_their_meaning(for_all: ForAll, limits: str) -> None:
    caps = LIMITS[limits]

    def check(kernel: Kernel) -> None:
        held = {b.name for b in kernel.buffers}
        given = {n: a for n, a in inputs().items() if n in held}
        want = interpret(kernel, given)
        same(want, interpret(legalize(kernel, caps, caps.languages[0]), given))

    for_all(kernels(), check, 60, 0.1)


@pytest.mark.parametrize("rewrite", PASSES)
def test_every_pass_keeps_the_meaning_by_itself(rewrite: Callable[..., Kernel]) -> None:
    caps = within_language(LIMITS["wgsl"], "wgsl")
    for make in EXACT:
        example = make()
        if rewrite.__name__ == "check_limits" and make in (large_grid, even_grid, large_group):
            continue
        made = rewrite(example.kernel, caps, "wgsl")
        same(interpret(example.kernel, example.inputs), interpret(made, example.inputs))


def test_local_arrays_that_loops_read_most_come_first() -> None:
    """An instruction's offset reaches the first few KiB of local memory."""
    rare, busy, alone = (Buffer(n, DType.F32, 8, s) for n, s in ARRAYS)
    p, total = Var("p", I32), Var("total", F32)
    body = (
        *(Store(b, LX, f32(0.0)) for b in (rare, busy, alone)),
        Barrier(),
        Declare(total, add(Load(rare, LX), Load(rare, i32(1)))),
        For(p, 4, (Assign(total, add(total, Load(busy, p))),)),
        Store(write("out", 8), LX, total),
    )
    kernel = replace(one_dimensional("k", (write("out", 8),), body, 8), arrays=(rare, busy, alone))
    made = legalize(kernel, LIMITS["opencl"], "opencl")
    assert made.arrays == (busy, rare, alone)
    assert legalize(made, LIMITS["opencl"], "opencl").arrays == made.arrays


def test_nothing_changes_where_nothing_is_missing() -> None:
    caps = replace(LIMITS["opencl"], f16_arithmetic=True)
    kernel = staged_matmul().kernel
    assert legalize(kernel, caps, "opencl") == kernel


def test_no_vector_stays_wider_than_the_widest() -> None:
    for make in (wide_vectors, crossing_lanes):
        made = legalize(make().kernel, LIMITS["wgsl"], "wgsl")
        assert max(e.type.lanes for e in expressions(made)) == 4
        assert max(lanes for _, _, lanes in accesses(made)) == 4


def test_divisions_are_of_non_negative_numbers() -> None:
    """The languages truncate: every operand that is divided must show that it is not negative."""
    made = legalize(divisions().kernel, LIMITS["wgsl"], "wgsl")
    divided = [e for e in expressions(made) if isinstance(e, Call) and e.op in ("floordiv", "mod")]
    assert divided
    for e in divided:
        assert isinstance(e.args[0], Call) and e.args[0].op == "max"


def test_division_of_work_ids_needs_no_correction() -> None:
    x, out = read("x", 32), write("out", 32)
    at = call("add", mul(call("mod", LX, i32(8)), 4), call("floordiv", LX, i32(8)))
    kernel = one_dimensional("k", (x, out), (Store(out, LX, Load(x, at)),))
    assert legalize(kernel, LIMITS["opencl"], "opencl").body == kernel.body


def test_grids_fold_exactly_where_they_can() -> None:
    made = legalize(even_grid().kernel, LIMITS["wgsl"], "wgsl")
    assert made.grid == (43690, 6, 1) or made.grid == (32768, 8, 1)
    guarded = legalize(large_grid().kernel, LIMITS["wgsl"], "wgsl")
    assert guarded.grid == (35001, 2, 1)
    assert legalize(large_group().kernel, LIMITS["wgsl"], "wgsl").group == (256, 1, 1)


def test_vector_buffers() -> None:
    made = legalize(wide_vectors().kernel, LIMITS["opencl"], "opencl")
    assert {b.name: b.lanes for b in made.buffers} == {"x": 16, "out": 16, "top": 8}


def test_vectors_are_read_whole_from_buffers_that_scalars_are_read_from_too() -> None:
    """Where an access names its type: in OpenCL C, if sums with an address are dear."""
    x, out = read("x", 64), write("out", 64)
    whole, odd = Load(x, mul(LX, 4), 4), Load(x, add(mul(LX, 4), 1), 4)
    value = call("add", whole, call("add", odd, Load(x, LX)))
    kernel = one_dimensional("k", (x, out), (Store(out, mul(LX, 4), value),), 8)
    data = {"x": np.arange(64, dtype=np.float32)}

    def accessed(name: str) -> set[tuple[int, int]]:
        made = legalize(kernel, LIMITS[name], "opencl")
        np.testing.assert_array_equal(interpret(made, data)["out"], interpret(kernel, data)["out"])
        return {(b.lanes, lanes) for b, _, lanes in accesses(made) if b.name == "x"}

    assert accessed("opencl with dear addresses") == {(4, 4), (1, 4), (1, 1)}
    assert accessed("opencl") == {(1, 4), (1, 1)}
    dear = LIMITS["opencl with dear addresses"]
    text = print_kernel(legalize(kernel, dear, "opencl"), "opencl", dear).text
    assert "AT(const float4, x, " in text and "vload4(0, x + " in text


@pytest.mark.parametrize("language", ["opencl", "wgsl"])
def test_a_part_of_a_local_vector_is_read(language: str) -> None:
    """OpenCL C reads parts of whole vectors; WGSL stores the parts that it reads."""
    x, out = read("x", 64), write("out", 64)
    kept = Buffer("kept", DType.F32, 64, Space.LOCAL, Access.READ_WRITE)
    later = call("min", add(mul(LX, 2), 10), i32(62))
    body = (
        If(call("lt", LX, i32(16)), (Store(kept, mul(LX, 4), Load(x, mul(LX, 4), 4)),)),
        Barrier(),
        Store(out, mul(LX, 2), Load(kept, later, 2)),
    )
    kernel = replace(one_dimensional("k", (x, out), body, 32), arrays=(kept,))
    verify(kernel)
    made = legalize(kernel, LIMITS[language], language)
    verify(made)
    assert [a.lanes for a in made.arrays] == [4 if language == "opencl" else 2]
    text = print_kernel(made, language, LIMITS[language]).text
    part, whole = "((__local float2 *)kept)[min(lane_x + 5, 31)]", "kept[lane_x] = x[lane_x]"
    assert (part in text and whole in text) is (language == "opencl"), text
    data, first = {"x": numbers(64)}, np.minimum(2 * np.arange(32) + 10, 62)
    want = numbers(64)[np.stack([first, first + 1], axis=1).reshape(-1)]
    for each in (kernel, made):
        np.testing.assert_array_equal(interpret(each, data)["out"], want)


def test_indices_of_vectors_are_counted_in_vectors() -> None:
    x, out = read("x", 256), write("out", 256)
    at, other = Var("at", I32), Var("other", I32)
    body = (
        Let(at, mul(LX, 8)),
        Let(other, call("min", add(at, 4), i32(252))),
        Store(out, other, Load(x, add(other, 0), 4)),
        Store(out, at, Load(x, at, 4)),
    )
    kernel = one_dimensional("k", (x, out), body, 16)
    made = legalize(kernel, LIMITS["opencl"], "opencl")
    text = print_kernel(made, "opencl", LIMITS["opencl"]).text
    assert "const int at_by4 = lane_x * 2;" in text
    assert "out[at_by4] = x[at_by4];" in text and "min(at_by4 + 1, 63)" in text
    assert "/" not in text.split("{")[1] and "int at =" not in text


def test_products_with_a_loop_are_carried_where_they_are_dear() -> None:
    x, out, total = read("x", 4096), write("out", 16), Var("total", F32)
    p, at, scaled = Var("p", I32), Var("at", I32), Var("scaled", I32)
    body = (
        Declare(total, f32(0.0)),
        For(
            p,
            20,
            (
                Let(at, add(mul(p, 192), mul(LX, 3))),
                Let(scaled, add(mul(p, 4), LX)),
                Assign(total, call("fma", Load(x, add(at, 2)), Load(x, scaled), total)),
            ),
        ),
        Store(out, LX, total),
    )
    kernel = one_dimensional("k", (x, out), body, 16)
    caps = replace(LIMITS["opencl"], integer_bits=32)
    made = legalize(kernel, caps, "opencl")
    text = print_kernel(made, "opencl", caps).text
    assert "  int at = lane_x * 3;" in text
    assert "at = at + 192;" in text and "const int scaled = p * 4 + lane_x;" in text
    data = {"x": numbers(4096)}
    np.testing.assert_array_equal(interpret(kernel, data)["out"], interpret(made, data)["out"])
    assert legalize(kernel, LIMITS["opencl"], "opencl") == kernel


def test_divisible() -> None:
    n = Var("n", i32(0).type)
    index = add(mul(LX, 8), mul(n, 4), 12)
    nothing, local = Multiples({}), Multiples({n: mul(LX, 4)})
    assert nothing.divisible(index, 4) and not nothing.divisible(index, 8)
    assert not nothing.divisible(add(n, 4), 4) and local.divisible(add(n, 4), 4)
    part = call("floordiv", mul(LX, 32), i32(4))
    assert nothing.divisible(part, 8) and not nothing.divisible(part, 16)
    assert nothing.divisible(call("floordiv", LX, i32(4)), 1)
    assert plus(add(n, 3), 2) == add(n, 5) and plus(i32(3), 2) == i32(5) and plus(n, 0) is n


def refused(kernel: Kernel, caps: Capabilities) -> str:
    with pytest.raises(SdlError) as caught:
        legalize(kernel, caps, caps.languages[0])
    return str(caught.value)


def test_what_cannot_fit_is_refused_with_need_and_limit() -> None:
    kernel, caps = staged_matmul().kernel, LIMITS["wgsl"]
    message = refused(kernel, replace(caps, local_bytes=256))
    assert "D023" in message and "staged_matmul needs 512 bytes of local memory" in message
    assert "the limit is 256" in message and "help" in message
    assert "work-items" in refused(kernel, replace(caps, max_work_items=32))
    assert "3 buffers; the limit is 2" in refused(kernel, replace(caps, max_storage_buffers=2))
    assert "bytes in the buffer" in refused(kernel, replace(caps, max_binding=64))
    assert "work-groups" in refused(large_grid().kernel, replace(caps, max_groups=200))


def test_single_halves_need_16_bit_stores() -> None:
    x, out = read("x", 32, DType.F16), write("out", 32, DType.F16)
    value = Cast(call("mul", Cast(Load(x, LX), DType.F32), f32(2.0)), DType.F16)
    kernel = one_dimensional("k", (x, out), (Store(out, LX, value),))
    message = refused(kernel, LIMITS["wgsl without f16"])
    assert "D022" in message and "--precision f32" in message
    legalize(half_windows().kernel, LIMITS["wgsl without f16"], "wgsl")


FUNCTIONS = {
    "erf": (-6.0, 6.0),
    "tanh": (-50.0, 50.0),
    "sin": (-500.0, 500.0),
    "cos": (-500.0, 500.0),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_expanded_functions_are_accurate(name: str) -> None:
    """Within 2e-7 of the operator's f64 meaning, in f32."""
    from sdlc.graph.scalar import SCALARS

    count = 4096
    x, out = read("x", count), write("out", count)
    at = add(mul(call("floordiv", LX, i32(1)), 1), 0)
    kernel = one_dimensional("k", (x, out), (Store(out, at, call(name, Load(x, at))),), count)
    caps = replace(LIMITS["opencl"], missing_functions=(name,))
    data = np.linspace(*FUNCTIONS[name], count, dtype=np.float32)
    got = interpret(legalize(kernel, caps, "opencl"), {"x": data})["out"]
    want = SCALARS[name].evaluate(data.astype(np.float64))
    assert np.abs(got - want).max() < 2e-7


def test_beside_a_constant_one_polynomial_of_erf_is_enough() -> None:
    """A normal distribution needs no relative accuracy near zero; erf alone does."""
    count = 4096
    x, out = read("x", count), write("out", count)
    caps = replace(LIMITS["opencl"], missing_functions=("erf",))
    data = np.linspace(-6.0, 6.0, count, dtype=np.float32)
    erf = call("erf", Load(x, LX))

    def made(value: Call) -> tuple[Array, int]:
        kernel = legalize(
            one_dimensional("k", (x, out), (Store(out, LX, value),), count), caps, "opencl"
        )
        products = {e for e in expressions(kernel) if isinstance(e, Call) and e.op == "mul"}
        return interpret(kernel, {"x": data})["out"], len(products)

    want = np.array([0.5 * math.erfc(-v) for v in data.astype(np.float64)])
    normal, few = made(call("add", f32(0.5), call("mul", erf, f32(0.5))))
    assert np.abs(normal - want).max() < 2e-7
    near, many = made(erf)
    exact = np.array([math.erf(v) for v in data.astype(np.float64)])
    np.testing.assert_allclose(near[np.abs(data) < 0.1], exact[np.abs(data) < 0.1], rtol=1e-6)
    assert few < many == made(call("add", f32(0.5), erf))[1]


def test_expanded_powers() -> None:
    """Of negative bases too, whose sign depends on the exponent; zero to zero is one."""
    bases = np.array([-2.0, -2.0, -1.5, 0.0, 0.0, 3.0, 2.0, 1e-3], np.float32)
    exponents = np.array([3.0, 2.0, -1.0, 0.0, 2.0, 0.5, -3.0, 4.0], np.float32)
    x, y, out = read("x", 8), read("y", 8), write("out", 8)
    body = (Store(out, LX, call("pow", Load(x, LX), Load(y, LX))),)
    kernel = one_dimensional("k", (x, y, out), body, 8)
    caps = replace(LIMITS["opencl"], missing_functions=("pow",))
    got = interpret(legalize(kernel, caps, "opencl"), {"x": bases, "y": exponents})["out"]
    np.testing.assert_allclose(got, np.power(bases, exponents), rtol=2e-6)
    squared = (Store(out, LX, call("pow", Load(x, LX), f32(3.0))),)
    kernel = one_dimensional("k", (x, out), squared, 8)
    got = interpret(legalize(kernel, caps, "opencl"), {"x": numbers(8)})["out"]
    np.testing.assert_allclose(got, numbers(8) ** 3, rtol=1e-6)
