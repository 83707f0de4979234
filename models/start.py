"""Where pictures begin: from noise, or from a given picture with noise on it.

In: settings and a painter whose networks are ready. Out: the first latents, and what the sampling
step reads beside the text. Invariant: the first latents have the noise of the first evaluation's
time. Errors: SdlError I003 for pictures that cannot be read.

    latents, extra = begin(settings, painter, Noise(settings.all_seeds, painter.latent_shape))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from sdlc.graph.types import Array
from sdlc.models.folder import SIZE_NUMBERS
from sdlc.models.image import read_mask, read_picture
from sdlc.models.painter import Painter
from sdlc.models.settings import GenerateSettings

Floats = npt.NDArray[np.float32]


def begin(
    settings: GenerateSettings, painter: Painter, noise: Callable[[], Floats]
) -> tuple[Floats, Mapping[str, Array]]:
    """The first latents f32[b, c, h, w], and inputs of the sampling step by name."""
    extra: dict[str, Array] = {
        "rescale": np.array(settings.rescale, np.float32),
        "sizes": _sizes(painter),
    }
    drawn, schedule = noise(), painter.schedule
    whole = (schedule.spread * drawn).astype(np.float32)
    if settings.init is None:
        return whole, extra
    size = pixels(painter)
    picture = read_picture(settings.init, size)
    if settings.mask is not None:
        mask = read_mask(settings.mask, size)
        if painter.folder.paints_into:
            picture = picture * (1 - mask)
        scale = painter.folder.pixels_per_latent
        extra["mask"] = _repeated(mask[:, :, ::scale, ::scale], painter)
    given = _repeated(painter.encode_picture(picture), painter)
    extra |= {"original": given, "first_noise": drawn}
    if settings.mask is not None and settings.share == 1:
        return whole, extra
    if painter.folder.paints_into:
        given = _repeated(painter.encode_picture(read_picture(settings.init, size)), painter)
    _, seen, clean_share, noise_share = schedule.table[0, :4]
    return ((clean_share * given + noise_share * drawn) / seen).astype(np.float32), extra


def put_back(latents: Floats, extra: Mapping[str, Array], painter: Painter) -> Floats:
    """The last latents, with the given picture's where the mask lets nothing change."""
    if "mask" not in extra or painter.folder.paints_into:
        return latents
    mask, given = (np.asarray(extra[name], np.float32) for name in ("mask", "original"))
    return mask * latents + (1 - mask) * given


def pixels(painter: Painter) -> tuple[int, int]:
    """Width and height of the pictures."""
    _, h, w = painter.latent_shape
    scale = painter.folder.pixels_per_latent
    return w * scale, h * scale


def _sizes(painter: Painter) -> Array:
    """What SDXL is told, for every text: the size of the picture, where it is cropped, and the size
    that is wanted; heights first."""
    width, height = pixels(painter)
    numbers = np.array([height, width, 0, 0, height, width], np.float32)
    assert len(numbers) == SIZE_NUMBERS
    return np.tile(numbers, (painter.sampler_sizes["m"], 1))


def _repeated(one: Floats, painter: Painter) -> Floats:
    return np.repeat(one, painter.batch, axis=0)
