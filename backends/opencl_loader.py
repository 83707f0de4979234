"""The system's OpenCL drivers, and the loader that loads those of them that are asked for.

In: the installed distributions and the `.icd` files of the system. Out: pyopencl, whose loader
reads the files that it is given. Invariant: a value of OCL_ICD_VENDORS that the user set is
respected, and other programs see it unchanged; nothing outside the cache folder is written.

The loader reads its variable at its first call, and loads every driver that it then finds, be it
needed or not: a compiler of 50 MiB each. So it is given a folder of the one file that is needed.
The CPU runtime that pip installed has a file that names a path of the machine that built it:
`sdlc-cpu.icd` stands in for that.

    files = driver_files()                     {"pocl.icd": "libpocl.so.2\n", "sdlc-cpu.icd": "/…"}
    start(load_opencl(), {"pocl.icd": files["pocl.icd"]})
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType

from platformdirs import user_cache_path

SYSTEM_FOLDER = Path("/etc/OpenCL/vendors")
VARIABLE = "OCL_ICD_VENDORS"
RUNTIME = "intel-opencl-rt"
LIBRARIES = "intel-cmplr-lib-rt"
LIBRARY = "libintelocl.so"
UNKEPT = "PYOPENCL_NO_CACHE"
"""Asks pyopencl to keep nothing in a cache of its own: on a disk that fills up it fails, and what
it would keep (0.3 ms a kernel) is as quickly made again."""


def cache_folder(name: str) -> Path:
    """A folder of ours in the user's cache, or a temporary one where that cannot be written."""
    folder = user_cache_path("sdlc") / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        made = Path(tempfile.gettempdir()) / f"sdlc-{os.getuid()}" / name
        made.mkdir(parents=True, exist_ok=True, mode=0o700)
        return made


def installed_runtime() -> Path | None:
    """The CPU runtime's library, if pip has installed it."""
    try:
        files = distribution(RUNTIME).files or []
    except PackageNotFoundError:
        return None
    found = (Path(str(f.locate())).resolve() for f in files if f.name == LIBRARY)
    return next((f for f in found if f.is_file()), None)


def has_libraries() -> bool:
    """Whether the runtime's maths libraries are installed beside it."""
    try:
        distribution(LIBRARIES)
    except PackageNotFoundError:
        return False
    return True


def vendor_files(folder: Path) -> dict[str, str]:
    """The `.icd` files of a folder: name to text."""
    if not folder.is_dir():
        return {}
    return {f.name: f.read_text("utf-8", "replace") for f in sorted(folder.glob("*.icd"))}


def write_vendors(files: dict[str, str]) -> Path:
    """A folder with exactly these files. Its name is their digest, so it is never changed."""
    digest = sha256(repr(sorted(files.items())).encode()).hexdigest()[:16]
    folder = cache_folder("opencl-vendors") / digest
    if vendor_files(folder) == files:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        part = folder / f"{name}.{os.getpid()}.part"
        try:
            part.write_text(text, "utf-8")
            part.replace(folder / name)
        finally:
            part.unlink(missing_ok=True)
    return folder


def driver_files() -> dict[str, str]:
    """The `.icd` files of the system, or of the folder that the user names, and the installed
    runtime: name to text. `{"": ""}` where the loader alone knows its drivers."""
    chosen = os.environ.get(VARIABLE, "")
    if sys.platform != "linux" or (chosen and not Path(chosen).is_dir()):
        return {"": ""}
    files = vendor_files(Path(chosen) if chosen else SYSTEM_FOLDER)
    library = installed_runtime()
    if library is not None and not any(LIBRARY in text for text in files.values()):
        files["sdlc-cpu.icd"] = f"{library}\n"
    return files or {"": ""}


def start(cl: ModuleType, files: dict[str, str]) -> None:
    """Has the loader load these drivers and no others, if it has loaded none yet."""
    given = os.environ.get(VARIABLE)
    if "" not in files:
        os.environ[VARIABLE] = _place(files)
    try:
        cl.get_platforms()
    except cl.Error:
        pass  # the loader's error for "no driver at all"
    finally:
        os.environ.pop(VARIABLE, None)
        os.environ.update({} if given is None else {VARIABLE: given})


def _place(files: dict[str, str]) -> str:
    try:
        return str(write_vendors(files))
    except OSError:  # no room on the disk: the loader takes one library too
        return next(iter(files.values())).strip()


@cache
def load_opencl() -> ModuleType:
    """pyopencl. Raises ImportError where it is not installed."""
    given = os.environ.get(UNKEPT)
    os.environ.setdefault(UNKEPT, "1")
    try:
        return importlib.import_module("pyopencl")
    finally:
        if given is None:
            del os.environ[UNKEPT]
