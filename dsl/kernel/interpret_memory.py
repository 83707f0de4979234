"""The interpreter's memory: arrays that notice what a device would not.

In: addresses of all lanes at once. Out: their values. Invariant: an access of an active lane out of
bounds, a read of a cell that nobody wrote, or two lanes on one cell of which one writes (between
two barriers for local memory, in the whole launch for global memory) raises `Trap`.

All cells of one buffer lie in one flat array: of the kernel (global), of every group of the chunk
(local) or of every lane of it (private); `base` is where a lane's copy begins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sdlc.graph.types import Array, DType
from sdlc.kernel.ir import Access, Buffer, Space

Values = npt.NDArray[Any]
Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_] | None
Fail = Callable[[str], Exception]

NOBODY, SEVERAL = -1, -2


class Trap(Exception):
    """The kernel did what no kernel may do; the text names the statement, buffer and cell."""


@dataclass(slots=True)
class Lanes:
    """The lanes that run together: `ids` [groups, lanes] counts them over the whole launch."""

    ids: Indices

    @classmethod
    def of(cls, groups: Indices, width: int) -> Lanes:
        """The lanes of the work-groups of these numbers, `width` of each."""
        return cls(groups[:, None] * width + np.arange(width))

    @property
    def shape(self) -> tuple[int, int]:
        return self.ids.shape[0], self.ids.shape[1]


class Cells:
    """One buffer's cells for the lanes that run together."""

    def __init__(self, buffer: Buffer, lanes: Lanes, data: Array | None = None) -> None:
        groups, width = lanes.shape
        copies = {Space.GLOBAL: 1, Space.LOCAL: groups, Space.PRIVATE: groups * width}
        count = copies[buffer.space] * buffer.size
        self.buffer = buffer
        self.lanes = lanes
        self.base = _base(buffer, groups, width)
        self.data: Values = _poison(buffer.dtype, count) if data is None else data
        known = data is not None and buffer.access is not Access.WRITE
        self.written = None if known else np.zeros(count, np.bool_)
        shared = buffer.space is Space.LOCAL or (
            buffer.space is Space.GLOBAL and buffer.access is not Access.READ
        )
        self.writer = np.full(count, NOBODY, np.int64) if shared else None
        self.reader = np.full(count, NOBODY, np.int64) if shared else None

    def move_to(self, lanes: Lanes) -> None:
        """Another chunk of lanes runs: global cells and what is known of them stay."""
        self.lanes = lanes

    def load(self, index: Values, count: int, mask: Mask, fail: Fail) -> Values:
        """The values at index … index + count - 1, of every lane ([…, count] if count > 1)."""
        index = self._checked(index, count, mask, fail)
        address: Values = index if self.base is None else index + self.base
        if count > 1:
            address = address[..., None] + np.arange(count)
        if self.written is not None:
            self._check_written(address, mask, fail)
        if self.reader is not None:
            self._note_reads(address, mask, fail)
        return np.asarray(self.data[address])

    def store(self, index: Values, value: Values, mask: Mask, fail: Fail) -> None:
        count = value.shape[2] if value.ndim == 3 else 1
        index = self._checked(index, count, mask, fail)
        address: Values = index if self.base is None else index + self.base
        if count > 1:
            address = address[..., None] + np.arange(count)
        cells = self._active(address, mask)
        if self.writer is not None:
            self._note_writes(cells, self._owners(address, mask), fail)
        self.data[cells] = self._active(value, mask)
        if self.written is not None:
            self.written[cells] = True

    def forget_phase(self, groups: Values) -> None:
        """A barrier of the given groups (a mask of them): earlier accesses are in order."""
        for note in (self.writer, self.reader):
            if note is not None:
                note.reshape(len(groups), -1)[groups] = NOBODY

    def _checked(self, index: Values, count: int, mask: Mask, fail: Fail) -> Values:
        if mask is not None:
            index = np.where(mask, index, 0)
        if index.size and (index.min() < 0 or index.max() + count > self.buffer.size):
            bad = index[(index < 0) | (index + count > self.buffer.size)][0]
            span = f"{bad}" if count == 1 else f"{bad} … {bad + count - 1}"
            raise fail(f"out of bounds: {self.buffer.name}[{span}] of {self.buffer.size}")
        width = self.buffer.lanes
        if width > 1 and (width % count or (index % count).any()):
            raise fail(f"no part of a vector of {width}: {count} lanes of {self.buffer.name}")
        return index

    def _active(self, values: Values, mask: Mask) -> Values:
        """The values of active lanes, flat."""
        shape = (*self.lanes.shape, *values.shape[2:])
        full = np.broadcast_to(values, shape)
        return full.ravel() if mask is None else full[np.broadcast_to(mask, shape[:2])].ravel()

    def _owners(self, address: Values, mask: Mask) -> Values:
        ids = self.lanes.ids
        if address.ndim == 3:
            ids = np.repeat(ids[..., None], address.shape[2], axis=2)
        return self._active(ids, mask)

    def _check_written(self, address: Values, mask: Mask, fail: Fail) -> None:
        assert self.written is not None
        cells = address.ravel() if mask is None else self._active(address, mask)
        known = self.written[cells]
        if not known.all():
            raise fail(f"read of a cell that was never written: {self._name(cells[~known][0])}")

    def _note_writes(self, cells: Values, owners: Values, fail: Fail) -> None:
        assert self.writer is not None and self.reader is not None
        for note, what in ((self.writer, "written"), (self.reader, "read")):
            before = note[cells]
            self._check(cells, owners, (before == NOBODY) | (before == owners), what, fail)
        self.writer[cells] = owners
        self._check(cells, owners, self.writer[cells] == owners, "written", fail)

    def _note_reads(self, address: Values, mask: Mask, fail: Fail) -> None:
        assert self.writer is not None and self.reader is not None
        cells, owners = self._active(address, mask), self._owners(address, mask)
        before = self.writer[cells]
        self._check(cells, owners, (before == NOBODY) | (before == owners), "written", fail)
        before = self.reader[cells]
        self.reader[cells] = owners
        shared = (self.reader[cells] != owners) | ((before != NOBODY) & (before != owners))
        self.reader[cells[shared]] = SEVERAL

    def _check(self, cells: Values, owners: Values, fine: Values, what: str, fail: Fail) -> None:
        if not fine.all():
            cell, owner = cells[~fine][0], owners[~fine][0]
            raise fail(
                f"race: work-item {owner} meets {self._name(cell)}, {what} by another work-item"
            )

    def _name(self, cell: int) -> str:
        return f"{self.buffer.name}[{cell % self.buffer.size}]"


def _base(buffer: Buffer, groups: int, width: int) -> Values | None:
    match buffer.space:
        case Space.GLOBAL:
            return None
        case Space.LOCAL:
            return np.arange(groups)[:, None] * buffer.size
        case Space.PRIVATE:
            return np.arange(groups * width).reshape(groups, width) * buffer.size


def cleared(before: Array, dtype: DType) -> Array:
    """Cells that a kernel only writes: unknown, but for zeros, with which memory was cleared."""
    return np.where(before == 0, before, _poison(dtype, before.size))


def _poison(dtype: DType, count: int) -> Values:
    """Cells that nobody wrote: NaN, or an integer that no kernel means."""
    return np.full(count, np.nan if dtype.is_float else -0x7F7F7F7F, dtype.numpy)
