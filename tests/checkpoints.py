"""Small checkpoints in the original layout, with the names that each of their tensors has in
diffusers' layout. Written from the two layouts' own definitions, not from what sdlc reads: a
network is walked as its constructor builds it, and each tensor noted under both names.

In: `Sizes` of a family. Out: `Tensor`s: original name, shape as stored there, and for each of
diffusers' names how its array is made of the stored one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

Array = np.ndarray[Any, Any]
Make = Callable[[Array], Array]


@dataclass(frozen=True)
class Sizes:
    """Of a small model: channels of the denoising network by level, layers of transformers by level
    (0 for none), the decoder's channels, (width, layers, vocabulary) of the text encoders."""

    channels: Sequence[int]
    depths: Sequence[int]
    layers: int
    vae: Sequence[int]
    text: tuple[int, int, int]
    linear: bool = False
    second: tuple[int, int, int] | None = None
    added: int = 0
    given: int = 4
    middle: int = 1


SIZES: Mapping[str, Sizes] = {
    "1.x": Sizes((32, 64, 96), (1, 1, 0), 2, (32, 64), (64, 2, 99)),
    "1.x inpainting": Sizes((32, 64), (1, 0), 1, (32,), (64, 1, 99), given=9),
    "2.x": Sizes((64, 128), (1, 0), 2, (32, 32, 64), (128, 3, 77), linear=True),
    "xl": Sizes(
        (64, 128, 128), (0, 2, 3), 1, (32, 64), (64, 2, 50), True, (128, 2, 50), 96, middle=3
    ),
}


@dataclass(frozen=True)
class Tensor:
    original: str
    shape: tuple[int, ...]
    made: Mapping[str, Make]


def same(array: Array) -> Array:
    return array


def plain(original: str, new: str, shape: tuple[int, ...], make: Make = same) -> Tensor:
    return Tensor(original, shape, {new: make})


def layer(original: str, new: str, *shape: int, make: Make = same) -> Iterator[Tensor]:
    """A weight and its bias."""
    yield plain(f"{original}.weight", f"{new}.weight", shape, make)
    yield plain(f"{original}.bias", f"{new}.bias", shape[:1])


def norm(original: str, new: str, width: int) -> Iterator[Tensor]:
    return layer(original, new, width)


# ---- the denoising network -----------------------------------------------------------------------


def resnet(original: str, new: str, given: int, width: int, emb: int) -> Iterator[Tensor]:
    yield from norm(f"{original}.in_layers.0", f"{new}.norm1", given)
    yield from layer(f"{original}.in_layers.2", f"{new}.conv1", width, given, 3, 3)
    yield from layer(f"{original}.emb_layers.1", f"{new}.time_emb_proj", width, emb)
    yield from norm(f"{original}.out_layers.0", f"{new}.norm2", width)
    yield from layer(f"{original}.out_layers.3", f"{new}.conv2", width, width, 3, 3)
    if given != width:
        yield from layer(f"{original}.skip_connection", f"{new}.conv_shortcut", width, given, 1, 1)


def transformer(
    original: str, new: str, width: int, context: int, depth: int, linear: bool
) -> Iterator[Tensor]:
    """Inside, both layouts have the same names."""
    ones = () if linear else (1, 1)
    yield from norm(f"{original}.norm", f"{new}.norm", width)
    yield from layer(f"{original}.proj_in", f"{new}.proj_in", width, width, *ones)
    for k in range(depth):
        place = f"transformer_blocks.{k}"
        for number in (1, 2, 3):
            name = f"{place}.norm{number}"
            yield from norm(f"{original}.{name}", f"{new}.{name}", width)
        for attention, keys in (("attn1", width), ("attn2", context)):
            for which, wide in (("to_q", width), ("to_k", keys), ("to_v", keys)):
                name = f"{place}.{attention}.{which}.weight"
                yield plain(f"{original}.{name}", f"{new}.{name}", (width, wide))
            name = f"{place}.{attention}.to_out.0"
            yield from layer(f"{original}.{name}", f"{new}.{name}", width, width)
        for name, out, into in (("net.0.proj", 8, 1), ("net.2", 1, 4)):
            name = f"{place}.ff.{name}"
            yield from layer(f"{original}.{name}", f"{new}.{name}", out * width, into * width)
    yield from layer(f"{original}.proj_out", f"{new}.proj_out", width, width, *ones)


