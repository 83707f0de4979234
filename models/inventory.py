"""What a model holds: its parts, their tensors and sizes, and what is missing or not used.

In: a `Model`. Out: `Inventory`. Invariant: only headers are read; a tensor is missing where a
network of `models/stable_diffusion` declares it, and not used where none does. Errors: SdlError of
the model's files, and of networks that are not described.

    inventory(load_model("model.safetensors")).parts[1].parameters
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from sdlc.graph.node import Input, Role, topological
from sdlc.graph.types import DType
from sdlc.language.elaborate import build
from sdlc.language.library import load
from sdlc.models.family import family_of
from sdlc.models.folder import SOURCES, Model
from sdlc.models.networks import networks
from sdlc.models.settings import GenerateSettings
from sdlc.models.weights import Entry, old_name

Shapes = dict[str, tuple[int, ...]]
KL = "AutoencoderKL"


@dataclass(frozen=True, slots=True)
class Part:
    """A network's weights: `dtypes` are parameters by the type in which files store them;
    `missing`, `misshapen` and `unused` are names. Without files the first is empty, and
    `parameters` are those that the network declares."""

    name: str
    files: tuple[str, ...]
    tensors: int
    parameters: int
    nbytes: int
    dtypes: Mapping[str, int]
    missing: tuple[str, ...] = ()
    misshapen: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Inventory:
    """`size` is the pictures' (width, height) in pixels, `unread` are tensors of no part."""

    path: str
    family: str
    prediction: str
    size: tuple[int, int]
    parts: tuple[Part, ...]
    unread: tuple[str, ...]

    @property
    def complete(self) -> bool:
        return not any(part.missing or part.misshapen for part in self.parts)


def inventory(model: Model, has_weights: bool = True) -> Inventory:
    """Everything about a model that can be said without reading its weights."""
    wanted = declared(model)
    parts = [_part(name, wanted[name], model, has_weights) for name in wanted]
    prediction = str(model.scheduler.get("prediction_type", "epsilon"))
    place, family = str(model.path), family_of(model)
    return Inventory(place, family, prediction, model.default_size, tuple(parts), model.unread)


def declared(model: Model) -> dict[str, Shapes]:
    """The weights that the networks of a model declare, by part."""
    found: dict[str, Shapes] = {}
    for network in networks(model, GenerateSettings("")):
        shapes = found.setdefault(network.part, {})
        shapes |= weights_of(network.source, network.sizes, network.config)
    return found


def weights_of(source: str, sizes: Mapping[str, int], config: Mapping[str, object]) -> Shapes:
    """The weights that a file of `models/stable_diffusion` declares."""
    graph = build(load(SOURCES / source), None, sizes, config, DType.F32)
    nodes = (node for node in topological(graph) if isinstance(node, Input))
    return {node.name: node.shape for node in nodes if node.role is Role.WEIGHT}


def picture_encoder(model: Model, entries: Mapping[str, Entry]) -> Shapes:
    """What pictures are encoded with: not every model has it, and texts need none."""
    if not any(name.startswith("encoder.") for name in entries):
        return {}
    pixels = 2 * model.granule
    sizes = {"b": 1, "c": 3, "h": pixels, "w": pixels}
    return weights_of("vae_encoder.sdl", sizes, model.vae)


def _part(name: str, wanted: Shapes, model: Model, has_weights: bool) -> Part:
    if not has_weights:
        return Part(name, (), len(wanted), sum(map(prod, wanted.values())), 0, {})
    entries = model.weights(name).entries
    if name == "vae" and model.vae.get("_class_name", KL) == KL:
        wanted = wanted | picture_encoder(model, entries)
    dtypes: Counter[str] = Counter()
    for entry in entries.values():
        dtypes[entry.stored] += prod(entry.shape)
    found = {n: entries.get(n) or entries.get(old_name(n)) for n in wanted}
    used = set(wanted) | {old_name(n) for n in wanted}
    return Part(
        name,
        tuple(sorted({str(e.file) for e in entries.values()})),
        len(entries),
        dtypes.total(),
        sum(e.end - e.begin for e in entries.values()),
        dict(dtypes.most_common()),
        tuple(n for n, entry in found.items() if entry is None),
        tuple(_misshapen(wanted, found)),
        tuple(n for n in entries if n not in used),
    )


def _misshapen(wanted: Shapes, found: Mapping[str, Entry | None]) -> Iterable[str]:
    for name, entry in found.items():
        if entry is not None and entry.given != wanted[name]:
            yield f"{name}: {list(entry.given)}, not {list(wanted[name])}"
