"""Where an expression stands: the build, the definition instance, the axes around it.

In: definitions and the calls that instantiate them. Out: `Session`, `Frame`, `Env`, and `Fail`, the
way in which an error leaves an expression. Invariant: a `Fail` carries one complete diagnostic; the
statement that it ends binds its names to `POISON`, and `Poisoned` ends what uses them in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from sdlc.graph.expr import Axis, Expr, Index
from sdlc.graph.node import Input, Monoid
from sdlc.graph.types import DType, Origin, Span
from sdlc.language.diagnostics import Diagnostic, source_lines
from sdlc.language.library import Library
from sdlc.language.precision import Scopes
from sdlc.language.ranges import FULL, Ranges
from sdlc.language.syntax import (
    Call,
    Definition,
    Expression,
    Function,
    MonoidDefinition,
    ValueType,
)
from sdlc.language.traverse import names_in
from sdlc.language.values import Poison, Tensor, Value, describe, is_integer, show

AnyDefinition = Definition | Function | MonoidDefinition

MAX_ERRORS = 20
MAX_DEPTH = 48
"""Calls within calls; more is a definition that calls itself without end."""
MAX_FUNCTIONS = 16
"""Functions within functions."""
FIXED_TYPES = ("f32", "f16", "i32", "bool")
REDUCTIONS = ("sum", "max", "min", "prod", "any", "all")
"""The monoids that need no `reduce` in front of them."""


class Fail(Exception):
    """An error of the user's, on its way to the statement that it ends."""

    def __init__(self, diagnostic: Diagnostic) -> None:
        super().__init__(diagnostic.message)
        self.diagnostic = diagnostic


class Poisoned(Exception):
    """A value that already failed was used: nothing more to say."""


@dataclass(slots=True)
class Session:
    """The state of one build: what has been found wrong, the weights so far, and the two functions
    through which expressions and calls reach each other."""

    library: Library
    precision: DType
    evaluate: Callable[[Env, Expression], Value]
    invoke: Callable[[Env, Call, Definition], Value]
    diagnostics: dict[tuple[str, Span | str], Diagnostic] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    monoids: dict[Span, Monoid] = field(default_factory=dict)
    axis_names: dict[Input, tuple[str, ...]] = field(default_factory=dict)
    scopes: Scopes = field(default_factory=lambda: Scopes(()))
    of_rule: bool = False
    """Whether inputs are a rule's metavariables: what merely repeats one is a map of its own, for
    it may stand for a computation."""

    def report(self, diagnostic: Diagnostic) -> None:
        """Keep the first error of a kind at a place; a line may fail in many instances."""
        place = diagnostic.span or diagnostic.message
        self.diagnostics.setdefault((diagnostic.code, place), diagnostic)


class Declared(NamedTuple):
    """A result's type in a bound frame; `element` is its element type as it is written."""

    dtype: DType
    shape: tuple[int, ...]
    element: str


@dataclass(slots=True)
class Frame:
    """An instance of a definition: its names, its element types and where its weights live."""

    session: Session
    definition: AnyDefinition
    names: dict[str, Value] = field(default_factory=dict)
    types: dict[str, DType] = field(default_factory=dict)
    sizes: dict[str, int | tuple[int, ...]] = field(default_factory=dict)
    scope: str = ""
    caller: Frame | None = None
    site: Span | None = None
    depth: int = 0
    overrides: Mapping[str, object] = field(default_factory=dict)
    results: dict[str, Declared] = field(default_factory=dict)
    precision: DType | None = None
    """How floats of no fixed type are stored; None: as their types say."""
    covered: bool = False
    """Whether the user asked for f32 here (`--f32`), whatever the source says."""

    def stored(self, dtype: DType, element: str = "") -> DType:
        """How a tensor of this type is stored here; `element` is its type as it is written."""
        if self.precision is None or element in FIXED_TYPES or not dtype.is_float:
            return dtype
        return self.precision

    @property
    def wide(self) -> bool:
        return self.precision is DType.F32

    def cover(self) -> None:
        """Asks for f32 where a pattern of the session fits this call, or one around it."""
        fits = self.session.scopes.cover(self.scope, self.definition.name)
        if fits or self.covered:
            self.precision, self.covered = DType.F32, True

    def path(self, name: str) -> str:
        return f"{self.scope}.{name}" if self.scope else name

    def origin(self, name: str, span: Span) -> Origin:
        sites, program = tuple(self.sites()), self.session.library.digest
        return Origin(name, self.definition.name, span, self.scope, sites, program)

    def notes(self, key: str = "in") -> tuple[tuple[str, str], ...]:
        """Which definition an error stands in, where it is called from, and with which sizes."""
        found: list[tuple[str, str]] = []
        if self.caller is not None:
            found.append((key, signature(self.session.library, self.definition)))
            if values := self._values():
                found.append(("with", shortened(", ".join(values))))
            found += [("called at", str(site)) for site in dict.fromkeys(self.sites()[:8])]
        return tuple(found)

    def _values(self) -> list[str]:
        """The sizes and attributes of this instance."""
        found = [f"{n} = {size_text(s)}" for n, s in self.sizes.items()]
        if isinstance(self.definition, Definition):
            values = (p.name for p in self.definition.parameters if isinstance(p.type, ValueType))
            static = ((n, self.names[n]) for n in values if n in self.names)
            found += [f"{n} = {show(v)}" for n, v in static if isinstance(v, (int, float, str))]
        return found

    def sites(self) -> list[Span]:
        """The calls that led here, the last one first."""
        sites, frame = [], self
        while frame.caller is not None:
            if frame.site is not None:
                sites.append(frame.site)
            frame = frame.caller
        return sites

    def user_site(self) -> Span | None:
        """The last of the calls that led here which stands in the user's own files."""
        own = (s for s in self.sites() if s.file not in self.session.library.prelude.files)
        return next(own, self.site)


