"""Random programs, drawn from the signatures of the standard library.

In: the definitions in `stdlib/`. Out: Hypothesis strategies of `Case`: the text of a model that
calls one to four of them, and its inputs. Invariant: nothing here knows an operator; types are
matched, sizes and attributes are drawn until every `where` holds. So a new operator enters by
being written, and a failing case shrinks to a readable program.

    model drawn(x0: f32[3, 5], x1: f32[4, 5]) -> f32[3, 4] {
      y0 = softmax(x0)
      y1 = matmul_nt(y0, x1)
      return y1
    }
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from math import prod
from typing import Any

import hypothesis.strategies as st
from hypothesis import assume, reject

from sdlc.graph.node import Graph, Input, Role, topological
from sdlc.graph.types import Array, DType
from sdlc.language.diagnostics import SdlError
from sdlc.language.elaborate import build
from sdlc.language.library import load, load_prelude
from sdlc.language.syntax import (
    Binary,
    Definition,
    Name,
    Parameter,
    Spread,
    String,
    TensorType,
)
from sdlc.proof.inputs import KINDS, values
from solved import Unsolved, solve

SIZES = (1, 2, 3, 4, 5, 7, 8, 13, 16, 17, 33)
LARGEST = 2048
"""Elements of the largest tensor of a drawn program."""
TRIES = 12
"""How often sizes and attributes of one call are drawn before another definition is taken."""
WHERE = "E037"
"""The code of the error for a `where` that does not hold."""
FLOATS = ("f32", "f16")

Shape = tuple[int, ...]
Value = int | float | bool | str | None


@dataclass(frozen=True, slots=True)
class Tensor:
    """A name of the program, with its type."""

    name: str
    element: str
    shape: Shape

    @property
    def type(self) -> str:
        return f"{self.element}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class Given:
    """How the values of an input are made: its type, a kind of value and a seed."""

    tensor: Tensor
    kind: str
    seed: int

    @property
    def array(self) -> Array:
        return values(DType(self.tensor.element), self.tensor.shape, self.kind, self.seed)


@dataclass(frozen=True)
class Case:
    """A program and what it is run on. `repr` is what a failure shows."""

    text: str
    given: tuple[Given, ...]
    precision: DType

    @property
    def inputs(self) -> dict[str, Array]:
        return {g.tensor.name: g.array for g in self.given}

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What Hypothesis prints: the program, not the record."""
        printer.text(repr(self))

    def __repr__(self) -> str:
        rows = [f"# {g.tensor.name}: {g.kind}, seed {g.seed}" for g in self.given]
        return "\n".join(["", self.text.rstrip(), *rows, f"# precision {self.precision!r}"])


def build_graph(case: Case) -> Graph:
    """The case's program as a graph. Raises SdlError if it is refused, but for a `where` inside of
    a definition that its own signature does not imply: such a case is not one."""
    try:
        return build(load(None, case.text), None, {}, {}, case.precision)
    except SdlError as error:
        if guarded(error):
            reject()
        raise


def guarded(error: SdlError) -> bool:
    """Whether nothing is wrong but that a `where` does not hold."""
    return all(d.code == WHERE for d in error.diagnostics)


def weights_of(graph: Graph) -> dict[str, Array]:
    """Values for a graph's weights, the same for a name at every call."""
    found = [n for n in topological(graph) if isinstance(n, Input) and n.role is Role.WEIGHT]
    return {n.name: values(n.dtype, n.shape, "ordinary", sum(n.name.encode())) for n in found}


# ---- one call ----------------------------------------------------------------------------------


