"""Large pictures in pieces: tiles of latents decoded one after the other, their seams blended.

In: a function from latents to pictures, latents that are larger than it takes. Out: the picture.
Invariant: tiles cover every latent; where they overlap, their shares add up to 1. What a decoder
sees beyond a tile's border (norms over the whole picture, attention) is lost: tiles are near, not
equal, to the whole.

    by_tiles(decode, latents, (64, 64)).shape == (1, 3, 8 * h, 8 * w)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from sdlc.graph.types import Array

OVERLAP = 4
"""Neighbours share a tile's side divided by this."""
Floats = npt.NDArray[np.float32]


def by_tiles(decode: Callable[[Array], Array], latents: Array, tile: tuple[int, int]) -> Floats:
    """f32[b, 3, h, w] of latents [b, c, h, w], one picture and tile at a time."""
    return np.stack([_one(decode, one, tile) for one in latents])


def _one(decode: Callable[[Array], Array], latents: Array, tile: tuple[int, int]) -> Floats:
    rows, columns = (starts(n, t) for n, t in zip(latents.shape[1:], tile, strict=True))
    made = {
        (i, j): decode(latents[None, :, i : i + tile[0], j : j + tile[1]])[0]
        for i in rows
        for j in columns
    }
    channels, h, w = made[0, 0].shape
    down, across = h // tile[0], w // tile[1]
    share = np.outer(_ramp(h), _ramp(w)).astype(np.float32)
    whole = (latents.shape[1] * down, latents.shape[2] * across)
    picture, total = np.zeros((channels, *whole), np.float32), np.zeros(whole, np.float32)
    for (i, j), part in made.items():
        y, x = i * down, j * across
        picture[:, y : y + h, x : x + w] += np.multiply(share, part)
        total[y : y + h, x : x + w] += share
    picture /= total
    return picture


def starts(count: int, tile: int) -> tuple[int, ...]:
    """Where tiles begin along an axis: neighbours overlap, the last ends at the axis' end."""
    if count <= tile:
        return (0,)
    stride = max(1, tile - tile // OVERLAP)
    return (*range(0, count - tile, stride), count - tile)


def _ramp(length: int) -> npt.NDArray[np.float64]:
    """Shares that fall towards both ends of a tile, where a neighbour's rise."""
    rise = np.arange(1, length + 1) / (length // OVERLAP + 1)
    return np.minimum(1.0, np.minimum(rise, rise[::-1]))
