"""What `--model` takes: a folder, a checkpoint, a name.

In: None, a path or a name. Out: a `Model`. Invariant: what lies on the disk goes before a name of
sdlc, and that before a name of the hub. Errors: SdlError M….

    load_model("stable-diffusion-1.4"), load_model("model.safetensors"), load_model("org/name")
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sdlc.models.checkpoint import load_checkpoint
from sdlc.models.family import check_parts
from sdlc.models.folder import Model, default_folder, load_folder
from sdlc.models.hub import hub_folder, is_hub_name
from sdlc.models.lora import Lora, with_loras
from sdlc.models.named import named, named_model
from sdlc.models.weights import Weights, load_weights


def exists(place: Path) -> bool:
    """Whether there is a model here, or one of this name in sdlc."""
    ours = str(place) in named() or str(place) == default_folder().parent.name
    file = place.is_file() and place.suffix == ".safetensors"
    return ours or file or (place / "model_index.json").is_file()


def load_model(
    place: Path | str | None, prediction: str | None = None, loras: Iterable[Lora] = ()
) -> Model:
    """The model at `place`: None for the shipped one, a folder in the diffusers layout, a
    `.safetensors` checkpoint in the original layout, a name of `models.named`, or one of the hub.
    `prediction` says what a checkpoint's network predicts, where the file does not; `loras` change
    its weights.

    Raises SdlError for whatever is wrong with it."""
    model = _load(place, prediction)
    check_parts(model)
    return with_loras(model, loras)


def _load(place: Path | str | None, prediction: str | None) -> Model:
    if place is None or str(place) == default_folder().parent.name:
        return load_folder(None)
    path, name = Path(place), str(place)
    if path.is_file() or path.suffix in (".safetensors", ".ckpt"):
        return load_checkpoint(path, prediction)
    if path.is_dir():
        return load_folder(path)
    if name in named():
        return named_model(name)
    if is_hub_name(name):
        return load_folder(hub_folder(name))
    return load_folder(path) if path.parent.name or path.is_absolute() else named_model(name)


def part_weights(place: Path) -> Weights:
    """The weights of a safetensors file, of a folder of such, or of a part of a model,
    `model.safetensors/unet`. Raises SdlError (W…, M…)."""
    if not place.exists() and place.parent.is_file():
        return load_model(place.parent).weights(place.name)
    if (place.parent / "model_index.json").is_file():
        return load_model(place.parent).weights(place.name)
    return load_weights(place)
