"""What commands compiled before, found by what it was made of.

In: a file and a command's options. Out: a key, or None where something cannot be read (then the
command says what). Invariant: the key changes with the text of the file and of every file that it
imports, the configuration, tuning records, every option, and the compiler with its targets and
library; it does not depend on where configuration and records lie.

    key_for(Path("unet.sdl"), {"target": "cpu", "sizes": ("b=2",), …})
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])
FILES = ("configs", "records")
"""Options whose files count, not their names."""
TEXT = re.compile(r'"((?:\\.|[^"\\\n])*)"')


def no_cache_option(command: Command) -> Command:
    help = "Compile anew, and keep nothing (`sdlc cache` lists what is kept)."
    return click.option("--no-cache", is_flag=True, help=help)(command)


def key_for(file: Path, options: Mapping[str, Any], *more: object) -> str | None:
    """A name for what `options` make of `file`; `more` are other things that it depends on."""
    from sdlc.models.cache import digest_of
    from sdlc.program.records import records_path
    from sdlc.program.store import digest

    records = options.get("records") or records_path(file)
    try:
        sources = list(_sources(file))
        configs = [digest(path) for path in options.get("configs", ())]
        measured = digest(records) if records.exists() else ""
    except (OSError, UnicodeDecodeError):
        return None
    others = sorted((n, repr(v)) for n, v in options.items() if n not in FILES)
    return digest_of(str(file), sources, configs, measured, others, *more)


def about(command: str, file: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """What `sdlc cache` says of a program."""
    settings = [options.get("target") or "", options.get("precision", ""), *options["sizes"]]
    for name in ("entry", "without", "only"):
        value = options.get(name)
        if value:
            settings.append(f"--{name} {value if isinstance(value, str) else ','.join(value)}")
    return {"command": command, "what": f"{file}  {' '.join(s for s in settings if s)}"}


def _sources(file: Path) -> Iterator[tuple[str, str]]:
    """The text of a file and of every file that a text in it names: all its imports, at least."""
    seen: set[Path] = set()
    pending = [(file.name, file)]
    while pending:
        name, path = pending.pop()
        if path.resolve() in seen:
            continue
        seen.add(path.resolve())
        text = path.read_text("utf-8")
        yield name, text
        for named in TEXT.findall(text):
            beside = path.parent / named
            if named.endswith(".sdl") or _is_file(beside):
                pending.append((named, beside))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a documentation string is no path
        return False
