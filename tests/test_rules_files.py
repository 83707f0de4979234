"""Rules in files: what is said of wrong ones, and the command that lists and checks them."""

from __future__ import annotations

import gc
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from sdlc.api import make_request
from sdlc.cli import commands
from sdlc.graph.mechanisms import DEFAULT
from sdlc.graph.reference import Mode, evaluate
from sdlc.graph.rules import always, rewrite
from sdlc.graph.types import DType
from sdlc.language.diagnostics import SdlError
from sdlc.language.elaborate import build
from sdlc.language.elaborate_rule import chosen_rules, load_rules
from sdlc.language.library import load
from sdlc.proof.equations import check_equation

GOOD = """rule good(x: T[s, t], v: T[t, f]) "The right one." where single_use, t > 1 "one key" {
  matmul(softmax(x), v) => attention_online(x, v)
  numerics rescaled
  worth s > 2 "few queries"
  example s = 3, t = 2, f = 2
}
"""


def rule_text(header: str = "", equation: str = "relu(x) => relu(x)", clauses: str = "") -> str:
    example = "" if "example" in clauses or "no clause" in clauses else "example n = 3"
    body = "\n".join(["  " + equation, "  " + clauses.replace("no clause", ""), "  " + example])
    return f'rule r(x: T[n]) "A rule." {header} {{\n{body}\n}}\n'


def said(text: str) -> str:
    """What a user reads where the rules of a file are loaded and checked."""
    with pytest.raises(SdlError) as error:
        library = load(None, text)
        for rule in load_rules(library):
            if rule.name == "r":
                check_equation(rule, library.sources)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (rule_text("where singel_use"), "did you mean `single_use`?"),
        (rule_text(clauses="numerics rescale"), "did you mean `rescaled`?"),
        (rule_text(clauses="no clause"), "the rule `r` has no example"),
        (rule_text(clauses="exampel n = 3"), "a rule has no `exampel`"),
        (rule_text(clauses="numeric exact"), "a rule has no `numeric`"),
        (rule_text(equation="relu(x) => reluu(x)"), "did you mean `relu`?"),
        (rule_text(equation="relu(x) => reduce_sum(x)"), "[1] on the left, [] on the right"),
        (rule_text(equation="relu(x) -> relu(x)"), "a rule begins with its equation"),
        (rule_text(equation="relu(x) => { y = relu(x) }"), "end it with `return expression`"),
        (rule_text(clauses="example m = 3"), "the example does not give the size `n`"),
        (rule_text(clauses="example n = 3, m = 3"), "the example has a size too many, `m`"),
        (
            rule_text(equation="relu(y) => relu(x)").replace("x: T[n]", "x: T[n], y: T[n]"),
            "the left side of `r` does not use `x`",
        ),
        (rule_text() + rule_text(), "the rule `r` is defined twice"),
        (
            "rule halo(x: T[n]) { relu(x) => relu(x); example n = 1 }",
            "the rule `halo` is defined twice",
        ),
    ],
)
def test_wrong_rules_are_explained(text: str, expected: str) -> None:
    assert expected in said(text)


def test_a_wrong_equation_has_a_counter_example() -> None:
    message = said(rule_text(equation="silu(x) => relu(x)"))
    assert message.splitlines()[0] == "error[E048]: the sides of `r` differ"
    assert "= with: n = 1" in message and "= x: [" in message
    assert "at [0]:" in message and "on the left" in message and "on the right" in message
    assert "silu(x) => relu(x)" in message and "^^^" in message


def test_a_counter_example_is_shrunk() -> None:
    equation = """{
    out[i] = x[i] + (sum over j < n of if j > 1 then x[j] else 0)
    return out
  } => { return relu(relu(x)) + x - relu(x) }"""
    message = said(rule_text(equation=equation))
    assert "= with: n = 3" in message and "= x: [0., 0., 1.]" in message.replace("-1.", "1.")


@pytest.mark.parametrize(
    "equation", ["relu(x) => relu(x) * 2 / 2", "x + relu(x) => relu(x) + x", "relu(x) => relu(x)"]
)
def test_rules_that_do_not_end_end(equation: str) -> None:
    """A right side that holds the left one, or is its mirror image, or itself."""
    library = load(None, rule_text(equation=equation))
    (rule,) = chosen_rules(library, only=["r"])
    text = "op f(x: T[b, n]) -> T[b, n] { return x + relu(x) + (relu(x) + x) }"
    graph = build(load(None, text), "f", {"b": 2, "n": 3}, {}, DType.F32)
    after, report = rewrite(graph, [rule], always)
    assert len(report.attempts) < 10
    inputs = {"x": np.arange(-3, 3, dtype=np.float32).reshape(2, 3)}
    wanted = evaluate(graph, inputs, {}, Mode.F64)["out"]
    np.testing.assert_array_equal(evaluate(after, inputs, {}, Mode.F64)["out"], wanted)


def test_rules_beside_the_default_ones() -> None:
    """A file's own rule, and one that is off, are added to those that are on; others go."""
    names = {r.name for r in chosen_rules(load(None, GOOD), ["rows"], ["default", "good"])}
    assert names == {*DEFAULT, "good"} - {"rows"}


