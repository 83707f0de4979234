"""OpenCL's drivers: each is asked in a process of its own, and loaded when its device is opened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from sdlc.backends import devices as finding
from sdlc.backends import opencl_drivers, opencl_loader
from sdlc.backends.devices import find_devices, open_device
from sdlc.backends.opencl_drivers import Answer, Seen, answers, live
from sdlc.backends.opencl_loader import VARIABLE, driver_files, load_opencl, start
from sdlc.language.diagnostics import SdlError

FILE = "sdlc-cpu.icd"
CRASH = (sys.executable, "-c", "import os; os.kill(os.getpid(), 11)")
ONE_BY_ONE = """
from pathlib import Path
from sdlc.backends.devices import open_device

def loaded():
    held = Path("/proc/self/maps").read_text()
    return [name for name in ("libintelocl", "libpocl") if name in held]

for selector in {selectors}:
    device = open_device(selector)
    memory = device.allocate(64)
    device.write(memory, 0, b"8" * 64)
    assert device.read(memory, 0, 64) == b"8" * 64
    print(device.info.id, *loaded(), sep=",")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where answers are kept, empty."""
    for module in (opencl_drivers, opencl_loader):
        monkeypatch.setattr(module, "cache_folder", lambda name: tmp_path)
    return tmp_path


@pytest.mark.parametrize("selectors", [("cpu", "pocl", "opencl:0"), ("pocl", "cpu")])
def test_only_the_driver_of_the_device_is_loaded(selectors: Sequence[str]) -> None:
    """A second one in the same process is loaded when its device is opened."""
    command = [sys.executable, "-c", ONE_BY_ONE.format(selectors=selectors)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    libraries = {"cpu": "libintelocl", "pocl": "libpocl"}
    assert said[0] == f"{selectors[0]},{libraries[selectors[0]]}"
    assert said[1] == f"{selectors[1]},libintelocl,libpocl"
    ids = [answer.devices[0].platform for answer in answers()]
    if len(selectors) == 3:
        assert said[2].split(",")[0] == {"Intel(R) OpenCL": "cpu"}.get(ids[0], "pocl")


def test_a_driver_that_crashes_ends_no_process_of_ours(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opencl_drivers, "COMMAND", CRASH)
    found = answers(anew=True)
    why = "it ended with signal 11 when it was asked for its devices"
    assert {a.failed for a in found} == {why}
    assert not any(a.devices for a in found) and not list(folder.glob("*.json"))
    missing = {m.kind: m for m in find_devices().missing}
    assert "signal 11" in missing[FILE].reason and missing[FILE].help
    with pytest.raises(SdlError, match=r"(?s)D001.*sdlc-cpu.icd: it ended with signal 11"):
        open_device("cpu")
    assert open_device("llvmpipe").info.id == "llvmpipe"


@pytest.mark.parametrize(
    ("does", "why"),
    [
        ("print('hello')", "ended with exit status 0"),
        ("print('[{\"name\": 1}]')", "ended with exit status 0"),
        ("raise SystemExit(3)", "ended with exit status 3"),
        ("import time; time.sleep(9)", "did not answer in 0.1 seconds"),
    ],
)
def test_what_is_no_answer_is_no_device(
    does: str, why: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opencl_drivers, "COMMAND", (sys.executable, "-c", does))
    monkeypatch.setattr(opencl_drivers, "SECONDS", 0.1 if "sleep" in does else 60)
    monkeypatch.setattr(opencl_drivers, "driver_files", lambda: {"a.icd": "liba.so"})
    (answer,) = answers()
    assert why in answer.failed and not answer.devices


def test_answers_are_kept_until_the_library_changes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = folder / "liba.so"
    library.write_text("one")
    monkeypatch.setattr(opencl_drivers, "driver_files", lambda: {"a.icd": f"{library}\n"})
    told = [{"platform": "A", "name": "first", "gpu": True}]

    def tells(name: str) -> None:
        text = json.dumps([{**told[0], "name": name}])
        monkeypatch.setattr(opencl_drivers, "COMMAND", (sys.executable, "-c", f"print({text!r})"))

    tells("first")
    (first,) = answers()
    assert first.devices == (Seen("A", "first", True),) and first.gpus == 1
    tells("second")
    assert answers() == (first,)
    library.write_text("another")
    assert answers()[0].devices[0].name == "second"
    (kept,) = [f for f in folder.glob("*.json") if "second" in f.read_text()]
    kept.write_text("[{")
    tells("third")
    assert answers()[0].devices[0].name == "third"
    tells("fourth")
    assert answers(anew=True)[0].devices[0].name == "fourth"
    tells("fifth")
    assert answers()[0].devices[0].name == "fourth"
    opencl_drivers.forget()
    assert answers()[0].devices[0].name == "fifth"


def test_a_driver_with_other_devices_is_asked_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cpu,) = (a for a in answers() if a.file == FILE)
    old = replace(cpu, devices=(*cpu.devices, Seen("Intel(R) OpenCL", "a second", True)))
    assert live(cpu) is not None and live(old) is None
    opencl_drivers._keep(old)
    assert open_device("cpu").info.name == cpu.devices[0].name
    assert opencl_drivers._kept(cpu.file, cpu.text) == cpu
    opencl_drivers._keep(replace(cpu, devices=(Seen("Intel(R) OpenCL", "gone", False),)))
    with pytest.raises(SdlError, match="no device matches `gone`"):
        open_device("gone")


def test_most_gpus_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = Seen("A", "a", False), Seen("B", "b", True)
    kept = {"a": Answer("a", "", (cpu,)), "b": Answer("b", "", (gpu,)), "c": Answer("c", "")}
    monkeypatch.setattr(opencl_drivers, "driver_files", lambda: dict.fromkeys(kept, ""))
    monkeypatch.setattr(opencl_drivers, "_kept", lambda name, text: kept[name])
    assert [a.file for a in answers()] == ["b", "a", "c"]
    found, _ = finding._opencl(anew=False)
    assert [(c.id, c.name, c.rank) for c in found] == [("opencl:0", "b", 0), ("opencl:1", "a", 30)]


def test_a_library_that_is_no_driver_has_no_platforms() -> None:
    for text in ("", "libc.so.6\n", "/nowhere/libnothing.so"):
        assert opencl_drivers._direct(Answer("a.icd", text)) == []


def test_the_users_variable_counts_and_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "mine.icd").write_text("/opt/libmine.so\n")
    monkeypatch.setenv(VARIABLE, str(folder))
    files = driver_files()
    assert files["mine.icd"] == "/opt/libmine.so\n"
    assert any(opencl_loader.LIBRARY in text for text in files.values())
    start(load_opencl(), files)
    assert os.environ[VARIABLE] == str(folder)
    monkeypatch.setenv(VARIABLE, "/opt/libmine.so")
    assert driver_files() == {"": ""}
    monkeypatch.delenv(VARIABLE)
    start(load_opencl(), files)
    assert VARIABLE not in os.environ


def test_a_driver_is_found_where_nothing_can_be_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk: an empty file can be made there, and nothing be written into it."""

    def full(self: Path, *_: object) -> int:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(opencl_loader, "SYSTEM_FOLDER", folder / "none")
    monkeypatch.setattr(Path, "write_text", full)
    files = driver_files()
    opencl_drivers._keep(Answer(FILE, files[FILE], (Seen("A", "a", False),)))
    assert opencl_loader._place(files) == str(opencl_loader.installed_runtime())
    assert [f for f in folder.rglob("*") if f.is_file()] == []


def test_pyopencl_keeps_nothing_of_its_own(tmp_path: Path) -> None:
    """Its cache is a database, which fails where the disk fills up while it is open."""
    code = "from sdlc.backends.opencl_loader import load_opencl as o; o(); import pyopencl.invoker"
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    env.pop(opencl_loader.UNKEPT, None)
    for given in ({}, {opencl_loader.UNKEPT: "0"}):
        assert not list(tmp_path.rglob("*.sqlite"))
        subprocess.run([sys.executable, "-c", code], env=env | given, check=True)
    assert list(tmp_path.rglob("*.sqlite"))  # where the user asks for it
