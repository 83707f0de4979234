"""Explanations: what their data, text and page say, and that the page needs nothing else."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, fields, is_dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from sdlc.api import make_request
from sdlc.api_texts import explanation
from sdlc.program import explain as explaining
from sdlc.program import explain_data, explain_page
from sdlc.program.explain_data import Explanation
from sdlc.program.explain_highlight import Highlighter
from sdlc.program.explain_text import bytes_text, count_text, time_text

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = """
op project(x: T[b, n], w: T[m, n]) -> T[b, m] {
  y[b, i] = sum over j < n of x[b, j] * w[i, j]
  out[b, i] = exp(y[b, i]) / (1 + y[b, i] ^ 2)
}

model small(x: T[b, n]) -> T[b, n] "Two projections and a softmax."
{
  param first: T[n, n]
  param second: T[n, n]
  y = project(x, first)
  return softmax(project(y, second))
}
"""


@pytest.fixture(scope="module")
def made() -> Explanation:
    request = make_request(PROGRAM, "adreno", None, {"b": 3, "n": 24}, (None, "f32"))
    return explanation(request.build(), request)


@pytest.fixture(scope="module")
def page(made: Explanation) -> str:
    return made.page()


# ---- data ----------------------------------------------------------------------------------------


def test_groups_and_dispatches_are_one_to_one(made: Explanation) -> None:
    places = [(g.part, g.number) for g in made.groups]
    assert places == [(d.part, d.number) for d in made.dispatches]
    assert len(set(places)) == len(places) >= 3
    assert all(d.seconds > 0 and d.read > 0 and d.written > 0 for d in made.dispatches)
    assert made.seconds == pytest.approx(sum(d.seconds for d in made.dispatches if d.part == "run"))
    assert any(step.startswith("tile ") for g in made.groups for step in g.steps)
    assert made.flop == sum(d.flop for d in made.dispatches if d.part == "run")


def test_kernels_come_in_both_languages_with_every_line_accounted_for(made: Explanation) -> None:
    assert Counter(k.language for k in made.kernels).keys() == {"opencl", "wgsl"}
    for kernel in made.kernels:
        assert len(kernel.links) == len(kernel.text.splitlines())
        assert all(0 <= n < len(kernel.statements) for link in kernel.links for n in link)


@pytest.mark.parametrize("language", ["opencl", "wgsl"])
def test_lines_lead_to_the_statements_that_they_compute(made: Explanation, language: str) -> None:
    """The sum's lines come from the first statement of `project`, its result's from the second."""
    kernel = next(k for k in made.kernels if "project" in k.name and k.language == language)
    names = [s.name for s in kernel.statements]
    linked = {
        line.strip(): {names[n] for n in link}
        for line, link in zip(kernel.text.splitlines(), kernel.links, strict=True)
    }
    sums = [found for line, found in linked.items() if line.startswith("total") and "=" in line]
    assert sums and all(found == {"y"} for found in sums)
    stores = [found for line, found in linked.items() if re.match(r"(AT\(\w+, )?out\b", line)]
    assert stores and all(found == {"out"} for found in stores)
    lines = {s.name: s.line for s in kernel.statements}
    assert PROGRAM.splitlines()[lines["y"] - 1].strip().startswith("y[b, i] = sum")


@pytest.mark.parametrize("target", ["cpu", "adreno"])
def test_every_loop_and_assignment_has_a_source(target: str) -> None:
    """Also in kernels that compute several definitions, one inside the other."""
    sizes = {"b": 1, "s": 1024, "t": 2048, "w": 32, "u": 32}
    source = ROOT / "stdlib" / "attention.sdl"
    request = make_request(source, target, "attention", sizes, ({"heads": 2}, "f32"))
    found = explanation(request.build(), request)
    assert {"attention_online", "attention"} <= {
        s.definition for g in found.groups for s in g.statements
    }
    for kernel in found.kernels:
        for line, link in zip(kernel.text.splitlines(), kernel.links, strict=True):
            works = re.match(r"\s*(for \(|\w+ = |AT\(|\w+\[.*\] = |barrier|workgroupB)", line)
            assert link or not works, (kernel.name, line)


def test_calls_lead_to_the_program(made: Explanation) -> None:
    texts = [[c.text for c in g.calls] for g in made.groups if g.definition == "project"]
    assert texts == [["y = project(x, first)"], ["return softmax(project(y, second))"]]


def test_a_group_is_called_by_what_most_of_its_work_is() -> None:
    """A norm inside a product is the product's, an activation over a norm the norm's; factors are
    called as the stages that hold them."""
    source = "op f(x: T[b, n], w: T[m, n], g: T[n]) -> T[b, m] { return matmul_nt(rms(x, g), w) }"
    norm = """
