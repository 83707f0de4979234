"""What a program's file says of the kernels that are made of it: `# kernels: 2`.

In: the text of a file. Out: `Expectation`s for the definition that follows them, with default
sizes. Invariant: a line about a target counts for that target instead of the line about all.

    # sizes: b=2 n=77
    # kernels: 1
    # adreno kernels: 2
    # without some_rule dispatches: 4
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from sdlc.graph.types import Span
from sdlc.kernel.ir import Barrier, statements
from sdlc.language.diagnostics import Diagnostic
from sdlc.language.syntax import Definition, Module
from sdlc.program.program import Program

_LINE = re.compile(
    r"#\s*(?:(?P<target>[a-z][a-z0-9_-]*)\s+)??(?:without\s+(?P<without>[a-z0-9_, ]+?)\s+)?"
    r"(?P<what>kernels|dispatches|barriers):\s*(?P<count>\d+)\s*$"
)
_SIZES = re.compile(r"#\s*sizes:\s*(?P<sizes>.*?)\s*$")
MOST_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Expectation:
    """`count` of `what` for a target ('': any other), with the rules `without` off."""

    what: str
    count: int
    target: str
    without: tuple[str, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Header:
    """`sizes` as written: `("b=2", "n=77")`."""

    expectations: tuple[Expectation, ...] = ()
    sizes: tuple[str, ...] = ()

    def targets(self) -> tuple[str, ...]:
        """Targets that lines are about."""
        return tuple(dict.fromkeys(e.target for e in self.expectations if e.target))

    def about(self, target: str) -> tuple[Expectation, ...]:
        """What is expected for a target."""
        own = {(e.what, e.without) for e in self.expectations if e.target == target}
        return tuple(
            e
            for e in self.expectations
            if e.target == target or (not e.target and (e.what, e.without) not in own)
        )


def header_of(module: Module, name: str) -> Header:
    """The lines between the definition before `name` and `name` itself."""
    ends = [0]
    for definition in module.definitions:
        span = definition.span
        if isinstance(definition, Definition) and definition.name == name:
            return _read(module, max(ends), span.line)
        ends.append(span.end_line)
    return Header()


def _read(module: Module, after: int, before: int) -> Header:
    expectations: list[Expectation] = []
    sizes: list[str] = []
    lines = module.text.splitlines()
    for number in range(after + 1, before):
        text = lines[number - 1]
        if found := _SIZES.match(text):
            sizes += found["sizes"].split()
        elif found := _LINE.match(text):
            span = Span(module.file, number, 1, number, len(text) + 1)
            without = tuple(re.split(r"[,\s]+", found["without"])) if found["without"] else ()
            target = found["target"] or ""
            count = int(found["count"])
            expectations.append(Expectation(found["what"], count, target, without, span))
    return Header(tuple(expectations), tuple(sizes))


def measure(program: Program) -> Mapping[str, int]:
    """Distinct kernels, launches of a run, and barriers in all kernels."""
    bodies = (s for k in program.kernels.values() for s in statements(k.body))
    return {
        "kernels": len(program.kernels),
        "dispatches": len(program.dispatches),
        "barriers": sum(isinstance(s, Barrier) for s in bodies),
    }


def unmet(
    expected: Iterable[Expectation], target: str, build: Callable[[tuple[str, ...]], Program]
) -> tuple[Diagnostic, ...]:
    """A diagnostic (C002) for every expectation that does not hold; `build` compiles without some
    rules."""
    programs: dict[tuple[str, ...], Program] = {}
    problems = []
    for each in expected:
        if each.without not in programs:
            programs[each.without] = build(each.without)
        program = programs[each.without]
        found = measure(program)[each.what]
        if found != each.count:
            problems.append(_problem(each, found, target, program))
    return tuple(problems)


def _problem(each: Expectation, found: int, target: str, program: Program) -> Diagnostic:
    off = f" without {', '.join(each.without)}" if each.without else ""
    names = list(program.kernels)
    shown = ", ".join(names[:MOST_SHOWN]) + (", …" if len(names) > MOST_SHOWN else "")
    return Diagnostic(
        "C002",
        f"{found} {each.what} for {target}{off}, where the file says {each.count}",
        each.span,
        "this is expected",
        (("kernels", shown),),
        "correct the line if this is meant; `sdlc explain` shows what became of the program",
    )
