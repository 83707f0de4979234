"""Level 6: the program. Dispatches, tensors, arena offsets and weight layouts.

In: scheduled kernels and a memory plan. Out: `Program`, which a bundle stores and an executable
runs. Invariant: tensors whose lifetimes overlap do not overlap in the arena; every binding names a
tensor of the program and a parameter of its kernel.
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
    (`(0, 2, 3, 1)` stores b, c, h, w as NHWC). Inputs and outputs are row-major. `offset` is a
    temporary's place in the arena in bytes, else 0. `weight` is a weight's scope path.
    Where `block` is given, its axis is split in storage and the last block is padded: with zeros in
    weights and constants, with anything in temporaries.
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
    """`kernels` are by name, each once. `constants` are the constant tensors' data, row-major."""

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
