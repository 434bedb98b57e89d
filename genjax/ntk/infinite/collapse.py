r"""Bias-free fully connected networks of homogeneous activations: any depth is one function of the angle.

There :math:`k(x, x') = |x| |x'| g(\theta)` and :math:`\Theta` alike. Weight variances only multiply g, so g is known
when the program is built: a Chebyshev series in the angle, fitted in double precision.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from genjax.ntk.infinite import duals
from genjax.ntk.infinite.activations import _PiecewiseLinear
from genjax.ntk.infinite.combinators import _Identity, _Serial
from genjax.ntk.infinite.linear import _Dense
from genjax.ntk.infinite.mixing import _Flatten
from genjax.ntk.infinite.state import Layer

Kinds = tuple[tuple[float, float] | None, ...]
DEGREES = (16, 24, 32, 48, 64, 96)


def of_network(net: Layer, dtype: Any) -> tuple[np.ndarray, ArrayLike] | None:
    """Series of g for both kernels and the product of weight variances; None where the network does not collapse."""
    layers = _flat(net)
    kinds: list[tuple[float, float] | None] = []
    scale: ArrayLike = 1.0
    for part in layers:
        if isinstance(part, _Dense) and not part.bias and part.parameterization == "ntk":
            kinds.append(None)
            scale = scale * jnp.asarray(part.weight_variance)
        elif isinstance(part, _PiecewiseLinear) and kinds and kinds[-1] is None and any((part.negative, part.positive)):
            kinds.append((part.negative, part.positive))
        elif not isinstance(part, _Identity | _Flatten):
            return None
    # Below two activations the recursion itself is as cheap.
    if sum(kind is not None for kind in kinds) < 2:
        return None
    coefficients = series(tuple(kinds), 1e-8 if jnp.finfo(dtype).bits < 64 else 1e-12)
    return None if coefficients is None else (coefficients, scale)


def _flat(net: Layer) -> list[Layer]:
    if isinstance(net, _Serial):
        return [inner for part in net.layers for inner in _flat(part)]
    return [net]


def profile(kinds: Kinds, theta: np.ndarray) -> np.ndarray:
    """NNGP and NTK of two unit vectors at given angles, all weight variances 1: ``float64[2, len(theta)]``.

    ``kinds`` holds the slopes of activations, and None for dense layers.
    """
    variance, ratio = 1.0, 2 * np.sin(theta / 2) ** 2
    tangent = np.zeros_like(theta)
    for slopes in kinds:
        if slopes is None:
            tangent = variance * (1 - ratio) + tangent
        else:
            _, slope, drop = duals.arc_cosine(ratio, slopes, np)
            gain = (slopes[0] ** 2 + slopes[1] ** 2) / 2
            tangent = slope * tangent
            variance, ratio = variance * gain, np.clip(drop / gain, 0, 2)
    return np.stack([variance * (1 - ratio), tangent])


@functools.lru_cache(maxsize=64)
def series(kinds: Kinds, tolerance: float) -> np.ndarray | None:
    """Chebyshev coefficients ``[2, degree + 1]`` in the angle, precise to a part of the largest value; or None."""
    for degree in DEGREES:
        nodes = np.cos(np.pi * (np.arange(degree + 1) + 0.5) / (degree + 1))
        values = profile(kinds, np.pi * (nodes + 1) / 2)
        coefficients = np.linalg.solve(np.polynomial.chebyshev.chebvander(nodes, degree), values.T).T
        check = np.cos(np.linspace(0, np.pi, 8 * degree + 1))
        exact = profile(kinds, np.pi * (check + 1) / 2)
        error = np.abs(np.polynomial.chebyshev.chebval(check, coefficients.T) - exact).max(axis=1)
        if np.all(error <= tolerance * np.abs(exact).max(axis=1)):
            return coefficients
    return None


def evaluate(coefficients: np.ndarray, theta: Array) -> Array:
    """Clenshaw's recurrence on [0, pi]."""
    s = theta * (2 / math.pi) - 1
    later, last = jnp.zeros_like(s), jnp.zeros_like(s)
    for coefficient in coefficients[:0:-1]:
        later, last = float(coefficient) + 2 * s * later - last, later
    return float(coefficients[0]) + s * later - last
