"""Networks of every family beside diffusers' and transformers', scaled down, with seeded weights.

`tests/data/networks.safetensors` holds what those give (`tests/write_networks.py`); the reference
level runs here.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from sdlc.graph.node import Graph, Input, Role, topological
from sdlc.graph.reference import Mode, evaluate
from sdlc.graph.types import Array, DType
from sdlc.language.elaborate import build, sizes_from_shapes
from sdlc.language.library import load
from sdlc.models.folder import SOURCES
from seeded_weights import Seeded
from write_networks import CASES, FILE

TENSORS = load_file(FILE)
LIMIT = 1e-5
"""Relative error: both compute in f32."""
XL_TEXT = {"skipped_layers": 1, "final_norm": False}


def part(name: str, side: str) -> dict[str, Array]:
    head = f"{name}.{side}."
    return {n.removeprefix(head): x for n, x in TENSORS.items() if n.startswith(head)}


def network(name: str) -> Graph:
    source, _, config = CASES[name]
    given = part(name, "in")
    library = load(SOURCES / source)
    sizes = sizes_from_shapes(library, None, {n: x.shape for n, x in given.items()})
    optional = {n: True for n in ("pooled", "sizes") if n in given}
    own = XL_TEXT if name == "text-xl-1" else {}
    return build(library, None, sizes, {**config, **optional, **own}, DType.F32)


def seeded(graph: Graph) -> Seeded:
    nodes = topological(graph)
    weights = [n for n in nodes if isinstance(n, Input) and n.role is Role.WEIGHT]
    return Seeded({n.name: n.shape for n in weights})


@pytest.mark.parametrize("name", CASES)
def test_a_network_gives_what_diffusers_gives(name: str) -> None:
    graph = network(name)
    found: dict[str, Any] = evaluate(graph, part(name, "in"), seeded(graph), Mode.F32)
    expected = part(name, "out")
    assert set(found) == set(expected)
    for output, wanted in expected.items():
        error = np.linalg.norm(found[output] - wanted) / np.linalg.norm(wanted)
        assert error <= LIMIT, output


def test_the_file_is_of_the_cases() -> None:
    with safe_open(FILE, framework="np") as file:
        written = json.loads(file.metadata()["cases"])
    assert written == json.loads(json.dumps(CASES))
