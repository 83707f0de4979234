"""One kernel as a program of its own: what it reads are inputs, what it writes are outputs.

In: a graph, its plan, one kernel to be and a target. Out: `Program` of one dispatch. Invariant: the
kernel, the storage orders and the blocks are those that the whole program has; constants stay.

    alone = Isolation(graph, plan(graph, target), target).program(plan.kernels[3])
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sdlc.graph.node import Const, Graph, Node
from sdlc.graph.types import DType
from sdlc.program.pipeline import kernels_of, tensors_of
from sdlc.program.program import MemoryReport, Program, Tensor, TensorRole
from sdlc.schedule.plan import Plan, Scheduled
from sdlc.target import Target

Value = tuple[Node, int]


@dataclass(frozen=True, slots=True)
class Isolation:
    """The tensors of a planned program, by which its kernels are cut out one by one."""

    scheduled: Plan
    names: dict[Value, str]
    tensors: dict[str, Tensor]
    target: Target

    @staticmethod
    def of(graph: Graph, scheduled: Plan, target: Target) -> Isolation:
        return Isolation(scheduled, *tensors_of(graph, scheduled), target)

    def program(self, item: Scheduled) -> Program:
        """The program of one kernel to be, verified. Raises what lowering and verification do."""
        alone = replace(self.scheduled, kernels=(item,))
        kernels, dispatches = kernels_of(alone, self.names, self.tensors, self.target)
        group = item.group
        constants = {self.names[v]: v[0].array for v in group.operands if isinstance(v[0], Const)}
        read = [n for v in group.operands if (n := self.names[v]) not in constants]
        written = list(dict.fromkeys(self.names[(s.node, s.field)] for s in group.stores))
        tensors = {n: self.tensors[n] for n in constants}
        tensors |= {n: _as(self.tensors[n], TensorRole.INPUT) for n in read}
        tensors |= {n: _as(self.tensors[n], TensorRole.OUTPUT) for n in written}
        return Program(
            name=group.name,
            target=self.target.name,
            precision=DType.F32,
            tensors=tensors,
            inputs=tuple(read),
            outputs=tuple(written),
            kernels=kernels,
            dispatches=dispatches,
            memory=MemoryReport(0, 0, 0, 0),
            constants=constants,
            flop=group.flop,
        )


def _as(tensor: Tensor, role: TensorRole) -> Tensor:
    return replace(tensor, role=role, offset=0, weight="")
