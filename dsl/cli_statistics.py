"""`sdlc compile --statistics`: what compilers for phones' GPUs say of the kernels.

In: a compiled program. Out: a table, or records for JSON. Invariant: nothing is run on a device;
without the compilers the command says how to install them, and otherwise does what it does.

    sdlc compile unet.sdl --target mali --precision f16 --set b=2 --statistics
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sdlc.cli_common import print_table

if TYPE_CHECKING:
    from sdlc.api import Compiled
    from sdlc.backends.statistics import Statistics

Command = TypeVar("Command", bound=Callable[..., Any])
COLUMNS = (
    "kernel", "gpu", "language", "instructions", "registers", "occupancy", "spills", "loops",
    "stalls", "multiply-adds",
)  # fmt: skip


def statistics_options(command: Command) -> Command:
    """`--statistics` and `--compilers`."""
    flag = click.option(
        "--statistics",
        is_flag=True,
        help="Also what offline compilers of the target's GPU say of each kernel.",
    )
    place = click.option(
        "--compilers",
        type=click.Path(path_type=Path),
        help="Where the offline compilers are installed (default: in the user's cache).",
    )
    return flag(place(command))


def place_of(target: str, compilers: Path | None) -> Path | None:
    """Where the compilers are; None where they are not installed, which a warning says, and how
    they are. Raises SdlError (D034) where there are none for the target."""
    from sdlc.backends.offline import folder
    from sdlc.backends.statistics import lacking
    from sdlc.language.diagnostics import render

    where = folder(compilers)
    missing = lacking(target, where)
    if missing is None:
        return where
    click.echo(render(missing, {}), err=True)
    return None


def statistics_of(compiled: Compiled, where: Path) -> tuple[Statistics, ...]:
    """Every kernel of a program through every compiler of its target."""
    from sdlc.backends.offline import gpus
    from sdlc.backends.statistics import statistics

    name = compiled.target.name
    languages = dict.fromkeys(language for gpu in gpus(name) for language in gpu.languages)
    return statistics({lang: compiled.texts((lang,)) for lang in languages}, name, where)


def records(rows: tuple[Statistics, ...]) -> list[dict[str, Any]]:
    """The statistics for JSON, with the share of multiply-adds."""
    return [asdict(r) | {"share": r.main_loop.share if r.main_loop else None} for r in rows]


def print_statistics(rows: tuple[Statistics, ...]) -> None:
    click.echo()
    print_table(COLUMNS, [_cells(row) for row in rows])
    refused = [row for row in rows if row.error]
    spilled = [f"{r.kernel} ({r.gpu}, {r.language})" for r in rows if r.spills]
    built = len(rows) - len(refused)
    click.echo(f"{built} built, spilled: {', '.join(spilled) or 'none'}")
    for row in refused:
        click.echo(f"not built: {row.kernel} ({row.gpu}, {row.language}): {row.error}", err=True)


def _cells(row: Statistics) -> tuple[str, ...]:
    loop = row.main_loop
    share = f"{loop.share:.0%} ({loop.multiply_adds} of {loop.slots})" if loop else ""
    occupancy = "" if row.occupancy is None else f"{row.occupancy:.2f}"
    counts = (row.instructions, row.registers, row.spills, row.loops, row.stalls)
    first, second, *rest = ("" if n is None else str(n) for n in counts)
    return (row.kernel, row.gpu, row.language, first, second, occupancy, *rest, share)
