"""What a GPU can do and prefers: the facts that schedules, legalisation and verification read.

In: `backends/targets/*.toml` and live devices. Out: `Target`. Invariant: no compiler decision looks
at a target's name.
"""

from __future__ import annotations

from dataclasses import dataclass

Place = tuple[int, int]
"""A row and a column of a matrix."""


@dataclass(frozen=True, slots=True)
class Holding:
    """Who holds which elements of a matrix: the row and column that each bit of an element's number
    in a work-item, and each bit of the work-item's number in its sub-group, adds.

        Holding(elements=((0, 1), (8, 0)), lanes=((0, 2), (0, 4), (1, 0), (2, 0), (4, 0)))
        element 3 of work-item 6 is in row 8 + 1, column 1 + 4
    """

    elements: tuple[Place, ...]
    lanes: tuple[Place, ...]

    @property
    def count(self) -> int:
        """Elements that a work-item holds."""
        return 1 << len(self.elements)

    def place(self, lane: int, element: int) -> Place:
        """The row and column of a work-item's element."""
        bits = (*self._set(self.lanes, lane), *self._set(self.elements, element))
        return sum(row for row, _ in bits), sum(column for _, column in bits)

    @staticmethod
    def _set(places: tuple[Place, ...], number: int) -> tuple[Place, ...]:
        return tuple(p for bit, p in enumerate(places) if number >> bit & 1)


@dataclass(frozen=True, slots=True)
class MatrixInstruction:
    """What a sub-group of `lanes` work-items computes at once: `result` (m × n, of `accumulator`)
    += `left` (m × k) × `right` (k × n), both of `inputs`; each held as it says."""

    name: str
    m: int
    n: int
    k: int
    inputs: str
    accumulator: str
    left: Holding
    right: Holding
    result: Holding

    @property
    def lanes(self) -> int:
        """Work-items of the sub-group."""
        return 1 << len(self.result.lanes)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What generated kernels may use. Sizes are in bytes unless they say otherwise.

    `languages` are in order of preference; `f16_storage`: kernels may load and store f16;
    `f16_arithmetic`: the f16 type itself exists in the language; `vector_widths` are lanes;
    `max_storage_buffers` counts bindings of one kernel; `max_groups` is per grid dimension;
    `offset_alignment` is that of a binding within a buffer; `functions` are the scalar operators
    with a built-in (others are expanded); `max_binding` bounds one bound range; `integer_bits` are
    those that one instruction adds: below 64, sums with an address are dear; `native_functions`
    are operators whose instruction is as accurate as WGSL asks, where OpenCL C has a slower form
    too; `overlapping_bindings`: one launch may read and write the same bytes through two bindings;
    `packed_halves`: OpenCL C has no f16 there, and takes vectors of halves in memory apart, so they
    are moved as vectors of 16-bit integers and converted in registers; `counted_loops`: compilers
    write out a loop whose count they know, with too much of what it loads in registers at once.
    `matrix` are the matrix instructions that there are (`[[matrix]]` in a target's table).
    """

    languages: tuple[str, ...]
    f16_storage: bool = True
    f16_arithmetic: bool = False
    vector_widths: tuple[int, ...] = (1, 2, 4)
    max_work_items: int = 256
    max_group: tuple[int, int, int] = (256, 256, 64)
    max_groups: int = 65535
    local_bytes: int = 16384
    max_storage_buffers: int = 8
    max_binding: int = 134217728
    offset_alignment: int = 256
    subgroup_size: int = 0
    missing_functions: tuple[str, ...] = ()
    integer_bits: int = 64
    native_functions: tuple[str, ...] = ()
    overlapping_bindings: bool = False
    packed_halves: bool = False
    counted_loops: bool = False
    matrix: tuple[MatrixInstruction, ...] = ()


@dataclass(frozen=True, slots=True)
class Profile:
    """What the tactics prefer.

    `vector` lanes of one memory access; `lanes` work-items of a work-group; `register_tile`: rows
    and columns (scalars) of a contraction's result that one work-item keeps in registers;
    `reduction_lanes` work-items that share one reduction (1: vector lanes share it instead);
    `block` elements of a reduced axis that are folded at a time where a state is rescaled (0: one
    by one), and `block_values` of all its columns: twice the block where that has fewer, half where
    the block has more (0: it is always the block); `slice` elements of K that a work-group fetches
    to local memory at a time (0: operands are read from memory; then `factor_slice` is for a left
    factor that is computed as it is fetched, such as a norm's rows),
    `depth` of which are under way at once (2: the next is loaded meanwhile; 3: the next two, where
    a product by matrix instructions leaves registers for them); `groups` work-groups
    that keep the device busy; `unroll` copies of a contraction's innermost reduced loop; `points`
    elements and `flop` operations that one work-item computes at least, in loops, where there is
    enough work; `gather` lanes of one load that replaces scalar loads of neighbours; `partial_sums`
    products that may be summed in f16 before they are added to an f32 accumulator, where factors
    are f16 (0: none); `across` work-items side by side along the columns of a tile whose operands
    pass through local memory;
    `scalar_columns`: a contraction of fewer is a tile of scalars that gathers both factors along K;
    `registers` (32-bit) that written out code should stay within (0: not counted); `fold_bytes`: a
    value of which one entry of a batch takes less is stored rather than folded into a rescaled
    state block by block (0: it is always folded); `strip` elements that a chain of transforms may
    store on its way however little else is stored, beyond which it is run in pieces; `matrix` is
    the matrix instruction that contractions of its inputs are computed with ('': none).
    """

    vector: int = 4
    lanes: int = 64
    register_tile: tuple[int, int] = (4, 8)
    reduction_lanes: int = 64
    unroll: int = 1
    block: int = 0
    block_values: int = 0
    slice: int = 0
    factor_slice: int = 0
    depth: int = 1
    groups: int = 32
    points: int = 1
    flop: int = 0
    gather: int = 1
    scalar_columns: int = 0
    partial_sums: int = 0
    across: int = 16
    registers: int = 0
    fold_bytes: int = 0
    strip: int = 10 << 20
    matrix: str = ""


@dataclass(frozen=True, slots=True)
class Peak:
    """Speed limits, for estimates: FLOP/s of f32, bytes/s of memory; then what a core does.

    `cores` run work-groups side by side; `simd` scalars are one instruction of a work-item;
    `in_flight` scalar operations must be under way in a core for its peak; `resident` work-items
    fit a core; `registers` (32-bit) fit a work-item, `core_registers` all those of a core; `loads`
    are issued for each multiply-add. `cache_bytes` and `cache_bandwidth` (bytes/s of all cores) are
    by cache from the innermost, each as large as one core finds it. A launch takes
    `launch_seconds`, a work-group `group_seconds` of a core before it does anything. Matrix
    instructions reach `matrix_flops` (FLOP/s; 0: not known).
    """

    f32_flops: float
    bandwidth: float
    cores: int
    simd: int
    in_flight: int
    resident: int
    registers: int
    core_registers: int
    loads: float
    cache_bytes: tuple[int, ...]
    cache_bandwidth: tuple[float, ...]
    launch_seconds: float
    group_seconds: float
    matrix_flops: float = 0.0


@dataclass(frozen=True, slots=True)
class Target:
    name: str
    title: str
    caps: Capabilities
    profile: Profile
    peak: Peak
    sources: tuple[tuple[str, str], ...] = ()

    @property
    def instruction(self) -> MatrixInstruction | None:
        """The matrix instruction that the profile names, if it is one of the capabilities'."""
        return next((i for i in self.caps.matrix if i.name == self.profile.matrix), None)
