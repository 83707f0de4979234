"""What `[peak]` of a target says, measured on an OpenCL device of this machine.

    python tests/measure_peak.py [--device cpu]

Prints FLOP/s of fused multiply-adds by vector width and by independent sums, bytes/s by the size of
the array that is read (so by cache), and the seconds of a launch and of a work-group. Medians;
correct to some tens of percent on a machine that others use. Not part of the suite.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from sdlc.backends.devices import open_device
from sdlc.backends.opencl_loader import load_opencl

FMA = """
__kernel void fma_loop(__global float *out, int n) {{
  {type} x = ({type})(out[get_global_id(0)]), y = x * 0.5f;
  {declare}
  for (int i = 0; i < n; i++) {{ {step} }}
  {type} s = {total};
  out[get_global_id(0)] = {fold};
}}
"""
READ = """
__kernel void read_loop(__global const float{w} *x, __global float *out, int n, int times) {{
  __global const float{w} *mine = x + get_global_id(0) * n;
  float{w} a = 0, b = 0, c = 0, d = 0;
  for (int t = 0; t < times; t++)
    for (int i = 0; i < n; i += 4) {{
      a += mine[i]; b += mine[i + 1]; c += mine[i + 2]; d += mine[i + 3];
    }}
  float{w} s = a + b + c + d;
  out[get_global_id(0)] = s.s0 + s.s{last};
}}
"""
EMPTY = (
    "__kernel void empty(__global float *out) { if (out[0] > 1e30f) out[get_global_id(0)] = 1; }"
)


class Bench:
    """One device; `seconds` is the quickest of some runs of a launch."""

    def __init__(self, selector: str) -> None:
        self.cl = load_opencl()
        self.device: Any = open_device(selector)
        self.context = self.device.context
        self.queue = self.cl.CommandQueue(self.context)
        self.cores = self.device._device.max_compute_units

    def kernel(self, text: str, name: str) -> Any:
        return self.cl.Kernel(self.cl.Program(self.context, text).build(), name)

    def buffer(self, nbytes: int) -> Any:
        host = np.zeros(nbytes // 4, np.float32)
        flags = self.cl.mem_flags
        return self.cl.Buffer(self.context, flags.READ_WRITE | flags.COPY_HOST_PTR, hostbuf=host)

    def seconds(self, kernel: Any, items: int, arguments: tuple[Any, ...], runs: int = 9) -> float:
        kernel.set_args(*arguments)
        times = []
        for _ in range(runs):
            start = time.perf_counter()
            self.cl.enqueue_nd_range_kernel(self.queue, kernel, (items,), (1,))
            self.queue.finish()
            times.append(time.perf_counter() - start)
        return min(times)


def flops(bench: Bench, width: int, sums: int) -> float:
    names = [f"s{i}" for i in range(sums)]
    kind = f"float{width}"
    declare = "".join(f"{kind} {n} = x + {i}.0f; " for i, n in enumerate(names))
    step = "".join(f"{n} = fma({n}, y, x); " for n in names)
    lanes = (
        "s0",
        "s1",
        "s2",
        "s3",
        "s4",
        "s5",
        "s6",
        "s7",
        "s8",
        "s9",
        "sa",
        "sb",
        "sc",
        "sd",
        "se",
        "sf",
    )
    fold = " + ".join(f"s.{lane}" for lane in lanes[:width])
    text = FMA.format(type=kind, declare=declare, step=step, total=" + ".join(names), fold=fold)
    kernel = bench.kernel(text, "fma_loop")
    n = 40_000_000 // (width * sums)
    out = bench.buffer(4096)
    took = bench.seconds(kernel, bench.cores, (out, np.int32(n)), 7)
    return 2.0 * n * width * sums * bench.cores / took


def bandwidth(bench: Bench, nbytes: int, width: int = 8) -> float:
    """Bytes/s where each core reads `nbytes` of its own again and again."""
    text = READ.format(w=width, last={8: "7", 16: "f"}[width])
    kernel = bench.kernel(text, "read_loop")
    x, out = bench.buffer(nbytes * bench.cores), bench.buffer(4096)
    times = max(1, (1 << 28) // nbytes)
    n = np.int32(nbytes // (4 * width))
    took = bench.seconds(kernel, bench.cores, (x, out, n, np.int32(times)), 7)
    return float(nbytes) * times * bench.cores / took


def overheads(bench: Bench) -> tuple[float, float]:
    """Seconds of a launch, and of one more work-group on one core."""
    kernel, out = bench.kernel(EMPTY, "empty"), bench.buffer(1 << 18)
    few = bench.seconds(kernel, bench.cores, (out,), 201)
    many = bench.seconds(kernel, 1 << 16, (out,), 21)
    return few, (many - few) * bench.cores / (1 << 16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    bench = Bench(parser.parse_args().device)
    info, vector = bench.device.info, bench.device._device.native_vector_width_float
    print(f"{info.name}, {info.driver}, {bench.cores} cores, vector {vector}")
    for width in (8, 16):
        for sums in (1, 2, 4, 8, 12, 16, 24, 28):
            speed = flops(bench, width, sums) / 1e9
            print(f"fma float{width:<2} {sums:2} sums {speed:8.1f} GFLOP/s")
    for kib in (16, 128, 512, 2048, 8192, 65536):
        for width in (8, 16):
            speed = bandwidth(bench, kib << 10, width) / 1e9
            print(f"read float{width:<2} {kib:6} KiB a core {speed:8.1f} GB/s")
    launch, group = overheads(bench)
    print(f"launch {launch * 1e6:.1f} us, work-group {group * 1e9:.0f} ns")


if __name__ == "__main__":
    main()
