"""The kernels of a program, each with its own definition and as a program of its own.

In: a compiled graph. Out: a `Subject` for every distinct kernel. Invariant: a definition is cut out
of the graph at the values that the kernel reads, before grouping and scheduling, so it shares no
decision with them; the kernel, its storage orders and its bindings are the program's own. Only of
what the schedule stores and the graph does not have (the parts of a reduction, and what is made of
them) the definition is what the kernel's group says.

    pieces(program, values, groups)[3].graph      what the fourth kernel has to compute
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sdlc.graph.node import Const, Graph, Input, topological
from sdlc.kernel.ir import Access, Kernel
from sdlc.program.program import Dispatch, MemoryReport, Program, Tensor, TensorRole
from sdlc.proof.meaning import stored_by
from sdlc.proof.narrow import Cut, Value, is_narrow
from sdlc.proof.stages import Subject
from sdlc.schedule.group import Group


def pieces(
    program: Program, values: Mapping[str, Value], groups: Sequence[Group]
) -> tuple[Subject, ...]:
    """Every distinct kernel in the order of its first dispatch; `values` says which node and field
    each tensor holds, `groups` what each dispatch computes."""
    found: dict[str, Subject] = {}
    for dispatch, group in zip(program.dispatches, groups, strict=True):
        if dispatch.kernel not in found:
            found[dispatch.kernel] = _piece(program, dispatch, values, group)
    return tuple(found.values())


def _piece(
    program: Program, dispatch: Dispatch, values: Mapping[str, Value], group: Group
) -> Subject:
    kernel = program.kernels[dispatch.kernel]
    bound = dict(dispatch.bindings)
    read = [bound[b.name] for b in kernel.buffers if b.access is Access.READ]
    written = [bound[b.name] for b in kernel.buffers if b.access is not Access.READ]
    graph = definition(kernel.name, read, written, values)
    narrow = is_narrow(group)
    narrowed = None
    if narrow or not _closed(graph):
        made = {value: (node, 0) for value, node in stored_by(group).items()}
        stated = definition(kernel.name, read, written, {**values, **_replaced(values, made)})
        narrowed = stated if narrow else None
        graph = graph if _closed(graph) else stated
    alone = _alone(program, kernel, dispatch, (read, written))
    return Subject(kernel.name, graph, graph, alone, is_kernel=True, narrowed=narrowed)


def _closed(graph: Graph) -> bool:
    """Whether a definition is over all that the kernel reads, and over nothing else."""
    return {node for node in topological(graph) if isinstance(node, Input)} == set(graph.inputs)


def _replaced(values: Mapping[str, Value], made: Mapping[Value, Value]) -> dict[str, Value]:
    return {name: made[value] for name, value in values.items() if value in made}


def _alone(
    program: Program, kernel: Kernel, dispatch: Dispatch, names: tuple[list[str], list[str]]
) -> Program:
    """The program of one dispatch: what it reads are inputs, what it writes are outputs."""
    read, written = names
    constants = {n: program.constants[n] for n in read if n in program.constants}
    tensors = {n: _as(program.tensors[n], TensorRole.INPUT) for n in read if n not in constants}
    tensors |= {n: program.tensors[n] for n in constants}
    tensors |= {n: _as(program.tensors[n], TensorRole.OUTPUT) for n in written}
    return replace(
        program,
        name=kernel.name,
        tensors=tensors,
        inputs=tuple(dict.fromkeys(n for n in read if n not in constants)),
        outputs=tuple(dict.fromkeys(written)),
        kernels={kernel.name: kernel},
        dispatches=(dispatch,),
        memory=MemoryReport(0, 0, 0, 0),
        constants=constants,
        load=None,
    )


def _as(tensor: Tensor, role: TensorRole) -> Tensor:
    return replace(tensor, role=role, offset=0, weight="")


def definition(
    name: str, read: list[str], written: list[str], values: Mapping[str, Value]
) -> Graph:
    """What the graph says of the written tensors, given the read ones."""
    cut = Cut({values[n]: _input(n, values[n]) for n in read})
    outputs = tuple((n, cut.node(values[n][0]), values[n][1]) for n in dict.fromkeys(written))
    inputs = tuple(i for i, _ in cut.known.values() if isinstance(i, Input))
    return Graph(name, outputs, inputs)


def _input(name: str, value: Value) -> Value:
    """The stored value as an input; constants stay what they are."""
    node, field = value
    if isinstance(node, Const):
        return value
    return Input(name, node.shape, node.dtypes[field], origin=replace(node.origin, scope="")), 0
