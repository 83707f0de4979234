"""From Lark's tree to the syntax tree of `syntax.py`, with a span on every node.

In: the tree of one file. Out: `Module` or an expression, and the mistakes that are not the
grammar's (`problems`). Invariant: children are complete (the grammar keeps all tokens), so a node
reaches from its first child to its last. Example: `binary([a, '+', b])` spans `a + b`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lark import Token, Tree
from lark.visitors import Transformer_NonRecursive

from sdlc.graph.types import Span
from sdlc.language import syntax
from sdlc.language.diagnostics import Diagnostic

VALUE_TYPES = ("int", "float", "bool", "str", "list")
REDUCTIONS = ("sum", "max", "min", "prod", "any", "all")
Children = list[Any]
ParsePart = Callable[[str, Span], tuple[syntax.Expression | None, list[Diagnostic]]]

_ESCAPES = re.compile(r"\\(.)")
_LABEL_PART = re.compile(r"\{([^}]*)\}|[^{}]+")


class Builder(Transformer_NonRecursive[Token, Any]):
    """One method for each rule of the grammar. `parse_part` parses the `{…}` of labels."""

    def __init__(self, file: str, text: str, parse_part: ParsePart) -> None:
        super().__init__(visit_tokens=False)
        self.file = file
        self.text = text
        self.parse_part = parse_part
        self.problems: list[Diagnostic] = []

    def span(self, first: Any, last: Any) -> Span:
        """From the beginning of `first` to the end of `last`, each a token or a node."""
        a, b = _place(first), _place(last)
        return Span(self.file, a[0], a[1], b[2], b[3])

    def reach(self, children: Children) -> Span:
        """The span of a rule with these children; absent ones are None."""
        present = [child for child in children if child is not None]
        return self.span(present[0], present[-1])

    def problem(self, code: str, message: str, span: Span, label: str, help: str) -> None:
        self.problems.append(Diagnostic(code, message, span, label, (), help))

    # ---- definitions ---------------------------------------------------------------------------

    def module(self, c: Children) -> syntax.Module:
        doc = _unquote(c[0]) if c[0] is not None else ""
        items = [child for child in c[2:] if not isinstance(child, Token)]
        imports = tuple(item for item in items if isinstance(item, syntax.Import))
        rules = tuple(item for item in items if isinstance(item, syntax.RuleDefinition))
        other = syntax.Import | syntax.RuleDefinition
        rest = tuple(item for item in items if not isinstance(item, other))
        return syntax.Module(self.file, self.text, doc, imports, rest, rules)

    def expression(self, c: Children) -> Any:
        return c[0]

    def import_(self, c: Children) -> syntax.Import:
        return syntax.Import(_unquote(c[1]), self.reach(c))

    def definition(self, c: Children) -> syntax.Definition:
        kind, name, _, before, _, after, _, _, results, (doc, guards), (_, body, end) = c
        parameters = (
            *(before or ()),
            *(replace(parameter, attribute=True) for parameter in after or ()),
        )
        # `results` carries its last token, because the span of the header ends there.
        values, last = results
        header, span = self.span(kind, last), self.span(kind, end)
        return syntax.Definition(
            str(kind), str(name), parameters, values, guards, doc, body, header, span
        )

    def header(self, c: Children) -> tuple[str, tuple[syntax.Guard, ...]]:
        guards = tuple(child for child in c if isinstance(child, syntax.Guard))
        docs = [child for child in c if isinstance(child, Token) and child.type == "STRING"]
        if len(docs) > 1:
            first = _unquote(docs[0])
            self.problem(
                "E015",
                "two docstrings",
                self.reach(docs[1:]),
                f'the docstring is already "{first}"',
                "keep the one that stands before `where`",
            )
        return (_unquote(docs[0]) if docs else ""), guards

    def guard(self, c: Children) -> syntax.Guard:
        return syntax.Guard(c[0], _unquote(c[1]), self.reach(c))

    def bare_guard(self, c: Children) -> syntax.Guard:
        return syntax.Guard(c[0], None, self.reach(c))

    def parameters(self, c: Children) -> tuple[syntax.Parameter, ...]:
        return tuple(c[::2])

    def parameter(self, c: Children) -> syntax.Parameter:
        name, _, kind, _, default = c
        return syntax.Parameter(str(name), kind, default, False, self.reach(c))

    def results(self, c: Children) -> tuple[tuple[syntax.Result, ...], Any]:
        if isinstance(c[0], syntax.TensorType):
            return (syntax.Result("out", c[0], c[0].span),), c[0]
        return tuple(c[1::2]), c[-1]

    def result(self, c: Children) -> syntax.Result:
        return syntax.Result(str(c[0]), c[2], self.reach(c))

    def tensor_type(self, c: Children) -> syntax.TensorType:
        element, _, dimensions, _, optional = c
        return syntax.TensorType(
            str(element), dimensions or (), optional is not None, self.reach(c)
        )

    def value_type(self, c: Children) -> syntax.ValueType:
        name, span = str(c[0]), self.reach(c)
        if name not in VALUE_TYPES:
            help = f"a tensor's type names its axes: `{name}[n]`, or `{name}[]` for rank 0"
            kinds = "`int`, `float`, `bool`, `str` or `list`"
            self.problem("E014", f"`{name}` is not a type", span, "", f"{help}; a value is {kinds}")
        return syntax.ValueType(name, span)

    def dimensions(self, c: Children) -> tuple[Any, ...]:
        return tuple(c[::2])

    def names(self, c: Children) -> tuple[Token, ...]:
        return tuple(c[::2])

    def function(self, c: Children) -> syntax.Function:
        _, name, _, names, _, doc, _, body = c
        text = _unquote(doc) if doc is not None else ""
        return syntax.Function(str(name), _strings(names), body, text, self.reach(c))

    # ---- monoids -------------------------------------------------------------------------------

    def monoid(self, c: Children) -> syntax.MonoidDefinition:
        span = self.reach(c)
        fields = tuple(child for child in c if isinstance(child, syntax.MonoidField))
        methods = {str(child[0]): child for child in c if isinstance(child, tuple)}
        self.check_methods(c[1], [child for child in c if isinstance(child, tuple)])
        _, combine_names, combine = methods.get("combine", ("", (), ()))
        _, finish_names, finish = methods.get("finish", ("", (), ()))
        a, b = (*_strings(combine_names), "", "")[:2]
        return syntax.MonoidDefinition(
            str(c[1]),
            fields,
            (a, b),
            combine,
            (*_strings(finish_names), "")[0],
            finish,
            _unquote(c[2]) if c[2] is not None else "",
            span,
        )

    def check_methods(self, name: Token, methods: list[Any]) -> None:
        """A monoid has `combine(a, b)`, at most one `finish(a)`, and nothing else."""
        help = "a monoid has fields, `combine(a, b) { … }` and, if it is needed, `finish(a) { … }`"
        arity = {"combine": 2, "finish": 1}
        seen: set[str] = set()
        for method, names, _ in methods:
            span = self.span(method, method)
            if str(method) not in arity:
                self.problem("E016", f"a monoid has no `{method}`", span, "", help)
            elif len(names) != arity[method]:
                message = f"`{method}` has {_operands(len(names))}, not {_operands(arity[method])}"
                self.problem("E016", message, span, "", help)
            elif method in seen:
                self.problem("E016", f"`{method}` is given twice", span, "", "keep one of them")
            seen.add(str(method))
        if "combine" not in seen:
            span = self.span(name, name)
            self.problem("E016", f"monoid `{name}` has no `combine`", span, "", help)

    def field(self, c: Children) -> syntax.MonoidField:
        return syntax.MonoidField(str(c[0]), str(c[2]), c[4], self.reach(c))

    def method(self, c: Children) -> tuple[Token, tuple[Token, ...], tuple[syntax.Bind, ...]]:
        name, _, names, _, (_, statements, _) = c
        for statement in statements:
            if not isinstance(statement, syntax.Bind) or len(statement.names) != 1:
                message = f"`{name}` may only hold assignments `field = expression`"
                help = "use `if c then a else b` and further names for what is in between"
                self.problem("E016", message, statement.span, "", help)
        return name, names, tuple(s for s in statements if isinstance(s, syntax.Bind))

    # ---- rules ---------------------------------------------------------------------------------

    def rule(self, c: Children) -> syntax.RuleDefinition:
        first, name, _, before, _, after, close, (doc, guards), _, (left, right, at), *rest = c
        attributes = (replace(parameter, attribute=True) for parameter in after or ())
        parameters = (*(before or ()), *attributes)
        numerics = [part[1] for part in rest if isinstance(part, tuple)]
        return syntax.RuleDefinition(
            str(name),
            parameters,
            guards,
            left,
            right,
            str(numerics[0]) if numerics else "",
            tuple(part for part in rest if isinstance(part, syntax.Example)),
            tuple(part for part in rest if isinstance(part, syntax.Guard)),
            doc,
            at,
            self.span(first, close),
            self.reach(c),
        )

    def equation(self, c: Children) -> tuple[Any, Any, Span]:
        left, _, right = c
        last = right[-1] if isinstance(right, tuple) else right
        return _side(left), _side(right), self.span(left, last)

    def clause(self, word: Token, wanted: str, form: str) -> None:
        """A clause is known by its first word, which is no keyword."""
        if word != wanted:
            span = self.span(word, word)
            message = f"a rule has no `{word}`"
            help = "behind its equation stand `numerics class`, `example n = 5, …` and `worth …`"
            self.problem("E019", message, span, "", f"{help}; `{wanted}` is written `{form}`")

    def numerics(self, c: Children) -> tuple[Token, Token]:
        self.clause(c[0], "numerics", "numerics exact")
        return c[0], c[1]

    def example(self, c: Children) -> syntax.Example:
        self.clause(c[0], "example", "example n = 5, m = 3")
        return syntax.Example(c[1], self.reach(c))

    def worth(self, c: Children) -> syntax.Guard:
        self.clause(c[0], "worth", 'worth n >= 64 "fewer than 64 rows"')
        return c[1]  # type: ignore[no-any-return]

    # ---- statements ----------------------------------------------------------------------------

    def block(self, c: Children) -> tuple[Token, tuple[Any, ...], Token]:
        return c[0], tuple(child for child in c[1:-1] if not isinstance(child, Token | None)), c[-1]

    def define(self, c: Children) -> syntax.Define:
        return syntax.Define(str(c[0]), c[2] or (), c[5], self.reach(c))

    def bind(self, c: Children) -> syntax.Bind:
        names, _, value = c
        return syntax.Bind(_strings(names), value, self.span(names[0], value))

    def return_(self, c: Children) -> syntax.Return:
        return syntax.Return(tuple(c[1::2]), self.reach(c))

    def param(self, c: Children) -> syntax.Param:
        return syntax.Param(str(c[1]), c[3], self.reach(c))

    def config(self, c: Children) -> syntax.Config:
        return syntax.Config(str(c[1]), c[3], self.reach(c))

    def require(self, c: Children) -> syntax.Require:
        return syntax.Require(c[1], _unquote(c[2]), self.reach(c))

    def for_in(self, c: Children) -> syntax.ForLoop:
        first, names, _, iterable, (_, body, end) = c
        return syntax.ForLoop(_strings(names), iterable, None, body, self.span(first, end))

    def for_less(self, c: Children) -> syntax.ForLoop:
        first, name, _, extent, (_, body, end) = c
        return syntax.ForLoop((str(name),), None, extent, body, self.span(first, end))

    def if_(self, c: Children) -> syntax.IfBranch:
        first, condition, (_, body, end), _, *otherwise = (*c, None)
        match next((part for part in otherwise if part is not None), None):
            case None:
                rest: tuple[syntax.Statement, ...] = ()
            case syntax.IfBranch() as branch:
                rest, end = (branch,), branch
            case (_, statements, last):
                rest, end = statements, last
        return syntax.IfBranch(condition, body, rest, self.span(first, end))

    def precision(self, c: Children) -> syntax.Precision:
        first, name, (_, body, end) = c
        return syntax.Precision(str(name), body, self.span(first, end), self.span(name, name))

    def axes(self, c: Children) -> tuple[syntax.AxisRange, ...]:
        return tuple(c[::2])

    def axis(self, c: Children) -> syntax.AxisRange:
        return syntax.AxisRange(str(c[0]), c[2], False, self.reach(c))

    def axis_spread(self, c: Children) -> syntax.AxisRange:
        return syntax.AxisRange(str(c[1]), None, True, self.reach(c))

    # ---- expressions ---------------------------------------------------------------------------

    def binary(self, c: Children) -> syntax.Binary:
        return syntax.Binary(str(c[1]), c[0], c[2], self.reach(c))

    def unary(self, c: Children) -> syntax.Unary:
        return syntax.Unary(str(c[0]), c[1], self.reach(c))

    def conditional(self, c: Children) -> syntax.Conditional:
        return syntax.Conditional(c[1], c[3], c[5], self.reach(c))

    def reduction(self, c: Children) -> syntax.Reduction:
        name, _, axes, _, body = c[-5:]
        if len(c) == 5 and name not in REDUCTIONS:
            known = ", ".join(f"`{known}`" for known in REDUCTIONS)
            help = f"a monoid's reduction is written `reduce {name} over …`; built in are {known}"
            span = self.span(name, name)
            self.problem("E010", f"`{name}` is not a built-in reduction", span, "", help)
        lift = syntax.Argument("", body, body.span)
        return syntax.Reduction(str(name), axes, (lift,), self.reach(c))

    def lifted(self, c: Children) -> syntax.Reduction:
        return syntax.Reduction(str(c[1]), c[3], c[6], self.reach(c))

    def guarded(self, c: Children) -> syntax.Subscript:
        return replace(c[0], otherwise=c[2], span=self.reach(c))  # type: ignore[no-any-return]

    def subscript(self, c: Children) -> syntax.Subscript:
        return syntax.Subscript(c[0], c[2] or (), None, self.reach(c))

    def attribute(self, c: Children) -> syntax.Attribute:
        return syntax.Attribute(c[0], str(c[2]), self.reach(c))

    def call(self, c: Children) -> syntax.Call:
        name, _, values, _, attributes, _ = c
        at = self.span(name, name)
        return syntax.Call(str(name), values or (), attributes or (), None, self.reach(c), at)

    def labelled(self, c: Children) -> syntax.Call:
        return replace(c[1], label=self.label(c[0]), span=self.reach(c))  # type: ignore[no-any-return]

    def label(self, token: Token) -> syntax.Label:
        """`a.{i}:` into its parts; the token ends with a colon."""
        text = token[:-1].rstrip()
        parts: list[str | syntax.Expression] = []
        line, column = _place(token)[:2]
        for match in _LABEL_PART.finditer(text):
            if match[1] is None:
                parts.append(match[0])
                continue
            at = column + match.start(1)
            inner = Span(self.file, line, at, line, at + len(match[1]))
            value, problems = self.parse_part(match[1], inner)
            self.problems += problems
            parts.append(value if value is not None else match[1])
        return syntax.Label(tuple(parts), Span(self.file, line, column, line, column + len(text)))

    def parenthesis(self, c: Children) -> syntax.Expression:
        return replace(c[1], span=self.reach(c))  # type: ignore[no-any-return]

    def list_value(self, c: Children) -> syntax.ListValue:
        return syntax.ListValue(c[1] or (), self.reach(c))

    def values(self, c: Children) -> tuple[syntax.Expression, ...]:
        return tuple(c[::2])

    indices = attributes = values

    def attribute_value(self, c: Children) -> syntax.Argument:
        return syntax.Argument(str(c[0]), c[2], self.reach(c))

    def spread(self, c: Children) -> syntax.Spread:
        return syntax.Spread(str(c[1]), self.reach(c))

    def range(self, c: Children) -> syntax.Range:
        return syntax.Range(c[0], c[2], self.reach(c))

    def number(self, c: Children) -> syntax.Number:
        return syntax.Number(str(c[0]), self.reach(c))

    def string(self, c: Children) -> syntax.String:
        return syntax.String(_unquote(c[0]), self.reach(c))

    def name(self, c: Children) -> syntax.Name:
        return syntax.Name(str(c[0]), self.reach(c))

    def __default__(self, data: str, children: Children, meta: Any) -> Any:
        """Every rule has a method: a tree that is left would be a hole in this table."""
        raise AssertionError(f"no builder for the rule `{data}` of {Tree(data, children)}")


def _side(part: Any) -> tuple[syntax.Statement, ...]:
    """A side of an equation as the body of a definition."""
    return part[1] if isinstance(part, tuple) else (syntax.Return((part,), part.span),)


def _place(part: Any) -> tuple[int, int, int, int]:
    """Where a token or a node begins and ends: line, column, end line, end column."""
    if isinstance(part, Token):
        return part.line, part.column, part.end_line, part.end_column  # type: ignore[return-value]
    if isinstance(part, tuple):
        return (*_place(part[0])[:2], *_place(part[-1])[2:])
    span: Span = part.span
    return span.line, span.column, span.end_line, span.end_column


def _unquote(token: Token) -> str:
    """The value of a string literal."""
    return _ESCAPES.sub(lambda m: {"n": "\n", "t": "\t"}.get(m[1], m[1]), token[1:-1])


def _strings(tokens: tuple[Token, ...] | None) -> tuple[str, ...]:
    return tuple(str(token) for token in tokens or ())


def _operands(count: int) -> str:
    return f"{count} operand{'' if count == 1 else 's'}"
