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
from dataclasses import dataclass, field, replace

from sdlc.graph.types import Array
from sdlc.language.diagnostics import SdlError
from sdlc.models.check import FiniteCheck
from sdlc.models.fits import check_fits
from sdlc.models.folder import Model
from sdlc.models.image import to_pixels
from sdlc.models.model import load_model
from sdlc.models.networks import (
    compiled,
    decoding_model,
    networks,
    tokenizers_of,
    with_scopes,
)
from sdlc.models.painter import Noise, Painter, Ready, check_finite
from sdlc.models.replay import ENTRY, record_of
from sdlc.models.samplers import SAMPLERS, make_schedule, sampler_of
from sdlc.models.settings import (
    GenerateSettings,
    Progress,
    Report,
    check_settings,
    plan_of,
)
from sdlc.models.start import begin, put_back
from sdlc.program.device import Device, DeviceInfo
from sdlc.program.execute import check_memory, check_sizes
from sdlc.program.program import Program
from sdlc.target import Target

TILES = (64, 32)
"""Sides of tiles in latents that are tried where whole pictures take too much memory."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """`pixels` is u8[b, h, w, 3]; `settings` goes into the files, with the seed and the record
    (`replay`) of each picture; `warnings` are for the user."""

    pixels: Array
    latents: Array
    settings: Mapping[str, object]
    seconds: Mapping[str, float]
    warnings: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    records: tuple[str, ...] = ()

    def entries(self, i: int) -> dict[str, object]:
        """The text entries of picture i's file."""
        own = {"seed": self.seeds[i], ENTRY: self.records[i]} if self.records else {}
        return {**self.settings, **own}


def generate(
    settings: GenerateSettings, report: Report | None = None, check_finite: bool = False
) -> Pictures:
    """Draws the pictures that the settings ask for; `report` is called after each piece of work.
    `check_finite` looks at every value that is stored, for the operator that makes the first which
    is no number (F001): that takes several times as long.

    Raises SdlError for settings, models and devices that do not fit, and for pixels that are not
    finite, naming the network that produced them first.
    """
    from sdlc.backends.devices import open_device

    tell = report or (lambda _: None)
    folder = load_model(settings.model, settings.prediction, settings.loras)
    check_settings(settings, folder)
    painter = _compiled(settings, folder, open_device(settings.device), tell)
    painter.keep = settings.keep_loaded
    if check_finite:
        _check(painter, settings, tell)
    return draw(painter, settings, tell)


def _check(painter: Painter, settings: GenerateSettings, tell: Report) -> None:
    """Has every value looked at."""
    from sdlc.backends.devices import target_of

    info = painter.device.info
    for ready in painter.ready.values():
        place = target_of(info), info
        ready.check = FiniteCheck(ready.network, ready.folder, place, settings.precision, tell)


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
    parts = with_scopes(networks(folder, settings))
    tell(Progress("compile", 0, len(parts), 0.0))
    ready: dict[str, Ready] = {}
    for done, network in enumerate(parts, 1):
        started = time.perf_counter()
        if network.role == "decoder":
            ready[network.role] = _decoder(settings, folder, network.f32, (target, device))
        else:
            program = compiled(network, folder, target, settings.precision, device)
            sizes = {} if network.role == "encoder" else network.sizes  # its sizes are pixels
            check_fits(program[0], sizes, folder, device.info)
            ready[network.role] = Ready(network, program, folder, device)
        tell(Progress("compile", done, len(parts), time.perf_counter() - started, network.part))
    drawn = ready["sampler"].network.sizes
    shape = (drawn["c"], drawn["h"], drawn["w"])
    painter = Painter(folder, device, settings.batch, shape, schedule, ready)
    if settings.sampler is None and sampler_of(folder.scheduler) is None:
        given = folder.scheduler.get("_class_name")
        painter.warnings.append(f"the model's {given} is not described: it is sampled with ddim")
    return painter


def _decoder(
    settings: GenerateSettings, folder: Model, f32: tuple[str, ...], place: tuple[Target, Device]
) -> Ready:
    """The decoder, with its own scopes in f32; of tiles, where the device has no memory for whole
    pictures."""
    target, device = place
    owner = decoding_model(settings, folder)
    sizes = (settings.tile,) if settings.tile else (0, *TILES)
    for tile in sizes:
        network = replace(networks(folder, replace(settings, tile=tile))[-1], f32=f32)
        made = compiled(network, owner, target, settings.precision, device)
        if _fits(made[0], device.info):
            break
    check_fits(made[0], network.sizes, owner, device.info)
    return Ready(network, made, owner, device)


def _fits(program: Program, info: DeviceInfo) -> bool:
    """Whether a device has the memory that a program takes, as far as its driver says."""
    try:
        check_sizes(program.all_tensors, info.caps.max_binding, info.name)
        check_memory(program, info)
    except SdlError:
        return False
    return True


def draw(painter: Painter, settings: GenerateSettings, tell: Report) -> Pictures:
    """Pictures by networks that are ready."""
    clock = _Clock(tell)
    noise = Noise(settings.all_seeds, painter.latent_shape)
    conditions = painter.conditions(settings.prompt, settings.negative)
    painter.done_with("text", "text_2")
    clock.tick("text", 1, 1)
    latents, extra = begin(settings, painter, noise)
    painter.done_with("encoder")
    context = conditions.pop("context")
    painter.start(context, latents, settings.guidance, {**conditions, **extra})
    count = len(painter.schedule.times)
    for done in range(1, count + 1):
        painter.step(noise, done)
        shown = settings.preview and done % settings.preview == 0 and done < count
        preview = to_pixels(painter.decode(painter.latents())) if shown else None
        clock.tick("step", done, count, preview)
    final = put_back(painter.latents(), extra, painter)
    check_finite(final, f"denoising network ({settings.steps} steps)")
    painter.done_with("sampler")
    decoded = painter.decode(final)
    painter.done_with("decoder")
    check_finite(decoded, "picture decoder")
    clock.tick("decode", 1, 1)
    pixels = to_pixels(decoded)
    return Pictures(
        pixels,
        final,
        describe(settings, painter),
        clock.seconds,
        tuple(painter.warnings),
        settings.all_seeds,
        tuple(record_of(settings, seed) for seed in settings.all_seeds),
    )


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
        "seed": settings.all_seeds[0],
        "size": f"{w * scale}x{h * scale}",
        "precision": settings.precision.value,
        **({"f32": ", ".join(settings.f32)} if settings.f32 else {}),
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
