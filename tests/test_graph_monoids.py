"""The laws of every monoid of the standard library, on states that programs reach.

A program that uses the monoid is drawn, its lifted states are computed, and three groups of them
are combined in decimal arithmetic of 200 digits: there the laws hold to 50 digits or are wrong.
"""

from __future__ import annotations

import decimal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import assume

from conftest import ForAll
from sdlc.graph.expr import Apply, Expr, Literal, Slot
from sdlc.graph.node import Graph, Map, Monoid, Reduce, topological
from sdlc.graph.reference import Mode, evaluate
from sdlc.graph.reference_expr import Arithmetic
from sdlc.graph.reference_reduce import combine, identity
from sdlc.graph.types import Array, DType
from sdlc.language.library import load_prelude
from sdlc.language.syntax import Reduction
from strategies import Case, build_graph, cases, drawable, parts, weights_of

DIGITS = 200
State = tuple[Any, ...]

MONOIDS = tuple(load_prelude().monoids)
F32 = Arithmetic(np.dtype(np.float32))


@dataclass(frozen=True)
class Reached:
    """A monoid of a drawn program and three groups of states that its lift gives."""

    monoid: Monoid
    groups: tuple[tuple[State, ...], ...]


def users(name: str) -> list[str]:
    """The definitions that fold a monoid."""
    return [
        key
        for key, definition in drawable().items()
        if any(isinstance(p, Reduction) and p.monoid == name for p in parts(definition.body))
    ]


@st.composite
def reached(draw: st.DrawFn, name: str) -> Reached:
    case = draw(cases(1, only=users(name)))
    graph = build_graph(case)
    found = [n for n in reductions(graph) if n.monoid.name == name]
    assume(found)
    node = draw(st.sampled_from(found))
    columns = [lifted(case, graph, node, f) for f in range(len(node.lift))]
    groups = draw(
        st.lists(st.lists(st.integers(0, columns[0].size - 1), max_size=4), min_size=3, max_size=3)
    )
    states = tuple(tuple(tuple(exact(c[i]) for c in columns) for i in g) for g in groups)
    assume(all(np.isfinite(float(v)) for group in states for state in group for v in state))
    return Reached(node.monoid, states)


def reductions(graph: Graph) -> Iterator[Reduce]:
    return (n for n in topological(graph) if isinstance(n, Reduce))


def lifted(case: Case, graph: Graph, node: Reduce, field: int) -> Array:
    """What a reduction folds for this case: one field of the lift over all axes, flat."""
    dtype = node.monoid.fields[field].dtype
    points = Map(node.axes + node.over, node.lift[field], dtype)
    made = Graph("lifted", (("out", points, 0),), graph.inputs)
    values = evaluate(made, case.inputs, weights_of(made), Mode.F64)["out"].reshape(-1)
    return values.astype(np.bool_) if dtype is DType.BOOL else values


def exact(value: Any) -> Any:
    """An element as a number of Python's, floats as decimals."""
    plain = value.item()
    return Decimal(plain) if isinstance(plain, float) else plain


# ---- combine, in exact or many-digit arithmetic ------------------------------------------------


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


def value_of(expr: Expr, left: State, right: State) -> Any:
    match expr:
        case Literal(value, dtype):
            return Decimal(value) if dtype.is_float else value
        case Slot(side, number):
            return (left, right)[side][number]
        case Apply("select", (condition, then, otherwise)):
            chosen = then if value_of(condition, left, right) else otherwise
            return value_of(chosen, left, right)
        case Apply(op, args):
            return _EXACT[op](*(value_of(a, left, right) for a in args))
        case _:
            raise AssertionError(f"a combine reads only its operands, not {expr}")


def combined(monoid: Monoid, left: State, right: State) -> State:
    return tuple(value_of(e, left, right) for e in monoid.combine)


def neutral(monoid: Monoid) -> State:
    return tuple(
        Decimal(f.identity) if f.dtype.is_float else f.dtype.numpy.type(f.identity).item()
        for f in monoid.fields
    )