def test_conditions_and_worth() -> None:
    library = load(None, GOOD)
    rules = chosen_rules(library, only=["good"])
    text = "op f(x: T[b, s, t], v: T[b, t, e]) -> T[b, s, e] { return matmul(softmax(x), v) }"
    program = load(None, text)

    def why(s: int, t: int) -> str:
        graph = build(program, "f", {"b": 2, "s": s, "t": t, "e": 3}, {}, DType.F32)
        return ", ".join(rewrite(graph, rules)[1].refusals("good"))

    assert why(3, 4) == ""
    assert why(3, 1) == "one key (t = 1)"
    assert why(2, 4) == "few queries (s = 2)"
    graph = build(program, "f", {"b": 2, "s": 2, "t": 4, "e": 3}, {}, DType.F32)
    assert rewrite(graph, rules, always)[1].fired("good") == 1
    assert check_equation(rules[0], library.sources) > 10


def test_what_must_be_known_when_weights_are_loaded() -> None:
    """A rule that pays for weights only does not fire for what each run computes."""
    equation = "matmul_nn(matmul_nn(x, w), v) => matmul_nn(x, matmul_nn(w, v))"
    text = f"""rule r(x: T[s, k], w: T[k, n], v: T[n, m]) "A rule." where single_use {{
      {equation}
      numerics reassociated
      worth static(w, v) "it is no weight"
      example s = 2, k = 3, n = 4, m = 2
    }}"""
    library = load(None, text)
    rules = chosen_rules(library, only=["r"])
    program = """block f(x: T[b, k], z: T[n, 2]) -> T[b, 2] {
      param w: T[k, 5]
      param v: T[5, 2]
      return matmul_nn(matmul_nn(x, w), Z)
    }"""
    late = "it is no weight (`z` is not known when weights are loaded)"
    for last, why in (("v", ""), ("z", late)):
        graph = build(
            load(None, program.replace("Z", last)), "f", {"b": 2, "k": 3, "n": 5}, {}, DType.F32
        )
        _, report = rewrite(graph, rules)
        assert report.fired("r") == (not why)
        assert any(why in w for w in report.refusals("r"))
        assert rewrite(graph, rules, always)[1].fired("r") == 1
    assert check_equation(rules[0], library.sources) > 10


def test_own_rules_come_before_the_librarys() -> None:
    text = GOOD.replace("rule good", "rule flash_attention")
    (rule,) = chosen_rules(load(None, text), only=["flash_attention"])
    assert rule.doc == "The right one."


# ---- the command ---------------------------------------------------------------------------------


def run(*arguments: object) -> str:
    done = CliRunner().invoke(commands, [str(a) for a in arguments], catch_exceptions=False)
    return done.output


def test_rules_are_listed() -> None:
    listed = json.loads(run("rules", "--json"))
    assert {r["name"] for r in listed} >= {"flash_attention", "winograd_4", "halo"}
    assert all(r["doc"] and r["numerics"] for r in listed)
    assert "conv2d(x, k) => winograd_conv2d(x, k; m = 4)" in run("rules", "winograd_4")
    assert "bilinear" in run("rules")


def test_rules_of_a_file_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "mine.sdl"
    file.write_text(GOOD)
    assert "good: its sides are equal" in run("rules", "--check", file)
    file.write_text("op nothing(x: T[n]) -> T[n] { return x }\n")
    assert "has no rules" in run("rules", "--check", file)


def test_an_input_of_a_program_is_no_metavariable() -> None:
    """Equal inputs are one object: a rule's metavariables, which are kept, are called otherwise."""
    rules = chosen_rules(load(None, ""), only=["flash_attention"])
    for name in ("f", "g"):
        text = f"op {name}(x: T[s, t], v: T[t, e]) -> T[s, e] {{ return matmul(softmax(x), v) }}"
        graph = build(load(None, text), name, {"s": 11, "t": 17, "e": 23}, {}, DType.F32)
        assert {i.origin.definition for i in graph.inputs} == {name}
        assert rewrite(graph, rules)[1].fired("flash_attention") == 1
        del graph
        gc.collect()


WRONG = """rule wrong_sum(x: T[n, k], y: T[m, k]) "Sums of products, wrongly." {
  matmul_nt(x, y) => matmul_nt(x, y) * 2
  example n = 2, m = 3, k = 4
}
op f(x: T[n, k], y: T[m, k]) -> T[n, m] { return matmul_nt(x, y) }
"""


def test_nothing_is_compiled_with_a_wrong_rule(tmp_path: Path) -> None:
    """Where it is asked for; where it is not, it does no harm."""
    (tmp_path / "wrong.sdl").write_text(WRONG)
    sizes = {"n": 2, "m": 3, "k": 4}
    request = make_request(tmp_path / "wrong.sdl", "cpu", "f", sizes, (None, "f32"))
    assert request.build().program.kernels
    asked = replace(request, rules=chosen_rules(request.library, only=["wrong_sum"]))
    with pytest.raises(SdlError) as caught:
        asked.build()
    shown = str(caught.value)
    assert "the sides of `wrong_sum` differ" in shown and "x: [[1.]]" in shown
    assert "1 on the left, 2 on the right" in shown
    text = run("check", tmp_path / "wrong.sdl")
    assert "the sides of `wrong_sum` differ" in text and "1 error" in text
