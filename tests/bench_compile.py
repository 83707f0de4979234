"""How long Stable Diffusion 1.4's UNet takes to compile, pass by pass. Not a test.

    python tests/bench_compile.py [--targets cpu nvidia] [--latent 64] [--precision f32] [--profile]

For every target: seconds of each pass in one process, kernels and dispatches; then `sdlc compile`
as a user runs it, on all cores, cold and from the cache. `--profile` prints the functions that
take longest instead.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sdlc.api import Request, make_request
from sdlc.graph import rules
from sdlc.language import elaborate
from sdlc.language.diagnostics import SdlError
from sdlc.program import pipeline
from sdlc.program.bundle import write_bundle

ROOT = Path(__file__).resolve().parent.parent
UNET = ROOT / "models" / "stable_diffusion" / "unet.sdl"
CONFIG = ROOT / "tests" / "data" / "stable_diffusion_1_4_unet.json"
PASSES = (
    (elaborate, "build"),
    (rules, "rewrite"),
    *((pipeline, name) for name in ("plan", "lower", "verify", "allocate")),
)
"""Functions that `Request.build` and the pipeline call by these names, none within another."""


TARGETS = ("cpu", "nvidia", "nvidia-matrix", "adreno", "mali", "apple")
NAMES = {"build": "elaborate", "rewrite": "rules"}


class Clock:
    """Seconds of processor time by the name of a pass: what else runs here does not count."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    def of(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            begin = time.process_time()
            try:
                return work(*args, **kwargs)
            finally:
                self.seconds[name] += time.process_time() - begin

        return timed


@contextmanager
def watched(clock: Clock) -> Iterator[None]:
    """Puts the clock around the passes."""
    before = [(module, name, getattr(module, name)) for module, name in PASSES]
    kernel_passes = pipeline.KERNEL_PASSES
    for module, name, work in before:
        setattr(module, name, clock.of(NAMES.get(name, name), work))
    pipeline.KERNEL_PASSES = tuple((name, clock.of(name, change)) for name, change in kernel_passes)
    try:
        yield
    finally:
        for module, name, work in before:
            setattr(module, name, work)
        pipeline.KERNEL_PASSES = kernel_passes


def request_for(target: str, latent: int, precision: str) -> Request:
    sizes = {"b": 2, "c": 4, "h": latent, "w": latent, "t": 77, "d": 768}
    return make_request(UNET, target, None, sizes, (CONFIG, precision))


def measure(target: str, latent: int, precision: str) -> None:
    """One line for each pass; what is done beside the passes is called `rest`."""
    clock = Clock()
    request = clock.of("parse", request_for)(target, latent, precision)
    with watched(clock):
        made = clock.of("rest", request.build)()
    clock.seconds["rest"] -= sum(s for n, s in clock.seconds.items() if n not in ("parse", "rest"))
    texts = clock.of("print", made.texts)()
    with tempfile.TemporaryDirectory() as folder:
        write = clock.of("write", write_bundle)
        write(made.program, texts, made.target.caps, Path(folder) / "bundle", None)
    size = sum(len(text.text) for text in texts)
    counts = f"{len(made.program.kernels)} kernels, {len(made.program.dispatches)} dispatches"
    print(f"\n{target} {precision} {latent}x{latent}: {counts}, {size / 1e6:.2f} MB of text")
    print("  ".join(f"{name} {took:.2f}" for name, took in clock.seconds.items()))
    print(f"total {sum(clock.seconds.values()):.2f} s of processor time")


def profiled(target: str, latent: int, precision: str) -> None:
    profile = cProfile.Profile()
    profile.enable()
    request_for(target, latent, precision).build().texts()
    profile.disable()
    for order in ("tottime", "cumtime"):
        pstats.Stats(profile).sort_stats(order).print_stats(40)


def command(target: str, latent: int, precision: str) -> None:
    """`sdlc compile` twice: cold, then with what the first run kept."""
    with tempfile.TemporaryDirectory() as folder:
        took = []
        for run in range(2):
            out = Path(folder) / f"bundle{run}"
            begin = time.perf_counter()
            subprocess.run(
                [
                    *(sys.executable, "-m", "sdlc.cli", "compile", str(UNET), "--target", target),
                    *("--config", str(CONFIG), "--precision", precision, "-o", str(out), "--json"),
                    *("--set", "b=2", "c=4", f"h={latent}", f"w={latent}", "t=77", "d=768"),
                ],
                check=True,
                capture_output=True,
                env={**os.environ, "XDG_CACHE_HOME": folder},
            )
            took.append(time.perf_counter() - begin)
            json.loads((out / "manifest.json").read_text())
            shutil.rmtree(out)
    print(f"sdlc compile: cold {took[0]:.2f} s, again {took[1]:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", nargs="+", default=TARGETS)
    parser.add_argument("--latent", type=int, default=64, help="height and width (default 64)")
    parser.add_argument("--precision", default="f32")
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    parser.add_argument("--passes", action="store_true", help="only the passes, not the command")
    args = parser.parse_args()
    for target in args.targets:
        work = profiled if args.profile else measure
        try:
            work(target, args.latent, args.precision)
        except SdlError as error:
            print(f"\n{target}: {str(error).splitlines()[0]}")
            continue
        if not (args.profile or args.passes):
            command(target, args.latent, args.precision)


if __name__ == "__main__":
    main()
