"""Tuning records: which point of a group's space was fastest, measured once, kept as JSON lines.

In: a file beside the program (`FILE.sdl.tuning.jsonl`), a target and perhaps a device. Out: the
points by group digest, and what to warn of. Invariant: only records of this schema, this compiler,
this target and one device count; a line that is no record never fails a compilation; a file grows
by whole lines, so an interrupted tuner loses at most the group at hand.

    found = read_records(path, "cpu", None)
    plan(graph, target, choices=found.choices)
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sdlc.language.diagnostics import failure
from sdlc.program.device import DeviceInfo
from sdlc.schedule.point import NO_CHOICES, Choices, Point

SCHEMA = 1
ROOMS = ("schedule", "kernel")
"""The parts of the compiler that decide what a point's kernel is."""


@cache
def compiler_version() -> str:
    """The version and a digest of what decides a kernel: records of another are stale."""
    digest = hashlib.sha256()
    for room in ROOMS:
        for path in sorted((Path(__file__).parents[1] / room).glob("*.py")):
            digest.update(path.name.encode() + b"\n" + path.read_bytes())
    return f"{version('sdlc')}+{digest.hexdigest()[:8]}"


@dataclass(frozen=True, slots=True)
class Record:
    """One group's fastest point. `point` is empty where the default is; seconds are of one launch;
    `estimate` is the cost model's for the point; `measured` counts the points that were timed."""

    target: str
    device: str
    group: str
    label: str
    point: Mapping[str, Any]
    seconds: float
    default_seconds: float
    estimate: float
    measured: int
    compiler: str = field(default_factory=compiler_version)
    schema: int = SCHEMA

    def chosen(self) -> Point:
        return Point(tuple(sorted((n, _frozen(v)) for n, v in self.point.items())))


@dataclass(frozen=True, slots=True)
class Records:
    """What a file says for one target and device: the last record of each group."""

    by_group: Mapping[str, Record]
    warning: str = ""
    """One sentence about records that do not count, or ''."""

    @property
    def choices(self) -> Choices:
        """Points that are better than the default."""
        found = {name: r.chosen() for name, r in self.by_group.items()}
        return {name: point for name, point in found.items() if point.overrides}


NO_RECORDS = Records({})


class TuningWarning(UserWarning):
    """Tuning records that are not used, and why."""


def device_text(info: DeviceInfo) -> str:
    """What a record says of the device that it was measured on."""
    return f"{info.name}, {info.driver}"


def records_path(program: Path) -> Path:
    """Where a program's records are: beside a file, within a model's folder."""
    if program.is_dir():
        return program / "tuning.jsonl"
    return program.with_name(f"{program.name}.tuning.jsonl")


def read_records(path: Path, target: str, device: str | None) -> Records:
    """The records of a file for a target and a device (None: the device of the last record that
    counts otherwise). A file that is not there has none."""
    try:
        lines = path.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return NO_RECORDS
    found = [_parsed(line) for line in lines if line.strip()]
    known = [r for r in found if r is not None and r.schema == SCHEMA]
    ours = [r for r in known if r.target == target]
    current = [r for r in ours if r.compiler == compiler_version()]
    wanted = device if device is not None else current[-1].device if current else ""
    kept = [r for r in current if r.device == wanted]
    reasons = {
        "of another compiler": len(ours) - len(current),
        "of another device": len(current) - len(kept),
        "that cannot be read": len(found) - len(known),
    }
    return Records({r.group: r for r in kept}, _warning(path, reasons))


def choices_of(path: Path | None, target: str, device: str = "") -> Choices:
    """The points that a file of records has for a target, and a device where it is known. Warns
    once of records that do not count."""
    if path is None:
        return NO_CHOICES
    found = read_records(path, target, device or None)
    if found.warning:
        warnings.warn(found.warning, TuningWarning, stacklevel=2)
    return found.choices


def _warning(path: Path, reasons: Mapping[str, int]) -> str:
    said = [f"{count} {why}" for why, count in reasons.items() if count]
    if not said:
        return ""
    return f"tuning records in `{path}` are not used: {', '.join(said)}; `sdlc tune` makes new ones"


def check_appendable(path: Path) -> None:
    """Raises SdlError (P009) for a file that holds something other than JSON lines."""
    try:
        lines = path.read_text("utf-8", errors="replace").split("\n")
    except OSError:
        return
    written = [line for line in lines if line.strip()]
    if written and not any(map(_is_object, written)):
        message = f"`{path}` holds no tuning records"
        raise failure("P009", message, help="name a file of records, or a new one, with -o")


def append_record(path: Path, record: Record) -> None:
    """Adds a line in one write. Raises OSError."""
    line = json.dumps(asdict(record), sort_keys=True) + "\n"
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(handle).st_size
        torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
        os.write(handle, (b"\n" if torn else b"") + line.encode())
    finally:
        os.close(handle)


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _parsed(line: str) -> Record | None:
    """The record of a line, or None for what is none."""
    try:
        values = json.loads(line)
        record = Record(**values)
        texts = (record.target, record.device, record.group, record.compiler)
        sound = all(isinstance(t, str) for t in texts) and isinstance(record.point, dict)
        hash(record.chosen())
    except (ValueError, TypeError, RecursionError):
        return None
    return record if sound else None


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value


def totals(records: Iterable[Record]) -> tuple[float, float]:
    """Seconds of one launch of each group: tuned, and by default."""
    listed = list(records)
    return sum(r.seconds for r in listed), sum(r.default_seconds for r in listed)
