"""Rules: from `rule name(…) where … { left => right }` to `graph.rules.Rule`.

In: the rules of a library. Out: the same as records that match nodes and replace them. Invariant:
both sides are elaborated as the body of an op would be, at the sizes of the node at hand; sizes
are learned from a first match at probes, extents that stand for what is not known yet.

    select(load_rules(load(path)), only=["flash_attention"])
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from itertools import islice

from sdlc.graph.apply_rules import instantiate
from sdlc.graph.expr import Apply
from sdlc.graph.guards import GUARDS
from sdlc.graph.match import Match, Pattern, Trace, make_pattern, matches
from sdlc.graph.mechanisms import DEFAULT, MECHANISMS
from sdlc.graph.node import Graph, Input, Map, Node, Reduce
from sdlc.graph.numerics import Numerics
from sdlc.graph.rules import Asked, Refused, Rule, Sizes, replace_nodes, select
from sdlc.graph.types import DType
from sdlc.language.diagnostics import Diagnostic, SdlError, did_you_mean, failure
from sdlc.language.elaborate import enter, size_names
from sdlc.language.elaborate_expression import evaluate
from sdlc.language.elaborate_invoke import invoke
from sdlc.language.elaborate_operators import as_whole, axes_of, node_of
from sdlc.language.elaborate_statement import execute
from sdlc.language.library import Library
from sdlc.language.scope import (
    Env,
    Fail,
    Frame,
    Poisoned,
    Session,
    indices,
    span_text,
)
from sdlc.language.syntax import (
    Call,
    Definition,
    Example,
    Guard,
    Name,
    Return,
    RuleDefinition,
    Statement,
    TensorType,
)
from sdlc.language.traverse import names_in
from sdlc.language.values import describe, is_tensor

WHERE = "E037"
"""The code of a `where` that does not hold: the rule is not for these sizes."""
PROBES = (1009, 1013, 1019, 1021, 1031, 1033, 1039, 1049, 1051, 1061, 1063, 1069)
"""Extents that stand for sizes: primes, so that no product or sum of them is another."""
MARK = "$"
"""Ends the names of metavariables."""
MOST_PROBED = 8
"""How many matches at probes are tried at their sizes."""


def load_rules(library: Library) -> tuple[Rule, ...]:
    """The rules that a program may use: the standard library's, then its own files', in the order
    of the text, then the mechanisms. A file's own rule stands in for the library's of that name.

    Raises SdlError for a name that is given twice, an unknown guard or numerics class.
    """
    rules: dict[str, Rule] = {}
    problems: list[Diagnostic] = []
    for own in (False, True):
        taken = {m.name for m in MECHANISMS}
        for definition in _definitions(library, own):
            problems += _problems(definition, taken)
            taken.add(definition.name)
            rules[definition.name] = _rule(library, definition)
    if problems:
        raise SdlError(tuple(problems), library.sources)
    return (*rules.values(), *MECHANISMS)


def _definitions(library: Library, own: bool) -> Iterator[RuleDefinition]:
    """The rules of the program's own files, or those of the standard library."""
    prelude = {id(module) for module in library.prelude.modules}
    for module in library.modules:
        if (id(module) not in prelude) is own:
            yield from module.rules


def own_rules(library: Library, rules: Iterable[Rule] | None = None) -> tuple[Rule, ...]:
    """Of these rules (default: all), the equations of the program's own files."""
    known = load_rules(library) if rules is None else rules
    spans = ((rule, rule.span) for rule in known if rule.sides is not None)
    return tuple(r for r, span in spans if span and span.file not in library.prelude.files)


def chosen_rules(
    library: Library, without: Sequence[str] = (), only: Sequence[str] | None = None
) -> tuple[Rule, ...]:
    """The rules of a program: those in `only`, else the default ones, but for those in `without`.
    In `only`, `default` stands for all of the default ones.

    Raises SdlError (E045) for a name that no rule has.
    """
    asked = ("default",) if only is None else only
    names = [n for name in asked for n in (DEFAULT if name == "default" else (name,))]
    return select(load_rules(library), without, names)


