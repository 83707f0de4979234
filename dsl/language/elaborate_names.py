"""Names: what they stand for here, and what to say where they stand for nothing.

In: a name and its surroundings. Out: its value. Invariant: axes come first in index notation, then
the names of the definition, then the constants of the language.
"""

from __future__ import annotations

from collections.abc import Collection
from types import MappingProxyType

from sdlc.graph.expr import Index
from sdlc.graph.types import LOWEST
from sdlc.language.diagnostics import did_you_mean
from sdlc.language.scope import Env, Fail
from sdlc.language.syntax import Expression, Name
from sdlc.language.traverse import names_in
from sdlc.language.values import Value

CONSTANTS = MappingProxyType(
    {"true": True, "false": False, "none": None, "pi": 3.141592653589793, "lowest": LOWEST}
)


def value_of_name(env: Env, node: Name) -> Value:
    """The value of a name, POISON if what defines it has failed."""
    name = node.id
    if env.scalar and name in env.axes:
        return Index(env.axes[name])
    if name in env.frame.names:
        return env.frame.names[name]
    if name in CONSTANTS:
        return CONSTANTS[name]
    if name in env.axes:
        raise env.fail(
            "E020",
            f"axis `{name}` stands where a known value is needed",
            node.span,
            "an axis takes all of its values",
            help=f"axes are for index notation: cover all values, and choose with `if … {name} …`",
        )
    raise unknown_name(env, node)


def unknown_name(env: Env, node: Name) -> Fail:
    known = [*env.axes, *(n for n in env.frame.names if n[0] not in "*<"), *CONSTANTS]
    advice = did_you_mean(node.id, known)
    if node.id in env.session.library.callables_in(node.span.file):
        advice = f"`{node.id}` is a definition: call it, `{node.id}(…)`"
    elif f"*{node.id}" in env.frame.names:
        advice = f"`*{node.id}` is any number of sizes and has no value of its own"
    elif not advice:
        advice = "names are axes, sizes, parameters, and what earlier statements define"
    return env.fail("E020", f"unknown name `{node.id}`", node.span, help=advice)


def check_names(env: Env, expressions: Collection[Expression], axes: Collection[str]) -> None:
    """Raises Fail for the first name in the expressions that means nothing; `axes` are about to be
    in scope."""
    for expression in expressions:
        for name in names_in(expression):
            known = name.id in axes or name.id in env.axes or name.id in CONSTANTS
            if not known and name.id not in env.frame.names:
                raise unknown_name(env, name)
