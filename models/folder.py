"""A model folder in the diffusers layout: what it holds, and whether sdlc can run it.

In: a path. Out: `ModelFolder` with the parsed config.json of every part. Invariant: every part that
is needed is there and of a described class. Errors: SdlError with a code M….

    load_folder(None).unet["block_out_channels"]        # the model that is shipped with sdlc
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType

from sdlc.language.diagnostics import failure

Config = Mapping[str, object]

SOURCES = Path(__file__).parent / "stable_diffusion"
"""The networks in `.sdl`."""

PIPELINES = ("StableDiffusionPipeline",)
CLASSES = MappingProxyType(
    {
        "text_encoder": ("CLIPTextModel",),
        "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
        "unet": ("UNet2DConditionModel",),
        "vae": ("AutoencoderKL",),
        "scheduler": (),
    }
)
"""The parts of a folder and the classes that `models/stable_diffusion` describes (of a scheduler
only the numbers count: sampling is always DDIM)."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """`path`, and the configuration of each part as its config.json says."""

    path: Path
    text_encoder: Config
    unet: Config
    vae: Config
    scheduler: Config

    @property
    def pixels_per_latent(self) -> int:
        """The decoder doubles height and width at all of its levels but one."""
        factor: int = 2 ** (levels(self.vae) - 1)
        return factor

    @property
    def granule(self) -> int:
        """Height and width in pixels must be multiples of this."""
        multiple: int = self.pixels_per_latent * 2 ** (levels(self.unet) - 1)
        return multiple

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
    def latent_channels(self) -> int:
        return _whole(self.unet, "in_channels", 4)


def default_folder() -> Path:
    """The model that is part of the package."""
    return Path(str(files("sdlc.models"))) / "emoji_diffusion" / "pipeline"


def load_folder(path: Path | str | None) -> ModelFolder:
    """The model in a folder (None: the shipped one). Raises SdlError if there is none, or one that
    is not described."""
    folder = default_folder() if path is None else Path(path)
    if not (folder / "model_index.json").is_file():
        known = folder.is_dir()
        message = f"{folder} is not a model folder" if known else f"there is no folder {folder}"
        help = f"--model takes a diffusers folder: model_index.json and {', '.join(CLASSES)}"
        raise failure("M001", message, help=help)
    _check_index(folder, read_json(folder / "model_index.json"))
    configs = {part: _part(folder, part) for part in CLASSES if part != "tokenizer"}
    if not (folder / "tokenizer").is_dir():
        raise _missing(folder, "tokenizer")
    return ModelFolder(folder, **configs)


def _check_index(folder: Path, index: Config) -> None:
    name = index.get("_class_name")
    if name not in PIPELINES:
        message = f"{folder} holds a {name}, which is not described"
        raise failure("M003", message, help=f"sdlc runs a {' or '.join(PIPELINES)}")
    for part, known in CLASSES.items():
        given = index.get(part)
        if not isinstance(given, list) or len(given) != 2:
            raise failure("M002", f"model_index.json names no {part}", help=f"in {folder}")
        if known and given[1] not in known:
            message = f"the {part} of {folder} is a {given[1]}, which is not described"
            raise failure("M003", message, help=f"sdlc describes {' and '.join(known)}")


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
        raise failure("M004", f"cannot read {file}: {error}", help="download it again") from None
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
