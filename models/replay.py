"""Settings as text in a picture's file, and back: so that a picture can be made again.

In: `GenerateSettings`, or the text. Out: the other. Invariant: what is read from a text is what was
written; a text that anybody may have written is checked field by field. Errors: SdlError I004 (no
settings there), I005 (a picture that was started from has changed or is gone).

    settings_of(record_of(GenerateSettings("a cat"), 7)).seed == 7
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sdlc.graph.types import DType
from sdlc.language.diagnostics import failure
from sdlc.models.image import read_settings
from sdlc.models.lora import Lora
from sdlc.models.settings import GenerateSettings

ENTRY = "sdlc"
"""The name of the text entry."""
VERSION = 1
PICTURES = ("init", "mask")
"""Settings that are files of pictures, of which the digest is kept as well."""


def record_of(settings: GenerateSettings, seed: int) -> str:
    """The settings of one picture of a batch, which had this seed."""
    alone = {"seed": seed, "seeds": (), "batch": 1, "preview": 0}
    values: dict[str, object] = {"version": VERSION}
    for field in fields(settings):
        value = alone.get(field.name, getattr(settings, field.name))
        if value != field.default:
            values[field.name] = _written(value)
    for name in PICTURES:
        file = getattr(settings, name)
        if file is not None:
            values[f"{name}_sha256"] = _digest(file)
    return json.dumps(values, ensure_ascii=False)


def is_replayable(settings: GenerateSettings) -> bool:
    """Whether a record can say what the picture was drawn from: files can be read again."""
    return all(isinstance(getattr(settings, name), Path | None) for name in PICTURES)


def _written(value: object) -> object:
    match value:
        case Path():
            return str(value.resolve())
        case DType():
            return value.value
        case tuple():
            return [_written(each) for each in value]
        case Lora():
            return {"file": str(value.file.resolve()), "scale": value.scale}
        case _:
            return value


def settings_of(text: str, place: str = "the text") -> dict[str, Any]:
    """The fields of `GenerateSettings` in a record; `place` names it for the reader.

    Raises SdlError: I004 no such record, I005 a picture that has changed."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict) or values.get("version") != VERSION:
        help = "give a PNG that `sdlc generate` wrote; its text entry `sdlc` has the settings"
        raise failure("I004", f"{place} holds no settings that can be drawn again", help=help)
    found = {}
    for name, value in values.items():
        if name in READ:
            try:
                found[name] = READ[name](value)
            except (TypeError, ValueError, KeyError):
                help = "the file was changed after it was written: take this entry out"
                raise failure("I004", f"{name} is {value!r} in {place}", help=help) from None
    for name in PICTURES:
        if name in found:
            _check_picture(name, found[name], values.get(f"{name}_sha256"))
    return found


def settings_in(file: Path) -> dict[str, Any]:
    """What is needed to make the picture in a PNG again. Raises SdlError (I003, I004, I005)."""
    return settings_of(read_settings(file).get(ENTRY, ""), str(file))


def _check_picture(name: str, file: Any, digest: object) -> None:
    if not file.is_file() or _digest(file) != digest:
        what = "has changed since" if file.is_file() else "is not there any more"
        message = f"the picture {file}, which was drawn from, {what}"
        raise failure("I005", message, help=f"put it back, or give another with --{name}")


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


# ---- one field of a record -----------------------------------------------------------------------


def _exactly(kind: type) -> Callable[[object], object]:
    def read(value: object) -> object:
        if type(value) is not kind:
            raise TypeError(value)
        return value

    return read


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(value)
    return float(value)


def _list(read: Callable[[Any], object]) -> Callable[[Any], object]:
    def read_all(values: object) -> object:
        if not isinstance(values, list):
            raise TypeError(values)
        return tuple(read(value) for value in values)

    return read_all


def _lora(value: Any) -> Lora:
    return Lora(Path(_text(value["file"])), _number(value["scale"]))


def _size(value: Any) -> tuple[int, int]:
    width, height = (_whole(n) for n in value)
    return width, height


def _text(value: object) -> str:
    return str(_exactly(str)(value))


def _whole(value: object) -> int:
    if type(value) is not int:
        raise TypeError(value)
    return value


def _path(value: object) -> Path:
    return Path(_text(value))


READ: Mapping[str, Callable[[Any], object]] = MappingProxyType(
    {
        **dict.fromkeys(("prompt", "negative", "model", "device", "prediction", "sampler"), _text),
        **dict.fromkeys(("steps", "seed", "batch", "preview", "clip_skip", "tile"), _whole),
        "weight_budget": _whole,
        **dict.fromkeys(("guidance", "rescale", "strength"), _number),
        **dict.fromkeys(("karras", "keep_loaded"), _exactly(bool)),
        **dict.fromkeys(("init", "mask", "vae"), _path),
        **dict.fromkeys(("without", "only", "f32"), _list(_text)),
        "seeds": _list(_whole),
        "loras": _list(_lora),
        "size": _size,
        "precision": DType,
    }
)
"""How each field is read from JSON: raises TypeError, ValueError or KeyError for what is none."""
