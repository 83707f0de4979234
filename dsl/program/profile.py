"""Where a program's time goes: each dispatch with its time on the device, its work and its bytes.

In: an executable whose inputs are set. Out: `Measured` for every dispatch, in order, and sums over
what is alike. Invariant: times are the device's own (no host, no queue between launches); each is
the shortest of `rounds` runs, the one that other work disturbed least.

    for row in summed(profile(executable, rounds=5), lambda m: m.kernel):
        print(row.name, row.seconds, row.flop_rate)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sdlc.program.execute import Executable
from sdlc.program.program import Dispatch, Program


@dataclass(frozen=True, slots=True)
class Measured:
    """One dispatch. `nbytes` are of the tensors that it binds, each once: the least that must move.
    `begin` is when it began in the last of the runs."""

    label: str
    kernel: str
    flop: int
    nbytes: int
    begin: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Row:
    """Dispatches that are alike, summed."""

    name: str
    count: int
    seconds: float
    flop: int
    nbytes: int

    @property
    def flop_rate(self) -> float:
        """FLOP/s."""
        return self.flop / self.seconds if self.seconds else 0.0

    @property
    def byte_rate(self) -> float:
        """Bytes/s."""
        return self.nbytes / self.seconds if self.seconds else 0.0


def profile(executable: Executable, rounds: int = 5) -> tuple[Measured, ...]:
    """Runs the program `rounds` times (at least once). Raises SdlError (D033) where the device has
    no clock that can be read."""
    program = executable.program
    runs = [executable.profile() for _ in range(max(1, rounds))]
    made = []
    for dispatch, timings in zip(program.dispatches, zip(*runs, strict=True), strict=True):
        seconds = min(t.seconds for t in timings)
        nbytes, begin = moved_bytes(program, dispatch), timings[-1].begin
        measured = Measured(dispatch.label, dispatch.kernel, dispatch.flop, nbytes, begin, seconds)
        made.append(measured)
    return tuple(made)


def moved_bytes(program: Program, dispatch: Dispatch) -> int:
    """Bytes of the tensors that a dispatch binds."""
    names = {tensor for _, tensor in dispatch.bindings}
    return sum(program.tensors[name].nbytes for name in names)


def summed(measured: Iterable[Measured], key: Callable[[Measured], str]) -> tuple[Row, ...]:
    """One row for each key, the one that takes longest first."""
    alike: dict[str, list[Measured]] = {}
    for each in measured:
        alike.setdefault(key(each), []).append(each)
    rows = (
        Row(
            name,
            len(group),
            sum(m.seconds for m in group),
            sum(m.flop for m in group),
            sum(m.nbytes for m in group),
        )
        for name, group in alike.items()
    )
    return tuple(sorted(rows, key=lambda row: row.seconds, reverse=True))
