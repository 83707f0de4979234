"""Walks over syntax trees.

In: an expression. Out: its parts. Invariant: the order of the text. Example: the parts of `x[i, j]`
are `x`, `i`, `j`.
"""

from __future__ import annotations

from collections.abc import Iterator

from sdlc.language.syntax import (
    Attribute,
    Binary,
    Call,
    Conditional,
    Expression,
    ListValue,
    Name,
    Range,
    Reduction,
    Spread,
    Subscript,
    Unary,
)

Part = Expression | Spread | Range


def parts(expr: Part) -> tuple[Part, ...]:
    """The direct subexpressions."""
    match expr:
        case Unary(operand=a):
            return (a,)
        case Binary(left=a, right=b):
            return (a, b)
        case Conditional(condition=a, then=b, otherwise=c):
            return (a, b, c)
        case Subscript(base=base, indices=indices, otherwise=otherwise):
            rest = () if otherwise is None else (otherwise,)
            return (base, *indices, *rest)
        case Attribute(base=base):
            return (base,)
        case Call(arguments=arguments, attributes=attributes):
            return (*arguments, *(a.value for a in attributes))
        case Reduction(fields=fields):
            return tuple(f.value for f in fields)
        case ListValue(items=items):
            return items
    return ()


def names_in(expr: Part) -> Iterator[Name]:
    """Every name that the expression uses, those that its own reductions bind left out."""
    if isinstance(expr, Name):
        yield expr
    bound = {a.name for a in expr.axes} if isinstance(expr, Reduction) else set()
    for part in parts(expr):
        yield from (n for n in names_in(part) if n.id not in bound)
