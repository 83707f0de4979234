"""Calls of ops, blocks and models: arguments bound to parameters, sizes and types bound from them.

In: a definition and what is given to it. Out: a `Frame` in which its body can run. Invariant:
before the body is looked at, every size and element type of the signature is bound and consistent,
every `where` holds, and the types of the results are known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import assert_never

from sdlc.graph.types import DType, Span
from sdlc.language.elaborate_operators import Operand, as_whole, node_of
from sdlc.language.elaborate_scalar import literal
from sdlc.language.scope import (
    Env,
    Frame,
    did_you_mean,
    plural,
    signature,
    size_text,
)
from sdlc.language.syntax import (
    Call,
    Config,
    Definition,
    Expression,
    Name,
    Parameter,
    Spread,
    TensorType,
    ValueType,
)
from sdlc.language.values import (
    Elementwise,
    Tensor,
    Value,
    describe,
    is_integer,
    is_number,
    is_tensor,
    type_text,
)

FIXED_TYPES = ("f32", "f16", "i32", "bool")


@dataclass(slots=True)
class Binding:
    """A call on its way to a frame. `env` is the caller's, for errors; `inside` the definition's.

    `bound_by` says which argument gave a size, for messages.
    """

    env: Env
    inside: Env
    definition: Definition
    given: Mapping[str, Operand]
    site: Span
    bound_by: dict[str, str] = field(default_factory=dict)

    @property
    def frame(self) -> Frame:
        return self.inside.frame

    def fail(
        self, code: str, message: str, span: Span, label: str = "", help: str = ""
    ) -> Exception:
        return self.env.fail(code, message, span, label, help, self._callee())

    def _callee(self) -> Definition | None:
        return self.definition if self.frame.caller is not None else None


# ---- arguments ---------------------------------------------------------------------------------


def arguments_of(env: Env, call: Call, definition: Definition) -> dict[str, Operand]:
    """What a call gives, by parameter name, evaluated in the caller's scope."""
    outside = env.whole()
    positional = [p for p in definition.parameters if not p.attribute]
    if len(call.arguments) > len(positional):
        raise env.fail(
            "E024",
            f"`{definition.name}` takes {plural(len(positional), 'argument')}, "
            f"not {len(call.arguments)}",
            call.arguments[len(positional)].span,
            "this one is too many",
            _attribute_hint(definition),
            definition,
        )
    given: dict[str, Operand] = {}
    for parameter, argument in zip(positional, call.arguments, strict=False):
        given[parameter.name] = Operand(outside.evaluate(argument), argument.span)
    names = {p.name for p in definition.parameters}
    for named in call.attributes:
        if named.name not in names:
            known = [p.name for p in definition.parameters if p.attribute]
            listed = f"it has {', '.join(f'`{n}`' for n in known)}" if known else "it has none"
            raise env.fail(
                "E025",
                f"`{definition.name}` has no attribute `{named.name}`",
                named.span,
                help=did_you_mean(named.name, names) or listed,
                callee=definition,
            )
        if named.name in given:
            raise env.fail("E025", f"`{named.name}` is given twice", named.span, callee=definition)
        given[named.name] = Operand(outside.evaluate(named.value), named.value.span)
    return given


def _attribute_hint(definition: Definition) -> str:
    names = [p.name for p in definition.parameters if p.attribute]
    return f"attributes are given by name, after a `;`: `; {names[0]} = …`" if names else ""


# ---- the order of binding ----------------------------------------------------------------------


def bind(binding: Binding) -> Frame:
    """Bind sizes and types from tensors, then configuration, values and defaults in order, then
    check what was written as an expression; guards and result types last."""
    definition = binding.definition
    _check_missing(binding)
    unknown = value_names(definition)
    for parameter, kind in tensor_parameters(definition):
        if parameter.name in binding.given:
            _bind_tensor(binding, parameter, kind, unknown)
    for config in configs(definition):
        binding.frame.names[config.name] = config_value(binding.inside, config)
    for parameter in definition.parameters:
        _bind_value(binding, parameter)
    for parameter, kind in tensor_parameters(definition):
        value = binding.frame.names.get(parameter.name)
        if is_tensor(value):
            _check_dimensions(binding, parameter, kind, value.shape)
    _check_guards(binding)
    for result in definition.results:
        dtype = element_type(binding.inside, result.type)
        binding.frame.results[result.name] = (dtype, shape_of_type(binding.inside, result.type))
    return binding.frame


