"""Intervals and small scalar expressions against every point of their axes."""

from __future__ import annotations

from itertools import product

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from sdlc.graph.expr import Apply, Axis, Expr, Index, Literal, Read, apply, i32
from sdlc.graph.node import Input
from sdlc.graph.scalar import SCALARS
from sdlc.graph.types import DType
from sdlc.language.elaborate_scalar import make
from sdlc.language.ranges import FULL, decide, inside, interval, outside, refine

AXES = (Axis("i", 4), Axis("j", 3), Axis("k", 5))
ROW, COL, TAP = (Index(a) for a in AXES)
POINTS = [dict(zip(AXES, p, strict=True)) for p in product(*(range(a.extent) for a in AXES))]
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")


def value(expr: Expr, point: dict[Axis, int]) -> int:
    """The value of an integer or boolean expression at one point, by the scalar table."""
    match expr:
        case Literal(value=constant):
            return int(constant)
        case Index(axis=axis):
            return point[axis]
        case Apply(op=op, args=args):
            return int(SCALARS[op].evaluate(*(value(a, point) for a in args)))
    raise AssertionError(expr)


def comparisons(integers: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    return st.builds(apply, st.sampled_from(COMPARISONS), integers, integers)


def conditions(integers: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    single = comparisons(integers)
    pair = st.builds(apply, st.sampled_from(("and", "or")), single, single)
    return single | pair | st.builds(lambda c: apply("not", c), pair)


def larger(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    sums = st.builds(apply, st.sampled_from(("add", "sub", "mul", "min", "max")), inner, inner)
    parts = st.builds(
        lambda op, a, n: apply(op, a, i32(n)),
        st.sampled_from(("floordiv", "mod", "mul")),
        inner,
        st.integers(1, 6),
    )
    single = st.builds(apply, st.sampled_from(("neg", "abs")), inner)
    choice = st.builds(lambda c, a, b: apply("select", c, a, b), comparisons(inner), inner, inner)
    return sums | parts | single | choice


INTEGERS = st.recursive(
    st.sampled_from((ROW, COL, TAP)) | st.integers(-6, 6).map(i32), larger, max_leaves=8
)


@given(INTEGERS)
@settings(max_examples=100, deadline=None)
def test_an_interval_holds_every_value(expr: Expr) -> None:
    low, high = interval(expr)
    assert all(low <= value(expr, p) <= high for p in POINTS)


@given(conditions(INTEGERS), INTEGERS, st.booleans())
@settings(max_examples=100, deadline=None)
def test_what_a_condition_tells_is_true_where_it_holds(
    condition: Expr, expr: Expr, truth: bool
) -> None:
    known = refine(condition, truth, FULL)
    reached = [p for p in POINTS if bool(value(condition, p)) is truth]
    assert not (known.dead and reached)
    for point in reached:
        low, high = interval(expr, known)
        assert low <= value(expr, point) <= high
    decided = decide(condition, FULL)
    assert decided is None or all(bool(value(condition, p)) is decided for p in POINTS)


@given(INTEGERS, st.integers(1, 6), INTEGERS)
@settings(max_examples=100, deadline=None)
def test_outside_a_range(index: Expr, extent: int, expr: Expr) -> None:
    known = outside(index, extent, FULL)
    reached = [p for p in POINTS if not 0 <= value(index, p) < extent]
    assert not (known.dead and reached)
    assert all(interval(expr, known)[0] <= value(expr, p) for p in reached)
    assert all(value(expr, p) <= interval(expr, known)[1] for p in reached)
    if inside(index, extent, FULL):
        assert not reached


def rebuilt(expr: Expr) -> Expr:
    """The same expression made by `make`, which simplifies."""
    if isinstance(expr, Apply):
        return make(expr.op, *(rebuilt(a) for a in expr.args))
    return expr


@given(INTEGERS | conditions(INTEGERS))
@settings(max_examples=150, deadline=None)
def test_simplified_expressions_keep_their_values(expr: Expr) -> None:
    small = rebuilt(expr)
    assert small.dtype is expr.dtype
    assert all(value(small, p) == value(expr, p) for p in POINTS)


@pytest.mark.parametrize(
    ("expr", "expected"),
    [
        (apply("sub", apply("add", apply("mul", ROW, i32(2)), COL), i32(1)), (-1, 7)),
        (apply("sub", ROW, ROW), (0, 0)),
        (apply("sub", TAP, apply("mul", apply("floordiv", TAP, i32(2)), i32(2))), (0, 1)),
        (apply("mod", apply("sub", ROW, i32(2)), i32(4)), (0, 3)),
        (apply("floordiv", apply("sub", ROW, i32(1)), i32(2)), (-1, 1)),
        (apply("select", apply("lt", ROW, i32(2)), ROW, apply("sub", ROW, i32(2))), (0, 1)),
    ],
)
def test_intervals_are_tight_where_programs_need_it(expr: Expr, expected: tuple[int, int]) -> None:
    assert interval(expr) == expected


def test_data_may_be_anything() -> None:
    ids = Input("ids", (4,), DType.I32)
    low, high = interval(Read(ids, (ROW,)))
    assert low < -(10**9) and high > 10**9
    bounded = apply("min", apply("max", Read(ids, (ROW,)), i32(0)), i32(9))
    assert interval(bounded) == (0, 9)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (make("add", ROW, i32(0)), ROW),
        (make("mul", i32(1), ROW), ROW),
        (make("mul", ROW, i32(0)), i32(0)),
        (make("floordiv", ROW, i32(4)), i32(0)),
        (make("mod", COL, i32(3)), COL),
        (make("min", ROW, i32(3)), ROW),
        (make("sub", TAP, TAP), i32(0)),
        (make("add", i32(2), i32(3)), i32(5)),
        (make("neg", make("neg", TAP)), TAP),
    ],
)
def test_neutral_elements_are_dropped(made: Expr, expected: Expr) -> None:
    assert made is expected


def test_floats_are_not_multiplied_away() -> None:
    x = Read(Input("x", (), DType.F32), ())
    product_with_zero = make("mul", x, Literal(0.0, DType.F32))
    assert isinstance(product_with_zero, Apply)
    assert make("pow", x, Literal(2.0, DType.F32)) is apply("mul", x, x)
    huge = make("exp", Literal(1000.0, DType.F32))
    assert isinstance(huge, Apply)
