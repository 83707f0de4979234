"""`sdlc explain`: what became of a file, as text, as JSON or as a page.

In: a file, sizes, configuration and a target. Out: text on stdout, or an HTML file. Example:

    sdlc explain softmax.sdl --set b=2x3 n=64 --target mali -o softmax.html
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sdlc.cli_common import (
    ManyValues,
    check_place,
    json_option,
    print_json,
    request_from,
    size_text,
    source_options,
    target_option,
    write_whole,
)

SECTIONS = ("graph", "groups", "rules", "dispatches", "kernels", "tensors", "memory")


@click.command("explain", cls=ManyValues)
@click.argument("file", type=click.Path(path_type=Path))
@target_option
@source_options
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Write a page (HTML) to this file."
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
@json_option
def explain_command(
    file: Path,
    output: Path | None,
    device: str | None,
    sections: tuple[str, ...],
    language: str | None,
    as_json: bool,
    **what: Any,
) -> None:
    """Shows what becomes of FILE: graph, groups, rules, dispatches, kernels, tensors, memory.

    \b
    Examples:
      sdlc explain softmax.sdl --set b=2x3 n=64 --target mali
      sdlc explain softmax.sdl --set b=2x3 n=64 --target mali -o softmax.html
      sdlc explain softmax.sdl --set b=2x3 n=64 --target mali --section kernels --language wgsl
      sdlc explain softmax.sdl --set b=2x3 n=64 --device cpu -o softmax.html
    """
    from sdlc.api import explanation, measured

    if output is not None:
        check_place(output)
    request = request_from(file, **what)
    languages = request.target.caps.languages
    if language is not None:
        languages = (language,)
    elif output is None and not as_json:
        languages = languages[:1]
    compiled = request.build()
    made = explanation(compiled, request, languages)
    if device is not None:
        made = made.timed(*measured(compiled, device))
    wanted = sections or SECTIONS
    if output is not None:
        page = made.page().encode()
        write_whole(output, lambda file: file.write(page))
        click.echo(
            f"{output}  ({size_text(len(page))}, {len(made.dispatches)} dispatches)", err=True
        )
    if as_json:
        everything = made.as_json()
        chosen = {n: v for n, v in everything.items() if n not in SECTIONS or n in wanted}
        print_json(chosen)
    elif output is None or sections:
        texts = (f"== {title} ==\n{text}" for n, title, text in made.sections() if n in wanted)
        click.echo("\n\n".join(texts))
