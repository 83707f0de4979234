"""What tests/bench_gpu.py compares with: SD 1.4's UNet in PyTorch, on the GPU where there is one.

    python -P tests/peer_unet.py FOLDER      # run by bench_gpu.py in the Python of --peer

FOLDER holds `config.json`, `inputs.npz` and `weights.safetensors`. `wanted.npy` (f32 arithmetic on
these weights) and `half.npy` (f16, where there is a GPU) are written there; then the first line of
stdout is JSON: versions and device. Each line of stdin is `eager` or `compile`, each line of stdout
JSON: the median seconds of a step and what it took to get ready. This file knows nothing of sdlc.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

RUNS = 20


def main() -> None:
    import diffusers
    import torch
    from safetensors.torch import load_file

    torch.backends.cudnn.allow_tf32 = False  # f32 that is to be the measure
    folder = Path(sys.argv[1])
    gpu = torch.cuda.is_available()
    device, half = ("cuda", torch.float16) if gpu else ("cpu", torch.float32)
    config = json.loads((folder / "config.json").read_text())
    with torch.device(device):
        unet = diffusers.UNet2DConditionModel(**config).eval()
    unet.load_state_dict(load_file(folder / "weights.safetensors", device=device))
    held = np.load(folder / "inputs.npz")
    given = {n: torch.from_numpy(held[n].astype(np.float32)).to(device) for n in held.files}

    def step(model, precision):
        latent, context = given["latent"].to(precision), given["context"].to(precision)
        with torch.no_grad():
            return model(latent, given["timestep"], context, return_dict=False)[0]

    np.save(folder / "wanted.npy", step(unet.float(), torch.float32).float().cpu().numpy())
    unet = unet.to(half)
    np.save(folder / "half.npy", step(unet, half).float().cpu().numpy())
    wait: Callable[[], None] = torch.cuda.synchronize if gpu else lambda: None

    def timed(model) -> dict[str, float]:
        begin = time.perf_counter()
        for _ in range(3):
            step(model, half)
        wait()
        ready, seconds = time.perf_counter() - begin, []
        for _ in range(RUNS if gpu else 2):
            begin = time.perf_counter()
            step(model, half)
            wait()
            seconds.append(time.perf_counter() - begin)
        return {"seconds": median(seconds), "ready": ready}

    name = torch.cuda.get_device_name() if gpu else "cpu"
    versions = {"torch": torch.__version__, "diffusers": diffusers.__version__, "device": name}
    print(json.dumps(versions), flush=True)
    for line in sys.stdin:
        compiled = line.strip() == "compile"
        model = torch.compile(unet, mode="reduce-overhead") if compiled else unet
        print(json.dumps(timed(model)), flush=True)


if __name__ == "__main__":
    main()