@dataclass
class Binding:
    """What is known of one call while its arguments are drawn."""

    names: dict[str, Any] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)

    def copy(self) -> Binding:
        return Binding(dict(self.names), dict(self.types))

    def unify(self, type: TensorType, tensor: Tensor) -> None:
        """Binds what the type names to this tensor's sizes. Raises Unsolved if they differ."""
        self._unify_element(type.element, tensor.element)
        shape = list(tensor.shape)
        spread = [i for i, d in enumerate(type.dimensions) if isinstance(d, Spread)]
        extra = len(shape) - len(type.dimensions) + 1 if spread else 0
        if len(spread) > 1 or extra < 0 or (not spread and len(shape) != len(type.dimensions)):
            raise Unsolved
        for dimension in type.dimensions:
            if isinstance(dimension, Spread):
                size: Any = tuple(shape[:extra])
                del shape[:extra]
                self._expect(dimension.id, size)
            elif isinstance(dimension, Name):
                self._expect(dimension.id, shape.pop(0))
            elif solve(dimension, self.names) != shape.pop(0):
                raise Unsolved

    def _unify_element(self, wanted: str, element: str) -> None:
        known = self.types.get(wanted, wanted)
        if known == element:
            return
        if known != wanted or not wanted[:1].isupper():
            raise Unsolved
        self.types[wanted] = element

    def _expect(self, name: str, size: Any) -> None:
        if self.names.setdefault(name, size) != size:
            raise Unsolved

    def result(self, type: TensorType, name: str) -> Tensor:
        """The tensor that a result of this type is, once everything is bound."""
        shape: list[int] = []
        for dimension in type.dimensions:
            if isinstance(dimension, Spread):
                shape += self.names[dimension.id]
            else:
                shape.append(solve(dimension, self.names))
        if any(s < 1 for s in shape) or prod(shape) > LARGEST:
            raise Unsolved
        return Tensor(name, self.types.get(type.element, type.element), tuple(shape))


@dataclass
class Sketch:
    """A program while it is drawn."""

    precision: str
    inputs: list[Tensor] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    marked: dict[int, str] = field(default_factory=dict)
    """The precision of lines that have another one."""

    def fresh(self, count: int = 1) -> list[str]:
        """Names for the results of one more line."""
        line = len(self.lines)
        return [f"y{line}"] if count == 1 else [f"y{line}_{i}" for i in range(count)]


