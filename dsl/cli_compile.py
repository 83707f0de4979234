"""`sdlc compile`: a bundle of a file.

In: a file, sizes, configuration and a target. Out: a folder (docs/bundle.md). Example:

    sdlc compile softmax.sdl --target mali --set b=2x3 n=64 -o softmax-mali
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdlc.cli_common import (
    ManyValues,
    json_option,
    print_json,
    print_table,
    request_from,
    size_text,
    source_options,
    target_option,
)
from sdlc.cli_statistics import (
    checked_place,
    print_statistics,
    records,
    statistics_of,
    statistics_options,
)

if TYPE_CHECKING:
    from sdlc.api import Compiled
    from sdlc.program.program import Program


@click.command("compile", cls=ManyValues)
@click.argument("file", type=click.Path(path_type=Path))
@target_option
@source_options
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The bundle's folder.")
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="Pack the weights of a safetensors file or folder into the bundle.",
)
@click.option(
    "--prepare",
    metavar="DEVICE",
    help="Pack what the load program makes of the weights, computed on this device.",
)
@statistics_options
@json_option
def compile_command(
    file: Path,
    output: Path | None,
    weights: Path | None,
    prepare: str | None,
    statistics: bool,
    compilers: Path | None,
    as_json: bool,
    **what: Any,
) -> None:
    """Compiles FILE and writes a bundle: manifest.json and kernels.

    \b
    Examples:
      sdlc compile softmax.sdl --set b=2x3 n=64
      sdlc compile unet.sdl --target adreno --config unet/config.json \\
          --set b=2 h=64 w=64 t=77 --precision f16 -o unet-adreno
    """
    from sdlc.api import load_weights
    from sdlc.backends.devices import open_device
    from sdlc.program.bundle import check_place, write_bundle
    from sdlc.program.load import prepared

    started = time.perf_counter()
    if output is not None:
        check_place(output)
    request = request_from(file, **what)
    place = checked_place(request.target.name, compilers) if statistics else None
    packed = None if weights is None else load_weights(weights)
    compiled = request.build()
    if packed is not None and prepare is not None:
        packed = prepared(compiled.program, open_device(prepare), packed)
    directory = output or Path(f"{compiled.program.name}-{compiled.target.name}")
    texts, caps = compiled.texts(), compiled.target.caps
    write_bundle(compiled.program, texts, caps, directory, packed)
    unused = request.unused_config()
    summary = _summary(compiled, directory, unused, time.perf_counter() - started)
    rows = statistics_of(compiled, place) if place else ()
    if as_json:
        print_json(summary | ({"statistics": records(rows)} if place else {}))
        return
    print_table(("bundle", str(directory)), _summary_rows(summary))
    if place:
        print_statistics(rows)


def _summary(
    compiled: Compiled, directory: Path, unused: tuple[str, ...], seconds: float
) -> dict[str, Any]:
    program = compiled.program
    memory = program.memory
    return {
        "bundle": str(directory),
        "name": program.name,
        "target": program.target,
        "precision": program.precision.value,
        "inputs": {n: list(program.tensors[n].shape) for n in program.inputs},
        "outputs": {n: list(program.tensors[n].shape) for n in program.outputs},
        "unused_config": list(unused),
        "kernels": len(program.kernels),
        "dispatches": len(program.dispatches),
        "flop": program.flop,
        "memory": {
            "naive": memory.naive,
            "arena": memory.arena,
            "lower_bound": memory.lower_bound,
            "weights": memory.weights,
        },
        "load": None if program.load is None else _load_summary(program.load),
        "seconds": round(seconds, 3),
    }


def _load_summary(load: Program) -> dict[str, int]:
    """What is computed once, when weights are loaded, and the memory that it takes meanwhile."""
    return {
        "weights": len(load.outputs),
        "dispatches": len(load.dispatches),
        "flop": load.flop,
        "arena": load.memory.arena,
    }


def _summary_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    memory = {name: size_text(n) for name, n in summary["memory"].items()}
    unused = ", ".join(summary["unused_config"])
    return [
        ("program", f"{summary['name']} for {summary['target']}, {summary['precision']}"),
        ("inputs", _shapes(summary["inputs"])),
        ("outputs", _shapes(summary["outputs"])),
        *([("unused config", unused)] if unused else []),
        ("kernels", f"{summary['kernels']}, dispatched {summary['dispatches']} times"),
        ("arena", f"{memory['arena']} (at least {memory['lower_bound']}, naive {memory['naive']})"),
        ("weights", memory["weights"]),
        *([("loading", _load_text(summary["load"]))] if summary["load"] else []),
        ("work", f"{summary['flop'] / 1e9:.3g} GFLOP"),
        ("compiled in", f"{summary['seconds']:.2f} s"),
    ]


def _load_text(load: dict[str, int]) -> str:
    made = f"{load['weights']} weights computed once in {load['dispatches']} dispatches"
    return f"{made}, {size_text(load['arena'])} meanwhile"


def _shapes(tensors: dict[str, list[int]]) -> str:
    return ", ".join(f"{name}{shape}" for name, shape in tensors.items()) or "none"
