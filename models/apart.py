"""Networks compiled in a process of their own, so that the compiler's memory goes when it is done.

In: settings of a picture and the device that is to draw it. Out: the networks' programs in the
user's cache. Invariant: a process that fails, for whatever reason, changes nothing: what is missing
is then compiled here, which says what is wrong.

    compile_apart(settings, model, device, tell)        # True: `compiled` finds every program

What a compiler's graphs leave in the heap of this process cannot be given back: 60 MiB of a
Stable Diffusion network, beside weights of which each byte counts.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
from contextlib import suppress
from dataclasses import replace
from subprocess import DEVNULL, PIPE, Popen

from sdlc.models.cache import program_store
from sdlc.models.folder import Model
from sdlc.models.networks import encoder_parts, networks, program_key, with_scopes
from sdlc.models.settings import GenerateSettings, Progress, Report
from sdlc.program.device import BuildsAhead, Device

COMMAND = (sys.executable, "-m", "sdlc.models.apart")
LARGE_BYTES = 1 << 28
"""Weights of a model beside which no compiler should have worked."""


def compile_apart(settings: GenerateSettings, folder: Model, device: Device, tell: Report) -> bool:
    """Has another process compile a picture's networks, where their weights will lie in this one's
    memory; its progress is told. Returns whether it did so to the end."""
    if not _worth(settings, folder, device):
        return False
    asked = pickle.dumps(replace(settings, device=device.info.id))
    with suppress(OSError), Popen(COMMAND, stdin=PIPE, stdout=PIPE, stderr=DEVNULL) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            with process.stdin as job:
                job.write(asked)
            for line in process.stdout:
                tell(Progress("compile", **json.loads(line)))
        except BaseException:  # somebody has ended this, or it has ended by itself
            process.kill()
            raise
        return process.wait() == 0
    return False


def _worth(settings: GenerateSettings, folder: Model, device: Device) -> bool:
    store = program_store()
    if store is None or not os.access(store.folder, os.W_OK):
        return False
    if not isinstance(device, BuildsAhead) or not device.in_host_memory:
        return False
    parts = (*encoder_parts(folder), "unet", "vae")
    entries = (entry for part in parts for entry in folder.weights(part).entries.values())
    if sum(entry.end - entry.begin for entry in entries) < LARGE_BYTES:
        return False
    found = with_scopes(networks(folder, settings))
    keys = (program_key(network, folder, settings.precision, device) for network in found)
    return any(store.get(key) is None for key in keys)


def main() -> None:
    """What the other process does: settings on its standard input, a line for each network."""
    from sdlc.backends.devices import open_device
    from sdlc.models.model import load_model
    from sdlc.models.pipeline import compile_here

    def tell(progress: Progress) -> None:
        names = ("done", "total", "seconds", "label")
        print(json.dumps({name: getattr(progress, name) for name in names}), flush=True)

    settings: GenerateSettings = pickle.load(sys.stdin.buffer)
    folder = load_model(settings.model, settings.prediction, settings.loras)
    compile_here(settings, folder, open_device(settings.device), tell, {})


if __name__ == "__main__":
    main()
