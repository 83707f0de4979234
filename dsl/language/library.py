"""The definitions that a program may use: its file, what that imports, and the standard library.

In: a path or a text. Out: a `Library`. Invariant: the standard library's definitions see only each
other, so a user's `op softmax` shadows the library's for user code and for nobody else. Operators
and monoids have separate name spaces (`max(a, b)` is not `max over i of …`).

    library = load(Path("models/unet.sdl"))
    library.definitions["softmax"]
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from sdlc.graph.types import Span
from sdlc.language.diagnostics import Diagnostic, SdlError, failure, source_lines
from sdlc.language.parse import parse_module
from sdlc.language.syntax import Definition, Function, Import, Module, MonoidDefinition

Operator = Definition | Function
"""What can be called."""
AnyDefinition = Definition | Function | MonoidDefinition


@dataclass(frozen=True, slots=True, eq=False)
class Library:
    """`definitions` is what the entry file sees; `prelude` what the standard library sees."""

    entry_module: Module
    modules: tuple[Module, ...]
    callables: Mapping[str, Operator]
    monoids: Mapping[str, MonoidDefinition]
    prelude: Prelude
    sources: Mapping[str, str]
    digest: str
    """Of the program's own files, their names included."""

    @property
    def definitions(self) -> dict[str, AnyDefinition]:
        return {**self.monoids, **self.callables}

    def callables_in(self, file: str) -> Mapping[str, Operator]:
        """The ops, blocks, models and functions in scope in a file."""
        return self.prelude.callables if file in self.prelude.files else self.callables

    def monoids_in(self, file: str) -> Mapping[str, MonoidDefinition]:
        return self.prelude.monoids if file in self.prelude.files else self.monoids


@dataclass(frozen=True, slots=True, eq=False)
class Prelude:
    modules: tuple[Module, ...]
    files: frozenset[str]
    callables: Mapping[str, Operator]
    monoids: Mapping[str, MonoidDefinition]


def load(path: Path | None, text: str | None = None) -> Library:
    """The program in a file, or in `text` (whose imports are then relative to `path`, if given).

    Raises SdlError: a file that cannot be read, syntax errors of every file, a name defined twice.
    """
    name = shown(path) if path is not None else "<text>"
    if text is None:
        if path is None:
            raise failure("E023", "no program was given", "give a path or a text")
        text = _read(path, None, {})
    prelude = load_prelude()
    modules = _with_imports(parse_module(text, name), path)
    sources = {m.file: m.text for m in (*prelude.modules, *modules)}
    callables, monoids = _collect(modules, sources)
    return Library(
        modules[0],
        (*prelude.modules, *modules),
        {**prelude.callables, **callables},
        {**prelude.monoids, **monoids},
        prelude,
        sources,
        hashlib.sha256(repr([(m.file, m.text) for m in modules]).encode()).hexdigest()[:16],
    )


def shown(path: Path) -> str:
    """A file's name in messages and kernels: as it was given, or from the package's `models` on."""
    package = Path(str(files("sdlc.models"))).resolve()
    resolved = path.resolve()
    return f"models/{resolved.relative_to(package)}" if package in resolved.parents else str(path)


@cache
def load_prelude() -> Prelude:
    """The standard library, parsed once."""
    folder = files("sdlc.stdlib")
    entries = sorted((e for e in folder.iterdir() if e.name.endswith(".sdl")), key=lambda e: e.name)
    modules = tuple(parse_module(e.read_text("utf-8"), f"stdlib/{e.name}") for e in entries)
    callables, monoids = _collect(modules, {m.file: m.text for m in modules})
    return Prelude(modules, frozenset(m.file for m in modules), callables, monoids)


def _with_imports(entry: Module, path: Path | None) -> tuple[Module, ...]:
    """The entry module and, each once, all that it imports, directly or not."""
    folder = path.parent if path is not None else Path()
    found: dict[Path, Module] = {}
    if path is not None:
        found[path.resolve()] = entry
    modules = [entry]
    pending = [(entry, folder, i) for i in entry.imports]
    while pending:
        importer, base, wanted = pending.pop(0)
        target = base / wanted.path
        key = target.resolve()
        if key in found:
            continue
        text = _read(target, wanted, {importer.file: importer.text})
        module = found[key] = parse_module(text, shown(target))
        modules.append(module)
        pending += [(module, target.parent, i) for i in module.imports]
    return tuple(modules)


def _read(path: Path, wanted: Import | None, sources: Mapping[str, str]) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        message = f"cannot read {path}: {reason}"
        advice = "check the path"
        if wanted is None:
            raise failure("E023", message, advice) from error
        advice = "the path of an import is relative to the file that it stands in"
        label = "imported here"
        diagnostic = Diagnostic("E023", message, wanted.span, label, help=advice)
        raise SdlError((diagnostic,), sources) from error


def _collect(
    modules: Iterable[Module], sources: Mapping[str, str]
) -> tuple[dict[str, Operator], dict[str, MonoidDefinition]]:
    callables: dict[str, Operator] = {}
    monoids: dict[str, MonoidDefinition] = {}
    problems: list[Diagnostic] = []
    for definition in (d for m in modules for d in m.definitions):
        first: AnyDefinition
        if isinstance(definition, MonoidDefinition):
            first = monoids.setdefault(definition.name, definition)
        else:
            first = callables.setdefault(definition.name, definition)
        if isinstance(definition, Definition):
            problems += _shared_names(definition)
        if first is not definition:
            problems.append(_duplicate(definition, first, sources))
    if problems:
        raise SdlError(tuple(problems), sources)
    return callables, monoids


def _duplicate(
    definition: AnyDefinition, first: AnyDefinition, sources: Mapping[str, str]
) -> Diagnostic:
    span, name = definition.span, definition.name
    line = source_lines(sources[span.file])[span.line - 1]
    column = line.index(name, line.index(" ", span.column - 1)) + 1
    return Diagnostic(
        "E022",
        f"`{name}` is defined twice",
        Span(span.file, span.line, column, span.line, column + len(name)),
        "defined again here",
        (("first defined at", f"{first.span.file}:{first.span.line}"),),
        "rename one of them; a file may only shadow definitions of the standard library",
    )


def _shared_names(definition: Definition) -> Iterator[Diagnostic]:
    """Parameters and results of one name: a program's tensors are told apart by theirs."""
    seen: dict[str, str] = {}
    for kind, given in (("parameter", definition.parameters), ("result", definition.results)):
        for each in given:
            if each.name in seen:
                alike = seen[each.name] == kind
                who = f"two {kind}s" if alike else f"a {seen[each.name]} and a {kind}"
                message = f"{who} of `{definition.name}` have one name, `{each.name}`"
                label = f"this {kind} is the second"
                help = "give each parameter and each result a name of its own"
                yield Diagnostic("E022", message, each.span, label, help=help)
            seen.setdefault(each.name, kind)
