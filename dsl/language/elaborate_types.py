"""Signatures: which names are sizes, what a type says once they are bound, configuration values.

In: parameters and types as written, and the frame that binds their names. Out: dtypes, extents,
values. Invariant: extents are at least 1. Example: `T[2 * b, n]` is `(4, 5)` for b = 2, n = 5.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sdlc.graph.types import DType
from sdlc.language.diagnostics import did_you_mean
from sdlc.language.scope import FIXED_TYPES, Env
from sdlc.language.syntax import (
    Config,
    Definition,
    Expression,
    Name,
    Parameter,
    Spread,
    TensorType,
    ValueType,
)
from sdlc.language.values import Value, describe, is_integer


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
                    "E020",
                    f"`*{dimension.id}` is not bound by a parameter",
                    dimension.span,
                    help="only sizes that stand in a parameter's type may stand in a result's",
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
                help="check the sizes and attributes that it is computed from",
            )
        shape.append(size)
    return tuple(shape)


def dimension_names(dimensions: Sequence[Expression | Spread]) -> tuple[str, ...]:
    """Axis names for readers of a tensor of this type, as far as they are known."""
    names: list[str] = []
    for position, dimension in enumerate(dimensions):
        if isinstance(dimension, Spread):
            break
        names.append(dimension.id if isinstance(dimension, Name) else f"i{position}")
    return tuple(names)


# ---- configuration -----------------------------------------------------------------------------


def config_value(env: Env, config: Config) -> Value:
    """The default of a configuration value, or what the configuration file says."""
    default = env.whole().evaluate(config.default)
    overrides = env.frame.overrides
    if config.name not in overrides:
        return default
    value = from_json(overrides[config.name])
    kinds = {_kind(value), _kind(default)}
    if len(kinds) > 1 and not kinds & {"list", "none"}:
        raise env.fail(
            "E040",
            f"the configuration's `{config.name}` has the wrong type",
            config.span,
            f"the configuration says {describe(value)}, the default is {describe(default)}",
            help="give a value of the same type, a list of them, or `null`",
        )
    return value


def _kind(value: Value) -> str:
    match value:
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
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
