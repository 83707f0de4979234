"""Models of the Hugging Face hub, by name.

In: a name such as `org/name`. Out: the folder that holds the model, in the hub's own cache.
Invariant: only what sdlc reads is fetched: configurations, tokenizers and safetensors, no pickles.
Errors: SdlError (M008).

    hub_folder("stable-diffusion-v1-5/stable-diffusion-v1-5")
"""

from __future__ import annotations

import importlib
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from sdlc.language.diagnostics import failure

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
PARTS = ("text_encoder", "text_encoder_2", "unet", "vae")
WANTED = (
    "model_index.json",
    "scheduler/*.json",
    *(f"{part}/{name}" for part in ("tokenizer", "tokenizer_2") for name in ("*.json", "*.txt")),
    *(
        f"{part}/{name}"
        for part in PARTS
        for name in ("config.json", "*.safetensors", "*.index.json")
    ),
)
SECONDS = 10.0
"""What the hub may take to say what a model consists of."""
HALF = "*.fp16.*"
UNWANTED = (HALF, "*.non_ema.*", "*flax*", "*openvino*")


def is_hub_name(name: str) -> bool:
    return NAME.fullmatch(name) is not None and not name.startswith(".")


def hub_folder(name: str) -> Path:
    """The folder of a model of the hub: fetched, or found in the hub's cache where there is no
    network. Raises SdlError (M008) where neither is possible."""
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError:
        message = f"there is no folder {name} here, and names of the hub need huggingface_hub"
        raise failure(
            "M008", message, help="pip install huggingface_hub, or give a folder"
        ) from None
    try:
        unwanted = _unwanted(hub, name)
        found = hub.snapshot_download(name, allow_patterns=WANTED, ignore_patterns=unwanted)
        return Path(found)
    except Exception as error:  # of the library, of its transport, of the system: all mean the same
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        message = f"{name} is no folder here and cannot be fetched from the hub: {reason}"
        help = "check the name and the network; a gated model needs `hf auth login`; or a folder"
        raise failure("M008", message, help=help) from None


def _unwanted(hub: Any, name: str) -> tuple[str, ...]:
    """Second copies in other types, unless there is no first one. The hub is asked once: its own
    list of files asks for half a minute where there is no network."""
    try:
        found = hub.model_info(name, timeout=SECONDS).siblings or ()
        files = [each.rfilename for each in found]
    except Exception:  # no network: what was fetched before is found without it
        return UNWANTED
    plain = any(fnmatch(f, "unet/*.safetensors") and not _is_unwanted(f) for f in files)
    return UNWANTED if plain else tuple(p for p in UNWANTED if p != HALF)


def _is_unwanted(file: str) -> bool:
    return any(fnmatch(file, pattern) for pattern in UNWANTED)
