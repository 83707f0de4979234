"""Simplification of kernel expressions and kernels.

In: an expression with the ranges of its variables, or a kernel. Out: an equal one, simpler.
Invariant: for every assignment within the ranges the value is the same (integers are taken not to
overflow; the sign of a float zero may change), and simplifying again changes nothing.
A rule is a function of `simplify_integer` or `simplify_scalar`; `RULES` says which apply where.

    simplify((x * 4 + y) floordiv 4, {x: (0, 9), y: (0, 3)})      x
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from sdlc.graph.scalar import SCALARS
from sdlc.graph.types import DType
from sdlc.kernel import simplify_integer as integer
from sdlc.kernel import simplify_scalar as scalar
from sdlc.kernel.intervals import Bounds, Interval, Ranges, interval
from sdlc.kernel.ir import (
    I32,
    Assign,
    Barrier,
    Call,
    Cast,
    Declare,
    Exchange,
    Expr,
    Extract,
    For,
    If,
    Kernel,
    Let,
    Literal,
    MatrixMultiply,
    Stmt,
    Store,
    Var,
    WorkId,
    i32,
    statement_expressions,
    statements,
    with_factors,
    with_operands,
)
from sdlc.kernel.linear import Linear, combine, linear
from sdlc.kernel.simplify_forms import Order

__all__ = ["Interval", "Linear", "Ranges", "interval", "linear", "simplify", "simplify_kernel"]

Rule = Callable[[integer.Context, Any], Expr | None]

_COMPARISONS: Mapping[str, tuple[Rule, ...]] = MappingProxyType(
    {
        **dict.fromkeys(("lt", "le", "gt", "ge"), (integer.less,)),
        **dict.fromkeys(("eq", "ne"), (integer.equality,)),
    }
)

_INTEGER_RULES: Mapping[str, tuple[Rule, ...]] = MappingProxyType(
    {
        "mul": (integer.canonical_product,),
        "floordiv": (integer.fixed, integer.divide, integer.divide_quotient),
        "mod": (integer.fixed, integer.remainder),
        "min": (integer.extremum,),
        "max": (integer.extremum,),
        **_COMPARISONS,
    }
)

_OTHER_RULES: Mapping[str, tuple[Rule, ...]] = MappingProxyType(
    {
        "and": (scalar.conjunction,),
        "or": (scalar.conjunction,),
        "not": (scalar.negation,),
        "select": (scalar.selection,),
        "f32": (scalar.as_cast,),
        "f16": (scalar.as_cast,),
        "i32": (scalar.as_cast,),
        **scalar.FLOAT_RULES,
    }
)


def _rules_of(op: str, integer: bool) -> tuple[Rule, ...]:
    whole = _INTEGER_RULES.get(op, ()) if integer else ()
    return (scalar.folded, *whole, *_OTHER_RULES.get(op, ()))


_CALL_RULES: Mapping[tuple[str, bool], tuple[Rule, ...]] = MappingProxyType(
    {(op, integer): _rules_of(op, integer) for op in SCALARS for integer in (False, True)}
)


def rules_for(expr: Expr) -> tuple[Rule, ...]:
    """The rules that may apply to an expression, in order."""
    match expr:
        case Call():
            return _CALL_RULES[expr.op, expr.args[-1].type is I32]
        case Cast():
            return (scalar.cast_of_literal, scalar.cast_of_cast)
        case Extract():
            return (scalar.extracted,)
        case _:
            return ()


class Simplifier:
    """Simplifies expressions under ranges that grow as a kernel is entered; `values` replaces
    variables (by expressions without any of them). Results are remembered: a variable means the
    same wherever it is seen."""

    def __init__(
        self,
        bounds: Bounds,
        values: Mapping[Expr, Expr] | None = None,
        order: Order | None = None,
    ) -> None:
        self.bounds = bounds
        self.order = order or Order()
        self.values = dict(values or {})
        self._done: dict[Expr, Expr] = {}

    def assuming(self, condition: Expr) -> Simplifier:
        """A simplifier for code that runs only where `condition` holds."""
        bounds = self.bounds.assuming(condition)
        return self if bounds is self.bounds else Simplifier(bounds, self.values, self.order)

    def visit(self, expr: Expr) -> Expr:
        found = self._done.get(expr)
        if found is None:
            found = self._visit(expr)
            self._done[expr] = found
            self._done[found] = found
        return found

    def shifted(self, expr: Expr, numbers: Mapping[Expr, Expr]) -> Expr | None:
        """The expression with numbers for variables, where only a constant changes: in a sum that
        is simple already, and has the variables in no other atom. Else None."""
        form = expr.form
        if form is None or self._done.get(expr) is not expr:
            return None
        terms, constant = dict[Expr, int](), form[1]
        for atom, step in form[0].items():
            number = numbers.get(atom)
            if isinstance(number, Literal):
                constant += step * int(number.value)
            elif number is None and (not atom.operands or atom.variables.isdisjoint(numbers)):
                terms[atom] = step
            else:
                return None
        return integer.canonical_sum(self, (terms, constant))

    def _visit(self, expr: Expr) -> Expr:
        if isinstance(expr, (Var, WorkId)):
            return self._known(self.values.get(expr, expr))
        if isinstance(expr, Literal):
            return expr
        if expr.form is not None:
            return self._sum(expr.form)
        parts = expr.operands
        made = tuple([self.visit(p) for p in parts])
        current = expr if made == parts else with_operands(expr, made)
        if current.form is not None:
            return self._sum(current.form)
        for rule in rules_for(current):
            better = rule(self, current)
            if better is not None and better is not current and better.type is current.type:
                return self.visit(better)
        return current

    def _known(self, expr: Expr) -> Expr:
        """A variable of one value is that value."""
        low, high = self.bounds.ranges.get(expr, (0, 1))
        return i32(low) if low == high and expr.type is I32 else expr

    def _sum(self, sum: Linear) -> Expr:
        """A sum is simplified atom by atom, then written in canonical order."""
        form: Linear = {}, sum[1]
        for atom, coefficient in sum[0].items():
            form = combine(form, linear(self.visit(atom)), coefficient)
        return integer.canonical_sum(self, form)


def simplify(expr: Expr, ranges: Ranges) -> Expr:
    """An expression of the same value for every assignment within `ranges`."""
    return Simplifier(Bounds(ranges)).visit(expr)


def simplify_kernel(kernel: Kernel) -> Kernel:
    """The kernel with every expression simplified; decided branches, single-trip loops, guards
    that always hold and unused values are gone."""
    ranges: dict[Expr, Interval] = {}
    for dim in range(3):
        ranges[WorkId("group", dim)] = (0, kernel.grid[dim] - 1)
        ranges[WorkId("lane", dim)] = (0, kernel.group[dim] - 1)
    body = _body(Simplifier(Bounds(ranges)), kernel.body)
    return replace(kernel, body=_without_unused(body))


def _body(simplifier: Simplifier, body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
    made: list[Stmt] = []
    for stmt in body:
        made += _statement(simplifier, stmt)
    return tuple(made)


def _statement(simplifier: Simplifier, stmt: Stmt) -> tuple[Stmt, ...]:
    visit = simplifier.visit
    match stmt:
        case Let():
            return _let(simplifier, stmt)
        case Assign() | Declare():
            value = visit(stmt.value)
            return (stmt if value is stmt.value else type(stmt)(stmt.var, value),)
        case Store():
            guard = None if stmt.guard is None else visit(stmt.guard)
            if isinstance(guard, Literal):
                if not guard.value:
                    return ()
                guard = None
            return (Store(stmt.buffer, visit(stmt.index), visit(stmt.value), guard),)
        case For():
            return _for(simplifier, stmt)
        case If():
            return _if(simplifier, stmt)
        case MatrixMultiply():
            return (with_factors(stmt, visit),)
        case Exchange():
            return (replace(stmt, value=visit(stmt.value)),)
        case Barrier():
            return (stmt,)


def _let(simplifier: Simplifier, stmt: Let) -> tuple[Stmt, ...]:
    """A value that is a name or a literal takes the variable's place."""
    value = simplifier.visit(stmt.value)
    immutable = isinstance(value, Var) and value in simplifier.bounds.ranges
    if (immutable or isinstance(value, (Literal, WorkId))) and value.type is stmt.var.type:
        simplifier.values[stmt.var] = value
        return ()
    if value.type.dtype is DType.I32:
        simplifier.bounds.ranges[stmt.var] = simplifier.bounds.interval(value)
    return (stmt if value is stmt.value else Let(stmt.var, value),)


