"""What commands share: options, values given as `name=value`, JSON, files that appear whole.

In: what a user typed. Out: values, or a usage error (exit status 2). Invariant: nothing heavy is
imported here at the top; `write_whole` leaves the old file or the complete new one.

    parse_sizes(("n=3", "b=2x3"))     {"n": 3, "b": (2, 3)}
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from sdlc.api import Request

Command = TypeVar("Command", bound=Callable[..., Any])
Size = int | tuple[int, ...]


class ManyValues(click.Command):
    """A command whose `--set` and `--input` take several values: `--set n=3 b=2`."""

    many = ("--set", "--input")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        spread: list[str] = []
        option, expects = "", False
        for token in args:
            if token in self.many:
                option, expects = token, True
            elif expects:
                expects = False
            elif option and "=" in token and not token.startswith("-"):
                spread.append(option)
            else:
                option = ""
            spread.append(token)
        return super().parse_args(ctx, spread)


def json_option(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def source_options(command: Command) -> Command:
    """The options that say what to compile, in which sizes and types, and by which rules."""
    for option in (
        click.option("--entry", metavar="NAME", help="The model, block or op to compile."),
        click.option(
            "--config",
            "configs",
            multiple=True,
            type=click.Path(path_type=Path),
            help="A config.json that overrides the file's `config` values. May be repeated.",
        ),
        click.option(
            "--set",
            "sizes",
            multiple=True,
            metavar="NAME=SIZE…",
            help="Sizes: n=3 b=2x3 (2x3 for `*b`). May be repeated.",
        ),
        click.option(
            "--precision",
            type=click.Choice(["f32", "f16"]),
            default="f32",
            show_default=True,
            help="Storage type of floats.",
        ),
        f32_option,
        click.option(
            "--records",
            type=click.Path(path_type=Path, exists=True, dir_okay=False),
            metavar="FILE.jsonl",
            help="What `sdlc tune` found (default: FILE.sdl.tuning.jsonl, where it is there).",
        ),
    ):
        command = option(command)
    return rule_options(command)


def f32_option(command: Command) -> Command:
    """The option that keeps parts of a program in f32."""
    return click.option(
        "--f32",
        multiple=True,
        metavar="SCOPE[,SCOPE]",
        help="Compute these in f32, whatever the precision: scope paths or operators, as in "
        "`unet.mid_block`, `vae.*` or `attention`. May be repeated.",
    )(command)


def rule_options(command: Command) -> Command:
    """The options that choose the rules: `--without --only --weight-budget`."""
    for option in (
        click.option(
            "--without",
            multiple=True,
            metavar="RULE[,RULE]",
            help="Rules not to apply; `sdlc rules` lists them. May be repeated.",
        ),
        click.option(
            "--only",
            multiple=True,
            metavar="RULE[,RULE]",
            help="Rules to apply, instead of the default ones; `default,RULE` adds one to them. "
            "May be repeated.",
        ),
        click.option(
            "--weight-budget",
            callback=parse_bytes,
            metavar="SIZE",
            help="What a network's weights may take as they are stored: 1900MiB, 2GiB (default: as "
            "much as pays). Rules that make weights larger are used where they save most time.",
        ),
    ):
        command = option(command)
    return command


def target_option(command: Command) -> Command:
    return click.option(
        "--target",
        default="cpu",
        show_default=True,
        metavar="NAME",
        help="What to compile for; `sdlc targets` lists them.",
    )(command)


def request_from(file: Path, target: str, **what: Any) -> Request:
    """What a command's options ask for, of a file or of one network of a model."""
    from sdlc.cli_models import is_model, only_request

    if is_model(file):
        return only_request(file, target, what)
    return request_of_file(file, target, **what)


def request_of_file(
    file: Path,
    target: str,
    entry: str | None,
    configs: tuple[Path, ...],
    sizes: tuple[str, ...],
    precision: str,
    without: tuple[str, ...] = (),
    only: tuple[str, ...] = (),
    records: Path | None = None,
    f32: tuple[str, ...] = (),
    weight_budget: int | None = None,
    tile: int | None = None,
) -> Request:
    """What options ask for of a file. A configuration may be a mapping instead of a path."""
    from dataclasses import replace

    from sdlc.api import make_request
    from sdlc.language.elaborate_rule import chosen_rules

    if tile is not None:
        message = f"{file} is no model whose pictures are decoded in tiles: give sizes (--set)"
        raise click.BadParameter(message, param_hint="--tile")
    request = make_request(file, target, entry, parse_sizes(sizes), (configs, precision))
    named = parse_names(only) if only else None
    rules = chosen_rules(request.library, parse_names(without), named)
    kept = records or request.records
    made = replace(request, rules=rules, records=kept, weight_budget=weight_budget)
    return replace(made, f32=parse_names(f32))


