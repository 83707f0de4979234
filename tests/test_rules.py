"""Every rule earns its place: it is sound, it fires, it matters, it is optional.

The four tests of a rule are generated from it: sizes are drawn, both sides are built, and the left
side is put among axes that the rule does not mention, behind a map that computes its operands.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from conftest import ForAll
from rule_programs import MECHANISM_PROGRAMS, embedded, values_for
from sdlc.graph import beside
from sdlc.graph.expr import Read
from sdlc.graph.node import Graph, Node, Reduce, is_static, reads, topological
from sdlc.graph.reference import Mode, evaluate
from sdlc.graph.rules import Rule, always, rewrite, select
from sdlc.graph.types import DType
from sdlc.language.diagnostics import SdlError
from sdlc.language.elaborate import build
from sdlc.language.elaborate_rule import load_rules
from sdlc.language.library import load
from sdlc.proof.tolerance import Numerics, check, mode_of, tolerance
from strategies import Case, build_graph, cases, drawable, weights_of

LIBRARY = load(None, "fn unused(x) = x")
RULES = load_rules(LIBRARY)
EQUATIONS = [r for r in RULES if r.kind == "equation"]
MECHANISMS = [r for r in RULES if r.kind == "mechanism"]
SIZES = (1, 2, 3, 4, 5, 7, 8, 13)
names = pytest.mark.parametrize("rule", EQUATIONS, ids=lambda r: r.name)
mechanisms = pytest.mark.parametrize("rule", MECHANISMS, ids=lambda r: r.name)


@st.composite
def instances(draw: st.DrawFn, rule: Rule) -> dict[str, int]:
    """Sizes of an instance: an example's, some of them changed to others that divide nothing."""
    sizes = dict(draw(st.sampled_from(rule.examples)))
    for name in draw(st.sets(st.sampled_from(sorted(sizes)))):
        sizes[name] = draw(st.sampled_from(SIZES))
    return sizes


def sides(rule: Rule, sizes: dict[str, int], dtype: DType) -> tuple[Graph, Graph]:
    assert rule.sides is not None
    try:
        return rule.sides(sizes, dtype)
    except SdlError as error:
        assume(error.diagnostics[0].code != "E037")  # the rule is not for these sizes
        raise


def agree(before: Graph, after: Graph, rule: Rule, seed: int) -> None:
    """Both graphs compute the same, up to what the rule's numerics class allows."""
    inputs, weights = values_for(before, seed), weights_of(before)
    got = evaluate(after, inputs, weights, mode_of(after))
    numerics = Numerics[rule.numerics.name]
    allowed = tolerance(before, inputs, weights)
    check(allowed, got, numerics, rule.name)


seeds = st.integers(0, 2**32 - 1)


@names
@settings(max_examples=8, deadline=None)
@given(data=st.data(), seed=seeds, dtype=st.sampled_from([DType.F32, DType.F16]))
def test_sound(rule: Rule, data: st.DataObject, seed: int, dtype: DType) -> None:
    """Both sides are equal."""
    left, right = sides(rule, data.draw(instances(rule)), dtype)
    agree(left, right, rule, seed)


@names
@settings(max_examples=6, deadline=None)
@given(data=st.data(), seed=seeds)
def test_fires_and_matters(rule: Rule, data: st.DataObject, seed: int) -> None:
    """The left side among other axes, behind a prologue, is rewritten to something else, which
    computes the same."""
    left, _ = sides(rule, data.draw(instances(rule)), DType.F32)
    graph = embedded(left)
    after, report = rewrite(graph, [rule], always)
    assert report.fired(rule.name) == 1, report
    assert str(after) != str(graph)
    agree(graph, after, rule, seed)


@names
def test_optional(rule: Rule) -> None:
    """Without the rule, the graph stays as it is."""
    graph = embedded(sides(rule, dict(rule.examples[0]), DType.F32)[0])
    others = select(RULES, without=[rule.name])
    after, report = rewrite(graph, others, always)
    assert report.fired(rule.name) == 0
    agree(graph, after, rule, 0)


@names
def test_twice_is_once(rule: Rule) -> None:
    graph = embedded(sides(rule, dict(rule.examples[0]), DType.F32)[0])
    once, _ = rewrite(graph, [rule], always)
    twice, _ = rewrite(once, [rule], always)
    assert str(twice) == str(once)


# ---- mechanisms ----------------------------------------------------------------------------------


