"""OpenCL devices, through pyopencl.

In: kernels and memory requests. Out: results. Invariant: kernels of a recording are made once, with
their arguments set; a submit only enqueues. Launches run in order on one in-order queue.

    device = OpenCLDevice(cl_device, "cpu")
    built = device.build([device.text(kernel)])
    device.submit(device.record(built, [Launch(kernel.name, (Binding(memory, 0, 64),))]))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from sdlc.backends.build_cache import BuildCache
from sdlc.backends.device_errors import lost, too_small
from sdlc.backends.legalize import legalize
from sdlc.backends.opencl_apart import build_apart
from sdlc.backends.opencl_build import build_programs, not_kept
from sdlc.backends.opencl_loader import load_opencl
from sdlc.backends.printer import print_kernel
from sdlc.graph.types import DType
from sdlc.kernel.ir import (
    Access,
    Buffer,
    Cast,
    Declare,
    Kernel,
    Literal,
    Load,
    MatrixMultiply,
    Stmt,
    Store,
    Type,
    Var,
    WorkId,
    call,
    i32,
)
from sdlc.language.diagnostics import SdlError
from sdlc.program.device import Binding, DeviceInfo, KernelText, Launch, Timing
from sdlc.program.host import give_back
from sdlc.target import Capabilities, MatrixInstruction, Target

INT_MAX = 2**31 - 1
POINTER_BYTES = 8
NANOSECOND = 1e-9
MANY = 64
"""Launches after whose preparation what it took goes back to the system."""
FILLED = 4 << 20
"""Bytes that one call fills: Intel's runtime takes as much again while it does so."""
HALF = Capabilities(("opencl",), f16_arithmetic=True)
PACKED_HALF = Capabilities(("opencl",), packed_halves=True)


