"""What tests of elaboration share: texts as graphs, run by the reference in f64.

run(graph_of("op twice(x: T[n]) -> T[n] { out[i] = 2 * x[i] }", n=3), x=[1, 2, 3])
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pytest

from sdlc.graph.node import Graph, Input, Node, topological
from sdlc.graph.reference import Mode, evaluate
from sdlc.graph.types import DType
from sdlc.language.diagnostics import SdlError
from sdlc.language.elaborate import Size, build
from sdlc.language.library import load

Reals = npt.NDArray[np.float64]


def graph_of(
    text: str,
    entry: str | None = None,
    config: Mapping[str, object] | None = None,
    precision: DType = DType.F32,
    **sizes: Size,
) -> Graph:
    return build(load(None, text), entry, sizes, config or {}, precision)


def drawn(*shape: int, seed: int = 0) -> Reals:
    return np.random.default_rng(seed).standard_normal(shape)


def run(graph: Graph, weights: Mapping[str, Reals] | None = None, **inputs: object) -> list[Reals]:
    arrays = {name: np.asarray(value) for name, value in inputs.items()}
    made = evaluate(graph, arrays, weights or {}, Mode.F64)
    return [np.asarray(made[name], np.float64) for name, _, _ in graph.outputs]


def close(got: Reals, expected: object) -> None:
    np.testing.assert_allclose(got, np.asarray(expected), rtol=1e-12, atol=1e-12)


def kinds(graph: Graph) -> list[str]:
    return [type(n).__name__ for n in topological(graph) if not isinstance(n, Input)]


def message(text: str, **sizes: Size) -> str:
    with pytest.raises(SdlError) as caught:
        build(load(None, text), None, sizes, {}, DType.F32)
    return str(caught.value)


def nodes(graph: Graph, kind: type[Node]) -> list[Node]:
    return [n for n in topological(graph) if isinstance(n, kind)]