def tensor_parameters(definition: Definition) -> Iterator[tuple[Parameter, TensorType]]:
    for parameter in definition.parameters:
        if isinstance(parameter.type, TensorType):
            yield parameter, parameter.type


def value_names(definition: Definition) -> frozenset[str]:
    """The names in dimensions that are not sizes: attributes, values and configuration."""
    values = [p.name for p in definition.parameters if isinstance(p.type, ValueType)]
    return frozenset([*values, *(c.name for c in configs(definition))])


def configs(definition: Definition) -> tuple[Config, ...]:
    if definition.kind != "model":
        return ()
    return tuple(s for s in definition.body if isinstance(s, Config))


def _check_missing(binding: Binding) -> None:
    for parameter in binding.definition.parameters:
        if parameter.name not in binding.given and parameter.default is None:
            kind = "attribute" if parameter.attribute else "argument"
            how = f"; {parameter.name} = …" if parameter.attribute else parameter.name
            raise binding.fail(
                "E024",
                f"`{binding.definition.name}` needs the {kind} `{parameter.name}`",
                binding.site,
                f"`{parameter.name}` is missing",
                f"add `{how}`" if parameter.attribute else "",
            )


# ---- tensors -----------------------------------------------------------------------------------


def _bind_tensor(
    binding: Binding, parameter: Parameter, kind: TensorType, unknown: frozenset[str]
) -> None:
    operand = binding.given[parameter.name]
    value = as_whole(operand.value)
    if value is None and kind.optional:
        binding.frame.names[parameter.name] = None
        return
    if is_number(value) and not kind.dimensions:
        value = _number(binding, parameter, kind, value)
    if not is_tensor(value):
        raise _not_a_tensor(binding, parameter, operand)
    _bind_element(binding, parameter, kind, operand, value.dtype)
    tensor = node_of(binding.env, value, parameter.name, operand.span)
    binding.frame.names[parameter.name] = tensor
    for name, size in _dimensions(binding, parameter, kind, tensor):
        if name not in unknown:
            _bind_size(binding, name, size, parameter, tensor)


def _number(
    binding: Binding, parameter: Parameter, kind: TensorType, value: int | float
) -> Elementwise:
    """A compile-time number as a tensor of rank 0."""
    fixed = kind.element if kind.element in FIXED_TYPES else None
    dtype = DType(fixed) if fixed else binding.frame.types.get(kind.element, DType.F32)
    number = float(value) if dtype.is_float else value
    body = literal(number)
    return Elementwise((), body, dtype)


def _not_a_tensor(binding: Binding, parameter: Parameter, operand: Operand) -> Exception:
    wanted = binding.env.text(parameter.span)
    advice = ""
    if isinstance(operand.value, tuple):
        advice = "pass one item of the list"
    elif operand.value is None:
        advice = f"a `?` allows `none`: `{parameter.name}: T[n]? = none`"
    return binding.fail(
        "E026",
        f"`{parameter.name}` of `{binding.definition.name}` is a tensor",
        operand.span,
        f"this is {describe(operand.value)}; declared is `{wanted}`",
        advice,
    )


def _bind_element(
    binding: Binding, parameter: Parameter, kind: TensorType, operand: Operand, dtype: DType
) -> None:
    types, element = binding.frame.types, kind.element
    if element in FIXED_TYPES:
        wanted = DType(element)
        if wanted is dtype or (wanted is DType.F32 and dtype is DType.F16):
            return
        reason = f"`{parameter.name}` is declared as {element}"
    else:
        check_element(binding.inside, kind)
        wanted = types.setdefault(element, dtype)
        if wanted is dtype:
            binding.bound_by.setdefault(element, parameter.name)
            return
        reason = f"`{element}` is {wanted.value} from `{binding.bound_by[element]}`"
    advice = ""
    if wanted.is_float and dtype.is_float:
        advice = "a result type that no parameter binds (`-> S[n]`) is the program's precision"
    raise binding.fail(
        "E029",
        f"`{parameter.name}` of `{binding.definition.name}` has the wrong element type",
        operand.span,
        f"this is {describe(operand.value)}, but {reason}",
        advice,
    )


