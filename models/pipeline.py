"""From a prompt to pictures: networks and a sampler, compiled and run on one device.

In: `GenerateSettings`, or their fields by name. Out: `Pictures`. Invariant: the same settings give
the same pictures on one device, whatever was drawn before; between sampling steps no tensor returns
to the host (unless somebody looks at it). Errors: SdlError with a code G…, or of what is used (M,
W, T, S, I, D, P).

    draw = Pipeline(device="cpu", steps=10)
    first = draw("a slice of pizza")
    other = draw("a red heart", seed=3)         # the networks are still there
"""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

from sdlc.graph.types import Array, DType
from sdlc.language.diagnostics import SdlError
from sdlc.models.apart import compile_apart
from sdlc.models.check import FiniteCheck
from sdlc.models.fits import Binds, check_fits, refusal
from sdlc.models.folder import Model
from sdlc.models.image import to_pixels
from sdlc.models.model import load_model
from sdlc.models.networks import (
    Network,
    choices_for,
    compiled,
    decoding_model,
    networks,
    planned_network,
    tokenizers_of,
    with_scopes,
)
from sdlc.models.painter import Noise, Painter, Ready, check_finite
from sdlc.models.replay import ENTRY, is_replayable, record_of
from sdlc.models.samplers import SAMPLERS, make_schedule, sampler_of
from sdlc.models.settings import (
    Drawing,
    GenerateSettings,
    Progress,
    Report,
    check_settings,
    plan_of,
)
from sdlc.models.start import begin, put_back
from sdlc.program.device import Device, DeviceInfo
from sdlc.program.execute import TooLargeError, check_memory, check_sizes
from sdlc.program.host import give_back
from sdlc.program.load import bound
from sdlc.program.pipeline import tensors_of
from sdlc.program.program import Program
from sdlc.target import Target

TILES = (64, 32)
"""Sides of tiles in latents that are tried where whole pictures take too much memory."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """`pixels` is u8[b, h, w, 3]; `settings` goes into the files, with the seed and the record
    (`replay`) of each picture, where it can be drawn again; `warnings` are for the user; `finished`
    is False where the report stopped the drawing."""

    pixels: Array
    latents: Array
    settings: Mapping[str, object]
    seconds: Mapping[str, float]
    warnings: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    records: tuple[str, ...] = ()
    finished: bool = True

    def entries(self, i: int) -> dict[str, object]:
        """The text entries of picture i's file."""
        own = {"seed": self.seeds[i]} if self.seeds else {}
        record = {ENTRY: self.records[i]} if self.records else {}
        return {**self.settings, **own, **record}


def generate(
    settings: GenerateSettings, report: Report | None = None, check_finite: bool = False
) -> Pictures:
    """Draws the pictures that the settings ask for: what a `Pipeline` does that draws once."""
    return Pipeline().draw(settings, report, check_finite)


