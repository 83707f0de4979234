"""One default picture beside diffusers on PyTorch, in one run, by turns. Not a test: no assertion.

    pip install '.[cpu,parity]'
    python tests/bench_picture.py [--device cpu] [--beside llvmpipe] [--rounds 3] [--peer PYTHON]

Both draw the shipped model's 256 x 256 picture in 20 steps with guidance from weights in memory.
`compile_seconds` is our compiler, cold; `start_seconds` is compiling (kept from an earlier run or
not), the driver's builds and loading; `…_cpu_seconds` are of all the process's threads; `text_ms`,
`step_ms` and `decode_ms` are the networks'. More devices may take their turns `--beside` the first
(`--beside llvmpipe`: WGSL on the CPU): one picture each that counts, as they may take a minute.
`--peer` is a Python that has diffusers (default: this one; `none`: without). FLOP are counted from
the programs; the floor is FLOP over `--peak`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from typing import IO

PROMPT = "a slice of pizza"
PEER = """
import sys, time, torch
from diffusers import StableDiffusionPipeline
torch.set_num_threads(int(sys.argv[2]))
pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1], torch_dtype=torch.float32)
pipe.set_progress_bar_config(disable=True)
print("ready", flush=True)
for line in sys.stdin:
    noise = torch.Generator().manual_seed(0)
    begin, worked = time.perf_counter(), time.process_time()
    pipe(line.strip(), num_inference_steps=20, guidance_scale=5.0, generator=noise)
    print(time.perf_counter() - begin, time.process_time() - worked, flush=True)
"""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="where sdlc draws (default cpu)")
    parser.add_argument("--beside", nargs="*", default=[], help="more devices, one picture")
    parser.add_argument("--rounds", type=int, default=3, help="pictures of each (default 3)")
    parser.add_argument("--precision", choices=("f32", "f16"), default="f32")
    parser.add_argument("--peer", default=sys.executable, help="a Python that has diffusers")
    parser.add_argument("--threads", type=int, default=2, help="PyTorch's threads (default 2)")
    parser.add_argument("--peak", type=float, help="FLOP/s of the machine, for the floor")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def start_peer(args: argparse.Namespace, folder: str) -> subprocess.Popen[str]:
    command = [args.peer, "-P", "-c", PEER, folder, str(args.threads)]
    peer = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    if _line(peer.stdout) != "ready":
        sys.exit("the peer did not start: pip install '.[parity]', or name a Python with --peer")
    return peer


def _line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline().strip()


def peer_times(peer: subprocess.Popen[str]) -> tuple[float, float]:
    """Seconds of a picture, and of the process's threads."""
    assert peer.stdin is not None
    print(PROMPT, file=peer.stdin, flush=True)
    seconds, worked = _line(peer.stdout).split()
    return float(seconds), float(worked)


def compile_seconds(args: argparse.Namespace) -> float:
    """From `.sdl` text to verified kernels of the three networks, nothing kept from before."""
    from sdlc.backends.target import load_target
    from sdlc.graph.types import DType
    from sdlc.models.folder import load_folder
    from sdlc.models.networks import compile_network, networks
    from sdlc.models.settings import GenerateSettings

    folder = load_folder(None)
    begin = time.perf_counter()
    for network in networks(folder, GenerateSettings(PROMPT)):
        compile_network(network, folder, load_target("cpu"), DType(args.precision))
    return time.perf_counter() - begin


class Ours:
    """The model on one device, ready to draw."""

    def __init__(self, selector: str, precision: str) -> None:
        from sdlc.backends.devices import open_device
        from sdlc.graph.types import DType
        from sdlc.models.folder import load_folder
        from sdlc.models.pipeline import prepare
        from sdlc.models.settings import GenerateSettings

        self.settings = GenerateSettings(prompt=PROMPT, precision=DType(precision))
        begin = time.perf_counter()
        device = open_device(selector)
        self.painter = prepare(self.settings, load_folder(None), device, lambda _: None)
        self.starting = time.perf_counter() - begin
        self.rounds: list[tuple[float, float, dict[str, float]]] = []

    def draw(self) -> None:
        from sdlc.models.pipeline import draw

        begin, worked = time.perf_counter(), time.process_time()
        stages = draw(self.painter, self.settings, lambda _: None).seconds
        seconds, worked = time.perf_counter() - begin, time.process_time() - worked
        self.rounds.append((seconds, worked, dict(stages)))

    def report(self) -> dict[str, object]:
        """The best round that counts, network by network."""
        best, _, stages = min(self.rounds[1:], key=lambda each: each[0])
        parts = (self.painter.encoder, self.painter.sampler, self.painter.decoder)
        text, step, decode = (part.program for part in parts)
        flop = text.flop + self.settings.steps * step.flop + decode.flop
        return {
            "device": self.painter.device.info.name,
            "start_seconds": round(self.starting, 2),
            "sdlc_seconds": round(best, 3),
            "sdlc_cpu_seconds": round(min(worked for _, worked, _ in self.rounds[1:]), 3),
            "text_ms": round(stages["text"] * 1e3, 1),
            "step_ms": round(stages["step"] / self.settings.steps * 1e3, 1),
            "decode_ms": round(stages["decode"] * 1e3, 1),
            "gflop": round(flop / 1e9, 1),
            "gflop_per_second": round(flop / best / 1e9, 1),
            "dispatches": [len(p.dispatches) for p in (text, step, decode)],
            "arena_bytes": max(p.memory.arena for p in (text, step, decode)),
            "weight_bytes": sum(p.memory.weights for p in (text, step, decode)),
        }


def main() -> None:
    args = arguments()
    cold = compile_seconds(args)
    from sdlc.models.folder import load_folder

    every = [Ours(selector, args.precision) for selector in (args.device, *args.beside)]
    peer = None
    if args.peer != "none":
        peer = start_peer(args, os.fspath(load_folder(None).path))
    theirs: list[tuple[float, float]] = []
    for number in range(args.rounds + 1):  # the first of each warms caches and does not count
        for each in every if number < 2 else every[:1]:
            each.draw()
        if peer is not None:
            theirs.append(peer_times(peer))
    reports = [each.report() for each in every]
    if peer is not None:
        peer.terminate()
        for report in reports:
            best, worked = (min(each) for each in zip(*theirs[1:], strict=True))
            report["diffusers_seconds"] = round(best, 3)
            report["diffusers_cpu_seconds"] = round(worked, 3)
            report["ratio"] = round(float(str(report["sdlc_seconds"])) / best, 3)
    if args.peak:
        for report in reports:
            report["floor_seconds"] = round(float(str(report["gflop"])) * 1e9 / args.peak, 3)
    found = {"precision": args.precision, "compile_seconds": round(cold, 2), "devices": reports}
    if args.json:
        print(json.dumps(found, indent=2))
        return
    print(f"{args.precision}, compiled cold in {cold:.2f} s")
    for key in reports[0]:
        print(f"{key:20}", *(f"{report[key]!s:>36}" for report in reports))


if __name__ == "__main__":
    main()
