"""The protocol between programs and devices.

In: kernel texts and memory requests. Out: results in device memory. Invariant: launches of one
recording run in order, each after the memory effects of the one before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from sdlc.kernel.ir import Kernel
from sdlc.target import Capabilities


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """`id` is what `--device` takes (`cpu`, `opencl:0`); `kind` is `opencl` or `webgpu`; `vector`
    f32 lanes are one register, `largest_bytes` the largest memory that can be allocated, and
    `total_bytes` all of it, where the driver says so (else 0)."""

    id: str
    kind: str
    name: str
    vendor: str
    driver: str
    memory_bytes: int
    caps: Capabilities
    vector: int = 0
    largest_bytes: int = 0
    total_bytes: int = 0


@dataclass(frozen=True, slots=True)
class KernelText:
    """A kernel as text. `entry` is its function, `parameters` its buffers in order. `statements`
    has for each line the statement that it spells, by its number in `kernel.ir.statements` of the
    legalised kernel, or -1 in the head; it is empty for a text that was read from a bundle."""

    name: str
    language: str
    text: str
    entry: str
    parameters: tuple[str, ...]
    grid: tuple[int, int, int]
    group: tuple[int, int, int]
    statements: tuple[int, ...] = field(default=(), compare=False, repr=False)


@runtime_checkable
class BuildsAhead(Protocol):
    """A device that can have kernels compiled elsewhere, before they are built."""

    @property
    def in_host_memory(self) -> bool:
        """Whether what it allocates lies in this process's memory."""

    def build_ahead(self, groups: Sequence[Sequence[KernelText]]) -> None:
        """`groups` are the texts of a `build` each."""


@dataclass(frozen=True, slots=True)
class Binding:
    """A range of a device memory: `memory` is what `Device.allocate` gave; bytes."""

    memory: Any
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Launch:
    kernel: str
    bindings: tuple[Binding, ...]


@dataclass(frozen=True, slots=True)
class Timing:
    """When a launch ran, by the device's clock: seconds since the first of its recording began."""

    begin: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.begin


class Device(Protocol):
    """A place to run kernels. Every method may raise `SdlError` (D…): missing, too small, lost."""

    @property
    def info(self) -> DeviceInfo: ...

    def text(self, kernel: Kernel) -> KernelText:
        """The kernel, legalised for this device and printed in its language."""

    def build(self, texts: Sequence[KernelText]) -> Mapping[str, Any]:
        """Built kernels by name."""

    def allocate(self, nbytes: int) -> Any:
        """Zeroed device memory."""

    def write(self, memory: Any, offset: int, data: bytes | memoryview) -> None: ...

    def read(self, memory: Any, offset: int, nbytes: int) -> bytes: ...

    def record(self, built: Mapping[str, Any], launches: Sequence[Launch]) -> Any:
        """A sequence of launches, prepared once (arguments set, bind groups made)."""

    def submit(self, recording: Any) -> None:
        """Runs a recording; returns before it has finished."""

    def profile(self, recording: Any) -> tuple[Timing, ...]:
        """Runs a recording to its end; when each launch ran. Raises SdlError (D033) on a device
        without a clock that can be read."""

    def finish(self) -> None:
        """Waits for everything submitted."""
