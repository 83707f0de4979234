"""What the comment lines before a definition say: its sizes, and what kernels it becomes.

In: what to compile. Out: the same in the sizes of the definition's `# sizes:` line, where none are
given; problems of its other lines (docs/check.md). Invariant: what a user gives counts before what
a file says; a line that says nothing sensible is an error at its place.

    # sizes: b=2 n=77
    # kernels: 1
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdlc.cli_common import Size, parse_size, request_from

if TYPE_CHECKING:
    from sdlc.api import Request
    from sdlc.language.diagnostics import Diagnostic
    from sdlc.program.program import Program
    from sdlc.proof.structure import Header


def sized_request(file: Path, target: str, **what: Any) -> Request:
    """What options ask for of a file or a network, in the sizes that the file says where it names
    some and the options do not."""
    request = request_from(file, target, **what)
    return in_own_sizes(request) if request.missing_sizes() else request


def in_own_sizes(request: Request) -> Request:
    """The request with the sizes of its entry's `# sizes:` line where none are given."""
    from sdlc.language.elaborate import find_entry

    _, sizes = _read(request, find_entry(request.library, request.entry).name)
    return replace(request, sizes={**sizes, **request.sizes})


def with_header(request: Request, name: str) -> tuple[Request, Header]:
    """The request for one definition, with the sizes of its `# sizes:` line where none are given;
    and what its other lines say, if they are about these sizes and the default rules."""
    from sdlc.language.elaborate_rule import chosen_rules
    from sdlc.proof.structure import Header

    header, sizes = _read(request, name)
    made = replace(request, entry=name, sizes={**sizes, **request.sizes})
    usual = [rule.name for rule in chosen_rules(request.library)]
    same = all(made.sizes[n] == size for n, size in sizes.items())
    plain = [rule.name for rule in request.rules] == usual
    return made, header if same and plain else Header()


def structure_problems(request: Request, header: Header) -> tuple[Diagnostic, ...]:
    """What the lines `# kernels: 2` of a definition say that is not so, or of no target."""
    from sdlc.backends.target import target_names
    from sdlc.language.elaborate_rule import chosen_rules
    from sdlc.proof.structure import unknown_targets, unmet

    def build(without: tuple[str, ...]) -> Program:
        rules = chosen_rules(request.library, without)
        return replace(request, rules=rules).build().program

    if unknown := unknown_targets(header, target_names()):
        return unknown
    return unmet(header.about(request.target.name), request.target.name, build)


def _read(request: Request, name: str) -> tuple[Header, dict[str, Size]]:
    """The lines before a definition, and its sizes. Raises SdlError (C002, E038, E039)."""
    from sdlc.language.diagnostics import SdlError
    from sdlc.language.elaborate import find_entry, size_names
    from sdlc.proof.structure import header_of, size_problem

    library = request.library
    header = header_of(library.entry_module, name)
    problems = list(header.misspelt)
    sizes: dict[str, Size] = {}
    known = [n.lstrip("*") for n in size_names(find_entry(library, name), request.config)]
    for said in header.sizes:
        size = parse_size(said.value)
        if size is None or said.name not in known:
            problems.append(size_problem(said, name, known))
        else:
            sizes[said.name] = size
    if problems:
        raise SdlError(tuple(problems), library.sources)
    return header, sizes
