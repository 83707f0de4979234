"""Whether a network fits a device, and what would.

In: a compiled network and a device's facts, or why it cannot be compiled. Out: nothing, or an error
before anything is allocated. Invariant: what is suggested is a size that the model can draw; where
a value is larger than the target binds, the largest whose values are not.
Errors: SdlError P010.

    check_fits(program, {"h": 512, "w": 512}, model, device.info)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import sqrt

from sdlc.graph.types import DType
from sdlc.language.diagnostics import SdlError, failure, half_precision
from sdlc.models.folder import Model
from sdlc.models.networks import Network
from sdlc.program.device import DeviceInfo
from sdlc.program.execute import TooLargeError, check_memory, memory_of
from sdlc.program.program import Program

Binds = Callable[[int, int], bool]
"""Whether the target binds all values of the network for latents of this height and width."""


def check_fits(program: Program, sizes: Mapping[str, int], model: Model, info: DeviceInfo) -> None:
    """Raises SdlError (P010) for a network that takes more memory than the device has, with the
    size of a picture that would not, where the picture's size matters."""
    check_memory(program, info, what_fits(program, sizes, model, info))


def what_fits(program: Program, sizes: Mapping[str, int], model: Model, info: DeviceInfo) -> str:
    """Advice: the arena grows with the picture's area, at least. Sizes `h`, `w` are latents'."""
    if not {"h", "w"} <= set(sizes):
        return ""
    needed = memory_of(program)
    room = [info.largest_bytes or needed.arena]
    if info.total_bytes:
        room.append(info.total_bytes - needed.weights - needed.values)
    return _smaller(sizes, model, min(room) / max(1, needed.arena))


def refusal(
    error: TooLargeError, network: Network, model: Model, precision: DType, binds: Binds
) -> SdlError:
    """What is said of a network one of whose values is larger than the target binds: the first of
    them, and the largest picture of these proportions of whose values none is."""
    first, fits, sizes = error.diagnostics[0], "use smaller sizes", network.sizes
    if {"h", "w"} <= set(sizes):
        fits = _advice(sizes, model, _largest(sizes, error.share, binds), "should fit")
    help = f"{fits}, {half_precision(precision)}or another device (`sdlc devices`)"
    return failure("P010", f"{network.part}: {first.message}", help, first.notes)


def _largest(sizes: Mapping[str, int], share: float, binds: Binds) -> tuple[int, int]:
    """The largest latents, height and width, of these proportions that are bound; 0 where `share`,
    what of the largest value is bound now, is. It grows with the square of a picture's area
    (scores) or with the area, so two or three programs are planned."""
    height, width = sizes["h"], sizes["w"]
    good, bad = 0, max(height, width)

    def sides(long: int) -> tuple[int, int]:
        return height * long // max(height, width), width * long // max(height, width)

    guessed = [int(bad * share**power + 1e-6) + more for power in (0.25, 0.5) for more in (0, 1)]
    guessed.append(-(-bad // min(height, width)))  # whether there is any
    while share and bad - good > 1:
        tried = next((g for g in guessed if good < g < bad), (good + bad) // 2)
        if min(sides(tried)) and not binds(*sides(tried)):
            bad = tried
        else:
            good = tried
    return sides(good)


def _smaller(sizes: Mapping[str, int], model: Model, share: float) -> str:
    """Advice, where `share` of what a picture takes is there: an estimate, for what an arena takes
    at another size is known only when that is compiled."""
    scale = sqrt(max(0.0, min(1.0, share)))
    fits = "should fit by an estimate from its area"
    return _advice(sizes, model, (int(sizes["h"] * scale), int(sizes["w"] * scale)), fits)


def _advice(sizes: Mapping[str, int], model: Model, latents: tuple[int, int], fits: str) -> str:
    """To draw a picture of latents of this size, of which it says what it does."""
    height, width = latents
    if not min(latents):
        return "use a smaller model (no size of picture would fit)"
    batch = f" or --batch {sizes['b'] // 2}" if sizes.get("b", 1) > 1 else ""
    each = model.pixels_per_latent
    return f"use --size {width * each}x{height * each}{batch}, which {fits}"