def parse_bytes(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> int | None:
    """Bytes of `1900MiB`, `2GiB`, `1.5 GB` or a plain number."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)(i?)B?", value.strip(), re.I | re.A)
    if found is None:
        message = f"'{value}' is no size: write 1900MiB, 2GiB or a number of bytes"
        raise click.BadParameter(message, context, parameter)
    number, unit, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** " KMG".index(unit.upper() or " "))


def parse_names(values: Iterable[str]) -> tuple[str, ...]:
    """Names from `a,b` and `c`."""
    return tuple(name for value in values for name in value.split(",") if name)


def parse_sizes(settings: Iterable[str]) -> dict[str, Size]:
    """Sizes by name from `name=3` and `name=2x3`; `name=` is a spread of no axes."""
    sizes: dict[str, Size] = {}
    for name, value in parse_pairs(settings, "--set"):
        size = parse_size(value)
        if size is None:
            message = f"'{name}={value}' is no size: write {name}=3, or {name}=2x3 for *{name}"
            raise click.BadParameter(message, param_hint="--set")
        sizes[name] = size
    return sizes


def parse_size(value: str) -> Size | None:
    """The size of `3` or `2x3` ('': of no axes), or None for what is none."""
    parts = value.split("x") if value else []
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        return None
    extents = tuple(int(part) for part in parts)
    return extents[0] if len(extents) == 1 else extents


def parse_pairs(settings: Iterable[str], option: str) -> list[tuple[str, str]]:
    pairs: dict[str, str] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"'{setting}' is not NAME=VALUE", param_hint=option)
        if name in pairs:
            raise click.BadParameter(f"'{name}' is given twice", param_hint=option)
        pairs[name] = value
    return list(pairs.items())


def print_json(value: Any) -> None:
    click.echo(json_text(value))


def json_text(value: Any) -> str:
    return json.dumps(value, indent=1, default=_plain)


def _plain(value: Any) -> Any:
    """JSON for what the standard encoder does not know: paths, enumerations, NumPy scalars."""
    for attribute in ("value", "item"):
        if hasattr(value, attribute):
            held = getattr(value, attribute)
            return held() if callable(held) else held
    return str(value)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table as wide as it needs to be on a pipe and as the terminal on a terminal."""
    from io import StringIO

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from sdlc.language.diagnostics import visible

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*[Text(visible(cell)) for cell in row])
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 200
    made = StringIO()
    Console(file=made, width=width, highlight=False).print(table)
    click.echo("\n".join(line.rstrip() for line in made.getvalue().splitlines()))


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a file through `write`; it appears under its name only when it is complete."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            write(file)
        if path.exists():
            part.chmod(path.stat().st_mode & 0o777)
        part.replace(path)
    except OSError as error:
        from sdlc.language.diagnostics import failure

        message = f"cannot write `{path}`: {error.strerror or error}"
        raise failure("X003", message, help="choose a place that you can write to") from error
    finally:
        with suppress(OSError):
            part.unlink()


def check_place(path: Path) -> None:
    """Raises SdlError (X003) where a file could not be written, before the work for it is done."""
    from sdlc.language.diagnostics import failure

    parent = path.parent
    if path.is_dir():
        reason = "it is a folder"
    elif not parent.is_dir():
        reason = f"`{parent}` is a file" if parent.exists() else f"there is no folder `{parent}`"
    elif not os.access(parent, os.W_OK):
        reason = f"no permission to write into `{parent}`"
    else:
        return
    message = f"cannot write `{path}`: {reason}"
    raise failure("X003", message, help="choose a place that you can write to")


def size_text(nbytes: int) -> str:
    """Bytes as people read them: `1.5 MiB`."""
    amount = float(nbytes)
    for unit in ("bytes", "KiB", "MiB"):
        if amount < 1024:
            return f"{nbytes} bytes" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.2f} GiB"
