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

TEXT = """model adversaries(x: T[4, 33], p: T[2, 4, 5], q: T[2, 5, 4], k: T[2, 7, 4], v: T[2, 7, 3],
    mask: f32[5, 7], scale: T[33], shift: T[33], cs: T[4], ch: T[4])
  -> (soft: T[4, 33], log: T[4, 33], top: T[4], layer: T[4, 33], rms: T[4, 33], group: T[2, 4, 5],
    instance: T[2, 4, 5], masked: T[2, 5, 3], causal: T[2, 5, 3], heads: T[2, 5, 3])
{
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
}
"""
KINDS = ("large", "offset", "equal rows", "zeros", "masked", "near overflow", "far offset")
LANGUAGES = {"cpu": "opencl", "pocl": "opencl", "llvmpipe": "wgsl"}
ALWAYS = {
    "large": {"soft", "log", "top", "layer", "rms", "group", "instance"},
    "offset": {"soft", "log", "top", "layer", "rms", "group", "instance", "masked", "heads"},
    "equal rows": {"soft", "log", "top", "layer", "rms", "group", "instance", "masked", "heads"},
    "zeros": {"soft", "log", "top", "layer", "rms", "group", "instance", "masked", "heads"},
    "masked": {"soft", "log", "top", "layer"},
    "near overflow": {"soft", "top"},
    "far offset": {"soft", "log", "top", "layer", "rms", "group", "instance"},
}
"""What has a value for these inputs, so that the test may not pass for want of one (in f16 a mask
and a score may sum to minus infinity)."""


@dataclass(frozen=True, slots=True)
class Proof:
    """A kind of input, with what may differ from its exact results."""

    arrays: Arrays
    allowed: dict[str, Allowed]


@cache
def definition(precision: DType) -> Graph:
    return build(load(None, TEXT), None, {}, {}, precision)


@cache
def rewritten(precision: DType, rules: str) -> Graph:
    graph = definition(precision)
    return rewrite(graph, load_rules(load(None, TEXT)), always)[0] if rules == "every" else graph


@cache
def compiled(precision: DType, rules: str, target: str) -> Program:
    return compile_graph(rewritten(precision, rules), load_target(target))


def adverse(name: str, dtype: DType, shape: tuple[int, ...], kind: str) -> np.ndarray:  # type: ignore[type-arg]
    """An input of a kind: masks hold masks, scales are ordinary, all others are of the kind."""
    seed = sum(name.encode())
    if name == "mask":
        return Given(name, dtype, shape, "masked", seed).array
    if name in ("scale", "shift", "cs", "ch"):
        return Given(name, dtype, shape, "ordinary", seed).array
    if kind != "far offset":
        return Given(name, dtype, shape, kind, seed).array
    data = np.random.default_rng(seed).standard_normal(shape)
    far, deviation = (1e6, 1.0) if dtype is DType.F32 else (2048, 4)
    return np.asarray(far + deviation * data).astype(dtype.numpy)


@cache
def proof(precision: DType, kind: str, language: str) -> Proof:
    graph = definition(precision)
    inputs = {n.name: adverse(n.name, n.dtype, n.shape, kind) for n in graph.inputs}
    arrays = Arrays(inputs, {})
    subject = Subject("adversaries", graph, graph, compiled(precision, "default", "cpu"))
    return Proof(arrays, limits(subject, arrays, Route((interpreted(), interpreted()), language)))


def hold(stage: Stage, precision: DType, rules: str, target: str, language: str) -> None:
    graph = definition(precision)
    numerics = Numerics.RESCALED if rules == "every" else Numerics.REASSOCIATED
    program = compiled(precision, rules, target)
    subject = Subject("adversaries", graph, rewritten(precision, rules), program, numerics)
    wrong = []
    for kind in KINDS:
        made = proof(precision, kind, language)
        fault = fault_of(stage, subject, made.arrays, made.allowed)
        wrong += [f"{kind}: {fault.problem}"] if fault else []
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", [DType.F32, DType.F16])
def test_results_are_defined(precision: DType, kind: str) -> None:
    """Nothing passes because every correct program overflows."""
    allowed = proof(precision, kind, "numpy").allowed
    undefined = {name for name, a in allowed.items() if not a.defined.all()}
    infinite = {"log", "masked"} if precision is DType.F16 else set()
    assert not undefined & (ALWAYS[kind] - infinite)


WAYS = [(DType.F32, "default"), (DType.F16, "every")]


@pytest.mark.parametrize(("precision", "rules"), WAYS)
@pytest.mark.parametrize("target", ["cpu", "adreno"])
def test_interpreted(target: str, precision: DType, rules: str) -> None:
    hold(interpreted(), precision, rules, target, "numpy")


@pytest.mark.parametrize(("target", "language"), [("mali", "opencl"), ("apple", "wgsl")])
def test_legalised(target: str, language: str) -> None:
    caps = load_target(target).caps
    stage = changed("legalised", lambda kernel: legalize(kernel, caps, language))
    hold(stage, DType.F16, "default", target, language)


@pytest.mark.parametrize(("precision", "rules"), WAYS)
@pytest.mark.parametrize("selector", DEVICES)
def test_devices(selector: str, precision: DType, rules: str) -> None:
    target = selector if selector != "pocl" else "cpu"
    hold(on_device(device(selector)), precision, rules, target, LANGUAGES[selector])
