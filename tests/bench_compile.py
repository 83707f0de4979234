"""How long Stable Diffusion 1.4's UNet takes to compile, pass by pass. Not a test.

    python tests/bench_compile.py [--targets cpu nvidia] [--latent 64] [--precision f32] [--profile]

For every target: seconds of each pass, kernels and dispatches; then `sdlc compile` as a user runs
it, cold and from the cache. `--profile` prints the functions that take longest instead.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sdlc.api import Compiled, make_request
from sdlc.language.diagnostics import SdlError
from sdlc.program import pipeline
from sdlc.program.bundle import write_bundle

ROOT = Path(__file__).resolve().parent.parent
UNET = ROOT / "models" / "stable_diffusion" / "unet.sdl"
CONFIG = ROOT / "tests" / "data" / "stable_diffusion_1_4_unet.json"
PASSES = ("plan", "lower", "verify", "allocate")
"""Functions that `pipeline.py` calls by these names; a name that is not there is left out."""


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


def watched(clock: Clock) -> None:
    """Puts the clock around the passes of the pipeline."""
    for name in PASSES:
        if hasattr(pipeline, name):
            setattr(pipeline, name, clock.of(name, getattr(pipeline, name)))
    passes = tuple((name, clock.of(name, change)) for name, change in pipeline.KERNEL_PASSES)
    pipeline.KERNEL_PASSES = passes


def compiled(target: str, latent: int, precision: str, clock: Clock) -> Compiled:
    sizes = {"b": 2, "c": 4, "h": latent, "w": latent, "t": 77, "d": 768}
    request = clock.of("parse", make_request)(UNET, target, None, sizes, (CONFIG, precision))
    graph = clock.of("elaborate", request.graph)()
    program = clock.of("compile", pipeline.compile_graph)(graph, request.target, request.precision)
    return Compiled(graph, program, request.target)


def measure(target: str, latent: int, precision: str) -> None:
    """One line for each pass; what `compile_graph` does beside its passes is called `rest`."""
    clock = Clock()
    before = {n: getattr(pipeline, n) for n in (*PASSES, "KERNEL_PASSES") if hasattr(pipeline, n)}
    watched(clock)
    try:
        made = compiled(target, latent, precision, clock)
        texts = clock.of("print", made.texts)()
        with tempfile.TemporaryDirectory() as folder:
            clock.of("write", write_bundle)(
                made.program, texts, made.target.caps, Path(folder) / "bundle", None
            )
    finally:
        for name, value in before.items():
            setattr(pipeline, name, value)
    seconds = clock.seconds
    inner = sum(seconds[name] for name in before if name in seconds)
    inner += sum(seconds[name] for name, _ in pipeline.KERNEL_PASSES)
    seconds["rest"] = seconds.pop("compile") - inner
    size = sum(len(text.text) for text in texts)
    print(
        f"\n{target} {precision} {latent}x{latent}: {len(made.program.kernels)} kernels,", end=" "
    )
    print(f"{len(made.program.dispatches)} dispatches, {size / 1e6:.2f} MB of text")
    print("  ".join(f"{name} {took:.2f}" for name, took in seconds.items()))
    print(f"total {sum(seconds.values()):.2f} s")


def profiled(target: str, latent: int, precision: str) -> None:
    profile = cProfile.Profile()
    profile.enable()
    made = compiled(target, latent, precision, Clock())
    made.texts()
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
    parser.add_argument("--targets", nargs="+", default=["cpu", "nvidia", "adreno"])
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
