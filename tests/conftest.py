"""Options of the test suite.

    python -m pytest tests/test_random_programs.py --examples 5000
runs 5000 random programs a stage, new ones each time; without it the suite runs about two thousand,
the same ones each time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

DOUBLE = "op double(x: T[n]) -> T[n] {\n  out[i] = 2 * x[i]\n}\n"
ForAll = Callable[[SearchStrategy[Any], Callable[[Any], None], int, float], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--examples", type=int, default=None, help="random programs a stage, freshly drawn"
    )


LONG = (
    "test_models_devices.py",
    "test_models_targets.py",
    "test_docs.py",
    "test_models_pipelines.py",
)
"""Files that take minutes: begun first, so that no process is left alone with one."""


def pytest_configure(config: pytest.Config) -> None:
    """Files are given to processes in the order in which they are collected."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {f"test_{name}": number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONG)))


@pytest.fixture(scope="session", autouse=True)
def own_programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Programs that tests keep are not put among the user's, and packed weights are kept by the
    tests of that only: there are many, and they are large. What drivers built is shared."""
    from sdlc.models import cache, networks, packed

    usual, place = cache.cache_folder, tmp_path_factory.mktemp("programs")

    def folder(name: str) -> Path:
        return place if name == "programs" else usual(name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "cache_folder", folder)
        patch.setattr(packed, "cache_folder", _no_folder)
        patch.setattr(networks, "compile_network", _once(networks.compile_network))
        yield


def _once(make: Callable[..., Any]) -> Callable[..., Any]:
    """`compile_network`, whose programs of the shipped model are made once for all devices."""
    from sdlc.models.folder import default_folder

    shipped, made = default_folder(), {}

    def compiled(network: Any, folder: Any, *others: Any) -> Any:
        if folder.path != shipped:
            return make(network, folder, *others)
        key = repr((network, *others))
        if key not in made:
            made[key] = make(network, folder, *others)
        return made[key]

    return compiled


def _no_folder(name: str) -> Path:
    raise OSError(f"no {name} are kept")


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


# ---- the command line ----------------------------------------------------------------------------


class Result:
    """What a command left behind."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    def run(*arguments: object, status: int = 0) -> Result:
        capsys.readouterr()
        from sdlc.cli import status_of

        got = status_of([str(a) for a in arguments])
        captured = capsys.readouterr()
        result = Result(got, captured.out, captured.err)
        assert "Traceback" not in result.err
        assert got == status, result.out + result.err
        return result

    yield run


@pytest.fixture
def double(tmp_path: Path) -> Path:
    path = tmp_path / "double.sdl"
    path.write_text(DOUBLE)
    return path


@pytest.fixture
def x(tmp_path: Path) -> Path:
    path = tmp_path / "x.npy"
    np.save(path, np.arange(6, dtype=np.float32))
    return path
