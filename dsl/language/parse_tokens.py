"""Between the lexer and the parser: which newlines end statements, and which `else` is meant.

In: the tokens of Lark's lexer. Out: the same without the newlines that do not count. Invariant: a
`_NL` never follows another, stands at the start of the file or after `{`, and closes the last
statement even where the file does not end in a newline. Example: in `if c then x[i] else y` the
`else` closes the `then`; in `x[i] else 0` there is none to close, so it becomes a `GUARD`.
"""

from __future__ import annotations

from collections.abc import Iterator

from lark import Token

_OPEN = frozenset({"LPAR", "LSQB", "LBRACE"})
_CLOSE = frozenset({"RPAR", "RSQB", "RBRACE"})
_GOES_ON = frozenset(
    {
        "_NL",
        "LBRACE",
        "COMMA",
        "EQUAL",
        "ARROW",
        "IMPLIES",
        "COMPARE",
        "LESS",
        "PLUS",
        "MINUS",
        "STAR",
    }
    | {"SLASH", "PERCENT", "CARET", "AND", "OR", "NOT", "IN", "OF", "OVER", "IF", "THEN", "ELSE"}
    | {"GUARD", "REDUCE", "WHERE", "RETURN", "LABEL", "COLON", "IMPLIES"}
)
"""The tokens after which a newline means nothing: the statement cannot end there."""


class Layout:
    """Lark's `postlex`. It holds no state between files."""

    always_accept = ("_NL", "SEMI", "ELSE", "NAME")

    def process(self, stream: Iterator[Token]) -> Iterator[Token]:
        last = Token("_NL", "", 0, 1, 1, 1, 1, 0)
        pending = ["{"]  # open brackets, and a `then` for each `if then` that waits for its `else`
        for token in stream:
            kind = _kind(token, pending, last.type)
            if kind:
                last = (
                    token if kind == token.type else Token.new_borrow_pos(kind, str(token), token)
                )
                yield last
        if last.type != "_NL":
            yield _end(last)


def _kind(token: Token, pending: list[str], last: str) -> str:
    """What `token` is for the grammar, '' where it does not count. Keeps `pending` up to date."""
    match token.type:
        case kind if kind in _OPEN:
            pending.append(str(token))
        case kind if kind in _CLOSE:
            _close(pending)
        case "THEN":
            pending.append("then")
        case "ELSE" if pending[-1] == "then":
            pending.pop()
        case "ELSE" if last != "RBRACE":
            return "GUARD"
        case "NAME" if token == "rule" and last == "_NL" and len(pending) == 1:
            return "RULE"
        case "_NL" | "SEMI":
            return _separator(token.type, pending, last)
    return token.type


def _separator(kind: str, pending: list[str], last: str) -> str:
    if next(mark for mark in reversed(pending) if mark != "then") != "{":
        return "SEMI" if kind == "SEMI" else ""
    if last in _GOES_ON:
        return ""
    _drop_thens(pending)
    return "_NL"


def _close(pending: list[str]) -> None:
    _drop_thens(pending)
    if len(pending) > 1:
        pending.pop()


def _drop_thens(pending: list[str]) -> None:
    while pending[-1] == "then":
        pending.pop()


def _end(last: Token) -> Token:
    """The newline that ends the file, at the end of the last token."""
    line, column, position = last.end_line, last.end_column, last.end_pos
    return Token("_NL", "", position, line, column, line, column, position)
