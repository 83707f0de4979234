"""One default picture beside diffusers on PyTorch, in one run, by turns. Not a test: no assertion.

    pip install '.[cpu,parity]'
    python tests/bench_picture.py [--device cpu] [--rounds 3] [--peer PYTHON] [--json]

Both draw the shipped model's 256 x 256 picture in 20 steps with guidance from weights in memory.
`compile_seconds` is our compiler, cold; `start_seconds` is compiling (kept from an earlier run or
not), the driver's builds and loading. `--peer` is a Python that has diffusers (default:
this one). FLOP are counted from the programs; the floor is FLOP over `--peak`.
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
    begin = time.perf_counter()
    pipe(line.strip(), num_inference_steps=20, guidance_scale=5.0, generator=noise)
    print(time.perf_counter() - begin, flush=True)
"""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="where sdlc draws (default cpu)")
    parser.add_argument("--rounds", type=int, default=3, help="pictures of each (default 3)")
    parser.add_argument("--precision", choices=("f32", "f16"), default="f32")
    parser.add_argument("--peer", default=sys.executable, help="a Python that has diffusers")
    parser.add_argument("--threads", type=int, default=2, help="PyTorch's threads (default 2)")
    parser.add_argument("--peak", type=float, help="FLOP/s of the machine, for the floor")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def start_peer(args: argparse.Namespace, folder: str) -> subprocess.Popen[str]:
    command = [args.peer, "-c", PEER, folder, str(args.threads)]
    peer = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    if _line(peer.stdout) != "ready":
        sys.exit("the peer did not start: pip install '.[parity]', or name a Python with --peer")
    return peer


def _line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline().strip()


def peer_seconds(peer: subprocess.Popen[str]) -> float:
    assert peer.stdin is not None
    print(PROMPT, file=peer.stdin, flush=True)
    return float(_line(peer.stdout))


def compile_seconds(args: argparse.Namespace) -> float:
    """From `.sdl` text to verified kernels of the three networks, nothing kept from before."""
    from sdlc.backends.target import load_target
    from sdlc.graph.types import DType
    from sdlc.models.folder import load_folder
    from sdlc.models.pipeline import GenerateSettings, compile_network, networks

    folder = load_folder(None)
    begin = time.perf_counter()
    for network in networks(folder, GenerateSettings(PROMPT)):
        compile_network(network, folder, load_target("cpu"), DType(args.precision))
    return time.perf_counter() - begin


def main() -> None:
    args = arguments()
    cold = compile_seconds(args)
    from sdlc.backends.devices import open_device
    from sdlc.graph.types import DType
    from sdlc.models.folder import load_folder
    from sdlc.models.pipeline import GenerateSettings, draw, prepare

    folder = load_folder(None)
    settings = GenerateSettings(prompt=PROMPT, precision=DType(args.precision))
    begin = time.perf_counter()
    painter = prepare(settings, folder, open_device(args.device), lambda _: None)
    starting = time.perf_counter() - begin
    programs = (painter.encoder.program, painter.sampler.program, painter.decoder.program)
    flop = programs[0].flop + settings.steps * programs[1].flop + programs[2].flop
    peer = start_peer(args, os.fspath(folder.path))
    ours, theirs = [], []
    for _ in range(args.rounds + 1):  # the first of each warms caches and does not count
        begin = time.perf_counter()
        draw(painter, settings, lambda _: None)
        ours.append(time.perf_counter() - begin)
        theirs.append(peer_seconds(peer))
    peer.terminate()
    best, peer_best = min(ours[1:]), min(theirs[1:])
    report = {
        "device": painter.device.info.name,
        "precision": args.precision,
        "compile_seconds": round(cold, 2),
        "start_seconds": round(starting, 2),
        "sdlc_seconds": round(best, 3),
        "diffusers_seconds": round(peer_best, 3),
        "ratio": round(best / peer_best, 3),
        "gflop": round(flop / 1e9, 1),
        "gflop_per_second": round(flop / best / 1e9, 1),
        "floor_seconds": round(flop / args.peak, 3) if args.peak else None,
        "dispatches_per_step": len(programs[1].dispatches),
        "arena_bytes": max(p.memory.arena for p in programs),
        "weight_bytes": sum(p.memory.weights for p in programs),
    }
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        print("\n".join(f"{key:26} {value}" for key, value in report.items() if value is not None))


if __name__ == "__main__":
    main()
