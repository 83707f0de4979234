"""What an explanation holds: plain records, documented field by field in docs/explain.md.

In: nothing. Out: the records that `explain` fills, and `explain_text` and `explain_page` show.
Invariant: every value is a number, a text, or a tuple or mapping of these, so JSON can hold it.

    made.dispatches[12].seconds, made.groups[12].verdicts      one to one, in launch order
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Defined:
    """A definition of a source file, with the lines that it takes."""

    file: str
    name: str
    line: int
    end_line: int
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a rule or a move of the schedule (`kind`) did about a group, and why not; `about` is the
    value of the group that it looked at."""

    kind: str
    name: str
    fired: bool
    why: str
    about: str


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement of the source that a kernel computes, in `definition`; `name` is its tensor.
    Statements of one place are equal."""

    file: str
    line: int
    end_line: int
    definition: str = field(compare=False)
    name: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class Call:
    """A call on the way from the program to a statement, in `definition`; `text` is its line."""

    file: str
    line: int
    definition: str
    text: str


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """`text` is the meaning in index notation, `steps` what the schedule did to it in order, `nest`
    the loops that came of it; `definition` is where most of the
    work comes from, `definitions` also lists what is inlined; `scope` is the weights' path, `calls`
    lead from there to the program, the last one first. `part` is `run`, or `load` for what is done
    once, when weights are loaded."""

    part: str
    number: int
    definition: str
    text: str
    steps: tuple[str, ...]
    nest: str
    definitions: tuple[str, ...]
    scope: str
    calls: tuple[Call, ...]
    statements: tuple[Statement, ...]
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor that a dispatch binds to a parameter of its kernel."""

    parameter: str
    tensor: str
    nbytes: int
    written: bool


@dataclass(frozen=True, slots=True)
class DispatchFacts:
    """One launch, by its number in its `part`. `read` and `written` are bytes that pass to and from
    memory, `seconds` is what the cost model predicts, and `bound` what takes longest of it;
    `measured` is the time on a device, 0 where there was none."""

    part: str
    number: int
    label: str
    kernel: str
    operands: tuple[Operand, ...]
    grid: tuple[int, int, int]
    group: tuple[int, int, int]
    flop: int
    read: int
    written: int
    seconds: float
    bound: str
    measured: float = 0.0


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """A kernel in one language. `links[i]` are the places in `statements` (those of the kernel's
    first launch, and in the same order those of every other group that it computes) of the
    statements that line i of `text` comes from."""

    name: str
    language: str
    text: str
    statements: tuple[Statement, ...]
    links: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """`first` and `last` are the dispatches between which a temporary is live, at `offset` in the
    arena; -1 for tensors outside it. `order` lists the axes as stored, outermost first."""

    part: str
    name: str
    type: str
    role: str
    nbytes: int
    offset: int
    first: int
    last: int
    weight: str
    order: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RuleFacts:
    """How many groups a rule or a step of the schedule changed, and how many it did not; `reasons`
    are why not, in how many groups, the commonest first."""

    kind: str
    name: str
    fired: int
    missed: int
    reasons: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """`flop`, `seconds`, `read`, `written` are sums over the dispatches of a run; `load_seconds` is
    that of loading. `memory` holds bytes by name; `live` the bytes of temporaries alive in each
    dispatch of a run."""

    name: str
    target: str
    title: str
    precision: str
    flop: int
    seconds: float
    load_seconds: float
    read: int
    written: int
    graph: str
    groups: tuple[GroupFacts, ...]
    dispatches: tuple[DispatchFacts, ...]
    kernels: tuple[KernelFacts, ...]
    tensors: tuple[TensorFacts, ...]
    memory: dict[str, int]
    live: tuple[int, ...]
    rules: tuple[RuleFacts, ...]
    definitions: tuple[Defined, ...]
    off: tuple[str, ...] = ()
    """Rules that were not to be applied."""
    device: str = ""
    """Where `measured` times come from."""
    schema: int = field(default=SCHEMA)

    def __str__(self) -> str:
        return "\n\n".join(f"== {title} ==\n{text}" for _, title, text in self.sections())

    def sections(self) -> tuple[tuple[str, str, str], ...]:
        """Names, titles and texts in reading order."""
        from sdlc.program.explain_text import sections

        return sections(self)

    @property
    def measured(self) -> float:
        """Seconds of a run's dispatches on the device."""
        return sum(d.measured for d in self.dispatches)

    def timed(self, device: str, seconds: Sequence[float]) -> Explanation:
        """With the times of a run's dispatches on a device."""
        run = [replace(d, measured=s) for d, s in zip(self.dispatches, seconds, strict=False)]
        return replace(self, device=device, dispatches=(*run, *self.dispatches[len(run) :]))

    def as_json(self) -> dict[str, Any]:
        """Plain values, as docs/explain.md describes them."""
        return asdict(self)

    def page(self) -> str:
        """One self-contained HTML page."""
        from sdlc.program.explain_page import page

        return page(self)
