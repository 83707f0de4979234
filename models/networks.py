"""The networks of a picture: which `.sdl` files, with which configuration and sizes, compiled.

In: a model and settings. Out: `Network`s in the order in which they run, and their programs.
Invariant: a program's weights are in the model's files, with the shapes that it declares. Errors:
SdlError, of the language, of schedules, and of weights (W…).

    for network in networks(load_folder(None), GenerateSettings("a cat")):
        compile_network(network, load_folder(None), load_target("cpu"), DType.F32)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

from sdlc.graph.types import DType
from sdlc.language.diagnostics import failure
from sdlc.language.elaborate import Size, build
from sdlc.language.elaborate_rule import chosen_rules
from sdlc.language.library import Library, load
from sdlc.language.precision import Scopes, check_met
from sdlc.models.cache import Compiled, kept, key_of
from sdlc.models.folder import (
    SIZE_NUMBERS,
    SOURCES,
    Config,
    Model,
    default_folder,
    read_json,
)
from sdlc.models.prompts import chunk_count
from sdlc.models.samplers import COLUMNS, SAMPLERS
from sdlc.models.settings import GenerateSettings, plan_of, size_of
from sdlc.models.tokenizer import ClipTokenizer, load_tokenizer
from sdlc.models.weights import Weights, check_weights, load_weights
from sdlc.program.device import Device, DeviceInfo
from sdlc.program.load import fitting
from sdlc.program.pipeline import Planned, Wishes, compile_hoisted, planned
from sdlc.program.program import Program
from sdlc.program.records import choices_of, device_text, records_path
from sdlc.schedule.point import NO_CHOICES, Choices
from sdlc.target import Target

TABLE_ROWS = 64
"""Tables have a multiple of so many rows, so that other numbers of steps need no other program."""
MAX_CHUNKS = 16
"""The longest text, in rows of tokens."""


ROLES = MappingProxyType(
    {
        "text_encoder.sdl": "text",
        "text_encoder_pooled.sdl": "text_2",
        "vae_encoder.sdl": "encoder",
        "sampler.sdl": "sampler",
        "vae_decoder.sdl": "decoder",
        "tiny_decoder.sdl": "decoder",
    }
)
"""What each file does for a picture."""


@dataclass(frozen=True, slots=True)
class Network:
    """A file of `models/stable_diffusion`, the part whose weights it takes, its sizes, the rules
    that rewrite it and the bytes that its weights may take (as in `GenerateSettings`)."""

    source: str
    part: str
    config: Mapping[str, object]
    sizes: Mapping[str, int]
    without: tuple[str, ...] = ()
    only: tuple[str, ...] | None = None
    weight_budget: int | None = None
    f32: tuple[str, ...] = ()
    """Scopes and operators in f32; `with_scopes` leaves those that the network has."""

    @property
    def role(self) -> str:
        """What it does for a picture: a value of `ROLES`."""
        return ROLES[self.source]


def tokenizers_of(folder: Model) -> dict[str, ClipTokenizer]:
    """The tokenizer of each text encoder, by the encoder's part."""
    return {
        part.replace("tokenizer", "text_encoder"): load_tokenizer(place, folder.tokens)
        for part, place in folder.tokenizers.items()
    }


def chunks_of(settings: GenerateSettings, folder: Model) -> int:
    """How many rows of tokens the longest of the texts fills."""
    if not any(settings.texts):
        return 1
    made = tokenizers_of(folder).values()
    most = max(chunk_count(tokenizer, text) for tokenizer in made for text in settings.texts)
    return min(most, MAX_CHUNKS)


def networks(folder: Model, settings: GenerateSettings) -> tuple[Network, ...]:
    """The programs of a picture, with their configuration and sizes."""
    pictures = {"b": settings.batch, "c": folder.latent_channels, **_latent_size(settings, folder)}
    found = (
        *(_text_encoder(part, settings, folder) for part in encoder_parts(folder)),
        *((_picture_encoder(settings, folder),) if settings.init is not None else ()),
        _sampler(settings, folder, pictures),
        _decoder(settings, folder, pictures),
    )
    return tuple(replace(network, f32=settings.f32) for network in found)


def with_scopes(found: tuple[Network, ...]) -> tuple[Network, ...]:
    """The networks, each with those scopes in f32 that it has. Raises SdlError (E049) for one that
    none has."""
    if not any(network.f32 for network in found):
        return found
    asked = (Scopes(n.f32, n.part, one_of_many=True) for n in found)
    scopes = [
        scopes_of(load(SOURCES / n.source), n.sizes, n.config, each)
        for n, each in zip(found, asked, strict=True)
    ]
    check_met(scopes)
    return tuple(replace(n, f32=s.here) for n, s in zip(found, scopes, strict=True))


