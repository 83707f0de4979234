"""Devices: the same results on each, one memory in parts, clear errors, a cache that may be lost.

Every device of `backend_run.DEVICES` must be there: a missing one fails with what to install.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from backend_kernels import (
    EXACT,
    half_arithmetic,
    half_eights,
    half_windows,
    one_dimensional,
    rounded_halves,
)
from backend_run import DEVICES, device, run_kernel, run_on
from backend_strategies import inputs, kernels
from conftest import ForAll
from kernels import GX, LX, Example, add, mul, numbers, read, write
from sdlc.backends import devices as finding
from sdlc.backends import opencl_loader
from sdlc.backends.devices import drivers, find_devices, open_device
from sdlc.backends.opencl_device import Memory, OpenCLDevice, compiles_half
from sdlc.graph.scalar import SCALARS
from sdlc.graph.types import DType
from sdlc.kernel.interpret import interpret
from sdlc.kernel.ir import Kernel, Load, Store, call, f32
from sdlc.language.diagnostics import SdlError
from sdlc.program.device import Binding, Launch

on_each_device = pytest.mark.parametrize("selector", DEVICES)


@on_each_device
@pytest.mark.parametrize("make", EXACT)
def test_examples_agree_with_the_interpreter(make: Callable[[], Example], selector: str) -> None:
    """Within a few units in the last place: some drivers' `fma` rounds twice."""
    example = make()
    want = interpret(example.kernel, example.inputs)
    got = run_kernel(selector, example.kernel, example.inputs)
    for name, array in want.items():
        wrote = ~np.isnan(array.astype(np.float64))
        np.testing.assert_allclose(got[name][wrote], array[wrote], rtol=2e-6, atol=1e-6)


def packed(selector: str) -> OpenCLDevice:
    """The device with halves as integers."""
    made = open_device(selector)
    assert isinstance(made, OpenCLDevice)
    caps = replace(made.info.caps, f16_arithmetic=False, packed_halves=True)
    made._info = replace(made.info, caps=caps)
    return made


@pytest.mark.parametrize("selector", ["cpu", "pocl"])
@pytest.mark.parametrize("make", [half_arithmetic, half_windows, rounded_halves, half_eights])
def test_halves_may_be_integers(make: Callable[[], Example], selector: str) -> None:
    """All three in one source, as programs are built."""
    example, on = make(), packed(selector)
    others = [on.text(f().kernel) for f in (half_arithmetic, half_eights) if f is not make]
    assert "ushort" in on.text(example.kernel).text
    want = interpret(example.kernel, example.inputs)
    got = run_on(on, example.kernel, example.inputs, others)
    for name, array in want.items():
        wrote = ~np.isnan(array.astype(np.float64))
        np.testing.assert_array_equal(got[name][wrote], array[wrote], err_msg=name)


@on_each_device
def test_random_kernels_agree_to_the_last_bit(for_all: ForAll, selector: str) -> None:
    def check(kernel: Kernel) -> None:
        held = {b.name for b in kernel.buffers}
        given = {n: a for n, a in inputs().items() if n in held}
        want = interpret(kernel, given)
        got = run_kernel(selector, kernel, given)
        for name, array in want.items():
            wrote = ~np.isnan(array.astype(np.float64))
            np.testing.assert_array_equal(got[name][wrote], array[wrote], err_msg=name)

    for_all(kernels(), check, 12, 0.01)


RANGES: dict[str, tuple[float, float]] = {
    "exp": (-20, 20),
    "exp2": (-30, 30),
    "log": (0.01, 100),
    "log2": (0.01, 100),
    "sqrt": (0, 1e4),
    "rsqrt": (1e-2, 1e4),
    "sin": (-300, 300),
    "cos": (-300, 300),
    "tan": (-1.4, 1.4),
    "atan": (-20, 20),
    "tanh": (-100, 100),
    "erf": (-6, 6),
    "floor": (-9, 9),
    "ceil": (-9, 9),
    "round": (-9, 9),
    "abs": (-9, 9),
}
ACCURACY = {"atan": 3e-5}
"""Relative to the result or to one, whichever is larger. WGSL grants atan 4096 units."""


