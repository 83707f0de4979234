"""Pictures beside diffusers' own, from the same noise. Not in the suite: it needs PyTorch.

    pip install '.[cpu,parity]'
    python tests/parity_diffusers.py "a red heart" "a slice of pizza" [--device cpu] [--steps 20]

Prints, for each prompt, the relative error of the last latents and the PSNR of the pictures.
"""

from __future__ import annotations

import argparse

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompts", nargs="+")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    import torch
    from diffusers import StableDiffusionPipeline

    from sdlc.backends.devices import open_device
    from sdlc.models.folder import load_folder
    from sdlc.models.painter import make_noise
    from sdlc.models.pipeline import draw, prepare
    from sdlc.models.settings import GenerateSettings

    folder = load_folder(None)
    peer = StableDiffusionPipeline.from_pretrained(folder.path, torch_dtype=torch.float32)
    peer.set_progress_bar_config(disable=True)
    settings = GenerateSettings(args.prompts[0], steps=args.steps)
    painter = prepare(settings, folder, open_device(args.device), lambda _: None)
    noise = make_noise(settings.seed, 1, painter.latent_shape)
    for prompt in args.prompts:
        ours = draw(painter, GenerateSettings(prompt, steps=args.steps), lambda _: None)
        options = {"num_inference_steps": args.steps, "guidance_scale": settings.guidance}
        latents = torch.from_numpy(noise)
        theirs = peer(prompt, latents=latents, output_type="latent", **options).images.numpy()
        picture = np.asarray(peer(prompt, latents=latents, **options).images[0], np.float64)
        error = np.linalg.norm(ours.latents - theirs) / np.linalg.norm(theirs)
        squared = np.mean((ours.pixels[0] - picture) ** 2)
        decibels = 10 * np.log10(255**2 / max(squared, 1e-12))
        print(f"{prompt!r}: latents differ by {error:.2e}, pictures by {decibels:.1f} dB")


if __name__ == "__main__":
    main()
