"""Hash-consing for immutable classes.

In: a class made with `metaclass=Interned`. Out: equal constructor arguments give the same object,
so equality is identity and a directed acyclic graph is hashed in constant time per node.
Invariant: fields are hashable; fields named in `_not_interned` do not take part (the first
object's value stays).
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any
from weakref import WeakValueDictionary


def _key(value: Any) -> Any:
    """A key part that separates 1, 1.0 and True, and 0.0 from -0.0."""
    if isinstance(value, tuple):
        return tuple(_key(v) for v in value)
    if isinstance(value, float):
        return (float, value.hex())
    if isinstance(value, (bool, int)):
        return (type(value), value)
    return value


class Interned(type):
    """A metaclass whose instances are shared when constructed with equal arguments."""

    _table: WeakValueDictionary[Any, Any]
    _names: tuple[str, ...] = ()
    _not_interned: frozenset[str] = frozenset()

    def __init__(cls, name: str, bases: tuple[type, ...], space: dict[str, Any]) -> None:
        super().__init__(name, bases, space)
        cls._table = WeakValueDictionary()

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        made = super().__call__(*args, **kwargs)
        if not cls._names:
            cls._names = tuple(f.name for f in fields(made) if f.name not in cls._not_interned)
        return cls._table.setdefault(tuple(_key(getattr(made, f)) for f in cls._names), made)
