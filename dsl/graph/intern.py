"""Hash-consing for immutable classes.

In: a class made with `metaclass=Interned`. Out: equal constructor arguments give the same object,
so equality is identity and a directed acyclic graph is hashed in constant time per node.
Invariant: fields are hashable; of fields named in `_interned_by` only that attribute takes part,
the rest is the first object's; what nobody holds is forgotten; what is pickled is interned where it
is read.
Example: `Literal(1, I32) is Literal(1, I32)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from types import MappingProxyType
from typing import Any
from weakref import ref

_NUMBERS = (bool, int, float)


def _distinct(value: Any) -> Any:
    """A key part that separates 1, 1.0 and True, and 0.0 from -0.0."""
    if isinstance(value, float):
        return (float, value.hex())
    return (type(value), value) if isinstance(value, _NUMBERS) else value


class _Entry(ref):  # type: ignore[type-arg]
    """A weak reference that leaves its table when the object goes."""

    __slots__ = ("key", "table")
    key: Any
    table: dict[Any, _Entry]


def _forget(entry: _Entry) -> None:
    if entry.table.get(entry.key) is entry:
        del entry.table[entry.key]


class Interned(type):
    """A metaclass whose instances are shared when constructed with equal arguments."""

    _table: dict[Any, _Entry]
    _names: tuple[str, ...] = ()
    _mixed: bool = False
    """Whether a field may hold numbers of several types, which are equal and yet not the same."""
    _count: int = -1
    """The number of arguments, where they are the key; -1 where of some only a part is."""
    _defaults: tuple[Any, ...] = ()
    _interned_by: Mapping[str, str] = MappingProxyType({})

    def __init__(cls, name: str, bases: tuple[type, ...], space: dict[str, Any]) -> None:
        super().__init__(name, bases, space)
        cls.__repr__ = brief  # type: ignore[method-assign,assignment]
        cls.__reduce__ = made_again  # type: ignore[method-assign,assignment]
        cls._table = {}

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """The object with these fields. Looked up before it is made where all are positional."""
        missing = cls._count - len(args)
        if 0 < missing <= len(cls._defaults) and not kwargs:
            args, missing = (*args, *cls._defaults[-missing:]), 0
        if not missing and not kwargs:
            key = tuple(map(_distinct, args)) if cls._mixed else args
            entry = cls._table.get(key)
            found = None if entry is None else entry()
            return cls._first(key, super().__call__(*args)) if found is None else found
        if not cls._names:
            cls._describe()
        made = super().__call__(*args, **kwargs)
        args = tuple([getattr(made, n) for n in cls._names])
        if cls._interned_by:
            by = cls._interned_by
            pairs = zip(cls._names, args, strict=True)
            args = tuple([getattr(a, by[n]) if n in by else a for n, a in pairs])
        return cls._first(tuple(map(_distinct, args)) if cls._mixed else args, made)

    def _describe(cls) -> None:
        """Looks at the fields, once they are there."""
        made = [f for f in fields(cls) if f.init]  # type: ignore[arg-type]
        cls._mixed = any(t in str(f.type) for f in made for t in ("float", "bool"))
        cls._names = tuple(f.name for f in made)
        cls._count = -1 if cls._interned_by else len(made)
        cls._defaults = tuple(f.default for f in made if f.default is not MISSING)

    def _first(cls, key: Any, made: Any) -> Any:
        """The object that stands for `key`: `made`, if there is none."""
        entry = cls._table.get(key)
        found = None if entry is None else entry()
        if found is None:
            cls._table[key] = entry = _Entry(made, _forget)
            entry.table, entry.key = cls._table, key
            return made
        return found


def made_again(value: Any) -> tuple[type[Any], tuple[Any, ...]]:
    """How `pickle` writes an object: its class and fields, so that what is read is interned."""
    kind = type(value)
    return kind, tuple([getattr(value, name) for name in kind._names])


DEPTH = 3
"""How far into an object its text goes: a directed graph written out as a tree has no end."""

MANY = 6
"""Items of a tuple that are written."""


def brief(value: Any, depth: int = DEPTH) -> str:
    """What an object is made of, in a line that stays short."""
    if isinstance(value, tuple):
        shown = [brief(v, depth) for v in value[:MANY]]
        return f"({', '.join(shown)}{', …' if len(value) > MANY else ''})"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if not isinstance(type(value), Interned):
        return repr(value)
    name = type(value).__name__
    if not depth:
        return f"{name}(…)"
    given = [getattr(value, f.name) for f in fields(value) if f.init]
    return f"{name}({', '.join(brief(v, depth - 1) for v in given)})"
