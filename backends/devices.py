"""Finding and opening devices.

In: nothing, or what `--device` says. Out: what was found and what is missing, or an open device.
Invariant: looking for devices never fails: what cannot be used is a `Missing` that says why and
what to install.

    find_devices().devices[0].id          "cpu"
    open_device("llvmpipe").info.kind     "webgpu"
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sdlc.backends import opencl_device, opencl_loader, webgpu_device
from sdlc.language.diagnostics import failure
from sdlc.program.device import Device, DeviceInfo

INTEL_HELP = "pip install 'sdlc[cpu]'"
POCL_HELP = "apt-get install pocl-opencl-icd"
VULKAN_HELP = "apt-get install mesa-vulkan-drivers"

INTEL, POCL = "Intel(R) OpenCL", "Portable Computing Language"
ALIASES = (("cpu", INTEL), ("pocl", POCL))


@dataclass(frozen=True, slots=True)
class Missing:
    """A kind of device (`cpu`, `pocl`, `webgpu`, …) that cannot be used, why, and what to do."""

    kind: str
    reason: str
    help: str


@dataclass(frozen=True, slots=True)
class Found:
    """Usable devices, the best first, and what is missing."""

    devices: tuple[DeviceInfo, ...]
    missing: tuple[Missing, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A device that could be opened. `number` is its place among its kind's; the lowest `rank` is
    the best."""

    info: DeviceInfo
    number: int
    rank: int
    open: Callable[[], Device]

    @property
    def selectors(self) -> tuple[str, ...]:
        return self.info.id, f"{self.info.kind}:{self.number}"


Search = tuple[list[Candidate], list[Missing]]


def find_devices() -> Found:
    """Every device of this machine, and what could be installed."""
    searches = (_opencl(), _webgpu())
    candidates = sorted((c for found, _ in searches for c in found), key=lambda c: c.rank)
    missing = tuple(m for _, lacking in searches for m in lacking)
    return Found(tuple(c.info for c in candidates), missing)


def open_device(selector: str | None = None) -> Device:
    """The device that `selector` names, or the best.

    Selectors: `cpu` (the pip-installed runtime), `pocl`, `llvmpipe`, `opencl:N`, `webgpu:N`, or a
    part of a device's name. Raises SdlError (D001) where there is none, saying what to install.
    """
    candidates: list[Candidate] = []
    missing: list[Missing] = []
    for search in _searches(selector):
        found, lacking = search()
        candidates += found
        missing += lacking
        matching = [c for c in candidates if selector is None or _matches(c, selector)]
        if matching:
            return min(matching, key=lambda c: c.rank).open()
    raise _none(selector, candidates, missing)


def _searches(selector: str | None) -> tuple[Callable[[], Search], ...]:
    """Where to look, in order: starting a graphics driver takes longer than listing OpenCL's."""
    if selector is not None and selector.startswith("webgpu"):
        return (_webgpu,)
    if selector is not None and selector.startswith("opencl"):
        return (_opencl,)
    return (_opencl, _webgpu)


def _matches(candidate: Candidate, selector: str) -> bool:
    if selector in candidate.selectors:
        return True
    named = ":" not in selector and selector not in dict(ALIASES)
    return named and selector.lower() in candidate.info.name.lower()


def _none(selector: str | None, candidates: list[Candidate], missing: list[Missing]) -> Exception:
    known = ", ".join(c.info.id for c in candidates) or "none"
    relevant = [m for m in missing if m.kind == selector] or missing
    hints = "; ".join(m.help for m in relevant)
    what = "no device was found" if selector is None else f"no device matches '{selector}'"
    help = f"install one: {hints}" if hints else "choose one of those found"
    notes = (("found", known), *((m.kind, m.reason) for m in relevant))
    return failure("D001", what, help, notes)


# ---- OpenCL --------------------------------------------------------------------------------------


def _opencl() -> Search:
    try:
        cl = opencl_loader.load_opencl()
    except (ImportError, OSError) as error:
        return [], [
            Missing("opencl", f"pyopencl cannot be loaded: {error}", "pip install pyopencl")
        ]
    try:
        devices = [d for p in cl.get_platforms() for d in p.get_devices()]
    except cl.Error:
        # The loader's error for "no driver at all".
        devices = []
    usable = [d for d in devices if d.available and d.compiler_available]
    found = [_opencl_candidate(cl, d, number) for number, d in enumerate(usable)]
    return found, _missing_opencl({c.info.id for c in found})


def _opencl_candidate(cl: Any, device: Any, number: int) -> Candidate:
    names = {platform: id for id, platform in ALIASES}
    id = names.get(device.platform.name.strip(), f"opencl:{number}")
    info = opencl_device.device_info(device, id)
    is_gpu = bool(device.type & cl.device_type.GPU)
    rank = 0 if is_gpu else {"cpu": 20, "pocl": 40}.get(id, 30)
    return Candidate(info, number, rank, lambda: opencl_device.OpenCLDevice(device, id))


def _missing_opencl(ids: set[str]) -> list[Missing]:
    missing = []
    if "cpu" not in ids:
        missing.append(Missing("cpu", _why_no_intel(), INTEL_HELP))
    if "pocl" not in ids:
        missing.append(Missing("pocl", "PoCL's OpenCL driver is not installed", POCL_HELP))
    return missing


def _why_no_intel() -> str:
    if opencl_loader.installed_runtime() is None:
        return f"the CPU's OpenCL runtime ({opencl_loader.RUNTIME}) is not installed"
    if not opencl_loader.has_libraries():
        return f"{opencl_loader.LIBRARIES}, which the CPU's OpenCL runtime needs, is not installed"
    return "the CPU's OpenCL runtime is installed but does not load on this machine"


# ---- WebGPU --------------------------------------------------------------------------------------


def _webgpu() -> Search:
    try:
        wgpu = webgpu_device.load_wgpu()
        adapters = wgpu.gpu.enumerate_adapters_sync()
    except (ImportError, OSError, RuntimeError) as error:
        return [], [Missing("webgpu", f"wgpu cannot be loaded: {error}", "pip install wgpu")]
    found = [_webgpu_candidate(a, number) for number, a in enumerate(adapters)]
    missing = []
    if not any(c.info.id == "llvmpipe" for c in found):
        reason = "Mesa's software Vulkan driver (llvmpipe) is not installed"
        missing.append(Missing("llvmpipe", reason, VULKAN_HELP))
    return found, missing


def _webgpu_candidate(adapter: Any, number: int) -> Candidate:
    software = adapter.info["adapter_type"] == "CPU"
    is_llvmpipe = "llvmpipe" in adapter.info["device"]
    id = "llvmpipe" if is_llvmpipe else f"webgpu:{number}"
    rank = 50 if software else 10 if adapter.info["adapter_type"] == "DiscreteGPU" else 15
    info = webgpu_device.device_info(adapter, id)
    return Candidate(info, number, rank, lambda: webgpu_device.WebGpuDevice(adapter, id))
