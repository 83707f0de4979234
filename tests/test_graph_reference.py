"""The reference against NumPy written by hand, and its two ways to a sum against each other."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest

from sdlc.graph.expr import ZERO, Axis, Index, apply, f32, i32
from sdlc.graph.node import Const, Graph, Input, Map, Reduce
from sdlc.graph.reference import Mode, Options, evaluate
from sdlc.graph.show import show_graph
from sdlc.graph.types import Array, DType, Origin
from sdlc.language.diagnostics import SdlError
from small_graphs import at, axes, convolution, drawn, graph_of, softmax, softmax_monoid, sum_monoid

Reals = npt.NDArray[np.float64]
PLAIN = Options(contractions=False)


def conv_by_hand(x: Reals, k: Reals, stride: int, pad: int) -> Reals:
    wide = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    size = (wide.shape[2] - k.shape[2]) // stride + 1
    out = np.zeros((x.shape[0], k.shape[0], size, size))
    for y in range(size):
        for z in range(size):
            y0, z0 = y * stride, z * stride
            patch = wide[:, :, y0 : y0 + k.shape[2], z0 : z0 + k.shape[3]]
            out[:, :, y, z] = np.einsum("bcij,ocij->bo", patch, k)
    return out


def floats(*values: float) -> npt.NDArray[np.float32]:
    return np.array(values, np.float32)


def f64(array: Array) -> Reals:
    return array.astype(np.float64)


@pytest.mark.parametrize(("stride", "pad", "taps"), [(1, 1, 3), (2, 0, 3), (2, 2, 5), (1, 0, 1)])
def test_convolution(stride: int, pad: int, taps: int) -> None:
    graph = convolution(2, 3, 5, 8, stride=stride, pad=pad, taps=taps)
    x, k = drawn(0, 2, 3, 8, 8), drawn(1, 5, 3, taps, taps)
    fast = evaluate(graph, {"x": x}, {"k": k}, Mode.F64)["out"]
    plain = evaluate(graph, {"x": x}, {"k": k}, Mode.F64, PLAIN)["out"]
    expected = conv_by_hand(x.astype(np.float64), k.astype(np.float64), stride, pad)
    np.testing.assert_allclose(f64(fast), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(f64(plain), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("spec", ["bik,bkj->bij", "bik,jk->bij", "bkq,qjk->bj", "ik,jk->ji"])
def test_contractions_agree_with_the_fold(spec: str) -> None:
    sizes = dict(zip("bijkq", (3, 4, 5, 7, 2), strict=True))
    terms, result = spec.split("->")
    names = terms.split(",")
    all_axes = {n: Axis(n, sizes[n]) for n in sizes}
    sources = [Input(f"t{i}", tuple(sizes[n] for n in t), DType.F32) for i, t in enumerate(names)]
    pairs = zip(sources, names, strict=True)
    lift = apply("mul", *(at(s, *(all_axes[n] for n in t)) for s, t in pairs))
    over = tuple(all_axes[n] for n in sorted(set(terms) - set(result) - {","}))
    node = Reduce(tuple(all_axes[n] for n in result), over, sum_monoid(), (lift,), (DType.F32,))
    graph = graph_of(node, *sources)
    arrays = {s.name: drawn(i, *s.shape) for i, s in enumerate(sources)}
    expected = np.einsum(spec, *(a.astype(np.float64) for a in arrays.values()))
    for options in (Options(), PLAIN):
        got = evaluate(graph, arrays, {}, Mode.F64, options)["out"]
        np.testing.assert_allclose(f64(got), expected, rtol=1e-12, atol=1e-12)


def test_a_large_contraction_is_walked_in_boxes_and_stays_small() -> None:
    graph = convolution(1, 64, 64, 96)
    x, k = drawn(0, 1, 64, 96, 96), drawn(1, 64, 64, 3, 3)
    tracemalloc.start()
    began = time.perf_counter()
    fast = evaluate(graph, {"x": x}, {"k": k}, Mode.F32)["out"]
    seconds = time.perf_counter() - began
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 256e6
    flop = 2 * fast.size * 64 * 9
    assert flop / seconds > 0.5e9, f"{flop / seconds / 1e9:.2f} GFLOP/s"
    rows = evaluate(graph, {"x": x}, {"k": k}, Mode.F64)["out"]
    assert np.linalg.norm(f64(fast) - f64(rows)) <= 1e-6 * np.linalg.norm(f64(rows))


def test_softmax_with_large_logits() -> None:
    graph = softmax(3, 33)
    data = drawn(0, 3, 33) * 1000
    out = evaluate(graph, {"x": data}, {}, Mode.F64)["out"]
    shifted = np.exp(data.astype(np.float64) - data.max(1, keepdims=True))
    np.testing.assert_allclose(f64(out), shifted / shifted.sum(1, keepdims=True), rtol=1e-12)


def test_a_fill_is_only_looked_at_out_of_range() -> None:
    """Concat: the second tensor is read inside of the first one's `else`, without a guard."""
    x, y = Input("x", (3,), DType.F32), Input("y", (2,), DType.F32)
    (i,) = axes(i=5)
    second = at(y, apply("sub", Index(i), i32(3)))
    graph = graph_of(Map((i,), at(x, i, fill=second), DType.F32), x, y)
    out = evaluate(graph, {"x": floats(1, 2, 3), "y": floats(4, 5)}, {}, Mode.F32)
    assert out["out"].tolist() == [1, 2, 3, 4, 5]
    assert out["out"].dtype == np.float32


