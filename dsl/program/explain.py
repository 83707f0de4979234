"""What the compiler made of a program, in text and as data.

In: a graph, the plan of its groups, the program, its texts. Out: `Explanation`. Invariant:
it reads and never decides; every number is the program's own.

    str(explain(graph, plan, program, texts))      six sections, from the graph to memory
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from sdlc.graph.node import Graph
from sdlc.kernel.ir import Access
from sdlc.program.device import KernelText
from sdlc.program.memory import Lifetime, lifetimes_of
from sdlc.program.program import Program, Tensor
from sdlc.program.values import describe
from sdlc.schedule.plan import Plan

WIDEST = 72
MEANING = MappingProxyType(
    {
        "naive": "every temporary in a place of its own",
        "arena": "the temporaries as they are laid out",
        "lower_bound": "the most that is live in one dispatch: no arena can be smaller",
        "weights": "as stored",
    }
)


@dataclass(frozen=True, slots=True)
class Explanation:
    """Groups and dispatches are in launch order, and one to one; `memory` holds bytes by name."""

    name: str
    target: str
    flop: int
    graph: str
    groups: tuple[str, ...]
    dispatches: tuple[str, ...]
    kernels: tuple[KernelText, ...]
    tensors: tuple[str, ...]
    memory: dict[str, int]

    def __str__(self) -> str:
        return "\n\n".join(f"== {title} ==\n{text}" for title, text in self.sections())

    def sections(self) -> tuple[tuple[str, str], ...]:
        """Titles and texts in reading order."""
        kernels = "\n\n".join(f"-- {t.name}\n{t.text.strip()}" for t in self.kernels)
        language = ", ".join(dict.fromkeys(t.language for t in self.kernels))
        work = f"{self.flop:,} FLOP"
        return (
            (f"{self.name} for {self.target}: graph", self.graph.strip()),
            (f"groups ({len(self.groups)})", "\n\n".join(self.groups)),
            (f"dispatches ({len(self.dispatches)}, {work})", "\n".join(self.dispatches)),
            (f"kernels ({len(self.kernels)}, {language})", kernels),
            (f"tensors ({len(self.tensors)})", "\n".join(self.tensors)),
            ("memory", "\n".join(_memory_lines(self.memory))),
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def explain(graph: Graph, plan: Plan, program: Program, texts: Sequence[KernelText]) -> Explanation:
    """`plan` is what `schedule.plan.plan` made of the graph: its kernels-to-be print themselves."""
    return Explanation(
        name=program.name,
        target=program.target,
        flop=program.flop,
        graph=str(graph),
        groups=tuple(f"{number}  {each}" for number, each in enumerate(plan.kernels)),
        dispatches=tuple(dispatch_lines(program)),
        kernels=tuple(texts),
        tensors=tuple(tensor_lines(program)),
        memory=asdict(program.memory),
    )


def dispatch_lines(program: Program) -> list[str]:
    """A line a launch: number, kernel, what it reads and writes, work-groups and work-items."""
    rows = []
    for number, dispatch in enumerate(program.dispatches):
        kernel = program.kernels[dispatch.kernel]
        access = {buffer.name: buffer.access for buffer in kernel.buffers}
        read, written = (
            ", ".join(t for name, t in dispatch.bindings if (access[name] is Access.READ) is reads)
            for reads in (True, False)
        )
        call = f"{dispatch.kernel}({read or 'nothing'}) -> {written}"
        grid, group = ("×".join(map(str, n)) for n in (kernel.grid, kernel.group))
        rows.append((f"{number}", call, f"grid {grid}", f"of {group}"))
    return _columns(rows)


def tensor_lines(program: Program) -> list[str]:
    """A line a tensor: name, type, bytes, role; where a temporary is in the arena and from which
    dispatch to which it is live, a weight's scope path, an order that is not row-major."""
    live = {t.name: t for t in lifetimes_of(program.tensors, program.dispatches)}
    return _columns(
        (t.name, describe(t), f"{t.nbytes:,} bytes", t.role.value, _place(t, live))
        for t in program.tensors.values()
    )


def _place(tensor: Tensor, live: Mapping[str, Lifetime]) -> str:
    parts = [f"= {tensor.weight}"] if tensor.weight else []
    if tensor.name in live:
        span = live[tensor.name]
        parts.append(f"at {tensor.offset:,}, live in dispatches {span.first} to {span.last}")
    if tensor.order != tuple(range(len(tensor.order))):
        parts.append(f"axes stored as {', '.join(map(str, tensor.order))}")
    return "; ".join(parts)


def _memory_lines(memory: Mapping[str, int]) -> list[str]:
    return _columns(
        (name.replace("_", " "), f"{size:,} bytes".rjust(20), MEANING[name])
        for name, size in memory.items()
    )


def _columns(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Rows with every column but the last as wide as its widest cell; long cells stand out."""
    made = list(rows)
    widths = [min(WIDEST, max(map(len, column))) for column in zip(*made, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in made
    ]
