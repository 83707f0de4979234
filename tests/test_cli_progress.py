"""What long commands say where stderr is a pipe."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import sdlc.cli_progress as shown
from sdlc.cli import status_of
from sdlc.cli_generate import drawing_progress
from sdlc.models.settings import Progress

ROOT = Path(__file__).parents[1]
SOFTMAX = str(ROOT / "stdlib" / "softmax.sdl")
SIZES = ("--entry", "softmax", "--set", "b=3", "n=17")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("check", SOFTMAX, *SIZES, "--target", "mali", "--examples", "1"),
            [
                "compiling softmax, 0 of 1 done",
                "softmax_out, 0 of 2 done",
                "the whole program, 1 of",
            ],
        ),
        (("bench", SOFTMAX, *SIZES, "-n", "1"), ["softmax: compile", "softmax: run 1 of 1"]),
        (("memory", SOFTMAX, *SIZES), ["softmax, 0 of 1 done"]),
    ],
    ids=("check", "bench", "memory"),
)
def test_long_commands_say_lines_where_no_bar_can_be_drawn(
    words: tuple[str, ...],
    said: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert status_of([*words]) == 0
    quick = capsys.readouterr()
    assert not quick.err and quick.out
    monkeypatch.setattr(shown, "EVERY", 0.0)
    assert status_of([*words]) == 0
    slow = capsys.readouterr()
    for each in said:
        assert re.search(rf"^\d:\d\d:\d\d  {each}", slow.err, re.M), slow.err
    assert "0:00:" not in slow.out


def test_one_is_said_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["check", SOFTMAX, *SIZES, "--target", "cpu", "--kernel", "softmax_out"]
    assert status_of([*words, "--examples", "1"]) == 0
    assert "1 kernel agrees on 1 example\n" in capsys.readouterr().out
    assert status_of([*words, "--seconds", "0"]) == 0
    assert "softmax_out: 1 example in 0 s, not 20\n" in capsys.readouterr().out


def test_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with shown.progress("checking", 9, remaining=True) as tell:
        for done, seconds in enumerate((0.0, 25.0, 4.0, 2.0, 28.0, 40.0)):
            now[0] += seconds
            tell(f"k{done}", done, 6)
    assert capsys.readouterr().err.splitlines() == [
        "0:00:31  k3, 3 of 6 done, about 0:00:31 left",
        "0:01:39  k5, 5 of 6 done, about 0:00:20 left",
    ]


def test_a_picture_says_its_steps(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shown, "EVERY", 0.0)
    with drawing_progress() as show:
        show(Progress("step", 1, 20, 12.5))
    assert ":00  drawing, 12.5 s each, 1 of 20 done" in capsys.readouterr().err
