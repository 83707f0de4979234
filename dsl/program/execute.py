"""Running a program on a device.

In: a `Program`, a `Device` and weights by scope path. Out: `Executable`, whose `run` takes and
gives NumPy arrays. Invariant: weights are converted, permuted and uploaded once; launches are
recorded once; between `step`s nothing returns to the host.

    executable = Executable(program, device, weights)
    outputs = executable.run({"x": x})

    loop = Executable(program, device, weights, feedback={"latent": "next_latent"})
    loop.write("latent", noise)
    for t in timesteps:
        loop.write("timestep", t)
        loop.step()                       # the latent of the next step is this step's output
    picture = loop.read("next_latent")
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from types import MappingProxyType

import numpy as np

from sdlc.graph.types import Array
from sdlc.language.diagnostics import Diagnostic, SdlError, failure
from sdlc.program.device import Binding, Device, KernelText, Launch, Timing
from sdlc.program.memory import align, relocate
from sdlc.program.program import Program, Tensor, TensorRole
from sdlc.program.values import (
    check_inputs,
    convert_input,
    describe,
    did_you_mean,
    load,
    located,
    origin_span,
    overflows,
    range_text,
    shape_text,
    store,
)

NO_FEEDBACK: Mapping[str, str] = MappingProxyType({})


class Executable:
    """A program in a device's memory.

    `texts` are its kernels in the device's language (None: legalised and printed here). `feedback`
    maps an input to the output that it takes its value from after a `step`: the two change places
    between two recordings, so no bytes are copied.
    """

    def __init__(
        self,
        program: Program,
        device: Device,
        weights: Mapping[str, Array],
        texts: Sequence[KernelText] | None = None,
        feedback: Mapping[str, str] = NO_FEEDBACK,
    ) -> None:
        """Raises SdlError: P001 missing weight, P002 weight of a wrong shape or type, P006 feedback
        between unlike tensors, P007 a tensor that is larger than the device can bind."""
        _check_feedback(program, feedback)
        info = device.info
        check_sizes(program.tensors.values(), info.caps.max_binding, f"the device `{info.name}`")
        if texts is None:
            texts = [device.text(kernel) for kernel in program.kernels.values()]
        program = relocate(program, device.info.caps.offset_alignment)
        self.program = program
        self.device = device
        self._feedback = dict(feedback)
        self._phase = 0
        places = _allocate(program, device)
        _upload(program, device, weights, places)
        self._places = (places, _swapped(places, feedback))
        built = device.build(texts)
        parameters = {text.name: text.parameters for text in texts}
        used = self._places if feedback else self._places[:1]
        launches = [_launches(program, parameters, at) for at in used]
        self._recordings = [device.record(built, each) for each in launches]

    def run(self, inputs: Mapping[str, object]) -> dict[str, Array]:
        """One run. Inputs by name: integers for i32, any numbers for floats; outputs by name, in
        row-major order. Raises SdlError (P003, P004, P005) for inputs that do not fit."""
        for name, array in check_inputs(self.program, inputs).items():
            self._put(name, array)
        self.step()
        return {name: self.read(name) for name in self.program.outputs}

    def write(self, name: str, value: object) -> None:
        """Sets one input for the steps to come."""
        if name not in self.program.inputs:
            raise _unknown_name(self.program, "input", name)
        array = convert_input(value, self.program.tensors[name])
        if isinstance(array, Diagnostic):
            raise located([array])
        self._put(name, array)

    def step(self) -> None:
        """Runs the program once on what its inputs hold; returns before the device has finished."""
        self.device.submit(self._recordings[self._phase])
        self._turn()

    def profile(self) -> tuple[Timing, ...]:
        """A `step`, run to its end: when each dispatch ran on the device. Raises SdlError (D033)
        where the device has no clock that can be read."""
        timings = self.device.profile(self._recordings[self._phase])
        self._turn()
        return timings

    def _turn(self) -> None:
        if self._feedback:
            self._phase = 1 - self._phase

    def read(self, name: str) -> Array:
        """An output of the last step (waits for it), or what an input holds."""
        if name not in (*self.program.outputs, *self.program.inputs):
            raise _unknown_name(self.program, "output", name)
        # An output that feeds an input is, after the step, where that input is now.
        fed = {output: given for given, output in self._feedback.items()}
        place = self._places[self._phase][fed.get(name, name)]
        tensor = self.program.tensors[name]
        return load(self.device.read(place.memory, place.offset, place.nbytes), tensor)

    def finish(self) -> None:
        """Waits for every step."""
        self.device.finish()

    def _put(self, name: str, array: Array) -> None:
        place = self._places[self._phase][name]
        data = store(array, self.program.tensors[name])
        self.device.write(place.memory, place.offset, data)


# ---- weights -------------------------------------------------------------------------------------


def fitting(program: Program, weights: Mapping[str, Array]) -> Iterator[tuple[Tensor, Array]]:
    """Each weight of the program with its array, read once (weight files are read lazily).

    Raises SdlError (P001, P002) at the end, naming every weight that is missing or does not fit."""
    problems: list[Diagnostic] = []
    for tensor in _of_role(program, TensorRole.WEIGHT):
        found = _fitted(tensor, weights)
        if isinstance(found, Diagnostic):
            problems.append(found)
        else:
            yield tensor, found
    if problems:
        raise located(problems)


def _fitted(tensor: Tensor, weights: Mapping[str, Array]) -> Array | Diagnostic:
    notes = (("in", tensor.origin.definition),) if tensor.origin else ()
    if tensor.weight not in weights:
        help = did_you_mean(tensor.weight, weights) or (
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
        help = "compile with --precision f32"
        return Diagnostic("P002", message, origin_span(tensor), "declared here", notes, help)
    return array


def _upload(
    program: Program,
    device: Device,
    weights: Mapping[str, Array],
    places: Mapping[str, Binding],
) -> None:
    for tensor, array in chain(_constants(program), fitting(program, weights)):
        place = places[tensor.name]
        device.write(place.memory, place.offset, store(array, tensor))


def _constants(program: Program) -> Iterator[tuple[Tensor, Array]]:
    for tensor in _of_role(program, TensorRole.CONSTANT):
        yield tensor, program.constants[tensor.name].reshape(tensor.shape)


# ---- memory --------------------------------------------------------------------------------------


def _of_role(program: Program, *roles: TensorRole) -> tuple[Tensor, ...]:
    return tuple(t for t in program.tensors.values() if t.role in roles)


def _allocate(program: Program, device: Device) -> dict[str, Binding]:
    """A place for every tensor: arena, pools of weights, a memory for each input and output."""
    places: dict[str, Binding] = {}
    for pool in weight_pools(program, device.info.caps.offset_alignment, _pool_limit(device)):
        size = max(offset + _bound(tensor) for tensor, offset in pool)
        memory = device.allocate(size)
        places |= {t.name: Binding(memory, offset, _bound(t)) for t, offset in pool}
    temporaries = _of_role(program, TensorRole.TEMPORARY)
    if temporaries:
        end = max(t.offset + _bound(t) for t in temporaries)
        arena = device.allocate(max(end, program.memory.arena))
        places |= {t.name: Binding(arena, t.offset, _bound(t)) for t in temporaries}
    for tensor in _of_role(program, TensorRole.INPUT, TensorRole.OUTPUT):
        places[tensor.name] = Binding(device.allocate(_bound(tensor)), 0, _bound(tensor))
    return places


def weight_pools(program: Program, alignment: int, limit: int) -> list[list[tuple[Tensor, int]]]:
    """Weights and constants with their offsets, in as few memories as fit `limit` bytes each."""
    pools: list[list[tuple[Tensor, int]]] = []
    end = limit
    for tensor in _of_role(program, TensorRole.WEIGHT, TensorRole.CONSTANT):
        if not pools or end + _bound(tensor) > limit:
            pools.append([])
            end = 0
        pools[-1].append((tensor, end))
        end = align(end + _bound(tensor), alignment)
    return pools


def _pool_limit(device: Device) -> int:
    return max(device.info.caps.max_binding, 1)


def _bound(tensor: Tensor) -> int:
    """Bytes of a tensor's binding: whole 32-bit words, at least one."""
    return max(align(tensor.nbytes, 4), 4)


