"""What to draw and how, and what is told on the way.

In: values by name. Out: `GenerateSettings`. Invariant: settings that `check_settings` accepts can
be drawn, as far as numbers say. Errors: SdlError G….

    check_settings(GenerateSettings(prompt="a slice of pizza"), load_folder(None))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from sdlc.graph.types import Array, DType
from sdlc.language.diagnostics import did_you_mean, failure
from sdlc.models.folder import Model
from sdlc.models.image import Picture, picture_size, to_pixels
from sdlc.models.lora import Lora
from sdlc.models.samplers import SAMPLERS, Plan, sampler_of

MAX_SIZE = 4096
MAX_BATCH = 64
MIN_TILE = 8


@dataclass(frozen=True, slots=True)
class GenerateSettings:
    """What to draw and how. `size` is (width, height) in pixels, None for the model's own; picture
    i of a batch has the noise of seed + i, or of `seeds[i]` where those are given; `preview` n > 0
    decodes the latents every n steps. `sampler` and `karras` None are as the model's scheduler
    says. `rescale` (0 … 1) brings guided predictions back to the spread of those with the text.
    `clip_skip` leaves out the last layers of the text encoder. `keep_loaded` keeps each network's
    weights on the device while others run. The networks are rewritten by the rules in `only`, None
    for the default ones, less those in `without`. Scopes and operators in `f32` are in f32 whatever
    `precision` is (`unet.mid_block`). `model` is what `models.model.load_model` takes;
    `prediction` says what the network of a checkpoint predicts, where its file does not; `loras`
    change its weights. `init` is a picture to start from (a file, or one of Pillow's), of which
    `strength` (0 … 1, None for 0.75, or 1 with a mask) is drawn anew; `mask` is white where it may
    change. `vae` is the folder of another decoder. Pictures are decoded in tiles of `tile` latents,
    0 for whole ones where the device has memory for them. `weight_budget` is how many bytes the
    weights of one network may take as they are stored on the device, None for as many as pay."""

    prompt: str
    negative: str = ""
    model: Path | str | None = None
    device: str | None = None
    steps: int = 20
    guidance: float = 5.0
    seed: int = 0
    size: tuple[int, int] | None = None
    batch: int = 1
    precision: DType = DType.F32
    f32: tuple[str, ...] = ()
    preview: int = 0
    without: tuple[str, ...] = ()
    only: tuple[str, ...] | None = None
    prediction: str | None = None
    loras: tuple[Lora, ...] = ()
    sampler: str | None = None
    karras: bool | None = None
    rescale: float = 0.0
    clip_skip: int = 0
    seeds: tuple[int, ...] = ()
    keep_loaded: bool = False
    init: Picture | None = None
    strength: float | None = None
    mask: Picture | None = None
    vae: Path | None = None
    tile: int = 0
    weight_budget: int | None = None

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """One seed for each picture."""
        return self.seeds or tuple(self.seed + i for i in range(self.batch))

    @property
    def guided(self) -> bool:
        """Whether the network also looks at the negative text."""
        return self.guidance > 1

    @property
    def rewriting(self) -> tuple[tuple[str, ...], tuple[str, ...] | None, int | None]:
        """Rules that are off, the only ones that are on, and the budget of weights."""
        return self.without, self.only, self.weight_budget

    @property
    def share(self) -> float:
        """How much of a given picture is drawn anew."""
        return self.strength if self.strength is not None else (1.0 if self.mask else 0.75)

    @property
    def texts(self) -> tuple[str, ...]:
        """What the network looks at, the text to stay away from first."""
        return (self.negative, self.prompt) if self.guided else (self.prompt,)


class Drawing(Protocol):
    """What is being drawn: its latents f32[b, c, h, w], and the pictures of latents, -1 … 1."""

    def latents(self) -> Array: ...

    def decode(self, latents: Array) -> Array: ...


@dataclass(frozen=True, slots=True)
class Progress:
    """What has just been finished. `stage` is `compile`, `load`, `text`, `step` or `decode`;
    `done` of `total` in that stage; `seconds` it took; `preview` is u8[b, h, w, 3] or None. After a
    step, `latents` and `picture` show where the drawing is; they are read from the device only when
    they are called, and only while the report is."""

    stage: str
    done: int
    total: int
    seconds: float
    label: str = ""
    preview: Array | None = None
    drawing: Drawing | None = None

    def latents(self) -> Array:
        """f32[b, c, h, w] after this step. Raises SdlError (G006) where it was no step."""
        return self._drawn().latents()

    def picture(self) -> Array:
        """u8[b, h, w, 3] of the latents as they are. Raises SdlError (G006) where it was no
        step."""
        return to_pixels(self._drawn().decode(self.latents()))

    def _drawn(self) -> Drawing:
        if self.drawing is None:
            help = 'ask where `stage == "step"`'
            raise failure("G006", f"there is nothing to see after `{self.stage}`", help=help)
        return self.drawing


Report = Callable[[Progress], object]
"""Told after each piece of work. Where it returns False after a step, that step is the last."""


def plan_of(settings: GenerateSettings, folder: Model) -> Plan:
    """The sampler, its steps, and where it starts."""
    sampler = settings.sampler or sampler_of(folder.scheduler) or "ddim"
    taken = settings.steps
    if settings.init is not None:
        taken = min(int(settings.steps * settings.share + 1e-9), settings.steps)
    return Plan(sampler, settings.steps, settings.steps - taken, settings.karras)


def size_of(settings: GenerateSettings, folder: Model) -> tuple[int, int]:
    """Width and height in pixels: those asked for, those of the picture to start from (as near as
    the model can), or the model's own."""
    if settings.size is not None or settings.init is None:
        return settings.size or folder.default_size
    width, height = picture_size(settings.init)
    return _near(width, folder.granule), _near(height, folder.granule)


def _near(pixels: int, granule: int) -> int:
    """The multiple that is nearest, within what can be drawn."""
    return min(MAX_SIZE, max(granule, round(pixels / granule) * granule))


def check_settings(settings: GenerateSettings, folder: Model) -> None:
    """Raises SdlError for numbers that cannot work."""
    _check_size(size_of(settings, folder), folder)
    if not 1 <= settings.batch <= MAX_BATCH:
        raise failure(
            "G002", f"a batch of {settings.batch}", help=f"give 1 to {MAX_BATCH} pictures"
        )
    if not np.isfinite(settings.guidance):
        raise failure("G002", f"guidance {settings.guidance}", help="give a number such as 5")
    if not 0 <= settings.rescale <= 1:
        raise failure("G002", f"guidance rescale {settings.rescale}", help="give 0 to 1")
    if min(settings.all_seeds) < 0:
        help = "give a whole number from 0"
        raise failure("G002", f"the seed {min(settings.all_seeds)}", help=help)
    if settings.seeds and len(settings.seeds) != settings.batch:
        message = f"{len(settings.seeds)} seeds for {settings.batch} pictures"
        raise failure("G002", message, help="give one seed, or one for each picture")
    _check_start(settings, folder)
    if settings.sampler is not None and settings.sampler not in SAMPLERS:
        message, known = f"there is no sampler `{settings.sampler}`", ", ".join(SAMPLERS)
        near = did_you_mean(settings.sampler, SAMPLERS, 3)
        raise failure("G002", message, help=f"{near} samplers are {known}".lstrip())


def _check_start(settings: GenerateSettings, folder: Model) -> None:
    """What to start from, and what of it may change."""
    if not 0 < settings.share <= 1:
        raise failure("G002", f"the strength {settings.share}", help="give more than 0, at most 1")
    if settings.init is not None and settings.steps == plan_of(settings, folder).start:
        message = f"{settings.steps} steps at strength {settings.share} are none"
        raise failure("G002", message, help="give more steps or more strength")
    if settings.strength is not None and settings.init is None:
        help = "give the picture that is drawn anew: --init FILE"
        raise failure("G004", "a strength without a picture", help=help)
    if settings.mask is not None and settings.init is None:
        raise failure("G004", "a mask without a picture", help="give the picture: --init FILE")
    if folder.paints_into and settings.mask is None:
        help = "give the picture and what may change in it: --init FILE --mask FILE"
        raise failure("G004", "this model paints into a given picture", help=help)
    if settings.tile and not MIN_TILE <= settings.tile <= MAX_SIZE:
        raise failure("G002", f"tiles of {settings.tile}", help=f"give {MIN_TILE} or more latents")
    for picture in (settings.init, settings.mask):
        if picture is not None:
            picture_size(picture)  # one that cannot be read is refused before networks are compiled


def _check_size(size: tuple[int, int], folder: Model) -> None:
    width, height = size
    granule = folder.granule
    fits = all(n % granule == 0 and 0 < n <= MAX_SIZE for n in size)
    if not fits:
        near = [_near(n, granule) for n in size]
        raise failure(
            "G001",
            f"the size {width}x{height} does not fit this model",
            help=f"both must be multiples of {granule}, at most {MAX_SIZE}, such as "
            f"{near[0]}x{near[1]}",
        )
