"""Matrix instructions: any instruction, interpreted, legalised and by NumPy; what is refused."""

from __future__ import annotations

from dataclasses import dataclass, replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from sdlc.backends.legalize import legalize
from sdlc.backends.printer import print_kernel
from sdlc.backends.target import load_target, parse_target, target_names
from sdlc.graph.types import Array, DType
from sdlc.kernel.fragments import place
from sdlc.kernel.interpret import Trap, interpret
from sdlc.kernel.ir import (
    F32,
    I32,
    Access,
    Assign,
    Buffer,
    Declare,
    Exchange,
    Expr,
    For,
    If,
    Kernel,
    Load,
    MatrixMultiply,
    Stmt,
    Store,
    Type,
    Var,
    Vector,
    WorkId,
    call,
    f32,
    i32,
    statements,
)
from sdlc.kernel.rewrite import Fresh
from sdlc.kernel.verify import KernelError, verify
from sdlc.language.diagnostics import SdlError
from sdlc.target import Capabilities, Holding, MatrixInstruction

CAPS = Capabilities(("opencl",), f16_arithmetic=True, max_storage_buffers=8)
NUMBER = WorkId("lane", 0)
STEP = Var("step", I32)
STEPS = 2


@st.composite
def holdings(draw: st.DrawFn, rows: int, columns: int, lanes: int) -> Holding:
    """Any sharing out of a matrix of 2^rows × 2^columns over 2^lanes work-items, by bits."""
    bits = [(1 << b, 0) for b in range(rows)] + [(0, 1 << b) for b in range(columns)]
    mixed = draw(st.permutations(bits))
    return Holding(tuple(mixed[lanes:]), tuple(mixed[:lanes]))


@st.composite
def instructions(draw: st.DrawFn) -> MatrixInstruction:
    m, n, k = (draw(st.integers(1, 3)) for _ in range(3))
    lanes = draw(st.integers(1, min(m + n, m + k, k + n)))
    return MatrixInstruction(
        "drawn",
        1 << m,
        1 << n,
        1 << k,
        "f16",
        "f32",
        draw(holdings(m, k, lanes)),
        draw(holdings(k, n, lanes)),
        draw(holdings(m, n, lanes)),
    )


@dataclass(frozen=True)
class Product:
    """c[s] = sum over steps of a[s, step] b[s, step] by one sub-group a matrix."""

    kernel: Kernel
    a: Array
    b: Array

    @property
    def want(self) -> Array:
        return np.einsum("stmk,stkn->smn", self.a.astype(np.float32), self.b.astype(np.float32))

    @property
    def inputs(self) -> dict[str, Array]:
        return {"a": self.a.reshape(-1), "b": self.b.reshape(-1)}


def product(of: MatrixInstruction, subgroups: int, pairs: bool = False) -> Product:
    """Whole numbers, so that sums are exact in any order."""
    rng = np.random.default_rng(0)
    a = rng.integers(-4, 5, (subgroups, STEPS, of.m, of.k)).astype(np.float16)
    b = rng.integers(-4, 5, (subgroups, STEPS, of.k, of.n)).astype(np.float16)
    buffers = (
        Buffer("a", DType.F16, a.size),
        Buffer("b", DType.F16, b.size),
        Buffer("c", DType.F32, subgroups * of.m * of.n, access=Access.WRITE),
    )
    subgroup = call("floordiv", NUMBER, i32(of.lanes))
    lane = call("mod", NUMBER, i32(of.lanes))

    def at(number: Expr, size: int, row: Expr, column: Expr, width: int) -> Expr:
        inner = call("add", call("mul", row, i32(width)), column)
        return call("add", call("mul", number, i32(size)), inner)

    def held(buffer: Buffer, holding: Holding, rows: int, columns: int) -> tuple[Expr, ...]:
        number = call("add", call("mul", subgroup, i32(STEPS)), STEP)
        loads: list[Expr] = [
            Load(buffer, at(number, rows * columns, *place(holding, lane, e), columns))
            for e in range(holding.count)
        ]
        if not pairs or len(loads) % 2:
            return tuple(loads)
        return tuple(Vector((x, y)) for x, y in zip(loads[::2], loads[1::2], strict=True))

    into = tuple(Var(f"c{e}", F32) for e in range(of.result.count))
    left, right = held(buffers[0], of.left, of.m, of.k), held(buffers[1], of.right, of.k, of.n)
    body: list[Stmt] = [Declare(v, f32(0)) for v in into]
    body.append(For(STEP, STEPS, (MatrixMultiply(of, into, left, right),), "step"))
    for element, var in enumerate(into):
        places = place(of.result, lane, element)
        body.append(Store(buffers[2], at(subgroup, of.m * of.n, *places, of.n), var))
    group = (subgroups * of.lanes, 1, 1)
    return Product(Kernel("product", buffers, (), tuple(body), (1, 1, 1), group), a, b)


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(instructions(), st.integers(1, 3), st.booleans())
def test_any_instruction_multiplies(of: MatrixInstruction, subgroups: int, pairs: bool) -> None:
    made = product(of, subgroups, pairs)
    verify(made.kernel, replace(CAPS, matrix=(of,)))
    want = made.want.reshape(-1)
    np.testing.assert_array_equal(interpret(made.kernel, made.inputs)["c"], want)
    for caps in (CAPS, replace(CAPS, f16_arithmetic=False)):
        loops = legalize(made.kernel, caps, "opencl")
        assert not any(isinstance(s, MatrixMultiply) for s in statements(loops.body))
        np.testing.assert_array_equal(interpret(loops, made.inputs)["c"], want)