def capabilities(device: Any) -> Capabilities:
    """What a live OpenCL device can do, as it reports it."""
    sizes = tuple(int(n) for n in device.max_work_item_sizes[:3])
    half = "cl_khr_fp16" in device.extensions.split() or _unlisted(device, HALF)
    return Capabilities(
        languages=("opencl",),
        f16_storage=True,
        f16_arithmetic=half,
        vector_widths=(1, 2, 4, 8, 16),
        max_work_items=int(device.max_work_group_size),
        max_group=(sizes[0], sizes[1], sizes[2]),
        max_groups=INT_MAX,
        local_bytes=int(device.local_mem_size),
        max_storage_buffers=int(device.max_parameter_size) // POINTER_BYTES,
        max_binding=int(device.max_mem_alloc_size),
        offset_alignment=max(64, int(device.mem_base_addr_align) // 8),
        overlapping_bindings=True,
        packed_halves=not half and _unlisted(device, PACKED_HALF),
    )


def _unlisted(device: Any, caps: Capabilities) -> bool:
    """Whether a GPU's compiler takes halves though its driver does not list them, as some do."""
    return bool(device.type & load_opencl().device_type.GPU) and compiles_half(device, caps)


def compiles_half(device: Any, caps: Capabilities = HALF) -> bool:
    """Whether a kernel that copies vectors of halves, as `caps` has them, builds."""
    size = max(caps.vector_widths)
    x = Buffer("x", DType.F16, size)
    y = Buffer("y", DType.F16, size, access=Access.WRITE)
    value = Cast(Cast(Load(x, i32(0), size), DType.F32), DType.F16)
    kernel = Kernel("probe", (x, y), (), (Store(y, i32(0), value),), (1, 1, 1), (1, 1, 1))
    return _builds(device, kernel, caps)


def compiles_matrix(device: Any, of: MatrixInstruction) -> bool:
    """Whether a kernel with a matrix instruction builds."""
    caps = replace(PACKED_HALF, matrix=(of,))
    inputs, kept = DType(of.inputs), DType(of.accumulator)
    x = Buffer("x", inputs, max(of.left.count, of.right.count))
    y = Buffer("y", kept, of.result.count * of.lanes, access=Access.WRITE)
    into = tuple(Var(f"total{n}", Type(kept)) for n in range(of.result.count))
    left, right = (
        tuple(Load(x, i32(n)) for n in range(held.count)) for held in (of.left, of.right)
    )
    lane = call("mul", WorkId("lane", 0), i32(of.result.count))
    body: tuple[Stmt, ...] = (
        *(Declare(v, Literal(0.0, v.type)) for v in into),
        MatrixMultiply(of, into, left, right),
        *(Store(y, call("add", lane, i32(n)), v) for n, v in enumerate(into)),
    )
    kernel = Kernel("probe", (x, y), (), body, (1, 1, 1), (of.lanes, 1, 1))
    return _builds(device, kernel, caps)


def _builds(device: Any, kernel: Kernel, caps: Capabilities) -> bool:
    text = print_kernel(legalize(kernel, caps, "opencl"), "opencl", caps)
    try:
        build_programs(load_opencl().Context([device]), device, [text], BuildCache(None), "")
    except SdlError:
        return False
    return True


def device_info(
    device: Any, id: str, suits: Callable[[DeviceInfo], Target] | None = None
) -> DeviceInfo:
    """What is known of a device. `suits` gives its target: of its matrix instructions those are
    the device's that its compiler takes."""
    info = _reported(device, id)
    listed = suits(info).caps.matrix if suits is not None else ()
    matrix = tuple(of for of in listed if compiles_matrix(device, of))
    return replace(info, caps=replace(info.caps, matrix=matrix)) if matrix else info


def _reported(device: Any, id: str) -> DeviceInfo:
    return DeviceInfo(
        id=id,
        kind="opencl",
        name=device.name.strip(),
        vendor=device.vendor.strip(),
        driver=f"{device.platform.name.strip()} {device.driver_version.strip()}",
        memory_bytes=int(device.global_mem_size),
        caps=capabilities(device),
        vector=int(device.native_vector_width_float),
        largest_bytes=int(device.max_mem_alloc_size),
        total_bytes=int(device.global_mem_size),
    )


@dataclass(slots=True)
class Memory:
    """A buffer and the ranges of it that kernels take.

    They are given back in the opposite order of their making, the buffer last: NVIDIA's driver 580
    reads freed memory where a range goes before a later one that overlaps it.
    """

    buffer: Any
    nbytes: int
    ranges: dict[tuple[int, int], Any] = field(default_factory=dict)

    def range(self, offset: int, nbytes: int) -> Any:
        """One object for one range: a launch that reads and writes a range through two bindings
        must not see two (OpenCL 1.2, 5.2.1: overlapping sub-buffers are apart)."""
        if offset == 0 and nbytes == self.nbytes:
            return self.buffer
        key = (offset, nbytes)
        if key not in self.ranges:
            self.ranges[key] = self.buffer.get_sub_region(offset, nbytes)
        return self.ranges[key]

    def __del__(self) -> None:
        while self.ranges:
            self.ranges.popitem()


@dataclass(frozen=True, slots=True)
class Built:
    program: Any
    text: KernelText
    first: Any


class OpenCLDevice:
    """One OpenCL device with a context and a queue; `suits` gives the target of what is reported
    of it, whose matrix instructions it may have."""

    def __init__(
        self,
        device: Any,
        id: str,
        cache: BuildCache | None = None,
        suits: Callable[[DeviceInfo], Target] | None = None,
    ) -> None:
        cl = self._cl = load_opencl()
        self._info = device_info(device, id, suits)
        with self._errors("opening the device"):
            self.context = cl.Context([device])
            self._queue = cl.CommandQueue(self.context, device)
        self._device = device
        self._cache = cache if cache is not None else BuildCache.default()

    @property
    def info(self) -> DeviceInfo:
        return self._info

    def text(self, kernel: Kernel) -> KernelText:
        caps = self._info.caps
        return print_kernel(legalize(kernel, caps, "opencl"), "opencl", caps)

    def build(self, texts: Sequence[KernelText]) -> Mapping[str, Any]:
        """Raises SdlError (D030) that shows the line of the kernel that the driver refuses."""
        built = self.build_into(self._cache, texts)
        give_back()
        pairs = {id(p): (p, t) for p, t in zip(built, texts, strict=True)}
        first = {place: self._first(*pair) for place, pair in pairs.items()}
        return {t.name: Built(p, t, first[id(p)]) for t, p in zip(texts, built, strict=True)}

    def _first(self, program: Any, text: KernelText) -> Any:
        """A program's first kernel: Intel's runtime takes as much again as the program when it
        makes one beside which there is no other, so these go one after the other, and stay."""
        with self._errors("preparing kernels"):
            made = self._cl.Kernel(program, text.entry)
        give_back()
        return made

    def build_ahead(self, groups: Sequence[Sequence[KernelText]]) -> None:
        """Has kernels that are not kept compiled by another process, where a compiler would take
        memory beside weights; `groups` are those of a `build` each."""
        missing = [g for g in groups if not_kept(g, self._cache, self._key)]
        if missing and self.in_host_memory:
            build_apart(self._info.id, missing, self._cache)

    def build_into(self, cache: BuildCache, texts: Sequence[KernelText]) -> list[Any]:
        """The programs of the texts, in this process, from a cache or kept there."""
        return build_programs(self.context, self._device, texts, cache, self._key)

    @property
    def _key(self) -> str:
        return f"{self._info.name}\n{self._info.driver}\n{self._device.version}"

    @property
    def in_host_memory(self) -> bool:
        """Whether weights lie where the compiler works as well."""
        return bool(self._device.type & self._cl.device_type.CPU)

    def allocate(self, nbytes: int) -> Memory:
        if nbytes > self._info.caps.max_binding:
            raise too_small(
                self._info.name, f"allocating {nbytes:,} bytes", self._info.caps.max_binding
            )
        cl = self._cl
        with self._errors(f"allocating {nbytes:,} bytes"):
            size = max(4, -(-nbytes // 4) * 4)
            buffer = cl.Buffer(self.context, cl.mem_flags.READ_WRITE, size)
            for begin in range(0, size, FILLED):
                count = min(FILLED, size - begin)
                cl.enqueue_fill_buffer(self._queue, buffer, b"\0\0\0\0", begin, count)
            return Memory(buffer, size)

    def write(self, memory: Memory, offset: int, data: bytes | memoryview) -> None:
        if not data:
            return
        with self._errors("writing to the device"):
            self._cl.enqueue_copy(self._queue, memory.buffer, data, dst_offset=offset)

    def read(self, memory: Memory, offset: int, nbytes: int) -> bytes:
        data = bytearray(nbytes)
        if nbytes:
            with self._errors("reading from the device"):
                self._cl.enqueue_copy(self._queue, data, memory.buffer, src_offset=offset)
        return bytes(data)

    def record(self, built: Mapping[str, Built], launches: Sequence[Launch]) -> Any:
        made = []
        with self._errors("preparing kernels"):
            for number, each in enumerate(launches, 1):
                made.append(self._prepared(built[each.kernel], each.bindings))
                if number % MANY == 0:
                    give_back()
        return made

    def _prepared(self, built: Built, bindings: Sequence[Binding]) -> tuple[Any, Any, Any]:
        text = built.text
        kernel = self._cl.Kernel(built.program, text.entry)
        kernel.set_args(*(b.memory.range(b.offset, b.nbytes) for b in bindings))
        size = tuple(n * m for n, m in zip(text.grid, text.group, strict=True))
        return kernel, size, text.group

    def submit(self, recording: Any) -> None:
        enqueue, queue = self._cl.enqueue_nd_range_kernel, self._queue
        with self._errors("starting kernels"):
            for kernel, size, group in recording:
                enqueue(queue, kernel, size, group)
            queue.flush()

    def profile(self, recording: Any) -> tuple[Timing, ...]:
        """By events on a queue of its own: one that keeps times is a little slower."""
        cl = self._cl
        if not recording:
            return ()
        self.finish()
        with self._errors("timing kernels"):
            keeps_times = cl.command_queue_properties.PROFILING_ENABLE
            queue = cl.CommandQueue(self.context, self._device, keeps_times)
            events = [
                cl.enqueue_nd_range_kernel(queue, kernel, size, group)
                for kernel, size, group in recording
            ]
            queue.finish()
            times = [(event.profile.start, event.profile.end) for event in events]
        first = times[0][0]
        return tuple(Timing((a - first) * NANOSECOND, (b - first) * NANOSECOND) for a, b in times)

    def finish(self) -> None:
        with self._errors("running kernels"):
            self._queue.finish()

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        """OpenCL's errors as SdlError (D031 too small, D032 lost)."""
        cl = self._cl
        try:
            yield
        except cl.MemoryError as error:
            raise too_small(self._info.name, doing, self._info.memory_bytes) from error
        except cl.Error as error:
            raise lost(self._info.name, doing, error) from error
