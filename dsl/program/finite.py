"""What is said of a value that is no number: which operator made it, and what to do.

In: what a watched step found, and the plan of its program (None: a shipped bundle has none). Out:
an `SdlError` (F001) with the operator, its scope path and line, how many values, what was largest
before. Invariant: the option in the help line keeps that operator in f32.

    raise not_finite(found, Place("unet", ("step", "3 of 20")), planned)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sdlc.graph.hoist import Hoisted
from sdlc.graph.types import Array, DType, Origin, Span
from sdlc.language.diagnostics import Diagnostic, SdlError
from sdlc.program.culprit import Culprit, culprit
from sdlc.program.execute import Executable
from sdlc.program.pipeline import tensors_of
from sdlc.program.program import Program, Tensor, TensorRole
from sdlc.program.values import source_text
from sdlc.program.watch import LOADED, Bad, NotFiniteError, Tell, Watch, magnitude, quietly
from sdlc.schedule.plan import Plan

HALF_MOST = 65504.0
"""The largest number of half precision."""
MOST_CALLS = 3
MOST_OTHERS = 6

Notes = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Which program: its name in scope paths, and notes of when it ran (`("step", "3 of 20")`)."""

    root: str
    notes: Notes = ()


def checked_run(
    executable: Executable,
    inputs: Mapping[str, object],
    name: str,
    planned: Callable[[], tuple[Hoisted, Plan] | None],
    tell: Tell = quietly,
) -> dict[str, Array]:
    """Outputs by name, every value that is stored on the way looked at; `planned` gives the plan of
    the program, called `name`, where there is one. Raises SdlError (F001) for the first value that
    is no number."""
    watch = Watch(executable, tell=tell)
    executable.give(inputs)
    try:
        watch.loaded()
        watch.step()
    except NotFiniteError as found:
        raise not_finite(found, Place(name), planned()) from None
    return executable.results()


def not_finite(
    found: NotFiniteError, place: Place, plan: tuple[Hoisted, Plan] | None = None
) -> SdlError:
    """The error for what a watched step found."""
    program, bad = found.program, found.bad
    tensor = program.tensors[bad.tensor]
    if tensor.role is TensorRole.INPUT:
        return _input(tensor, bad, place)
    tensors = program.tensors if plan is None else tensors_of(plan[0].run, plan[1])[1]
    origin = tensor.origin or Origin(tensor.name, "")
    size = bad.stored.size
    who = Culprit(origin, bad.bad, size, magnitude(bad.stored), tensor.dtype)
    if plan is not None:
        who = culprit(bad, *plan)
    path = scope_path(who.origin, place.root)
    count = f"{who.bad:,} of {who.count:,} value{'' if who.count == 1 else 's'}"
    message = f"`{path}` made {count} that are not finite"
    notes = (("operator", who.origin.path), *place.notes, *_sizes(who, bad, tensors))
    notes += _about(who, program, bad)
    diagnostic = Diagnostic(
        "F001", message, who.origin.span, "here", notes, _help(who, place.root, program)
    )
    return _located(diagnostic)


def scope_path(origin: Origin, root: str) -> str:
    """`unet.mid_block.resnets.0.conv1`; of an operator in no scope, the program and its name."""
    inside = origin.scope or (origin.definition if origin.definition != root else "")
    return ".".join(part for part in (root, inside) if part) or origin.name


def scope_option(origin: Origin, root: str) -> str:
    """What `--f32` takes for an operator: its scope path, or where it has none its name."""
    if origin.scope:
        return scope_path(origin, root)
    return origin.definition or root


def _input(tensor: Tensor, bad: Bad, place: Place) -> SdlError:
    count = f"{bad.bad:,} of {bad.stored.size:,} values"
    message = f"the input `{tensor.name}` of `{place.root}` holds {count} that are not finite"
    span = tensor.origin.span if tensor.origin else None
    help = "what was given is at fault, not the program"
    return _located(Diagnostic("F001", message, span, "declared here", place.notes, help))


def _sizes(who: Culprit, bad: Bad, tensors: dict[str, Tensor]) -> Notes:
    """How large values were: of its own, and of all that was stored before."""
    stored = who.stored
    kept = "computed in f32, and not stored" if stored is None else f"stored in {stored.value}"
    limit = f", which holds at most {HALF_MOST:,.0f}" if stored is DType.F16 else ""
    notes = [("kept", kept + limit)]
    if who.largest:
        notes.append(("largest of the others", f"{who.largest:,.6g}"))
    if bad.before is not None and bad.before.tensor in tensors:
        tensor = tensors[bad.before.tensor]
        made = f" ({tensor.origin.path})" if tensor.origin else ""
        notes.append(("largest before", f"{bad.before.value:,.6g} in {tensor.name}{made}"))
    return tuple(notes)


def _about(who: Culprit, program: Program, bad: Bad) -> Notes:
    calls = [("called at", str(site)) for site in who.origin.sites[:MOST_CALLS]]
    if bad.dispatch == LOADED:
        return (*calls, ("when", "as weights were loaded"))
    others = [scope_text(o) for o in who.others if o is not who.origin][:MOST_OTHERS]
    kernel = program.dispatches[bad.dispatch].kernel
    beside = f", which also computes {', '.join(others)}" if others else ""
    return (*calls, ("kernel", f"{kernel}{beside}"))


def scope_text(origin: Origin) -> str:
    """An operator in a list: its scope and name."""
    return ".".join(p for p in (origin.scope, origin.definition, origin.name) if p)


def _help(who: Culprit, root: str, program: Program) -> str:
    if who.stored is DType.F16:
        return f"`--f32 {scope_option(who.origin, root)}` keeps it in f32"
    halves = any(t.dtype is DType.F16 for t in program.all_tensors)
    if halves:
        option = f"`--f32 {scope_option(who.origin, root)}`, or a larger part"
        return f"it is computed in f32 already; what it reads may have been rounded: {option}"
    return "it is in f32 already: the weights, the inputs or the device are at fault"


def _located(diagnostic: Diagnostic) -> SdlError:
    span: Span | None = diagnostic.span
    return SdlError((diagnostic,), {span.file: source_text(span.file)} if span else {})