def _for(simplifier: Simplifier, stmt: For) -> tuple[Stmt, ...]:
    if stmt.extent <= 0:
        return ()
    if stmt.extent == 1:
        simplifier.values[stmt.var] = i32(0)
        return _body(simplifier, stmt.body)
    simplifier.bounds.ranges[stmt.var] = (0, stmt.extent - 1)
    body = _body(simplifier, stmt.body)
    return (replace(stmt, body=body),) if body else ()


def _if(simplifier: Simplifier, stmt: If) -> tuple[Stmt, ...]:
    condition = simplifier.visit(stmt.condition)
    if isinstance(condition, Literal):
        return _body(simplifier, stmt.body) if condition.value else ()
    body = _body(simplifier.assuming(condition), stmt.body)
    return (If(condition, body),) if body else ()


def _without_unused(body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
    """The body without `Let`s that nothing reads, not even another unused one."""
    values: dict[Expr, Expr] = {}
    wanted: set[Var | WorkId] = set()
    for stmt in statements(body):
        if isinstance(stmt, Let):
            values[stmt.var] = stmt.value
        else:
            wanted.update(*[e.variables for e in statement_expressions(stmt)])
    needed: set[Expr] = set()
    while wanted:
        var = wanted.pop()
        needed.add(var)
        if var in values:
            wanted |= values[var].variables - needed
    return _keep(body, needed)


def _keep(body: tuple[Stmt, ...], needed: set[Expr]) -> tuple[Stmt, ...]:
    made: list[Stmt] = []
    for stmt in body:
        if isinstance(stmt, Let):
            if stmt.var in needed:
                made.append(stmt)
        elif isinstance(stmt, (For, If)):
            inner = _keep(stmt.body, needed)
            if inner:
                made.append(replace(stmt, body=inner))
        else:
            made.append(stmt)
    return tuple(made)
