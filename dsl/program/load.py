"""Weights in a device's memory: uploaded, and what the load program makes of them computed, once.

In: a `Program`, kernels built on a device, weights by scope path. Out: where each weight and
constant of the program lies. Invariant: what is computed is written where the runs read it, and
never returns to the host; at any time only those weights are there that the load program still
needs, in an arena that is freed at the end.

    places = load_weights(program, Kernels.built(device, texts), weights)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from sdlc.graph.types import Array
from sdlc.language.diagnostics import Diagnostic, did_you_mean
from sdlc.program.device import Binding, Device, KernelText, Launch
from sdlc.program.memory import LOAD, align, lifetimes_of, relocate
from sdlc.program.program import Dispatch, Program, Tensor, TensorRole
from sdlc.program.values import (
    describe,
    load,
    located,
    origin_span,
    overflows,
    range_text,
    shape_text,
    stored_pieces,
)

Places = dict[str, Binding]


@dataclass(frozen=True, slots=True)
class Kernels:
    """Kernels built on a device, with their parameters in binding order, by name."""

    device: Device
    made: Mapping[str, Any]
    parameters: Mapping[str, tuple[str, ...]]

    @staticmethod
    def built(device: Device, texts: Sequence[KernelText]) -> Kernels:
        return Kernels(device, device.build(texts), {t.name: t.parameters for t in texts})

    def record(self, dispatches: Sequence[Dispatch], places: Mapping[str, Binding]) -> Any:
        """The dispatches as one recording; `places` are the tensors' by name."""
        launches = []
        for dispatch in dispatches:
            bound = dict(dispatch.bindings)
            bindings = tuple(places[bound[p]] for p in self.parameters[dispatch.kernel])
            launches.append(Launch(dispatch.kernel, bindings))
        return self.device.record(self.made, launches)


def load_weights(program: Program, kernels: Kernels, weights: Mapping[str, Array]) -> Places:
    """Fills weights and constants, and runs the load program: places by tensor name.

    Raises SdlError (P001, P002) that names every weight that is missing or does not fit."""
    device = kernels.device
    places = _weight_places(program, device)
    given = _Given(weights)
    made = () if program.load is None else program.load.outputs
    for tensor in of_role(program, TensorRole.CONSTANT, TensorRole.WEIGHT):
        if tensor.weight in made:
            _clear_padding(tensor, device, places[tensor.name])
        else:
            given.upload(program, tensor, device, places[tensor.name])
    if program.load is not None:
        results = {t.weight: places[t.name] for t in of_role(program, TensorRole.WEIGHT)}
        _compute(program.load, kernels, given, {name: results[name] for name in made})
    given.settle()
    return places


def is_prepared(program: Program, weights: Mapping[str, Array]) -> bool:
    """Whether `weights` hold everything that the load program computes: then it need not run."""
    return program.load is not None and all(name in weights for name in program.load.outputs)


def fitting(program: Program, weights: Mapping[str, Array]) -> Iterator[tuple[Tensor, Array]]:
    """Each weight that is to be given, with its array, read once (weight files are read lazily):
    those that files give to the program or to its load program; or, where `weights` hold what the
    load program would compute, those of the program.

    Raises SdlError (P001, P002) at the end, naming every weight that is missing or does not fit."""
    given = _Given(weights)
    wanted = program.raw_weights
    if is_prepared(program, weights):
        wanted = of_role(program, TensorRole.WEIGHT)
    for tensor in wanted:
        array = given.array(tensor)
        if array is not None:
            yield tensor, array
    given.settle()


def prepared(program: Program, device: Device, weights: Mapping[str, Array]) -> dict[str, Array]:
    """What runs read, by scope path or hoisted name: `weights`, and what the load program makes of
    them on `device`. An executable that is given these runs no load program."""
    if program.load is None:
        return {tensor.weight: array for tensor, array in fitting(program, weights)}
    program = relocate(program, device.info.caps)
    texts = [device.text(kernel) for kernel in program.all_kernels]
    places = load_weights(program, Kernels.built(device, texts), weights)
    made = {}
    for tensor in of_role(program, TensorRole.WEIGHT):
        place = places[tensor.name]
        data = device.read(place.memory, place.offset, place.nbytes)
        made[tensor.weight] = load(data, tensor)
    return made


# ---- the load program ----------------------------------------------------------------------------


def _compute(
    program: Program, kernels: Kernels, given: _Given, results: Mapping[str, Binding]
) -> None:
    """Runs the load program, one launch at a time: the weights that it is the first to read are
    uploaded before it, to places in the arena that nothing needs any more."""
    device = kernels.device
    held = of_role(program, *LOAD)
    end = max((t.offset + bound(t) for t in held), default=0)
    arena = device.allocate(max(end, program.memory.arena, 4))
    places = {t.name: Binding(arena, t.offset, bound(t)) for t in held} | dict(results)
    begins: dict[int, list[Tensor]] = defaultdict(list)
    for life in lifetimes_of(program.tensors, program.dispatches, LOAD):
        if program.tensors[life.name].role is not TensorRole.TEMPORARY:
            begins[life.first].append(program.tensors[life.name])
    for number, dispatch in enumerate(program.dispatches):
        for tensor in begins[number]:
            given.upload(program, tensor, device, places[tensor.name])
        if not given.problems:
            device.submit(kernels.record((dispatch,), places))
    device.finish()


