"""Reading weights, tokens, schedules and folders, writing pictures: right ones and wrong ones."""

from __future__ import annotations

import json
import os
import shutil
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load_file, save_file

from sdlc.language.diagnostics import SdlError
from sdlc.models.folder import default_folder, load_folder
from sdlc.models.image import numbered, read_settings, to_pixels, write_png
from sdlc.models.prompts import tokenize
from sdlc.models.samplers import COLUMNS, Plan, make_schedule
from sdlc.models.scheduler import alphas
from sdlc.models.tokenizer import load_tokenizer
from sdlc.models.weights import load_weights

REFERENCE = load_file(default_folder().parent / "reference.safetensors")
SCHEDULER = json.loads((default_folder() / "scheduler" / "scheduler_config.json").read_text())


def fails(code: str, *words: str) -> Callable[[Callable[[], object]], None]:
    """Checks that a call raises one SdlError with this code, these words and a help line."""

    def check(call: Callable[[], object]) -> None:
        with pytest.raises(SdlError) as caught:
            call()
        text = str(caught.value)
        assert f"error[{code}]" in text and "= help:" in text
        assert [w for w in words if w not in text] == []

    return check


# ---- weights -------------------------------------------------------------------------------------


def write_raw(file: Path, header: str, data: bytes = b"\0" * 4) -> Path:
    body = header.encode()
    file.write_bytes(struct.pack("<Q", len(body)) + body + data)
    return file


def entry(name: str, dtype: str = "F32", shape: str = "[1]", end: int = 4) -> str:
    return f'"{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{end}]}}'


def test_weights_are_read_with_their_types(tmp_path: Path) -> None:
    arrays = {"a.b": np.arange(6, dtype=np.float16).reshape(2, 3), "n": np.array([3], np.int64)}
    save_file(arrays, tmp_path / "any.safetensors")
    weights = load_weights(tmp_path)
    assert sorted(weights) == ["a.b", "n"] and weights.shape("a.b") == (2, 3)
    assert weights["a.b"].dtype == np.float16 and weights["n"].dtype == np.int32
    np.testing.assert_array_equal(weights["a.b"], arrays["a.b"])


def test_bfloat16_is_widened(tmp_path: Path) -> None:
    bits = (np.array([1.5, -2.0], np.float32).view(np.uint32) >> 16).astype("<u2")
    write_raw(tmp_path / "w.safetensors", "{" + entry("x", "BF16", "[2]") + "}", bits.tobytes())
    np.testing.assert_array_equal(load_weights(tmp_path)["x"], [1.5, -2.0])


def test_shards_and_old_names(tmp_path: Path) -> None:
    old = "mid_block.attentions.0.query.weight"
    save_file({old: np.ones(2, np.float32)}, tmp_path / "m-1.safetensors")
    save_file({"z": np.ones(3, np.float32)}, tmp_path / "m-2.safetensors")
    names = {old: "m-1.safetensors", "z": "m-2.safetensors"}
    index = tmp_path / "m.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    weights = load_weights(tmp_path)
    assert weights["mid_block.attentions.0.to_q.weight"].shape == (2,) and len(weights) == 2
    assert "mid_block.attentions.0.to_k.weight" not in weights
    index.write_text(json.dumps({"weight_map": {"z": "../m-2.safetensors"}}))
    fails("W001", "../m-2")(lambda: load_weights(tmp_path))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    twice = "{" + entry("x") + "," + entry("x") + "}"
    fails("W002", "`x` is given twice")(lambda: load_weights(write_raw(file, twice)))
    fails("W002", "w.safetensors")(lambda: load_weights(write_raw(file, "{}]")))
    short = "{" + entry("x", "F32", "[2]", 8) + "}"
    fails("W002")(lambda: load_weights(write_raw(file, short)))
    odd = "{" + entry("../../etc/passwd") + "}"
    fails("W003", "../../etc/passwd")(lambda: load_weights(write_raw(file, odd)))
    strange = "{" + entry("x", "F8_E4M3", "[4]") + "}"
    fails("W005", "F8_E4M3")(lambda: load_weights(write_raw(file, strange))["x"])


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    save_file(
        {"good": np.ones(2, np.float32), "bad": np.array([1, np.nan])}, tmp_path / "w.safetensors"
    )
    weights = load_weights(tmp_path)
    assert weights["good"].sum() == 2
    fails("W006", "`bad`", "1 values")(lambda: weights["bad"])


def test_folders_without_weights(tmp_path: Path) -> None:
    fails("W001", "nowhere")(lambda: load_weights(tmp_path / "nowhere"))
    fails("W001", "no .safetensors file")(lambda: load_weights(tmp_path))
    (tmp_path / "model.bin").touch()
    fails("W001", "pickled")(lambda: load_weights(tmp_path))
    for name in ("a", "b"):
        save_file({"x": np.ones(1)}, tmp_path / f"{name}.safetensors")
    fails("W001", "a.safetensors, b.safetensors")(lambda: load_weights(tmp_path))


