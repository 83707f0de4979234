"""Programs that are kept on disk: found again, made again where something is wrong or changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import sdlc
from sdlc.backends.devices import open_device, target_of
from sdlc.language.diagnostics import SdlError, failure
from sdlc.models import cache, networks, pipeline
from sdlc.models.cache import compiler_digest, kept, key_of
from sdlc.models.folder import default_folder
from sdlc.models.pipeline import generate
from sdlc.models.settings import GenerateSettings
from sdlc.program.execute import Executable
from sdlc.program.program import Program
from sdlc.program.store import StoreWarning

TEXT = "op twice(x: T[n]) -> T[n] { out[i] = 2 * x[i] }"
NONE: dict[str, np.ndarray[Any, Any]] = {}


class Maker:
    """Compiles, and counts how often."""

    def __init__(self, n: int = 4) -> None:
        self.n, self.count = n, 0

    def __call__(self) -> Program:
        self.count += 1
        return sdlc.compile(TEXT, sizes={"n": self.n}).program


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cache, "cache_folder", lambda name: made(tmp_path / name))
    return tmp_path / "programs"


def made(path: Path) -> Path:
    path.mkdir(exist_ok=True, parents=True)
    return path


def always(program: Program) -> None:
    pass


def runs(compiled: cache.Compiled) -> bool:
    program, texts = compiled
    result = Executable(program, open_device("cpu"), NONE, texts).run({"x": np.arange(4.0)})
    return bool((result["out"] == 2 * np.arange(4.0)).all())


def test_the_second_time_nothing_is_compiled(folder: Path) -> None:
    make, device = Maker(), open_device("cpu")
    first, second = (kept("key", device, make, always) for _ in range(2))
    assert make.count == 1 and [p.name for p in folder.iterdir()] == ["key"]
    assert first[1] == second[1] and runs(first) and runs(second)
    assert kept("other", device, make, always) and make.count == 2


def empty(place: Path) -> None:
    for file in place.rglob("*"):
        if file.is_file():
            file.write_bytes(b"")


def change_a_kernel(place: Path) -> None:
    kernel = next((place / "kernels").iterdir())
    kernel.write_text(kernel.read_text().replace("2.0", "3.0"))


def lose_a_kernel(place: Path) -> None:
    next((place / "kernels").iterdir()).unlink()


def become_a_file(place: Path) -> None:
    shutil.rmtree(place)
    place.write_text("junk")


@pytest.mark.parametrize("damage", [empty, change_a_kernel, lose_a_kernel, become_a_file])
def test_a_damaged_entry_is_made_again(damage: Any, folder: Path) -> None:
    make, device = Maker(), open_device("cpu")
    kept("key", device, make, always)
    damage(folder / "key")
    with pytest.warns(StoreWarning, match="was damaged"):
        assert runs(kept("key", device, make, always)) and make.count == 2
    assert runs(kept("key", device, make, always)) and make.count == 2


def test_a_program_that_does_not_fit_stays_for_those_that_it_fits(folder: Path) -> None:
    make, device = Maker(), open_device("cpu")
    kept("key", device, make, always)

    def fits(_: Program) -> None:
        raise failure("P002", "wrong weights", help="others")

    kept("key", device, make, fits)
    assert make.count == 2
    kept("key", device, make, always)
    assert make.count == 2


@pytest.mark.parametrize("kind", ["a file", "none", "a file for an entry's folder"])
def test_a_cache_that_cannot_be_written_is_done_without(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def place(name: str) -> Path:
        if kind == "none":
            raise PermissionError(13, "Permission denied")
        (tmp_path / name).write_text("")
        return tmp_path / name if kind == "a file" else tmp_path / name / "deeper"

    monkeypatch.setattr(cache, "cache_folder", place)
    make, device = Maker(), open_device("cpu")
    assert runs(kept("key", device, make, always)) and runs(kept("key", device, make, always))
    assert make.count == 2


def test_the_oldest_programs_go_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MOST", 2)
    make, device = Maker(), open_device("cpu")
    for age, key in ((30, "a"), (20, "b")):
        kept(key, device, make, always)
        at = (folder / key).stat().st_mtime - age
        os.utime(folder / key, (at, at))
    kept("a", device, make, always)
    kept("c", device, make, always)
    assert {p.name for p in folder.iterdir()} == {"a", "c"}


def test_what_is_compiled_for_what_and_by_whom_is_in_the_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    info = open_device("cpu").info
    target = target_of(info)
    parts = ("unet.sdl", {"layers": 2}, {"b": 1}, "f32")
    keys = [
        key_of(target, info, *parts),
        key_of(target, info, "vae.sdl", *parts[1:]),
        key_of(target, info, parts[0], {"layers": 3}, *parts[2:]),
        key_of(target, info, *parts[:2], {"b": 2}, "f32"),
        key_of(target, info, *parts[:3], "f16"),
        key_of(replace(target, name="another"), info, *parts),
        key_of(target, replace(info, driver="another"), *parts),
        key_of(target, replace(info, caps=replace(info.caps, local_bytes=1)), *parts),
    ]
    assert key_of(target, info, *parts) == keys[0]
    sources = list(cache._sources())
    for changed in ([*sources[:-1], (sources[-1][0], b"changed")], sources[1:]):
        monkeypatch.setattr(cache, "_sources", lambda changed=changed: iter(changed))
        compiler_digest.cache_clear()
        keys.append(key_of(target, info, *parts))
    monkeypatch.undo()
    compiler_digest.cache_clear()
    assert len(set(keys)) == len(keys) and keys[0] == key_of(target, info, *parts)


def test_the_compiler_and_all_data_it_reads_are_sources() -> None:
    names = {name for name, _ in cache._sources()}
    for name in ("cli.py", "language/grammar.lark", "softmax.sdl", "stable_diffusion/unet.sdl"):
        assert name in names
    assert "targets/cpu.toml" in names and "legalize.py" in names


# ---- pictures ------------------------------------------------------------------------------------

SETTINGS = GenerateSettings("a slice of pizza", device="cpu", steps=1, size=(32, 32))


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, pipeline.Pictures]]:
    """A cache that holds the programs of one picture, and that picture."""
    place = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "cache_folder", lambda name: made(place / name))
        yield place, generate(SETTINGS)


def refuse(*_: object) -> Program:
    raise AssertionError("compiled again")


def test_a_second_picture_is_the_same_and_compiles_nothing(
    warm: tuple[Path, pipeline.Pictures], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "planned", refuse)
    monkeypatch.setattr(networks, "build", refuse)
    again = generate(replace(SETTINGS))
    np.testing.assert_array_equal(again.pixels, warm[1].pixels)
    np.testing.assert_array_equal(again.latents, warm[1].latents)
    with pytest.raises(AssertionError, match="compiled again"):
        generate(replace(SETTINGS, size=(64, 32)))


def test_kept_networks_say_what_they_are(warm: tuple[Path, pipeline.Pictures]) -> None:
    entries = cache.Store(warm[0] / "programs", 9).entries()
    assert {entry.about["command"] for entry in entries} == {"generate"}
    said = " ".join(str(entry.about["what"]) for entry in entries)
    for part in ("text_encoder  cpu", "unet  cpu", "vae  cpu", "f32", "h=4 w=4"):
        assert part in said


def test_a_wrong_weight_is_located_though_its_program_is_kept(
    warm: tuple[Path, pipeline.Pictures], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "planned", refuse)
    source, model = default_folder(), tmp_path / "model"
    (model / "vae").mkdir(parents=True)
    for entry in (*source.iterdir(), source / "vae" / "config.json"):
        if entry.name != "vae":
            (model / entry.relative_to(source)).symlink_to(entry)
    file = "diffusion_pytorch_model.safetensors"
    weights = dict(load_file(source / "vae" / file))
    name = "decoder.conv_out.weight"
    weights[name] = np.ascontiguousarray(weights[name][:, :, :2])
    save_file(weights, model / "vae" / file)
    with pytest.raises(SdlError) as caught:
        generate(replace(SETTINGS, model=model))
    text = str(caught.value)
    assert f"`{name}`" in text and "conv.sdl:" in text and "help:" in text
    before, after = (str(list(shape)) for shape in ((3, 64, 3, 3), weights[name].shape))
    assert before in text and after in text
    assert (warm[0] / "programs").is_dir() and len(list((warm[0] / "programs").iterdir())) == 3
