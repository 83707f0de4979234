"""Models as programs to compile: `MODEL` or `MODEL/PART` where a command takes a file.

In: a folder, a checkpoint or a name (`stable-diffusion-1.4`), perhaps with one of its parts behind
it. Out: a request for each network, its configuration and sizes those of the model's own pictures.
Invariant: no weights are read. Errors: SdlError (K001, M…).

    model_requests(Path("stable-diffusion-1.4/unet"), what)["unet"].sizes["h"] == 64
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from math import prod, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sdlc.cli_common import Size, parse_sizes, request_of_file

if TYPE_CHECKING:
    from sdlc.api import Compiled, Request
    from sdlc.language.diagnostics import SdlError
    from sdlc.models.folder import Model
    from sdlc.models.networks import Network
    from sdlc.program.execute import TooLargeError

Command = TypeVar("Command", bound=Callable[..., Any])
DECODER = "vae"
"""The part that pictures are decoded with: the one that may work in tiles."""
TILE_STEP = 8


def tile_option(command: Command) -> Command:
    return click.option(
        "--tile",
        type=click.IntRange(1),
        metavar="N",
        help="Of a model's picture decoder, what decodes tiles of N latents, as in generate.",
    )(command)


def is_model(place: Path) -> bool:
    """Whether this is for a model, and not the file of a program."""
    return place.suffix != ".sdl" and (not place.is_file() or place.suffix == ".safetensors")


def find_model(place: Path) -> tuple[Model, str]:
    """The model at `place`, and '' or the part of it that `place` names.

    Raises SdlError: K001 where there is nothing, M… for what is wrong with a model."""
    from sdlc.language.diagnostics import failure
    from sdlc.models.folder import default_folder
    from sdlc.models.model import exists, load_model

    if exists(place):
        return load_model(place), ""
    if exists(place.parent):
        return load_model(place.parent), place.name
    if place.parent.is_dir() and place.is_dir():
        return load_model(place), ""  # says what the folder lacks
    message = f"there is no program or model `{place}`"
    shipped = default_folder().parent.name
    help = f"give a .sdl file, a model (folder, checkpoint, name) or a part of one, or {shipped}"
    raise failure("K001", message, help)


def model_requests(place: Path, target: str, what: Mapping[str, Any]) -> dict[str, Request]:
    """The requests of a model's networks by name; `what` has the source options of a command."""
    from sdlc.language.diagnostics import failure
    from sdlc.models.networks import networks
    from sdlc.models.settings import GenerateSettings
    from sdlc.program.records import records_path

    model, part = find_model(place)
    found = {n.part: n for n in networks(model, GenerateSettings("")) if part in ("", n.part)}
    if not found:
        message = f"`{part}` is no network of the model in `{model.path}`"
        raise failure("K001", message, "give its unet, vae or text_encoder")
    if what.get("tile") and DECODER not in found:
        message = f"`{place}` is not decoded in tiles: only pictures are"
        raise failure("K001", message, f"leave --tile out, or give {model.path}/{DECODER}")
    known = {size for network in found.values() for size in network.sizes}
    records = what.get("records") or records_path(model.path)
    made = {n: _network_request(network, target, what, known) for n, network in found.items()}
    made = _with_their_scopes(made)
    return {n: replace(request, records=records) for n, request in made.items()}


def _with_their_scopes(requests: dict[str, Request]) -> dict[str, Request]:
    """The requests, each with those scopes of `--f32` that it has. Raises SdlError (E049) for one
    that none has."""
    if not any(request.f32 for request in requests.values()):
        return requests
    from sdlc.language.precision import Scopes, check_met
    from sdlc.models.networks import scopes_of

    found = {
        name: scopes_of(r.library, r.sizes, r.config, Scopes(r.f32, r.root, one_of_many=True))
        for name, r in requests.items()
    }
    check_met(found.values())
    return {n: replace(r, f32=found[n].here) for n, r in requests.items()}


def only_request(place: Path, target: str, what: Mapping[str, Any]) -> Request:
    """The request of one network. Raises SdlError (K001) for a model that has several."""
    from sdlc.language.diagnostics import failure

    found = model_requests(place, target, what)
    if len(found) > 1:
        names = " or ".join(f"{place}/{part}" for part in found)
        raise failure("K001", f"`{place}` is a model of {len(found)} networks", f"give {names}")
    return next(iter(found.values()))


def _network_request(
    network: Network, target: str, what: Mapping[str, Any], known: Collection[str]
) -> Request:
    """`known` are the sizes that any network of the model has: a network leaves out the others'."""
    from sdlc.models.folder import SOURCES
    from sdlc.models.networks import in_tiles

    given = parse_sizes(what["sizes"])
    own = {n: size for n, size in given.items() if n in network.sizes or n not in known}
    asked = {**what, "sizes": (), "tile": None, "configs": (network.config, *what["configs"])}
    request = request_of_file(SOURCES / network.source, target, **asked)
    sizes: dict[str, Size] = {**network.sizes, **own}
    sides = {n: size for n in ("b", "h", "w") if isinstance(size := sizes.get(n), int)}
    if network.part == DECODER and len(sides) == 3:
        sizes |= in_tiles(sides, what.get("tile") or 0)
    return replace(request, sizes=sizes, root=network.part)


# ---- what is too large ---------------------------------------------------------------------------


def built(request: Request) -> Compiled:
    """Compiles a request. Raises what `Request.build` raises; for a picture decoder of whose values
    some are larger than the target binds (P007), the first of them, and tiles that should fit."""
    from sdlc.program.execute import TooLargeError

    try:
        return request.build()
    except TooLargeError as error:
        raise _advised(error, request) from None


def _advised(error: TooLargeError, request: Request) -> SdlError:
    from sdlc.language.diagnostics import SdlError, half_precision

    sides = [side for name in "hw" if isinstance(side := request.sizes.get(name), int)]
    if request.root != DECODER or len(sides) < 2:
        return error
    tile = int(min(*sides, sqrt(prod(sides) * error.share) + 1e-6)) // TILE_STEP * TILE_STEP
    if not tile:
        return error
    half = half_precision(request.precision)
    help = f"use --tile {tile}, which should fit: pictures are decoded in tiles of {tile} latents"
    more = f"; {half}or another target (`sdlc targets`)"
    return SdlError((replace(error.diagnostics[0], help=help + more),), error.sources)