# ---- tokens --------------------------------------------------------------------------------------


def test_tokens_are_the_reference() -> None:
    tokenizer = load_tokenizer(default_folder() / "tokenizer")
    np.testing.assert_array_equal(
        tokenize(tokenizer, "rocket", 1).ids[0], REFERENCE["input_ids"][0]
    )
    np.testing.assert_array_equal(
        tokenize(tokenizer, "", 1).ids[0], REFERENCE["uncond_input_ids"][0]
    )


TEXTS = {
    "A Slice  of\tPIZZA": "a slice of pizza",
    "cafe\u0301": "café",
    "it's": "it 's",
}


@pytest.mark.parametrize("text", TEXTS)
def test_texts_are_normalised(text: str) -> None:
    tokenizer = load_tokenizer(default_folder() / "tokenizer")
    np.testing.assert_array_equal(
        tokenize(tokenizer, text, 1).ids, tokenize(tokenizer, TEXTS[text], 1).ids
    )


@settings(max_examples=30, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters="()[]\\"), max_size=200))
def test_every_text_makes_a_row_with_both_ends(text: str) -> None:
    tokenizer = load_tokenizer(default_folder() / "tokenizer")
    encoded = tokenize(tokenizer, text, 1)
    assert encoded.ids.shape == (1, 77) and encoded.ids.dtype == np.int32
    assert encoded.ids[0, 0] == tokenizer.start
    assert encoded.ids[0, encoded.last[0]] == tokenizer.end
    assert (encoded.ids >= 0).all() and (encoded.ids < 2048).all()
    assert text.endswith(encoded.cut)


def test_long_texts_are_cut_and_said_so() -> None:
    tokenizer = load_tokenizer(default_folder() / "tokenizer", 8)
    encoded = tokenize(tokenizer, "1 2 3 4 5 6 7 8", 1)
    assert encoded.ids.shape == (1, 8) and encoded.ids[0, -1] == tokenizer.end
    assert encoded.cut == "7 8" and tokenize(tokenizer, "1 2 3 4 5 6 7 8", 2).cut == ""


def test_broken_tokenizers(tmp_path: Path) -> None:
    fails("T001", "vocab.json", "does not exist")(lambda: load_tokenizer(tmp_path))
    shutil.copytree(default_folder() / "tokenizer", tmp_path / "t")
    (tmp_path / "t" / "special_tokens_map.json").write_text('{"bos_token": "<start>"}')
    fails("T002", "`<start>`")(lambda: load_tokenizer(tmp_path / "t"))
    (tmp_path / "t" / "merges.txt").write_text("a b c\n")
    fails("T001", "merges.txt")(lambda: load_tokenizer(tmp_path / "t"))


# ---- schedules -----------------------------------------------------------------------------------


def test_schedule_is_the_reference() -> None:
    schedule = make_schedule(SCHEDULER, Plan("ddim", 20))
    np.testing.assert_array_equal(schedule.times, REFERENCE["timesteps"])
    np.testing.assert_allclose(alphas(SCHEDULER), REFERENCE["alphas_cumprod"], rtol=2e-5)
    assert schedule.prediction == "v_prediction" and schedule.table.dtype == np.float32


@settings(max_examples=50, deadline=None)
@given(
    steps=st.integers(1, 1000),
    spacing=st.sampled_from(["leading", "trailing", "linspace"]),
    betas=st.sampled_from(["linear", "scaled_linear"]),
    last=st.booleans(),
)
def test_schedules_fall_towards_the_picture(
    steps: int, spacing: str, betas: str, last: bool
) -> None:
    changes = {"timestep_spacing": spacing, "beta_schedule": betas, "set_alpha_to_one": last}
    schedule = make_schedule({**SCHEDULER, **changes}, Plan("ddim", steps))
    table = schedule.table.astype(np.float64)
    assert table.shape == (steps, COLUMNS) and np.isfinite(table).all()
    assert (np.diff(schedule.times) < 0).all() and schedule.times.max() < 1000
    np.testing.assert_allclose(table[:, 2] ** 2 + table[:, 3] ** 2, 1, atol=1e-6)
    np.testing.assert_allclose(table[:, 4] ** 2 + table[:, 5] ** 2, 1, atol=1e-6)
    assert (table[:, 4] >= table[:, 2]).all()  # every step removes noise


def test_a_perfect_network_is_undone() -> None:
    """If the network knows the picture, each DDIM step lands on the picture's own noisy version."""
    schedule = make_schedule(SCHEDULER, Plan("ddim", 10))
    picture, noise = np.random.default_rng(0).normal(size=(2, 50))
    for a, s, a2, s2 in schedule.table[:, 2:6].astype(np.float64):
        x = a * picture + s * noise
        v = a * noise - s * picture
        moved = a2 * (a * x - s * v) + s2 * (a * v + s * x)
        np.testing.assert_allclose(moved, a2 * picture + s2 * noise, atol=1e-6)


# ---- pictures ------------------------------------------------------------------------------------


