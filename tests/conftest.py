"""Options of the test suite.

    python -m pytest tests/test_random_programs.py --examples 5000
runs 5000 random programs a stage, new ones each time; without it the suite runs about two thousand,
the same ones each time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

ForAll = Callable[[SearchStrategy[Any], Callable[[Any], None], int, float], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--examples", type=int, default=None, help="random programs a stage, freshly drawn"
    )


@pytest.fixture
def for_all(request: pytest.FixtureRequest) -> ForAll:
    """`for_all(strategy, check, usual, share)`: `check` on `usual` drawn values, or on a `share`
    of what `--examples` asks for."""
    asked: int | None = request.config.getoption("--examples")

    def run(
        strategy: SearchStrategy[Any], check: Callable[[Any], None], usual: int, share: float
    ) -> None:
        count = usual if asked is None else max(1, round(asked * share))
        configured = settings(
            max_examples=count,
            derandomize=asked is None,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate, Phase.shrink),
        )

        def test(value: Any) -> None:
            check(value)

        configured(given(strategy)(test))()

    return run
