"""What commands keep: found again, made again where anything changed or is damaged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from sdlc.cli import status_of
from sdlc.cli_cache import age
from sdlc.models import cache
from sdlc.program import pipeline
from sdlc.program.store import ABOUT, Store, StoreWarning

PART = "op part(x: T[n]) -> T[n] { out[i] = 2 * x[i] }\n"
MAIN = 'import "part.sdl"\n\nop whole(x: T[n]) -> T[n] { return part(x) }\n'
NET = "model net(x: T[b, n]) -> T[b, m] {\n  config m = 3\n  return proj: linear(x, m)\n}\n"


def fill(text: str) -> Callable[[Path], None]:
    def write(place: Path) -> None:
        (place / "inner").mkdir(parents=True)
        (place / "inner" / "file").write_text(text)

    return write


def content(store: Store, key: str) -> str | None:
    found = store.get(key)
    return None if found is None else (found.place / "inner" / "file").read_text()


# ---- the store -----------------------------------------------------------------------------------


def test_what_was_put_is_found_with_what_was_said(tmp_path: Path) -> None:
    store = Store(tmp_path, 4)
    assert store.get("a") is None
    store.put("a", fill("one"), {"what": "first"})
    found = store.get("a")
    assert found is not None and found.about == {"what": "first"} and content(store, "a") == "one"
    store.put("a", fill("two"), {})  # which others may be reading
    assert content(store, "a") == "one"
    shorten(tmp_path / "a")
    store.put("a", fill("two"), {})
    assert content(store, "a") == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def shorten(place: Path) -> None:
    (place / "inner" / "file").write_text("")


def lose(place: Path) -> None:
    (place / "inner" / "file").unlink()


def add(place: Path) -> None:
    (place / "more").write_text("")


def say_else(place: Path) -> None:
    said = json.loads((place / ABOUT).read_text())
    (place / ABOUT).write_text(json.dumps({**said, "about": {"what": "else"}}))


def break_description(place: Path) -> None:
    (place / ABOUT).write_text("[" * 100_000)


@pytest.mark.parametrize("damage", [shorten, lose, add, say_else, break_description])
def test_a_damaged_entry_is_dropped_with_one_warning(damage: Any, tmp_path: Path) -> None:
    store = Store(tmp_path, 4)
    store.put("a", fill("one"), {})
    damage(tmp_path / "a")
    with pytest.warns(StoreWarning, match="was damaged") as told:
        assert store.get("a") is None
    assert len(told) == 1 and not list(tmp_path.iterdir())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.get("a") is None


def test_who_fails_or_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path, 4)

    def broken(place: Path) -> None:
        fill("half")(place)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.put("a", broken, {})
    assert store.get("a") is None and not list(tmp_path.iterdir())
    killed = tmp_path / ".a.1.0.part"
    fill("half")(killed)
    store.put("b", fill("one"), {})
    assert killed.exists() and [e.key for e in store.entries()] == ["b"]
    os.utime(killed, (0, 0))
    store.trim()
    assert not killed.exists()


WRITER = """
import sys
from pathlib import Path
from sdlc.program.store import Store

def write(place):
    place.mkdir()
    for n in range(20):
        (place / str(n)).write_text(sys.argv[2] * 1000)

for _ in range(30):
    store = Store(Path(sys.argv[1]), 4)
    store.put("key", write, {})
    found = store.get("key")
    if found is not None:
        assert len(list(found.place.iterdir())) in range(22)
