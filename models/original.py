"""The names of the original layout, in which single-file checkpoints are written, and diffusers'.

In: the tensors of a file by original name. Out: for each part (`unet`, `vae`, `text_encoder`,
`text_encoder_2`) its tensors under diffusers' names, and the names that belong to no part.
Invariant: no bytes are read or copied: a fused projection becomes parts of its bytes, a convolution
of one pixel the matrix that it is, a matrix that is applied from the other side its transpose. An
original name without a rule is among those left over; nothing is guessed.

    translate({"first_stage_model.decoder.conv_in.weight": entry}).parts["vae"]
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

from sdlc.language.diagnostics import failure
from sdlc.models.weights import Entry

Entries = dict[str, Entry]
Named = Iterator[tuple[str, Entry]]
Names = Mapping[str, str]
Rule = Callable[[str, Entry], Named]

UNET = "model.diffusion_model."
VAE = "first_stage_model."

RESNET: Names = MappingProxyType(
    {
        "in_layers.0": "norm1",
        "in_layers.2": "conv1",
        "emb_layers.1": "time_emb_proj",
        "out_layers.0": "norm2",
        "out_layers.3": "conv2",
        "skip_connection": "conv_shortcut",
    }
)
UNET_ENDS: Names = MappingProxyType(
    {
        "input_blocks.0.0": "conv_in",
        "time_embed.0": "time_embedding.linear_1",
        "time_embed.2": "time_embedding.linear_2",
        "label_emb.0.0": "add_embedding.linear_1",
        "label_emb.0.2": "add_embedding.linear_2",
        "out.0": "conv_norm_out",
        "out.2": "conv_out",
    }
)
MIDDLE: Names = MappingProxyType(
    {
        "middle_block.0": "mid_block.resnets.0",
        "middle_block.1": "mid_block.attentions.0",
        "middle_block.2": "mid_block.resnets.1",
    }
)
VAE_RESNET: Names = MappingProxyType({"nin_shortcut": "conv_shortcut"})
VAE_ATTENTION: Names = MappingProxyType(
    {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
)
VAE_MIDDLE: Names = MappingProxyType(
    {"block_1": "resnets.0", "attn_1": "attentions.0", "block_2": "resnets.1"}
)
VAE_ENDS: Names = MappingProxyType({"norm_out": "conv_norm_out"})
OPEN_CLIP_ENDS: Names = MappingProxyType(
    {
        "token_embedding.weight": "embeddings.token_embedding.weight",
        "positional_embedding": "embeddings.position_embedding.weight",
        "ln_final.weight": "final_layer_norm.weight",
        "ln_final.bias": "final_layer_norm.bias",
    }
)
OPEN_CLIP_LAYER: Names = MappingProxyType(
    {
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "attn.out_proj": "self_attn.out_proj",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }
)
FUSED = ("q_proj", "k_proj", "v_proj")
"""What OpenCLIP keeps in one matrix, in this order."""


@dataclass(frozen=True, slots=True)
class Translated:
    """Tensors by part and diffusers' name, and the original names that have no place there."""

    parts: Mapping[str, Entries]
    left: tuple[str, ...]


def translate(entries: Mapping[str, Entry]) -> Translated:
    """The parts of a file in the original layout. Raises SdlError (W004) where two tensors stand
    for one."""
    rules = _rules(entries)
    parts: dict[str, Entries] = {}
    left = []
    for name, entry in entries.items():
        place = next((p for p in rules if name.startswith(p)), "")
        part, rule = rules.get(place, ("", _nothing))
        found = list(rule(name.removeprefix(place), entry))
        held = parts.setdefault(part, {}) if found else {}
        for new, each in found:
            if new in held:
                message = f"{entry.file.name} holds `{new}` of the {part} twice, once as `{name}`"
                raise failure("W004", message, help="the file mixes two layouts; use another one")
            held[new] = each
        if not found:
            left.append(name)
    return Translated(parts, tuple(left))


def _rules(entries: Mapping[str, Entry]) -> dict[str, tuple[str, Rule]]:
    """By the start of a name: the part that it belongs to, and how the rest translates."""
    return {
        UNET: ("unet", _unet_rule(entries)),
        VAE: ("vae", partial(_vae_rule, levels=vae_levels(entries))),
        "cond_stage_model.transformer.": ("text_encoder", _clip_rule),
        "cond_stage_model.model.": ("text_encoder", _open_clip_rule),
        "conditioner.embedders.0.transformer.": ("text_encoder", _clip_rule),
        "conditioner.embedders.1.model.": ("text_encoder_2", _open_clip_rule),
    }