def unet(s: Sizes) -> Iterator[Tensor]:
    first, emb = s.channels[0], 4 * s.channels[0]
    context = s.text[0] + (s.second[0] if s.second else 0)
    attention = {"context": context, "linear": s.linear}
    yield from layer("time_embed.0", "time_embedding.linear_1", emb, first)
    yield from layer("time_embed.2", "time_embedding.linear_2", emb, emb)
    if s.added:
        yield from layer("label_emb.0.0", "add_embedding.linear_1", emb, s.added)
        yield from layer("label_emb.0.2", "add_embedding.linear_2", emb, emb)
    yield from layer("input_blocks.0.0", "conv_in", first, s.given, 3, 3)
    number, width, kept = 1, first, [first]
    for level, (out, depth) in enumerate(zip(s.channels, s.depths, strict=True)):
        for j in range(s.layers):
            old, new = f"input_blocks.{number}", f"down_blocks.{level}"
            yield from resnet(f"{old}.0", f"{new}.resnets.{j}", width, out, emb)
            if depth:
                yield from transformer(
                    f"{old}.1", f"{new}.attentions.{j}", out, depth=depth, **attention
                )
            number, width = number + 1, out
            kept.append(width)
        if level < len(s.channels) - 1:
            name = f"down_blocks.{level}.downsamplers.0.conv"
            yield from layer(f"input_blocks.{number}.0.op", name, out, out, 3, 3)
            number += 1
            kept.append(width)
    yield from resnet("middle_block.0", "mid_block.resnets.0", width, width, emb)
    yield from transformer(
        "middle_block.1", "mid_block.attentions.0", width, depth=s.middle, **attention
    )
    yield from resnet("middle_block.2", "mid_block.resnets.1", width, width, emb)
    number = 0
    for up, level in enumerate(reversed(range(len(s.channels)))):
        out, depth = s.channels[level], s.depths[level]
        for j in range(s.layers + 1):
            old, new = f"output_blocks.{number}", f"up_blocks.{up}"
            yield from resnet(f"{old}.0", f"{new}.resnets.{j}", width + kept.pop(), out, emb)
            width, member = out, 1
            if depth:
                yield from transformer(
                    f"{old}.1", f"{new}.attentions.{j}", out, depth=depth, **attention
                )
                member = 2
            if level and j == s.layers:
                yield from layer(f"{old}.{member}.conv", f"{new}.upsamplers.0.conv", out, out, 3, 3)
            number += 1
    yield from norm("out.0", "conv_norm_out", first)
    yield from layer("out.2", "conv_out", 4, first, 3, 3)


# ---- pictures ------------------------------------------------------------------------------------


def vae_resnet(original: str, new: str, given: int, width: int) -> Iterator[Tensor]:
    yield from norm(f"{original}.norm1", f"{new}.norm1", given)
    yield from layer(f"{original}.conv1", f"{new}.conv1", width, given, 3, 3)
    yield from norm(f"{original}.norm2", f"{new}.norm2", width)
    yield from layer(f"{original}.conv2", f"{new}.conv2", width, width, 3, 3)
    if given != width:
        yield from layer(f"{original}.nin_shortcut", f"{new}.conv_shortcut", width, given, 1, 1)


def squeezed(array: Array) -> Array:
    return array[:, :, 0, 0]


