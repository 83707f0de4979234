"""Calls of ops, blocks and models: arguments bound to parameters, sizes and types bound from them.

In: a definition and what is given to it. Out: a `Frame` in which its body can run. Invariant:
before the body is looked at, every size and element type of the signature is bound and consistent,
every `where` holds, and the types of the results are known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import assert_never

from sdlc.graph.types import DType, Span
from sdlc.language.diagnostics import plural
from sdlc.language.elaborate_operators import Operand, as_whole, node_of
from sdlc.language.elaborate_scalar import literal
from sdlc.language.elaborate_suggest import for_name, for_shapes, for_value_type, listed
from sdlc.language.elaborate_types import (
    check_element,
    config_value,
    configs,
    element_type,
    shape_of_type,
    tensor_parameters,
    value_names,
)
from sdlc.language.scope import FIXED_TYPES, Declared, Env, Frame, size_text
from sdlc.language.syntax import (
    Call,
    Definition,
    Expression,
    Guard,
    Name,
    Parameter,
    Spread,
    TensorType,
    ValueType,
)
from sdlc.language.traverse import names_in
from sdlc.language.values import (
    Elementwise,
    Tensor,
    Value,
    describe,
    is_integer,
    is_number,
    is_tensor,
    show,
    type_text,
)

_KINDS = MappingProxyType({"op": "an op", "block": "a block", "model": "a model"})


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

    def fail(self, code: str, message: str, span: Span, label: str = "", *, help: str) -> Exception:
        return self.env.fail(code, message, span, label, help=help, callee=self._callee())

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
            help=_attribute_hint(definition),
            callee=definition,
        )
    _no_axes(env, call, definition)
    given: dict[str, Operand] = {}
    for parameter, argument in zip(positional, call.arguments, strict=False):
        given[parameter.name] = Operand(outside.evaluate(argument), argument.span)
    names = {p.name for p in definition.parameters}
    for named in call.attributes:
        if named.name not in names:
            known = [p.name for p in definition.parameters if p.attribute]
            all_of_them = listed("its attributes are", known) if known else "it takes none"
            raise env.fail(
                "E025",
                f"`{definition.name}` has no attribute `{named.name}`",
                named.span,
                help=for_name(named.name, names, all_of_them),
                callee=definition,
            )
        if named.name in given:
            raise env.fail(
                "E025",
                f"`{named.name}` is given twice",
                named.span,
                callee=definition,
                help="delete one of them",
            )
        given[named.name] = Operand(outside.evaluate(named.value), named.value.span)
    return given


def _no_axes(env: Env, call: Call, definition: Definition) -> None:
    """Arguments are whole tensors and known values; an axis is neither."""
    for argument in (*call.arguments, *(a.value for a in call.attributes)):
        for name in names_in(argument):
            if name.id in env.axes and name.id not in env.frame.names:
                raise env.fail(
                    "E026",
                    f"`{definition.name}` is {_KINDS[definition.kind]} and takes whole tensors",
                    argument.span,
                    f"`{name.id}` is an axis",
                    help=f"bind its result first, `y = {definition.name}(…)`, and read `y[…]`",
                    callee=definition,
                )


def _attribute_hint(definition: Definition) -> str:
    names = [p.name for p in definition.parameters if p.attribute]
    if names:
        return f"attributes are given by name, after a `;`: `; {names[0]} = …`"
    return "delete it"


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
        shape = shape_of_type(binding.inside, result.type)
        binding.frame.results[result.name] = Declared(dtype, shape, result.type.element)
    return binding.frame


def _check_missing(binding: Binding) -> None:
    for parameter in binding.definition.parameters:
        if parameter.name not in binding.given and parameter.default is None:
            kind = "attribute" if parameter.attribute else "argument"
            advice = f"add `; {parameter.name} = …` to the call"
            if not parameter.attribute:
                advice = f"its parameters are, in order, {_parameter_names(binding.definition)}"
            raise binding.fail(
                "E024",
                f"`{binding.definition.name}` needs the {kind} `{parameter.name}`",
                binding.site,
                f"`{parameter.name}` is missing",
                help=advice,
            )


def _parameter_names(definition: Definition) -> str:
    return ", ".join(f"`{p.name}`" for p in definition.parameters if not p.attribute)


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
    advice = "an argument before the `;` is a whole tensor, unless its parameter says otherwise"
    if isinstance(operand.value, tuple):
        advice = "pass one item of the list, as in `xs[0]`"
    elif operand.value is None:
        advice = f"a `?` allows `none`: `{parameter.name}: T[n]? = none`"
    return binding.fail(
        "E026",
        f"`{parameter.name}` of `{binding.definition.name}` is a tensor",
        operand.span,
        f"this is {describe(operand.value)}; declared is `{wanted}`",
        help=advice,
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
    advice = "convert it in index notation: `y[i] = f32(x[i])`, `y[i] = i32(x[i])`"
    if wanted.is_float and dtype.is_float:
        advice = "an op such as `op to(x: S[*b]) -> T[*b]` converts to the program's precision"
    raise binding.fail(
        "E029",
        f"`{parameter.name}` of `{binding.definition.name}` has the wrong element type",
        operand.span,
        f"this is {describe(operand.value)}, but {reason}",
        help=advice,
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
            help="name the other dimensions: `T[*b, n]`",
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
            help="index notation adds axes, `y[i, j < 1] = x[i]`, or drops some, `y[i] = x[i, 0]`",
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
        f"`{name}` is {size_text(size)} here, as `{parameter.name}` is "
        f"{type_text(tensor.dtype, tensor.shape)}, but {size_text(known)} in {source}",
        help=_mismatch_help(binding),
    )


def _mismatch_help(binding: Binding) -> str:
    shapes = {n: o.value.shape for n, o in binding.given.items() if is_tensor(o.value)}
    known = binding.env.session.library.callables_in(binding.site.file)
    return for_shapes(binding.definition, shapes, known)


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
                help=_mismatch_help(binding),
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
        help=for_value_type(kind),
    )


# ---- guards ------------------------------------------------------------------------------------


def _check_guards(binding: Binding) -> None:
    for guard in binding.definition.guards:
        holds = binding.inside.evaluate(guard.condition)
        if not isinstance(holds, bool):
            raise binding.inside.fail(
                "E030",
                "a `where` needs a condition on sizes and attributes",
                guard.condition.span,
                help="compare sizes or attributes: `where n % 2 == 0`",
            )
        if not holds:
            raise _guard_fails(binding, guard)


def _guard_fails(binding: Binding, guard: Guard) -> Exception:
    """The user's own call is what has to change, so that is where the error points."""
    text = binding.env.text(guard.condition.span)
    names = binding.frame.names
    values = {n.id: names[n.id] for n in names_in(guard.condition) if n.id in names}
    shown = ", ".join(f"`{n}` is {show(v)}" for n, v in values.items())
    return binding.fail(
        "E037",
        f"{binding.definition.name}: {guard.message or f'`{text}` does not hold'}",
        binding.frame.user_site() or binding.site,
        shown,
        help=f"it requires `{text}`",
    )
