"""Values to time a program with, where it has none of its own.

In: a program and a seed. Out: arrays for its weights and inputs. Invariant: the same seed gives the
same values for a weight of a name and shape, whatever else the program holds; results stay finite
in half precision: rows of matrices have about unit length, vectors are about a half.

    executable = Executable(program, device, random_weights(program))
    for name, array in random_inputs(program).items():
        executable.write(name, array)
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from math import prod, sqrt

import numpy as np

from sdlc.graph.types import Array
from sdlc.program.program import Program, Tensor

CENTRE, SPREAD = 0.5, 0.1
"""Of vectors: they scale what norms give, or are added to sums of about unit size."""


class RandomWeights(Mapping[str, Array]):
    """Weights by scope path, each made when it is asked for: a large model never lies in memory."""

    def __init__(self, program: Program, seed: int = 0) -> None:
        self._tensors = {t.weight: t for t in program.raw_weights}
        self._seed = seed

    def __getitem__(self, name: str) -> Array:
        tensor = self._tensors[name]
        return random_weight(name, tensor.shape, self._seed).astype(tensor.dtype.numpy)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def random_weight(name: str, shape: tuple[int, ...], seed: int = 0) -> Array:
    """f32 values for a weight: normal, of unit length along the axes after the first."""
    generator = np.random.default_rng((seed, zlib.crc32(name.encode())))
    values = generator.standard_normal(shape, np.float32)
    if len(shape) < 2:
        return CENTRE + SPREAD * values
    return values / np.float32(sqrt(prod(shape[1:])))


def random_inputs(program: Program, seed: int = 0) -> dict[str, Array]:
    """Normal floats, and zeros for integers and truth values: an index of everything."""
    inputs = {}
    for name in program.inputs:
        tensor = program.tensors[name]
        inputs[name] = _input(tensor, np.random.default_rng((seed, zlib.crc32(name.encode()))))
    return inputs


def _input(tensor: Tensor, generator: np.random.Generator) -> Array:
    if not tensor.dtype.is_float:
        return np.zeros(tensor.shape, tensor.dtype.numpy)
    return generator.standard_normal(tensor.shape, np.float32).astype(tensor.dtype.numpy)
