"""What `sdlc bench` does: finds programs, compiles them, runs them on a device and takes the time.

In: a file or model, a device, how often. Out: a `Timed` for every program and row. Invariant:
weights and inputs are the same seeded values in every row, whatever its rules; every timed run
comes after one that gives the outputs; rows of short runs take turns where memory allows; what has
been timed is given also when the rest is interrupted.

    for name, request in requests(Path("emoji_diffusion"), what, target).items():
        timed, = Bench(device, rounds=10).time(name, request)
"""

from __future__ import annotations

import time
import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.resources import files
from math import inf
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from sdlc.cli_kept import Kept, kept_program
from sdlc.graph.types import Array, DType
from sdlc.program.execute import Executable
from sdlc.program.profile import Measured, profile
from sdlc.program.profile_data import RandomWeights, random_inputs
from sdlc.program.profile_trace import Phase, Track

if TYPE_CHECKING:
    from sdlc.api import Request
    from sdlc.program.device import Device, KernelText
    from sdlc.program.program import Program
    from sdlc.target import Target

LONG_SECONDS = 1.0
"""A row whose runs take longer is timed alone, as soon as it is ready, and then given."""
PROFILE, PROFILE_ROUNDS = "profile", 5
REFERENCE_FLOP = 10**9
"""Programs of more work are compared with the baseline: the NumPy reference would take minutes."""
REFERENCE, BASELINE = "reference", "baseline f32"
Outputs = Mapping[str, Array]
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the ablation: its rules, and no other, are on."""

    name: str
    rules: tuple[str, ...] = ()


NO_ROW = Row("")


@dataclass(frozen=True, slots=True)
class Timed:
    """A program's measurements. `error` is the largest difference of any output from `against`, as
    a share of that output's largest value; None where there was nothing to compare with."""

    name: str
    row: Row
    rules: tuple[str, ...]
    program: Program
    seconds: tuple[float, ...]
    phases: tuple[Phase, ...]
    error: float | None = None
    against: str = ""
    dispatches: tuple[Measured, ...] = ()
    cached: bool = False
    """Whether an earlier call had compiled it."""

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def track(self) -> Track:
        title = f"{self.name}, {self.row.name}" if self.row.name else self.name
        start = next((p.begin for p in self.phases if p.name == PROFILE), 0.0)
        return Track(title, self.phases, self.dispatches, start)


def ablation_rows() -> tuple[Row, ...]:
    """The rows of stdlib/ablation.toml: each has the rules of those before it and its own."""
    from sdlc.graph.mechanisms import DEFAULT

    text = files("sdlc.stdlib").joinpath("ablation.toml").read_text("utf-8")
    rows: list[Row] = []
    on: tuple[str, ...] = ()
    for entry in tomllib.loads(text)["row"]:
        on = (*on, *entry.get("adds", ()), *(DEFAULT if entry.get("default") else ()))
        rows.append(Row(entry["name"], tuple(dict.fromkeys(on))))
    return tuple(rows)


# ---- what to time --------------------------------------------------------------------------------


def requests(
    program: Path, target: Target, what: Mapping[str, Any], measured_on: str = ""
) -> dict[str, Request]:
    """Every program of a file or model by name. `what` has the source options of the command line;
    tuning records count if they were `measured_on` the device.

    Raises SdlError (K001) for what is neither.
    """
    from sdlc.cli_header import sized_request
    from sdlc.cli_models import is_model, model_requests

    if is_model(program):
        found = model_requests(program, "cpu", what)
    else:
        found = {program.stem: sized_request(program, "cpu", **what)}
    return {n: replace(r, target=target, device=measured_on) for n, r in found.items()}


# ---- taking the time -----------------------------------------------------------------------------


@dataclass(slots=True)
class Ready:
    """A program that has given its outputs and is ready to be timed, and what is measured of it."""

    name: str
    row: Row
    rules: tuple[str, ...]
    program: Program
    phases: list[Phase]
    executable: Executable
    is_long: bool = False
    """Whether its first run took so long that it is timed alone."""
    cached: bool = False
    error: float | None = None
    against: str = ""
    seconds: list[float] = field(default_factory=list)
    dispatches: tuple[Measured, ...] = ()

    def has_time(self, budget: float) -> bool:
        """Whether another timed run is within so many seconds of them; the first one is."""
        return not self.seconds or sum(self.seconds) + self.seconds[-1] <= budget

    def compare(self, wanted: Wanted, outputs: Outputs) -> None:
        self.error, self.against = wanted.error(outputs), wanted.what

    def timed(self) -> Timed:
        counted = tuple(self.seconds)
        phases = tuple(self.phases)
        made = Timed(self.name, self.row, self.rules, self.program, counted, phases)
        made = replace(made, error=self.error, against=self.against, cached=self.cached)
        return replace(made, dispatches=self.dispatches)


