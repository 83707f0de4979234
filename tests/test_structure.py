"""Programs that say how many kernels they become: `# kernels: 2` in tests/programs/*.sdl."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import sdlc
from rule_programs import values_for
from sdlc.api import make_request
from sdlc.cli import status_of
from sdlc.cli_check import entries
from sdlc.cli_header import structure_problems, with_header
from sdlc.language.diagnostics import SdlError
from sdlc.language.elaborate_rule import chosen_rules
from sdlc.language.parse import parse_module
from sdlc.program.interpreted import run_interpreted
from sdlc.proof.structure import header_of
from sdlc.proof.tolerance import Numerics, check, tolerance
from strategies import weights_of

PROGRAMS = sorted((Path(__file__).parent / "programs").glob("*.sdl"))
TARGETS = ("cpu", "adreno", "mali", "apple", "nvidia")
WINOGRAD = (
    *("winograd_2", "scale_and_shift", "rows", "inline_prologue", "inline_epilogue"),
    *("nest_transforms", "register_tile", "storage_orders"),
)
TEXT = """"A file."

# sizes: n=4
# kernels: 1
# mali kernels: 2
# without some_rule, other kernels: 3
# cpu without some_rule, other barriers: 0
# a comment about kernels: they are few
op first(x: T[n]) -> T[n] {
  # kernels: 9
  out[i] = 2 * x[i]
}