def _rule(library: Library, definition: RuleDefinition) -> Rule:
    equation = Equation(library, definition)
    known = [c.value for c in Numerics]
    numerics = definition.numerics or Numerics.EXACT.value
    return Rule(
        definition.name,
        definition.doc,
        Numerics(numerics) if numerics in known else Numerics.EXACT,
        equation.looks_at,
        equation.attempt,
        span_text(library, definition.equation),
        tuple(equation.example(e) for e in definition.examples),
        equation.worth,
        equation.sides,
        definition.equation,
    )


@dataclass(slots=True, repr=False)
class Equation:
    """One rule of a library. Elaborated sides are kept, by sizes and precision."""

    library: Library
    definition: RuleDefinition
    _patterns: dict[object, Pattern] = field(default_factory=dict)
    _rights: dict[object, Node] = field(default_factory=dict)

    def sides(self, sizes: Sizes, precision: DType) -> tuple[Graph, Graph]:
        """Both sides as programs, at these sizes. Raises SdlError: E037 where the rule's own
        conditions, or those of what it calls, say that it is not for them."""
        why = self._failing(self.definition.guards, sizes)
        if why:
            raise failure(WHERE, why)
        return (
            self._program(self.definition.left, sizes, precision),
            self._program(self.definition.right, sizes, precision),
        )

    def example(self, example: Example) -> Sizes:
        frame = self._frame(DType.F32)
        return {a.name: Env(frame).integer(a.value, "a size") for a in example.sizes}

    # ---- matching ------------------------------------------------------------------------------

    def looks_at(self, node: Node) -> bool:
        """Whether a node is of the kind of the left side's root."""
        match self.probing().root, node:
            case Reduce(monoid=wanted), Reduce(monoid=found):
                return wanted is found
            case Map(body=Apply(op=wanted)), Map(body=Apply(op=found)):
                return wanted == found
        return False

    def attempt(self, rule: Rule, node: Node, asked: Asked) -> Node | Refused:
        assert isinstance(node, Map | Reduce)
        trace = Trace()
        why = ""
        for probed in islice(matches(self.probing(), node, trace), MOST_PROBED):
            found = self._at(rule, node, probed.sizes, asked)
            if not isinstance(found, Refused):
                return found
            why = why or found.why
        return Refused(why or trace.why)

    def _at(self, rule: Rule, node: Map | Reduce, sizes: Sizes, asked: Asked) -> Node | Refused:
        """The node's replacement, where it is the left side at these sizes."""
        precision = asked.around.precision
        try:
            why = self._failing(self.definition.guards, sizes) or asked.profitable(rule, sizes)
            if why:
                return Refused(why)
            pattern, trace = self._pattern(sizes, precision), Trace()
            found = next(matches(pattern, node, trace), None)
            why = trace.why if found is None else self._guarded(found, asked)
            if found is None or why:
                return Refused(why)
            precision = DType.F32 if found.wide else precision
            right = self._right(sizes, precision)
            why = asked.admits(rule, node, sizes)
            if why:
                return Refused(why)
        except SdlError as error:
            if all(d.code == WHERE for d in error.diagnostics):
                return Refused(error.diagnostics[0].message)
            raise
        return instantiate(right, pattern.root.axes, found, precision)

    def _guarded(self, found: Match, asked: Asked) -> str:
        paying = () if asked.any_pays else self.definition.worth
        for guard in (*self.definition.guards, *paying):
            name = guard_name(guard)
            if name not in GUARDS:
                continue
            asked_of = tuple(f"{of}{MARK}" for of in guard_arguments(guard))
            why = GUARDS[name].check(found, asked.around, asked_of)
            if why:
                return f"{guard.message} ({why})" if guard.message else f"guard {name}: {why}"
        return ""

    # ---- conditions on sizes -------------------------------------------------------------------

    def worth(self, sizes: Sizes) -> str:
        """Why an instance does not pay, by the rule's own `worth` clauses."""
        return self._failing(self.definition.worth, sizes)

    def _failing(self, guards: tuple[Guard, ...], sizes: Sizes) -> str:
        """What the first of these conditions that does not hold says."""
        conditions = [g for g in guards if guard_name(g) not in GUARDS]
        if not conditions:
            return ""
        frame = self._frame(DType.F32)
        frame.names.update(sizes)
        for guard in conditions:
            if not Env(frame).evaluate(guard.condition):
                text = span_text(self.library, guard.condition.span)
                names = (n.id for n in names_in(guard.condition) if n.id in sizes)
                values = ", ".join(f"{n} = {sizes[n]}" for n in dict.fromkeys(names))
                return f"{guard.message or f'`{text}` does not hold'} ({values})"
        return ""

    # ---- sides ---------------------------------------------------------------------------------

    def probing(self) -> Pattern:
        """The left side with extents that stand for its sizes."""
        if "probing" not in self._patterns:
            names = size_names(self._as_op(()))
            probes = dict(zip(PROBES, names, strict=False))
            try:
                pattern = self._pattern({n: p for p, n in probes.items()}, DType.F32)
            except SdlError:  # the sizes must fit together: those of an example do
                probes = {size: name for name, size in self._first_example().items()}
                pattern = self._pattern({n: p for p, n in probes.items()}, DType.F32)
            self._patterns["probing"] = replace(pattern, probes=probes)
        return self._patterns["probing"]

    def _first_example(self) -> Sizes:
        return self.example(self.definition.examples[0]) if self.definition.examples else {}

    def _pattern(self, sizes: Sizes, precision: DType) -> Pattern:
        key = (tuple(sizes.items()), precision)
        if key not in self._patterns:
            side = _kept(self._program(self.definition.left, sizes, precision))
            self._patterns[key] = make_pattern(side.outputs[0][1], side.inputs)
        return self._patterns[key]

    def _right(self, sizes: Sizes, precision: DType) -> Node:
        key = (tuple(sizes.items()), precision)
        if key not in self._rights:
            side = _kept(self._program(self.definition.right, sizes, precision))
            self._rights[key] = side.outputs[0][1]
        return self._rights[key]

    def _program(self, side: Sequence[Statement], sizes: Sizes, precision: DType) -> Graph:
        root, inputs = self._elaborate(side, sizes, precision)
        return Graph(self.definition.name, (("out", root, 0),), inputs)

    def _elaborate(
        self, side: Sequence[Statement], sizes: Sizes, precision: DType
    ) -> tuple[Node, tuple[Input, ...]]:
        """The result of a side, a map or a reduction with one field, and the metavariables."""
        frame = self._frame(precision)
        session = frame.session
        made: Node | None = None
        inputs: list[Input] = []
        try:
            inputs = enter(frame, self._as_op(side), sizes)
            made = _result(Env(frame), side)
        except Fail as error:
            session.report(error.diagnostic)
        except Poisoned:
            pass
        if made is None or session.diagnostics:
            raise SdlError(tuple(session.diagnostics.values()), self.library.sources)
        return made, tuple(inputs)

    def _frame(self, precision: DType) -> Frame:
        session = Session(self.library, precision, evaluate, invoke, of_rule=True)
        return Frame(session, self._as_op(()))

    def _as_op(self, side: Sequence[Statement]) -> Definition:
        return as_op(self.definition, side)


