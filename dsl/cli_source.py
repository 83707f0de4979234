"""`sdlc fmt`: the one canonical layout of a source file.

In: `.sdl` files. Out: formatted files, or what would change. Example:

    sdlc fmt --check stdlib/*.sdl
"""

from __future__ import annotations

import sys
from difflib import unified_diff
from pathlib import Path

import click

from sdlc.cli_common import json_option, print_json, write_whole

FILES = click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))


@click.command("fmt", short_help="Gives files the one canonical layout, in place.")
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