"""


def test_several_writers_never_leave_a_mixture(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", WRITER, str(tmp_path)]
    running = [subprocess.Popen([*command, letter]) for letter in "ab"]
    assert [process.wait() for process in running] == [0, 0]
    found = Store(tmp_path, 4).get("key")
    assert found is not None
    texts = {p.read_text() for p in found.place.iterdir() if p.name != ABOUT}
    assert len(texts) == 1 and [p.name for p in tmp_path.iterdir()] == ["key"]


def test_the_entries_used_longest_ago_go_first(tmp_path: Path) -> None:
    store = Store(tmp_path, 2)
    for seconds, key in ((30, "a"), (20, "b")):
        store.put(key, fill(key), {})
        os.utime(tmp_path / key, (time.time() - seconds,) * 2)
    assert content(store, "a") == "a"
    store.put("c", fill("c"), {})
    assert {e.key for e in store.entries()} == {"a", "c"}
    assert store.clear(3600) == 0 and store.clear() == 2 and not store.entries()


# ---- compile and run -----------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two files, and a cache of its own."""
    (tmp_path / "part.sdl").write_text(PART)
    (tmp_path / "main.sdl").write_text(MAIN)
    (tmp_path / "kept").mkdir()
    monkeypatch.setattr(cache, "cache_folder", lambda name: tmp_path / "kept")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the programs that are compiled."""
    names: list[str] = []
    compile_hoisted = pipeline.compile_hoisted

    def counting(parts: Any, *args: Any, **kwargs: Any) -> Any:
        names.append(parts.run.name)
        return compile_hoisted(parts, *args, **kwargs)

    monkeypatch.setattr(pipeline, "compile_hoisted", counting)
    yield names


def compiled(out: str, *arguments: str, file: str = "main.sdl", n: int = 4) -> dict[str, bytes]:
    """The bundle that `sdlc compile` writes: the content of each of its files."""
    assert status_of(["compile", file, "--set", f"n={n}", "-o", out, *arguments]) == 0
    paths = [p for p in Path(out).rglob("*") if p.is_file()]
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in paths}


def test_a_second_compilation_writes_the_same_bundle(place: Path, made: list[str]) -> None:
    first = compiled("one", "--entry", "whole")
    assert first == compiled("two", "--entry", "whole") and made == ["whole"]
    assert "manifest.json" in first and ABOUT not in first


def test_a_bundle_from_the_cache_says_so(
    place: Path, made: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for out in ("one", "two"):
        capsys.readouterr()
        compiled(out, "--entry", "whole", "--json")
        said.append(json.loads(capsys.readouterr().out))
    assert [s["cached"] for s in said] == [False, True] and said[1]["bundle"] == "two"
    for summary in said:
        for name in ("bundle", "cached", "seconds"):
            summary.pop(name)
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("change", "arguments"),
    [
        ("main.sdl", ()),
        ("part.sdl", ()),
        ("records", ()),
        ("", ("--target", "mali")),
        ("", ("--precision", "f16")),
        ("", ("--set", "n=5")),
        ("", ("--no-cache",)),
    ],
)
def test_whatever_counts_is_compiled_again(
    change: str, arguments: tuple[str, ...], place: Path, made: list[str]
) -> None:
    compiled("one", "--entry", "whole")
    if change == "records":
        (place / "main.sdl.tuning.jsonl").write_text("\n")
    elif change:
        (place / change).write_text((place / change).read_text() + "# changed\n")
    sizes = () if "n=5" in arguments else ("--set", "n=4")
    call = ["compile", "main.sdl", "--entry", "whole", "-o", "two", *sizes, *arguments]
    assert status_of(call) == 0 and made == ["whole", "whole"]


def test_a_configuration_counts_by_what_it_says(place: Path, made: list[str]) -> None:
    (place / "net.sdl").write_text(NET)
    for name, m in (("a.json", 5), ("b.json", 5), ("c.json", 6)):
        (place / name).write_text(json.dumps({"m": m}))
    for name in ("a.json", "b.json", "c.json"):
        compiled(name[0], "--set", "b=2", "--config", name, file="net.sdl")
    assert made == ["net", "net"]


def test_weights_are_packed_into_what_was_kept(place: Path, made: list[str]) -> None:
    (place / "net.sdl").write_text(NET)
    rng = np.random.default_rng(0)
    weights = {
        "proj.weight": rng.normal(size=(3, 4)).astype(np.float32),
        "proj.bias": rng.normal(size=3).astype(np.float32),
    }
    save_file(weights, place / "w.safetensors")
    options = ("--set", "b=2", "--weights", "w.safetensors")
    cold = compiled("cold", *options, "--no-cache", file="net.sdl")
    compiled("one", "--set", "b=2", file="net.sdl")
    assert compiled("two", *options, file="net.sdl") == cold and made == ["net", "net"]


def test_weights_that_do_not_fit_are_said_as_ever(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "net.sdl").write_text(NET)
    save_file({"proj.weight": np.zeros((3, 5), np.float32)}, place / "w.safetensors")
    call = ["compile", "net.sdl", "--set", "b=2", "n=4", "--weights", "w.safetensors", "-o", "two"]
    compiled("one", "--set", "b=2", file="net.sdl")
    said = []
    for option in ([], ["--no-cache"]):
        capsys.readouterr()
        assert status_of([*call, *option]) == 1
        said.append(capsys.readouterr().err)
    assert said[0] == said[1] and "proj.weight" in said[0]


def test_a_damaged_program_is_compiled_again(place: Path, made: list[str]) -> None:
    first = compiled("one", "--entry", "whole")
    kernel = next((place / "kept").rglob("*.cl"))
    kernel.write_text(kernel.read_text().replace("2", "3"))
    with pytest.warns(StoreWarning):
        assert compiled("two", "--entry", "whole") == first
    assert compiled("three", "--entry", "whole") == first and made == ["whole", "whole"]


@pytest.mark.filterwarnings("always::UserWarning")
def test_warnings_are_said_again(place: Path, made: list[str]) -> None:
    (place / "main.sdl.tuning.jsonl").write_text("no record\n")
    for out in ("one", "two"):
        with pytest.warns(UserWarning, match="tuning records"):
            compiled(out, "--entry", "whole")
    assert made == ["whole"]


def test_a_cache_that_cannot_be_written_keeps_nothing(
    place: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "cache_folder", lambda name: place / "part.sdl")
    assert compiled("one", "--entry", "whole") == compiled("two", "--entry", "whole")
    assert made == ["whole", "whole"]


def test_run_keeps_a_program_for_its_shapes(place: Path, made: list[str]) -> None:
    for length in (4, 4, 5):
        np.save(place / "x.npy", np.arange(length, dtype=np.float32))
        call = ["run", "main.sdl", "--entry", "whole", "--input", "x=x.npy", "-o", "out.npz"]
        assert status_of([*call, "--device", "cpu"]) == 0
        np.testing.assert_array_equal(np.load("out.npz")["out"], 2 * np.arange(length))
    assert made == ["whole", "whole"]


def test_explain_keeps_what_it_found(
    place: Path, made: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The same again, and again after a change; with times of a device nothing more is compiled
    than that device's program."""

    def explained(*options: str) -> str:
        capsys.readouterr()
        call = ["explain", "main.sdl", "--entry", "whole", "--set", "n=4"]
        assert status_of([*call, *options]) == 0
        return capsys.readouterr().out

    first = explained()
    assert explained() == first and made == ["whole"]
    assert "measured" in explained("--device", "cpu") and made == ["whole"] * 2
    assert "measured" in explained("--device", "cpu") and made == ["whole"] * 2
    (place / "part.sdl").write_text(PART.replace("2", "3"))
    assert explained() != first and made == ["whole"] * 3
    assert explained("--no-cache") and made == ["whole"] * 4


