"""A GPU: first whether it is right, then how long it takes, PyTorch beside it. Not a test.

    python tests/bench_gpu.py [--devices SELECTOR …] [--peer PYTHON] [--compile] [--out FOLDER]

For the best GPU of each language (OpenCL, and WGSL through Vulkan), or the devices that are named:
the reference picture of the shipped model in f16 against PyTorch's f32 on a CPU (PSNR of at least
40 dB), then one step of Stable Diffusion 1.4's UNet, batch 2, 64 x 64 latent, f16, seeded random
weights: against PyTorch in f32 with the same weights, then its time and where it goes. PyTorch runs
in the Python of `--peer`: eager, and with `--compile` torch.compile as well. What cannot run is
said, and the rest goes on. A short table comes last; everything is in FOLDER (default: $OUT) as
JSON, with a profile of each device. `--small` is a rehearsal with a small UNet.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from threading import Thread, Timer
from typing import Any

import numpy as np

from bench_devices import measure
from sdlc.api import make_request
from sdlc.backends.devices import find_devices, open_device, target_of
from sdlc.cli_bench import PROFILE_COLUMNS, largest_temporary, profile_rows
from sdlc.cli_bench_run import with_rules
from sdlc.cli_common import parse_names, print_table
from sdlc.graph.types import DType
from sdlc.models.folder import SOURCES
from sdlc.program.execute import Executable
from sdlc.program.profile import profile, summed
from sdlc.program.profile_data import RandomWeights, random_inputs
from sdlc.program.program import Program

CONFIG = {"cross_attention_dim": 768}
"""Stable Diffusion 1.4's, where it is not the default of both."""
SIZES = {"b": 2, "c": 4, "h": 64, "w": 64, "t": 77, "d": 768}
SMALL_CONFIG = {"cross_attention_dim": 32, "block_out_channels": [32, 32, 64, 64]}
SMALL_SIZES = {"b": 2, "c": 4, "h": 16, "w": 16, "t": 7, "d": 32}
PICTURE_LIMIT, ERROR_LIMIT = 40.0, 1e-2
TIME_LIMITS = {"opencl": 0.060, "webgpu": 0.080}
RUNS, WARM_UP = 20, 3
SHOWN = 12
GRACE = 30
COLUMNS = ("what", "where", "value", "wanted", "")


