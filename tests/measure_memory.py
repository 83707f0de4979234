"""What a picture takes of the process's memory, by the operating system's accounting (Linux).

    python tests/measure_memory.py [--model MODEL] [--size 512x512] [--steps 2] [--precision f16]

Prints, for each stage, the most that was resident in it (the kernel's VmHWM, reset between stages),
and at the end the peak beside what it may be: the largest network's weights and arena, and 400 MiB.
On a device in the process's own memory (a CPU's OpenCL) that holds weights and arena as well. Not
part of the suite.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from sdlc.backends.devices import open_device, target_of
from sdlc.graph.types import DType
from sdlc.models.model import load_model
from sdlc.models.networks import compiled, networks
from sdlc.models.pipeline import generate
from sdlc.models.settings import GenerateSettings, Progress
from sdlc.program.execute import memory_of

MEBI = 2**20
SPARE = 400 * MEBI


def resident(field: str) -> int:
    """Bytes of a line of /proc/self/status."""
    text = Path("/proc/self/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB", text, re.M)
    assert found is not None
    return int(found[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model")
    parser.add_argument("--size", default="512x512")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--precision", choices=["f16", "f32"], default="f16")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    settings = GenerateSettings(
        "a slice of pizza",
        model=args.model,
        steps=args.steps,
        size=(width, height),
        precision=DType(args.precision),
        device=args.device,
    )
    peaks: dict[str, int] = {}

    def tell(progress: Progress) -> None:
        most = resident("VmHWM")
        peaks[progress.stage] = max(most, peaks.get(progress.stage, 0))
        Path("/proc/self/clear_refs").write_text("5")
        now = resident("VmRSS")
        what = f"{progress.stage} {progress.label}".strip()
        print(
            f"{what:24} {progress.done}/{progress.total} most {most / MEBI:8.0f} MiB, "
            f"then {now / MEBI:8.0f} MiB",
            flush=True,
        )

    generate(settings, tell)
    report(settings, peaks)


def report(settings: GenerateSettings, peaks: dict[str, int]) -> None:
    """The peak beside its bound; the networks come from the cache of programs."""
    model, device = load_model(settings.model), open_device(settings.device)
    target = target_of(device.info)
    bound = 0
    for network in networks(model, settings):
        program = compiled(network, model, target, settings.precision, device)[0]
        needed = memory_of(program)
        total = needed.weights + needed.arena
        bound = max(bound, total)
        print(
            f"{network.source:24} weights {needed.weights / MEBI:8.0f} MiB, "
            f"arena {needed.arena / MEBI:6.0f} MiB, loading {needed.loading / MEBI:6.0f} MiB"
        )
    peak = max(size for stage, size in peaks.items() if stage != "compile")
    print(
        f"peak while drawing {peak / MEBI:.0f} MiB; weights + arena + 400 MiB of the largest "
        f"network: {(bound + SPARE) / MEBI:.0f} MiB; compiling {peaks['compile'] / MEBI:.0f} MiB"
    )


if __name__ == "__main__":
    main()
