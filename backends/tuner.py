"""The tuner: for every distinct group of a plan, the fastest of its best points on a device.

In: a graph with its plan, a target, a device, how much effort. Out: `Record`s, one a group, the
groups that should take longest first. Invariant: a point is timed only if its result is within the
computed tolerance of the group's definition at sampled elements; a point that cannot be built or is
wrong is left out and said; the default is always measured beside.

    work = Work(graph, plan, target)
    tune(work, device, work.jobs[0], Settings(top=8)).record
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from types import MappingProxyType

import numpy as np

from sdlc.backends.tune import Effort, Made, Timed, Workbench, time_all
from sdlc.graph.node import Graph, Node
from sdlc.graph.types import Array
from sdlc.language.diagnostics import SdlError
from sdlc.program.device import Device
from sdlc.program.isolated import Isolation
from sdlc.program.program import Program
from sdlc.program.records import Record, device_text
from sdlc.proof.pieces import definition
from sdlc.proof.sample import Points, at_points
from sdlc.proof.tolerance import Allowed, Numerics, disagreement, tolerance
from sdlc.schedule.cost import estimate
from sdlc.schedule.digest import digest_of, label_of
from sdlc.schedule.plan import Plan, Scheduled
from sdlc.schedule.point import DEFAULT
from sdlc.schedule.space import Candidate, Situation, candidates, in_order
from sdlc.target import Target

SAMPLES = 24
"""Elements of each result that are compared with the definition."""
LANGUAGES = MappingProxyType({"opencl": "opencl", "webgpu": "wgsl"})
"""The language that says how accurate functions are, by kind of device."""
GAIN = 0.97
"""A point must take at most so much of the default's time to be chosen: less is noise."""


@dataclass(frozen=True, slots=True)
class Job:
    """A distinct group: its digest, label, one kernel to be of it, and how often it is launched."""

    digest: str
    label: str
    kernel: Scheduled
    launches: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a job: a record, or why there is none; and the points that were left out."""

    job: Job
    record: Record | None
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Work:
    """A planned program to tune."""

    graph: Graph
    plan: Plan
    target: Target
    jobs: tuple[Job, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "jobs", _jobs(self.plan, self.target))


def _jobs(plan: Plan, target: Target) -> tuple[Job, ...]:
    """Every distinct group, those that should take longest in all first."""
    first: dict[str, Scheduled] = {}
    launches: dict[str, int] = {}
    for kernel in plan.kernels:
        digest = digest_of(kernel.base, kernel.lanes, plan.orders, plan.blocks)
        first.setdefault(digest, kernel)
        launches[digest] = launches.get(digest, 0) + 1
    seconds = {d: estimate(k, target, plan.orders).seconds * launches[d] for d, k in first.items()}
    ordered = sorted(first, key=lambda d: -seconds[d])
    return tuple(Job(d, label_of(first[d].base), first[d], launches[d]) for d in ordered)


@dataclass(frozen=True, slots=True)
class Settings:
    """`top` points beside the default are measured, each with `effort`."""

    top: int = 8
    effort: Effort = field(default_factory=Effort)


def tune(work: Work, device: Device, job: Job, settings: Settings) -> Outcome:
    """Measures one group's best points."""
    isolation = Isolation.of(work.graph, work.plan, work.target)
    situation = Situation(work.target, work.plan.orders)
    found = candidates(job.kernel.base, job.kernel.lanes, situation)
    chosen = in_order(found, settings.top)
    try:
        bench = Workbench(device, isolation.program(chosen[0].kernel))
    except SdlError as error:
        return Outcome(job, None, (_first_line(error),))
    right = _Right(isolation, bench)
    made: list[tuple[Candidate, Made]] = []
    refused: list[str] = []
    for each in chosen:
        built = _built(each, isolation, bench, right)
        if isinstance(built, str):
            refused.append(f"{each.point}: {built}")
        else:
            made.append((each, built))
    if not made or made[0][0].point != DEFAULT:
        return Outcome(job, None, tuple(refused))
    best, times = _fastest(bench, [kernel for _, kernel in made], settings.effort)
    record = Record(
        target=work.target.name,
        device=device_text(device.info),
        group=job.digest,
        label=job.label,
        point=dict(made[best][0].point.overrides),
        seconds=times[1].seconds,
        default_seconds=times[0].seconds,
        estimate=made[best][0].estimate.seconds,
        measured=len(made),
    )
    return Outcome(job, record, tuple(refused))


def _fastest(bench: Workbench, kernels: list[Made], effort: Effort) -> tuple[int, list[Timed]]:
    """The number of the fastest kernel, and the times of the first and of it, taken again: the
    smallest of many noisy times flatters. It is the first unless another is clearly faster, turn by
    turn."""
    seconds = [t.seconds for t in time_all(bench, kernels, effort)]
    best = min(range(len(seconds)), key=seconds.__getitem__)
    times = time_all(bench, [kernels[0], kernels[best]], effort)
    if best == 0 or times[1].times_of(times[0]) > GAIN or times[1].seconds > times[0].seconds:
        return 0, [times[0], times[0]]
    return best, times


def _built(each: Candidate, isolation: Isolation, bench: Workbench, right: _Right) -> Made | str:
    """The candidate built for the workbench, or why it is left out."""
    try:
        made = bench.add(isolation.program(each.kernel))
        return right.problem(bench.result(made)) or made
    except SdlError as error:
        return _first_line(error)


def _first_line(error: SdlError) -> str:
    return str(error).splitlines()[0]


# ---- right or wrong ------------------------------------------------------------------------------


class _Right:
    """The group's definition at sampled elements, with the error that rounding explains."""

    def __init__(self, isolation: Isolation, bench: Workbench) -> None:
        program = bench.program
        values = {name: value for value, name in isolation.names.items()}
        self._points = {n: _sampled(program.tensors[n].shape) for n in program.outputs}
        language = LANGUAGES.get(bench.device.info.kind, "numpy")
        self._allowed = _allowed(program, values, bench.inputs, self._points, language)

    def problem(self, results: Mapping[str, Array]) -> str | None:
        """What is wrong with a kernel's results, or None."""
        for name, limit in self._allowed.items():
            got = results[name][tuple(self._points[name].T)]
            message = disagreement(limit, got, Numerics.REASSOCIATED)
            if message is not None:
                return f"wrong result: {message}"
        return None


def _allowed(
    program: Program,
    values: Mapping[str, tuple[Node, int]],
    inputs: Mapping[str, Array],
    points: Mapping[str, Points],
    language: str,
) -> dict[str, Allowed]:
    read = [*program.inputs, *program.constants]
    whole = definition(program.name, read, list(program.outputs), values)
    return tolerance(at_points(whole, points), inputs, {}, language)


def _sampled(shape: tuple[int, ...]) -> Points:
    """The first and the last element, and others drawn with a seed."""
    total = prod(shape)
    drawn = np.random.default_rng(0).integers(0, total, SAMPLES)
    numbers = np.unique(np.concatenate([[0, total - 1], drawn]))
    return np.stack(np.unravel_index(numbers, shape or (1,)), axis=1)[:, : len(shape)]
