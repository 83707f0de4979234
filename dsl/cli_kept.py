"""What commands compiled before, found by what it was made of.

In: a file and a command's options. Out: a key, or None where something cannot be read (then the
command says what). Invariant: the key changes with the text of the file and of every file that it
imports, the configuration, tuning records, every option, and the compiler with its targets and
library; it does not depend on where configuration and records lie.

    key_for(Path("unet.sdl"), {"target": "cpu", "sizes": ("b=2",), …})
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from sdlc.api import Request
    from sdlc.program.device import Device, KernelText
    from sdlc.program.program import Program

Command = TypeVar("Command", bound=Callable[..., Any])
FILES = ("configs", "records")
"""Options whose files count, not their names."""
RECORD = "record.json"
Kept = tuple["Program", "tuple[KernelText, ...] | None", bool]
"""A program, its kernels for a device where they are known, and whether it was kept."""
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


def request_parts(request: Request) -> tuple[object, ...]:
    """What the program of a request depends on beside its target. Warns of tuning records that are
    not used."""
    return (
        dict(request.library.sources),
        request.entry,
        dict(request.sizes),
        dict(request.config),
        request.precision.value,
        (request.f32, request.root),
        [rule.name for rule in request.rules],
        request.weight_budget,
        sorted((group, repr(point)) for group, point in request.choices().items()),
    )


def kept_program(
    request: Request, device: Device, make: Callable[[], Program], said: Mapping[str, Any] | None
) -> Kept:
    """What `make` gives for a request, with its texts for a device, as an earlier call has kept it
    where it did; and whether it did. `said` is about the program (None: nothing is kept)."""
    from sdlc.models.cache import kept, key_of

    if said is None:
        return make(), None, False
    made: list[Program] = []

    def remembered() -> Program:
        made.append(make())
        return made[0]

    key = key_of(request.target, device.info, *request_parts(request))
    return *kept(key, device, remembered, lambda program: None, said), not made


def kept_record(
    parts: Sequence[object], make: Callable[[], Mapping[str, Any]], said: Mapping[str, Any] | None
) -> Mapping[str, Any]:
    """A record that JSON can hold, for what it depends on: as an earlier call has kept it, or made.
    `said` is about it (None: nothing is kept)."""
    from sdlc.models.cache import digest_of, program_store

    store = None if said is None else program_store()
    key = "" if store is None else digest_of(*parts)
    found = None if store is None else store.get(key)
    if found is not None:
        record: Mapping[str, Any] = json.loads((found.place / RECORD).read_bytes())
        return record
    record = make()
    if store is not None and said is not None:
        with suppress(OSError):  # a cache that cannot be written keeps nothing
            store.put(key, lambda place: _write(place, record), said)
    return record


def _write(place: Path, record: Mapping[str, Any]) -> None:
    place.mkdir()
    (place / RECORD).write_text(json.dumps(record), "utf-8")


def about(command: str, file: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """What `sdlc cache` says of a program."""
    settings = [options.get("target") or "", options.get("precision", ""), *options["sizes"]]
    for name in ("entry", "f32", "without", "only"):
        value = options.get(name)
        if value:
            settings.append(f"--{name} {value if isinstance(value, str) else ','.join(value)}")
    if options.get("tile") is not None:
        settings.append(f"--tile {options['tile']}")
    if options.get("weight_budget") is not None:
        settings.append(f"--weight-budget {options['weight_budget']}")
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
