"""What Stable Diffusion 1.4 becomes on each target: the table of docs/targets.md.

    python tests/measure_targets.py [--model stable-diffusion-1.4] [--targets adreno,mali,cpu]

Compiles every network (f16, 512 × 512, guidance: batch 2) for each target and prints a table in
Markdown: dispatches, kernels, arena and its lower bound, weights, and the bytes of a bundle without
weights. Programs are kept like those of `sdlc compile`, so a second call takes seconds. Not part of
the suite.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

TARGETS = "adreno,mali,apple,nvidia,cpu"
PARTS = (("text_encoder", "b=2"), ("unet", "b=2"), ("vae", "b=1"))
COLUMNS = ("target", "network", "dispatches", "kernels", "arena MiB", "at least MiB")
MORE = ("weights MiB", "loading MiB", "bundle KiB")
MEBI = 2**20


def run(*words: str) -> dict[str, object]:
    command = [sys.executable, "-m", "sdlc.cli", *words, "--json"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        sys.exit(done.stderr.decode())
    found: dict[str, object] = json.loads(done.stdout)
    return found


def row(model: str, part: str, target: str, size: str) -> tuple[str, ...]:
    asked = (f"{model}/{part}", "--target", target, "--precision", "f16", "--set", size)
    (taken,) = run("memory", *asked).values()
    assert isinstance(taken, dict)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "bundle")
        run("compile", *asked, "-o", str(place))
        files = [p for p in place.rglob("*") if p.is_file()]
        bundle = sum(p.stat().st_size for p in files)
        kernels = len({p.stem for p in place.glob("kernels/*")})
    kinds = ("arena", "lower_bound", "weights", "staging")
    sizes = [f"{taken[f'{kind}_bytes'] / MEBI:,.1f}" for kind in kinds]
    return (target, part, str(taken["dispatches"]), str(kernels), *sizes, f"{bundle / 1024:,.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="stable-diffusion-1.4")
    parser.add_argument("--targets", default=TARGETS)
    args = parser.parse_args()
    columns = (*COLUMNS, *MORE)
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for target in args.targets.split(","):
        for part, size in PARTS:
            print(f"| {' | '.join(row(args.model, part, target, size))} |", flush=True)


if __name__ == "__main__":
    main()
