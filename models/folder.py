"""A model folder in the diffusers layout: what it holds, and whether sdlc can run it.

In: a path. Out: `Model` with the parsed config.json of every part, and its weights. Invariant:
every part that is needed is there and of a described class. Errors: SdlError with a code M….

    load_folder(None).unet["block_out_channels"]        # the model that is shipped with sdlc
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType

from sdlc.language.diagnostics import failure
from sdlc.models.weights import Weights, load_weights

Config = Mapping[str, object]

SOURCES = Path(__file__).parent / "stable_diffusion"
"""The networks in `.sdl`."""
SIZE_NUMBERS = 6
"""What SDXL is told of a picture: its height and width, where it was cropped, what was wanted."""

PIPELINES = MappingProxyType(
    {
        "StableDiffusionPipeline": (),
        "StableDiffusionImg2ImgPipeline": (),
        "StableDiffusionInpaintPipeline": (),
        "StableDiffusionXLPipeline": ("text_encoder_2", "tokenizer_2"),
        "StableDiffusionXLImg2ImgPipeline": ("text_encoder_2", "tokenizer_2"),
        "StableDiffusionXLInpaintPipeline": ("text_encoder_2", "tokenizer_2"),
    }
)
"""The pipelines whose networks are described, and the parts that each has beside the usual ones."""
TEXT = "text_model."
TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
CLASSES = MappingProxyType(
    {
        "text_encoder": ("CLIPTextModel",),
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "tokenizer": TOKENIZERS,
        "tokenizer_2": TOKENIZERS,
        "unet": ("UNet2DConditionModel",),
        "vae": ("AutoencoderKL", "AutoencoderTiny"),
        "scheduler": (),
    }
)
"""The parts of a folder and the classes that `models/stable_diffusion` describes (of a scheduler
only the numbers count)."""
USUAL = tuple(part for part in CLASSES if not part.endswith("_2"))


@dataclass(frozen=True, slots=True)
class Model:
    """A model, wherever its weights lie: the configuration of each part as a config.json says it
    (`text_encoder_2` is empty where there is none), the folders of its tokenizers by part, and its
    weights by part, under diffusers' names, read when they are asked for."""

    path: Path
    text_encoder: Config
    unet: Config
    vae: Config
    scheduler: Config
    weights: Callable[[str], Weights]
    tokenizers: Mapping[str, Path]
    text_encoder_2: Config = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    """Tensors of its file that belong to no part, by their original names."""

    @property
    def name(self) -> str:
        """What it is called in pictures' files."""
        place = self.path.resolve()
        return place.parent.name if place.name == "pipeline" else place.name

    @property
    def pixels_per_latent(self) -> int:
        """The decoder doubles height and width at all of its levels but one."""
        factor: int = 2 ** (levels(self.vae) - 1)
        return factor

    @property
    def granule(self) -> int:
        """Height and width in pixels must be multiples of this."""
        return self.pixels_per_latent

    @property
    def default_size(self) -> tuple[int, int]:
        """Width and height in pixels of the pictures that the model was trained on."""
        sample = self.unet.get("sample_size", 64)
        rows, columns = sample if isinstance(sample, list) else (sample, sample)
        if not isinstance(rows, int) or not isinstance(columns, int):
            raise failure("M004", "sample_size is not a number", help="see unet/config.json")
        return columns * self.pixels_per_latent, rows * self.pixels_per_latent

    @property
    def tokens(self) -> int:
        """The length of a tokenised text."""
        return _whole(self.text_encoder, "max_position_embeddings", 77)

    @property
    def paints_into(self) -> bool:
        """Whether the denoising network also sees a mask and a masked picture."""
        return _whole(self.unet, "in_channels", 4) > self.latent_channels

    @property
    def latent_channels(self) -> int:
        return _whole(self.vae, "latent_channels", 4)


