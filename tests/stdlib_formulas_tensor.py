"""More formulas for `test_stdlib`: normalisation, attention, embeddings, moves and reductions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

from stdlib_formulas import FORMULAS, Array, Draw, Given, formula

# ---- normalisation -------------------------------------------------------------------------------


def standard(x: Array, axes: tuple[int, ...], eps: float) -> Array:
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)


def by_channel(values: Array, x: Array) -> Array:
    return values.reshape(-1, *(1,) * (x.ndim - 2))


def _channels(draw: Draw, multiple: int = 1) -> Array:
    space = draw.data.draw(st.sampled_from([(), (3,), (2, 3)]))
    return draw.array(draw.size(most=2), multiple * draw.size(most=3), *space)


def grouped(x: Array, groups: int, eps: float) -> Array:
    return standard(x.reshape(x.shape[0], groups, -1), (2,), eps).reshape(x.shape)


@formula("group_normalize")
def _(draw: Draw) -> Given:
    groups = draw.whole(1, 3)
    x = _channels(draw, groups)
    a, b = draw.array(x.shape[1]), draw.array(x.shape[1])
    result = grouped(x, groups, 1e-3) * by_channel(a, x) + by_channel(b, x)
    return draw.call({"x": x, "scale": a, "shift": b}, result, groups=groups, eps=1e-3)


@formula("group_norm")
def _(draw: Draw) -> Given:
    groups = draw.whole(1, 3)
    x = _channels(draw, groups)
    a, b = draw.array(x.shape[1]), draw.array(x.shape[1])
    result = grouped(x, groups, 1e-5) * by_channel(a, x) + by_channel(b, x)
    return Given(draw.name, {"x": x}, (result,), {"groups": groups}, {"weight": a, "bias": b})


@formula("instance_normalize")
def _(draw: Draw) -> Given:
    x = draw.array(2, draw.size(most=3), draw.size(), draw.size())
    return draw.call({"x": x}, standard(x, (2, 3), 1e-5))


@formula("layer_normalize")
def _(draw: Draw) -> Given:
    x = draw.array(*draw.batch(), draw.size())
    a, b = draw.array(x.shape[-1]), draw.array(x.shape[-1])
    return draw.call({"x": x, "scale": a, "shift": b}, standard(x, (-1,), 1e-5) * a + b)


@formula("layer_norm")
def _(draw: Draw) -> Given:
    x = draw.array(*draw.batch(), draw.size())
    a, b = draw.array(x.shape[-1]), draw.array(x.shape[-1])
    result = standard(x, (-1,), 1e-3) * a + b
    return Given(draw.name, {"x": x}, (result,), {"eps": 1e-3}, {"weight": a, "bias": b})


def rms(x: Array, eps: float) -> Array:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)


@formula("rms_normalize")
def _(draw: Draw) -> Given:
    x = draw.array(*draw.batch(), draw.size())
    a = draw.array(x.shape[-1])
    return draw.call({"x": x, "scale": a}, rms(x, 1e-6) * a)


@formula("rms_norm")
def _(draw: Draw) -> Given:
    x = draw.array(*draw.batch(), draw.size())
    a = draw.array(x.shape[-1])
    return Given(draw.name, {"x": x}, (rms(x, 1e-6) * a,), {}, {"weight": a})


@formula("batch_normalize")
def _(draw: Draw) -> Given:
    x = _channels(draw)
    mean, var, a, b = (draw.array(x.shape[1]) for _ in range(4))
    parts = [by_channel(v, x) for v in (mean, var**2, a, b)]
    result = (x - parts[0]) / np.sqrt(parts[1] + 1e-5) * parts[2] + parts[3]
    return draw.call({"x": x, "mean": mean, "var": var**2, "scale": a, "shift": b}, result)


@formula("batch_norm")
def _(draw: Draw) -> Given:
    given = FORMULAS["batch_normalize"](Draw("batch_normalize", draw.data))
    names = {"mean": "running_mean", "var": "running_var", "scale": "weight", "shift": "bias"}
    weights = {new: given.inputs[old] for old, new in names.items()}
    return Given(draw.name, {"x": given.inputs["x"]}, given.expected, {}, weights)


@formula("l2_normalize")
def _(draw: Draw) -> Given:
    x = draw.array(*draw.batch(), draw.size())
    return draw.call({"x": x}, x / np.linalg.norm(x, axis=-1, keepdims=True))


# ---- softmax and attention -----------------------------------------------------------------------


def softmax(x: Array) -> Array:
    e = np.exp(x)
    return e / e.sum(-1, keepdims=True)


def _last(name: str, function: Callable[[Array], Array]) -> None:
    def case(draw: Draw) -> Given:
        x = draw.array(*draw.batch(), draw.size())
        return draw.call({"x": x}, function(x))

    FORMULAS[name] = case


_last("softmax", softmax)
_last("log_softmax", lambda x: np.log(softmax(x)))
_last("logsumexp", lambda x: np.log(np.exp(x).sum(-1)))


@formula("attention")
def _(draw: Draw) -> Given:
    heads, d, f, b = draw.whole(1, 3), draw.size(most=4), draw.size(most=4), draw.size(most=2)
    s, t, causal = draw.size(most=5), draw.size(most=5), draw.flag()
    q, k, v = (draw.array(b, n, heads * m) for n, m in ((s, d), (t, d), (t, f)))
    scores = np.einsum("bshe,bthe->bhst", q.reshape(b, s, heads, d), k.reshape(b, t, heads, d))
    scores = scores / d**0.5
    inputs = {"q": q, "k": k, "v": v}
    if draw.flag():
        inputs["mask"] = draw.array(s, t)
        scores = scores + inputs["mask"]
    if causal:
        scores = np.where(np.arange(t) <= np.arange(s)[:, None], scores, -np.inf)
    result = np.einsum("bhst,bthe->bshe", softmax(scores), v.reshape(b, t, heads, f))
    return draw.call(inputs, result.reshape(b, s, heads * f), heads=heads, causal=causal)


@formula("attention_heads")
def _(draw: Draw) -> Given:
    batch, s, t, d, f = draw.batch(), draw.size(), draw.size(), draw.size(), draw.size()
    q, k, v = draw.array(*batch, s, d), draw.array(*batch, t, d), draw.array(*batch, t, f)
    scores = np.einsum("...sd,...td->...st", q, k) / d**0.5
    return draw.call({"q": q, "k": k, "v": v}, softmax(scores) @ v)


def _attention_of_scores(draw: Draw) -> Given:
    batch, s, t, f = draw.batch(), draw.size(), draw.size(), draw.size()
    x, v = draw.array(*batch, s, t), draw.array(*batch, t, f)
    return draw.call({"x": x, "v": v}, softmax(x) @ v)


FORMULAS["attention_online"] = _attention_of_scores
FORMULAS["attention_split"] = _attention_of_scores


@formula("split_heads")
def _(draw: Draw) -> Given:
    heads = draw.whole(1, 3)
    x = draw.array(2, draw.size(), heads * draw.size())
    result = x.reshape(2, x.shape[1], heads, -1).swapaxes(1, 2)
    return draw.call({"x": x}, result, heads=heads)


@formula("merge_heads")
def _(draw: Draw) -> Given:
    x = draw.array(2, draw.size(most=3), draw.size(), draw.size())
    return draw.call({"x": x}, x.swapaxes(1, 2).reshape(2, x.shape[2], -1))


# ---- embeddings ----------------------------------------------------------------------------------


@formula("lookup")
def _(draw: Draw) -> Given:
    table = draw.array(draw.size(), draw.size())
    ids = (draw.array(*draw.batch(), draw.size()) * 2).astype(np.int32)
    inside = (ids >= 0) & (ids < len(table))
    result = np.where(inside[..., None], table[np.where(inside, ids, 0)], 0)
    return draw.call({"ids": ids, "table": table}, result)


@formula("embedding")
def _(draw: Draw) -> Given:
    table = draw.array(draw.size(), draw.size())
    ids = draw.array(draw.size(), draw.size()).astype(np.int32) % len(table)
    return Given(draw.name, {"ids": ids}, (table[ids],), {}, {"weight": table}, table.shape)


@formula("timestep_embedding")
def _(draw: Draw) -> Given:
    half, flip, shift = draw.size(2), draw.flag(), float(draw.whole(0, 1))
    t = np.abs(draw.array(draw.size())) * 200
    angles = t[:, None] * 10000.0 ** (-np.arange(half) / (half - shift))
    parts = [np.sin(angles), np.cos(angles)]
    given = {"width": 2 * half, "flip_sin_to_cos": flip, "freq_shift": shift}
    result = np.concatenate(parts[::-1] if flip else parts, 1)
    return draw.call({"t": t.astype(np.float64)}, result, **given)


# ---- moving elements -----------------------------------------------------------------------------


def _joined(name: str, axis: int) -> None:
    def case(draw: Draw) -> Given:
        shape = [draw.size(most=4) for _ in range(3)]
        other = list(shape)
        other[axis] = draw.size()
        x, y = draw.array(*shape), draw.array(*other)
        return draw.call({"x": x, "y": y}, np.concatenate([x, y], axis))

    FORMULAS[name] = case


_joined("concat", -1)
_joined("concat_first", 0)
_joined("concat_channels", 1)


@formula("split")
def _(draw: Draw) -> Given:
    x = draw.array(*draw.batch(), 2 * draw.size())
    return draw.call({"x": x}, *np.split(x, 2, -1))


@formula("slice")
def _(draw: Draw) -> Given:
    x = draw.array(*draw.batch(), draw.size())
    start, step = draw.whole(0, x.shape[-1] - 1), draw.whole(1, 3)
    stop = draw.whole(start + 1, x.shape[-1])
    return draw.call({"x": x}, x[..., start:stop:step], start=start, stop=stop, step=step)


def _padded(name: str, mode: str, most: int, **more: float) -> None:
    def case(draw: Draw) -> Given:
        x = draw.array(*draw.batch(), draw.size())
        limit = min(most, x.shape[-1] - 1) if mode == "reflect" else most
        before, after = draw.whole(0, limit), draw.whole(0, limit)
        widths = [(0, 0)] * (x.ndim - 1) + [(before, after)]
        keys = {"constant_values": more["value"]} if more else {}
        result = np.pad(x, widths, mode, **keys)  # type: ignore[call-overload]
        return draw.call({"x": x}, result, before=before, after=after, **more)

    FORMULAS[name] = case


_padded("pad_constant", "constant", 4, value=0.5)
_padded("pad_reflect", "reflect", 6)
_padded("pad_replicate", "edge", 4)


@formula("pad2d")
def _(draw: Draw) -> Given:
    x = draw.array(1, 2, draw.size(), draw.size())
    t, b, le, r = (draw.whole(0, 2) for _ in range(4))
    result = np.pad(x, [(0, 0), (0, 0), (t, b), (le, r)], constant_values=1.5)
    return draw.call({"x": x}, result, top=t, bottom=b, left=le, right=r, value=1.5)


def _permuted(name: str, *order: int) -> None:
    def case(draw: Draw) -> Given:
        x = draw.array(*(draw.size(most=5) for _ in order))
        return draw.call({"x": x}, x.transpose(order))

    FORMULAS[name] = case


_last("flip", lambda x: x[..., ::-1])
_permuted("transpose", 0, 2, 1)
_permuted("swap_middle", 0, 2, 1, 3)
_permuted("channels_last", 0, 2, 3, 1)
_permuted("channels_first", 0, 3, 1, 2)


@formula("pixels_to_rows")
def _(draw: Draw) -> Given:
    x = draw.array(2, draw.size(), draw.size(), draw.size())
    return draw.call({"x": x}, x.reshape(2, x.shape[1], -1).swapaxes(1, 2))


@formula("rows_to_pixels")
def _(draw: Draw) -> Given:
    h, w, c = draw.size(), draw.size(), draw.size()
    x = draw.array(2, h * w, c)
    return draw.call({"x": x}, x.swapaxes(1, 2).reshape(2, c, h, w), height=h)


@formula("merge_last")
def _(draw: Draw) -> Given:
    x = draw.array(*draw.batch(), draw.size(), draw.size())
    return draw.call({"x": x}, x.reshape(*x.shape[:-2], -1))


@formula("split_last")
def _(draw: Draw) -> Given:
    parts = draw.size()
    x = draw.array(*draw.batch(), parts * draw.size())
    return draw.call({"x": x}, x.reshape(*x.shape[:-1], parts, -1), parts=parts)


@formula("repeat_first")
def _(draw: Draw) -> Given:
    x, times = draw.array(draw.size(), *draw.batch()), draw.whole(1, 3)
    return draw.call({"x": x}, np.concatenate([x] * times), times=times)


@formula("roll")
def _(draw: Draw) -> Given:
    x, shift = draw.array(*draw.batch(), draw.size()), draw.whole(-9, 9)
    return draw.call({"x": x}, np.roll(x, shift, -1), shift=shift)


@formula("choose")
def _(draw: Draw) -> Given:
    shape = (*draw.batch(), draw.size())
    c, x, y = draw.array(*shape) > 0, draw.array(*shape), draw.array(*shape)
    return draw.call({"condition": c, "x": x, "y": y}, np.where(c, x, y))


@formula("add_last")
def _(draw: Draw) -> Given:
    x = draw.array(*draw.batch(), draw.size())
    y = draw.array(x.shape[-1])
    return draw.call({"x": x, "y": y}, x + y)


@formula("add_channels")
def _(draw: Draw) -> Given:
    x = draw.array(2, draw.size(), draw.size(), draw.size())
    y = draw.array(*x.shape[:2])
    return draw.call({"x": x, "y": y}, x + y[:, :, None, None])


@formula("lerp")
def _(draw: Draw) -> Given:
    shape = (*draw.batch(), draw.size())
    x, y = draw.array(*shape), draw.array(*shape)
    return draw.call({"x": x, "y": y}, 0.75 * x + 0.25 * y, share=0.25)


@formula("one_hot")
def _(draw: Draw) -> Given:
    ids = draw.array(*draw.batch(), draw.size()).astype(np.int32)
    classes = draw.size()
    result = (ids[..., None] == np.arange(classes)).astype(float)
    return draw.call({"ids": ids}, result, classes=classes)


def _triangle(name: str, function: Callable[..., Array]) -> None:
    def case(draw: Draw) -> Given:
        x, diagonal = draw.array(*draw.batch(), draw.size(), draw.size()), draw.whole(-2, 2)
        return draw.call({"x": x}, function(x, diagonal), diagonal=diagonal)

    FORMULAS[name] = case


_triangle("tril", np.tril)
_triangle("triu", np.triu)


@formula("arange")
def _(draw: Draw) -> Given:
    n = draw.size()
    return draw.call({}, 2.5 + 0.5 * np.arange(n), length=n, start=2.5, step=0.5)


@formula("causal_mask")
def _(draw: Draw) -> Given:
    s, t = draw.size(), draw.size()
    result = np.where(np.arange(t) <= np.arange(s)[:, None], 0.0, -65504.0)
    return draw.call({}, result, queries=s, keys=t)


@formula("cast")
def _(draw: Draw) -> Given:
    ids = draw.array(*draw.batch(), draw.size()).astype(np.int32)
    return draw.call({"x": ids}, ids.astype(float))


# ---- reductions ----------------------------------------------------------------------------------

_last("reduce_sum", lambda x: x.sum(-1))
_last("reduce_prod", lambda x: x.prod(-1))
_last("reduce_max", lambda x: x.max(-1))
_last("reduce_min", lambda x: x.min(-1))
_last("reduce_mean", lambda x: x.mean(-1))
_last("reduce_var", lambda x: x.var(-1))
_last("reduce_norm", lambda x: np.linalg.norm(x, axis=-1))
_last("argmax", lambda x: x.argmax(-1).astype(np.int32))
_last("argmin", lambda x: x.argmin(-1).astype(np.int32))
_last("cumulative_sum", lambda x: x.cumsum(-1))
_last("cumulative_max", lambda x: np.maximum.accumulate(x, -1))


@formula("moments")
def _(draw: Draw) -> Given:
    x = draw.array(*draw.batch(), draw.size())
    return draw.call({"x": x}, x.mean(-1), x.var(-1))


def _quantified(name: str, function: Callable[[Array], Array]) -> None:
    def case(draw: Draw) -> Given:
        x = draw.array(*draw.batch(), draw.size()) > 1
        return draw.call({"x": x}, function(x))

    FORMULAS[name] = case


_quantified("reduce_any", lambda x: x.any(-1))
_quantified("reduce_all", lambda x: x.all(-1))
