"""One program executed at every level of the compiler, and the level at fault named.

In: a `Subject` (a definition and the program that claims to compute it), arrays, stages as data.
Out: the first stage that is wrong, or None. Invariant: every stage is held against the same
computed tolerance, and only against the definition's f64 meaning; no stage sees another's result.

    stages = (reference(), rewritten(), interpreted(), changed("legalised", change), on(device))
    first_wrong(subject, Arrays(inputs, weights), Route(stages, "opencl"))     None, or a Fault
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sdlc.graph.node import Graph
from sdlc.graph.numerics import Numerics
from sdlc.graph.reference import evaluate
from sdlc.graph.types import Array
from sdlc.kernel.ir import Kernel
from sdlc.program.device import Device
from sdlc.program.execute import Executable
from sdlc.program.interpreted import Change, run_interpreted, unchanged
from sdlc.program.program import Program
from sdlc.proof.sample import NotSampled, Sample, interpret_sample
from sdlc.proof.tolerance import Allowed, Tolerances, disagreement, mode_of

Named = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Subject:
    """What is proven: `graph` is the definition, `rewritten` what rules made of it, `program` what
    was compiled from that, `numerics` the class of what was done to the arithmetic on the way."""

    name: str
    graph: Graph
    rewritten: Graph
    program: Program
    numerics: Numerics = Numerics.REASSOCIATED
    is_kernel: bool = False
    """Whether this is one kernel of a program, by itself."""
    sample: Sample | None = None
    """Where the program is one kernel too large to interpret; `graph` is then its definition at
    the sampled points, and `whole` at all of them."""
    whole: Graph | None = None
    narrowed: Graph | None = None
    """The graph with what the program's kernels hold in half precision on their way (`narrow`), if
    there is any."""

    @property
    def definition(self) -> Graph:
        """The definition at every point."""
        return self.whole or self.graph

    def results(self, whole: Named) -> Named:
        """What is compared of a program's results."""
        return whole if self.sample is None else self.sample.pick(whole)


@dataclass(frozen=True, slots=True)
class Arrays:
    """What a program is run on: its inputs by name, its weights by scope path."""

    inputs: Named
    weights: Named


@dataclass(frozen=True, slots=True)
class Stage:
    """A level: its name and how it executes a subject; `language` says how accurate functions are
    there, where it is not the route's."""

    name: str
    run: Callable[[Subject, Arrays], Named]
    language: str = ""
    is_device: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """Stages in the compiler's order; the language of the last says how accurate functions are."""

    stages: tuple[Stage, ...]
    language: str = "numpy"

    @property
    def on_device(self) -> bool:
        """Whether a device is among them."""
        return any(stage.is_device for stage in self.stages)


@dataclass(frozen=True, slots=True)
class Fault:
    """A stage that is wrong, and how: a disagreement, or what it raised."""

    stage: str
    problem: str


class Shared:
    """What stages of one route computed of the last arrays: one that would compute the same again,
    from an equal graph or equal kernels, takes it."""

    def __init__(self) -> None:
        self._of: tuple[Program, Arrays] | None = None
        self._known: list[tuple[object, Named]] = []

    def get(
        self, subject: Subject, arrays: Arrays, source: object, make: Callable[[], Named]
    ) -> Named:
        """What `source` gives on these arrays, made where it is not known."""
        last = self._of
        if last is None or last[0] is not subject.program or last[1] is not arrays:
            self._of, self._known = (subject.program, arrays), []
        for known, results in self._known:
            if known == source:
                return results
        made = make()
        self._known.append((source, made))
        return made


def reference(shared: Shared | None = None) -> Stage:
    """The definition in the program's own arithmetic."""
    return _evaluated("reference", lambda subject: subject.graph, shared)


def rewritten(shared: Shared | None = None) -> Stage:
    """The definition after rules, in the program's own arithmetic."""
    return _evaluated("rewritten", lambda subject: subject.rewritten, shared)


