"""The command as a process: defects, interruptions, closed pipes, files written whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sdlc.cli import message_of
from sdlc.cli_common import parse_sizes, size_text, write_whole
from sdlc.language.diagnostics import SdlError


def test_defects_are_called_defects() -> None:
    text = message_of(KeyError("x"))
    assert "error[X000]: defect in sdlc: KeyError" in text and "--debug" in text
    assert "X002" in message_of(MemoryError())
    assert "`f`: No space" in message_of(OSError(28, "No space left on device", "f"))


def test_interruption_exits_with_130(monkeypatch: pytest.MonkeyPatch, call: Any) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sdlc.api.make_request", interrupt)
    assert call("compile", "f.sdl", status=130).err.strip() == "interrupted"


def test_a_real_interruption_leaves_nothing(tmp_path: Path) -> None:
    """SIGINT while a command waits inside `write_whole`."""
    code = (
        "import sys, time; from pathlib import Path; import sdlc.cli as cli\n"
        "from sdlc.cli_common import write_whole\n"
        "import click\n"
        "def slow(file):\n"
        "    file.write(b'half'); print('ready', flush=True); time.sleep(30)\n"
        "@cli.commands.command('slow')\n"
        "def command(): write_whole(Path(sys.argv[1]), slow)\n"
        "cli.main(['slow'])\n"
    )
    target = tmp_path / "out.bin"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(target)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err.strip()) == (130, "interrupted")
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_that_python_drops_comes_again() -> None:
    """In a weak reference's callback exceptions are printed and forgotten, this one too."""
    code = (
        "import time, weakref, signal; import sdlc.cli as cli\n"
        "class Thing: pass\n"
        "@cli.commands.command('slow')\n"
        "def command():\n"
        "    thing = Thing()\n"
        "    w = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))\n"
        "    del thing\n"
        "    for _ in range(200): time.sleep(0.05)\n"
        "cli.main(['slow'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=15)
    assert (done.returncode, done.stderr.strip()) == (130, "interrupted")


def test_a_closed_pipe_is_no_error(double: Path) -> None:
    command = f"{sys.executable} -m sdlc.cli targets --json | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[", "")


# ---- helpers -------------------------------------------------------------------------------------


def test_sizes() -> None:
    assert parse_sizes(("n=3", "b=2x3", "s=")) == {"n": 3, "b": (2, 3), "s": ()}


def test_byte_counts() -> None:
    assert [size_text(n) for n in (0, 1023, 1536, 3 << 30)] == [
        "0 bytes",
        "1023 bytes",
        "1.5 KiB",
        "3.00 GiB",
    ]


def test_a_file_keeps_its_mode_and_survives_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    os.chmod(path, 0o640)

    def fail(file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(SdlError, match="X003"):
        write_whole(path, fail)
    assert path.read_text() == "old"
    write_whole(path, lambda file: file.write(b"new"))
    assert path.read_text() == "new" and path.stat().st_mode & 0o777 == 0o640
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
