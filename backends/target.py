"""Targets: what `targets/*.toml` say of GPUs, read and checked.

In: a target's name. Out: `Target`. Invariant: every number of a target has a source, and every
field is one of `sdlc.target`; docs/targets.md describes them.

    load_target("adreno").caps.languages     ("opencl", "wgsl")
"""

from __future__ import annotations

import tomllib
from dataclasses import MISSING, fields, replace
from difflib import get_close_matches
from importlib.resources import files
from itertools import product
from typing import Any

from sdlc.language.diagnostics import failure
from sdlc.target import Capabilities, Holding, MatrixInstruction, Peak, Profile, Target

TABLES = ("caps", "profile", "peak")
FOLDER = "sdlc.backends.targets"
SIDES, HELD = ("left", "right", "result"), ("elements", "lanes")


def target_names() -> tuple[str, ...]:
    """The names that `load_target` takes, sorted."""
    names = (f.name for f in files(FOLDER).iterdir())
    return tuple(sorted(n.removesuffix(".toml") for n in names if n.endswith(".toml")))


def load_target(name: str) -> Target:
    """The target `name`. Raises SdlError (D010) for a name that is none."""
    known = target_names()
    if name not in known:
        close = get_close_matches(name, known, 1)
        hint = f"did you mean `{close[0]}`? " if close else ""
        raise failure("D010", f"no target `{name}`", f"{hint}targets: {', '.join(known)}")
    return parse_target(name, files(FOLDER).joinpath(f"{name}.toml").read_text("utf-8"))


def parse_target(name: str, text: str) -> Target:
    """A target from the text of its table. Raises SdlError (D011) for anything unknown, missing or
    without a source."""
    table = whole_table(name, text)
    needed = {"title", *TABLES, "sources"}
    _check_keys(name, "", table, {*needed, "matrix"}, needed)
    caps, profile, peak = (_record(name, t, table[t]) for t in TABLES)
    caps = replace(caps, matrix=tuple(_matrix(name, each) for each in table.get("matrix", ())))
    sources = table["sources"]
    unsourced = [f for f in numbers(table) if not sources.get(f, "").strip()]
    if unsourced:
        raise _broken(name, f"no source for {', '.join(unsourced)}")
    unused = [f for f in sources if f not in _names(table)]
    if unused:
        raise _broken(name, f"sources for fields that are not there: {', '.join(unused)}")
    return Target(name, table["title"], caps, profile, peak, tuple(sources.items()))


def whole_table(name: str, text: str) -> dict[str, Any]:
    """The table of a target, with what it leaves to its `base`."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _broken(name, str(error)) from error
    base = table.pop("base", None)
    if base is None:
        return table
    place = files(FOLDER).joinpath(f"{base}.toml")
    if not isinstance(base, str) or base == name or not place.is_file():
        raise _broken(name, f"there is no base `{base}`")
    under = whole_table(base, place.read_text("utf-8"))
    tables = {t: {**under[t], **table.get(t, {})} for t in (*TABLES, "sources")}
    return {**under, **table, **tables}


def numbers(table: dict[str, Any]) -> list[str]:
    """The names (`caps.local_bytes`) of the fields that state a fact: all but lists of words."""
    return [n for n in _names(table) if not _words(_value(table, n))]


def _names(table: dict[str, Any]) -> list[str]:
    return [f"{t}.{key}" for t in TABLES for key in table[t]]


def _value(table: dict[str, Any], name: str) -> Any:
    first, second = name.split(".")
    return table[first][second]


def _words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) for v in value)


def _record(name: str, key: str, table: dict[str, Any]) -> Any:
    kind = {"caps": Capabilities, "profile": Profile, "peak": Peak}[key]
    known = {f.name: f.default is MISSING for f in fields(kind)}
    _check_keys(name, f"[{key}] ", table, set(known), {n for n, must in known.items() if must})
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in table.items()})


def _matrix(name: str, table: dict[str, Any]) -> MatrixInstruction:
    """A matrix instruction, whose every place must be held by some work-item."""
    known = {f.name for f in fields(MatrixInstruction)}
    _check_keys(name, "[[matrix]] ", table, {*known, "source"}, {*known, "source"})
    if not str(table["source"]).strip():
        raise _broken(name, f"no source for the matrix instruction {table['name']}")
    held = {
        side: Holding(**{key: tuple((r, c) for r, c in table[side][key]) for key in HELD})
        for side in SIDES
    }
    made = MatrixInstruction(**{k: v for k, v in table.items() if k in known} | held)
    shapes = ((made.m, made.k), (made.k, made.n), (made.m, made.n))
    for side, (rows, columns) in zip(SIDES, shapes, strict=True):
        every = product(range(made.lanes), range(held[side].count))
        found = {held[side].place(lane, element) for lane, element in every}
        if found != set(product(range(rows), range(columns))):
            raise _broken(name, f"{made.name}: {side} is not {rows} × {columns}")
    return made


def _check_keys(
    name: str, where: str, table: dict[str, Any], known: set[str], needed: set[str]
) -> None:
    if unknown := sorted(set(table) - known):
        raise _broken(name, f"{where}has no field {', '.join(unknown)}")
    if missing := sorted(needed - set(table)):
        raise _broken(name, f"{where}lacks {', '.join(missing)}")


def _broken(name: str, what: str) -> Exception:
    return failure("D011", f"target `{name}`: {what}", "see docs/targets.md for the fields")
