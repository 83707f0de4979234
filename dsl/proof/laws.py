"""Whether a monoid is one: a search for states at which its laws do not hold.

In: graphs and the library that they were made of. Out: an error for each monoid of the program's
own files whose `combine` is not associative and commutative with the given identity, with states
at which it is not, as small as were found. Invariant: states are those that a reduction of a graph
reaches, and numbers have so many digits that no rounding passes for a broken law.

    monoid_problems([graph], library)      # (Diagnostic E051 with the law, states, both sides), …
"""

from __future__ import annotations

import decimal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import product
from types import MappingProxyType
from typing import Any

import numpy as np

from sdlc.graph.expr import Apply, Expr, Literal, Slot, walk
from sdlc.graph.node import Graph, Input, Map, Monoid, Reduce, element_count, points_of, topological
from sdlc.graph.reference import Mode, evaluate
from sdlc.graph.types import Array, DType, Span
from sdlc.language.diagnostics import Diagnostic
from sdlc.language.library import Library
from sdlc.proof.inputs import arrays_of, declared

State = tuple[Any, ...]
"""A value for each field: `Decimal` for floats, Python's own for integers and truth values."""
DIGITS = decimal.Context(prec=200, Emin=-(10**6), Emax=10**6)
MOST_STATES = 5
"""Different states of a reduction that are tried, in all threes."""
MOST_POINTS = 1 << 16
"""Points of the largest reduction, and elements of the largest input, that are evaluated."""
SEEDS = 3


@dataclass(frozen=True, slots=True)
class Broken:
    """A law that does not hold at `states`, by name, and what its sides are there."""

    law: str
    states: Mapping[str, State]
    left: State
    right: State


def monoid_problems(graphs: Iterable[Graph], library: Library) -> tuple[Diagnostic, ...]:
    """An error (E051) for every monoid of the program's own files that is folded in a graph and
    breaks a law."""
    own = {n: d for n, d in library.monoids.items() if d.span.file not in library.prelude.files}
    found: dict[str, Diagnostic] = {}
    for graph in graphs if own else ():
        for node in topological(graph):
            if isinstance(node, Reduce) and node.monoid.name in own.keys() - found.keys():
                broken = broken_in(graph, node)
                if broken is not None:
                    span = own[node.monoid.name].span
                    found[node.monoid.name] = _diagnostic(node.monoid, broken, span)
    return tuple(found.values())


def broken_in(graph: Graph, node: Reduce) -> Broken | None:
    """A law that the monoid of a reduction breaks, at states that it reaches."""
    sizes = (element_count(n) for n in declared(graph))
    if max((points_of(node), *sizes)) > MOST_POINTS or not _known(node.monoid):
        return None
    for seed in range(SEEDS):
        states = _reached(graph, node, seed)[:MOST_STATES]
        tried = (broken_law(node.monoid, *three) for three in product(states, repeat=3))
        found = [broken for broken in tried if broken is not None]
        if found:
            return min(found, key=lambda broken: len(broken.states))
    return None


def broken_law(monoid: Monoid, a: State, b: State, c: State) -> Broken | None:
    """The first law that does not hold at three states; numbers that overflow break none."""
    none = neutral(monoid)
    try:
        with decimal.localcontext(DIGITS):
            scale = _magnitude(a, b, c)
            for law, states, sides in _laws(monoid, none, (a, b, c)):
                left, right = sides()
                if not _same(left, right, scale):
                    return Broken(law, states, left, right)
    except decimal.Overflow:
        return None
    return None


Sides = Callable[[], tuple[State, State]]


def _laws(
    monoid: Monoid, none: State, states: tuple[State, State, State]
) -> Iterator[tuple[str, Mapping[str, State], Sides]]:
    a, b, c = states

    def both(x: State, y: State) -> State:
        return combined(monoid, x, y)

    yield "combine(identity, a) = a", {"a": a}, lambda: (both(none, a), a)
    yield "combine(a, identity) = a", {"a": a}, lambda: (both(a, none), a)
    yield "combine(a, b) = combine(b, a)", {"a": a, "b": b}, lambda: (both(a, b), both(b, a))
    associative = "combine(combine(a, b), c) = combine(a, combine(b, c))"
    every = {"a": a, "b": b, "c": c}
    yield associative, every, lambda: (both(both(a, b), c), both(a, both(b, c)))


# ---- states that a reduction reaches -------------------------------------------------------------


def _reached(graph: Graph, node: Reduce, seed: int) -> list[State]:
    """The different states that are folded, the simplest first."""
    values = {n.name: _drawn(n, seed) for n in declared(graph)}
    columns = [_lifted(graph, node, field, values) for field in range(len(node.lift))]
    states = {tuple(exact(v) for v in row) for row in zip(*columns, strict=True)}
    sound = [s for s in states if all(v.is_finite() for v in s if isinstance(v, Decimal))]
    return sorted(sound, key=lambda s: (sum(abs(v) for v in s), s))


def _drawn(node: Input, seed: int) -> Array:
    """Small whole numbers, which are easy to follow; of floats later normal ones."""
    generator = np.random.default_rng(seed)
    if not node.dtype.is_float:
        return generator.integers(0, 2, node.extents).astype(node.dtype.numpy)
    whole = generator.integers(1, 5, node.extents)
    real = generator.standard_normal(node.extents)
    return (real if seed else whole).astype(node.dtype.numpy)


