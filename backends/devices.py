"""Finding and opening devices.

In: nothing, or what `--device` says. Out: what was found and what is missing, or an open device.
Invariant: looking for devices never fails: what cannot be used is a `Missing` that says why and
what to install.

    find_devices().devices[0].id          "cpu"
    open_device("llvmpipe").info.kind     "webgpu"
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from typing import Any

from sdlc.backends import opencl_device, opencl_drivers, opencl_loader, webgpu_device
from sdlc.backends.opencl_drivers import Answer
from sdlc.backends.target import load_target
from sdlc.language.diagnostics import SdlError, failure
from sdlc.program.device import Device, DeviceInfo
from sdlc.target import Target

SOFTWARE, DISCRETE = "CPU", "DiscreteGPU"
"""WebGPU's adapter types. A GPU comes before every software driver."""


@dataclass(frozen=True, slots=True)
class Missing:
    """A kind of device (`cpu`, `pocl`, `webgpu`, …) that cannot be used, why, and what to do; of a
    driver that is there and `broken`, its file."""

    kind: str
    reason: str
    help: str
    broken: bool = False


@dataclass(frozen=True, slots=True)
class Driver:
    """A driver with a name of its own, from drivers.toml."""

    id: str
    kind: str
    reports: str
    rank: int
    missing: str
    help: str


@cache
def drivers() -> tuple[Driver, ...]:
    text = files("sdlc.backends").joinpath("drivers.toml").read_text("utf-8")
    return tuple(Driver(**entry) for entry in tomllib.loads(text)["driver"])


def target_of(info: DeviceInfo) -> Target:
    """The target whose programs suit a device: the first of drivers.toml that fits its name, and
    the width of its registers where the entry has one, and whose matrix instruction it has."""
    text = files("sdlc.backends").joinpath("drivers.toml").read_text("utf-8")
    names = f"{info.name} {info.vendor}".lower()
    entries = tomllib.loads(text)["target"]
    own = {"", *(of.name for of in info.caps.matrix)}
    fits = (
        load_target(e["target"])
        for e in entries
        if e["kind"] in ("", info.kind)
        and e["reports"] in names
        and e.get("vector", info.vector) == info.vector
    )
    return next(target for target in fits if target.profile.matrix in own)


