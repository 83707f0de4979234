"""SD 1.4's first ResBlock + transformer beside other runtimes, in one run, by turns. Not a test.

    python tests/bench_block.py [--device cpu] [--rounds 5] [--peer PYTHON] [--profile]
        [--without RULE,RULE]

tests/programs/sd_block.sdl: 320 channels, a 64 x 64 latent, batch 2, a text of 77 x 768, 8 heads,
f32, seeded random weights. `--peer` is a Python with what shall be timed beside it (pip install
torch diffusers onnx onnxscript onnxruntime openvino); `--peer none` times sdlc alone. Every runtime
gives its result first: the relative error is against PyTorch's. All take turns, so what else the
machine does meets all of them; `CPU ms` is the time of the process's threads, which other work
hardly moves (but threads that wait by spinning count). `--baseline` adds ours without any rule (no
register tiles, values row-major) and ours with nothing but these two, the paper's baseline;
`--without` adds ours without the rules that it names; `--profile` shows where our time goes. Exit
status 1 where our result is wrong.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np

from sdlc.api import make_request
from sdlc.backends.devices import open_device, target_of
from sdlc.cli_bench import PROFILE_COLUMNS, profile_rows
from sdlc.cli_bench_run import with_rules
from sdlc.cli_common import parse_names, print_table
from sdlc.program.device import Device
from sdlc.program.execute import Executable
from sdlc.program.profile import profile
from sdlc.program.profile_data import RandomWeights, random_inputs

PROGRAM = Path(__file__).parent / "programs" / "sd_block.sdl"
PEER = Path(__file__).parent / "peer_block.py"
SIZES = {"b": 2, "c": 320, "h": 64, "w": 64, "e": 1280, "t": 77, "d": 768}
LIMIT = {"f32": 1e-3, "f16": 2e-2}
"""Relative errors (2-norm) beyond which a result is wrong rather than rounded."""
BASELINES = {
    "sdlc, no rule": (),
    "sdlc, tiles and orders only": ("register_tile", "storage_orders"),
}
"""Ours with fewer rules: every optimisation off, and the paper's baseline, whose products are tiled
and whose weights are packed."""
Times = tuple[float, float]
"""Of one run: seconds, and seconds of all the process's threads."""
FEATURES = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_tile")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="where sdlc runs (default cpu)")
    parser.add_argument("--target", help="what to compile for (default: the device's own)")
    parser.add_argument("--precision", choices=("f32", "f16"), default="f32")
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each (default 5)")
    parser.add_argument("--peer", default=sys.executable, help="a Python with torch, or `none`")
    parser.add_argument("--threads", type=int, default=2, help="the peers' threads (default 2)")
    parser.add_argument("--only", help="rules: NAME[,NAME] (default: the compiler's own)")
    parser.add_argument("--without", help="time it without these as well: NAME[,NAME]")
    parser.add_argument("--baseline", action="store_true", help="time it with fewer rules as well")
    parser.add_argument("--profile", action="store_true", help="where our time goes, by kernel")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=SIZE", help="other sizes")
    parser.add_argument("--json", type=Path, help="write everything to this file as well")
    return parser.parse_args()


def compiled(
    args: argparse.Namespace,
    device: Device,
    rules: Sequence[str] | None,
    without: Sequence[str] = (),
) -> Executable:
    """The block on the device with its inputs set, by these rules (None: the compiler's own)."""
    target = args.target or target_of(device.info).name
    sizes = SIZES | {name: int(n) for name, n in (s.split("=") for s in args.set)}
    begin = time.perf_counter()
    request = make_request(PROGRAM, target, None, sizes, (None, args.precision))
    if rules is not None or without:
        names = [rule.name for rule in request.rules] if rules is None else rules
        request = with_rules(request, tuple(name for name in names if name not in without))
    program = request.build().program
    middle = time.perf_counter()
    executable = Executable(program, device, RandomWeights(program))
    end = time.perf_counter()
    named = ", ".join(rule.name for rule in request.rules) or "no rule"
    print(
        f"{device.info.name}, target {target}, {args.precision}, {named}: "
        f"{len(program.dispatches)} dispatches, {program.flop / 1e9:.1f} GFLOP, arena "
        f"{program.memory.arena / 2**20:.0f} MiB, weights {program.memory.weights / 2**20:.1f} "
        f"MiB; compiled in {middle - begin:.1f} s, built and loaded in {end - middle:.1f} s",
        flush=True,
    )
    for name, array in random_inputs(program).items():
        executable.write(name, array)
    return executable


