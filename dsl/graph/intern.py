"""Hash-consing for immutable classes.

In: a class made with `metaclass=Interned`. Out: equal constructor arguments give the same object,
so equality is identity and a directed acyclic graph is hashed in constant time per node.
Invariant: fields are hashable; fields named in `_not_interned` do not take part (the first
object's value stays). Example: `Literal(1, I32) is Literal(1, I32)`.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any
from weakref import WeakValueDictionary

_NUMBERS = (bool, int, float)


def _distinct(value: Any) -> Any:
    """A key part that separates 1, 1.0 and True, and 0.0 from -0.0."""
    if isinstance(value, float):
        return (float, value.hex())
    return (type(value), value) if isinstance(value, _NUMBERS) else value


class Interned(type):
    """A metaclass whose instances are shared when constructed with equal arguments."""

    _table: WeakValueDictionary[Any, Any]
    _names: tuple[str, ...] = ()
    _not_interned: frozenset[str] = frozenset()

    def __init__(cls, name: str, bases: tuple[type, ...], space: dict[str, Any]) -> None:
        super().__init__(name, bases, space)
        cls._table = WeakValueDictionary()

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """The object with these fields. Looked up before it is made where all are positional."""
        if not cls._names:
            cls._names = tuple(f.name for f in fields(cls) if f.init)  # type: ignore[arg-type]
        if not kwargs and len(args) == len(cls._names) and not cls._not_interned:
            key = tuple(map(_distinct, args))
            found = cls._table.get(key)
            return cls._table.setdefault(key, super().__call__(*args)) if found is None else found
        made = super().__call__(*args, **kwargs)
        names = (n for n in cls._names if n not in cls._not_interned)
        return cls._table.setdefault(tuple(_distinct(getattr(made, n)) for n in names), made)