@given(instructions())
def test_places_are_those_of_the_holding(of: MatrixInstruction) -> None:
    for holding in (of.left, of.right, of.result):
        for lane in range(1 << len(holding.lanes)):
            for element in range(holding.count):
                row, column = place(holding, i32(lane), element)
                assert (value(row), value(column)) == holding.place(lane, element)


def value(expr: Expr) -> int:
    from sdlc.kernel.simplify import simplify

    found = simplify(expr, {})
    return int(found.value)  # type: ignore[union-attr]


LISTED = [(n, i) for n in target_names() for i in load_target(n).caps.matrix]


@pytest.mark.parametrize(("name", "of"), LISTED, ids=[f"{n} {i.name}" for n, i in LISTED])
def test_listed_instructions_multiply_and_print(name: str, of: MatrixInstruction) -> None:
    made, caps = product(of, 4, pairs=True), load_target(name).caps
    verify(made.kernel, caps)
    want = made.want.reshape(-1)
    np.testing.assert_array_equal(interpret(made.kernel, made.inputs)["c"], want)
    text = print_kernel(legalize(made.kernel, caps, "opencl"), "opencl", caps).text
    assert text.count("asm volatile") == 1
    wgsl = legalize(made.kernel, caps, "wgsl")
    np.testing.assert_array_equal(interpret(wgsl, made.inputs)["c"], want)
    assert "asm" not in print_kernel(wgsl, "wgsl", replace(caps, matrix=())).text


# ---- refusals

SMALL = MatrixInstruction(
    "small",
    2,
    2,
    2,
    "f16",
    "f32",
    Holding(((0, 1),), ((1, 0),)),
    Holding(((1, 0),), ((0, 1),)),
    Holding(((0, 1),), ((1, 0),)),
)


def problems(kernel: Kernel, caps: Capabilities | None = None) -> str:
    with pytest.raises(KernelError) as caught:
        verify(kernel, caps or replace(CAPS, matrix=(SMALL,)))
    return "\n".join(caught.value.problems)


def changed(made: Product, **fields: object) -> Kernel:
    """The kernel with another product in its loop."""
    body = list(made.kernel.body)
    at = next(n for n, s in enumerate(body) if isinstance(s, For))
    loop = body[at]
    assert isinstance(loop, For) and isinstance(loop.body[0], MatrixMultiply)
    body[at] = replace(loop, body=(replace(loop.body[0], **fields),))  # type: ignore[arg-type]
    return replace(made.kernel, body=tuple(body))


def test_what_is_wrong_is_said() -> None:
    made = product(SMALL, 2)
    loop = next(s for s in made.kernel.body if isinstance(s, For))
    stmt = loop.body[0]
    assert isinstance(stmt, MatrixMultiply)
    assert "holds 2 elements of the left" in problems(changed(made, left=stmt.left[:1]))
    assert "factor is of f16, not f32" in problems(changed(made, right=(f32(1), f32(2))))
    twice = (stmt.into[0], stmt.into[0])
    assert "holds 2 elements of the result" in problems(changed(made, into=twice))
    wide = (Var("c0", Type(DType.F32, 2)), stmt.into[1])
    assert "the result is of f32" in problems(changed(made, into=wide))
    other = (Var("other", F32), stmt.into[1])
    assert "other is not a variable" in problems(changed(made, into=other))
    assert "no matrix instruction small" in problems(made.kernel, CAPS)
    assert "no whole sub-groups of 2" in problems(replace(made.kernel, group=(3, 1, 1)))


def test_sub_groups_stay_together() -> None:
    made = product(SMALL, 2)
    loop = next(s for s in made.kernel.body if isinstance(s, For))
    odd = If(call("lt", NUMBER, i32(1)), loop.body)
    body = tuple(replace(s, body=(odd,)) if s is loop else s for s in made.kernel.body)
    alone = replace(made.kernel, body=body)
    assert "a matrix instruction under a condition" in problems(alone)
    with pytest.raises(Trap, match="only some lanes of a sub-group"):
        interpret(alone, made.inputs)


