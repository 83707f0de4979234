"""A step watched: what each dispatch stored is read back, before the next one runs.

In: an executable whose inputs are written. Out: the largest magnitude of every tensor, and the
first dispatch that stored what is no number (`NotFiniteError`), with all that it had read.
Invariant: the step computes what it would have computed unwatched; values are copied before their
place in the arena is taken by others.

    watch = Watch(executable)
    watch.step()                       # raises NotFiniteError
    watch.peaks["mid.out"]             # the largest finite magnitude that was stored there
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from sdlc.graph.hoist import MARK
from sdlc.graph.types import Array
from sdlc.program.execute import Executable
from sdlc.program.program import Program, TensorRole

LOADED = -1
"""The number of the dispatch that stands for all that is computed when weights are loaded."""
MADE = (TensorRole.TEMPORARY, TensorRole.OUTPUT)

Tell = Callable[[int, int], object]
"""Told how many dispatches of how many have run."""


def quietly(done: int, total: int) -> None:
    """Tells nobody."""


@dataclass(frozen=True, slots=True)
class Peak:
    """The largest finite magnitude that a tensor had, and in which dispatch."""

    value: float
    tensor: str
    dispatch: int


@dataclass(frozen=True, slots=True)
class Bad:
    """What a dispatch stored, of which `bad` values are not finite; `operands` are what it read, by
    tensor; `before` is the largest value that was stored earlier."""

    dispatch: int
    tensor: str
    stored: Array
    bad: int
    before: Peak | None
    operands: Mapping[str, Array]


class NotFiniteError(Exception):
    """A dispatch stored what is no number: for the caller, who knows where it comes from."""

    def __init__(self, program: Program, bad: Bad) -> None:
        super().__init__(f"{bad.tensor} of {program.name} is not finite")
        self.program, self.bad = program, bad


def count_bad(values: Array) -> int:
    """How many values are no numbers."""
    if values.dtype.kind != "f":
        return 0
    return int(values.size - np.count_nonzero(np.isfinite(values)))


def magnitude(values: Array) -> float:
    """The largest finite magnitude, 0 where there is none."""
    if values.dtype.kind != "f" or not values.size:
        return 0.0
    sizes = np.abs(values, dtype=np.float32 if values.dtype == np.float16 else values.dtype)
    return float(np.max(sizes, initial=0.0, where=np.isfinite(sizes)))


@dataclass(slots=True)
class Watch:
    """Steps of an executable. `strict`: the first value that is not finite ends a step."""

    executable: Executable
    strict: bool = True
    tell: Tell = quietly
    peaks: dict[str, Peak] = field(default_factory=dict)
    bad: dict[str, int] = field(default_factory=dict)
    """How many values were no numbers, by tensor, in the order in which they were found."""
    _live: dict[str, Array] = field(default_factory=dict)
    _largest: Peak | None = None

    def loaded(self) -> None:
        """Looks at what was computed of the weights. Raises NotFiniteError."""
        for tensor in self.executable.program.tensors.values():
            if tensor.role is TensorRole.WEIGHT and tensor.weight.startswith(MARK):
                self._look(LOADED, tensor.name, self.executable.peek(tensor.name))

    def step(self) -> None:
        """One step. Raises NotFiniteError."""
        program, self._largest = self.executable.program, None
        last = {name: n for n, d in enumerate(program.dispatches) for _, name in d.bindings}
        seen: set[str] = set()
        total = len(program.dispatches)
        for name in program.inputs:
            self._look(LOADED, name, self.executable.peek(name))
        for number in self.executable.dispatched():
            names = [name for _, name in program.dispatches[number].bindings]
            for name in names:
                if name not in seen and program.tensors[name].role in MADE:
                    self._live[name] = self.executable.peek(name)
                    self._look(number, name, self._live[name])
                seen.add(name)
            self._live = {n: a for n, a in self._live.items() if last[n] > number}
            self.tell(number + 1, total)

    def _look(self, number: int, name: str, values: Array) -> None:
        bad, size = count_bad(values), magnitude(values)
        if bad and self.strict:
            operands = {} if number == LOADED else self._operands(number)
            found = Bad(number, name, values, bad, self._largest, operands)
            self._live.clear()
            raise NotFiniteError(self.executable.program, found)
        if bad:
            self.bad[name] = max(bad, self.bad.get(name, 0))
        peak = Peak(size, name, number)
        if name not in self.peaks or self.peaks[name].value < size:
            self.peaks[name] = peak
        if self._largest is None or self._largest.value < size:
            self._largest = peak

    def _operands(self, number: int) -> dict[str, Array]:
        """What a dispatch read: copies from before it ran, of what it may have overwritten."""
        program = self.executable.program
        names = dict.fromkeys(name for _, name in program.dispatches[number].bindings)
        return {n: self._live[n] if n in self._live else self.executable.peek(n) for n in names}
