"""Whether a network fits a device, and what would.

In: a compiled network and a device's facts. Out: nothing, or an error before anything is allocated.
Invariant: what is suggested is a size that the model can draw. Errors: SdlError P010.

    check_fits(program, {"h": 512, "w": 512}, model, device.info)
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt

from sdlc.models.folder import Model
from sdlc.program.device import DeviceInfo
from sdlc.program.execute import check_memory, memory_of
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
    scale = sqrt(max(0.0, min(1.0, min(room) / max(1, needed.arena))))
    step = model.granule
    width, height = (
        int(sizes[name] * model.pixels_per_latent * scale) // step * step for name in ("w", "h")
    )
    if min(width, height) < step:
        return "use a smaller model: no size of picture would fit"
    batch = f" or --batch {sizes['b'] // 2}" if sizes.get("b", 1) > 1 else ""
    return f"use --size {width}x{height}{batch}, which should fit"
