"""The property tests of `sdlc check --target`: what to compile, how to run it, what to say.

In: files, a target, a device, an effort. Out: a report on stdout, reproducers, an exit status.
Invariant: the exit status is 1 if anything is wrong; what was not checked is listed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdlc.api import Request, make_request
from sdlc.cli_check import entries, law_problems
from sdlc.cli_common import print_json, request_from
from sdlc.cli_header import structure_problems, with_header
from sdlc.cli_models import is_model, model_requests
from sdlc.graph.numerics import Numerics
from sdlc.graph.types import DType
from sdlc.language.diagnostics import Diagnostic, SdlError, failure, plural
from sdlc.program.pipeline import Wishes, planned
from sdlc.proof.check import Compilation, Report, Tell, check, compiled, sized
from sdlc.proof.falsify import Effort, Verdict, judge, need_hypothesis
from sdlc.proof.heap import keep_freed_memory
from sdlc.proof.reproduce import Command, Reproducer, read_inputs, reproduce
from sdlc.proof.source import Source
from sdlc.proof.stages import (
    Fault,
    Route,
    Shared,
    Stage,
    Subject,
    changed,
    interpreted,
    on,
    reference,
    rewritten,
)
from sdlc.proof.structure import Header
from sdlc.target import Capabilities, Target

if TYPE_CHECKING:
    from sdlc.program.device import Device


@dataclass(frozen=True, slots=True)
class Job:
    """A program to check: what to compile, and the words that say so on a command line."""

    title: str
    request: Request
    words: tuple[str, ...]
    header: Header


@dataclass(frozen=True, slots=True)
class Place:
    """What kernels are made for, where they run (nowhere: interpreted only)."""

    target: Target
    devices: tuple[Device, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """A command line's for both."""
        named = ",".join(device.info.id for device in self.devices)
        return ("--target", self.target.name, *(("--device", named) if named else ()))


@dataclass(frozen=True, slots=True)
class Work:
    """A program to check, made for a place."""

    job: Job
    place: Place
    made: Compilation

    @property
    def kernels(self) -> list[str]:
        return [kernel.name for kernel in self.made.program.all_kernels]


def prove(
    files: tuple[Path, ...],
    where: tuple[str | None, str | None],
    source: dict[str, Any],
    how: dict[str, Any],
    tell: Tell,
    as_json: bool,
) -> int:
    """Checks every program of the files; the exit status."""
    need_hypothesis()
    keep_freed_memory()
    jobs = [
        (place, job)
        for place in _places(*where)
        for file in files
        for job in _jobs(file, place.target, source)
    ]
    if how["replay"] is not None and len(jobs) != 1:
        help = "name it with --entry, and the target with --target"
        raise failure("C004", "--replay takes one program", help=help)
    if how["replay"] is None:
        _check_structure(job for _, job in jobs)
    works = _with_kernel(_compiled(jobs, tell), how["kernel"])
    results = [(work, *_checked(work, how, told)) for work, told in _told(works, tell)]
    if as_json:
        print_json([_as_json(*result) for result in results])
    else:
        for result in results:
            _say(*result)
    return 1 if any(report.failures for _, report, _ in results) else 0


def _compiled(jobs: list[tuple[Place, Job]], tell: Tell) -> list[Work]:
    made = []
    for number, (place, job) in enumerate(jobs):
        tell(f"compiling {job.title}", number, len(jobs))
        made.append(Work(job, place, compilation(job.request)))
    return made


def _with_kernel(works: list[Work], kernel: str | None) -> list[Work]:
    """Those that have this kernel. Raises SdlError (C005) where none does."""
    found = [work for work in works if kernel is None or kernel in work.kernels]
    if not found:
        titles = ", ".join(f"`{work.job.title}`" for work in works)
        message = f"{titles} {'has' if len(works) == 1 else 'have'} no kernel `{kernel}`"
        kernels = ", ".join(dict.fromkeys(name for work in works for name in work.kernels))
        raise failure("C005", message, help="choose one of its kernels", notes=(("has", kernels),))
    return found


def _told(works: list[Work], tell: Tell) -> Iterator[tuple[Work, Tell]]:
    """Each with who is told of its progress as a part of all."""
    counts = [len(work.made.pieces) + 1 for work in works]
    for number, work in enumerate(works):
        before = sum(counts[:number])

        def told(name: str, done: int, total: int, before: int = before) -> None:
            tell(name, before + done, sum(counts))

        yield work, told


