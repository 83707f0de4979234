"""What every device says when it cannot go on.

In: the device's name and what it was asked to do. Out: `SdlError`: D031 where memory is too small,
D032 where the device failed. Invariant: the same words on every device.

    raise too_small("AMD EPYC", "a buffer of 9,999 bytes", 4096)
"""

from __future__ import annotations

from sdlc.language.diagnostics import SdlError, failure


def too_small(device: str, what: str, limit: int) -> SdlError:
    """The device cannot hold `what`: more than `limit` bytes, of its memory or of one binding."""
    return failure(
        "D031",
        f"{device} has too little memory for {what}; the limit is {limit:,} bytes",
        "use a smaller --size or --batch, --precision f16, or another device (`sdlc devices`)",
    )


def lost(device: str, doing: str, error: Exception) -> SdlError:
    """The driver reported an error while `doing` something: a lost device, an aborted kernel."""
    return failure(
        "D032",
        f"{device} failed while {doing}: {error}",
        "run it again; if it fails again, choose another device (`sdlc devices`)",
    )