def as_op(rule: RuleDefinition, side: Sequence[Statement]) -> Definition:
    """A side of a rule as the definition that it would be by itself."""
    return Definition(
        "op", rule.name, rule.parameters, (), (), rule.doc, tuple(side), rule.header, rule.span
    )


def _kept(side: Graph) -> Graph:
    """A side whose metavariables have names that no program's inputs have. Equal nodes are one
    object: an input of a program must not become a metavariable that is kept, with its origin."""
    made: dict[Node, Node] = {i: replace(i, name=f"{i.name}{MARK}") for i in side.inputs}
    inputs = tuple(replace(i, name=f"{i.name}{MARK}") for i in side.inputs)
    return replace(replace_nodes(side, made), inputs=inputs)


def guard_name(guard: Guard) -> str:
    """The name of a guard that is nothing but a name, or a name and what it is asked about."""
    match guard.condition:
        case Name(id=name):
            return name
        case Call(function=name) if name in GUARDS:
            return name
    return ""


def guard_arguments(guard: Guard) -> tuple[str, ...]:
    """The metavariables that a guard with a name is asked about."""
    given = guard.condition.arguments if isinstance(guard.condition, Call) else ()
    return tuple(a.id for a in given if isinstance(a, Name))


def _result(env: Env, side: Sequence[Statement]) -> Node:
    """Runs a side's statements; what its `return` gives, as a node with one field."""
    last = side[-1] if side else None
    if not isinstance(last, Return) or len(last.values) != 1:
        span = last.span if last is not None else env.frame.definition.span
        help = "end it with `return expression`"
        raise env.fail("E047", "a side of an equation gives one tensor", span, help=help)
    execute(env.frame, side[:-1])
    returned = last.values[0]
    whole = as_whole(env.evaluate(returned))
    if not is_tensor(whole):
        label = f"this is {describe(whole)}"
        help = "a side of an equation is a call, or ends with `return tensor`"
        raise env.fail(
            "E047", "a side of an equation gives one tensor", returned.span, label, help=help
        )
    tensor = node_of(env, whole, "out", returned.span)
    if isinstance(tensor.node, Map | Reduce) and len(tensor.node.dtypes) == 1:
        return tensor.node
    axes = axes_of(env, tensor)
    return Map(axes, tensor.at(indices(axes)), tensor.dtype, env.frame.origin("out", returned.span))