def _check_structure(jobs: Iterable[Job]) -> None:
    """Raises SdlError where a file says something else of its kernels (C002), or folds what is no
    monoid (E051): then no order of its kernels is wrong."""
    for job in jobs:
        if (broken := law_problems([job.request.graph()], job.request)) is not None:
            raise broken
        problems = structure_problems(job.request, job.header)
        if problems:
            raise SdlError(problems, job.request.library.sources)


def _places(target: str | None, device: str | None) -> tuple[Place, ...]:
    """One for the target that is named; else one for each target whose programs suit a device, with
    the devices that it suits."""
    from sdlc.backends.devices import open_device, target_of
    from sdlc.backends.target import load_target

    opened = () if device is None else tuple(map(open_device, device.split(",")))
    if target is not None:
        return (Place(load_target(target), opened),)
    if not opened:
        raise click.UsageError("give --target, --device or both")
    own: dict[str, list[Device]] = {}
    for each in opened:
        own.setdefault(target_of(each.info).name, []).append(each)
    return tuple(Place(load_target(name), tuple(suited)) for name, suited in own.items())


def route_for(place: Place) -> Route:
    """Every stage that there is: the interpreter takes the place of devices that are not given, and
    several devices are held against what is computed once."""
    shared = Shared()
    stages = [reference(shared), rewritten(shared), interpreted(shared)]
    if not place.devices:
        language = place.target.caps.languages[0]
        stages.append(_legalised(place.target.caps, language, shared))
        return Route(tuple(stages), language)
    for device in place.devices:
        language = language_of(device)
        made = _legalised(device.info.caps, language, shared)
        named = (
            made
            if len(place.devices) == 1
            else replace(made, name=f"legalised for {device.info.id}")
        )
        stages += [replace(named, language=language), replace(on(device), language=language)]
    return Route(tuple(stages), language_of(place.devices[0]))


def language_of(device: Device) -> str:
    """What the device's kernels are printed in."""
    return "opencl" if device.info.kind == "opencl" else "wgsl"


def _legalised(caps: Capabilities, language: str, shared: Shared) -> Stage:
    from sdlc.backends.legalize import legalize

    return changed("legalised", lambda kernel: legalize(kernel, caps, language), shared)


# ---- what to compile -----------------------------------------------------------------------------


def _jobs(file: Path, target: Target, source: dict[str, Any]) -> list[Job]:
    if is_model(file):
        return _networks(file, target, source)
    request = replace(request_from(file, target.name, **source), target=target)
    found = []
    for name in entries(request):
        one, header = with_header(request, name)
        if not one.missing_sizes():
            found.append(Job(name, one, _words(file, name, source), header))
    if not found:
        missing = ", ".join(request.missing_sizes()) if source["entry"] else "of every definition"
        message = f"nothing to check in `{file}`: sizes are open: {missing}"
        raise failure("C005", message, help="give them: --set b=1 n=77, and --entry NAME")
    return found


def _networks(place: Path, target: Target, source: dict[str, Any]) -> list[Job]:
    """The programs of a model, or the one that `place` names."""
    found = model_requests(place, target.name, source)
    part = {name: place if len(found) == 1 else place / name for name in found}
    return [
        Job(name, replace(request, target=target), _words(part[name], None, source), Header())
        for name, request in found.items()
    ]


def _words(file: Path, entry: str | None, source: dict[str, Any]) -> tuple[str, ...]:
    named = () if entry is None else ("--entry", entry)
    paths = [("--config", path) for path in source["configs"]]
    paths += [("--records", source["records"])] if source["records"] else []
    files = (word for option, path in paths for word in (option, str(path)))
    return (str(file), *named, *files, *_settings(source))


def _settings(source: dict[str, Any]) -> tuple[str, ...]:
    sizes = ("--set", *source["sizes"]) if source["sizes"] else ()
    half = ("--precision", "f16") if source["precision"] == "f16" else ()
    named = [(f"--{name}", source[name]) for name in ("without", "only", "f32")]
    rules = (word for option, names in named for name in names for word in (option, name))
    budget = source["weight_budget"]
    weights = () if budget is None else ("--weight-budget", str(budget))
    return (*sizes, *half, *rules, *weights)


def compilation(request: Request) -> Compilation:
    """The program of a request, as it is compiled, with all that its proof needs."""
    graph = request.graph()
    wishes = Wishes(request.choices(), request.weight_budget)
    made = planned(graph, request.target, request.rules, wishes)
    both, moves = (made.parts, made.plan), made.plan.fired
    done = compiled(graph, made.graph, both, request.target, request.precision)
    fired = tuple(r for r in request.rules if made.report.fired(r.name) or r.name in moves)
    classes = list(Numerics)
    worst = max((classes.index(r.numerics) for r in fired), default=0)
    numerics = classes[max(worst, classes.index(Numerics.REASSOCIATED))]
    return replace(done, numerics=numerics, fired=tuple(rule.name for rule in fired))