def test_an_unguarded_read_out_of_range_names_the_node() -> None:
    x = Input("x", (3,), DType.F32)
    (i,) = axes(i=4)
    graph = graph_of(Map((i,), at(x, i), DType.F32, Origin("shifted", "f")), x)
    with pytest.raises(AssertionError, match=r"shifted of f reads x of shape \[3\] at \[3\]"):
        evaluate(graph, {"x": np.zeros(3, np.float32)}, {}, Mode.F32)


def test_an_unguarded_read_in_a_fill_is_checked_where_it_matters() -> None:
    x, y = Input("x", (3,), DType.F32), Input("y", (1,), DType.F32)
    (i,) = axes(i=5)
    second = at(y, apply("sub", Index(i), i32(3)))
    graph = graph_of(Map((i,), at(x, i, fill=second), DType.F32), x, y)
    with pytest.raises(AssertionError, match=r"at \[1\]"):
        evaluate(graph, {"x": np.zeros(3), "y": np.zeros(1)}, {}, Mode.F64)


def test_reads_by_data() -> None:
    """An embedding lookup, a diagonal, a reversal and a guarded permuted read."""
    table = Input("table", (5, 2), DType.F32)
    ids = Input("ids", (4,), DType.I32)
    t, d = axes(t=4, d=2)
    (n,) = axes(n=2)
    lookup = Map((t, d), at(table, at(ids, t), d), DType.F32)
    diagonal = Map((n,), at(table, n, n), DType.F32)
    back = apply("sub", i32(3), Index(t))
    guarded = Map((d, t), at(table, apply("mul", back, i32(2)), d, fill=f32(-1)), DType.F32)
    graph = Graph("g", (("a", lookup, 0), ("b", diagonal, 0), ("c", guarded, 0)), (table, ids))
    data = np.arange(10, dtype=np.float32).reshape(5, 2)
    out = evaluate(graph, {"table": data, "ids": np.array([4, 0, 2, 2], np.int32)}, {}, Mode.F32)
    assert out["a"].tolist() == data[[4, 0, 2, 2]].tolist()
    assert out["b"].tolist() == [0, 3]
    assert out["c"].tolist() == [[-1, 8, 4, 0], [-1, 9, 5, 1]]


def test_integers_floor_and_booleans_are_ints_outside() -> None:
    (i,) = axes(i=7)
    shifted = apply("sub", Index(i), i32(3))
    quotient = Map((i,), apply("floordiv", shifted, i32(2)), DType.I32)
    rest = Map((i,), apply("mod", shifted, i32(2)), DType.I32)
    negative = Map((i,), apply("lt", shifted, i32(0)), DType.BOOL)
    chosen = apply("select", at(negative, i), f32(-1), apply("f32", at(quotient, i)))
    mixed = Map((i,), chosen, DType.F32)
    outputs = (("q", quotient, 0), ("r", rest, 0), ("n", negative, 0), ("m", mixed, 0))
    out = evaluate(Graph("g", outputs), {}, {}, Mode.F32)
    assert out["q"].tolist() == [-2, -1, -1, 0, 0, 1, 1]
    assert out["r"].tolist() == [1, 0, 1, 0, 1, 0, 1]
    assert out["n"].tolist() == [1, 1, 1, 0, 0, 0, 0]
    assert out["m"].tolist() == [-1, -1, -1, 0, 0, 1, 1]
    assert out["n"].dtype == out["q"].dtype == np.int32


