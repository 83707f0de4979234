"""Diagnostics: what went wrong, where, in which definition, and what to do.

In: spans and sources. Out: `Diagnostic` records and the text that a person reads (design §8).
Invariant: rendering never fails, whatever the spans. `SdlError` is the one exception that user
errors travel in; the command line prints it and exits with status 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from sdlc.graph.types import Span


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """An error: `code` (`E012`), `message`, the `span` it points at with a `label` under the caret,
    `notes` (`("in", "op matmul(…)   stdlib/matmul.sdl:3")`) and a `help` sentence, possibly ''."""

    code: str
    message: str
    span: Span | None = None
    label: str = ""
    notes: tuple[tuple[str, str], ...] = ()
    help: str = ""
    severity: str = "error"


class SdlError(Exception):
    """One or more diagnostics, with the sources they point into (file name to text)."""

    def __init__(self, diagnostics: tuple[Diagnostic, ...], sources: Mapping[str, str]) -> None:
        self.diagnostics = diagnostics
        self.sources = dict(sources)
        super().__init__(render_all(diagnostics, self.sources))


def did_you_mean(name: str, known: Iterable[str], most: int = 1) -> str:
    """`did you mean `softmax`?`, or '' where nothing is close; at most so many are named."""
    close = get_close_matches(name, list(known), n=most, cutoff=0.6)
    return f"did you mean {' or '.join(f'`{n}`' for n in close)}?" if close else ""


def plural(count: int, noun: str, several: str = "") -> str:
    """`1 axis`, or `2 axes`: `several` is how more than one are called (default: with an s)."""
    return f"{count} {noun if count == 1 else several or f'{noun}s'}"


def failure(
    code: str, message: str, help: str = "", notes: tuple[tuple[str, str], ...] = ()
) -> SdlError:
    """An error without a place in a source file: a missing weight, an unknown device."""
    return SdlError((Diagnostic(code, message, notes=notes, help=help),), {})


def render_all(diagnostics: tuple[Diagnostic, ...], sources: Mapping[str, str]) -> str:
    return "\n\n".join(render(d, sources) for d in diagnostics)


def render(diagnostic: Diagnostic, sources: Mapping[str, str]) -> str:
    """The text of one diagnostic: header, source line with caret, notes, help."""
    lines = [f"{diagnostic.severity}[{diagnostic.code}]: {diagnostic.message}"]
    if diagnostic.span is not None:
        lines += _excerpt(diagnostic.span, diagnostic.label, sources)
    lines += [f"   = {key}: {text}" for key, text in diagnostic.notes]
    if diagnostic.help:
        lines.append(f"   = help: {diagnostic.help}")
    return "\n".join(lines)


def _excerpt(span: Span, label: str, sources: Mapping[str, str]) -> list[str]:
    head = f"  --> {span}"
    text = sources.get(span.file, "").splitlines()
    if not 1 <= span.line <= len(text):
        return [head]
    source = text[span.line - 1]
    last = span.end_column if span.end_line == span.line else len(source) + 1
    width = max(1, last - span.column)
    margin = " " * len(str(span.line))
    caret = " " * (span.column - 1) + "^" * width + (f" {label}" if label else "")
    return [head, f"{margin}  |", f"{span.line}  | {source}", f"{margin}  | {caret.rstrip()}"]
