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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sdlc.graph.types import Span
from sdlc.kernel.ir import Barrier, statements
from sdlc.language.diagnostics import Diagnostic, did_you_mean, source_lines
from sdlc.language.syntax import Definition, Module
from sdlc.program.program import Program

_LINE = re.compile(
    r"#\s*(?:(?P<target>[a-z][a-z0-9_-]*)\s+)??(?:without\s+(?P<without>[a-z0-9_, ]+?)\s+)?"
    r"(?P<what>kernels|dispatches|barriers):\s*(?P<count>\d+)\s*$"
)
_SIZES = re.compile(r"#\s*sizes:\s*(?P<sizes>.*?)\s*$")
_ALMOST = re.compile(
    r"#(?:\s*[\w, -]+)?\s+(?P<what>[a-z]+):\s*\d+\s*$|#\s*(?P<sizes>[a-z]+):\s*(?:\w+=\w*\s*)+$"
)
"""A comment in the form of these lines, whatever it names."""
NAMES = ("kernels", "dispatches", "barriers", "sizes")
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
class Said:
    """A size as it is written: `n` and `77`."""

    name: str
    value: str
    span: Span


@dataclass(frozen=True, slots=True)
class Header:
    """What the lines before a definition say; `misspelt` are those that almost say something."""

    expectations: tuple[Expectation, ...] = ()
    sizes: tuple[Said, ...] = ()
    misspelt: tuple[Diagnostic, ...] = ()

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
    sizes: list[Said] = []
    misspelt: list[Diagnostic] = []
    lines = source_lines(module.text)
    for number in range(after + 1, before):
        text = lines[number - 1]
        span = Span(module.file, number, 1, number, len(text) + 1)
        if found := _SIZES.match(text):
            parts = (word.partition("=") for word in found["sizes"].split())
            sizes += [Said(name, value, span) for name, _, value in parts]
        elif found := _LINE.match(text):
            without = tuple(re.split(r"[,\s]+", found["without"])) if found["without"] else ()
            target = found["target"] or ""
            count = int(found["count"])
            expectations.append(Expectation(found["what"], count, target, without, span))
        elif advice := _advice(text):
            message = "this line says nothing of a program's kernels or sizes"
            misspelt.append(Diagnostic("C002", message, span, "nobody would read it", (), advice))
    return Header(tuple(expectations), tuple(sizes), tuple(misspelt))


def _advice(text: str) -> str:
    """How a line that almost says something is written, or '' where it is another comment."""
    found = _ALMOST.match(text)
    what = (found["what"] or found["sizes"]) if found else "sizes"
    if what == "sizes":
        return ""
    if what not in NAMES:
        return did_you_mean(what, NAMES)
    return f"write `# {what}: 2`, `# TARGET {what}: 2` or `# without RULE[, RULE] {what}: 2`"


def unknown_targets(header: Header, known: Sequence[str]) -> tuple[Diagnostic, ...]:
    """A diagnostic (C002) for every line about a target that there is not."""
    return tuple(
        Diagnostic(
            "C002",
            f"there is no target `{each.target}`",
            each.span,
            "this is never looked at",
            (),
            did_you_mean(each.target, known) or f"targets: {', '.join(known)}",
        )
        for each in header.expectations
        if each.target and each.target not in known
    )


def size_problem(said: Said, definition: str, known: Sequence[str]) -> Diagnostic:
    """What is wrong with a size that is not one of the definition's (`known`), or is no size."""
    if said.name not in known:
        message = f"`{definition}` has no size `{said.name}`"
        advice = did_you_mean(said.name, known) or f"its sizes are {', '.join(known) or 'none'}"
        return Diagnostic("E039", message, said.span, "sizes of the definition below", (), advice)
    message = f"`{said.name}={said.value}` is no size"
    advice = f"write {said.name}=3, or {said.name}=2x3 for *{said.name}"
    return Diagnostic("E038", message, said.span, "sizes of the definition below", (), advice)


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
