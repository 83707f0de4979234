"""LoRAs merged as diffusers merges them. Not in the suite: it needs PyTorch.

    pip install '.[parity]' peft
    PYTHONPATH=tests python -P tests/parity_lora.py

Writes a small pipeline of 1.x and one of XL, and for each of them LoRAs in kohya's and diffusers'
names: with and without alphas, of attention only and of every matrix and convolution, of networks
and text encoders. Each alone and two together are read by diffusers (`load_lora_weights`,
`fuse_lora`) and by sdlc; every weight must then be the same. An alpha is that of all modules of a
network, as trainers write it: of several, diffusers 0.42 takes the one that is there most often.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from folders import write_folder
from sdlc.models.folder import Model, load_folder
from sdlc.models.lora import Lora, with_loras
from sdlc.models.original import original_module
from write_pipelines import CASES, TOKENIZER, parts_of

Tensors = dict[str, np.ndarray[Any, Any]]
FAMILIES = {"1.x": "image", "xl": "xl"}
RANK, LIMIT = 3, 1e-6
SCALES = (0.8, -0.5)


def main() -> None:
    with tempfile.TemporaryDirectory() as made:
        for family, case in FAMILIES.items():
            place = Path(made) / family
            kind, parts = CASES[case][0].replace("Img2Img", ""), parts_of(case)
            texts = [part for part in parts if part.startswith("text_encoder")]
            tokenizers = {part.replace("text_encoder", "tokenizer"): TOKENIZER for part in texts}
            model = load_folder(write_folder(place, kind, parts, tokenizers))
            compare_all(family, model)


def compare_all(family: str, model: Model) -> None:
    files = {name: write_lora(model, name) for name in STYLES}
    chosen: list[tuple[str, ...]] = [*((name,) for name in files), tuple(files)[:2]]
    for names in chosen:
        loras = [Lora(files[n], scale) for n, scale in zip(names, SCALES, strict=False)]
        ours, theirs = with_loras(model, loras), fused(model, loras)
        changed, worst = 0, 0.0
        for part, tensors in theirs.items():
            before, after = model.weights(part), ours.weights(part)
            for name, wanted in tensors.items():
                got, scale = after[name], np.abs(wanted).max()
                error = float(np.abs(got - wanted).max() / scale)
                worst = max(worst, error)
                changed += not np.array_equal(got, before[name])
        print(f"{family:5} {' + '.join(names):44} {changed:4} weights changed, error {worst:.1e}")
        assert worst <= LIMIT and changed


# ---- files ---------------------------------------------------------------------------------------


def modules(model: Model, every: bool) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Part, module and shape of matrices, of attention only or of all that is no embedding."""
    for part in ("unet", "text_encoder", "text_encoder_2"):
        if part.startswith("text") and not getattr(model, part):
            continue
        weights = model.weights(part)
        for name in weights:
            shape, module = weights.shape(name), name.removesuffix(".weight")
            attends = ".to_" in name or ("_proj." in name and "self_attn" in name)
            matrix = module != name and len(shape) > 1 and "embedding" not in name
            if matrix and (attends or (every and part == "unet")):
                yield part, module, shape


def kohya(model: Model, part: str, module: str) -> str:
    """Its names: of SDXL's network by original names."""
    large = bool(model.text_encoder_2)
    starts = {"unet": "lora_unet_", "text_encoder": "lora_te_", "text_encoder_2": "lora_te2_"}
    if large:
        starts["text_encoder"] = "lora_te1_"
        module = original_module(module, model.unet) if part == "unet" else module
    return starts[part] + module.replace(".", "_")


def diffusers(model: Model, part: str, module: str) -> str:
    return f"{part}.{module}"


STYLES: Mapping[str, tuple[Any, str, str, bool, bool]] = {
    "kohya": (kohya, "lora_up", "lora_down", True, False),
    "kohya, every layer": (kohya, "lora_up", "lora_down", True, True),
    "kohya without alpha": (kohya, "lora_up", "lora_down", False, False),
    "diffusers": (diffusers, "lora_B", "lora_A", False, False),
    "diffusers, every layer": (diffusers, "lora_B", "lora_A", False, True),
}
"""Names, the factors' endings, whether there are alphas, whether every layer is changed."""


def write_lora(model: Model, style: str) -> Path:
    naming, up, down, with_alpha, every = STYLES[style]
    rng = np.random.default_rng(len(style))
    alphas = {"unet": 1.5, "text_encoder": 4.0, "text_encoder_2": 0.5}
    held: Tensors = {}
    for part, module, shape in modules(model, every):
        name = naming(model, part, module)
        ones = (1,) * (len(shape) - 2)
        held[f"{name}.{up}.weight"] = drawn(rng, (shape[0], RANK, *ones))
        held[f"{name}.{down}.weight"] = drawn(rng, (RANK, *shape[1:]))
        if with_alpha:
            held[f"{name}.alpha"] = np.array(alphas[part], np.float32)
    file = model.path / f"{style.replace(' ', '_')}.safetensors"
    save_file(held, file)
    return file


def drawn(rng: Any, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    return (0.1 * rng.standard_normal(shape)).astype(np.float32)


# ---- diffusers -----------------------------------------------------------------------------------


def fused(model: Model, loras: list[Lora]) -> dict[str, Tensors]:
    """diffusers' weights by part once it has merged the files."""
    import diffusers
    import torch

    kind = json.loads((model.path / "model_index.json").read_text())["_class_name"]
    pipe = getattr(diffusers, kind).from_pretrained(
        model.path, torch_dtype=torch.float32, **without_checker(kind)
    )
    names = [f"l{i}" for i in range(len(loras))]
    for name, lora in zip(names, loras, strict=True):
        pipe.load_lora_weights(lora.file.parent, weight_name=lora.file.name, adapter_name=name)
    pipe.set_adapters(names, [lora.scale for lora in loras])
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    found: dict[str, Tensors] = {}
    for part in ("unet", "text_encoder", "text_encoder_2"):
        network = getattr(pipe, part, None)
        if network is not None:
            known = model.weights(part)
            held = {n: x.detach().numpy() for n, x in network.state_dict().items()}
            found[part] = {n if n in known else f"text_model.{n}": x for n, x in held.items()}
            found[part] = {n: x for n, x in found[part].items() if n in known}
            assert set(found[part]) == set(known), set(known) - set(found[part])
    return found


def without_checker(kind: str) -> dict[str, Any]:
    large = "XL" in kind
    return {} if large else {"safety_checker": None, "feature_extractor": None}


if __name__ == "__main__":
    main()
