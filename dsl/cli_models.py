"""Models as programs to compile: `MODEL` or `MODEL/PART` where a command takes a file.

In: a folder, a checkpoint or a name (`stable-diffusion-1.4`), perhaps with one of its parts behind
it. Out: a request for each network, its configuration and sizes those of the model's own pictures.
Invariant: no weights are read. Errors: SdlError (K001, M…).

    model_requests(Path("stable-diffusion-1.4/unet"), what)["unet"].sizes["h"] == 64
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdlc.cli_common import parse_sizes, request_of_file
from sdlc.language.diagnostics import failure
from sdlc.language.precision import Scopes, check_met

if TYPE_CHECKING:
    from sdlc.api import Request
    from sdlc.models.folder import Model
    from sdlc.models.networks import Network


def is_model(place: Path) -> bool:
    """Whether this is for a model, and not the file of a program."""
    return place.suffix != ".sdl" and (not place.is_file() or place.suffix == ".safetensors")


def find_model(place: Path) -> tuple[Model, str]:
    """The model at `place`, and '' or the part of it that `place` names.

    Raises SdlError: K001 where there is nothing, M… for what is wrong with a model."""
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
    from sdlc.models.networks import networks
    from sdlc.models.settings import GenerateSettings
    from sdlc.program.records import records_path

    model, part = find_model(place)
    found = {n.part: n for n in networks(model, GenerateSettings("")) if part in ("", n.part)}
    if not found:
        message = f"`{part}` is no network of the model in `{model.path}`"
        raise failure("K001", message, "give its unet, vae or text_encoder")
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
    from sdlc.models.networks import scopes_of

    found = {
        name: scopes_of(r.library, r.sizes, r.config, Scopes(r.f32, r.root, one_of_many=True))
        for name, r in requests.items()
    }
    check_met(found.values())
    return {n: replace(r, f32=found[n].here) for n, r in requests.items()}


def only_request(place: Path, target: str, what: Mapping[str, Any]) -> Request:
    """The request of one network. Raises SdlError (K001) for a model that has several."""
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

    given = parse_sizes(what["sizes"])
    own = {n: size for n, size in given.items() if n in network.sizes or n not in known}
    asked = {**what, "sizes": (), "configs": (network.config, *what["configs"])}
    request = request_of_file(SOURCES / network.source, target, **asked)
    return replace(request, sizes={**network.sizes, **own}, root=network.part)
