"""Mutants of rules, arithmetic and the proof itself: what is broken, and who must notice.

In: nothing. Out: `EQUATIONS`. Invariant: as for `KERNELS`. Example: `EQUATIONS[0].name`.
"""

from __future__ import annotations

from mutants_known import Mutant

RULES = "tests/test_rules.py -k 'sound or fires'"

EQUATIONS = (
    # ---- rules
    Mutant(
        "each part of a joined product read from the beginning",
        "dsl/graph/beside.py",
        "before += other.node.shape[position]",
        "pass",
        "tests/test_rules.py -k mechanism",
    ),
    Mutant(
        "joined weights on top of each other",
        "dsl/graph/beside.py",
        'places[dimension] = apply("sub", places[dimension], i32(end))',
        "pass",
        "tests/test_rules.py -k mechanism",
    ),
    Mutant(
        "products that differ in more than their weights are joined",
        "dsl/graph/beside.py",
        "if other is not None and other.like == form.like:",
        "if other is not None:",
        "tests/test_rules.py -k mechanism",
    ),
    Mutant(
        "a wrong constant of Winograd's",
        "stdlib/winograd.sdl",
        "points[i] ^ q / distance",
        "points[i] ^ q",
        "tests/test_rules.py -k 'sound and winograd_2'",
    ),
    Mutant(
        "a guard of a rule that looks away from results",
        "dsl/graph/guards.py",
        "        if node in around.results:\n",
        "        if ():\n",
        "tests/test_rules.py -k keep_names",
    ),
    Mutant(
        "a halo of the wrong width",
        "dsl/graph/halo.py",
        "(max(0, -r[0]), max(0, r[1] - n + 1))",
        "(max(0, -r[0]), max(0, r[1] - n))",
        "tests/test_rules.py -k mechanism",
    ),
    Mutant(
        "attention divided by nothing",
        "stdlib/attention.sdl",
        "out[*b, i, j] = a.o[*b, i, j] / a.l[*b, i, j]",
        "out[*b, i, j] = a.o[*b, i, j]",
        RULES,
    ),
    # ---- arithmetic
    Mutant(
        "division that truncates",
        "dsl/graph/scalar.py",
        "return np.floor_divide(a, np.where(np.equal(b, 0), 1, b))",
        "return np.trunc(np.true_divide(a, np.where(np.equal(b, 0), 1, b)))",
        "tests/test_kernel_simplify.py tests/test_graph_reference.py",
    ),
    Mutant(
        "a remainder of negative numbers",
        "backends/scalars.py",
        "if here.non_negative(a) and here.positive(b):",
        "if here.positive(b):",
        "tests/test_backends_legalize.py",
    ),
    Mutant(
        "a run of f16 sums that is lost",
        "dsl/kernel/partial.py",
        "if place == length:",
        "if place == length + 1:",
        "tests/test_kernel_partial.py",
    ),
    # ---- the proof itself
    Mutant(
        "a verifier that lets races pass",
        "dsl/kernel/verify_races.py",
        "if not any(a.write for a in segment) or not owners:",
        "if True:",
        "tests/test_kernel_verify.py",
    ),
    Mutant(
        "what guards pin to different values is one constant",
        "dsl/kernel/verify_races.py",
        "return len(found) == 1 and all(",
        "return all(",
        "tests/test_kernel_verify.py",
    ),
    Mutant(
        "a variable bounded as if it were alone in its sum",
        "dsl/kernel/intervals.py",
        "rest = least - coefficient * self.interval(atom)[coefficient < 0]",
        "rest = constant",
        "tests/test_kernel_simplify.py",
    ),
    Mutant(
        "results of the inputs before",
        "dsl/proof/stages.py",
        "if last is None or last[0] is not subject.program or last[1] is not arrays:",
        "if last is None or last[0] is not subject.program:",
        "tests/test_check.py -k right",
    ),
    Mutant(
        "functions that round as sums do",
        "dsl/proof/tolerance.py",
        "if op in called}",
        "if op not in called}",
        "tests/test_tolerance.py",
    ),
    Mutant(
        "a tolerance for anything",
        "dsl/proof/tolerance.py",
        "k = FACTORS[numerics] if",
        "k = 1e6 * FACTORS[numerics] if",
        "tests/test_tolerance.py",
    ),
    Mutant(
        "a definition that is cut in the wrong field",
        "dsl/proof/narrow.py",
        "source, field = self.value((expr.source, expr.field))",
        "source, field = self.value((expr.source, 0))",
        "tests/test_check.py -k fields",
    ),
    Mutant(
        "parts checked against what the graph says of the whole",
        "dsl/proof/pieces.py",
        "if narrow or not _closed(graph):",
        "if narrow:",
        "tests/test_check.py -k parts",
    ),
    Mutant(
        "a check of other mechanisms than those chosen",
        "dsl/cli_prove.py",
        "planned(graph, request.target, request.rules, wishes)",
        "planned(graph, request.target, None, wishes)",
        "tests/test_check.py -k compiled",
    ),
    Mutant(
        "a function that meets its limit",
        "dsl/proof/tolerance.py",
        "(near == exact) & (size != accuracy.limit)",
        "near == exact",
        "tests/test_tolerance.py",
    ),
    Mutant(
        "an infinity that the identity hides",
        "dsl/graph/reference_reduce.py",
        "if not lost.any():",
        "if lost.any():",
        "tests/test_tolerance.py",
    ),
    Mutant(
        "what is no number compares in one way",
        "dsl/proof/tolerance.py",
        "if self.generator is None:",
        "if self.seen:",
        "tests/test_tolerance.py",
    ),
    Mutant(
        "an infinity beside numbers excuses anything",
        "dsl/proof/tolerance.py",
        "doubtful = np.isnan(floats[0])",
        "doubtful = ~np.isfinite(floats[0])",
        "tests/test_tolerance.py",
    ),
    Mutant(
        "evaluations that share a rounding",
        "dsl/proof/roundings.py",
        "if made.dtype.is_float and self.axis not in made.axes:",
        "if ():",
        "tests/test_tolerance.py",
    ),
    Mutant(
        "a wrong rule that is compiled with",
        "dsl/api.py",
        "for rule in own_rules(self.library, self.rules):",
        "for rule in ():",
        "tests/test_rules_files.py -k nothing",
    ),
    Mutant(
        "a move that has fired and says why it has not",
        "dsl/schedule/reasons.py",
        'if not why or (move, "") not in self._found[node]',
        "if True",
        "tests/test_schedule_mechanisms.py -k told",
    ),
)
