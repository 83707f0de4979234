"""Whole pipelines of every family beside diffusers', scaled down: texts, sampling, given pictures.

`tests/data/pipelines.safetensors` holds what diffusers gives (`tests/write_pipelines.py`). The
networks run on the embedded device, with weights from files that are written here.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file

from backend_run import device
from folders import write_folder
from sdlc.language.diagnostics import SdlError
from sdlc.models import pipeline
from sdlc.models.folder import load_folder
from sdlc.models.painter import Noise
from sdlc.models.pipeline import draw, prepare
from sdlc.models.settings import GenerateSettings, check_settings
from write_pipelines import (
    CASES,
    FILE,
    NEGATIVE,
    PROMPT,
    SIZE,
    STEPS,
    TOKENIZER,
    parts_of,
    pictures,
)

TENSORS = load_file(FILE)
LIMIT = 2e-4
"""Relative error of the last latents, in f32."""


def folder_of(name: str, place: Path) -> Path:
    """A pipeline's folder, its weights drawn by their names."""
    kind, parts = CASES[name][0], parts_of(name)
    encoders = [part for part in parts if part.startswith("text_encoder")]
    tokenizers = {part.replace("text_encoder", "tokenizer"): TOKENIZER for part in encoders}
    return write_folder(place, kind, parts, tokenizers)


def settings_of(name: str, place: Path) -> GenerateSettings:
    kind, _, options = CASES[name]
    given: dict[str, Any] = {"rescale": options.get("guidance_rescale", 0.0)}
    files = place / "init.png", place / "mask.png"
    for file, pixels in zip(files, pictures(), strict=True):
        Image.fromarray(pixels).save(file)
    if "negative_prompt" in options:
        given["negative"] = ""
    if "strength" in options:
        given |= {"init": files[0], "strength": options["strength"]}
    if "Inpaint" in kind:
        given["mask"] = files[1]
    asked = GenerateSettings(PROMPT, NEGATIVE, steps=STEPS, size=SIZE, guidance=4.0)
    return replace(asked, **given)


@pytest.mark.parametrize("name", CASES)
def test_a_pipeline_is_that_of_diffusers(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_folder(folder_of(name, tmp_path / "model"))
    settings = settings_of(name, tmp_path)
    check_settings(settings, model)
    painter = prepare(settings, model, device("cpu"), lambda _: None)
    monkeypatch.setattr(pipeline, "Noise", lambda *_: lambda: TENSORS[f"{name}.noise"])
    made = draw(painter, settings, lambda _: None)
    expected = TENSORS[f"{name}.latents"]
    assert made.latents.shape == expected.shape and made.pixels.shape == (1, *SIZE[::-1], 3)
    error = np.linalg.norm(made.latents - expected) / np.linalg.norm(expected)
    assert error <= LIMIT


def test_the_file_is_of_the_cases() -> None:
    with safe_open(FILE, framework="np") as file:
        written = json.loads(file.metadata()["cases"])
    assert written == json.loads(json.dumps(CASES))


def test_pictures_have_noise_of_their_own() -> None:
    both, first = Noise((3, 9), (4, 2, 2)), Noise((9,), (4, 2, 2))
    for _ in range(2):
        np.testing.assert_array_equal(both()[1:], first())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": Path("m.png")}, "a mask without a picture"),
        ({"strength": 0.0}, "the strength 0"),
        ({"init": Path("i.png"), "strength": 0.1, "size": (96, 64)}, "are none"),
        ({"init": Path("i.png")}, "cannot read the picture"),
        ({"rescale": 1.5}, "guidance rescale"),
        ({"tile": 2}, "tiles of 2"),
        ({"seeds": (1, 2, 3)}, "3 seeds for 1 pictures"),
        ({"sampler": "magic"}, "no sampler `magic`"),
    ],
)
def test_settings_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SdlError, match=message):
        check_settings(GenerateSettings("x", steps=5, **change), load_folder(None))


def test_a_model_that_paints_into_pictures_needs_one(tmp_path: Path) -> None:
    model = load_folder(folder_of("inpaint", tmp_path))
    with pytest.raises(SdlError, match="--init FILE --mask FILE"):
        check_settings(GenerateSettings("x", size=SIZE), model)
