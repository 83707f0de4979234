"""Where the elements of a matrix that a sub-group holds are, as kernel expressions.

In: a `Holding`, the number of a work-item in its sub-group. Out: rows and columns. Invariant: over
all work-items and elements, every place of the matrix that is held is named.

    place(result, lane, 3)      (lane / 4 + 8, lane % 4 * 2 + 1)
"""

from __future__ import annotations

from collections.abc import Iterator

from sdlc.kernel.ir import Call, Expr, call, i32
from sdlc.target import Holding


def runs(places: tuple[tuple[int, int], ...]) -> Iterator[tuple[int, int, int, int]]:
    """Neighbouring bits that count along one dimension, as (first bit, bits, dimension, step)."""
    bit = 0
    while bit < len(places):
        dimension = 0 if places[bit][0] else 1
        step, length = places[bit][dimension], 1
        while bit + length < len(places):
            following = [0, 0]
            following[dimension] = step << length
            if places[bit + length] != tuple(following):
                break
            length += 1
        yield bit, length, dimension, step
        bit += length


def place(holding: Holding, lane: Expr, element: int) -> tuple[Expr, Expr]:
    """The row and the column of a work-item's element."""
    found: list[Expr] = [i32(n) for n in holding.place(0, element)]
    for bit, length, dimension, step in runs(holding.lanes):
        digit: Expr = lane if bit == 0 else call("floordiv", lane, i32(1 << bit))
        if bit + length < len(holding.lanes):
            digit = call("mod", digit, i32(1 << length))
        term = digit if step == 1 else call("mul", digit, i32(step))
        found[dimension] = Call("add", (term, found[dimension]))
    return found[0], found[1]


def packed(holding: Holding, dimension: int) -> int:
    """How many elements of a work-item, from its first on, lie side by side in a dimension."""
    first = next(runs(holding.elements), None)
    if first is None or first[2] != dimension or first[3] != 1:
        return 1
    return 1 << first[1]
