"""Low-rank changes of a model's weights (LoRA), added when a weight is read.

In: `.safetensors` files with kohya's or diffusers' names, each with a scale, and a `Model`. Out: a
model whose weights are changed: W + scale · alpha / rank · up · down (Hu et al. 2021, section 4.1;
convolutions as two convolutions in a row). Invariant: every tensor of a file has its place in the
model, or the file is refused with the reason; a factor is read when its weight is. Errors: SdlError
L….

    with_loras(load_model("model.safetensors"), (Lora(Path("style.safetensors"), 0.8),))
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np

from sdlc.graph.types import Array
from sdlc.language.diagnostics import SdlError, failure
from sdlc.models.family import family_of
from sdlc.models.folder import Model
from sdlc.models.original import original_module
from sdlc.models.weights import Change, Entry, Weights, read_entry, read_header

FACTORS = MappingProxyType(
    {
        ".lora_down.weight": "down",
        ".lora_up.weight": "up",
        ".lora_A.weight": "down",
        ".lora_B.weight": "up",
        ".lora_A.default.weight": "down",
        ".lora_B.default.weight": "up",
        ".lora.down.weight": "down",
        ".lora.up.weight": "up",
        ".lora_linear_layer.down.weight": "down",
        ".lora_linear_layer.up.weight": "up",
        "_lora.down.weight": "down",
        "_lora.up.weight": "up",
        ".alpha": "alpha",
    }
)
"""How names of factors end."""
OTHERS = (".lora_mid.weight", ".hada_w1_a", ".lokr_w1", ".lokr_w1_a", ".dora_scale", ".oft_blocks")
"""How names end in relatives of LoRA (with a factor between, Hadamard and Kronecker products,
magnitudes, rotations)."""
PARTS = MappingProxyType(
    {
        "lora_unet_": "unet",
        "lora_te_": "text_encoder",
        "lora_te1_": "text_encoder",
        "lora_te2_": "text_encoder_2",
        "unet.": "unet",
        "text_encoder.": "text_encoder",
        "text_encoder_2.": "text_encoder_2",
        "base_model.model.": "unet",
        "": "unet",
    }
)
"""How names begin, and the part that they change."""
OLD_TEXT = MappingProxyType(
    {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
)
CONTEXTS = MappingProxyType(
    {
        768: "Stable Diffusion 1.x",
        1024: "Stable Diffusion 2.x",
        2048: "Stable Diffusion XL",
    }
)
"""The width of the texts that attention looks at, by which a file tells its family."""


@dataclass(frozen=True, slots=True)
class Lora:
    """A file and how much of it is added: 1 is what it was trained for."""

    file: Path
    scale: float = 1.0

    def __str__(self) -> str:
        """As it is given to `--lora`."""
        return f"{self.file}:{self.scale:g}"


@dataclass(frozen=True, slots=True)
class LowRank:
    """`amount` · up · down, up [o, r], down [r, i], or a convolution's with a window on either."""

    up: Entry
    down: Entry
    amount: float

    @property
    def sources(self) -> tuple[Entry, ...]:
        return self.up, self.down

    def apply(self, name: str, array: Array) -> Array:
        up, down = (read_entry(name, e).astype(np.float32) for e in (self.up, self.down))
        rank = down.shape[0]
        product = up.reshape(-1, rank) @ down.reshape(rank, -1)
        added = np.float32(self.amount) * product.reshape(array.shape)
        changed: Array = np.add(array, added, dtype=np.float32)
        return changed


@dataclass(slots=True)
class _Pair:
    """What a file holds for one weight."""

    names: dict[str, str] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)


def parse_lora(text: str) -> Lora:
    """A file, or `FILE:SCALE`. Raises SdlError (L001) for a scale that is no number."""
    file, colon, scale = text.rpartition(":")
    if not colon or Path(text).exists():
        return Lora(Path(text))
    try:
        number = float(scale)
    except ValueError:
        return Lora(Path(text))
    if not math.isfinite(number):
        raise failure("L001", f"the scale {scale} of {file}", help="give a number such as 0.8")
    return Lora(Path(file), number)


def with_loras(model: Model, loras: Iterable[Lora]) -> Model:
    """The model with its weights changed by every file. Raises SdlError: L001 no LoRA there, L002
    one of another family, L003 a relative that is not described."""
    changes: dict[str, dict[str, tuple[Change, ...]]] = {}
    for lora in loras:
        for part, name, change in _changes(lora, model):
            held = changes.setdefault(part, {})
            held[name] = (*held.get(name, ()), change)
    return replace(model, weights=partial(_weights, model, changes)) if changes else model


def _weights(
    model: Model, changes: Mapping[str, Mapping[str, tuple[Change, ...]]], part: str
) -> Weights:
    return replace(model.weights(part), changes=changes.get(part, {}))


# ---- what a file holds ---------------------------------------------------------------------------


def _changes(lora: Lora, model: Model) -> Iterator[tuple[str, str, Change]]:
    """The part, the weight's name and the change, for everything in a file."""
    pairs = _pairs(lora.file)
    places = {part: _modules(part, model) for part in dict.fromkeys(part for part, _ in pairs)}
    lost = [p for (part, module), p in pairs.items() if module not in places[part]]
    if lost:
        raise _other_family(lora.file, model, pairs, next(iter(lost[0].names.values())))
    for (part, module), pair in pairs.items():
        name = places[part][module]
        yield part, name, _low_rank(lora, model, part, name, pair)