def folded(monoid: Monoid, states: Sequence[State]) -> State:
    total = neutral(monoid)
    for state in states:
        total = combined(monoid, total, state)
    return total


def same(one: State, other: State, scale: Decimal) -> bool:
    """Equal to 50 digits, or to 100 digits of the largest number that took part."""

    def close(a: Any, b: Any) -> bool:
        if not isinstance(a, Decimal):
            return bool(a == b)
        size = max(abs(a), abs(b))
        return bool(abs(a - b) <= max(size * Decimal("1e-50"), scale * Decimal("1e-100")))

    return all(close(a, b) for a, b in zip(one, other, strict=True))


def magnitude(*states: State) -> Decimal:
    numbers = [abs(v) for s in states for v in s if isinstance(v, Decimal)]
    # Squared, for the monoids of second moments.
    return max((n * n for n in numbers), default=Decimal(1)) + 1


@pytest.mark.parametrize("name", MONOIDS)
def test_laws(name: str, for_all: ForAll) -> None:
    assert users(name), f"no operator of the standard library uses the monoid {name}"

    def check(case: Reached) -> None:
        monoid = case.monoid
        with decimal.localcontext(decimal.Context(prec=DIGITS, Emin=-(10**6), Emax=10**6)):
            a, b, c = (folded(monoid, g) for g in case.groups)
            scale = magnitude(a, b, c)
            left = combined(monoid, combined(monoid, a, b), c)
            right = combined(monoid, a, combined(monoid, b, c))
            assert same(left, right, scale), "not associative"
            ab, ba = combined(monoid, a, b), combined(monoid, b, a)
            assert same(ab, ba, scale), "not commutative"
            none = neutral(monoid)
            assert same(combined(monoid, none, a), a, scale), "not a left identity"
            assert same(combined(monoid, a, none), a, scale), "not a right identity"

    for_all(reached(name), check, 30, 0.1)


@pytest.mark.parametrize("name", MONOIDS)
def test_identity_is_finite_in_f32(name: str, for_all: ForAll) -> None:
    def check(case: Reached) -> None:
        none = identity(case.monoid, F32)
        both = combine(case.monoid, none, none, F32)
        for value, start in zip(both, none, strict=True):
            assert np.isfinite(value) and value == start, "combine(identity, identity)"
        for state in case.groups[0]:
            kinds = zip(state, case.monoid.fields, strict=True)
            held = [F32.hold(float(v), f.dtype) for v, f in kinds]
            for kept in (held, [enlarged(v) for v in held]):
                with np.errstate(over="ignore"):
                    made = combine(case.monoid, none, kept, F32)
                for value, start in zip(made, kept, strict=True):
                    assert value == start, "combine(identity, state)"

    for_all(reached(name), check, 5, 0.01)


def enlarged(value: Array) -> Array:
    """A float whose square overflows, if it is not zero."""
    return (
        np.clip(value * np.float64(1e30), -1e37, 1e37).astype(np.float32)
        if value.dtype.kind == "f"
        else value
    )


def test_a_wrong_monoid_is_caught() -> None:
    """Softmax statistics without the rescaling are not associative."""
    slots = [[Slot(side, f, DType.F32) for f in range(2)] for side in range(2)]
    (am, al), (bm, bl) = slots
    top = Apply("max", (am, bm))
    shifted = Apply("exp", (Apply("sub", (bm, top)),))
    wrong = Apply("add", (al, Apply("mul", (bl, shifted))))
    name = "softmax_stats"
    fields = next(
        n.monoid.fields for n in reductions(build_graph(softmax_case())) if n.monoid.name == name
    )
    monoid = Monoid("wrong", fields, (top, wrong))
    a, b = (Decimal(0), Decimal(1)), (Decimal(3), Decimal(1))
    assert not same(combined(monoid, a, b), combined(monoid, b, a), magnitude(a, b))


def softmax_case() -> Case:
    text = "model m(x: f32[4]) -> f32[4] {\n  return softmax(x)\n}\n"
    return Case(text, (), DType.F32)