@on_each_device
def test_functions_are_accurate(selector: str) -> None:
    names = tuple(RANGES)
    for part in (names[:8], names[8:]):
        data = {n: np.linspace(*RANGES[n], 1024, dtype=np.float32) for n in part}
        got = run_kernel(selector, applied(part), {f"in_{n}": a for n, a in data.items()})
        for name in part:
            want = SCALARS[name].evaluate(data[name].astype(np.float64))
            error = np.abs(got[f"out_{name}"] - want) / np.maximum(np.abs(want), 1)
            assert error.max() < ACCURACY.get(name, 2e-6), (name, float(error.max()))


def applied(names: tuple[str, ...]) -> Kernel:
    """out_f = f(in_f) for each function."""
    at = add(mul(GX, 32), LX)
    ins = [read(f"in_{name}", 1024) for name in names]
    outs = [write(f"out_{name}", 1024) for name in names]
    calls = [call(name, Load(source, at)) for name, source in zip(names, ins, strict=True)]
    body = tuple(Store(out, at, value) for out, value in zip(outs, calls, strict=True))
    return one_dimensional(f"apply_{names[0]}", (*ins, *outs), body, 32, 32)


@on_each_device
def test_rounding_is_to_even_and_integers_truncate(selector: str) -> None:
    x, out, whole = read("x", 8), write("out", 8), write("whole", 8, DType.I32)
    value = Load(x, LX)
    body = (Store(out, LX, call("round", value)), Store(whole, LX, call("i32", value)))
    given = np.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.7, 2.7, -0.2], np.float32)
    got = run_kernel(selector, one_dimensional("rounding", (x, out, whole), body, 8), {"x": given})
    assert got["out"].tolist() == np.rint(given).tolist()
    assert got["whole"].tolist() == np.trunc(given).tolist()


def doubled() -> Kernel:
    x, out = read("x", 64), write("out", 64)
    body = (Store(out, LX, call("mul", Load(x, LX), f32(2.0))),)
    return one_dimensional("doubled", (x, out), body, 64)


@on_each_device
def test_launches_run_in_order_on_parts_of_one_memory(selector: str) -> None:
    """A chain through an arena: each launch reads what the one before wrote, and is run twice."""
    on = device(selector)
    nbytes, step = 256, max(256, on.info.caps.offset_alignment)
    arena = on.allocate(8 * step)
    places = [Binding(arena, n * step, nbytes) for n in range(8)]
    built = on.build([on.text(doubled())])
    launches = [Launch("doubled", (places[n], places[n + 1])) for n in range(7)]
    recording = on.record(built, launches)
    for seed in range(2):
        data = numbers(64, seed=seed)
        on.write(arena, 0, data.tobytes())
        on.submit(recording)
        on.finish()
        got = np.frombuffer(on.read(arena, 7 * step, nbytes), np.float32)
        np.testing.assert_array_equal(got, data * 128)


@on_each_device
def test_memory_is_zeroed_and_takes_odd_bytes(selector: str) -> None:
    on = device(selector)
    memory = on.allocate(10)
    assert on.read(memory, 0, 10) == bytes(10)
    on.write(memory, 4, b"abcde\x01")
    assert on.read(memory, 0, 10) == b"\0\0\0\0abcde\x01"
    on.write(memory, 0, b"")
    assert on.read(memory, 4, 0) == b""


@on_each_device
def test_too_large_memory_is_a_clear_error(selector: str) -> None:
    on = device(selector)
    with pytest.raises(SdlError, match=r"D031.*too little memory") as caught:
        on.allocate(1 << 42)
    assert "--size" in str(caught.value)


