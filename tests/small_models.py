"""Pipelines of every family, scaled down, some of whose weights are too large.

In: a case of `write_pipelines`. Out: a folder that `load_folder` takes, with seeded weights.

    model = load_folder(small_model("xl", tmp_path / "model", factors={"conv_in.weight": 1e4}))
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from folders import write_folder
from write_pipelines import CASES, TOKENIZER, parts_of

Factors = Mapping[str, float]
AS_DRAWN: Factors = MappingProxyType({})


def small_model(
    name: str, place: Path, vae: Mapping[str, Any] = AS_DRAWN, factors: Factors = AS_DRAWN
) -> Path:
    """A pipeline's folder, its weights drawn by their names, those that `factors` name multiplied;
    `vae` is more of the vae's configuration."""
    kind, parts = CASES[name][0], parts_of(name)
    encoders = [part for part in parts if part.startswith("text_encoder")]
    tokenizers = {part.replace("text_encoder", "tokenizer"): TOKENIZER for part in encoders}
    write_folder(place, kind, parts, tokenizers)
    config = place / "vae" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **vae}))
    found = set(factors)
    for file in place.glob("*/*.safetensors"):
        weights = load_file(file)
        if found & weights.keys():
            scaled = {n: w * np.float32(factors.get(n, 1)) for n, w in weights.items()}
            save_file(scaled, file)
            found -= weights.keys()
    assert not found, f"no weights are called {found}"
    return place
