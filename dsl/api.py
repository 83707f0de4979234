"""The public Python interface: the command line's edge, as functions.

In: `.sdl` text or files, NumPy arrays. Out: `CompiledProgram`s and their results. Invariant: with
`api_texts.py` and `cli*.py` this is the only part of `dsl` that knows backends and models;
everything else sees them through the `Target` and `Device` protocols. Documented in docs/api.md.

    program = sdlc.compile(Path("model.sdl"), target="cpu", sizes={"b": 1})
    outputs = program.run(x=x, weights="weights.safetensors")
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sdlc.api_texts import explanation, target_texts
from sdlc.graph.node import Graph
from sdlc.graph.types import Array, DType
from sdlc.language.diagnostics import Diagnostic, SdlError, failure
from sdlc.program.device import Device, DeviceInfo, KernelText
from sdlc.program.execute import Executable
from sdlc.program.program import MemoryReport, Program
from sdlc.schedule.point import Choices
from sdlc.target import Target

if TYPE_CHECKING:
    from sdlc.graph.hoist import Hoisted
    from sdlc.graph.rules import RewriteReport, Rule
    from sdlc.language.library import Library
    from sdlc.language.precision import Scopes
    from sdlc.program.explain_data import Explanation
    from sdlc.schedule.plan import Plan

Size = int | tuple[int, ...]
Config = Mapping[str, object] | str | Path
Weights = Mapping[str, Array] | str | Path
NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Request:
    """What to compile, and for what."""

    library: Library
    target: Target
    entry: str | None
    sizes: Mapping[str, Size]
    config: Mapping[str, object]
    precision: DType
    rules: tuple[Rule, ...] = ()
    """What rewrites the graph: `language.elaborate_rule.chosen_rules` gives those asked for."""
    records: Path | None = None
    """Where tuning records may be."""
    device: str = ""
    """What records must have been measured on (`records.device_text`), where that is known."""
    f32: tuple[str, ...] = ()
    """Scopes and operators that are in f32, whatever the precision is (`language.precision`)."""
    root: str = ""
    """The program's name in scope paths; '' for its entry's."""
    weight_budget: int | None = None
    """Bytes that weights may take as they are stored (None: as many as pay)."""
    processes: int = 1
    """How many processes may make its kernels at most (`program.workers`)."""

    def graph(self, sizes: Mapping[str, Size] = NOTHING) -> Graph:
        """What is computed, with `sizes` beside those asked for."""
        from sdlc.language.elaborate import build

        every, scopes = {**sizes, **self.sizes}, self.scopes()
        return build(self.library, self.entry, every, self.config, self.precision, scopes)

    @property
    def name(self) -> str:
        """The program's name in scope paths."""
        from sdlc.language.elaborate import find_entry

        return self.root or find_entry(self.library, self.entry).name

    def scopes(self) -> Scopes:
        """What is in f32, and under which name: to be told what there is."""
        from sdlc.language.precision import Scopes

        return Scopes(self.f32, self.name)

    def build(self, sizes: Mapping[str, Size] = NOTHING) -> Compiled:
        """Compiles with `sizes` beside those asked for. Raises SdlError, also for a rule of the
        program's own files that does not hold (E047, E048), or a weight budget that is too small
        (P011)."""
        from sdlc.language.elaborate_rule import own_rules
        from sdlc.program.pipeline import Wishes, compile_hoisted, planned
        from sdlc.proof.equations import check_equation

        definition = self.graph(sizes)
        for rule in own_rules(self.library, self.rules):
            check_equation(rule, self.library.sources)
        wishes = Wishes(self.choices(), self.weight_budget)
        made = planned(definition, self.target, self.rules, wishes)
        both = made.parts, made.plan
        program = compile_hoisted(*both, self.target, self.precision, self.processes)
        compiled = Compiled(made.graph, program, self.target, definition, made.report, both)
        return replace(compiled, processes=self.processes)

    def choices(self) -> Choices:
        """The points that tuning records have for this target. Warns of records that are not used
        (TuningWarning)."""
        from sdlc.program.records import choices_of

        return choices_of(self.records, self.target.name, self.device)

    def missing_sizes(self) -> tuple[str, ...]:
        """Names in the inputs' types that have no size yet: run-time shapes will bind them."""
        from sdlc.language.elaborate import find_entry, size_names

        names = (n.lstrip("*") for n in size_names(find_entry(self.library, self.entry)))
        return tuple(n for n in names if n not in self.sizes)

    def unused_config(self) -> tuple[str, ...]:
        """Names in the configuration that nobody asks for (but notes: `_class_name`), those first
        that look most like one that somebody asks for."""
        from sdlc.language.diagnostics import likeness
        from sdlc.language.elaborate import find_entry, settings_of

        known = settings_of(self.library, find_entry(self.library, self.entry))
        unused = (name for name in self.config if name not in known and name[:1] != "_")
        return tuple(sorted(unused, key=lambda name: -likeness(name, known)))

    def build_for(self, inputs: Mapping[str, object]) -> Compiled:
        """Compiles for the shapes of `inputs`; an optional input is there where it is given."""
        from sdlc.language.elaborate import sizes_from_shapes

        shapes = {name: _shape(array) for name, array in inputs.items()}
        try:
            bound = sizes_from_shapes(self.library, self.entry, shapes)
        except SdlError as error:
            raise _with_help(error, "inputs must have the shapes that their types say") from None
        present = self._inputs_of(shapes)
        missing = self.missing_sizes()
        request = replace(self, config={**self.config, **present})
        return request.build({name: size for name, size in bound.items() if name in missing})

    def _inputs_of(self, given: Container[str]) -> dict[str, bool]:
        """The optional inputs that are given. Raises SdlError (P003) where another one is not."""
        from sdlc.language.elaborate import find_entry
        from sdlc.language.elaborate_types import tensor_parameters

        definition = find_entry(self.library, self.entry)
        pairs = tuple(tensor_parameters(definition))
        lost = tuple(
            Diagnostic(
                "P003",
                f"input `{parameter.name}` of `{definition.name}` is missing",
                parameter.span,
                help=f"give an array for `{parameter.name}`",
            )
            for parameter, kind in pairs
            if not kind.optional and parameter.name not in given
        )
        if lost:
            raise SdlError(lost, self.library.sources)
        return {p.name: True for p, kind in pairs if kind.optional and p.name in given}


