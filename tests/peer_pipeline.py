"""What tests/parity_full.py compares with: a folder's networks and its pipeline in PyTorch, f32.

    python -P tests/peer_pipeline.py FOLDER      # run by parity_full.py in the Python of --peer

FOLDER holds `model` in the diffusers layout, and `inputs.npz`. For each of `STAGES` a file
`peer-NAME.npz` is written unless it is there, and a line of JSON printed: its name and seconds.
This file knows nothing of sdlc.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(sys.argv[1])


def given() -> dict[str, Any]:
    held = np.load(FOLDER / "inputs.npz")
    return {name: held[name] for name in held.files}


def tensor(name: str) -> Any:
    import torch

    return torch.from_numpy(given()[name])


def config_of(part: str) -> dict[str, Any]:
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    found = json.loads((FOLDER / "model" / part / name).read_text())
    return {key: value for key, value in found.items() if not key.startswith("_")}


def class_of(part: str) -> str:
    return json.loads((FOLDER / "model" / "model_index.json").read_text())[part][1]


def network(part: str) -> Any:
    """A part's network with its weights, each of which it must know."""
    import diffusers
    import torch
    import transformers
    from safetensors import safe_open

    kind, config = class_of(part), config_of(part)
    (file,) = (FOLDER / "model" / part).glob("*.safetensors")
    with safe_open(file, framework="pt") as stored:  # never the whole file beside what is widened
        names = stored.keys()
        held = {name: stored.get_tensor(name).float() for name in names}
    if kind.startswith("CLIP"):
        made = getattr(transformers, kind)(transformers.CLIPTextConfig(**config))
        wanted = set(made.state_dict())
        held = {n if n in wanted else n.removeprefix("text_model."): x for n, x in held.items()}
        missing = made.load_state_dict(held, strict=False)
        unused = f"encoder.layers.{config['num_hidden_layers'] - 1}."
        # Of SDXL's first encoder nothing behind the states that are used is in the file.
        assert not missing.unexpected_keys, missing.unexpected_keys
        left = [n for n in missing.missing_keys if unused not in n and "final_layer_norm" not in n]
        assert not left, left
        return made.eval()
    with torch.device("meta"):
        made = getattr(diffusers, kind)(**config)
    made.load_state_dict(held, strict=True, assign=True)
    return made.eval()


def text() -> dict[str, Any]:
    """The states of both texts, as the networks of 1.x and 2.x, or of XL, see them."""
    both = [n for n in ("text_encoder", "text_encoder_2") if (FOLDER / "model" / n).is_dir()]
    states, found = [], {}
    for part in both:
        made = network(part)(tensor(f"{part}.ids").long(), output_hidden_states=True)
        states.append(made.hidden_states[-2] if len(both) == 2 else made.last_hidden_state)
        if part == "text_encoder_2":
            found["pooled"] = made.text_embeds.numpy()
    return {"context": np.concatenate([x.numpy() for x in states], axis=2), **found}


def unet() -> dict[str, Any]:
    held = given()
    added = {}
    if "pooled" in held:
        added = {"text_embeds": tensor("pooled"), "time_ids": tensor("sizes")}
    made = network("unet")(
        tensor("latent"), tensor("timestep"), tensor("context"), added_cond_kwargs=added
    )
    return {"out": made.sample.numpy()}


def encoder() -> dict[str, Any]:
    vae = network("vae")
    mean = vae.encode(tensor("picture")).latent_dist.mean
    return {"out": (mean * vae.config.scaling_factor).numpy()}


def decoder() -> dict[str, Any]:
    vae = network("vae")
    return {"out": vae.decode(tensor("latents") / vae.config.scaling_factor).sample.numpy()}


def pipeline() -> dict[str, Any]:
    """The last latents and the picture of the pipeline itself, from its own texts' states."""
    import diffusers
    import torch

    held = given()
    kind = json.loads((FOLDER / "model" / "model_index.json").read_text())["_class_name"]
    scheduler = getattr(diffusers, class_of("scheduler"))(**config_of("scheduler"))
    parts: dict[str, Any] = {"vae": network("vae"), "unet": network("unet"), "scheduler": scheduler}
    texts = ["text_encoder", "tokenizer"]
    if "XL" in kind:
        texts += [f"{name}_2" for name in texts]
    else:
        parts |= {"safety_checker": None, "feature_extractor": None}
        parts["requires_safety_checker"] = False
    pipe = getattr(diffusers, kind)(**parts, **dict.fromkeys(texts))
    pipe.set_progress_bar_config(disable=True)
    states = np.load(FOLDER / "peer-text.npz")
    options: dict[str, Any] = {}
    for name, field in {"context": "prompt_embeds", "pooled": "pooled_prompt_embeds"}.items():
        if name in states:
            no, yes = (torch.from_numpy(states[name][i : i + 1]) for i in (0, 1))
            options |= {field: yes, f"negative_{field}": no}
    steps, guidance = int(held["steps"]), float(held["guidance"])
    height, width = (int(n) for n in held["size"])
    options |= {"num_inference_steps": steps, "guidance_scale": guidance}
    found = pipe(
        latents=tensor("noise"), output_type="latent", height=height, width=width, **options
    ).images
    picture = pipe.vae.decode(found / pipe.vae.config.scaling_factor).sample
    return {"latents": found.numpy(), "picture": picture.numpy()}


STAGES = (text, encoder, unet, decoder, pipeline)


def main() -> None:
    import torch

    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    for stage in STAGES:
        file = FOLDER / f"peer-{stage.__name__}.npz"
        begin = time.perf_counter()
        if not file.exists():
            np.savez(FOLDER / "new.npz", **stage())
            (FOLDER / "new.npz").rename(file)
        spent = time.perf_counter() - begin
        print(json.dumps({"stage": stage.__name__, "seconds": spent}), flush=True)


if __name__ == "__main__":
    main()