def _lifted(graph: Graph, node: Reduce, field: int, values: Mapping[str, Array]) -> Array:
    """One field of what a reduction folds, over all its points."""
    dtype = node.monoid.fields[field].dtype
    points = Map((*node.axes, *node.over), node.lift[field], dtype)
    made = arrays_of(graph, dict(values))
    lifted = Graph("lifted", (("out", points, 0),), graph.inputs)
    flat = evaluate(lifted, made.inputs, made.weights, Mode.F64)["out"].reshape(-1)
    return flat.astype(np.bool_) if dtype is DType.BOOL else flat


def exact(value: Any) -> Any:
    """An element as a number of Python's, floats as decimals."""
    plain = value.item()
    return Decimal(plain) if isinstance(plain, float) else plain


# ---- combine, in exact or many-digit arithmetic --------------------------------------------------

_EXACT: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "add": lambda a, b: a + b,
        "sub": lambda a, b: a - b,
        "mul": lambda a, b: a * b,
        "div": lambda a, b: a / b,
        "min": min,
        "max": max,
        "neg": lambda a: -a,
        "abs": abs,
        "exp": lambda a: a.exp(),
        "exp2": lambda a: Decimal(2) ** a,
        "log": lambda a: a.ln(),
        "log2": lambda a: a.ln() / Decimal(2).ln(),
        "sqrt": lambda a: a.sqrt(),
        "rsqrt": lambda a: 1 / a.sqrt(),
        "fma": lambda a, b, c: a * b + c,
        "f32": Decimal,
        "lt": lambda a, b: a < b,
        "le": lambda a, b: a <= b,
        "gt": lambda a, b: a > b,
        "ge": lambda a, b: a >= b,
        "eq": lambda a, b: a == b,
        "ne": lambda a, b: a != b,
        "and": lambda a, b: a and b,
        "or": lambda a, b: a or b,
        "not": lambda a: not a,
    }
)
UNDEFINED = Decimal("NaN")
"""What a division by zero gives, and a root or a logarithm of what has none."""


def combined(monoid: Monoid, left: State, right: State) -> State:
    """The combination of two states, in the current decimal context."""
    return tuple(_field(e, left, right) for e in monoid.combine)


def _field(expr: Expr, left: State, right: State) -> Any:
    try:
        return _value(expr, left, right)
    except (decimal.InvalidOperation, ZeroDivisionError):
        return UNDEFINED


def _value(expr: Expr, left: State, right: State) -> Any:
    match expr:
        case Literal(value, dtype):
            return Decimal(value) if dtype.is_float else value
        case Slot(side, number):
            return (left, right)[side][number]
        case Apply("select", (condition, then, otherwise)):
            chosen = then if _value(condition, left, right) else otherwise
            return _value(chosen, left, right)
        case Apply(op, args):
            return _EXACT[op](*(_value(a, left, right) for a in args))
        case _:
            raise AssertionError(f"a combine reads only its operands, not {expr}")


def _known(monoid: Monoid) -> bool:
    """Whether every operator of the combine has a row in the table above."""
    found = (e.op for e in walk(*monoid.combine) if isinstance(e, Apply))
    return all(op in _EXACT or op == "select" for op in found)


def neutral(monoid: Monoid) -> State:
    """The identity, exactly."""
    return tuple(
        Decimal(f.identity) if f.dtype.is_float else f.dtype.numpy.type(f.identity).item()
        for f in monoid.fields
    )


def folded(monoid: Monoid, states: Sequence[State]) -> State:
    """All states, one after another, from the identity on."""
    total = neutral(monoid)
    for state in states:
        total = combined(monoid, total, state)
    return total


def _same(one: State, other: State, scale: Decimal) -> bool:
    """Equal to 50 digits, or to 100 digits of the largest number that took part."""

    def close(a: Any, b: Any) -> bool:
        if not isinstance(a, Decimal):
            return bool(a == b)
        if a.is_nan() or b.is_nan():
            return False
        size = max(abs(a), abs(b))
        return bool(abs(a - b) <= max(size * Decimal("1e-50"), scale * Decimal("1e-100")))

    return all(close(a, b) for a, b in zip(one, other, strict=True))


def _magnitude(*states: State) -> Decimal:
    numbers = [abs(v) for s in states for v in s if isinstance(v, Decimal)]
    # Squared, for the monoids of second moments.
    return max((n * n for n in numbers), default=Decimal(1)) + 1


# ---- words ---------------------------------------------------------------------------------------


def _diagnostic(monoid: Monoid, broken: Broken, span: Span) -> Diagnostic:
    notes = [(name, _text(monoid, state)) for name, state in broken.states.items()]
    notes += [("left", _text(monoid, broken.left)), ("right", _text(monoid, broken.right))]
    return Diagnostic(
        "E051",
        f"`{monoid.name}` is no monoid",
        span,
        f"it is not so that {broken.law}",
        tuple(notes),
        "states are combined in any order: correct `combine`, or the fields' identities",
    )


def _text(monoid: Monoid, state: State) -> str:
    """`m = 2, l = 1`."""
    pairs = zip(monoid.fields, state, strict=True)
    return ", ".join(f"{f.name} = {_number(v)}" for f, v in pairs)


def _number(value: Any) -> str:
    return f"{float(value):.6g}" if isinstance(value, Decimal) else str(value)
