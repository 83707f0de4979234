"""A run of tokens as lines: spaces between tokens, and where a long line is broken.

In: pieces. Out: lines of at most `WIDTH` columns, where that can be. Invariant: the lines depend on
the tokens and comments alone, not on how they were laid out, so the layout is a fixed point.
Example: the pieces of `x=a+b` give `x = a + b`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

from sdlc.language.format_read import Piece, Statement, read_items

WIDTH = 100
_ENDS_OPERAND = frozenset({"NAME", "NUMBER", "STRING", "RPAR", "RSQB"})
_NONE_BEFORE = frozenset({"RPAR", "RSQB", "COMMA", "SEMI", "COLON", "QUESTION", "DOT"})
_NONE_AFTER = frozenset({"LPAR", "LSQB", "DOT", "DOTS"})
_AFTER = MappingProxyType(
    {"SEMI": 0, "COMMA": 1, "OF": 2, "OR": 3, "AND": 3, "PLUS": 4, "MINUS": 4}
    | {"STAR": 6, "SLASH": 6, "PERCENT": 6, "COMPARE": 6, "LESS": 6, "EQUAL": 7, "LPAR": 9}
    | {"IMPLIES": 0}
)
"""After which tokens a line may break, the best first. `(` only where nothing else will do."""
_PER_BRACKET = 10
_SHORT = 30


@dataclass(frozen=True, slots=True)
class Word:
    """A piece with its surroundings: whether a space precedes it, how bad a break before it is
    (-1 where there must be none), and the bracket depth."""

    piece: Piece
    space: bool
    cost: int
    depth: int


def words(pieces: Sequence[Piece]) -> list[Word]:
    found: list[Word] = []
    depth = 0
    prefix = False  # whether the piece before is a sign or a spread's star
    axes = -1  # the bracket depth of the `over` whose `of` has not come
    for at, piece in enumerate(pieces):
        before = pieces[at - 1] if at else None
        depth -= piece.kind in ("RPAR", "RSQB")
        listed = before is not None and before.kind == "COMMA" and axes == depth
        cost = -1 if prefix or listed else _cost(before.kind if before else "", piece.kind, depth)
        found.append(Word(piece, _space(before, piece, prefix), cost, depth))
        depth += piece.kind in ("LPAR", "LSQB")
        axes = depth if piece.kind == "OVER" else -1 if piece.kind == "OF" else axes
        sign = piece.kind in ("MINUS", "STAR")
        prefix = sign and (before is None or before.kind not in _ENDS_OPERAND)
    return found


def _space(before: Piece | None, piece: Piece, prefix: bool) -> bool:
    if before is None or prefix or before.kind in _NONE_AFTER or piece.kind in _NONE_BEFORE:
        return False
    match piece.kind:
        case "LPAR":
            return before.kind != "NAME"
        case "LSQB":
            return before.kind not in _ENDS_OPERAND
        case "DOTS":
            return before.kind == "COMMA"
        case "RBRACE":
            return before.kind != "LBRACE"
        case _:
            return True


def _cost(before: str, kind: str, depth: int) -> int:
    """How bad a break between these tokens is. A string behind an operand is a message."""
    if kind in ("RPAR", "RSQB"):
        return -1
    if kind in ("ELSE", "ARROW") or (kind == "STRING" and before in _ENDS_OPERAND):
        return depth * _PER_BRACKET
    if kind == "THEN":
        return depth * _PER_BRACKET + 2
    cost = _AFTER.get(before, -1)
    return cost + depth * _PER_BRACKET if cost >= 0 else -1


def join(line: Sequence[Word]) -> str:
    """The words on one line."""
    return "".join((" " if word.space and at else "") + _text(word) for at, word in enumerate(line))


def _text(word: Word) -> str:
    if word.piece.kind != "LABEL":
        return word.piece.text
    return label(word.piece.text)


def label(text: str) -> str:
    """A label with the expressions in its braces laid out: `a.{i+1} :` is `a.{i + 1}:`."""
    literal, brace, rest = text.partition("{")
    if not brace:
        return text[:-1].rstrip() + ":"
    inner, _, rest = rest.partition("}")
    return f"{literal}{{{_inner(inner)}}}{label(rest)}"


def _inner(text: str) -> str:
    items = read_items(text)
    pieces = items[0].parts if items and isinstance(items[0], Statement) else []
    return join(words([piece for piece in pieces if isinstance(piece, Piece)]))


def fill(line: Sequence[Word], first: int, rest: int) -> list[str]:
    """The words as lines, the first indented by `first` columns, the others by `rest`."""
    lines: list[str] = []
    indent = first
    while True:
        text = " " * indent + join(line)
        at = _best_break(line, indent) if len(text) > WIDTH else None
        if at is None:
            return [*lines, text]
        lines.append(" " * indent + join(line[:at]))
        line, indent = line[at:], rest


def _best_break(line: Sequence[Word], indent: int) -> int | None:
    """Where to break: at the least cost, as far right as it fits."""
    best: tuple[int, int] | None = None
    column = indent
    for at, word in enumerate(line):
        if at and word.cost >= 0:
            if column > WIDTH:
                # Nothing fits any more: an earlier break, or else this one.
                return -best[1] if best else at
            cost = word.cost + (2 * _PER_BRACKET if column - indent < _SHORT else 0)
            best = min(best or (cost, -at), (cost, -at))
        column += word.space + len(_text(word))
    return -best[1] if best else None
