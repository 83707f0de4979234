"""The computed tolerance lets correct arithmetic pass and wrong programs fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from conftest import ForAll
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