def _pairs(file: Path) -> dict[tuple[str, str], _Pair]:
    """By part and module (as the file names it), what there is for it."""
    if not file.is_file() or file.suffix.lower() != ".safetensors":
        reason = "it is no .safetensors file" if file.exists() else "there is no such file"
        raise failure("L001", f"cannot read the LoRA {file}: {reason}", help="--lora FILE[:SCALE]")
    pairs: dict[tuple[str, str], _Pair] = defaultdict(_Pair)
    for name, entry in read_header(file).entries.items():
        if name.endswith(OTHERS):
            kind = name.rpartition(".")[2] if not name.endswith(".weight") else "lora_mid"
            message = f"{file} is a relative of LoRA that is not described: it holds `{kind}`"
            raise failure("L003", message, help="merge it into the model with its own tool")
        ending = next((e for e in FACTORS if name.endswith(e)), None)
        if ending is None:
            message = f"{file} is no LoRA: it holds `{name}`"
            raise failure("L001", message, help="a LoRA holds pairs of lora_down and lora_up")
        pair = pairs[_place(name.removesuffix(ending))]
        pair.names[FACTORS[ending]] = name
        pair.entries[FACTORS[ending]] = entry
    for pair in pairs.values():
        if not {"up", "down"} <= set(pair.entries):
            only = next(iter(pair.names.values()))
            message = f"{file} holds `{only}` without the factors that belong to it"
            raise failure("L001", message, help="download it again, or use another file")
    if not pairs:
        raise failure("L001", f"{file} is empty", help="download it again")
    return dict(pairs)


def _place(name: str) -> tuple[str, str]:
    """The part and the module, in the spelling that the part's table has: words with `_`."""
    start = next(p for p in PARTS if name.startswith(p))
    part, module = PARTS[start], name.removeprefix(start).replace(".processor", "")
    words = module.split(".")
    if len(words) > 1 and part != "unet":
        words[-1] = OLD_TEXT.get(words[-1], words[-1])
    elif words[-1] == "to_out":
        words.append("0")
    return part, "_".join(words)


def _modules(part: str, model: Model) -> dict[str, str]:
    """The weights of a part by their module's names, words with `_`: in diffusers' layout, and of
    the denoising network in the original one too."""
    if part == "text_encoder_2" and not model.text_encoder_2:
        return {}
    found = {}
    for name in model.weights(part):
        module = name.removesuffix(".weight")
        if module != name:
            found[module.replace(".", "_")] = name
            found[module.removeprefix("text_model.").replace(".", "_")] = name
            if part == "unet":
                found[original_module(module, model.unet).replace(".", "_")] = name
    return found


def _low_rank(lora: Lora, model: Model, part: str, name: str, pair: _Pair) -> LowRank:
    up, down = pair.entries["up"], pair.entries["down"]
    shape = model.weights(part).shape(name)
    rank = down.shape[0] if down.shape else 0
    fits = rank > 0 and len(up.shape) > 1 and up.shape[1] == rank and up.shape[0] == shape[0]
    if not fits or math.prod(up.shape) * math.prod(down.shape) != math.prod(shape) * rank * rank:
        raise _misshapen(lora.file, model, pair, shape)
    alpha = pair.entries.get("alpha")
    amount = float(rank)
    if alpha is not None:
        values = read_entry(pair.names["alpha"], alpha)
        if values.size != 1:
            message = f"`{pair.names['alpha']}` in {lora.file} holds {values.size} values"
            raise failure("L001", message, help="an alpha is one number; use another file")
        amount = float(values.ravel()[0])
    return LowRank(up, down, lora.scale * amount / rank)


# ---- what is refused -----------------------------------------------------------------------------


def _misshapen(file: Path, model: Model, pair: _Pair, shape: tuple[int, ...]) -> SdlError:
    up, down = (list(pair.entries[k].shape) for k in ("up", "down"))
    message = (
        f"{file} is for {_whose(_pairs(file))}: `{pair.names['down']}` {down} and its other factor "
        f"{up} do not make the {list(shape)} of this one ({family_of(model)})"
    )
    return failure("L002", message, help="use a LoRA that was trained on this model's family")


def _other_family(
    file: Path, model: Model, pairs: Mapping[tuple[str, str], _Pair], name: str
) -> SdlError:
    whose = _whose(pairs)
    message = f"{file} is for {whose}: this one ({family_of(model)}) has no place for `{name}`"
    return failure("L002", message, help="use a LoRA that was trained on this model's family")


def _whose(pairs: Mapping[tuple[str, str], _Pair]) -> str:
    """What a file is for, where a second encoder or the width of the texts tells."""
    widths = {p.entries["down"].shape[-1:] for (_, m), p in pairs.items() if "attn2_to_k" in m}
    told = {CONTEXTS[w[0]] for w in widths if w and w[0] in CONTEXTS}
    if any(part == "text_encoder_2" for part, _ in pairs):
        told.add(CONTEXTS[2048])
    return f"one of {told.pop()}" if len(told) == 1 else "another model"