def vae_middle(side: str, width: int) -> Iterator[Tensor]:
    old, new = f"{side}.mid", f"{side}.mid_block"
    yield from vae_resnet(f"{old}.block_1", f"{new}.resnets.0", width, width)
    yield from norm(f"{old}.attn_1.norm", f"{new}.attentions.0.group_norm", width)
    pairs = (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0"))
    for a, b in pairs:
        name = f"{new}.attentions.0.{b}"
        yield from layer(f"{old}.attn_1.{a}", name, width, width, 1, 1, make=squeezed)
    yield from vae_resnet(f"{old}.block_2", f"{new}.resnets.1", width, width)


def vae(s: Sizes) -> Iterator[Tensor]:
    first, last = s.vae[0], s.vae[-1]
    yield from layer("encoder.conv_in", "encoder.conv_in", first, 3, 3, 3)
    width = first
    for level, out in enumerate(s.vae):
        old, new = f"encoder.down.{level}", f"encoder.down_blocks.{level}"
        for j in range(2):
            yield from vae_resnet(f"{old}.block.{j}", f"{new}.resnets.{j}", width, out)
            width = out
        if level < len(s.vae) - 1:
            yield from layer(f"{old}.downsample.conv", f"{new}.downsamplers.0.conv", out, out, 3, 3)
    yield from vae_middle("encoder", last)
    yield from norm("encoder.norm_out", "encoder.conv_norm_out", last)
    yield from layer("encoder.conv_out", "encoder.conv_out", 8, last, 3, 3)
    yield from layer("quant_conv", "quant_conv", 8, 8, 1, 1)
    yield from layer("post_quant_conv", "post_quant_conv", 4, 4, 1, 1)
    yield from layer("decoder.conv_in", "decoder.conv_in", last, 4, 3, 3)
    yield from vae_middle("decoder", last)
    width = last
    for up, level in enumerate(reversed(range(len(s.vae)))):
        out = s.vae[level]
        old, new = f"decoder.up.{level}", f"decoder.up_blocks.{up}"
        for j in range(3):
            yield from vae_resnet(f"{old}.block.{j}", f"{new}.resnets.{j}", width, out)
            width = out
        if level:
            yield from layer(f"{old}.upsample.conv", f"{new}.upsamplers.0.conv", out, out, 3, 3)
    yield from norm("decoder.norm_out", "decoder.conv_norm_out", first)
    yield from layer("decoder.conv_out", "decoder.conv_out", 3, first, 3, 3)


# ---- texts ---------------------------------------------------------------------------------------


def clip(size: tuple[int, int, int]) -> Iterator[Tensor]:
    """transformers' names in both layouts."""
    for tensor in open_clip(size):
        for new, make in tensor.made.items():
            if new.startswith("text_model."):
                shape = make(np.zeros(tensor.shape)).shape
                yield plain(new, new, shape)
    yield Tensor("text_model.embeddings.position_ids", (1, 77), {})


def third(number: int) -> Make:
    def make(array: Array) -> Array:
        each: Array = np.split(array, 3)[number]
        return each

    return make


def open_clip(size: tuple[int, int, int], projected: int = 0) -> Iterator[Tensor]:
    width, layers, words = size
    head = "text_model.embeddings"
    token = f"{head}.token_embedding.weight"
    yield plain("token_embedding.weight", token, (words, width))
    yield plain("positional_embedding", f"{head}.position_embedding.weight", (77, width))
    for i in range(layers):
        old, new = f"transformer.resblocks.{i}", f"text_model.encoder.layers.{i}"
        yield from norm(f"{old}.ln_1", f"{new}.layer_norm1", width)
        for kind, shape in (("weight", (3 * width, width)), ("bias", (3 * width,))):
            names = [f"{new}.self_attn.{q}_proj.{kind}" for q in "qkv"]
            made = {name: third(number) for number, name in enumerate(names)}
            yield Tensor(f"{old}.attn.in_proj_{kind}", shape, made)
        yield from layer(f"{old}.attn.out_proj", f"{new}.self_attn.out_proj", width, width)
        yield from norm(f"{old}.ln_2", f"{new}.layer_norm2", width)
        yield from layer(f"{old}.mlp.c_fc", f"{new}.mlp.fc1", 4 * width, width)
        yield from layer(f"{old}.mlp.c_proj", f"{new}.mlp.fc2", width, 4 * width)
    yield from norm("ln_final", "text_model.final_layer_norm", width)
    if projected:
        yield plain("text_projection", "text_projection.weight", (width, projected), np.transpose)
        yield Tensor("logit_scale", (), {})


# ---- files ---------------------------------------------------------------------------------------


def parts(s: Sizes) -> dict[str, tuple[str, list[Tensor]]]:
    """By part: how its original names begin, and its tensors."""
    found = {
        "unet": ("model.diffusion_model.", list(unet(s))),
        "vae": ("first_stage_model.", list(vae(s))),
    }
    if s.second is not None:
        found["text_encoder"] = ("conditioner.embedders.0.transformer.", list(clip(s.text)))
        second = list(open_clip(s.second, 48))
        found["text_encoder_2"] = ("conditioner.embedders.1.model.", second)
    elif s.linear:
        found["text_encoder"] = ("cond_stage_model.model.", list(open_clip(s.text, 32)))
    else:
        found["text_encoder"] = ("cond_stage_model.transformer.", list(clip(s.text)))
    return found


def arrays(s: Sizes, seed: int = 0, dtype: str = "float16") -> dict[str, Array]:
    """A checkpoint's tensors by original name, with random values."""
    generator = np.random.default_rng(seed)
    made = {}
    for prefix, tensors in parts(s).values():
        for tensor in tensors:
            values = 0.1 * generator.standard_normal(tensor.shape)
            made[prefix + tensor.original] = values.astype(dtype)
    made["model_ema.decay"] = np.ones((), dtype)
    made["betas"] = np.ones(1000, dtype)
    return made


def expected(s: Sizes, held: Mapping[str, Array]) -> dict[str, dict[str, Array]]:
    """By part and diffusers' name, what a checkpoint with these tensors holds."""
    return {
        part: {
            new: make(held[prefix + tensor.original])
            for tensor in tensors
            for new, make in tensor.made.items()
        }
        for part, (prefix, tensors) in parts(s).items()
    }


def write_checkpoint(
    file: Path, s: Sizes, changes: Mapping[str, Array | None] | None = None
) -> Path:
    """A file of random values; `changes` replace tensors, or leave them out (None)."""
    held: dict[str, Array | None] = {**arrays(s), **(changes or {})}
    kept = {n: np.ascontiguousarray(a) for n, a in held.items() if a is not None}
    save_file(kept, file)
    return file


def with_sizes(name: str, **changes: Any) -> Sizes:
    return replace(SIZES[name], **changes)
