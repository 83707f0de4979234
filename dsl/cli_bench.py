"""`sdlc bench`: how long a program takes, where the time goes, and what each rule is worth.

In: a file or model, a device. Out: tables or JSON, a trace, a plot. Example:

    sdlc bench unet.sdl --set b=2 h=64 w=64 t=77 d=768 --ablation --plot unet.png
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdlc.cli_common import (
    ManyValues,
    check_place,
    json_option,
    parse_names,
    print_json,
    print_table,
    source_options,
    write_whole,
)
from sdlc.cli_kept import about, no_cache_option
from sdlc.cli_progress import status

if TYPE_CHECKING:
    from sdlc.api import Request
    from sdlc.cli_bench_run import Bench, Timed
    from sdlc.program.device import DeviceInfo
    from sdlc.program.profile import Measured
    from sdlc.program.program import Program

MEMORY_COLUMNS = ("Tensor MiB", "Weight MiB", "dispatches")
TIMED_COLUMNS = ("median ms", "best ms", "runs", "GFLOP/s", *MEMORY_COLUMNS, "max error")
NUMBER = 9
"""Letters of a column of numbers, at least."""
PROFILE_COLUMNS = ("kernel", "times", "ms", "GFLOP/s", "GB/s", "share")
PLOTS = (".html", ".png", ".svg")
MIB = 2**20
MOST_ROWS = 40


@click.command(
    "bench",
    cls=ManyValues,
    short_help="Times a program on a device, and what rules are worth.",
)
@click.argument("program", type=click.Path(path_type=Path))
@click.option("--device", metavar="DEVICE", help="Where to run; `sdlc devices` lists them.")
@click.option("--target", metavar="NAME", help="What to compile for (default: the device's own).")
@source_options
@click.option("--ablation", is_flag=True, help="One row for each group of rules, none to all.")
@click.option("--profile", "profiling", is_flag=True, help="Time each dispatch on the device.")
@click.option(
    "--trace",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="Write a trace of host and device for ui.perfetto.dev.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Draw the ablation, or the profile: .html, .png or .svg.",
)
@click.option(
    "-n", "rounds", type=click.IntRange(1), default=10, show_default=True, help="Timed runs."
)
@click.option(
    "--seconds",
    type=click.FloatRange(0),
    default=inf,
    metavar="S",
    help="Timed runs of a row take no longer than this together; one there is in any case.",
)
@no_cache_option
@json_option
def bench_command(
    program: Path,
    device: str | None,
    target: str | None,
    ablation: bool,
    profiling: bool,
    trace: Path | None,
    plot: Path | None,
    rounds: int,
    seconds: float,
    no_cache: bool,
    as_json: bool,
    **what: Any,
) -> None:
    """Times PROGRAM on a device: a .sdl file, a model (folder, checkpoint or name, as
    emoji_diffusion) or a part of one (MODEL/unet). Weights and inputs are seeded random values.

    \b
    Examples:
      sdlc bench softmax.sdl --set b=2x3 n=4096
      sdlc bench emoji_diffusion/unet --profile --trace trace.json
      sdlc bench unet.sdl --set b=2 h=64 w=64 t=77 d=768 --ablation --plot unet.png
    """
    from sdlc.backends.devices import open_device, target_of
    from sdlc.backends.target import load_target
    from sdlc.cli_bench_plot import check_library, write_plot
    from sdlc.cli_bench_run import Bench, requests
    from sdlc.program.records import device_text

    if plot is not None:
        if plot.suffix not in PLOTS:
            raise click.BadParameter(f"write one of {', '.join(PLOTS)}", param_hint="--plot")
        check_library()
    for path in (p for p in (trace, plot) if p is not None):
        check_place(path)
    if ablation and what["only"]:
        raise click.BadParameter("rows of --ablation say which rules are on", param_hint="--only")
    rows = parse_names(what["without"]) if ablation else None
    opened = open_device(device)
    chosen = target_of(opened.info) if target is None else load_target(target)
    wanted = requests(program, chosen, what, device_text(opened.info))
    said = None if no_cache else about("bench", program, {**what, "target": chosen.name})
    detailed = profiling or trace is not None or (plot is not None and not ablation)
    with status("getting ready") as (tell, say):
        if not as_json:
            say(f"{opened.info.name}, compiled for {chosen.name}")
        bench = Bench(opened, rounds, detailed, tell, said, seconds)
        every = (t for name, request in wanted.items() for t in _timed(bench, name, request, rows))
        timed, interrupted = collected(every, None if as_json else Shown(say, tuple(wanted)))
    if timed:
        if trace is not None:
            _write_trace(trace, timed)
        if plot is not None:
            write_plot(plot, timed, ablation)
        if as_json:
            print_json(record(timed, opened.info, rounds))
        else:
            _print_below(timed, profiling)
    if interrupted:
        raise click.Abort


def collected(rows: Iterable[Timed], shown: Shown | None) -> tuple[list[Timed], bool]:
    """What was timed, each row printed as soon as it is there, and whether Ctrl-C came before the
    last."""
    timed: list[Timed] = []
    try:
        for each in rows:
            timed.append(each)
            if shown is not None:
                shown.row(each)
    except KeyboardInterrupt:
        return timed, True
    return timed, False


def _timed(
    bench: Bench, name: str, request: Request, without: Sequence[str] | None
) -> Iterator[Timed]:
    """`without` is None where there shall be no ablation."""
    if without is not None:
        yield from bench.ablation(name, request, without)
    else:
        yield from bench.time(name, request)


def _write_trace(path: Path, timed: list[Timed]) -> None:
    from sdlc.program.profile_trace import trace

    made = trace(t.track for t in timed)
    write_whole(path, lambda file: file.write(json.dumps(made).encode()))


# ---- what is printed -----------------------------------------------------------------------------


@dataclass(slots=True)
class Shown:
    """Prints rows as they come, in one table of all `programs` or, of an ablation, in one for
    each."""

    say: Callable[[str], None]
    programs: tuple[str, ...]
    table: str = ""

    def row(self, timed: Timed) -> None:
        """One more row, below a head where it is the first of its table."""
        table = timed.name if timed.row.name else "program"
        if table != self.table:
            self.say("")
            self._line((table, *TIMED_COLUMNS))
            self.table = table
        self._line(_row(timed))

    def _line(self, cells: tuple[str, ...]) -> None:
        from sdlc.cli_bench_run import ablation_rows

        names = (*self.programs, *(row.name for row in ablation_rows()), "program")
        widths = (max(map(len, names)), *(max(len(name), NUMBER) for name in TIMED_COLUMNS))
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        self.say("  ".join(padded).rstrip())


def _print_below(timed: list[Timed], profiling: bool) -> None:
    """What is said of all rows together, and where their time goes."""
    for what in sorted({t.against for t in timed if t.against}):
        click.echo(f"max error: share of the largest value, against the {what}")
    for each in timed if profiling else ():
        click.echo(f"\n{each.track.name}: time on the device, by kernel")
        print_table(PROFILE_COLUMNS, profile_rows(each.dispatches))


def _row(timed: Timed) -> tuple[str, ...]:
    memory = timed.program.memory
    return (
        timed.row.name or timed.name,
        figures(timed.median * 1e3, 2),
        figures(min(timed.seconds) * 1e3, 2),
        f"{len(timed.seconds)}",
        f"{timed.program.flop / timed.median / 1e9:.1f}",
        figures(memory.arena / MIB),
        figures(memory.weights / MIB),
        f"{len(timed.program.dispatches)}",
        "" if timed.error is None else f"{timed.error:.1e}",
    )


def figures(value: float, places: int = 1) -> str:
    """A number with so many decimals, or with three figures where those would not show it."""
    return f"{value:.{places}f}" if value == 0 or value >= 10.0 ** (1 - places) else f"{value:.3g}"


def profile_rows(dispatches: tuple[Measured, ...]) -> list[tuple[str, ...]]:
    """The rows of a profile's table: dispatches of one kernel together, the longest first; the
    shortest, where there are many, in one row."""
    from sdlc.program.profile import summed

    every = summed(dispatches, lambda m: m.kernel)
    whole = sum(row.seconds for row in every) or 1.0
    shown, rest = every[:MOST_ROWS], {row.name for row in every[MOST_ROWS:]}
    others = summed((m for m in dispatches if m.kernel in rest), lambda _: f"{len(rest)} others")
    return [
        (
            row.name,
            f"{row.count}",
            figures(row.seconds * 1e3, 3),
            f"{row.flop_rate / 1e9:.1f}",
            f"{row.byte_rate / 1e9:.1f}",
            f"{row.seconds / whole:.1%}",
        )
        for row in (*shown, *others)
    ]


def record(timed: list[Timed], info: DeviceInfo, rounds: int) -> dict[str, Any]:
    """What `--json` prints: docs/bench.md describes it."""
    return {
        "device": {"id": info.id, "name": info.name, "driver": info.driver},
        "rounds": rounds,
        "programs": [_program_record(t) for t in timed],
    }


def largest_temporary(program: Program) -> int:
    """Bytes of the largest tensor that only lives while a program runs."""
    from sdlc.program.program import TensorRole

    held = (t.nbytes for t in program.tensors.values() if t.role is TensorRole.TEMPORARY)
    return max(held, default=0)


def _program_record(timed: Timed) -> dict[str, Any]:
    program = timed.program
    return {
        "name": timed.name,
        "row": timed.row.name,
        "rules": list(timed.rules),
        "target": program.target,
        "precision": program.precision.value,
        "median_seconds": timed.median,
        "seconds": list(timed.seconds),
        "flop": program.flop,
        "dispatches": len(program.dispatches),
        "tensor_bytes": program.memory.arena,
        "largest_tensor_bytes": largest_temporary(program),
        "weight_bytes": program.memory.weights,
        "max_error": timed.error,
        "against": timed.against,
        "compile_seconds": timed.phases[0].end - timed.phases[0].begin,
        "cached": timed.cached,
        "profile": [asdict(m) for m in timed.dispatches],
    }
