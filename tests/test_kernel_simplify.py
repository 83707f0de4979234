"""The simplifier: equal values before and after, intervals that contain every value."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdlc.graph.scalar import SCALARS
from sdlc.graph.types import DType
from sdlc.kernel.intervals import INT32, Bounds
from sdlc.kernel.ir import (
    BOOL,
    F32,
    I32,
    Access,
    Buffer,
    Call,
    Cast,
    Expr,
    Extract,
    For,
    If,
    Kernel,
    Let,
    Literal,
    Load,
    Store,
    Var,
    Vector,
    WorkId,
    call,
    f32,
    i32,
    statements,
)
from sdlc.kernel.simplify import Ranges, interval, linear, simplify, simplify_kernel

X, Y, Z = (Var(name, I32) for name in "xyz")


class V:
    """Python's operators on expressions, for tests that read like the equations they check."""

    def __init__(self, expr: Expr) -> None:
        self.expr = expr

    def _of(self, op: str, other: V | int) -> V:
        right = other.expr if isinstance(other, V) else i32(other)
        return V(call(op, self.expr, right))

    def __add__(self, other: V | int) -> V:
        return self._of("add", other)

    def __sub__(self, other: V | int) -> V:
        return self._of("sub", other)

    def __mul__(self, other: V | int) -> V:
        return self._of("mul", other)

    def __floordiv__(self, other: V | int) -> V:
        return self._of("floordiv", other)

    def __mod__(self, other: V | int) -> V:
        return self._of("mod", other)

    def __lt__(self, other: V | int) -> V:
        return self._of("lt", other)

    def __le__(self, other: V | int) -> V:
        return self._of("le", other)


