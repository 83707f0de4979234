"""Level 1: the syntax tree. What was written, and where.

In: the parser. Out: frozen dataclasses, a span on every one. Invariant: nothing is resolved; names
are as written. Comments are not in the tree (`format` reads them from the text).
"""

from __future__ import annotations

from dataclasses import dataclass

from sdlc.graph.types import Span

# ---- expressions -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Number:
    """`text` is as written; the value is an int if it has neither point nor exponent."""

    text: str
    span: Span

    @property
    def value(self) -> int | float:
        return int(self.text) if self.text.isdigit() else float(self.text)


@dataclass(frozen=True, slots=True)
class String:
    value: str
    span: Span


@dataclass(frozen=True, slots=True)
class Name:
    """A name, or one of the constants `true false none pi lowest`."""

    id: str
    span: Span


@dataclass(frozen=True, slots=True)
class Unary:
    """`op` is `-` or `not`."""

    op: str
    operand: Expression
    span: Span


@dataclass(frozen=True, slots=True)
class Binary:
    """`op` is one of `+ - * / % ^ < <= > >= == != and or in`."""

    op: str
    left: Expression
    right: Expression
    span: Span


@dataclass(frozen=True, slots=True)
class Conditional:
    """`if condition then then else otherwise`"""

    condition: Expression
    then: Expression
    otherwise: Expression
    span: Span


@dataclass(frozen=True, slots=True)
class Spread:
    """`*name` as an index or a dimension."""

    id: str
    span: Span


@dataclass(frozen=True, slots=True)
class Range:
    """`start..stop` as an index; either end may be missing."""

    start: Expression | None
    stop: Expression | None
    span: Span


@dataclass(frozen=True, slots=True)
class Subscript:
    """`base[indices]`, with the `else` value of a guarded read."""

    base: Expression
    indices: tuple[Expression | Spread | Range, ...]
    otherwise: Expression | None
    span: Span


@dataclass(frozen=True, slots=True)
class Attribute:
    """`base.name`: a field of a record."""

    base: Expression
    name: str
    span: Span


@dataclass(frozen=True, slots=True)
class Argument:
    """`name = value` after the `;` of a call, in a lift or in a record."""

    name: str
    value: Expression
    span: Span