@mechanisms
@settings(max_examples=8, deadline=None)
@given(data=st.data(), seed=seeds, dtype=st.sampled_from([DType.F32, DType.F16]))
def test_mechanism(rule: Rule, data: st.DataObject, seed: int, dtype: DType) -> None:
    """Sound, fires, matters, optional: on drawn sizes of programs that have what it looks for."""
    text, sizes = data.draw(st.sampled_from(MECHANISM_PROGRAMS[rule.name]))
    drawn = {n: data.draw(st.integers(low, high)) for n, (low, high) in sizes.items()}
    graph = build(load(None, text), None, drawn, {}, dtype)
    after, report = rewrite(graph, [rule], always)
    assert report.fired(rule.name) >= 1, report
    assert str(after) != str(graph)
    agree(graph, after, rule, seed)
    assert rewrite(graph, select([rule], without=[rule.name]))[0] is graph


@settings(max_examples=20, deadline=None)
@given(data=st.data(), seed=seeds)
def test_joined_tensors_are_contracted_by_parts(data: st.DataObject, seed: int) -> None:
    """Reads of a joined tensor, then sums by parts, then borders: nothing joined is left."""
    rules = select(RULES, only=["concat_read", "concat_k", "halo"])
    text, sizes = data.draw(st.sampled_from(MECHANISM_PROGRAMS["concat_read"]))
    drawn = {n: data.draw(st.integers(low, high)) for n, (low, high) in sizes.items()}
    graph = build(load(None, text), None, drawn, {}, DType.F32)
    after, report = rewrite(graph, rules, always)
    assert report.fired("concat_read") and report.fired("concat_k")
    reductions = [n for n in topological(after) if isinstance(n, Reduce)]
    assert not any(isinstance(r.fill, Read) for n in reductions for r in reads(n))
    agree(graph, after, next(r for r in rules if r.name == "concat_k"), seed)


def test_a_result_is_read_where_it_is() -> None:
    """Products of one operand that end in one sum are one, but not the one that is a result."""
    text = """model m(x: T[b, c]) -> (a: T[b, c], out: T[b, c]) {
      y = silu(x)
      a = first: linear(y, c; bias = false)
      out = a + (second: linear(y, c; bias = false)) * (third: linear(y, c; bias = false))
    }"""
    graph = build(load(None, text), None, {"b": 3, "c": 4}, {}, DType.F32)
    (rule,) = select(RULES, only=["join_read_together"])
    after, report = rewrite(graph, [rule], always)
    assert report.fired(rule.name) == 2
    agree(graph, after, rule, 0)


def test_what_is_computed_together_is_not_joined_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Projections of one operand that end in one sum and are computed in several pieces: none has
    more rows than there are in all."""
    text = """model m(x: T[b, s, c], r: T[b, o]) -> T[b, o] {
      y = silu(x)
      z = r
      for n < 12 {
        k = exp(key.{n}: linear(y, o; bias = false))
        v = exp(value.{n}: linear(y, o; bias = false))
        z[i, j] = z[i, j] + (sum over l < s of k[i, l, j] * v[i, l, j])
      }
      return z
    }"""
    monkeypatch.setattr(beside, "MOST", 4 * 2 * 3 * 5)
    graph = build(load(None, text), None, {"b": 2, "s": 3, "c": 4, "o": 5}, {}, DType.F32)
    rules = select(RULES, only=["join_weights", "join_read_together"])
    after, report = rewrite(graph, rules, always)
    assert report.fired("join_weights")
    weights = [w for n in topological(after) if isinstance(n, Reduce) for w in _weights_read(n)]
    assert weights and max(w.shape[0] for w in weights) <= 24 * 5
    agree(graph, after, rules[0], 0)


@pytest.mark.parametrize(
    ("layers", "most", "rows"),
    [(1, 1 << 24, [10]), (2, 1 << 24, [20]), (3, 1 << 24, [30]), (3, 119, [15, 15])],
)
def test_keys_and_values_of_all_layers_are_one_product(
    layers: int, most: int, rows: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys are used alike, and values are; part by part they end in one sum. Where their weight
    would be too large they stay two."""
    monkeypatch.setattr(beside, "MOST_WEIGHT", most)
    text = """model m(x: T[b, s, c], q: T[b, o]) -> T[b, o] {
      for n < layers {
        k = key.{n}: linear(x, o; bias = false)
        v = value.{n}: linear(x, o; bias = false)
        p[i, l] = exp(sum over j < o of q[i, j] * k[i, l, j])
        q[i, j] = q[i, j] / 2 + (sum over l < s of v[i, l, j] * p[i, l])
      }
      return q
    }""".replace("layers", str(layers))
    graph = build(load(None, text), None, {"b": 2, "s": 3, "c": 4, "o": 5}, {}, DType.F32)
    rules = select(RULES, only=["join_weights", "join_read_together"])
    after, _ = rewrite(graph, rules, always)
    products = [n for n in topological(after) if isinstance(n, Reduce) and _weights_read(n)]
    assert [w.shape[0] for n in products for w in _weights_read(n)] == rows
    agree(graph, after, rules[0], 0)


