"""Half precision beside f32: how far each network of a model is off, and how near the limit.

In: settings of a picture. Out: a `Comparison`: for each network the error of its outputs on the
inputs that it has in f32, the largest value that it stores in f16 and where, and how alike the two
pictures are. Invariant: both run on one device, with the same noise and texts.

    compare(GenerateSettings("rocket", steps=4)).networks["vae"].error
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from sdlc.graph.types import Array, DType
from sdlc.language.diagnostics import SdlError
from sdlc.models.model import load_model
from sdlc.models.painter import Ready
from sdlc.models.pipeline import compiled_networks, draw
from sdlc.models.settings import GenerateSettings, Progress, Report, check_settings
from sdlc.program.execute import Executable
from sdlc.program.finite import HALF_MOST, Notes
from sdlc.program.program import Program
from sdlc.program.watch import Peak, Watch

PREDICTION = "prediction"
"""What the denoising network gives, among the outputs of a sampling step."""
WHITE = 255.0


@dataclass(frozen=True, slots=True)
class Compared:
    """One network. `error` is that of its outputs by norm, `worst` the largest of one value, both
    relative to f32's; `largest` is the largest value that is stored in f16, and `where` the tensor
    and its operator; `bad` counts values that are no numbers, the first of them in `first_bad`."""

    error: float
    worst: float
    largest: float
    where: str
    bad: int
    first_bad: str = ""

    @property
    def headroom(self) -> float:
        """How many times as large values may become."""
        return HALF_MOST / self.largest if self.largest else float("inf")


@dataclass(frozen=True, slots=True)
class Comparison:
    """`networks` by part; `decibels` is the peak signal-to-noise ratio of the pictures (None: there
    is none in f16)."""

    networks: dict[str, Compared]
    decibels: float | None
    model: str
    device: str
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Run:
    """Inputs and outputs of a network by name."""

    inputs: dict[str, Array]
    outputs: dict[str, Array]


@dataclass(slots=True)
class Recorder:
    """Keeps what a network is given and gives."""

    runs: list[Run] = field(default_factory=list)

    def opened(self, executable: Executable) -> None:
        """There is nothing to keep yet."""

    def step(self, executable: Executable, notes: Notes) -> None:
        inputs = {name: executable.peek(name) for name in executable.program.inputs}
        executable.step()
        self.runs.append(Run(inputs, compared_outputs(executable)))


def compared_outputs(executable: Executable) -> dict[str, Array]:
    """What is compared of a network's outputs."""
    names = executable.program.outputs
    wanted = (PREDICTION,) if PREDICTION in names else names
    return {name: executable.read(name) for name in wanted}


def compare(settings: GenerateSettings, report: Report | None = None) -> Comparison:
    """Draws in f32, then in f16 with what `settings.f32` names in f32. Raises what drawing does,
    but for values of f16 that are no numbers."""
    from sdlc.backends.devices import open_device

    tell = report or (lambda _: None)
    folder = load_model(settings.model, settings.prediction, settings.loras)
    check_settings(settings, folder)
    device = open_device(settings.device)
    exact = replace(settings, precision=DType.F32, f32=())
    painter = compiled_networks(exact, folder, device, tell)
    painter.keep = False
    recorders = {role: Recorder() for role in painter.ready}
    for role, ready in painter.ready.items():
        ready.check = recorders[role]
    wanted = draw(painter, exact, tell)
    half = replace(settings, precision=DType.F16)
    painter = compiled_networks(half, folder, device, tell)
    painter.keep = False
    found: dict[str, Compared] = {}
    for role, ready in painter.ready.items():
        found[ready.network.part] = _compared(ready, recorders[role].runs, tell)
        ready.release()
    try:
        pixels = draw(painter, half, tell).pixels
    except SdlError as error:
        if any(d.code != "G003" for d in error.diagnostics):
            raise
        pixels = None
    decibels = None if pixels is None else psnr(pixels, wanted.pixels)
    size = wanted.pixels.shape[2], wanted.pixels.shape[1]
    return Comparison(found, decibels, folder.name, device.info.name, size)


def _compared(ready: Ready, runs: list[Run], tell: Report) -> Compared:
    """A network in f16 on the inputs of f32's runs."""
    executable = ready.open()
    watch = Watch(executable, strict=False)
    errors, worst = [0.0], [0.0]
    for done, run in enumerate(runs, 1):
        executable.give(run.inputs)
        watch.step()
        for name, values in compared_outputs(executable).items():
            error, largest = difference(values, run.outputs[name])
            errors.append(error)
            worst.append(largest)
        tell(Progress("compare", done, len(runs), 0.0, ready.network.part))
    program = executable.program
    peak = _largest(program, watch.peaks)
    first = next(iter(watch.bad), "")
    return Compared(
        float(np.max(errors)),
        float(np.max(worst)),
        0.0 if peak is None else peak.value,
        "" if peak is None else _named(program, peak.tensor),
        sum(watch.bad.values()),
        first and _named(program, first),
    )


def _largest(program: Program, peaks: dict[str, Peak]) -> Peak | None:
    """The largest value that a tensor of halves had."""
    halves = [p for p in peaks.values() if program.tensors[p.tensor].dtype is DType.F16]
    return max(halves, key=lambda p: p.value, default=None)


def _named(program: Program, name: str) -> str:
    """A tensor and the operator that makes it."""
    origin = program.tensors[name].origin
    return f"{name} ({origin.definition})" if origin and origin.definition else name


def difference(values: Array, wanted: Array) -> tuple[float, float]:
    """The error by norm and the largest of one value, relative to what is wanted; infinite where a
    value is no number."""
    exact = wanted.astype(np.float64)
    if exact.dtype.kind != "f" or not exact.size:
        return 0.0, 0.0
    apart = values.astype(np.float64) - exact
    if not np.isfinite(apart).all():
        return float("inf"), float("inf")
    norm, most = float(np.linalg.norm(exact)), float(np.abs(exact).max())
    return float(np.linalg.norm(apart)) / (norm or 1.0), float(np.abs(apart).max()) / (most or 1.0)


def psnr(pixels: Array, wanted: Array) -> float:
    """Peak signal-to-noise ratio of u8 pictures in dB; infinite where they are equal."""
    error = float(np.mean((pixels.astype(np.float64) - wanted.astype(np.float64)) ** 2))
    return 10 * float(np.log10(WHITE**2 / error)) if error else float("inf")