@dataclass
class Attempt:
    """One try at the arguments of a call; what it makes is kept only if it succeeds."""

    draw: st.DrawFn
    sketch: Sketch
    definition: Definition
    binding: Binding = field(default_factory=Binding)
    made: list[Tensor] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)
    attributes: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Draws arguments and appends the call to the sketch. Raises Unsolved."""
        for parameter in self.definition.parameters:
            self._parameter(parameter)
        for guard in self.definition.guards:
            if not solve(guard.condition, self.binding.names):
                raise Unsolved
        for result in self.definition.results:
            if result.type.element[:1].isupper():
                self.binding.types.setdefault(result.type.element, self.sketch.precision)
        names = self.sketch.fresh(len(self.definition.results))
        pairs = zip(self.definition.results, names, strict=True)
        results = [self.binding.result(r.type, name) for r, name in pairs]
        is_block = self.definition.kind == "block"
        label = f"b{len(self.sketch.lines)}: " if is_block else ""
        inside = ", ".join(self.arguments)
        if self.attributes:
            inside += f"; {', '.join(self.attributes)}"
        call = f"{label}{self.definition.name}({inside})"
        line = f"{', '.join(names)} = {call}"
        if (is_block or self._unusual()) and not self._admitted(line, results):
            raise Unsolved
        self.sketch.lines.append(line)
        self.sketch.inputs += self.made
        self.sketch.tensors += [*self.made, *results]

    def _unusual(self) -> bool:
        """Whether a type that the definition leaves open is not a float here."""
        return any(t not in FLOATS for t in self.binding.types.values())

    def _admitted(self, line: str, results: list[Tensor]) -> bool:
        """Whether the call meets the `where`s of what a block is made of, and its arithmetic is
        defined for the element types."""
        inputs = [t for t in (*self.sketch.tensors, *self.made) if t.name in self.arguments]
        trial = Sketch(self.sketch.precision, inputs, results, [line])
        try:
            build(load(None, program_text(trial)), None, {}, {}, DType(trial.precision))
        except SdlError as error:
            return not (guarded(error) or self._unusual())
        return True

    def _parameter(self, parameter: Parameter) -> None:
        if isinstance(parameter.type, TensorType):
            self._tensor_parameter(parameter.type)
            return
        value, given = self._value(parameter)
        self.binding.names[parameter.name] = value
        if parameter.attribute and given:
            self.attributes.append(f"{parameter.name} = {written(value)}")
        elif not parameter.attribute:
            self.arguments.append(written(value))

    def _tensor_parameter(self, type: TensorType) -> None:
        if type.optional and self.draw(st.booleans()):
            self.arguments.append("none")
            return
        fitting = [t for t in (*self.sketch.tensors, *self.made) if self._fits(type, t)]
        # The latest tensor comes first, so that calls make chains.
        if fitting and (not self.arguments or self.draw(st.booleans())):
            first = not self.arguments
            chosen = fitting[-1] if first else self.draw(st.sampled_from(fitting[::-1]))
        else:
            chosen = self._new_input(type)
        self.binding.unify(type, chosen)
        self.arguments.append(chosen.name)

    def _fits(self, type: TensorType, tensor: Tensor) -> bool:
        try:
            self.binding.copy().unify(type, tensor)
        except Unsolved:
            return False
        return True

    def _new_input(self, type: TensorType) -> Tensor:
        shape: list[int] = []
        for dimension in type.dimensions:
            if isinstance(dimension, Spread):
                shape += self._spread(dimension.id, prod(shape))
            elif isinstance(dimension, Name):
                shape.append(self._size(dimension.id, prod(shape)))
            else:
                shape.append(solve(dimension, self.binding.names))
        element = self.binding.types.get(type.element, type.element)
        if element[:1].isupper():
            rare = self.draw(st.integers(0, 15))
            element = {14: "i32", 15: "bool"}.get(rare, self.sketch.precision)
        name = f"x{len(self.sketch.inputs) + len(self.made)}"
        made = Tensor(name, element, tuple(shape))
        if prod(shape) > LARGEST or min(shape, default=1) < 1:
            raise Unsolved
        self.made.append(made)
        return made

    def _spread(self, name: str, before: int) -> Shape:
        if name not in self.binding.names:
            rank = self.draw(st.integers(0, 2))
            sizes: list[int] = []
            for _ in range(rank):
                sizes.append(self._free_size(before * prod(sizes)))
            self.binding.names[name] = tuple(sizes)
        known: Shape = self.binding.names[name]
        return known

    def _size(self, name: str, before: int) -> int:
        if name not in self.binding.names:
            self.binding.names[name] = self._free_size(before)
        known: int = self.binding.names[name]
        return known

    def _free_size(self, before: int) -> int:
        """A size that leaves room; one already in the call as often as not, as guards like it."""
        room = [s for s in SIZES if s * before <= LARGEST // 4] or [1]
        known = [n for n in self.binding.names.values() if type(n) is int and n in room]
        return self.draw(st.sampled_from(room) | st.sampled_from(known or room))

    def _value(self, parameter: Parameter) -> tuple[Value, bool]:
        """A compile-time value, and whether it has to be written."""
        default = parameter.default
        usual: Any = None
        if default is not None:
            usual = solve(default, self.binding.names)
            if not self.draw(st.booleans()):
                return usual, False
        assert not isinstance(parameter.type, TensorType)
        match parameter.type.name:
            case "bool":
                return self.draw(st.booleans()), True
            case "int":
                near = (1, 2, 3, 4) if usual is None else (usual, usual + 1, usual + 2, 1, 2, 3, 4)
                more = SIZES if usual is None else ()
                return self.draw(st.sampled_from((*near, *more))), True
            case "float":
                near_float = () if usual is None else (usual, 2 * usual)
                return self.draw(st.sampled_from((*near_float, 0.5, 1.0, 2.0))), True
            case "str":
                return self.draw(st.sampled_from(strings(self.definition))), True
            case _:
                raise Unsolved


def written(value: Value) -> str:
    """A compile-time value as it stands in a program."""
    match value:
        case None | True | False:
            return str(value).lower()
        case str():
            return f'"{value}"'
        case _:
            return repr(value)


def strings(definition: Definition) -> list[str]:
    """The strings that a definition compares with: what its string parameters may be."""
    comparisons = [p for p in parts(definition.body) if isinstance(p, Binary) and p.op == "=="]
    return [c.right.value for c in comparisons if isinstance(c.right, String)] or [""]


def parts(syntax: Any) -> Iterator[Any]:
    """Every record of a piece of syntax, itself included."""
    if isinstance(syntax, tuple):
        for item in syntax:
            yield from parts(item)
    elif is_dataclass(syntax):
        yield syntax
        for item in fields(syntax):
            yield from parts(getattr(syntax, item.name))


# ---- whole programs ----------------------------------------------------------------------------


def drawable() -> dict[str, Definition]:
    """The operators and blocks of the standard library whose arguments can be drawn."""
    return {
        name: d
        for name, d in sorted(load_prelude().callables.items())
        if isinstance(d, Definition) and d.kind in ("op", "block") and not _has_lists(d)
    }


def _has_lists(definition: Definition) -> bool:
    types = [p.type for p in definition.parameters]
    return any(not isinstance(t, TensorType) and t.name == "list" for t in types)


@st.composite
def cases(
    draw: st.DrawFn,
    most_calls: int = 4,
    only: Sequence[str] = (),
    floats: Sequence[str] = FLOATS,
    marked: bool = False,
) -> Case:
    """A program of one to `most_calls` calls (of definitions in `only`, if given) and inputs, in
    one of the precisions `floats`; `marked`: with `precision` around some of its lines."""
    library = drawable()
    names = list(only) or list(library)
    precision = draw(st.sampled_from(floats))
    sketch = Sketch(precision)
    for _ in range(draw(st.integers(1, most_calls))):
        if sketch.tensors and draw(st.integers(0, 5)) == 5:
            _residual(draw, sketch)
        else:
            _call(draw, sketch, library[draw(st.sampled_from(names))])
    assume(sketch.lines)
    if marked:
        chosen = draw(st.sets(st.integers(0, len(sketch.lines) - 1), min_size=1))
        sketch.marked = {n: draw(st.sampled_from(FLOATS)) for n in chosen}
    given = [
        Given(t, draw(st.sampled_from(KINDS)), draw(st.integers(0, 99))) for t in sketch.inputs
    ]
    return Case(program_text(sketch), tuple(given), DType(precision))


def _call(draw: st.DrawFn, sketch: Sketch, definition: Definition) -> None:
    """One more line, if arguments for this definition can be found."""
    for _ in range(TRIES):
        try:
            Attempt(draw, sketch, definition).run()
            return
        except Unsolved:
            continue


def _residual(draw: st.DrawFn, sketch: Sketch) -> None:
    """A line of whole-tensor arithmetic on two equal shapes."""
    last = sketch.tensors[-1]
    if last.element not in FLOATS:
        return
    same = [t for t in sketch.tensors if (t.element, t.shape) == (last.element, last.shape)]
    other = draw(st.sampled_from(same))
    (name,) = sketch.fresh()
    sketch.lines.append(f"{name} = {last.name} {draw(st.sampled_from('+-*'))} {other.name}")
    sketch.tensors.append(Tensor(name, last.element, last.shape))


def program_text(sketch: Sketch) -> str:
    """The model: every input that is used, and as results what the last line made."""
    last = [n.strip() for n in sketch.lines[-1].split(" = ")[0].split(",")]
    by_name = {t.name: t for t in sketch.tensors}
    results = [by_name[n] for n in last]
    types = (
        results[0].type
        if len(results) == 1
        else f"({', '.join(f'r{i}: {t.type}' for i, t in enumerate(results))})"
    )
    parameters = ", ".join(f"{t.name}: {t.type}" for t in sketch.inputs)
    lines = [
        f"precision {sketch.marked[n]} {{ {line} }}" if n in sketch.marked else line
        for n, line in enumerate(sketch.lines)
    ]
    body = "".join(f"  {line}\n" for line in (*lines, f"return {', '.join(last)}"))
    return f"model drawn({parameters}) -> {types} {{\n{body}}}\n"
