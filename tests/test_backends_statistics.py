"""The front to the offline compilers, on what they printed once: no compiler need be installed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from sdlc.backends import statistics as front
from sdlc.backends.listing import Loop, main_loop, phases
from sdlc.backends.offline import (
    Gpu,
    Outcome,
    _listing,
    compile_offline,
    folder,
    gpus,
    is_installed,
    printed_numbers,
    setup_script,
)
from sdlc.backends.statistics import lacking, occupancy, read, statistics
from sdlc.backends.target import target_names
from sdlc.cli import commands
from sdlc.cli_statistics import _cells, print_statistics, records
from sdlc.language.diagnostics import SdlError
from sdlc.program.device import KernelText

DATA = Path(__file__).parent / "data" / "offline"
ROWS = KernelText("rows", "opencl", "", "rows", ("x", "w", "out"), (1, 1, 1), (128, 1, 1))
"""total = fma(x[p], w[p * 128 + lane], total) of float4s, 100 times: four multiply-adds a pass."""

EXPECTED = {
    # recorded: instructions, registers, occupancy, spills, loops, stalls, main loop
    "adreno_opencl": (81, 6, 1.0, 0, 1, 125, Loop(4, 51)),
    "adreno_wgsl": (47, 5, 1.0, 0, 1, 47, Loop(4, 30)),
    "mali_opencl": (54, None, 1.0, 0, 1, None, Loop(4, 36)),
    "apple_opencl": (26, 31, 1.0, 0, 1, None, Loop(4, 13)),
}


def outcome(name: str) -> Outcome:
    text = (DATA / f"{name}.txt").read_text()
    numbers = json.loads((DATA / f"{name}.json").read_text())
    return Outcome(numbers | printed_numbers(text), _listing(text))


def gpu_of(name: str) -> Gpu:
    return gpus(name.split("_")[0])[0]


@pytest.mark.parametrize("name", EXPECTED)
def test_recorded_outputs_are_read(name: str) -> None:
    language = name.split("_")[1]
    made = read(ROWS, gpu_of(name), language, outcome(name))
    found = (made.instructions, made.registers, made.occupancy, made.spills, made.loops)
    assert (*found, made.stalls, made.main_loop) == EXPECTED[name]
    assert (made.kernel, made.gpu, made.language) == ("rows", gpu_of(name).name, language)


def test_spills_are_counted() -> None:
    told = "SHADER-DB: KERNEL shader: 9 inst, 1 threads, 2 loops, 22:525 spills:fills"
    made = read(ROWS, gpu_of("mali"), "opencl", Outcome(printed_numbers(told), ""))
    assert made.spills == 547 and made.loops == 2 and made.occupancy == 0.5
    seen = "Native code for rows:\nstp.u32 p[r0.x], r1.x, 1\nldp.u32 r1.x, p[r0.x], 1\nend\n"
    made = read(ROWS, gpu_of("adreno"), "opencl", Outcome({"instr": 3, "full": 20}, seen))
    assert made.spills == 2 and made.registers == 20


def test_residency_follows_from_registers_where_nothing_else_is_told() -> None:
    gpu = gpu_of("adreno")
    wide, narrow = (
        {"full": 16.0, "preferred_work_group_size_multiple": float(m)} for m in (128, 64)
    )
    assert occupancy(wide, gpu) == 0.375
    assert occupancy(narrow, gpu) == 0.375
    assert occupancy({"Max Waves Per Core": 8.0, "subgroup_size": 128.0}, gpu) == 0.5
    assert occupancy({}, gpu) is None


IR3 = """Native code for k:
; a comment
@in(r0.x)\tin0
mov.u32u32 r0.x, 0
l1:
(sy)(rpt3)mad.f16 hr1.x, hr2.x, (r)hr3.x, (r)hr1.x
(nop2) add.u r0.x, r0.x, 1
l5:
mad.f32 r4.x, r5.x, r6.x, r4.x
(rpt1)nop
br p0.x, #l9
jump #l5
l9:
jump #l1
end
"""


def test_the_innermost_loop_counts_with_repetitions_and_idle_slots() -> None:
    assert main_loop(IR3, "ir3") == Loop(1, 1 + 2 + 1 + 1)
    straight = "\n".join(line for line in IR3.splitlines() if "#l" not in line)
    assert main_loop(straight, "ir3") == Loop(5, 1 + 4 + 3 + 1 + 2 + 1)
    for reader in ("ir3", "valhall", "agx"):
        assert main_loop("", reader) is None


PHASES = """Native code for k:
mov.u32u32 r0.x, 0
l1:
(sy)bar.g
(rpt3)mad.f32 r1.x, r2.x, (r)r3.x, (r)r1.x
(nop2) add.u r0.x, r0.x, 1
bar.g
l6:
mad.f32 r4.x, r5.x, r6.x, r4.x
br p0.x, #l6
add.u r0.x, r0.x, 1
bar.g
mov.u32u32 r1.x, r0.x
br p0.x, #l1
mad.f32 r4.x, r5.x, r6.x, r4.x
end
"""


def test_what_stands_between_barriers_is_counted_apart() -> None:
    """A phase with a loop is that loop; one without a multiply-add is none; the loop around ends
    one."""
    assert phases(PHASES, "ir3") == (Loop(4, 1 + 4 + 3), Loop(1, 2), Loop(1, 2))
    assert phases(IR3, "ir3") == ()
    mali = "   FMA.f32 r1, r2, r3, r1\n   BARRIER.slot7.wait \n   FMA.f32 r1, r2, r3, r1\n"
    assert phases(mali, "valhall") == (Loop(1, 1), Loop(1, 2))
    apple = "block0 {\n   1 = ffma 2, 3, 4\n   threadgroup_barrier \n   1 = ffma 2, 3, 4\n}\n"
    assert phases(apple, "agx") == (Loop(1, 1), Loop(1, 2))


def test_the_table_has_one_row_for_each_gpu() -> None:
    names = set(target_names())
    for target in names:
        for gpu in gpus(target):
            assert gpu.languages and gpu.environment and gpu.threads
    assert {g.target for t in names for g in gpus(t)} == {"adreno", "apple", "mali"}
    assert setup_script().exists() and folder(Path("x")) == Path("x")


def installed(where: Path, gpu: Gpu) -> None:
    """Files where the compilers' would be."""
    for name in (
        f"lib/lib{gpu.driver}_noop_drm_shim.so",
        f"share/vulkan/icd.d/{gpu.driver}_icd.x86_64.json",
        "OpenCL/vendors/rusticl.icd",
    ):
        path = where / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")