@dataclass(frozen=True, slots=True)
class Compiled:
    """A program, the graph that it was made of, and that graph's definition: what it was before
    rules rewrote it, which `report` tells."""

    graph: Graph
    program: Program
    target: Target
    definition: Graph | None = None
    report: RewriteReport | None = None
    planned: tuple[Hoisted, Plan] | None = None
    """Both parts of the graph, and the plan of what runs do, as `pipeline.plan_graph` gave them."""
    processes: int = 1
    """How many processes may print its kernels."""

    def texts(self, languages: Sequence[str] = ()) -> tuple[KernelText, ...]:
        """Every kernel in these languages of the target (default: all), legalised for it."""
        return target_texts(self.program, self.target, languages, self.processes)


@dataclass(slots=True)
class CompiledProgram:
    """A program for fixed sizes, or, where sizes were left open, for the shapes that `run` meets
    (one compilation for each set of shapes, kept)."""

    request: Request
    _compiled: dict[Any, Compiled] = field(default_factory=dict, repr=False)
    _devices: dict[str | None, Device] = field(default_factory=dict, repr=False)
    _executables: dict[Any, tuple[Executable, Any]] = field(default_factory=dict, repr=False)

    def run(
        self,
        inputs: Mapping[str, object] = NOTHING,
        /,
        *,
        device: str | Device | None = None,
        weights: Weights | None = None,
        check_finite: bool = False,
        **named: object,
    ) -> dict[str, Array]:
        """Outputs by name for `inputs` (by name, as a mapping or as keywords).

        `device` is what `--device` takes, an open device, or None for the best; `weights` are
        arrays by scope path, a safetensors file or a folder. Compiled, opened and uploaded things
        are kept for the next run. `check_finite` looks at every value that is stored, for the first
        operator to make what is no number (F001). Raises SdlError for that, and for inputs, weights
        or devices that do not fit.
        """
        from sdlc.program.finite import checked_run

        arrays = {**inputs, **named}
        compiled = self._for(arrays)
        key = (id(compiled), device, _weights_key(weights))
        if key not in self._executables:
            made = Executable(compiled.program, self._device(device), load_weights(weights))
            # Weights given as a mapping are kept alive: the key holds only their identity.
            self._executables[key] = (made, weights)
        executable = self._executables[key][0]
        if not check_finite:
            return executable.run(arrays)
        return checked_run(executable, arrays, self.request.name, lambda: compiled.planned)

    def _device(self, device: str | Device | None) -> Device:
        from sdlc.backends.devices import open_device

        if device is not None and not isinstance(device, str):
            return device
        if device not in self._devices:
            self._devices[device] = open_device(device)
        return self._devices[device]

    def save(
        self,
        directory: str | Path,
        weights: Weights | None = None,
        prepare: str | Device | None = None,
    ) -> Path:
        """Writes a bundle (docs/bundle.md), with `weights` packed into it where given; after what
        its load program makes of them on the device `prepare`, where that is given."""
        from sdlc.program.bundle import write_bundle
        from sdlc.program.load import prepared

        compiled = self._fixed("save")
        packed = None if weights is None else load_weights(weights)
        if packed is not None and prepare is not None:
            packed = prepared(compiled.program, self._device(prepare), packed)
        caps = compiled.target.caps
        return write_bundle(compiled.program, compiled.texts(), caps, Path(directory), packed)

    def explain(self) -> Explanation:
        """What became of it (docs/explain.md); `str` of it is the text of `sdlc explain`."""
        return explanation(self._fixed("explain"), self.request)

    @property
    def memory(self) -> MemoryReport:
        """Bytes of temporaries (naive, arena, lower bound) and of weights."""
        return self._fixed("report the memory of").program.memory

    @property
    def program(self) -> Program:
        return self._fixed("look into").program

    def _fixed(self, what: str) -> Compiled:
        missing = self.request.missing_sizes()
        if missing:
            message = f"cannot {what} a program whose sizes are open: {', '.join(missing)}"
            example = ", ".join(f'"{name}": 1' for name in missing)
            raise failure("P008", message, help=f"compile it with sizes={{{example}}}")
        return self._for(NOTHING)

    def _for(self, arrays: Mapping[str, object]) -> Compiled:
        open_sizes = bool(self.request.missing_sizes())
        shapes = {name: _shape(array) for name, array in sorted(arrays.items())}
        key = tuple(shapes.items()) if open_sizes else ()
        if key not in self._compiled:
            request = self.request
            self._compiled[key] = request.build_for(arrays) if open_sizes else request.build()
        return self._compiled[key]