def check_element(env: Env, kind: TensorType) -> None:
    if kind.element in FIXED_TYPES or kind.element[:1].isupper():
        return
    raise env.fail(
        "E029",
        f"unknown element type `{kind.element}`",
        kind.span,
        help=did_you_mean(kind.element, FIXED_TYPES)
        or "element types are f32, f16, i32, bool, or a variable such as `T`",
    )


def _dimensions(
    binding: Binding, parameter: Parameter, kind: TensorType, tensor: Tensor
) -> Iterator[tuple[str, int | tuple[int, ...]]]:
    """The names in a parameter's type and the sizes that the argument gives them."""
    for dimension, sizes in dimension_parts(binding, parameter, kind, tensor.shape):
        match dimension:
            case Spread(id=name):
                yield f"*{name}", sizes
            case Name(id=name):
                yield name, sizes[0]


def dimension_parts(
    binding: Binding, parameter: Parameter, kind: TensorType, shape: tuple[int, ...]
) -> Iterator[tuple[Expression | Spread, tuple[int, ...]]]:
    """Each dimension of a type with its part of a shape; an error where the ranks differ."""
    spreads = sum(isinstance(d, Spread) for d in kind.dimensions)
    rest = len(shape) - (len(kind.dimensions) - spreads)
    if spreads > 1:
        raise binding.fail(
            "E028",
            "only one `*` may stand in a type",
            kind.span,
            "its parts could not be told apart",
        )
    if rest < 0 or (rest and not spreads):
        operand = binding.given[parameter.name]
        least = "at least " if spreads else ""
        wanted = len(kind.dimensions) - spreads
        raise binding.fail(
            "E028",
            f"`{parameter.name}` of `{binding.definition.name}` has {least}"
            + plural(wanted, "dimension"),
            operand.span,
            f"this is {describe(operand.value)}; declared is `{binding.env.text(parameter.span)}`",
        )
    position = 0
    for dimension in kind.dimensions:
        width = rest if isinstance(dimension, Spread) else 1
        yield dimension, shape[position : position + width]
        position += width


def _bind_size(
    binding: Binding, name: str, size: int | tuple[int, ...], parameter: Parameter, tensor: Tensor
) -> None:
    frame = binding.frame
    if name not in frame.names or name not in frame.sizes:
        frame.names[name] = frame.sizes[name] = size
        binding.bound_by[name] = f"`{parameter.name}`: {type_text(tensor.dtype, tensor.shape)}"
        return
    known = frame.sizes[name]
    if known == size:
        return
    source = binding.bound_by.get(name, "the sizes given")
    raise binding.fail(
        "E027",
        f"dimension mismatch in {binding.definition.name}",
        binding.given[parameter.name].span,
        f"`{name}` is {size_text(size)} in `{parameter.name}`: "
        f"{type_text(tensor.dtype, tensor.shape)}, but {size_text(known)} in {source}",
    )


def _check_dimensions(
    binding: Binding, parameter: Parameter, kind: TensorType, shape: tuple[int, ...]
) -> None:
    """The dimensions that are expressions, or name attributes and configuration."""
    for position, (dimension, sizes) in enumerate(dimension_parts(binding, parameter, kind, shape)):
        if isinstance(dimension, Spread):
            continue
        wanted = binding.inside.integer(dimension, "a dimension")
        if sizes != (wanted,):
            operand = binding.given[parameter.name]
            raise binding.fail(
                "E027",
                f"dimension mismatch in {binding.definition.name}",
                operand.span,
                f"dimension {position} of `{parameter.name}` is {sizes[0]}, but "
                f"`{binding.env.text(dimension.span)}` is {wanted}",
            )


# ---- values ------------------------------------------------------------------------------------


