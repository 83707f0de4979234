"""Checkpoints as diffusers reads them. Not in the suite: it needs PyTorch.

    pip install '.[parity]'
    PYTHONPATH=tests python tests/parity_checkpoints.py

Writes a small checkpoint of each family with random values. Its configuration, as sdlc reads it,
must make diffusers' and transformers' own models; these must take exactly sdlc's tensors; and
diffusers' own reader must find the same values in the file.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints import SIZES, arrays, write_checkpoint
from sdlc.models.folder import Model
from sdlc.models.model import load_model


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for family, sizes in SIZES.items():
            file = write_checkpoint(Path(folder) / "model.safetensors", sizes)
            model = load_model(file)
            made = models_of(model)
            for part, (peer, config) in made.items():
                count = take(peer, model, part, config)
                print(f"{family:16} {part:16} {count:4} tensors are its own")
            compare_readers(family, model, made["unet"][1], arrays(sizes))


def models_of(model: Model) -> dict[str, tuple[Any, Any]]:
    """The peers' models of a configuration, without values."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    unet, vae = UNet2DConditionModel.from_config(model.unet), AutoencoderKL.from_config(model.vae)
    made = {"unet": (unet, unet.config), "vae": (vae, vae.config)}
    text = CLIPTextConfig(**model.text_encoder)
    made["text_encoder"] = (CLIPTextModel(text), text)
    if model.text_encoder_2:
        text = CLIPTextConfig(**model.text_encoder_2)
        made["text_encoder_2"] = (CLIPTextModelWithProjection(text), text)
    return made


def take(peer: Any, model: Model, part: str, config: Any) -> int:
    """Fills a peer's model with sdlc's tensors; every name and shape must be its own."""
    import torch

    wanted, weights = peer.state_dict(), model.weights(part)
    prefix = "" if set(wanted) & set(weights) else "text_model."
    held = {n: torch.from_numpy(np.array(weights[prefix + n])) for n in wanted}
    peer.load_state_dict(held, strict=True)
    left = set(weights) - {prefix + n for n in wanted}
    last = f"encoder.layers.{getattr(config, 'num_hidden_layers', 0)}."
    strange = [n for n in left if last not in n and not n.startswith("text_projection")]
    assert not strange, strange
    return len(held)


def compare_readers(family: str, model: Model, config: Any, held: dict[str, Any]) -> None:
    """What diffusers makes of the same file."""
    import torch
    from diffusers.loaders import single_file_utils as peer

    def tensors() -> dict[str, Any]:
        return {n: torch.from_numpy(np.array(a)) for n, a in held.items()}

    read = {
        "unet": peer.convert_ldm_unet_checkpoint(tensors(), config),
        "vae": peer.convert_ldm_vae_checkpoint(tensors(), model.vae),
    }
    for part, theirs in read.items():
        ours = model.weights(part)
        assert set(theirs) == set(ours), (part, set(theirs) ^ set(ours))
        for name, tensor in theirs.items():
            np.testing.assert_array_equal(tensor.numpy(), ours[name], err_msg=name)
        print(f"{family:16} {part:16} {len(theirs):4} tensors are what diffusers reads")


if __name__ == "__main__":
    main()
