"""`sdlc check`: what is wrong with a source file, and with the kernels that were made of it.

In: `.sdl` files or a model's folder. Out: diagnostics; with a target or a device, verdicts of the
property tests, and a reproducer where one fails. Example:

    sdlc check --syntax stdlib/*.sdl
    sdlc check stdlib/softmax.sdl --entry softmax --set b=3 n=77 --target adreno --device pocl
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sdlc.cli_common import (
    ManyValues,
    json_option,
    print_json,
    request_from,
    source_options,
)
from sdlc.cli_header import structure_problems, with_header
from sdlc.cli_progress import progress

if TYPE_CHECKING:
    from sdlc.api import Request
    from sdlc.graph.node import Graph
    from sdlc.language.diagnostics import SdlError

SOURCE = (
    *("entry", "configs", "sizes", "precision", "f32"),
    *("without", "only", "records", "weight_budget"),
)
"""What `source_options` gives."""
Command = TypeVar("Command", bound=Callable[..., Any])
FILES = click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
OPTIONS = (
    click.option("--syntax", is_flag=True, help="Stop before kernels are made."),
    click.option("--target", metavar="NAME", help="Test the kernels made for this target."),
    click.option(
        "--device",
        metavar="DEVICE[,DEVICE]",
        help="Run them on these as well, not interpreted only.",
    ),
    click.option(
        "--examples",
        type=click.IntRange(1),
        default=20,
        show_default=True,
        help="Drawn inputs for each kernel and for the whole.",
    ),
    click.option(
        "--seconds",
        type=click.FloatRange(0),
        default=5.0,
        show_default=True,
        help="At most, for each kernel.",
    ),
    click.option("--seed", type=click.IntRange(0), default=0, help="Draw other inputs."),
    click.option("--kernel", metavar="NAME", help="Only this kernel."),
    click.option(
        "--replay", type=click.Path(path_type=Path), help="The inputs.npz of a reproducer."
    ),
    click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        default=Path("reproducer"),
        show_default=True,
        help="The folder for a reproducer.",
    ),
)


def _options(command: Command) -> Command:
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@click.command(
    "check",
    cls=ManyValues,
    short_help="Finds errors in files, and tests their kernels.",
)
@FILES
@_options
@source_options
@json_option
def check_command(
    files: tuple[Path, ...],
    syntax: bool,
    target: str | None,
    device: str | None,
    as_json: bool,
    **what: Any,
) -> int:
    """Checks FILES: parses them, resolves names, builds every definition whose sizes are known.

    With --target or --device every kernel, and the whole program, is then run on drawn inputs
    (magnitudes, equal, masked and offset rows, f16 near overflow) at every stage: reference =
    rewritten = interpreted = legalised = device. A wrong stage is named, and a folder is left that
    replays it. FILES may then be a model's folder too. Without --target each device runs the
    kernels that are made for it.

    \b
    Examples:
      sdlc check --syntax stdlib/*.sdl
      sdlc check softmax.sdl --set b=3 n=77 --target adreno
      sdlc check softmax.sdl --set b=3 n=77 --device pocl --examples 200
    """
    source = {name: what.pop(name) for name in SOURCE}
    if syntax or (target is None and device is None):
        return _check_files(files, syntax, as_json, source)
    from sdlc.cli_prove import prove

    with progress("compiling", 32, remaining=True) as tell:
        return prove(files, (target, device), source, what, tell, as_json)


def _check_files(
    files: tuple[Path, ...], syntax: bool, as_json: bool, source: dict[str, Any]
) -> int:
    from sdlc.language.diagnostics import SdlError

    errors: list[SdlError] = []
    built: dict[str, int] = {}
    waiting: dict[str, dict[str, list[str]]] = {}
    for file in files:
        try:
            request = request_from(file, "cpu", **source)
        except SdlError as error:
            errors.append(error)
            continue
        built[str(file)], waiting[str(file)], found = _check_definitions(request, syntax)
        errors += found
    _report(built, waiting, errors, as_json)
    return 1 if errors else 0


def _check_definitions(
    request: Request, syntax: bool
) -> tuple[int, dict[str, list[str]], list[SdlError]]:
    """How many definitions of the file were built, those that wait for sizes (and for which), and
    the errors of the others and of rules."""
    from sdlc.language.diagnostics import SdlError

    errors = [] if syntax else _check_rules(request)
    graphs: list[Graph] = []
    waiting: dict[str, list[str]] = {}
    for name in entries(request):
        try:
            one, header = with_header(request, name)
            if missing := one.missing_sizes():
                waiting[name] = sorted(missing)
                continue
            if not syntax:
                one.build()
            graphs.append(one.graph())
            problems = () if syntax else structure_problems(one, header)
            if problems:
                raise SdlError(problems, one.library.sources)
        except SdlError as error:
            errors.append(error)
    if not syntax and (broken := law_problems(graphs, request)):
        errors.append(broken)
    return len(graphs), waiting, errors


def law_problems(graphs: Iterable[Graph], request: Request) -> SdlError | None:
    """The error (E051) of the monoids of the program's own files that break a law."""
    from sdlc.language.diagnostics import SdlError
    from sdlc.proof.laws import monoid_problems

    found = monoid_problems(graphs, request.library)
    return SdlError(found, request.library.sources) if found else None


def _check_rules(request: Request) -> list[SdlError]:
    """The errors of the rules of the program's own files that do not hold."""
    from sdlc.language.diagnostics import SdlError
    from sdlc.language.elaborate_rule import own_rules
    from sdlc.proof.equations import check_equation

    errors = []
    for rule in own_rules(request.library):
        try:
            check_equation(rule, request.library.sources)
        except SdlError as error:
            errors.append(error)
    return errors


def entries(request: Request) -> list[str]:
    """Definitions to build: the entry asked for, else all that need no attribute from a caller."""
    from sdlc.language.syntax import Definition, TensorType

    if request.entry is not None:
        return [request.entry]
    return [
        d.name
        for d in request.library.entry_module.definitions
        if isinstance(d, Definition)
        and all(isinstance(p.type, TensorType) or p.default is not None for p in d.parameters)
    ]


def _report(
    built: dict[str, int],
    waiting: dict[str, dict[str, list[str]]],
    errors: list[SdlError],
    as_json: bool,
) -> None:
    from sdlc.language.diagnostics import plural

    diagnostics = [d for error in errors for d in error.diagnostics]
    if as_json:
        found = [asdict(d) for d in diagnostics]
        print_json({"built": built, "waiting": waiting, "diagnostics": found})
        return
    for error in errors:
        click.echo(f"{error}\n", err=True)
    for file, count in built.items():
        open_sizes = (
            "" if not waiting[file] else f"; without sizes (--set): {_named(waiting[file])}"
        )
        click.echo(f"{file}: {plural(count, 'definition')} built{open_sizes}")
    if diagnostics:
        click.echo(plural(len(diagnostics), "error"), err=True)


def _named(waiting: dict[str, list[str]], most: int = 3) -> str:
    """`softmax (*b, n)`, and how many more there are."""
    named = ", ".join(f"{name} ({', '.join(waiting[name])})" for name in list(waiting)[:most])
    return named + (f" and {len(waiting) - most} more" if len(waiting) > most else "")
