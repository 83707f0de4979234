"""What a syntax error means, in words.

In: Lark's exception and the text. Out: a located `Diagnostic`.
"""

from __future__ import annotations

from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from sdlc.graph.types import Span
from sdlc.language.diagnostics import Diagnostic


def describe(error: UnexpectedInput, text: str, file: str) -> Diagnostic:
    """The diagnostic of the first error of a text."""
    line, column, found = error.line, error.column, ""
    if isinstance(error, UnexpectedToken):
        found = str(error.token)
    elif isinstance(error, UnexpectedCharacters):
        found = text[error.pos_in_stream or 0]
    span = Span(file, line, column, line, column + max(1, len(found.split("\n")[0])))
    return Diagnostic("E001", f"unexpected `{found.strip()}`", span)