def compile(
    source: str | Path,
    *,
    target: str = "cpu",
    entry: str | None = None,
    sizes: Mapping[str, Size] | None = None,
    config: Config | Sequence[Config] | None = None,
    precision: str = "f32",
    f32: Sequence[str] = (),
    records: str | Path | None = None,
    weight_budget: int | None = None,
    without: Sequence[str] = (),
    only: Sequence[str] | None = None,
) -> CompiledProgram:
    """Compiles `.sdl`.

    `source` is a path, or the text itself if it is a string with a brace or a line end. `target` is
    a name of `targets()`; `entry` a model, block or op (None: the file's only model, else its only
    op or block); `sizes` binds names such as `b` (an int) and `*b` (a tuple), and those left open
    are bound by the arrays given to `run`; `config` holds values or the path of a config.json, or
    several, later ones winning; `precision` (`f32` or `f16`) is the storage type of `T`, but of
    the scopes and operators in `f32` (`("mid_block", "attn*")`, as `--f32` takes them); `records`
    are those of `sdlc tune` (None: FILE.sdl.tuning.jsonl where it is there); `weight_budget` is how
    many bytes weights take as stored (None: as many as pay); `without`, `only` choose the rules.
    Raises SdlError for whatever is wrong with the source, sizes, config, target or rules.
    """
    from sdlc.language.elaborate_rule import chosen_rules

    request = make_request(source, target, entry, sizes or {}, (config, precision))
    rules = chosen_rules(request.library, without, only)
    request = replace(request, rules=rules, f32=tuple(f32), weight_budget=weight_budget)
    told = request if records is None else replace(request, records=Path(records))
    program = CompiledProgram(told)
    if not request.missing_sizes():
        program._for(NOTHING)
    return program