x, y, z = V(X), V(Y), V(Z)
RANGES: Ranges = {X: (0, 9), Y: (0, 3), Z: (-5, 100)}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((x * 4 + y) // 4, x),
        ((x * 4 + y) % 4, y),
        (x // 4 * 4 + x % 4, x),
        ((x // 4) % 2 * 4 + x % 4, x % 8),
        (x // 3 // 2, x // 6),
        (x % 8 % 4, x % 4),
        (x % 8 // 4, x // 4 % 2),
        ((z * 4 + y * 2 + 1) // 8, (z * 2 + y + 5 * 2 - 10) // 4),
        (x + y - x, y),
        (y + x * 4 + 3 - 7, x * 4 + y - 4),
        (x * y * 2 - y * x, x * y),
        ((z - 1) % 4, (z + 7) % 4),
        ((z * 16 + x) % 16 + x // 16, x),
    ],
)
def test_index_algebra(before: V, after: V) -> None:
    assert simplify(before.expr, RANGES) is simplify(after.expr, RANGES)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (x < 10, True),
        (x < 9, None),
        (x * 4 + y < 40, True),
        (z < 200, True),
        (x < x + 1, True),
        (x + 3 <= x, False),
    ],
)
def test_comparisons_are_decided(condition: V, expected: bool | None) -> None:
    made = simplify(condition.expr, RANGES)
    assert (made.value if isinstance(made, Literal) else None) is expected


def test_an_aligned_tail_guard_loses_its_lanes() -> None:
    wide = {X: (0, 99), Y: (0, 3)}
    assert simplify((x * 4 + y < 100).expr, wide) is (x < 25).expr
    assert simplify((x * 4 + y < 102).expr, wide) is not (x < 25).expr


def test_order_does_not_depend_on_how_a_sum_was_made() -> None:
    terms = [x * 8, y, z * 2, x * y]
    made = set()
    for i in range(4):
        a, b, c, d = terms[i:] + terms[:i]
        made.add(simplify((a + b + c + d).expr, RANGES))
        made.add(simplify((d + (c + b) + a).expr, RANGES))
    assert len(made) == 1


def test_linear() -> None:
    assert linear(((x + y) * 4 - y - 3).expr) == ({X: 4, Y: 3}, -3)
    assert linear((x // 2 * 6).expr) == ({(x // 2).expr: 6}, 0)


def test_interval() -> None:
    assert interval((x * 4 + y - 1).expr, RANGES) == (-1, 38)
    assert interval(Load(Buffer("ids", DType.I32, 4), i32(0)), {}) is None
    assert interval(call("add", f32(1.0), f32(2.0)), {}) is None
    clamped = call("min", call("max", Load(Buffer("ids", DType.I32, 4), i32(0)), i32(0)), i32(7))
    assert interval(clamped, {}) == (0, 7)


def test_a_select_bounds_its_arms_by_its_condition() -> None:
    inside = call("and", (V(i32(0)) <= z).expr, (z < 8).expr)
    assert interval(call("select", inside, Z, i32(0)), RANGES) == (0, 7)


def test_facts_bound_composite_indices() -> None:
    row, column = x * 4 + y, z
    bounds = Bounds({X: (0, 9), Y: (0, 3), Z: (0, 99)})
    known = bounds.assuming(call("and", (row < 30).expr, (column < 7).expr))
    assert known.interval((row * 7 + column).expr) == (0, 30 * 7 - 1)
    assert bounds.interval((row * 7 + column).expr) == (0, 39 * 7 + 99)


def test_a_fact_bounds_each_variable_of_a_sum() -> None:
    bounds = Bounds({X: (0, 9), Y: (0, 3), Z: (2, 99)})
    known = bounds.assuming((x * 16 + y - z < -40).expr)
    assert [known.interval(v) for v in (X, Y, Z)] == [(0, 3), (0, 3), (41, 99)]
    assert bounds.assuming((x * 16 + y < 1).expr).interval(X) == (0, 0)


@given(st.integers(-9, 9), st.integers(0, 40), st.integers(1, 7), st.integers(-5, 12))
def test_a_quotient_bounds_what_is_divided(low: int, length: int, by: int, limit: int) -> None:
    """Exactly: the first and the last number of a range whose quotient is within the limit."""
    every = range(low, low + length + 1)
    quotient = (x // by).expr
    for condition, kept in (
        (call("lt", quotient, i32(limit)), [n for n in every if n // by < limit]),
        (call("le", i32(limit), quotient), [n for n in every if limit <= n // by]),
    ):
        found = Bounds({X: (every[0], every[-1])}).assuming(condition).interval(X)
        assert all(found[0] <= n <= found[1] for n in kept)
        if kept and limit > 0:
            assert found == (kept[0], kept[-1])


@pytest.mark.parametrize("value", [0.0, -0.0, 1.5, float("inf"), -float("inf"), float("nan")])
def test_float_rules_are_exact(value: float) -> None:
    a = Var("a", F32)
    one, zero = f32(1.0), f32(0.0)
    for made in (call("mul", a, one), call("add", zero, a), call("sub", a, zero)):
        assert simplify(made, {}) is a
        assert np.array_equal(_evaluate(made, {a: value}), np.float32(value), equal_nan=True)
    for kept in (call("mul", a, zero), call("sub", a, a), call("eq", a, a)):
        assert simplify(kept, {}) is kept


def test_casts() -> None:
    half = Load(Buffer("h", DType.F16, 4), i32(0))
    assert simplify(Cast(Cast(half, DType.F32), DType.F16), {}) is half
    rounded = Cast(Cast(Var("a", F32), DType.F16), DType.F32)
    assert simplify(rounded, {}) is rounded
    assert simplify(Cast(Cast(X, DType.F32), DType.I32), RANGES) is X
    assert simplify(Cast(i32(3), DType.F32), {}) is f32(3.0)


def test_vectors() -> None:
    pair = Vector((Var("a", F32), Var("b", F32), f32(1.0), f32(2.0)))
    assert simplify(Extract(pair, 1), {}) is Var("b", F32)
    assert simplify(Extract(Extract(pair, 1, 2), 1), {}) is f32(1.0)
    assert simplify(pair, {}) is pair


def test_kernel_loses_what_its_ranges_decide() -> None:
    out = Buffer("out", DType.F32, 64, access=Access.WRITE)
    lane, i, row, unused = WorkId("lane", 0), Var("i", I32), Var("row", I32), Var("unused", I32)
    store = Store(out, call("add", row, i), f32(1.0), (V(lane) < 64).expr)
    body = (
        Let(row, call("add", lane, call("mul", WorkId("group", 0), i32(64)))),
        Let(unused, call("mul", row, i32(3))),
        For(i, 1, (If((V(row) < 64).expr, (store,)), If((V(row) < 0).expr, (store,)))),
    )
    made = simplify_kernel(Kernel("k", (out,), (), body, (1, 1, 1), (64, 1, 1)))
    assert made.body == (Store(out, lane, f32(1.0), None),)


def test_a_branch_is_simplified_under_its_condition() -> None:
    out = Buffer("out", DType.F32, 64, access=Access.WRITE)
    inside = (V(WorkId("lane", 0)) < 10).expr
    body = (If(inside, (Store(out, WorkId("lane", 0), f32(0.0), inside),)),)
    made = simplify_kernel(Kernel("k", (out,), (), body, (1, 1, 1), (64, 1, 1)))
    assert [s.guard for s in statements(made.body) if isinstance(s, Store)] == [None]


def _evaluate(expr: Expr, point: Mapping[Expr, float]) -> object:
    match expr:
        case Literal():
            return expr.type.dtype.numpy.type(expr.value)
        case Var():
            return expr.type.dtype.numpy.type(point[expr])
        case Call():
            with np.errstate(all="ignore"):
                return SCALARS[expr.op].evaluate(*(_evaluate(a, point) for a in expr.args))
        case Cast():
            value = np.asarray(_evaluate(expr.value, point))
            return (value != 0) if expr.dtype is DType.BOOL else value.astype(expr.dtype.numpy)
        case _:
            raise AssertionError(expr)


VARIABLES = (X, Y, Z)


def _grow(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    divisor = st.integers(1, 9).map(i32)
    compare = st.builds(call, st.sampled_from(["lt", "le", "gt", "ge", "eq", "ne"]), inner, inner)
    logic = st.one_of(
        compare,
        st.builds(lambda a: call("not", a), compare),
        st.builds(call, st.sampled_from(["and", "or"]), compare, compare),
    )
    return st.one_of(
        st.builds(call, st.sampled_from(["add", "sub", "mul", "min", "max"]), inner, inner),
        st.builds(lambda a, c: call("mul", a, c), inner, st.integers(-8, 16).map(i32)),
        st.builds(call, st.sampled_from(["floordiv", "mod"]), inner, divisor),
        st.builds(call, st.sampled_from(["floordiv", "mod"]), inner, inner),
        st.builds(lambda a: call("neg", a), inner),
        st.builds(lambda c, a, b: call("select", c, a, b), logic, inner, inner),
        st.builds(lambda c: Cast(c, DType.I32), logic),
    )


INTEGERS = st.recursive(
    st.one_of(st.sampled_from(VARIABLES), st.integers(-9, 33).map(i32)), _grow, max_leaves=12
)


@st.composite
def _cases(draw: st.DrawFn) -> tuple[Expr, dict[Expr, tuple[int, int]]]:
    ranges: dict[Expr, tuple[int, int]] = {}
    for variable in VARIABLES:
        low = draw(st.integers(-4, 4))
        ranges[variable] = (low, low + draw(st.integers(0, 8)))
    return draw(INTEGERS), ranges


def _fits(expr: Expr, ranges: Ranges) -> bool:
    """Whether no subexpression can leave 32 bits: overflow is outside the contract."""
    from sdlc.kernel.ir import walk

    bounds = Bounds(ranges)
    return all(e.type == BOOL or bounds.interval(e) != INT32 for e in walk(expr))


@settings(max_examples=200, deadline=None)
@given(_cases())
def test_random_integer_expressions(case: tuple[Expr, dict[Expr, tuple[int, int]]]) -> None:
    expr, ranges = case
    if not _fits(expr, ranges):
        return
    made = simplify(expr, ranges)
    assert simplify(made, ranges) is made
    lows = [interval(e, ranges) for e in (expr, made)]
    spans = [range(low, high + 1, max(1, (high - low) // 3)) for low, high in ranges.values()]
    for values in product(*spans):
        point = dict(zip(VARIABLES, values, strict=True))
        expected = _evaluate(expr, point)
        assert _evaluate(made, point) == expected
        for found in lows:
            assert found is not None and found[0] <= expected <= found[1]  # type: ignore[operator]
