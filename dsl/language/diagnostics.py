"""Diagnostics: what went wrong, where, in which definition, and what to do.

In: spans and sources. Out: `Diagnostic` records and the text that a person reads (design §8).
Invariant: rendering never fails, whatever the spans, and what it quotes cannot act on a terminal.
`SdlError` is the one exception that user errors travel in; the command line prints it and exits
with status 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher, get_close_matches

from sdlc.graph.types import DType, Span


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


_HIDDEN = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
"""What a terminal obeys or does not show: controls, separators of lines and marks of direction
(Unicode, UAX 9), and the halves of pairs that bytes of no encoding become."""


def visible(text: str) -> str:
    """Text of somebody else's for a terminal: all but newlines that would not be seen, escaped."""
    return _HIDDEN.sub(lambda found: ascii(found[0])[1:-1], text)


def source_lines(text: str) -> list[str]:
    """The lines of a file as spans count them: only a newline ends one, no other separator."""
    return text.removesuffix("\n").split("\n")


def did_you_mean(name: str, known: Iterable[str], most: int = 1) -> str:
    """`did you mean `softmax`?`, or '' where nothing is close; at most so many are named."""
    close = get_close_matches(name, list(known), n=most, cutoff=0.6)
    return f"did you mean {' or '.join(f'`{n}`' for n in close)}?" if close else ""


def likeness(name: str, known: Iterable[str]) -> float:
    """Of a name to the known one that is nearest: 0 to 1."""
    return max((SequenceMatcher(None, name, other).ratio() for other in known), default=0.0)


def plural(count: int, noun: str, several: str = "") -> str:
    """`1 axis`, or `2 axes`: `several` is how more than one are called (default: with an s)."""
    return f"{count} {noun if count == 1 else several or f'{noun}s'}"


def failure(
    code: str, message: str, help: str = "", notes: tuple[tuple[str, str], ...] = ()
) -> SdlError:
    """An error without a place in a source file: a missing weight, an unknown device."""
    return SdlError((Diagnostic(code, message, notes=notes, help=help),), {})


def half_precision(dtype: DType) -> str:
    """What stores values of this type in half of the bytes, as part of a list of advice; '' where
    nothing does."""
    return "--precision f16, " if dtype is DType.F32 else ""


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
    return visible("\n".join(lines))


def _excerpt(span: Span, label: str, sources: Mapping[str, str]) -> list[str]:
    head = f"  --> {span}"
    text = source_lines(sources.get(span.file, ""))
    if not 1 <= span.line <= len(text):
        return [head]
    source = _HIDDEN.sub(_picture, text[span.line - 1])
    last = span.end_column if span.end_line == span.line else len(source) + 1
    width = max(1, last - span.column)
    margin = " " * len(str(span.line))
    caret = " " * (span.column - 1) + "^" * width + (f" {label}" if label else "")
    return [head, f"{margin}  |", f"{span.line}  | {source}", f"{margin}  | {caret.rstrip()}"]


def _picture(found: re.Match[str]) -> str:
    """One column for one character, so that the caret stays beneath what it points at."""
    code = ord(found[0])
    return (
        chr(0x2400 + code) if code < 0x20 else "\N{SYMBOL FOR DELETE}" if code == 0x7F else "\ufffd"
    )