def _swapped(places: dict[str, Binding], feedback: Mapping[str, str]) -> dict[str, Binding]:
    """The places with every input and the output that feeds it exchanged."""
    changed = {given: places[output] for given, output in feedback.items()}
    changed |= {output: places[given] for given, output in feedback.items()}
    return {**places, **changed}


def _launches(
    program: Program, parameters: Mapping[str, tuple[str, ...]], places: Mapping[str, Binding]
) -> list[Launch]:
    made = []
    for dispatch in program.dispatches:
        bound = dict(dispatch.bindings)
        bindings = tuple(places[bound[p]] for p in parameters[dispatch.kernel])
        made.append(Launch(dispatch.kernel, bindings))
    return made


# ---- checks --------------------------------------------------------------------------------------


def check_sizes(tensors: Iterable[Tensor], limit: int, place: str) -> None:
    """Raises SdlError (P007) for tensors of more bytes than one binding may have at `place`."""
    large = [t for t in tensors if _bound(t) > limit]
    if large:
        raise located(_too_large(t, limit, place) for t in large)


def _too_large(tensor: Tensor, limit: int, place: str) -> Diagnostic:
    name = tensor.weight or tensor.name
    message = (
        f"`{name}` ({describe(tensor)}) takes {_bound(tensor):,} bytes, more than {place} binds"
    )
    notes = (("limit", f"{limit:,} bytes"),)
    help = "use smaller sizes, --precision f16, or another device (see `sdlc devices`)"
    return Diagnostic("P007", message, origin_span(tensor), notes=notes, help=help)


def _check_feedback(program: Program, feedback: Mapping[str, str]) -> None:
    for given, output in feedback.items():
        if given not in program.inputs:
            raise _unknown_name(program, "input", given)
        if output not in program.outputs:
            raise _unknown_name(program, "output", output)
        a, b = program.tensors[given], program.tensors[output]
        if (a.shape, a.dtype, a.order) != (b.shape, b.dtype, b.order):
            message = (
                f"output `{output}` ({describe(b)}) cannot feed input `{given}` ({describe(a)})"
            )
            raise failure("P006", message, help="the two must have one shape and one type")
    if len(set(feedback.values())) != len(feedback):
        raise failure("P006", "one output feeds two inputs", help="give each its own output")


def _unknown_name(program: Program, kind: str, name: str) -> SdlError:
    known: Iterable[str] = program.inputs if kind == "input" else program.outputs
    notes = ((f"{kind}s", ", ".join(known) or "none"),)
    help = did_you_mean(name, known) or f"use one of the {kind}s listed above"
    return failure("P003", f"`{program.name}` has no {kind} `{name}`", help, notes)
