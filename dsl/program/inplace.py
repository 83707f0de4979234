"""Results in the place of what they are made from, where no work-item can tell the difference.

In: a planned program. Out: the program with `Tensor.in_place_of` where a dispatch may write its
result over a temporary that it is the last to read. Invariant: proven twice. By the definition:
each element of the result is made from the element that it replaces, which nothing else reads. By
the kernel: with one buffer in both roles, `verify` finds no race.

    h[i] = relu(x[i] * w[i]);  out[i] = h[i] + b[i]      out is written where h was

Where it is done, the two bindings overlap, which some interfaces forbid: it is a capability.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import replace

from sdlc.graph.expr import Index, Read, walk
from sdlc.graph.node import Node
from sdlc.graph.types import DType
from sdlc.kernel import ir as k
from sdlc.kernel.ir import Kernel
from sdlc.kernel.overlay import overlaid, overlapping
from sdlc.kernel.simplify import simplify
from sdlc.kernel.translate import Scope, Storage, translate
from sdlc.kernel.verify import KernelError, verify
from sdlc.program.memory import lifetimes_of
from sdlc.program.program import Dispatch, Program, Tensor
from sdlc.schedule.group import Group, Output
from sdlc.schedule.plan import Plan

Value = tuple[Node, int]


def in_place(program: Program, scheduled: Plan, names: Mapping[Value, str]) -> Program:
    """The program with results that may take the place of an operand."""
    lives = {life.name: life for life in lifetimes_of(program.tensors, program.dispatches)}
    tensors, kernels = dict(program.tensors), dict(program.kernels)
    proofs: dict[tuple[str, str, str], bool] = {}
    pairs = zip(scheduled.kernels, program.dispatches, strict=True)
    for time, (item, dispatch) in enumerate(pairs):
        last = {t for _, t in dispatch.bindings if t in lives and lives[t].last == time}
        for read, written in candidates(item.group, names, tensors, last):
            if written not in lives or lives[written].first != time:
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


def candidates(
    group: Group, names: Mapping[Value, str], tensors: Mapping[str, Tensor], among: Set[str]
) -> Iterator[tuple[str, str]]:
    """Which of the tensors `among` a group reads where it writes its only result, byte for byte,
    and nowhere else."""
    if len(group.stores) != 1:
        return
    store = group.stores[0]
    written = names[(store.node, store.field)]
    within = {(r.source, r.field) for part in group.inner for r in part.reads}
    for value in group.operands:
        read = names[value]
        if read not in among or read == written or value in within:
            continue
        places = {_place(tensors[read], r) for r in group.reads if (r.source, r.field) == value}
        if places == {_place(tensors[written], store)} and None not in places:
            yield read, written


def _place(tensor: Tensor, at: Read | Output) -> tuple[DType, int, k.Expr] | None:
    """Which element is touched at each point of the axes, in a form that is equal where the place
    is; None where it depends on what is stored elsewhere."""
    if any(isinstance(e, Read) for e in walk(*at.indices)):
        return None
    axes = {e.axis: k.Var(e.axis.name, k.I32) for e in walk(*at.indices) if isinstance(e, Index)}
    scope = Scope(axes, {}, {})
    storage = Storage(_NOWHERE, tensor.shape, tensor.order, tensor.block)
    number = storage.flat(tuple(translate(i, scope) for i in at.indices))
    ranges: dict[k.Expr, tuple[int, int]] = {
        var: (0, axis.extent - 1) for axis, var in axes.items()
    }
    return tensor.dtype, tensor.nbytes, simplify(number, ranges)


_NOWHERE = k.Buffer("", DType.F32, 0)


def _parameters(dispatch: Dispatch, *tensors: str) -> list[tuple[str, str]]:
    """(tensor, parameter) of each of these tensors."""
    return [(tensor, parameter) for parameter, tensor in dispatch.bindings if tensor in tensors]


def _is_sound(kernel: Kernel, read: str, written: str) -> bool:
    try:
        verify(overlaid(kernel, read, written))
    except KernelError:
        return False
    return True
