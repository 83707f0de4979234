"""Writes tests/data/networks.safetensors: what diffusers' and transformers' networks give.

    pip install '.[parity]'
    python tests/write_networks.py

Each case of `CASES` is a network of a family of Stable Diffusion, scaled down, with the weights of
`seeded_weights`. The file holds inputs and outputs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from seeded_weights import drawn

Config = dict[str, Any]
FILE = Path(__file__).parent / "data" / "networks.safetensors"
DOWN, CROSS = "DownBlock2D", "CrossAttnDownBlock2D"
UP, CROSS_UP = "UpBlock2D", "CrossAttnUpBlock2D"

UNET: Config = {
    "sample_size": 8,
    "block_out_channels": [16, 32],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "down_block_types": [CROSS, DOWN],
    "up_block_types": [UP, CROSS_UP],
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
}
LINEAR = {"use_linear_projection": True, "attention_head_dim": [2, 4]}
XL: Config = {
    **UNET,
    **LINEAR,
    "down_block_types": [DOWN, CROSS],
    "up_block_types": [CROSS_UP, UP],
    "transformer_layers_per_block": [1, 2],
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 10 + 6 * 8,
}
TEXT: Config = {
    "vocab_size": 99,
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "max_position_embeddings": 11,
    "hidden_act": "quick_gelu",
    "bos_token_id": 97,
    "eos_token_id": 98,
}
OPEN: Config = {**TEXT, "hidden_act": "gelu", "projection_dim": 10}
VAE: Config = {
    "block_out_channels": [8, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": 16,
}
TINY: Config = {
    "encoder_block_out_channels": [8, 8],
    "decoder_block_out_channels": [8, 8],
    "num_encoder_blocks": [1, 1],
    "num_decoder_blocks": [2, 1],
}

CASES: dict[str, tuple[str, str, Config]] = {
    "unet-1": ("unet.sdl", "UNet2DConditionModel", UNET),
    "unet-2": ("unet.sdl", "UNet2DConditionModel", {**UNET, **LINEAR}),
    "unet-xl": ("unet.sdl", "UNet2DConditionModel", XL),
    "unet-odd": ("unet.sdl", "UNet2DConditionModel", {**UNET, "sample_size": 7}),
    "unet-inpaint": ("unet.sdl", "UNet2DConditionModel", {**UNET, "in_channels": 9}),
    "text-1": ("text_encoder.sdl", "CLIPTextModel", TEXT),
    "text-2": ("text_encoder.sdl", "CLIPTextModel", {**TEXT, "hidden_act": "gelu"}),
    "text-xl-1": ("text_encoder.sdl", "CLIPTextModel", TEXT),
    "text-xl-2": ("text_encoder_pooled.sdl", "CLIPTextModelWithProjection", OPEN),
    "decoder": ("vae_decoder.sdl", "AutoencoderKL", VAE),
    "encoder": ("vae_encoder.sdl", "AutoencoderKL", VAE),
    "tiny": ("tiny_decoder.sdl", "AutoencoderTiny", TINY),
}


def seeded(network: Any) -> Any:
    """The network with weights that its names determine."""
    import torch

    state = {
        n: torch.from_numpy(drawn(published(n), tuple(w.shape)))
        for n, w in network.state_dict().items()
    }
    network.load_state_dict(state)
    return network.eval()


def published(name: str) -> str:
    """A weight's name in files: transformers 5 leaves out the first part in memory."""
    bare = name.startswith(("embeddings.", "encoder.layers.", "final_layer_norm."))
    return f"text_model.{name}" if bare else name


def inputs_of(source: str, config: Config) -> dict[str, Any]:
    """Random inputs by the names that the `.sdl` file gives them."""
    rng = np.random.default_rng(7)
    side = config.get("sample_size", 8)

    def normal(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(np.float32)

    match source:
        case "unet.sdl":
            found = {
                "latent": normal(2, config.get("in_channels", 4), side, side + 2),
                "timestep": np.array([11, 713], np.float32),
                "context": normal(2, 5, config["cross_attention_dim"]),
            }
            if config.get("addition_embed_type"):
                numbers = [[64, 80, 0, 0, 64, 80], [32, 48, 8, 4, 64, 64]]
                width = config["projection_class_embeddings_input_dim"]
                found["sizes"] = np.array(numbers, np.float32)
                found["pooled"] = normal(2, width - 6 * config["addition_time_embed_dim"])
            return found
        case "text_encoder.sdl" | "text_encoder_pooled.sdl":
            ids = rng.integers(0, 97, (2, config["max_position_embeddings"])).astype(np.int32)
            ids[:, 0], ids[0, 4:], ids[1, -1] = 97, 98, 98
            last = {"last": np.array([4, ids.shape[1] - 1], np.int32)}
            return {"ids": ids, **(last if "pooled" in source else {})}
        case "vae_encoder.sdl":
            return {"picture": normal(1, 3, side, side + 4)}
        case _:
            return {"latent": normal(1, 4, 6, 5)}


def outputs_of(name: str, network: Any, given: dict[str, Any]) -> dict[str, Any]:
    """What the network gives, by the names of the `.sdl` file's results."""
    import torch

    tensors = {n: torch.from_numpy(x) for n, x in given.items()}
    with torch.no_grad():
        match name.partition("-")[0]:
            case "unet":
                added = {"text_embeds": tensors.get("pooled"), "time_ids": tensors.get("sizes")}
                found = network(
                    tensors["latent"],
                    tensors["timestep"],
                    tensors["context"],
                    added_cond_kwargs=added,
                ).sample
            case "text":
                made = network(tensors["ids"].long(), output_hidden_states=True)
                if name == "text-xl-2":
                    return {"states": made.hidden_states[-2], "pooled": made.text_embeds}
                found = made.hidden_states[-2] if "xl" in name else made.last_hidden_state
            case "encoder":
                found = network.encode(tensors["picture"]).latent_dist.mean
                found = found * network.config.scaling_factor
            case _:
                found = network.decode(tensors["latent"] / network.config.scaling_factor).sample
    return {"out": found}


def made(kind: str, config: Config) -> Any:
    import diffusers
    import transformers

    if kind.startswith("CLIP"):
        return getattr(transformers, kind)(transformers.CLIPTextConfig(**config))
    return getattr(diffusers, kind)(**config)


def main() -> None:
    import diffusers
    import transformers

    tensors = {}
    for name, (source, kind, config) in CASES.items():
        given = inputs_of(source, config)
        found = outputs_of(name, seeded(made(kind, config)), given)
        tensors |= {f"{name}.in.{n}": x for n, x in given.items()}
        tensors |= {f"{name}.out.{n}": x.numpy() for n, x in found.items()}
    versions = {"diffusers": diffusers.__version__, "transformers": transformers.__version__}
    save_file(tensors, FILE, {"cases": json.dumps(CASES), **versions})
    FILE.chmod(0o644)


if __name__ == "__main__":
    sys.path.pop(0)  # kernels.py beside this file is not the package that transformers looks for
    main()
