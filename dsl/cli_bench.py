"""`sdlc bench`: how long a program takes, where the time goes, and what each rule is worth.

In: a file or model, a device. Out: tables or JSON, a trace, a plot. Example:

    sdlc bench unet.sdl --set b=2 h=64 w=64 t=77 d=768 --ablation --plot unet.png
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
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

if TYPE_CHECKING:
    from sdlc.api import Request
    from sdlc.cli_bench_run import Bench, Timed
    from sdlc.program.device import DeviceInfo
    from sdlc.program.profile import Measured
    from sdlc.program.program import Program

MEMORY_COLUMNS = ("Tensor MiB", "Weight MiB", "dispatches")
TIMED_COLUMNS = ("median ms", "best ms", "GFLOP/s", *MEMORY_COLUMNS, "max error")
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
    no_cache: bool,
    as_json: bool,
    **what: Any,
) -> None:
    """Times PROGRAM on a device: a .sdl file, a diffusers folder (or a part of one), or the shipped
    model, emoji_diffusion. Weights and inputs are seeded random values.

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

    if plot is not None and plot.suffix not in PLOTS:
        raise click.BadParameter(f"write one of {', '.join(PLOTS)}", param_hint="--plot")
    if plot is not None:
        check_library()
    for path in (p for p in (trace, plot) if p is not None):
        check_place(path)
    if ablation and what["only"]:
        raise click.BadParameter(
            "the rows of --ablation say which rules are on", param_hint="--only"
        )
    rows = parse_names(what["without"]) if ablation else None
    opened = open_device(device)
    chosen = target_of(opened.info) if target is None else load_target(target)
    wanted = requests(program, chosen, what, device_text(opened.info))
    said = None if no_cache else about("bench", program, {**what, "target": chosen.name})
    detailed = profiling or trace is not None or (plot is not None and not ablation)
    with progress() as tell:
        bench = Bench(opened, rounds, detailed, tell, said)
        timed = [t for name, request in wanted.items() for t in _timed(bench, name, request, rows)]
    if trace is not None:
        _write_trace(trace, timed)
    if plot is not None:
        write_plot(plot, timed, ablation)
    if as_json:
        print_json(record(timed, opened.info, rounds))
    else:
        _print(timed, opened.info, profiling)


def _timed(
    bench: Bench, name: str, request: Request, without: Sequence[str] | None
) -> Iterator[Timed]:
    """`without` is None where there shall be no ablation."""
    if without is not None:
        yield from bench.ablation(name, request, without)
    else:
        yield bench.time(name, request)


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """What is being done, on stderr where that is a terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    with console.status("getting ready") as status:
        yield lambda doing: status.update(doing)


def _write_trace(path: Path, timed: list[Timed]) -> None:
    from sdlc.program.profile_trace import trace

    made = trace(t.track for t in timed)
    write_whole(path, lambda file: file.write(json.dumps(made).encode()))


# ---- what is printed -----------------------------------------------------------------------------


def _print(timed: list[Timed], info: DeviceInfo, profiling: bool) -> None:
    click.echo(f"{info.name}, compiled for {timed[0].program.target}, {len(timed[0].seconds)} runs")
    for first, rows in _tables(timed).items():
        click.echo("")
        print_table((first, *TIMED_COLUMNS), [_row(t) for t in rows])
        for what in sorted({t.against for t in rows if t.against}):
            click.echo(f"max error: share of the largest value, against the {what}")
    for each in timed if profiling else ():
        click.echo(f"\n{each.track.name}: time on the device, by kernel")
        print_table(PROFILE_COLUMNS, profile_rows(each.dispatches))


def _tables(timed: list[Timed]) -> dict[str, list[Timed]]:
    """One table of all programs, or, of an ablation, one for each."""
    tables: dict[str, list[Timed]] = {}
    for each in timed:
        tables.setdefault(each.name if each.row.name else "program", []).append(each)
    return tables


def _row(timed: Timed) -> tuple[str, ...]:
    memory = timed.program.memory
    return (
        timed.row.name or timed.name,
        figures(timed.median * 1e3, 2),
        figures(min(timed.seconds) * 1e3, 2),
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