def scopes_of(
    library: Library, sizes: Mapping[str, Size], config: Mapping[str, object], asked: Scopes
) -> Scopes:
    """`asked` with what is met in a network, and with all that there is."""
    build(library, None, sizes, config, DType.F32, asked)
    return asked


def _picture_encoder(settings: GenerateSettings, folder: Model) -> Network:
    if decoder_source(folder) != "vae_decoder.sdl":
        help = "start from noise, or give a model with an AutoencoderKL and this one as --vae"
        raise failure("G005", "this model's vae has no encoder that is described", help=help)
    width, height = size_of(settings, folder)
    sizes = {"b": 1, "c": 3, "h": height, "w": width}
    return Network("vae_encoder.sdl", "vae", _vae_config(folder), sizes, *settings.rewriting)


def _decoder(settings: GenerateSettings, folder: Model, pictures: Mapping[str, int]) -> Network:
    """Where pictures are decoded in tiles, a tile is what is compiled."""
    given = decoding_model(settings, folder)
    sizes = in_tiles(pictures, settings.tile)
    source = decoder_source(given)
    return Network(source, "vae", _vae_config(given), sizes, *settings.rewriting)


def in_tiles(pictures: Mapping[str, int], tile: int) -> dict[str, int]:
    """The sizes `b`, `h`, `w` of what is decoded at once: one tile of `tile` latents a side, or
    whole pictures where they are no larger (or `tile` is 0)."""
    side = tile or max(pictures["h"], pictures["w"])
    sizes = {**pictures, "h": min(side, pictures["h"]), "w": min(side, pictures["w"])}
    return sizes if sizes == pictures else {**sizes, "b": 1}


def _vae_config(model: Model) -> Mapping[str, object]:
    """Its pictures' encoder and decoder are partly in f32 where it is of a family that needs this:
    diffusers writes `force_upcast` into every model's configuration, and heeds it in SDXL's."""
    wide = model.vae.get("force_upcast") in (True, 1) and bool(model.text_encoder_2)
    return {**model.vae, "force_upcast": wide}


def decoder_source(model: Model) -> str:
    """The file that describes a model's decoder."""
    tiny = model.vae.get("_class_name") == "AutoencoderTiny"
    return "tiny_decoder.sdl" if tiny else "vae_decoder.sdl"


def decoding_model(settings: GenerateSettings, folder: Model) -> Model:
    """The model whose vae decodes: that of `settings.vae`, else the one that draws."""
    if settings.vae is None:
        return folder
    config = read_json(settings.vae / "config.json")
    latents = config.get("latent_channels", 4)
    if latents != folder.latent_channels:
        message = f"the decoder {settings.vae} reads {latents} channels of latents"
        raise failure("G005", message, help=f"this model's latents have {folder.latent_channels}")
    weights = partial(_weights_at, settings.vae)
    return replace(folder, path=settings.vae.parent, vae=config, weights=weights)


def _weights_at(place: Path, part: str) -> Weights:
    return load_weights(place)


def encoder_parts(folder: Model) -> tuple[str, ...]:
    """The parts that read a text."""
    return ("text_encoder", "text_encoder_2") if folder.text_encoder_2 else ("text_encoder",)


