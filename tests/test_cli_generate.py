"""`sdlc generate` on the command line: what it writes and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "models" / "emoji_diffusion" / "pipeline"


def draw(settings: Any, report: Any, check_finite: bool) -> Any:
    """Grey pictures and reports, as `sdlc.models.pipeline.generate` gives them."""
    from sdlc.models.pipeline import Pictures
    from sdlc.models.replay import record_of
    from sdlc.models.settings import Progress

    assert not check_finite
    pixels = np.full((settings.batch, 8, 16, 3), 128, np.uint8)
    for step in range(1, settings.steps + 1):
        shown = pixels if settings.preview and step % settings.preview == 0 else None
        report(Progress("step", step, settings.steps, 0.01, preview=shown))
    told = {"prompt": settings.prompt, "seed": settings.seed, "steps": settings.steps}
    seeds = settings.all_seeds
    records = tuple(record_of(settings, seed) for seed in seeds)
    return Pictures(pixels, pixels, told, {"step": 0.03}, ("the text is long",), seeds, records)


def test_generate(tmp_path: Path, call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    monkeypatch.setattr("sdlc.models.pipeline.generate", draw)
    out = tmp_path / "p.png"
    common = ("generate", "a rocket", "-o", out, "--seed", 3, "--size", "16x8", "--steps", 4)
    made = call(*common)
    assert made.out == f"{out}\n" and "warning: the text is long" in made.err
    with Image.open(out) as picture:
        assert picture.size == (16, 8) and picture.info["prompt"] == "a rocket"
    record = call(*common, "--batch", 2, "--preview", 2, "--json").json
    assert record["files"] == [str(tmp_path / "p-1.png"), str(tmp_path / "p-2.png")]
    with Image.open(tmp_path / "p-2.png") as picture:
        assert picture.info["seed"] == "4"
    names = {p.name for p in tmp_path.iterdir()}
    assert {"p-1-step-02.png", "p-2-step-04.png"} <= names and len(names) == 7
    again = call("generate", "--metadata", tmp_path / "p-2.png", "--steps", 2, "-o", out, "--json")
    assert again.json["settings"] == {"prompt": "a rocket", "seed": 4, "steps": 2}
    call("generate", "x", "--seed", "3,9", "-o", out)
    with Image.open(tmp_path / "p-2.png") as picture:
        assert picture.info["seed"] == "9"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--model", "{dir}/none"), "none"),
        (("--size", "250x256"), "250x256"),
        (("-o", "{dir}/no/out.png"), "out.png"),
        (("-o", "{dir}/out.jpg"), ".png"),
        (("--model", "{dir}"), "is not a model folder"),
        (("--batch", "1000"), "batch"),
        (("--device", "voodoo"), "voodoo"),
        (("--guidance", "nan"), "guidance"),
        (("--sampler", "magic"), "samplers are ddim"),
        (("--sampler", "eulr"), "did you mean `euler`"),
        (("--strength", "0.3"), "--init FILE"),
        (("--model", "stable-diffusion-9"), "did you mean `stable-diffusion-"),
        (("--size", "8000x8000"), "at most 4096"),
        (("--mask", "{dir}/m.png"), "--init"),
        (("--init", "{dir}/m.png"), "cannot read the picture"),
        (("--metadata", "{dir}/m.png"), "cannot read the picture"),
        (("--strength", "2"), "strength"),
        (("--seed", "1,2,3", "--batch", "2"), "3 seeds for 2 pictures"),
        (("--vae", "{dir}/none"), "config.json"),
    ],
)
def test_generate_refuses(options: tuple[str, str], words: str, tmp_path: Path, call: Any) -> None:
    given = [o.format(dir=tmp_path) for o in options]
    output = [] if "-o" in options else ["-o", tmp_path / "out.png"]
    made = call("generate", "a rocket", *given, *output, status=1)
    assert made.err.startswith("error[") and words in made.err
    assert "help:" in made.err and "X000" not in made.err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def text_weights() -> Any:
    from safetensors.numpy import load_file

    return dict(load_file(MODEL / "text_encoder" / "model.safetensors"))


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (None, ("W007", "is missing in")),
        ((3, 5), ("W008", "has shape [3, 5] in", "not [192]")),
    ],
)
def test_generate_names_a_weight_that_does_not_fit(
    shape: tuple[int, ...] | None,
    words: tuple[str, ...],
    tmp_path: Path,
    text_weights: Any,
    call: Any,
) -> None:
    from safetensors.numpy import save_file

    model, name = tmp_path / "model", "text_model.final_layer_norm.weight"
    (model / "text_encoder").mkdir(parents=True)
    for part in MODEL.iterdir():
        if part.name != "text_encoder":
            (model / part.name).symlink_to(part)
    (model / "text_encoder" / "config.json").symlink_to(MODEL / "text_encoder" / "config.json")
    kept = {n: w for n, w in text_weights.items() if n != name}
    changed = kept if shape is None else {**kept, name: np.zeros(shape, np.float32)}
    save_file(changed, model / "text_encoder" / "model.safetensors")
    out = tmp_path / "out.png"
    made = call("generate", "a cat", "--device", "cpu", "--model", model, "-o", out, status=1)
    assert all(w in made.err for w in (*words, f"`{name}`", "norm.sdl:", "help:"))
    assert not out.exists()
