"""From a library to a graph: level 1 to level 2.

In: the definitions, which of them to build, sizes, configuration, precision. Out: a `Graph` with
static shapes. Invariant: every index is proven in range, every name, type and shape is checked;
errors are collected, so that one run reports all that are independent.

    build(library, "softmax", {"b": (2,), "n": 5}, {}, DType.F32)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from sdlc.graph.node import Const, Graph, Input, Map, Node
from sdlc.graph.types import DType, Span
from sdlc.language.diagnostics import Diagnostic, SdlError, did_you_mean, failure, plural
from sdlc.language.elaborate_call import Binding, bind
from sdlc.language.elaborate_expression import evaluate
from sdlc.language.elaborate_invoke import invoke, run
from sdlc.language.elaborate_operators import Operand, axes_of
from sdlc.language.elaborate_types import (
    config_value,
    configs,
    dimension_names,
    element_type,
    from_json,
    shape_of_type,
    tensor_parameters,
    value_names,
)
from sdlc.language.library import Library
from sdlc.language.precision import Scopes, check_met
from sdlc.language.scope import (
    MAX_ERRORS,
    Env,
    Fail,
    Frame,
    Poisoned,
    Session,
    indices,
    size_text,
)
from sdlc.language.syntax import Definition, Name, Parameter, Spread, TensorType, ValueType
from sdlc.language.values import Tensor, shape_text

Size = int | tuple[int, ...]


def build(
    library: Library,
    entry: str | None,
    sizes: Mapping[str, Size],
    config: Mapping[str, object],
    precision: DType,
    scopes: Scopes | None = None,
) -> Graph:
    """The graph of an op, block or model with these sizes (`{"b": (2, 3), "n": 5}`).

    `entry` None is the file's only model, else its only op or block. `config` overrides the
    model's `config` values and gives attributes of the entry. What `scopes` cover is in f32,
    whatever `precision` is. Raises SdlError, also (E049) where one of them covers nothing.
    """
    session = Session(library, precision, evaluate, invoke, scopes=scopes or Scopes(()))
    definition = find_entry(library, entry)
    frame = Frame(session, definition, overrides=config)
    frame.cover()
    graph: Graph | None = None
    try:
        graph = _build_entry(frame, definition, sizes)
    except Fail as error:
        session.report(error.diagnostic)
    except Poisoned:
        pass
    except RecursionError as error:
        raise failure(
            "E042", "the program nests too deeply", "bind parts of long expressions to names"
        ) from error
    if session.diagnostics:
        found = tuple(session.diagnostics.values())[:MAX_ERRORS]
        raise SdlError(found, library.sources)
    assert graph is not None
    if not session.scopes.one_of_many:
        check_met([session.scopes])
    return graph


def find_entry(library: Library, entry: str | None) -> Definition:
    """The definition to build: by name, else the file's only model, else its only op or block."""
    if entry is not None:
        found = library.callables.get(entry)
        if isinstance(found, Definition):
            return found
        known = [n for n, d in library.callables.items() if isinstance(d, Definition)]
        what = "is a function" if found is not None else "does not exist"
        raise failure(
            "E043", f"entry `{entry}` {what}", did_you_mean(entry, known) or _entries(library)
        )
    own = [d for d in library.entry_module.definitions if isinstance(d, Definition)]
    models = [d for d in own if d.kind == "model"]
    candidates = models or own
    if len(candidates) == 1:
        return candidates[0]
    file = library.entry_module.file
    if not candidates:
        raise failure("E043", f"{file} defines no op, block or model", "there is nothing to build")
    raise failure("E043", f"{file} has several definitions to build", _entries(library))


def settings_of(library: Library, entry: Definition) -> frozenset[str]:
    """What a configuration may name: the entry's values and optional inputs (present or not), and
    the configuration of every model that it may call."""
    models = [d for d in library.callables.values() if isinstance(d, Definition)]
    inputs = (parameter.name for parameter, _ in tensor_parameters(entry))
    return value_names(entry).union(inputs, *({c.name for c in configs(m)} for m in models))


def _entries(library: Library) -> str:
    own = [d.name for d in library.entry_module.definitions if isinstance(d, Definition)]
    return (
        f"choose one with --entry: {', '.join(own)}" if own else "the file defines nothing to build"
    )


