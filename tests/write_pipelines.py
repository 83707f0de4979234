"""Writes tests/data/pipelines.safetensors: the last latents of diffusers' pipelines.

    pip install '.[parity]'
    python tests/write_pipelines.py

Each case of `CASES` is a pipeline of scaled-down networks with seeded weights, some steps long. The
file holds its noise, its picture and mask, and the latents that it ends with.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from write_networks import OPEN, TEXT, UNET, VAE, XL, Config, made, seeded

FILE = Path(__file__).parent / "data" / "pipelines.safetensors"
TOKENIZER = Path(__file__).parent.parent / "models/emoji_diffusion/pipeline/tokenizer"
PROMPT, NEGATIVE = "a red car on the moon", "blurry"
STEPS, SIZE = 5, (24, 16)
SPECIAL = {"vocab_size": 2048, "bos_token_id": 2046, "eos_token_id": 2047}
NOISE: Config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
LEADING = {"steps_offset": 1, "timestep_spacing": "leading", "set_alpha_to_one": False}
DRAWING = {"sample_size": 8, "cross_attention_dim": 24}
TEXTS = {"text_encoder": ("CLIPTextModel", {**TEXT, **SPECIAL, "max_position_embeddings": 77})}
BOTH = {
    **TEXTS,
    "text_encoder_2": (
        "CLIPTextModelWithProjection",
        {**OPEN, **SPECIAL, "max_position_embeddings": 77},
    ),
}
DDIM = ("DDIMScheduler", {**NOISE, **LEADING, "clip_sample": False})
EULER = ("EulerDiscreteScheduler", {**NOISE, "prediction_type": "v_prediction"})
DPM = ("DPMSolverMultistepScheduler", NOISE)

CASES: dict[str, tuple[str, Config, Config]] = {
    "2": (
        "StableDiffusionPipeline",
        {
            **TEXTS,
            "unet": {**UNET, **DRAWING, "use_linear_projection": True},
            "scheduler": EULER,
        },
        {"guidance_rescale": 0.7},
    ),
    "xl": (
        "StableDiffusionXLPipeline",
        {**BOTH, "unet": {**XL, **DRAWING, "cross_attention_dim": 48}, "scheduler": DPM},
        {"negative_prompt": None},
    ),
    "image": (
        "StableDiffusionImg2ImgPipeline",
        {**TEXTS, "unet": {**UNET, **DRAWING}, "scheduler": DDIM},
        {"strength": 0.6},
    ),
    "masked": (
        "StableDiffusionInpaintPipeline",
        {**TEXTS, "unet": {**UNET, **DRAWING}, "scheduler": DDIM},
        {"strength": 1.0},
    ),
    "inpaint": (
        "StableDiffusionInpaintPipeline",
        {**TEXTS, "unet": {**UNET, **DRAWING, "in_channels": 9}, "scheduler": DDIM},
        {"strength": 1.0},
    ),
}


def parts_of(name: str) -> dict[str, tuple[str, Config]]:
    """The class and configuration of each part of a pipeline."""
    _, parts, _ = CASES[name]
    return {
        "vae": ("AutoencoderKL", VAE),
        **parts,
        "unet": ("UNet2DConditionModel", parts["unet"]),
    }


def pictures() -> tuple[Any, Any]:
    """A picture u8[h, w, 3] and a mask u8[h, w]."""
    rng = np.random.default_rng(5)
    width, height = SIZE
    mask = np.zeros((height, width), np.uint8)
    mask[4:12, 6:20] = 255
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8), mask


def latents_of(name: str, noise: Any) -> Any:
    """The last latents of diffusers' pipeline."""
    import diffusers
    import torch
    from PIL import Image
    from transformers import CLIPTokenizer

    kind, _, options = CASES[name]
    parts: dict[str, Any] = {}
    for part, (cls, config) in parts_of(name).items():
        network = made(cls, config)
        parts[part] = network if part == "scheduler" else seeded(network)
        if part.startswith("text_encoder"):
            parts[part.replace("text_encoder", "tokenizer")] = CLIPTokenizer.from_pretrained(
                TOKENIZER
            )
    if "XL" not in kind:
        parts |= {"safety_checker": None, "feature_extractor": None}
        parts["requires_safety_checker"] = False
    pipe = getattr(diffusers, kind)(**parts)
    pipe.set_progress_bar_config(disable=True)
    given: dict[str, Any] = {"width": SIZE[0], "height": SIZE[1]}
    picture, mask = (Image.fromarray(x) for x in pictures())
    if kind.endswith(("Img2ImgPipeline", "InpaintPipeline")):
        module = sys.modules[type(pipe).__module__]
        module.randn_tensor = lambda *_, **__: torch.from_numpy(noise)
        sampled = sys.modules["diffusers.models.autoencoders.vae"].DiagonalGaussianDistribution
        sampled.sample = lambda self, *_: self.mode()
        given = {"image": picture}
    if kind.endswith("InpaintPipeline"):
        given |= {"mask_image": mask, "width": SIZE[0], "height": SIZE[1]}
    else:
        given |= {} if "image" in given else {"latents": torch.from_numpy(noise)}
    asked: Config = {"num_inference_steps": STEPS, "guidance_scale": 4.0, "output_type": "latent"}
    asked["negative_prompt"] = NEGATIVE
    made_of = pipe(PROMPT, **{**asked, **given, **options})
    return np.ascontiguousarray(made_of.images.numpy())


def main() -> None:
    import diffusers

    width, height = SIZE
    tensors = {}
    for name in CASES:
        rng = np.random.default_rng(11)
        noise = rng.standard_normal((1, 4, height // 2, width // 2)).astype(np.float32)
        tensors |= {f"{name}.noise": noise, f"{name}.latents": latents_of(name, noise)}
    save_file(tensors, FILE, {"cases": json.dumps(CASES), "diffusers": diffusers.__version__})
    FILE.chmod(0o644)


if __name__ == "__main__":
    sys.path.pop(0)  # kernels.py beside this file is not the package that transformers looks for
    main()
