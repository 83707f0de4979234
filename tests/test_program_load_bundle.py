"""Load programs in bundles: written, read, refused where they contradict the program."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphs import SUM, axes, read, weight
from graphs import given as given_input
from sdlc.api import compile
from sdlc.backends.target import load_target
from sdlc.graph.expr import apply
from sdlc.graph.node import Const, Graph, Map, Node, Reduce
from sdlc.graph.reference import Mode, evaluate
from sdlc.graph.types import Array, DType, Origin
from sdlc.language.diagnostics import SdlError
from sdlc.models.cache import kept
from sdlc.program.bundle import read_bundle, write_bundle
from sdlc.program.interpreted import InterpreterDevice
from sdlc.program.load import prepared
from sdlc.program.pipeline import compile_graph
from sdlc.program.program import Program
from stages import device

F = DType.F32
TARGET = load_target("cpu")


def layered(layers: int = 2) -> Graph:
    """x (g (w, twice its rows)): two kernels a layer before the runs, a constant, a weight that the
    runs read too."""
    x = given_input("x", 4, 8)
    found: Node = x
    scale = Const(np.linspace(1, 2, 8, dtype=np.float32).tobytes(), (8,), F)
    for layer in range(layers):
        scope = f"layers.{layer}"
        i, k, n, m = axes(i=4, k=8, n=8, m=8)
        w, b = weight(f"{scope}.w", 8, 8), weight(f"{scope}.b", 8)
        summed = Reduce((k,), (n,), SUM, (read(w, k, n),), (F,), Origin("s", "test", scope=scope))
        norm = apply("div", read(w, n, k), apply("add", read(summed, k), read(b, k)))
        body = apply("mul", norm, read(scale, n))
        scaled = Map((k, n), body, F, Origin("scaled", "test", scope=scope))
        lift = apply("mul", read(found, i, k), read(scaled, k, m))
        y = Reduce((i, m), (k,), SUM, (lift,), (F,), Origin("y", "test", scope=scope))
        found = Map((i, m), apply("add", read(y, i, m), read(b, m)), F, Origin("z", "test"))
    return Graph("layered", (("out", found, 0),), (x,))


def arrays() -> tuple[dict[str, Array], dict[str, Array]]:
    rng = np.random.default_rng(0)
    weights = {}
    for layer in range(2):
        weights[f"layers.{layer}.w"] = rng.uniform(1, 2, (8, 8)).astype(np.float32)
        weights[f"layers.{layer}.b"] = rng.uniform(1, 2, 8).astype(np.float32)
    return {"x": rng.standard_normal((4, 8)).astype(np.float32)}, weights


def expected() -> Array:
    return evaluate(layered(), *arrays(), Mode.F32)["out"]


def host_of(program: Program) -> InterpreterDevice:
    """A device that knows the kernels: an interpreter has no text to build from."""
    made = InterpreterDevice()
    for kernel in program.all_kernels:
        made.text(kernel)
    return made


def written(tmp_path: Path, weights: dict[str, Array] | None = None) -> Path:
    program = compile_graph(layered(), TARGET)
    host = host_of(program)
    texts = [host.text(kernel) for kernel in program.all_kernels]
    return write_bundle(program, texts, host.info.caps, tmp_path / "b", weights)


def runs(directory: Path, weights: dict[str, Array] | None = None) -> None:
    bundle = read_bundle(directory)
    host = host_of(compile_graph(layered(), TARGET))
    made = bundle.executable(host, weights).run(arrays()[0])
    np.testing.assert_allclose(made["out"], expected(), rtol=1e-5)


def edit(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def test_a_bundle_runs_with_weights_from_files(tmp_path: Path) -> None:
    directory = written(tmp_path)
    assert {p.name for p in directory.glob("*.safetensors")} == {"load_constants.safetensors"}
    runs(directory, arrays()[1])


def test_a_bundle_runs_with_raw_weights_packed(tmp_path: Path) -> None:
    directory = written(tmp_path, arrays()[1])
    assert (directory / "load_weights.safetensors").is_file()
    runs(directory)
    runs(directory, arrays()[1])


def test_a_bundle_runs_with_what_was_computed_before(tmp_path: Path) -> None:
    """And nothing of the raw weights is in it, but what runs read."""
    program = compile_graph(layered(), TARGET)
    directory = written(tmp_path, prepared(program, InterpreterDevice(), arrays()[1]))
    packed = read_bundle(directory).packed
    assert packed is not None and set(packed) == {
        *("~layers.0.test.scaled", "~layers.1.test.scaled", "layers.0.b", "layers.1.b")
    }
    assert not (directory / "load_weights.safetensors").exists()
    runs(directory)
    runs(directory, arrays()[1])


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    program, made = compile_graph(layered(), TARGET), read_bundle(written(tmp_path)).program
    assert program.load is not None and made.load is not None
    assert made.load.dispatches == program.load.dispatches
    assert made.load.memory == program.load.memory
    assert made.load.outputs == program.load.outputs
    for name, tensor in made.load.tensors.items():
        assert tensor.offset == program.load.tensors[name].offset
        assert tensor.order == program.load.tensors[name].order


def test_programs_are_kept_with_their_load_programs(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    program = compile_graph(layered(), TARGET)
    for _ in range(2):
        found, texts = kept("key", host_of(program), lambda: program, lambda p: None)
        assert found.load is not None and len(texts) == len(program.all_kernels)


Change = Callable[[dict[str, Any]], object]


def output_of(load: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(t for t in load["tensors"] if t["role"] == "output")
    return found


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.pop("load"), "is computed by no load program"),
        (lambda m: output_of(m["load"]).update(order=[1, 0]), "in another form"),
        (lambda m: m["load"]["outputs"].pop(), "outputs does not list it"),
        (lambda m: output_of(m["load"]).update(offset=64), "does not live in the arena"),
        (
            lambda m: [t.update(offset=0) for t in m["load"]["tensors"]],
            "overlap in the arena",
        ),
        (lambda m: m["load"]["memory"].update(arena=4), "ends beyond the arena"),
    ],
)
def test_a_load_program_that_does_not_fit_is_refused(
    tmp_path: Path, change: Change, words: str
) -> None:
    directory = written(tmp_path)
    edit(directory, change)
    with pytest.raises(SdlError) as caught:
        read_bundle(directory)
    assert "B004" in str(caught.value) and words in str(caught.value)


def test_devices_compute_from_a_bundle(tmp_path: Path) -> None:
    text = """
    model scaled(x: f32[b, n]) -> f32[b, n] {
      param w: f32[n, n]
      param s: f32[n]
      e[i, j] = exp(w[i, j]) * s[j]
      out[i, j] = sum over k < n of x[i, k] * e[k, j]
    }
    """
    rng = np.random.default_rng(1)
    weights = {"w": rng.standard_normal((16, 16)), "s": rng.standard_normal(16)}
    weights = {name: w.astype(np.float32) for name, w in weights.items()}
    x = rng.standard_normal((3, 16)).astype(np.float32)
    right = x @ (np.exp(weights["w"]) * weights["s"])
    program = compile(text, sizes={"b": 3, "n": 16})
    host = device("cpu")
    for number, prepare in enumerate((None, host)):
        bundle = read_bundle(program.save(tmp_path / str(number), weights, prepare))
        assert (number == 1) == ("~scaled.e" in (bundle.packed or {}))
        np.testing.assert_allclose(bundle.executable(host).run({"x": x})["out"], right, rtol=1e-4)


def test_compile_prepares_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.numpy import save_file

    from sdlc.cli import status_of

    source, file = tmp_path / "gain.sdl", tmp_path / "w.safetensors"
    source.write_text(
        "model gain(x: f32[b, n]) -> f32[b, n] {\n"
        "  param w: f32[n]\n"
        "  e[i] = exp(w[i])\n"
        "  out[i, j] = x[i, j] * e[j]\n"
        "}\n"
    )
    weights = {"w": np.linspace(0, 1, 4, dtype=np.float32)}
    save_file(weights, file)
    place = tmp_path / "bundle"
    command = ["compile", str(source), "--set", "b=32", "--set", "n=4", "-o", str(place)]
    assert status_of([*command, "--weights", str(file), "--prepare", "cpu"]) == 0
    assert "1 weights computed once in 1 dispatches" in capsys.readouterr().out
    packed = read_bundle(place).packed
    assert packed is not None and set(packed) == {"~gain.e"}
    np.testing.assert_allclose(packed["~gain.e"], np.exp(weights["w"]), rtol=1e-6)
