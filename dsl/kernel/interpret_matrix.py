"""A matrix instruction with NumPy: what the lanes of each sub-group hold, multiplied as matrices.

In: the values of the factors' elements by work-item. Out: those of the result's. Invariant:
products are exact in the accumulator's type, sums in it are in no order that is promised.

    multiplied(instruction, into, left, right)(state)       into += left × right
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from sdlc.graph.types import Array, DType
from sdlc.target import Holding, MatrixInstruction


class Running(Protocol):
    """A chunk of work-groups as it runs (`interpret.State`): values by slot, active lanes."""

    values: list[Any]
    shape: tuple[int, int]
    mask: Any


def multiplied(
    instruction: MatrixInstruction,
    into: Sequence[int],
    left: Sequence[int],
    right: Sequence[int],
) -> Callable[[Running], None]:
    """The operation: slots of the result's elements, and of what is held of the factors."""
    kept = DType(instruction.accumulator).numpy
    shapes = {"left": (instruction.m, instruction.k), "right": (instruction.k, instruction.n)}
    places = {
        "left": places_of(instruction.left, instruction.lanes),
        "right": places_of(instruction.right, instruction.lanes),
        "result": places_of(instruction.result, instruction.lanes),
    }

    def run(state: Running) -> None:
        groups, lanes = state.shape
        subgroups = groups * lanes // instruction.lanes
        factors: Mapping[str, Array] = {
            side: _matrix(
                _elements(state, slots).reshape(subgroups, instruction.lanes, -1),
                places[side],
                shapes[side],
            ).astype(kept)
            for side, slots in (("left", left), ("right", right))
        }
        product = np.matmul(factors["left"], factors["right"])
        rows, columns = places["result"]
        held = product[:, rows, columns].reshape(groups, lanes, -1)
        for number, slot in enumerate(into):
            made = state.values[slot] + held[..., number]
            if state.mask is not None:
                made = np.where(state.mask, made, state.values[slot])
            state.values[slot] = made

    return run


def exchanged(distance: int, value: int, slot: int) -> Callable[[Running], None]:
    """The operation: every lane's `slot` is the `value` of the lane whose number differs in the
    bits of `distance`."""

    def run(state: Running) -> None:
        others = np.arange(state.shape[1]) ^ distance
        state.values[slot] = np.broadcast_to(state.values[value], state.shape)[:, others]

    return run


def places_of(holding: Holding, lanes: int) -> tuple[Array, Array]:
    """The rows and the columns of every element, [lanes, elements]."""
    found = np.array(
        [[holding.place(lane, e) for e in range(holding.count)] for lane in range(lanes)]
    )
    return found[..., 0], found[..., 1]


def _elements(state: Running, slots: Sequence[int]) -> Array:
    """What every work-item holds of a factor, [groups, lanes, elements]."""
    parts = []
    for slot in slots:
        value = state.values[slot]
        wide = value if value.ndim == 3 else value[..., None]
        parts.append(np.broadcast_to(wide, (*state.shape, wide.shape[-1])))
    return np.concatenate(parts, axis=-1)


def _matrix(held: Array, places: tuple[Array, Array], shape: tuple[int, int]) -> Array:
    made = np.zeros((held.shape[0], *shape), held.dtype)
    made[:, places[0], places[1]] = held
    return made
