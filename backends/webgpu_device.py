"""WebGPU devices, through wgpu-py.

In: kernels and memory requests. Out: results. Invariant: pipelines and bind groups of a recording
are made once; a submit only encodes and queues. WebGPU orders the dispatches of a pass by the
memory that they share.

    device = WebGpuDevice(adapter, "llvmpipe")
    built = device.build([device.text(kernel)])
    device.submit(device.record(built, [Launch(kernel.name, (Binding(memory, 0, 64),))]))
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

from sdlc.backends.build_log import build_failure
from sdlc.backends.device_errors import lost, too_small
from sdlc.backends.legalize import legalize
from sdlc.backends.opencl_loader import cache_folder
from sdlc.backends.printer import print_kernel
from sdlc.backends.webgpu_module import trusted_module
from sdlc.kernel.ir import Kernel
from sdlc.language.diagnostics import failure
from sdlc.program.device import Binding, DeviceInfo, KernelText, Launch, Timing
from sdlc.target import Capabilities

BINDING_ALIGNMENT = 256
NANOSECOND = 1e-9
CLOCK = "timestamp-query"
TIMESTAMP_BYTES = 8
DISPATCHES = 256
"""Dispatches of one submission: a driver that watches the time of one is not kept waiting."""


@cache
def load_wgpu() -> ModuleType:
    """wgpu-py, on the platform's own interface. Raises ImportError where it is not installed."""
    import wgpu

    if sys.platform == "linux":
        from wgpu.backends.wgpu_native import extras

        # Mesa's window code complains on stderr where nobody is logged in, windows or not.
        os.environ.setdefault("XDG_RUNTIME_DIR", str(cache_folder("runtime")))
        # The OpenGL backend shows every device twice, without what compute needs.
        extras.set_instance_extras(backends=["Vulkan"])
    module: ModuleType = wgpu
    return module


def capabilities(adapter: Any) -> Capabilities:
    """What a live adapter can do, as it reports it."""
    limits = adapter.limits
    half = "shader-f16" in adapter.features
    size = tuple(int(limits[f"max-compute-workgroup-size-{axis}"]) for axis in "xyz")
    return Capabilities(
        languages=("wgsl",),
        f16_storage=half,
        f16_arithmetic=half,
        vector_widths=(1, 2, 4),
        max_work_items=int(limits["max-compute-invocations-per-workgroup"]),
        max_group=(size[0], size[1], size[2]),
        max_groups=int(limits["max-compute-workgroups-per-dimension"]),
        local_bytes=int(limits["max-compute-workgroup-storage-size"]),
        max_storage_buffers=int(limits["max-storage-buffers-per-shader-stage"]),
        max_binding=min(
            int(limits["max-storage-buffer-binding-size"]), int(limits["max-buffer-size"])
        ),
        offset_alignment=max(BINDING_ALIGNMENT, int(limits["min-storage-buffer-offset-alignment"])),
    )


def device_info(adapter: Any, id: str) -> DeviceInfo:
    info = adapter.info
    return DeviceInfo(
        id=id,
        kind="webgpu",
        name=info["device"],
        vendor=info["vendor"],
        driver=f"{info['backend_type']} {info['description']}".strip(),
        memory_bytes=int(adapter.limits["max-buffer-size"]),
        largest_bytes=int(adapter.limits["max-buffer-size"]),
        caps=capabilities(adapter),
    )


@dataclass(frozen=True, slots=True)
class Built:
    pipeline: Any
    layout: Any
    text: KernelText


