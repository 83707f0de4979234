"""From text to the syntax tree.

In: the text of a `.sdl` file. Out: a `Module`, or an `SdlError` with every syntax error that can be
told apart (codes E001 to E019). Invariant: every node's span lies in the text, and parsing the
canonical layout (`format_source`) of a text gives the same tree, spans aside.
Example: `parse_module("fn square(x) = x * x", "f.sdl").definitions[0].name == "square"`.
"""

from __future__ import annotations

from typing import Any

from lark.exceptions import UnexpectedInput

from sdlc.graph.types import Span
from sdlc.language.diagnostics import Diagnostic, SdlError
from sdlc.language.parse_build import Builder
from sdlc.language.parse_errors import describe
from sdlc.language.parse_grammar import grammar
from sdlc.language.parse_recover import find_errors
from sdlc.language.syntax import Expression, Module, Name


def parse_module(text: str, file: str) -> Module:
    """The syntax tree of a file; `file` is its name in spans and messages.

    Raises `SdlError` with all syntax errors that were found.
    """
    try:
        module, problems = _parse(text, file, "module")
    except UnexpectedInput:
        problems = find_errors(text, file, _parse)
    if problems:
        raise SdlError(tuple(problems), {file: text})
    return module  # type: ignore[no-any-return]


def parse_expression(text: str, file: str = "<expression>") -> Expression:
    """The syntax tree of one expression. Raises `SdlError`."""
    try:
        value, problems = _parse(text, file, "expression")
    except UnexpectedInput as error:
        problems = [describe(error, text, file)]
    if problems:
        raise SdlError(tuple(problems), {file: text})
    return value  # type: ignore[no-any-return]


def _parse(text: str, file: str, start: str) -> tuple[Any, list[Diagnostic]]:
    """A tree and the mistakes that the grammar does not see. Raises `UnexpectedInput`."""
    tree = grammar().parse(text, start=start)
    builder = Builder(file, text, _parse_part)
    return builder.transform(tree), builder.problems


def _parse_part(text: str, place: Span) -> tuple[Expression | None, list[Diagnostic]]:
    """The expression in a label's braces, which stands at `place` in its file."""
    if text.isidentifier() and text.isascii():
        return Name(text, place), []
    if not text.strip():
        braces = Span(place.file, place.line, place.column - 1, place.line, place.end_column + 1)
        help = "write a compile-time value: `layers.{i}: f(x)`"
        return None, [Diagnostic("E001", "an expression is missing", braces, "", (), help)]
    padded = "\n" * (place.line - 1) + " " * (place.column - 1) + text
    try:
        return _parse(padded, place.file, "expression")
    except UnexpectedInput as error:
        return None, [describe(error, padded, place.file)]
