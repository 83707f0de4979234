"""From a prompt to pictures: three networks and a sampler, compiled and run on one device.

In: `GenerateSettings`. Out: `Pictures`. Invariant: the same settings give the same pictures on one
device; between sampling steps no tensor returns to the host (unless previews are asked for).
Errors: SdlError with a code G…, or of what is used (M, W, T, S, I, D, P).

    pictures = generate(GenerateSettings(prompt="a slice of pizza"))
    write_png(pictures.pixels[0], Path("pizza.png"), pictures.settings)
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np

from sdlc.graph.types import Array, DType
from sdlc.language.diagnostics import failure
from sdlc.language.elaborate import build
from sdlc.language.elaborate_rule import chosen_rules
from sdlc.language.library import load
from sdlc.models.cache import Compiled, kept, key_of
from sdlc.models.folder import SOURCES, Model, default_folder
from sdlc.models.image import to_pixels
from sdlc.models.lora import Lora
from sdlc.models.model import load_model
from sdlc.models.scheduler import Schedule, make_schedule
from sdlc.models.tokenizer import load_tokenizer
from sdlc.models.weights import check_weights
from sdlc.program.device import Device
from sdlc.program.execute import Executable
from sdlc.program.load import fitting
from sdlc.program.pipeline import compile_graph
from sdlc.program.program import Program
from sdlc.program.records import choices_of, device_text, records_path
from sdlc.schedule.point import NO_CHOICES, Choices
from sdlc.target import Target

FEEDBACK = MappingProxyType({"latent": "next_latent", "step": "next_step"})
MAX_SIZE = 4096
MAX_BATCH = 64


@dataclass(frozen=True, slots=True)
class GenerateSettings:
    """What to draw and how. `size` is (width, height) in pixels, None for the model's own; picture
    i of a batch has the noise of seed + i; `preview` n > 0 decodes the latents every n steps. The
    networks are rewritten by the rules in `only`, None for the default ones, less those in
    `without`. `model` is what `models.model.load_model` takes; `prediction` says what the network
    of a checkpoint predicts, where its file does not; `loras` change its weights."""

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
    preview: int = 0
    without: tuple[str, ...] = ()
    only: tuple[str, ...] | None = None
    prediction: str | None = None
    loras: tuple[Lora, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """What has just been finished. `stage` is `compile`, `load`, `text`, `step` or `decode`;
    `done` of `total` in that stage; `seconds` it took; `preview` is u8[b, h, w, 3] or None."""

    stage: str
    done: int
    total: int
    seconds: float
    label: str = ""
    preview: Array | None = None


Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Pictures:
    """`pixels` is u8[b, h, w, 3]; `settings` goes into the files; `warnings` are for the user."""

    pixels: Array
    latents: Array
    settings: Mapping[str, object]
    seconds: Mapping[str, float]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Network:
    """A file of `models/stable_diffusion`, the part whose weights it takes, its sizes, and the
    rules that rewrite it (as in `GenerateSettings`)."""

    source: str
    part: str
    config: Mapping[str, object]
    sizes: Mapping[str, int]
    without: tuple[str, ...] = ()
    only: tuple[str, ...] | None = None


@dataclass(slots=True)
class Painter:
    """The compiled networks of a model on a device, ready to draw pictures of one size."""

    folder: Model
    device: Device
    batch: int
    latent_shape: tuple[int, int, int]
    schedule: Schedule
    encoder: Executable
    sampler: Executable
    decoder: Executable
    warnings: list[str] = field(default_factory=list)

    def encode(self, prompt: str, negative: str) -> Array:
        """The context f32[2 b, t, d]: b times the negative text, then b times the prompt."""
        tokenizer = load_tokenizer(self.folder.tokenizers["tokenizer"], self.folder.tokens)
        encoded = [tokenizer.encode(text) for text in (negative, prompt)]
        self.warnings += [_cut_warning(e.cut, tokenizer.length) for e in encoded if e.cut]
        states = self.encoder.run({"ids": np.stack([e.ids for e in encoded])})["out"]
        _check_finite(states, "text encoder")
        return np.repeat(states, self.batch, axis=0)

    def start(self, context: Array, noise: Array, guidance: float) -> None:
        """Puts the first latents in place."""
        self.sampler.write("context", context)
        self.sampler.write("table", self.schedule.table)
        self.sampler.write("guidance", np.float32(guidance))
        self.sampler.write("latent", noise)
        self.sampler.write("step", np.zeros(1, np.int32))

    def step(self) -> None:
        """One sampling step, finished when this returns."""
        self.sampler.step()
        self.sampler.finish()

    def latents(self) -> Array:
        """f32[b, c, h, w] after the last step."""
        return self.sampler.read("next_latent")

    def decode(self, latents: Array) -> Array:
        """What the decoder makes of latents: [b, 3, 8 h, 8 w], in -1 … 1 where it is right."""
        return self.decoder.run({"latent": latents})["out"]


def generate(settings: GenerateSettings, report: Report | None = None) -> Pictures:
    """Draws the pictures that the settings ask for; `report` is called after each piece of work.

    Raises SdlError for settings, models and devices that do not fit, and for pixels that are not
    finite, naming the network that produced them first.
    """
    from sdlc.backends.devices import open_device

    tell = report or (lambda _: None)
    folder = load_model(settings.model, settings.prediction, settings.loras)
    check_settings(settings, folder)
    painter = prepare(settings, folder, open_device(settings.device), tell)
    return draw(painter, settings, tell)


def check_settings(settings: GenerateSettings, folder: Model) -> None:
    """Raises SdlError for numbers that cannot work."""
    width, height = settings.size or folder.default_size
    granule = folder.granule
    if (
        width % granule
        or height % granule
        or not 0 < width <= MAX_SIZE
        or not 0 < height <= MAX_SIZE
    ):
        near = [min(MAX_SIZE, max(granule, round(n / granule) * granule)) for n in (width, height)]
        raise failure(
            "G001",
            f"the size {width}x{height} does not fit this model",
            help=f"both must be multiples of {granule}, such as {near[0]}x{near[1]}",
        )
    if not 1 <= settings.batch <= MAX_BATCH:
        raise failure(
            "G002", f"a batch of {settings.batch}", help=f"give 1 to {MAX_BATCH} pictures"
        )
    if not np.isfinite(settings.guidance):
        raise failure("G002", f"guidance {settings.guidance}", help="give a number such as 5")
    if settings.seed < 0:
        raise failure("G002", f"the seed {settings.seed}", help="give a whole number from 0")


def networks(folder: Model, settings: GenerateSettings) -> tuple[Network, ...]:
    """The three programs of a picture, with their configuration and sizes."""
    width, height = settings.size or folder.default_size
    h, w = height // folder.pixels_per_latent, width // folder.pixels_per_latent
    texts = {"b": 2, "s": folder.tokens}
    picture = {"b": settings.batch, "c": folder.latent_channels, "h": h, "w": w}
    d = folder.text_encoder.get("hidden_size", 768)
    assert isinstance(d, int)
    step = {**picture, "t": folder.tokens, "d": d, "n": settings.steps}
    sampling = {**folder.unet, **folder.scheduler}
    rules = settings.without, settings.only
    return (
        Network("text_encoder.sdl", "text_encoder", folder.text_encoder, texts, *rules),
        Network("sampler.sdl", "unet", sampling, step, *rules),
        Network("vae_decoder.sdl", "vae", folder.vae, picture, *rules),
    )


def compile_network(
    network: Network,
    folder: Model,
    target: Target,
    precision: DType,
    choices: Choices = NO_CHOICES,
) -> Program:
    """The program of one network for a target, its weights' names and shapes checked. `choices` are
    what tuning found for its kernels."""
    library = load(SOURCES / network.source)
    graph = build(library, None, network.sizes, network.config, precision)
    place = str(folder.path / network.part)
    check_weights(graph, folder.weights(network.part), library.sources, place)
    rules = chosen_rules(library, network.without, network.only)
    return compile_graph(graph, target, precision, rules, choices)


def _compiled(
    network: Network, folder: Model, target: Target, precision: DType, device: Device
) -> Compiled:
    """The program of one network, kept from an earlier picture where nothing has changed since."""
    weights = folder.weights(network.part)
    choices = choices_of(records_path(folder.path), target.name, device_text(device.info))
    rules = network.without, network.only
    described = (network.source, network.config, network.sizes, precision.value, dict(choices))
    return kept(
        key_of(target, device.info, *described, *rules),
        device,
        lambda: compile_network(network, folder, target, precision, choices),
        lambda program: deque(fitting(program, weights), 0),
        _about(network, folder, target, precision),
    )


def _about(
    network: Network, folder: Model, target: Target, precision: DType
) -> Mapping[str, object]:
    """What `sdlc cache` says of a network's program."""
    sizes = " ".join(f"{name}={size}" for name, size in network.sizes.items())
    rules = [f"--without {','.join(network.without)}"] if network.without else []
    rules += [f"--only {','.join(network.only)}"] if network.only is not None else []
    settings = " ".join((target.name, precision.value, sizes, *rules))
    shipped = folder.path == default_folder()
    place = default_folder().parent.name if shipped else str(folder.path)
    return {"command": "generate", "what": f"{place}/{network.part}  {settings}"}


