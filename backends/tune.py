"""Measuring kernels: built, checked and timed by turns in one place on a device.

In: programs of one kernel each (`sdlc.program.isolated`) that read and write the same tensors. Out:
their results, and seconds of one launch of each. Invariant: all of them run on the same memory and
the same values; results are poisoned before each check; the times of one call are taken by turns,
so that what else the machine does meets all.

    bench = Workbench(device, programs[0])
    recordings = [bench.add(p) for p in programs]
    bench.result(recordings[0]); time_all(bench, recordings, Effort(rounds=5))
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from sdlc.graph.types import Array
from sdlc.program.device import Binding, Device, Launch
from sdlc.program.memory import align
from sdlc.program.profile_data import random_inputs
from sdlc.program.program import Program, Tensor
from sdlc.program.values import load, store

BEHIND = 1.5
"""A kernel that takes so many times as long as the fastest in its first turn gets no other."""
TRIALS = 4
"""Launches by which the length of a kernel is judged, before turns are taken."""
POISON = b"\xff"
"""NaN in every float type: a result that a kernel forgets to write shows."""


@dataclass(frozen=True, slots=True)
class Effort:
    """`rounds` turns, of which the median counts, fewer where they would take more than
    `most_seconds` for each kernel; a turn repeats a kernel until it has taken about
    `turn_seconds`."""

    rounds: int = 5
    turn_seconds: float = 0.02
    most_seconds: float = 2.0


@dataclass(frozen=True, slots=True)
class Timed:
    """Median seconds of one launch, and of all threads of this process meanwhile; `turns` are the
    seconds of each turn."""

    seconds: float
    thread_seconds: float
    turns: tuple[float, ...] = ()

    def times_of(self, other: Timed) -> float:
        """How many times as long as `other` it takes: the median over the turns, which both had
        side by side, so that a machine that slows down for a while slows both."""
        return median(a / b for a, b in zip(self.turns, other.turns, strict=False))


@dataclass(frozen=True, slots=True)
class Made:
    """A kernel built for the workbench."""

    built: Mapping[str, Any]
    launch: Launch


class Workbench:
    """The tensors of one kernel in a device's memory, with seeded values."""

    def __init__(self, device: Device, program: Program) -> None:
        """Raises SdlError (D…) where the device is too small."""
        self.device = device
        self.program = program
        self.inputs: Mapping[str, Array] = random_inputs(program)
        self._places = {name: _place(device, t) for name, t in program.tensors.items()}
        for name, array in (*self.inputs.items(), *program.constants.items()):
            tensor = program.tensors[name]
            self._write(name, store(array.reshape(tensor.shape), tensor))

    def add(self, program: Program) -> Made:
        """Builds the kernel of another program of the same tensors. Raises SdlError (D…)."""
        ((name, kernel),) = program.kernels.items()
        (dispatch,) = program.dispatches
        text = self.device.text(kernel)
        bound = dict(dispatch.bindings)
        bindings = tuple(self._places[bound[p]] for p in text.parameters)
        return Made(self.device.build([text]), Launch(name, bindings))

    def result(self, made: Made) -> dict[str, Array]:
        """What the kernel writes, by tensor."""
        tensors = self.program.tensors
        for name in self.program.outputs:
            self._write(name, POISON * self._places[name].nbytes)
        self.run(self.device.record(made.built, [made.launch]))
        found = {}
        for name in self.program.outputs:
            place = self._places[name]
            found[name] = load(self.device.read(place.memory, 0, place.nbytes), tensors[name])
        return found

    def run(self, recording: Any) -> None:
        """Runs a recording to its end."""
        self.device.submit(recording)
        self.device.finish()

    def _write(self, name: str, data: bytes | memoryview) -> None:
        self.device.write(self._places[name].memory, 0, data)


def _place(device: Device, tensor: Tensor) -> Binding:
    nbytes = max(align(tensor.nbytes, 4), 4)
    return Binding(device.allocate(nbytes), 0, nbytes)


def time_all(bench: Workbench, kernels: Sequence[Made], effort: Effort) -> list[Timed]:
    """The time of one launch of each, by turns. Those far behind after a turn get no more of them:
    their time is that turn's. The first always stays."""
    recordings = [_recording(bench, made, effort.turn_seconds) for made in kernels]
    turns = [[_turn(bench, *each)] for each in recordings]
    limit = BEHIND * min(t[0].seconds for t in turns)
    staying = [n for n, t in enumerate(turns) if n == 0 or t[0].seconds <= limit]
    for _ in range(_rounds(max(t[0].seconds for t in turns), recordings, effort) - 1):
        for n in staying:
            turns[n].append(_turn(bench, *recordings[n]))
    return [_over(each) for each in turns]


def _rounds(slowest: float, recordings: Sequence[tuple[Any, int]], effort: Effort) -> int:
    """As many turns as asked for, but where kernels take long: two at least."""
    turn = slowest * max(launches for _, launches in recordings)
    return max(2, min(effort.rounds, int(effort.most_seconds / max(turn, 1e-9))))


def _over(turns: Sequence[Timed]) -> Timed:
    seconds = tuple(t.seconds for t in turns)
    return Timed(median(seconds), median(t.thread_seconds for t in turns), seconds)


def _recording(bench: Workbench, made: Made, seconds: float) -> tuple[Any, int]:
    """As many launches as take about so long, and their number. The kernel has run before. A launch
    that the machine held up would pass for a long one, so the shortest of some counts."""
    one = bench.device.record(made.built, [made.launch])
    trials = [_turn(bench, one, 1).seconds]
    while len(trials) < TRIALS and sum(trials) < TRIALS * seconds:
        trials.append(_turn(bench, one, 1).seconds)
    repeats = max(1, min(1000, int(seconds / max(min(trials), 1e-7))))
    return bench.device.record(made.built, [made.launch] * repeats), repeats


def _turn(bench: Workbench, recording: Any, launches: int) -> Timed:
    started, threads = time.perf_counter(), time.process_time()
    bench.run(recording)
    wall, busy = time.perf_counter() - started, time.process_time() - threads
    return Timed(wall / launches, busy / launches)
