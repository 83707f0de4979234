"""Writes tests/data/samplers.safetensors: what diffusers' schedulers make of random predictions.

    pip install '.[parity]'
    python tests/write_samplers.py

Each case of `CASES` is a name, the scheduler's class, settings and a number of steps. The file
holds, for each: `times`, `start` (its first latents), `predictions`, `noise` and `latents` after
each evaluation; the settings are its metadata.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

FILE = Path(__file__).parent / "data" / "samplers.safetensors"
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
V = {"prediction_type": "v_prediction"}
SAMPLE = {"prediction_type": "sample"}
ZERO = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", **V}
COSINE = {"beta_schedule": "squaredcos_cap_v2"}
LEADING = {"timestep_spacing": "leading", "steps_offset": 1}
TRAILING, LINSPACE = {"timestep_spacing": "trailing"}, {"timestep_spacing": "linspace"}
KARRAS = {"use_karras_sigmas": True}
LAST = {"set_alpha_to_one": False, "clip_sample": False}

CASES: dict[str, tuple[str, str, dict[str, Any], int]] = {
    f"{sampler}-{i}": (sampler, scheduler, settings, steps)
    for sampler, scheduler, variants in (
        (
            "ddim",
            "DDIMScheduler",
            [
                ({**SD, **LAST, **LEADING}, 6),
                ({**SD, **LAST, **TRAILING, **V}, 7),
                ({**SD, **LINSPACE, **SAMPLE, "clip_sample": True, "clip_sample_range": 0.7}, 5),
                ({**SD, **LAST, **ZERO}, 5),
                ({**COSINE, **LAST, **V}, 4),
            ],
        ),
        (
            "pndm",
            "PNDMScheduler",
            [
                ({**SD, **LEADING, "set_alpha_to_one": False, "skip_prk_steps": True}, 8),
                ({**SD, **V, "skip_prk_steps": True}, 6),
                ({**SD, **LINSPACE, "skip_prk_steps": True}, 3),
                ({**SD, "skip_prk_steps": True}, 1),
            ],
        ),
        (
            "euler",
            "EulerDiscreteScheduler",
            [
                ({**SD, **LEADING}, 6),
                ({**SD, **LINSPACE, **KARRAS}, 7),
                ({**SD, **TRAILING, **V, "final_sigmas_type": "sigma_min"}, 5),
                ({**SD, **ZERO}, 5),
                ({"beta_schedule": "linear", **SAMPLE}, 4),
            ],
        ),
        (
            "euler_ancestral",
            "EulerAncestralDiscreteScheduler",
            [({**SD, **LEADING}, 6), ({**SD, **V, **TRAILING}, 5)],
        ),
        (
            "dpm++",
            "DPMSolverMultistepScheduler",
            [
                ({**SD, **LINSPACE}, 6),
                ({**SD, **KARRAS}, 20),
                ({**SD, **LEADING, **V, "solver_type": "heun"}, 16),
                ({**SD, **TRAILING, "final_sigmas_type": "sigma_min"}, 15),
                ({**SD, **ZERO, "euler_at_final": True}, 5),
                ({**SD, **SAMPLE, "solver_order": 1}, 1),
            ],
        ),
        (
            "unipc",
            "UniPCMultistepScheduler",
            [
                ({**SD, **LINSPACE}, 6),
                ({**SD, **KARRAS, **V}, 8),
                ({**SD, **LEADING, "solver_type": "bh1", "final_sigmas_type": "sigma_min"}, 5),
                ({**SD, **SAMPLE}, 1),
            ],
        ),
        (
            "lcm",
            "LCMScheduler",
            [({**SD, **LAST}, 4), ({**SD, **V, "clip_sample": True}, 8), ({**SD, **SAMPLE}, 1)],
        ),
    )
    for i, (settings, steps) in enumerate(variants)
}


def main() -> None:
    import diffusers
    import torch

    tensors: dict[str, np.ndarray[Any, Any]] = {}
    for number, (name, (_, scheduler, settings, steps)) in enumerate(CASES.items()):
        rng = np.random.default_rng(number)
        made = getattr(diffusers, scheduler)(**settings)
        made.set_timesteps(steps)
        count, shape = len(made.timesteps), (1, 2, 2, 3)
        predictions, noise = rng.standard_normal((2, count, *shape)).astype(np.float32)
        drawn = iter(torch.from_numpy(noise))
        module = __import__(made.__module__, fromlist=["randn_tensor"])
        if hasattr(module, "randn_tensor"):
            module.randn_tensor = lambda *_, drawn=drawn, **__: next(drawn)
        start = rng.standard_normal(shape).astype(np.float32)
        latents = [torch.from_numpy(start) * made.init_noise_sigma]
        for time, prediction in zip(made.timesteps, torch.from_numpy(predictions), strict=True):
            made.scale_model_input(latents[-1], time)
            latents.append(made.step(prediction, time, latents[-1]).prev_sample)
        tensors |= {
            f"{name}.times": made.timesteps.numpy().astype(np.float64),
            f"{name}.start": start,
            f"{name}.predictions": predictions,
            f"{name}.noise": noise,
            f"{name}.latents": torch.stack(latents).numpy(),
        }
    save_file(tensors, FILE, {"cases": json.dumps(CASES), "diffusers": diffusers.__version__})


if __name__ == "__main__":
    main()
