"""A kernel fitted to a language and its capabilities, by kernel-to-kernel rewrites.

In: a verified kernel, capabilities, a language (`opencl` or `wgsl`). Out: a kernel that means the
same and that the language's printer can spell. Invariant: `interpret(legalize(k)) == interpret(k)`;
no pass looks at the name of a target or a device.

    legalize(kernel, caps, "wgsl")
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sdlc.backends.counted import count_by_places
from sdlc.backends.grids import check_limits, fold_grid, split_groups
from sdlc.backends.halves import align_halves, widen_half_arithmetic, widen_half_arrays
from sdlc.backends.induction import carry_products
from sdlc.backends.matrices import expand_matrices
from sdlc.backends.quotients import split_offsets, vector_indices
from sdlc.backends.reach import order_arrays
from sdlc.backends.scalars import expand_functions, floor_division, round_through_memory
from sdlc.backends.vectors import bind_indices, split_vectors, vector_buffers, vector_views
from sdlc.kernel.ir import Kernel
from sdlc.target import Capabilities

Pass = Callable[[Kernel, Capabilities, str], Kernel]

PASSES: tuple[Pass, ...] = (
    expand_matrices,
    split_groups,
    fold_grid,
    widen_half_arithmetic,
    widen_half_arrays,
    round_through_memory,
    expand_functions,
    floor_division,
    split_vectors,
    align_halves,
    vector_buffers,
    vector_views,
    vector_indices,
    split_offsets,
    bind_indices,
    count_by_places,
    carry_products,
    order_arrays,
    check_limits,
)


WGSL_WIDTHS = (1, 2, 4)
WGSL_MISSING = ("erf", "pow", "tanh", "sin", "cos")
"""WGSL has no erf, a pow of positive bases only, a tanh that may overflow to NaN, and a sine and a
cosine whose error is bounded between -π and π only (WGSL specification, 15.7.4)."""


def within_language(caps: Capabilities, language: str) -> Capabilities:
    """`caps` as far as the language has the means for them."""
    if language != "wgsl":
        return replace(caps, f16_arithmetic=caps.f16_arithmetic and not caps.packed_halves)
    widths = tuple(w for w in caps.vector_widths if w in WGSL_WIDTHS)
    missing = tuple(dict.fromkeys((*caps.missing_functions, *WGSL_MISSING)))
    return replace(caps, vector_widths=widths, missing_functions=missing, matrix=())


def legalize(kernel: Kernel, caps: Capabilities, language: str) -> Kernel:
    """`kernel` within `caps` and the means of `language`.

    Raises SdlError (D022, D023) where no rewrite can make it fit.
    """
    caps = within_language(caps, language)
    for rewrite in PASSES:
        kernel = rewrite(kernel, caps, language)
    return kernel
