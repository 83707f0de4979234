"""Pipelines of every family, scaled down, in folders of the diffusers layout.

In: a case of `write_pipelines`. Out: a folder that `load_folder` takes, with seeded weights.

    model = load_folder(write_folder("xl", tmp_path))
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from sdlc.graph.node import Input, Role, topological
from sdlc.graph.types import DType
from sdlc.language.elaborate import build
from sdlc.language.library import load
from sdlc.models.folder import SOURCES, Model, load_folder
from sdlc.models.networks import networks
from sdlc.models.settings import GenerateSettings
from seeded_weights import drawn
from write_pipelines import CASES, SIZE, TOKENIZER, parts_of

Factors = Mapping[str, float]
AS_DRAWN: Factors = MappingProxyType({})


def write_folder(
    name: str, place: Path, vae: Mapping[str, Any] = AS_DRAWN, factors: Factors = AS_DRAWN
) -> Path:
    """A pipeline's folder in the diffusers layout, its weights drawn by their names, those that
    `factors` name multiplied; `vae` is more of the vae's configuration."""
    index: dict[str, Any] = {"_class_name": CASES[name][0]}
    for part, (kind, config) in parts_of(name).items():
        index[part] = ["", kind]
        (place / part).mkdir(parents=True)
        file = "scheduler_config.json" if part == "scheduler" else "config.json"
        more = vae if part == "vae" else {}
        (place / part / file).write_text(json.dumps({"_class_name": kind, **config, **more}))
        if part.startswith("text_encoder"):
            tokenizer = part.replace("text_encoder", "tokenizer")
            index[tokenizer] = ["", "CLIPTokenizer"]
            (place / tokenizer).symlink_to(TOKENIZER)
    (place / "model_index.json").write_text(json.dumps(index))
    for part, shapes in declared(load_folder(place)).items():
        weights = {n: drawn(n, s) * np.float32(factors.get(n, 1)) for n, s in shapes.items()}
        save_file(weights, place / part / "model.safetensors")
    return place


def declared(model: Model) -> dict[str, dict[str, tuple[int, ...]]]:
    """The weights of a model's networks and of its picture encoder."""
    sizes = {"b": 1, "c": 3, "h": 8, "w": 8}
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    parts = networks(model, GenerateSettings("", size=SIZE))
    encoder = replace(parts[-1], source="vae_encoder.sdl", sizes=sizes)
    for part in (*parts, encoder):
        library = load(SOURCES / part.source)
        graph = build(library, None, part.sizes, part.config, DType.F32)
        for node in topological(graph):
            if isinstance(node, Input) and node.role is Role.WEIGHT:
                found.setdefault(part.part, {})[node.name] = node.shape
    return found
