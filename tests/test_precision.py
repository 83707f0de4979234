"""Parts of a program in another precision: `precision f32 { … }` in `.sdl`, and `--f32 SCOPE`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import sdlc
from backend_run import DEVICES, device
from conftest import ForAll
from sdlc.backends.devices import target_of
from sdlc.backends.target import load_target
from sdlc.cli import status_of
from sdlc.cli_common import parse_names
from sdlc.graph.node import Graph, Input, Map, Reduce, topological
from sdlc.graph.rules import always, rewrite
from sdlc.graph.types import DType
from sdlc.language.diagnostics import SdlError
from sdlc.language.elaborate import build
from sdlc.language.elaborate_rule import load_rules
from sdlc.language.library import load
from sdlc.language.precision import Scopes
from sdlc.models.folder import load_folder
from sdlc.models.networks import networks, with_scopes
from sdlc.models.settings import GenerateSettings
from sdlc.program.pipeline import compile_graph
from sdlc.proof.source import source_of
from sdlc.schedule.plan import plan
from sdlc.target import Target
from stages import compare, device_route, interpreted_route, legalised_route
from strategies import cases

NETWORK = """block layer(x: T[b, n]; wide: str = "") -> T[b, n] {
  precision wide {
    y = inner: linear(silu(x), n)
  }
  return x + y
}
model network(x: T[b, n]) -> T[b, n] {
  x = layers.0: layer(x; wide = "f16")
  x = layers.1: layer(x; wide = "f16")
  return final: layer_norm(x)
}
"""
SIZES = {"b": 4, "n": 8}


def graph_of(text: str, f32: str = "", precision: DType = DType.F16) -> Graph:
    scopes = Scopes(parse_names([f32]), "network")
    return build(load(None, text), None, SIZES, {}, precision, scopes)


def stored(graph: Graph) -> dict[str, set[DType]]:
    """How floats are stored, by the scope and definition that they come from."""
    found: dict[str, set[DType]] = {}
    for node in topological(graph):
        if isinstance(node, Map | Reduce | Input):
            name = f"{node.origin.scope}/{node.origin.definition}"
            found.setdefault(name, set()).update(node.dtypes)
    return found


# ---- the language --------------------------------------------------------------------------------


def marked(precision: str, body: str = "y = softmax(x)") -> Graph:
    text = f"op f(x: T[b, n]) -> T[b, n] {{ precision {precision} {{ {body} }}; return y + x }}"
    return graph_of(text)


def test_what_a_block_holds_is_stored_as_it_says() -> None:
    assert stored(marked("f32"))["/softmax"] == {DType.F32}
    assert DType.F16 in stored(marked("f16"))["/softmax"]
    assert stored(marked("f32"))["/f"] == {DType.F16}  # the input, and the sum behind the block


def test_a_program_in_f32_may_have_a_part_in_f16() -> None:
    text = "op f(x: T[b, n]) -> T[b, n] { precision f16 { y = relu(x) }; return y + x }"
    found = stored(graph_of(text, precision=DType.F32))
    assert found == {"/f": {DType.F32}, "/relu": {DType.F16}}


def test_types_that_are_written_stay() -> None:
    text = """op half(x: T[b, n]) -> f16[b, n] { out[b, n] = x[b, n] }
op whole(x: T[b, n]) -> f32[b, n] { out[b, n] = 2 * x[b, n] }
model f(x: T[b, n]) -> (a: f16[b, n], b: f32[b, n]) {
  precision f32 { a = half(x * 2) }
  precision f16 { b = whole(x) }
}
"""
    found = stored(graph_of(text))
    assert found["/half"] == {DType.F16} and found["/whole"] == {DType.F32}


def test_what_is_only_moved_is_not_rounded() -> None:
    text = """op f(x: T[b, n]) -> T[n, b] {
  precision f32 { y = x * 4 }
  return transpose(y)
}
"""
    (_, node, _), *_ = graph_of(text).outputs
    assert isinstance(node, Map) and node.dtype is DType.F32 and node.wide


def test_a_precision_may_be_a_value() -> None:
    text = """op f(x: T[b, n]; p: str = "f32") -> T[b, n] {
  kept = if n > 100 then p else none
  precision p { y = relu(x) }
  precision kept { z = silu(y) }
  return z
}
"""
    found = stored(graph_of(text))
    assert found["/relu"] == {DType.F32} and found["/silu"] == {DType.F16}


def test_a_return_inside_ends_the_body() -> None:
    text = "op f(x: T[b, n]) -> T[b, n] { precision f32 { return relu(x) }; return x }"
    assert stored(graph_of(text))["/relu"] == {DType.F32}


def test_the_word_is_free_elsewhere() -> None:
    text = "op f(x: T[b, n]; precision: int = 2) -> T[b, n] { return precision * x }"
    assert stored(graph_of(text))


# ---- scopes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "wide"),
    [
        ("layers.1", {"layers.1/layer", "layers.1/silu", "layers.1.inner/linear"}),
        ("network.layers.1", {"layers.1/layer", "layers.1/silu", "layers.1.inner/linear"}),
        ("*.1.inner", {"layers.1.inner/linear", "layers.1.inner/matmul_nt"}),
        ("silu,final", {"layers.0/silu", "layers.1/silu", "final/layer_norm"}),
        ("layer_norm*", {"final/layer_norm", "final/layer_normalize"}),
        ("network", {"/network", "layers.0/layer", "final/layer_norm"}),
    ],
)
def test_scopes_and_operators_in_f32(pattern: str, wide: set[str]) -> None:
    """The user's word counts, whatever the source says."""
    found = stored(graph_of(NETWORK, pattern))
    assert all(found[name] == {DType.F32} for name in wide)
    if pattern != "network":
        assert found["/network"] == {DType.F16}


