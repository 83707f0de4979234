"""What programs are run on: arrays of the kinds that go wrong, each made from a few small words.

In: a name, type and shape; a kind and a seed. Out: an array. Invariant: the same words give the
same array, so a failing example is a few words and shrinks to simpler kinds and smaller seeds.

    Given("x", DType.F32, (2, 77), "masked", 3).array
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sdlc.graph.node import Graph, Input, Role, topological
from sdlc.graph.types import Array, DType
from sdlc.proof.stages import Arrays

KINDS = (
    "ordinary",
    "positive",
    "large",
    "offset",
    "equal rows",
    "zeros",
    "masked",
    "near overflow",
)
"""From the simplest on: normal numbers; their magnitudes; hundreds of deviations from zero in size,
or in mean; every row one number; nothing; rows masked in part and whole; sums of two that overflow
half precision (in f32: products of three that overflow)."""
LARGEST_INDEX = 35
MASK = -30000.0
"""What additive masks hold: far below any score, and far enough from the lowest f16 (-65504) that
adding a score to it does not leave half precision; that it may is a program's own defect."""


@dataclass(frozen=True, slots=True)
class Given:
    """How an array is made."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    kind: str = KINDS[0]
    seed: int = 0
    scale: float = 1.0

    @property
    def array(self) -> Array:
        made = values(self.dtype, self.shape, self.kind, self.seed)
        return np.multiply(made, self.scale).astype(made.dtype) if self.scale != 1 else made

    def __str__(self) -> str:
        sizes = ", ".join(map(str, self.shape))
        return f"{self.name}: {self.dtype.value}[{sizes}], {self.kind}, seed {self.seed}"


def values(dtype: DType, shape: tuple[int, ...], kind: str, seed: int) -> Array:
    """An array of a kind: floats of the magnitudes that go wrong, indices also out of range."""
    generator = np.random.default_rng(seed)
    if dtype is DType.BOOL:
        return generator.integers(0, 2, shape).astype(np.int32)
    if dtype is DType.I32:
        return generator.integers(-2, LARGEST_INDEX, shape).astype(np.int32)
    data = generator.standard_normal(shape)
    half = dtype is DType.F16
    match kind:
        case "positive":
            data = np.abs(data)
        case "large":
            data = data * (30 if half else 1000)
        case "offset":
            data = data * 0.1 + (30 if half else 1000)
        case "equal rows":
            data = np.broadcast_to(data[..., :1] if shape else data, shape)
        case "zeros":
            data = np.zeros(shape)
        case "masked":
            data = np.where(_hidden(shape, generator), MASK, data)
        case "near overflow":
            data = np.clip(data, -3, 3) * (20000 if half else 1e17)
    return np.asarray(data).astype(dtype.numpy)


def _hidden(shape: tuple[int, ...], generator: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Half of the elements, and every element of the first row."""
    hidden: npt.NDArray[np.bool_] = generator.random(shape) < 0.5
    if shape:
        hidden[(0,) * (len(shape) - 1)] = True
    return np.asarray(hidden)


def declared(graph: Graph) -> tuple[Input, ...]:
    """The inputs of a graph, then its weights."""
    found = (n for n in topological(graph) if isinstance(n, Input) and n.role is Role.WEIGHT)
    return (*graph.inputs, *found)


def arrays_of(graph: Graph, given: Mapping[str, Array]) -> Arrays:
    """`given` parted into inputs and weights."""
    weights = {n.name for n in declared(graph) if n.role is Role.WEIGHT}
    return Arrays(
        {k: v for k, v in given.items() if k not in weights},
        {k: v for k, v in given.items() if k in weights},
    )
