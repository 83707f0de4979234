"""Scalar operators that a language lacks or defines too narrowly, written in those that it has.

In: a kernel. Out: the kernel with such calls expanded. Invariant: every operator means after
expansion what `graph.scalar` says, for every operand; `floordiv` and `mod` remain only on operands
proven non-negative, where the languages' truncating `/` and `%` agree with them.

    floordiv(i, 4)  →  select(i >= 0, floordiv(max(i, 0), 4), -1 - floordiv(max(-1 - i, 0), 4))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import pi
from types import MappingProxyType

from sdlc.backends.rewrite import Here, expand
from sdlc.graph.types import DType
from sdlc.kernel.ir import (
    Buffer,
    Call,
    Cast,
    Expr,
    Kernel,
    Literal,
    Load,
    Space,
    Store,
    call,
    f32,
    i32,
)
from sdlc.target import Capabilities

ERF_SMALL = (
    1.1283791065216064,
    -0.37612348794937134,
    0.11280364543199539,
    -0.026716385036706924,
    0.004923277534544468,
    -0.0005654105916619301,
)
"""erf(x) / x as a polynomial in x² for |x| < 1: interpolated at Chebyshev nodes in f64."""

ERF_LARGE = (
    0.30158329010009766,
    0.39084306359291077,
    -0.04142875224351883,
    0.7597178220748901,
    -0.5180404782295227,
    0.10732504725456238,
)
ERF_STEP = 0.55
"""erfc(x) exp(x²) / t as a polynomial in t = 1 / (1 + 0.55 x), for x >= 0: the form of Abramowitz
and Stegun, Handbook of Mathematical Functions, 7.1.26, with coefficients fitted to the least
largest error of erf: 2e-8, with roundings 4e-7. Beyond 1, and with the other one below, both
together are within 2e-7 of erf in f32."""

TANH_LIMIT = 10.0
"""tanh of anything larger is 1 in f32; some drivers' tanh overflows instead."""

CONVERSIONS = ("f32", "f16", "i32")

LARGEST_POWER = 4
"""Integer powers up to this are products."""


def expand_functions(kernel: Kernel, caps: Capabilities, language: str) -> Kernel:
    """Operators in `caps.missing_functions`: `erf(x)` → polynomials, `tanh(x)` → `tanh` of a
    clamped operand, `pow(x, y)` → products, or `exp2(y * log2(abs(x)))` with the sign restored."""
    wanted = {name: f for name, f in EXPANSIONS.items() if name in caps.missing_functions}
    if not wanted:
        return kernel

    far: dict[Expr, Expr] = {}

    def change(e: Expr, here: Here) -> Expr:
        if not (isinstance(e, Call) and e.op in wanted):
            return _beside_constant(e, far)
        if e.op == "erf":
            made, far[made] = _erf_parts(e.args, here)
            return made
        return wanted[e.op](e.args, here)

    return expand(kernel, change, lambda e: isinstance(e, Call) and e.op in wanted)


def _polynomial(x: Expr, coefficients: Sequence[float]) -> Expr:
    made: Expr = f32(coefficients[-1])
    for c in reversed(coefficients[:-1]):
        made = call("add", call("mul", made, x), f32(c))
    return made


def _erf(args: tuple[Expr, ...], here: Here) -> Expr:
    return _erf_parts(args, here)[0]


def _erf_parts(args: tuple[Expr, ...], here: Here) -> tuple[Expr, Expr]:
    """erf, and the part of it that is as good beside a constant."""
    x = here.bind(args[0], "x")
    magnitude = here.bind(call("abs", x), "a")
    squared = here.bind(call("mul", x, x), "xx")
    slope = call("add", call("mul", magnitude, f32(ERF_STEP)), f32(1))
    t = here.bind(call("div", f32(1), slope), "t")
    tail = call("mul", call("mul", t, _polynomial(t, ERF_LARGE)), call("exp", call("neg", squared)))
    large = here.bind(call("sub", f32(1), tail), "large")
    signed = call("select", call("lt", x, f32(0)), call("neg", large), large)
    small = call("mul", x, _polynomial(squared, ERF_SMALL))
    return call("select", call("lt", magnitude, f32(1)), small, signed), signed


def _beside_constant(e: Expr, far: Mapping[Expr, Expr]) -> Expr:
    """A sum with a constant that an expanded erf, or its multiple, is no larger than: what is exact
    near zero is not needed there, since the sum's own rounding is as large. A normal distribution,
    `0.5 + 0.5 * erf(x)`, does so without the second polynomial."""
    if not (isinstance(e, Call) and e.op == "add"):
        return e
    for constant, other in (e.args, e.args[::-1]):
        for factor, erf in _products(other):
            match constant, factor:
                case Literal(), Literal() if abs(constant.value) >= abs(factor.value):
                    if erf in far:
                        return call("add", constant, call("mul", factor, far[erf]))
    return e


def _products(e: Expr) -> tuple[tuple[Expr, Expr], ...]:
    """Both orders of a product's factors, the first of which is one where there is no product."""
    if isinstance(e, Call) and e.op == "mul":
        return (e.args[0], e.args[1]), (e.args[1], e.args[0])
    return ((f32(1), e),)


def _tanh(args: tuple[Expr, ...], here: Here) -> Expr:
    limited = call("max", call("min", args[0], f32(TANH_LIMIT)), f32(-TANH_LIMIT))
    return call("tanh", limited)