def _clear_padding(tensor: Tensor, device: Device, place: Binding) -> None:
    """Kernels write a blocked tensor's elements, and not what fills up its last block."""
    if tensor.block is not None and tensor.shape[tensor.block.axis] % tensor.block.size:
        device.write(place.memory, place.offset, bytes(place.nbytes))


# ---- what was given ------------------------------------------------------------------------------


PIECE_BYTES = 1 << 22
"""Bytes of a weight that are converted at once."""


def _write(device: Device, place: Binding, pieces: Iterable[bytes | memoryview]) -> None:
    """Bytes to a place, one piece after the other."""
    at = place.offset
    for piece in pieces:
        device.write(place.memory, at, piece)
        at += len(piece)


@runtime_checkable
class Stored(Protocol):
    """Weights whose bytes are at hand as the program stores them, piece by piece."""

    def pieces(self, name: str) -> Iterator[bytes]: ...


@dataclass(slots=True)
class _Given:
    """Weights as they were given, checked as they are asked for."""

    arrays: Mapping[str, Array]
    problems: list[Diagnostic] = field(default_factory=list)

    def array(self, tensor: Tensor) -> Array | None:
        """The array of a weight; None where that is a problem."""
        found = _fitted(tensor, self.arrays)
        if isinstance(found, Diagnostic):
            self.problems.append(found)
            return None
        return found

    def upload(self, program: Program, tensor: Tensor, device: Device, place: Binding) -> None:
        array: Array | None
        if isinstance(self.arrays, Stored) and tensor.role is TensorRole.WEIGHT:
            _write(device, place, self.arrays.pieces(tensor.weight))
            return
        if tensor.role is TensorRole.CONSTANT:
            array = program.constants[tensor.name].reshape(tensor.shape)
        else:
            array = self.array(tensor)
        if array is not None:
            _write(device, place, stored_pieces(array, tensor, PIECE_BYTES))

    def settle(self) -> None:
        """Raises SdlError for the problems so far, each once."""
        if self.problems:
            raise located(dict.fromkeys(self.problems))


def _fitted(tensor: Tensor, weights: Mapping[str, Array]) -> Array | Diagnostic:
    notes = (("in", tensor.origin.definition),) if tensor.origin else ()
    if tensor.weight not in weights:
        help = did_you_mean(tensor.weight, weights, 3) or (
            "give the weights that belong to this model (--weights FILE or FOLDER)"
            if len(weights)
            else "this program needs weights: give --weights FILE or FOLDER (weights= in Python)"
        )
        message = f"weight `{tensor.weight}` is missing: the program wants {describe(tensor)}"
        return Diagnostic("P001", message, origin_span(tensor), "declared here", notes, help)
    array = np.asarray(weights[tensor.weight])
    got = shape_text(str(array.dtype), array.shape)
    if array.shape != tensor.shape or array.dtype.kind not in "biuf":
        message = f"weight `{tensor.weight}` is {got}, but the program wants {describe(tensor)}"
        help = "is this the model's own file and config.json? (--weights, --config)"
        return Diagnostic("P002", message, origin_span(tensor), "declared here", notes, help)
    if overflows(array, tensor.dtype):
        message = f"weight `{tensor.weight}` has values that {tensor.dtype.value} cannot hold"
        notes = (*notes, ("values", range_text(array)))
        scope = tensor.weight.rpartition(".")[0] or tensor.weight
        help = f"compile with --precision f32, or --f32 {scope}"
        return Diagnostic("P002", message, origin_span(tensor), "declared here", notes, help)
    return array


# ---- places --------------------------------------------------------------------------------------


def of_role(program: Program, *roles: TensorRole) -> tuple[Tensor, ...]:
    """The program's tensors that have one of these roles."""
    return tuple(t for t in program.tensors.values() if t.role in roles)


def _weight_places(program: Program, device: Device) -> Places:
    """A place for every weight and constant."""
    places: Places = {}
    limit = max(device.info.caps.max_binding, 1)
    for pool in weight_pools(program, device.info.caps.offset_alignment, limit):
        size = max(offset + bound(tensor) for tensor, offset in pool)
        memory = device.allocate(size)
        places |= {t.name: Binding(memory, offset, bound(t)) for t, offset in pool}
    return places


def weight_pools(program: Program, alignment: int, limit: int) -> list[list[tuple[Tensor, int]]]:
    """Weights and constants with their offsets, in as few memories as fit `limit` bytes each."""
    pools: list[list[tuple[Tensor, int]]] = []
    end = limit
    for tensor in of_role(program, TensorRole.WEIGHT, TensorRole.CONSTANT):
        if not pools or end + bound(tensor) > limit:
            pools.append([])
            end = 0
        pools[-1].append((tensor, end))
        end = align(end + bound(tensor), alignment)
    return pools


def bound(tensor: Tensor) -> int:
    """Bytes of a tensor's binding: whole 32-bit words, at least one."""
    return max(align(tensor.nbytes, 4), 4)