def _nothing(name: str, entry: Entry) -> Named:
    yield from ()


def _split(name: str) -> tuple[str, str]:
    """`a.b.weight` as `a.b` and `.weight`."""
    stem, dot, leaf = name.rpartition(".")
    return stem, dot + leaf


# ---- the denoising network -----------------------------------------------------------------------

INPUT = re.compile(r"input_blocks\.(\d+)\.(\d+)\.(.*)")
OUTPUT = re.compile(r"output_blocks\.(\d+)\.(\d+)\.(.*)")


KINDS: Names = MappingProxyType(
    {
        "in_layers": "resnets",
        "transformer_blocks": "attentions",
        "op": "samplers",
        "conv": "samplers",
    }
)
"""What a block is, by the first word of a name in it."""


def _unet_rule(entries: Mapping[str, Entry]) -> Rule:
    """How names of the network of this file translate: its blocks are numbered through, so where a
    level ends must be read from what is there."""
    places = {**MIDDLE, **_places(entries, INPUT, "down"), **_places(entries, OUTPUT, "up")}

    def rule(name: str, entry: Entry) -> Named:
        stem, leaf = _split(name)
        if stem in UNET_ENDS:
            yield UNET_ENDS[stem] + leaf, entry
            return
        head = ".".join(stem.split(".")[: 2 if stem.startswith("middle") else 3])
        place, rest = places.get(head), stem[len(head) + 1 :]
        if place is None:
            return
        if ".resnets." in place and rest in RESNET:
            yield f"{place}.{RESNET[rest]}{leaf}", entry
        elif ".attentions." in place:
            yield f"{place}.{rest}{leaf}", entry
        elif place.endswith("samplers.0") and rest in ("op", "conv"):
            yield f"{place}.conv{leaf}", entry

    return rule


def _blocks(entries: Mapping[str, Entry], pattern: re.Pattern[str]) -> dict[tuple[int, int], str]:
    """By block and member: `resnets`, `attentions` or `samplers`, in the order of their numbers."""
    found: dict[tuple[int, int], str] = {}
    for name in entries:
        match = pattern.fullmatch(name.removeprefix(UNET)) if name.startswith(UNET) else None
        if match is None or (pattern is INPUT and match[1] == "0"):
            continue
        kind = KINDS.get(match[3].partition(".")[0])
        if kind is not None:
            found[int(match[1]), int(match[2])] = kind
    return dict(sorted(found.items()))


def _places(
    entries: Mapping[str, Entry], pattern: re.Pattern[str], direction: str
) -> dict[str, str]:
    """Where each block of one half of the network stands in diffusers' names: a level ends with a
    change of size."""
    side = pattern.pattern.partition("_")[0]
    places, level, layer = {}, 0, -1
    for (block, member), kind in _blocks(entries, pattern).items():
        head = f"{side}_blocks.{block}.{member}"
        if kind == "samplers":
            places[head] = f"{direction}_blocks.{level}.{direction}samplers.0"
            level, layer = level + 1, -1
        else:
            layer += kind == "resnets"
            places[head] = f"{direction}_blocks.{level}.{kind}.{layer}"
    return places


def original_module(name: str, config: Mapping[str, object]) -> str:
    """The original name of a module of the denoising network (a name less `.weight`), by the
    numbers in its configuration; '' where it has none. The other way round than `translate`."""
    for table in (UNET_ENDS, MIDDLE):
        for old, new in table.items():
            if name == new or name.startswith(f"{new}."):
                return old + _inside(name.removeprefix(new))
    match = BLOCK.fullmatch(name)
    if match is None or not isinstance(layers := config.get("layers_per_block", 2), int):
        return ""
    down, level, kind, rest = match[1] == "down", int(match[2]), match[3], match[5]
    layer = layers if kind.endswith("samplers") else int(match[4])
    number = level * (layers + 1) + layer + down  # input block 0 is the first convolution
    place = f"{'input' if down else 'output'}_blocks.{number}"
    if kind == "downsamplers":
        return f"{place}.0.op"
    if kind == "upsamplers":
        kinds = config.get("up_block_types")
        crossing = isinstance(kinds, list) and str(kinds[level]).startswith("CrossAttn")
        return f"{place}.{1 + crossing}.conv"
    return f"{place}.{int(kind == 'attentions')}{_inside(rest)}"


BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)(\..*)")


def _inside(rest: str) -> str:
    """The name within a block: a resnet's words are other ones."""
    for old, new in RESNET.items():
        if rest == f".{new}":
            return f".{old}"
    return rest


# ---- pictures ------------------------------------------------------------------------------------

VAE_LEVEL = re.compile(r"(?:encoder\.down|decoder\.up)\.(\d+)\.(.*)")


def _vae_rule(name: str, entry: Entry, levels: int) -> Named:
    stem, leaf = _split(name)
    side, _, rest = stem.partition(".")
    if side in ("quant_conv", "post_quant_conv") or rest in ("conv_in", "conv_out"):
        yield name, entry
    elif rest in VAE_ENDS:
        yield f"{side}.{VAE_ENDS[rest]}{leaf}", entry
    elif rest.startswith("mid."):
        yield from _vae_middle(side, rest.removeprefix("mid."), leaf, entry)
    elif (match := VAE_LEVEL.fullmatch(stem)) is not None:
        level = int(match[1]) if side == "encoder" else levels - 1 - int(match[1])
        direction = "down" if side == "encoder" else "up"
        inner = _vae_level(match[2], direction)
        if inner and level >= 0:
            yield f"{side}.{direction}_blocks.{level}.{inner}{leaf}", entry


def _vae_middle(side: str, rest: str, leaf: str, entry: Entry) -> Named:
    member, _, inner = rest.partition(".")
    place = VAE_MIDDLE.get(member, "")
    if place.startswith("resnets"):
        yield f"{side}.mid_block.{place}.{VAE_RESNET.get(inner, inner)}{leaf}", entry
    elif place and inner in VAE_ATTENTION:
        if len(entry.shape) == 4 and entry.shape[2:] == (1, 1):
            entry = replace(entry, shape=entry.shape[:2])
        yield f"{side}.mid_block.{place}.{VAE_ATTENTION[inner]}{leaf}", entry


def _vae_level(rest: str, direction: str) -> str:
    """The name within a level; '' for one that has no rule."""
    kind, _, inner = rest.partition(".")
    if kind == "block":
        number, _, leaf = inner.partition(".")
        return f"resnets.{number}.{VAE_RESNET.get(leaf, leaf)}"
    if kind in ("downsample", "upsample") and inner == "conv":
        return f"{direction}samplers.0.conv"
    return ""


def vae_levels(entries: Mapping[str, Entry]) -> int:
    """The number of resolutions of the decoder."""
    start = f"{VAE}decoder.up."
    numbers = {n.removeprefix(start).partition(".")[0] for n in entries if n.startswith(start)}
    return len(numbers)


# ---- texts ---------------------------------------------------------------------------------------

LAYER = re.compile(r"transformer\.resblocks\.(\d+)\.(.*)")


def _clip_rule(name: str, entry: Entry) -> Named:
    """transformers' names already; early files lack the first word."""
    if name.endswith("position_ids"):
        return
    yield name if name.startswith("text_model.") else f"text_model.{name}", entry


def _open_clip_rule(name: str, entry: Entry) -> Named:
    if name in OPEN_CLIP_ENDS:
        yield f"text_model.{OPEN_CLIP_ENDS[name]}", entry
    elif name == "text_projection":  # applied as x · w
        yield "text_projection.weight", replace(entry, transposed=True)
    elif (match := LAYER.fullmatch(name)) is not None:
        place = f"text_model.encoder.layers.{match[1]}"
        stem, leaf = _split(match[2])
        if stem in OPEN_CLIP_LAYER:
            yield f"{place}.{OPEN_CLIP_LAYER[stem]}{leaf}", entry
        elif match[2].startswith("attn.in_proj_") and entry.shape[0] % len(FUSED) == 0:
            kind = match[2].removeprefix("attn.in_proj_")
            for number, each in enumerate(FUSED):
                yield f"{place}.self_attn.{each}.{kind}", entry.part(number, len(FUSED))
