"""Source and kernel text as HTML with classes for what words are.

In: text and its language (`sdl`, `opencl`, `wgsl`). Out: HTML, a string a line. Invariant: the
HTML without its tags is the text; equal lines are read once, so a program's kernels, which are
alike, cost little.

    Highlighter().lines("let x = 1;", "wgsl")     ['<b class="k">let</b> x = <b class="n">1</b>;']
"""

from __future__ import annotations

from functools import cache
from html import escape
from itertools import groupby
from types import MappingProxyType
from typing import Any, ClassVar

from pygments.lexer import Lexer, RegexLexer, words
from pygments.lexers import get_lexer_by_name
from pygments.token import (
    Comment,
    Keyword,
    Name,
    Number,
    Operator,
    Punctuation,
    String,
    Text,
    _TokenType,
    is_token_subtype,
)

from sdlc.language.diagnostics import source_lines

KINDS = (
    (Keyword.Type, "t"),
    (Keyword, "k"),
    (Name.Builtin, "t"),
    (Name.Decorator, "d"),
    (Name.Attribute, "d"),
    (Comment.Preproc, "d"),
    (Comment, "c"),
    (Number, "n"),
    (String, "s"),
)
"""Kinds of token that have a class of their own, special ones first."""
SPACES = ("__kernel", "__global", "__local", "__private", "__attribute__", "restrict", "const")
SCALARS = ("float", "half", "int", "uint", "ushort", "bool", "size_t")
VECTORS = tuple(f"{name}{n}" for name in SCALARS[:5] for n in (2, 4, 8, 16))
EXTRA = MappingProxyType(
    {**dict.fromkeys(SPACES, Keyword), **dict.fromkeys((*SCALARS, *VECTORS), Keyword.Type)}
)
"""What C's lexer takes for names, and OpenCL C does not."""


WORDS = (
    *("op", "block", "model", "monoid", "fn", "rule", "import", "param", "config", "require"),
    *("return", "where", "for", "in", "if", "then", "else", "reduce", "over", "of", "and", "or"),
    *("not", "example", "numerics"),
)
TYPES = ("f32", "f16", "i32", "bool", "int", "float", "str", "list", "T")


class SdlLexer(RegexLexer):
    """The language's words, for colours only: the compiler's own parser is `language.parse`."""

    name = "sdl"
    aliases: ClassVar[list[str]] = ["sdl"]
    tokens: ClassVar[dict[str, list[Any]]] = {
        "root": [
            (r"#[^\n]*", Comment),
            (r'"[^"\n]*"', String),
            (r"\s+", Text),
            (r"[A-Za-z_]\w*(\.\w+)+", Name),
            (words(WORDS, prefix=r"\b", suffix=r"\b"), Keyword),
            (words(TYPES, prefix=r"\b", suffix=r"\b"), Keyword.Type),
            (r"\b(true|false|none|pi|lowest)\b", Number),
            (r"\d+(\.\d+)?([eE][+-]?\d+)?", Number),
            (r"[A-Za-z_]\w*'?", Name),
            (r"[-+*/%^<>=!]+", Operator),
            (r".", Punctuation),
        ]
    }


class Highlighter:
    """Keeps what it has read."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], str] = {}
        self._lexers: dict[str, Lexer] = {
            "sdl": SdlLexer(stripnl=False),
            "opencl": get_lexer_by_name("c", stripnl=False),
            "wgsl": get_lexer_by_name("wgsl", stripnl=False),
        }

    def lines(self, text: str, language: str) -> list[str]:
        """HTML of every line of `text`."""
        return [self._line(line, language) for line in source_lines(text)]

    def _line(self, line: str, language: str) -> str:
        key = (line, language)
        if key not in self._known:
            tokens = self._lexers[language].get_tokens(line)
            # Lexers end every text with a line end, which may be part of a comment.
            classes = ((_class(kind, text, language), text.rstrip("\n")) for kind, text in tokens)
            self._known[key] = "".join(
                _tagged(name, "".join(text for _, text in run))
                for name, run in groupby(classes, lambda pair: pair[0])
            )
        return self._known[key]


def _class(kind: _TokenType, text: str, language: str) -> str:
    if language == "opencl" and text in EXTRA and not is_token_subtype(kind, Comment):
        kind = EXTRA[text]
    return _class_of(kind)


@cache
def _class_of(kind: _TokenType) -> str:
    return next((name for parent, name in KINDS if is_token_subtype(kind, parent)), "")


def _tagged(name: str, text: str) -> str:
    html = escape(text, quote=False)
    return f'<b class="{name}">{html}</b>' if name and text.strip() else html
