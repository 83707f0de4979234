"""`sdlc explain`: what became of a file, as text, as JSON or as a page.

In: a file, sizes, configuration and a target. Out: text on stdout, or a file whose name says
whether it is a page, text or JSON. Example:

    sdlc explain softmax.sdl --set b=2x3 n=64 --target mali -o softmax.html
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdlc.cli_common import (
    ManyValues,
    check_place,
    json_option,
    json_text,
    size_text,
    source_options,
    target_option,
    write_whole,
)
from sdlc.cli_header import sized_request
from sdlc.cli_kept import about, kept_program, kept_record, no_cache_option, request_parts
from sdlc.cli_models import built, tile_option

if TYPE_CHECKING:
    from sdlc.api import Request
    from sdlc.program.explain_data import Explanation

FORMS = (".html", ".htm", ".txt", ".json")
SECTIONS = ("graph", "groups", "rules", "dispatches", "kernels", "tensors", "memory")


@click.command(
    "explain",
    cls=ManyValues,
    short_help="Says what became of a file, and why: text or a page.",
)
@click.argument("file", type=click.Path(path_type=Path))
@target_option
@source_options
@tile_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Write a page (.html), text (.txt) or JSON (.json) to this file.",
)
@click.option(
    "--section",
    "sections",
    multiple=True,
    type=click.Choice(SECTIONS),
    help="Only this section. May be repeated.",
)
@click.option(
    "--language",
    type=click.Choice(["opencl", "wgsl"]),
    help="Kernels in this language (text: the one that the target prefers; else: all of its).",
)
@click.option(
    "--device",
    metavar="DEVICE",
    help="Also measure every dispatch there, with random inputs and weights.",
)
@no_cache_option
@json_option
def explain_command(
    file: Path,
    output: Path | None,
    device: str | None,
    sections: tuple[str, ...],
    language: str | None,
    no_cache: bool,
    as_json: bool,
    **what: Any,
) -> None:
    """Shows what becomes of FILE: graph, groups, rules, dispatches, kernels, tensors, memory.

    FILE is a .sdl file, or a part of a model (MODEL/unet): of a folder, a checkpoint or a name.

    \b
    Examples:
      sdlc explain softmax.sdl --set b=2x3 n=64 --target mali
      sdlc explain softmax.sdl --set b=2x3 n=64 --target mali -o softmax.html
      sdlc explain softmax.sdl --set b=2x3 n=64 --target mali --section kernels --language wgsl
      sdlc explain softmax.sdl --set b=2x3 n=64 --device cpu -o softmax.html
    """
    form = _checked_form(output)
    request = sized_request(file, **what)
    languages = request.target.caps.languages
    if language is not None:
        languages = (language,)
    elif form == ".txt" and not as_json:
        languages = languages[:1]
    said = None if no_cache else about("explain", file, what)
    made = _explained(request, languages, device, said)
    wanted = sections or SECTIONS
    if output is not None:
        whole = f"{_written(made, form, wanted).rstrip()}\n".encode()
        write_whole(output, lambda file: file.write(whole))
        click.echo(f"{output}  ({size_text(len(whole))}, {_launches(made)})", err=True)
    if as_json:
        click.echo(_written(made, ".json", wanted))
    elif output is None or (sections and form not in (".txt", ".json")):
        click.echo(_written(made, ".txt", wanted))


def _checked_form(output: Path | None) -> str:
    """What is written, as the name of a file ends. Raises SdlError (X003) where none can be written
    there."""
    if output is None:
        return ".txt"
    if output.suffix not in FORMS:
        message = f"write a page (.html), text (.txt) or JSON (.json), not `{output.name}`"
        raise click.BadParameter(message, param_hint="--output")
    check_place(output)
    return output.suffix


def _written(made: Explanation, form: str, wanted: Sequence[str]) -> str:
    """The explanation as a file of this form; a page has everything."""
    if form == ".json":
        everything = made.as_json()
        return json_text({n: v for n, v in everything.items() if n not in SECTIONS or n in wanted})
    if form == ".txt":
        texts = (f"== {title} ==\n{text}" for n, title, text in made.sections() if n in wanted)
        return "\n\n".join(texts)
    return made.page()


def _launches(made: Explanation) -> str:
    """`3 dispatches a run, 2 at load`."""
    from sdlc.language.diagnostics import plural

    run = sum(d.part == "run" for d in made.dispatches)
    load = len(made.dispatches) - run
    said = f"{plural(run, 'dispatch', 'dispatches')} a run"
    return f"{said}, {load} at load" if load else said


def _explained(
    request: Request, languages: tuple[str, ...], device: str | None, said: dict[str, Any] | None
) -> Explanation:
    """The explanation, as an earlier call has kept it where it did (unless `said`, which is about
    it, is None); with times of a device."""
    from sdlc.api_texts import explanation, measured
    from sdlc.backends.devices import open_device
    from sdlc.program.explain_json import explanation_of
    from sdlc.program.workers import cores

    build = cache(partial(built, replace(request, processes=cores())))
    parts = ("explain", languages, repr(request.target), *request_parts(request))
    plain = kept_record(parts, lambda: explanation(build(), request, languages).as_json(), said)
    made = explanation_of(plain)
    if device is None:
        return made
    opened = open_device(device)
    program, texts, _ = kept_program(request, opened, lambda: build().program, said)
    return made.timed(opened.info.name, measured(program, opened, texts))