def _bind_value(binding: Binding, parameter: Parameter) -> None:
    names = binding.frame.names
    operand = binding.given.get(parameter.name)
    if operand is None:
        assert parameter.default is not None
        value = binding.inside.whole().evaluate(parameter.default)
        operand = Operand(value, parameter.default.span)
    elif isinstance(parameter.type, TensorType):
        return
    match parameter.type:
        case TensorType():
            if operand.value is not None:
                binding.given = {**binding.given, parameter.name: operand}
                _bind_tensor(binding, parameter, parameter.type, value_names(binding.definition))
                return
            names[parameter.name] = None
        case ValueType(name=kind):
            names[parameter.name] = _fitting(binding, parameter, kind, operand)
        case _:
            assert_never(parameter.type)


def _fitting(binding: Binding, parameter: Parameter, kind: str, operand: Operand) -> Value:
    value = operand.value
    match kind:
        case "int" if is_integer(value):
            return value
        case "float" if is_number(value):
            return float(value)
        case "bool" if isinstance(value, bool):
            return value
        case "str" if isinstance(value, str):
            return value
        case "list" if isinstance(value, tuple):
            return value
    if value is None and isinstance(parameter.default, Name) and parameter.default.id == "none":
        return None
    raise binding.fail(
        "E026",
        f"`{parameter.name}` of `{binding.definition.name}` is of type {kind}",
        operand.span,
        f"this is {describe(value)}",
    )


def config_value(env: Env, config: Config) -> Value:
    """The default of a configuration value, or what the configuration file says."""
    default = env.whole().evaluate(config.default)
    overrides = env.frame.overrides
    if config.name not in overrides:
        return default
    value = from_json(overrides[config.name])
    if _kind(value) != _kind(default) and value is not None and default is not None:
        number = _kind(value) in ("list", "a number") and _kind(default) in ("list", "a number")
        if not number:
            raise env.fail(
                "E040",
                f"the configuration's `{config.name}` has the wrong type",
                config.span,
                f"the configuration says {describe(value)}, the default is {describe(default)}",
            )
    return value


def _kind(value: Value) -> str:
    match value:
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case tuple():
            return "list"
    return "none"


def from_json(value: object) -> Value:
    """A value of a configuration file; lists become tuples, what the language lacks `none`."""
    if isinstance(value, (list, tuple)):
        return tuple(from_json(v) for v in value)
    if isinstance(value, (bool, int, float, str)):
        return value
    return None


# ---- guards and types --------------------------------------------------------------------------


def _check_guards(binding: Binding) -> None:
    for guard in binding.definition.guards:
        holds = binding.inside.evaluate(guard.condition)
        if not isinstance(holds, bool):
            raise binding.inside.fail(
                "E030", "a `where` needs a condition on sizes and attributes", guard.condition.span
            )
        if not holds:
            text = binding.env.text(guard.condition.span)
            sizes = ", ".join(f"{n} = {size_text(s)}" for n, s in binding.frame.sizes.items())
            raise binding.fail(
                "E037",
                f"{binding.definition.name}: {guard.message or f'`{text}` does not hold'}",
                binding.site,
                f"with {sizes}" if sizes else "",
                f"`where {text}` is required",
            )


def element_type(env: Env, kind: TensorType) -> DType:
    """The dtype of a type in a bound frame; a variable that nothing bound is the precision."""
    check_element(env, kind)
    if kind.element in FIXED_TYPES:
        return DType(kind.element)
    return env.frame.types.setdefault(kind.element, env.session.precision)


def shape_of_type(env: Env, kind: TensorType) -> tuple[int, ...]:
    """The extents of a type whose sizes are bound."""
    shape: list[int] = []
    for dimension in kind.dimensions:
        if isinstance(dimension, Spread):
            sizes = env.frame.names.get(f"*{dimension.id}")
            if not isinstance(sizes, tuple):
                raise env.fail(
                    "E020", f"`*{dimension.id}` is not bound by a parameter", dimension.span
                )
            shape += [n for n in sizes if is_integer(n)]
            continue
        size = env.integer(dimension, "a dimension")
        if size < 1:
            raise env.fail(
                "E038",
                "a dimension must be at least 1",
                dimension.span,
                f"`{env.text(dimension.span)}` is {size}",
            )
        shape.append(size)
    return tuple(shape)


def describe_call(env: Env, definition: Definition) -> str:
    return signature(env.session.library, definition)
