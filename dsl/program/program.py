"""Level 6: the program. Dispatches, tensors, arena offsets and weight layouts.

In: scheduled kernels and a memory plan. Out: `Program`, which a bundle stores and an executable
runs. Invariant: tensors whose lifetimes overlap do not overlap in the arena; every binding names a
tensor of the program and a parameter of its kernel; what a program's load program gives are weights
of the program, stored alike.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from sdlc.graph.types import Array, DType, Origin
from sdlc.kernel.ir import Kernel
from sdlc.schedule.storage import Block


class TensorRole(Enum):
    INPUT = "input"
    OUTPUT = "output"
    WEIGHT = "weight"
    CONSTANT = "constant"
    TEMPORARY = "temporary"


@dataclass(frozen=True, slots=True)
class Tensor:
    """A stored value. `order` lists the logical axes from the outermost in storage to the innermost
    (`(0, 2, 3, 1)` stores b, c, h, w as NHWC). Inputs and outputs are row-major (what a
    load program gives is stored as the program's weight is). `offset` is the place in the arena in
    bytes of a temporary, or of a load program's weight, else 0. `weight` is a weight's scope path,
    or the name of the load program's output that it is.
    Where `block` is given, its axis is split in storage and the last block is padded: with zeros in
    weights and constants, with anything in temporaries. `in_place_of` is the temporary whose place
    this one may take: the dispatch that writes it is the last to read that one, each element only
    for the element that replaces it.
    `origin` is where it was declared, for messages."""

    name: str
    shape: tuple[int, ...]
    dtype: DType
    order: tuple[int, ...]
    role: TensorRole
    nbytes: int
    offset: int = 0
    weight: str = ""
    origin: Origin | None = None
    block: Block | None = None
    in_place_of: str = ""


@dataclass(frozen=True, slots=True)
class Dispatch:
    """One launch; `bindings` are (kernel parameter, tensor name) in the kernel's order; `flop` are
    its floating-point operations."""

    kernel: str
    bindings: tuple[tuple[str, str], ...]
    label: str = ""
    flop: int = 0


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """Bytes of the temporaries: each in a place of its own, in the arena, and the most that is ever
    live (a lower bound for any arena); and of the weights as stored."""

    naive: int
    arena: int
    lower_bound: int
    weights: int


@dataclass(frozen=True, slots=True)
class Program:
    """`kernels` are by name, each once. `constants` are the constant tensors' data, row-major.

    `load`, where there is one, is run once, when weights are loaded. It has no inputs; its outputs
    are weights of this program; its own weights are in its arena only while it needs them. Its
    kernels' names differ from this program's.
    """

    name: str
    target: str
    precision: DType
    tensors: dict[str, Tensor]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    kernels: dict[str, Kernel]
    dispatches: tuple[Dispatch, ...]
    memory: MemoryReport
    constants: dict[str, Array] = field(default_factory=dict)
    flop: int = 0
    load: Program | None = None

    @property
    def all_kernels(self) -> tuple[Kernel, ...]:
        """The kernels of the runs, then those of the load program."""
        more = () if self.load is None else tuple(self.load.kernels.values())
        return (*self.kernels.values(), *more)

    @property
    def all_tensors(self) -> tuple[Tensor, ...]:
        """The tensors of the runs, then those of the load program; what it gives is among both."""
        more = () if self.load is None else tuple(self.load.tensors.values())
        return (*self.tensors.values(), *more)

    @property
    def raw_weights(self) -> tuple[Tensor, ...]:
        """The weights that files give, by scope path, each once: what the program reads as it is,
        then what its load program reads."""
        made = () if self.load is None else self.load.outputs
        found: dict[str, Tensor] = {}
        for tensor in self.all_tensors:
            if tensor.role is TensorRole.WEIGHT and tensor.weight not in made:
                found.setdefault(tensor.weight, tensor)
        return tuple(found.values())