class Peer:
    """The other runtimes, in a process of their own."""

    def __init__(self, args: argparse.Namespace, executable: Executable, inputs: dict) -> None:
        from safetensors.numpy import save_file

        self._made = tempfile.TemporaryDirectory()
        self.folder = Path(self._made.name)
        np.savez(self.folder / "inputs.npz", **inputs)
        weights = RandomWeights(executable.program)
        save_file(
            {n: np.asarray(a, np.float32) for n, a in weights.items()},
            self.folder / "weights.safetensors",
        )
        # -P: the modules of this folder are none of theirs
        command = [args.peer, "-P", "-W", "ignore", str(PEER), str(self.folder), str(args.threads)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self.versions = dict(part.split("=") for part in self._line().split())
        if not self.versions:
            sys.exit("no other runtime started: name a Python that has torch with --peer, or none")

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def result(self, name: str) -> np.ndarray:
        return np.load(self.folder / f"{name}.npy")

    def times(self, name: str) -> Times:
        assert self.process.stdin is not None
        print(name, file=self.process.stdin, flush=True)
        seconds, worked = self._line().split()
        return float(seconds), float(worked)

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        self._made.cleanup()


def result_of(executable: Executable) -> np.ndarray:
    """The block's result of one step, in f32."""
    executable.step()
    made = np.asarray(executable.read(executable.program.outputs[0]), np.float32)
    if not np.isfinite(made).all():
        sys.exit("our result is not finite")
    return made


def step_times(executable: Executable) -> Times:
    begin, worked = time.perf_counter(), time.process_time()
    executable.step()
    executable.finish()
    return time.perf_counter() - begin, time.process_time() - worked


def by_turns(runners: dict[str, Callable[[], Times]], rounds: int) -> dict[str, list[Times]]:
    """Times of each; a first round warms caches and does not count."""
    times: dict[str, list[Times]] = {name: [] for name in runners}
    for _ in range(rounds + 1):
        for name, run in runners.items():
            times[name].append(run())
    return {name: runs[1:] for name, runs in times.items()}


def relative_error(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(got.astype(np.float64) - wanted) / np.linalg.norm(wanted))


def features() -> str:
    """The vector instructions of this processor, as far as they matter."""
    path = Path("/proc/cpuinfo")
    words = set(path.read_text().split()) if path.exists() else set()
    return " ".join(f for f in FEATURES if f in words) or "unknown"


def main() -> None:
    args = arguments()
    device = open_device(args.device)
    asked = None if args.only is None else parse_names([args.only])
    executable = compiled(args, device, asked)
    inputs = random_inputs(executable.program)
    inputs = {name: np.asarray(array, np.float32) for name, array in inputs.items()}
    ours = {"sdlc": result_of(executable)}
    if args.profile:
        print_table(PROFILE_COLUMNS, profile_rows(profile(executable, args.rounds)))
    runners: dict[str, Callable[[], Times]] = {"sdlc": lambda: step_times(executable)}
    fewer = {name: (rules, ()) for name, rules in BASELINES.items() if args.baseline}
    if args.without:
        fewer[f"sdlc, without {args.without}"] = (asked, parse_names([args.without]))
    for name, (rules, without) in fewer.items():
        plain = compiled(args, device, rules, without)
        ours[name] = result_of(plain)
        runners[name] = lambda plain=plain: step_times(plain)
    peer = None if args.peer == "none" else Peer(args, executable, inputs)
    errors = dict.fromkeys(runners, float("nan"))
    if peer is not None:
        wanted = peer.result("torch").astype(np.float64)
        found = ours | {name: peer.result(name) for name in peer.versions}
        errors = {name: relative_error(got, wanted) for name, got in found.items()}
        for name in peer.versions:
            runners[name] = lambda name=name: peer.times(name)
    times = by_turns(runners, args.rounds)
    versions = {} if peer is None else peer.versions
    print(f"processor: {features()}; {args.threads} threads for the others")
    report(times, errors, versions)
    if args.json:
        made = {"times": times, "errors": errors, "versions": versions, "features": features()}
        args.json.write_text(json.dumps(made, indent=1))
    if peer is not None:
        peer.stop()
        sys.exit(not errors["sdlc"] <= LIMIT[args.precision])


def report(times: dict[str, list[Times]], errors: dict[str, float], versions: dict) -> None:
    walls = {name: [seconds for seconds, _ in runs] for name, runs in times.items()}
    ours, best = median(walls["sdlc"]), min(walls["sdlc"])
    rows = [
        (
            f"{name} {versions.get(name, '')}".strip(),
            f"{median(seconds) * 1e3:.1f}",
            f"{min(seconds) * 1e3:.1f}",
            f"{ours / median(seconds):.2f}",
            f"{best / min(seconds):.2f}",
            f"{min(worked for _, worked in times[name]) * 1e3:.0f}",
            f"{errors[name]:.1e}",
        )
        for name, seconds in walls.items()
    ]
    columns = ("runtime", "median ms", "best ms", "sdlc / it (median)", "(best)", "CPU ms", "error")
    print_table(columns, rows)


if __name__ == "__main__":
    main()
