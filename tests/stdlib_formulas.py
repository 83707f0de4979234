"""What the operators of the standard library compute, in NumPy, for `test_stdlib`.

Written from the usual definitions (PyTorch's, where it has the operator), not from the `.sdl`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import erf
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

Array = npt.NDArray[Any]
SIZES = (1, 2, 3, 4, 5, 7)


@dataclass(frozen=True, slots=True)
class Given:
    """One call: tensors by name, then `positional` numbers, then attributes; what it must give."""

    name: str
    inputs: Mapping[str, Array]
    expected: tuple[Array, ...]
    attributes: Mapping[str, object] = field(default_factory=dict)
    weights: Mapping[str, Array] = field(default_factory=dict)
    positional: tuple[int, ...] = ()

    def type_of(self, array: Array) -> str:
        kinds = {"f": "T", "i": "i32", "b": "bool"}
        element = kinds[array.dtype.kind]
        if (
            element == "T"
            and self.name in F32_RESULTS
            and not any(array is v for v in self.inputs.values())
        ):
            element = "f32"
        return f"{element}[{', '.join(map(str, array.shape))}]"


F32_RESULTS = (
    *("one_hot", "arange", "causal_mask", "moments", "timestep_embedding"),
    *("winograd_input_matrix", "winograd_weight_matrix", "winograd_output_matrix"),
)


@dataclass(frozen=True, slots=True)
class Draw:
    """What a case draws from."""

    name: str
    data: st.DataObject

    def size(self, least: int = 1, most: int = 7) -> int:
        return self.data.draw(st.sampled_from([n for n in SIZES if least <= n <= most]))

    def whole(self, low: int, high: int) -> int:
        return self.data.draw(st.integers(low, high))

    def flag(self) -> bool:
        return self.data.draw(st.booleans())

    def batch(self) -> tuple[int, ...]:
        return self.data.draw(st.sampled_from([(), (2,), (1, 3), (2, 1, 2)]))

    def array(self, *shape: int) -> Array:
        seed = self.data.draw(st.integers(0, 2**32 - 1))
        return np.random.default_rng(seed).normal(size=shape) * 2

    def call(self, inputs: Mapping[str, Array], *expected: Array, **attributes: object) -> Given:
        return Given(self.name, inputs, tuple(np.asarray(e) for e in expected), attributes)


Formula = Callable[[Draw], Given]
FORMULAS: dict[str, Formula] = {}


def formula(name: str) -> Callable[[Formula], Formula]:
    def keep(function: Formula) -> Formula:
        FORMULAS[name] = function
        return function

    return keep


# ---- activations ---------------------------------------------------------------------------------


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def cdf(x: Array) -> Array:
    return np.vectorize(lambda v: 0.5 * (1 + erf(v / 2**0.5)), otypes=[float])(x)


def softplus(x: Array) -> Array:
    return np.log1p(np.exp(x))


def _elementwise(name: str, function: Callable[..., Array], **drawn: float) -> None:
    def case(draw: Draw) -> Given:
        x = draw.array(*draw.batch(), draw.size())
        return draw.call({"x": x}, function(x, *drawn.values()), **drawn)

    FORMULAS[name] = case


_elementwise("relu", lambda x: x * (x > 0))
_elementwise("relu6", lambda x: np.clip(x, 0, 6))
_elementwise("leaky_relu", lambda x, a: np.where(x > 0, x, a * x), slope=0.2)
_elementwise("elu", lambda x, a: np.where(x > 0, x, a * np.expm1(x)), alpha=1.5)
_elementwise("sigmoid", sigmoid)
_elementwise("hard_sigmoid", lambda x: np.clip((x + 3) / 6, 0, 1))
_elementwise("silu", lambda x: x * sigmoid(x))
_elementwise("hard_swish", lambda x: x * np.clip((x + 3) / 6, 0, 1))
_elementwise("gelu", lambda x: x * cdf(x))
_elementwise(
    "gelu_tanh", lambda x: x / 2 * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))
)
_elementwise("quick_gelu", lambda x: x * sigmoid(1.702 * x))
_elementwise("softplus", softplus)
_elementwise("mish", lambda x: x * np.tanh(softplus(x)))
_elementwise("softsign", lambda x: x / (1 + np.abs(x)))
_elementwise("clamp", lambda x, low, high: np.clip(x, low, high), low=-0.5, high=0.75)


def _gated(name: str, gate: Callable[[Array], Array]) -> None:
    def case(draw: Draw) -> Given:
        n = draw.size()
        x = draw.array(*draw.batch(), 2 * n)
        return draw.call({"x": x}, x[..., :n] * gate(x[..., n:]))

    FORMULAS[name] = case


_gated("geglu", lambda g: g * cdf(g))
_gated("swiglu", lambda g: g * sigmoid(g))
_gated("glu", sigmoid)


@formula("activate")
def _(draw: Draw) -> Given:
    known = {
        "silu": lambda x: x * sigmoid(x),
        "gelu": lambda x: x * cdf(x),
        "relu": lambda x: x * (x > 0),
    }
    name = draw.data.draw(st.sampled_from(sorted(known)))
    x = draw.array(draw.size())
    return draw.call({"x": x}, known[name](x), name=name)


# ---- products ------------------------------------------------------------------------------------


def _product(name: str, first: str, second: str, result: str, batched: str = "xyr") -> None:
    """Shapes are written in letters, as for einsum; `batched` says which carry the batch."""

    def case(draw: Draw) -> Given:
        batch = draw.batch()
        sizes = {letter: draw.size() for letter in sorted(set(first + second))}

        def array(letters: str, who: str) -> Array:
            return draw.array(*(batch if who in batched else ()), *(sizes[c] for c in letters))

        x, y = array(first, "x"), array(second, "y")
        dots = ["..." if who in batched else "" for who in "xyr"]
        rule = f"{dots[0]}{first},{dots[1]}{second}->{dots[2]}{result}"
        return draw.call({"x": x, "y": y}, np.einsum(rule, x, y))

    FORMULAS[name] = case


_product("matmul", "mk", "kn", "mn")
_product("matmul_nt", "k", "nk", "n", "xr")
_product("matmul_nn", "k", "kn", "n", "xr")
_product("matmul_tn", "km", "kn", "mn")
_product("matmul_batched_nt", "mk", "nk", "mn")
_product("matvec", "mk", "k", "m")
_product("inner", "k", "k", "")
_product("outer", "m", "n", "mn")


@formula("matmul_bias")
def _(draw: Draw) -> Given:
    k, n = draw.size(), draw.size()
    x, y, bias = draw.array(*draw.batch(), k), draw.array(n, k), draw.array(n)
    return draw.call({"x": x, "y": y, "bias": bias}, x @ y.T + bias)


@formula("linear")
def _(draw: Draw) -> Given:
    i, o, bias = draw.size(), draw.size(), draw.flag()
    x, w, b = draw.array(*draw.batch(), i), draw.array(o, i), draw.array(o)
    weights = {"weight": w, "bias": b} if bias else {"weight": w}
    result = x @ w.T + (b if bias else 0)
    return Given("linear", {"x": x}, (result,), {"bias": bias}, weights, (o,))


# ---- convolutions --------------------------------------------------------------------------------


def windows(
    x: Array, size: tuple[int, ...], stride: int, pad: int, dilation: int, value: float = 0.0
) -> Array:
    """All windows over the last axes of x: [..., window position, offset in window]."""
    axes = tuple(range(x.ndim - len(size), x.ndim))
    widths = [(0, 0)] * (x.ndim - len(size)) + [(pad, pad)] * len(size)
    padded = np.pad(x, widths, constant_values=value)
    reach = tuple(dilation * (n - 1) + 1 for n in size)
    view = np.lib.stride_tricks.sliding_window_view(padded, reach, axes)
    for axis in range(len(size)):
        at = x.ndim - len(size) + axis
        view = np.take(view, range(0, view.shape[at], stride), at)
        view = np.take(view, range(0, reach[axis], dilation), x.ndim + axis)
    return view


def convolve(x: Array, k: Array, stride: int, pad: int, dilation: int, groups: int) -> Array:
    space = "yz"[: k.ndim - 2]
    offset = "ij"[: k.ndim - 2]
    view = windows(x, k.shape[2:], stride, pad, dilation)
    parts = []
    for xs, ks in zip(np.split(view, groups, 1), np.split(k, groups, 0), strict=True):
        parts.append(np.einsum(f"bc{space}{offset},oc{offset}->bo{space}", xs, ks))
    return np.concatenate(parts, 1)


def _window(draw: Draw) -> dict[str, int]:
    return {
        "stride": draw.whole(1, 3),
        "pad": draw.whole(0, 2),
        "dilation": draw.whole(1, 2),
        "groups": draw.whole(1, 3),
    }


def _conv(rank: int) -> Formula:
    def case(draw: Draw) -> Given:
        settings = _window(draw)
        groups = settings["groups"]
        kernel = tuple(draw.size(most=3) for _ in range(rank))
        space = tuple(draw.size(4) for _ in range(rank))
        need = [settings["dilation"] * (k - 1) + 1 - 2 * settings["pad"] for k in kernel]
        space = tuple(max(n, s) for n, s in zip(need, space, strict=True))
        x = draw.array(draw.size(most=2), groups * draw.size(most=2), *space)
        k = draw.array(groups * draw.size(most=2), x.shape[1] // groups, *kernel)
        return draw.call({"x": x, "k": k}, convolve(x, k, **settings), **settings)

    return case


FORMULAS["conv1d"] = _conv(1)
FORMULAS["conv2d"] = _conv(2)


def transposed(x: Array, k: Array, stride: int, pad: int, output_pad: int) -> Array:
    """Every input element adds its multiple of the kernel to a window of a wide output."""
    h, w = ((n - 1) * stride + s for n, s in zip(x.shape[2:], k.shape[2:], strict=True))
    wide = np.zeros((x.shape[0], k.shape[1], h + output_pad, w + output_pad))
    for y in range(x.shape[2]):
        for z in range(x.shape[3]):
            part = np.einsum("bc,coij->boij", x[:, :, y, z], k)
            wide[:, :, y * stride :, z * stride :][:, :, : k.shape[2], : k.shape[3]] += part
    return wide[:, :, pad : wide.shape[2] - pad, pad : wide.shape[3] - pad]


@formula("conv_transpose2d")
def _(draw: Draw) -> Given:
    stride = draw.whole(1, 3)
    given = {"stride": stride, "pad": draw.whole(0, 1), "output_pad": draw.whole(0, stride - 1)}
    x = draw.array(1, draw.size(most=3), draw.size(2, 4), draw.size(2, 4))
    k = draw.array(x.shape[1], draw.size(most=3), draw.size(2, 3), draw.size(2, 3))
    return draw.call({"x": x, "k": k}, transposed(x, k, **given), **given)


@formula("conv2d_upsampled")
def _(draw: Draw) -> Given:
    factor, r = draw.whole(1, 3), 2 * draw.whole(0, 2) + 1
    x = draw.array(draw.size(most=2), draw.size(most=3), draw.size(), draw.size())
    k = draw.array(draw.size(most=3), x.shape[1], r, r)
    repeated = x.repeat(factor, axis=2).repeat(factor, axis=3)
    result = convolve(repeated, k, 1, r // 2, 1, 1)
    return draw.call({"x": x, "k": k}, result, factor=factor)


@formula("conv")
def _(draw: Draw) -> Given:
    size, stride, o, bias = draw.whole(1, 3), draw.whole(1, 2), draw.size(), draw.flag()
    x = draw.array(draw.size(most=2), draw.size(most=3), draw.size(3), draw.size(3))
    w, b = draw.array(o, x.shape[1], size, size), draw.array(o)
    result = convolve(x, w, stride, size // 2, 1, 1) + (b[:, None, None] if bias else 0)
    weights = {"weight": w, "bias": b} if bias else {"weight": w}
    given = {"size": size, "stride": stride, "bias": bias}
    return Given("conv", {"x": x}, (result,), given, weights, (o,))


@formula("conv_transpose")
def _(draw: Draw) -> Given:
    size, stride, o = draw.whole(2, 3), draw.whole(1, 2), draw.size(most=3)
    x = draw.array(1, draw.size(most=3), draw.size(2, 4), draw.size(2, 4))
    w, b = draw.array(x.shape[1], o, size, size), draw.array(o)
    result = transposed(x, w, stride, 0, 0) + b[:, None, None]
    given = {"size": size, "stride": stride}
    return Given("conv_transpose", {"x": x}, (result,), given, {"weight": w, "bias": b}, (o,))


# ---- resizing and pools --------------------------------------------------------------------------


def _picture(draw: Draw) -> Array:
    return draw.array(draw.size(most=2), draw.size(most=3), draw.size(), draw.size())


@formula("upsample_nearest")
def _(draw: Draw) -> Given:
    x, factor = _picture(draw), draw.whole(1, 3)
    return draw.call({"x": x}, x.repeat(factor, 2).repeat(factor, 3), factor=factor)


@formula("resize_nearest")
def _(draw: Draw) -> Given:
    x, height, width = _picture(draw), draw.size(), draw.size()
    rows = [int(np.floor(i * x.shape[2] / height + 1e-9)) for i in range(height)]
    columns = [int(np.floor(i * x.shape[3] / width + 1e-9)) for i in range(width)]
    return draw.call({"x": x}, x[:, :, rows][:, :, :, columns], height=height, width=width)


def mixing(n: int, m: int, corners: bool) -> Array:
    """The matrix [m, n] that resizes n values to m linearly."""
    matrix = np.zeros((m, n))
    for i in range(m):
        if corners:
            place = i * (n - 1) / (m - 1) if m > 1 else 0.0
        else:
            place = max((i + 0.5) * n / m - 0.5, 0.0)
        low = min(int(np.floor(place + 1e-9)), n - 1)
        matrix[i, low] += 1 - (place - low)
        matrix[i, min(low + 1, n - 1)] += place - low
    return matrix


@formula("resize_bilinear")
def _(draw: Draw) -> Given:
    x, height, width, corners = _picture(draw), draw.size(), draw.size(), draw.flag()
    rows, columns = mixing(x.shape[2], height, corners), mixing(x.shape[3], width, corners)
    result = rows @ x @ columns.T
    return draw.call({"x": x}, result, height=height, width=width, align_corners=corners)


@formula("pixel_shuffle")
def _(draw: Draw) -> Given:
    f, b, c, h, w = draw.whole(1, 3), 2, draw.size(most=3), draw.size(), draw.size()
    x = draw.array(b, c * f * f, h, w)
    cut = x.reshape(b, c, f, f, h, w).transpose(0, 1, 4, 2, 5, 3)
    return draw.call({"x": x}, cut.reshape(b, c, h * f, w * f), factor=f)


@formula("pixel_unshuffle")
def _(draw: Draw) -> Given:
    f, b, c, h, w = draw.whole(1, 3), 2, draw.size(most=3), draw.size(), draw.size()
    x = draw.array(b, c, h * f, w * f)
    cut = x.reshape(b, c, h, f, w, f).transpose(0, 1, 3, 5, 2, 4)
    return draw.call({"x": x}, cut.reshape(b, c * f * f, h, w), factor=f)


def _pool(name: str, value: float, function: Callable[[Array], Array]) -> None:
    def case(draw: Draw) -> Given:
        size = draw.whole(1, 3)
        given = {"size": size, "stride": draw.whole(1, 3), "pad": draw.whole(0, size // 2)}
        x = draw.array(1, draw.size(most=3), draw.size(3), draw.size(3))
        view = windows(x, (size, size), given["stride"], given["pad"], 1, value)
        return draw.call({"x": x}, function(view), **given)

    FORMULAS[name] = case


_pool("max_pool2d", -np.inf, lambda view: view.max((-2, -1)))
_pool("avg_pool2d", 0.0, lambda view: view.mean((-2, -1)))


@formula("global_avg_pool")
def _(draw: Draw) -> Given:
    x = draw.array(2, draw.size(), *draw.data.draw(st.sampled_from([(3,), (4, 5)])))
    return draw.call({"x": x}, x.reshape(*x.shape[:2], -1).mean(-1))


@formula("global_max_pool")
def _(draw: Draw) -> Given:
    x = draw.array(2, draw.size(), *draw.data.draw(st.sampled_from([(3,), (4, 5)])))
    return draw.call({"x": x}, x.reshape(*x.shape[:2], -1).max(-1))


@formula("adaptive_avg_pool2d")
def _(draw: Draw) -> Given:
    x, height, width = _picture(draw), draw.size(), draw.size()
    (h, w), result = x.shape[2:], np.zeros((*x.shape[:2], height, width))
    for y in range(height):
        for z in range(width):
            rows = slice(y * h // height, -(-(y + 1) * h // height))
            columns = slice(z * w // width, -(-(z + 1) * w // width))
            result[:, :, y, z] = x[:, :, rows, columns].mean((2, 3))
    return draw.call({"x": x}, result, height=height, width=width)
