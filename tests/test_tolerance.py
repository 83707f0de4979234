"""The computed tolerance lets correct arithmetic pass and wrong programs fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from conftest import ForAll
from elaborated import graph_of as built
from sdlc.graph.expr import Index, apply, f32
from sdlc.graph.node import Graph, Input, Map, Reduce
from sdlc.graph.numerics import Numerics
from sdlc.graph.reference import Mode, Options, evaluate
from sdlc.graph.types import Array, DType
from sdlc.proof.roundings import repeated
from sdlc.proof.tolerance import (
    ACCURACY,
    RandomOrder,
    RandomRounding,
    check,
    disagreement,
    tolerance,
)
from small_graphs import at, axes, drawn, graph_of, softmax, sum_monoid
from strategies import Case, build_graph, cases, weights_of

Floats = npt.NDArray[np.float32]
Program = Callable[[Floats], npt.ArrayLike]


def total(width: int, dtype: DType = DType.F32) -> Graph:
    x = Input("x", (width,), dtype)
    (i,) = axes(i=width)
    return graph_of(Reduce((), (i,), sum_monoid(), (at(x, i),), (dtype,)), x)


def judge(graph: Graph, x: Array, result: npt.ArrayLike, numerics: Numerics) -> None:
    check(tolerance(graph, {"x": x}, {}), {"out": np.asarray(result)}, numerics)


ORDERS: dict[str, Program] = {
    "in order": lambda x: np.cumsum(x, dtype=np.float32)[-1],
    "backwards": lambda x: np.cumsum(x[::-1], dtype=np.float32)[-1],
    "by halves": lambda x: np.float32(x[::2].sum()) + np.float32(x[1::2].sum()),
    "blocks of 64": lambda x: np.float32(sum(np.float32(b.sum()) for b in np.split(x, 8))),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("seed", range(8))
def test_sums_in_any_order_pass(order: str, seed: int) -> None:
    x = drawn(seed, 256)
    judge(total(256), x, np.asarray(ORDERS[order](x)), Numerics.REASSOCIATED)


def test_terms_that_cancel_exactly_in_one_order_need_not_in_another() -> None:
    x = np.array([2.0**20, -(2.0**20), 1.1, 0.3], np.float32)
    assert (x[0] + x[1]) + x[2] == x[2]
    allowed = tolerance(total(4), {"x": x}, {}, measured=False)
    check(allowed, {"out": np.asarray((x[0] + x[2]) + (x[1] + x[3]))}, Numerics.REASSOCIATED)


@pytest.mark.parametrize("seed", range(5))
def test_cancellation_is_allowed_for_and_a_lost_term_is_not(seed: int) -> None:
    """The terms add up to nearly nothing: the error is that of the terms, not of the result."""
    x = drawn(seed, 64) * 100
    x[-1] -= x.sum()
    judge(total(64), x, np.asarray(x[::-1].cumsum(dtype=np.float32)[-1]), Numerics.REASSOCIATED)
    with pytest.raises(AssertionError, match="1 of 1 elements wrong"):
        judge(total(64), x, np.asarray(x[1:].sum()), Numerics.BILINEAR)


def softmax_f32(x: Floats, top: Floats) -> Floats:
    e: Floats = np.exp(x - top)
    result: Floats = e / e.sum(1, keepdims=True, dtype=np.float32)
    return result


def rows_max(x: Floats) -> Floats:
    top: Floats = x.max(1, keepdims=True)
    return top


MUTANTS: dict[str, Program] = {
    "no maximum": lambda x: softmax_f32(x, np.zeros((1, 1), np.float32)),
    "a lane too few": lambda x: softmax_f32(x[:, :-1], rows_max(x)[:, :1]),
    "sums in f16": lambda x: (
        np.exp(x - rows_max(x))
        / np.exp(x - rows_max(x)).astype(np.float16).sum(1, keepdims=True, dtype=np.float16)
    ),
    "one wrong element": lambda x: np.where(
        np.arange(x.shape[1]) == 5, np.float32(1e-3), softmax_f32(x, rows_max(x))
    ),
}


@pytest.mark.parametrize("scale", [1, 1000])
def test_softmax_passes(scale: float) -> None:
    x = drawn(0, 3, 33) * np.float32(scale)
    judge(softmax(3, 33), x, softmax_f32(x, rows_max(x)), Numerics.REASSOCIATED)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_wrong_softmaxes_fail(mutant: str) -> None:
    x = drawn(0, 3, 33) * np.float32(100)
    with np.errstate(all="ignore"):
        result = MUTANTS[mutant](x)
    with pytest.raises(AssertionError, match="output `out`"):
        judge(softmax(3, 33), x, result, Numerics.RESCALED)


def test_where_f32_overflows_any_value_is_right_and_elsewhere_nan_is_wrong() -> None:
    x = Input("x", (2,), DType.F32)
    (i,) = axes(i=2)
    graph = graph_of(Map((i,), apply("exp", apply("mul", at(x, i), f32(2))), DType.F32), x)
    data = np.array([60, 1], np.float32)
    judge(graph, data, np.array([np.inf, np.exp(2)], np.float32), Numerics.EXACT)
    with pytest.raises(AssertionError, match=r"at \[1\]"):
        judge(graph, data, np.array([0, np.nan], np.float32), Numerics.BILINEAR)


def test_half_precision_is_judged_as_half_precision() -> None:
    x = drawn(0, 100).astype(np.float16)
    right = np.asarray(x.astype(np.float32).sum()).astype(np.float16)
    judge(total(100, DType.F16), x, right, Numerics.EXACT)
    with pytest.raises(AssertionError, match="wrong"):
        judge(total(100, DType.F16), x, right + np.float16(0.5), Numerics.EXACT)


def test_evaluations_at_once_are_each_the_graph(for_all: ForAll) -> None:
    """Where nothing is rounded, all of them have its values."""

    def check_all(case: Case) -> None:
        graph = build_graph(case)
        arrays = case.inputs, weights_of(graph)
        once = evaluate(graph, *arrays, Mode.F64, Options(contractions=False))
        for name, several in evaluate(repeated(graph, 3), *arrays, Mode.F64).items():
            expected = np.broadcast_to(once[name], several.shape)
            scale = np.abs(once[name].astype(np.float64)).max(initial=1e-300)
            np.testing.assert_allclose(several, expected, rtol=1e-9, atol=1e-9 * scale)

    for_all(cases(2), check_all, 20, 0.02)


def test_evaluations_at_once_are_rounded_each_anew() -> None:
    """Also what depends on no input, or on no index; and sums have orders of their own."""
    (i,) = axes(i=16)
    third = apply("div", apply("exp", f32(1)), f32(3))
    own = Map((i,), apply("mul", third, apply("exp", apply("f32", Index(i)))), DType.F32)
    seen = Reduce((), (i,), sum_monoid(), (at(own, i),), (DType.F32,))
    generator = np.random.default_rng(3)
    rounding = RandomRounding(generator, ACCURACY["wgsl"])
    options = Options(rounding=rounding, order=RandomOrder(generator, True))
    for node in (own, seen):
        made = evaluate(repeated(graph_of(node), 8), {}, {}, Mode.F32, options)["out"]
        assert len(np.unique(made.reshape(8, -1)[:, -1])) == 8
    places = RandomOrder(generator, True)((4, 3, 16))
    assert places.shape == (4, 1, 16)
    assert [(p == np.arange(16)).all() for p in places[:, 0]] == [True, False, True, False]


def test_a_suspicion_is_held_against_more_evaluations() -> None:
    """Two halves that round apart or together, by chance: eight evaluations may miss one way."""
    x = Input("x", (2,), DType.F16)
    (i,) = axes(i=2)
    third = apply("div", at(x, i), f32(3))
    stored = Map((i,), third, DType.F16)
    whole = Reduce((), (i,), sum_monoid(), (at(stored, i),), (DType.F32,))
    allowed = tolerance(graph_of(whole, x), {"x": np.ones(2, np.float16)}, {})["out"]
    assert allowed.surer is not None
    few, more = allowed, allowed.surer()
    assert (more.exact == few.exact).all() and (more.error >= few.error).all()
    narrow = replace(few, error=np.zeros_like(few.error))
    got = np.asarray(few.exact + few.error, np.float32)
    assert disagreement(replace(narrow, surer=None), got, Numerics.EXACT) is not None
    assert disagreement(narrow, got, Numerics.EXACT) is None
    assert disagreement(narrow, got + np.float32(1), Numerics.EXACT) is not None


@pytest.mark.parametrize("language", ["opencl", "wgsl"])
def test_a_function_does_not_meet_its_limit_exactly(language: str) -> None:
    """OpenCL C gives tanh(20) an error of 5 units in the last place, though 1 is a float."""
    x = Input("x", (2,), DType.F32)
    (i,) = axes(i=2)
    graph = graph_of(Map((i,), apply("tanh", at(x, i)), DType.F32), x)
    given = {"x": np.array([20, 0], np.float32)}
    allowed = tolerance(graph, given, {}, language)
    assert allowed["out"].error[0] > 2 * np.finfo(np.float32).eps
    assert allowed["out"].error[1] <= 1e-5


# ---- overflows that a result does not show --------------------------------------------------

LEAST = """op least(x: T[b, n]) -> i32[b] {
  square[b, i] = x[b, i] * x[b, i]
  lost[b, i] = (square[b, i] - square[b, i]) + x[b, i]
  s[b] = reduce arg_min over i < n of (value = lost[b, i], index = i)
  out[b] = s.index[b]
}"""
SQUARES = """op squares(x: T[b, n]) -> T[b] { out[b] = min over i < n of x[b, i] * x[b, i] }"""
PLACE = """op place(x: T[b, n]) -> i32[b] {
  s[b] = reduce arg_max over i < n of (value = x[b, i] * x[b, i], index = i)
  out[b] = s.index[b]
}"""
FIRST = """op first(x: T[b, n]) -> i32[b] {
  s[b] = reduce arg_min over i < n of (value = x[b, i] * x[b, i], index = i)
  out[b] = s.index[b]
}"""
WEIGHT = """op weight(x: T[b, n]) -> T[b] {
  s[b] = reduce softmax_stats over i < n of (m = 0 - x[b, i] * x[b, i], l = 1)
  out[b] = s.l[b]
}"""
LARGE = np.float32(1e30)


def wrong(text: str, x: npt.ArrayLike, measured: bool = True, **got: npt.ArrayLike) -> str | None:
    """What is wrong with the result `out` of an operator for rows of halves or of f32."""
    given = np.asarray(x)
    precision = DType.F16 if given.dtype == np.float16 else DType.F32
    graph = built(text, precision=precision, b=given.shape[0], n=given.shape[1])
    allowed = tolerance(graph, {"x": given}, {}, measured=measured)["out"]
    return disagreement(allowed, np.asarray(got["out"]), Numerics.REASSOCIATED)


@pytest.mark.parametrize("measured", [False, True])
@pytest.mark.parametrize("count", [2, 40])
def test_which_of_values_that_are_no_numbers_is_least_is_not_known(
    count: int, measured: bool
) -> None:
    """Their squares overflow in half precision, and what is left is no number; those of the second
    row do not."""
    x = np.stack([np.full(count, 300), np.arange(count) + 1]).astype(np.float16)
    for index in (0, count // 2, count - 1):
        assert wrong(LEAST, x, measured, out=np.array([index, 0])) is None
    assert "[1]: got 1, expected 0" in str(wrong(LEAST, x, measured, out=np.array([0, 1])))


@pytest.mark.parametrize("measured", [False, True])
def test_the_least_of_infinities_is_one_of_them_or_the_identity(measured: bool) -> None:
    for count in (1, 3):
        x = np.full((2, count), LARGE)
        x[1] = 2
        for value in (np.inf, np.finfo(np.float32).max):
            assert wrong(SQUARES, x, measured, out=np.array([value, 4], np.float32)) is None
        for value in (np.inf, 5):
            got = np.array([np.inf, value], np.float32)
            assert "[1]" in str(wrong(SQUARES, x, measured, out=got))


@pytest.mark.parametrize("measured", [False, True])
def test_the_other_fields_of_a_state_are_lost_with_an_infinity(measured: bool) -> None:
    """The identity's index beside its value, or an infinity's; the weight of a greatest number that
    is the identity, or of an infinity, which may be taken from itself."""
    x = np.array([[LARGE], [2]], np.float32)
    for got in (0, 2**31 - 1):
        assert wrong(FIRST, x, measured, out=np.array([got, 0])) is None
    assert wrong(FIRST, x, measured, out=np.array([0, 1])) is not None
    for weight in (0, 1, np.nan):
        assert wrong(WEIGHT, x, measured, out=np.array([weight, 1], np.float32)) is None
    assert wrong(WEIGHT, x, measured, out=np.array([1, np.nan], np.float32)) is not None


def test_an_infinity_is_more_than_a_number_and_no_excuse_beside_it() -> None:
    x = np.array([[2, LARGE, 1]], np.float32)
    assert wrong(PLACE, x, out=np.array([1])) is None
    assert wrong(PLACE, x, out=np.array([0])) is not None
    assert wrong(SQUARES, x, out=np.array([1], np.float32)) is None
    for value in (np.inf, np.nan, 4):
        assert wrong(SQUARES, x, out=np.array([value], np.float32)) is not None


def test_which_of_equal_infinities_is_greatest_is_not_known() -> None:
    """Another program may hold one of them beyond its last place, or round it down."""
    x = np.array([[LARGE, LARGE * 2, 1, LARGE], [1, 3, 2, 1]], np.float32)
    for index in (0, 1, 3):
        assert wrong(PLACE, x, out=np.array([index, 1])) is None
    assert wrong(PLACE, x, out=np.array([0, 2])) is not None
