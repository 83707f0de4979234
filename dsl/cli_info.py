"""`sdlc info`: what a model holds, without reading its weights.

In: a folder, a checkpoint or a name. Out: a table, or JSON. Example:

    sdlc info model.safetensors --json
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdlc.cli_common import json_option, print_json, print_table, size_text

if TYPE_CHECKING:
    from sdlc.models.inventory import Inventory, Part

MOST = 8
"""Names that are written out; the others are counted."""
COLUMNS = ("part", "parameters", "stored as", "bytes", "tensors", "missing", "not used")


@click.command("info", short_help="Prints what a model holds, and what it misses.")
@click.argument("model", default="emoji_diffusion")
@json_option
def info_command(model: str, as_json: bool) -> None:
    """Prints what MODEL holds: family, sizes, parameters, types, missing and unused tensors.

    MODEL is a folder in the diffusers layout, a .safetensors checkpoint, a name such as
    stable-diffusion-1.4 (sizes without weights), or one of the hub.

    \b
    Examples:
      sdlc info model.safetensors
      sdlc info stable-diffusion-xl --json
    """
    from sdlc.models.inventory import inventory
    from sdlc.models.model import load_model
    from sdlc.models.named import named

    found = inventory(load_model(model), has_weights=Path(model).exists() or model not in named())
    if as_json:
        print_json(_record(found))
    else:
        _print(found)


def _record(found: Inventory) -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(found), "complete": found.complete}


def _print(found: Inventory) -> None:
    from sdlc.language.diagnostics import visible

    width, height = found.size
    facts = (
        ("model", found.path),
        ("family", found.family),
        ("predicts", found.prediction),
        ("pictures", f"{width}x{height}"),
    )
    for name, value in facts:
        click.echo(f"{name:10} {visible(value)}")
    click.echo()
    print_table(COLUMNS, [_row(part) for part in found.parts])
    for line in _problems(found):
        click.echo(visible(line))


def _row(part: Part) -> tuple[str, ...]:
    stored = ", ".join(part.dtypes) or "no weights"
    counts = (len(part.missing) + len(part.misshapen), len(part.unused))
    size = size_text(part.nbytes) if part.files else ""
    numbers = (f"{part.parameters:,}", stored, size, str(part.tensors), *map(str, counts))
    return (part.name, *numbers)


def _problems(found: Inventory) -> Iterator[str]:
    for part in found.parts:
        yield from _listed(f"missing in {part.name}", part.missing)
        yield from _listed(f"of another shape in {part.name}", part.misshapen)
        yield from _listed(f"not used in {part.name}", _grouped(part.unused))
    yield from _listed("of no part", _grouped(found.unread))


def _grouped(names: Iterable[str]) -> tuple[str, ...]:
    """Names by their first two words: `encoder.down_blocks (58)`."""
    counted = Counter(".".join(name.split(".")[:2]) for name in names)
    return tuple(f"{start} ({count})" if count > 1 else start for start, count in counted.items())


def _listed(what: str, names: tuple[str, ...]) -> Iterator[str]:
    if names:
        more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
        yield f"{what}: {', '.join(names[:MOST])}{more}"
