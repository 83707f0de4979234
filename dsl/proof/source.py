"""A small graph as a program of its own, for people to read and the compiler to take.

In: a graph (a kernel's definition, say). Out: the text of an `op` and how its inputs are called
there. Invariant: every name is the language's; constants and weights become inputs. The text may
still be refused (an index whose range only the original program proves), so try it before use.

    op attention_scores(q: f32[2, 4, 8], k: f32[2, 5, 8]) -> (scores: f32[2, 4, 5]) {
      scores[b, s, t] = sum over e < 8 of q[b, s, e] * k[b, t, e]
    }
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from sdlc.graph.expr import Axis, Expr, Index, substitute
from sdlc.graph.node import Const, Graph, Input, Map, Monoid, Node, Reduce, topological
from sdlc.graph.show import show_expr
from sdlc.graph.types import LOWEST, DType

_KEYWORDS = (
    "op block model import fn monoid where return param config require for in if then else reduce"
    " over of and or not true false none pi lowest T f32 f16 i32 bool"
)
KEYWORDS = frozenset(_KEYWORDS.split())
SUM = "sum"


@dataclass(frozen=True, slots=True)
class Source:
    """`names` are the text's names of the graph's inputs, weights and constants, by their own."""

    text: str
    names: dict[str, str]
    precision: DType


@dataclass(slots=True)
class _Names:
    """Identifiers, each given once."""

    taken: set[str] = field(default_factory=set)

    def fresh(self, wanted: str) -> str:
        base = re.sub(r"[^A-Za-z0-9_]", "_", wanted.rsplit(".", 1)[-1]) or "v"
        base = base if base[0].isalpha() else f"v{base}"
        name, count = (f"{base}_" if base in KEYWORDS else base), 1
        while name in self.taken:
            count += 1
            name = f"{base}{count}"
        self.taken.add(name)
        return name


def source_of(graph: Graph) -> Source:
    """The graph as text."""
    nodes = tuple(topological(graph))
    names = _Names()
    called = _names_of(graph, nodes, names)
    half = any(DType.F16 in n.dtypes for n in nodes)
    given = [n for n in dict.fromkeys((*graph.inputs, *nodes)) if isinstance(n, (Input, Const))]
    monoids: dict[Monoid, str] = {}
    for node in nodes:
        if isinstance(node, Reduce) and node.monoid not in monoids:
            monoid = node.monoid
            monoids[monoid] = SUM if monoid.is_sum else names.fresh(f"fold_{monoid.name}")
    lines = [line for n in nodes for line in _statement(n, called, monoids, names)]
    results = [_result(called, names, r, lines, half) for r in graph.outputs]
    parameters = ", ".join(f"{called[n]}: {_type(n.dtypes[0], n.shape, half)}" for n in given)
    head = f"op kernel({parameters}) -> ({', '.join(results)}) {{"
    body = [head, *(f"  {line}" for line in lines), "}"]
    folds = [_monoid(m, name) for m, name in monoids.items() if name != SUM]
    text = "\n\n".join([*folds, "\n".join(body)])
    own = {n.name if isinstance(n, Input) else n.digest: called[n] for n in given}
    return Source(_laid_out(text + "\n"), own, DType.F16 if half else DType.F32)


def _names_of(graph: Graph, nodes: Iterable[Node], names: _Names) -> dict[Node, str]:
    every = dict.fromkeys((*graph.inputs, *nodes))
    return {n: names.fresh(n.name if isinstance(n, Input) else n.origin.name) for n in every}


def _laid_out(text: str) -> str:
    from sdlc.language.format import format_source

    return format_source(text, "kernel.sdl")


def _type(dtype: DType, shape: tuple[int, ...], half: bool) -> str:
    """f16 is the program's precision, so that what is computed in between is f16 as well."""
    element = "T" if half and dtype is DType.F16 else dtype.value
    return f"{element}[{', '.join(map(str, shape))}]"


def _result(
    called: dict[Node, str],
    names: _Names,
    result: tuple[str, Node, int],
    lines: list[str],
    half: bool,
) -> str:
    """The declaration of a result; what is not called by the result's name is copied."""
    _, node, number = result
    kind = _type(node.dtypes[number], node.shape, half)
    if not (isinstance(node, Reduce) and len(node.dtypes) > 1):
        return f"{called[node]}: {kind}"
    field_name = node.monoid.fields[number].name
    copy = names.fresh(f"{called[node]}_{field_name}")
    axes = ", ".join(f"i{d} < {n}" for d, n in enumerate(node.shape))
    at = ", ".join(f"i{d}" for d in range(len(node.shape)))
    lines.append(f"{copy}[{axes}] = {called[node]}.{field_name}[{at}]")
    return f"{copy}: {kind}"


def _statement(
    node: Node, called: dict[Node, str], monoids: dict[Monoid, str], names: _Names
) -> list[str]:
    if isinstance(node, (Input, Const)):
        return []
    over = node.over if isinstance(node, Reduce) else ()
    scope = _Names(set(names.taken))
    renamed = {a: Axis(scope.fresh(a.name), a.extent) for a in (*node.axes, *over)}

    def text(expr: Expr) -> str:
        return show_expr(substitute(expr, {a: Index(b) for a, b in renamed.items()}), called)

    left = f"{called[node]}[{', '.join(str(renamed[a]) for a in node.axes)}]"
    wrapped = "precision f32 {{ {} }}" if node.wide else "{}"
    match node:
        case Map():
            return [wrapped.format(f"{left} = {text(node.body)}")]
        case Reduce():
            pairs = zip(node.monoid.fields, node.lift, strict=True)
            lifts = [(f.name, text(e)) for f, e in pairs]
            several = ", ".join(f"{name} = {e}" for name, e in lifts)
            lift = lifts[0][1] if len(lifts) == 1 else f"({several})"
            inside = ", ".join(str(renamed[a]) for a in over)
            fold = monoids[node.monoid]
            verb = fold if fold == SUM else f"reduce {fold}"
            return [wrapped.format(f"{left} = {verb} over {inside} of {lift}")]


def _monoid(monoid: Monoid, name: str) -> str:
    fields = [f.name for f in monoid.fields]
    lines = [f"monoid {name} {{"]
    for f in monoid.fields:
        lines.append(f"  {f.name}: {f.dtype.value} = {_identity(f.identity, f.dtype)}")
    lines.append("  combine(a, b) {")
    for own, value in zip(fields, monoid.combine, strict=True):
        shown = show_expr(value, {}, lambda s: f"{'ab'[s.side]}.{fields[s.field]}")
        lines.append(f"    {own} = {shown}")
    return "\n".join([*lines, "  }", "}"])


def _identity(value: float, dtype: DType) -> str:
    if dtype is DType.BOOL:
        return "true" if value else "false"
    if value in (LOWEST, -LOWEST):
        return "lowest" if value < 0 else "-lowest"
    return str(int(value)) if float(value).is_integer() else repr(float(value))
