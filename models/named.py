"""Models by name: the sizes of the published ones, without their weights.

In: a name (`stable-diffusion-1.4`). Out: a `Model` that has configurations and tokenizers, and says
so when it is asked for weights. Invariant: what is compiled of it is what is compiled of the
published weights' folder. Errors: SdlError M….

    named_model("stable-diffusion-2.1").unet["cross_attention_dim"] == 1024
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sdlc.language.diagnostics import SdlError, did_you_mean, failure
from sdlc.models.folder import SOURCES, Config, Model, model_of
from sdlc.models.vocabulary import CLIP, OPEN_CLIP
from sdlc.models.weights import Weights

FILE = SOURCES / "named.toml"
FILLED_WITH_END = "quick_gelu"
"""Short texts are filled up with the end token for OpenAI's text encoders, with token 0 for
OpenCLIP's, which have another activation."""


@dataclass(frozen=True, slots=True)
class Named:
    """A family's configuration by part, and what the family is called."""

    title: str
    configs: Mapping[str, Config]


@cache
def named() -> Mapping[str, Named]:
    """Every configuration that is shipped, by name."""
    tables = tomllib.loads(FILE.read_text("utf-8"))
    return MappingProxyType({name: _resolved(name, tables) for name in tables})


def _resolved(name: str, tables: Mapping[str, Any]) -> Named:
    table = dict(tables[name])
    title = table.pop("title")
    base = table.pop("base", None)
    configs = {} if base is None else dict(_resolved(base, tables).configs)
    for part, values in table.items():
        configs[part] = {**configs.get(part, {}), **values}
    return Named(title, MappingProxyType(configs))


def named_model(name: str) -> Model:
    """The model of this name. Raises SdlError (M001) for an unknown one."""
    known = named()
    if name not in known:
        near, names = did_you_mean(name, known, 3), ", ".join(known)
        ways = f"give a folder, a .safetensors file, OWNER/NAME of the hub, or {names}"
        help = f"{near} {ways}".lstrip()
        raise failure("M001", f"there is no folder and no model `{name}`", help=help)
    configs = known[name].configs

    def weights(part: str) -> Weights:
        raise no_weights(name)

    return model_of(Path(name), configs, weights, tokenizers_of(configs))


def no_weights(name: str) -> SdlError:
    help = (
        "give its folder or .safetensors file; compile, memory, explain and bench need no weights"
    )
    return failure("M005", f"{name} names the sizes of a model: it has no weights", help=help)


def tokenizers_of(configs: Mapping[str, Config]) -> Mapping[str, Path]:
    """The tokenizer folders of a model that has none of its own, by part."""
    found = {}
    for part in ("text_encoder", "text_encoder_2"):
        if part in configs:
            clip = configs[part].get("hidden_act") == FILLED_WITH_END
            found[part.replace("text_encoder", "tokenizer")] = CLIP if clip else OPEN_CLIP
    return found
