"""Numerics classes: what a rewriting does to arithmetic, from nothing to the most.

In: nothing. Out: `Numerics`. Invariant: the order is that of the errors that a class allows; how
large an error that is, is computed (`proof/tolerance.py`), never chosen. Example:
`Numerics("rescaled") is Numerics.RESCALED`.
"""

from __future__ import annotations

from enum import Enum


class Numerics(Enum):
    EXACT = "exact"
    """The same operations in the same order."""
    REASSOCIATED = "reassociated"
    """Sums in another order, multiplications and additions fused."""
    RESCALED = "rescaled"
    """Terms multiplied and divided by a factor, as an online softmax does."""
    BILINEAR = "bilinear"
    """Products by a bilinear algorithm, whose matrices amplify rounding (Winograd)."""
