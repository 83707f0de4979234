"""What phones' compilers say of the default model and of SD 1.4's first block: every kernel. Not a
test.

    python tests/measure_phones.py [--target adreno mali apple] [--program block text unet vae]
        [--kernels NAME …] [--json FILE]

Compiles each program in f16 for each target, and every kernel, those of its load program included,
for each language that a back-end of the target takes (docs/targets.md: "What a phone's compiler
says"; `backends/offline_setup.sh` builds the back-ends). Prints a line a program with its spills,
then the kernels whose name holds one of `--kernels` (default: of the block, those with the most
work), with the shares of multiply-adds of their main loop and of what stands between barriers.
Exit status 1 where anything spills or is refused.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from bench_block import PROGRAM, SIZES
from sdlc.api import make_request
from sdlc.api_texts import target_texts
from sdlc.backends.offline import folder, gpus
from sdlc.backends.statistics import Statistics, statistics
from sdlc.backends.target import load_target
from sdlc.cli_common import print_table
from sdlc.graph.types import DType
from sdlc.models.folder import load_folder
from sdlc.models.networks import compile_network, networks
from sdlc.models.settings import GenerateSettings
from sdlc.program.program import Program

TARGETS = ("adreno", "mali", "apple")
NETWORKS = {"text": "text_encoder.sdl", "unet": "sampler.sdl", "vae": "vae_decoder.sdl"}
COLUMNS = (
    *("kernel", "language", "FLOP", "multiply-adds", "between barriers"),
    *("registers", "occupancy", "spills"),
)
SHARE = 0.01
"""Kernels of the block with less of its work than this are not listed."""
PART = 0.05
"""Nor what stands between barriers with less than this of a kernel's multiply-adds."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", nargs="*", default=TARGETS, choices=TARGETS)
    programs = ("block", *NETWORKS)
    parser.add_argument("--program", nargs="*", default=programs, choices=programs)
    parser.add_argument("--kernels", nargs="*", default=(), help="parts of kernels' names to list")
    parser.add_argument("--json", type=Path, help="write everything to this file as well")
    return parser.parse_args()


def compiled(name: str, target: str) -> Program:
    """The program in f16 by the compiler's own choices."""
    if name == "block":
        return make_request(PROGRAM, target, None, SIZES, (None, "f16")).build().program
    model = load_folder(None)
    settings = GenerateSettings("a slice of pizza")
    network = next(n for n in networks(model, settings) if n.source == NETWORKS[name])
    return compile_network(network, model, load_target(target), DType.F16)


def flop_of(program: Program) -> dict[str, int]:
    """The work of each kernel, all its dispatches together."""
    found: dict[str, int] = {}
    for dispatch in program.dispatches:
        found[dispatch.kernel] = found.get(dispatch.kernel, 0) + dispatch.flop
    return found


def measured(name: str, target: str) -> Iterator[tuple[Statistics, int]]:
    """Every kernel in every language, and its FLOP (0 in the load program)."""
    program = compiled(name, target)
    flop = flop_of(program)
    for language in dict.fromkeys(lang for gpu in gpus(target) for lang in gpu.languages):
        texts = target_texts(program, load_target(target), (language,))
        for row in statistics({language: texts}, target, folder()):
            yield row, flop.get(row.kernel, 0)


def cells(row: Statistics, flop: int) -> tuple[str, ...]:
    share = f"{100 * row.main_loop.share:.1f} %" if row.main_loop else ""
    registers = "" if row.registers is None else str(row.registers)
    occupancy = "" if row.occupancy is None else f"{row.occupancy:.3f}"
    work = f"{flop / 1e9:.2f} G"
    least = PART * sum(phase.multiply_adds for phase in row.phases)
    parts = (f"{100 * p.share:.1f}" for p in row.phases if p.multiply_adds > least)
    phases = ", ".join(parts)
    return (row.kernel, row.language, work, share, phases, registers, occupancy, str(row.spills))


def main() -> None:
    args = arguments()
    everything, bad = [], 0
    for target in args.target:
        for name in args.program:
            begin = time.perf_counter()
            rows = list(measured(name, target))
            spilled = [f"{r.kernel} ({r.language}) {r.spills}" for r, _ in rows if r.spills]
            refused = [f"{r.kernel} ({r.language}): {r.error}" for r, _ in rows if r.error]
            bad += len(spilled) + len(refused)
            seconds = time.perf_counter() - begin
            counted = f"{target} {name}: {len(rows)} kernels in {seconds:.0f} s"
            print(f"{counted}, spilled: {', '.join(spilled) or 'none'}", flush=True)
            for line in refused:
                print(f"  not built: {line}")
            most = SHARE * sum(flop for row, flop in rows if row.language == rows[0][0].language)
            parts = args.kernels
            wanted = [
                cells(row, flop)
                for row, flop in rows
                if (
                    any(p in row.kernel for p in parts)
                    if parts
                    else name == "block" and flop > most
                )
            ]
            if wanted:
                print_table(COLUMNS, wanted)
            everything += [
                asdict(r) | {"target": target, "program": name, "flop": flop} for r, flop in rows
            ]
    if args.json:
        args.json.write_text(json.dumps(everything, indent=1))
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
