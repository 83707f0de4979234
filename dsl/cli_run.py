"""`sdlc run`: a bundle or a file on a device, arrays from and to NumPy's formats.

In: a bundle's folder or an `.sdl` file, `.npy` files. Out: an `.npz` file and a summary. Example:

    sdlc run softmax.sdl --input x=x.npy -o out.npz
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from sdlc.cli_common import (
    ManyValues,
    check_place,
    json_option,
    parse_pairs,
    print_json,
    print_table,
    request_from,
    source_options,
    write_whole,
)
from sdlc.cli_kept import about, key_for, no_cache_option
from sdlc.cli_progress import progress

if TYPE_CHECKING:
    from sdlc.api import Request
    from sdlc.graph.types import Array
    from sdlc.program.device import Device
    from sdlc.program.execute import Executable
    from sdlc.program.program import Program

Outputs = dict[str, "Array"]


@click.command("run", cls=ManyValues, short_help="Runs a bundle, or a .sdl file, on given arrays.")
@click.argument("program", type=click.Path(path_type=Path))
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="NAME=FILE.npy…",
    help="An input: a .npy file or a number. May be repeated.",
)
@click.option("--device", metavar="DEVICE", help="Where to run; `sdlc devices` lists them.")
@click.option(
    "--weights", type=click.Path(path_type=Path), help="A safetensors file, or a folder of them."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write outputs to a .npz.")
@click.option("--target", metavar="NAME", help="For a .sdl file (default: the device's own).")
@click.option(
    "--check-finite",
    is_flag=True,
    help="Look at every value that is stored; name the first operator to make what is no number.",
)
@source_options
@no_cache_option
@json_option
def run_command(
    program: Path,
    inputs: tuple[str, ...],
    device: str | None,
    output: Path | None,
    check_finite: bool,
    as_json: bool,
    **what: Any,
) -> None:
    """Runs PROGRAM: a bundle's folder, or a .sdl file compiled for the shapes of its inputs.

    \b
    Examples:
      sdlc run softmax.sdl --input x=x.npy -o out.npz
      sdlc run unet-adreno --input latent=l.npy timestep=t.npy context=c.npy \\
          --weights unet/ --device pocl -o out.npz
      sdlc run unet.sdl --precision f16 --check-finite --input latent=l.npy --weights unet/
    """
    if output is not None:
        check_place(output)
    arrays = {name: read_input(name, value) for name, value in parse_pairs(inputs, "--input")}
    executable = _executable(program, arrays, device, **what)
    started = time.perf_counter()
    if check_finite:
        outputs = _checked(executable, program, arrays, what)
    else:
        outputs = executable.run(arrays)
    seconds = time.perf_counter() - started
    if output is not None:
        write_whole(output, lambda file: _save(file, outputs))
    _report(outputs, executable.device.info.name, seconds, as_json)


def _executable(
    program: Path,
    arrays: Mapping[str, Array],
    device: str | None,
    weights: Path | None,
    target: str | None,
    no_cache: bool,
    **source: Any,
) -> Executable:
    """Whatever can be wrong with the files is said before a device is opened."""
    from sdlc.api import load_weights
    from sdlc.backends.devices import open_device
    from sdlc.program.bundle import read_bundle
    from sdlc.program.records import device_text

    held = None if weights is None else load_weights(weights)
    if program.is_dir():
        return read_bundle(program).executable(open_device(device), held)
    request = request_from(program, target or "cpu", **source)
    opened = open_device(device)
    if target is None:
        from sdlc.backends.devices import target_of

        request = replace(request, target=target_of(opened.info))
    request = replace(request, device=device_text(opened.info))
    key = None if no_cache else key_for(program, source, _shapes(arrays))
    described = about("run", program, {**source, "target": request.target.name})
    return _built(request, arrays, opened, held or {}, (key, described))


def _checked(
    executable: Executable, program: Path, arrays: Mapping[str, Array], what: dict[str, Any]
) -> Outputs:
    """The outputs, every value on the way looked at. A bundle has no plan, so whatever its kernels
    compute together is told together."""
    from sdlc.program.finite import checked_run

    name = executable.program.name
    if program.is_dir():
        with progress("checking", 32) as tell:
            return checked_run(executable, arrays, name, lambda: None, partial(tell, "checking"))
    from sdlc.backends.devices import target_of

    source = {n: v for n, v in what.items() if n not in ("weights", "target", "no_cache")}
    request = request_from(program, what["target"] or "cpu", **source)
    if what["target"] is None:
        request = replace(request, target=target_of(executable.device.info))
    with progress("checking", 32) as tell:
        return checked_run(
            executable,
            arrays,
            request.name,
            lambda: request.build_for(arrays).planned,
            partial(tell, "checking"),
        )


def _built(
    request: Request,
    arrays: Mapping[str, Array],
    device: Device,
    weights: Mapping[str, Array],
    cached: tuple[str | None, Mapping[str, Any]],
) -> Executable:
    """The program for the shapes of `arrays`, as an earlier call has kept it where it did."""
    from sdlc.models.cache import kept, key_of
    from sdlc.program.execute import Executable
    from sdlc.program.load import fitting

    def make() -> Program:
        return request.build_for(arrays).program

    key, described = cached
    if key is None:
        return Executable(make(), device, weights)
    request.choices()  # warns of tuning records that are not used, also where nothing is compiled
    program, texts = kept(
        key_of(request.target, device.info, key),
        device,
        make,
        lambda program: deque(fitting(program, weights), 0),
        described,
    )
    return Executable(program, device, weights, texts)


def _shapes(arrays: Mapping[str, Array]) -> list[tuple[str, tuple[int, ...]]]:
    return sorted((name, array.shape) for name, array in arrays.items())


def read_input(name: str, value: str) -> Array:
    """The array of `--input name=value`: a .npy file, or a number."""
    import numpy as np

    from sdlc.language.diagnostics import failure

    for number in (int, float):
        try:
            return np.asarray(number(value))
        except (ValueError, OverflowError):
            continue
    try:
        made = np.load(value, allow_pickle=False)
    except OSError as error:
        message = f"input `{name}`: `{value}` cannot be read: {error.strerror or error}"
        raise failure("P005", message, help="give a .npy file or a number") from error
    except (ValueError, EOFError) as error:
        message = f"input `{name}`: `{value}` is no .npy file of numbers"
        raise failure("P005", message, help="write it with numpy.save(file, array)") from error
    if not isinstance(made, np.ndarray):
        message = f"input `{name}`: `{value}` holds several arrays"
        raise failure("P005", message, help="save the one array with numpy.save(file, array)")
    return made


def _save(file: IO[bytes], outputs: Outputs) -> None:
    import numpy as np

    np.savez(file, allow_pickle=False, **dict(outputs))


def _report(outputs: Outputs, device: str, seconds: float, as_json: bool) -> None:
    described = {name: _describe(array) for name, array in outputs.items()}
    if as_json:
        print_json({"device": device, "seconds": round(seconds, 6), "outputs": described})
        return
    rows = [(name, *(str(v) for v in d.values())) for name, d in described.items()]
    print_table(("output", "dtype", "shape", "min", "max", "mean", "finite"), rows)
    click.echo(f"{seconds * 1e3:.2f} ms on {device}")


def _describe(array: Array) -> dict[str, Any]:
    """Type, shape and the range of the finite values."""
    import numpy as np

    everything = array.astype(np.float64)
    values = everything[np.isfinite(everything)]
    numbers = (values.min(), values.max(), values.mean()) if values.size else (0.0, 0.0, 0.0)
    low, high, mean = (float(f"{n:.6g}") for n in numbers)
    finite = values.size == everything.size
    shape = list(array.shape)
    return {
        "dtype": str(array.dtype),
        "shape": shape,
        "min": low,
        "max": high,
        "mean": mean,
        "finite": finite,
    }
