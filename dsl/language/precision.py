"""Which calls are computed in f32, whatever the program's precision is: `--f32 SCOPE`.

In: patterns, and every call as it is expanded. Out: whether one of them covers the call. Invariant:
a pattern covers a call where it fits the name of its definition, its scope path or a beginning of
that (`*` fits dots too), with or without the program's name in front; what a call calls is covered
with it. Example: `unet.mid_block` covers `mid_block.resnets.0.conv1` in the program `unet`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase

from sdlc.language.diagnostics import failure

MOST_NAMED = 6


@dataclass(slots=True)
class Scopes:
    """The patterns of one program, with what was found of them. `root` is the program's name."""

    patterns: tuple[str, ...]
    root: str = ""
    one_of_many: bool = False
    """Whether there are other programs that patterns may fit."""
    met: set[str] = field(default_factory=set)
    known: dict[str, None] = field(default_factory=dict)
    """Every path and name that a pattern could have fitted."""

    @property
    def here(self) -> tuple[str, ...]:
        """The patterns that fit something in the program."""
        return tuple(p for p in self.patterns if p in self.met)

    def cover(self, scope: str, definition: str) -> bool:
        """Whether a call is to be computed in f32."""
        paths = [definition, *_beginnings(self.root, scope)]
        self.known |= dict.fromkeys(paths)
        found = {p for p in self.patterns if any(fnmatchcase(path, p) for path in paths)}
        self.met |= found
        return bool(found)


def _beginnings(root: str, scope: str) -> Iterator[str]:
    """`a`, `a.b`, … of a scope path, and the same behind the program's name."""
    parts = scope.split(".") if scope else []
    if root:
        yield root
    for count in range(1, len(parts) + 1):
        path = ".".join(parts[:count])
        yield path
        if root:
            yield f"{root}.{path}"


def check_met(scopes: Iterable[Scopes]) -> None:
    """Raises SdlError (E049) where a pattern fits nothing in any of these programs."""
    scopes = tuple(scopes)
    met = {pattern for each in scopes for pattern in each.met}
    known = dict.fromkeys(path for each in scopes for path in each.known)
    for pattern in dict.fromkeys(p for each in scopes for p in each.patterns):
        if pattern not in met:
            near = get_close_matches(pattern, known, n=1, cutoff=0.5)
            some = ", ".join(sorted(known, key=lambda p: (p.count("."), p))[:MOST_NAMED])
            help = f"did you mean `{near[0]}`?" if near else f"there are {some}, …"
            raise failure("E049", f"no scope or operator fits `--f32 {pattern}`", help)
