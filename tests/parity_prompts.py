"""Weighted and long texts beside compel, transformers and diffusers. Not in the suite: it needs
PyTorch.

    pip install '.[cpu,parity]' compel
    PYTHONPATH=tests python tests/parity_prompts.py [--device cpu] [--peer PYTHON] [--lpw FILE]
        [--write]

For small models of each family, with CLIP's and OpenCLIP's tokens, and for the shipped one, every
text of `peer_prompts.CASES` is read by sdlc and by the peers; the states of all its rows, and XL's
pooled ones, must agree. `--lpw` is diffusers' examples/community/lpw_stable_diffusion.py, which
keeps the mean of a whole text and not of each row, and fills rows up before their end token: it is
compared where a text has one row or no weights, and its end token is what fills rows up. `--write`
keeps results of XL for the suite (`test_models_prompts.py`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from folders import write_folder
from peer_prompts import CASES, LENGTH
from sdlc.backends.devices import open_device, target_of
from sdlc.graph.types import Array, DType
from sdlc.models.folder import Model, default_folder, load_folder
from sdlc.models.networks import compiled, networks
from sdlc.models.painter import Painter, Ready
from sdlc.models.samplers import make_schedule
from sdlc.models.settings import GenerateSettings, plan_of
from sdlc.models.vocabulary import clip_vocabulary
from sdlc.program.device import Device
from write_pipelines import CASES as PIPELINES
from write_pipelines import parts_of

FILE = Path(__file__).parent / "data" / "prompts.npz"
PEER = Path(__file__).parent / "peer_prompts.py"
FAMILIES = {"1.x": "image", "2.x": "2", "xl": "xl"}
KEPT = {f"{number}{more}" for number in (1, 8) for more in ("", "/pooled")}
"""What is kept of XL for the suite."""
SPECIAL = {"vocab_size": 49408, "bos_token_id": 49406, "eos_token_id": 49407}
LIMIT = 1e-5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peer", default=sys.executable, help="a Python that has transformers")
    parser.add_argument("--lpw", type=Path, help="diffusers' lpw_stable_diffusion.py")
    parser.add_argument("--write", action="store_true", help="keep results for the suite")
    args = parser.parse_args()
    device, worst = open_device(args.device), 0.0
    with tempfile.TemporaryDirectory() as made:
        for family in (*FAMILIES, "shipped"):
            place = Path(made) / family
            place.mkdir()
            if family == "shipped":
                (place / "model").symlink_to(default_folder())
            else:
                small_texts(family, place / "model")
            command = [args.peer, "-P", "-W", "ignore", str(PEER), str(place)]
            subprocess.run(command + ([str(args.lpw.resolve())] if args.lpw else []), check=True)
            peer = dict(np.load(place / "peer.npz"))
            worst = max(worst, compared(family, load_folder(place / "model"), device, peer))
            if family == "xl" and args.write:
                np.savez_compressed(FILE, **{name: peer[name] for name in KEPT})
    if not worst <= LIMIT:
        sys.exit(f"an error is above {LIMIT}")


def small_texts(family: str, place: Path) -> Path:
    """A small model of a family, whose encoders have CLIP's vocabulary and special tokens."""
    case = FAMILIES[family]
    kind, parts = PIPELINES[case][0].replace("Img2Img", ""), parts_of(case)
    tokenizers = {}
    for part, (cls, config) in parts.items():
        if part.startswith("text_encoder"):
            name = part.replace("text_encoder", "tokenizer")
            parts[part] = (cls, {**config, **SPECIAL})
            opened = family == "2.x" or part == "text_encoder_2"
            tokenizers[name] = vocabulary_folder(place.parent / name, "!" if opened else None)
    return write_folder(place, kind, parts, tokenizers)


def vocabulary_folder(place: Path, padding: str | None) -> Path:
    """CLIP's tokenizer as transformers reads it."""
    place.mkdir()
    ids, merges = clip_vocabulary()
    (place / "vocab.json").write_text(json.dumps(ids))
    text = "\n".join(f"{a} {b}" for a, b in merges)
    (place / "merges.txt").write_text(f"#version: 0.2\n{text}\n")
    end = "<|endoftext|>"
    special = {"bos_token": "<|startoftext|>", "eos_token": end, "unk_token": end}
    config = {"model_max_length": LENGTH, **special, "pad_token": padding or end}
    (place / "tokenizer_config.json").write_text(json.dumps(config))
    return place


def conditions(painter: Painter, text: str) -> tuple[Array, Array | None]:
    """The states of a text f32[rows of tokens, width], and XL's pooled ones."""
    made = painter.conditions(text, "")
    return made["context"][-1], made["pooled"][-1] if "pooled" in made else None


def painter_for(model: Model, text: str, device: Device) -> Painter:
    """The text encoders of a model; of the denoising network the sizes, which is all that is
    asked."""
    settings = GenerateSettings(text, guidance=1.0, steps=1, size=(8 * model.granule,) * 2)
    ready = {}
    for each in networks(model, settings):
        if each.role.startswith("text"):
            program = compiled(each, model, target_of(device.info), DType.F32, device)
            ready[each.role] = Ready(each, program, model, device)
        elif each.role == "sampler":
            ready[each.role] = Ready(each, (), model, device)
    schedule = make_schedule(model.scheduler, plan_of(settings, model))
    return Painter(model, device, 1, (4, 8, 8), schedule, ready)


def compared(family: str, model: Model, device: Device, peer: dict[str, Array]) -> float:
    """The largest error of a family's texts."""
    worst = 0.0
    for number, text in enumerate(CASES):
        states, pooled = conditions(painter_for(model, text, device), text)
        whole = number != 8 and number != 9 if len(states) > LENGTH else True
        for name, got in (("", states), ("/pooled", pooled), ("/lpw", states if whole else None)):
            wanted = peer.get(f"{number}{name}")
            if wanted is None or got is None:
                continue
            error = float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))
            worst = max(worst, error)
            shown = text if len(text) <= 34 else text[:30] + " ..."
            print(f"{family:8} {shown!r:40} {name[1:] or 'states':7} {len(got):4} {error:.1e}")
    return worst


if __name__ == "__main__":
    main()
