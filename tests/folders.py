"""Model folders in the diffusers layout with weights that their names determine.

In: a pipeline's class, each part's class and configuration, each tokenizer's folder. Out: a folder
that sdlc and diffusers read. Invariant: a tensor's values depend on its name and shape alone.

    write_folder(place, "StableDiffusionPipeline", {"unet": ("UNet2DConditionModel", {…}), …}, …)
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sdlc.graph.node import Input, Role, topological
from sdlc.graph.types import DType
from sdlc.language.elaborate import build
from sdlc.language.library import load
from sdlc.models.folder import SOURCES, Model, load_folder
from sdlc.models.networks import networks
from sdlc.models.settings import GenerateSettings
from seeded_weights import drawn

Parts = Mapping[str, tuple[str, Mapping[str, Any]]]
Shapes = dict[str, tuple[int, ...]]


def write_folder(
    place: Path,
    kind: str,
    parts: Parts,
    tokenizers: Mapping[str, Path],
    stored: npt.DTypeLike = np.float32,
) -> Path:
    """Weights are stored as `stored`, tokenizers as links to their folders."""
    index: dict[str, Any] = {"_class_name": kind}
    for part, (name, config) in parts.items():
        index[part] = [library_of(name), name]
        (place / part).mkdir(parents=True)
        file = "scheduler_config.json" if part == "scheduler" else "config.json"
        (place / part / file).write_text(json.dumps({"_class_name": name, **config}))
    for part, folder in tokenizers.items():
        index[part] = ["transformers", "CLIPTokenizer"]
        (place / part).symlink_to(folder)
    (place / "model_index.json").write_text(json.dumps(index))
    for part, shapes in declared(load_folder(place)).items():
        write_weights(place / part / file_of(parts[part][0]), shapes, np.dtype(stored))
    return place


def write_weights(file: Path, shapes: Shapes, stored: np.dtype[Any]) -> None:
    """One tensor at a time: a large network never lies in memory."""
    header: dict[str, Any] = {}
    end = 0
    for name, shape in sorted(shapes.items()):
        begin, end = end, end + prod(shape) * stored.itemsize
        kind = f"F{8 * stored.itemsize}"
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for name, shape in sorted(shapes.items()):
            stream.write(drawn(name, shape).astype(stored).tobytes())


def library_of(name: str) -> str:
    """Whose class it is."""
    return "transformers" if name.startswith("CLIP") else "diffusers"


def file_of(name: str) -> str:
    """What the library of a class calls its weights."""
    ours = library_of(name) == "diffusers"
    return "diffusion_pytorch_model.safetensors" if ours else "model.safetensors"


def declared(model: Model) -> dict[str, Shapes]:
    """The weights of a model's networks, and of its picture encoder, by part."""
    side = 8 * model.granule
    found: dict[str, Shapes] = {}
    parts = networks(model, GenerateSettings("", size=(side, side)))
    encoder = replace(
        parts[-1], source="vae_encoder.sdl", sizes={"b": 1, "c": 3, "h": side, "w": side}
    )
    for part in (*parts, encoder):
        library = load(SOURCES / part.source)
        graph = build(library, None, part.sizes, part.config, DType.F32)
        for node in topological(graph):
            if isinstance(node, Input) and node.role is Role.WEIGHT:
                found.setdefault(part.part, {})[node.name] = node.shape
    return found
