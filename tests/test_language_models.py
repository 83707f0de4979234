"""Blocks, models, sizes and errors of whole programs: scopes, weights, configuration, imports."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from elaborated import close, drawn, graph_of, message, run
from sdlc.graph.expr import Literal, Read
from sdlc.graph.node import Graph, Input, Map, Role, reads, topological
from sdlc.graph.types import DType
from sdlc.language.diagnostics import SdlError
from sdlc.language.elaborate import build, sizes_from_shapes
from sdlc.language.library import load
from sdlc.models.folder import SOURCES

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
