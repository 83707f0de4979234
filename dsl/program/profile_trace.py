"""A run as a trace that ui.perfetto.dev opens: what the host did, what the device did.

In: phases of the host and measured dispatches. Out: a JSON object in Chrome's trace-event format
(https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU), times in
microseconds. Invariant: the device's dispatches lie inside the phase that ran them.

    trace(Track("unet", (Phase("compile", 0.0, 1.2), Phase("profile", 1.2, 1.5)), measured, 1.2))
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sdlc.program.profile import Measured

MICROSECOND = 1e-6
HOST, DEVICE = 1, 2
Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Phase:
    """A piece of the host's work, in seconds from any one moment."""

    name: str
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Track:
    """One program: the host's phases, and its dispatches, the first of which began at `start`."""

    name: str
    phases: tuple[Phase, ...]
    dispatches: tuple[Measured, ...]
    start: float = 0.0


def trace(tracks: Iterable[Track]) -> dict[str, Any]:
    """One process for each program, with a thread for the host and one for the device; time begins
    with the first phase."""
    held = tuple(tracks)
    first = min((phase.begin for track in held for phase in track.phases), default=0.0)
    events = [e for process, track in enumerate(held, 1) for e in _events(process, track, first)]
    return {"displayTimeUnit": "ms", "traceEvents": events}


def _events(process: int, track: Track, first: float) -> Iterator[Event]:
    yield _name("process_name", track.name, process, HOST)
    yield _name("thread_name", "host", process, HOST)
    for phase in track.phases:
        spent = (phase.begin - first, phase.end - phase.begin)
        yield _slice(phase.name, "host", spent, (process, HOST), {})
    if track.dispatches:
        yield _name("thread_name", "device", process, DEVICE)
    for each in track.dispatches:
        spent = (track.start - first + each.begin, each.seconds)
        yield _slice(each.label or each.kernel, "device", spent, (process, DEVICE), _facts(each))


def _facts(each: Measured) -> dict[str, object]:
    facts: dict[str, object] = {"kernel": each.kernel, "FLOP": each.flop, "bytes": each.nbytes}
    if each.seconds > 0:
        facts["GFLOP/s"] = round(each.flop / each.seconds / 1e9, 1)
        facts["GB/s"] = round(each.nbytes / each.seconds / 1e9, 2)
    return facts


def _slice(
    name: str,
    category: str,
    spent: tuple[float, float],
    place: tuple[int, int],
    facts: dict[str, object],
) -> Event:
    begin, seconds = (round(t / MICROSECOND, 3) for t in spent)
    made = {"name": name, "cat": category, "ph": "X", "ts": begin, "dur": seconds}
    return made | {"pid": place[0], "tid": place[1], "args": facts}


def _name(kind: str, name: str, process: int, thread: int) -> Event:
    return {"name": kind, "ph": "M", "pid": process, "tid": thread, "args": {"name": name}}
