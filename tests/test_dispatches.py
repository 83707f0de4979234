"""Stable Diffusion 1.4's UNet (batch 2, 64 × 64, f16) with every rule on: how many kernels a step
starts, that nothing larger than its activations is stored, and how much memory its values take.

`python tests/test_dispatches.py` looks at every target; the suite at two, which take seconds each.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from sdlc.api import make_request
from sdlc.graph.hoist import hoist
from sdlc.graph.node import Graph, element_count
from sdlc.graph.numerics import Numerics
from sdlc.graph.rules import RewriteReport, rewrite
from sdlc.program.memory import Lifetime, MemoryPlan, plan_memory
from sdlc.program.pipeline import tensors_of
from sdlc.program.program import TensorRole
from sdlc.schedule.plan import Plan, plan
from sdlc.schedule.profit import profitable, scheduled_by

ROOT = Path(__file__).parent.parent
UNET = ROOT / "models" / "stable_diffusion" / "unet.sdl"
CONFIG = ROOT / "tests" / "data" / "stable_diffusion_1_4_unet.json"
SIZES = {"b": 2, "c": 4, "h": 64, "w": 64, "t": 77, "d": 768}
GATED = 2 * 4096 * 4 * 320
"""Elements of the largest activation: what the gated networks at 64 × 64 have inside."""
MOST = 350
TARGETS = ("cpu", "nvidia", "apple", "adreno", "mali")
MIB = 1 << 20


@cache
def planned(name: str) -> tuple[Graph, Plan, RewriteReport]:
    request = make_request(UNET, name, None, SIZES, (CONFIG, "f16"))
    graph, rules, target = request.graph(), request.rules, request.target
    after, report = rewrite(graph, rules, profitable(target, graph, rules))
    run = hoist(after).run
    return run, plan(run, target, enabled=scheduled_by(rules)), report


def largest(made: Plan) -> int:
    return max(element_count(s.node) for k in made.kernels for s in k.group.stores)


def memory(run: Graph, made: Plan) -> MemoryPlan:
    """The arena, each value in a place of its own while it is live."""
    names, tensors = tensors_of(run, made)
    spans: dict[str, tuple[int, int]] = {}
    for time, kernel in enumerate(made.kernels):
        group = kernel.group
        for value in (*group.operands, *((s.node, s.field) for s in group.stores)):
            name = names[value]
            if tensors[name].role is TensorRole.TEMPORARY:
                spans[name] = spans.get(name, (time, time))[0], time
    lives = [Lifetime(n, first, last, tensors[n].nbytes) for n, (first, last) in spans.items()]
    return plan_memory(lives, alignment=512)


@pytest.mark.parametrize("name", ["cpu", "mali"])
def test_a_step_of_the_unet_starts_few_kernels(name: str) -> None:
    run, made, _ = planned(name)
    assert len(made.kernels) <= MOST
    assert largest(made) == GATED
    found = memory(run, made)
    assert found.arena <= min(65 * MIB, 1.02 * found.lower_bound)


def test_rules_of_every_class_fire() -> None:
    """The counts are those with every rule that pays, and winograd's room is explained."""
    request = make_request(UNET, "cpu", None, SIZES, (CONFIG, "f16"))
    _, _, report = planned("cpu")
    bilinear = [r for r in request.rules if r.numerics is Numerics.BILINEAR]
    fired = [r.name for r in bilinear if report.fired(r.name)]
    assert fired, "the count is that with every rule that pays"
    (why,) = [w for w in report.refusals(fired[0]) if "at once" in w][:1]
    assert why.endswith(f"the rest of the program {GATED}")


if __name__ == "__main__":
    for target in TARGETS:
        graph, kernels, _ = planned(target)
        held = memory(graph, kernels)
        print(
            f"{target}: {len(kernels.kernels)} kernels, largest value {2 * largest(kernels) / MIB}"
            f" MiB, arena {held.arena / MIB:.1f} MiB (bound {held.lower_bound / MIB:.1f})"
        )
