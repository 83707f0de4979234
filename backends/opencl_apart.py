"""Kernels compiled in a process of their own, so that the compiler's memory goes when it is done.

In: texts that the cache of kernels does not have. Out: their binaries in that cache. Invariant: a
process that fails, for whatever reason, changes nothing: what is missing is then built here, which
says what is wrong.

    build_apart("opencl:0", [texts], cache)
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from sdlc.backends.build_cache import BuildCache
from sdlc.program.device import KernelText

FIELDS = ("name", "language", "text", "entry", "parameters", "grid", "group")


def build_apart(device: str, groups: Sequence[Sequence[KernelText]], cache: BuildCache) -> None:
    """Has another process build texts for a device, by its id, and keep them in `cache`; `groups`
    are those that are built together."""
    if cache.folder is None:
        return
    job = {
        "device": device,
        "cache": str(cache.folder),
        "groups": [[[getattr(t, name) for name in FIELDS] for t in texts] for texts in groups],
    }
    command = [sys.executable, "-m", "sdlc.backends.opencl_apart"]
    with suppress(OSError):
        subprocess.run(command, input=json.dumps(job).encode(), capture_output=True, check=False)


def main() -> None:
    """What the other process does: a job on its standard input."""
    from pathlib import Path

    from sdlc.backends.devices import open_device

    job = json.load(sys.stdin)
    keep = getattr(open_device(job["device"]), "build_into", None)
    if keep is None:
        return
    for group in job["groups"]:
        keep(BuildCache(Path(job["cache"])), [_text(values) for values in group])


def _text(values: Sequence[Any]) -> KernelText:
    given = dict(zip(FIELDS, values, strict=True))
    tuples = {name: tuple(given[name]) for name in ("parameters", "grid", "group")}
    return KernelText(**{**given, **tuples})


if __name__ == "__main__":
    main()
