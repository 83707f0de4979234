"""The three networks and the sampler: their weights' names, and their values at reference level.

One UNet evaluation in f32 is what this file costs; devices are compared in `test_models_devices`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file

from sdlc.graph.node import Graph, Input, Role, topological
from sdlc.graph.reference import Mode, evaluate
from sdlc.graph.types import DType
from sdlc.language.diagnostics import SdlError
from sdlc.language.elaborate import build
from sdlc.language.library import load
from sdlc.models.folder import SOURCES, default_folder, load_folder, read_json
from sdlc.models.samplers import COLUMNS, Plan, make_schedule
from sdlc.models.weights import check_weights, load_weights

Array = npt.NDArray[Any]
FOLDER = default_folder()
REFERENCE = load_file(FOLDER.parent / "reference.safetensors")
PARTS = {"text_encoder.sdl": "text_encoder", "unet.sdl": "unet", "vae_decoder.sdl": "vae"}
SIZES = {
    "text_encoder.sdl": {"b": 1, "s": 77},
    "unet.sdl": {"b": 1, "c": 4, "h": 32, "w": 32, "t": 77, "d": 192},
    "vae_decoder.sdl": {"b": 1, "c": 4, "h": 32, "w": 32},
}


def network(name: str, config: Mapping[str, object] | None = None, **sizes: int) -> Graph:
    config = read_json(FOLDER / PARTS[name] / "config.json") if config is None else config
    used = {key: sizes.get(key, size) for key, size in SIZES[name].items()}
    return build(load(SOURCES / name), None, used, config, DType.F32)


def weight_shapes(graph: Graph) -> dict[str, tuple[int, ...]]:
    nodes = topological(graph)
    return {n.name: n.shape for n in nodes if isinstance(n, Input) and n.role is Role.WEIGHT}


def relative_error(got: Array, expected: Array) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


# ---- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PARTS)
def test_every_weight_of_the_shipped_files_is_bound(name: str) -> None:
    shapes = weight_shapes(network(name))
    files = load_weights(FOLDER / PARTS[name])
    half = ("decoder.", "post_quant_conv.") if name == "vae_decoder.sdl" else ("",)
    assert shapes == {n: files.shape(n) for n in files if n.startswith(half)}


STABLE_DIFFUSION_1_4: dict[str, dict[str, object]] = {
    "text_encoder.sdl": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "vocab_size": 49408,
        "hidden_act": "quick_gelu",
    },
    "unet.sdl": {
        "block_out_channels": [320, 640, 1280, 1280],
        "layers_per_block": 2,
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
        "sample_size": 64,
    },
    "vae_decoder.sdl": {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2},
}
STABLE_DIFFUSION_2_1 = {
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
# The digests were made from the state dicts of diffusers 0.42 and transformers 5.23: the sorted
# lines "name [shape]", SHA-256.
STATE_DICTS = [
    (
        "text_encoder.sdl",
        STABLE_DIFFUSION_1_4["text_encoder.sdl"],
        (196, 123_060_480, "3a39d8acef0ccd336d40cbcf3c67300e99368625b067ce95a0c52ed621e1ee72"),
    ),
    (
        "unet.sdl",
        STABLE_DIFFUSION_1_4["unet.sdl"],
        (686, 859_520_964, "06ab0a594a10b99fc9b3d3c034559b191a587c22cb887c343b18421a3fbb5748"),
    ),
    (
        "unet.sdl",
        STABLE_DIFFUSION_2_1,
        (686, 865_910_724, "102cedebfb24e477a06ae61809735ebaa75f361e6549862d432f445ef996fd26"),
    ),
    (
        "vae_decoder.sdl",
        STABLE_DIFFUSION_1_4["vae_decoder.sdl"],
        (140, 49_490_199, "6d0c1a6e278002fa82018a2ec217df03c91c37483d44782e7f5954e1e1d3f8e8"),
    ),
]


@pytest.mark.parametrize(("name", "config", "expected"), STATE_DICTS)
def test_full_size_weights_are_those_of_diffusers(
    name: str, config: dict[str, object], expected: tuple[int, int, str]
) -> None:
    width = config.get("cross_attention_dim", 768)
    assert isinstance(width, int)
    shapes = weight_shapes(network(name, config, h=64, w=64, d=width))
    lines = sorted(f"{n} {list(s)}" for n, s in shapes.items())
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert (len(shapes), sum(map(prod, shapes.values())), digest) == expected


def test_wrong_weights_are_named_with_their_line() -> None:
    graph, library = network("vae_decoder.sdl"), load(SOURCES / "vae_decoder.sdl")
    with pytest.raises(SdlError) as caught:
        check_weights(graph, load_weights(FOLDER / "unet"), library.sources, "the folder")
    text = str(caught.value)
    assert "error[W007]: weight `post_quant_conv.weight` is missing in the folder" in text
    config = {**read_json(FOLDER / "unet" / "config.json"), "cross_attention_dim": 64}
    graph = network("unet.sdl", config, d=64)
    with pytest.raises(SdlError) as caught:
        check_weights(graph, load_weights(FOLDER / "unet"), library.sources, "the folder")
    text = str(caught.value)
    assert "error[W008]" in text and "[96, 192]" in text and "[96, 64]" in text
    assert "stdlib/matmul.sdl" in text and "param weight: T[o, i]" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"act_fn": "mish"}, "only act_fn silu"),
        ({"addition_embed_type": "image"}, "only addition_embed_type text_time"),
        ({"addition_embed_type": "text_time"}, "also reads"),
        ({"num_class_embeds": 10}, "embeddings of classes"),
        ({"down_block_types": ["DownBlock2D"]}, "must be of one length"),
        ({"cross_attention_dim": 64}, "cross_attention_dim wide"),
        ({"in_channels": 9}, "in_channels channels"),
    ],
)
def test_networks_that_are_not_described_say_so(change: dict[str, object], message: str) -> None:
    config = {**read_json(FOLDER / "unet" / "config.json"), **change}
    with pytest.raises(SdlError, match=message):
        network("unet.sdl", config)


# ---- values --------------------------------------------------------------------------------------


def run(name: str, inputs: dict[str, Array], part: str) -> Array:
    return evaluate(network(name), inputs, load_weights(FOLDER / part), Mode.F32)["out"]


@pytest.mark.parametrize("which", ["", "un"])
def test_text_embeddings(which: str) -> None:
    ids, states = (
        ("input_ids", "text_embeddings") if not which else ("uncond_input_ids", "uncond_embeddings")
    )
    got = run("text_encoder.sdl", {"ids": REFERENCE[ids]}, "text_encoder")
    assert relative_error(got, REFERENCE[states]) <= 1e-4


def test_unet() -> None:
    inputs = {
        "latent": REFERENCE["unet_in_step09"],
        "timestep": REFERENCE["timesteps"][9:10].astype(np.float32),
        "context": REFERENCE["text_embeddings"],
    }
    assert relative_error(run("unet.sdl", inputs, "unet"), REFERENCE["unet_cond_step09"]) <= 1e-4


def test_picture_decoder() -> None:
    latents = REFERENCE["latents_after_step"][-1:]
    got = run("vae_decoder.sdl", {"latent": latents}, "vae")
    assert relative_error(got, REFERENCE["decoded"]) <= 1e-4


# ---- the sampler, around a network of no weights -------------------------------------------------

UPDATE = """
import "{file}"
model update(
  state: f32[1, b, c, h, w], y: f32[b2, c, h, w], table: f32[n, k], step: i32[1], guidance: f32[]
) -> (next_state: f32[1, b, c, h, w], next_step: i32[1])
{{
  config prediction_type = "epsilon"
  config clip_sample = false
  config clip_sample_range = 1.0
  y = guide(y, guidance)
  clip = if clip_sample then clip_sample_range else 0.0
  x = ddim(state, y, table, step; prediction = prediction_type, clip = clip)
  return x, increment(step)
}}
"""


def update(
    config: Mapping[str, object], step: int, x: Array, y: Array, scale: float
) -> dict[str, Array]:
    text = UPDATE.format(file="sampler.sdl")
    library = load(SOURCES / "update.sdl", text)
    b, c, h, w = x.shape
    sizes = {"b": b, "b2": 2 * b, "c": c, "h": h, "w": w, "n": 20, "k": COLUMNS}
    graph = build(library, "update", sizes, config, DType.F32)
    table = make_schedule(load_folder(None).scheduler, Plan("ddim", 20)).table
    inputs = {"state": x[None], "y": y, "table": table, "step": np.array([step], np.int32)}
    return evaluate(graph, {**inputs, "guidance": np.float32(scale)}, {}, Mode.F32)


@pytest.mark.parametrize("step", [0, 9, 19])
def test_guidance_and_update_are_the_reference(step: int) -> None:
    """The reference's network outputs lead to the reference's next latents."""
    config = json.loads((FOLDER / "scheduler" / "scheduler_config.json").read_text())
    tensors = [REFERENCE[f"unet_{k}_step{step:02d}"] for k in ("in", "uncond", "cond")]
    result = update(config, step, tensors[0], np.concatenate(tensors[1:]), 5.0)
    assert relative_error(result["next_state"][0, 0], REFERENCE["latents_after_step"][step]) <= 1e-5
    assert result["next_step"].tolist() == [step + 1]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("clip", [False, True])
def test_predictions_agree(prediction: str, clip: bool) -> None:
    """Whatever the network predicts, it means a clean picture and a noise."""
    rng = np.random.default_rng(1)
    clean, noise = rng.normal(size=(2, 2, 3, 4, 5)).astype(np.float32)
    a, s, a2, s2 = make_schedule(load_folder(None).scheduler, Plan("ddim", 20)).table[7, 2:6]
    given = {"epsilon": noise, "v_prediction": a * noise - s * clean, "sample": clean}[prediction]
    config = {"prediction_type": prediction, "clip_sample": clip, "clip_sample_range": 0.5}
    result = update(config, 7, a * clean + s * noise, np.concatenate([given, given]), 3.0)
    kept = np.clip(clean, -0.5, 0.5) if clip else clean
    expected = a2 * kept + s2 * noise
    np.testing.assert_allclose(result["next_state"][0], expected, rtol=1e-3, atol=1e-4)


def test_sources_lie_beside_their_test() -> None:
    assert {p.name for p in Path(SOURCES).glob("*.sdl")} >= {*PARTS, "sampler.sdl"}