def _weights_read(node: Reduce) -> list[Node]:
    return [r.source for r in reads(node) if is_static(r.source)]


def test_biases_of_different_axes_stay_apart() -> None:
    """Also where both are as long."""
    text = """model m(x: T[n, n]) -> T[n, n] {
      param c: T[n]
      param d: T[n]
      y[i, j] = x[i, j] + c[j]
      out[i, j] = y[i, j] + d[i]
    }"""
    graph = build(load(None, text), None, {"n": 3}, {}, DType.F32)
    assert rewrite(graph, select(MECHANISMS, only=["join_biases"]), always)[0] is graph


def test_every_mechanism_has_programs() -> None:
    assert set(MECHANISM_PROGRAMS) == {r.name for r in MECHANISMS}


# ---- random programs -----------------------------------------------------------------------------

WORDS = ("softmax", "mat", "conv", "attention", "silu", "transpose", "concat", "pad", "upsample")
DRAWN = tuple(name for name in drawable() if any(word in name for word in WORDS))


def test_random_programs_compute_the_same(for_all: ForAll) -> None:
    """Every rule whose constants are exact, wherever it fires: in f64, within the f32 error."""
    rules = [r for r in RULES if r.name not in ("winograd_4", "winograd_6", "winograd_1d_4")]
    fired: Counter[str] = Counter()

    def compute_the_same(case: Case) -> None:
        graph = build_graph(case)
        after, report = rewrite(graph, rules, always)
        acted = [a.rule for a in report.attempts if a.fired]
        fired.update(acted)
        if acted:
            arrays = case.inputs, weights_of(graph)
            got = evaluate(after, *arrays, Mode.F64)
            check(tolerance(graph, *arrays), got, Numerics.RESCALED, ", ".join(acted))

    for_all(cases(only=DRAWN), compute_the_same, 80, 0.2)
    assert sum(fired.values()) > 10


# ---- what must not match -------------------------------------------------------------------------

STRANGERS = {
    "statistics of another": (
        "flash_attention",
        """op f(x: T[s, t], y: T[s, t], v: T[t, e]) -> T[s, e] {
          a[i < s] = reduce softmax_stats over j < t of (m = y[i, j], l = 1)
          p[i < s, j < t] = exp(x[i, j] - a.m[i]) / a.l[i]
          return matmul(p, v)
        }""",
        {"s": 3, "t": 4, "e": 2},
        "`x` is `x[i, j]` in one place and `y[i, j]` in another",
    ),
    "another value outside": (
        "winograd_1d_2",
        """op f(x: T[b, c, w], k: T[o, c, 3]) -> T[b, o, w] {
          out[b, p, i] = sum over d < c, j < 3 of (x[b, d, i + j - 1] else 1) * k[p, d, j]
        }""",
        {"b": 1, "c": 2, "w": 5, "o": 3},
        "`1` is not 0",
    ),
    "a kernel that changes on its way": (
        "winograd_1d_2",
        """op f(x: T[b, c, w], k: T[w, o, c, 3]) -> T[b, o, w] {
          out[b, p, i] = sum over d < c, j < 3 of (x[b, d, i + j - 1] else 0) * k[i, p, d, j]
        }""",
        {"b": 1, "c": 2, "w": 5, "o": 3},
        "`k` must not depend on `i`",
    ),
    "a wider window": (
        "winograd_1d_2",
        "op f(x: T[b, c, w], k: T[o, c, 5]) -> T[b, o, w] { return conv1d(x, k) }",
        {"b": 1, "c": 2, "w": 5, "o": 3},
        "the extent of `j` is 5, not 3",
    ),
    "a part of a picture": (
        "winograd_1d_2",
        """op f(x: T[b, c, v], k: T[o, c, 3]; w: int) -> T[b, o, w] {
          out[b, p, i] = sum over d < c, j < 3 of (x[b, d, i + j - 1] else 0) * k[p, d, j]
        }""",
        {"b": 1, "c": 2, "v": 9, "o": 3, "w": 5},
        "",
    ),
}


