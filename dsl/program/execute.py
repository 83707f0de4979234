"""Running a program on a device.

In: a `Program`, a `Device` and weights by scope path. Out: `Executable`, whose `run` takes and
gives NumPy arrays. Invariant: weights are uploaded and what is computed of them is computed once;
launches are recorded once; between `step`s nothing returns to the host.

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
from dataclasses import dataclass, replace
from types import MappingProxyType

from sdlc.graph.types import Array
from sdlc.language.diagnostics import Diagnostic, SdlError, did_you_mean, failure, half_precision
from sdlc.program.device import Binding, Device, DeviceInfo, KernelText, Timing
from sdlc.program.host import give_back
from sdlc.program.load import Kernels, bound, is_prepared, load_weights, of_role
from sdlc.program.memory import relocate
from sdlc.program.program import Program, Tensor, TensorRole
from sdlc.program.values import (
    check_inputs,
    convert_input,
    describe,
    load,
    located,
    origin_span,
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
        between unlike tensors, P007 a tensor that is larger than the device can bind, P010 a
        program that takes more memory than the device has (before any is allocated)."""
        _check_feedback(program, feedback)
        info = device.info
        if is_prepared(program, weights):
            program = replace(program, load=None)
        check_sizes(program.all_tensors, info.caps.max_binding, f"the device `{info.name}`")
        if texts is None:
            texts = [device.text(kernel) for kernel in program.all_kernels]
        program = relocate(program, device.info.caps)
        check_memory(program, info)
        self.program = program
        self.device = device
        self._feedback = dict(feedback)
        self._phase = 0
        loading, running = texts_of(program, texts)
        places = load_weights(program, Kernels.built(device, loading), weights)
        give_back()
        kernels = Kernels.built(device, running)
        places |= _run_places(program, device)
        self._places = (places, _swapped(places, feedback))
        used = self._places if feedback else self._places[:1]
        self._recordings = [kernels.record(program.dispatches, at) for at in used]
        self._kernels = kernels

    @property
    def places(self) -> Mapping[str, Binding]:
        """Where each tensor of the program lies at the next step, by name."""
        return self._places[self._phase]

    def run(self, inputs: Mapping[str, object]) -> dict[str, Array]:
        """One run. Inputs by name: integers for i32, any numbers for floats; outputs by name, in
        row-major order. Raises SdlError (P003, P004, P005) for inputs that do not fit."""
        self.give(inputs)
        self.step()
        return self.results()

    def give(self, inputs: Mapping[str, object]) -> None:
        """Sets every input. Raises SdlError as `run` does."""
        for name, array in check_inputs(self.program, inputs).items():
            self._put(name, array)

    def results(self) -> dict[str, Array]:
        """The outputs of the last step by name."""
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

    def dispatched(self) -> Iterator[int]:
        """A `step`, one dispatch at a time: the number of each, when it has run. What it stored can
        be looked at (`peek`) until the next one is asked for."""
        places = self.places
        for number, dispatch in enumerate(self.program.dispatches):
            self.device.submit(self._kernels.record((dispatch,), places))
            self.device.finish()
            yield number
        self._turn()

    def peek(self, name: str) -> Array:
        """What lies in the place of a tensor, whatever its role."""
        place = self.places[name]
        data = self.device.read(place.memory, place.offset, place.nbytes)
        return load(data, self.program.tensors[name])

    def _turn(self) -> None:
        if self._feedback:
            self._phase = 1 - self._phase

    def read(self, name: str) -> Array:
        """An output of the last step (waits for it), or what an input holds."""
        if name not in (*self.program.outputs, *self.program.inputs):
            raise _unknown_name(self.program, "output", name)
        # An output that feeds an input is, after the step, where that input is now.
        fed = {output: given for given, output in self._feedback.items()}
        place = self.places[fed.get(name, name)]
        tensor = self.program.tensors[name]
        return load(self.device.read(place.memory, place.offset, place.nbytes), tensor)

    def finish(self) -> None:
        """Waits for every step."""
        self.device.finish()

    def _put(self, name: str, array: Array) -> None:
        place = self.places[name]
        data = store(array, self.program.tensors[name])
        self.device.write(place.memory, place.offset, data)


# ---- memory --------------------------------------------------------------------------------------