@dataclass
class Report:
    """What was found. `lines` are (what, where, value, wanted, verdict)."""

    out: Path
    begin: float = field(default_factory=time.perf_counter)
    lines: list[tuple[str, str, str, str, str]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def say(self, text: str) -> None:
        print(f"[{time.perf_counter() - self.begin:6.1f} s] {text}", flush=True)

    def add(self, what: str, where: str, value: str, wanted: str = "", right: bool = True) -> None:
        self.lines.append((what, where, value, wanted, "" if right else "NOT MET"))
        self.say(f"{what}, {where}: {value} {'' if right else 'NOT MET'}")
        self.write("report", {"lines": self.lines, "facts": self.facts})

    def write(self, name: str, value: Any) -> None:
        (self.out / f"{name}.json").write_text(json.dumps(value, indent=1, default=str))

    def attempt(self, what: str, where: str, work: Callable[[], None]) -> None:
        """Goes on where `work` fails, and says how."""
        try:
            work()
        except Exception as error:
            traceback.print_exc()
            first = str(error).splitlines()[0][:100] if str(error) else ""
            self.add(what, where, f"failed: {type(error).__name__}: {first}", right=False)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", nargs="+", help="selectors (default: the best GPUs)")
    parser.add_argument("--peer", default=sys.executable, help="a Python with torch, or `none`")
    parser.add_argument("--compile", action="store_true", help="time torch.compile too (minutes)")
    parser.add_argument("--no-picture", action="store_true", help="only the UNet")
    parser.add_argument("--only", help="rules of the UNet: NAME[,NAME] (default: the compiler's)")
    parser.add_argument("--small", action="store_true", help="a rehearsal with a small UNet")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")))
    parser.add_argument("--limit", type=float, default=540, help="seconds for all (default 540)")
    return parser.parse_args()


def gpus() -> list[str]:
    """The best GPU of each kind of device; every kind's best where there is no GPU."""
    best: dict[str, str] = {}
    for info in find_devices().devices:
        best.setdefault(info.kind, info.id)
    return list(best.values())


# ---- PyTorch -------------------------------------------------------------------------------------


class Peer:
    """PyTorch in a process of its own; `started` waits until its results are there."""

    def __init__(self, python: str, folder: Path) -> None:
        script = Path(__file__).parent / "peer_unet.py"
        command = [python, "-P", "-W", "ignore", str(script), str(folder)]
        pipe = subprocess.PIPE
        self.folder = folder
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def read(self, seconds: float) -> dict[str, Any]:
        """The next line, or RuntimeError after so many seconds."""
        lines: list[str] = []
        stream = self.process.stdout
        reader = Thread(target=lambda: lines.append(stream.readline()), daemon=True)
        reader.start()
        reader.join(max(seconds, 1))
        if not lines or not lines[0].strip():
            raise RuntimeError("PyTorch gave no answer" if lines else "PyTorch took too long")
        return json.loads(lines[0])

    def ask(self, what: str, seconds: float) -> dict[str, Any]:
        print(what, file=self.process.stdin, flush=True)
        return self.read(seconds)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def start_peer(args: argparse.Namespace, case: Case, folder: Path) -> Peer | None:
    """Writes what PyTorch needs and starts it."""
    from safetensors.numpy import save_file

    if args.peer == "none":
        return None
    (folder / "config.json").write_text(json.dumps(case.config))
    np.savez(folder / "inputs.npz", **case.inputs)
    save_file(case.weights, folder / "weights.safetensors")
    return Peer(args.peer, folder)


# ---- the UNet ------------------------------------------------------------------------------------


@dataclass
class Case:
    """The UNet for one target, with the values that every device and PyTorch are given."""

    config: dict[str, Any]
    programs: dict[str, Program]
    weights: dict[str, np.ndarray]
    inputs: dict[str, np.ndarray]


def make_case(args: argparse.Namespace, targets: set[str], report: Report) -> Case:
    config, sizes = (SMALL_CONFIG, SMALL_SIZES) if args.small else (CONFIG, SIZES)
    programs: dict[str, Program] = {}
    for target in targets:
        begin = time.perf_counter()
        request = make_request(SOURCES / "unet.sdl", target, None, sizes, (config, "f16"))
        if args.only is not None:
            request = with_rules(request, parse_names([args.only]))
        programs[target] = program = request.build().program
        seconds = time.perf_counter() - begin
        report.add(
            "compile", f"UNet, {target}", f"{seconds:.1f} s, {len(program.dispatches)} disp."
        )
        if not args.small:
            count, largest = len(program.dispatches), largest_temporary(program)
            report.add("dispatches", target, f"{count}", "<= 350", count <= 350)
            report.add("largest temporary", target, f"{largest / 2**20:.0f} MiB")
        memory = program.memory
        report.facts[target] = {
            "dispatches": len(program.dispatches),
            "kernels": len(program.kernels),
            "gflop": program.flop / 1e9,
            "arena_bytes": memory.arena,
            "weight_bytes": memory.weights,
            "rules": [rule.name for rule in request.rules],
        }
    begin = time.perf_counter()
    weights = {n: np.ascontiguousarray(a) for n, a in RandomWeights(program).items()}
    report.say(f"{len(weights)} weights drawn in {time.perf_counter() - begin:.1f} s")
    inputs = random_inputs(program)
    inputs["timestep"] = np.full(sizes["b"], 500, np.float32)
    return Case(config, programs, weights, inputs)


def unet(selector: str, case: Case, wanted: np.ndarray | None, report: Report) -> None:
    """One device: right, then timed, then profiled."""
    device = open_device(selector)
    program = case.programs[target_of(device.info).name]
    begin = time.perf_counter()
    executable = Executable(program, device, case.weights)
    for name, array in case.inputs.items():
        executable.write(name, array)
    executable.finish()
    report.say(f"{selector}: built and loaded in {time.perf_counter() - begin:.1f} s")
    executable.step()
    got = np.asarray(executable.read("out"), np.float64)
    report.add(
        "UNet is finite",
        selector,
        str(np.isfinite(got).all()),
        "True",
        bool(np.isfinite(got).all()),
    )
    if wanted is not None:
        error = relative_error(got, wanted)
        report.add(
            "UNet error", selector, f"{error:.1e}", f"<= {ERROR_LIMIT}", error <= ERROR_LIMIT
        )
    seconds = sorted(step_seconds(executable) for _ in range(WARM_UP + RUNS))[:RUNS]
    limit = TIME_LIMITS[device.info.kind]
    value = f"{median(seconds) * 1e3:.1f} ms (best {seconds[0] * 1e3:.1f})"
    report.add("UNet step", selector, value, f"<= {limit * 1e3:.0f} ms", median(seconds) <= limit)
    measured = profile(executable, 5)
    report.write(f"profile-{device.info.kind}", [asdict(m) for m in measured])
    print_table(PROFILE_COLUMNS, profile_rows(measured)[:SHOWN])
    busy = sum(m.seconds for m in measured)
    report.add("  of it in kernels", selector, f"{busy * 1e3:.1f} ms")
    for row in summed(measured, lambda m: m.kernel)[:3]:
        rate = f"{row.seconds * 1e3:.2f} ms, {row.flop_rate / 1e12:.2f} TFLOP/s"
        report.add(f"  {row.name} x{row.count}", selector, rate)


def step_seconds(executable: Executable) -> float:
    begin = time.perf_counter()
    executable.step()
    executable.finish()
    return time.perf_counter() - begin


def relative_error(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


# ---- everything ----------------------------------------------------------------------------------


def picture(selector: str, report: Report) -> None:
    error, decibels, start, seconds = measure(selector, DType.F16)
    report.facts[f"picture {selector}"] = {"latents": error, "start": start, "seconds": seconds}
    value = f"{decibels:.1f} dB, drawn in {seconds:.2f} s"
    report.add("picture f16", selector, value, f">= {PICTURE_LIMIT} dB", decibels >= PICTURE_LIMIT)


def pytorch(peer: Peer, what: str, report: Report, left: float) -> None:
    got = peer.ask(what, left)
    report.add(f"PyTorch {what}", "UNet step", f"{got['seconds'] * 1e3:.1f} ms")
    report.facts[f"torch {what}"] = got


def reference(peer: Peer, report: Report, left: float) -> np.ndarray:
    report.facts["torch"] = versions = peer.read(left)
    wanted = np.load(peer.folder / "wanted.npy").astype(np.float64)
    error = relative_error(np.load(peer.folder / "half.npy").astype(np.float64), wanted)
    where = f"torch {versions['torch']}"
    report.add("UNet error, PyTorch's own f16", where, f"{error:.1e}")
    return wanted


def main() -> None:
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    report = Report(args.out)
    selectors = args.devices or gpus()
    infos = {selector: open_device(selector).info for selector in selectors}
    report.facts["devices"] = {s: f"{i.name}, {i.driver}" for s, i in infos.items()}
    report.facts["host"] = f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs"
    for selector, info in infos.items():
        report.say(f"{selector}: {info.name}, {info.driver}")

    overtime = Timer(args.limit + GRACE, lambda: stop(report))
    overtime.daemon = True
    overtime.start()

    def left() -> float:
        return args.limit - (time.perf_counter() - report.begin)

    with tempfile.TemporaryDirectory() as made:
        targets = {target_of(info).name for info in infos.values()}
        cases: list[Case] = []
        report.attempt("UNet", "compiler", lambda: cases.append(make_case(args, targets, report)))
        peer = start_peer(args, cases[0], Path(made)) if cases else None
        for selector in () if args.no_picture else selectors:
            report.attempt("picture f16", selector, lambda s=selector: picture(s, report))
        wanted: list[np.ndarray] = []
        if peer is not None:
            read = lambda: wanted.append(reference(peer, report, left() / 2))  # noqa: E731
            report.attempt("PyTorch", "UNet", read)
        known = wanted[0] if wanted else None
        for selector in selectors if cases else ():
            report.attempt("UNet", selector, lambda s=selector: unet(s, cases[0], known, report))
        asked = ("eager", "compile") if args.compile else ("eager",)
        for what in asked if wanted else ():
            report.attempt(what, "PyTorch", lambda w=what: pytorch(peer, w, report, left()))
        if peer is not None:
            peer.stop()
    overtime.cancel()
    print_table(COLUMNS, report.lines)
    sys.exit(any(line[4] for line in report.lines))


def stop(report: Report) -> None:
    """Out of time: what there is, and an end to everything."""
    report.lines.append(("the rest", "", "out of time", "", "NOT MET"))
    print_table(COLUMNS, report.lines)
    sys.stdout.flush()
    os._exit(1)


if __name__ == "__main__":
    main()