@pytest.mark.parametrize(
    ("pattern", "advice"),
    [("layers.7", "layers.1"), ("layr_norm", "layer_norm"), ("zzz", "there are final")],
)
def test_an_unknown_scope_has_a_neighbour(pattern: str, advice: str) -> None:
    with pytest.raises(SdlError) as error:
        graph_of(NETWORK, f"final,{pattern}")
    assert "E049" in str(error.value) and f"--f32 {pattern}" in str(error.value)
    assert advice in str(error.value)


def test_a_pattern_may_belong_to_another_network() -> None:
    scopes = Scopes(("final", "vae.*"), "network", one_of_many=True)
    build(load(None, NETWORK), None, SIZES, {}, DType.F16, scopes)
    assert scopes.here == ("final",)


# ---- rules and kernels ---------------------------------------------------------------------------


@pytest.mark.parametrize("operator", ["softmax", "matmul"])
def test_a_rule_keeps_what_it_replaces_in_f32(operator: str) -> None:
    """Also what it computes on the way, and what nothing stores."""
    text = """op attend(x: T[s, t], v: T[t, f]) -> T[s, f] { return matmul(softmax(x), v) }"""
    graph = build(
        load(None, text), None, {"s": 8, "t": 9, "f": 4}, {}, DType.F16, Scopes((operator,))
    )
    rules = [r for r in load_rules(load(None, text)) if r.name == "flash_attention"]
    made, report = rewrite(graph, rules, always)
    assert report.fired("flash_attention") == 1
    assert all(n.wide for n in topological(made) if isinstance(n, Map | Reduce))


def test_winograd_of_a_convolution_in_f32() -> None:
    text = "op f(x: T[b, c, h, w], k: T[o, c, 3, 3]) -> T[b, o, h, w] { return conv2d(x, k) }"
    sizes = {"b": 1, "c": 4, "h": 8, "w": 8, "o": 4}
    graph = build(load(None, text), None, sizes, {}, DType.F16, Scopes(("conv2d",)))
    rules = [r for r in load_rules(load(None, text)) if r.name == "winograd_4"]
    made, report = rewrite(graph, rules, always)
    assert report.fired("winograd_4") == 1
    computed = [n for n in topological(made) if isinstance(n, Map | Reduce)]
    assert len(computed) > 5 and all(set(n.dtypes) == {DType.F32} for n in computed)


LARGE = """model large(x: T[m, k], w: T[k, k]) -> (y: T[m, k], z: T[m, k], plain: T[m, k]) {
  precision f32 {
    y = matmul_nt(x * 64, w)
  }
  z = layer(y, w)
  plain = matmul_nt(x * 64, w)
}
op layer(y: T[m, k], w: T[k, k]) -> T[m, k] { return matmul_nt(y, w * (1.0 / 512)) }
"""


def in_short_sums(target: str) -> Target:
    """A target whose products may be summed in half precision, sixteen at a time."""
    found = load_target(target)
    return replace(found, profile=replace(found.profile, partial_sums=16))


@pytest.mark.parametrize("target", ["mali", "apple"])
def test_nothing_of_it_is_summed_in_half_precision(target: str) -> None:
    """Nor where a factor is read that must not be rounded: of three sums, the last one only."""
    graph = build(load(None, LARGE), None, {"m": 32, "k": 32}, {}, DType.F16)
    program = compile_graph(graph, in_short_sums(target))
    found = [
        dict(d.bindings) for d in program.dispatches if "_part" in str(program.kernels[d.kernel])
    ]
    assert len(found) == 1 and "plain" in found[0].values()


