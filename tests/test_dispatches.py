"""Stable Diffusion 1.4's UNet (batch 2, 64 × 64): how many kernels a step starts, and that nothing
larger than its activations is stored."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdlc.api import make_request
from sdlc.graph.node import element_count
from sdlc.graph.numerics import Numerics
from sdlc.program.pipeline import planned, stored_weights

ROOT = Path(__file__).parent.parent
UNET = ROOT / "models" / "stable_diffusion" / "unet.sdl"
CONFIG = ROOT / "tests" / "data" / "stable_diffusion_1_4_unet.json"
SIZES = {"b": 2, "c": 4, "h": 64, "w": 64, "t": 77, "d": 768}
GATED = 2 * 4096 * 4 * 320
"""Elements of the largest activation: what the gated networks at 64 × 64 have inside."""


@pytest.mark.parametrize("name", ["cpu"])
def test_a_step_of_the_unet_starts_few_kernels(name: str) -> None:
    request = make_request(UNET, name, None, SIZES, (CONFIG, "f16"))
    made = planned(request.graph(), request.target, request.rules)
    kernels, report = made.plan.kernels, made.report
    assert len(kernels) <= 350
    stored = [element_count(s.node) for k in kernels for s in k.group.stores]
    assert max(stored) == GATED
    bilinear = [
        r.name for r in request.rules if r.numerics is Numerics.BILINEAR and report.fired(r.name)
    ]
    assert sum(map(report.fired, bilinear)) == 22, "the count is that with every rule that pays"
    assert made.plan.fired >= {"strips"}
    assert stored_weights(made.parts.run, made.plan) == 2_194_562_808, "2,093 MiB"
