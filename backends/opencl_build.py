"""Builds OpenCL kernels: few driver calls, in parallel, kept on disk.

In: kernel texts. Out: one built program for each text (several may share one). Invariant: a
program comes from the cache only for the same text, device and driver; a cached binary that the
driver refuses is built again.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sdlc.backends.build_cache import BuildCache
from sdlc.backends.build_log import build_failure
from sdlc.backends.opencl_loader import load_opencl
from sdlc.program.device import KernelText

OPTIONS = "-cl-std=CL1.2 -w"
BATCH = 36
"""Kernels of one driver call: measured, a call has a fixed cost and large ones leave cores idle."""


def in_batches(texts: Sequence[KernelText]) -> list[Sequence[KernelText]]:
    """The texts of each driver call."""
    return [texts[i : i + BATCH] for i in range(0, len(texts), BATCH)]


def not_kept(texts: Sequence[KernelText], cache: BuildCache, key: str) -> int:
    """How many of the texts would have to be compiled."""
    return sum(len(b) for b in in_batches(texts) if cache.get(_name(b, key)) is None)


def _name(batch: Sequence[KernelText], key: str) -> str:
    """What a batch is kept under."""
    return f"{key}\n{OPTIONS}\n{_source(batch)}"


def _source(batch: Sequence[KernelText]) -> str:
    return "\n".join(t.text for t in batch)


def build_programs(
    context: Any, device: Any, texts: Sequence[KernelText], cache: BuildCache, key: str
) -> list[Any]:
    """A built program for each text. Raises SdlError (D030) for a text that does not build."""
    batches = in_batches(texts)
    workers = max(1, min(len(batches), os.cpu_count() or 1))
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        # Some drivers report every build that succeeds; failures are raised all the same.
        warnings.simplefilter("ignore", load_opencl().CompilerWarning)
        built = list(pool.map(lambda b: _build_batch(context, device, b, cache, key), batches))
    return [p for p, batch in zip(built, batches, strict=True) for _ in batch]


def _build_batch(
    context: Any, device: Any, texts: Sequence[KernelText], cache: BuildCache, key: str
) -> Any:
    source, name = _source(texts), _name(texts, key)
    binary = cache.get(name)
    program = None if binary is None else _from_binary(context, device, binary)
    if program is None:
        program = _from_source(context, device, source, texts)
        cache.put(name, program.binaries[0])
    return program


def _from_binary(context: Any, device: Any, binary: bytes) -> Any:
    cl = load_opencl()
    try:
        return cl.Program(context, [device], [binary]).build()
    except cl.Error:
        return None


def _from_source(context: Any, device: Any, source: str, texts: Sequence[KernelText]) -> Any:
    cl = load_opencl()
    try:
        return cl.Program(context, source).build(OPTIONS, cache_dir=False)
    except cl.RuntimeError as error:
        raise _culprit(context, device, texts, str(error)) from error


def _culprit(context: Any, device: Any, texts: Sequence[KernelText], log: str) -> Exception:
    """The failure of the first text that does not build by itself."""
    if len(texts) > 1:
        for text in texts:
            try:
                _from_source(context, device, text.text, [text])
            except Exception as error:
                return error
    return build_failure(texts[0], log, device.name.strip())
