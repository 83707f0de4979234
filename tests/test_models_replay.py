"""Settings in a picture's file and back; tiles of large pictures; pictures to start from."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sdlc.graph.types import DType
from sdlc.language.diagnostics import SdlError
from sdlc.models.image import read_mask, read_picture, write_png
from sdlc.models.lora import Lora
from sdlc.models.model import load_model
from sdlc.models.replay import ENTRY, PICTURES, READ, record_of, settings_in, settings_of
from sdlc.models.settings import GenerateSettings, check_settings
from sdlc.models.tiles import by_tiles, starts

FULL = GenerateSettings(
    prompt="café (red:1.2)",
    negative="blurry",
    model="some/model",
    device="cpu",
    steps=7,
    guidance=3.5,
    seed=4,
    size=(64, 96),
    precision=DType.F16,
    f32=("unet.mid_block",),
    without=("winograd",),
    only=("flash",),
    prediction="v_prediction",
    loras=(Lora(Path("/a/style.safetensors"), 0.5),),
    sampler="dpm++",
    karras=True,
    rescale=0.7,
    clip_skip=1,
    keep_loaded=True,
    strength=0.6,
    vae=Path("/a/taesd"),
    tile=32,
    weight_budget=3_000_000_000,
)


def test_a_record_has_every_setting(tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.png" for name in PICTURES}
    for file in files.values():
        Image.new("RGB", (4, 4)).save(file)
    full = replace(FULL, **files)
    alone = ("seeds", "batch", "preview")
    assert all(getattr(full, f.name) != f.default for f in fields(full) if f.name not in alone)
    assert set(READ) == {f.name for f in fields(full)}
    assert GenerateSettings(**settings_of(record_of(full, 4))) == full


def test_a_picture_of_a_batch_is_drawn_again_alone(tmp_path: Path) -> None:
    batch = replace(FULL, seeds=(3, 9), batch=2, preview=5)
    file = tmp_path / "p.png"
    write_png(np.zeros((2, 2, 3), np.uint8), file, {ENTRY: record_of(batch, 9)})
    assert GenerateSettings(**settings_in(file)) == replace(FULL, seed=9)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(READ)), JSON, max_size=4))
def test_what_anybody_wrote_is_checked(values: dict[str, Any]) -> None:
    """Settings of the right types, or one error that names the entry."""
    try:
        found = settings_of(json.dumps({"version": 1, **values}), "p.png")
    except SdlError as error:
        assert error.diagnostics[0].code in ("I004", "I005")
    else:
        made = GenerateSettings(**{"prompt": "", **found})
        assert isinstance(made.prompt, str) and type(made.steps) is int


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"version": 2}', "[" * 100_000])
def test_texts_that_are_no_records(text: str) -> None:
    with pytest.raises(SdlError, match="I004"):
        settings_of(text)


def test_pictures_that_have_changed_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "i.png"
    Image.new("RGB", (4, 4)).save(file)
    record = record_of(replace(FULL, init=file), 1)
    Image.new("RGB", (4, 4), "red").save(file)
    with pytest.raises(SdlError, match="has changed since"):
        settings_of(record)
    file.unlink()
    with pytest.raises(SdlError, match="is not there any more"):
        settings_of(record)


# ---- tiles ---------------------------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(1, 20))
def test_tiles_cover_an_axis(count: int, tile: int) -> None:
    found = starts(count, tile)
    covered = {i + k for i in found for k in range(min(tile, count))}
    assert covered == set(range(count)) and list(found) == sorted(set(found))


@pytest.mark.parametrize("size", [(8, 8), (20, 13), (9, 30)])
def test_tiles_of_a_local_decoder_are_the_whole(size: tuple[int, int]) -> None:
    """Where a pixel depends on its own latent only, tiles change nothing."""
    latents = np.random.default_rng(0).normal(size=(2, 3, *size)).astype(np.float32)

    def decode(x: Any) -> Any:
        return x.repeat(2, axis=2).repeat(2, axis=3)

    tile = (min(8, size[0]), min(8, size[1]))
    np.testing.assert_allclose(by_tiles(decode, latents, tile), decode(latents), rtol=1e-5)


# ---- pictures ------------------------------------------------------------------------------------


def test_pictures_and_masks_are_read(tmp_path: Path) -> None:
    file = tmp_path / "p.png"
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[:, 3:] = 255
    Image.fromarray(pixels).save(file)
    picture, mask = read_picture(file, (6, 4)), read_mask(file, (6, 4))
    assert picture.shape == (1, 3, 4, 6) and mask.shape == (1, 1, 4, 6)
    assert picture[0, :, 0, 0].tolist() == [-1, -1, -1] and picture[0, 0, 0, 5] == 1
    assert mask[0, 0, 0].tolist() == [0, 0, 0, 1, 1, 1]
    assert read_picture(file, (12, 8)).shape == (1, 3, 8, 12)
    with pytest.raises(SdlError, match="I003"):
        (tmp_path / "t.png").write_text("no picture")
        read_picture(tmp_path / "t.png", (2, 2))
    for mask_file in (tmp_path / "t.png", tmp_path / "none.png"):  # before anything is compiled
        with pytest.raises(SdlError, match="I003"):
            asked = GenerateSettings("a car", init=file, mask=mask_file, size=(64, 64))
            check_settings(asked, load_model(None))
