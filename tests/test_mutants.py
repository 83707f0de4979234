"""Every mutant of tests/mutants.py can still be applied: rewrites do not rot the list."""

from __future__ import annotations

import pytest

from mutants import MUTANTS, ROOT, applied
from mutants_known import Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_it_applies(mutant: Mutant) -> None:
    text = (ROOT / mutant.file).read_text()
    made = applied(mutant, text)
    assert made is not None, f"`{mutant.old}` is not in {mutant.file} any more"
    assert made != text


def test_the_tests_are_there() -> None:
    for mutant in MUTANTS:
        files = [word for word in mutant.tests.split() if word.startswith("tests/")]
        assert files and all((ROOT / file).is_file() for file in files), mutant.name


def test_there_are_many_and_each_once() -> None:
    assert len({m.name for m in MUTANTS}) == len(MUTANTS) >= 25
