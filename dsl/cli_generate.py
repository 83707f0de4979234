"""`sdlc generate`: a picture from a prompt.

In: a prompt, a model folder and the sampler's settings. Out: PNG files with the settings in their
metadata, complete or not there. Example:

    sdlc generate "a slice of pizza" -o pizza.png --seed 7
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

from sdlc.cli_common import json_option, parse_names, print_json, rule_options

if TYPE_CHECKING:
    from sdlc.graph.types import Array
    from sdlc.models.pipeline import Pictures
    from sdlc.models.settings import Progress

    Report = Callable[[Progress], None]

STAGES = MappingProxyType(
    {
        "compile": "compiling",
        "load": "loading weights",
        "text": "reading the prompt",
        "step": "drawing",
        "decode": "decoding",
    }
)


def parse_size(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[int, int] | None:
    """Width and height of `WxH` in pixels."""
    if value is None:
        return None
    width, _, height = value.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise click.BadParameter(f"'{value}' is no size: write 256x256", context, parameter)
    return int(width), int(height)


@click.command("generate")
@click.argument("prompt")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("out.png"),
    show_default=True,
    help="The PNG; pictures of a batch are numbered.",
)
@click.option(
    "--model",
    metavar="MODEL",
    help="A folder in the diffusers layout, a .safetensors checkpoint, or a name of the hub "
    "(default: the model that is shipped).",
)
@click.option(
    "--prediction",
    type=click.Choice(["epsilon", "v_prediction"]),
    help="What a checkpoint's network predicts, where the file does not say.",
)
@click.option(
    "--lora",
    "loras",
    multiple=True,
    metavar="FILE[:SCALE]",
    help="Low-rank changes of the weights, as much of them as SCALE says (default 1). May be "
    "repeated.",
)
@click.option("--device", metavar="DEVICE", help="Where to run; `sdlc devices` lists them.")
@click.option("--steps", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.option("--guidance", type=float, default=5.0, show_default=True, help="1 switches it off.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--negative", default="", metavar="TEXT", help="What the picture should not show.")
@click.option(
    "--size",
    callback=parse_size,
    metavar="WxH",
    help="Pixels (default: the model's own size).",
)
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Pictures.")
@click.option("--precision", type=click.Choice(["f32", "f16"]), default="f32", show_default=True)
@click.option(
    "--preview",
    type=click.IntRange(1),
    default=None,
    metavar="N",
    help="Also write a picture of every N-th step, as FILE-step-N.png.",
)
@rule_options
@json_option
def generate_command(
    prompt: str, output: Path, preview: int | None, precision: str, as_json: bool, **settings: Any
) -> None:
    """Draws a picture of PROMPT.

    \b
    Examples:
      sdlc generate "a slice of pizza" -o pizza.png
      sdlc generate "a red car" --seed 7 --steps 30 --batch 4 -o car.png
    """
    from sdlc.graph.types import DType
    from sdlc.models.image import check_writable, numbered, write_png
    from sdlc.models.lora import parse_lora
    from sdlc.models.pipeline import generate
    from sdlc.models.settings import GenerateSettings

    files = numbered(output, settings["batch"])
    for file in files:
        check_writable(file)
    settings["loras"] = tuple(map(parse_lora, settings["loras"]))
    settings["without"] = parse_names(settings["without"])
    settings["only"] = parse_names(settings["only"]) if settings["only"] else None
    wanted = GenerateSettings(
        prompt=prompt, precision=DType(precision), preview=preview or 0, **settings
    )
    started = time.perf_counter()
    with _progress() as show:
        pictures = generate(wanted, _reporter(show, files))
    for number, (file, pixels) in enumerate(zip(files, pictures.pixels, strict=True)):
        seed = settings["seed"] + number
        write_png(pixels, file, {**pictures.settings, "seed": seed})
    _report(files, pictures, time.perf_counter() - started, as_json)


def _reporter(show: Report, files: tuple[Path, ...]) -> Report:
    """Shows progress, and writes the previews that come with it."""

    def report(progress: Progress) -> None:
        show(progress)
        if progress.preview is not None:
            for file, pixels in zip(files, progress.preview, strict=True):
                _write_preview(file, progress.done, pixels)

    return report


def _write_preview(file: Path, step: int, pixels: Array) -> None:
    from sdlc.models.image import write_png

    name = f"{file.stem}-step-{step:02}{file.suffix}"
    write_png(pixels, file.with_name(name), {"step": step})


@contextmanager
def _progress() -> Iterator[Report]:
    """A bar on stderr (plain lines where that is no terminal), with the time of each step."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:20}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[pace]}"),
        TimeElapsedColumn(),
    )
    bars = Bars(*columns, console=Console(stderr=True), refresh_per_second=8)
    waiting = bars.add_task("getting ready", total=None, pace="")
    tasks: dict[str, Any] = {}
    spent: dict[str, float] = {}

    def show(progress: Progress) -> None:
        stage = progress.stage
        if stage not in tasks:
            bars.update(waiting, visible=False)
            tasks[stage] = bars.add_task(STAGES.get(stage, stage), total=progress.total, pace="")
            bars.start()
        spent[stage] = spent.get(stage, 0.0) + progress.seconds
        pace = f"{spent[stage] / max(progress.done, 1) * 1e3:8.1f} ms each"
        bars.update(tasks[stage], completed=progress.done, pace=pace)

    if bars.console.is_terminal:
        bars.start()
    try:
        yield show
    finally:
        # Where nothing was done, nothing of the bar stays in front of the error.
        bars.live.transient = not tasks
        if bars.live.is_started:
            bars.stop()


def _report(files: tuple[Path, ...], pictures: Pictures, seconds: float, as_json: bool) -> None:
    for warning in pictures.warnings:
        click.echo(f"warning: {warning}", err=True)
    if as_json:
        print_json(
            {
                "files": [str(file) for file in files],
                "settings": dict(pictures.settings),
                "stages": dict(pictures.seconds),
                "seconds": round(seconds, 3),
                "warnings": list(pictures.warnings),
            }
        )
        return
    for file in files:
        click.echo(file)
    steps = pictures.seconds.get("step", 0.0)
    device = pictures.settings.get("device", "")
    click.echo(f"{seconds:.2f} s in all, {steps:.2f} s in sampling steps, on {device}", err=True)