@dataclass(slots=True)
class Bench:
    """A device and how often; `tell` hears what is being done; `said` is about programs that are
    kept for later calls (None: none are)."""

    device: Device
    rounds: int
    profiling: bool = False
    tell: Tell = print
    said: Mapping[str, Any] | None = None
    budget: float = inf
    """Seconds of timed runs of a row after which none begins."""

    def time(self, name: str, request: Request) -> Iterator[Timed]:
        """Compiles a program, runs it, compares its outputs with the reference, takes the time."""
        ready, outputs = self._ready(name, NO_ROW, request)
        wanted = reference_of(request, ready.program)
        if wanted is not None:
            ready.compare(wanted, outputs)
        yield from self._measured([ready])

    def ablation(
        self, name: str, request: Request, without: Collection[str] = ()
    ) -> Iterator[Timed]:
        """The program with more and more of its rules, those of `without` in no row. Rows of short
        runs that fit into half of the device's memory together take turns."""
        rows = ablation_rows()
        wanted = self._ablation_reference(name, request, rows[0])
        together: list[Ready] = []
        for row in rows:
            ready, outputs = self._ready(name, row, with_rules(request, row.rules, without))
            if wanted is None:
                wanted = Wanted(BASELINE, outputs)
            else:
                ready.compare(wanted, outputs)
            most = self.device.info.memory_bytes / 2
            if together and (ready.is_long or _held([*together, ready]) > most):
                yield from self._measured(together)
                together = []
            together.append(ready)
            if ready.is_long:
                yield from self._measured(together)
                together = []
            del ready  # a row that was timed gives its memory back before the next is loaded
        yield from self._measured(together)

    def _ablation_reference(self, name: str, request: Request, baseline: Row) -> Wanted | None:
        """What rows are compared with; None where it is what the first of them gives."""
        plain = with_rules(replace(request, precision=DType.F32), baseline.rules)
        program, texts, _ = self._compiled(name, plain)
        found = reference_of(plain, program)
        if found is not None or request.precision is DType.F32:
            return found
        with self._phase([], "reference", name, baseline):
            outputs = self._executable(program, texts).run(random_inputs(program))
        return Wanted(BASELINE, outputs)

    def _ready(self, name: str, row: Row, request: Request) -> tuple[Ready, Outputs]:
        phases: list[Phase] = []
        with self._phase(phases, "compile", name, row):
            program, texts, cached = self._compiled(name, request)
        with self._phase(phases, "build and load", name, row):
            executable = self._executable(program, texts)
        with self._phase(phases, "first run", name, row):
            outputs = executable.run(random_inputs(program))
        rules = tuple(rule.name for rule in request.rules)
        is_long = phases[-1].end - phases[-1].begin > LONG_SECONDS
        return Ready(name, row, rules, program, phases, executable, is_long, cached), outputs

    def _compiled(self, name: str, request: Request) -> Kept:
        """The program and its texts for the device; whether an earlier call had made them."""
        said = None if self.said is None else {**self.said, "what": f"{self.said['what']}  {name}"}
        return kept_program(request, self.device, lambda: request.build().program, said)

    def _executable(self, program: Program, texts: Sequence[KernelText] | None) -> Executable:
        return Executable(program, self.device, RandomWeights(program), texts)

    def _measured(self, together: Sequence[Ready]) -> Iterator[Timed]:
        """Times programs by turns, then profiles each; interrupted, gives those that were timed."""
        stopped: KeyboardInterrupt | None = None
        try:
            for round in range(self.rounds):
                for ready in together:
                    if ready.has_time(self.budget):
                        self._run(ready, f"run {round + 1} of {self.rounds}")
            for ready in together if self.profiling else ():
                with self._phase(ready.phases, PROFILE, ready.name, ready.row):
                    rounds = min(self.rounds, PROFILE_ROUNDS)
                    ready.dispatches = profile(ready.executable, rounds)
        except KeyboardInterrupt as interruption:
            stopped = interruption
        yield from (ready.timed() for ready in together if ready.seconds)
        if stopped is not None:
            raise stopped

    def _run(self, ready: Ready, doing: str) -> None:
        with self._phase(ready.phases, doing, ready.name, ready.row):
            ready.executable.step()
            ready.executable.finish()
        ready.seconds.append(ready.phases[-1].end - ready.phases[-1].begin)

    @contextmanager
    def _phase(self, phases: list[Phase], doing: str, name: str, row: Row) -> Iterator[None]:
        self.tell(f"{name}{', ' if row.name else ''}{row.name}: {doing}")
        begin = time.perf_counter()
        yield
        phases.append(Phase(doing, begin, time.perf_counter()))


def _held(together: Iterable[Ready]) -> int:
    """Bytes of device memory that programs take."""
    memories = (ready.program.memory for ready in together)
    return sum(memory.arena + memory.weights for memory in memories)


def with_rules(request: Request, names: tuple[str, ...], without: Collection[str] = ()) -> Request:
    """The request with these rules and no other."""
    from sdlc.language.elaborate_rule import chosen_rules

    rules = chosen_rules(request.library, (), names)
    return replace(request, rules=tuple(rule for rule in rules if rule.name not in without))


# ---- what is right -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wanted:
    """Outputs to compare with, and what gave them."""

    what: str
    outputs: Outputs

    def error(self, got: Outputs) -> float:
        return max(largest_error(got[name], wanted) for name, wanted in self.outputs.items())


def largest_error(got: Array, wanted: Array) -> float:
    """The largest difference as a share of the largest value that is wanted."""
    a, b = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    scale = float(np.abs(b).max(initial=0.0)) or 1.0
    return float(np.abs(a - b).max(initial=0.0)) / scale


def reference_of(request: Request, program: Program) -> Wanted | None:
    """The NumPy reference's results in f64, or None where it would take too long."""
    from sdlc.graph.reference import Mode, evaluate

    if program.flop > REFERENCE_FLOP:
        return None
    weights = RandomWeights(program)
    outputs = evaluate(request.graph(), random_inputs(program), weights, Mode.F64)
    return Wanted(REFERENCE, outputs)
