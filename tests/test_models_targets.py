"""Every model compiles for every target; every target's program runs, legalised, on every device.

The schedule of a target and the device that executes it are separate: Adreno's program is legalised
for the CPU at hand and must give what the definition gives.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend_run import DEVICES, device
from sdlc.backends.target import load_target, target_names
from sdlc.graph.node import Graph, Input, Role, topological
from sdlc.graph.reference import Mode, evaluate
from sdlc.graph.types import Array, DType
from sdlc.language.elaborate import build
from sdlc.language.library import load
from sdlc.models.folder import SOURCES, default_folder
from sdlc.program.execute import Executable
from sdlc.program.pipeline import compile_graph
from sdlc.program.program import Program

NETWORK_LIMIT = 1e-4
"""The project's limit for one network in f32: ‖out − ref‖ / ‖ref‖."""
SMALL = Path(__file__).parent / "programs" / "small_network.sdl"
SIZES = {
    "text_encoder": {"b": 2, "s": 77},
    "unet": {"b": 2, "c": 4, "h": 16, "w": 8, "t": 77, "d": 192},
    "vae_decoder": {"b": 1, "c": 4, "h": 8, "w": 16},
}
PARTS = {"text_encoder": "text_encoder", "unet": "unet", "vae_decoder": "vae"}


@cache
def network(name: str) -> Graph:
    config = json.loads((default_folder() / PARTS[name] / "config.json").read_text())
    return build(load(SOURCES / f"{name}.sdl"), name, SIZES[name], config, DType.F32)


@cache
def small() -> tuple[Graph, dict[str, Array], dict[str, Array], Array]:
    """The small network, inputs, weights and what the definition gives (f32)."""
    sizes = {"b": 2, "c": 3, "h": 12, "w": 10, "t": 7, "d": 20}
    graph = build(load(SMALL), None, sizes, {}, DType.F32)
    rng = np.random.default_rng(5)

    def drawn(node: Input) -> Array:
        scale = np.prod(node.shape[1:]) ** -0.5 if node.role is Role.WEIGHT else 1.0
        return (rng.standard_normal(node.shape) * scale).astype(np.float32)

    weights = {
        n.name: drawn(n)
        for n in topological(graph)
        if isinstance(n, Input) and n.role is Role.WEIGHT
    }
    inputs: dict[str, Any] = {n.name: drawn(n) for n in graph.inputs}
    return graph, inputs, weights, evaluate(graph, inputs, weights, Mode.F64)["out"]


@cache
def small_program(target: str) -> Program:
    return compile_graph(small()[0], load_target(target))


@pytest.mark.parametrize("target", target_names())
@pytest.mark.parametrize("name", PARTS)
def test_every_model_compiles_for_every_target(name: str, target: str) -> None:
    """Every kernel is verified against the target's limits on the way."""
    program = compile_graph(network(name), load_target(target))
    assert program.dispatches
    assert program.memory.lower_bound <= program.memory.arena <= program.memory.naive


@pytest.mark.parametrize("selector", DEVICES)
@pytest.mark.parametrize("target", target_names())
def test_every_target_runs_on_every_device(target: str, selector: str) -> None:
    _, inputs, weights, expected = small()
    got = Executable(small_program(target), device(selector), weights).run(inputs)["out"]
    error = np.linalg.norm(got - expected) / np.linalg.norm(expected)
    assert error <= NETWORK_LIMIT
