"""Softmax, attention and norms where arithmetic goes wrong: within the computed tolerance.

One program has them all, so that each device builds it once; each kind of input is then run.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from backend_run import DEVICES, device
from sdlc.backends.legalize import legalize
from sdlc.backends.target import load_target
from sdlc.graph.node import Graph
from sdlc.graph.numerics import Numerics
from sdlc.graph.rules import always, rewrite
from sdlc.graph.types import DType
from sdlc.language.elaborate import build
from sdlc.language.elaborate_rule import load_rules
from sdlc.language.library import load
from sdlc.program.pipeline import compile_graph
from sdlc.program.program import Program
from sdlc.proof.inputs import Given
from sdlc.proof.stages import Arrays, Route, Stage, Subject, changed, fault_of, interpreted, limits
from sdlc.proof.stages import on as on_device
from sdlc.proof.tolerance import Allowed

TEXT = """model adversaries(x: T[{r}, {n}], p: T[2, {c}, {s}], q: T[2, {m}, {d}], k: T[2, {t}, {d}],
    v: T[2, {t}, {e}], mask: f32[{m}, {t}], scale: T[{n}], shift: T[{n}], cs: T[{c}], ch: T[{c}])
  -> (soft: T[{r}, {n}], log: T[{r}, {n}], top: T[{r}], layer: T[{r}, {n}], rms: T[{r}, {n}],
    group: T[2, {c}, {s}], instance: T[2, {c}, {s}], masked: T[2, {m}, {e}], causal: T[2, {m}, {e}],
    heads: T[2, {m}, {e}])
{{
  soft = softmax(x)
  log = log_softmax(x)
  top = logsumexp(x)
  layer = layer_normalize(x, scale, shift)
  rms = rms_normalize(x, scale)
  group = group_normalize(p, cs, ch; groups = 2)
  instance = instance_normalize(p)
  masked = attention(q, k, v, mask)
  causal = attention(q, k, v; causal = true)
  heads = attention_heads(q, k, v)
}}
"""
SIZES = {
    "few": {"r": 4, "n": 33, "c": 4, "s": 5, "m": 5, "t": 7, "d": 4, "e": 3},
    "blocks": {"r": 3, "n": 160, "c": 8, "s": 24, "m": 5, "t": 40, "d": 20, "e": 12},
}
"""Of which the larger make more than one block of keys, and rows that work-items share."""
KINDS = (
    "large",
    "offset",
    "equal rows",
    "zeros",
    "masked",
    "near overflow",
    "far offset",
    "high scores",
)
LANGUAGES = {"cpu": "opencl", "pocl": "opencl", "llvmpipe": "wgsl"}
ATTENTION = {"masked", "causal", "heads"}
UNDEFINED = {"masked": ATTENTION, "near overflow": {"log", *ATTENTION}, "far offset": ATTENTION}
UNDEFINED |= {"high scores": {"log"}}
"""What may overflow in f16 whatever one does, as scores are stored in it; all else must have a
value, so that no test passes for want of one."""


@dataclass(frozen=True, slots=True)
class Proof:
    """A kind of input, with what may differ from its exact results."""

    arrays: Arrays
    allowed: dict[str, Allowed]


@dataclass(frozen=True, slots=True)
class Way:
    """How the program is made: its sizes, its precision, and whether rules rewrite it."""

    sizes: str
    precision: DType
    rules: bool

    def __str__(self) -> str:
        return f"{self.sizes}-{self.precision.value}-{'every' if self.rules else 'no'} rule"


@cache
def definition(sizes: str, precision: DType) -> Graph:
    return build(load(None, TEXT.format(**SIZES[sizes])), None, {}, {}, precision)


@cache
def rewritten(way: Way) -> Graph:
    graph = definition(way.sizes, way.precision)
    rules = load_rules(load(None, "op none(x: T[n]) -> T[n] { out[i] = x[i] }"))
    return rewrite(graph, rules, always)[0] if way.rules else graph


@cache
def compiled(way: Way, target: str) -> Program:
    return compile_graph(rewritten(way), load_target(target))


def adverse(name: str, dtype: DType, shape: tuple[int, ...], kind: str) -> np.ndarray:  # type: ignore[type-arg]
    """An input of a kind: masks hold masks, scales are ordinary, all others are of the kind."""
    seed = sum(name.encode())
    if name == "mask":
        return Given(name, dtype, shape, "masked", seed).array
    if name in ("scale", "shift", "cs", "ch"):
        return Given(name, dtype, shape, "ordinary", seed).array
    if kind == "high scores":
        return high_scores(name, dtype, shape)
    if kind != "far offset":
        return Given(name, dtype, shape, kind, seed).array
    data = np.random.default_rng(seed).standard_normal(shape)
    far, deviation = (1e6, 1.0) if dtype is DType.F32 else (2048, 4)
    return np.asarray(far + deviation * data).astype(dtype.numpy)


def high_scores(name: str, dtype: DType, shape: tuple[int, ...]) -> np.ndarray:  # type: ignore[type-arg]
    """Scores of attention up to two thirds of the largest half, of values close to it."""
    data = np.clip(np.random.default_rng(sum(name.encode())).standard_normal(shape), -3, 3)
    factor = (4e4 / (9 * shape[-1])) ** 0.5 if name in ("q", "k") else 2e4
    return np.asarray(factor * data).astype(dtype.numpy)


@cache
def proof(sizes: str, precision: DType, kind: str, language: str) -> Proof:
    graph = definition(sizes, precision)
    inputs = {n.name: adverse(n.name, n.dtype, n.shape, kind) for n in graph.inputs}
    arrays = Arrays(inputs, {})
    subject = Subject("adversaries", graph, graph, compiled(Way(sizes, precision, False), "cpu"))
    return Proof(arrays, limits(subject, arrays, Route((interpreted(), interpreted()), language)))


def hold(
    stage: Stage, way: Way, target: str, language: str, kinds: tuple[str, ...] = KINDS
) -> None:
    graph = definition(way.sizes, way.precision)
    numerics = Numerics.RESCALED if way.rules else Numerics.REASSOCIATED
    program = compiled(way, target)
    subject = Subject("adversaries", graph, rewritten(way), program, numerics)
    wrong = []
    for kind in kinds:
        made = proof(way.sizes, way.precision, kind, language)
        fault = fault_of(stage, subject, made.arrays, made.allowed)
        wrong += [f"{kind}: {fault.problem}"] if fault else []
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", [DType.F32, DType.F16])
def test_results_are_defined(precision: DType, kind: str) -> None:
    """Nothing passes because every correct program overflows."""
    allowed = proof("few", precision, kind, "numpy").allowed
    undefined = {name for name, a in allowed.items() if not a.defined.all()}
    assert undefined <= (UNDEFINED.get(kind, set()) if precision is DType.F16 else set())


EVERY_WAY = [Way("few", p, r) for p in (DType.F32, DType.F16) for r in (False, True)]


@pytest.mark.parametrize("way", EVERY_WAY, ids=str)
@pytest.mark.parametrize("target", ["cpu", "adreno"])
def test_interpreted(target: str, way: Way) -> None:
    hold(interpreted(), way, target, "numpy")


@pytest.mark.parametrize(("target", "language"), [("mali", "opencl"), ("apple", "wgsl")])
def test_legalised(target: str, language: str) -> None:
    caps = load_target(target).caps
    stage = changed("legalised", lambda kernel: legalize(kernel, caps, language))
    hold(stage, Way("few", DType.F16, False), target, language)


@pytest.mark.parametrize("way", EVERY_WAY, ids=str)
@pytest.mark.parametrize("selector", DEVICES)
def test_devices(selector: str, way: Way) -> None:
    target = selector if selector != "pocl" else "cpu"
    hold(on_device(device(selector)), way, target, LANGUAGES[selector])


@pytest.mark.parametrize(
    ("target", "selector"),
    [("adreno", "cpu"), ("nvidia", "pocl"), ("apple", "llvmpipe")],
)
def test_blocks_on_devices(target: str, selector: str) -> None:
    """Keys in blocks, rows shared by work-items, statistics in parts, as GPUs have them."""
    way, kinds = (
        Way("blocks", DType.F16, True),
        ("large", "equal rows", "far offset", "high scores"),
    )
    hold(on_device(device(selector)), way, target, LANGUAGES[selector], kinds)
