"""CLIP's own vocabulary, for checkpoints, which hold none.

In: nothing; the merges ship with sdlc (models/clip, with their licence). Out: the ids of all tokens
and the merges, as vocab.json and merges.txt of a tokenizer folder hold them. Invariant: 49,408
tokens: 256 bytes, the same at the end of a word, what each merge makes, and the two ends of a text.

    clip_vocabulary()[0]["<|endoftext|>"] == 49407
"""

from __future__ import annotations

import gzip
from functools import cache
from itertools import chain
from pathlib import Path

CLIP = Path(__file__).parent / "clip"
"""A tokenizer folder: shorter texts are filled up with the end token."""
OPEN_CLIP = Path(__file__).parent / "open_clip"
"""The same, filled up with token 0."""
PRINTABLE = (range(0x21, 0x7F), range(0xA1, 0xAD), range(0xAE, 0x100))
"""Bytes that stand for themselves; the others are written as the characters from 256 on."""
END_OF_WORD = "</w>"

Vocabulary = tuple[dict[str, int], list[tuple[str, str]]]


@cache
def clip_vocabulary() -> Vocabulary:
    """Ids by token, and the merges in their order."""
    lines = gzip.decompress((CLIP / "merges.txt.gz").read_bytes()).decode().splitlines()[1:]
    merges = [(a, b) for a, b in (line.split() for line in lines)]
    letters = _letters()
    words = [letter + END_OF_WORD for letter in letters]
    made = [a + b for a, b in merges]
    tokens = [*letters, *words, *made, "<|startoftext|>", "<|endoftext|>"]
    return {token: number for number, token in enumerate(tokens)}, merges


def _letters() -> list[str]:
    plain = [chr(byte) for byte in chain(*PRINTABLE)]
    return plain + [chr(256 + number) for number in range(256 - len(plain))]
