"""From a prompt to pictures: networks and a sampler, compiled and run on one device.

In: `GenerateSettings`. Out: `Pictures`. Invariant: the same settings give the same pictures on one
device; between sampling steps no tensor returns to the host (unless previews are asked for).
Errors: SdlError with a code G…, or of what is used (M, W, T, S, I, D, P).

    pictures = generate(GenerateSettings(prompt="a slice of pizza"))
    write_png(pictures.pixels[0], Path("pizza.png"), pictures.settings)
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from sdlc.graph.types import Array
from sdlc.models.fits import check_fits
from sdlc.models.folder import Model
from sdlc.models.image import to_pixels
from sdlc.models.model import load_model
from sdlc.models.networks import SIZE_NUMBERS, compiled, networks, tokenizers_of
from sdlc.models.painter import Noise, Painter, Ready, check_finite
from sdlc.models.samplers import SAMPLERS, make_schedule, sampler_of
from sdlc.models.settings import (
    GenerateSettings,
    Progress,
    Report,
    check_settings,
    plan_of,
)
from sdlc.program.device import Device


@dataclass(frozen=True, slots=True)
class Pictures:
    """`pixels` is u8[b, h, w, 3]; `settings` goes into the files; `warnings` are for the user."""

    pixels: Array
    latents: Array
    settings: Mapping[str, object]
    seconds: Mapping[str, float]
    warnings: tuple[str, ...] = ()


def generate(settings: GenerateSettings, report: Report | None = None) -> Pictures:
    """Draws the pictures that the settings ask for; `report` is called after each piece of work.

    Raises SdlError for settings, models and devices that do not fit, and for pixels that are not
    finite, naming the network that produced them first.
    """
    from sdlc.backends.devices import open_device

    tell = report or (lambda _: None)
    folder = load_model(settings.model, settings.prediction, settings.loras)
    check_settings(settings, folder)
    painter = _compiled(settings, folder, open_device(settings.device), tell)
    painter.keep = settings.keep_loaded
    return draw(painter, settings, tell)


def prepare(settings: GenerateSettings, folder: Model, device: Device, tell: Report) -> Painter:
    """Compiles the networks for a device and loads their weights, which stay there."""
    painter = _compiled(settings, folder, device, tell)
    for done, network in enumerate(painter.ready.values(), 1):
        begin = time.perf_counter()
        network.open()
        spent = time.perf_counter() - begin
        tell(Progress("load", done, len(painter.ready), spent, network.network.part))
    return painter


def _compiled(settings: GenerateSettings, folder: Model, device: Device, tell: Report) -> Painter:
    from sdlc.backends.devices import target_of

    schedule = make_schedule(folder.scheduler, plan_of(settings, folder))
    tokenizers_of(folder)  # what they lack is said first
    target = target_of(device.info)
    parts = networks(folder, settings)
    tell(Progress("compile", 0, len(parts), 0.0))
    ready: dict[str, Ready] = {}
    for done, network in enumerate(parts, 1):
        begin = time.perf_counter()
        program = compiled(network, folder, target, settings.precision, device)
        check_fits(program[0], network.sizes, folder, device.info)
        ready[network.source] = Ready(network, program, folder, device)
        tell(Progress("compile", done, len(parts), time.perf_counter() - begin, network.part))
    sizes = ready["sampler.sdl"].network.sizes
    shape = (sizes["c"], sizes["h"], sizes["w"])
    painter = Painter(folder, device, settings.batch, shape, schedule, ready)
    if settings.sampler is None and sampler_of(folder.scheduler) is None:
        given = folder.scheduler.get("_class_name")
        painter.warnings.append(f"the model's {given} is not described: it is sampled with ddim")
    return painter


def draw(painter: Painter, settings: GenerateSettings, tell: Report) -> Pictures:
    """Pictures by networks that are ready."""
    clock = _Clock(tell)
    noise = Noise(settings.all_seeds, painter.latent_shape)
    conditions = painter.conditions(settings.prompt, settings.negative)
    painter.done_with("text_encoder.sdl", "text_encoder_pooled.sdl")
    clock.tick("text", 1, 1)
    conditions |= _extra_inputs(settings, painter)
    latents: Array = np.multiply(noise(), painter.schedule.spread, dtype=np.float32)
    painter.start(conditions.pop("context"), latents, settings.guidance, conditions)
    count = len(painter.schedule.times)
    for done in range(1, count + 1):
        painter.step(noise)
        shown = settings.preview and done % settings.preview == 0 and done < count
        preview = to_pixels(painter.decode(painter.latents())) if shown else None
        clock.tick("step", done, count, preview)
    latents = painter.latents()
    check_finite(latents, f"denoising network ({settings.steps} steps)")
    painter.done_with("sampler.sdl")
    decoded = painter.decode(latents)
    painter.done_with("vae_decoder.sdl")
    check_finite(decoded, "picture decoder")
    clock.tick("decode", 1, 1)
    pixels = to_pixels(decoded)
    return Pictures(
        pixels, latents, describe(settings, painter), clock.seconds, tuple(painter.warnings)
    )


def _extra_inputs(settings: GenerateSettings, painter: Painter) -> dict[str, Array]:
    """What the sampling step reads beside the text: the share of rescaling, and SDXL's sizes (of
    the picture, where it is cropped, and what is wanted)."""
    _, h, w = painter.latent_shape
    scale = painter.folder.pixels_per_latent
    numbers = [h * scale, w * scale, 0, 0, h * scale, w * scale]
    assert len(numbers) == SIZE_NUMBERS
    rows = painter.sampler_sizes["m"]
    return {
        "rescale": np.array(settings.rescale, np.float32),
        "sizes": np.tile(np.array(numbers, np.float32), (rows, 1)),
    }


def describe(settings: GenerateSettings, painter: Painter) -> dict[str, object]:
    """The settings as they go into a picture's file."""
    _, h, w = painter.latent_shape
    scale = painter.folder.pixels_per_latent
    schedule = painter.schedule
    return {
        "Software": "sdlc",
        "prompt": settings.prompt,
        "negative": settings.negative,
        "model": painter.folder.name,
        **({"lora": ", ".join(map(str, settings.loras))} if settings.loras else {}),
        "device": painter.device.info.name,
        "steps": settings.steps,
        "guidance": settings.guidance,
        "seed": settings.seed,
        "size": f"{w * scale}x{h * scale}",
        "precision": settings.precision.value,
        "sampler": f"{SAMPLERS[schedule.sampler].title}, {schedule.prediction}",
    }


@dataclass(slots=True)
class _Clock:
    """Reports how long each piece of work took, and sums the seconds by stage."""

    tell: Report
    last: float = field(default_factory=time.perf_counter)
    seconds: dict[str, float] = field(default_factory=dict)

    def tick(self, stage: str, done: int, total: int, preview: Array | None = None) -> None:
        now = time.perf_counter()
        spent, self.last = now - self.last, now
        self.seconds[stage] = self.seconds.get(stage, 0.0) + spent
        self.tell(Progress(stage, done, total, spent, preview=preview))