@dataclass(frozen=True, slots=True)
class Found:
    """Usable devices, the best first, and what is missing."""

    devices: tuple[DeviceInfo, ...]
    missing: tuple[Missing, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A device that could be opened. `number` is its place among its kind's; the lowest `rank` is
    the best. `info` and `open` load its driver; they raise Changed where it is not there any
    more."""

    id: str
    kind: str
    name: str
    number: int
    rank: int
    info: Callable[[], DeviceInfo]
    open: Callable[[], Device]

    @property
    def selectors(self) -> tuple[str, ...]:
        return self.id, f"{self.kind}:{self.number}"


class Changed(Exception):
    """A driver has other devices than it had when it was asked."""


Search = tuple[list[Candidate], list[Missing]]


def find_devices() -> Found:
    """Every device of this machine, and what could be installed. Drivers are asked anew."""
    searches = (_opencl(anew=True), _webgpu())
    candidates = sorted((c for found, _ in searches for c in found), key=lambda c: c.rank)
    missing = tuple(m for _, lacking in searches for m in lacking)
    return Found(tuple(c.info() for c in candidates), missing)


def open_device(selector: str | None = None) -> Device:
    """The device that `selector` names, or the best.

    Selectors: `cpu` (the pip-installed runtime), `pocl`, `llvmpipe`, `opencl:N`, `webgpu:N`, or a
    part of a device's name. Raises SdlError (D001) where there is none, saying what to install.
    Only the driver of that device is loaded.
    """
    with suppress(SdlError, Changed):
        return _opened(selector, anew=False)
    return _opened(selector, anew=True)


def _opened(selector: str | None, anew: bool) -> Device:
    candidates: list[Candidate] = []
    missing: list[Missing] = []
    for search in _searches(selector, anew):
        found, lacking = search()
        candidates += found
        missing += lacking
        matching = [c for c in candidates if selector is None or _matches(c, selector)]
        if matching:
            return min(matching, key=lambda c: c.rank).open()
    raise _none(selector, candidates, missing)


def _searches(selector: str | None, anew: bool) -> tuple[Callable[[], Search], ...]:
    """Where to look, in order: starting a graphics driver takes longer than listing OpenCL's."""
    opencl = partial(_opencl, anew)
    if selector is not None and selector.startswith("webgpu"):
        return (_webgpu,)
    if selector is not None and selector.startswith("opencl"):
        return (opencl,)
    return (opencl, _webgpu)


def _matches(candidate: Candidate, selector: str) -> bool:
    if selector in candidate.selectors:
        return True
    is_id = ":" in selector or any(d.id == selector for d in drivers())
    return not is_id and selector.lower() in candidate.name.lower()


def _none(selector: str | None, candidates: list[Candidate], missing: list[Missing]) -> Exception:
    known = ", ".join(c.id for c in candidates) or "none"
    relevant = [m for m in missing if m.kind == selector or m.broken] or missing
    hints = "; ".join(m.help for m in relevant)
    what = "no device was found" if selector is None else f"no device matches `{selector}`"
    help = f"install one: {hints}" if hints else "choose one of those found"
    notes = (("found", known), *((m.kind, m.reason) for m in relevant))
    return failure("D001", what, help, notes)


# ---- OpenCL --------------------------------------------------------------------------------------


def _opencl(anew: bool) -> Search:
    """What OpenCL's drivers have: as they said it before, without loading any, or `anew`, and all
    are loaded then."""
    try:
        opencl_loader.load_opencl()
    except (ImportError, OSError) as error:
        return [], [
            Missing("opencl", f"pyopencl cannot be loaded: {error}", "pip install pyopencl")
        ]
    answers = opencl_drivers.answers(anew)
    if anew:
        opencl_drivers.start_all(answers)
    seen = [(answer, place) for answer in answers for place in range(len(answer.devices))]
    found = [_opencl_candidate(*each, number) for number, each in enumerate(seen)]
    broken = [
        Missing(a.file or "opencl", a.failed, "update or remove this OpenCL driver", broken=True)
        for a in answers
        if a.failed
    ]
    return found, [*_missing("opencl", found), *broken]


def _opencl_candidate(answer: Answer, place: int, number: int) -> Candidate:
    seen = answer.devices[place]
    driver = _driver("opencl", seen.platform)
    id = driver.id if driver else f"opencl:{number}"
    rank = 0 if seen.gpu else driver.rank if driver else 30

    def info() -> DeviceInfo:
        return opencl_device.device_info(_live(answer)[place], id)

    def opened() -> Device:
        return opencl_device.OpenCLDevice(_live(answer)[place], id, suits=target_of)

    return Candidate(id, "opencl", seen.name.strip(), number, rank, info, opened)


def _live(answer: Answer) -> list[Any]:
    found = opencl_drivers.live(answer)
    if found is None:
        raise Changed(answer.file)
    return found


# ---- WebGPU --------------------------------------------------------------------------------------


def _webgpu() -> Search:
    try:
        wgpu = webgpu_device.load_wgpu()
        adapters = wgpu.gpu.enumerate_adapters_sync()
    except (ImportError, OSError, RuntimeError) as error:
        return [], [Missing("webgpu", f"wgpu cannot be loaded: {error}", "pip install wgpu")]
    found = [_webgpu_candidate(a, number) for number, a in enumerate(adapters)]
    return found, _missing("webgpu", found)


def _webgpu_candidate(adapter: Any, number: int) -> Candidate:
    driver = _driver("webgpu", adapter.info["device"])
    kind = adapter.info["adapter_type"]
    id = driver.id if driver else f"webgpu:{number}"
    software = driver.rank if driver else 60
    rank = software if kind == SOFTWARE else 10 if kind == DISCRETE else 15
    return Candidate(
        id,
        "webgpu",
        adapter.info["device"],
        number,
        rank,
        lambda: webgpu_device.device_info(adapter, id),
        lambda: webgpu_device.WebGpuDevice(adapter, id),
    )


# ---- drivers -------------------------------------------------------------------------------------


def _driver(kind: str, reported: str) -> Driver | None:
    return next((d for d in drivers() if d.kind == kind and d.reports in reported), None)


def _missing(kind: str, found: list[Candidate]) -> list[Missing]:
    """The drivers of a kind that were not found."""
    ids = {c.id for c in found}
    absent = (d for d in drivers() if d.kind == kind and d.id not in ids)
    return [Missing(d.id, _reason(d), d.help) for d in absent]


def _reason(driver: Driver) -> str:
    if opencl_loader.RUNTIME not in driver.missing or opencl_loader.installed_runtime() is None:
        return driver.missing
    if not opencl_loader.has_libraries():
        return f"{opencl_loader.LIBRARIES}, which {opencl_loader.RUNTIME} needs, is not installed"
    return f"{opencl_loader.RUNTIME} is installed but does not load on this machine"
