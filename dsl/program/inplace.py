"""Results in the place of what they are made from, where no work-item can tell the difference.

In: a planned program. Out: the program with `Tensor.in_place_of` where a dispatch may write its
result over a temporary that it is the last to read. Invariant: proven twice. By the definition:
each element of the result is made from the element that it replaces, which nothing else reads. By
the kernel: with one buffer in both roles, `verify` finds no race.

    h[i] = relu(x[i] * w[i]);  out[i] = h[i] + b[i]      out is written where h was

Where it is done, the two bindings overlap, which some interfaces forbid: it is a capability.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from sdlc.graph.node import Node
from sdlc.kernel.ir import Kernel
from sdlc.kernel.overlay import overlaid, overlapping
from sdlc.kernel.verify import KernelError, verify
from sdlc.program.memory import lifetimes_of
from sdlc.program.program import Dispatch, Program, Tensor
from sdlc.schedule.group import Group
from sdlc.schedule.plan import Plan

Value = tuple[Node, int]


def in_place(program: Program, scheduled: Plan, names: Mapping[Value, str]) -> Program:
    """The program with results that may take the place of an operand."""
    lives = {life.name: life for life in lifetimes_of(program.tensors, program.dispatches)}
    tensors, kernels = dict(program.tensors), dict(program.kernels)
    proofs: dict[tuple[str, str, str], bool] = {}
    pairs = zip(scheduled.kernels, program.dispatches, strict=True)
    for time, (item, dispatch) in enumerate(pairs):
        for read, written in candidates(item.group, names):
            ends = written in lives and read in lives and lives[read].last == time
            if not (ends and _alike(tensors[read], tensors[written])):
                continue
            bound = dict(_parameters(dispatch, read, written))
            place = (dispatch.kernel, bound[read], bound[written])
            if place not in proofs:
                proofs[place] = _is_sound(program.kernels[dispatch.kernel], *place[1:])
            if proofs[place]:
                tensors[written] = replace(tensors[written], in_place_of=read)
                kernels[dispatch.kernel] = overlapping(kernels[dispatch.kernel], *place[1:])
                break
    return replace(program, tensors=tensors, kernels=kernels)


def candidates(group: Group, names: Mapping[Value, str]) -> list[tuple[str, str]]:
    """What a group reads at the very element that it writes, and nowhere else."""
    if len(group.stores) != 1:
        return []
    store = group.stores[0]
    elsewhere = [r for part in group.inner for r in part.reads]
    elsewhere += [r for r in group.reads if r.indices != store.indices]
    spoilt = {(r.source, r.field) for r in elsewhere}
    written = names[(store.node, store.field)]
    return [(names[value], written) for value in group.operands if value not in spoilt]


def _alike(a: Tensor, b: Tensor) -> bool:
    """Whether equal indices mean equal places."""
    return (a.shape, a.dtype, a.order, a.block) == (b.shape, b.dtype, b.order, b.block)


def _parameters(dispatch: Dispatch, *tensors: str) -> list[tuple[str, str]]:
    """(tensor, parameter) of each of these tensors."""
    return [(tensor, parameter) for parameter, tensor in dispatch.bindings if tensor in tensors]


def _is_sound(kernel: Kernel, read: str, written: str) -> bool:
    try:
        verify(overlaid(kernel, read, written))
    except KernelError:
        return False
    return True