def prepare(settings: GenerateSettings, folder: Model, device: Device, tell: Report) -> Painter:
    """Compiles the networks for a device and loads their weights."""
    from sdlc.backends.devices import target_of

    schedule = make_schedule(folder.scheduler, settings.steps)
    load_tokenizer(folder.tokenizers["tokenizer"], folder.tokens)  # what it lacks is said first
    target = target_of(device.info)
    parts = networks(folder, settings)
    tell(Progress("compile", 0, len(parts), 0.0))
    ready: list[Executable] = []
    for done, network in enumerate(parts, 1):
        begin = time.perf_counter()
        weights = folder.weights(network.part)
        program, texts = _compiled(network, folder, target, settings.precision, device)
        feedback = FEEDBACK if network.part == "unet" else {}
        ready.append(Executable(program, device, weights, texts, feedback))
        seconds = time.perf_counter() - begin
        tell(Progress("compile", done, len(parts), seconds, network.part))
    sizes = parts[2].sizes
    shape = (sizes["c"], sizes["h"], sizes["w"])
    encoder, sampler, decoder = ready
    return Painter(folder, device, settings.batch, shape, schedule, encoder, sampler, decoder)


def draw(painter: Painter, settings: GenerateSettings, tell: Report) -> Pictures:
    """Pictures by networks that are ready."""
    clock = _Clock(tell)
    context = painter.encode(settings.prompt, settings.negative)
    clock.tick("text", 1, 1)
    noise = make_noise(settings.seed, settings.batch, painter.latent_shape)
    painter.start(context, noise, settings.guidance)
    for done in range(1, settings.steps + 1):
        painter.step()
        shown = settings.preview and done % settings.preview == 0 and done < settings.steps
        preview = to_pixels(painter.decode(painter.latents())) if shown else None
        clock.tick("step", done, settings.steps, preview)
    latents = painter.latents()
    _check_finite(latents, f"denoising network ({settings.steps} steps)")
    decoded = painter.decode(latents)
    _check_finite(decoded, "picture decoder")
    clock.tick("decode", 1, 1)
    pixels = to_pixels(decoded)
    return Pictures(
        pixels, latents, describe(settings, painter), clock.seconds, tuple(painter.warnings)
    )


def make_noise(seed: int, batch: int, shape: tuple[int, int, int]) -> Array:
    """Gaussian latents f32[b, c, h, w]; picture i alone has the seed `seed + i`."""
    rows = [np.random.default_rng(seed + i).standard_normal(shape) for i in range(batch)]
    return np.stack(rows).astype(np.float32)


def describe(settings: GenerateSettings, painter: Painter) -> dict[str, object]:
    """The settings as they go into a picture's file."""
    _, h, w = painter.latent_shape
    scale = painter.folder.pixels_per_latent
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
        "sampler": f"DDIM, {painter.schedule.prediction}",
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


def _cut_warning(cut: str, length: int) -> str:
    shown = cut if len(cut) <= 60 else cut[:57] + "…"
    return f"the text is longer than {length - 2} tokens; this was left out: `{shown}`"


def _check_finite(values: Array, network: str) -> None:
    bad = int(np.size(values) - np.isfinite(values).sum())
    if bad:
        message = f"the {network} gave {bad} of {np.size(values)} values that are not finite"
        help = "try --precision f32; if it is that already, the weights or the device are at fault"
        raise failure("G003", message, help=help)
