"""`sdlc compile`: a bundle of a file.

In: a file, sizes, configuration and a target. Out: a folder (docs/bundle.md). Example:

    sdlc compile softmax.sdl --target mali --set b=2x3 n=64 -o softmax-mali
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
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
from sdlc.cli_kept import about, key_for, no_cache_option
from sdlc.cli_models import built, tile_option
from sdlc.cli_statistics import (
    place_of,
    print_statistics,
    records,
    statistics_of,
    statistics_options,
)

if TYPE_CHECKING:
    from sdlc.api import Compiled
    from sdlc.graph.types import Array
    from sdlc.program.program import Program
    from sdlc.program.store import Store


@click.command("compile", cls=ManyValues)
@click.argument("file", type=click.Path(path_type=Path))
@target_option
@source_options
@tile_option
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
@no_cache_option
@json_option
def compile_command(
    file: Path,
    output: Path | None,
    weights: Path | None,
    prepare: str | None,
    statistics: bool,
    compilers: Path | None,
    no_cache: bool,
    as_json: bool,
    **what: Any,
) -> None:
    """Compiles FILE and writes a bundle: manifest.json and kernels.

    FILE is a .sdl file, or a part of a model (MODEL/unet): of a folder, a checkpoint or a name.

    \b
    Examples:
      sdlc compile softmax.sdl --set b=2x3 n=64
      sdlc compile unet.sdl --target adreno --config unet/config.json \\
          --set b=2 h=64 w=64 t=77 --precision f16 -o unet-adreno
      sdlc compile stable-diffusion-xl/vae --precision f16 --f32 decoder.up_blocks -o vae
      sdlc compile stable-diffusion-2.1/vae --target mali --precision f16 --tile 64
    """
    from sdlc.api import load_weights
    from sdlc.models.cache import program_store
    from sdlc.program.bundle import check_place

    started = time.perf_counter()
    if output is not None:
        check_place(output)
    place = place_of(what["target"], compilers) if statistics else None
    packed = None if weights is None else load_weights(weights)
    store = None if no_cache else program_store()
    key = None if store is None else key_for(file, what)
    summary, compiled = None, None
    if store is not None and key is not None and prepare is None and place is None:
        summary = _again(store, key, output, packed)
    if summary is None:
        summary, compiled = _anew(file, what, output, (packed, prepare), (store, key))
    summary["seconds"] = round(time.perf_counter() - started, 3)
    rows = statistics_of(compiled, place) if place and compiled else ()
    if as_json:
        asked = {"statistics": records(rows) if place else None} if statistics else {}
        print_json(summary | asked)
        return
    print_table(("bundle", summary["bundle"]), _summary_rows(summary))
    if place:
        print_statistics(rows)


def _again(
    store: Store, key: str, output: Path | None, weights: Mapping[str, Array] | None
) -> dict[str, Any] | None:
    """Writes the bundle that an earlier call made; None where there is none that will do."""
    from sdlc.language.diagnostics import SdlError
    from sdlc.program.bundle import copy_bundle

    found = store.get(key)
    if found is None or "summary" not in found.about:
        return None
    directory = output or Path(found.about["folder"])
    with suppress(SdlError):  # of a place or weights: what is compiled anew says the same and more
        copy_bundle(found.place, directory, weights)
        _warn(found.about["warnings"])
        return {"bundle": str(directory), **found.about["summary"], "cached": True}
    return None


def _warn(messages: list[str]) -> list[str]:
    for message in messages:
        warnings.warn(message, stacklevel=3)
    return messages


def _anew(
    file: Path,
    what: Mapping[str, Any],
    output: Path | None,
    weights: tuple[Mapping[str, Array] | None, str | None],
    kept: tuple[Store | None, str | None],
) -> tuple[dict[str, Any], Compiled]:
    """Compiles and writes a bundle, with `weights` that a device may prepare; keeps it (without
    weights) where it can be."""
    from sdlc.language.diagnostics import SdlError
    from sdlc.program.bundle import write_bundle
    from sdlc.program.workers import cores

    request = replace(sized_request(file, **what), processes=cores())
    with warnings.catch_warnings(record=True) as warned:
        compiled = built(request)
    said = _warn([str(w.message) for w in warned])
    program, target = compiled.program, compiled.target
    write = partial(write_bundle, program, compiled.texts(), target.caps)
    folder = f"{program.name}-{target.name}"
    directory = output or Path(folder)
    packed, prepare = weights
    if packed is not None and prepare is not None:
        packed = _prepared(program, prepare, packed)
    write(directory, packed)
    summary = _summary(compiled, request.unused_config())
    store, key = kept
    if store is not None and key is not None:
        described = {"folder": folder, "summary": summary, "warnings": said}
        with suppress(SdlError, OSError):  # a cache that cannot be written keeps nothing
            store.put(key, write, {**about("compile", file, what), **described})
    return {"bundle": str(directory), **summary, "cached": False}, compiled


def _prepared(program: Program, device: str, weights: Mapping[str, Array]) -> Mapping[str, Array]:
    from sdlc.backends.devices import open_device
    from sdlc.program.load import prepared

    return prepared(program, open_device(device), weights)


def _summary(compiled: Compiled, unused: tuple[str, ...]) -> dict[str, Any]:
    program = compiled.program
    memory = program.memory
    return {
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
            "largest": _largest(program),
        },
        "load": None if program.load is None else _load_summary(program.load),
    }


def _largest(program: Program) -> int:
    """Bytes of the largest temporary tensor."""
    from sdlc.program.program import TensorRole

    found = (t.nbytes for t in program.tensors.values() if t.role is TensorRole.TEMPORARY)
    return max(found, default=0)


def _load_summary(load: Program) -> dict[str, int]:
    """What is computed once, when weights are loaded, and the memory that it takes meanwhile."""
    return {
        "weights": len(load.outputs),
        "dispatches": len(load.dispatches),
        "flop": load.flop,
        "arena": load.memory.arena,
    }


def _summary_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    from sdlc.language.diagnostics import plural

    memory = {name: size_text(n) for name, n in summary["memory"].items()}
    launches = plural(summary["dispatches"], "dispatch", "dispatches")
    unused = _unused_text(summary["unused_config"])
    return [
        ("program", f"{summary['name']} for {summary['target']}, {summary['precision']}"),
        ("inputs", _shapes(summary["inputs"])),
        ("outputs", _shapes(summary["outputs"])),
        *([("unused config", unused)] if unused else []),
        ("kernels", f"{summary['kernels']} in {launches}"),
        ("arena", f"{memory['arena']} (at least {memory['lower_bound']}, naive {memory['naive']})"),
        ("largest", memory["largest"]),
        ("weights", memory["weights"]),
        *([("loading", _load_text(summary["load"]))] if summary["load"] else []),
        ("work", f"{summary['flop'] / 1e9:.3g} GFLOP"),
        (
            "compiled in",
            f"{summary['seconds']:.2f} s{' (kept before)' if summary['cached'] else ''}",
        ),
    ]


def _unused_text(names: list[str], most: int = 4) -> str:
    """The first of them, and how many more there are: published configurations have many."""
    more = f" and {len(names) - most} more (--json lists them)" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def _load_text(load: dict[str, int]) -> str:
    made = f"{load['weights']} weights computed once in {load['dispatches']} dispatches"
    return f"{made}, {size_text(load['arena'])} meanwhile"


def _shapes(tensors: dict[str, list[int]]) -> str:
    return ", ".join(f"{name}{shape}" for name, shape in tensors.items()) or "none"