def test_matrix_instructions_do_not_round_it() -> None:
    """Their factors are halves."""
    text = """model two(x: T[m, k], w: T[k, k]) -> (wide: T[m, k], plain: T[k, k]) {
  precision f32 { wide = matmul_nt(x, w) }
  plain = matmul_nt(w, w)
}
"""
    graph = build(load(None, text), None, {"m": 64, "k": 128}, {}, DType.F16)
    target = load_target("nvidia")
    instruction = next(i.name for i in target.caps.matrix if i.inputs == "f16")
    profile = replace(target.profile, matrix=instruction)
    planned = plan(graph, replace(target, profile=profile))
    names = {node: name for name, node, _ in graph.outputs}
    stored = {names[k.group.stores[0].node]: k.nest.matrix is not None for k in planned.kernels}
    assert stored == {"wide": False, "plain": True}


@pytest.mark.parametrize("selector", DEVICES)
def test_large_values_survive(selector: str) -> None:
    """Values of 1e5 and more, which half precision cannot hold, where it would hold infinities."""
    w = np.ones((32, 32))
    target = target_of(device(selector).info).name
    made = sdlc.compile(LARGE, target=target, sizes={"m": 32, "k": 32}, precision="f16")
    for scale in (1, 2, 5):
        x = np.random.default_rng(scale).uniform(60, 100, (32, 32)) * scale
        got = made.run(x=x, w=w, device=device(selector))
        half = x.astype(np.float16).astype(np.float64)
        exact = np.repeat(half.sum(axis=1)[:, None] * 64, 32, axis=1)
        assert exact.min() > 1e5 and got["y"].dtype == np.float32
        np.testing.assert_allclose(got["y"], exact, rtol=1e-5)
        np.testing.assert_allclose(got["z"], exact * 32 / 512, rtol=2e-3)
        assert np.isinf(got["plain"]).all()


@pytest.mark.parametrize("target", ["cpu", "adreno"])
def test_random_parts_interpreted(target: str, for_all: ForAll) -> None:
    route = interpreted_route(target)
    for_all(cases(marked=True), lambda case: compare(case, route), 30, 0.3)


def test_random_parts_legalised(for_all: ForAll) -> None:
    route = legalised_route("mali", "opencl")
    for_all(cases(marked=True), lambda case: compare(case, route), 20, 0.3)


@pytest.mark.parametrize("selector", DEVICES)
def test_random_parts_on_devices(selector: str, for_all: ForAll) -> None:
    language = "wgsl" if selector == "llvmpipe" else "opencl"
    route = device_route("cpu" if language == "opencl" else "llvmpipe", language, selector)
    for_all(cases(marked=True), lambda case: compare(case, route), 5, 0.1)


def test_compiling_twice_does_not_mix_precisions() -> None:
    """Equal nodes are one object: what is in f32 must not be equal to what is not."""
    plain, wide = graph_of(NETWORK), graph_of(NETWORK, "matmul_nt")
    kernels = [compile_graph(g, in_short_sums("mali")).kernels for g in (plain, wide, plain)]
    assert kernels[0] == kernels[2] != kernels[1]


def test_a_reproducer_says_what_is_in_f32() -> None:
    graph = graph_of(NETWORK, "silu,layers.1")
    made = source_of(graph)
    again = build(load(None, made.text), None, {}, {}, made.precision)
    marks = [
        [n.wide for n in topological(g) if isinstance(n, Map | Reduce)] for g in (graph, again)
    ]
    assert marks[0] == marks[1] and any(marks[0])


# ---- the command line ----------------------------------------------------------------------------


def test_kept_programs_differ_by_their_scopes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("network.sdl").write_text(NETWORK)
    command = ["compile", "network.sdl", "--set", "b=4", "n=8", "--precision", "f16", "--json"]
    seen = []
    for more in ([], ["--f32", "final"], ["--f32", "layers.0,silu"], ["--f32", "final"]):
        assert status_of([*command, *more]) == 0
        made = json.loads(capsys.readouterr().out)
        seen.append((made["memory"]["weights"], made["cached"]))
    weights, cached = zip(*seen, strict=True)
    assert weights[0] < weights[1] == weights[3] < weights[2]
    assert cached == (False, False, False, True)
    assert status_of([*command, "--f32", "layers.2"]) == 1
    assert "did you mean `layers.1`?" in capsys.readouterr().err


def test_a_scope_that_no_network_has(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["generate", "a cat", "--precision", "f16", "--device", "pocl", "--size", "64x64"]
    assert status_of([*command, "--f32", "vae,unet.mid_blok"]) == 1
    assert "did you mean `unet.mid_block`?" in capsys.readouterr().err


def test_networks_take_the_scopes_that_they_have() -> None:
    settings = GenerateSettings("a cat", size=(64, 64), f32=("vae", "mid_block", "*.fc1"))
    found = with_scopes(networks(load_folder(None), settings))
    assert [n.f32 for n in found] == [("*.fc1",), ("mid_block",), ("vae",)]
