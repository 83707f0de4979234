"""Half precision that does not break: the decoder of SDXL, and values that are no numbers found."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from backend_run import device
from sdlc.backends.devices import target_of
from sdlc.backends.target import load_target
from sdlc.graph.node import Map, Reduce, topological
from sdlc.graph.types import Array, DType
from sdlc.language.elaborate import build
from sdlc.language.library import load
from sdlc.language.precision import Scopes
from sdlc.models.folder import SOURCES, Model, load_folder
from sdlc.models.networks import Network, compile_network, networks
from sdlc.models.settings import GenerateSettings
from sdlc.program.execute import Executable
from sdlc.program.program import Program
from small_models import small_model

LARGE = {"decoder.up_blocks.0.resnets.0.conv2.weight": 2e5}
"""Sums behind it are too large for half precision; a norm makes them small again."""
UPCAST = {"force_upcast": True}
SIZE = (32, 32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = small_model("xl", tmp_path_factory.mktemp("xl") / "model", UPCAST, LARGE)
    return load_folder(folder)


def decoder_of(model: Model) -> Network:
    return networks(model, GenerateSettings("", size=SIZE))[-1]


class Programs:
    """The decoder for each target, in f32, mixed and in f16, compiled once."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.made = cache(self._made)

    def _made(self, target: str, kind: str) -> Program:
        network = decoder_of(self.model)
        if kind == "f16":
            network = replace(network, config={**network.config, "force_upcast": False})
        precision = DType.F32 if kind == "f32" else DType.F16
        return compile_network(network, self.model, load_target(target), precision)

    def run(self, selector: str, target: str, kind: str) -> Array:
        executable = Executable(
            self.made(target, kind), device(selector), self.model.weights("vae")
        )
        latent = np.random.default_rng(3).standard_normal((1, 4, 16, 16))
        return executable.run({"latent": latent})["out"].astype(np.float64)


@pytest.fixture(scope="module")
def programs(model: Model) -> Programs:
    return Programs(model)


@pytest.mark.parametrize("selector", ["cpu", "llvmpipe"])
def test_the_decoder_of_sdxl_is_mixed(programs: Programs, selector: str) -> None:
    """f16 overflows in the middle, what is mixed gives the picture of f32."""
    target = target_of(device(selector).info).name
    exact = programs.run("cpu", "cpu", "f32")
    mixed = programs.run(selector, target, "mixed")
    assert np.isfinite(mixed).all() and np.isfinite(exact).all()
    assert np.linalg.norm(mixed - exact) < 4e-3 * np.linalg.norm(exact)
    if target == "cpu":
        assert not np.isfinite(programs.run(selector, target, "f16")).all()


def stored(network: Network, f32: tuple[str, ...] = ()) -> dict[str, set[DType]]:
    """How values are stored, by the beginning of their scope path."""
    scopes = Scopes(f32, network.part)
    library = load(SOURCES / network.source)
    graph = build(library, None, network.sizes, network.config, DType.F16, scopes)
    found: dict[str, set[DType]] = {}
    for node in topological(graph):
        if isinstance(node, Map | Reduce) and len(node.dtypes) == 1:
            place = ".".join(node.origin.scope.split(".")[1:2])
            found.setdefault(place, set()).update(node.dtypes)
    return found


def test_what_is_behind_the_middle_is_in_f32(model: Model) -> None:
    found = stored(decoder_of(model))
    assert found["up_blocks"] == found["conv_norm_out"] == found["conv_out"] == {DType.F32}
    assert DType.F16 in found["mid_block"] and found["conv_in"] == {DType.F16}
    assert set.union(*stored(decoder_of(model), ("vae",)).values()) == {DType.F32}


def test_the_encoder_of_sdxl_is_in_f32(model: Model) -> None:
    sizes = {"b": 1, "c": 3, "h": 16, "w": 16}
    encoder = replace(decoder_of(model), source="vae_encoder.sdl", sizes=sizes)
    found = stored(encoder)
    assert all(kinds == {DType.F32} for place, kinds in found.items() if place)
    assert found["conv_in"] == {DType.F32}


def test_other_families_do_not_heed_the_flag(tmp_path: Path) -> None:
    """diffusers writes it into every model's configuration."""
    model = load_folder(small_model("2", tmp_path / "model", UPCAST))
    assert decoder_of(model).config["force_upcast"] is False
