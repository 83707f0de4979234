"""Mutants of schedules, kernels and memory: what is broken, and the tests that must notice.

In: nothing. Out: `KERNELS`. Invariant: each can be applied (`test_mutants.py`) and is noticed
(`mutants.py`). Example: `KERNELS[0].name`.
"""

from __future__ import annotations

from dataclasses import dataclass

SCHEDULES = "tests/test_schedule.py -k 'legal or default'"
SLICES = "tests/test_random_schedules.py -k slices"
RANDOM_PROGRAMS = "tests/test_random_programs.py -k 'programs_interpreted and adreno'"
NVIDIA = "tests/test_models_targets.py -k 'every_target_runs and nvidia and pocl'"
STAGING = "tests/test_staging.py"
LOAD = "tests/test_program_load.py"
SPLIT = "tests/test_split.py"
BLOCKS = "tests/test_random_schedules.py -k blocks"
PRECISION = "tests/test_precision.py -k 'not random and not large'"
FINITE = "tests/test_finite.py -k 'not picture and not llvmpipe and not pocl'"


@dataclass(frozen=True, slots=True)
class Mutant:
    """`old` in `file` becomes `new`; `tests` are pytest's arguments for those that must notice."""

    name: str
    file: str
    old: str
    new: str
    tests: str = SCHEDULES


