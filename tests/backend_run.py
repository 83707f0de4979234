"""Runs one kernel on a device, for the tests of the backends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

from sdlc.backends.devices import open_device
from sdlc.graph.types import Array
from sdlc.kernel.ir import Access, Kernel
from sdlc.program.device import Binding, Device, KernelText, Launch

DEVICES = ("cpu", "pocl", "llvmpipe")


@cache
def device(selector: str) -> Device:
    """The device; fails with what to install where it is missing, so that no test is skipped."""
    return open_device(selector)


def run_kernel(selector: str, kernel: Kernel, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The buffers that `kernel` may write, after one launch with these inputs."""
    return run_on(device(selector), kernel, inputs)


def run_on(
    on: Device, kernel: Kernel, inputs: Mapping[str, Array], beside: Sequence[KernelText] = ()
) -> dict[str, Array]:
    """The same on a device that is open; `beside` are texts that are built with the kernel's."""
    bindings = {}
    for buffer in kernel.buffers:
        nbytes = -(-buffer.size * buffer.dtype.itemsize // 4) * 4
        bindings[buffer.name] = Binding(on.allocate(nbytes), 0, nbytes)
        if buffer.name in inputs:
            data = np.ascontiguousarray(inputs[buffer.name], buffer.dtype.numpy)
            on.write(bindings[buffer.name].memory, 0, data.tobytes())
    built = on.build([*beside, on.text(kernel)])
    launch = Launch(kernel.name, tuple(bindings[b.name] for b in kernel.buffers))
    on.submit(on.record(built, [launch]))
    on.finish()
    made = {}
    for buffer in kernel.buffers:
        if buffer.access is not Access.READ:
            nbytes = buffer.size * buffer.dtype.itemsize
            data_out = on.read(bindings[buffer.name].memory, 0, nbytes)
            made[buffer.name] = np.frombuffer(data_out, buffer.dtype.numpy)
    return made
