"""What the compiler made of a program, in text and as data.

In: a graph, the plan of its groups, the program, its texts. Out: `Explanation`. Invariant:
it reads and never decides; every number is the program's own.

    str(explain(graph, plan, program, texts))      four sections: graph, groups, kernels, memory
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sdlc.graph.node import Graph
from sdlc.program.device import KernelText
from sdlc.program.program import Program, Tensor, TensorRole
from sdlc.program.values import describe
from sdlc.schedule.plan import Plan


@dataclass(frozen=True, slots=True)
class Explanation:
    """`dispatches` are lines in launch order; `memory` holds bytes by name."""

    name: str
    target: str
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
        kernels = "\n\n".join(
            f"-- {t.name} ({t.language}) grid {t.grid} group {t.group}\n{t.text}"
            for t in self.kernels
        )
        memory = "\n".join(f"{name:12} {size:>16,} bytes" for name, size in self.memory.items())
        return (
            (f"{self.name} for {self.target}: graph", self.graph),
            (f"groups ({len(self.groups)})", "\n\n".join(self.groups)),
            (f"dispatches ({len(self.dispatches)})", "\n".join(self.dispatches)),
            (f"kernels ({len(self.kernels)})", kernels),
            ("tensors", "\n".join(self.tensors)),
            ("memory", memory),
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def explain(graph: Graph, plan: Plan, program: Program, texts: Sequence[KernelText]) -> Explanation:
    """`plan` is what `schedule.plan.plan` made of the graph: its kernels-to-be print themselves."""
    groups = tuple(str(scheduled) for scheduled in plan.kernels)
    report = program.memory
    return Explanation(
        name=program.name,
        target=program.target,
        graph=str(graph),
        groups=groups,
        dispatches=tuple(dispatch_lines(program)),
        kernels=tuple(texts),
        tensors=tuple(tensor_line(t) for t in program.tensors.values()),
        memory={
            "naive": report.naive,
            "arena": report.arena,
            "lower bound": report.lower_bound,
            "weights": report.weights,
        },
    )


def dispatch_lines(program: Program) -> list[str]:
    """One line a launch: number, kernel, what it binds, label."""
    lines = []
    for number, dispatch in enumerate(program.dispatches):
        bound = ", ".join(tensor for _, tensor in dispatch.bindings)
        label = f"   # {dispatch.label}" if dispatch.label else ""
        lines.append(f"{number:4}  {dispatch.kernel}({bound}){label}")
    return lines


def tensor_line(tensor: Tensor) -> str:
    """Name, type, storage order where it is not row-major, and place."""
    order = "" if tensor.order == tuple(sorted(tensor.order)) else f" order {tensor.order}"
    place = f" at {tensor.offset}" if tensor.role is TensorRole.TEMPORARY else ""
    weight = f" = {tensor.weight}" if tensor.weight else ""
    return f"{tensor.name}: {describe(tensor)}{order} {tensor.role.value}{place}{weight}"
