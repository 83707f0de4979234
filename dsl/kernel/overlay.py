"""Two buffers of a kernel in one place: what it then means, and whether the launch is sound.

In: a kernel, a buffer that it reads and one that it writes, alike in type and size. Out: the kernel
with one buffer for both, or with both marked as overlapping. Invariant: the first, which `verify`
and the interpreter judge, does what the second does when both are bound to the same bytes.

    out[at] = x[at] + y[at]   over `x`, `out`   →   out[at] = out[at] + y[at]
"""

from __future__ import annotations

from dataclasses import replace

from sdlc.kernel.ir import Access, Buffer, Kernel
from sdlc.kernel.rewrite import with_buffers


def overlaid(kernel: Kernel, read: str, written: str) -> Kernel:
    """The kernel with the buffer `written` in the place of `read`."""
    both = replace(named(kernel, written), access=Access.READ_WRITE, lanes=1)
    return with_buffers(kernel, {read: both, written: both})


def overlapping(kernel: Kernel, *names: str) -> Kernel:
    """The kernel with the buffers of these names marked: they may be bound to the same bytes."""
    made = {name: replace(named(kernel, name), overlaps=True) for name in names}
    return with_buffers(kernel, made)


def named(kernel: Kernel, name: str) -> Buffer:
    return next(b for b in kernel.buffers if b.name == name)
