"""Compilers of GPUs that are not there: what their back-ends say of a kernel's text.

In: texts of kernels, a GPU of `offline.toml`, the folder where the compilers are installed
(`offline_setup.sh` builds them). Out: what the driver printed and counted for each text. Invariant:
nothing is executed, and no process but a child sees the GPU; a driver that ends its process on one
text is started again for the rest.

    compile_offline(texts, gpus("…")[0], "opencl", folder())[0].numbers["full"]
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from platformdirs import user_cache_path

from sdlc.program.device import KernelText

Numbers = dict[str, float]
PACKAGE = "sdlc.backends"
TIMEOUT = 600
MARK = re.compile(r"^@@ kernel .*\n", re.M)

AHEAD = "asahi"
"""The driver that compiles ahead of time, by two programs, without an API or a device."""

NATIVE = "\n".join(
    f"#define {name}(x) native_{name}(x)" for name in ("exp", "exp2", "log", "log2", "sin", "cos")
)
PRELUDE = f"{NATIVE}\n#define tanh(x) (1 - 2 / (native_exp(2 * (x)) + 1))\n#line 1\n"
"""The ahead-of-time compiler links no library of functions."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A row of `offline.toml`."""

    name: str
    target: str
    driver: str
    listing: str
    languages: tuple[str, ...]
    threads: int
    environment: Mapping[str, str]
    core_registers: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a back-end said of one text: its own numbers, its listing, or why it refused."""

    numbers: Numbers
    listing: str
    error: str = ""


def gpus(target: str) -> tuple[Gpu, ...]:
    """The GPUs that stand for a target."""
    return tuple(g for g in _all_gpus() if g.target == target)


def targets() -> tuple[str, ...]:
    """The targets that a GPU stands for."""
    return tuple(dict.fromkeys(g.target for g in _all_gpus()))


def _all_gpus() -> list[Gpu]:
    table = tomllib.loads(files(PACKAGE).joinpath("offline.toml").read_text("utf-8"))
    return [Gpu(**{**row, "languages": tuple(row["languages"])}) for row in table["gpu"]]


def folder(given: Path | None = None) -> Path:
    """Where the compilers are installed, unless told otherwise."""
    return given or user_cache_path("mesa-mobile", appauthor=False)


def setup_script() -> Path:
    """The script that builds and installs the compilers."""
    return Path(str(files(PACKAGE).joinpath("offline_setup.sh")))


def is_installed(gpu: Gpu, language: str, where: Path) -> bool:
    if gpu.driver == AHEAD:
        return (where / "bin/asahi_clc").exists() and (where / "bin/mesa_clc").exists()
    driver = {
        "wgsl": f"share/vulkan/icd.d/{gpu.driver}_icd.x86_64.json",
        "opencl": "OpenCL/vendors/rusticl.icd",
    }[language]
    return _shim(gpu, where).exists() and (where / driver).exists()


def compile_offline(
    texts: Sequence[KernelText], gpu: Gpu, language: str, where: Path
) -> tuple[Outcome, ...]:
    """An outcome for each text, in order."""
    if gpu.driver == AHEAD:
        return tuple(_ahead(text, gpu, where) for text in texts)
    made: list[Outcome] = []
    while len(made) < len(texts):
        made += _batch(texts[len(made) :], gpu, language, where)
    return tuple(made)


def _shim(gpu: Gpu, where: Path) -> Path:
    return where / f"lib/lib{gpu.driver}_noop_drm_shim.so"


def _batch(texts: Sequence[KernelText], gpu: Gpu, language: str, where: Path) -> list[Outcome]:
    """Outcomes of the first texts, at least of one: those before the driver ended its process."""
    with TemporaryDirectory() as name:
        place = Path(name)
        wanted = [{"entry": t.entry, "text": t.text} for t in texts]
        (place / "job.json").write_text(json.dumps({"language": language, "texts": wanted}))
        worker = str(files(PACKAGE).joinpath("offline_worker.py"))
        # Both streams into one pipe, in the order written: the markers separate the kernels.
        run = subprocess.run(
            [sys.executable, worker, name],
            env={**os.environ, **_environment(gpu, where, name)},
            text=True,
            errors="replace",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT,
            check=False,
        )
        done, recorded = _lines(place / "done.jsonl"), _lines(place / "stats.jsonl")
    printed = MARK.split(run.stdout)[1:]
    made = []
    for record, text in zip(done, printed, strict=False):
        numbers = dict(record.get("numbers", {})) | printed_numbers(text)
        if record["row"] < len(recorded):
            numbers |= _recorded(recorded[record["row"]])
        made.append(Outcome(numbers, _listing(text), record.get("error", "")))
    if len(made) < len(texts):
        last = printed[len(made)] if len(made) < len(printed) else run.stdout
        made.append(Outcome({}, "", f"the compiler ended with {run.returncode}: {last[-400:]}"))
    return made


def _environment(gpu: Gpu, where: Path, place: str) -> dict[str, str]:
    icd = str(where / f"share/vulkan/icd.d/{gpu.driver}_icd.x86_64.json")
    return {
        **gpu.environment,
        "LD_PRELOAD": str(_shim(gpu, where)),
        "XDG_RUNTIME_DIR": place,
        "MESA_SHADER_CACHE_DISABLE": "true",
        "VK_DRIVER_FILES": icd,
        "VK_ICD_FILENAMES": icd,
        "VK_LAYER_PATH": str(where / "layer"),
        "VK_INSTANCE_LAYERS": "VK_LAYER_SDL_vkstats",
        "VKSTATS_DIR": place,
        "OCL_ICD_VENDORS": str(where / "OpenCL/vendors"),
        "RUSTICL_ENABLE": gpu.driver,
        "RUSTICL_FEATURES": "fp16",
        "RUSTICL_DEBUG": "program",
        "PYOPENCL_NO_CACHE": "1",
    }


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _recorded(row: Mapping[str, Any]) -> Numbers:
    """What the Vulkan layer recorded of a pipeline."""
    numbers: Numbers = {}
    for executable in row.get("executables", ()):
        numbers |= executable["statistics"] | {"subgroup_size": executable["subgroup_size"]}
    return numbers


def _ahead(text: KernelText, gpu: Gpu, where: Path) -> Outcome:
    """One text through the programs that the driver's own kernels are built with."""
    commands = (
        ["mesa_clc", "-o", "k.spv", "k.cl", "--", "-cl-std=CL2.0"],
        ["asahi_clc", "k.spv", "k.h", "k.c"],
    )
    printed = ""
    with TemporaryDirectory() as name:
        (Path(name) / "k.cl").write_text(PRELUDE + text.text)
        for command in commands:
            run = subprocess.run(
                [str(where / "bin" / command[0]), *command[1:]],
                cwd=name,
                env={**os.environ, **gpu.environment},
                text=True,
                errors="replace",
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=TIMEOUT,
                check=False,
            )
            printed += run.stdout
            if run.returncode:
                error = f"{command[0]} ended with {run.returncode}: {run.stdout[-400:]}"
                return Outcome({}, "", error)
    return Outcome(printed_numbers(printed), _listing(printed))


def printed_numbers(text: str) -> Numbers:
    """Numbers that drivers print: `; CL prog 1/1: 12 instr, 3 nops`, `SHADER-DB: … 12 inst, …`.

    A driver may compile a kernel twice, the specialised build last: later numbers replace earlier.
    """
    numbers: Numbers = {}
    for line in re.findall(r"(?:; \w+ prog \d+/\d+:|SHADER-DB:.*shader:)(.*)", text):
        if pair := re.search(r"(\d+):(\d+) spills:fills", line):
            numbers["spills"], numbers["fills"] = map(int, pair.groups())
            line = line[: pair.start()]
        for value, name in re.findall(r"(-?[\d.]+) ([(\w][\w()-]*)", line):
            numbers[name] = float(value)
    return numbers


def _listing(text: str) -> str:
    """The last program that was printed."""
    text = re.sub(r"^MESA: info: ?", "", text, flags=re.M)
    return text[max(text.rfind("Native code for"), 0) :]
