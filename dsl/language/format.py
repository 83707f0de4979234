"""The one canonical layout of a `.sdl` file.

In: a text that parses. Out: the same program with two spaces of indent for each block, one space
around binary operators, at most one empty line in a row, and lines of at most 100 columns where
the tokens allow it. Invariant: comments are kept, the syntax tree is the same, and the layout is a
fixed point. Example: `format_source("fn f(x)=x*x", "f.sdl") == "fn f(x) = x * x\\n"`.

A block that was written on one line stays on one if it fits. A definition's header that does not
fit has its docstring, its guards and its `{` on lines of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sdlc.language.format_lines import WIDTH, Word, fill, join, words
from sdlc.language.format_read import Block, Comment, Item, Piece, Statement, read_items
from sdlc.language.parse import parse_module

_STEP = 2


def format_source(text: str, file: str) -> str:
    """The text in canonical layout. Raises `SdlError` where it does not parse."""
    parse_module(text, file)
    return "".join(f"{line}\n" for line in _items(read_items(text), 0))


def _items(items: Sequence[Item], indent: int) -> Iterator[str]:
    for at, item in enumerate(items):
        if item.blank and at:
            yield ""
        if isinstance(item, Comment):
            yield " " * indent + item.text
        else:
            yield from _statement(item, indent)


def _statement(statement: Statement, indent: int) -> list[str]:
    flat = _flat(statement)
    if flat is not None and indent + len(flat) <= WIDTH:
        lines = [" " * indent + flat]
    else:
        lines = list(_with_blocks(statement.parts, indent))
    return _with_comment(lines, statement.comment)


def _with_comment(lines: list[str], comment: str) -> list[str]:
    return [*lines[:-1], f"{lines[-1]}  {comment}"] if comment else lines


# ---- on one line -------------------------------------------------------------------------------


def _flat(statement: Statement) -> str | None:
    """The statement on one line, None where a comment or a block needs lines of its own."""
    pieces: list[Piece] = []
    for part in statement.parts:
        flat = [part] if isinstance(part, Piece) else _flat_block(part)
        if flat is None:
            return None
        pieces += flat
    return None if any(piece.comments for piece in pieces) else join(words(pieces))


def _flat_block(block: Block) -> list[Piece] | None:
    inside: list[Piece] = []
    for item in block.items:
        text = _flat(item) if isinstance(item, Statement) and not item.comment else None
        if text is None:
            return None
        inside += [Piece("SEMI", ";", 0)] if inside else []
        inside.append(Piece("TEXT", text, 0))
    if not block.one_line or block.comment:
        return None
    return [block.opener, *inside, Piece("RBRACE", "}", 0)]


# ---- on several lines --------------------------------------------------------------------------


def _with_blocks(parts: Sequence[Piece | Block], indent: int) -> Iterator[str]:
    """Runs of tokens between blocks, and the blocks."""
    run: list[Piece] = []
    for part in parts:
        if isinstance(part, Piece):
            run.append(part)
            continue
        run.append(part.opener)
        if part.items or part.comment:
            yield from _with_comment(_run(run, indent), part.comment)
            yield from _items(part.items, indent + _STEP)
            run = []
        run.append(Piece("RBRACE", "}", 0))
    if run:
        yield from _run(run, indent)


def _run(pieces: Sequence[Piece], indent: int) -> list[str]:
    """Tokens without a block's inside; where a block opens, its `{` is the last."""
    run = words(pieces)
    if pieces[0].kind in ("KIND", "MONOID", "RULE"):
        return _header(run, indent)
    if pieces[0].kind == "FN":
        return _function(run, indent)
    opens = pieces[-1].kind == "LBRACE"
    return _lines(run, indent, indent + (2 * _STEP if opens else _STEP))


def _function(run: Sequence[Word], indent: int) -> list[str]:
    """`fn f(x) =` and its body below, where it does not fit on one line."""
    body = 1 + next(at for at, word in enumerate(run) if word.piece.kind == "EQUAL")
    if any(word.piece.comments for word in run):
        return _lines(run, indent, indent + _STEP)
    rest = indent + _STEP
    return [*_lines(run[:body], indent, rest), *_lines(run[body:], rest, rest)]


def _header(run: Sequence[Word], indent: int) -> list[str]:
    """A definition up to its `{`: on one line, or its parts on lines of their own."""
    plain = not any(word.piece.comments for word in run)
    if plain and indent + len(join(run)) <= WIDTH:
        return [" " * indent + join(run)]
    lines: list[str] = []
    for part in _header_parts(run, indent):
        own = 0 if not lines or part[0].piece.kind == "LBRACE" else _STEP
        lines += _lines(part, indent + own, indent + 2 * _STEP)
    return lines


def _header_parts(run: Sequence[Word], indent: int) -> Iterator[Sequence[Word]]:
    """Cut before the docstring, `where` and `{`; before `->` where the types do not fit else."""
    start, signature = 0, ""
    for at, word in enumerate(run):
        kind = word.piece.kind
        cut = word.depth == 0 and kind in ("WHERE", "LBRACE", "STRING", "ARROW")
        if not cut or (kind == "STRING" and run[start].piece.kind == "WHERE"):
            continue
        if kind == "ARROW":
            signature = join(run[: _end_of_types(run, at)])
            if indent + len(signature) <= WIDTH:
                continue
        yield run[start:at]
        start = at
    yield run[start:]


def _end_of_types(run: Sequence[Word], arrow: int) -> int:
    """The index behind the result types, which begin at `arrow`."""
    ends = ("STRING", "WHERE", "LBRACE")
    later = range(arrow + 1, len(run))
    return next((at for at in later if run[at].depth == 0 and run[at].piece.kind in ends), len(run))


def _lines(run: Sequence[Word], first: int, rest: int) -> list[str]:
    """The words as lines, broken at their comments too."""
    lines: list[str] = []
    start = 0
    # What follows a block's `}` and a comment, an `else`, is no continuation.
    resume = first if run[0].piece.kind == "RBRACE" else rest
    for at, word in enumerate(run):
        if not word.piece.comments:
            continue
        if at > start:
            lines += fill(run[start:at], resume if lines else first, rest)
        for comment in word.piece.comments:
            if comment.own_line or not lines:
                lines.append(" " * (resume if lines else first) + comment.text)
            else:
                lines[-1] += f"  {comment.text}"
        start = at
    return lines + fill(run[start:], resume if lines else first, rest)
