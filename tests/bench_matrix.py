"""Products by matrix instructions on a device: first whether they are right, then how long. Not a
test.

    python tests/bench_matrix.py [--device opencl] [--target nvidia] [--unet] [--rounds 20]

Products and convolutions of Stable Diffusion's UNet at batch 2, f16, as the target computes them
without and with each of its matrix instructions: the largest error against NumPy relative to the
largest result, microseconds and TFLOP/s. `--unet` adds one step of the whole UNet, random weights,
the largest difference between both. Exit status 1 if any is not right.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from sdlc.backends.devices import open_device
from sdlc.backends.target import load_target
from sdlc.graph.mechanisms import DEFAULT
from sdlc.graph.node import Graph
from sdlc.graph.rules import select
from sdlc.graph.types import Array, DType
from sdlc.language.elaborate import build
from sdlc.language.elaborate_rule import load_rules
from sdlc.language.library import load
from sdlc.models.folder import SOURCES
from sdlc.program.device import Device
from sdlc.program.execute import Executable
from sdlc.program.pipeline import compile_graph
from sdlc.program.profile import profile
from sdlc.program.profile_data import RandomWeights, random_inputs
from sdlc.program.program import Program
from sdlc.target import Target

PRODUCT = "model product(x: T[m, k]; n: int) -> T[m, n] { return fc: linear(x, n) }"
WINDOW = "model window(x: T[b, c, h, h]; n: int) -> T[b, n, h, h] { return conv: conv(x, n) }"
PRODUCTS = ((8192, 320, 1280), (8192, 1280, 320), (2048, 640, 5120), (512, 1280, 1280))
WINDOWS = ((320, 64, 320), (640, 32, 640), (1280, 16, 1280), (1280, 8, 1280))
LIMIT = 2e-3
"""Of the largest result: a few units of half precision."""


def cases() -> Mapping[str, Graph]:
    """The graphs by name."""
    found: dict[str, Graph] = {}
    for m, k, n in PRODUCTS:
        library = load(None, PRODUCT)
        found[f"{m} x {k} x {n}"] = build(library, None, {"m": m, "k": k, "n": n}, {}, DType.F16)
    for c, h, n in WINDOWS:
        sizes = {"b": 2, "c": c, "h": h, "n": n}
        found[f"3x3 {c} {h}x{h} {n}"] = build(load(None, WINDOW), None, sizes, {}, DType.F16)
    return found


def unet() -> Graph:
    sizes = {"b": 2, "c": 4, "h": 64, "w": 64, "t": 77, "d": 768}
    library = load(SOURCES / "unet.sdl")
    return build(library, None, sizes, {"cross_attention_dim": 768}, DType.F16)


def compiled(graph: Graph, target: Target) -> Program:
    rules = select(load_rules(load(SOURCES / "unet.sdl")), only=DEFAULT)
    return compile_graph(graph, target, DType.F16, rules)


def measured(program: Program, device: Device, rounds: int) -> tuple[Array, float]:
    """The first result, and the device's seconds."""
    executable = Executable(program, device, RandomWeights(program))
    results = executable.run(random_inputs(program))
    seconds = sum(m.seconds for m in profile(executable, rounds))
    return results[program.outputs[0]].astype(np.float64), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="opencl")
    parser.add_argument("--target", default="nvidia")
    parser.add_argument("--unet", action="store_true")
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    device, target = open_device(args.device), load_target(args.target)
    own = [of.name for of in device.info.caps.matrix]
    print(
        f"{device.info.name}: {', '.join(own) or 'no matrix instructions (loops stand for them)'}"
    )
    wrong = False
    graphs = {**cases(), **({"unet": unet()} if args.unet else {})}
    for name, graph in graphs.items():
        want, plain = measured(compiled(graph, target), device, args.rounds)
        row = f"{name:22} {1e6 * plain:10.1f} us"
        for of in target.caps.matrix:
            program = compiled(
                graph, replace(target, profile=replace(target.profile, matrix=of.name))
            )
            got, seconds = measured(program, device, args.rounds)
            error = float(np.max(np.abs(got - want)) / np.max(np.abs(want)))
            limit = LIMIT if name != "unet" else 10 * LIMIT
            wrong |= not error <= limit
            rate = program.flop / seconds / 1e12
            row += f"  {of.name} {1e6 * seconds:10.1f} us {rate:6.1f} TFLOP/s, off by {error:.1e}"
            row += "" if error <= limit else "  NOT RIGHT"
        print(row, flush=True)
    sys.exit(wrong)


if __name__ == "__main__":
    main()
