"""`sdlc check` and `sdlc fmt`: what is wrong with a source file, and its one canonical layout.

In: `.sdl` files. Out: diagnostics, formatted files. Example:

    sdlc check --syntax stdlib/*.sdl && sdlc fmt --check stdlib/*.sdl
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from difflib import unified_diff
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdlc.cli_common import (
    ManyValues,
    json_option,
    print_json,
    request_from,
    source_options,
    target_option,
    write_whole,
)

if TYPE_CHECKING:
    from sdlc.api import Request
    from sdlc.language.diagnostics import SdlError

FILES = click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))


@click.command("check", cls=ManyValues)
@FILES
@click.option("--syntax", is_flag=True, help="Stop before kernels are made.")
@target_option
@source_options
@json_option
def check_command(
    files: tuple[Path, ...], syntax: bool, target: str, as_json: bool, **what: Any
) -> int:
    """Checks FILES: parses them, resolves names, and builds every definition whose sizes are known.

    \b
    Without --syntax, what was built is also compiled for the target. Examples:
      sdlc check --syntax stdlib/*.sdl
      sdlc check unet.sdl --config unet/config.json --set b=2 h=32 w=32 t=77 --target adreno
    """
    from sdlc.language.diagnostics import SdlError

    errors: list[SdlError] = []
    built: dict[str, int] = {}
    for file in files:
        try:
            request = request_from(file, target, **what)
        except SdlError as error:
            errors.append(error)
            continue
        count, found = _check_definitions(request, syntax)
        built[str(file)] = count
        errors += found
    _report(built, errors, as_json)
    return 1 if errors else 0


def _check_definitions(request: Request, syntax: bool) -> tuple[int, list[SdlError]]:
    """How many definitions of the file were built, and the errors of the others."""
    from dataclasses import replace

    from sdlc.language.diagnostics import SdlError

    errors = []
    count = 0
    for name in _entries(request):
        one = replace(request, entry=name)
        if one.missing_sizes():
            continue
        try:
            one.graph() if syntax else one.build()
            count += 1
        except SdlError as error:
            errors.append(error)
    return count, errors


def _entries(request: Request) -> list[str]:
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


def _report(built: dict[str, int], errors: list[SdlError], as_json: bool) -> None:
    diagnostics = [d for error in errors for d in error.diagnostics]
    if as_json:
        print_json({"built": built, "diagnostics": [asdict(d) for d in diagnostics]})
        return
    for error in errors:
        click.echo(f"{error}\n", err=True)
    for file, count in built.items():
        click.echo(f"{file}: {_plural(count, 'definition')} built")
    if diagnostics:
        click.echo(_plural(len(diagnostics), "error"), err=True)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


@click.command("fmt")
@FILES
@click.option("--check", is_flag=True, help="Change nothing; exit 1 if a file would change.")
@click.option("--diff", is_flag=True, help="Change nothing; show what would change, exit 1 if any.")
@json_option
def fmt_command(files: tuple[Path, ...], check: bool, diff: bool, as_json: bool) -> int:
    """Formats FILES in place; `-` formats standard input to standard output.

    \b
    Examples:
      sdlc fmt model.sdl
      sdlc fmt --check stdlib/*.sdl
    """
    if check and diff:
        raise click.UsageError("--check and --diff exclude each other")
    if files == (Path("-"),):
        click.echo(_formatted(sys.stdin.read(), "<stdin>"), nl=False)
        return 0
    texts = {file: _read(file) for file in files}
    made = {file: _formatted(text, str(file)) for file, text in texts.items()}
    changed = [file for file in files if made[file] != texts[file]]
    for file in changed:
        if diff:
            click.echo(_diff(file, texts[file], made[file]), nl=False)
        elif not check:
            _overwrite(file, made[file].encode())
    if as_json:
        print_json({"changed": [str(f) for f in changed], "files": len(files)})
    elif not diff:
        word = "would change" if check else "formatted"
        click.echo("\n".join(f"{word}: {file}" for file in changed) or "nothing to change")
    return 1 if changed and (check or diff) else 0


def _overwrite(file: Path, data: bytes) -> None:
    write_whole(file, lambda out: out.write(data))


def _read(file: Path) -> str:
    from sdlc.language.diagnostics import failure

    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        message = f"`{file}` cannot be read: {error.strerror}"
        raise failure("X001", message, help="give the path of an .sdl file") from error
    except UnicodeDecodeError as error:
        raise failure("X001", f"`{file}` is no UTF-8 text", help="save it as UTF-8") from error


def _formatted(text: str, file: str) -> str:
    from sdlc.language.format import format_source

    return format_source(text, file)


def _diff(file: Path, before: str, after: str) -> str:
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    return "".join(unified_diff(old, new, str(file), f"{file} (formatted)"))