def test_modes_round_as_they_say() -> None:
    third = Const(floats(1 / 3).tobytes(), (1,), DType.F32)
    (i,) = axes(i=1)
    stored = Map((i,), at(third, i), DType.F16)
    graph = Graph("g", (("out", stored, 0),))
    results = {m: evaluate(graph, {}, {}, m)["out"] for m in Mode}
    assert results[Mode.F16].dtype == np.float16
    assert results[Mode.F16][0] == np.float16(1 / 3)
    assert results[Mode.F32][0] == np.float32(1 / 3)
    assert results[Mode.F64][0] == np.float64(np.float32(1 / 3))
    narrowed = Map((i,), apply("f16", at(third, i)), DType.F32)
    graph = Graph("g", (("out", narrowed, 0),))
    assert evaluate(graph, {}, {}, Mode.F16)["out"][0] == np.float32(np.float16(1 / 3))


@pytest.mark.parametrize(
    ("arrays", "code", "words"),
    [
        ({}, "R001", "missing input `x`"),
        ({"x": np.zeros((2, 2))}, "R002", "given [2, 2], declared [3]"),
        ({"x": np.zeros(3, np.int32)}, "R003", "given int32, declared f32"),
    ],
)
def test_wrong_inputs_are_named(arrays: dict[str, Array], code: str, words: str) -> None:
    x = Input("x", (3,), DType.F32)
    (i,) = axes(i=3)
    with pytest.raises(SdlError) as error:
        evaluate(graph_of(Map((i,), at(x, i), DType.F32), x), arrays, {}, Mode.F32)
    assert f"error[{code}]" in str(error.value)
    assert words in str(error.value)
    assert "help: pass an array for `x: f32[3]`" in str(error.value)


def test_show() -> None:
    text = show_graph(convolution(1, 4, 96, 32))
    line = (
        "y[b, o, y, x] : f32[1, 96, 32, 32] = sum over c < 4, i < 3, j < 3 of "
        "x[b, c, y * 1 + i - 1, x * 1 + j - 1] else 0 * k[o, c, i, j]   # conv2d, conv_in"
    )
    expected = ["graph test", "input x : f32[1, 4, 32, 32]", "weight k : f32[96, 4, 3, 3]", line]
    assert text.splitlines() == [*expected, "return out = y"]


def test_show_parenthesises_and_names_fields() -> None:
    x = Input("x", (9,), DType.F32)
    i, j = axes(i=9, j=9)
    stats = Reduce(
        (), (j,), softmax_monoid(), (at(x, j), f32(1)), (DType.F32, DType.F32), Origin("x", "f")
    )
    inner = apply("sub", at(x, i), apply("sub", at(stats), at(stats, field=1)))
    body = apply("select", apply("lt", inner, ZERO), apply("neg", apply("exp", inner)), inner)
    graph = graph_of(Map((i,), apply("mul", body, f32(0.5)), DType.F16, Origin("x", "f")), x)
    assert show_graph(graph).splitlines()[1:] == [
        "monoid softmax_stats(m = lowest, l = 0): m = max(a.m, b.m); "
        "l = a.l * exp(a.m - max(a.m, b.m)) + b.l * exp(b.m - max(a.m, b.m))",
        "input x : f32[9]",
        "x_2[] : f32[] = softmax_stats over j < 9 of (m = x[j], l = 1)   # f",
        "x_3[i] : f16[9] = (if x[i] - (x_2.m[] - x_2.l[]) < 0 then -exp(x[i] - (x_2.m[] - x_2.l[]))"
        " else x[i] - (x_2.m[] - x_2.l[])) * 0.5   # f",
        "return out = x_3",
    ]
