"""Which family a model is of, told by its configuration.

In: a `Model`. Out: what people call it. Invariant: a folder, a checkpoint and a named model of one
configuration are of one family. Example:

    family_of(load_model("stable-diffusion-2.1")) == "Stable Diffusion 2.x"
"""

from __future__ import annotations

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
