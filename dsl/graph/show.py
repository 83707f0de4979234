"""The graph as text: one line a node, sources before readers.

In: a graph. Out: text. Invariant: names are unique and depend only on the graph, not on the run.

    conv_in[b, o, y, x] : f32[1, 96, 32, 32] = sum over c < 4, i < 3, j < 3 of
        latent[b, c, y + i - 1, x + j - 1] else 0 * weight[o, c, i, j]   # conv2d, conv_in
(on one line).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sdlc.graph.expr import Apply, Expr, Index, Literal, Read, Slot
from sdlc.graph.names import free_name
from sdlc.graph.node import Const, Graph, Input, Map, Monoid, Node, Reduce, topological
from sdlc.graph.types import LOWEST, DType

Names = Mapping[Node, str]

_INFIX = {
    "or": (1, "or"),
    "and": (2, "and"),
    "lt": (4, "<"),
    "le": (4, "<="),
    "gt": (4, ">"),
    "ge": (4, ">="),
    "eq": (4, "=="),
    "ne": (4, "!="),
    "add": (5, "+"),
    "sub": (5, "-"),
    "mul": (6, "*"),
    "div": (6, "/"),
    "floordiv": (6, "/"),
    "mod": (6, "%"),
    "pow": (9, "^"),
}
_SELECT, _NOT, _MINUS, _ATOM = 0, 3, 8, 10
_SHORT = 8
"""The longest constant that is shown in full."""


def show_graph(graph: Graph) -> str:
    """Readable text: monoids first, then nodes, then the results' names."""
    nodes = tuple(topological(graph))
    names = node_names(graph)
    monoids = dict.fromkeys(n.monoid for n in nodes if isinstance(n, Reduce))
    lines = [f"graph {graph.name}"]
    lines += [show_monoid(m) for m in monoids if not m.is_sum]
    lines += [show_node(n, names) for n in nodes]
    results = (f"{name} = {_element(node, field, names)}" for name, node, field in graph.outputs)
    return "\n".join([*lines, f"return {', '.join(results)}"]) + "\n"


def node_names(graph: Graph) -> dict[Node, str]:
    """A unique name for every node: its origin's, with a number where that is taken."""
    names: dict[Node, str] = {}
    taken: set[str] = set()
    for node in topological(graph):
        base = node.name if isinstance(node, Input) else node.origin.name
        names[node] = free_name(base, taken)
        taken.add(names[node])
    return names


def show_node(node: Node, names: Names) -> str:
    """One node on one line, with the definition and scope that it comes from."""
    name = names[node]
    match node:
        case Input():
            line = f"{node.role.value} {name} : {_type(node)}"
        case Const():
            line = f"const {name} : {_type(node)} = {_constant(node)}"
        case Map():
            line = f"{name}{_axes(node)} : {_type(node)} = {show_expr(node.body, names)}"
        case Reduce():
            line = f"{name}{_axes(node)} : {_type(node)} = {_reduction(node, names)}"
    where = ", ".join(part for part in (node.origin.definition, node.origin.scope) if part)
    return f"{line}   # {where}" if where else line


def _reduction(node: Reduce, names: Names) -> str:
    fields = [
        (f.name, show_expr(e, names)) for f, e in zip(node.monoid.fields, node.lift, strict=True)
    ]
    over = ", ".join(str(a) for a in node.over)
    lift = fields[0][1] if len(fields) == 1 else ", ".join(f"{n} = {e}" for n, e in fields)
    return f"{node.monoid.name} over {over} of {lift if len(fields) == 1 else f'({lift})'}"


def show_monoid(monoid: Monoid) -> str:
    """`monoid max(value = lowest): value = max(a.value, b.value)`"""

    def slot(s: Slot) -> str:
        return f"{'ab'[s.side]}.{monoid.fields[s.field].name}"

    fields = ", ".join(
        f"{f.name} = {_literal(Literal(f.identity, f.dtype))}" for f in monoid.fields
    )
    pairs = zip(monoid.fields, monoid.combine, strict=True)
    combine = "; ".join(f"{f.name} = {_show(e, {}, slot)[0]}" for f, e in pairs)
    return f"monoid {monoid.name}({fields}): {combine}"


def show_expr(expr: Expr, names: Names, slot: Callable[[Slot], str] | None = None) -> str:
    """The expression in the language's own notation; tensors are called by `names`, a monoid's
    operands as `slot` says (`a.0` for field 0 of the left one)."""
    return _show(expr, names, slot or (lambda s: f"{'ab'[s.side]}.{s.field}"))[0]


def _show(expr: Expr, names: Names, slot: Callable[[Slot], str]) -> tuple[str, int]:
    """The text and how tightly its outermost operator binds."""

    def at(e: Expr, level: int) -> str:
        text, binding = _show(e, names, slot)
        return text if binding >= level else f"({text})"

    match expr:
        case Literal():
            text = _literal(expr)
            return text, _MINUS if text.startswith("-") else _ATOM
        case Index(axis):
            return axis.name, _ATOM
        case Slot():
            return slot(expr), _ATOM
        case Read():
            text = _element(expr.source, expr.field, names)
            text += f"[{', '.join(at(i, 0) for i in expr.indices)}]"
            # A guarded read is an operand: `else` binds tighter than any operator.
            return (text if expr.fill is None else f"{text} else {at(expr.fill, _ATOM)}"), _ATOM
        case Apply("select", (condition, then, otherwise)):
            text = f"if {at(condition, 1)} then {at(then, 1)} else {at(otherwise, 0)}"
            return text, _SELECT
        case Apply("neg", (operand,)):
            return f"-{at(operand, _MINUS)}", _MINUS
        case Apply("not", (operand,)):
            return f"not {at(operand, _NOT)}", _NOT
        case Apply(op, (left, right)) if op in _INFIX:
            level, sign = _INFIX[op]
            return f"{at(left, level)} {sign} {at(right, level + 1)}", level
        case Apply(op, args):
            return f"{op}({', '.join(at(a, 0) for a in args)})", _ATOM


def _element(node: Node, field: int, names: Names) -> str:
    name = names[node]
    if isinstance(node, Reduce) and len(node.monoid.fields) > 1:
        return f"{name}.{node.monoid.fields[field].name}"
    return name


def _axes(node: Map | Reduce) -> str:
    return f"[{', '.join(a.name for a in node.axes)}]"


def _type(node: Node) -> str:
    kinds = [repr(d) for d in dict.fromkeys(node.dtypes)]
    kind = kinds[0] if len(kinds) == 1 else f"({', '.join(repr(d) for d in node.dtypes)})"
    return f"{kind}[{', '.join(map(str, node.shape))}]"


def _constant(node: Const) -> str:
    flat = node.array.reshape(-1)
    if flat.size > _SHORT:
        return f"<{node.digest}>"
    return "{" + ", ".join(_literal(Literal(v, node.dtype)) for v in flat.tolist()) + "}"


def _literal(literal: Literal) -> str:
    value = literal.value
    if literal.dtype is DType.BOOL:
        return "true" if value else "false"
    if value == LOWEST:
        return "lowest"
    return f"{value:.9g}" if isinstance(value, float) else str(value)
