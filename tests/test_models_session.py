"""Many pictures by one `Pipeline`: what stays on the device, what reports see, and where they stop.

A network with one level and seeded weights draws on the embedded device: what a pipeline keeps and
tells is the same for any network, and large ones are compared elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from folders import write_folder
from sdlc.language.diagnostics import SdlError
from sdlc.models import pipeline
from sdlc.models.image import to_pixels
from sdlc.models.pipeline import Pictures, Pipeline, generate
from sdlc.models.replay import ENTRY
from sdlc.models.settings import GenerateSettings, Progress
from write_networks import CROSS, CROSS_UP
from write_pipelines import CASES, SIZE, TOKENIZER, parts_of, pictures

SMALLER = {
    "text_encoder": {"num_hidden_layers": 1},
    "unet": {"block_out_channels": [16], "down_block_types": [CROSS], "up_block_types": [CROSS_UP]},
    "vae": {"block_out_channels": [8, 8]},
}
USUAL: dict[str, Any] = {"device": "cpu", "steps": 3, "size": SIZE}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parts = parts_of("masked")
    for part, config in SMALLER.items():
        parts[part] = parts[part][0], {**parts[part][1], **config}
    place = tmp_path_factory.mktemp("session") / "model"
    return write_folder(place, CASES["masked"][0], parts, {"tokenizer": TOKENIZER})


@pytest.fixture(scope="module")
def draw(folder: Path) -> Iterator[Pipeline]:
    made = Pipeline(model=folder, **USUAL)
    yield made
    made.close()


def once(folder: Path, prompt: str, **settings: Any) -> Pictures:
    return generate(GenerateSettings(prompt, model=folder, **{**USUAL, **settings}))


def test_pictures_do_not_depend_on_what_was_drawn_before(folder: Path, draw: Pipeline) -> None:
    init, mask = (Image.fromarray(x) for x in pictures())
    asked: list[dict[str, Any]] = [
        {"seed": 3},
        {"init": init, "mask": mask, "strength": 0.7, "guidance": 3.0},
        {"seed": 3, "negative": "grey", "steps": 2},
    ]
    for settings in asked:
        made = draw("a red car", **settings)
        expected = once(folder, "a red car", **settings)
        np.testing.assert_array_equal(made.pixels, expected.pixels)
    assert not np.array_equal(made.pixels, draw("a red car", **asked[0]).pixels)


def test_networks_are_opened_once(draw: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    usual = pipeline.compiled

    def noted(network: Any, *rest: Any) -> Any:
        opened.append(network.role)
        return usual(network, *rest)

    monkeypatch.setattr(pipeline, "compiled", noted)
    draw("a")
    opened.clear()
    draw("b", seed=9, steps=2, negative="c", guidance=4.0)
    assert opened == []
    draw("b", guidance=1.0)
    assert opened == ["text", "sampler"]
    opened.clear()
    draw.close()
    draw("b", guidance=1.0)
    assert opened == ["text", "sampler", "decoder"]


def test_a_report_sees_each_step(draw: Pipeline) -> None:
    seen: list[Progress] = []
    latents, shown = [], []

    def report(progress: Progress) -> None:
        seen.append(progress)
        if progress.stage == "step":
            latents.append(progress.latents())
            shown.append(progress.picture())

    made = draw("a red car", report)
    assert [p.done for p in seen if p.stage == "step"] == [1, 2, 3]
    np.testing.assert_array_equal(latents[-1], made.latents)
    np.testing.assert_array_equal(shown[-1], made.pixels)
    assert not np.array_equal(shown[0], shown[1])
    with pytest.raises(SdlError, match="nothing to see after `decode`"):
        seen[-1].picture()


def test_a_report_ends_the_drawing(draw: Pipeline) -> None:
    latents = []

    def report(progress: Progress) -> bool:
        if progress.stage == "step":
            latents.append(progress.latents())
        return progress.done < 2

    made = draw("a red car", report)
    assert not made.finished and len(latents) == 2
    np.testing.assert_array_equal(made.latents, latents[-1])
    told = made.entries(0)
    assert told["steps"] == "stopped after 2 of 3 evaluations" and ENTRY not in told
    assert draw("a red car").finished


def test_what_a_report_raises_ends_the_drawing(draw: Pipeline) -> None:
    whole = draw("a red car")

    def report(progress: Progress) -> None:
        if progress.stage == "step":
            raise InterruptedError("enough")

    with pytest.raises(InterruptedError, match="enough"):
        draw("a red car", report)
    np.testing.assert_array_equal(draw("a red car").pixels, whole.pixels)


def test_pictures_in_memory_are_those_of_files(draw: Pipeline, tmp_path: Path) -> None:
    init, mask = (Image.fromarray(x) for x in pictures())
    files = tmp_path / "init.png", tmp_path / "mask.png"
    init.save(files[0])
    mask.save(files[1])
    held = draw("a car", init=init, mask=mask)
    read = draw("a car", init=files[0], mask=files[1])
    np.testing.assert_array_equal(held.pixels, read.pixels)
    assert ENTRY in read.entries(0) and ENTRY not in held.entries(0)


def test_networks_that_are_not_kept_are_released(folder: Path, draw: Pipeline) -> None:
    made = draw("a red car", keep_loaded=False)
    np.testing.assert_array_equal(made.pixels, draw("a red car").pixels)
    np.testing.assert_array_equal(made.pixels, to_pixels_of(draw, made))


def to_pixels_of(draw: Pipeline, made: Pictures) -> Any:
    """The picture as its latents give it."""
    found: list[Any] = []

    def report(progress: Progress) -> None:
        if progress.stage == "step" and progress.drawing is not None:
            found.append(to_pixels(progress.drawing.decode(made.latents)))

    draw("a red car", report, steps=1)
    return found[0]