# ---- entries -----------------------------------------------------------------------------------


def enter(frame: Frame, definition: Definition, sizes: Mapping[str, Size]) -> list[Input]:
    """Binds the parameters of a definition that nobody calls. Returns its inputs."""
    inside = Env(frame)
    _bind_sizes(inside, definition, sizes)
    given: dict[str, Operand] = {}
    binding = Binding(inside, inside, definition, given, definition.header)
    for parameter in definition.parameters:
        _give_value(binding, parameter, sizes, given)
    for config in configs(definition):
        frame.names[config.name] = config_value(inside, config)
    inputs = list(_give_tensors(binding, given))
    bind(binding)
    return inputs


def _build_entry(frame: Frame, definition: Definition, sizes: Mapping[str, Size]) -> Graph:
    inside = Env(frame)
    inputs = enter(frame, definition, sizes)
    results = run(frame)
    outputs = tuple(
        (result.name, *_output(inside, result.name, tensor, result.span))
        for result, tensor in zip(definition.results, results, strict=True)
    )
    return Graph(definition.name, outputs, tuple(inputs))


def _bind_sizes(env: Env, definition: Definition, sizes: Mapping[str, Size]) -> None:
    names = size_names(definition, env.frame.overrides)
    known = {*names, *(p.name for p in definition.parameters if isinstance(p.type, ValueType))}
    for name in sizes:
        if name not in known and f"*{name}" not in known:
            advice = did_you_mean(name, [n.lstrip("*") for n in known])
            listed = ", ".join(sorted(known)) or "none"
            raise failure(
                "E039",
                f"`{definition.name}` has no size `{name}`",
                advice or f"its sizes are {listed}",
            )
    missing = [n for n in names if n.lstrip("*") not in sizes]
    if missing:
        raise _unbound(env, definition, missing)
    for name in names:
        env.frame.names[name] = env.frame.sizes[name] = _checked(name, sizes[name.lstrip("*")])


def _unbound(env: Env, definition: Definition, missing: Sequence[str]) -> Fail:
    options = " ".join(
        f"--set {n.lstrip('*')}={'2x3' if n.startswith('*') else '8'}" for n in missing
    )
    listed = ", ".join(f"`{n}`" for n in missing)
    plural = "sizes have" if len(missing) > 1 else "size has"
    return env.fail(
        "E038",
        f"{len(missing)} {plural} no value: {listed}",
        definition.header,
        "shapes are fixed when a program is built",
        help=f"give values, for example `{options}`",
    )


def _checked(name: str, size: Size) -> Size:
    if name.startswith("*"):
        parts = (size,) if isinstance(size, int) else tuple(size)
        if any(n < 1 for n in parts):
            raise failure("E038", f"size `{name}` is {parts}", "sizes must be at least 1")
        return parts
    if not isinstance(size, int):
        raise failure("E039", f"size `{name}` is one number", f"write `--set {name}=8`")
    if size < 1:
        raise failure("E038", f"size `{name}` is {size}", "sizes must be at least 1")
    return size


NOT_GIVEN: Mapping[str, object] = MappingProxyType({})


def size_names(definition: Definition, given: Mapping[str, object] = NOT_GIVEN) -> list[str]:
    """The sizes that the entry's parameters bind, `*b` with its star, in order. Of the optional
    ones, those count that are true in `given`."""
    other = value_names(definition)
    found: dict[str, None] = {}
    for parameter, kind in tensor_parameters(definition):
        if kind.optional and not given.get(parameter.name):
            continue
        for dimension in kind.dimensions:
            match dimension:
                case Spread(id=name):
                    found[f"*{name}"] = None
                case Name(id=name) if name not in other:
                    found[name] = None
    return list(found)


