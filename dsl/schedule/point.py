"""A point of a tactic's space: overrides of a few profile fields, for one group.

In: a target's `Profile`. Out: the profile that the tactic reads for that group. Invariant: a point
names profile fields only, so every tactic understands every point; what it makes of a group is
legal, or refused when steps are made of it.

    Point((("register_tile", (8, 32)), ("unroll", 1))).applied(target.profile)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any

from sdlc.target import Profile


@dataclass(frozen=True, slots=True)
class Point:
    """Overrides by field, sorted by name; without any it is the default schedule."""

    overrides: tuple[tuple[str, Any], ...] = ()

    def applied(self, profile: Profile) -> Profile:
        """The profile with the overrides. Raises ValueError for what is no such field or value."""
        known = {f.name: getattr(profile, f.name) for f in fields(profile)}
        for name, value in self.overrides:
            if name not in known:
                raise ValueError(f"a profile has no field `{name}`")
            if _shape(value) != _shape(known[name]) or not _is_positive(value, name):
                raise ValueError(f"`{name}` cannot be {_text(value)}")
        return replace(profile, **dict(self.overrides))

    def __str__(self) -> str:
        return ", ".join(f"{name} {_text(v)}" for name, v in self.overrides) or "default"


DEFAULT = Point()
Choices = Mapping[str, Point]
"""Points by the digest of the group that they are for (`sdlc.schedule.digest`)."""
NO_CHOICES: Choices = MappingProxyType({})


def point_of(overrides: Mapping[str, Any], profile: Profile) -> Point:
    """A point of these overrides without those that the profile agrees with."""
    said = ((n, v) for n, v in overrides.items() if getattr(profile, n, None) != v)
    return Point(tuple(sorted(said)))


def _shape(value: object) -> object:
    """What two values must have in common for one to stand for the other."""
    return tuple(_shape(v) for v in value) if isinstance(value, tuple) else type(value)


def _is_positive(value: object, name: str) -> bool:
    """Whether numbers are at least 1, or 0 where the field may be."""
    if isinstance(value, tuple):
        return all(_is_positive(v, name) for v in value)
    default = getattr(Profile(), name)
    least = 0 if default == 0 else 1
    return not isinstance(value, int) or isinstance(value, bool) or value >= least


def _text(value: object) -> str:
    return " × ".join(map(str, value)) if isinstance(value, tuple) else str(value)
