"""Names that nothing else has.

In: a name and those that are taken. Out: a name. Invariant: it depends on these alone, so that one
program gives the same names in every run.

    free_name("out", {"out", "out_2"})     "out_3"
"""

from __future__ import annotations

from collections.abc import Container


def free_name(base: str, *taken: Container[str]) -> str:
    """`base`, or with the first number from 2 that makes it a name that none of `taken` has."""
    name, count = base, 1
    while any(name in names for names in taken):
        count += 1
        name = f"{base}_{count}"
    return name
