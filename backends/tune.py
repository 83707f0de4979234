"""Measuring points: kernels built, checked and timed by turns on a device.

In: programs of one kernel each (`sdlc.program.isolated`) that compute the same, and a device. Out:
seconds of each. Invariant: all read the same arrays; a kernel is timed only after its result was
found right; the times of one call are taken by turns, so that what else the machine does meets all.

    seconds = time_all(device, programs, Effort(rounds=5))
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from sdlc.graph.types import Array
from sdlc.program.device import Device
from sdlc.program.execute import Executable
from sdlc.program.profile_data import random_inputs
from sdlc.program.program import Program


@dataclass(frozen=True, slots=True)
class Effort:
    """`rounds` turns, of which the median counts; a turn repeats a kernel until it has taken about
    `turn_seconds`."""

    rounds: int = 5
    turn_seconds: float = 0.02


@dataclass(frozen=True, slots=True)
class Timed:
    """Median seconds of one launch, and of all threads of this process meanwhile."""

    seconds: float
    thread_seconds: float


def prepared(device: Device, program: Program, inputs: Mapping[str, Array]) -> Executable:
    """The program on the device with its inputs set, run once."""
    executable = Executable(program, device, {})
    for name, array in inputs.items():
        executable.write(name, array)
    executable.step()
    executable.finish()
    return executable


def time_all(executables: Sequence[Executable], effort: Effort) -> list[Timed]:
    """The time of one launch of each, by turns."""
    repeats = [_repeats(e, effort.turn_seconds) for e in executables]
    turns = [
        [_turn(e, n) for e, n in zip(executables, repeats, strict=True)]
        for _ in range(effort.rounds)
    ]
    columns = zip(*turns, strict=True)
    return [
        Timed(median(t.seconds for t in c), median(t.thread_seconds for t in c)) for c in columns
    ]


def _repeats(executable: Executable, seconds: float) -> int:
    return max(1, int(seconds / max(_turn(executable, 2).seconds, 1e-7)))


def _turn(executable: Executable, repeats: int) -> Timed:
    started, threads = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        executable.step()
    executable.finish()
    wall, busy = time.perf_counter() - started, time.process_time() - threads
    return Timed(wall / repeats, busy / repeats)


def inputs_of(program: Program) -> dict[str, Array]:
    """Seeded values for what a kernel reads."""
    return random_inputs(program)
