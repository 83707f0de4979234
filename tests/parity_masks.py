"""Masked drawing with the shipped model beside diffusers' pipeline. Not in the suite: it needs
PyTorch.

    pip install '.[cpu,parity]'
    python tests/parity_masks.py [--device cpu] [--steps 20] [--peer PYTHON] [--folder DIR]

Draws a red car, then other things into parts of it, from one noise on both sides; prints for each
the relative error of the last latents. The pictures stay in DIR. `--peer` is a Python that has
diffusers.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIDE, SEED, GUIDANCE = 256, 3, 5.0
HALF, SQUARE = (0, 128, 255, 255), (64, 64, 191, 191)
CASES = {
    "the same car": ("a red car", HALF, 1.0),
    "half of it anew": ("a red car", HALF, 0.75),
    "a blue half": ("a blue car", HALF, 1.0),
    "a heart inside": ("a red heart", SQUARE, 1.0),
}
LIMIT = 5e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--peer", default=sys.executable, help="a Python that has diffusers")
    parser.add_argument("--folder", type=Path, help="where pictures stay")
    parser.add_argument("--as-peer", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.as_peer is not None:
        return theirs(args.as_peer, args.steps)
    if args.folder is not None:
        args.folder.mkdir(parents=True, exist_ok=True)
        return compare(args, args.folder.resolve())
    with tempfile.TemporaryDirectory() as made:
        compare(args, Path(made))


def compare(args: argparse.Namespace, place: Path) -> None:
    from sdlc.models.folder import default_folder
    from sdlc.models.painter import make_noise
    from sdlc.models.pipeline import Pipeline

    draw = Pipeline(device=args.device, steps=args.steps, guidance=GUIDANCE)
    Image.fromarray(draw("a red car").pixels[0]).save(place / "car.png")
    found = {}
    for name, (prompt, box, strength) in CASES.items():
        mask = Image.new("L", (SIDE, SIDE), 0)
        ImageDraw.Draw(mask).rectangle(box, fill=255)
        mask.save(place / f"{name}-mask.png")
        given = {"init": place / "car.png", "mask": place / f"{name}-mask.png"}
        made = draw(prompt, seed=SEED, strength=strength, **given)
        Image.fromarray(made.pixels[0]).save(place / f"{name}-sdlc.png")
        found[name] = made.latents
    draw.close()
    np.save(place / "noise.npy", make_noise(SEED, 1, (4, SIDE // 8, SIDE // 8)))
    (place / "model").unlink(missing_ok=True)
    (place / "model").symlink_to(default_folder())
    here = str(Path(__file__))
    command = [args.peer, "-P", "-W", "ignore", here, "--as-peer", str(place)]
    subprocess.run([*command, "--steps", str(args.steps)], check=True)
    worst = 0.0
    for name, ours in found.items():
        wanted = np.load(place / f"{name}.npy")
        error = float(np.linalg.norm(ours - wanted) / np.linalg.norm(wanted))
        worst = max(worst, error)
        print(f"{name:16} latents differ by {error:.1e}")
    if worst > LIMIT:
        sys.exit(f"an error is above {LIMIT}")


def theirs(place: Path, steps: int) -> None:
    """The latents and pictures of diffusers' pipeline, from the same noise and the mode of the
    encoder's distribution."""
    import torch
    from diffusers import StableDiffusionInpaintPipeline
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    pipe = StableDiffusionInpaintPipeline.from_pretrained(
        place / "model", torch_dtype=torch.float32, safety_checker=None
    )
    noise = torch.from_numpy(np.load(place / "noise.npy"))
    sys.modules[type(pipe).__module__].randn_tensor = lambda *_, **__: noise
    DiagonalGaussianDistribution.sample = lambda self, *_: self.mode()
    pipe.set_progress_bar_config(disable=True)
    picture = Image.open(place / "car.png")
    for name, (prompt, _, strength) in CASES.items():
        latents = pipe(
            prompt,
            image=picture,
            mask_image=Image.open(place / f"{name}-mask.png"),
            strength=strength,
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            width=SIDE,
            height=SIDE,
            output_type="latent",
        ).images
        np.save(place / f"{name}.npy", latents.numpy())
        with torch.no_grad():
            decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
        pipe.image_processor.postprocess(decoded)[0].save(place / f"{name}-diffusers.png")


if __name__ == "__main__":
    main()
