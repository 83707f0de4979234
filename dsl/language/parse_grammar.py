"""The parser that Lark makes of `grammar.lark`, and its tokens.

In: text. Out: Lark's tree or tokens. Invariant: the grammar is LALR without conflicts (a test
builds it in debug mode). Example: `tokens("x = 1")` are a `NAME`, `EQUAL`, `NUMBER` and `_NL`.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from lark import Lark, Token

from sdlc.language.parse_tokens import Layout


@cache
def grammar() -> Lark:
    """The parser, built once in a process (0.2 s)."""
    return build_grammar(debug=False)


def build_grammar(debug: bool) -> Lark:
    """A new parser; with `debug`, Lark logs every conflict of the grammar."""
    return Lark(
        files("sdlc.language").joinpath("grammar.lark").read_text(encoding="utf-8"),
        parser="lalr",
        lexer="contextual",
        start=["module", "expression"],
        postlex=Layout(),
        keep_all_tokens=True,
        maybe_placeholders=True,
        debug=debug,
    )


def tokens(text: str) -> tuple[Token, ...]:
    """The tokens that the grammar sees, comments and idle newlines left out.

    Raises lark's `UnexpectedCharacters`.
    """
    return tuple(grammar().lex(text))
