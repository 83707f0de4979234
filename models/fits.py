"""Whether a network fits a device, and what would.

In: a compiled network and a device's facts, or why it cannot be compiled. Out: nothing, or an error
before anything is allocated. Invariant: what is suggested is a size that the model can draw.
Errors: SdlError P010.

    check_fits(program, {"h": 512, "w": 512}, model, device.info)
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt

from sdlc.language.diagnostics import SdlError, failure
from sdlc.models.folder import Model
from sdlc.program.device import DeviceInfo
from sdlc.program.execute import TooLargeError, check_memory, memory_of
from sdlc.program.program import Program


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


def refusal(error: TooLargeError, part: str, sizes: Mapping[str, int], model: Model) -> SdlError:
    """What is said of a network one of whose values is larger than the target binds: the first of
    them, and the size of a picture that would do."""
    first = error.diagnostics[0]
    fits = _smaller(sizes, model, error.share) if {"h", "w"} <= set(sizes) else "use smaller sizes"
    help = f"{fits}; or --precision f16, or another device (`sdlc devices`)"
    return failure("P010", f"{part}: {first.message}", help, first.notes)


def _smaller(sizes: Mapping[str, int], model: Model, share: float) -> str:
    """Advice, where `share` of what a picture takes is there."""
    scale = sqrt(max(0.0, min(1.0, share)))
    step = model.granule
    width, height = (
        int(sizes[name] * model.pixels_per_latent * scale) // step * step for name in ("w", "h")
    )
    if min(width, height) < step:
        return "use a smaller model: no size of picture would fit"
    batch = f" or --batch {sizes['b'] // 2}" if sizes.get("b", 1) > 1 else ""
    return f"use --size {width}x{height}{batch}, which should fit"
