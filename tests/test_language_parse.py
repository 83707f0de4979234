"""The grammar and the parser: no conflicts, what binds how, spans, and that bad text only errs."""

from __future__ import annotations

import logging
import re
import time
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lark import logger

from sdlc.graph.types import Span
from sdlc.language import syntax
from sdlc.language.diagnostics import SdlError
from sdlc.language.parse import parse_expression, parse_module
from sdlc.language.parse_grammar import build_grammar, grammar
from sources import modules
from trees import nodes, without_spans

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(path for room in ("stdlib", "models") for path in (ROOT / room).rglob("*.sdl"))
EXPRESSIONS = get_args(syntax.Expression)


def test_the_grammar_has_no_conflicts(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logger, "propagate", True)
    with caplog.at_level(logging.DEBUG, logger=logger.name):
        build_grammar(debug=True)
    assert caplog.records == []


def test_the_library_parses_fast() -> None:
    texts = [path.read_text(encoding="utf-8") for path in FILES]
    start = time.process_time()
    grammar.cache_clear()
    for text in texts:
        parse_module(text, "f.sdl")
    assert time.process_time() - start < 1.5


# ---- expressions -------------------------------------------------------------------------------


def same(one: str, other: str) -> None:
    assert without_spans(parse_expression(one)) == without_spans(parse_expression(other))


@pytest.mark.parametrize(
    ("text", "bracketed"),
    [
        ("a + b * c", "a + (b * c)"),
        ("a - b - c", "(a - b) - c"),
        ("a / b % c", "(a / b) % c"),
        ("a ^ b ^ c", "a ^ (b ^ c)"),
        ("-a ^ b", "-(a ^ b)"),
        ("a ^ -b ^ c", "a ^ (-(b ^ c))"),
        ("-a * b", "(-a) * b"),
        ("a < b + c", "a < (b + c)"),
        ("not a < b and c or d", "((not (a < b)) and c) or d"),
        ("a or not b and c", "a or ((not b) and c)"),
        ("x in xs + [y]", "x in (xs + [y])"),
        ("x[i] else 0 * y", "(x[i] else 0) * y"),
        ("x[i] else -y ^ z", "(x[i] else -y) ^ z"),
        ("x[i] else y[j] else 0", "x[i] else (y[j] else 0)"),
        ("x[i] else f(y).m", "x[i] else (f(y).m)"),
        ("a + sum over i of b + c", "a + (sum over i of (b + c))"),
        ("-sum over i of b * max over j of c", "-(sum over i of (b * (max over j of c)))"),
        ("if a then b else c + d", "if a then b else (c + d)"),
        ("if a then b + if c then d else e else f", "if a then (b + (if c then d else e)) else f"),
        ("if a then sum over i of x[i] else y", "if a then (sum over i of x[i]) else y"),
        ("if a then b else x[i] else 0", "if a then b else (x[i] else 0)"),
        ("if a then f(x[i] else 0) else c", "if a then (f((x[i] else 0))) else c"),
        ("sum over i < n + 1, *s of x[i, *s]", "sum over i < (n + 1), *s of (x[i, *s])"),
        ("x.m[i].n", "((x.m)[i]).n"),
        ("x[a + 1..b - 1]", "x[(a + 1)..(b - 1)]"),
        ("a.b: f(x)[0]", "(a.b: f(x))[0]"),
        ("f(x,; k = 1,)", "f(x; k = 1)"),
    ],
)
def test_what_binds_how(text: str, bracketed: str) -> None:
    same(text, bracketed)


@pytest.mark.parametrize("text", ["a < b < c", "a == b in c", "-not a", "x else 0", "f(x) else 0"])
def test_what_does_not_bind(text: str) -> None:
    with pytest.raises(SdlError):
        parse_expression(text)


def test_names_strings_and_numbers() -> None:
    place = Span("<expression>", 1, 1, 1, 3)
    assert parse_expression("x'") == syntax.Name("x'", place)
    string = parse_expression(r'"a\n\"b\\"')
    assert string == syntax.String('a\n"b\\', Span("<expression>", 1, 1, 1, 11))
    values = [parse_expression(text) for text in ("12", "0.5", "1e-5", "2.0e3")]
    assert [v.value for v in values if isinstance(v, syntax.Number)] == [12, 0.5, 1e-5, 2000.0]


def test_keywords_are_only_whole_words() -> None:
    same("info + ofx * in_ - not'", "(info + (ofx * in_)) - not'")


def label(text: str) -> tuple[str | syntax.Expression, ...]:
    call = parse_expression(text)
    assert isinstance(call, syntax.Call)
    assert call.label is not None
    return call.label.parts


def test_labels() -> None:
    assert label("conv: f(x)") == ("conv",)
    assert label("to_out.0: f(x)") == ("to_out.0",)
    first, i, middle, j, last = label("down.{i}.a{j + 1}.conv: f(x)")
    assert (first, middle, last) == ("down.", ".a", ".conv")
    assert i == syntax.Name("i", Span("<expression>", 1, 7, 1, 8))
    assert isinstance(j, syntax.Binary)
    assert j.span == Span("<expression>", 1, 12, 1, 17)


# ---- statements and definitions ----------------------------------------------------------------


