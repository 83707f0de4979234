"""Statements from expressions: naming shared values and moving invariant ones out of loops.

In: expressions and the loops that are open. Out: statements in which every shared or
loop-invariant value is a `Let` in the outermost scope where its operands exist. Invariant:
expressions have no effects and every load is in bounds (`translate`), so a `Let` may run earlier
and more often than its use. Mutable variables are never moved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from sdlc.graph.types import DType
from sdlc.kernel import ir as k
from sdlc.kernel.simplify import linear

NEVER = 1_000_000
_Visit = Callable[[k.Expr], k.Expr]


@dataclass(slots=True)
class _Level:
    """An open scope: the loop that it is the body of, its statements, its values' names."""

    var: k.Var | None
    statements: list[k.Stmt] = field(default_factory=list)
    named: dict[k.Expr, k.Var] = field(default_factory=dict)


class Emitter:
    """Builds a kernel's body from the outside in. Declared variables are mutable: an expression
    that reads one is never moved, and its name is forgotten at the next assignment."""

    def __init__(self, reserved: frozenset[str]) -> None:
        self._reserved = reserved
        self._levels = [_Level(None)]
        self._depths: dict[k.Expr, int] = {}
        self._names: Counter[str] = Counter()
        self._given: set[str] = set()
        self._shared: frozenset[k.Expr] = frozenset()
        self._mutable: set[k.Var] = set()
        self._momentary: dict[k.Expr, k.Var] = {}
        self._loaded: dict[k.Expr, k.Var] = {}

    @property
    def depth(self) -> int:
        return len(self._levels) - 1

    def fresh(self, stem: str, type: k.Type) -> k.Var:
        """A new variable whose name begins with `stem`."""
        while True:
            number = self._names[stem]
            self._names[stem] += 1
            name = f"{stem}{number}" if number else stem
            if name not in self._reserved and name not in self._given:
                self._given.add(name)
                return k.Var(name, type)

    def declare(self, var: k.Var, value: k.Expr) -> None:
        """A mutable variable and its first value."""
        self._depths[var] = NEVER
        self._mutable.add(var)
        self.add(k.Declare(var, self.settle(value)))

    def bind(self, var: k.Var, value: k.Expr) -> k.Var:
        """A named immutable value in the scope that is open; a name that it has already stays."""
        value = self.settle(value)
        if isinstance(value, k.Var) and value not in self._mutable:
            return value
        self._depths[var] = max(self._depth(value), self.depth)
        self.add(k.Let(var, value))
        return var

    def add(self, *statements: k.Stmt) -> None:
        if any(isinstance(s, k.Barrier) or _writes_array(s) for s in statements):
            self._forget()
        self._levels[-1].statements.extend(statements)

    def _forget(self) -> None:
        """Arrays may have changed, or a scope has: named loads of them mean nothing any more."""
        self._momentary.clear()
        self._loaded.clear()

    def open(self, var: k.Var) -> None:
        """Begins the body of a loop over `var`."""
        self._forget()
        self._levels.append(_Level(var))
        self._depths[var] = self.depth

    def close(self, extent: int, axis: str) -> None:
        """Ends the innermost loop."""
        level = self._levels.pop()
        self._forget()
        assert level.var is not None
        self.add(k.For(level.var, extent, tuple(level.statements), axis))

    def branch(self) -> None:
        """Begins what only some work-items do."""
        self._forget()
        self._levels.append(_Level(None))

    def merge(self, condition: k.Expr) -> None:
        """Ends it: `condition` says which do."""
        level = self._levels.pop()
        self._forget()
        self.add(k.If(self.settle(condition), tuple(level.statements)))

    def body(self) -> tuple[k.Stmt, ...]:
        assert self.depth == 0
        return tuple(self._levels[0].statements)

    def assign(self, var: k.Var, value: k.Expr) -> None:
        """A new value for a declared variable; `value` is settled already."""
        self.add(k.Assign(var, value))
        self._momentary.clear()

    def multiply(self, stmt: k.MatrixMultiply) -> None:
        """A product that changes declared variables; its factors are settled already."""
        self.add(stmt)
        self._momentary.clear()

    def exchange(self, value: k.Expr, distance: int, lanes: int) -> k.Var:
        """What another work-item of the sub-group has for `value`, named."""
        var = self.fresh("other", value.type)
        settled = self.settle(value)
        self._depths[var] = self.depth
        self.add(k.Exchange(var, settled, distance, lanes))
        return var

    def prepare(self, values: Iterable[k.Expr]) -> list[k.Expr]:
        """The values to be settled next, in order: what several of them share will be named."""
        memo: dict[k.Expr, k.Expr] = {}
        made = [self._associated(v, memo) for v in values]
        self._shared = _shared(made)
        return made

    def settle(self, value: k.Expr) -> k.Expr:
        """`value` in terms of what is named; what should be named is named first."""
        return self._placed(value, self.depth, {})

    def _placed(self, e: k.Expr, at: int, memo: dict[tuple[k.Expr, int], k.Expr]) -> k.Expr:
        """`e` for use in the scope of depth `at`: a name if it is shared or exists further out."""
        if not e.operands:
            return e
        found = memo.get((e, at))
        if found is None:
            found = memo[(e, at)] = self._made(e, at, memo)
        return found

    def _made(self, e: k.Expr, at: int, memo: dict[tuple[k.Expr, int], k.Expr]) -> k.Expr:
        parts = e.operands
        if not parts:
            return e
        named = self._named(e)
        if named is not None:
            return named
        depth = self._depth(e)
        home = min(depth, self.depth)
        if (home >= at and e not in self._shared) or _trivial(e):
            placed = tuple([self._placed(p, at, memo) for p in parts])
            return e if placed == parts else k.with_operands(e, placed)
        made = k.with_operands(e, tuple([self._placed(p, home, memo) for p in parts]))
        var = self.fresh(_stem(e), e.type)
        self._depths[var] = depth
        self._levels[home].statements.append(k.Let(var, made))
        self._remember(e, var, home)
        return var

    def _remember(self, e: k.Expr, var: k.Var, home: int) -> None:
        """Notes a name for as long as it is true: a load from an array until the array may change,
        what a mutable variable says until one is assigned."""
        if self._depth(e) != NEVER:
            self._levels[home].named[e] = var
        elif not e.variables.isdisjoint(self._mutable):
            self._momentary[e] = var
        else:
            self._loaded[e] = var

    def _named(self, e: k.Expr) -> k.Var | None:
        for level in self._levels:
            if e in level.named:
                return level.named[e]
        return self._momentary.get(e, self._loaded.get(e))

    def _depth(self, e: k.Expr) -> int:
        """The number of the outermost scope in which everything in `e` exists."""
        found = self._depths.get(e)
        if found is None:
            if isinstance(e, k.Load) and e.buffer.space is not k.Space.GLOBAL:
                return NEVER
            found = self._depths[e] = max([self._depth(o) for o in e.operands], default=0)
        return found

    def _associated(self, value: k.Expr, memo: dict[k.Expr, k.Expr]) -> k.Expr:
        """Integer sums regrouped so that what outer loops fix is added first, constants last."""

        def visit(e: k.Expr) -> k.Expr:
            parts = e.operands
            if not parts:
                return e
            found = memo.get(e)
            if found is None:
                if isinstance(e, k.Call) and e.op in ("add", "sub") and e.type is k.I32:
                    found = self._by_depth(e, visit)
                else:
                    made = tuple([visit(p) for p in parts])
                    found = e if made == parts else k.with_operands(e, made)
                memo[e] = found
            return found

        return visit(value)

    def _by_depth(self, e: k.Expr, visit: _Visit) -> k.Expr:
        terms, constant = linear(e)
        total: k.Expr | None = None
        negative: list[tuple[k.Expr, int]] = []
        for atom, factor in sorted(terms.items(), key=lambda t: self._depth(t[0])):
            if factor < 0:
                negative.append((atom, -factor))
                continue
            total = _plus(total, _times(visit(atom), factor))
        for atom, factor in negative:
            term = _times(visit(atom), factor)
            total = k.call("neg", term) if total is None else k.call("sub", total, term)
        if total is None:
            return k.i32(constant)
        if constant < 0:
            return k.call("sub", total, k.i32(-constant))
        return k.call("add", total, k.i32(constant)) if constant else total


