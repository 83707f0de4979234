"""What is said where a device cannot go on, whatever its driver calls it.

In: a device's name, what it was asked for. Out: an SdlError: D031 where it has too little memory,
D032 where its driver gave up. Invariant: nothing is raised here. Example:

    raise too_small("llvmpipe", "a buffer of 64 bytes", 32)
"""

from __future__ import annotations

from sdlc.language.diagnostics import SdlError, failure


def too_small(name: str, what: str, limit: int) -> SdlError:
    """D031: a device has no memory for `what`; `limit` in bytes."""
    help = "use a smaller --size or --batch, --precision f16, or another device (`sdlc devices`)"
    said = f"{name} has too little memory for {what}; the limit is {limit:,} bytes"
    return failure("D031", said, help)


def lost(name: str, doing: str, error: Exception) -> SdlError:
    """D032: its driver failed while `doing` something."""
    help = "run it again; if it fails again, choose another device (`sdlc devices`)"
    return failure("D032", f"{name} failed while {doing}: {error}", help)