def make_request(
    source: str | Path,
    target: str | Target,
    entry: str | None,
    sizes: Mapping[str, Size],
    settings: tuple[Config | Sequence[Config] | None, str],
) -> Request:
    """A request from what a user gives; `settings` are configuration and precision."""
    from sdlc.backends.target import load_target
    from sdlc.language.elaborate_rule import chosen_rules
    from sdlc.program.records import records_path

    config, precision = settings
    known = {DType.F32.value: DType.F32, DType.F16.value: DType.F16}
    if precision not in known:
        raise failure("P009", f"unknown precision `{precision}`", help="use f32 or f16")
    library = load_library(source)
    values = read_config(config)
    chosen = load_target(target) if isinstance(target, str) else target
    rules = chosen_rules(library)
    beside = None if _is_text(source) else records_path(Path(source))
    return Request(library, chosen, entry, sizes, values, known[precision], rules, beside)


def _shape(array: object) -> tuple[int, ...]:
    import numpy as np

    return np.asarray(array).shape


def _with_help(error: SdlError, help: str) -> SdlError:
    """The error with this help where a diagnostic has none."""
    found = (replace(d, help=d.help or help) for d in error.diagnostics)
    return SdlError(tuple(found), error.sources)


def load_library(source: str | Path) -> Library:
    from sdlc.language.library import load

    return load(None, str(source)) if _is_text(source) else load(Path(source))


def _is_text(source: str | Path) -> bool:
    """Whether a source is the program itself and no path."""
    return isinstance(source, str) and ("{" in source or "\n" in source)


def read_config(config: Config | Sequence[Config] | None) -> dict[str, object]:
    """The values of one or several configurations, later ones winning."""
    if config is None:
        return {}
    if isinstance(config, Mapping):
        return dict(config)
    if isinstance(config, (str, Path)):
        return _config_file(Path(config))
    merged: dict[str, object] = {}
    for part in config:
        merged |= read_config(part)
    return merged


def _config_file(path: Path) -> dict[str, object]:
    try:
        values = json.loads(path.read_bytes())
    except OSError as error:
        message = f"configuration `{path}` cannot be read: {error.strerror}"
        raise failure("P009", message, help="give a model's config.json") from error
    except (ValueError, RecursionError) as error:
        message = f"configuration `{path}` is not JSON: {error}"
        raise failure("P009", message, help="give a model's config.json") from error
    if not isinstance(values, dict):
        message = f"configuration `{path}` is no JSON object"
        raise failure("P009", message, help='write names and values: {"layers": 2}')
    return values


def load_weights(weights: Weights | None) -> Mapping[str, Array]:
    """Arrays by scope path, from a mapping, a safetensors file, a folder of them, or a part of a
    model (`model.safetensors/unet`)."""
    if weights is None:
        return NOTHING
    if isinstance(weights, Mapping):
        return weights
    from sdlc.models.model import part_weights

    return part_weights(Path(weights))


def _weights_key(weights: Weights | None) -> object:
    return str(weights) if isinstance(weights, (str, Path)) else id(weights)


def devices() -> tuple[DeviceInfo, ...]:
    """The devices of this machine, the best first. See `sdlc doctor` for those not found."""
    from sdlc.backends.devices import find_devices

    return find_devices().devices


def targets() -> tuple[Target, ...]:
    """Everything that programs can be compiled for."""
    from sdlc.backends.target import load_target, target_names

    return tuple(load_target(name) for name in target_names())
