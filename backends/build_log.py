"""A driver's build failure, located.

In: a kernel's text and the driver's log. Out: SdlError with the kernel's line, the log and the
`.sdl` line that the text's header names.
"""

from __future__ import annotations

import re

from sdlc.graph.types import Span
from sdlc.language.diagnostics import Diagnostic, SdlError
from sdlc.program.device import KernelText

PLACE = re.compile(r":(\d+):(\d+):? *(?:fatal )?error|┌─ \S*:(\d+):(\d+)|:(\d+):(\d+)")
HEADER = re.compile(r"^// (\S+\.sdl):(\d+) (.+)$", re.MULTILINE)
LOG_LINES = 12


def build_failure(text: KernelText, log: str, device: str) -> SdlError:
    """The error of a kernel that the driver refuses (D030)."""
    extension = {"opencl": "cl", "wgsl": "wgsl"}[text.language]
    file = f"{text.name}.{extension}"
    notes = [("log", line) for line in _relevant(log)]
    origin = HEADER.search(text.text)
    if origin:
        notes.append(("from", f"{origin[3]}   {origin[1]}:{origin[2]}"))
    diagnostic = Diagnostic(
        "D030",
        f"the driver of {device} does not compile kernel {text.name}",
        _place(file, text.text, log),
        "here",
        tuple(notes),
        "this is a fault of sdlc or of the driver; --precision f32 or another device may avoid it",
    )
    return SdlError((diagnostic,), {file: text.text})


def _place(file: str, text: str, log: str) -> Span | None:
    found = PLACE.search(log)
    if not found:
        return None
    numbers = [int(n) for n in found.groups() if n]
    line, column = numbers[0], numbers[1]
    if line > len(text.splitlines()):
        return None
    return Span(file, line, column, line, column + 1)


def _relevant(log: str) -> list[str]:
    lines = [line.rstrip() for line in log.splitlines() if line.strip()]
    errors = [n for n, line in enumerate(lines) if "error" in line.lower()]
    first = errors[0] if errors else 0
    return lines[first : first + LOG_LINES]
