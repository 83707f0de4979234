"""Elaboration: programs become the graphs that they mean, compared with NumPy by the reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from elaborated import close, drawn, graph_of, kinds, message, nodes, run
from sdlc.graph.node import Const, Graph, Input, Map, Reduce, reads, topological
from sdlc.graph.types import DType
from sdlc.language.elaborate import build
from sdlc.language.library import load

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


def test_equal_operators_of_two_programs_are_cited_by_their_own_lines(tmp_path: Path) -> None:
    """Whichever was read first, and through the library's definitions too; a program that is read
    again is the same one, and within it what is equal is one node."""
    body = "{ y[i] = exp(x[i]) * 2\n  z = softmax(y)\n  out[i] = y[i] + z[i]\n  return out }\n"
    for name, lines in (("first", 0), ("second", 3)):
        text = "\n" * lines + f"op {name}(x: T[n]) -> T[n] {body}"
        (tmp_path / f"{name}.sdl").write_text(text)
    kept = [
        build(load(tmp_path / f"{name}.sdl"), name, {"n": 5}, {}, DType.F32)
        for name in ("first", "second", "first")
    ]
    for graph, name, lines in zip(kept, ("first", "second", "first"), (0, 3, 0), strict=True):
        places = []
        for node in topological(graph):
            span = node.origin.span
            assert span is not None
            places += [s for s in (span, *node.origin.sites) if not s.file.startswith("stdlib")]
        assert {Path(s.file).stem for s in places} == {name}
        assert min(s.line for s in places) == lines + 1
    assert kept[0].outputs == kept[2].outputs != kept[1].outputs
