"""Where a logical element lies in storage: an order of axes, one of which may be split into blocks.

In: a shape, the order of its axes from the outermost in storage to the innermost, perhaps a block.
Out: stored extents and element numbers. Invariant: distinct elements have distinct places; where a
block does not divide its axis, storage has places (padding) that hold no element.

    [o, k] = [70, 9] with order (0, 1) and Block(axis=0, size=32) is stored as [3][9][32]:
    element (o, k) is number ((o / 32) * 9 + k) * 32 + o % 32, and 26 * 9 places are padding
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod


@dataclass(frozen=True, slots=True)
class Block:
    """`axis` is stored in blocks: the number of the block at the axis's place in the order, the
    `size` elements of one block innermost of all, the last block padded."""

    axis: int
    size: int


def stored_extents(
    shape: tuple[int, ...], order: tuple[int, ...], block: Block | None = None
) -> tuple[int, ...]:
    """The extents in storage, outermost first; one more than the shape has where there is a
    block."""
    if block is None:
        return tuple(shape[axis] for axis in order)
    outer = [-(-shape[a] // block.size) if a == block.axis else shape[a] for a in order]
    return (*outer, block.size)


def stored_strides(
    shape: tuple[int, ...], order: tuple[int, ...], block: Block | None = None
) -> tuple[int, ...]:
    """Elements between neighbours by logical axis; between blocks for the axis of a block."""
    extents = stored_extents(shape, order, block)
    strides = [0] * len(shape)
    for place, axis in enumerate(order):
        strides[axis] = prod(extents[place + 1 :])
    return tuple(strides)


def stored_count(shape: tuple[int, ...], order: tuple[int, ...], block: Block | None = None) -> int:
    """Places in storage, padding included."""
    return prod(stored_extents(shape, order, block))