class Pipeline:
    """Draws picture after picture. Networks stay on the device from one to the next, but where
    `keep_loaded` is False; one is compiled or loaded again where what was asked for needs another:
    a size, a batch, guidance or none, a sampler, a LoRA, a model.

    `settings` are fields of `GenerateSettings`, for every picture that is given no others.
    """

    def __init__(self, **settings: Any) -> None:
        self._usual = {"keep_loaded": True, **settings}
        self._ready: dict[str, Ready] = {}
        self._device: tuple[str | None, Device] | None = None

    def __call__(
        self,
        prompt: str,
        report: Report | None = None,
        check_finite: bool = False,
        **settings: Any,
    ) -> Pictures:
        """Draws a prompt; see `draw`."""
        asked = GenerateSettings(prompt, **{**self._usual, **settings})
        return self.draw(asked, report, check_finite)

    def draw(
        self,
        settings: GenerateSettings,
        report: Report | None = None,
        check_finite: bool = False,
    ) -> Pictures:
        """The pictures that the settings ask for. `report` is called after each piece of work; what
        it raises ends the drawing, and where it returns False after a step, that step is the last.
        `check_finite` looks at every value that is stored, for the operator that is the first to
        make what is no number (F001); that takes several times as long.

        Raises SdlError for settings, models and devices that do not fit, and for pixels that are
        not finite, naming the network that produced them first.
        """
        tell = report or (lambda _: None)
        folder = load_model(settings.model, settings.prediction, settings.loras)
        check_settings(settings, folder)
        painter = _compiled(settings, folder, self._opened(settings.device), tell, self._ready)
        self._ready |= painter.ready
        painter.keep = settings.keep_loaded
        _check(painter, tell if check_finite else None)
        return draw(painter, settings, tell)

    def close(self) -> None:
        """Frees the memory of every network; the next picture loads them again."""
        self._ready.clear()

    def _opened(self, selector: str | None) -> Device:
        from sdlc.backends.devices import open_device

        if self._device is None or self._device[0] != selector:
            self.close()
            self._device = selector, open_device(selector)
        return self._device[1]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where networks run, and those that are there already, by role."""

    target: Target
    device: Device
    held: Mapping[str, Ready]


def _check(painter: Painter, tell: Report | None) -> None:
    """Has every value looked at, where somebody is to be told."""
    from sdlc.backends.devices import target_of

    info = painter.device.info
    for each in painter.ready.values():
        place = target_of(info), info
        check = tell and FiniteCheck(each.network, each.folder, place, each.precision, tell)
        each.check = check


def compiled_networks(
    settings: GenerateSettings, folder: Model, device: Device, tell: Report
) -> Painter:
    """The networks of a picture, compiled for a device; each is loaded when it is first used."""
    return _compiled(settings, folder, device, tell, {})


def prepare(settings: GenerateSettings, folder: Model, device: Device, tell: Report) -> Painter:
    """Compiles the networks for a device and loads their weights, which stay there."""
    painter = compiled_networks(settings, folder, device, tell)
    for done, network in enumerate(painter.ready.values(), 1):
        begin = time.perf_counter()
        network.open()
        spent = time.perf_counter() - begin
        tell(Progress("load", done, len(painter.ready), spent, network.network.part))
    return painter


def _compiled(
    settings: GenerateSettings,
    folder: Model,
    device: Device,
    tell: Report,
    held: Mapping[str, Ready],
) -> Painter:
    """What `compile_here` gives, compiled elsewhere where memory is dear."""
    made = compile_apart(settings, folder, device, tell)
    return compile_here(settings, folder, device, (lambda _: None) if made else tell, held)


def compile_here(
    settings: GenerateSettings,
    folder: Model,
    device: Device,
    tell: Report,
    held: Mapping[str, Ready],
) -> Painter:
    """The networks of a picture; those of `held` that are what is needed are taken from there."""
    from sdlc.backends.devices import target_of

    schedule = make_schedule(folder.scheduler, plan_of(settings, folder))
    tokenizers_of(folder)  # what they lack is said first
    place = _Place(target_of(device.info), device, held)
    parts = with_scopes(networks(folder, settings))
    tell(Progress("compile", 0, len(parts), 0.0))
    ready: dict[str, Ready] = {}
    for done, network in enumerate(parts, 1):
        started, role = time.perf_counter(), network.role
        if role == "decoder":
            ready[role] = _decoder(settings, folder, network.f32, place)
        elif _is_for(held.get(role), network, folder, settings):
            ready[role] = held[role]
        else:
            ready[role] = _network(settings, folder, network, place)
        tell(Progress("compile", done, len(parts), time.perf_counter() - started, network.part))
    gc.collect()
    give_back()  # of what compiling took, nothing is left when weights come
    drawn = ready["sampler"].network.sizes
    shape = (drawn["c"], drawn["h"], drawn["w"])
    painter = Painter(folder, device, settings.batch, shape, schedule, ready)
    if settings.sampler is None and sampler_of(folder.scheduler) is None:
        given = folder.scheduler.get("_class_name")
        painter.warnings.append(f"the model's {given} is not described: it is sampled with ddim")
    return painter


def _network(settings: GenerateSettings, folder: Model, network: Network, place: _Place) -> Ready:
    """A network that fits its device."""
    sizes = {} if network.role == "encoder" else network.sizes  # its sizes are pixels
    try:
        program = compiled(network, folder, place.target, settings.precision, place.device)
    except TooLargeError as error:
        binds = _binds(network, folder, place, settings.precision)
        about = replace(network, sizes=sizes)
        raise refusal(error, about, folder, settings.precision, binds) from None
    check_fits(program[0], sizes, folder, place.device.info)
    return Ready(network, program, folder, place.device)


def _is_for(
    held: Ready | None, network: Network, owner: Model, settings: GenerateSettings
) -> TypeGuard[Ready]:
    """Whether a network on the device is this one, with the weights that its owner has."""
    if held is None or held.network != network or held.precision is not settings.precision:
        return False
    return held.folder.weights(network.part) == owner.weights(network.part)


def _decoder(
    settings: GenerateSettings, folder: Model, f32: tuple[str, ...], place: _Place
) -> Ready:
    """The decoder, with its own scopes in f32; of tiles, where the device has no memory for whole
    pictures."""
    owner, device = decoding_model(settings, folder), place.device
    sizes = (settings.tile,) if settings.tile else (0, *TILES)
    for tile in sizes:
        network = replace(networks(folder, replace(settings, tile=tile))[-1], f32=f32)
        held = place.held.get(network.role)
        if _is_for(held, network, owner, settings):
            return held
        last = tile == sizes[-1]
        try:
            made = compiled(network, owner, place.target, settings.precision, device)
        except TooLargeError as error:
            if last:
                binds = _binds(network, owner, place, settings.precision)
                raise refusal(error, network, owner, settings.precision, binds) from None
            continue
        if last or _fits(made[0], device.info):
            break
    check_fits(made[0], network.sizes, owner, device.info)
    return Ready(network, made, owner, device)


def _binds(network: Network, folder: Model, place: _Place, precision: DType) -> Binds:
    """Whether the target binds a network's values for latents of other sizes: plans it."""
    choices = choices_for(folder, place.target, place.device.info)

    def binds(height: int, width: int) -> bool:
        other = replace(network, sizes={**network.sizes, "h": height, "w": width})
        made = planned_network(other, folder, place.target, precision, choices)
        _, tensors = tensors_of(made.parts.run, made.plan)
        return all(bound(t) <= place.target.caps.max_binding for t in tensors.values())

    return binds


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
        if clock.tick("step", done, count, preview, painter) is False:
            break
    final = put_back(painter.latents(), extra, painter)
    check_finite(final, f"denoising network ({settings.steps} steps)")
    painter.done_with("sampler")
    decoded = painter.decode(final)
    painter.done_with("decoder")
    check_finite(decoded, "picture decoder")
    clock.tick("decode", 1, 1)
    pixels = to_pixels(decoded)
    finished = done == count
    told = describe(settings, painter)
    if not finished:
        told["steps"] = f"stopped after {done} of {count} evaluations"
    seeds = settings.all_seeds
    records = [record_of(settings, seed) for seed in seeds if finished and is_replayable(settings)]
    return Pictures(
        pixels,
        final,
        told,
        clock.seconds,
        tuple(painter.warnings),
        seeds,
        tuple(records),
        finished,
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

    def tick(
        self,
        stage: str,
        done: int,
        total: int,
        preview: Array | None = None,
        drawing: Drawing | None = None,
    ) -> object:
        """What the report returns."""
        now = time.perf_counter()
        spent, self.last = now - self.last, now
        self.seconds[stage] = self.seconds.get(stage, 0.0) + spent
        return self.tell(Progress(stage, done, total, spent, preview=preview, drawing=drawing))