def _give_value(
    binding: Binding, parameter: Parameter, sizes: Mapping[str, Size], given: dict[str, Operand]
) -> None:
    """An attribute or value of the entry, from the sizes or the configuration."""
    if not isinstance(parameter.type, ValueType):
        return
    name, overrides = parameter.name, binding.frame.overrides
    if name in sizes:
        given[name] = Operand(sizes[name], parameter.span)
    elif name in overrides:
        given[name] = Operand(from_json(overrides[name]), parameter.span)
    elif parameter.default is not None:
        given[name] = Operand(binding.inside.evaluate(parameter.default), parameter.default.span)
    else:
        raise binding.fail(
            "E024",
            f"`{parameter.name}` of the entry `{binding.definition.name}` has no value",
            parameter.span,
            help=f"give one with `--set {name}=…` or in the configuration",
        )
    binding.frame.names[name] = given[name].value


def _give_tensors(binding: Binding, given: dict[str, Operand]) -> Iterator[Input]:
    """An input for every tensor parameter that is not left `none`."""
    frame, env = binding.frame, binding.inside
    for parameter, kind in tensor_parameters(binding.definition):
        if kind.optional and not frame.overrides.get(parameter.name):
            continue
        shape = shape_of_type(env, kind)
        origin = frame.origin(parameter.name, parameter.span)
        dtype = element_type(env, kind)
        made = Input(parameter.name, shape, frame.stored(dtype, kind.element), origin=origin)
        frame.session.axis_names[made] = dimension_names(kind.dimensions)
        given[parameter.name] = Operand(Tensor(made, 0, dtype), parameter.span)
        yield made


def _output(env: Env, name: str, tensor: Tensor, span: Span) -> tuple[Node, int]:
    """A result's node; what is not computed is copied, so that an output is never an input."""
    if not isinstance(tensor.node, (Input, Const)):
        return tensor.node, tensor.field
    axes = axes_of(env, tensor)
    origin = env.frame.origin(name, span)
    stored = tensor.node.dtypes[tensor.field]
    return Map(axes, tensor.at(indices(axes)), stored, origin), 0


# ---- sizes from arrays -------------------------------------------------------------------------


def sizes_from_shapes(
    library: Library, entry: str | None, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Size]:
    """The sizes of the entry that the shapes of its input arrays give (`{"b": (2,), "n": 5}`).

    Raises SdlError: an unknown input, a wrong rank, two inputs that disagree.
    """
    definition = find_entry(library, entry)
    parameters = {p.name: k for p, k in tensor_parameters(definition)}
    other = value_names(definition)
    sizes: dict[str, Size] = {}
    source: dict[str, str] = {}
    for name, shape in shapes.items():
        if name not in parameters:
            raise failure(
                "E039",
                f"`{definition.name}` has no input `{name}`",
                did_you_mean(name, parameters) or f"its inputs are {', '.join(parameters)}",
            )
        for size_name, size in _sizes_of(library, name, parameters[name], shape):
            if size_name in other:
                continue
            known = sizes.setdefault(size_name, size)
            if known != size:
                first = source[size_name]
                raise _refused(
                    library,
                    parameters[name],
                    f"`{size_name}` is {size_text(size)} in the input `{name}`, but "
                    f"{size_text(known)} in `{first}`",
                    f"`{name}` is {shape_text(shape)}, `{first}` is {shape_text(shapes[first])}",
                )
            source.setdefault(size_name, name)
    return sizes


def _sizes_of(
    library: Library, name: str, kind: TensorType, shape: tuple[int, ...]
) -> Iterator[tuple[str, Size]]:
    """The sizes that one array gives to the names in its declared type."""
    spreads = sum(isinstance(d, Spread) for d in kind.dimensions)
    rest = len(shape) - (len(kind.dimensions) - spreads)
    if rest < 0 or (rest and not spreads):
        least = "at least " if spreads else ""
        wanted = plural(len(kind.dimensions) - spreads, "dimension")
        raise _refused(
            library,
            kind,
            f"the input `{name}` has {least}{wanted}",
            f"the array given has the shape {shape_text(shape)}",
        )
    position = 0
    for dimension in kind.dimensions:
        match dimension:
            case Spread(id=size_name):
                yield size_name, tuple(shape[position : position + rest])
                position += rest
                continue
            case Name(id=size_name):
                yield size_name, shape[position]
        position += 1


def _refused(library: Library, kind: TensorType, message: str, label: str) -> SdlError:
    return SdlError((Diagnostic("E027", message, kind.span, label),), library.sources)