def test_pictures_hold_their_settings(tmp_path: Path) -> None:
    pixels = to_pixels(np.linspace(-1.5, 1.5, 2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5))
    assert pixels.shape == (2, 4, 5, 3) and pixels.min() == 0 and pixels.max() == 255
    file = tmp_path / "out.png"
    write_png(pixels[0], file, {"prompt": "café ☕", "seed": 3})
    found = read_settings(file)
    assert found["prompt"] == "café ☕" and found["seed"] == "3"
    assert [f.name for f in tmp_path.iterdir()] == ["out.png"]


def test_decoder_range_is_mapped_as_diffusers_does() -> None:
    values = np.array([-1, -0.5, 0, 0.5, 1], np.float32).reshape(1, 1, 1, 5).repeat(3, 1)
    assert to_pixels(values)[0, 0, :, 0].tolist() == [0, 64, 128, 191, 255]


def test_pictures_that_cannot_be_written(tmp_path: Path) -> None:
    pixels = np.zeros((2, 2, 3), np.uint8)
    fails("I001", "out.jpg")(lambda: write_png(pixels, tmp_path / "out.jpg", {}))
    fails("I002", "no folder")(lambda: write_png(pixels, tmp_path / "no" / "out.png", {}))
    (tmp_path / "d.png").mkdir()
    fails("I002", "it is a folder")(lambda: write_png(pixels, tmp_path / "d.png", {}))


def test_an_interrupted_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_png(np.zeros((2, 2, 3), np.uint8), tmp_path / "out.png", {})
    assert list(tmp_path.iterdir()) == []


def test_a_picture_without_room_is_kept_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels, file = np.arange(12, dtype=np.uint8).reshape(2, 2, 3), tmp_path / "full" / "out.png"
    file.parent.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("os.replace", _full_at(file, os.replace))
    with pytest.raises(SdlError) as refused:
        write_png(pixels, file, {"seed": 3})
    (kept,) = tmp_path.glob("sdlc-picture-*/out.png")
    assert str(kept) in refused.value.diagnostics[0].message
    assert list(file.parent.iterdir()) == []
    assert np.array_equal(np.asarray(Image.open(kept)), pixels)
    assert read_settings(kept) == {"seed": "3"}
    monkeypatch.setattr("tempfile.mkdtemp", _full_at(None, tempfile.mkdtemp))
    fails("I002", "No space left")(lambda: write_png(pixels, file, {}))


def _full_at(file: Path | None, real: Callable[..., object]) -> Callable[..., object]:
    """Fails as a full disk does; if a file is given, only where that is the last argument."""

    def act(*given: object, **named: object) -> object:
        if file is None or given[-1] == file:
            raise OSError(28, "No space left on device")
        return real(*given, **named)

    return act


def test_batches_are_numbered() -> None:
    assert numbered(Path("a/x.png"), 1) == (Path("a/x.png"),)
    assert numbered(Path("a/x.png"), 2) == (Path("a/x-1.png"), Path("a/x-2.png"))


# ---- folders -------------------------------------------------------------------------------------


def test_the_shipped_folder() -> None:
    folder = load_folder(None)
    assert folder.default_size == (256, 256)
    assert (folder.pixels_per_latent, folder.granule, folder.tokens) == (8, 8, 77)


def copied(tmp_path: Path) -> Path:
    """The shipped folder without its weights."""
    skip = shutil.ignore_patterns("*.safetensors")
    return Path(shutil.copytree(default_folder(), tmp_path / "model", ignore=skip))


def test_folders_that_are_none(tmp_path: Path) -> None:
    fails("M001", "there is no folder")(lambda: load_folder(tmp_path / "x"))
    fails("M001", "is not a model folder")(lambda: load_folder(tmp_path))
    folder = copied(tmp_path)
    (folder / "vae" / "config.json").unlink()
    fails("M002", "vae/config.json")(lambda: load_folder(folder))
    (folder / "vae" / "config.json").write_text("[]")
    fails("M004", "config.json")(lambda: load_folder(folder))


def test_text_encoders_whose_names_lack_the_first_word(tmp_path: Path) -> None:
    """As transformers writes them from 5.24 on."""
    folder, file = copied(tmp_path), "text_encoder/model.safetensors"
    held = load_file(default_folder() / file)
    short = {name.removeprefix("text_model."): array for name, array in held.items()}
    assert set(short) & set(held) == set()
    save_file(short, folder / file)
    weights = load_folder(folder).weights("text_encoder")
    assert sorted(weights) == sorted(held)
    for name, array in held.items():
        np.testing.assert_array_equal(weights[name], array)


@pytest.mark.parametrize("part", ["_class_name", "unet", "text_encoder", "vae"])
def test_classes_that_are_not_described(tmp_path: Path, part: str) -> None:
    folder = copied(tmp_path)
    file = folder / "model_index.json"
    index = json.loads(file.read_text())
    index[part] = "OddPipeline" if part == "_class_name" else ["library", "OddModel"]
    file.write_text(json.dumps(index))
    fails("M003", "Odd")(lambda: load_folder(folder))
