"""Prompts: weights of words, and texts of any length in chunks that a text encoder takes.

In: a text in which `(word)` counts 1.1 times as much, `(word:1.3)` 1.3 times, `[word]` 1 / 1.1
times, nested as one likes; a bracket or backslash behind a backslash is the sign itself. Out: rows
of token ids with a weight for each. Invariant: a bracket without its partner reaches to the end of
the text, or is a sign of the text; every row begins with the start token and holds an end token.

    parse("a (red:1.2) car") == (Phrase("a ", 1.0), Phrase("red", 1.2), Phrase(" car", 1.0))
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sdlc.graph.types import Array
from sdlc.models.tokenizer import ClipTokenizer

UP = 1.1
"""What a pair of round brackets multiplies by, and square ones divide by."""
CLOSERS = {"(": ")", "[": "]"}
WEIGHT = re.compile(r":\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*\)")
SIGNS = re.compile(rf"\\[()\[\]\\]|[()\[\]]|{WEIGHT.pattern}|[^\\()\[\]:]+|.", re.S)


@dataclass(frozen=True, slots=True)
class Phrase:
    """A part of a text, and how much it counts."""

    text: str
    weight: float


@dataclass(frozen=True, slots=True)
class Tokens:
    """`ids` i32[chunks, length]; `weights` f32[chunks, length]; `last` i32[chunks] is where the
    first end token of each row stands; `cut` is the text that did not fit, '' if all of it did."""

    ids: Array
    weights: Array
    last: Array
    cut: str

    @property
    def weighted(self) -> bool:
        return bool((self.weights != 1).any())


def parse(text: str) -> tuple[Phrase, ...]:
    """The phrases of a text, neighbours of one weight joined."""
    pieces: list[tuple[str, float]] = []
    opened: list[tuple[str, int]] = []
    for sign in SIGNS.finditer(text):
        inner = opened[-1][0] if opened else ""
        match sign[0]:
            case "(" | "[":
                opened.append((sign[0], len(pieces)))
            case ")" | "]" if inner and CLOSERS[inner] == sign[0]:
                _multiply(pieces, opened.pop()[1], UP if inner == "(" else 1 / UP)
            case _ if sign[1] is not None and inner == "(":
                _multiply(pieces, opened.pop()[1], float(sign[1]))
            case literal:
                escaped = len(literal) == 2 and literal[0] == "\\"
                pieces.append((literal[1] if escaped else literal, 1.0))
    for bracket, start in opened:
        _multiply(pieces, start, UP if bracket == "(" else 1 / UP)
    return tuple(_joined(pieces))


def _multiply(pieces: list[tuple[str, float]], start: int, factor: float) -> None:
    pieces[start:] = [(text, weight * factor) for text, weight in pieces[start:]]


def _joined(pieces: list[tuple[str, float]]) -> Iterator[Phrase]:
    text, weight = "", 1.0
    for more, other in pieces:
        if text and other != weight:
            yield Phrase(text, weight)
            text = ""
        text, weight = text + more, other
    if text:
        yield Phrase(text, weight)


def chunk_count(tokenizer: ClipTokenizer, text: str) -> int:
    """How many rows a text fills, at least one."""
    return max(1, -(-len(_weighted_ids(tokenizer, text)) // (tokenizer.length - 2)))


def tokenize(tokenizer: ClipTokenizer, text: str, chunks: int) -> Tokens:
    """A text as this many rows; rows that it does not fill are those of an empty text."""
    room = tokenizer.length - 2
    found = _weighted_ids(tokenizer, text)
    cut = "" if len(found) <= room * chunks else found[room * chunks][2]
    ids = np.full((chunks, tokenizer.length), tokenizer.padding, np.int32)
    weights = np.ones((chunks, tokenizer.length), np.float32)
    last = np.zeros(chunks, np.int32)
    for row in range(chunks):
        part = found[row * room : (row + 1) * room]
        kept = [tokenizer.start, *(token for token, _, _ in part), tokenizer.end]
        ids[row, : len(kept)] = kept
        weights[row, 1 : len(part) + 1] = [weight for _, weight, _ in part]
        last[row] = len(part) + 1
    return Tokens(ids, weights, last, cut)


def _weighted_ids(tokenizer: ClipTokenizer, text: str) -> list[tuple[int, float, str]]:
    """Each token of a text, its weight, and the text from it to the end of its phrase."""
    return [
        (token, phrase.weight, phrase.text[begin:])
        for phrase in parse(text)
        for token, begin in tokenizer.tokens(phrase.text)
    ]


def emphasise(states: Array, weights: Array) -> Array:
    """States f32[b, s, w] times the weights f32[b, s] of their tokens, with the mean of each row of
    the batch as it was."""
    if (weights == 1).all():
        return states
    changed = np.multiply(states, weights[..., None], dtype=np.float32)
    before, after = (x.mean(axis=(1, 2), keepdims=True) for x in (states, changed))
    kept: Array = changed * (before / np.where(after == 0, 1, after))
    return kept
