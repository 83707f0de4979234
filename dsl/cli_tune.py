"""`sdlc tune`: the fastest schedule of each kernel of a program on a device, kept as records.

In: a file or model, a target, a device, a budget. Out: JSON lines beside the program, which
`compile`, `run` and `generate` read. Example:

    sdlc tune unet.sdl --target cpu --device cpu --set b=2 h=64 w=64 t=77 d=768 --budget 300
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdlc.cli_common import (
    ManyValues,
    check_place,
    json_option,
    print_json,
    print_table,
    source_options,
)
from sdlc.cli_progress import progress

if TYPE_CHECKING:
    from sdlc.api import Request
    from sdlc.backends.tuner import Outcome, Settings
    from sdlc.program.device import Device
    from sdlc.program.records import Record

Tell = Callable[[str, int, int], None]


@click.command(
    "tune",
    cls=ManyValues,
    short_help="Measures schedules on a device, records the fastest.",
)
@click.argument("program", type=click.Path(path_type=Path))
@click.option("--target", metavar="NAME", help="What to compile for (default: the device's own).")
@click.option("--device", metavar="DEVICE", help="Where to measure; `sdlc devices` lists them.")
@source_options
@click.option(
    "--top",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="Points of each kernel that are measured: the best by estimate.",
)
@click.option(
    "--budget",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Stop after so long; the next call goes on where this one stopped.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE.jsonl",
    help="The records (default: FILE.sdl.tuning.jsonl, or tuning.jsonl in a model's folder).",
)
@json_option
def tune_command(
    program: Path,
    target: str | None,
    device: str | None,
    top: int,
    budget: float | None,
    output: Path | None,
    as_json: bool,
    **what: Any,
) -> None:
    """Measures the best schedules of each kernel of PROGRAM on a device and records the fastest.

    The cost model orders the points of a kernel's schedule space; the best are built, checked
    against the kernel's definition and timed by turns. Kernels that are recorded already are not
    measured again.

    \b
    Examples:
      sdlc tune softmax.sdl --set b=2x3 n=4096
      sdlc tune emoji_diffusion/unet --device cpu --budget 300 -o unet.jsonl
      sdlc compile unet.sdl --records unet.jsonl
    """
    from sdlc.backends.devices import open_device, target_of
    from sdlc.backends.target import load_target
    from sdlc.backends.tuner import Settings
    from sdlc.cli_bench_run import requests
    from sdlc.program.records import check_appendable

    if output is not None:
        check_place(output)
    opened = open_device(device)
    chosen = target_of(opened.info) if target is None else load_target(target)
    wanted = requests(program, chosen, what)
    place = output or next(r.records for r in wanted.values() if r.records is not None)
    check_place(place)
    check_appendable(place)
    run = _Run(opened, place, Settings(top), budget)
    with progress("planning", 48) as tell:
        for request in wanted.values():
            run.tune(request, tell)
    if as_json:
        print_json(run.summary())
    else:
        run.print()


class _Run:
    """One call: what it has measured so far."""

    def __init__(
        self, device: Device, place: Path, settings: Settings, budget: float | None
    ) -> None:
        self._device, self._place, self._settings = device, place, settings
        self._end = None if budget is None else time.monotonic() + budget
        self._outcomes: list[Outcome] = []
        self._known = 0
        self._left = 0

    def tune(self, request: Request, tell: Tell) -> None:
        """Measures the groups of a program that have no record yet."""
        from sdlc.backends.tuner import Work, tune
        from sdlc.graph.hoist import hoist
        from sdlc.program.records import append_record, device_text, read_records
        from sdlc.schedule.budget import rewritten
        from sdlc.schedule.plan import plan
        from sdlc.schedule.profit import scheduled_by

        target = request.target
        written, budget = request.graph(), request.weight_budget
        graph = hoist(rewritten(written, request.rules, target, budget)[0]).run
        work = Work(graph, plan(graph, target, enabled=scheduled_by(request.rules)), target)
        known = read_records(self._place, target.name, device_text(self._device.info)).by_group
        jobs = [job for job in work.jobs if job.digest not in known]
        self._known += len(work.jobs) - len(jobs)
        for number, job in enumerate(jobs):
            if self._end is not None and time.monotonic() >= self._end:
                self._left += len(jobs) - number
                break
            tell(job.label, number, len(jobs))
            outcome = tune(work, self._device, job, self._settings)
            self._outcomes.append(outcome)
            if outcome.record is not None:
                append_record(self._place, outcome.record)

    def summary(self) -> dict[str, Any]:
        """What was done, for `--json`."""
        return {
            "records": str(self._place),
            "device": self._device.info.name,
            "measured": [_as_json(o) for o in self._outcomes],
            "known": self._known,
            "left": self._left,
        }

    def print(self) -> None:
        rows = [_row(o) for o in self._outcomes]
        if rows:
            print_table(("kernel", "default ms", "tuned ms", "gain", "point"), rows)
        for outcome in self._outcomes:
            for reason in outcome.refused:
                click.echo(f"left out: {outcome.job.label}: {reason}", err=True)
        said = [f"{len(rows)} measured"]
        said += [f"{self._known} known already"] if self._known else []
        said += [f"{self._left} left: call again"] if self._left else []
        click.echo(f"{self._place}: {', '.join(said)}")


def _row(outcome: Outcome) -> tuple[str, ...]:
    record = outcome.record
    if record is None:
        return outcome.job.label, "", "", "", "not measured"
    gain = record.default_seconds / record.seconds
    return (
        record.label,
        f"{1e3 * record.default_seconds:.3f}",
        f"{1e3 * record.seconds:.3f}",
        f"{gain:.2f}",
        str(record.chosen()),
    )


def _as_json(outcome: Outcome) -> dict[str, Any]:
    record: Record | None = outcome.record
    facts = (
        {}
        if record is None
        else {
            "point": record.point,
            "seconds": record.seconds,
            "default_seconds": record.default_seconds,
        }
    )
    return {
        "kernel": outcome.job.label,
        "group": outcome.job.digest,
        "launches": outcome.job.launches,
        "left_out": list(outcome.refused),
        **facts,
    }
