"""Which statements of the source each line of a generated kernel comes from.

In: the group, the kernel as it was printed, the values of its buffers, the text's statement
numbers. Out: for every line the nodes whose definitions it computes. Invariant: a link is never to
a definition outside the kernel; a line that only computes an index has the links of what uses it.

Lowering keeps no trail, so the trail is found again, from what a line loads, stores and computes:

    x_at = x[at]                loads x               the definitions that read x
    value = exp(x_at - s_m)     exp of x and s.m      the first definition with an exp of both
    out[at] = value / s_l       stores out            the definition of out
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sdlc.graph import expr as g
from sdlc.graph.node import Map, Node, Reduce, expressions, reads
from sdlc.kernel import ir as k
from sdlc.schedule.group import Group, nodes_of

Value = tuple[Node, int]
Nodes = frozenset[Node]
NONE: Nodes = frozenset()
STATE = -1
"""In place of a field: the state of a reduction that is under way."""
FUSED = {"fma": frozenset({"mul", "add"})}
"""What a kernel's own operators stand for in definitions."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What the lines of a kernel may stand for. `values` are those that its arrays hold; `needs`
    all that a definition depends on: values, and states of reductions; `makes` its operators."""

    nodes: tuple[Map | Reduce, ...]
    values: Mapping[str, Value]
    readers: Mapping[Value, Nodes]
    needs: Mapping[Node, frozenset[Value]]
    makes: Mapping[Node, frozenset[str]]

    def of(self, ops: Iterable[str], known: frozenset[Value], without: Nodes) -> Nodes:
        """For each operator, the first definition that has it and depends on all of `known`."""
        found: set[Node] = set()
        able = [n for n in self.nodes if known <= self.needs[n] and n not in without]
        for op in ops:
            wanted = FUSED.get(op, frozenset({op}))
            found.update([n for n in able if wanted <= self.makes[n]][:1])
        return frozenset(found)

    def after(self, reduction: Node) -> Nodes:
        """What cannot be computed before the reduction is."""
        return frozenset(
            n for n in self.nodes if n is not reduction and (reduction, STATE) in self.needs[n]
        )

    def reduction(self, known: frozenset[Value]) -> Reduce | None:
        """The first reduction that depends on all of `known`."""
        every = [n for n in self.nodes if isinstance(n, Reduce)]
        fitting = (n for n in every if known <= self.needs[n])
        return next(fitting, every[-1] if every else None)


def meaning_of(group: Group, values: Mapping[str, Value]) -> Meaning:
    """`values` are the group's stored values by the names of their buffers."""
    nodes = nodes_of(group)
    readers: dict[Value, set[Node]] = {}
    needs: dict[Node, frozenset[Value]] = {}
    for node in nodes:
        own: set[Value] = {(node, STATE)} if isinstance(node, Reduce) else set()
        for read in reads(node):
            value = (read.source, read.field)
            readers.setdefault(value, set()).add(node)
            own |= {value, *needs.get(read.source, ())}
        needs[node] = frozenset(own)
    return Meaning(
        nodes,
        {**values, **_kept(group, nodes)},
        {v: frozenset(found) for v, found in readers.items()},
        needs,
        {n: frozenset(_operators(n)) for n in nodes},
    )


def _kept(group: Group, nodes: Sequence[Node]) -> dict[str, Value]:
    """What the arrays of inner groups hold, by the names that lowering gives them: what a node of
    the graph computes, a part of the state of the group's own reduction, or a copy."""
    found: dict[str, Value] = {}
    for part in group.inner:
        origin = part.origins[0] if part.origins == group.origins else part.origins[-1]
        made = [n for n in nodes if n.origin == origin]
        if not made:
            made = [node for node, _ in part.operands[:1]]
        for number, store in enumerate(part.stores):
            name = f"{part.name}_kept{number or ''}"
            if made:
                own = part.origins == group.origins
                found[name] = (made[-1], STATE if own else store.field)
    return found


