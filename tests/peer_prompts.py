"""What tests/parity_prompts.py compares with: weighted and long texts by transformers and compel.

    python -P tests/peer_prompts.py FOLDER [LPW]      # run by parity_prompts.py, by --peer's Python

FOLDER holds `model` in the diffusers layout. For each of `CASES` the states of the text, and of
XL the pooled ones, go to `peer.npz`: compel's own rows of tokens and weights, of phrases written
down here; transformers' states of each row; these times the weights, with the row's mean as it was.
With LPW, which is diffusers' examples/community/lpw_stable_diffusion.py, its states too (`lpw/…`).
This file knows nothing of sdlc.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

LONG = "a red car, a blue boat and a slice of pizza on the moon, "
CASES: dict[str, list[tuple[str, float]]] = {
    "a red car": [("a red car", 1.0)],
    "a (red:1.3) car": [("a ", 1.0), ("red", 1.3), (" car", 1.0)],
    "a ((red)) [car]": [("a ", 1.0), ("red", 1.1 * 1.1), (" ", 1.0), ("car", 1 / 1.1)],
    "((a:2) b:0.75)": [("a", 1.5), (" b", 0.75)],
    r"a \(red\) (car:0)": [("a (red) ", 1.0), ("car", 0.0)],
    "a (unicorn (of steel:1.5), asleep": [
        ("a ", 1.0),
        ("unicorn ", 1.1),
        ("of steel", 1.65),
        (", asleep", 1.1),
    ],
    "": [("", 1.0)],
    10 * LONG: [(10 * LONG, 1.0)],
    f"{5 * LONG}(a star:1.4) {4 * LONG}[grey]": [
        (5 * LONG, 1.0),
        ("a star", 1.4),
        (f" {4 * LONG}", 1.0),
        ("grey", 1 / 1.1),
    ],
    f"({10 * LONG}:1.25)": [(10 * LONG, 1.25)],
}
"""Texts and what brackets make of them: phrases and their weights."""
LENGTH = 77


def loaded(place: Path) -> dict[str, tuple[Any, Any]]:
    """Tokenizer and network of each text encoder."""
    import transformers
    from safetensors.torch import load_file

    index = json.loads((place / "model_index.json").read_text())
    found = {}
    for part in ("text_encoder", "text_encoder_2"):
        if part not in index:
            continue
        config = json.loads((place / part / "config.json").read_text())
        made = getattr(transformers, index[part][1])(transformers.CLIPTextConfig(**config))
        (file,) = (place / part).glob("*.safetensors")
        wanted, held = set(made.state_dict()), load_file(file)
        held = {n if n in wanted else n.removeprefix("text_model."): x for n, x in held.items()}
        made.load_state_dict(held, strict=False)
        folder = place / part.replace("text_encoder", "tokenizer")
        found[part] = transformers.CLIPTokenizer.from_pretrained(folder), made.eval()
    return found


def states_of(phrases: list[tuple[str, float]], parts: dict[str, tuple[Any, Any]]) -> Any:
    """The context of one text, [rows of tokens, width], and the pooled state of its first row."""
    import torch
    from compel.embeddings_provider import EmbeddingsProvider, SplitLongTextMode

    widths, pooled = [], []
    for tokenizer, network in parts.values():
        provider = EmbeddingsProvider(
            tokenizer, network, truncate=False, split_long_text_mode=SplitLongTextMode.BRUTAL
        )
        texts, weights = zip(*phrases, strict=True)
        ids, amounts, _ = provider.get_token_ids_and_expand_weights(
            list(texts), list(weights), "cpu"
        )
        rows = []
        for row in range(0, len(ids), LENGTH):
            given = ids[row : row + LENGTH]
            made = network(given[None], output_hidden_states=True)
            states = made.hidden_states[-2] if len(parts) == 2 else made.last_hidden_state
            changed = states * amounts[row : row + LENGTH, None]
            rows.append(changed * (states.mean() / changed.mean()))
            if row == 0 and "text_embeds" in made:
                pooled.append(made.text_embeds[0])
        widths.append(torch.cat(rows, 1)[0])
    return torch.cat(widths, 1).numpy(), [x.numpy() for x in pooled]


def by_pipeline(file: Path, text: str, parts: dict[str, tuple[Any, Any]]) -> Any:
    """The context of one text by diffusers' pipeline for long and weighted prompts."""
    named = importlib.util.spec_from_file_location("lpw", file)
    assert named is not None and named.loader is not None
    module = importlib.util.module_from_spec(named)
    named.loader.exec_module(module)
    tokenizer, network = parts["text_encoder"]
    pipe = SimpleNamespace(tokenizer=tokenizer, text_encoder=network, device="cpu")
    made, _ = module.get_weighted_text_embeddings(pipe, text, max_embeddings_multiples=16)
    return made[0].numpy()


def main() -> None:
    import torch

    torch.set_grad_enabled(False)
    place, pipelines = Path(sys.argv[1]), [Path(file) for file in sys.argv[2:]]
    parts = loaded(place / "model")
    found = {}
    for number, (text, phrases) in enumerate(CASES.items()):
        found[f"{number}"], pooled = states_of(phrases, parts)
        found |= {f"{number}/pooled": x for x in pooled}
        tokenizer = parts["text_encoder"][0]
        if len(parts) == 1 and tokenizer.pad_token_id == tokenizer.eos_token_id:
            found |= {f"{number}/lpw": by_pipeline(file, text, parts) for file in pipelines}
    np.savez(place / "peer.npz", **found)


if __name__ == "__main__":
    main()
