"""Several syntax errors in one run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lark.exceptions import UnexpectedInput

from sdlc.language.diagnostics import Diagnostic
from sdlc.language.parse_errors import describe

Parse = Callable[[str, str, str], tuple[Any, list[Diagnostic]]]


def find_errors(text: str, file: str, parse: Parse) -> list[Diagnostic]:
    try:
        return parse(text, file, "module")[1]
    except UnexpectedInput as error:
        return [describe(error, text, file)]
