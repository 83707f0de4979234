"""Weights by name: the same numbers wherever a network asks for them, in the range of real ones.

In: a weight's name and shape. Out: f32. Invariant: a weight depends on its name and shape alone.
Needs NumPy only, so that PyTorch's environment can use it too.

    drawn("conv_in.weight", (32, 4, 3, 3))
"""

from __future__ import annotations

from math import prod
from zlib import crc32

import numpy as np
import numpy.typing as npt


def drawn(name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Scales of norms near 1, biases near 0, matrices that keep the spread of what they map."""
    rng = np.random.default_rng(crc32(name.encode()))
    values = rng.standard_normal(shape)
    if len(shape) == 1:
        values = 0.1 * values + ("norm" in name and name.endswith("weight"))
    elif "embedding.weight" not in name:
        values = values * prod(shape[1:]) ** -0.5
    return values.astype(np.float32)


class Seeded(dict[str, npt.NDArray[np.float32]]):
    """Every weight of these shapes, drawn when it is asked for."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        self._shapes = shapes

    def __missing__(self, name: str) -> npt.NDArray[np.float32]:
        return drawn(name, self._shapes[name])

    def __contains__(self, name: object) -> bool:
        return name in self._shapes
