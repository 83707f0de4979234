"""Mutants of what norms become (prologues, affine parts in weights, joined products), and of what
kernels round on their way.

In: nothing. Out: `LOADS`. Invariant: as for `KERNELS`. Example: `LOADS[0].name`.
"""

from __future__ import annotations

from mutants_known import Mutant

PROLOGUES = (
    "tests/test_schedule_mechanisms.py tests/test_structure.py -k 'inline_prologue or precedes'"
)
PHASES = "tests/test_rules.py -k 'sound and upsample_phases'"
PAIRS = "tests/test_kernel_pairs.py"
MECHANISMS = "tests/test_rules.py -k mechanism"
NARROW = "tests/test_narrow.py"
AFFINE = "tests/test_rules.py -k 'fold_affine and (sound or fires)'"

LOADS = (
    # ---- maps in the loads of transforms
    Mutant(
        "a border of a prologue is the prologue of a border",
        "dsl/schedule/prologue.py",
        "return read_through(e, written)",
        "return read_through(replace(e, fill=None), written)",
        PROLOGUES,
    ),
    Mutant(
        "a prologue reads statistics that nobody stores",
        "dsl/schedule/prologue.py",
        "then[number] = _statistics(group)",
        "then[number] = None",
        PROLOGUES,
    ),
    Mutant(
        "what a transform nests does not see its prologue",
        "dsl/schedule/prologue.py",
        "inner = tuple(map(changed, reader.inner))",
        "inner = reader.inner",
        PROLOGUES,
    ),
    Mutant(
        "a prologue that takes longer than what it saves",
        "dsl/schedule/prologue.py",
        'return "" if after < before else dearer',
        'return ""',
        PROLOGUES,
    ),
    Mutant(
        "a prologue that registers do not hold",
        "dsl/schedule/prologue.py",
        "if 0 < most < held:",
        "if False:",
        "tests/test_schedule_mechanisms.py -k registers",
    ),
    # ---- scales and shifts in weights
    Mutant(
        "a scale that is not in the weights",
        "stdlib/rules.sdl",
        "u[j < n, p < k] = g[p] * w[j, p]",
        "u[j < n, p < k] = w[j, p]",
        AFFINE,
    ),
    Mutant(
        "a shift that is not multiplied by the weights",
        "stdlib/rules.sdl",
        "c[j < n] = sum over p < k of h[p] * w[j, p]",
        "c[j < n] = sum over p < k of h[p]",
        AFFINE,
    ),
    Mutant(
        "a scale is moved from a value that others read",
        "stdlib/rules.sdl",
        'inside these, and a bias."\n  where like_readers',
        'inside these, and a bias."',
        "tests/test_rules_models.py -k otherwise",
    ),
    Mutant(
        "every sum has the first one's shift",
        "dsl/graph/shifts.py",
        "read = Read(together, (i32(row), *own.shift.indices))",
        "read = Read(together, (i32(0), *own.shift.indices))",
        MECHANISMS,
    ),
    Mutant(
        "a matrix of shifts with two rows alike",
        "dsl/graph/shifts.py",
        "Read(parts[number], (Index(column),))",
        "Read(parts[0], (Index(column),))",
        "tests/test_rules_models.py -k computes_the_same",
    ),
    Mutant(
        "shifts of different lengths in one matrix",
        "dsl/graph/shifts.py",
        "return self.operand, self.node.shape, over, shift.source.shape, shift.source.dtypes",
        "return self.operand, over, shift.source.dtypes",
        MECHANISMS,
    ),
    # ---- products that are read together
    Mutant(
        "a result of the program is joined with what is beside it",
        "dsl/graph/beside.py",
        "family = [] if node in asked.around.results else _together_read(form, asked.around)",
        "family = _together_read(form, asked.around)",
        "tests/test_rules.py -k result_is_read",
    ),
    Mutant(
        "products that are not read together are joined, others are not",
        "dsl/graph/beside.py",
        "return all(_ends(a, around) & _ends(b, around) for a, b in pairs)",
        "return not all(_ends(a, around) & _ends(b, around) for a, b in pairs)",
        MECHANISMS,
    ),
    Mutant(
        "two biases of which one is added",
        "dsl/graph/biases.py",
        'both = Map((axis,), apply("add", *terms), dtype, origin, node.wide)',
        "both = Map((axis,), next(terms), dtype, origin, node.wide)",
        MECHANISMS,
    ),
    Mutant(
        "biases of different axes are one",
        "dsl/graph/biases.py",
        "if inner is None or inner[1].indices != outer[1].indices:",
        "if inner is None:",
        "tests/test_rules.py -k different_axes",
    ),
    Mutant(
        "taps of a doubled pixel that are not summed",
        "stdlib/conv.sdl",
        "upsampled_pixel(v + j, factor, r) == upsampled_pixel(v, factor, r) + q then",
        "v + j == upsampled_pixel(v, factor, r) + q then",
        PHASES,
    ),
    Mutant(
        "a phase that begins a pixel late",
        "stdlib/conv.sdl",
        "z + q + upsampled_pixel(v, factor, r) - r] else 0) * taps",
        "z + q + upsampled_pixel(v, factor, r) - r + 1] else 0) * taps",
        PHASES,
    ),
    # ---- stores of neighbours
    Mutant(
        "a pair stored past one to its own cell",
        "dsl/kernel/pairs.py",
        "same = first.buffer.name == store.buffer.name and meets",
        "same = False",
        PAIRS,
    ),
    Mutant(
        "a pair stored past one to what it reads",
        "dsl/kernel/pairs.py",
        "if not same and store.buffer.name not in _read(first):",
        "if not same:",
        PAIRS,
    ),
    Mutant(
        "a pair stored past a barrier",
        "dsl/kernel/pairs.py",
        "        if not isinstance(stmt, Store | Let):\n            waiting.clear()\n",
        "",
        PAIRS,
    ),
    Mutant(
        "a pair of which half is guarded",
        "dsl/kernel/pairs.py",
        "if at >= 0 and first.guard == stmt.guard:",
        "if at >= 0:",
        PAIRS,
    ),
    Mutant(
        "a pair that begins at an odd place",
        "dsl/kernel/pairs.py",
        "elif _is_even(index, simplifier):",
        "else:",
        PAIRS,
    ),
    # ---- what kernels round on their way
    Mutant(
        "a kernel's own roundings are not in its tolerance",
        "dsl/proof/stages.py",
        "return Tolerances(*given, measured, subject.narrowed)",
        "return Tolerances(*given, measured)",
        NARROW,
    ),
    Mutant(
        "what else a kernel computes is an excuse",
        "dsl/proof/tolerance.py",
        "exact, samples = evaluate(*given, Mode.F64), _samples(given, functions, count)",
        "exact = {n: a.exact for n, a in allowed.items()}\n"
        "    samples = _samples(given, functions, count)",
        NARROW,
    ),
    Mutant(
        "a sample that does not round what is stored in halves",
        "dsl/proof/sample.py",
        "case Map() as node if node.dtype is not DType.F16 or is_view(node.body):",
        "case Map() as node:",
        NARROW,
    ),
    Mutant(
        "a product without columns streams something",
        "dsl/schedule/streamed.py",
        "or form.fields > 1 or not form.n:",
        "or form.fields > 1:",
        "tests/test_schedule_mechanisms.py -k few_axes",
    ),
)
