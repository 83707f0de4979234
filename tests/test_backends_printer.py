"""The text of kernels: literals, names, headers, what stands in each language."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend_kernels import (
    half_arithmetic,
    half_eights,
    half_scratch,
    half_windows,
    one_dimensional,
    reserved_names,
    rounded_halves,
    unaligned_vectors,
    wide_vectors,
)
from kernels import GX, LX, add, mul, read, write
from sdlc.backends.legalize import legalize
from sdlc.backends.opencl import OpenCLPrinter
from sdlc.backends.printer import Names, clean_name, float_literal, print_kernel
from sdlc.backends.target import load_target
from sdlc.backends.wgsl import WgslPrinter
from sdlc.graph.scalar import SCALARS
from sdlc.graph.types import DType
from sdlc.kernel.ir import (
    I32,
    Expr,
    Kernel,
    Let,
    Literal,
    Load,
    Store,
    Type,
    Var,
    call,
    f32,
    i32,
)
from sdlc.language.diagnostics import SdlError
from sdlc.target import Capabilities

CL = Capabilities(("opencl",), vector_widths=(1, 2, 4, 8, 16))
CL_HALF = Capabilities(("opencl",), vector_widths=(1, 2, 4, 8, 16), f16_arithmetic=True)
WGSL = Capabilities(("wgsl",), f16_arithmetic=True)
WGSL_WORDS = Capabilities(("wgsl",))


def text(kernel: Kernel, caps: Capabilities) -> str:
    language = caps.languages[0]
    return print_kernel(legalize(kernel, caps, language), language, caps).text


@settings(max_examples=200, deadline=None)
@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_float_literals_read_back_exactly(value: float) -> None:
    written = float_literal(value)
    read_back = float.fromhex(written) if "x" in written else float(written)
    assert np.float32(read_back) == np.float32(value)
    assert np.signbit(read_back) == np.signbit(value)
    assert any(c in written for c in ".ex")


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_no_literal_for_infinities(value: float) -> None:
    with pytest.raises(SdlError, match=r"D020.*cannot be written"):
        float_literal(value)


def test_names_are_clean_and_unlike() -> None:
    assert clean_name("x'") == "x_"
    assert clean_name("k.block") == "k_block"
    assert clean_name("__a") == "a"
    assert clean_name("2d") == "v2d"
    names = Names({"float"})
    made = [names.of("var", n) for n in ("float", "x'", "x_", "x.", "x")]
    assert made == ["float_", "x_", "x_2", "x_3", "x"]
    assert names.of("var", "x'") == made[1]


@pytest.mark.parametrize("printer", [OpenCLPrinter, WgslPrinter])
def test_used_functions_are_reserved(printer: type[OpenCLPrinter | WgslPrinter]) -> None:
    """A local called `max` would hide the function."""
    assert set(printer.functions.values()) <= printer.reserved


def test_header_cites_source_and_shows_the_nest() -> None:
    for caps in (CL, WGSL):
        lines = text(reserved_names().kernel, caps).splitlines()
        assert lines[0] == "// stdlib/names.sdl:3 names"
        assert lines[1] == "// grid 1 × 1 × 1, group 32 × 1 × 1"
        assert lines[3] == "//   for x' < 32 @lane"


def test_loops_are_labelled_by_their_axis() -> None:
    assert "for (int k = 0; k < 8; ++k) {  // rows" in text(wide_vectors().kernel, CL)
    assert "for (var k = 0; k < 8; k++) {  // rows" in text(wide_vectors().kernel, WGSL)


def test_opencl_text() -> None:
    made = text(wide_vectors().kernel, CL)
    assert "reqd_work_group_size(4, 1, 1)" in made
    assert "__global const float16 *restrict x" in made
    assert "#pragma OPENCL FP_CONTRACT OFF" in made
    assert "cl_khr_fp16" not in made


def test_opencl_halves_with_and_without_the_type() -> None:
    without = text(half_windows().kernel, CL)
    assert (
        "vload_half2(0, x + lane_x * 4)" in without and "vload_half(lane_x * 4 + 1, x)" in without
    )
    assert "vstore_half4(" in without
    assert "convert_half" not in without and "cl_khr_fp16" not in without
    typed = text(half_windows().kernel, CL_HALF)
    assert "cl_khr_fp16 : enable" in typed
    assert "__global half4 *restrict out" in typed
    assert "out[lane_x] = convert_half4(" in typed


def test_opencl_halves_as_integers() -> None:
    """Vectors of them are one access; nothing is a vector of halves; a text may stand beside
    another."""
    packed = replace(CL_HALF, packed_halves=True)
    made = text(half_windows().kernel, packed)
    assert "__global ushort4 *restrict out" in made and "out[lane_x] = narrowed4(" in made
    assert "vload2(0, x + lane_x * 4)" in made and "#ifndef PACKED_HALVES4" in made
    assert "half4" not in made and "cl_khr_fp16" not in made
    assert "widened" not in text(wide_vectors().kernel, packed)


def test_eight_halves_move_at_once() -> None:
    """As one vector of 32-bit integers, which no compiler cuts in two; what is chosen among halves
    is neither widened nor rounded."""
    made = text(half_eights().kernel, replace(CL_HALF, packed_halves=True))
    assert "const uint4 eight = x[lane_x];" in made and "kept[lane_x] = eight;" in made
    assert "__local uint4 kept[16];" in made and "as_uint4(vload8(0, y + " in made
    assert "chosen[lane_x] = lane_x < 5 ? eight : " in made


def test_wgsl_halves_with_and_without_the_type() -> None:
    typed = text(half_windows().kernel, WGSL)
    assert typed.count("enable f16;") == 1
    assert "out: array<vec4<f16>>" in typed
    words = text(half_windows().kernel, WGSL_WORDS)
    assert "f16>" not in words and "enable f16" not in words
    assert "x: array<u32>" in words and "unpack2x16float(x[" in words
    assert "pack2x16float(" in words


def test_rounding_to_halves() -> None:
    assert "vstore_half(" in text(rounded_halves().kernel, CL)
    assert "(float)(half)" in text(rounded_halves().kernel, CL_HALF)
    assert "quantizeToF16(" in text(rounded_halves().kernel, WGSL_WORDS)
    assert "enable f16;" in text(rounded_halves().kernel, WGSL)


def test_half_arithmetic_is_in_the_type_where_there_is_one() -> None:
    kernel = half_arithmetic().kernel
    typed = text(kernel, CL_HALF)
    assert "half4 part = (half4)((half)0.0f);" in typed
    assert "part = fma((half4)(w[step_]), x[lane_x], part);" in typed
    assert "convert_short4(convert_int4(x[lane_x] < (half)2.0f))" in typed
    assert "convert_float4(part)" in typed
    assert "convert_half" not in text(kernel, CL) and "float4 part =" in text(kernel, CL)
    assert "var part: vec4<f16> = vec4<f16>(0.0h);" in text(kernel, WGSL)
    assert "var part: vec4<f32> = vec4<f32>(0.0f);" in text(kernel, WGSL_WORDS)


def test_offsets_are_added_in_32_bits_where_addresses_are_dear() -> None:
    caps = replace(CL_HALF, integer_bits=32)
    x, out, at = read("x", 256), write("out", 256), Var("at", I32)
    body = (
        Let(at, mul(LX, 4)),
        Store(out, at, call("add", Load(x, add(at, 160)), Load(x, i32(3)))),
        Store(out, add(at, 1), Load(x, add(call("sub", at, i32(2)), 2))),
    )
    made = text(one_dimensional("k", (x, out), body), caps)
    assert "#define AT(type, base, offset)" in made
    assert "AT(float, out, at)[0] = AT(const float, x, at)[160] + x[3];" in made
    # at - 2 may be negative: it is not added to an address by itself.
    assert "const int at_2 = at - 2 + 2;" in made and "AT(const float, x, at_2)[0]" in made
    assert "AT(" not in text(one_dimensional("k", (x, out), body), CL_HALF)


def test_native_functions_are_of_floats() -> None:
    x, out = read("x", 32), write("out", 32)
    kernel = one_dimensional("k", (x, out), (Store(out, LX, call("exp", Load(x, LX))),))
    assert "= native_exp(x[lane_x]);" in text(kernel, replace(CL, native_functions=("exp",)))
    assert "= exp(x[lane_x]);" in text(kernel, CL)


def test_wgsl_bindings_are_in_order_and_read_write() -> None:
    made = text(half_scratch().kernel, WGSL)
    places = [line for line in made.splitlines() if line.startswith("@group(0)")]
    assert [line.split()[1] for line in places] == ["@binding(0)", "@binding(1)"]
    assert all("var<storage, read_write>" in line for line in places)


def test_wgsl_vectors_of_scalar_arrays_are_spelled_out() -> None:
    made = text(unaligned_vectors().kernel, WGSL)
    assert "x: array<f32>" in made
    assert "vec4<f32>(x[at + 3], x[at + 4], x[at + 5], x[at + 6])" in made
    assert "out[at_2 + 1] = value.x;" in made


def test_parentheses_are_few() -> None:
    a, b = Load(read("a", 64), LX), Load(read("b", 64), LX)
    cases: tuple[tuple[Expr, str], ...] = (
        (call("add", a, call("mul", b, b)), "a[lane_x] + b[lane_x] * b[lane_x]"),
        (call("mul", call("add", a, b), b), "(a[lane_x] + b[lane_x]) * b[lane_x]"),
        (call("sub", a, call("sub", b, a)), "a[lane_x] - (b[lane_x] - a[lane_x])"),
        (call("sub", call("sub", a, b), a), "a[lane_x] - b[lane_x] - a[lane_x]"),
        (call("neg", call("neg", a)), "-(-a[lane_x])"),
        (call("add", a, f32(-1.5)), "a[lane_x] + -1.5f"),
    )
    for value, expected in cases:
        out = write("out", 64)
        kernel = one_dimensional("k", (read("a", 64), read("b", 64), out), (Store(out, LX, value),))
        for caps in (CL, WGSL):
            assert f"out[lane_x] = {expected};" in text(kernel, caps)
    index = add(mul(GX, 32), LX, 3)
    kernel = one_dimensional("k", (read("a", 64), write("out", 64)), ())
    assert OpenCLPrinter(kernel, CL).text(index) == "group_x * 32 + lane_x + 3"


def test_logic_is_grouped() -> None:
    """WGSL has no precedence between comparisons and `&`, nor between `&&` and `||`."""
    four = [Load(read(n, 64), mul(LX, 4), 4) for n in "ab"]
    one = [Load(read(n, 64), mul(LX, 4)) for n in "ab"]
    cases = (
        (four, "(a[lane_x] < b[lane_x]) & (b[lane_x] < a[lane_x]) & (a[lane_x] < b[lane_x])"),
        (one, "a[lane_x * 4] < b[lane_x * 4] && b[lane_x * 4] < a[lane_x * 4] && "),
    )
    for (a, b), expected in cases:
        less, more = call("lt", a, b), call("lt", b, a)
        out = write("out", 64, DType.BOOL)
        value = call("or", call("and", call("and", less, more), less), more)
        body = (Store(out, mul(LX, 4), value),)
        kernel = one_dimensional("k", (read("a", 64), read("b", 64), out), body, 16)
        for caps in (CL, WGSL):
            made = text(kernel, caps)
            assert f"({expected}" in made and (") | (" in made or ") || b" in made)


def test_every_scalar_operator_has_a_spelling() -> None:
    for name, row in SCALARS.items():
        for caps in (CL, WGSL):
            dtypes = operand_types(name)
            args = tuple(Literal(1, Type(d)) for d in dtypes[: row.arity])
            out = write("out", 32, DType.F32)
            value = call("f32", call(name, *args))
            kernel = one_dimensional("k", (out,), (Store(out, LX, value),))
            assert "out[lane_x] = " in text(kernel, caps)


def operand_types(name: str) -> tuple[DType, DType, DType]:
    if name in ("and", "or", "not"):
        return (DType.BOOL,) * 3
    return (DType.BOOL if name == "select" else DType.F32, DType.F32, DType.F32)


def test_a_language_without_a_printer_is_refused() -> None:
    with pytest.raises(SdlError, match="D021"):
        print_kernel(wide_vectors().kernel, "metal", load_target("apple").caps)