@pytest.mark.parametrize("case", STRANGERS)
def test_strangers_do_not_match(case: str) -> None:
    name, text, sizes, why = STRANGERS[case]
    graph = build(load(None, text), "f", sizes, sizes, DType.F32)
    report = rewrite(graph, select(RULES, only=[name]), always)[1]
    assert report.fired(name) == 0
    assert why in " ".join(report.refusals(name))


def test_what_is_made_of_weights_has_no_other_axes() -> None:
    """Many pictures, one kernel: it is transformed once."""
    text = """op f(x: T[z, b, c, w], k: T[o, c, 3]) -> T[z, b, o, w] {
      out[z, b, p, i] = sum over d < c, j < 3 of (x[z, b, d, i + j - 1] else 0) * k[p, d, j]
    }"""
    sizes = {"z": 2, "b": 3, "c": 2, "w": 5, "o": 4}
    graph = build(load(None, text), None, sizes, {}, DType.F32)
    after, report = rewrite(graph, select(RULES, only=["winograd_1d_2"]), always)
    assert report.fired("winograd_1d_2") == 1
    (weights,) = (n for n in topological(after) if n.origin.name == "u")
    assert weights.shape == (4, 2, 4)


# ---- choosing ------------------------------------------------------------------------------------


def test_select() -> None:
    name = EQUATIONS[0].name
    assert name not in {r.name for r in select(RULES, without=[name])}
    assert [r.name for r in select(RULES, only=[name])] == [name]
    with pytest.raises(SdlError, match=f"did you mean `{name}`"):
        select(RULES, without=[name[:-1]])
    with pytest.raises(SdlError, match="there is no rule `zzz`"):
        select(RULES, only=["zzz"])


def test_every_rule_says_what_it_is() -> None:
    for rule in RULES:
        assert rule.doc.endswith(".") and (rule.examples or rule.kind != "equation")


def test_attention_in_ones_own_words() -> None:
    """No operator of the library is called, and one rule makes what the next one looks for."""
    text = """op own(q: T[b, s, e], k: T[b, t, e], v: T[b, t, f]) -> T[b, s, f] {
      scores[b, i, j] = sum over d < e of q[b, i, d] * k[b, j, d]
      top[b, i < s] = max over j < t of scores[b, i, j]
      weight[b, i, j] = exp(scores[b, i, j] - top[b, i])
      total[b, i < s] = sum over j < t of weight[b, i, j]
      p[b, i, j] = weight[b, i, j] / total[b, i]
      out[b, i, d] = sum over j < t of p[b, i, j] * v[b, j, d]
    }"""
    graph = build(load(None, text), None, {"b": 2, "s": 3, "t": 4, "e": 2, "f": 5}, {}, DType.F32)
    rules = select(RULES, only=["softmax_one_pass", "flash_attention"])
    after, report = rewrite(graph, rules)
    assert report.fired("softmax_one_pass") == report.fired("flash_attention") == 1
    agree(graph, after, rules[1], 0)


def test_results_keep_names_types_and_order() -> None:
    text = """model two(x: T[s, t], v: T[t, f]) -> (first: T[s, f], second: T[s, t]) {
      first = matmul(softmax(x), v)
      second = softmax(x)
    }"""
    graph = build(load(None, text), None, {"s": 3, "t": 4, "f": 5}, {}, DType.F16)
    after, report = rewrite(graph, RULES, always)
    assert [name for name, _, _ in after.outputs] == ["first", "second"]
    assert [n.dtypes[f] for _, n, f in after.outputs] == [n.dtypes[f] for _, n, f in graph.outputs]
    assert "also read" in "".join(report.refusals("flash_attention")) or "result" in str(report)
    arrays = values_for(graph, 0)
    for name, value in evaluate(graph, arrays, {}, Mode.F64).items():
        np.testing.assert_allclose(evaluate(after, arrays, {}, Mode.F64)[name], value, rtol=1e-9)


def test_what_reads_only_constants_has_nothing_beside_it() -> None:
    text = "model m() -> f32[1] { return reduce_norm(causal_mask(; queries = 1)) }"
    graph = build(load(None, text), None, {}, {}, DType.F32)
    assert rewrite(graph, RULES, always)[0].outputs
