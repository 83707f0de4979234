"""A model whose weights are too large in one place: its values overflow half precision there.

`python` imports this; it makes nothing by itself. Example:

    overflowing_model(tmp_path, "unet", {"conv_in.weight": 1e4})
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from sdlc.models.folder import default_folder


def overflowing_model(place: Path, part: str, factors: Mapping[str, float]) -> Path:
    """The shipped model in another folder, some weights of a part multiplied."""
    shipped = default_folder()
    place.mkdir()
    for item in shipped.iterdir():
        if item.name != part:
            (place / item.name).symlink_to(item)
    (place / part).mkdir()
    for file in (shipped / part).iterdir():
        if file.suffix != ".safetensors":
            (place / part / file.name).symlink_to(file)
            continue
        weights = load_file(file)
        for name, factor in factors.items():
            weights[name] = (weights[name].astype(np.float32) * factor).astype(np.float32)
        save_file(weights, place / part / file.name)
    return place