@dataclass(frozen=True, slots=True)
class Env:
    """The surroundings of an expression.

    `scalar`: inside a statement in index notation. `axes` are its axes by name, `groups` those
    that `*name` stands for, `enclosing` all of them in order, those of the enclosing reductions
    last. `ranges` is what conditions tell about them here, `dropped` what those around the nearest
    reduction tell, which do not hold inside it. `statement` is the tensor that is being
    defined, for the names of reductions inside.
    """

    frame: Frame
    scalar: bool = False
    axes: Mapping[str, Axis] = field(default_factory=dict)
    groups: Mapping[str, tuple[Axis, ...]] = field(default_factory=dict)
    enclosing: tuple[Axis, ...] = ()
    ranges: Ranges = FULL
    dropped: Ranges = FULL
    statement: tuple[str, Span] | None = None

    @property
    def session(self) -> Session:
        return self.frame.session

    def evaluate(self, expression: Expression) -> Value:
        """The value of an expression here; Poisoned if it has failed before."""
        value = self.session.evaluate(self, expression)
        if isinstance(value, Poison):
            raise Poisoned
        return value

    def whole(self) -> Env:
        """The same place for an operand that is a whole tensor."""
        return replace(self, scalar=False)

    def knowing(self, ranges: Ranges) -> Env:
        return replace(self, ranges=ranges)

    def fail(
        self,
        code: str,
        message: str,
        span: Span,
        label: str = "",
        *,
        help: str,
        callee: AnyDefinition | None = None,
    ) -> Fail:
        """An error at `span`; `callee` is the definition that a failed call would have used."""
        library = self.session.library
        if callee is None or callee is self.frame.definition:
            notes = self.frame.notes()
        else:
            notes = (("in", signature(library, callee)), *self.frame.notes("within"))
        return Fail(Diagnostic(code, message, span, label, notes, help))

    def text(self, span: Span) -> str:
        return span_text(self.session.library, span)

    def integer(self, expression: Expression, what: str) -> int:
        """A compile-time integer; `what` names its use in the message."""
        for name in names_in(expression):
            if name.id in self.axes and name.id not in self.frame.names:
                raise self.fail(
                    "E041",
                    f"{what} depends on the axis `{name.id}`",
                    name.span,
                    "it must be known when the program is built",
                    help=f"cover all values, and choose: `if j < {name.id} then … else 0`",
                )
        value = self.whole().evaluate(expression)
        if is_integer(value):
            return value
        advice = "sizes, attributes, loop counters and what is computed from them are known"
        if isinstance(value, float):
            advice = "`i32(e)` makes an integer of a float; `/` of two integers is one"
        raise self.fail(
            "E041",
            f"{what} must be an integer that is known when the program is built",
            expression.span,
            f"this is {describe(value)}",
            help=advice,
        )


def span_text(library: Library, span: Span) -> str:
    """The source text of a span on one line, white space collapsed."""
    lines = source_lines(library.sources.get(span.file, ""))[span.line - 1 : span.end_line]
    if not lines:
        return ""
    lines[-1] = lines[-1][: span.end_column - 1]
    lines[0] = lines[0][span.column - 1 :]
    return " ".join(" ".join(line.split()) for line in lines).strip()


def signature(library: Library, definition: AnyDefinition) -> str:
    """`op matmul(x: T[*b, m, k], …) -> T[*b, m, n]   stdlib/matmul.sdl:3`"""
    where = f"{definition.span.file}:{definition.span.line}"
    match definition:
        case Definition(header=header):
            return f"{shortened(span_text(library, header))}   {where}"
        case Function(name=name, parameters=parameters):
            return f"fn {name}({', '.join(parameters)})   {where}"
        case MonoidDefinition(name=name):
            return f"monoid {name}   {where}"


def shortened(text: str, width: int = 130) -> str:
    """The beginning of a text that is too long for a line."""
    return text if len(text) <= width else text[:width].rsplit(" ", 1)[0] + " …"


def size_text(size: int | tuple[int, ...]) -> str:
    return str(size) if isinstance(size, int) else "×".join(map(str, size)) or "()"


def fresh_axis(name: str, extent: int, taken: Iterable[Axis]) -> Axis:
    """An axis whose name none of `taken` has."""
    names = {a.name for a in taken}
    while name in names:
        name += "_"
    return Axis(name, extent)


def indices(axes: Iterable[Axis]) -> tuple[Expr, ...]:
    return tuple(Index(a) for a in axes)