WORKER = """
import json, os, sys
from pathlib import Path
folder = Path(sys.argv[1])
job = json.loads((folder / "job.json").read_text())
with (folder / "done.jsonl").open("a") as done:
    for number, text in enumerate(job["texts"]):
        os.write(2, f"@@ kernel {number}\\n".encode())
        if "crash" in text["text"]:
            os.write(2, b"assertion failed\\n")
            os._exit(134)
        os.write(2, b"SHADER-DB: KERNEL shader: 7 inst, 2 threads, 0 loops, 0:0 spills:fills\\n")
        record = {"row": 0, "numbers": {}}
        if "wrong" in text["text"]:
            record["error"] = "BuildError: no"
        done.write(json.dumps(record) + "\\n")
        done.flush()
"""


def test_a_driver_that_ends_its_process_costs_one_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdlc.backends import offline

    gpu = gpu_of("mali")
    (tmp_path / "offline_worker.py").write_text(WORKER)
    monkeypatch.setattr(offline, "files", lambda package: tmp_path)
    texts = [replace(ROWS, text=t) for t in ("fine", "crash", "wrong", "fine")]
    made = compile_offline(texts, gpu, "opencl", tmp_path)
    assert [bool(o.error) for o in made] == [False, True, True, False]
    assert "ended with 134: assertion failed" in made[1].error and "BuildError" in made[2].error
    assert made[3].numbers["inst"] == 7


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    said = lacking("adreno", tmp_path)
    assert said is not None and said.code == "D035" and "offline_setup.sh" in said.help
    with pytest.raises(SdlError, match=r"D034.*`nvidia`[\s\S]*some for adreno, mali, apple"):
        lacking("nvidia", tmp_path)
    gpu = gpu_of("adreno")
    installed(tmp_path, gpu)
    assert lacking("adreno", tmp_path) is None
    assert is_installed(gpu, "opencl", tmp_path) and is_installed(gpu, "wgsl", tmp_path)
    assert not is_installed(gpu_of("apple"), "opencl", tmp_path)


def test_every_language_of_a_gpu_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = gpu_of("adreno")
    installed(tmp_path, gpu)
    monkeypatch.setattr(
        front,
        "compile_offline",
        lambda texts, gpu, language, where: [outcome(f"adreno_{language}") for _ in texts],
    )
    texts = {"opencl": [ROWS], "wgsl": [ROWS]}
    rows = statistics(texts, "adreno", tmp_path)
    assert [(r.language, r.instructions) for r in rows] == [("opencl", 81), ("wgsl", 47)]
    assert _cells(rows[0])[-1] == "8% (4 of 51)" and _cells(rows[0])[5] == "1.00"
    assert records(rows)[1]["share"] == 4 / 30


def test_the_report_lists_spills_and_refusals(capsys: pytest.CaptureFixture[str]) -> None:
    rows = (
        front.Statistics("good", "a GPU", "opencl", 9, 4, 1.0, 0, 1, 3, Loop(4, 8)),
        front.Statistics("bad", "a GPU", "opencl", 9, 4, 1.0, 7, 1, 3, Loop(4, 8)),
        front.Statistics("none", "a GPU", "wgsl", error="no"),
    )
    print_statistics(rows)
    shown = capsys.readouterr()
    assert "50% (4 of 8)" in shown.out
    assert "2 built, spilled: bad (a GPU, opencl)" in shown.out
    assert "not built: none (a GPU, wgsl): no" in shown.err


def test_the_command_says_how_to_install_and_compiles(tmp_path: Path) -> None:
    source = tmp_path / "twice.sdl"
    source.write_text("op twice(x: T[n]) -> T[n] {\n  out[i] = x[i] + x[i]\n}\n")
    given = ["compile", str(source), "--target", "mali", "--set", "n=8", "-o", str(tmp_path / "b")]
    asked = [*given, "--statistics", "--compilers", str(tmp_path / "none")]
    done = CliRunner().invoke(commands, asked)
    assert done.exit_code == 0 and done.stderr.startswith("warning[D035]: no statistics")
    assert "offline_setup.sh" in done.stderr and "1 in 1 dispatch" in done.stdout
    assert (tmp_path / "b" / "manifest.json").exists()
    done = CliRunner().invoke(commands, [*asked, "--json"])
    assert json.loads(done.stdout)["statistics"] is None
    asked[asked.index("mali")] = "nvidia"
    done = CliRunner().invoke(commands, asked)
    assert isinstance(done.exception, SdlError) and "D034" in str(done.exception)