@on_each_device
def test_a_build_failure_shows_kernel_log_and_source(selector: str) -> None:
    on = device(selector)
    good = on.text(doubled())
    lines = good.text.splitlines()
    body = next(n for n, line in enumerate(lines) if "out[" in line)
    lines[body] = lines[body].replace("2.0f", "nothing_of_this_name")
    header = "// stdlib/broken.sdl:7 double"
    broken = replace(good, name="broken", text="\n".join([header, *lines]))
    with pytest.raises(SdlError) as caught:
        on.build([good, broken])
    message = str(caught.value)
    assert "D030" in message and on.info.name in message
    assert f":{body + 2}:" in message and "nothing_of_this_name" in message
    assert "= log:" in message and "stdlib/broken.sdl:7" in message


def test_ranges_go_before_those_that_they_were_made_after() -> None:
    """The newest first, the buffer last: a driver was seen to read freed memory otherwise."""
    gone: list[str] = []

    class Part:
        def __init__(self, name: str) -> None:
            self.name = name

        def get_sub_region(self, offset: int, nbytes: int) -> Part:
            return Part(f"{offset}+{nbytes}")

        def __del__(self) -> None:
            gone.append(self.name)

    memory = Memory(Part("buffer"), 64)
    for offset, nbytes in ((0, 32), (0, 64), (16, 16), (0, 16)):
        memory.range(offset, nbytes)
    del memory
    assert gone == ["0+16", "16+16", "0+32", "buffer"]


def test_halves_are_probed_where_they_are_not_listed() -> None:
    """The probe agrees with what the two drivers list."""
    for selector in ("cpu", "pocl"):
        on = device(selector)
        assert isinstance(on, OpenCLDevice)
        assert compiles_half(on._device) == on.info.caps.f16_arithmetic


def test_every_driver_is_here() -> None:
    found = find_devices()
    assert not found.missing, found.missing
    assert {d.id for d in found.devices} >= set(DEVICES) == {d.id for d in drivers()}
    ranks = {d.id: d.rank for d in drivers()}
    known = [d.id for d in found.devices if d.id in ranks]
    assert known == sorted(known, key=ranks.__getitem__)
    for info in found.devices:
        assert info.name and info.driver and info.memory_bytes > 0
        assert info.caps.max_binding > 0 and info.caps.local_bytes > 0


def test_selectors() -> None:
    for number in range(2):
        assert open_device(f"opencl:{number}").info.kind == "opencl"
    assert open_device("webgpu:0").info.kind == "webgpu"
    assert open_device("LLVM 1").info.id == "llvmpipe"
    for selector in DEVICES:
        assert device(selector).info.id == selector


def test_an_unknown_device_lists_those_that_are() -> None:
    with pytest.raises(SdlError, match=r"D001.*no device matches `abacus`") as caught:
        open_device("abacus")
    assert "found: " in str(caught.value) and "cpu" in str(caught.value)
    with pytest.raises(SdlError, match="D001"):
        open_device("opencl:99")


def test_what_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "_opencl", lambda anew: ([], finding._missing("opencl", [])))
    monkeypatch.setattr(finding, "_webgpu", lambda: ([], finding._missing("webgpu", [])))
    missing = {m.kind: m for m in find_devices().missing}
    assert set(missing) == {d.id for d in drivers()}
    assert all(m.reason and m.help for m in missing.values())
    with pytest.raises(SdlError) as caught:
        open_device("pocl")
    assert missing["pocl"].help in str(caught.value)
    with pytest.raises(SdlError, match="no device was found"):
        open_device()


def test_the_reason_why_the_runtime_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = next(d for d in drivers() if d.id == "cpu")
    assert "does not load" in finding._reason(cpu)
    monkeypatch.setattr(opencl_loader, "has_libraries", lambda: False)
    assert opencl_loader.LIBRARIES in finding._reason(cpu)
    monkeypatch.setattr(opencl_loader, "installed_runtime", lambda: None)
    assert finding._reason(cpu) == cpu.missing
