"""Schedules that cannot be applied, as errors with a place: the nest, the line and the reason.

In: what planning raises. Out: `SdlError` (N001). Invariant: no `Refused` leaves the compiler.

    error[N001]: the schedule of `matmul out` cannot be applied
      --> stdlib/matmul.sdl:6:3
       |
    6  |   out[*b, i, j] = sum over p < k of x[*b, i, p] * y[*b, p, j]
       |   ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
       = step: bind j to vector (a vector has 2, 4, 8 or 16 lanes)
       = nest: for i < 3
                 for j < 5
                   for p < 7  (reduced)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sdlc.language.diagnostics import Diagnostic, SdlError
from sdlc.program.values import located
from sdlc.schedule.nest import Refused
from sdlc.schedule.show import show_step

HELP = "the default schedule is legal for every program: please report this message"


@contextmanager
def refusals_located() -> Iterator[None]:
    """Within it, a refused step is a user's error, not an exception of the schedule's."""
    try:
        yield
    except Refused as problem:
        raise refusal(problem) from problem


def refusal(problem: Refused, help: str = HELP) -> SdlError:
    """The error of a refused step: where the definition stands, the step, the reason, the nest."""
    group = problem.group
    origin = group.origins[0] if group is not None and group.origins else None
    named = "a kernel" if origin is None else f"`{origin.definition} {origin.name}`"
    nest = str(problem.nest).replace("\n", "\n" + " " * len("   = nest: "))
    return located(
        [
            Diagnostic(
                "N001",
                f"the schedule of {named} cannot be applied",
                None if origin is None else origin.span,
                "",
                (("step", f"{show_step(problem.step)} ({problem.reason})"), ("nest", nest)),
                help,
            )
        ]
    )
