"""A device that is not one: programs run through the kernel interpreter on host memory.

In: a `Program` and arrays, as for a real device. Out: what the kernels say, lane by lane.
Invariant: memory begins as all ones, which is NaN in every float type, so a read of what nobody
wrote shows in the result. With `change` every kernel is transformed first: legalised, say.

    run_interpreted(program, {"x": x}, weights)
    run_interpreted(program, {"x": x}, weights, lambda k: legalize(k, caps, "wgsl"))
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from sdlc.graph.types import Array
from sdlc.kernel.interpret import interpret
from sdlc.kernel.ir import Access, Kernel
from sdlc.kernel.overlay import overlaid
from sdlc.program.device import Binding, DeviceInfo, KernelText, Launch, Timing
from sdlc.program.execute import Executable
from sdlc.program.program import Program
from sdlc.target import Capabilities

Bytes = npt.NDArray[np.uint8]
Change = Callable[[Kernel], Kernel]
HOST_CAPABILITIES = Capabilities(
    ("interpreter",), max_binding=2**40, offset_alignment=4, overlapping_bindings=True
)


def unchanged(kernel: Kernel) -> Kernel:
    return kernel


class InterpreterDevice:
    """`Device` on NumPy arrays. `change` transforms each kernel before it is interpreted."""

    def __init__(self, caps: Capabilities = HOST_CAPABILITIES, change: Change = unchanged) -> None:
        self._caps = caps
        self._change = change
        self._kernels: dict[str, Kernel] = {}

    @property
    def info(self) -> DeviceInfo:
        name = "kernel interpreter"
        return DeviceInfo("interpreter", "interpreter", name, "sdlc", "", 2**40, self._caps)

    def text(self, kernel: Kernel) -> KernelText:
        made = self._change(kernel)
        self._kernels[made.name] = made
        names = tuple(b.name for b in made.buffers)
        return KernelText(
            made.name, "interpreter", str(made), made.name, names, made.grid, made.group
        )

    def build(self, texts: Sequence[KernelText]) -> Mapping[str, Kernel]:
        return {text.name: self._kernels[text.name] for text in texts}

    def allocate(self, nbytes: int) -> Bytes:
        return np.full(nbytes, 0xFF, np.uint8)

    def write(self, memory: Bytes, offset: int, data: bytes | memoryview) -> None:
        memory[offset : offset + len(data)] = np.frombuffer(data, np.uint8)

    def read(self, memory: Bytes, offset: int, nbytes: int) -> bytes:
        return bytes(memory[offset : offset + nbytes].tobytes())

    def record(self, built: Mapping[str, Any], launches: Sequence[Launch]) -> Any:
        return [_call(built[each.kernel], each.bindings) for each in launches]

    def submit(self, recording: Any) -> None:
        for each in recording:
            each.run()

    def profile(self, recording: Any) -> tuple[Timing, ...]:
        start = time.perf_counter()
        times = [start]
        for each in recording:
            each.run()
            times.append(time.perf_counter())
        return tuple(Timing(a - start, b - start) for a, b in pairwise(times))

    def finish(self) -> None:
        pass


def _call(kernel: Kernel, bindings: tuple[Binding, ...]) -> _Call:
    """A launch; buffers that are bound to the same bytes are one."""
    places: dict[tuple[int, int], str] = {}
    kept = []
    pairs = sorted(zip(kernel.buffers, bindings, strict=True), key=lambda p: p[0].access.value)
    for buffer, place in pairs:
        where = (id(place.memory), place.offset)
        if buffer.access is not Access.READ and where in places:
            kernel = overlaid(kernel, places[where], buffer.name)
        places[where] = buffer.name
        kept.append((buffer.name, place))
    by_name = dict(kept)
    return _Call(kernel, tuple(by_name[b.name] for b in kernel.buffers))


@dataclass(frozen=True, slots=True)
class _Call:
    kernel: Kernel
    bindings: tuple[Binding, ...]

    def run(self) -> None:
        """Interprets on copies, then writes back: no kernel sees its own effects early."""
        views = {b.name: self._view(i) for i, b in enumerate(self.kernel.buffers)}
        results = interpret(self.kernel, {name: view.copy() for name, view in views.items()})
        for buffer in self.kernel.buffers:
            if buffer.access is not Access.READ:
                views[buffer.name][:] = results[buffer.name]

    def _view(self, index: int) -> Array:
        buffer, place = self.kernel.buffers[index], self.bindings[index]
        end = place.offset + buffer.size * buffer.dtype.itemsize
        assert end <= place.offset + place.nbytes, f"{buffer.name} is larger than its tensor"
        memory: Bytes = place.memory
        return memory[place.offset : end].view(buffer.dtype.numpy)


def run_interpreted(
    program: Program,
    inputs: Mapping[str, object],
    weights: Mapping[str, Array],
    change: Change = unchanged,
) -> dict[str, Array]:
    """`Executable.run` without a device: outputs by name. Raises what the interpreter raises
    (`Trap`) beside the errors of `Executable`."""
    return Executable(program, InterpreterDevice(change=change), weights).run(inputs)