def body(text: str) -> tuple[syntax.Statement, ...]:
    (definition,) = parse_module(f"op f(x: T[n]) -> T[n] {{ {text} }}", "f.sdl").definitions
    assert isinstance(definition, syntax.Definition)
    return definition.body


def test_newlines_end_statements() -> None:
    assert len(body("a = 1\nb = 2; c = 3\n\n # no\n;d = 4")) == 4


@pytest.mark.parametrize(
    "text",
    [
        "a = 1 +\n 2",
        "a =\n\n # why\n 1",
        "a = f(1,\n 2\n)",
        "a = [\n1]",
        "a = if x\n then 1\n else 2",
        "a[] = sum over i,\n j of\n x[i]",
        "a,\n b = x",
        "if x { a = 1 }\n else if y { a = 2 }\n # now\n else { a = 3 }",
        "for i\n in x\n { a = 1 }".replace("i\n in", "i in\n"),
        "return (x\n + 1),\n y",
        'require x\n "message"',
    ],
)
def test_newlines_that_end_nothing(text: str) -> None:
    assert without_spans(body(text)) == without_spans(body(re.sub(r"#.*|\n", " ", text)))


def test_else_if_chains_nest() -> None:
    (first,) = body("if a { b = 1 } else if c { b = 2 } else { b = 3 }")
    assert isinstance(first, syntax.IfBranch)
    (second,) = first.otherwise
    assert isinstance(second, syntax.IfBranch)
    assert len(second.otherwise) == 1


def test_a_module() -> None:
    module = parse_module(
        '"About."\nimport "a.sdl"\n'
        'fn g(x) "Twice." = 2 * x\n'
        'monoid m "Sum." { s: f32 = 0; combine(a, b) { s = a.s + b.s }; finish(a) { t = a.s } }\n'
        'model f(x: T[b, *c]?, n: int = 3; k: list) -> (p: T[b], q: f32[]) "Doc."\n'
        '  where b > 1 "big", n > 2 { config w = 1 }\n',
        "f.sdl",
    )
    function, monoid, model = module.definitions
    assert (module.doc, [i.path for i in module.imports]) == ("About.", ["a.sdl"])
    assert isinstance(function, syntax.Function)
    assert (function.parameters, function.doc) == (("x",), "Twice.")
    assert isinstance(monoid, syntax.MonoidDefinition)
    assert (monoid.combine_names, monoid.finish_name, monoid.doc) == (("a", "b"), "a", "Sum.")
    assert isinstance(model, syntax.Definition)
    assert [p.name for p in model.parameters if p.attribute] == ["k"]
    assert [r.name for r in model.results] == ["p", "q"]
    assert [g.message for g in model.guards] == ["big", None]
    assert model.doc == "Doc."
    assert model.header == Span("f.sdl", 5, 1, 5, 66)


def test_the_docstring_may_follow_a_guard_with_a_message() -> None:
    (f,) = parse_module('op f(x: T[n]) -> T[n] where n > 1 "big" "Doc." {}', "f.sdl").definitions
    assert f.doc == "Doc."


# ---- spans -------------------------------------------------------------------------------------


def excerpt(text: str, span: Span) -> str:
    lines = text.split("\n")[span.line - 1 : span.end_line]
    lines[-1] = lines[-1][: span.end_column - 1]
    lines[0] = lines[0][span.column - 1 :]
    return "\n".join(lines)


def check_spans(text: str) -> None:
    """What every expression's span holds is that expression."""
    for node in nodes(parse_module(text, "f.sdl")):
        if isinstance(node, EXPRESSIONS):
            part = parse_expression(excerpt(text, node.span))  # type: ignore[attr-defined]
            assert without_spans(part) == without_spans(node)


def test_spans_of_the_library() -> None:
    check_spans((ROOT / "stdlib" / "norm.sdl").read_text(encoding="utf-8"))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(modules())
def test_spans(text: str) -> None:
    check_spans(text)


# ---- bad text ----------------------------------------------------------------------------------

PIECES = ("(", ")", "{", "}", "[", "]", "=", "of", "then", "else", "op", '"', "$", "\t", "\n")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_bad_text_gives_diagnostics(data: st.DataObject) -> None:
    """Whatever is cut out of a module or put into it, the parser answers or says where it errs."""
    text = data.draw(modules())
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 5)))
        text = text[:start] + data.draw(st.sampled_from(["", *PIECES])) + text[end:]
    try:
        parse_module(text, "f.sdl")
    except SdlError as error:
        for diagnostic in error.diagnostics:
            assert diagnostic.help
            assert diagnostic.span is not None
            assert 1 <= diagnostic.span.line <= text.count("\n") + 1
            assert re.fullmatch(r"E0(0[1-9]|1[0-9])", diagnostic.code)


def test_errors_come_in_the_order_of_the_text() -> None:
    text = "fn a(x) = \nop b(x: T[n]) -> T[n] {\n  z = [1\n}\nfn c(x) = x )\nfn d(x) = $\n"
    with pytest.raises(SdlError) as caught:
        parse_module(text, "f.sdl")
    places = [(d.span.line, d.code) for d in caught.value.diagnostics if d.span]
    assert places == [(1, "E001"), (3, "E005"), (5, "E006"), (6, "E002")]
