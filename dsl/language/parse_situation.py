"""Where the parser stood when it met an unexpected token.

In: the tokens, the index of the unexpected one, what would have been accepted. Out: what
`parse_mistakes.py` asks about it. Invariant: looking past either end gives the type ''.
Example: in `f(x, s = 2)` the token is `=`, `opener` is the `(`, and `statement` begins at `f`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType

from lark import Token

from sdlc.graph.types import Span
from sdlc.language.parse_lexical import token_span

KEYWORDS = frozenset(
    {"KIND", "IMPORT", "FN", "MONOID", "RULE", "WHERE", "RETURN", "PARAM", "CONFIG", "REQUIRE"}
    | {"FOR", "IN", "IF", "THEN", "ELSE", "REDUCE", "OVER", "OF", "AND", "OR", "NOT", "GUARD"}
)
_OPENERS = frozenset({"LPAR", "LSQB", "LBRACE"})
_CLOSERS = frozenset({"RPAR", "RSQB", "RBRACE"})


@dataclass(frozen=True, slots=True)
class Situation:
    """`tokens[index]` is not in `accepted`."""

    tokens: tuple[Token, ...]
    index: int
    accepted: frozenset[str]
    file: str

    def token(self, offset: int = 0) -> Token | None:
        at = self.index + offset
        return self.tokens[at] if 0 <= at < len(self.tokens) else None

    def type(self, offset: int = 0) -> str:
        token = self.token(offset)
        return token.type if token is not None else ""

    def word(self, offset: int = 0) -> str:
        token = self.token(offset)
        return token.strip() if token is not None else ""

    def adjacent(self, offset: int = 0) -> bool:
        """Whether the token at `offset` and the next one touch."""
        first, second = self.token(offset), self.token(offset + 1)
        return first is not None and second is not None and first.end_pos == second.start_pos

    @property
    def found(self) -> str:
        """The unexpected token, for a sentence."""
        if self.type() == "_NL":
            return "`;`" if self.word() == ";" else "end of the line"
        return f"{'keyword ' if self.type() in KEYWORDS else ''}`{self.word()}`"

    @property
    def expression_missing(self) -> bool:
        return "NUMBER" in self.accepted

    def span(self, offset: int = 0) -> Span:
        """The place of a token; of a line's end, just behind the last token of the line."""
        token = self.token(offset)
        if token is None:
            return Span(self.file, 1, 1, 1, 2)
        if token.type == "_NL" and not token.startswith(";"):
            return self.behind(offset - 1)
        return token_span(token, self.file)

    def behind(self, offset: int) -> Span:
        """The place just behind a token."""
        token = self.token(offset)
        line, column = (token.end_line or 1, token.end_column or 1) if token is not None else (1, 1)
        return Span(self.file, line, column, line, column + 1)

    @property
    def new_line(self) -> bool:
        """Whether it is the first token of its line."""
        token, before = self.token(), self.token(-1)
        return token is None or before is None or (token.line or 0) > (before.end_line or 0)

    # ---- around it -----------------------------------------------------------------------------

    def backwards(self) -> Iterator[int]:
        """Indices of the tokens before it in the same bracket, the nearest first. The last one is
        that of the bracket; what other brackets hold is left out."""
        depth = 0
        for at in range(self.index - 1, -1, -1):
            kind = self.tokens[at].type
            depth += kind in _CLOSERS
            if depth == 0:
                yield at
            if kind in _OPENERS:
                if depth == 0:
                    return
                depth -= 1

    @property
    def opener(self) -> int | None:
        """The index of the `(` or `[` that it stands in."""
        last = next((at for at in self.backwards() if self.tokens[at].type in _OPENERS), None)
        return last if last is not None and self.tokens[last].type != "LBRACE" else None

    @property
    def statement(self) -> int:
        """The index at which its statement (or definition) begins."""
        first = self.index
        parens = 0
        for at in range(self.index - 1, -1, -1):
            kind = self.tokens[at].type
            parens += (kind in ("RPAR", "RSQB")) - (kind in ("LPAR", "LSQB"))
            if kind in ("_NL", "LBRACE") and parens <= 0:
                break
            first = at
        return first

    def starts(self, *kinds: str) -> bool:
        """Whether its statement begins with one of these tokens, before it."""
        return self.statement < self.index and self.tokens[self.statement].type in kinds

    def earlier(self, *kinds: str) -> bool:
        """Whether one of these stands before it in its statement and bracket."""
        return self.earlier_at(*kinds) is not None

    def earlier_at(self, *kinds: str) -> int | None:
        """Where one of these stands before it in its statement and bracket: an offset."""
        for at in self.backwards():
            if at < self.statement:
                return None
            if self.tokens[at].type in kinds:
                return at - self.index
        return None

    @property
    def in_call(self) -> bool:
        """Whether it stands in the brackets of a call (not of a signature)."""
        at = self.opener
        if at is None or at == 0 or self.tokens[at].type != "LPAR":
            return False
        named = self.tokens[at - 1].type == "NAME"
        return named and (at < 2 or self.tokens[at - 2].type not in ("KIND", "FN"))

    @property
    def in_index(self) -> bool:
        at = self.opener
        if at is None or at == 0 or self.tokens[at].type != "LSQB":
            return False
        return self.tokens[at - 1].type in ("NAME", "RPAR", "RSQB")

    @property
    def in_signature(self) -> bool:
        at = self.opener
        return at is not None and at > 1 and self.tokens[at - 2].type == "KIND"


