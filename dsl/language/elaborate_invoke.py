"""Calls of definitions with a body: from a call to the definition's results.

In: a call and where it stands. Out: the results as tensors. Invariant: a result that is lost to an
error is replaced by a stand-in of its declared type, so that the statements after the call are
checked too; a graph with a stand-in never leaves `build`.
"""

from __future__ import annotations

from collections.abc import Sequence

from sdlc.graph.node import Input
from sdlc.graph.types import Span
from sdlc.language.elaborate_call import Binding, arguments_of, bind
from sdlc.language.elaborate_operators import as_whole, node_of
from sdlc.language.elaborate_statement import check_stored, execute
from sdlc.language.scope import MAX_DEPTH, Env, Fail, Frame, Poisoned
from sdlc.language.syntax import Call, Definition, Expression, Label, Return, Statement
from sdlc.language.values import (
    POISON,
    Poison,
    Record,
    Tensor,
    Value,
    describe,
    is_tensor,
    type_text,
)


def invoke(env: Env, call: Call, definition: Definition) -> Value:
    """The result of a call, or the tuple of its results."""
    if env.frame.depth >= MAX_DEPTH:
        raise env.fail(
            "E042",
            f"`{definition.name}` calls itself without end",
            call.span,
            f"{MAX_DEPTH} calls deep",
            callee=definition,
            help="calls are expanded: let an `if` on a compile-time value end them",
        )
    given = arguments_of(env, call, definition)
    frame = Frame(
        env.session,
        definition,
        scope=_scope(env, call.label),
        caller=env.frame,
        site=call.span,
        depth=env.frame.depth + 1,
        overrides=_overrides(env, call.label),
        precision=env.frame.precision,
        covered=env.frame.covered,
    )
    frame.cover()
    bind(Binding(env, Env(frame), definition, given, call.span))
    results = run(frame)
    return results[0] if len(results) == 1 else tuple(results)


def _scope(env: Env, label: Label | None) -> str:
    if label is None:
        return env.frame.scope
    parts = [p if isinstance(p, str) else _label_part(env, p) for p in label.parts]
    return env.frame.path("".join(parts))


def _label_part(env: Env, part: Expression) -> str:
    value = env.whole().evaluate(part)
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise env.fail(
            "E041",
            "a label is made of integers and strings",
            part.span,
            f"this is {describe(value)}",
            help="put an integer or a string in the braces: `layers.{k}: …`",
        )
    return str(value)


def _overrides(env: Env, label: Label | None) -> dict[str, object]:
    """The part of the configuration under a label: `unet: unet(…)` sees `config["unet"]`."""
    if label is None:
        return dict(env.frame.overrides)
    found: object = env.frame.overrides
    for part in "".join(p for p in label.parts if isinstance(p, str)).split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return dict(found) if isinstance(found, dict) else {}


def run(frame: Frame) -> list[Tensor]:
    """Run a bound definition's body. Returns its results, in order."""
    definition = frame.definition
    assert isinstance(definition, Definition)
    returned = execute(frame, definition.body)
    results: list[Tensor] = []
    for position, result in enumerate(definition.results):
        span = result.span
        if returned is not None:
            value = returned[position] if position < len(returned) else POISON
            span = _return_span(definition.body, position) or span
        else:
            value = frame.names.get(result.name)
        results.append(_result(frame, result.name, value, span))
    return results


def _return_span(body: Sequence[Statement], position: int) -> Span | None:
    last = body[-1] if body else None
    if isinstance(last, Return) and position < len(last.values):
        return last.values[position].span
    return None


def _result(frame: Frame, name: str, value: Value, span: Span) -> Tensor:
    """A result as its declared type; where it is wrong, an error and a stand-in."""
    dtype, shape, element = frame.results[name]
    env = Env(frame)
    try:
        if isinstance(value, Poison):
            raise Poisoned
        whole = as_whole(value)
        if not is_tensor(whole):
            raise _no_result(env, name, value, span)
        if whole.shape != shape:
            raise env.fail(
                "E033",
                f"`{name}` does not have its declared shape",
                span,
                f"this is {describe(whole)}, declared is {type_text(dtype, shape)}",
                help="correct the type after `->`, or the expression",
            )
        check_stored(env, whole.dtype, dtype, span)
        return node_of(env, whole, name, span, (dtype, element))
    except Fail as error:
        frame.session.report(error.diagnostic)
    except Poisoned:
        pass
    return Tensor(Input("<error>", shape, dtype))


def _no_result(env: Env, name: str, value: Value, span: Span) -> Fail:
    if value is None:
        return env.fail(
            "E033",
            f"the result `{name}` is never defined",
            span,
            "declared here",
            help=f"assign it, `{name}[…] = …`, or end the body with `return …`",
        )
    advice = "a result is a whole tensor; its elements are given in index notation"
    if isinstance(value, Record):
        advice = "read one of its fields: `s.m`"
    elif isinstance(value, tuple):
        advice = "take it apart first: `a, b = …`, then `return a`"
    return env.fail(
        "E033",
        f"the result `{name}` must be a tensor",
        span,
        f"this is {describe(value)}",
        help=advice,
    )