def test_bench_keeps_a_program_for_its_device(
    place: Path, made: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def cached(*options: str) -> list[bool]:
        capsys.readouterr()
        call = ["bench", "main.sdl", "--entry", "whole", "--set", "n=4", "-n", "1", "--json"]
        assert status_of([*call, "--device", "cpu", *options]) == 0
        return [program["cached"] for program in json.loads(capsys.readouterr().out)["programs"]]

    assert cached() == [False] and cached() == [True] and made == ["whole"]
    assert cached("--without", "rows") == [False]
    assert cached("--no-cache") == [False]
    first, again = cached("--ablation"), cached("--ablation")
    assert len(first) == len(again) > 1 and all(again) and not all(first)


# ---- sdlc cache ----------------------------------------------------------------------------------


def test_the_cache_is_listed_and_cleared(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdlc.backends import build_cache
    from sdlc.models import packed

    for name in ("builds", "packed"):
        (place / name).mkdir()
    monkeypatch.setattr(build_cache, "cache_folder", lambda name: place / "builds")
    monkeypatch.setattr(packed, "cache_folder", lambda name: place / "packed")
    kept = Store(place / "packed", 1)
    kept.put("key", lambda part: part.mkdir(), {"what": "unet for cpu, f16"})
    compiled("one", "--entry", "whole")
    (place / "builds" / "built.bin").write_bytes(b"x" * 2048)

    def listed(*options: str) -> Any:
        capsys.readouterr()
        assert status_of(["cache", "--json", *options]) == 0
        return json.loads(capsys.readouterr().out)

    before = listed()
    (program,) = before["programs"]
    assert program["what"] == "main.sdl  cpu f32 n=4 --entry whole" and program["bytes"] > 500
    assert program["command"] == "compile"
    assert before["builds"] == {"count": 1, "bytes": 2048}
    assert status_of(["cache"]) == 0
    text = capsys.readouterr().out
    assert "unet for cpu, f16" in text and "1 weights" in text
    assert "main.sdl  cpu" in text and "just now" in text and "2.0 KiB" in text
    nothing = {"programs": 0, "weights": 0, "builds": 0}
    assert listed("--clear", "--unused-days", "1")["removed"] == nothing
    after = listed("--clear")
    assert after["removed"] == {"programs": 1, "weights": 1, "builds": 1}
    assert after["programs"] == after["weights"] == []
    assert status_of(["cache", "--unused-days", "1"]) == 2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1, "just now"), (70, "a minute ago"), (3599, "59 minutes ago"), (2.1 * 86400, "2 days ago")],
)
def test_ages(seconds: float, text: str) -> None:
    assert age(time.time() - seconds) == text
