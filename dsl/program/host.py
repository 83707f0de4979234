"""The process's own memory: what its allocator holds back goes back to the system.

In: nothing. Out: nothing. Invariant: no value changes; where the C library has no such call,
nothing happens. Example: `give_back()` after a large network was built or released.

Compilers and copies leave holes in the heap that an allocator keeps for later: beside weights of
two GiB, that is memory which nobody needs.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress


def give_back() -> None:
    """Returns free pages of the heap to the system (glibc's malloc_trim)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