def _operators(node: Map | Reduce) -> Iterator[str]:
    combine = node.monoid.combine if isinstance(node, Reduce) else ()
    for e in g.walk(*expressions(node), *combine):
        if isinstance(e, g.Apply) and e.dtype.is_float:
            yield e.op


def line_nodes(kernel: k.Kernel, numbers: Sequence[int], meaning: Meaning) -> list[Nodes]:
    """The definitions of every line; `numbers` are the statements that lines spell."""
    found = _Tracing(kernel, meaning).run()
    return [found[n] if 0 <= n < len(found) else NONE for n in numbers]


class _Tracing:
    """Two passes over a kernel's statements: forwards for what they load and compute, backwards
    for what their values are used for."""

    def __init__(self, kernel: k.Kernel, meaning: Meaning) -> None:
        self.meaning = meaning
        self.statements = list(k.statements(kernel.body))
        self.known: dict[k.Expr, frozenset[Value]] = {}
        self.held: dict[str, frozenset[Value]] = {}
        self.until: dict[Node, int] = {}

    def run(self) -> list[Nodes]:
        self._accumulators()
        self._ends_of_reductions()
        direct = [self._direct(n, s) for n, s in enumerate(self.statements)]
        return self._spread(direct)

    # ---- forwards

    def _accumulators(self) -> None:
        """Mutable variables stand for the reduction whose operands they collect."""
        assigned: dict[k.Var, list[k.Expr]] = {}
        for s in self.statements:
            if isinstance(s, k.Declare):
                assigned[s.var] = []
            elif isinstance(s, k.Assign):
                assigned.setdefault(s.var, []).append(s.value)
            elif isinstance(s, k.MatrixMultiply):
                for var in s.into:
                    assigned.setdefault(var, []).extend((*s.left, *s.right))
        for var in assigned:
            self.known[var] = frozenset()
        for s in self.statements:
            if isinstance(s, k.Let | k.Exchange):
                self.known[s.var] = self._known(s.value)
        for var, values in assigned.items():
            loaded = frozenset(v for value in values for v in self._known(value))
            target = self.meaning.reduction(loaded)
            self.known[var] = loaded if target is None else frozenset({(target, STATE)})
        self.known = {v: self.known[v] for v in assigned}

    def _ends_of_reductions(self) -> None:
        """A reduction is under way until its state is last assigned, or kept for other lanes."""
        mutable = dict(self.known)
        for number, s in enumerate(self.statements):
            done: frozenset[Value] = frozenset()
            if isinstance(s, k.Let | k.Exchange):
                self.known[s.var] = self._known(s.value)
            elif isinstance(s, k.Assign):
                done = self.known[s.var]
            elif isinstance(s, k.MatrixMultiply):
                done = frozenset[Value]().union(*(self.known[v] for v in s.into))
            elif isinstance(s, k.Store) and s.buffer.space is not k.Space.GLOBAL:
                done = self._known(s.value)
                self.held[s.buffer.name] = self.held.get(s.buffer.name, frozenset()) | done
            self.until.update({n: number for n, field in done if field == STATE})
        self.known = mutable

    def _known(self, expr: k.Expr) -> frozenset[Value]:
        """The values from outside, and the reductions, that an expression is made of."""
        if expr not in self.known:
            own: frozenset[Value] = frozenset()
            if isinstance(expr, k.Load):
                own = self.held.get(expr.buffer.name, frozenset())
                if expr.buffer.name in self.meaning.values:
                    own |= {self.meaning.values[expr.buffer.name]}
            parts = (self._known(o) for o in k.operands(expr))
            self.known[expr] = own.union(*parts)
        return self.known[expr]

    def _direct(self, number: int, stmt: k.Stmt) -> Nodes:
        """What a statement shows by itself: nothing for loops, branches and barriers."""
        found: set[Node] = set()
        for e in k.walk(*k.statement_expressions(stmt)):
            if isinstance(e, k.Load) and e.buffer.name in self.meaning.values:
                found |= self._readers(number, self.meaning.values[e.buffer.name])
        match stmt:
            case k.Let(var, value) | k.Exchange(var, value):
                self.known[var] = self._known(value)
                found |= self._computed(value, number)
            case k.Declare(var, value) | k.Assign(var, value):
                found |= self._computed(value, number)
                found |= {n for n, field in self.known[var] if field == STATE}
            case k.MatrixMultiply():
                found |= {n for v in stmt.into for n, field in self.known[v] if field == STATE}
            case k.Store():
                found |= self._computed(stmt.value, number) | self._stored(stmt)
        return frozenset(found)

    def _readers(self, number: int, value: Value) -> Nodes:
        """The definitions that a statement may load a value for: none that waits for a reduction
        that is under way, no reduction that is done, unless there is no other."""
        if value[1] == STATE:
            return frozenset({value[0]})
        every = self.meaning.readers.get(value, NONE)
        late = NONE.union(
            *(self.meaning.after(n) for n, end in self.until.items() if number <= end)
        )
        done = {n for n, end in self.until.items() if number > end}
        return every - late - done or every

    def _computed(self, value: k.Expr, number: int) -> Nodes:
        if not value.type.dtype.is_float:
            return NONE
        ops = {e.op for e in k.walk(value) if isinstance(e, k.Call) and e.type.dtype.is_float}
        known = self._known(value)
        without: Nodes = NONE
        for state in (n for n, field in known if field == STATE):
            under_way = number <= self.until.get(state, -1)
            without |= self.meaning.after(state) if under_way else {state}
        return self.meaning.of(sorted(ops - {"select"}), known, without)

    def _stored(self, stmt: k.Store) -> Nodes:
        name = stmt.buffer.name
        if name in self.meaning.values:
            return frozenset({self.meaning.values[name][0]})
        self.held[name] = self.held.get(name, frozenset()) | self._known(stmt.value)
        return frozenset(n for n, field in self._known(stmt.value) if field == STATE)

    # ---- backwards

    def _spread(self, direct: list[Nodes]) -> list[Nodes]:
        """Statements without a meaning of their own have that of what uses their values."""
        users: dict[k.Expr, set[Node]] = {}
        made = list(direct)
        last = len(self.statements)
        inside = _ends(self.statements)
        for number in range(last - 1, -1, -1):
            stmt = self.statements[number]
            if isinstance(stmt, (k.For, k.If)):
                made[number] = self._block(stmt, made[number + 1 : inside[number]])
            elif isinstance(stmt, k.Barrier):
                around = (*made[max(0, number - 1) : number], *made[number + 1 : number + 2])
                made[number] = next((nodes for nodes in around if nodes), NONE)
            elif isinstance(stmt, k.Let) and not made[number]:
                made[number] = frozenset(users.get(stmt.var, ()))
            for e in k.walk(*k.statement_expressions(stmt)):
                if isinstance(e, k.Var):
                    users.setdefault(e, set()).update(made[number])
        return made

    def _block(self, stmt: k.For | k.If, body: list[Nodes]) -> Nodes:
        """Of a loop over a reduced axis, the reduction, if anything of it is inside."""
        inside = NONE.union(*body)
        axis = stmt.axis if isinstance(stmt, k.For) else ""
        over = (n for n in inside if isinstance(n, Reduce) and axis in {a.name for a in n.over})
        return frozenset(over) or inside


def _ends(statements: Sequence[k.Stmt]) -> list[int]:
    """For every statement the number of the one after its body."""
    sizes = {id(s): 1 for s in statements}
    for s in reversed(statements):
        if isinstance(s, (k.For, k.If)):
            sizes[id(s)] = 1 + sum(sizes[id(inner)] for inner in s.body)
    return [number + sizes[id(s)] for number, s in enumerate(statements)]
