"""The reference picture on devices: first whether it is right, then how long it takes. Not a test.

    python tests/bench_devices.py [--devices cpu pocl llvmpipe] [--precisions f32 f16]

For every device (default: all that are found): the largest relative error of the 20 latents and
the PSNR of the picture against PyTorch's f32 (models/emoji_diffusion/reference.safetensors), then
the seconds of one picture, compiling and loading apart. Exit status 1 if any is not right.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
from safetensors.numpy import load_file

from sdlc.backends.devices import find_devices, open_device, target_of
from sdlc.graph.types import DType
from sdlc.models.folder import default_folder, load_folder
from sdlc.models.pipeline import draw, prepare
from sdlc.models.settings import GenerateSettings

LATENTS_LIMIT, PICTURE_LIMIT = 1e-3, 40.0


def measure(selector: str, precision: DType) -> tuple[float, float, float, float]:
    """The latents' largest error, the picture's PSNR, seconds to start and seconds of a picture."""
    reference = load_file(default_folder().parent / "reference.safetensors")
    settings = GenerateSettings("rocket", precision=precision)
    begin = time.perf_counter()
    painter = prepare(settings, load_folder(None), open_device(selector), lambda _: None)
    starting = time.perf_counter() - begin
    painter.start(painter.encode("rocket", ""), reference["initial_latents"], 5.0)
    errors = []
    for wanted in reference["latents_after_step"]:
        painter.step()
        errors.append(np.linalg.norm(painter.latents()[0] - wanted) / np.linalg.norm(wanted))
    picture = np.clip(painter.decode(painter.latents()), -1, 1).astype(np.float64)
    squared = np.mean((picture - np.clip(reference["decoded"], -1, 1)) ** 2)
    begin = time.perf_counter()
    draw(painter, settings, lambda _: None)
    return (
        float(max(errors)),
        float(10 * np.log10(4 / squared)),
        starting,
        time.perf_counter() - begin,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", nargs="+", help="selectors (default: every device found)")
    parser.add_argument("--precisions", nargs="+", default=["f32", "f16"])
    args = parser.parse_args()
    found = {d.id: d for d in find_devices().devices}
    print(
        f"{'device':12} {'target':11} {'':4} {'latents':>9} {'picture':>9} {'start':>8} {'draw':>8}"
    )
    wrong = False
    for selector in args.devices or found:
        target = target_of(open_device(selector).info).name
        for precision in args.precisions:
            error, decibels, start, seconds = measure(selector, DType(precision))
            right = decibels >= PICTURE_LIMIT and (precision != "f32" or error <= LATENTS_LIMIT)
            wrong |= not right
            print(
                f"{selector:12} {target:11} {precision:4} {error:9.1e} {decibels:6.1f} dB "
                f"{start:6.1f} s {seconds:6.2f} s{'' if right else '   NOT RIGHT'}",
                flush=True,
            )
    sys.exit(wrong)


if __name__ == "__main__":
    main()
