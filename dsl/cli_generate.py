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

from sdlc.cli_common import (
    Command,
    f32_option,
    json_option,
    parse_names,
    print_json,
    rule_options,
)
from sdlc.cli_progress import Lines

if TYPE_CHECKING:
    from sdlc.graph.types import Array
    from sdlc.models.pipeline import Pictures
    from sdlc.models.settings import GenerateSettings, Progress

    Report = Callable[[Progress], None]

STAGES = MappingProxyType(
    {
        "compile": "compiling",
        "load": "loading weights",
        "text": "reading the prompt",
        "step": "drawing",
        "decode": "decoding",
        "check": "checking values",
        "compare": "comparing",
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


def parse_seeds(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[int, ...]:
    """One seed, or one for each picture: `7`, `3,9,12`."""
    parts = [] if value is None else value.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise click.BadParameter(f"'{value}' is no seed: write 7, or 3,9,12", context, parameter)
    return tuple(map(int, parts))


PICTURE = click.Path(path_type=Path)


def drawing_options(command: Command) -> Command:
    """The options that say what is drawn and how."""
    options = (
        click.option("--negative", metavar="TEXT", help="What the picture should not show."),
        click.option(
            "--sampler",
            metavar="NAME",
            help="ddim, pndm, euler, euler_ancestral, dpm++, unipc or lcm (default: as the model's "
            "scheduler says).",
        ),
        click.option("--karras/--no-karras", default=None, help="Space noise as Karras et al. do."),
        click.option("--steps", type=click.IntRange(1, 1000), help="Default: 20."),
        click.option("--guidance", type=float, help="Default: 5; 1 and less switch it off."),
        click.option(
            "--guidance-rescale",
            "rescale",
            type=float,
            metavar="SHARE",
            help="0 to 1: brings guided predictions back to their spread.",
        ),
        click.option(
            "--clip-skip", type=click.IntRange(0), help="Last layers of the text to leave out."
        ),
        click.option(
            "--seed", callback=parse_seeds, metavar="N[,N]", help="One, or one for each picture."
        ),
        click.option("--batch", type=click.IntRange(1), help="Pictures; seeds count up."),
        click.option(
            "--size",
            callback=parse_size,
            metavar="WxH",
            help="Pixels (default: those of --init, else the model's own).",
        ),
        click.option("--init", type=PICTURE, metavar="FILE", help="A picture to start from."),
        click.option(
            "--strength",
            type=float,
            help="How much of it is drawn anew, to 1 (default: 0.75; with --mask 1).",
        ),
        click.option("--mask", type=PICTURE, metavar="FILE", help="White where --init may change."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def model_options(command: Command) -> Command:
    """The options that say which model draws, where, and in how much memory."""
    options = (
        click.option(
            "--model",
            metavar="MODEL",
            help="A folder in the diffusers layout, a .safetensors checkpoint, or a name of the "
            "hub (default: the model that is shipped).",
        ),
        click.option(
            "--prediction",
            type=click.Choice(["epsilon", "v_prediction"]),
            help="What a checkpoint's network predicts, where the file does not say.",
        ),
        click.option(
            "--lora",
            "loras",
            multiple=True,
            metavar="FILE[:SCALE]",
            help="Low-rank changes of the weights, as much of them as SCALE says (default 1). May "
            "be repeated.",
        ),
        click.option(
            "--vae",
            type=PICTURE,
            metavar="DIR",
            help="A folder with another decoder, such as TAESD's.",
        ),
        click.option("--device", metavar="DEVICE", help="Where; `sdlc devices` lists them."),
        click.option("--precision", type=click.Choice(["f32", "f16"]), help="Default: f32."),
        f32_option,
        click.option(
            "--tile",
            type=click.IntRange(1),
            metavar="N",
            help="Decode in tiles of N latents (default: where memory is short).",
        ),
        click.option(
            "--keep-loaded",
            is_flag=True,
            default=None,
            help="Keep each network's weights on the device while others run.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command("generate")
@click.argument("prompt", required=False)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("out.png"),
    show_default=True,
    help="The PNG; pictures of a batch are numbered.",
)
@click.option(
    "--metadata",
    type=PICTURE,
    metavar="FILE.png",
    help="Draw this picture again; options that are given change it.",
)
@drawing_options
@model_options
@click.option(
    "--preview",
    "--save-every",
    "preview",
    type=click.IntRange(1),
    metavar="N",
    help="Also write a picture of every N-th step, as FILE-step-N.png.",
)
@click.option(
    "--check-finite",
    is_flag=True,
    help="Look at every value that is stored; name the first operator to make what is no number.",
)
@rule_options
@json_option
def generate_command(
    prompt: str | None,
    output: Path,
    metadata: Path | None,
    check_finite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Draws a picture of PROMPT.

    In a prompt, (word) counts more, (word:1.3) as much more, [word] less; \\( is a bracket.

    \b
    Examples:
      sdlc generate "a slice of pizza" -o pizza.png
      sdlc generate "a red car" --seed 7 --steps 30 --batch 4 -o car.png
      sdlc generate "a red car" --seed 3,9,12 --batch 3 --keep-loaded -o cars.png
      sdlc generate "a red car" --negative "snow, (people:1.2)" --guidance-rescale 0.7 -o car.png
      sdlc generate "a red car" --save-every 5 -o car.png
      sdlc generate "a (red:1.3) car" --sampler dpm++ --karras -o car.png
      sdlc generate "a blue car" --init car.png --strength 0.6 -o blue.png
      sdlc generate "a cat" --init car.png --mask window.png -o cat.png
      sdlc generate --metadata car.png --seed 8 -o other.png
      sdlc generate "a red car" --precision f16 --f32 vae,unet.mid_block -o car.png
      sdlc generate "a red car" --precision f16 --check-finite
      sdlc generate "a castle" --model model.safetensors --lora ink.safetensors:0.8 --tile 64
    """
    from sdlc.models.image import check_writable, numbered, write_png
    from sdlc.models.pipeline import generate

    wanted = _wanted(prompt, metadata, options)
    files = numbered(output, wanted.batch)
    for file in files:
        check_writable(file)
    started = time.perf_counter()
    with drawing_progress() as show:
        pictures = generate(wanted, _reporter(show, files), check_finite)
    for number, (file, pixels) in enumerate(zip(files, pictures.pixels, strict=True)):
        write_png(pixels, file, pictures.entries(number))
    _report(files, pictures, time.perf_counter() - started, as_json)


def _wanted(prompt: str | None, metadata: Path | None, options: dict[str, Any]) -> GenerateSettings:
    """The settings of a picture that is drawn again, changed by what is given."""
    from sdlc.graph.types import DType
    from sdlc.models.lora import parse_lora
    from sdlc.models.replay import settings_in
    from sdlc.models.settings import GenerateSettings

    if prompt is None and metadata is None:
        raise click.UsageError("give a PROMPT, or --metadata FILE.png")
    found = {} if metadata is None else settings_in(metadata)
    given = {name: value for name, value in options.items() if value not in (None, ())}
    for name in ("without", "only", "f32"):
        if name in given:
            given[name] = parse_names(given[name])
    if "loras" in given:
        given["loras"] = tuple(map(parse_lora, given["loras"]))
    if "precision" in given:
        given["precision"] = DType(given["precision"])
    if prompt is not None:
        given["prompt"] = prompt
    seeds = given.pop("seed", ())
    if len(seeds) == 1:
        given["seed"] = seeds[0]
    elif seeds:
        given |= {"seeds": seeds, "batch": given.get("batch", len(seeds))}
    return GenerateSettings(**{**found, **given})


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
def drawing_progress() -> Iterator[Report]:
    """A bar on stderr, with the time of each step; where that is no terminal, a plain line now and
    then, and the bars of all at the end."""
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
    lines = None if bars.console.is_terminal else Lines()
    waiting = bars.add_task("getting ready", total=None, pace="")
    tasks: dict[str, Any] = {}
    spent: dict[str, float] = {}

    def show(progress: Progress) -> None:
        stage = progress.stage
        title = STAGES.get(stage, stage)
        if stage not in tasks:
            bars.update(waiting, visible=False)
            tasks[stage] = bars.add_task(title, total=progress.total, pace="")
            bars.start()
        spent[stage] = spent.get(stage, 0.0) + progress.seconds
        each = spent[stage] / max(progress.done, 1)
        pace = f"{each:8.1f} s each" if each >= 10 else f"{each * 1e3:8.1f} ms each"
        bars.update(tasks[stage], completed=progress.done, total=progress.total, pace=pace)
        if lines is not None:
            lines.counted(f"{title}, {pace.strip()}", progress.done, progress.total)

    if lines is None:
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