# ---- one program ---------------------------------------------------------------------------------


def _checked(work: Work, how: dict[str, Any], tell: Tell) -> tuple[Report, Reproducer | None]:
    route, target = route_for(work.place), work.place.target
    if how["replay"] is not None:
        return _replayed(work.made, route, how), None
    effort = Effort(how["examples"], how["seconds"], how["seed"])
    report = check(work.made, route, effort, tell, how["kernel"])
    left = None
    if report.failures:
        command = Command(work.job.words, work.place.words)
        means = (route, lambda source: _subject_of(source, target))
        left = reproduce(report.failures[0], command, means, how["output"])
    return report, left


def _replayed(made: Compilation, route: Route, how: dict[str, Any]) -> Report:
    arrays = read_inputs(how["replay"])
    subject = made.whole
    if how["kernel"] is not None:
        subject = sized(next(s for s in made.pieces if s.name == how["kernel"]), route)
    fault = judge(subject, route, arrays)
    return Report((Verdict(subject, 1, fault, (), 1.0, 0.0),), None, ())


def _subject_of(source: Source, target: Target) -> Subject:
    """A stand-alone text compiled."""
    request = make_request(source.text, target, None, {}, (None, source.precision.value))
    return compilation(request).whole


# ---- what to say ---------------------------------------------------------------------------------


def _say(work: Work, report: Report, left: Reproducer | None) -> None:
    """The report for people, on stderr where it is bad news."""
    job, place = work.job, work.place
    stages = " = ".join(s.name for s in route_for(place).stages)
    examples = sum(v.examples for v in report.verdicts)
    precision = "" if job.request.precision is DType.F32 else " in f16"
    what = f"{job.title} for {place.target.name}{precision}"
    for verdict in report.failures:
        click.echo(str(_error(verdict, left, job.request.library.sources)), err=True)
    if not report.failures:
        counted = plural(len(report.kernels), "kernel")
        whole = " and the whole program" if report.whole else ""
        agree = "agrees" if len(report.verdicts) == 1 else "agree"
        click.echo(f"{what}: {counted}{whole} {agree} on {plural(examples, 'example')}")
        click.echo(f"  {stages}")
    for verdict in report.verdicts:
        for note in verdict.notes if verdict.fault is None else ():
            click.echo(f"  {verdict.subject.name}: {note}")
    for name, reason in report.skipped:
        click.echo(f"  not checked: {name}: {reason}")


def _error(verdict: Verdict, left: Reproducer | None, sources: Mapping[str, str]) -> SdlError:
    fault = verdict.fault or Fault("", "")
    what = "kernel" if verdict.subject.is_kernel else "program"
    notes = [("guilty stage", fault.stage), ("problem", fault.problem)]
    notes += [("on", str(given)) for given in verdict.example]
    notes += [("note", note) for note in verdict.notes]
    help = ""
    if left is not None:
        notes.append(("reproducer", str(left.folder)))
        help = f"replay it: {left.command}"
    _, node, _ = verdict.subject.definition.outputs[0]
    span = node.origin.span
    message = f"the {what} `{verdict.subject.name}` does not compute its definition"
    return SdlError((Diagnostic("C001", message, span, "", tuple(notes), help),), sources)


def _as_json(work: Work, report: Report, left: Reproducer | None) -> dict[str, Any]:
    job = work.job
    return {
        "program": job.title,
        "target": job.request.target.name,
        "devices": [device.info.id for device in work.place.devices],
        "precision": job.request.precision.value,
        "checked": [_verdict_json(v) for v in report.verdicts],
        "not_checked": [{"name": name, "reason": reason} for name, reason in report.skipped],
        "reproducer": None if left is None else {"folder": left.folder, "command": left.command},
    }


def _verdict_json(verdict: Verdict) -> dict[str, Any]:
    fault = verdict.fault
    return {
        "name": verdict.subject.name,
        "kernel": verdict.subject.is_kernel,
        "examples": verdict.examples,
        "agrees": fault is None,
        "stage": None if fault is None else fault.stage,
        "problem": None if fault is None else fault.problem,
        "inputs": [str(g) for g in verdict.example],
        "defined": round(verdict.defined, 4),
        "seconds": round(verdict.seconds, 3),
        "notes": list(verdict.notes),
    }
