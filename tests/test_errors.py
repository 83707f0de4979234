"""The must-fail corpus: every `errors/*.sdl` fails with exactly the text of the `.txt` beside it.

Comments at the head of a case say how it fails: with `# run: check` it is built (others are only
parsed), with `# entry: name`, `# set: n=3 b=2x3`, `# config: {"k": 1}`, `# precision: f16`.
`python tests/test_errors.py --write [NAME …]` writes what is said now: read it before committing.
"""

from __future__ import annotations

import json
import sys
from contextlib import chdir
from pathlib import Path

import pytest

from sdlc.graph.types import DType
from sdlc.language.diagnostics import SdlError, failure
from sdlc.language.parse import parse_module

ERRORS = Path(__file__).parent / "errors"
CASES = sorted(path.stem for path in ERRORS.glob("*.sdl"))


def header(text: str) -> dict[str, str]:
    """The `# key: value` comments with which a case begins."""
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        key, _, value = line[1:].partition(":")
        found[key.strip()] = value.strip()
    return found


def sizes(words: str) -> dict[str, int | tuple[int, ...]]:
    """`n=3 b=2x3` as the sizes that `--set` gives."""
    pairs = (word.split("=") for word in words.split())
    values = {name: tuple(int(part) for part in value.split("x")) for name, value in pairs}
    return {name: value[0] if len(value) == 1 else value for name, value in values.items()}


def build_case(name: str, text: str) -> None:
    """Parses and builds a case as `sdlc check` would."""
    from sdlc.language.elaborate import build
    from sdlc.language.library import load

    options = header(text)
    library = load(Path(f"{name}.sdl"), text)
    build(
        library,
        options.get("entry"),
        sizes(options.get("set", "")),
        json.loads(options.get("config", "{}")),
        DType(options.get("precision", "f32")),
    )


def said(name: str) -> str:
    """What the user reads, or '' where the case does not fail. It runs in `errors/`."""
    text = (ERRORS / f"{name}.sdl").read_text(encoding="utf-8")
    try:
        with chdir(ERRORS):
            if header(text).get("run") == "check":
                build_case(name, text)
            else:
                parse_module(text, f"{name}.sdl")
    except SdlError as error:
        return f"{error}\n"
    return ""


@pytest.mark.parametrize("name", CASES)
def test_error(name: str) -> None:
    expected = (ERRORS / f"{name}.txt").read_text(encoding="utf-8")
    assert said(name) == expected


def test_each_case_has_a_text_that_helps() -> None:
    assert {path.stem for path in ERRORS.glob("*.txt")} == set(CASES)
    for name in CASES:
        text = (ERRORS / f"{name}.txt").read_text(encoding="utf-8")
        assert text.startswith("error[E"), f"{name} does not fail"
        helps, errors = text.count("\n   = help: "), text.count("error[E")
        assert helps == errors, f"{name} does not always say what to do"


def test_what_is_quoted_cannot_act_on_a_terminal() -> None:
    """Names of files and tensors come from elsewhere: escapes, marks of direction, no encoding."""
    error = failure(
        "E023", "cannot read \x1b[2J\u202e\udcff\tn.sdl", "é and 语 stay", (("in", "\x07"),)
    )
    assert str(error) == (
        "error[E023]: cannot read \\x1b[2J\\u202e\\udcff\\tn.sdl\n"
        "   = in: \\x07\n"
        "   = help: é and 语 stay"
    )


def test_the_corpus_is_large() -> None:
    assert sum(name.startswith("syntax_") for name in CASES) >= 25


def write(names: list[str]) -> None:
    for name in names or CASES:
        text = said(name)
        print(f"--- {name}\n{text}" if text else f"--- {name} DOES NOT FAIL")
        (ERRORS / f"{name}.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] != ["--write"]:
        sys.exit(__doc__)
    write(sys.argv[2:])