# ---- what is wrong with a rule -------------------------------------------------------------------


def _problems(definition: RuleDefinition, taken: Collection[str]) -> Iterator[Diagnostic]:
    """What can be said of a rule without elaborating it."""
    if definition.name in taken:
        message = f"the rule `{definition.name}` is defined twice"
        yield Diagnostic("E022", message, definition.header, help="rename one of them")
    classes = [c.value for c in Numerics]
    if definition.numerics and definition.numerics not in classes:
        message = f"there is no numerics class `{definition.numerics}`"
        advice = did_you_mean(definition.numerics, classes) or f"classes are {', '.join(classes)}"
        yield Diagnostic("E046", message, definition.header, help=advice)
    names = {p.name for p in definition.parameters}
    for guard in definition.guards:
        name = guard_name(guard)
        if name and name not in GUARDS and name not in names:
            message = f"there is no guard `{name}`"
            advice = did_you_mean(name, GUARDS) or f"guards are {', '.join(GUARDS)}"
            yield Diagnostic("E046", message, guard.span, help=f"{advice}; or write a condition")
    for parameter in definition.parameters:
        if isinstance(parameter.type, TensorType) and not _mentions(
            definition.left, parameter.name
        ):
            message = f"the left side of `{definition.name}` does not use `{parameter.name}`"
            help = "a metavariable is bound by what stands in its place on the left"
            yield Diagnostic("E046", message, parameter.span, help=help)
    yield from _example_problems(definition)
    if not definition.examples:
        message = f"the rule `{definition.name}` has no example"
        help = "give the sizes of one instance, with which it is tested: `example n = 5, m = 3`"
        yield Diagnostic("E046", message, definition.header, help=help)


def _example_problems(definition: RuleDefinition) -> Iterator[Diagnostic]:
    """Examples that do not give every size of the parameters, or give others."""
    sizes = [name.lstrip("*") for name in size_names(as_op(definition, ()))]
    for example in definition.examples:
        given = [argument.name for argument in example.sizes]
        for name in [*sizes, *given]:
            if (name in sizes) is not (name in given):
                what = "does not give the size" if name in sizes else "has a size too many,"
                help = f"the sizes of `{definition.name}` are {', '.join(sizes)}"
                yield Diagnostic("E046", f"the example {what} `{name}`", example.span, help=help)


def _mentions(tree: object, name: str) -> bool:
    """Whether a name stands in a part of a syntax tree."""
    if isinstance(tree, Name):
        return tree.id == name
    if isinstance(tree, tuple):
        return any(_mentions(part, name) for part in tree)
    if not is_dataclass(tree):
        return False
    return any(_mentions(getattr(tree, f.name), name) for f in fields(tree))
