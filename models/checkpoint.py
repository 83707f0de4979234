"""A single-file checkpoint in the original layout as a model.

In: a `.safetensors` file with SD 1.x, 2.x or XL key names. Out: a `Model` with the configuration
that its tensors' shapes say, and diffusers' names for them. Invariant: only the header is read;
what is no such checkpoint is refused with what it is. Errors: SdlError M…, W….

    load_checkpoint(Path("model.safetensors")).unet["cross_attention_dim"]
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

from sdlc.language.diagnostics import SdlError, failure
from sdlc.models.folder import SIZE_NUMBERS, Config, Model, model_of
from sdlc.models.named import named, tokenizers_of
from sdlc.models.original import Entries, translate
from sdlc.models.weights import Entry, Weights, read_header

PREDICTIONS = ("epsilon", "v_prediction")
HEAD = 64
"""Channels of a head: in CLIP's text encoders, and in networks with linear projections."""
REFUSED = (
    ("model.diffusion_model.double_blocks.", "a Flux checkpoint", ""),
    ("double_blocks.", "a Flux checkpoint", ""),
    ("model.diffusion_model.joint_blocks.", "a Stable Diffusion 3 checkpoint", ""),
    ("joint_blocks.", "a Stable Diffusion 3 checkpoint", ""),
    ("conditioner.embedders.0.model.", "an SDXL refiner", "use it with a base model elsewhere"),
    ("control_model.", "a ControlNet", "it goes beside a model"),
    ("lora_unet_", "a LoRA", "give it with --lora, beside a model"),
    ("lora_te", "a LoRA", "give it with --lora, beside a model"),
    ("unet.down_blocks.", "a LoRA", "give it with --lora, beside a model"),
    ("down_blocks.", "one part of a diffusers folder, a unet", "give the folder above it"),
    ("text_model.", "one part of a diffusers folder, a text encoder", "give the folder above it"),
    ("decoder.", "one part of a diffusers folder, a vae", "give the folder above it"),
)
"""How the names in other files begin, what those are, and what to do with them."""
MARKS = MappingProxyType(
    {"v": "v_prediction", "v_prediction": "v_prediction", "epsilon": "epsilon"}
)
"""What writers of files call the two predictions."""


def load_checkpoint(file: Path, prediction: str | None = None) -> Model:
    """The model in a file. `prediction` says what its network predicts, where the file does not.

    Raises SdlError: M001 where there is none, M006 for a pickle, M007 for what is no checkpoint of
    a described family, W00x for a damaged file."""
    if not file.exists():
        help = "give a folder in the diffusers layout, a .safetensors checkpoint, or a model's name"
        raise failure("M001", f"there is no file {file}", help=help)
    check_kind(file)
    header = read_header(file)
    found = translate(header.entries)
    missing = [p for p in ("unet", "vae", "text_encoder") if p not in found.parts]
    if missing:
        raise refusal(file, header.entries, missing)
    parts = found.parts
    told = prediction or _prediction(file, header.notes, header.entries)
    try:
        configs = _configs(parts, told)
        _check_inputs(file, configs)
    except KeyError as error:
        message = f"{file} is not complete: a tensor is missing or misshapen, {error.args[0]}"
        raise failure("M007", message, help="download it again, or use another file") from None
    beside = file.parent / "tokenizer"
    tokenizers = dict(tokenizers_of(configs))
    if (beside / "merges.txt").is_file() and "tokenizer_2" not in tokenizers:
        tokenizers["tokenizer"] = beside
    weights = partial(_weights, file, MappingProxyType(dict(parts)))
    return model_of(file, configs, weights, tokenizers, found.left)


def _weights(file: Path, parts: Mapping[str, Entries], part: str) -> Weights:
    if part not in parts:
        message = f"{file} has no part `{part}`"
        raise failure("M002", message, help=f"its parts are {', '.join(parts)}")
    return Weights(MappingProxyType(parts[part]))


