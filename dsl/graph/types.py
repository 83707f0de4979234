"""Element types and source origins, shared by every level.

In: nothing. Out: `DType`, `Span`, `Origin`. Invariant: values are frozen and hashable.
Example: `DType.F16.itemsize == 2`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]

LOWEST = -3.4028234663852886e38
"""The finite identity of a maximum (the lowest f32); never -inf, so combine(e, e) is not NaN."""


class DType(Enum):
    """An element type. `bool` is stored as a 32-bit 0 or 1."""

    F32 = "f32"
    F16 = "f16"
    I32 = "i32"
    BOOL = "bool"

    @property
    def itemsize(self) -> int:
        """Bytes of one stored element."""
        return 2 if self is DType.F16 else 4

    @property
    def is_float(self) -> bool:
        return self in (DType.F32, DType.F16)

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """The dtype of this type's host arrays."""
        names = {
            DType.F32: "float32",
            DType.F16: "float16",
            DType.I32: "int32",
            DType.BOOL: "int32",
        }
        return np.dtype(names[self])

    def __repr__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Span:
    """A half-open region of a source file; lines and columns count from 1."""

    file: str
    line: int
    column: int
    end_line: int
    end_column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a node comes from: the statement that made it and the definition it stands in.

    `name` is the tensor's name in the source, `definition` the op or block (`softmax`), `scope`
    the weight scope path of the call (`down_blocks.0.resnets.1`), possibly empty; `sites` the calls
    that led there, the last one first; `program` tells programs apart (`Library.digest`). Origins
    that differ in the last two alone are equal.
    """

    name: str
    definition: str
    span: Span | None = None
    scope: str = ""
    sites: tuple[Span, ...] = field(default=(), compare=False, repr=False)
    program: str = field(default="", compare=False, repr=False)

    @property
    def path(self) -> str:
        """`softmax.out`."""
        return ".".join(part for part in (self.definition, self.name) if part)