# ---- what is accepted, in words ----------------------------------------------------------------

_DEFINITIONS = frozenset({"KIND", "FN", "MONOID", "RULE", "IMPORT"})
_STATEMENTS = frozenset({"NAME", "FOR", "IF", "RETURN", "PARAM", "CONFIG", "REQUIRE"})
_OPERANDS = frozenset({"NUMBER", "NAME", "STRING", "LPAR", "LSQB", "MINUS", "NOT", "IF", "REDUCE"})
_OPERATORS = frozenset(
    {"PLUS", "MINUS", "STAR", "SLASH", "PERCENT", "CARET", "COMPARE", "LESS", "IN", "AND", "OR"}
)
_GROUPS = (
    ("a definition (`op`, `block`, `model`, `fn`, `monoid`, `rule`)", _DEFINITIONS, _DEFINITIONS),
    ("a statement", _STATEMENTS, _STATEMENTS),
    ("an expression", frozenset({"NUMBER", "NAME", "LPAR"}), _OPERANDS),
)
_SPELLING = MappingProxyType(
    {
        "NAME": "a name",
        "NUMBER": "a number",
        "STRING": "a string in double quotes",
        "_NL": "the end of the statement",
        "ARROW": "`->`",
        "IMPLIES": "`=>`",
        "DOTS": "`..`",
        "EQUAL": "`=`",
        "LESS": "`<`",
        "MINUS": "`-`",
        "STAR": "`*`",
        "COMMA": "`,`",
        "COLON": "`:`",
        "QUESTION": "`?`",
        "LPAR": "`(`",
        "RPAR": "`)`",
        "LSQB": "`[`",
        "RSQB": "`]`",
        "LBRACE": "`{`",
        "RBRACE": "`}`",
        "SEMI": "`;`",
        "KIND": "`op`, `block` or `model`",
    }
)
_UNSAID = frozenset({"DOT", "GUARD", "QUESTION", "LABEL", "OVER", "PRECISION"})


def expected_words(accepted: frozenset[str]) -> str:
    """What the grammar accepts, shortest useful form: `,`, `)` or an operator."""
    words: list[str] = []
    operator = ""
    rest = set(accepted - _UNSAID - {"$END"})
    for word, needed, members in _GROUPS:
        if needed <= rest:
            rest -= members
            words.append(word)
    if {"PLUS", "STAR"} <= rest:
        # A call or an index may follow wherever an operator may: that is not worth saying.
        rest -= _OPERATORS | {"LSQB", "LPAR"}
        operator = "an operator"
    words += sorted(_SPELLING.get(kind, f"`{kind.lower()}`") for kind in rest)
    words += [operator] if operator else []
    if not words:
        return "nothing more"
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
