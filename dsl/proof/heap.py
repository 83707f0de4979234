"""Freed memory stays with the process: what evaluates arrays by the thousand makes each anew.

In: nothing. Out: nothing; from here on glibc's allocator gives little back to the system.
Invariant: no result depends on it. Where pages are dear (virtual machines), NumPy on arrays of
100 KB to 10 MB takes a third to a fifth of the time; elsewhere nothing changes.

    keep_freed_memory()
"""

from __future__ import annotations

import ctypes

_SETTINGS = ((-1, 1 << 28), (-2, 1 << 26), (-3, 1 << 25))
"""mallopt(3): M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_THRESHOLD (32 MiB is the most), in bytes."""


def keep_freed_memory() -> None:
    """Asks the C library's allocator to keep what is freed, if it knows how."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for setting, size in _SETTINGS:
        mallopt(setting, size)