def check_kind(file: Path) -> None:
    """Raises SdlError (M006) for files that are not safetensors, with the way to convert them."""
    if file.suffix.lower() in (".ckpt", ".pt", ".pth", ".bin"):
        help = (
            "convert it on a machine that may run it, with PyTorch: "
            'safetensors.torch.save_file(torch.load(FILE, weights_only=True)["state_dict"], OUT)'
        )
        message = f"{file} is a pickle, which can run code when it is read: it is not read"
        raise failure("M006", message, help=help)
    if file.suffix.lower() != ".safetensors":
        help = "give a folder in the diffusers layout or a .safetensors checkpoint"
        raise failure("M006", f"{file} is not a .safetensors file", help=help)


def refusal(file: Path, entries: Mapping[str, Entry], missing: list[str]) -> SdlError:
    """Why a file is no checkpoint that can be run."""
    for start, what, help in REFUSED:
        if any(name.startswith(start) for name in entries):
            known = "sdlc runs Stable Diffusion 1.x, 2.x and XL"
            return failure("M007", f"{file} is {what}, not a checkpoint", help=help or known)
    if len(missing) < 3:
        message = f"{file} is a checkpoint without its {' and '.join(missing)}"
        return failure("M007", message, help="use the complete checkpoint")
    help = "a checkpoint's names begin with model.diffusion_model, first_stage_model and so on"
    return failure("M007", f"{file} is no checkpoint in the original layout", help=help)


def _check_inputs(file: Path, configs: Mapping[str, Config]) -> None:
    """Raises SdlError (M007) for a network that takes neither latents alone nor latents, a mask and
    a masked picture's latents."""
    given, latent = configs["unet"]["in_channels"], configs["vae"]["latent_channels"]
    assert isinstance(latent, int)
    if given not in (latent, 2 * latent + 1):
        message = f"the network in {file} takes {given} channels: depth, a picture or a small one"
        help = f"sdlc runs networks that take {latent} channels, or {2 * latent + 1} to inpaint"
        raise failure("M007", message, help=help)


# ---- what the tensors say ------------------------------------------------------------------------


def _configs(parts: Mapping[str, Entries], told: str | None) -> dict[str, Config]:
    """The configuration by part: the family's, with the sizes at hand. Raises KeyError with the
    name of a tensor that is missing."""
    unet = parts["unet"]
    wide = "text_encoder_2" in parts
    linear = len(_need(unet, "mid_block.attentions.0.proj_in.weight")) == 2
    family = "stable-diffusion-1.4"
    if wide:
        family = "stable-diffusion-xl"
    elif linear:
        family = f"stable-diffusion-2.1{'-base' if told == 'epsilon' else ''}"
    made = {part: dict(config) for part, config in named()[family].configs.items()}
    if told is not None:
        made["scheduler"]["prediction_type"] = told
    made["unet"] |= _unet(unet, linear)
    made["vae"] |= _vae(parts["vae"])
    made["text_encoder"] |= _text_encoder(parts["text_encoder"])
    if wide:
        made["text_encoder_2"] |= _text_encoder(parts["text_encoder_2"])
        pooled = _need(parts["text_encoder_2"], "text_projection.weight", 2)[0]
        made["unet"] |= _added(unet, pooled)
    elif linear:  # the last layer is there, but the network was trained on the one before it
        made["text_encoder"]["num_hidden_layers"] -= 1  # type: ignore[operator]
    return dict(made)


def _need(entries: Entries, name: str, rank: int | None = None) -> tuple[int, ...]:
    """The shape of a tensor as it is handed out."""
    if name not in entries:
        raise KeyError(name)
    shape = entries[name].given
    if rank is not None and len(shape) != rank:
        raise KeyError(f"{name} has {len(shape)} axes, not {rank}")
    return shape


def _count(entries: Entries, start: str) -> int:
    """How many numbers follow `start` in names."""
    return len({n[len(start) :].partition(".")[0] for n in entries if n.startswith(start)})


