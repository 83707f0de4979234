"""A kernel fitted to a language and its capabilities, by kernel-to-kernel rewrites.

In: a verified kernel, capabilities, a language (`opencl` or `wgsl`). Out: a kernel that means the
same and that the language's printer can spell. Invariant: `interpret(legalize(k)) == interpret(k)`;
no pass looks at the name of a target or a device.

    legalize(kernel, caps, "wgsl")
"""

from __future__ import annotations

from collections.abc import Callable

from sdlc.backends.grids import check_limits, fold_grid, split_groups
from sdlc.backends.scalars import expand_functions, floor_division, round_through_memory
from sdlc.backends.vectors import (
    bind_indices,
    pair_halves,
    split_vectors,
    vector_buffers,
    widen_half_arrays,
)
from sdlc.kernel.ir import Kernel
from sdlc.target import Capabilities

Pass = Callable[[Kernel, Capabilities, str], Kernel]

PASSES: tuple[Pass, ...] = (
    split_groups,
    fold_grid,
    widen_half_arrays,
    round_through_memory,
    expand_functions,
    floor_division,
    split_vectors,
    pair_halves,
    vector_buffers,
    bind_indices,
    check_limits,
)


def legalize(kernel: Kernel, caps: Capabilities, language: str) -> Kernel:
    """`kernel` within `caps` and the means of `language`.

    Raises SdlError (D022, D023) where no rewrite can make it fit.
    """
    for rewrite in PASSES:
        kernel = rewrite(kernel, caps, language)
    return kernel