class WebGpuDevice:
    """One WebGPU adapter with a device and its queue."""

    def __init__(self, adapter: Any, id: str) -> None:
        wgpu = self._wgpu = load_wgpu()
        self._info = device_info(adapter, id)
        features = [f for f in ("shader-f16", CLOCK) if f in adapter.features]
        with self._errors("opening the device"):
            self._device = adapter.request_device_sync(
                required_features=features, required_limits=dict(adapter.limits)
            )
        self._usage = (
            wgpu.BufferUsage.STORAGE | wgpu.BufferUsage.COPY_SRC | wgpu.BufferUsage.COPY_DST
        )
        self._layouts: dict[int, Any] = {}
        self._marker = self._device.create_buffer(size=4, usage=self._usage)

    @property
    def info(self) -> DeviceInfo:
        return self._info

    def text(self, kernel: Kernel) -> KernelText:
        caps = self._info.caps
        return print_kernel(legalize(kernel, caps, "wgsl"), "wgsl", caps)

    def build(self, texts: Sequence[KernelText]) -> Mapping[str, Any]:
        """Raises SdlError (D030) that shows the line of the kernel that is refused."""
        return {text.name: self._build(text) for text in texts}

    def _build(self, text: KernelText) -> Built:
        wgpu, device = self._wgpu, self._device
        layout = self._layout(len(text.parameters))
        try:
            module = trusted_module(device, text.text, text.name)
            pipeline = device.create_compute_pipeline(
                layout=device.create_pipeline_layout(bind_group_layouts=[layout]),
                compute={"module": module, "entry_point": text.entry},
                label=text.name,
            )
        except wgpu.GPUError as error:
            raise build_failure(text, str(error), self._info.name) from error
        return Built(pipeline, layout, text)

    def _layout(self, count: int) -> Any:
        """The layout of `count` storage buffers, shared by the kernels that have as many."""
        if count not in self._layouts:
            wgpu = self._wgpu
            entries = [
                {
                    "binding": number,
                    "visibility": wgpu.ShaderStage.COMPUTE,
                    "buffer": {"type": wgpu.BufferBindingType.storage},
                }
                for number in range(count)
            ]
            self._layouts[count] = self._device.create_bind_group_layout(entries=entries)
        return self._layouts[count]

    def allocate(self, nbytes: int) -> Any:
        size = max(4, -(-nbytes // 4) * 4)
        if size > self._info.memory_bytes:
            raise too_small(self._info.name, f"a buffer of {size:,} bytes", self._info.memory_bytes)
        with self._errors(f"allocating {size:,} bytes"):
            return self._device.create_buffer(size=size, usage=self._usage)

    def write(self, memory: Any, offset: int, data: bytes | memoryview) -> None:
        padded = bytes(data) + bytes(-len(data) % 4) if len(data) % 4 else data
        if padded:
            with self._errors("writing to the device"):
                self._device.queue.write_buffer(memory, offset, padded)

    def read(self, memory: Any, offset: int, nbytes: int) -> bytes:
        if not nbytes:
            return b""
        with self._errors("reading from the device"):
            size = -(-nbytes // 4) * 4
            return bytes(self._device.queue.read_buffer(memory, offset, size))[:nbytes]

    def record(self, built: Mapping[str, Built], launches: Sequence[Launch]) -> Any:
        with self._errors("preparing kernels"):
            return [self._prepared(built[each.kernel], each.bindings) for each in launches]

    def _prepared(self, built: Built, bindings: Sequence[Binding]) -> tuple[Any, Any, Any]:
        entries = []
        for number, binding in enumerate(bindings):
            size = -(-binding.nbytes // 4) * 4
            if size > self._info.caps.max_binding:
                raise too_small(
                    self._info.name, f"a binding of {size:,} bytes", self._info.caps.max_binding
                )
            place = {"buffer": binding.memory, "offset": binding.offset, "size": size}
            entries.append({"binding": number, "resource": place})
        group = self._device.create_bind_group(layout=built.layout, entries=entries)
        return built.pipeline, group, built.text.grid

    def submit(self, recording: Any) -> None:
        with self._errors("starting kernels"):
            for start in range(0, len(recording), DISPATCHES):
                self._submit(recording[start : start + DISPATCHES])

    def _submit(self, recording: Any) -> None:
        encoder = self._device.create_command_encoder()
        run = encoder.begin_compute_pass()
        current = None
        for pipeline, group, grid in recording:
            if pipeline is not current:
                run.set_pipeline(pipeline)
                current = pipeline
            run.set_bind_group(0, group)
            run.dispatch_workgroups(*grid)
        run.end()
        self._device.queue.submit([encoder.finish()])

    def profile(self, recording: Any) -> tuple[Timing, ...]:
        """By timestamps around passes of one dispatch each."""
        if CLOCK not in self._device.features:
            raise failure(
                "D033",
                f"{self._info.name} has no clock that programs can read ({CLOCK})",
                "profile on another device (`sdlc devices`); without --profile it is timed whole",
            )
        ticks: list[int] = []
        with self._errors("timing kernels"):
            for start in range(0, len(recording), DISPATCHES):
                ticks += self._ticks(recording[start : start + DISPATCHES])
        seconds = [(tick - ticks[0]) * self._tick_seconds() for tick in ticks]
        return tuple(Timing(a, b) for a, b in zip(seconds[::2], seconds[1::2], strict=True))

    def _ticks(self, recording: Any) -> list[int]:
        """The clock before and after each dispatch."""
        usage, count = self._wgpu.BufferUsage, 2 * len(recording)
        stamps = self._device.create_query_set(type="timestamp", count=count)
        size = count * TIMESTAMP_BYTES
        held = self._device.create_buffer(size=size, usage=usage.QUERY_RESOLVE | usage.COPY_SRC)
        encoder = self._device.create_command_encoder()
        for number, (pipeline, group, grid) in enumerate(recording):
            run = encoder.begin_compute_pass(
                timestamp_writes={
                    "query_set": stamps,
                    "beginning_of_pass_write_index": 2 * number,
                    "end_of_pass_write_index": 2 * number + 1,
                }
            )
            run.set_pipeline(pipeline)
            run.set_bind_group(0, group)
            run.dispatch_workgroups(*grid)
            run.end()
        encoder.resolve_query_set(stamps, 0, count, held, 0)
        self._device.queue.submit([encoder.finish()])
        data = self._device.queue.read_buffer(held, 0, size)
        return [int(tick) for tick in data.cast("B").cast("Q")]

    def _tick_seconds(self) -> float:
        """Of one tick. WebGPU's are nanoseconds; wgpu-native's are the driver's own."""
        from wgpu.backends.wgpu_native import lib

        period = lib.wgpuQueueGetTimestampPeriod(self._device.queue._internal)
        return float(period) * NANOSECOND

    def finish(self) -> None:
        # A read waits for everything submitted before it. wgpu-py's own call for this passes a
        # callback of the wrong type in some versions.
        with self._errors("running kernels"):
            self._device.queue.read_buffer(self._marker, 0, 4)

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        """wgpu's errors as SdlError (D031 too small, D032 lost)."""
        wgpu = self._wgpu
        try:
            yield
        except wgpu.GPUOutOfMemoryError as error:
            raise too_small(self._info.name, doing, self._info.memory_bytes) from error
        except (wgpu.GPUError, RuntimeError) as error:
            raise lost(self._info.name, doing, error) from error
