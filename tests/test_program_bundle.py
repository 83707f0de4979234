"""Bundles: what is written is what is read; whatever is damaged is refused with a remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from program_samples import affine, affine_arrays, tensor
from sdlc.api import compile
from sdlc.backends.target import load_target
from sdlc.graph.types import DType
from sdlc.language.diagnostics import SdlError
from sdlc.program.bundle import file_names, is_bundle, read_bundle, write_bundle
from sdlc.program.bundle_schema import SCHEMA, faults
from sdlc.program.device import KernelText
from sdlc.program.interpreted import InterpreterDevice
from sdlc.program.program import Dispatch, Program, TensorRole
from sdlc.target import Capabilities
from stages import device

CAPS = Capabilities(("interpreter",), offset_alignment=64)
SCHEMA_DOC = Path(__file__).parents[1] / "docs" / "bundle.md"


def texts_of(program: Program) -> list[KernelText]:
    device = InterpreterDevice()
    return [device.text(kernel) for kernel in program.kernels.values()]


def written(tmp_path: Path, packed: bool = False, weight: DType = DType.F32) -> Path:
    program = affine(weight)
    weights = affine_arrays()[1] if packed else None
    return write_bundle(program, texts_of(program), CAPS, tmp_path / "b", weights)


def edit(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def device_for(program: Program) -> InterpreterDevice:
    """A device that knows the kernels: an interpreter has no text to build from."""
    device = InterpreterDevice()
    for kernel in program.kernels.values():
        device.text(kernel)
    return device


# ---- round trip ----------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [DType.F32, DType.F16])
def test_a_bundle_runs_like_its_program(tmp_path: Path, weight: DType) -> None:
    directory = written(tmp_path, packed=True, weight=weight)
    inputs, weights, expected = affine_arrays()
    bundle = read_bundle(directory)
    for held in (None, weights):
        made = bundle.executable(device_for(affine(weight)), held).run(inputs)
        np.testing.assert_allclose(made["out"], expected, rtol=2e-3, atol=2e-3)


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    bundle, program = read_bundle(written(tmp_path)), affine()
    assert bundle.packed is None
    assert bundle.texts == {"interpreter": tuple(texts_of(program))}
    assert bundle.program.dispatches == program.dispatches
    assert bundle.program.memory == program.memory
    for name, made in bundle.program.tensors.items():
        assert replace(made, origin=None) == replace(program.tensors[name], origin=None)
    weight = bundle.program.tensors["w"].origin
    assert weight is not None and str(weight.span) == "affine.sdl:2:3"
    np.testing.assert_array_equal(bundle.program.constants["c"], program.constants["c"])


def test_packed_weights_are_in_storage_order(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    held = load_file(written(tmp_path, packed=True) / "weights.safetensors")
    np.testing.assert_array_equal(held["w"], affine_arrays()[1]["layer.w"].T)


def test_a_missing_weight_stops_the_writing(tmp_path: Path) -> None:
    with pytest.raises(SdlError, match="P001"):
        write_bundle(affine(), texts_of(affine()), CAPS, tmp_path / "b", {})
    assert list(tmp_path.iterdir()) == []


def test_files_have_plain_and_distinct_names() -> None:
    names = ("a'b", "a.b", "../../etc", "A_b", "")
    texts = [KernelText(n, "wgsl", "", "f", (), (1, 1, 1), (1, 1, 1)) for n in names]
    made = file_names(texts)
    assert made[:2] == ["kernels/k_a_b.wgsl", "kernels/k_a_b-2.wgsl"]
    assert len({m.lower() for m in made}) == len(names)
    assert all(m.startswith("kernels/k_") and ".." not in m and m.count("/") == 1 for m in made)


def test_names_never_become_paths(tmp_path: Path) -> None:
    """A weight whose name climbs out of the folder is data in a file, not a file."""
    program = affine()
    evil = replace(program.tensors["w"], weight="../../evil")
    program = replace(program, tensors={**program.tensors, "w": evil})
    weights = {"../../evil": affine_arrays()[1]["layer.w"]}
    directory = tmp_path / "deep" / "er" / "b"
    directory.parent.mkdir(parents=True)
    write_bundle(program, texts_of(program), CAPS, directory, weights)
    files = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert all(f.startswith("deep/er/b/") for f in files)
    assert set(read_bundle(directory).packed or {}) == {"../../evil"}


# ---- whole or not at all -------------------------------------------------------------------------


def test_an_older_bundle_is_replaced(tmp_path: Path) -> None:
    directory = written(tmp_path, packed=True)
    (directory / "kernels" / "stale.cl").write_text("")
    written(tmp_path)
    assert not (directory / "weights.safetensors").exists()
    assert not (directory / "kernels" / "stale.cl").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_other_things_are_left_alone(tmp_path: Path) -> None:
    program = affine()
    file = tmp_path / "file"
    file.write_text("mine")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "manifest.json").write_text('{"name": "web app"}')
    for place in (file, folder, tmp_path / "no" / "such" / "parent", file / "below"):
        if place.parent.name == "such":
            continue
        with pytest.raises(SdlError, match="B001"):
            write_bundle(program, texts_of(program), CAPS, place)
    assert file.read_text() == "mine" and (folder / "manifest.json").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_a_place_without_a_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for place in (".", "..", "/"):
        with pytest.raises(SdlError, match="B001"):
            write_bundle(affine(), texts_of(affine()), CAPS, Path(place))


def test_a_link_to_a_bundle_stays_a_link(tmp_path: Path) -> None:
    directory = written(tmp_path)
    link = tmp_path / "link"
    link.symlink_to(directory)
    write_bundle(affine(), texts_of(affine()), CAPS, link)
    assert link.is_symlink() and is_bundle(directory)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "link"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("disk full")])
def test_an_interruption_leaves_the_old_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    directory = written(tmp_path)
    before = {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()}
    from sdlc.program import bundle

    def fail(*_: object) -> str:
        raise error

    monkeypatch.setattr(bundle, "_write_tensors", fail)
    expected = KeyboardInterrupt if error is KeyboardInterrupt else SdlError
    with pytest.raises(expected):
        written(tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


# ---- damage --------------------------------------------------------------------------------------


def refused(directory: Path, code: str) -> str:
    with pytest.raises(SdlError) as caught:
        read_bundle(directory)
    message = str(caught.value)
    assert code in message and "help:" in message, message
    return message


def test_no_bundle(tmp_path: Path) -> None:
    refused(tmp_path, "B002")
    refused(tmp_path / "nothing", "B002")
    (tmp_path / "manifest.json").write_text("[1]")
    refused(tmp_path, "B002")
    (tmp_path / "manifest.json").write_text('{"format": "sdlc-bundle", "flop": NaN}')
    refused(tmp_path, "B003")
    (tmp_path / "manifest.json").write_text("[" * 100_000)
    refused(tmp_path, "B003")
    assert not is_bundle(tmp_path)


def test_a_later_version_names_the_compiler(tmp_path: Path) -> None:
    directory = written(tmp_path)
    edit(directory, lambda m: m.update(version=99, compiler="9.9"))
    assert "sdlc 9.9" in refused(directory, "B002")


BROKEN: list[tuple[str, str, Callable[[dict[str, Any]], object]]] = [
    ("B003", "inputs is missing", lambda m: m.pop("inputs")),
    ("B003", "flop is boolean, not integer", lambda m: m.update(flop=True)),
    ("B003", "tensors[0].offset is -1, less than 0", lambda m: m["tensors"][0].update(offset=-1)),
    ("B003", "'f64', not one of", lambda m: m["tensors"][0].update(dtype="f64")),
    ("B003", "does not have the form", lambda m: m["kernels"][0].update(file="../../etc/passwd")),
    ("B003", "does not have the form", lambda m: m["kernels"][0].update(file="/etc/passwd")),
    ("B003", "items, not 3", lambda m: m["kernels"][0].update(grid=[1, 1])),
    ("B004", "does not permute", lambda m: m["tensors"][1].update(order=[0, 0])),
    ("B004", "too small for its shape", lambda m: m["tensors"][0].update(nbytes=4)),
    ("B004", "is there twice", lambda m: m["tensors"].append(m["tensors"][0])),
    ("B004", "no tensor with that role", lambda m: m.update(inputs=["out"])),
    ("B004", "which is no tensor", lambda m: m["dispatches"][0]["bindings"][0].update(tensor="q")),
    ("B004", "are not the parameters", lambda m: m["dispatches"][0]["bindings"].reverse()),
    ("B004", "has no interpreter text", lambda m: m["dispatches"][0].update(kernel="q")),
    ("B004", "grid or group differs", lambda m: m["dispatches"][0].update(grid=[9, 1, 1])),
    ("B004", "beyond the arena", lambda m: m["memory"].update(arena=64)),
    ("B004", "no data for its constants", lambda m: m.pop("constants")),
    ("B005", "cannot be read", lambda m: m["kernels"][0].update(file="kernels/gone.txt")),
    ("B005", "not the file that", lambda m: m["kernels"][0].update(digest="0" * 64)),
    ("B005", "does not hold `c`", lambda m: m["tensors"][2].update(dtype="i32")),
]


@pytest.mark.parametrize(("code", "words", "change"), BROKEN, ids=[words for _, words, _ in BROKEN])
def test_a_damaged_manifest(
    tmp_path: Path, code: str, words: str, change: Callable[[dict[str, Any]], object]
) -> None:
    directory = written(tmp_path)
    edit(directory, change)
    assert words in refused(directory, code)


def test_overlapping_temporaries_are_refused(tmp_path: Path) -> None:
    directory = written(tmp_path)

    def overlap(manifest: dict[str, Any]) -> None:
        twin = {**manifest["tensors"][3], "name": "u", "offset": 100}
        manifest["tensors"].append(twin)
        manifest["memory"]["arena"] = 1000
        manifest["dispatches"][1]["bindings"][1]["tensor"] = "u"

    edit(directory, overlap)
    assert "'t' and 'u' are live at the same time" in refused(directory, "B004")


def test_a_changed_kernel_is_refused(tmp_path: Path) -> None:
    directory = written(tmp_path)
    kernel = next((directory / "kernels").iterdir())
    kernel.write_text(kernel.read_text() + " ")
    assert "expected" in refused(directory, "B005")


def test_a_link_out_of_the_bundle_is_refused(tmp_path: Path) -> None:
    directory = written(tmp_path)
    kernel = next((directory / "kernels").iterdir())
    outside = tmp_path / "outside"
    kernel.rename(outside)
    kernel.symlink_to(outside)
    assert "lies outside the bundle" in refused(directory, "B005")


def test_every_byte_of_the_manifest_may_be_missing(tmp_path: Path) -> None:
    """A file that was cut off anywhere is a clear error, never an exception of another kind."""
    directory = written(tmp_path)
    path = directory / "manifest.json"
    data = path.read_bytes()
    for end in range(0, len(data) - 2, 97):
        path.write_bytes(data[:end])
        with pytest.raises(SdlError):
            read_bundle(directory)


# ---- devices -------------------------------------------------------------------------------------


def test_a_device_that_is_too_small_or_speaks_otherwise(tmp_path: Path) -> None:
    bundle = read_bundle(written(tmp_path))
    with pytest.raises(SdlError, match="holds interpreter kernels; the device takes wgsl"):
        bundle.texts_for(Capabilities(("wgsl",)))
    small = Capabilities(("interpreter",), max_work_items=4, max_storage_buffers=2)
    with pytest.raises(SdlError) as caught:
        bundle.texts_for(small)
    message = str(caught.value)
    assert "work-items of a work-group: needs 15, the device has 4" in message
    assert "buffers of one kernel: needs 3, the device has 2" in message


def test_f16_is_a_requirement(tmp_path: Path) -> None:
    bundle = read_bundle(written(tmp_path, weight=DType.F16))
    with pytest.raises(SdlError, match="f16 storage: needed"):
        bundle.texts_for(Capabilities(("interpreter",), f16_storage=False))


def test_the_first_language_that_the_device_speaks_is_taken(tmp_path: Path) -> None:
    program = affine()
    both = [replace(t, language=lang) for lang in ("opencl", "wgsl") for t in texts_of(program)]
    directory = write_bundle(program, both, CAPS, tmp_path / "b")
    names = {p.suffix for p in (directory / "kernels").iterdir()}
    assert names == {".cl", ".wgsl"}
    chosen = read_bundle(directory).texts_for(Capabilities(("wgsl", "opencl")))
    assert {t.language for t in chosen} == {"wgsl"}


def test_a_matrix_instruction_is_asked_for(tmp_path: Path) -> None:
    """A device without it is refused before its compiler sees inline assembly."""
    sizes = {"m": 64, "k": 64, "n": 64, "b": ()}
    source = Path(__file__).parents[1] / "stdlib" / "matmul.sdl"
    settings = {"target": "nvidia-matrix", "precision": "f16", "entry": "matmul"}
    compile(source, sizes=sizes, **settings).save(tmp_path / "b")
    bundle = read_bundle(tmp_path / "b")
    (needed,) = bundle.requires["matrix"]
    assert needed == {
        "name": "mma_m16n8k16_f16",
        "m": 16,
        "n": 8,
        "k": 16,
        "inputs": "f16",
        "accumulator": "f32",
        "lanes": 32,
    }
    assert bundle.texts_for(load_target("nvidia-matrix").caps)
    with pytest.raises(SdlError, match=r"mma_m16n8k16_f16: needed \(16 x 8 x 16.* none"):
        bundle.texts_for(replace(load_target("nvidia-matrix").caps, matrix=()))
    with pytest.raises(SdlError, match=r"B006.*cannot run bundle `matmul`"):
        bundle.executable(device("cpu"))
    edit(tmp_path / "b", lambda manifest: manifest["requires"].pop("matrix"))
    assert read_bundle(tmp_path / "b").texts_for(device("cpu").info.caps)  # an older compiler's


# ---- schema --------------------------------------------------------------------------------------


def test_the_documentation_shows_the_schema() -> None:
    text = SCHEMA_DOC.read_text(encoding="utf-8")
    block = text.split("```json schema\n", 1)[1].split("```", 1)[0]
    assert json.loads(block) == dict(SCHEMA)


def test_the_documentation_names_every_field() -> None:
    text = SCHEMA_DOC.read_text(encoding="utf-8")
    missing = [name for name in SCHEMA["properties"] if f"`{name}`" not in text]
    assert missing == []


def test_faults_names_every_fault() -> None:
    found = list(faults({"format": "zip", "version": 1, "tensors": [{"name": 3}]}))
    assert "format is 'zip', not one of 'sdlc-bundle'" in found
    assert "tensors[0].name is integer, not string" in found
    assert "tensors[0].shape is missing" in found


def test_unknown_fields_are_ignored(tmp_path: Path) -> None:
    directory = written(tmp_path)
    edit(directory, lambda m: m.update(later={"some": "thing"}))
    read_bundle(directory)


def test_a_compiler_defect_is_not_shipped(tmp_path: Path) -> None:
    """A program that contradicts itself is caught before a file of it appears."""
    program = affine()
    wrong = {**program.tensors, "t2": tensor("t2", TensorRole.TEMPORARY, offset=96)}
    last = Dispatch("shift", (("a", "t"), ("b", "t2"), ("out", "out")))
    program = replace(program, tensors=wrong, dispatches=(program.dispatches[0], last))
    with pytest.raises(AssertionError, match="overlap in the arena"):
        write_bundle(program, texts_of(program), CAPS, tmp_path / "b")
    assert list(tmp_path.iterdir()) == []