def _evaluated(name: str, of: Callable[[Subject], Graph], shared: Shared | None) -> Stage:
    known = shared or Shared()

    def run(subject: Subject, arrays: Arrays) -> Named:
        graph, given = of(subject), (arrays.inputs, arrays.weights)
        return known.get(
            subject, arrays, graph.outputs, lambda: evaluate(graph, *given, mode_of(graph))
        )

    return Stage(name, run)


def interpreted(shared: Shared | None = None) -> Stage:
    """The program's kernels, lane by lane."""
    return changed("interpreted", unchanged, shared)


def changed(name: str, change: Change, shared: Shared | None = None) -> Stage:
    """The kernels after `change` (legalised for a device, say), lane by lane."""
    known = shared or Shared()
    last: list[tuple[Program, dict[int, Kernel]]] = []

    def made(program: Program) -> dict[int, Kernel]:
        """What becomes of each kernel, by its identity: once a program."""
        if not last or last[0][0] is not program:
            last[:] = [(program, {id(k): change(k) for k in program.all_kernels})]
        return last[0][1]

    def run(subject: Subject, arrays: Arrays) -> Named:
        kernels = made(subject.program)

        def interpret() -> Named:
            def by(kernel: Kernel) -> Kernel:
                return kernels[id(kernel)]

            if subject.sample is not None:
                return interpret_sample(subject.program, arrays.inputs, subject.sample, by)
            return run_interpreted(subject.program, arrays.inputs, arrays.weights, by)

        return known.get(subject, arrays, tuple(kernels.values()), interpret)

    return Stage(name, run)


def on(device: Device) -> Stage:
    """The program on a device. Drivers build the kernels of a program without weights once."""
    last: list[tuple[Program, Executable]] = []

    def built(program: Program, arrays: Arrays) -> Executable:
        if arrays.weights or not last or last[0][0] is not program:
            last[:] = [(program, Executable(program, device, arrays.weights))]
        return last[0][1]

    def run(subject: Subject, arrays: Arrays) -> Named:
        return subject.results(built(subject.program, arrays).run(arrays.inputs))

    return Stage(f"device {device.info.id}", run, is_device=True)


def limits(subject: Subject, arrays: Arrays, route: Route) -> dict[str, Allowed]:
    """What every stage of the route may differ by. The reference alone is held against random
    roundings only: its own error is no excuse for it."""
    return _tolerances(subject, arrays, route).of(route.language)


def _tolerances(subject: Subject, arrays: Arrays, route: Route) -> Tolerances:
    measured = len(route.stages) > 1
    given = (subject.graph, arrays.inputs, arrays.weights)
    return Tolerances(*given, measured, subject.narrowed)


def fault_of(
    stage: Stage, subject: Subject, arrays: Arrays, allowed: Mapping[str, Allowed]
) -> Fault | None:
    """What is wrong with one stage, whatever it raises included."""
    try:
        results = stage.run(subject, arrays)
    except NotSampled:
        return None
    except Exception as problem:
        return Fault(stage.name, f"{type(problem).__name__}: {problem}")
    for name, limit in allowed.items():
        message = disagreement(limit, results[name], subject.numerics)
        if message is not None:
            return Fault(stage.name, f"output `{name}`: {message}")
    return None


@dataclass(slots=True)
class Limits:
    """What the stages of a route may differ by, computed once a language."""

    subject: Subject
    arrays: Arrays
    route: Route
    _known: list[Tolerances] = field(default_factory=list)

    def of(self, stage: Stage) -> dict[str, Allowed]:
        """What a stage may differ by."""
        if not self._known:
            self._known.append(_tolerances(self.subject, self.arrays, self.route))
        return self._known[0].of(stage.language or self.route.language)


def first_wrong(
    subject: Subject, arrays: Arrays, route: Route, allowed: Limits | None = None
) -> Fault | None:
    """The first stage that is wrong, in the compiler's order."""
    allowed = allowed or Limits(subject, arrays, route)
    faults = (fault_of(s, subject, arrays, allowed.of(s)) for s in route.stages)
    return next((fault for fault in faults if fault is not None), None)
