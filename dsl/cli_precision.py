"""`sdlc precision`: what half precision costs each network of a model, and how near it overflows.

In: a model and a prompt. Out: a table, or JSON. Example:

    sdlc precision emoji_diffusion --device cpu --steps 4
"""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any

import click

from sdlc.cli_common import f32_option, json_option, parse_names, print_json, print_table
from sdlc.cli_generate import drawing_progress, parse_size

if TYPE_CHECKING:
    from sdlc.models.compare import Compared, Comparison

COLUMNS = ("network", "error", "worst", "largest", "headroom", "where", "not finite")


@click.command("precision", short_help="Compares each network of a model in f16 with f32.")
@click.argument("model", required=False)
@click.option("--prompt", default="rocket", show_default=True, metavar="TEXT")
@click.option("--device", metavar="DEVICE", help="Where; `sdlc devices` lists them.")
@click.option("--steps", type=click.IntRange(1, 1000), default=4, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--size", callback=parse_size, metavar="WxH", help="Pixels (default: the model's own)."
)
@f32_option
@json_option
def precision_command(
    model: str | None,
    device: str | None,
    f32: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Compares each network of MODEL in f16 with f32, and the pictures that they draw.

    MODEL is what `generate --model` takes. `error` is that of a network's outputs by norm, `worst`
    of one value, both relative, on the inputs that it has in f32; `largest` is the largest value
    that is stored in f16, and `headroom` how often it fits 65,504. --f32 keeps parts in f32.

    \b
    Examples:
      sdlc precision --device cpu
      sdlc precision sdxl/ --size 512x512 --steps 2 --f32 vae
      sdlc precision sdxl/ --json
    """
    from sdlc.models.compare import compare
    from sdlc.models.settings import GenerateSettings

    wide = parse_names(f32)
    settings = GenerateSettings(model=model, device=device, f32=wide, **options)
    with drawing_progress() as show:
        found = compare(settings, show)
    if as_json:
        print_json(record(found, wide))
        return
    rows = [_row(name, network) for name, network in found.networks.items()]
    print_table(COLUMNS, rows)
    ratio = "none in f16" if found.decibels is None else f"{found.decibels:.1f} dB"
    width, height = found.size
    click.echo(f"picture: {ratio} (PSNR, {width}x{height}, {found.model}, on {found.device})")
    for name, network in found.networks.items():
        if network.bad:
            click.echo(f"{name}: the first that is no number is in {network.first_bad}")


def record(found: Comparison, f32: tuple[str, ...] = ()) -> dict[str, Any]:
    """The comparison for JSON; what is infinite, or not there, is null."""
    networks = {
        name: {
            "error_l2": _number(network.error),
            "error_max": _number(network.worst),
            "largest": network.largest,
            "headroom": _number(network.headroom),
            "where": network.where,
            "not_finite": network.bad,
            "first_not_finite": network.first_bad or None,
        }
        for name, network in found.networks.items()
    }
    return {
        "model": found.model,
        "device": found.device,
        "size": list(found.size),
        "f32": list(f32),
        "networks": networks,
        "psnr_db": None if found.decibels is None else _number(found.decibels),
    }


def _number(value: float) -> float | None:
    return value if isfinite(value) else None


def _row(name: str, network: Compared) -> tuple[str, ...]:
    return (
        name,
        f"{network.error:.1e}",
        f"{network.worst:.1e}",
        f"{network.largest:,.5g}",
        f"{network.headroom:,.3g}x",
        network.where,
        f"{network.bad:,}",
    )
