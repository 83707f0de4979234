"""Stable Diffusion 1.4's UNet (batch 2, 64 × 64, f16) with every rule on: how many kernels a step
starts, that nothing larger than its activations is stored, and how much memory its values take.

`python tests/test_dispatches.py` looks at every target; the suite at two, which take seconds each.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from sdlc.api import make_request
from sdlc.graph.numerics import Numerics
from sdlc.program.ejection import Lifetime
from sdlc.program.memory import MemoryPlan, plan_memory
from sdlc.program.pipeline import Planned, planned, stored_weights, tensors_of
from sdlc.program.program import TensorRole

ROOT = Path(__file__).parent.parent
UNET = ROOT / "models" / "stable_diffusion" / "unet.sdl"
CONFIG = ROOT / "tests" / "data" / "stable_diffusion_1_4_unet.json"
SIZES = {"b": 2, "c": 4, "h": 64, "w": 64, "t": 77, "d": 768}
GATED = 2 * 2 * 4096 * 4 * 320
"""Bytes of the largest activation: what the gated networks at 64 × 64 have inside."""
MOST = {
    "cpu": 350,
    "nvidia": 350,
    "nvidia-matrix": 350,
    "apple": 350,
    "adreno": 333,
    "mali": 350,
}
"""Kernels of a step: where all 22 convolutions take tiles, the largest in two strips."""
MIB = 1 << 20


@cache
def step_for(name: str) -> Planned:
    request = make_request(UNET, name, None, SIZES, (CONFIG, "f16"))
    return planned(request.graph(), request.target, request.rules)


def largest(made: Planned) -> int:
    """Bytes of the largest value that a kernel stores."""
    names, tensors = tensors_of(made.parts.run, made.plan)
    stored = {(s.node, s.field) for k in made.plan.kernels for s in k.group.stores}
    return max(tensors[names[value]].nbytes for value in stored)


def memory(made: Planned) -> MemoryPlan:
    """The arena, each value in a place of its own while it is live."""
    names, tensors = tensors_of(made.parts.run, made.plan)
    spans: dict[str, tuple[int, int]] = {}
    for time, kernel in enumerate(made.plan.kernels):
        group = kernel.group
        for value in (*group.operands, *((s.node, s.field) for s in group.stores)):
            name = names[value]
            if tensors[name].role is TensorRole.TEMPORARY:
                spans[name] = spans.get(name, (time, time))[0], time
    lives = [Lifetime(n, first, last, tensors[n].nbytes) for n, (first, last) in spans.items()]
    return plan_memory(lives, alignment=512)


@pytest.mark.parametrize("name", ["cpu", "mali"])
def test_a_step_of_the_unet_starts_few_kernels(name: str) -> None:
    made = step_for(name)
    assert len(made.plan.kernels) <= MOST[name]
    assert largest(made) == GATED
    found = memory(made)
    assert found.arena <= min(65 * MIB, 1.02 * found.lower_bound)


def test_rules_of_every_class_fire() -> None:
    """The counts are those with every rule that pays."""
    made = step_for("cpu")
    rules = make_request(UNET, "cpu", None, SIZES, (CONFIG, "f16")).rules
    bilinear = [r.name for r in rules if r.numerics is Numerics.BILINEAR]
    assert sum(map(made.report.fired, bilinear)) == 22
    assert made.plan.fired >= {"strips"}
    assert round(stored_weights(made.parts.run, made.plan) / MIB) == 2093


def test_whole_pictures_are_decoded_in_260_mib() -> None:
    """512 × 512 pixels in f16: the largest value beside the two that it is made to."""
    source = UNET.parent / "vae_decoder.sdl"
    request = make_request(source, "cpu", None, {"b": 1, "c": 4, "h": 64, "w": 64}, (None, "f16"))
    made = planned(request.graph(), request.target, request.rules)
    assert made.plan.fired >= {"compute_late", "strips"}
    assert memory(made).arena <= 260 * MIB


def main() -> None:
    for name in MOST:
        made = step_for(name)
        found = memory(made)
        print(
            f"{name}: {len(made.plan.kernels)} kernels, largest {largest(made) / MIB} MiB,"
            f" arena {found.arena / MIB:.1f} MiB (bound {found.lower_bound / MIB:.1f})"
        )


if __name__ == "__main__":
    main()
