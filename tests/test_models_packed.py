"""Packed weights kept on disk: used again, made again where something is wrong or changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import sdlc
from sdlc.backends.devices import open_device
from sdlc.models import packed
from sdlc.models.cache import Compiled
from sdlc.models.lora import LowRank
from sdlc.models.packed import open_network, weights_key
from sdlc.models.weights import Weights, load_weights
from sdlc.program import execute
from sdlc.program.bundle import read_bundle, write_bundle
from sdlc.program.store import StoreWarning

TEXT = """model net(x: T[n]) -> T[m] {
  config m = 5
  param scale: T[n]
  k[i < n] = sum over j < n of exp(scale[j] + scale[i])
  y[i < n] = x[i] * k[i]
  return proj: linear(y, m)
}
"""
X = {"x": np.arange(4.0)}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def made(name: str) -> Path:
        (tmp_path / "cache" / name).mkdir(parents=True, exist_ok=True)
        return tmp_path / "cache" / name

    monkeypatch.setattr(packed, "cache_folder", made)
    return tmp_path / "cache" / "weights"


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    program = sdlc.compile(TEXT, sizes={"n": 4}).program
    device = open_device("cpu")
    assert program.load is not None
    return program, tuple(device.text(kernel) for kernel in program.all_kernels)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each executable that is made, whether it ran its load program."""
    seen: list[bool] = []
    before = execute.load_weights

    def load(program: Any, *rest: Any) -> Any:
        seen.append(program.load is not None)
        return before(program, *rest)

    monkeypatch.setattr(execute, "load_weights", load)
    return seen


def weights_in(file: Path, seed: int = 0) -> Weights:
    generator = np.random.default_rng(seed)
    shapes = {"scale": (4,), "proj.weight": (5, 4), "proj.bias": (5,)}
    held = {n: generator.standard_normal(s).astype(np.float16) for n, s in shapes.items()}
    save_file(held, file)
    return load_weights(file)


def result(compiled: Compiled, weights: Weights) -> np.ndarray[Any, Any]:
    out: np.ndarray[Any, Any] = open_network(compiled, open_device("cpu"), weights).run(X)["out"]
    return out


def wanted(weights: Weights) -> np.ndarray[Any, Any]:
    scale = weights["scale"].astype(np.float64)
    inner = X["x"] * np.exp(scale[:, None] + scale).sum(0)
    made: np.ndarray[Any, Any] = weights["proj.weight"] @ inner + weights["proj.bias"]
    return made


def test_the_second_time_nothing_is_computed(
    folder: Path, compiled: Compiled, loads: list[bool], tmp_path: Path
) -> None:
    weights = weights_in(tmp_path / "w.safetensors")
    first, second = (result(compiled, weights) for _ in range(2))
    assert loads == [True, False] and len(list(folder.iterdir())) == 1
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(second, wanted(weights), rtol=1e-5)
    (tmp_path / "w.safetensors").rename(tmp_path / "v.safetensors")
    np.testing.assert_array_equal(result(compiled, load_weights(tmp_path / "v.safetensors")), first)
    assert loads[2] is False  # the content counts, not the place


def test_other_values_are_other_weights(
    folder: Path, compiled: Compiled, loads: list[bool], tmp_path: Path
) -> None:
    for seed in (0, 1):
        weights = weights_in(tmp_path / "w.safetensors", seed)
        np.testing.assert_allclose(result(compiled, weights), wanted(weights), rtol=1e-5)
    assert loads == [True, True]
    save_file({"up": np.ones((5, 1)), "down": np.ones((1, 4))}, tmp_path / "l.safetensors")
    factors = load_weights(tmp_path / "l.safetensors")
    for amount in (0.5, 0.25):
        change = LowRank(factors.entry("up"), factors.entry("down"), amount)
        changed = replace(weights, changes={"proj.weight": (change,)})
        np.testing.assert_allclose(result(compiled, changed), wanted(changed), rtol=1e-5)
    assert loads[2:] == [True, True]


def first_byte(entry: Path) -> None:
    data = bytearray((entry / packed.DATA).read_bytes())
    data[0] ^= 1
    (entry / packed.DATA).write_bytes(data)


def half_written(entry: Path) -> None:
    data = (entry / packed.DATA).read_bytes()
    (entry / packed.DATA).write_bytes(data[: len(data) // 2])


def no_index(entry: Path) -> None:
    (entry / packed.INDEX).unlink()


@pytest.mark.parametrize("damage", [first_byte, half_written, no_index])
def test_a_damaged_entry_is_made_again(
    damage: Any, folder: Path, compiled: Compiled, loads: list[bool], tmp_path: Path
) -> None:
    weights = weights_in(tmp_path / "w.safetensors")
    result(compiled, weights)
    damage(next(folder.iterdir()))
    with pytest.warns(StoreWarning, match="was damaged"):
        np.testing.assert_allclose(result(compiled, weights), wanted(weights), rtol=1e-5)
    result(compiled, weights)
    assert loads[0] is True and loads[-2:] == [True, False]


def test_a_full_disk_keeps_nothing_and_says_so(
    folder: Path, compiled: Compiled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = weights_in(tmp_path / "w.safetensors")

    def full(*_: Any) -> Iterator[None]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packed.json, "dumps", full)
    with pytest.warns(StoreWarning, match="No space left"):
        np.testing.assert_allclose(result(compiled, weights), wanted(weights), rtol=1e-5)
    assert list(folder.iterdir()) == []
    monkeypatch.setattr(packed, "SPARE_BYTES", 2**60)
    with pytest.warns(StoreWarning, match="bytes are free"):
        result(compiled, weights)
    assert list(folder.iterdir()) == []


def test_a_program_that_was_read_again_has_the_same_weights(
    folder: Path, compiled: Compiled, tmp_path: Path
) -> None:
    device, weights = open_device("cpu"), weights_in(tmp_path / "w.safetensors")
    caps = device.info.caps
    bundle = read_bundle(write_bundle(*compiled, caps, tmp_path / "bundle"))
    again = bundle.program, bundle.texts_for(caps)
    assert weights_key(again, device, weights) == weights_key(compiled, device, weights)


def test_what_an_entry_depends_on(folder: Path, compiled: Compiled, tmp_path: Path) -> None:
    device, weights = open_device("cpu"), weights_in(tmp_path / "w.safetensors")
    key = weights_key(compiled, device, weights)
    program, texts = compiled
    stored = {n: replace(t, order=t.order[::-1]) for n, t in program.tensors.items()}
    others = [
        weights_key((replace(program, tensors=stored), texts), device, weights),
        weights_key(
            (program, tuple(replace(t, text=t.text + " ") for t in texts)), device, weights
        ),
        weights_key(compiled, device, weights_in(tmp_path / "v.safetensors", 1)),
    ]
    assert key == weights_key(compiled, device, load_weights(tmp_path / "w.safetensors"))
    assert len({key, *others}) == 4 and None not in others
    assert weights_key(compiled, device, Weights({})) is None
