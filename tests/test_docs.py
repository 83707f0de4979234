"""The documents tell the truth: their commands run, their programs compile, their Python works.

`sh` blocks run in order in one folder per document, `python` blocks in one namespace per document,
`sdl` blocks parse and, where they are whole files, build; a `c` block is what the command before it
prints, with `…` for lines left out. README's first two `sh` blocks set up the
machine: they are what a new user and CI run, so they do not run again here.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sdlc.language.parse import parse_module

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.S | re.M)


def blocks(document: Path, language: str) -> list[str]:
    found = [text for name, text in BLOCK.findall(document.read_text()) if name == language]
    return found[2:] if document.name == "README.md" and language == "sh" else found


def environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_sdl_blocks_parse(document: Path) -> None:
    for text in blocks(document, "sdl"):
        parse_module(text, document.name)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_python_blocks_run(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    for text in blocks(document, "python"):
        exec(compile(text, document.name, "exec"), namespace)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_commands_run(document: Path, tmp_path: Path) -> None:
    """Commands start in a folder that holds the project's `stdlib` and `models` folders."""
    for folder in ("stdlib", "models", "tests"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    for text in blocks(document, "sh"):
        script = re.sub(r"^\$ ", "", text, flags=re.M)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"


def printed_blocks() -> list[tuple[Path, str, str]]:
    """Commands named in a sentence whose next block is the kernel that they print."""
    said = re.compile(r"`(sdlc explain [^`]+)`[^`]*```c\n(.*?)^```", re.S | re.M)
    return [(d, *found) for d in DOCUMENTS for found in said.findall(d.read_text())]


def test_kernels_are_those_that_commands_print() -> None:
    assert any(document.name == "README.md" for document, *_ in printed_blocks())
    for _, command, shown in printed_blocks():
        done = subprocess.run(
            ["bash", "-c", command], cwd=ROOT, env=environment(), capture_output=True, text=True
        )
        at = 0
        for part in re.split(r"^ *…\n", shown, flags=re.M):
            assert part in done.stdout[at:], f"{command}\n{part}\n{done.stdout}\n{done.stderr}"
            at = done.stdout.index(part, at) + len(part)


def test_every_kind_of_error_is_documented() -> None:
    """The table of codes in docs/cli.md has every letter that a code in the source begins with."""
    table = (ROOT / "docs" / "cli.md").read_text().split("| codes of errors")[1].split("\n\n")[0]
    sources = [p for room in ("dsl", "backends", "models") for p in (ROOT / room).rglob("*.py")]
    codes = {code for p in sources for code in re.findall(r'"([A-Z]\d{3})"', p.read_text())}
    assert len(codes) > 100
    missing = {code for code in codes if not re.search(rf"[ `]{code[0]}(…|\d)", table)}
    assert not missing, f"docs/cli.md says nothing of {sorted(missing)}"
    devices = [c for p in sources for c in set(re.findall(r'"(D\d{3})"', p.read_text()))]
    assert len(devices) == len(set(devices)), "an error of devices has one meaning, in one file"


def test_documents_are_found() -> None:
    assert len(DOCUMENTS) > 3
    assert sum(len(BLOCK.findall(d.read_text())) for d in DOCUMENTS) > 20