# dispatches: 7
op second(x: T[n]) -> T[n] {
  out[i] = 2 * x[i]
}
"""


def test_lines_belong_to_the_definition_that_follows() -> None:
    module = parse_module(TEXT, "a.sdl")
    header = header_of(module, "first")
    assert [(s.name, s.value) for s in header.sizes] == [("n", "4")]
    assert [(e.target, e.without, e.what, e.count) for e in header.expectations] == [
        ("", (), "kernels", 1),
        ("mali", (), "kernels", 2),
        ("", ("some_rule", "other"), "kernels", 3),
        ("cpu", ("some_rule", "other"), "barriers", 0),
    ]
    (only,) = header_of(module, "second").expectations
    assert (only.what, only.count, only.span.line) == ("dispatches", 7, 14)


def test_a_line_about_a_target_counts_instead_of_the_general_one() -> None:
    header = header_of(parse_module(TEXT, "a.sdl"), "first")
    assert [e.count for e in header.about("mali")] == [2, 3]
    assert [e.count for e in header.about("cpu")] == [1, 3, 0]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("path", PROGRAMS, ids=lambda p: p.stem)
def test_programs_become_what_they_say(path: Path, target: str) -> None:
    request = make_request(path, target, None, {}, (None, "f32"))
    for name in entries(request):
        one, header = with_header(request, name)
        if not one.missing_sizes():
            problems = structure_problems(one, header)
            assert not problems, SdlError(problems, one.library.sources)


def test_transforms_take_in_what_follows_and_norms_what_precedes() -> None:
    """By Winograd's algorithm a block is four kernels: the norm's statistics; tiles of what is
    normalised and activated as it is loaded, and both of their transforms; products; both
    transforms back with bias, residual sum and activation."""
    path = next(p for p in PROGRAMS if p.stem == "winograd")
    request = make_request(path, "cpu", None, {}, (None, "f32"))
    one, _ = with_header(request, "winograd_block")
    rules = chosen_rules(one.library, (), WINOGRAD)
    program = replace(one, rules=rules).build().program
    assert [d.kernel for d in program.dispatches] == [
        "group_normalize_stats",
        "group_normalize_silu_winograd_tiles2d_out",
        "winograd_products2d_out",
        "winograd_conv2d_silu_out",
    ]
    assert {"conv.bias", "r", "out"} < {name for _, name in program.dispatches[-1].bindings}


@pytest.mark.parametrize(
    ("rule", "c", "w"), [("winograd_1d_2", 128, 127), ("winograd_1d_4", 64, 253)]
)
def test_lines_are_computed_in_tiles_as_well(rule: str, c: int, w: int) -> None:
    """In one dimension as in two: tiles, products, and the way back with what follows, which
    compute what the definition says."""
    path = next(p for p in PROGRAMS if p.stem == "winograd_line")
    one = make_request(path, "cpu", None, {"b": 1, "c": c, "w": w}, (None, "f32"))
    rules = chosen_rules(one.library, (), (rule, *WINOGRAD[1:]))
    program = replace(one, rules=rules).build().program
    assert [d.kernel for d in program.dispatches] == [
        "winograd_conv1d_v",
        "winograd_conv1d_s",
        "winograd_conv1d_silu_out",
    ]
    graph = one.graph()
    inputs, weights = values_for(graph, 0), weights_of(graph)
    outputs = run_interpreted(program, inputs, weights)
    check(tolerance(graph, inputs, weights), outputs, Numerics.BILINEAR)


@pytest.mark.parametrize(
    ("entry", "products"),
    [("grouped_convolution", 32 * 6 * 5 * 6 * 9), ("doubled_by_taps", 32 * 12 * 10 * 24 * 4)],
)
def test_unusual_convolutions_are_products_in_register_tiles(entry: str, products: int) -> None:
    """A group of channels is a batch; of a transposed kernel only the taps that are read count."""
    path = next(p for p in PROGRAMS if p.stem == "fused")
    one, _ = with_header(make_request(path, "cpu", None, {}, (None, "f32")), entry)
    explanation = sdlc.compile(path, entry=entry, sizes=one.sizes).explain()
    (group,) = explanation.groups
    assert any(v.name == "register_tile" and v.fired for v in group.verdicts)
    assert 2 * products <= explanation.flop < 3 * products


def test_most_programs_say_something() -> None:
    assert len(PROGRAMS) > 1
    modules = [parse_module(p.read_text(), p.name) for p in PROGRAMS]
    said = [header_of(m, d.name).expectations for m in modules for d in m.definitions]
    assert sum(map(bool, said)) >= len(PROGRAMS) - 1


def test_what_does_not_hold_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.sdl"
    file.write_text(TEXT.replace("# dispatches: 7\n", "").replace("some_rule, other", "halo"))
    assert status_of(["check", str(file), "--set", "n=5"]) == 0  # not the sizes of the line
    assert status_of(["check", str(file)]) == 1
    said = capsys.readouterr().err
    assert "C002" in said and "1 kernels for cpu without halo, where the file says 3" in said
    assert "# without halo kernels: 3" in said
    assert status_of(["check", str(file), "--target", "mali", "--entry", "first"]) == 1
    assert "1 kernels for mali, where the file says 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("# kernls: 1", "C002", "did you mean `kernels`?"),
        ("# without halo dispatchs: 1", "C002", "did you mean `dispatches`?"),
        ("# aderno kernels: 1", "C002", "did you mean `adreno`?"),
        ("# Mali kernels: 1", "C002", "`# TARGET kernels: 2`"),
        ("# size: n=4", "C002", "did you mean `sizes`?"),
        ("# sizes: m=4", "E039", "`first` has no size `m`"),
        ("# sizes: n=four", "E038", "`n=four` is no size"),
    ],
)
def test_lines_that_nothing_would_look_at_are_errors(
    line: str, code: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.sdl"
    sizes = "# step sizes: 3\n# sizes: n=4\n" if "size" not in line else ""
    file.write_text(f"{sizes}{line}\nop first(x: T[n]) -> T[n] {{ out[i] = 2 * x[i] }}\n")
    assert status_of(["check", str(file)]) == 1
    error = capsys.readouterr().err
    assert code in error and said in error and f" | {line}\n" in error


def test_commands_take_the_sizes_that_a_file_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.sdl"
    file.write_text(TEXT)
    for command in ("explain", "memory"):
        assert status_of([command, str(file), "--entry", "first", "--no-cache"]) == 0
    folder = str(tmp_path / "bundle")
    assert status_of(["compile", str(file), "--entry", "first", "-o", folder, "--no-cache"]) == 0
    assert "x[4]" in capsys.readouterr().out
    given = ["--set", "n=6", "-o", folder, "--no-cache"]
    assert status_of(["compile", str(file), "--entry", "first", *given]) == 0
    assert "x[6]" in capsys.readouterr().out
    assert status_of(["compile", str(file), "--entry", "second", "-o", folder, "--no-cache"]) == 1
    assert "`n`" in capsys.readouterr().err
