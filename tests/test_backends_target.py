"""Targets: complete, sourced, and as docs/targets.md describes them."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from importlib.resources import files
from pathlib import Path

import pytest

from sdlc.backends.devices import drivers, target_of
from sdlc.backends.legalize import PASSES
from sdlc.backends.target import (
    FOLDER,
    load_target,
    numbers,
    parse_target,
    target_names,
    whole_table,
)
from sdlc.language.diagnostics import SdlError
from sdlc.program.device import DeviceInfo
from sdlc.target import Capabilities, Peak, Profile

DOCS = (Path(__file__).resolve().parent.parent / "docs" / "targets.md").read_text()
KINDS = re.compile(r"measured|device query|derived|choice|as |unused")
DOCUMENT = re.compile(
    r"specification|Guide|Qualcomm|Arm|Apple|Metal|WebGPU|OpenCL|SwiftShader source|CUDA"
)


def text(name: str) -> str:
    return files(FOLDER).joinpath(f"{name}.toml").read_text("utf-8")


def test_the_targets() -> None:
    expected = ("adreno", "apple", "cpu", "cpu-avx2", "llvmpipe", "mali", "nvidia")
    assert target_names() == (*expected, "nvidia-matrix", "swiftshader")
    languages = {name: load_target(name).caps.languages for name in target_names()}
    assert languages["adreno"] == languages["mali"] == languages["nvidia"] == ("opencl", "wgsl")
    assert languages["apple"] == languages["llvmpipe"] == languages["swiftshader"] == ("wgsl",)
    assert languages["cpu"] == languages["nvidia-matrix"] == ("opencl",)
    assert not load_target("swiftshader").caps.f16_storage


@pytest.mark.parametrize("name", target_names())
def test_every_number_has_a_source(name: str) -> None:
    table = whole_table(name, text(name))
    sources = dict(load_target(name).sources)
    for field in numbers(table):
        assert KINDS.match(sources[field]) or DOCUMENT.search(sources[field]), (field, name)
        assert len(sources[field]) > 10, field


@pytest.mark.parametrize("name", target_names())
def test_targets_are_plausible(name: str) -> None:
    target = load_target(name)
    caps, profile = target.caps, target.profile
    assert profile.vector in caps.vector_widths
    assert profile.lanes <= caps.max_work_items and profile.reduction_lanes <= caps.max_work_items
    assert profile.register_tile[1] % min(profile.vector, profile.register_tile[1]) == 0
    assert target.peak.f32_flops > 0 < target.peak.bandwidth


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"caps.local_bytes" =', '"caps.x" =', "no source for caps.local_bytes"),
        ("unroll = 4", "unrol = 4", r"\[profile\] has no field unrol"),
        ("bandwidth = 32e9", "", r"\[peak\] lacks bandwidth"),
        ("[peak]", "[peaks]", "has no field peaks"),
        ("title =", "title", "target `cpu`"),
        (
            "[sources]\n",
            '[sources]\n"caps.moon" = "derived: from nothing"\n',
            "not there: caps.moon",
        ),
    ],
)
def test_a_broken_target_is_refused(old: str, new: str, message: str) -> None:
    broken = text("cpu").replace(old, new, 1)
    assert broken != text("cpu")
    with pytest.raises(SdlError, match=rf"D011.*{message}"):
        parse_target("cpu", broken)


def test_a_target_may_name_another_and_hold_what_differs() -> None:
    narrow, wide = load_target("cpu-avx2"), load_target("cpu")
    assert narrow.caps == wide.caps and narrow.profile.vector == 8 and narrow.peak.simd == 8
    assert narrow.profile.flop == wide.profile.flop
    with pytest.raises(SdlError, match=r"D011.*there is no base `moon`"):
        parse_target("x", 'title = "x"\nbase = "moon"\n')
    with pytest.raises(SdlError, match=r"D011.*no source for profile.lanes|D011.*has no field"):
        parse_target("x", 'title = "x"\nbase = "cpu"\n[profile]\nwings = 2\n')


@pytest.mark.parametrize(
    ("lanes", "target"), [(8, "cpu-avx2"), (16, "cpu"), (4, "cpu"), (1, "cpu")]
)
def test_the_width_of_registers_chooses_the_target(lanes: int, target: str) -> None:
    caps = load_target("cpu").caps
    info = DeviceInfo("cpu", "opencl", "A CPU", "Maker", "driver", 1 << 30, caps, lanes)
    assert target_of(info).name == target


def test_the_matrix_instruction_that_a_device_has_chooses_the_target() -> None:
    """A driver whose compiler refuses it, and WGSL, get the target without."""
    caps = load_target("nvidia").caps
    for kind, matrix, name in (
        ("opencl", caps.matrix, "nvidia-matrix"),
        ("opencl", (), "nvidia"),
        ("webgpu", (), "nvidia"),
    ):
        own = replace(caps, matrix=matrix)
        info = DeviceInfo("gpu", kind, "NVIDIA H100", "NVIDIA", "driver", 1 << 30, own)
        assert target_of(info).name == name


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(SdlError, match=r"D010.*no target `adrena`") as caught:
        load_target("adrena")
    assert "did you mean `adreno`?" in str(caught.value)


def rows(heading: str) -> list[list[str]]:
    """The rows of the table under a heading of the page."""
    section = DOCS.split(f"{heading}\n", 1)[1].split("\n#", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split(" | ")] for line in lines]


def test_the_page_is_true() -> None:
    for heading, record in (("[caps]", Capabilities), ("[profile]", Profile), ("[peak]", Peak)):
        named = [row[0] for row in rows(f"### `{heading}`")]
        assert named == [f.name for f in fields(record)], heading
    titles = {row[0]: row[1] for row in rows("## The targets")}
    assert titles == {name: load_target(name).title for name in target_names()}
    named_drivers = {row[0]: row[2] for row in rows("## Devices")}
    assert named_drivers == {d.id: d.help for d in drivers()}
    assert [row[0] for row in rows("## How a kernel is fitted")] == [p.__name__ for p in PASSES]
