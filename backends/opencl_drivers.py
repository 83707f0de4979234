"""What each OpenCL driver has, asked once in a process of its own, and its devices, opened here.

In: the `.icd` files of the system. Out: an `Answer` a driver, kept in the user's cache until its
library changes, and live devices. Invariant: a driver is loaded into this process only when one of
its devices is opened, after it has answered elsewhere: one that crashes ends that other process.

    answers()[0].devices        (Seen("Intel(R) OpenCL", "AMD EPYC", gpu=False),)
    live(answers()[0])          [<pyopencl.Device …>]; None if they are not those any more
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from sdlc.backends.opencl_loader import cache_folder, driver_files, load_opencl, start

COMMAND = (sys.executable, "-m", "sdlc.backends.opencl_drivers")
FOLDER = "drivers"
"""Of the cache: where answers are kept."""
SECONDS = 60
"""A driver that has not answered after so long does not answer."""
LINKER_CACHE = Path("/etc/ld.so.cache")
"""Changes whenever a library of the system does."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A usable device, as its driver names it and its platform."""

    platform: str
    name: str
    gpu: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What a driver has: the `.icd` file `file` with `text` names it. `failed` says why it cannot
    be used."""

    file: str
    text: str
    devices: tuple[Seen, ...] = ()
    failed: str = ""

    @property
    def gpus(self) -> int:
        return sum(seen.gpu for seen in self.devices)


def answers(anew: bool = False) -> tuple[Answer, ...]:
    """Of every driver, those with most GPUs first; `anew` asks again what is kept."""
    files = driver_files()
    found = {} if anew else {name: _kept(name, text) for name, text in files.items()}
    missing = {name: text for name, text in files.items() if found.get(name) is None}
    asked = zip(missing, _asked(missing), strict=True)
    all_of = {**found, **dict(asked)}
    ordered = [answer for name in files if (answer := all_of[name]) is not None]
    return tuple(sorted(ordered, key=lambda a: (-a.gpus, -len(a.devices))))


# ---- asking --------------------------------------------------------------------------------------


def _asked(files: dict[str, str]) -> list[Answer]:
    """What drivers answer in processes of their own, side by side."""
    started = [(*each, _process(*each)) for each in files.items()]
    found = [_answer(name, text, process) for name, text, process in started]
    for answer in found:
        _keep(answer)
    return found


def _process(name: str, text: str) -> subprocess.Popen[bytes]:
    pipe, none = subprocess.PIPE, subprocess.DEVNULL
    return subprocess.Popen((*COMMAND, name, text), stdin=none, stdout=pipe, stderr=none)


def _answer(name: str, text: str, process: subprocess.Popen[bytes]) -> Answer:
    try:
        said = process.communicate(timeout=SECONDS)[0]
        return Answer(name, text, _read(said.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return Answer(name, text, failed=f"it did not answer in {SECONDS} seconds")
    except (IndexError, ValueError, TypeError):
        code = process.returncode
        how = f"with signal {-code}" if code < 0 else f"with exit status {code}"
        return Answer(name, text, failed=f"it ended {how} when it was asked for its devices")


def _read(line: bytes) -> tuple[Seen, ...]:
    """Raises ValueError or TypeError for what is no answer."""
    return tuple(Seen(**seen) for seen in json.loads(line))


# ---- keeping -------------------------------------------------------------------------------------


def _kept(name: str, text: str) -> Answer | None:
    with suppress(OSError, ValueError, TypeError):
        return Answer(name, text, _read(_path(name, text).read_bytes()))
    return None


def _keep(answer: Answer) -> None:
    """Not of a driver without devices: it may have some when it is asked next."""
    if not answer.devices:
        return
    with suppress(OSError):
        path = _path(answer.file, answer.text)
        part = path.with_suffix(f".{os.getpid()}.part")
        try:
            part.write_text(json.dumps([asdict(seen) for seen in answer.devices]), "utf-8")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def forget() -> None:
    """Removes all answers that are kept."""
    for kept in cache_folder(FOLDER).glob("*.json"):
        kept.unlink(missing_ok=True)


def _path(name: str, text: str) -> Path:
    """Of another name when the driver's library is another one."""
    about = name, text, sys.prefix, _stamp(Path(text.strip())), _stamp(LINKER_CACHE)
    return cache_folder(FOLDER) / f"{sha256(repr(about).encode()).hexdigest()[:32]}.json"


def _stamp(path: Path) -> tuple[int, int] | None:
    if not path.is_absolute():
        return None
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


# ---- opening -------------------------------------------------------------------------------------


def live(answer: Answer) -> list[Any] | None:
    """A driver's devices, as pyopencl's objects, in the order of its answer; None where they are
    not those that it answered with."""
    cl = load_opencl()
    start(cl, {answer.file: answer.text})
    wanted = {seen.platform for seen in answer.devices}
    for ask in (_listed, _direct):
        platforms = [p for p in ask(answer) if p.name in wanted]
        devices = _usable(platforms)
        if tuple(_seen(cl, d) for d in devices) == answer.devices:
            return devices
    return None


def start_all(found: Sequence[Answer]) -> None:
    """Loads every driver that has a device: for a list of all."""
    start(load_opencl(), {a.file: a.text for a in found if a.devices})


def _usable(platforms: Sequence[Any]) -> list[Any]:
    devices = (d for p in platforms for d in p.get_devices())
    return [d for d in devices if d.available and d.compiler_available]


def _seen(cl: Any, device: Any) -> Seen:
    gpu = bool(device.type & cl.device_type.GPU)
    return Seen(device.platform.name, device.name, gpu)


def _listed(_: Answer) -> list[Any]:
    """The platforms of the drivers that the loader has loaded."""
    cl = load_opencl()
    try:
        return list(cl.get_platforms())
    except cl.Error:  # "no driver at all"
        return []


def _direct(answer: Answer) -> list[Any]:
    """The platforms of a driver that is loaded later than the loader's, which loads none then: its
    objects know their own functions, so the loader passes calls on."""
    with suppress(OSError, AttributeError):
        platform = load_opencl().Platform
        return [platform.from_int_ptr(place) for place in _addresses(answer.text.strip())]
    return []


@cache
def _addresses(library: str) -> tuple[int, ...]:
    """A library's platforms, as the loader asks for them (cl_khr_icd)."""
    if not library:
        return ()
    loaded = ctypes.CDLL(library, mode=os.RTLD_LAZY | os.RTLD_LOCAL)
    find = loaded.clGetExtensionFunctionAddress
    find.restype, find.argtypes = ctypes.c_void_p, (ctypes.c_char_p,)
    count, place = ctypes.c_uint, ctypes.c_void_p
    shape = ctypes.CFUNCTYPE(ctypes.c_int, count, ctypes.POINTER(place), ctypes.POINTER(count))
    found = find(b"clIcdGetPlatformIDsKHR")
    number = count()
    if not found or shape(found)(0, None, ctypes.byref(number)) or not number.value:
        return ()
    places = (place * number.value)()
    failed = shape(found)(number.value, places, None)
    return () if failed else tuple(p for p in places if p)


def main() -> None:
    """What the other process does: the name and the text of an `.icd` file, its devices as a
    line."""
    name, text = sys.argv[1:]
    cl = load_opencl()
    start(cl, {name: text})
    devices = _usable(_listed(Answer(name, text)))
    print(json.dumps([asdict(_seen(cl, d)) for d in devices]), flush=True)


if __name__ == "__main__":
    main()