def model_of(
    path: Path,
    configs: Mapping[str, Config],
    weights: Callable[[str], Weights],
    tokenizers: Mapping[str, Path],
    unread: tuple[str, ...] = (),
) -> Model:
    """A model of configurations by part."""
    return Model(
        path,
        configs["text_encoder"],
        configs["unet"],
        configs["vae"],
        configs["scheduler"],
        weights,
        MappingProxyType(dict(tokenizers)),
        configs.get("text_encoder_2", {}),
        unread,
    )


def default_folder() -> Path:
    """The model that is part of the package."""
    return Path(str(files("sdlc.models"))) / "emoji_diffusion" / "pipeline"


def load_folder(path: Path | str | None) -> Model:
    """The model in a folder (None: the shipped one). Raises SdlError if there is none, or one that
    is not described."""
    folder = default_folder() if path is None else Path(path)
    if not (folder / "model_index.json").is_file():
        known = folder.is_dir()
        message = f"{folder} is not a model folder" if known else f"there is no folder {folder}"
        help = f"give a folder in the diffusers layout: model_index.json and {', '.join(USUAL)}"
        raise failure("M001", message, help=help)
    parts = _checked_parts(folder, read_json(folder / "model_index.json"))
    configs = {part: _part(folder, part) for part in parts if not part.startswith("tokenizer")}
    tokenizers = {part: folder / part for part in parts if part.startswith("tokenizer")}
    for part, place in tokenizers.items():
        if not place.is_dir():
            raise _missing(folder, part)
    return model_of(folder, configs, partial(_weights, folder), tokenizers)


def _weights(folder: Path, part: str) -> Weights:
    """A part's weights; transformers from 5.24 on leaves out the first word of a text encoder's."""
    found = load_weights(folder / part)
    if part.startswith("text_encoder") and not any(n.startswith(TEXT) for n in found):
        named = {n if n.startswith("text_projection") else TEXT + n: n for n in found}
        return Weights({name: found.entries[given] for name, given in named.items()})
    return found


def _checked_parts(folder: Path, index: Config) -> tuple[str, ...]:
    """The parts that the pipeline of a folder has, each of a described class."""
    name = index.get("_class_name")
    if not isinstance(name, str) or name not in PIPELINES:
        message = f"{folder} holds a {name}, which is not described"
        raise failure("M003", message, help=f"sdlc runs {', '.join(PIPELINES)}")
    parts = (*USUAL, *PIPELINES[name])
    for part in parts:
        given, known = index.get(part), CLASSES[part]
        if not isinstance(given, list) or len(given) != 2:
            raise failure("M002", f"model_index.json names no {part}", help=f"in {folder}")
        if known and given[1] not in known:
            message = f"the {part} of {folder} is a {given[1]}, which is not described"
            raise failure("M003", message, help=f"sdlc describes {' and '.join(known)}")
    return parts


def _part(folder: Path, part: str) -> Config:
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    if not (folder / part / name).is_file():
        raise _missing(folder, f"{part}/{name}")
    return read_json(folder / part / name)


def _missing(folder: Path, what: str) -> Exception:
    return failure("M002", f"{folder} has no {what}", help="download the whole model folder")


def read_json(file: Path) -> Config:
    """The object in a JSON file."""
    try:
        value = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise failure("M004", f"cannot read {file}: {reason}", help="download it again") from None
    if not isinstance(value, dict):
        raise failure("M004", f"{file} does not hold a JSON object", help="download it again")
    return value


def levels(config: Config) -> int:
    """The number of resolutions of a network."""
    channels = config.get("block_out_channels")
    if not isinstance(channels, list) or not channels:
        message = "block_out_channels is not a list in config.json"
        raise failure("M004", message, help="it holds the number of channels at each resolution")
    return len(channels)


def _whole(config: Config, name: str, default: int) -> int:
    value = config.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise failure(
            "M004", f"{name} is {value!r} in config.json", help="it is a number of things"
        )
    return value