def _unet(unet: Entries, linear: bool) -> dict[str, object]:
    """Of `UNet2DConditionModel`'s values, those that shapes tell."""
    levels = range(_count(unet, "down_blocks."))
    channels = [_need(unet, f"down_blocks.{i}.resnets.0.conv1.weight", 4)[0] for i in levels]
    layers = [_count(unet, f"down_blocks.{i}.resnets.") for i in levels]
    crossing = [f"down_blocks.{i}.attentions.0.proj_in.weight" in unet for i in levels]
    depths = [_count(unet, f"down_blocks.{i}.attentions.0.transformer_blocks.") for i in levels]
    middle = _count(unet, "mid_block.attentions.0.transformer_blocks.")
    depths = [depth or 1 for depth in depths]
    if not crossing[-1]:
        depths[-1] = middle
    keys = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    kinds = ["CrossAttn" if attended else "" for attended in crossing]
    values: dict[str, object] = {
        "in_channels": _need(unet, "conv_in.weight", 4)[1],
        "out_channels": _need(unet, "conv_out.weight", 4)[0],
        "block_out_channels": channels,
        "down_block_types": [f"{kind}DownBlock2D" for kind in kinds],
        "up_block_types": [f"{kind}UpBlock2D" for kind in reversed(kinds)],
        "layers_per_block": layers[0] if len(set(layers)) == 1 else layers,
        "transformer_layers_per_block": 1 if set(depths) == {1} else depths,
        "cross_attention_dim": _need(unet, keys, 2)[1],
        "use_linear_projection": linear,
    }
    if linear:
        values["attention_head_dim"] = [max(1, width // HEAD) for width in channels]
    return values


def _added(unet: Entries, pooled: int) -> dict[str, object]:
    """What SDXL's network reads beside the texts' states: a pooled text of `pooled` numbers, and
    waves of as many for each of the picture's sizes."""
    name = "add_embedding.linear_1.weight"
    width = _need(unet, name, 2)[1]
    waves, rest = divmod(width - pooled, SIZE_NUMBERS)
    if waves < 1 or rest:
        message = f"{name} reads {width} numbers, which a pooled text of {pooled} does not fit"
        raise KeyError(message)
    return {"projection_class_embeddings_input_dim": width, "addition_time_embed_dim": waves}


def _vae(vae: Entries) -> dict[str, object]:
    """Of `AutoencoderKL`'s values, those that shapes tell."""
    levels = range(_count(vae, "decoder.up_blocks."))
    last = len(levels) - 1
    names = [f"decoder.up_blocks.{last - i}.resnets.0.conv2.weight" for i in levels]
    return {
        "latent_channels": _need(vae, "decoder.conv_in.weight", 4)[1],
        "out_channels": _need(vae, "decoder.conv_out.weight", 4)[0],
        "block_out_channels": [_need(vae, name, 4)[0] for name in names],
        "down_block_types": ["DownEncoderBlock2D"] * len(levels),
        "up_block_types": ["UpDecoderBlock2D"] * len(levels),
        "layers_per_block": _count(vae, "decoder.up_blocks.0.resnets.") - 1,
    }


def _text_encoder(text: Entries) -> dict[str, object]:
    """Of `CLIPTextModel`'s values, those that shapes tell."""
    words, width = _need(text, "text_model.embeddings.token_embedding.weight", 2)
    positions = _need(text, "text_model.embeddings.position_embedding.weight", 2)[0]
    inner = _need(text, "text_model.encoder.layers.0.mlp.fc1.weight", 2)[0]
    projection = text.get("text_projection.weight")
    return {
        "vocab_size": words,
        "hidden_size": width,
        "num_attention_heads": max(1, width // HEAD),
        "intermediate_size": inner,
        "num_hidden_layers": _count(text, "text_model.encoder.layers."),
        "max_position_embeddings": positions,
        "projection_dim": width if projection is None else projection.given[0],
    }


def _prediction(file: Path, notes: Mapping[str, str], entries: Mapping[str, Entry]) -> str | None:
    """What the network predicts, where the file says so, in its notes or by a mark, or the
    configuration beside it."""
    told = MARKS.get(notes.get("modelspec.prediction_type", "").lower())
    if told is not None:
        return told
    if "v_pred" in entries:
        return "v_prediction"
    beside = file.with_suffix(".yaml")
    if beside.is_file():
        text = beside.read_text("utf-8", errors="replace")
        return "v_prediction" if 'parameterization: "v"' in text else "epsilon"
    return None
