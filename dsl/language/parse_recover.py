"""Several syntax errors in one run.

In: a text that does not parse. Out: its diagnostics, in the order of the text. Each definition is
looked at by itself. When its first error is described, the statement (or the header) that holds it
is blanked, and what is left is parsed again. Invariant: every round blanks something.
Example: two statements `x = ` and `y = )` give two errors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from lark import Token
from lark.exceptions import UnexpectedInput, UnexpectedToken

from sdlc.language.diagnostics import Diagnostic
from sdlc.language.parse_errors import describe
from sdlc.language.parse_grammar import tokens
from sdlc.language.parse_lexical import MAX_ERRORS, Spoiled, blank, bracket_error, spoiled

Parse = Callable[[str, str, str], tuple[Any, list[Diagnostic]]]
_DEFINITION = re.compile(r"^(?:op|block|model|monoid|fn|import)\b", re.MULTILINE)


def find_errors(text: str, file: str, parse: Parse) -> list[Diagnostic]:
    """At most `MAX_ERRORS`, the first in the text first."""
    readable, bad = spoiled(text, file)
    found = [part.diagnostic for part in bad]
    for start, end in _definitions(readable):
        alone = blank(blank(readable, 0, start), end, len(text))
        within = [part for part in bad if start <= part.start < end]
        found += _errors_of(alone, within, file, parse)
    found.sort(key=lambda d: (d.span.line, d.span.column) if d.span else (0, 0))
    return found[:MAX_ERRORS]


def _definitions(text: str) -> Iterator[tuple[int, int]]:
    """Where each definition begins and ends; what stands before the first one comes first."""
    starts = [0, *(match.start() for match in _DEFINITION.finditer(text)), len(text)]
    yield from ((a, b) for a, b in pairwise(starts) if a < b)


def _errors_of(text: str, bad: list[Spoiled], file: str, parse: Parse) -> list[Diagnostic]:
    """The errors of one definition, all else being blanked. `bad` is already told."""
    crossed = bracket_error(tokens(text), text, file)
    if crossed is not None:
        # What an open string swallowed may have been the partner.
        swallowed = any(part.end > part.start + 1 for part in bad)
        return [] if swallowed else [_earlier(crossed, text, file, parse)]
    for part in bad:
        if part.end > part.start:
            text = _without(text, part.start)
    found: list[Diagnostic] = []
    while len(found) < MAX_ERRORS:
        try:
            problems = parse(text, file, "module")[1]
            # What a monoid lacks may be what was blanked.
            return found + [p for p in problems if not (found and p.code == "E016")]
        except UnexpectedInput as error:
            found.append(describe(error, text, file))
            shorter = _without(text, _position(error))
            if shorter == text:
                return found
            text = shorter
    return found


def _earlier(crossed: Diagnostic, text: str, file: str, parse: Parse) -> Diagnostic:
    """The first error of a text with a lone `}`: before it a `{` may be missing."""
    if crossed.label:
        return crossed
    try:
        parse(text, file, "module")
    except UnexpectedInput as error:
        first = describe(error, text, file)
        lines = [d.span.line for d in (first, crossed) if d.span is not None]
        return first if lines[:1] < lines[1:] else crossed
    return crossed


def _position(error: UnexpectedInput) -> int:
    position = error.token.start_pos if isinstance(error, UnexpectedToken) else error.pos_in_stream
    return position or 0


# ---- statements --------------------------------------------------------------------------------


@dataclass(slots=True)
class _Region:
    """A statement or definition: where it begins, its first `{` (or -1), where it ends."""

    first: Token
    brace: int
    end: int


def _without(text: str, position: int) -> str:
    """The text without the statement at `position`; of one with a block, only the header goes."""
    regions = _regions(tokens(text))
    holding = [r for r in regions if (r.first.start_pos or 0) <= position <= r.end]
    if not holding:
        return text
    region = max(holding, key=lambda r: r.first.start_pos or 0)
    start = region.first.start_pos or 0
    header = {"KIND": "op a()->f[]", "IF": "if a", "FOR": "if a"}.get(region.first.type, "")
    if header and position <= region.brace and len(header) <= region.brace - start:
        return blank(text, start, region.brace, keep=header)
    keep = _EQUATION if _is_equation(region, regions) else ""
    return blank(text, start, region.end, keep if len(keep) <= region.end - start else "")


_EQUATION = "a=>a"


def _is_equation(region: _Region, regions: list[_Region]) -> bool:
    """Whether it stands first in a rule's braces, where something has to stand."""
    start = region.first.start_pos or 0
    rules = (r for r in regions if r.first.type == "RULE" and 0 <= r.brace < start <= r.end)
    return any(
        not any(r.brace < (other.first.start_pos or 0) < start for other in regions) for r in rules
    )


def _regions(stream: tuple[Token, ...]) -> list[_Region]:
    """All statements and definitions. The brackets have partners."""
    found: list[_Region] = []
    current: list[_Region | None] = [None]
    for token in stream:
        if token.type == "RBRACE":
            current.pop()
        elif token.type == "_NL":
            current[-1] = None
            continue
        region = current[-1]
        if region is None:
            region = _Region(token, -1, 0)
            found.append(region)
            current[-1] = region
        region.end = token.end_pos or 0
        if token.type == "LBRACE":
            region.brace = region.brace if region.brace >= 0 else token.start_pos or 0
            current.append(None)
    return found
