"""Comparing syntax trees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass

from sdlc.graph.types import Span


def without_spans(tree: object) -> object:
    """The tree as tuples, without places and without the source text."""
    if isinstance(tree, tuple):
        return tuple(without_spans(part) for part in tree)
    if is_dataclass(tree) and not isinstance(tree, type):
        kept = [f.name for f in fields(tree) if not _is_place(tree, f.name)]
        return type(tree).__name__, *(without_spans(getattr(tree, name)) for name in kept)
    return tree


def _is_place(node: object, name: str) -> bool:
    source = name in ("file", "text") and type(node).__name__ == "Module"
    return source or isinstance(getattr(node, name), Span)


def nodes(tree: object) -> Iterator[object]:
    """Every node of a tree, from the root down."""
    if isinstance(tree, tuple):
        for part in tree:
            yield from nodes(part)
    elif is_dataclass(tree) and not isinstance(tree, type | Span):
        yield tree
        for f in fields(tree):
            yield from nodes(getattr(tree, f.name))