@dataclass(frozen=True, slots=True)
class Label:
    """A scope path: parts are literal text (dots included) or expressions in braces, and the path
    is their concatenation: `down.{i}.conv{j}` has the parts `down.`, i, `.conv`, j."""

    parts: tuple[str | Expression, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Call:
    """`label: function(arguments; attributes)`"""

    function: str
    arguments: tuple[Expression, ...]
    attributes: tuple[Argument, ...]
    label: Label | None
    span: Span
    function_span: Span


@dataclass(frozen=True, slots=True)
class AxisRange:
    """`name`, `name < extent` (after `over` or in a definition's brackets) or `*name`."""

    name: str
    extent: Expression | None
    spread: bool
    span: Span


@dataclass(frozen=True, slots=True)
class Reduction:
    """`monoid over axes of lift`; `sum over …` has the monoid `sum`. `fields` are the named lifts,
    or a single one with the name ''."""

    monoid: str
    axes: tuple[AxisRange, ...]
    fields: tuple[Argument, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class ListValue:
    items: tuple[Expression, ...]
    span: Span


Expression = (
    Number
    | String
    | Name
    | Unary
    | Binary
    | Conditional
    | Subscript
    | Attribute
    | Call
    | Reduction
    | ListValue
)

# ---- types and parameters ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TensorType:
    """`element[dimensions]`, optional where a `?` follows."""

    element: str
    dimensions: tuple[Expression | Spread, ...]
    optional: bool
    span: Span


@dataclass(frozen=True, slots=True)
class ValueType:
    """The type of a compile-time value: `int float bool str list`."""

    name: str
    span: Span


@dataclass(frozen=True, slots=True)
class Parameter:
    """`attribute` says whether it stands after the `;`."""

    name: str
    type: TensorType | ValueType
    default: Expression | None
    attribute: bool
    span: Span


@dataclass(frozen=True, slots=True)
class Result:
    """One result of a definition; the name of a single unnamed one is `out`."""

    name: str
    type: TensorType
    span: Span


@dataclass(frozen=True, slots=True)
class Guard:
    """`where condition "message"`"""

    condition: Expression
    message: str | None
    span: Span


# ---- statements --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Define:
    """`name[axes] = value`"""

    name: str
    axes: tuple[AxisRange, ...]
    value: Expression
    span: Span


@dataclass(frozen=True, slots=True)
class Bind:
    """`a, b = value`"""

    names: tuple[str, ...]
    value: Expression
    span: Span


@dataclass(frozen=True, slots=True)
class Return:
    values: tuple[Expression, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Param:
    """`param name: type`"""

    name: str
    type: TensorType
    span: Span


@dataclass(frozen=True, slots=True)
class Config:
    """`config name = default`"""

    name: str
    default: Expression
    span: Span


@dataclass(frozen=True, slots=True)
class Require:
    condition: Expression
    message: str
    span: Span


@dataclass(frozen=True, slots=True)
class ForLoop:
    """`for names in iterable {}`; `for i < n {}` has `extent` instead."""

    names: tuple[str, ...]
    iterable: Expression | None
    extent: Expression | None
    body: tuple[Statement, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class IfBranch:
    condition: Expression
    body: tuple[Statement, ...]
    otherwise: tuple[Statement, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Precision:
    """`precision name {}`: `name` is `f32`, `f16` or a compile-time value that is one of them."""

    name: str
    body: tuple[Statement, ...]
    span: Span
    name_span: Span


Statement = Define | Bind | Return | Param | Config | Require | ForLoop | IfBranch | Precision

# ---- definitions -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Definition:
    """An `op`, `block` or `model` (`kind`). `header` spans its signature, for citations."""

    kind: str
    name: str
    parameters: tuple[Parameter, ...]
    results: tuple[Result, ...]
    guards: tuple[Guard, ...]
    doc: str
    body: tuple[Statement, ...]
    header: Span
    span: Span


@dataclass(frozen=True, slots=True)
class Function:
    """`fn name(parameters) = body`: a scalar function, expanded where it is called."""

    name: str
    parameters: tuple[str, ...]
    body: Expression
    doc: str
    span: Span


@dataclass(frozen=True, slots=True)
class MonoidField:
    name: str
    element: str
    identity: Expression
    span: Span


@dataclass(frozen=True, slots=True)
class MonoidDefinition:
    """`combine_names` are the two operands' names; `finish_name` is '' where there is no finish."""

    name: str
    fields: tuple[MonoidField, ...]
    combine_names: tuple[str, str]
    combine: tuple[Bind, ...]
    finish_name: str
    finish: tuple[Bind, ...]
    doc: str
    span: Span


@dataclass(frozen=True, slots=True)
class Example:
    """`example s = 5, t = 7`: sizes of one instance of a rule."""

    sizes: tuple[Argument, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class RuleDefinition:
    """`left => right`. Each side is a body that ends in `return`; `numerics` is the class as
    written, '' where none is. A guard that is a bare name is one of the table's."""

    name: str
    parameters: tuple[Parameter, ...]
    guards: tuple[Guard, ...]
    left: tuple[Statement, ...]
    right: tuple[Statement, ...]
    numerics: str
    examples: tuple[Example, ...]
    worth: tuple[Guard, ...]
    doc: str
    equation: Span
    header: Span
    span: Span


@dataclass(frozen=True, slots=True)
class Import:
    path: str
    span: Span


@dataclass(frozen=True, slots=True)
class Module:
    """A parsed file. `text` is its source, for diagnostics."""

    file: str
    text: str
    doc: str
    imports: tuple[Import, ...]
    definitions: tuple[Definition | Function | MonoidDefinition, ...]
    rules: tuple[RuleDefinition, ...] = ()