def _writes_array(stmt: k.Stmt) -> bool:
    return isinstance(stmt, k.Store) and stmt.buffer.space is not k.Space.GLOBAL


def _plus(total: k.Expr | None, term: k.Expr) -> k.Expr:
    return term if total is None else k.call("add", total, term)


def _times(atom: k.Expr, factor: int) -> k.Expr:
    return atom if factor == 1 else k.call("mul", atom, k.i32(factor))


def _shared(values: list[k.Expr]) -> frozenset[k.Expr]:
    """Subexpressions with more than one use among the values."""
    uses: Counter[k.Expr] = Counter(values)
    for e in k.walk(*values):
        uses.update(k.operands(e))
    return frozenset(e for e, n in uses.items() if n > 1)


def _trivial(e: k.Expr) -> bool:
    """Whether naming the value would only make the kernel longer; a half is never named, as it
    exists only on its way from and to memory."""
    if e.type.dtype is DType.F16:
        return True
    if isinstance(e, (k.Vector, k.Extract)):
        return all(isinstance(o, (k.Literal, k.Var)) for o in k.operands(e))
    return isinstance(e, k.Cast) and isinstance(e.value, (k.Literal, k.Var)) and e.type.lanes == 1


def _stem(e: k.Expr) -> str:
    """A readable name: what is loaded, or what kind of value it is."""
    inner = e.value if isinstance(e, k.Cast) else e
    if isinstance(inner, k.Load):
        return f"{inner.buffer.name}_at"
    match e.type.dtype:
        case DType.I32:
            return "at"
        case DType.BOOL:
            return "inside"
        case _:
            return "value"
