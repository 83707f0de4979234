"""Pictures: from what the decoder gives to PNG files that say how they were made.

In: f32[b, 3, h, w] in -1 … 1. Out: u8[b, h, w, 3] and files. Invariant: a file is complete or not
there: it is written beside its place and renamed. Errors: SdlError I….

    write_png(to_pixels(decoded)[0], Path("out.png"), {"prompt": "rocket"})
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdlc.graph.types import Array
from sdlc.language.diagnostics import failure


def to_pixels(decoded: Array) -> Array:
    """u8[b, h, w, 3] from floats [b, 3, h, w] in -1 … 1; values outside are cut off."""
    scaled = np.clip(decoded.astype(np.float32) * 127.5 + 127.5, 0, 255)
    pixels: Array = np.rint(scaled).astype(np.uint8).transpose(0, 2, 3, 1)
    return pixels


def numbered(file: Path, count: int) -> tuple[Path, ...]:
    """The files of a batch: the one itself, or `name-1.png`, `name-2.png`, …"""
    if count == 1:
        return (file,)
    return tuple(file.with_name(f"{file.stem}-{i + 1}{file.suffix}") for i in range(count))


def check_writable(file: Path) -> None:
    """Raises SdlError if a picture could not be written here, before the work is done."""
    if file.suffix.lower() != ".png":
        raise failure("I001", f"{file} is not a PNG file", help="end the name in .png")
    if file.is_dir() or not file.parent.is_dir():
        reason = "it is a folder" if file.is_dir() else f"there is no folder {file.parent}"
        raise failure("I002", f"cannot write {file}: {reason}", help="give another -o FILE.png")
    if not os.access(file.parent, os.W_OK):
        raise failure(
            "I002", f"cannot write {file}: no permission", help="give another -o FILE.png"
        )


def write_png(pixels: Array, file: Path, settings: Mapping[str, object]) -> None:
    """Writes u8[h, w, 3] with the settings as text entries, whole or not at all."""
    text = PngInfo()
    for name, value in settings.items():
        text.add_itxt(name, str(value))
    check_writable(file)
    temporary = ""
    try:
        with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".part", delete=False) as stream:
            temporary = stream.name
            Image.fromarray(pixels).save(stream, "png", pnginfo=text)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, file)
    except OSError as error:
        _remove(temporary)
        reason = error.strerror or str(error)
        raise failure(
            "I002", f"cannot write {file}: {reason}", help="give another -o FILE.png"
        ) from None
    except BaseException:
        _remove(temporary)
        raise


def read_settings(file: Path) -> dict[str, str]:
    """The text entries of a PNG file."""
    with Image.open(file) as picture:
        return {str(key): value for key, value in picture.info.items() if isinstance(value, str)}


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _remove(file: str) -> None:
    if file and os.path.exists(file):
        os.unlink(file)
