"""Half precision beside f32: what `sdlc precision` measures, and what it prints."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from backend_run import device
from sdlc.backends.target import load_target
from sdlc.cli import status_of
from sdlc.graph.types import DType
from sdlc.models import compare
from sdlc.models.compare import Compared, Comparison, Recorder, difference, psnr
from sdlc.models.folder import Model, load_folder
from sdlc.models.networks import compile_network, networks
from sdlc.models.painter import Ready
from sdlc.models.settings import GenerateSettings, Progress
from small_models import small_model

LARGE = {"decoder.conv_in.weight": 1e5}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_folder(small_model("2", tmp_path_factory.mktemp("two") / "model", factors=LARGE))


@cache
def decoder(folder: Path, precision: DType, f32: tuple[str, ...] = ()) -> Ready:
    model = load_folder(folder)
    network = replace(networks(model, GenerateSettings("", size=(16, 16)))[-1], f32=f32)
    program = compile_network(network, model, load_target("cpu"), precision)
    texts = tuple(device("cpu").text(k) for k in program.all_kernels)
    return Ready(network, (program, texts), model, device("cpu"))


def recorded(folder: Path, scale: float) -> Recorder:
    """Two runs in f32 on latents of this size."""
    exact, recorder = decoder(folder, DType.F32), Recorder()
    exact.check = recorder
    rng = np.random.default_rng(0)
    for _ in range(2):
        exact.run({"latent": scale * rng.standard_normal((1, 4, 8, 8)).astype(np.float32)})
    return recorder


def test_a_network_is_compared_on_the_inputs_of_f32(model: Model) -> None:
    recorder = recorded(model.path, 0.01)
    half, told = decoder(model.path, DType.F16), list[Progress]()
    found = compare._compared(half, recorder.runs, told.append)
    assert 1e-5 < found.error < 5e-3 and found.error <= 30 * found.worst and found.bad == 0
    assert found.largest * found.headroom == pytest.approx(65504)
    assert "conv_in" in found.where and 100 < found.largest < 65504
    assert [(p.done, p.total, p.label) for p in told] == [(1, 2, "vae"), (2, 2, "vae")]


def test_what_overflows_is_counted_and_what_is_in_f32_is_not(model: Model) -> None:
    recorder = recorded(model.path, 1.0)
    half = compare._compared(decoder(model.path, DType.F16), recorder.runs, lambda _: None)
    assert half.bad > 0 and half.error == float("inf") and "conv_in" in half.first_bad
    wide = decoder(model.path, DType.F16, ("vae.decoder",))
    mixed = compare._compared(wide, recorder.runs, lambda _: None)
    assert mixed.bad == 0 and mixed.error < 5e-3 and mixed.largest < 65504


def test_differences() -> None:
    exact = np.array([3.0, -4.0])
    assert difference(np.array([3.0, -3.0]), exact) == (0.2, 0.25)
    assert difference(np.array([3.0, np.nan]), exact) == (float("inf"), float("inf"))
    assert difference(exact.astype(np.float16), exact) == (0.0, 0.0)
    picture = np.zeros((1, 2, 2, 3), np.uint8)
    assert psnr(picture, picture) == float("inf")
    assert psnr(picture + 255, picture) == 0.0


FOUND = Comparison(
    {
        "unet": Compared(1.5e-3, 2e-3, 19.5, "mid_block.out (resnet.out)", 0),
        "vae": Compared(float("inf"), float("inf"), 65408.0, "decoder.y (conv.y)", 12, "decoder.z"),
    },
    None,
    "a model",
    "a device",
    (64, 48),
)


def test_table_and_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[GenerateSettings] = []

    def compared(settings: GenerateSettings, report: object) -> Comparison:
        asked.append(settings)
        return FOUND

    monkeypatch.setattr(compare, "compare", compared)
    assert status_of(["precision", "place", "--steps", "3", "--f32", "a,b"]) == 0
    assert (asked[0].model, asked[0].steps, asked[0].f32) == ("place", 3, ("a", "b"))
    text = capsys.readouterr().out
    assert "3.36e+03x" in text and "mid_block.out (resnet.out)" in text and "none in f16" in text
    assert "vae: the first that is no number is in decoder.z" in text
    assert status_of(["precision", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["networks"]["vae"]["error_l2"] is None and made["psnr_db"] is None
    assert made["networks"]["unet"]["headroom"] == pytest.approx(65504 / 19.5)
    assert made["networks"]["vae"]["not_finite"] == 12
