"""Elaboration: programs become the graphs that they mean, compared with NumPy by the reference."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from sdlc.graph.expr import Literal, Read
from sdlc.graph.node import Const, Graph, Input, Map, Node, Reduce, Role, reads, topological
from sdlc.graph.reference import Mode, evaluate
from sdlc.graph.types import DType
from sdlc.language.diagnostics import SdlError
from sdlc.language.elaborate import Size, build, sizes_from_shapes
from sdlc.language.library import load
from sdlc.models.folder import SOURCES

Reals = npt.NDArray[np.float64]


def graph_of(
    text: str,
    entry: str | None = None,
    config: Mapping[str, object] | None = None,
    precision: DType = DType.F32,
    **sizes: Size,
) -> Graph:
    return build(load(None, text), entry, sizes, config or {}, precision)


def drawn(*shape: int, seed: int = 0) -> Reals:
    return np.random.default_rng(seed).standard_normal(shape)


def run(graph: Graph, weights: Mapping[str, Reals] | None = None, **inputs: object) -> list[Reals]:
    arrays = {name: np.asarray(value) for name, value in inputs.items()}
    made = evaluate(graph, arrays, weights or {}, Mode.F64)
    return [np.asarray(made[name], np.float64) for name, _, _ in graph.outputs]


def close(got: Reals, expected: object) -> None:
    np.testing.assert_allclose(got, np.asarray(expected), rtol=1e-12, atol=1e-12)


def kinds(graph: Graph) -> list[str]:
    return [type(n).__name__ for n in topological(graph) if not isinstance(n, Input)]


def message(text: str, **sizes: Size) -> str:
    with pytest.raises(SdlError) as caught:
        build(load(None, text), None, sizes, {}, DType.F32)
    return str(caught.value)


def nodes(graph: Graph, kind: type[Node]) -> list[Node]:
    return [n for n in topological(graph) if isinstance(n, kind)]


# ---- index notation ------------------------------------------------------------------------------


def test_softmax_is_one_reduction_and_one_map() -> None:
    graph = graph_of("", "softmax", b=(2, 3), n=5)
    assert kinds(graph) == ["Reduce", "Map"]
    x = drawn(2, 3, 5)
    e = np.exp(x - x.max(-1, keepdims=True))
    close(run(graph, x=x)[0], e / e.sum(-1, keepdims=True))


def test_a_reduction_alone_on_the_right_is_the_node() -> None:
    graph = graph_of("", "matmul", precision=DType.F16, b=2, m=3, k=4, n=5)
    (node,) = (n for n in topological(graph) if not isinstance(n, Input))
    assert isinstance(node, Reduce) and node.monoid.is_sum
    assert node.dtypes == (DType.F16,) and node.shape == (2, 3, 5)


def test_a_nested_reduction_keeps_the_axes_that_it_uses() -> None:
    text = """
    op f(x: T[n, m], y: T[k]) -> T[n, k] {
      out[i, j] = y[j] * (sum over a of x[i, a]) + (max over b of y[b])
    }"""
    graph = graph_of(text, n=2, m=3, k=4)
    first, second = nodes(graph, Reduce)
    assert {first.shape, second.shape} == {(2,), ()}
    x, y = drawn(2, 3), drawn(4, seed=1)
    close(run(graph, x=x, y=y)[0], np.outer(x.sum(1), y) + y.max())


def test_reductions_nest_and_shadow() -> None:
    text = """
    op f(x: T[n, m]) -> T[n] {
      out[i] = sum over j of x[i, j] * (sum over i < n of x[i, j])
    }"""
    x = drawn(3, 4)
    close(run(graph_of(text, n=3, m=4), x=x)[0], (x * x.sum(0)).sum(1))


def test_finish_is_what_readers_see() -> None:
    text = """
    op f(x: T[*b, n]) -> (mean: f32[*b], spread: f32[*b]) {
      s[*b] = reduce mean_var over i < n of (n = 1, mean = x[*b, i], m2 = 0)
      mean[*b] = s.mean[*b]
      spread[*b] = sqrt(s.var[*b])
    }"""
    graph = graph_of(text, b=(2, 3), n=7)
    x = drawn(2, 3, 7)
    mean, spread = run(graph, x=x)
    close(mean, x.mean(-1))
    close(spread, x.std(-1))
    assert len(nodes(graph, Reduce)) == 1


def test_a_monoid_of_the_users_own() -> None:
    text = """
    monoid last_and_count {
      key: i32 = -1
      value: f32 = 0
      combine(a, b) {
        newer = b.key > a.key
        key = max(a.key, b.key)
        value = if newer then b.value else a.value
      }
    }
    op f(x: T[n, m]) -> T[n] {
      s[i] = reduce last_and_count over j of (key = if x[i, j] > 0 then j else -1, value = x[i, j])
      out[i] = s.value[i]
    }"""
    x = np.array([[1.0, -2.0, 3.0, -4.0], [5.0, -1.0, -1.0, -1.0]])
    close(run(graph_of(text, n=2, m=4), x=x)[0], [3.0, 5.0])


def test_booleans_and_integers() -> None:
    text = """
    op f(x: T[n, m]) -> (some: bool[n], every: bool[n], count: i32[n], best: i32[n]) {
      some[i] = any over j of x[i, j] > 1
      every[i] = all over j of x[i, j] > -1 and not x[i, j] == 0
      count[i] = i * m + 1
      s[i] = reduce arg_max over j of (value = x[i, j], index = j)
      best[i] = s.index[i]
    }"""
    x = drawn(3, 4)
    graph = graph_of(text, n=3, m=4)
    assert [n.dtypes[f] for _, n, f in graph.outputs] == [
        DType.BOOL,
        DType.BOOL,
        DType.I32,
        DType.I32,
    ]
    some, every, count, best = run(graph, x=x)
    close(some, (x > 1).any(1))
    close(every, (x > -1).all(1))
    close(count, np.arange(3) * 4 + 1)
    close(best, x.argmax(1))


def test_lists_of_numbers_are_constant_tensors() -> None:
    text = """
    op f(x: T[n]) -> T[3] {
      taps = [[1, 0.5], [0.25, 2], [3, 4]]
      out[i] = sum over j < 2 of taps[i, j] * (x[i + j] else 0)
    }"""
    graph = graph_of(text, n=3)
    (const,) = nodes(graph, Const)
    assert const.shape == (3, 2)
    x = drawn(4)[:3]
    wide = np.append(x, 0)
    taps = np.array([[1, 0.5], [0.25, 2], [3, 4]])
    close(run(graph, x=x)[0], [taps[i] @ wide[i : i + 2] for i in range(3)])


def test_functions_are_expanded_at_points_and_over_tensors() -> None:
    text = """
    fn swish(x, beta) = x / (1 + exp(-beta * x))
    op f(x: T[n]) -> (a: T[n], b: T[n]) {
      a[i] = swish(x[i], 2)
      b = swish(x, 2) * 1.0
    }"""
    x = drawn(5)
    a, b = run(graph_of(text, n=5), x=x)
    close(a, x / (1 + np.exp(-2 * x)))
    close(b, a)


# ---- ranges --------------------------------------------------------------------------------------


def fills(graph: Graph) -> list[bool]:
    found = [r for n in topological(graph) for r in reads(n) if not isinstance(r.source, Const)]
    return [r.fill is not None for r in found]


def test_a_guard_that_is_not_needed_is_dropped() -> None:
    text = "op f(x: T[n]) -> T[n] { out[i] = x[i] else 0 }"
    assert fills(graph_of(text, n=4)) == [False]


def test_what_a_condition_allows_is_read_with_a_fill() -> None:
    text = "op f(x: T[n]) -> T[n] { out[i] = if i > 0 then x[i - 1] else x[n - 1] }"
    graph = graph_of(text, n=4)
    assert sorted(fills(graph)) == [False, True]
    x = drawn(4)
    close(run(graph, x=x)[0], np.roll(x, 1))


def test_the_else_value_knows_that_the_index_is_out_of_range() -> None:
    text = """
    op join(x: T[n], y: T[m], z: T[k]) -> T[n + m + k] {
      out[i] = x[i] else (y[i - n] else z[i - n - m])
    }"""
    x, y, z = drawn(2), drawn(3, seed=1), drawn(4, seed=2)
    graph = graph_of(text, n=2, m=3, k=4)
    close(run(graph, x=x, y=y, z=z)[0], np.concatenate([x, y, z]))


def test_guarded_fields_of_records() -> None:
    text = """
    op f(x: T[n, m]) -> T[n + 2] {
      s[i] = reduce mean_var over j of (n = 1, mean = x[i, j], m2 = 0)
      out[i] = s.var[i - 1] else -1
    }"""
    x = drawn(3, 4)
    close(run(graph_of(text, n=3, m=4), x=x)[0], [-1, *x.var(1), -1])


def test_reshapes_and_reflections_are_proven() -> None:
    text = """
    op f(x: T[n, m]) -> (a: T[m, n], b: T[n + 4]) {
      a[i, j] = x[(i * n + j) / m, (i * n + j) % m]
      b[i] = x[n - 1 - abs(n - 1 - abs(i - 2)), 0]
    }"""
    x = drawn(3, 4)
    a, b = run(graph_of(text, n=3, m=4), x=x)
    close(a, x.reshape(4, 3))
    close(b, np.pad(x[:, 0], 2, mode="reflect"))


def test_a_reduction_does_not_see_the_condition_around_it() -> None:
    text = (
        "op f(x: T[n, m]) -> T[n] { out[i] = if i > 0 then (sum over j < m of x[i - 1, j]) else 0 }"
    )
    assert "test inside of it" in message(text, n=3, m=2)


# ---- whole tensors -------------------------------------------------------------------------------


def test_a_statement_without_axes_is_one_map() -> None:
    text = "op f(x: T[n, m], y: T[n, m]) -> T[n, m] { return (x + 2 * y) / 3 - exp(-x) }"
    graph = graph_of(text, n=2, m=3)
    assert kinds(graph) == ["Map"]
    x, y = drawn(2, 3), drawn(2, 3, seed=1)
    close(run(graph, x=x, y=y)[0], (x + 2 * y) / 3 - np.exp(-x))


def test_slices() -> None:
    text = """
    op f(x: T[n, m]) -> (a: T[n, 2], b: T[m], c: T[2]) {
      a = x[.., 1..3] * 2
      b = x[-1, ..]
      return a, b, (x + x)[.., -2..][0, ..]
    }"""
    x = drawn(3, 5)
    a, b, c = run(graph_of(text, n=3, m=5), x=x)
    close(a, x[:, 1:3] * 2)
    close(b, x[-1])
    close(c, 2 * x[0, -2:])


def test_lists_loops_and_reassignment() -> None:
    text = """
    op f(x: T[n]) -> T[n] {
      stages = []
      for i, factor in [2, 3] + [5] {
        if factor == 3 { x = x + 1 } else if i == 0 { x = factor * x } else { x = -x }
        stages = stages + [x]
      }
      total = stages[-1]
      for s in reversed(stages[..-1]) { total = total + s }
      for k < 2 { total = total * (k + 1) }
      return total
    }"""
    x = drawn(4)
    expected = 2 * (-(2 * x + 1) + (2 * x + 1) + 2 * x)
    close(run(graph_of(text, n=4), x=x)[0], expected)


def test_optional_tensors_and_multiple_results() -> None:
    text = """
    op g(x: T[n], bias: f32[n]? = none; scale: float = n / 2) -> (a: T[n], b: T[n]) {
      a[i] = x[i] * scale
      if bias != none { a[i] = a[i] + bias[i] }
      b[i] = if bias == none then 0 else bias[i]
    }
    model f(x: T[n], y: f32[n]) -> T[n] {
      a, b = g(x)
      c, d = g(x, y; scale = 3)
      e, h = g(x; bias = y)
      return a + b + c + d + e + h
    }"""
    x, y = drawn(6), drawn(6, seed=1)
    close(run(graph_of(text, n=6), x=x, y=y)[0], x * 3 + x * 3 + y + y + x * 3 + y + y)


def test_numbers_are_tensors_of_rank_0_where_one_is_wanted() -> None:
    text = """
    op g(x: T[n], c: T[]) -> T[n] { out[i] = x[i] * c[] + c }
    op f(x: T[n]) -> T[n] { return g(x, 3) }"""
    x = drawn(4)
    close(run(graph_of(text, "f", n=4), x=x)[0], 3 * x + 3)


# ---- element types -------------------------------------------------------------------------------


def test_local_tensors_are_stored_as_the_type_variable() -> None:
    text = """
    op f(x: T[n, m]) -> T[n] {
      scaled[i, j] = x[i, j] * 2
      total[i] = sum over j of scaled[i, j]
      mean[i] = total[i] / m
      index[i < n, j < m] = i + j
      flag[i, j < m] = x[i, j] > index[i, j]
      out[i] = mean[i] + (sum over j of if flag[i, j] then 1 else 0)
    }"""
    graph = graph_of(text, precision=DType.F16, n=2, m=3)
    stored = {n.origin.name: n.dtypes[0] for n in topological(graph)}
    assert stored["scaled"] is stored["mean"] is stored["out"] is DType.F16
    assert stored["total"] is stored["out_sum"] is DType.F32
    assert (stored["index"], stored["flag"]) == (DType.I32, DType.BOOL)


def test_a_type_that_nothing_binds_is_the_precision() -> None:
    text = """
    op to(x: S[n]) -> T[n] { out[i] = x[i] }
    model f(x: f32[n], y: T[n]) -> T[n] { return to(x) + y }"""
    graph = graph_of(text, precision=DType.F16, n=3)
    assert [n.dtypes[0] for n in nodes(graph, Map)] == [DType.F16, DType.F16]


def test_stored_reductions_of_integers_convert() -> None:
    text = """
    op f(x: T[n]) -> T[] {
      s[] = reduce arg_max over i < n of (value = x[i], index = i)
      out[] = s.index[] + 0.5
    }"""
    assert run(graph_of(text, n=3), x=np.array([1.0, 7.0, 2.0]))[0] == 1.5


# ---- blocks and models ---------------------------------------------------------------------------

MLP = """
model mlp(x: T[b, n]) -> T[b, n] "Layers of widths that the configuration names." {
  config hidden = [8, 8]
  for k, width in hidden {
    x = layers.{k}: linear(x, width)
  }
  return head: linear(x, n; bias = false)
}
"""


def weight_shapes(graph: Graph) -> dict[str, tuple[int, ...]]:
    found = [n for n in topological(graph) if isinstance(n, Input) and n.role is Role.WEIGHT]
    return {n.name: n.shape for n in found}


def test_weights_are_named_by_their_scopes() -> None:
    graph = graph_of(MLP, config={"hidden": [5]}, b=2, n=3)
    shapes = weight_shapes(graph)
    assert shapes == {"layers.0.weight": (5, 3), "layers.0.bias": (5,), "head.weight": (3, 5)}
    weights = {name: drawn(*shape, seed=len(name)) for name, shape in shapes.items()}
    x = drawn(2, 3)
    hidden = x @ weights["layers.0.weight"].T + weights["layers.0.bias"]
    close(run(graph, weights, x=x)[0], hidden @ weights["head.weight"].T)


def test_origins_name_the_statement_the_definition_and_the_scope() -> None:
    graph = graph_of(MLP, b=2, n=3)
    bias = next(
        n for n in topological(graph) if n.origin.scope == "layers.1" and isinstance(n, Map)
    )
    assert (bias.origin.name, bias.origin.definition) == ("y", "linear")
    assert bias.origin.span is not None and bias.origin.span.file == "stdlib/matmul.sdl"
    weight = next(n for n in topological(graph) if isinstance(n, Input) and "0.w" in n.name)
    assert weight.origin.span is not None and weight.origin.name == "weight"


def test_a_call_without_a_label_stays_in_the_scope() -> None:
    text = """
    block inner(x: T[n]) -> T[n] {
      param scale: T[n]
      out[i] = x[i] * scale[i]
    }
    block outer(x: T[n]) -> T[n] { return inner(inner(x)) }
    model f(x: T[n]) -> T[n] {
      part = "b"
      return a.{part}: outer(x) + inner(x)
    }"""
    assert weight_shapes(graph_of(text, n=3)) == {"a.b.scale": (3,), "scale": (3,)}


def test_models_within_models_see_their_part_of_the_configuration() -> None:
    text = """
    model part(x: T[n]) -> T[n] {
      config factor = 2
      return x * factor
    }
    model whole(x: T[n]) -> T[n] {
      config factor = 3
      return factor * (first: part(x)) + part(x)
    }"""
    config = {"factor": 5, "first": {"factor": 7}}
    graph = graph_of(text, "whole", config, n=2)
    close(run(graph, x=np.ones(2))[0], [40.0, 40.0])


def test_inputs_are_in_order_and_complete() -> None:
    text = "model f(x: T[n], unused: i32[n], y: T[n]) -> (a: T[n], same: T[n]) { return x + y, x }"
    graph = graph_of(text, n=3)
    assert [i.name for i in graph.inputs] == ["x", "unused", "y"]
    assert all(not isinstance(node, Input) for _, node, _ in graph.outputs)


def test_the_entry_is_the_only_model() -> None:
    text = "op g(x: T[n]) -> T[n] { return x }\n" + MLP
    assert graph_of(text, b=1, n=2).name == "mlp"
    assert graph_of(text, "g", n=2).name == "g"


def test_a_users_definition_shadows_the_librarys_for_user_code_only() -> None:
    text = """
    op softmax(x: T[*b, n]) -> T[*b, n] { out[*b, i] = 2 * x[*b, i] }
    op f(q: T[b, s, w], k: T[b, t, w], v: T[b, t, u]) -> (a: T[b, s, u], c: T[b, s, w]) {
      return attention(q, k, v), softmax(q)
    }"""
    q, k, v = drawn(1, 2, 4), drawn(1, 3, 4, seed=1), drawn(1, 3, 4, seed=2)
    a, c = run(graph_of(text, "f", b=1, s=2, t=3, w=4, u=4), q=q, k=k, v=v)
    close(c, 2 * q)
    scores = np.exp(q @ k.swapaxes(1, 2) / 2)
    close(a, scores / scores.sum(-1, keepdims=True) @ v)


def test_imports_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "a.sdl").write_text(
        'import "b.sdl"\nop twice(x: T[n]) -> T[n] { return two(x) }\n'
    )
    (tmp_path / "parts" / "b.sdl").write_text(
        'import "a.sdl"\nop two(x: T[n]) -> T[n] { out[i] = 2 * x[i] }\n'
    )
    main = tmp_path / "main.sdl"
    main.write_text('import "parts/a.sdl"\nop f(x: T[n]) -> T[n] { return twice(x) }\n')
    graph = build(load(main), None, {"n": 2}, {}, DType.F32)
    close(run(graph, x=np.ones(2))[0], [2.0, 2.0])


# ---- sizes ---------------------------------------------------------------------------------------


def test_sizes_from_shapes() -> None:
    text = "op f(x: T[*b, n], y: T[n, 2 * k], k: i32[m]) -> T[*b] { out[*b] = x[*b, 0] }"
    library = load(None, text)
    shapes = {"x": (2, 3, 5), "y": (5, 4), "k": (7,)}
    assert sizes_from_shapes(library, None, shapes) == {"b": (2, 3), "n": 5, "m": 7}
    for wrong, said in (
        ({"x": (2, 5), "y": (6, 4)}, "`n` is 6 in the input `y`, but 5 in `x`"),
        ({"y": (5,)}, "the input `y` has 2 dimensions"),
        ({"z": (5,)}, "has no input `z`"),
    ):
        with pytest.raises(SdlError, match=said):
            sizes_from_shapes(library, None, wrong)


def test_all_unbound_sizes_are_in_one_error() -> None:
    text = "op f(x: T[*b, n], y: T[n, m]) -> T[*b] { out[*b] = x[*b, 0] }"
    said = message(text, m=3)
    assert "2 sizes have no value: `*b`, `n`" in said
    assert "--set b=2x3 --set n=8" in said


def test_attributes_of_the_entry_are_sizes_or_configuration() -> None:
    text = "op f(x: T[n, k]; k: int, eps: float = k / 2) -> T[n] { out[i] = x[i, 0] * eps }"
    close(run(graph_of(text, n=2, k=4), x=np.ones((2, 4)))[0], [2.0, 2.0])
    close(run(graph_of(text, config={"eps": 5}, n=2, k=4), x=np.ones((2, 4)))[0], [5.0, 5.0])


# ---- errors --------------------------------------------------------------------------------------


def test_independent_errors_are_all_reported() -> None:
    said = message(
        """
    op f(x: T[n]) -> T[n] {
      a[i] = x[i] + unknown
      b[i] = a[i] * x[i + 1]
      c = softmax(b)
      d[i] = x[i + 1]
      out[i] = c[i] + d[i]
    }""",
        n=3,
    )
    assert said.count("error[") == 2 and "unknown name" in said and "x[i + 1]" in said


def test_no_user_error_is_a_traceback_of_the_interpreter() -> None:
    deep = "op f(x: T[n]) -> T[n] { out[i] = " + "-(" * 600 + "x[i]" + ")" * 600 + " }"
    with pytest.raises(SdlError):
        graph_of(deep, n=2)


# ---- speed ---------------------------------------------------------------------------------------


def test_the_full_network_is_built_in_seconds() -> None:
    """SD 1.4's UNet: about 700 calls."""
    config = {
        "block_out_channels": [320, 640, 1280, 1280],
        "layers_per_block": 2,
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
    }
    library = load(SOURCES / "unet.sdl")
    sizes = {"b": 2, "c": 4, "h": 64, "w": 64, "t": 77, "d": 768}
    start = time.process_time()
    graph = build(library, None, sizes, config, DType.F16)
    assert time.process_time() - start < 3
    shapes = weight_shapes(graph)
    assert sum(int(np.prod(s)) for s in shapes.values()) == 859_520_964
    assert not any(isinstance(r, Literal) for n in topological(graph) for r in reads(n))
    assert all(isinstance(r, Read) for n in topological(graph) for r in reads(n))