def _latent_size(settings: GenerateSettings, folder: Model) -> dict[str, int]:
    width, height = size_of(settings, folder)
    scale = folder.pixels_per_latent
    return {"h": height // scale, "w": width // scale}


def _text_encoder(part: str, settings: GenerateSettings, folder: Model) -> Network:
    """SDXL reads the states before the last layer, without the norm behind it."""
    large = bool(folder.text_encoder_2)
    sizes = {"b": len(settings.texts), "s": folder.tokens}
    skipped = {"skipped_layers": settings.clip_skip + large}
    rules = settings.rewriting
    if part == "text_encoder_2":
        config = {**folder.text_encoder_2, **skipped}
        return Network("text_encoder_pooled.sdl", part, config, sizes, *rules)
    config = {**folder.text_encoder, **skipped, "final_norm": not large}
    return Network("text_encoder.sdl", part, config, sizes, *rules)


def _sampler(settings: GenerateSettings, folder: Model, pictures: Mapping[str, int]) -> Network:
    plan = plan_of(settings, folder)
    sampler = SAMPLERS[plan.sampler]
    texts = len(settings.texts) * settings.batch
    sizes = {
        **pictures,
        "parts": sampler.parts,
        "m": texts,
        "t": folder.tokens * chunks_of(settings, folder),
        "d": _width(folder.text_encoder) + _width(folder.text_encoder_2),
        "n": -(-(settings.steps + 1) // TABLE_ROWS) * TABLE_ROWS,
        "k": COLUMNS,
    }
    masked = settings.mask is not None or folder.paints_into
    optional = {
        "noise": sampler.noise,
        "rescale": settings.guided and settings.rescale > 0,
        "mask": masked,
        "original": masked,
        "first_noise": masked and not folder.paints_into,
    }
    if folder.text_encoder_2:
        projected = folder.text_encoder_2.get("projection_dim", 1280)
        assert isinstance(projected, int)
        sizes |= {"p": projected, "q": SIZE_NUMBERS}
        optional |= {"pooled": True, "sizes": True}
    config = {**folder.unet, **folder.scheduler, **optional, "sampler": plan.sampler}
    return Network("sampler.sdl", "unet", config, sizes, *settings.rewriting)


def _width(encoder: Config) -> int:
    width = encoder.get("hidden_size", 768 if encoder else 0)
    assert isinstance(width, int)
    return width


def compile_network(
    network: Network,
    folder: Model,
    target: Target,
    precision: DType,
    choices: Choices = NO_CHOICES,
) -> Program:
    """The program of one network for a target, its weights' names and shapes checked. `choices` are
    what tuning found for its kernels."""
    made = planned_network(network, folder, target, precision, choices)
    return compile_hoisted(made.parts, made.plan, target, precision)


def planned_network(
    network: Network,
    folder: Model,
    target: Target,
    precision: DType,
    choices: Choices = NO_CHOICES,
) -> Planned:
    """The graphs and the plan of one network's program."""
    library = load(SOURCES / network.source)
    scopes = Scopes(network.f32, network.part)
    graph = build(library, None, network.sizes, network.config, precision, scopes)
    place = str(folder.path / network.part)
    check_weights(graph, folder.weights(network.part), library.sources, place)
    rules = chosen_rules(library, network.without, network.only)
    wishes = Wishes(choices, network.weight_budget)
    return planned(graph, target, rules, wishes)


def compiled(
    network: Network, folder: Model, target: Target, precision: DType, device: Device
) -> Compiled:
    """The program of one network, kept from an earlier picture where nothing has changed since."""
    weights = folder.weights(network.part)
    choices = choices_for(folder, target, device.info)
    return kept(
        _key(network, target, precision, device.info, choices),
        device,
        lambda: compile_network(network, folder, target, precision, choices),
        lambda program: deque(fitting(program, weights), 0),
        _about(network, folder, target, precision),
    )


def program_key(network: Network, folder: Model, precision: DType, device: Device) -> str:
    """The name under which `compiled` keeps a network's program for a device's own target."""
    from sdlc.backends.devices import target_of

    target = target_of(device.info)
    return _key(network, target, precision, device.info, choices_for(folder, target, device.info))


def _key(
    network: Network, target: Target, precision: DType, info: DeviceInfo, choices: Choices
) -> str:
    rules = network.without, network.only, network.weight_budget, network.f32
    described = (network.source, network.config, network.sizes, precision.value, dict(choices))
    return key_of(target, info, *described, *rules)


def choices_for(folder: Model, target: Target, info: DeviceInfo) -> Choices:
    """What tuning has found for a model on a device."""
    return choices_of(records_path(folder.path), target.name, device_text(info))


def _about(
    network: Network, folder: Model, target: Target, precision: DType
) -> Mapping[str, object]:
    """What `sdlc cache` says of a network's program."""
    sizes = " ".join(f"{name}={size}" for name, size in network.sizes.items())
    rules = [f"--without {','.join(network.without)}"] if network.without else []
    rules += [f"--only {','.join(network.only)}"] if network.only is not None else []
    rules += [f"--f32 {','.join(network.f32)}"] if network.f32 else []
    rules += [] if network.weight_budget is None else [f"--weight-budget {network.weight_budget}"]
    shipped = folder.path == default_folder()
    place = default_folder().parent.name if shipped else str(folder.path)
    settings = " ".join((target.name, precision.value, sizes, *rules))
    return {"command": "generate", "what": f"{place}/{network.part}  {settings}"}
