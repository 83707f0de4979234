"""What a user may have meant: advice for the `help:` line of an error.

In: what was found where something else was wanted. Out: one sentence, never empty. Invariant:
advice about operators comes from the definitions in scope; no operator is named here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from sdlc.graph.types import DType
from sdlc.language.diagnostics import did_you_mean
from sdlc.language.syntax import Definition, Function, Name, Parameter, Spread, TensorType

Shape = tuple[int, ...]

_OF_TYPE = MappingProxyType(
    {
        "int": "write an integer, as in `4`; `i32(floor(e))` makes one of a float",
        "float": "write a number, as in `0.5`",
        "bool": "write `true` or `false`",
        "str": 'write a string, as in `"silu"`',
        "list": "write a list, as in `[x, y]`",
    }
)
_TO_TYPE = MappingProxyType(
    {
        DType.I32: "`i32(floor(e))` makes an integer of a float",
        DType.BOOL: "a comparison makes a boolean: `x != 0`",
    }
)
NUMBER_OF_BOOLEAN = "`if c then 1 else 0` makes a number of a boolean"


def for_value_type(kind: str) -> str:
    """What to write where a compile-time value of this type is wanted."""
    return _OF_TYPE[kind]


def for_conversion(found: DType, wanted: DType) -> str:
    """How to make a scalar of another type."""
    return NUMBER_OF_BOOLEAN if found is DType.BOOL else _TO_TYPE.get(wanted, NUMBER_OF_BOOLEAN)


def for_name(name: str, known: Iterable[str], otherwise: str) -> str:
    """The name that is close to a wrong one, or `otherwise`."""
    return did_you_mean(name, known) or otherwise


def listed(what: str, names: Iterable[str]) -> str:
    """`fields are `m`, `l``"""
    return f"{what} " + ", ".join(f"`{n}`" for n in names)


def for_shapes(
    definition: Definition,
    shapes: Mapping[str, Shape],
    known: Mapping[str, Definition | Function],
) -> str:
    """An operator of a similar name that takes these shapes, or what to do without one."""
    given = [shapes[p.name] for p in definition.parameters if p.name in shapes and not p.attribute]
    fitting = [
        other
        for other in known.values()
        if isinstance(other, Definition)
        and other.span.file == definition.span.file
        and other is not definition
        and _takes(other, given)
    ]
    similar = [d for d in fitting if _first_word(d.name) == _first_word(definition.name)]
    if similar:
        best = min(similar, key=lambda d: (len(d.name), d.name))
        return f"`{best.name}` takes these shapes: {best.doc or 'see its definition'}"
    return "sizes of one name must be equal; check the order of the arguments and their axes"


def _first_word(name: str) -> str:
    return name.split("_", 1)[0]


def _takes(definition: Definition, shapes: list[Shape]) -> bool:
    """Whether the definition's tensor parameters unify with these shapes, in order."""
    required = [p for p in definition.parameters if p.default is None]
    if len(required) != len(shapes):
        return False
    sizes: dict[str, Shape] = {}
    return all(_unify(p, shape, sizes) for p, shape in zip(required, shapes, strict=True))


def _unify(parameter: Parameter, shape: Shape, sizes: dict[str, Shape]) -> bool:
    if not isinstance(parameter.type, TensorType):
        return False
    dimensions = parameter.type.dimensions
    spreads = sum(isinstance(d, Spread) for d in dimensions)
    rest = len(shape) - (len(dimensions) - spreads)
    if rest < 0 or spreads > 1 or (rest and not spreads):
        return False
    position = 0
    for dimension in dimensions:
        width = rest if isinstance(dimension, Spread) else 1
        part = shape[position : position + width]
        position += width
        match dimension:
            case Spread(id=name) if sizes.setdefault(f"*{name}", part) != part:
                return False
            case Name(id=name) if sizes.setdefault(name, part) != part:
                return False
    return True
