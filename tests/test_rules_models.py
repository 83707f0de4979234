"""Rules on the networks of Stable Diffusion: where they fire, where not and why, and that the
networks compute the same."""

from __future__ import annotations

import cProfile
import pstats
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from rule_programs import values_for
from sdlc.graph.hoist import hoist
from sdlc.graph.node import Graph, Input, Reduce, Role, topological
from sdlc.graph.reference import Mode, evaluate
from sdlc.graph.rules import RewriteReport, rewrite, select
from sdlc.graph.types import Array, DType
from sdlc.language.elaborate import build
from sdlc.language.elaborate_rule import load_rules
from sdlc.language.library import load
from sdlc.schedule.budget import weight_bytes

MODELS = Path(__file__).resolve().parent.parent / "models" / "stable_diffusion"
LIBRARY = load(MODELS / "unet.sdl")
RULES = load_rules(LIBRARY)
SMALL = {
    "block_out_channels": [8, 16],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "cross_attention_dim": 12,
    "norm_num_groups": 4,
}


@cache
def stable_diffusion() -> Graph:
    """The UNet of Stable Diffusion 1.4 at 512 × 512, both halves of a guided step."""
    sizes = {"b": 2, "c": 4, "h": 64, "w": 64, "t": 77, "d": 768}
    return build(LIBRARY, None, sizes, {"cross_attention_dim": 768}, DType.F16)


def applied(*names: str) -> tuple[Graph, RewriteReport]:
    return rewrite(stable_diffusion(), select(RULES, only=names))


def test_every_attention_is_found() -> None:
    """Heads lie side by side in the last axis, keys are 77 or as many as pixels."""
    graph, report = applied("flash_attention")
    assert report.fired("flash_attention") == 32
    states = [n for n in topological(graph) if isinstance(n, Reduce) and len(n.dtypes) == 3]
    found = [n for n in states if n.monoid.name == "attention_state"]
    assert {n.over[0].extent for n in found} == {64, 77, 256, 1024, 4096}
    assert {len(n.axes) for n in found} == {4}


def test_winograd_is_for_large_pictures() -> None:
    """22 convolutions at 64 × 64 and 32 × 32, as in the paper's table; why the others are not."""
    graph, report = applied("winograd_4")
    assert report.fired("winograd_4") == 22
    reasons = " ".join(report.refusals("winograd_4"))
    for why in ("fewer than 64 channels (c = 4, o = 320)", "the extent of `i` is 1, not 3"):
        assert why in reasons
    assert "the index `row * 2 + i - 1` is not `row + i - 1`" in reasons
    weights = [n for n in topological(graph) if n.origin.definition == "winograd_weights2d"]
    assert weights and all(len(n.shape) == 4 for n in weights)  # no ambient axis: made at load


def test_convolutions_have_no_guard_left() -> None:
    _, report = applied("halo")
    assert report.fired("halo") == 51
    assert list(report.refusals("halo")) == [
        "`latent` is no map, so a padded copy would be one more kernel"
    ]


def test_linear_layers_in_a_row_are_one() -> None:
    """A gated network's second layer, the residual sum and the projection of each transformer."""
    graph, report = applied("compose_products")
    assert report.fired("compose_products") == 16
    composed = [n for n in topological(graph) if n.origin.definition == "compose_products"]
    assert {n.shape for n in composed if n.origin.name == "both"} == {
        (c, 5 * c) for c in (320, 640, 1280)
    }


def test_what_norms_scale_and_shift_is_in_the_weights_behind_them() -> None:
    """Queries, keys and values of one norm, queries of the next, the gated layer, and a 1 × 1
    convolution of each transformer; norms before activations stay. A bias of each column stands for
    a scale and a shift of each term: weights grow by the difference of these vectors, 0.03 %. The
    gated layer and the convolution have a bias already."""
    graph, report = applied("fold_affine", "join_shifts", "join_biases")
    assert report.fired("join_biases") == 32
    assert report.fired("fold_affine") == 96
    assert report.fired("join_shifts") == 48
    before, after = (weight_bytes(hoist(g).run) for g in (stable_diffusion(), graph))
    assert after - before < 0.0003 * before
    maps = [n for n in topological(graph) if n.origin.definition == "fold_affine"]
    assert sum(n.origin.name == "z" for n in maps) == 64
    norms = (n for n in topological(graph) if n.origin.definition == "layer_normalize")
    assert {n.origin.name for n in norms} == {"stats"}


READ_TWICE = """model m(x: T[b, s, c]; o: int) -> T[b, s, o] {
  y = norm: layer_norm(x)
  param weight: T[o, c]
  z[i, j, n] = sum over p < c of USED * weight[n, p]
  return first: linear(y, o; bias = false) + second: linear(y, o) * z
}"""


@pytest.mark.parametrize(("used", "fires"), [("y[i, j, p]", True), ("exp(y[i, j, p])", False)])
def test_a_norm_that_is_read_otherwise_too_keeps_its_scale(used: str, fires: bool) -> None:
    """All products of a norm take what it multiplies by, or none does."""
    library = load(None, READ_TWICE.replace("USED", used))
    graph = build(library, None, {"b": 1, "s": 3, "c": 4, "o": 2}, {}, DType.F32)
    chosen = select(RULES, only=["fold_affine"])
    after, report = rewrite(graph, chosen)
    assert sum(a.fired for a in report.attempts) == (3 if fires else 0)
    if not fires:
        assert after is graph
        assert any("is also read by `z`" in why for why in report.refusals("fold_affine"))


def test_a_large_network_is_rewritten_quickly() -> None:
    graph = stable_diffusion()
    profile = cProfile.Profile()
    profile.runcall(rewrite, graph, RULES)
    assert pstats.Stats(profile).total_calls < 12e6  # type: ignore[attr-defined]  # 9.7e6


def test_names_and_places_stay() -> None:
    graph, report = applied("flash_attention", "halo")
    before = stable_diffusion()
    assert graph.inputs == before.inputs
    assert [o[0] for o in graph.outputs] == [o[0] for o in before.outputs]
    found = next(a for a in report.attempts if a.fired)
    assert found.root.origin.scope.startswith("down_blocks.0.") and found.root.origin.span


# ---- values --------------------------------------------------------------------------------------


def weights_of(graph: Graph) -> dict[str, Array]:
    generator = np.random.default_rng(0)
    nodes = [n for n in topological(graph) if isinstance(n, Input) and n.role is Role.WEIGHT]
    return {n.name: generator.normal(0, 0.2, n.shape).astype(n.dtype.numpy) for n in nodes}


@pytest.mark.parametrize(
    ("only", "times"),
    [
        (None, 100),
        (["halo"], 19),
        (["flash_attention"], 8),
        (["winograd_2"], 19),
        (["compose_products"], 4),
        (["fold_affine", "join_shifts"], 24),
    ],
)
def test_a_network_computes_the_same(only: list[str] | None, times: int) -> None:
    """In f64: only the rounding of Winograd's constants remains."""
    sizes = {"b": 1, "c": 4, "h": 6, "w": 10, "t": 5, "d": 12}
    graph = build(LIBRARY, None, sizes, SMALL, DType.F32)
    after, report = rewrite(graph, select(RULES, only=only), lambda rule, match: "")
    assert sum(a.fired for a in report.attempts) >= times
    inputs, weights = values_for(graph, 0), weights_of(graph)
    wanted = evaluate(graph, inputs, weights, Mode.F64)["out"]
    got = evaluate(after, inputs, weights, Mode.F64)["out"]
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())