KERNELS = (
    # ---- precision
    Mutant(
        "short sums of what is in f32",
        "dsl/program/pipeline.py",
        "if item.group.wide:",
        "if False:",
        PRECISION,
    ),
    Mutant(
        "a rule rounds what is in f32",
        "dsl/language/elaborate_rule.py",
        "DType.F32 if found.wide else precision",
        "precision",
        PRECISION,
    ),
    Mutant(
        "a rule forgets what is in f32",
        "dsl/graph/match.py",
        "for n in (self.root, *self.inside)",
        "for n in ()",
        PRECISION,
    ),
    Mutant(
        "a matrix instruction rounds what is in f32",
        "dsl/schedule/fragments.py",
        "    if group.wide:",
        "    if False:",
        PRECISION,
    ),
    Mutant(
        "what a kernel computes inside is not looked into",
        "dsl/program/culprit.py",
        "if wrong and node is not stored[0]:",
        "if False:",
        FINITE,
    ),
    Mutant(
        "an operand is read when it has been overwritten",
        "dsl/program/watch.py",
        "n: self._live[n] if n in self._live else self.executable.peek(n)",
        "n: self.executable.peek(n)",
        "tests/test_finite.py -k overwritten",
    ),
    # ---- reductions
    Mutant(
        "states change one after the other",
        "dsl/kernel/lower_part.py",
        "if separate:",
        "if True:",
    ),
    Mutant(
        "a wrong identity",
        "dsl/kernel/lower_part.py",
        "splat(identity(of.identity, of.dtype), width)",
        "splat(identity(of.identity + 1, of.dtype), width)",
    ),
    Mutant(
        "no guard beyond a reduced axis",
        "dsl/kernel/lower_part.py",
        "for axis in self.group.over:\n            if axis in self.names.inside:",
        "for axis in self.group.over:\n            if axis in ():",
    ),
    Mutant(
        "every lane stores a shared result",
        "dsl/kernel/lower_part.py",
        "for loop in self.shared:\n            guard",
        "for loop in ():\n            guard",
        RANDOM_PROGRAMS,
    ),
    Mutant(
        "a dropped barrier before the tree",
        "dsl/kernel/lower_fold.py",
        "        self.emit.add(k.Barrier())\n        left = ways",
        "        left = ways",
    ),
    Mutant(
        "half of the tree", "dsl/kernel/lower_fold.py", "half = count // 2", "half = count // 4"
    ),
    Mutant(
        "a lane too many in the tree",
        "dsl/kernel/lower_fold.py",
        'k.call("lt", mine, k.i32(half))',
        'k.call("le", mine, k.i32(half))',
    ),
    Mutant(
        "vector halves that overlap",
        "dsl/kernel/lower_fold.py",
        "k.Extract(v, width, width)",
        "k.Extract(v, 0, width)",
    ),
    Mutant(
        "the statistics of a softmax without their rescale",
        "stdlib/monoids.sdl",
        "l = a.l * exp(a.m - m) + b.l * exp(b.m - m)",
        "l = a.l + b.l",
        "tests/test_stdlib.py -k softmax",
    ),
    Mutant(
        "a block's sum without its rescale",
        "dsl/schedule/rescale.py",
        'apply("mul", weights, term)',
        "term",
        STAGING,
    ),
    Mutant(
        "a block runs past the end of its axis",
        "dsl/schedule/rescale.py",
        'apply("lt", self.index, i32(self.axis.extent))',
        'apply("le", self.index, i32(self.axis.extent))',
        f"{STAGING} -k cover",
    ),
    Mutant(
        "fields of paired reductions mixed up",
        "dsl/schedule/merge.py",
        "combine.append(_of_field(expr, first))",
        "combine.append(_of_field(expr, 0))",
        "tests/test_merge.py",
    ),
    Mutant(
        "an empty operand that adds the square of a mean",
        "stdlib/monoids.sdl",
        "delta * (a.n * share) * delta",
        "delta * delta * a.n * share",
        "tests/test_graph_monoids.py -k finite",
    ),
    Mutant(
        "rows of statistics that have none",
        "dsl/schedule/rows.py",
        "if not why and rows_of(whole, whole.inner[-1].stores[0].node) is None:",
        "if ():",
        "tests/test_random_schedules.py -k epilogue",
    ),
    Mutant(
        "rows normalised by other statistics than their own",
        "dsl/schedule/factor.py",
        "if not across.isdisjoint(form.k) or prod(",
        "if prod(",
        "tests/test_factor.py",
    ),
    # ---- loops and places
    Mutant(
        "a tail that is left out",
        "dsl/schedule/steps.py",
        "extent=-(-loop.extent // step.size)",
        "extent=max(1, loop.extent // step.size)",
    ),
    Mutant(
        "off by one in a guard",
        "dsl/kernel/lower_names.py",
        'inside[axis] = simplify(k.call("lt", start, k.i32(axis.extent)), ranges)',
        'inside[axis] = simplify(k.call("le", start, k.i32(axis.extent)), ranges)',
    ),
    Mutant(
        "strides of the wrong order",
        "dsl/schedule/storage.py",
        "strides[axis] = prod(extents[place + 1 :])",
        "strides[axis] = prod(extents[place:])",
    ),
    Mutant(
        "swapped arms of a guarded read",
        "dsl/kernel/translate.py",
        '"select", inside, _loaded(storage, tuple(safe)), visit(e.fill)',
        '"select", inside, visit(e.fill), _loaded(storage, tuple(safe))',
    ),
    Mutant(
        "lanes called consecutive that are not",
        "dsl/kernel/vectorize.py",
        "return terms.get(lane) == 1 and not any(",
        "return lane in terms and not any(",
    ),
    Mutant(
        "hoisted out of the loop that it varies in",
        "dsl/kernel/emit.py",
        "self._depths[var] = self.depth",
        "self._depths[var] = 0",
    ),
    Mutant(
        "no barrier behind a stage",
        "dsl/kernel/lower.py",
        "        if written:\n            self.work.emit.add(k.Barrier())",
        "        if ():\n            self.work.emit.add(k.Barrier())",
        SLICES,
    ),
    Mutant(
        "no barrier before a stage is filled again",
        "dsl/kernel/lower.py",
        "if at and shared:",
        "if ():",
        NVIDIA,
    ),
    Mutant(
        "the last pass of a spread stage is left out",
        "dsl/kernel/lower_spread.py",
        "passes = -(-chunks // lanes)",
        "passes = max(1, chunks // lanes)",
        NVIDIA,
    ),
    Mutant(
        "a value staged deeper than a stage that reads it",
        "dsl/schedule/steps.py",
        "    if reader:\n        raise",
        "    if ():\n        raise",
        f"{BLOCKS} --examples 3000",
    ),
    Mutant(
        "a stage with more work-items than the kernel",
        "dsl/schedule/steps.py",
        "if own > all_ or (own < all_ and stage.nest.is_reduced(loop)):",
        "if ():",
        f"{BLOCKS} --examples 2000",
    ),
    Mutant(
        "a loop that is cut starts again from the beginning",
        "dsl/kernel/cut.py",
        'values: Values = {loop.var: call("add", var, i32(start))}',
        "values: Values = {loop.var: var}",
        "tests/test_kernel_cut.py",
    ),
    Mutant(
        "halves in variables that hold none",
        "dsl/kernel/prefetch.py",
        "half = load.buffer.dtype is DType.F16 and not halves",
        "half = False",
        "tests/test_random_schedules.py -k ahead",
    ),
    Mutant(
        "a place that is taken from what is read later",
        "dsl/schedule/sharing.py",
        "if late and any((r.source, r.field) == held for r in reader.reads):",
        "if ():",
        f"{STAGING} -k place",
    ),
    Mutant(
        "a place that is taken from what is read elsewhere",
        "dsl/schedule/sharing.py",
        "return places[0] == places[1]",
        "return True",
        f"{STAGING} -k place",
    ),
    Mutant(
        "scores that keep their place when their weights are known",
        "dsl/schedule/streamed.py",
        'return last.name if alike and not reduces else ""',
        'return ""',
        f"{STAGING} -k place",
    ),
    Mutant(
        "a tile that begins in the middle of a block",
        "dsl/schedule/pack.py",
        "form[1] % size or extent % size",
        "extent % size",
        "tests/test_pack.py -k within",
    ),
    Mutant(
        "a weight that ends within a block",
        "dsl/schedule/pack.py",
        "form[1] % size or extent % size",
        "form[1] % size",
        "tests/test_pack.py -k within",
    ),
    # ---- parts and matrices
    Mutant(
        "lanes of a matrix instruction in another order",
        "dsl/schedule/steps.py",
        "if of is not None and of.in_order(loops) != of.in_order(nest.loops):",
        "if ():",
        "tests/test_matrix_nest.py -k refusals",
    ),
    Mutant(
        "a matrix instruction of elements that others hold",
        "dsl/schedule/steps.py",
        "reason = unheld(group, nest, stage) or unshared(group, nest, stage)",
        "reason = unshared(group, nest, stage)",
        "tests/test_random_schedules.py -k no_work_items_own",
    ),
    Mutant(
        "work-items read scores that others hold",
        "dsl/schedule/distributed.py",
        "held.bits != moves.bits or ",
        "",
        "tests/test_multiplied.py",
    ),
    Mutant(
        "two elements of a work-item in one cell",
        "dsl/schedule/distributed.py",
        "size *= loop.extent",
        "size += loop.extent",
        "tests/test_multiplied.py",
    ),
    Mutant(
        "a sub-group combines every other bit",
        "dsl/kernel/lower_fold.py",
        "distance *= 2",
        "distance *= 4",
        "tests/test_multiplied.py",
    ),
    Mutant(
        "an exchange begins before the last has been read",
        "backends/matrices.py",
        "), Barrier(), found, Barrier()",
        "), Barrier(), found",
        "tests/test_matrix.py",
    ),
    Mutant(
        "the last part of a reduction runs past the end",
        "dsl/schedule/split.py",
        "blocks.kept(blocks.moved(e), identity_of(f))",
        "blocks.moved(e)",
        SPLIT,
    ),
    Mutant(
        "fields of parts mixed up",
        "dsl/schedule/split.py",
        "Read(node, s.indices, s.field)",
        "Read(node, s.indices, 0)",
        SPLIT,
    ),
    Mutant(
        "a matrix added to nothing",
        "dsl/kernel/interpret_matrix.py",
        "made = state.values[slot] + held[..., number]",
        "made = held[..., number]",
        "tests/test_matrix.py",
    ),
    Mutant(
        "a matrix in loops without its first barrier",
        "backends/matrices.py",
        "return (*stores, Barrier(), self._loop",
        "return (*stores, self._loop",
        "tests/test_matrix.py",
    ),
    Mutant(
        "a work-item's element in its neighbour's place",
        "dsl/kernel/fragments.py",
        'digit = call("mod", digit, i32(1 << length))',
        'digit = call("mod", digit, i32(2 << length))',
        "tests/test_matrix.py",
    ),
    # ---- groups and memory
    Mutant(
        "a lost epilogue",
        "dsl/schedule/fuse.py",
        "value = substitute(rebuild(body, change), places)",
        "value = slot(reduction.monoid, 0)",
    ),
    Mutant(
        "inlined without its guard",
        "dsl/graph/rewrite.py",
        'return apply("select", inside, _as_stored(substitute(node.body, safe), node), read.fill)',
        "return _as_stored(substitute(node.body, safe), node)",
        "tests/test_schedule_mechanisms.py -k beyond",
    ),
    Mutant(
        "every strip computes the first points",
        "dsl/schedule/strips.py",
        "return _plus(Index(self.axis), self.start)",
        "return _plus(Index(self.axis), 0)",
        "tests/test_schedule_mechanisms.py -k strips",
    ),
    Mutant(
        "tensors that live at once share a place",
        "dsl/program/memory.py",
        "last[name] = time",
        "last[name] = first[name]",
        "tests/test_program_memory.py tests/test_schedule.py",
    ),
    Mutant(
        "a search that moves what is easy to place again and again",
        "dsl/program/ejection.py",
        "weights[number] += bool(moved)",
        "weights[number] += 0",
        "tests/test_program_memory.py",
    ),
    Mutant(
        "a result over an operand that is read elsewhere",
        "dsl/program/inplace.py",
        "or value in within:",
        "or False:",
        "tests/test_program_inplace.py",
    ),
    Mutant(
        "inputs hoisted with the weights",
        "dsl/graph/hoist.py",
        "known = node.role is Role.WEIGHT",
        "known = True",
        LOAD,
    ),
    Mutant(
        "a result hoisted though each run must write it",
        "dsl/graph/hoist.py",
        "known = node not in results and all(",
        "known = all(",
        LOAD,
    ),
    # ---- several processes, several programs
    Mutant(
        "what a helper made under another number",
        "dsl/program/workers.py",
        "            made[number] = work(number)",
        "            made[number] = work(number ^ 1)",
        "tests/test_workers.py",
    ),
    Mutant(
        "a piece that no helper gave is lost",
        "dsl/program/workers.py",
        "made[n] if n in made else work(n) for n",
        "made[n] for n",
        "tests/test_workers.py",
    ),
    Mutant(
        "another program's lines",
        "dsl/graph/node.py",
        'MappingProxyType({"origin": "program"})',
        'MappingProxyType({"origin": "__class__"})',
        "tests/test_language_elaborate.py",
    ),
    Mutant(
        "a copy with another's constant",
        "dsl/kernel/simplify.py",
        "constant += step * int(number.value)",
        "constant += step",
        "tests/test_kernel_expressions.py",
    ),
    Mutant(
        "a normalisation with the mean added",
        "dsl/schedule/factor.py",
        'apply("mul", apply("neg", a), b)',
        'apply("mul", a, b)',
        "tests/test_factor.py",
    ),
    Mutant(
        "every group by the first one's weights",
        "stdlib/conv.sdl",
        "k[g * n + p, d, i, j]",
        "k[p, d, i, j]",
        "tests/test_stdlib.py -k conv",
    ),
    Mutant(
        "taps of a transposed convolution without its padding",
        "stdlib/conv.sdl",
        "i * stride + (u + pad) % stride",
        "i * stride + u % stride",
        "tests/test_stdlib.py -k conv",
    ),
)
