"""Kernels that need legalisation, for the tests of the backends: wide vectors, halves, division of
negatives, launches that are too large, names that a language reserves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kernels import EXAMPLES, Example, add, lt, mul, numbers, read, splat, write
from sdlc.graph.types import Array, DType, Origin, Span
from sdlc.kernel.interpret import interpret
from sdlc.kernel.ir import (
    F16,
    F32,
    I32,
    Access,
    Assign,
    Barrier,
    Buffer,
    Call,
    Cast,
    Declare,
    Expr,
    Extract,
    For,
    If,
    Kernel,
    Let,
    Literal,
    Load,
    Space,
    Stmt,
    Store,
    Type,
    Var,
    Vector,
    WorkId,
    call,
    f32,
    i32,
)

GX, LX = WorkId("group", 0), WorkId("lane", 0)
F16X4 = Type(DType.F16, 4)
F32X8, F32X16 = Type(DType.F32, 8), Type(DType.F32, 16)
Body = tuple[Stmt, ...]


def example(kernel: Kernel, inputs: dict[str, Array]) -> Example:
    return Example(kernel, inputs, interpret(kernel, inputs))


def one_dimensional(
    name: str,
    buffers: tuple[Buffer, ...],
    body: Body,
    group: int = 32,
    grid: int = 1,
    arrays: tuple[Buffer, ...] = (),
) -> Kernel:
    return Kernel(name, buffers, arrays, body, (grid, 1, 1), (group, 1, 1))


def wide_vectors() -> Example:
    """Sixteen lanes: a sum over rows, a comparison, a selection, half of the lanes taken."""
    x, out, top = read("x", 512), write("out", 64), write("top", 32)
    acc, k, row = Var("acc", F32X16), Var("k", I32), Var("row", F32X16)
    body = (
        Declare(acc, splat(0.5, 16)),
        For(
            k,
            8,
            (
                Let(row, Load(x, add(mul(LX, 128), mul(k, 16)), 16)),
                Assign(acc, call("select", call("lt", row, acc), call("add", acc, row), acc)),
            ),
            "rows",
        ),
        Store(out, mul(LX, 16), acc),
        Store(top, mul(LX, 8), Extract(acc, 8, 8)),
    )
    return example(one_dimensional("wide_vectors", (x, out, top), body, 4), {"x": numbers(512)})


def crossing_lanes() -> Example:
    """Eight lanes reversed in place by an assignment, twice, then rotated by one."""
    x, out = read("x", 64), write("out", 64)
    v, k = Var("v", F32X8), Var("k", I32)
    turned = Vector(tuple(Extract(v, 7 - n) for n in range(8)))
    rotated = Vector(tuple(Extract(v, (n + 1) % 8) for n in range(8)))
    body = (
        Declare(v, Load(x, mul(LX, 8), 8)),
        For(k, 3, (Assign(v, call("mul", turned, f32(0.5))),), "turns"),
        Assign(v, rotated),
        Store(out, mul(LX, 8), v),
    )
    return example(one_dimensional("crossing_lanes", (x, out), body, 8), {"x": numbers(64)})


def unaligned_vectors() -> Example:
    """Vector loads and stores at odd places, and of two widths from one buffer."""
    x, out = read("x", 70), write("out", 65)
    four = Load(x, add(mul(LX, 4), 3), 4)
    two = Load(x, add(mul(LX, 4), 1), 2)
    both = Vector((Extract(two, 0), Extract(two, 1), Extract(two, 1), Extract(two, 0)))
    body = (
        Store(out, add(mul(LX, 4), 1), call("add", four, both)),
        Store(out, i32(0), f32(7.0), call("eq", LX, i32(3))),
    )
    return example(one_dimensional("unaligned_vectors", (x, out), body, 16), {"x": numbers(70)})


def divisions() -> Example:
    """Floored quotients and remainders of negative and positive integers, in each combination."""
    x, y = read("x", 32, DType.I32), read("y", 32, DType.I32)
    names = ("quotient", "remainder", "by_seven", "modulo_seven", "from_lane")
    outs = tuple(write(n, 32, DType.I32) for n in names)
    a, b = Load(x, LX), Load(y, LX)
    shifted = call("sub", LX, i32(16))
    values = (
        call("floordiv", a, b),
        call("mod", a, b),
        call("floordiv", a, i32(7)),
        call("mod", a, i32(7)),
        call(
            "add",
            call("mul", call("floordiv", shifted, i32(4)), i32(10)),
            call("mod", shifted, i32(4)),
        ),
    )
    body = tuple(Store(o, LX, v) for o, v in zip(outs, values, strict=True))
    random = np.random.default_rng(0)
    inputs: dict[str, Array] = {
        "x": random.integers(-50, 50, 32, np.int32),
        "y": np.where(np.arange(32) % 2, 3, -4).astype(np.int32),
    }
    return example(one_dimensional("divisions", (x, y, *outs), body), inputs)


def float_remainders() -> Example:
    x, out = read("x", 32), write("out", 32)
    body = (Store(out, LX, call("mod", Load(x, LX), f32(0.5))),)
    return example(one_dimensional("float_remainders", (x, out), body), {"x": numbers(32)})


def rounded_halves() -> Example:
    """f32(f16(x)), of one lane and of four, and two roundings in one statement."""
    x, out, wide = read("x", 128), write("out", 32), write("wide", 128)
    one, four = Load(x, LX), Load(x, mul(LX, 4), 4)

    def rounded(e: Expr) -> Expr:
        return Cast(Cast(e, DType.F16), DType.F32)

    body = (
        Store(out, LX, call("sub", rounded(one), rounded(call("mul", one, f32(1.3))))),
        Store(wide, mul(LX, 4), rounded(call("mul", four, f32(1.1)))),
    )
    return example(one_dimensional("rounded_halves", (x, out, wide), body), {"x": numbers(128)})


def half_scratch() -> Example:
    """Halves in local and private arrays; scalar loads and paired stores of a buffer of halves."""
    x, out = read("x", 64, DType.F16), write("out", 64, DType.F16)
    scratch = Buffer("scratch", DType.F16, 64, Space.LOCAL, Access.READ_WRITE)
    held = Buffer("held", DType.F16, 2, Space.PRIVATE, Access.READ_WRITE)
    other = call("mod", add(LX, 1), i32(32))
    wide = [Cast(Load(x, add(mul(LX, 2), n)), DType.F32) for n in range(2)]
    partner = [Cast(Load(scratch, add(mul(other, 2), n)), DType.F32) for n in range(2)]
    kept = [Cast(Load(held, i32(n)), DType.F32) for n in range(2)]
    made = tuple(call("add", p, k) for p, k in zip(partner, kept, strict=True))
    body = (
        *(
            Store(scratch, add(mul(LX, 2), n), Cast(call("mul", wide[n], f32(0.3)), DType.F16))
            for n in range(2)
        ),
        *(Store(held, i32(n), Cast(call("mul", wide[n], f32(0.7)), DType.F16)) for n in range(2)),
        Barrier(),
        Store(out, mul(LX, 2), Cast(Vector(made), DType.F16)),
    )
    kernel = one_dimensional("half_scratch", (x, out), body, arrays=(scratch, held))
    return example(kernel, {"x": numbers(64).astype(np.float16)})


def half_windows() -> Example:
    """Vector loads of halves at odd places, stores of four at multiples of four."""
    x, out = read("x", 66, DType.F16), write("out", 64, DType.F16)
    window = Cast(Load(x, add(mul(LX, 4), 1), 4), DType.F32)
    pair = Cast(Load(x, mul(LX, 4), 2), DType.F32)
    value = call("mul", window, Extract(pair, 1))
    body = (Store(out, mul(LX, 4), Cast(value, DType.F16)),)
    kernel = one_dimensional("half_windows", (x, out), body, 16)
    return example(kernel, {"x": numbers(66).astype(np.float16)})


def half_eights() -> Example:
    """Eight halves at once: kept in a local array and a variable, taken apart, rounded, at places
    that no vector is aligned to, and chosen, or zeros, by one condition."""
    x, y = read("x", 128, DType.F16), read("y", 129, DType.F16)
    kept = Buffer("kept", DType.F16, 128, Space.LOCAL, Access.READ_WRITE)
    names = ("out", "moved", "chosen", "beside")
    out, moved, chosen, beside = (write(name, 128, DType.F16) for name in names)
    at, eight = mul(LX, 8), Var("eight", Type(DType.F16, 8))
    odd = Load(y, add(at, 1), 8)
    wide = [Cast(e, DType.F32) for e in (eight, odd)]
    either = call("select", lt(LX, i32(9)), wide[1], splat(0.0, 8))
    value = call("select", lt(LX, i32(5)), wide[0], either)
    four = Cast(Extract(eight, 4, 4), DType.F32)
    one = Cast(Extract(eight, 3), DType.F32)
    body = (
        Let(eight, Load(x, at, 8)),
        Store(kept, at, eight),
        Barrier(),
        Store(moved, at, Load(kept, call("sub", i32(120), at), 8)),
        Store(out, at, Cast(call("mul", four, one), DType.F16)),
        Store(beside, at, Load(y, at, 8)),
        Store(out, add(at, 4), Cast(Cast(Extract(odd, 2, 4), DType.F32), DType.F16)),
        Store(chosen, at, Cast(value, DType.F16)),
    )
    buffers = (x, y, out, moved, chosen, beside)
    kernel = one_dimensional("half_eights", buffers, body, 16, arrays=(kept,))
    given = {"x": numbers(128), "y": numbers(129)}
    return example(kernel, {name: a.astype(np.float16) for name, a in given.items()})


def half_arithmetic() -> Example:
    """Arithmetic in f16 on integers small enough that f32 gives the same: a partial sum of four
    products, selections, extrema, negation, a literal, halves copied."""
    x, w = read("x", 128, DType.F16), read("w", 8, DType.F16)
    out, wide, copied = write("out", 128, DType.F16), write("wide", 128), write("copied", 32)
    part, total = Var("part", F16X4), Var("total", Type(DType.F32, 4))
    mine, half = Load(x, mul(LX, 4), 4), Literal(2.0, F16)
    limited = call("min", call("max", part, call("neg", mine)), call("mul", mine, half))
    chosen = call("select", call("lt", mine, half), limited, call("abs", part))
    below = call("lt", Cast(mine, DType.F32), f32(1.0))
    chosen = call("select", below, chosen, part)
    body = (
        Declare(part, Literal(0.0, F16X4)),
        Declare(total, Literal(0.0, total.type)),
        For(
            Var("step", I32),
            2,
            (Assign(part, call("fma", Load(w, Var("step", I32)), mine, part)),),
        ),
        Assign(total, call("add", total, Cast(part, DType.F32))),
        Store(out, mul(LX, 4), chosen),
        Store(wide, mul(LX, 4), total),
        Store(copied, LX, Cast(Extract(part, 1), DType.F32)),
    )
    random = np.random.default_rng(7)
    inputs: dict[str, Array] = {
        b.name: random.integers(-9, 10, b.size).astype(np.float16) for b in (x, w)
    }
    return example(one_dimensional("half_arithmetic", (x, w, out, wide, copied), body), inputs)


def bools() -> Example:
    """Bools in memory, in vectors, in logic, as numbers and as conditions of stores."""
    flags, x = read("flags", 64, DType.BOOL), read("x", 64)
    out, both, count = (
        write("out", 64, DType.BOOL),
        write("both", 16, DType.BOOL),
        write("count", 64),
    )
    flag, value = Load(flags, mul(LX, 4), 4), Load(x, mul(LX, 4), 4)
    positive = call("gt", value, f32(0.0))
    scalar = call("ge", Load(x, LX), f32(0.25))
    mixed = call("or", call("and", flag, positive), call("not", scalar))
    changed = call("ne", Load(flags, LX), scalar)
    body = (
        Store(out, mul(LX, 4), mixed),
        Store(both, LX, call("and", changed, call("or", Load(flags, LX), scalar))),
        Store(
            count,
            mul(LX, 4),
            call("add", Cast(mixed, DType.F32), call("select", positive, value, f32(0.0))),
        ),
    )
    kernel = one_dimensional("bools", (flags, x, out, both, count), body, 16)
    inputs: dict[str, Array] = {
        "flags": (np.arange(64) % 3 == 0).astype(np.int32),
        "x": numbers(64),
    }
    return example(kernel, inputs)


def large_grid() -> Example:
    """A grid of 70,001 work-groups: a prime, so that no exact fold exists."""
    n = 70001
    x, out = read("x", n), write("out", n)
    body = (Store(out, GX, call("add", Load(x, GX), f32(1.0))),)
    return example(one_dimensional("large_grid", (x, out), body, 1, n), {"x": numbers(n)})


def even_grid() -> Example:
    """A grid of 2 × 131,072 that folds exactly over its second dimension."""
    n = 131072
    x, out = read("x", 2 * n), write("out", 2 * n)
    at = add(mul(WorkId("group", 1), n), GX)
    body = (Store(out, at, call("mul", Load(x, at), f32(3.0))),)
    kernel = Kernel("even_grid", (x, out), (), body, (n, 2, 1), (1, 1, 1))
    return example(kernel, {"x": numbers(2 * n)})


def large_group() -> Example:
    """A work-group of 2,048 independent work-items."""
    x, out = read("x", 4096), write("out", 4096)
    at = add(mul(GX, 2048), LX)
    body = (
        If(lt(LX, 2000), (Store(out, at, call("neg", Load(x, at))),)),
        Store(out, at, f32(0.0), call("ge", LX, i32(2000))),
    )
    kernel = Kernel("large_group", (x, out), (), body, (2, 1, 1), (2048, 1, 1))
    return example(kernel, {"x": numbers(4096)})


def reserved_names() -> Example:
    """Names with primes and dots, names that a language reserves, names that become alike."""
    x, y = read("x'", 32), read("x_", 32)
    out = write("kernel", 32)
    first, second, third = (Var(n, F32) for n in ("float", "fn", "target"))
    body = (
        Let(first, Load(x, LX)),
        Let(second, call("add", first, Load(y, LX))),
        Declare(third, call("mul", second, f32(-0.0))),
        Assign(third, call("add", third, call("max", second, first))),
        Store(out, LX, third),
    )
    span = Span("stdlib/names.sdl", 3, 1, 3, 9)
    kernel = Kernel(
        "while",
        (x, y, out),
        (),
        body,
        (1, 1, 1),
        (32, 1, 1),
        "for x' < 32 @lane",
        (Origin("out", "names", span),),
    )
    return example(kernel, {"x'": numbers(32), "x_": numbers(32, seed=1)})


def precedence() -> Example:
    """Operators whose grouping shows in the result."""
    a, b = Load(read("a", 32, DType.I32), LX), Load(read("b", 32, DType.I32), LX)
    fa, fb = Cast(a, DType.F32), Cast(b, DType.F32)
    values: tuple[Expr, ...] = (
        call("sub", a, call("sub", b, call("sub", a, i32(-3)))),
        call("mul", call("add", a, b), call("neg", call("neg", b))),
        call("sub", call("neg", a), call("neg", i32(5))),
        call("floordiv", call("abs", a), call("mul", i32(2), i32(3))),
        call("mul", call("floordiv", call("abs", a), i32(2)), call("mod", call("abs", b), i32(3))),
        call(
            "select",
            call("lt", call("select", call("gt", a, b), a, b), i32(3)),
            i32(1),
            call("add", i32(1), a),
        ),
        call("add", call("fma", a, b, a), call("min", a, call("max", b, i32(0)))),
    )
    floats: tuple[Expr, ...] = (
        call("sub", fa, call("add", fb, call("sub", fa, f32(0.1)))),
        call("div", fa, call("mul", call("add", call("abs", fb), f32(1.0)), f32(3.0))),
        call("mul", fa, call("div", fb, f32(3.0))),
        Cast(call("div", fa, f32(4.0)), DType.F32),
    )
    truths: tuple[Expr, ...] = (
        call(
            "and",
            call("or", call("lt", a, b), call("eq", a, b)),
            call("not", call("gt", b, i32(4))),
        ),
        call("eq", call("lt", a, b), call("lt", b, i32(0))),
    )
    outs = tuple(write(f"i{n}", 32, DType.I32) for n in range(len(values)))
    fouts = tuple(write(f"f{n}", 32) for n in range(len(floats)))
    bouts = tuple(write(f"b{n}", 32, DType.BOOL) for n in range(len(truths)))
    everything = zip((*outs, *fouts, *bouts), (*values, *floats, *truths), strict=True)
    body = tuple(Store(o, LX, v) for o, v in everything)
    buffers = (read("a", 32, DType.I32), read("b", 32, DType.I32), *outs, *fouts, *bouts)
    random = np.random.default_rng(3)
    inputs: dict[str, Array] = {n: random.integers(-9, 9, 32, np.int32) for n in "ab"}
    return example(one_dimensional("precedence", buffers, body), inputs)


def literals() -> Example:
    """The extremes that f32 and i32 can write."""
    floats = (
        3.4028234663852886e38,
        -3.4028234663852886e38,
        1.1754943508222875e-38,
        0.1,
        1e20,
        -0.0,
    )
    integers = (2**31 - 1, -(2**31), -1, 0)
    out, whole = write("out", len(floats)), write("whole", len(integers), DType.I32)
    body = (
        *(Store(out, i32(n), f32(v)) for n, v in enumerate(floats)),
        *(Store(whole, i32(n), Literal(v, I32)) for n, v in enumerate(integers)),
    )
    return example(one_dimensional("literals", (out, whole), body, 1), {})


def spread() -> Example:
    """Scalars spread over the lanes of vectors in every kind of operator."""
    x, s, out = read("x", 128), read("s", 32), write("out", 128)
    v, one = Load(x, mul(LX, 4), 4), Load(s, LX)
    terms: tuple[Expr, ...] = (
        call("select", call("lt", one, f32(0.0)), v, f32(1.0)),
        call("select", call("lt", v, one), one, v),
        call("max", v, one),
        call("fma", v, one, f32(2.0)),
        call("sub", one, v),
        Cast(call("le", v, one), DType.F32),
        Cast(Cast(call("mul", v, f32(5.0)), DType.I32), DType.F32),
    )
    total: Expr = terms[0]
    for term in terms[1:]:
        total = Call("add", (total, term))
    body = (Store(out, mul(LX, 4), total),)
    inputs: dict[str, Array] = {"x": numbers(128), "s": numbers(32, seed=5)}
    return example(one_dimensional("spread", (x, s, out), body), inputs)


EXACT: tuple[Callable[[], Example], ...] = (
    *EXAMPLES,
    wide_vectors,
    crossing_lanes,
    unaligned_vectors,
    divisions,
    float_remainders,
    rounded_halves,
    half_scratch,
    half_windows,
    half_eights,
    half_arithmetic,
    bools,
    large_grid,
    even_grid,
    large_group,
    reserved_names,
    precedence,
    literals,
    spread,
)
