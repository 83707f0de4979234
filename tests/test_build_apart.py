"""Kernels and networks that another process compiles: they are kept then, or are made here."""

from __future__ import annotations

import pickle
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import sdlc
from sdlc.backends import opencl_apart
from sdlc.backends.build_cache import BuildCache
from sdlc.backends.opencl_apart import build_apart
from sdlc.models import apart, pipeline
from sdlc.models.apart import compile_apart
from sdlc.models.model import load_model
from sdlc.models.settings import GenerateSettings, Progress
from sdlc.program.device import BuildsAhead, KernelText
from sdlc.program.store import Store
from small_models import small_model
from stages import device

SOURCE = """op f(x: T[n]) -> (a: T[n], b: T[n]) {
  a = silu(x)
  b = softmax(x)
}"""


def texts_of() -> list[KernelText]:
    program = sdlc.compile(SOURCE, sizes={"n": 64}).program
    return [device("cpu").text(kernel) for kernel in program.all_kernels]


def test_another_process_fills_the_cache(tmp_path: Path) -> None:
    cache, texts = BuildCache(tmp_path), texts_of()
    build_apart(device("cpu").info.id, [texts], cache)
    (kept,) = tmp_path.iterdir()
    before = kept.stat().st_mtime_ns
    opened: Any = device("cpu")
    assert len(opened.build_into(cache, texts)) == len(texts)
    assert [f.stat().st_mtime_ns for f in tmp_path.iterdir()] == [before]


@pytest.mark.parametrize("name", ["nothing at all", "llvmpipe"])
def test_a_device_that_cannot_be_opened_there_changes_nothing(name: str, tmp_path: Path) -> None:
    build_apart(name, [], BuildCache(tmp_path))
    build_apart(name, [], BuildCache(None))
    assert not list(tmp_path.iterdir())


def test_only_what_is_not_kept_goes_to_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def run(command: Any, input: bytes, **how: Any) -> None:
        asked.append(len(input))
        raise OSError("no process")

    monkeypatch.setattr(opencl_apart.subprocess, "run", run)
    opened: Any = device("cpu")
    assert isinstance(opened, BuildsAhead)
    monkeypatch.setattr(opened, "_cache", BuildCache(tmp_path))
    opened.build_ahead([texts_of(), []])
    assert len(asked) == 1 and not list(tmp_path.iterdir())
    opened.build(texts_of())  # what it did not make is built here
    opened.build_ahead([texts_of(), []])
    assert len(asked) == 1


RESIDENT = """
import re
from pathlib import Path
from sdlc.backends.devices import open_device

def resident(field):
    said = Path("/proc/self/status").read_text()
    return int(re.search(rf"^{field}:\\s+(\\d+) kB", said, re.M)[1])

device = open_device("cpu")
held = device.allocate(96 << 20)
device.finish()
print(resident("VmHWM") - resident("VmRSS"))
"""


def test_memory_is_filled_with_little_beside_it() -> None:
    command = [sys.executable, "-c", RESIDENT]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert int(said) < 16 << 10  # KiB


LINE = '{"done": 1, "total": 3, "seconds": 0.5, "label": "unet"}'


def test_another_process_compiles_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a large model that are not kept; its progress is told, and whether it has ended
    well."""
    place = small_model("2", tmp_path / "model")
    settings = GenerateSettings("a car", model=place, size=(16, 16), steps=2)
    told: list[Progress] = []

    def compiles(does: str) -> bool:
        monkeypatch.setattr(apart, "COMMAND", (sys.executable, "-c", does))
        return compile_apart(settings, load_model(place), device("cpu"), told.append)

    assert not compiles(f"print({LINE!r})")  # a small model
    monkeypatch.setattr(apart, "LARGE_BYTES", 0)
    assert not compiles("raise SystemExit(3)") and not told
    assert compiles(f"print({LINE!r})")
    assert told == [Progress("compile", 1, 3, 0.5, "unet")]
    monkeypatch.setattr(apart, "program_key", lambda *_: "kept")
    monkeypatch.setattr(Store, "get", lambda *_: "something")
    assert not compiles("raise SystemExit(0)")  # all are kept


def test_what_the_other_process_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = GenerateSettings("a car", device="cpu", loras=())
    asked: list[object] = []

    def compiled(settings: object, folder: Any, device: Any, tell: Any, held: object) -> None:
        asked.extend((settings, folder.path, device.info.kind))
        tell(Progress("compile", 1, 3, 0.5, "unet"))

    monkeypatch.setattr(pipeline, "compile_here", compiled)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=BytesIO(pickle.dumps(settings))))
    apart.main()
    assert asked == [settings, load_model(None).path, "opencl"]
    assert capsys.readouterr().out == f"{LINE}\n"
