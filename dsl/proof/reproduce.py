"""What a failed check leaves behind: a folder that fails again with one command.

In: a failing `Verdict`, the original command's words, and how to compile a text. Out: a folder:
`inputs.npz`, `fault.txt` (the stage, the problem, the command, the definition and the kernel) and,
where the kernel fails alone as well, `kernel.sdl`. Invariant: the folder appears whole; a
`kernel.sdl` that is written was seen to fail.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from sdlc.graph.node import Const, Graph, topological
from sdlc.graph.show import show_graph
from sdlc.graph.types import Array
from sdlc.language.diagnostics import SdlError, failure
from sdlc.proof.falsify import Verdict, judge
from sdlc.proof.source import Source, source_of
from sdlc.proof.stages import Fault, Route, Subject

Compile = Callable[[Source], Subject]
INPUTS, KERNEL, FAULT = "inputs.npz", "kernel.sdl", "fault.txt"


@dataclass(frozen=True, slots=True)
class Command:
    """The words of the check that failed: `program` says what was checked (file, entry, sizes),
    `where` the target and device."""

    program: tuple[str, ...]
    where: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reproducer:
    folder: Path
    command: str


def reproduce(
    verdict: Verdict, command: Command, means: tuple[Route, Compile], place: Path
) -> Reproducer:
    """Writes the folder `place` (or `place-2`, … where that exists); `means` are how to run and
    how to compile a text. Raises SdlError (X003) where it cannot be written."""
    definition = verdict.subject.definition
    folder = _free(place)
    given = {g.name: g.array for g in verdict.example}
    small = _alone(definition, given, means) if verdict.subject.is_kernel else None
    if small is not None:
        words = ["sdlc", "check", str(folder / KERNEL)]
        words += ["--precision", small.precision.value] if small.precision.value != "f32" else []
        constants = {n.digest: n.array for n in topological(definition) if isinstance(n, Const)}
        arrays = {own: {**given, **constants}[name] for name, own in small.names.items()}
    else:
        only = ["--kernel", verdict.subject.name] if verdict.subject.is_kernel else []
        words = ["sdlc", "check", *command.program, *only]
        arrays = given
    words += [*command.where, "--replay", str(folder / INPUTS)]
    line = shlex.join(words)
    texts = {FAULT: _account(verdict, definition, line)}
    texts |= {KERNEL: _headed(small.text, verdict)} if small is not None else {}
    _write(folder, texts, arrays)
    return Reproducer(folder, line)


def read_inputs(path: Path) -> dict[str, Array]:
    """The arrays of a reproducer. Raises SdlError (C004)."""
    try:
        loaded = np.load(path)
        if isinstance(loaded, np.ndarray):
            raise ValueError("it holds one array, which has no name")
        with loaded as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        message = f"`{path}` cannot be read: {error}"
        raise failure("C004", message, help="give the inputs.npz of a reproducer") from error


def _alone(
    definition: Graph, given: dict[str, Array], means: tuple[Route, Compile]
) -> Source | None:
    """The definition as a program of its own, if that is wrong as well."""
    route, compile = means
    with suppress(SdlError, AssertionError, KeyError):
        source = source_of(definition)
        constants = {n.digest: n.array for n in topological(definition) if isinstance(n, Const)}
        every = {**given, **constants}
        arrays = {own: every[name] for name, own in source.names.items()}
        return source if judge(compile(source), route, arrays) is not None else None
    return None


def _headed(text: str, verdict: Verdict) -> str:
    fault = verdict.fault or Fault("", "")
    first = fault.problem.splitlines()[0]
    return f"# {verdict.subject.name}: wrong at the stage `{fault.stage}`\n# {first}\n{text}"


def _account(verdict: Verdict, definition: Graph, line: str) -> str:
    """fault.txt."""
    fault = verdict.fault or Fault("", "")
    given = "\n".join(f"  {g}" for g in verdict.example)
    parts = [
        f"{verdict.subject.name} is wrong\nguilty stage: {fault.stage}\n{fault.problem}",
        f"replay: {line}",
        f"inputs (in {INPUTS}):\n{given}",
        *verdict.notes,
        f"definition:\n{show_graph(definition)}",
    ]
    if verdict.subject.is_kernel:
        (kernel,) = verdict.subject.program.kernels.values()
        parts.append(f"kernel:\n{kernel}")
    return "\n\n".join(parts) + "\n"


def _free(place: Path) -> Path:
    folder, count = place, 1
    while folder.exists():
        count += 1
        folder = place.with_name(f"{place.name}-{count}")
    return folder


def _write(folder: Path, texts: dict[str, str], arrays: dict[str, Array]) -> None:
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        for name, text in texts.items():
            (part / name).write_text(text, encoding="utf-8")
        with (part / INPUTS).open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        part.replace(folder)
    except OSError as error:
        message = f"cannot write `{folder}`: {error.strerror or error}"
        help = "choose a place that you can write to (-o)"
        raise failure("X003", message, help=help) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
