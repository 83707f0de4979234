"""Formulas for the Winograd operators: the matrices from NumPy's polynomials, the rest from them.

The constants are rounded to f32 where a program stores them, so a whole convolution is compared
where they are exact, for tiles of one and two outputs; larger tiles are tested with the rules.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stdlib_formulas import FORMULAS, Array, Draw, Given, convolve, formula

POINTS = np.array([0, 1, -1, 2, -2, 0.5, -0.5])


def _single(array: Array) -> Array:
    return array.astype(np.float32).astype(np.float64)


def input_matrix(m: int, r: int) -> Array:
    points = POINTS[: m + r - 2]
    rows = [np.append(_product(np.delete(points, i)), 0.0) for i in range(len(points))]
    return _single(np.array([*rows, _product(points)]))


def _product(points: Array) -> Array:
    """The coefficients of the product of x - p, the constant first."""
    return np.atleast_1d(np.poly(points))[::-1]


def weight_matrix(m: int, r: int) -> Array:
    points = POINTS[: m + r - 2]
    distances = [np.prod(p - np.delete(points, i)) for i, p in enumerate(points)]
    finite = np.vander(points, r, increasing=True) / np.array(distances).reshape(-1, 1)
    return _single(np.vstack([finite, np.eye(r)[-1:]]))


def output_matrix(m: int, r: int) -> Array:
    finite = np.vander(POINTS[: m + r - 2], m, increasing=True).T
    return _single(np.hstack([finite, np.eye(m)[:, -1:]]))


def _matrix(name: str, made: Callable[[int, int], Array]) -> None:
    def case(draw: Draw) -> Given:
        m, r = draw.whole(1, 6), draw.whole(1, 3)
        return draw.call({}, made(m, r), m=m, r=r)

    FORMULAS[name] = case


_matrix("winograd_input_matrix", input_matrix)
_matrix("winograd_weight_matrix", weight_matrix)
_matrix("winograd_output_matrix", output_matrix)


@formula("winograd_weights2d")
def _(draw: Draw) -> Given:
    m, r = draw.whole(1, 6), draw.whole(1, 3)
    k = draw.array(draw.size(most=3), draw.size(most=3), r, r)
    g = weight_matrix(m, r)
    return draw.call({"k": k}, np.einsum("is,jt,ocst->ijco", g, g, k), m=m)


@formula("winograd_tiles2d")
def _(draw: Draw) -> Given:
    m, r = draw.whole(1, 6), draw.whole(1, 3)
    x = draw.array(draw.size(most=2), draw.size(most=2), draw.size(), draw.size())
    n, tiles = m + r - 1, [-(-s // m) for s in x.shape[2:]]
    wide = np.zeros((*x.shape[:2], *(m * t + n for t in tiles)))
    wide[:, :, r // 2 : r // 2 + x.shape[2], r // 2 : r // 2 + x.shape[3]] = x
    view = np.lib.stride_tricks.sliding_window_view(wide, (n, n), (2, 3))[:, :, ::m, ::m]
    t = input_matrix(m, r)
    cut = view[:, :, : tiles[0], : tiles[1]]
    return draw.call({"x": x}, np.einsum("ip,jq,bcyzpq->ijbcyz", t, t, cut), m=m, r=r)


@formula("winograd_products2d")
def _(draw: Draw) -> Given:
    n, channels = draw.size(most=4), draw.size(most=3)
    v = draw.array(n, n, draw.size(most=2), channels, draw.size(most=3), draw.size(most=3))
    u = draw.array(n, n, channels, draw.size(most=3))
    return draw.call({"v": v, "u": u}, np.einsum("ijbcyz,ijco->ijboyz", v, u))


def _convolution(rank: int) -> Callable[[Draw], Given]:
    def case(draw: Draw) -> Given:
        m, channels = draw.whole(1, 2), draw.size(most=3)
        r = 3 if m == 2 else draw.whole(0, 1) * 2 + 1
        x = draw.array(draw.size(most=2), channels, *(draw.size() for _ in range(rank)))
        k = draw.array(draw.size(most=3), channels, *(r,) * rank)
        return draw.call({"x": x, "k": k}, convolve(x, k, 1, r // 2, 1, 1), m=m)

    return case


FORMULAS["winograd_conv1d"] = _convolution(1)
FORMULAS["winograd_conv2d"] = _convolution(2)
