"""Kernels that another process compiles: they are in the cache then, or are built here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import sdlc
from sdlc.backends import opencl_apart
from sdlc.backends.build_cache import BuildCache
from sdlc.backends.opencl_apart import build_apart
from sdlc.program.device import BuildsAhead, KernelText
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
