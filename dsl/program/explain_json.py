"""An explanation from JSON, as it was written.

In: what `Explanation.as_json` gave, after JSON. Out: the explanation. Invariant: equal to what it
was made of. Example:

    explanation_of(json.loads(json.dumps(made.as_json()))) == made
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from sdlc.program.explain_data import Explanation


def explanation_of(record: Mapping[str, Any]) -> Explanation:
    """The explanation that a record was made of. Raises KeyError or TypeError for another form."""
    made = _Reader().value(Explanation, record)
    assert isinstance(made, Explanation)
    return made


class _Reader:
    """Values of annotated types from plain ones; the types of a record's fields are found once."""

    def __init__(self) -> None:
        self._types: dict[type, dict[str, Any]] = {}

    def value(self, kind: Any, plain: Any) -> Any:
        if isinstance(kind, type) and is_dataclass(kind):
            return kind(**{n: self.value(t, plain[n]) for n, t in self._fields(kind).items()})
        if get_origin(kind) is not tuple:
            return plain
        inner = get_args(kind)
        if len(inner) == 2 and isinstance(inner[1], types.EllipsisType):
            return tuple([self.value(inner[0], each) for each in plain])
        return tuple([self.value(k, each) for k, each in zip(inner, plain, strict=True)])

    def _fields(self, kind: type) -> dict[str, Any]:
        if kind not in self._types:
            hints = get_type_hints(kind)
            self._types[kind] = {f.name: hints[f.name] for f in fields(kind)}
        return self._types[kind]