def texts_of(
    program: Program, texts: Sequence[KernelText]
) -> tuple[list[KernelText], list[KernelText]]:
    """The kernels that make weights, and those of runs: the former go before the latter come."""
    load = () if program.load is None else program.load.dispatches
    needed = ({d.kernel for d in dispatches} for dispatches in (load, program.dispatches))
    loading, running = ([t for t in texts if t.name in names] for names in needed)
    return loading, running


def _run_places(program: Program, device: Device) -> dict[str, Binding]:
    """Places for what a run makes: an arena, a memory for each input and output."""
    places: dict[str, Binding] = {}
    temporaries = of_role(program, TensorRole.TEMPORARY)
    if temporaries:
        end = max(t.offset + bound(t) for t in temporaries)
        arena = device.allocate(max(end, program.memory.arena))
        places |= {t.name: Binding(arena, t.offset, bound(t)) for t in temporaries}
    for tensor in of_role(program, TensorRole.INPUT, TensorRole.OUTPUT):
        places[tensor.name] = Binding(device.allocate(bound(tensor)), 0, bound(tensor))
    return places


def _swapped(places: dict[str, Binding], feedback: Mapping[str, str]) -> dict[str, Binding]:
    """The places with every input and the output that feeds it exchanged."""
    changed = {given: places[output] for given, output in feedback.items()}
    changed |= {output: places[given] for given, output in feedback.items()}
    return {**places, **changed}


# ---- checks --------------------------------------------------------------------------------------


class TooLargeError(SdlError):
    """P007: tensors that cannot be bound. `share` of the largest of them could be; 0 where it is
    a weight."""

    share = 0.0


def check_sizes(tensors: Iterable[Tensor], limit: int, place: str) -> None:
    """Raises TooLargeError (P007) for tensors of more bytes than one binding may have at
    `place`."""
    large = [t for t in tensors if bound(t) > limit]
    if large:
        found = located(_too_large(t, limit, place) for t in large)
        error = TooLargeError(found.diagnostics, found.sources)
        if not any(t.weight for t in large):
            error.share = limit / max(map(bound, large))
        raise error


def _too_large(tensor: Tensor, limit: int, place: str) -> Diagnostic:
    name = tensor.weight or tensor.name
    message = (
        f"`{name}` ({describe(tensor)}) takes {bound(tensor):,} bytes, more than {place} binds"
    )
    notes = (("limit", f"{limit:,} bytes"),)
    half = half_precision(tensor.dtype)
    help = f"use smaller sizes, {half}or another device (see `sdlc devices`)"
    return Diagnostic("P007", message, origin_span(tensor), notes=notes, help=help)


@dataclass(frozen=True, slots=True)
class Needed:
    """Bytes that a program takes on a device."""

    weights: int
    arena: int
    loading: int
    values: int

    @property
    def total(self) -> int:
        """The most at any time: loading ends before the arena is allocated."""
        return self.weights + max(self.loading, self.arena + self.values)


def memory_of(program: Program) -> Needed:
    """What a program that is laid out takes."""
    values = of_role(program, TensorRole.INPUT, TensorRole.OUTPUT)
    loading = 0 if program.load is None else program.load.memory.arena
    memory = program.memory
    return Needed(memory.weights, memory.arena, loading, sum(map(bound, values)))


def check_memory(program: Program, info: DeviceInfo, fits: str = "") -> None:
    """Raises SdlError (P010) for a program that takes more memory than a device has, as far as its
    driver says; `fits` says what would not."""
    needed = memory_of(program)
    most = max(needed.arena, needed.loading)
    if info.largest_bytes and most > info.largest_bytes:
        limit, wanted = info.largest_bytes, f"an arena of {most:,} bytes"
    elif info.total_bytes and needed.total > info.total_bytes:
        limit, wanted = info.total_bytes, f"{needed.total:,} bytes"
    else:
        return
    message = f"`{program.name}` takes {wanted}, more than the device `{info.name}` has"
    notes = (
        ("limit", f"{limit:,} bytes"),
        ("weights", f"{needed.weights:,} bytes"),
        ("arena", f"{needed.arena:,} bytes"),
    )
    half = half_precision(program.precision)
    help = f"{fits or 'use smaller sizes'}, {half}or another device (`sdlc devices`)"
    raise failure("P010", message, help, notes)


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
    help = did_you_mean(name, known, 3) or f"use one of the {kind}s listed above"
    return failure("P003", f"`{program.name}` has no {kind} `{name}`", help, notes)
