"""Builds kernels under a driver whose GPU is not there. Run as a program, not imported.

In: a folder with job.json (language, texts with their entry). Out: done.jsonl there, a line
a kernel, in order; on both output streams what the driver prints, with a marker line before each
kernel. Invariant: a driver that ends the process loses only the kernels that have no line.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

PROPERTIES = ("local_mem_size", "private_mem_size", "preferred_work_group_size_multiple")


def main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    build = {"wgsl": webgpu_builder, "opencl": opencl_builder}[job["language"]]()
    with (folder / "done.jsonl").open("a") as done:
        for number, text in enumerate(job["texts"]):
            sys.stdout.flush()
            os.write(2, f"@@ kernel {number}\n".encode())
            # The layer records pipelines that the library makes for itself, too.
            record: dict[str, Any] = {"row": _recorded(folder)}
            try:
                record["numbers"] = build(text["entry"], text["text"])
            except Exception as error:
                record["error"] = f"{type(error).__name__}: {error}"
            done.write(json.dumps(record) + "\n")
            done.flush()
    sys.stdout.flush()
    # No tear-down: a device that is not there finishes nothing.
    os._exit(0)


def _recorded(folder: Path) -> int:
    """How many pipelines the layer has recorded."""
    path = folder / "stats.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def webgpu_builder() -> Any:
    import wgpu

    adapters = [a for a in wgpu.gpu.enumerate_adapters_sync() if a.info["backend_type"] == "Vulkan"]
    wanted = [f for f in ("shader-f16", "subgroup") if f in adapters[0].features]
    device = adapters[0].request_device_sync(required_features=wanted)

    def build(entry: str, text: str) -> dict[str, int]:
        module = device.create_shader_module(code=text)
        compute = {"module": module, "entry_point": entry}
        device.create_compute_pipeline(layout="auto", compute=compute)
        return {}

    return build


def opencl_builder() -> Any:
    import pyopencl as cl

    platform = next(p for p in cl.get_platforms() if p.name == "rusticl")
    device = platform.get_devices()[0]
    context = cl.Context([device])
    info = cl.kernel_work_group_info

    def build(entry: str, text: str) -> dict[str, int]:
        program = cl.Program(context, text).build(options=["-cl-std=CL1.2"])
        kernel = cl.Kernel(program, entry)
        ask = kernel.get_work_group_info
        return {p: int(ask(getattr(info, p.upper()), device)) for p in PROPERTIES}

    return build


if __name__ == "__main__":
    main(Path(sys.argv[1]))
