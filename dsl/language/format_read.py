"""The text as the formatter sees it: statements, blocks and comments, with all tokens as written.

In: a text that parses. Out: `Item`s. Invariant: every token but commas before a closing bracket,
and every comment, is in the items once. Example: `a = 1  # one` is a `Statement` of three pieces
with the comment `# one`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from lark import Token

from sdlc.language.parse_grammar import tokens


@dataclass(frozen=True, slots=True)
class Comment:
    """`own_line` says whether it stood alone on its line, `blank` whether after an empty one."""

    text: str
    own_line: bool
    blank: bool


@dataclass(slots=True)
class Piece:
    """A token; `comments` stand before it, in the middle of its statement."""

    kind: str
    text: str
    line: int
    comments: tuple[Comment, ...] = ()


@dataclass(slots=True)
class Statement:
    """A statement or definition. `comment` ends its last line."""

    parts: list[Piece | Block]
    blank: bool
    comment: str = ""


@dataclass(slots=True)
class Block:
    """`{ items }`; `comment` follows the `{` on its line."""

    opener: Piece
    items: list[Item] = field(default_factory=list)
    closer_line: int = 0
    comment: str = ""

    @property
    def one_line(self) -> bool:
        return self.opener.line == self.closer_line or not (self.items or self.comment)


Item = Statement | Comment


@dataclass(slots=True)
class _Entry:
    """A token with what stands before it: comments, an empty line, the end of a statement."""

    piece: Piece
    blank: bool
    begins: bool


def read_items(text: str) -> list[Item]:
    """The items of a file. Raises lark's `UnexpectedCharacters`; brackets must have partners."""
    block = Block(Piece("LBRACE", "", 0))
    _read_block(list(_entries(text)), 0, block)
    return block.items


# ---- tokens and what stands between them --------------------------------------------------------


def _entries(text: str) -> Iterator[_Entry]:
    end, separated = 0, True
    open_comments: tuple[Comment, ...] = ()
    stream = [*tokens(text), Token("END", "", len(text), 0, 0, 0, 0, len(text))]
    for index, token in enumerate(stream):
        if token.type == "_NL":
            separated = True
            continue
        comments, blank = _gap(text[end : token.start_pos], at_start=end == 0)
        end = token.end_pos or 0
        if token.type == "COMMA" and stream[index + 1].type in ("RPAR", "RSQB"):
            open_comments = (*open_comments, *comments)
            continue
        piece = Piece(token.type, str(token), token.line or 0, (*open_comments, *comments))
        yield _Entry(piece, blank, separated)
        separated, open_comments = False, ()


def _gap(text: str, at_start: bool) -> tuple[tuple[Comment, ...], bool]:
    """The comments between two tokens, and whether an empty line stands before the second one."""
    comments: list[Comment] = []
    newlines = 2 if at_start else 0
    for match in re.finditer(r"#[^\n]*|\n", text):
        if match[0] == "\n":
            newlines += 1
        else:
            comments.append(Comment(match[0].rstrip(), newlines > 0, newlines > 1))
            newlines = 0
    return tuple(comments), newlines > 1


# ---- statements and blocks ---------------------------------------------------------------------


def _read_block(entries: list[_Entry], at: int, block: Block) -> int:
    """Fills `block` from `entries[at]`, which follows its `{`. The index of its end."""
    while True:
        entry = entries[at]
        for comment in entry.piece.comments:
            _add_comment(block, comment)
        if entry.piece.kind in ("RBRACE", "END"):
            block.closer_line = entry.piece.line
            return at
        entry.piece.comments = ()
        statement = Statement([], entry.blank)
        at = _read_statement(entries, at, statement)
        block.items.append(statement)


def _add_comment(block: Block, comment: Comment) -> None:
    """A comment between statements: at the end of the line before, or on its own."""
    if comment.own_line:
        block.items.append(comment)
    elif block.items and isinstance(block.items[-1], Statement):
        block.items[-1].comment = comment.text
    else:
        block.comment = comment.text


def _read_statement(entries: list[_Entry], at: int, statement: Statement) -> int:
    """Fills `statement` from `entries[at]`. The index of what follows it."""
    while True:
        piece = entries[at].piece
        if piece.kind == "LBRACE":
            block = Block(piece)
            at = _read_block(entries, at + 1, block)
            statement.parts.append(block)
        else:
            statement.parts.append(piece)
        at += 1
        if entries[at].begins or entries[at].piece.kind in ("RBRACE", "END"):
            return at