def _pow(args: tuple[Expr, ...], here: Here) -> Expr:
    x = here.bind(args[0], "x")
    exponent = args[1]
    if isinstance(exponent, Literal) and float(exponent.value).is_integer():
        count = abs(int(exponent.value))
        if 1 <= count <= LARGEST_POWER:
            product = x
            for _ in range(count - 1):
                product = call("mul", product, x)
            return product if exponent.value > 0 else call("div", f32(1), product)
    y = here.bind(exponent, "y")
    size = here.bind(call("exp2", call("mul", y, call("log2", call("abs", x)))), "size")
    half = call("mul", y, f32(0.5))
    odd = call("ne", call("floor", half), half)
    negative = call("and", call("lt", x, f32(0)), odd)
    power = call("select", negative, call("neg", size), size)
    return call("select", call("eq", y, f32(0)), f32(1), power)


Expansion = Callable[[tuple[Expr, ...], Here], Expr]


def _reduced(name: str) -> Expansion:
    """`sin` and `cos` of an operand brought into [-π, π]."""

    def made(args: tuple[Expr, ...], here: Here) -> Expr:
        x = here.bind(args[0], "x")
        turns = here.bind(call("round", call("mul", x, f32(1 / (2 * pi)))), "turns")
        # 2π in two parts, so that the subtraction keeps the low bits (Cody and Waite).
        high, low = 6.28125, 2 * pi - 6.28125
        return call(
            name,
            call(
                "sub", call("sub", x, call("mul", turns, f32(high))), call("mul", turns, f32(low))
            ),
        )

    return made


EXPANSIONS: Mapping[str, Expansion] = MappingProxyType(
    {"erf": _erf, "tanh": _tanh, "pow": _pow, "sin": _reduced("sin"), "cos": _reduced("cos")}
)


def floor_division(kernel: Kernel, caps: Capabilities, language: str) -> Kernel:
    """`floordiv(a, b)`, `mod(a, b)` of operands that may be negative → the same in terms of
    divisions of non-negative ones; of floats → `floor(a / b)`, `a - floor(a / b) * b`."""

    def change(e: Expr, here: Here) -> Expr:
        if not isinstance(e, Call) or e.op not in ("floordiv", "mod"):
            return e
        if e.type.dtype is not DType.I32:
            return _float_division(e, here)
        a, b = e.args
        if here.non_negative(a) and here.positive(b):
            return e
        a, b = here.bind(a, "a"), here.bind(b, "b")
        if not here.positive(b):
            # A zero divisor divides by one, as `graph.scalar` has it.
            b = here.bind(call("select", call("eq", b, i32(0)), i32(1), b), "divisor")
        quotient = here.bind(_floored(a, b, here), "quotient")
        return quotient if e.op == "floordiv" else call("sub", a, call("mul", quotient, b))

    return expand(kernel, change, lambda e: isinstance(e, Call) and e.op in ("floordiv", "mod"))


def _float_division(e: Call, here: Here) -> Expr:
    a, b = (here.bind(x, n) for x, n in zip(e.args, "ab", strict=True))
    floored = call("floor", call("div", a, b))
    return floored if e.op == "floordiv" else call("sub", a, call("mul", floored, b))


def _floored(a: Expr, b: Expr, here: Here) -> Expr:
    if not here.positive(b):
        a = here.bind(call("select", call("lt", b, i32(0)), call("neg", a), a), "numerator")
        b = here.bind(call("abs", b), "size")
    upward = call("floordiv", call("max", a, i32(0)), b)
    downward = call("floordiv", call("max", call("sub", i32(-1), a), i32(0)), b)
    return call("select", call("ge", a, i32(0)), upward, call("sub", i32(-1), downward))


def round_through_memory(kernel: Kernel, caps: Capabilities, language: str) -> Kernel:
    """Rounding to half precision where the language has no f16 arithmetic but can store halves:
    `f32(f16(x))` → a store to a private array of halves and a load from it."""
    if caps.f16_arithmetic or caps.packed_halves or language != "opencl":
        return kernel
    arrays: dict[int, Buffer] = {}

    def change(e: Expr, here: Here) -> Expr:
        if not (isinstance(e, Cast) and e.dtype is DType.F32):
            return e
        half = e.value
        if half.type.dtype is not DType.F16 or not isinstance(half, Cast | Call):
            return e
        lanes = half.type.lanes
        if lanes not in arrays:
            name = here.fresh.name("rounded")
            arrays[lanes] = Buffer(name, DType.F16, lanes, Space.PRIVATE)
            here.arrays.append(arrays[lanes])
        here.before.append(Store(arrays[lanes], i32(0), half))
        return here.local(Cast(Load(arrays[lanes], i32(0), lanes), DType.F32), "r")

    kernel = _casts_explicit(kernel)
    return expand(kernel, change, lambda e: isinstance(e, Cast) and e.value.type.dtype is DType.F16)


def _casts_explicit(kernel: Kernel) -> Kernel:
    """`Call("f16", x)` and its like → `Cast`."""

    def change(e: Expr, here: Here) -> Expr:
        return Cast(e.args[0], DType(e.op)) if isinstance(e, Call) and e.op in CONVERSIONS else e

    return expand(kernel, change, lambda e: isinstance(e, Call) and e.op in CONVERSIONS)
