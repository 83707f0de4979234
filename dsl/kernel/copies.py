"""Copies of statements at other values.

In: the statements of a scope, values for variables that are free in it. Out: the same statements
with these values, and names of their own for what they declare. Invariant: names stay unique.

    v = x[k]; s = s + v     at k + 4:     v_2 = x[k + 4]; s = s + v_2
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from sdlc.kernel.ir import (
    Assign,
    Barrier,
    Declare,
    Exchange,
    Expr,
    For,
    If,
    Let,
    MatrixMultiply,
    Stmt,
    Store,
    Var,
    with_factors,
)
from sdlc.kernel.rewrite import Fresh
from sdlc.kernel.vectorize import replaced

Values = dict[Expr, Expr]


class Copier:
    """Makes copies within one kernel, whose names it knows."""

    def __init__(self, names: Fresh) -> None:
        self.names = names

    def body(self, body: Iterable[Stmt], values: Values) -> tuple[Stmt, ...]:
        """The statements of a scope with other names, at other values."""
        return tuple(self._copy(stmt, values) for stmt in body)

    def _copy(self, stmt: Stmt, values: Values) -> Stmt:
        match stmt:
            case Let() | Declare():
                value = replaced(stmt.value, values)
                values[stmt.var] = self.fresh(stmt.var)
                return type(stmt)(self._named(stmt.var, values), value)
            case Assign():
                return Assign(self._named(stmt.var, values), replaced(stmt.value, values))
            case Store():
                guard = None if stmt.guard is None else replaced(stmt.guard, values)
                index, value = replaced(stmt.index, values), replaced(stmt.value, values)
                return Store(stmt.buffer, index, value, guard)
            case For():
                values[stmt.var] = self.fresh(stmt.var)
                var = self._named(stmt.var, values)
                return replace(stmt, var=var, body=self.body(stmt.body, values))
            case If():
                condition = replaced(stmt.condition, values)
                return If(condition, self.body(stmt.body, values))
            case Exchange():
                value = replaced(stmt.value, values)
                values[stmt.var] = self.fresh(stmt.var)
                return replace(stmt, var=self._named(stmt.var, values), value=value)
            case MatrixMultiply():
                into = tuple(self._named(v, values) for v in stmt.into)
                made = with_factors(stmt, lambda e: replaced(e, values))
                return replace(made, into=into)
            case Barrier():
                return stmt

    @staticmethod
    def _named(var: Var, values: Values) -> Var:
        found = values.get(var, var)
        assert isinstance(found, Var)
        return found

    def fresh(self, var: Var) -> Var:
        """A variable of the same type whose name begins the same."""
        return Var(self.names.name(var.name), var.type)
