"""The documents tell the truth: their commands run, their programs compile, their Python works.

`sh` blocks run in order in one folder per document, `python` blocks in one namespace per document,
`sdl` blocks parse and, where they are whole files, build. README's first two `sh` blocks set up the
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


def test_documents_are_found() -> None:
    assert len(DOCUMENTS) > 3
    assert sum(len(BLOCK.findall(d.read_text())) for d in DOCUMENTS) > 20
