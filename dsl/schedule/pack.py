"""Weights in the blocks that tiles of results read: each tile reads one block from end to end.

In: scheduled kernels and storage orders. Out: a `Block` for each weight that is packed. Invariant:
every kernel reads a packed weight tile by tile, each tile within a block; what else reads it keeps
it unpacked. The block's axis is the outermost in storage, its elements are the innermost.

    w[o, k] read in tiles of 32 o:   stored as [o / 32][k][32], not as [k][o]

Without it a tile's elements lie a row of all columns apart: other pages, and few sets of a cache.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from sdlc.graph.expr import Axis, Read, reads_of
from sdlc.graph.node import Input, Role
from sdlc.schedule.affine import affine
from sdlc.schedule.contraction import contraction
from sdlc.schedule.group import Group
from sdlc.schedule.layout import Orders, Value
from sdlc.schedule.nest import Kind, Nest
from sdlc.schedule.storage import Block

Scheduled = tuple[Group, Nest, Axis | None]
"""A kernel: what, how, and the axis along vector lanes."""

LEAST = 8
"""Elements of a block: fewer are less than half a line of a cache."""


def packed_weights(kernels: Iterable[Scheduled], orders: Orders) -> Mapping[Value, Block]:
    """The blocks of the weights that all their readers read in tiles."""
    found: dict[Value, set[Block | None]] = defaultdict(set)
    for group, nest, lanes in kernels:
        form = contraction(group)
        tiled = frozenset(reads_of(*form.rights)) if form is not None else frozenset()
        for read in (r for part in group.parts for r in part.reads if _is_weight(r)):
            value = read.source, read.field
            inside = read in tiled and lanes is not None
            found[value].add(_block(read, lanes, nest, orders) if inside and lanes else None)
    made: dict[Value, Block] = {}
    for value, blocks in found.items():
        sizes = [b.size for b in blocks if b is not None]
        if len(sizes) == len(blocks) and all(size % min(sizes) == 0 for size in sizes):
            made[value] = min((b for b in blocks if b is not None), key=lambda b: b.size)
    return made


def _is_weight(read: Read) -> bool:
    return isinstance(read.source, Input) and read.source.role is Role.WEIGHT


def _block(read: Read, lanes: Axis, nest: Nest, orders: Orders) -> Block | None:
    """The block that a tile of results reads of a weight, if it reads one."""
    forms = [affine(index) for index in read.indices]
    places = [d for d, form in enumerate(forms) if form is None or lanes in form[0]]
    if len(places) != 1 or read.fill is not None or not nest.is_exact(lanes):
        return None
    place, size = places[0], _tile(nest, lanes)
    form, extent = forms[place], read.source.shape[place]
    if form is None or form[0] != {lanes: 1} or form[1] % size or extent % size or size == extent:
        return None
    innermost = orders[(read.source, read.field)][-1] == place
    return Block(place, size) if innermost and size >= LEAST else None


def _tile(nest: Nest, lanes: Axis) -> int:
    """Neighbouring elements along an axis that a work-item computes together."""
    size = 1
    for loop in sorted(nest.of_axis(lanes), key=lambda lp: lp.stride):
        if loop.kind not in (Kind.VECTOR, Kind.UNROLL) or loop.stride != size:
            break
        size *= loop.extent
    return size
