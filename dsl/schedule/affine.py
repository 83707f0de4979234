"""Affine forms of index expressions: those of the graph, under the schedule's roof.

In and out: see `sdlc.graph.affine`. Invariant: nothing is defined here. Example: `affine(expr)`.
"""

from sdlc.graph.affine import Affine, affine, bare_axis

__all__ = ["Affine", "affine", "bare_axis"]
