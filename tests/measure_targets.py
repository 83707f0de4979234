"""What a model's networks become on each target: the tables of docs/targets.md.

    python tests/measure_targets.py [--model stable-diffusion-1.4] [--targets adreno,mali,cpu]
        [--parts unet,vae] [--tile N]

Compiles every network (f16, pictures of the model's own size, guidance: batch 2) for each target
and prints a table in Markdown: dispatches, kernels, arena and its lower bound, weights, and the
bytes of a bundle without weights. With --tile, pictures are decoded in tiles of N latents. Programs
are kept like those of `sdlc compile`, so a second call takes seconds. Not part of the suite.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TARGETS = "adreno,mali,apple,nvidia,nvidia-matrix,cpu"
BATCH = {"vae": "b=1"}
"""Texts with and without what is asked for, but one picture."""
COLUMNS = ("target", "network", "dispatches", "kernels", "arena MiB", "at least MiB")
MORE = ("weights MiB", "loading MiB", "bundle KiB")
MEBI = 2**20


def run(*words: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "sdlc.cli", *words, "--json"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        sys.exit(done.stderr.decode())
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def row(model: str, part: str, target: str, tile: str) -> tuple[str, ...]:
    asked = [f"{model}/{part}", "--target", target, "--precision", "f16"]
    asked += [
        "--set",
        BATCH.get(part, "b=2"),
        *(["--tile", tile] if tile and part == "vae" else []),
    ]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "bundle")
        made = run("compile", *asked, "-o", str(place))
        files = [p for p in place.rglob("*") if p.is_file()]
        bundle = sum(p.stat().st_size for p in files)
        kernels = len({p.stem for p in place.glob("kernels/*")})
    memory, load = made["memory"], made["load"] or {"arena": 0}
    taken = (memory["arena"], memory["lower_bound"], memory["weights"], load["arena"])
    sizes = [f"{size / MEBI:,.1f}" for size in taken]
    return (target, part, str(made["dispatches"]), str(kernels), *sizes, f"{bundle / 1024:,.0f}")


def parts_of(model: str) -> str:
    """Its networks, as `sdlc info` lists them."""
    return ",".join(part["name"] for part in run("info", model)["parts"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="stable-diffusion-1.4")
    parser.add_argument("--targets", default=TARGETS)
    parser.add_argument("--parts", help="of the model's networks (default: all)")
    parser.add_argument("--tile", default="", help="of pictures that are decoded, in latents")
    args = parser.parse_args()
    columns = (*COLUMNS, *MORE)
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for target in args.targets.split(","):
        for part in (args.parts or parts_of(args.model)).split(","):
            print(f"| {' | '.join(row(args.model, part, target, args.tile))} |", flush=True)


if __name__ == "__main__":
    main()
