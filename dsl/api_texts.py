"""What is told of a compiled program: its kernels' texts, its explanation, its times on a device.

In: a `Program` or what `Request.build` gives. Out: texts, an `Explanation`, seconds. Invariant: a
text is that of a kernel legalised for its target; nothing runs but in `measured`. Example:

    target_texts(program, target, ("wgsl",))[0].text
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sdlc.kernel.ir import Kernel
from sdlc.language.diagnostics import failure
from sdlc.program.device import Device, KernelText
from sdlc.program.execute import Executable
from sdlc.program.program import Program
from sdlc.program.workers import each
from sdlc.target import Target

if TYPE_CHECKING:
    from sdlc.api import Compiled, Request
    from sdlc.program.explain_data import Explanation


def target_texts(
    program: Program, target: Target, languages: Sequence[str] = (), processes: int = 1
) -> tuple[KernelText, ...]:
    """Every kernel in these languages of `target` (default: all of them), legalised for it; printed
    in so many processes at most."""
    spelled, count = _spelling(program, target, languages)
    return tuple(each(lambda number: spelled(number)[1], count, processes))


def printed(
    program: Program, target: Target, languages: Sequence[str] = (), processes: int = 1
) -> tuple[tuple[Kernel, KernelText], ...]:
    """The texts of `target_texts`, each with the legalised kernel that it spells."""
    return tuple(each(*_spelling(program, target, languages), processes))


def _spelling(
    program: Program, target: Target, languages: Sequence[str]
) -> tuple[Callable[[int], tuple[Kernel, KernelText]], int]:
    """How to print each text of a program, by its number, and how many there are."""
    from sdlc.backends.legalize import legalize
    from sdlc.backends.printer import print_kernel

    caps = target.caps
    wanted = [(k, lang) for lang in languages or caps.languages for k in program.all_kernels]

    def spelled(number: int) -> tuple[Kernel, KernelText]:
        kernel, language = wanted[number]
        kernel = legalize(kernel, caps, language)
        return kernel, print_kernel(kernel, language, caps)

    return spelled, len(wanted)


def explanation(compiled: Compiled, request: Request, languages: Sequence[str] = ()) -> Explanation:
    """What became of what was requested; its kernels in `languages` (default: all of its target's).

    Raises SdlError (P009) for a language that the target does not take.
    """
    from sdlc.language.elaborate_rule import load_rules
    from sdlc.program.explain import Material, definitions_of, explain, parts_of
    from sdlc.program.pipeline import plan_graph

    target = compiled.target
    unknown = [name for name in languages if name not in target.caps.languages]
    if unknown:
        message = f"target `{target.name}` takes no {unknown[0]} kernels"
        raise failure("P009", message, help=f"use {' or '.join(target.caps.languages)}")
    planned = compiled.planned or plan_graph(compiled.graph, target)
    parts = parts_of(*planned, compiled.program, target)
    texts = printed(compiled.program, target, languages, compiled.processes)
    cited = definitions_of(request.library)
    attempts = () if compiled.report is None else compiled.report.attempts
    chosen = {rule.name for rule in request.rules}
    off = tuple(r.name for r in load_rules(request.library) if r.name not in chosen)
    return replace(explain(Material(parts, target, texts, cited, attempts)), off=off)


def measured(
    program: Program, device: Device, texts: Sequence[KernelText] | None = None
) -> tuple[float, ...]:
    """The seconds that each of a program's dispatches takes on a device, with random inputs and
    weights; `texts` are its kernels there, where they are known. Raises SdlError (D033) for a
    device that has no clock."""
    from sdlc.program.profile import profile
    from sdlc.program.profile_data import RandomWeights, random_inputs

    executable = Executable(program, device, RandomWeights(program), texts)
    for name, array in random_inputs(program).items():
        executable.write(name, array)
    return tuple(m.seconds for m in profile(executable))
