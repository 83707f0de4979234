"""Which family a model is of, told by its configuration.

In: a `Model`. Out: what people call it. Invariant: a folder, a checkpoint and a named model of one
configuration are of one family. Errors: SdlError M009, where its parts are of several. Example:

    family_of(load_model("stable-diffusion-2.1")) == "Stable Diffusion 2.x"
"""

from __future__ import annotations

from sdlc.language.diagnostics import failure
from sdlc.models.folder import Model
from sdlc.models.named import named

TOLD = ("block_out_channels", "cross_attention_dim", "transformer_layers_per_block")
"""What tells a published network from one that is built alike, in sizes of its own."""


def family_of(model: Model) -> str:
    """`Stable Diffusion 1.x`, `2.x` or `XL`, with what is special about it."""
    base = family_name(model)
    table = named()[base]
    words = [table.title]
    published = table.configs["unet"]
    if any(model.unet.get(n, published[n]) != published[n] for n in TOLD):
        words.append("in sizes of its own")
    if model.unet.get("in_channels", 4) == 2 * model.latent_channels + 1:
        words.append("inpainting")
    return ", ".join(words)


def family_name(model: Model) -> str:
    """The name in `models.named` of the family's usual sizes."""
    if model.unet.get("addition_embed_type") == "text_time":
        return "stable-diffusion-xl"
    if model.unet.get("use_linear_projection"):
        return "stable-diffusion-2.1"
    return "stable-diffusion-1.4"


def check_parts(model: Model) -> None:
    """Raises SdlError (M009) where the denoising network reads other texts than its encoders
    write."""
    encoders = [model.text_encoder, *([model.text_encoder_2] if model.text_encoder_2 else [])]
    widths = [each.get("hidden_size") for each in encoders]
    read = model.unet.get("cross_attention_dim")
    known = [width for width in widths if isinstance(width, int)]
    if isinstance(read, int) and len(known) == len(widths) and sum(known) != read:
        written = " + ".join(map(str, known))
        message = f"the unet of {model.path} reads texts {read} wide, its encoders write {written}"
        help = f"its parts are of several models; the unet is {family_of(model)}"
        raise failure("M009", message, help)
    if model.unet.get("addition_embed_type") == "text_time" and not model.text_encoder_2:
        message = f"the unet of {model.path} also reads pooled texts and sizes of pictures"
        raise failure("M009", message, help="this is SDXL's: it needs a text_encoder_2 too")
