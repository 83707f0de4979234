"""Errors that are seen before the grammar is: characters that belong to no token, and brackets.

In: text or tokens. Out: diagnostics with the stretch of text that they spoil. Invariant: a text
with names in place of those stretches has tokens. Example: `x = 3 $` spoils the one character `$`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

from lark import Token
from lark.exceptions import UnexpectedCharacters

from sdlc.graph.types import Span
from sdlc.language.diagnostics import Diagnostic
from sdlc.language.parse_grammar import tokens

MAX_ERRORS = 20


@dataclass(frozen=True, slots=True)
class Spoiled:
    """`text[start:end]` cannot be read."""

    diagnostic: Diagnostic
    start: int
    end: int


def spoiled(text: str, file: str) -> tuple[str, list[Spoiled]]:
    """The text with what cannot be read replaced, and what that was."""
    found: list[Spoiled] = []
    if "\t" in text:
        found.append(_tabs(text, file))
        text = text.replace("\t", " ")
    while len(found) < MAX_ERRORS:
        try:
            tokens(text)
            return text, found
        except UnexpectedCharacters as error:
            bad = classify(text, error.pos_in_stream or 0, file)
            found.append(bad)
            text = blank(text, bad.start, bad.end, _stand_in(bad.end - bad.start, text[bad.start]))
    return "", found


def _stand_in(width: int, first: str) -> str:
    """A string or a name of the same width: the statement around it keeps its extent."""
    return '"' + "a" * (width - 2) + '"' if first in "\"'" and width > 1 else "a" * width


def blank(text: str, start: int, end: int, keep: str = "") -> str:
    """The text with `keep` and then spaces in place of a stretch of it; newlines stay."""
    gone = re.sub(r"[^\n]", " ", text[start + len(keep) : end])
    return text[:start] + keep + gone + text[end:]


def place(text: str, start: int, end: int, file: str) -> Span:
    """The span of `text[start:end]`, which lies on one line."""
    line = text.count("\n", 0, start) + 1
    column = start - text.rfind("\n", 0, start)
    return Span(file, line, column, line, column + end - start)


def classify(text: str, at: int, file: str) -> Spoiled:
    """What is wrong at `text[at]`, where no token begins."""
    character = text[at]
    if character == '"':
        return _string(text, at, file)
    if character.isdigit() and character.isascii():
        return _number(text, at, file)
    return _character(text, at, file)


# ---- the kinds ---------------------------------------------------------------------------------


def _tabs(text: str, file: str) -> Spoiled:
    at, count = text.index("\t"), text.count("\t")
    label = "a tab" if count == 1 else f"the first of {count} tabs"
    span = place(text, at, at + 1, file)
    help = "indent with two spaces: columns then mean the same to everybody"
    return Spoiled(Diagnostic("E003", "tab character", span, label, (), help), at, at)


def _string(text: str, at: int, file: str) -> Spoiled:
    line_end = text.find("\n", at)
    end = line_end if line_end >= 0 else len(text)
    whole = re.compile(r'"(?:\\.|[^"\\\n])*"').match(text, at)
    if whole is None:
        span = place(text, at, at + 1, file)
        help = 'a string ends with `"` on its own line; write `\\n` for a newline within it'
        message = "this string is not closed"
        return Spoiled(Diagnostic("E004", message, span, "", (), help), at, end)
    escape = re.search(r"\\[^\"\\nt]", whole[0])
    first = at + (escape.start() if escape else 0)
    message = f"`{text[first : first + 2]}` is no escape"
    help = 'a string knows `\\n`, `\\t`, `\\"` and `\\\\`'
    span = place(text, first, first + 2, file)
    return Spoiled(Diagnostic("E004", message, span, "", (), help), at, whole.end())


_DECIMAL_ONLY = re.compile(r"0[xXbBoO]|[0-9.]+[eEfF]$")
_NUMBER = re.compile(r"0[xXbBoO]\w*|[0-9]+(?:\.[0-9]+)*(?:[eE][+-]?)?[\w']*")


def _number(text: str, at: int, file: str) -> Spoiled:
    match = _NUMBER.match(text, at)
    end = match.end() if match else at + 1
    written = text[at:end]
    digits = re.match(r"[0-9.]+", written)
    rest = written[digits.end() :] if digits else ""
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_']*", rest) and not _DECIMAL_ONLY.match(written):
        help = f"a product is written `{written[: -len(rest)]} * {rest}`"
        help += "; a name cannot begin with a digit"
    else:
        help = "numbers are decimal: `12`, `0.5`, `1e-5`"
    span = place(text, at, end, file)
    return Spoiled(Diagnostic("E017", f"`{written}` is not a number", span, "", (), help), at, end)


def _character(text: str, at: int, file: str) -> Spoiled:
    pair = text[at : at + 2]
    written = pair if pair in _HELPS else text[at]
    end = at + len(written)
    shown = written if written.isprintable() and written.strip() else f"U+{ord(written):04X}"
    help = _HELPS.get(written, "")
    if written == "'":
        closed = text.find("'", end, text.find("\n", at) % (len(text) + 1))
        end = closed + 1 if closed >= 0 else end
    elif written.isalpha():
        help = "names are ASCII letters, digits, `_` and `'`"
    span = place(text, at, end, file)
    help = help or "only text in strings and comments may hold any character"
    diagnostic = Diagnostic("E002", f"unknown character `{shown}`", span, "", (), help)
    return Spoiled(diagnostic, at, end)


_HELPS = MappingProxyType(
    {
        "&&": "write `and`",
        "||": "write `or`",
        "&": "write `and`; there are no bit operators",
        "|": "write `or`; there are no bit operators",
        "!": "write `not`",
        "~": "write `not`; there are no bit operators",
        "@": "write `matmul(a, b)`",
        "$": "names are letters, digits, `_` and `'`",
        "`": "names are written without quotes",
        "'": "strings stand in double quotes",
        "\\": "a statement goes on after an operator, a comma or inside brackets: drop the `\\`",
        "“": 'strings stand in straight quotes: `"…"`',
        "”": 'strings stand in straight quotes: `"…"`',
        "→": "write `->`",
        "≤": "write `<=`",
        "≥": "write `>=`",
        "≠": "write `!=`",
        "×": "write `*`",
        "·": "write `*`",
        "÷": "write `/`",
        "−": "write `-`; this is a longer dash",
        "–": "write `-`; this is a longer dash",
        "…": "write `..` for a whole axis",
        "π": "write `pi`",
        "²": "write `^ 2`",
        "√": "write `sqrt(x)`",
        "Σ": "write `sum over i of x[i]`",
        "∑": "write `sum over i of x[i]`",
        "\u00a0": "this is a no-break space: write a plain one",
        "\ufeff": "save the file without a byte order mark",
    }
)

# ---- brackets ----------------------------------------------------------------------------------

_PARTNERS = MappingProxyType({")": "(", "]": "[", "}": "{"})


def bracket_error(stream: Sequence[Token], text: str, file: str) -> Diagnostic | None:
    """The first bracket without a partner, if there is one."""
    open_: list[Token] = []
    suspect: Token | None = None
    for token in stream:
        if token.type in ("LPAR", "LSQB", "LBRACE"):
            open_.append(token)
        elif token.type in ("RPAR", "RSQB", "RBRACE"):
            if not open_ or open_[-1] != _PARTNERS[token]:
                return _mismatch(token, open_, file)
            opener = open_.pop()
            if token == "}" and _indent(text, token) < _indent(text, opener):
                suspect = suspect or opener
    if not open_:
        return None
    return _unclosed(suspect if suspect is not None and open_[-1] == "{" else open_[-1], file)


def _indent(text: str, token: Token) -> int:
    """How far the line of `token` is indented."""
    start = text.rfind("\n", 0, token.start_pos) + 1
    line = text[start:].split("\n", 1)[0]
    return len(line) - len(line.lstrip())


def _mismatch(token: Token, open_: list[Token], file: str) -> Diagnostic:
    if not open_:
        help = "delete it, or look for an earlier one too many"
        span = token_span(token, file)
        return Diagnostic("E006", f"`{token}` closes nothing", span, "", (), help)
    opener = open_[-1]
    if opener == "{" or token != "}":
        label = f"`{opener}` of line {opener.line} is closed by `{token}`"
        help = f"write `{_closer(opener)}` here, or close `{opener}` before"
        return Diagnostic("E006", "brackets cross", token_span(token, file), label, (), help)
    return _unclosed(opener, file)


def _unclosed(opener: Token, file: str) -> Diagnostic:
    closer = _closer(opener)
    help = f"add `{closer}`"
    if opener == "{":
        help = f"add `{closer}` where the block ends"
    span = token_span(opener, file)
    return Diagnostic("E005", f"`{opener}` is not closed", span, "opened here", (), help)


def _closer(opener: Token) -> str:
    return next(close for close, partner in _PARTNERS.items() if partner == opener)


def token_span(token: Token, file: str) -> Span:
    """The span of a token of one line."""
    line, column = token.line or 1, token.column or 1
    return Span(file, line, column, line, column + max(1, len(token.rstrip())))