op rms(x: T[b, n], g: T[n]) -> T[b, n] {
  s[b] = sum over i < n of square(x[b, i])
  out[b, i] = x[b, i] * rsqrt(s[b] / n + 1e-6) * g[i]
}
"""
    sizes = {"b": 512, "n": 320, "m": 640}
    request = make_request(norm + source, "adreno", "f", sizes, (None, "f16"))
    (group,) = explanation(request.build(), request).groups
    assert group.definition == "matmul_nt" and group.definitions == ("rms", "matmul_nt")
    assert "total = sum over p < 320 of left[b, p] * right[p, j]" in group.text
    source = "op f(x: T[b, n], g: T[n]) -> T[b, n] { return silu(rms(x, g)) }"
    request = make_request(norm + source, "cpu", "f", {"b": 16, "n": 64}, (None, "f32"))
    (group,) = explanation(request.build(), request).groups
    assert group.definition == "rms"


def test_memory_over_time(made: Explanation) -> None:
    temporaries = [t for t in made.tensors if t.part == "run" and t.first >= 0]
    count = sum(d.part == "run" for d in made.dispatches)
    assert temporaries and len(made.live) == count
    for number, live in enumerate(made.live):
        assert live == sum(t.nbytes for t in temporaries if t.first <= number <= t.last)
    assert max(made.live) <= made.memory["lower_bound"] <= made.memory["arena"]


@dataclass(frozen=True)
class Tried:
    """What a rule reports, as far as an explanation looks at it."""

    rule: str
    root: Any
    fired: bool
    why: str


def test_rules_say_what_they_did_to_each_group() -> None:
    request = make_request(PROGRAM, "adreno", None, {"b": 3, "n": 24}, (None, "f32"))
    compiled = request.build()
    assert compiled.planned is not None
    parts = explaining.parts_of(*compiled.planned, compiled.program, compiled.target)
    first, *_, last = (k.group.stores[0].node for k in parts[0].plan.kernels)
    attempts = (Tried("alpha", first, True, ""), Tried("alpha", last, False, "too <small>"))
    found = explaining.explain(explaining.Material(parts, compiled.target, (), (), attempts))
    said = [v for v in found.groups[0].verdicts if v.kind == "rule"]
    assert [(v.name, v.fired, v.about) for v in said] == [("alpha", True, first.origin.path)]
    rule = next(r for r in found.rules if r.name == "alpha")
    assert (rule.fired, rule.missed, rule.reasons) == (1, 1, (("too <small>", 1),))
    assert f"rule alpha did not fire for {last.origin.path}: too <small>" in str(found)


def test_rules_that_are_off_are_listed() -> None:
    from dataclasses import replace

    request = make_request(PROGRAM, "adreno", None, {"b": 3, "n": 24}, (None, "f32"))
    without = replace(request, rules=request.rules[1:])
    found = explanation(without.build(), without)
    assert request.rules[0].name in found.off
    assert "not applied: " in str(found) and "not applied (" in found.page()


def test_json_is_as_documented(made: Explanation) -> None:
    """Every field of the data stands in docs/explain.md, and JSON holds plain values only."""
    record = json.loads(json.dumps(made.as_json()))
    assert record["schema"] == explain_data.SCHEMA
    assert record["dispatches"][0]["operands"][0].keys() == {
        "parameter",
        "tensor",
        "nbytes",
        "written",
    }
    document = (ROOT / "docs" / "explain.md").read_text()
    kinds = [getattr(explain_data, n) for n in vars(explain_data) if n[0].isupper()]
    shown = [k for k in kinds if is_dataclass(k)]
    assert len(shown) > 8
    missing = [f.name for k in shown for f in fields(k) if f"`{f.name}`" not in document]
    assert not missing


# ---- text ----------------------------------------------------------------------------------------


def test_text_has_cost_and_timeline(made: Explanation) -> None:
    text = str(made)
    assert "bound by" in text and "live   " in text and "FLOP" in text
    names = [name for name, _, _ in made.sections()]
    assert names == ["graph", "groups", "rules", "dispatches", "kernels", "tensors", "memory"]


def test_numbers_as_people_read_them() -> None:
    assert [time_text(t) for t in (2.5, 1.23e-3, 4.567e-5, 8e-9)] == [
        "2.5 s",
        "1.23 ms",
        "45.7 µs",
        "8 ns",
    ]
    assert [bytes_text(n) for n in (12, 1536, 200 * 2**20)] == ["12 bytes", "1.5 KiB", "200 MiB"]
    assert [count_text(n) for n in (7, 1500, 2.5e9)] == ["7", "1.5 k", "2.5 G"]


@pytest.mark.parametrize("language", ["sdl", "opencl", "wgsl"])
def test_highlighting_keeps_the_text(made: Explanation, language: str) -> None:
    texts = [k.text for k in made.kernels if k.language == language] or [PROGRAM]
    reader = Reader()
    for text in texts:
        for line, html in zip(text.splitlines(), Highlighter().lines(text, language), strict=True):
            reader.text = ""
            reader.feed(html)
            assert reader.text == line


# ---- page ----------------------------------------------------------------------------------------

VOID = {"meta", "input", "br", "img", "hr", "link", "line"}


class Reader(HTMLParser):
    """Checks that tags are balanced; collects ids, addresses and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.rows: list[dict[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        found = dict(attrs)
        if identity := found.get("id"):
            self.ids.append(identity)
        self.addresses += [found[a] or "" for a in ("href", "src", "action") if a in found]
        if found.get("class") == "dispatch":
            self.rows.append(found)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert tag in VOID or self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_is_whole(made: Explanation, page: str) -> None:
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert len(reader.rows) == len(made.dispatches)
    assert max(Counter(reader.ids).values()) == 1
    for kernel in made.kernels:
        assert reader.text.count(f"{kernel.text.splitlines()[-2].strip()}\n") >= 1
    for group in made.groups:
        assert group.nest.splitlines()[0] in reader.text


def test_the_page_counts_the_kernels_of_a_run() -> None:
    """Those that only loading launches are not among them."""
    source = """
model f(x: T[b, n]) -> T[b, n] {
  param w: T[n, n]
  param v: T[n, n]
  return matmul_nn(x, matmul(w, v))
}
"""
    request = make_request(source, "cpu", None, {"b": 3, "n": 24}, (None, "f32"))
    made = explanation(request.build(), request)
    assert [d.part for d in made.dispatches] == ["run", "load"]
    assert "1 distinct kernel<" in made.page() and len({k.name for k in made.kernels}) == 2


def test_page_needs_nothing_else(page: str) -> None:
    reader = Reader()
    reader.feed(page)
    filters = [a for a in reader.addresses if "=" in a]
    assert all(re.match(r"#(definition|fired|missed)=", a) for a in filters)
    inside = {a.removeprefix("#") for a in reader.addresses if a not in filters}
    assert inside and inside <= set(reader.ids)
    assert not re.search(r"https?:|//[a-z]+\.|url\(|@import|fetch\(", page.replace("// ", ""))


def test_measured_times_stand_beside_predicted_ones(made: Explanation) -> None:
    count = sum(d.part == "run" for d in made.dispatches)
    timed = made.timed("a device", [1e-3] * count)
    assert timed.measured == pytest.approx(1e-3 * count) and not made.measured
    page = timed.page()
    assert page.count("<small>measured 1 ms</small>") == count and "on a device" in page
    assert "measured 1 ms" in str(timed) and "measured" not in str(made)


def test_page_of_a_program_without_temporaries() -> None:
    request = make_request(
        "op id(x: T[n]) -> T[n] { y[i] = x[i] + 1\n return y\n}",
        "cpu",
        None,
        {"n": 4},
        (None, "f32"),
    )
    reader = Reader()
    reader.feed(explanation(request.build(), request).page())
    assert reader.open == [] and len(reader.rows) == 1


def test_command_writes_the_page(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from sdlc.cli_explain import explain_command

    source = tmp_path / "small.sdl"
    source.write_text(PROGRAM)
    sizes = ["--set", "b=2", "n=8", "--target", "mali"]
    place = tmp_path / "small.html"
    done = CliRunner().invoke(explain_command, [str(source), *sizes, "-o", str(place)])
    assert done.exit_code == 0 and done.stdout == ""
    assert place.read_text().startswith("<!doctype html>")
    done = CliRunner().invoke(
        explain_command, [str(source), *sizes, "--json", "--section", "memory"]
    )
    record = json.loads(done.stdout)
    assert "memory" in record and "kernels" not in record and record["target"] == "mali"
    arguments = [str(source), *sizes, "--json", "--device", "cpu", "--section", "dispatches"]
    record = json.loads(CliRunner().invoke(explain_command, arguments).stdout)
    assert record["device"] and all(d["measured"] > 0 for d in record["dispatches"])


def test_the_name_of_a_file_says_what_is_written(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from sdlc.cli_explain import explain_command

    source = tmp_path / "small.sdl"
    source.write_text(PROGRAM)
    asked = [str(source), "--set", "b=2", "n=8", "--target", "mali"]

    def written(name: str, *words: str) -> str:
        done = CliRunner().invoke(explain_command, [*asked, *words, "-o", str(tmp_path / name)])
        assert done.exit_code == 0 and done.stdout == ""
        return (tmp_path / name).read_text()

    said = CliRunner().invoke(explain_command, asked).stdout
    assert written("small.txt") == said and ": graph ==" in said
    assert written("groups.txt", "--section", "groups").startswith("== groups (3)")
    assert {k["language"] for k in json.loads(written("small.json"))["kernels"]} == {
        "opencl",
        "wgsl",
    }
    done = CliRunner().invoke(explain_command, [*asked, "-o", str(tmp_path / "small.pdf")])
    assert done.exit_code == 2 and "text (.txt) or JSON (.json), not `small.pdf`" in done.stderr
    assert not (tmp_path / "small.pdf").exists()


# ---- schedules that cannot be applied -----------------------------------------------------------


def test_refused_steps_are_located(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that is not legal prints the line, the step, the reason and the nest as it was."""
    from sdlc.language.diagnostics import SdlError
    from sdlc.schedule.nest import Bind, Kind

    monkeypatch.setattr("sdlc.schedule.tactics.steps_for", lambda *_: (Bind("j", Kind.VECTOR),))
    source = ROOT / "stdlib" / "matmul.sdl"
    request = make_request(
        source, "cpu", "matmul", {"b": (), "m": 3, "k": 7, "n": 5}, (None, "f32")
    )
    with pytest.raises(SdlError) as raised:
        request.build()
    text = str(raised.value)
    assert "error[N001]: the schedule of `matmul out` cannot be applied" in text
    assert "= step: bind j to vector (a vector has 2, 4, 8 or 16 lanes)" in text
    assert "stdlib/matmul.sdl:6:3" in text and "^^^" in text
    assert "   = nest: for i < 3\n             for j < 5\n" in text


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("`a < b` is not `c`", "<code>a &lt; b</code> is not <code>c</code>"),
        ("one ` alone & no more", "one ` alone &amp; no more"),
    ],
)
def test_reasons_show_code_as_code(text: str, html: str) -> None:
    assert explain_page.ticked(text) == html


def test_json_is_read_as_it_was_written(made: Explanation) -> None:
    from sdlc.program.explain_json import explanation_of

    assert explanation_of(json.loads(json.dumps(made.as_json()))) == made
