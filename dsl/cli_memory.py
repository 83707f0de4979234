"""`sdlc memory`: what the networks of a model take of a device's memory.

In: a model, a part of one, or a file, and a target. Out: bytes for each network, and a curve of
what is live over its dispatches. Example:

    sdlc memory stable-diffusion-1.4 --target adreno --precision f16
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdlc.cli_common import (
    ManyValues,
    json_option,
    print_json,
    print_table,
    size_text,
    source_options,
    target_option,
)
from sdlc.cli_header import sized_request
from sdlc.cli_kept import about, kept_record, no_cache_option, request_parts
from sdlc.cli_models import built, is_model, model_requests, tile_option
from sdlc.cli_progress import progress

if TYPE_CHECKING:
    from sdlc.api import Request
    from sdlc.program.program import Program

COLUMNS = ("network", "weights", "arena", "at least", "without reuse", "loading", "dispatches")


@click.command("memory", cls=ManyValues, short_help="Prints what each network of a model takes.")
@click.argument("model", type=click.Path(path_type=Path))
@target_option
@source_options
@tile_option
@no_cache_option
@json_option
def memory_command(model: Path, target: str, no_cache: bool, as_json: bool, **what: Any) -> None:
    """Prints what each network of MODEL takes: weights, arena, and the most that is live at once.

    MODEL is a model (folder, checkpoint, name), a part of one (MODEL/unet), or a .sdl file. Nothing
    is run, and no weights are read. `loading` is what loading takes beside the weights, until it
    has ended.

    \b
    Examples:
      sdlc memory stable-diffusion-1.4 --target adreno --precision f16
      sdlc memory emoji_diffusion/unet --set h=64 w=64 --json
      sdlc memory stable-diffusion-xl/vae --precision f16 --f32 vae
      sdlc memory stable-diffusion-2.1 --target mali --precision f16 --tile 64
    """
    from sdlc.language.diagnostics import plural

    if is_model(model):
        requests = model_requests(model, target, what)
    else:
        requests = {model.stem: sized_request(model, target, **what)}
    said = None if no_cache else about("memory", model, {**what, "target": target})
    found = {}
    with progress("compiling", 24) as tell:
        for number, (name, request) in enumerate(requests.items()):
            tell(name, number, len(requests))
            found[name] = taken(request, said)
    if as_json:
        print_json({name: each["bytes"] for name, each in found.items()})
        return
    print_table(COLUMNS, [_row(name, each["bytes"]) for name, each in found.items()])
    for name, each in found.items():
        count = each["bytes"]["dispatches"]
        click.echo(f"\n{name}: bytes live over its {plural(count, 'dispatch', 'dispatches')}")
        click.echo("\n".join(each["curve"]))


def taken(request: Request, said: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The record and the curve of a program, as an earlier call has kept them where it did (unless
    `said`, which is about them, is None)."""

    from sdlc.program.workers import cores

    def make() -> Mapping[str, Any]:
        program = built(replace(request, processes=cores())).program
        return {"bytes": record(program), "curve": curve(program)}

    return kept_record(("memory", repr(request.target), *request_parts(request)), make, said)


def record(program: Program) -> dict[str, int]:
    """Bytes by name. `staging_bytes` is the arena of the load program, freed when it has run."""
    memory = program.memory
    return {
        "weights_bytes": memory.weights,
        "arena_bytes": memory.arena,
        "naive_bytes": memory.naive,
        "lower_bound_bytes": memory.lower_bound,
        "staging_bytes": 0 if program.load is None else program.load.memory.arena,
        "dispatches": len(program.dispatches),
    }


def _row(name: str, found: Mapping[str, int]) -> tuple[str, ...]:
    order = ("weights", "arena", "lower_bound", "naive", "staging")
    sizes = (size_text(found[f"{kind}_bytes"]) for kind in order)
    return (name, *sizes, str(found["dispatches"]))


def curve(program: Program) -> list[str]:
    """What is live, and in which dispatch it is most, with the tensors that live there."""
    from sdlc.program.explain_text import timeline
    from sdlc.program.memory import lifetimes_of, live_bytes

    lives = lifetimes_of(program.tensors, program.dispatches)
    live = live_bytes(lives, len(program.dispatches))
    lines = timeline(live)
    if not lines:
        return ["nothing is stored between dispatches"]
    peak = live.index(max(live))
    there = sorted((t for t in lives if t.first <= peak <= t.last), key=lambda t: -t.nbytes)
    label = program.dispatches[peak].label
    held = ", ".join(f"{t.name} {size_text(t.nbytes)}" for t in there[:4])
    return [*lines, f"             {label}", f"             {held}"]
