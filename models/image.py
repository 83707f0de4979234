"""Pictures: from what the decoder gives to PNG files that say how they were made.

In: f32[b, 3, h, w] in -1 … 1. Out: u8[b, h, w, 3] and files. Invariant: a file is complete or not
there: it is written beside its place and renamed. Errors: SdlError I….

    write_png(to_pixels(decoded)[0], Path("out.png"), {"prompt": "rocket"})
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdlc.graph.types import Array
from sdlc.language.diagnostics import SdlError, failure

Picture = Path | Image.Image
"""A picture in a file, or one of Pillow's."""


def to_pixels(decoded: Array) -> Array:
    """u8[b, h, w, 3] from floats [b, 3, h, w] in -1 … 1; values outside are cut off."""
    scaled = np.clip(decoded.astype(np.float32) * 127.5 + 127.5, 0, 255)
    pixels: Array = np.rint(scaled).astype(np.uint8).transpose(0, 2, 3, 1)
    return pixels


def picture_size(file: Picture) -> tuple[int, int]:
    """Width and height of a picture. Raises SdlError (I003) where there is none in the file."""
    with _opened(file) as picture:
        return picture.size


def read_picture(file: Picture, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """A picture as f32[1, 3, h, w] in -1 … 1, resized to (width, height)."""
    with _opened(file) as picture:
        pixels = _resized(picture.convert("RGB"), size)
    scaled = pixels.astype(np.float32) / np.float32(127.5) - 1
    return scaled.transpose(2, 0, 1)[None]


def read_mask(file: Picture, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """f32[1, 1, h, w]: 1 where a picture is brighter than half, 0 elsewhere; resized to (width,
    height)."""
    with _opened(file) as picture:
        pixels = _resized(picture.convert("L"), size)
    return (pixels >= 128).astype(np.float32)[None, None]


def _resized(picture: Image.Image, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    same = picture.size == size
    return np.asarray(picture if same else picture.resize(size, Image.Resampling.LANCZOS))


@contextmanager
def _opened(file: Picture) -> Iterator[Image.Image]:
    if isinstance(file, Image.Image):
        yield file
        return
    try:
        with Image.open(file) as picture:
            yield picture
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else str(error)
        help = "give a picture in a usual format, such as PNG or JPEG"
        raise failure("I003", f"cannot read the picture {file}: {reason}", help=help) from None


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
    """Writes u8[h, w, 3] with the settings as text entries, whole or not at all. Where the disk is
    full the picture is kept in the folder for temporary files, and the SdlError (I002) says where.
    """
    text = PngInfo()
    for name, value in settings.items():
        text.add_itxt(name, str(value))
    check_writable(file)
    picture = io.BytesIO()
    Image.fromarray(pixels).save(picture, "png", pnginfo=text)
    try:
        _write_whole(picture.getvalue(), file)
    except OSError as error:
        raise _unwritten(file, error, _rescued(picture.getvalue(), file)) from None


def _write_whole(data: bytes, file: Path) -> None:
    temporary = ""
    try:
        with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".part", delete=False) as stream:
            temporary = stream.name
            stream.write(data)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, file)
    except BaseException:
        _remove(temporary)
        raise


def _rescued(data: bytes, file: Path) -> Path | None:
    """Where a picture is kept that its own place has no room for, if anywhere."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="sdlc-picture-"))
        _write_whole(data, folder / file.name)
    except OSError:
        return None
    return folder / file.name


def _unwritten(file: Path, error: OSError, kept: Path | None) -> SdlError:
    message = f"cannot write {file}: {error.strerror or error}"
    if kept is None:
        return failure("I002", message, help="give another -o FILE.png")
    help = f"make room and move it to {file}, or give another -o FILE.png"
    return failure("I002", f"{message}; the picture is kept as {kept}", help=help)


def read_settings(file: Path) -> dict[str, str]:
    """The text entries of a PNG file. Raises SdlError (I003) where there is no picture."""
    with _opened(file) as picture:
        return {str(key): value for key, value in picture.info.items() if isinstance(value, str)}


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _remove(file: str) -> None:
    if file and os.path.exists(file):
        os.unlink(file)