OWN = WorkId("lane", 1)


def exchanging(distance: int, under: Expr | None = None, lanes: int = 8) -> Kernel:
    """y = x of the work-item `distance` away, twice the difference in place."""
    x = Buffer("x", DType.F32, 48)
    y = Buffer("y", DType.F32, 48, access=Access.WRITE)
    number = call("add", call("mul", OWN, i32(8)), NUMBER)
    at = call("add", call("mul", WorkId("group", 0), i32(16)), number)
    other, twice = Var("other", F32), Var("twice", F32)
    body: tuple[Stmt, ...] = (
        Exchange(other, Load(x, at), distance, lanes),
        Exchange(twice, call("sub", other, Load(x, at)), distance, lanes),
    )
    stores = (Store(y, at, call("add", other, call("mul", twice, f32(3)))),)
    whole = body if under is None else (If(under, (*body, *stores)),)
    return Kernel(
        "k", (x, y), (), (*whole, *(stores if under is None else ())), (3, 1, 1), (8, 2, 1)
    )


@pytest.mark.parametrize("distance", [1, 2, 4])
def test_sub_groups_exchange_values(distance: int) -> None:
    """Interpreted, and through local memory where there is no instruction, also twice."""
    kernel = exchanging(distance)
    verify(kernel, CAPS)
    x = np.random.default_rng(0).standard_normal(48).astype(np.float32)
    other = x.reshape(3, 16)[:, np.arange(16) ^ distance].reshape(-1)
    want = other + (x - other) * np.float32(3)
    legal = legalize(kernel, CAPS, "opencl")
    assert not any(isinstance(s, Exchange) for s in statements(legal.body))
    for made in (kernel, legal):
        np.testing.assert_allclose(interpret(made, {"x": x})["y"], want, rtol=1e-6)
    for language in ("opencl", "wgsl"):
        assert "exchanged" in print_kernel(legalize(kernel, CAPS, language), language, CAPS).text


def test_exchanges_are_instructions_where_a_sub_group_has_one() -> None:
    caps = load_target("nvidia-matrix").caps
    kernel = replace(exchanging(2, lanes=32), group=(8, 4, 1))
    text = print_kernel(legalize(kernel, caps, "opencl"), "opencl", caps).text
    assert text.count("shfl.sync.bfly.b32 %0, %1, 2, 31, 0xffffffff;") == 2
    assert "exchanged" not in text
    assert "exchanged" in print_kernel(legalize(kernel, caps, "wgsl"), "wgsl", caps).text


def test_what_is_wrong_with_an_exchange_is_said() -> None:
    assert "no sub-group of 8" in problems(exchanging(8), CAPS)
    assert "no sub-group of 32" in problems(exchanging(1, lanes=32), CAPS)
    odd = exchanging(1, call("lt", NUMBER, i32(3)))
    assert "an exchange of values under a condition" in problems(odd, CAPS)
    with pytest.raises(Trap, match="only some lanes of a sub-group"):
        interpret(odd, {"x": np.zeros(48, np.float32)})
    whole = replace(exchanging(1), body=(Exchange(Var("n", I32), NUMBER, 1, 8),))
    assert "exchange an f32, not i32" in problems(whole, CAPS)


def test_what_an_exchange_gives_has_a_name_of_its_own() -> None:
    assert Fresh(exchanging(1)).name("other") != "other"


def test_assigned_variables_are_read_anew() -> None:
    """What is known of a variable is forgotten where a product changes it."""
    made = product(SMALL, 1)
    into = next(s.var for s in made.kernel.body if isinstance(s, Declare))
    body = (*made.kernel.body[:-2], Assign(into, call("mul", into, f32(2))), *made.kernel.body[-2:])
    doubled = replace(made.kernel, body=body)
    want = made.want.copy()
    want[0, :, 0] *= 2
    np.testing.assert_array_equal(interpret(doubled, made.inputs)["c"], want.reshape(-1))


def test_tables_hold_every_place() -> None:
    from importlib.resources import files

    text = files("sdlc.backends.targets").joinpath("nvidia.toml").read_text("utf-8")
    assert parse_target("copy", text).caps.matrix[0].lanes == 32
    broken = text.replace("right = { elements = [[1, 0], [8, 0]]", "right = { elements = [[1, 0]]")
    with pytest.raises(SdlError, match="right is not 16 × 8"):
        parse_target("copy", broken)
    unsourced = text.replace('source = "PTX', 'source = ""  # "PTX')
    with pytest.raises(SdlError, match="no source for the matrix instruction"):
        parse_target("copy", unsourced)
