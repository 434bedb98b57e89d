r"""Min-degree interpolators: what diffuse learners tend to on the unseen part of the Boolean cube.

Functions on :math:`\{\pm 1\}^d` are vectors of :math:`2^d` values or Fourier coefficients,
:math:`f(x) = \sum_S \hat f_S \prod_{i \in S} x_i`: bit i of a point's index is set where :math:`x_i = -1`, bit i of a
coefficient's where i is in S.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

# The Fourier matrix of more inputs would not fit in memory.
_MOST_INPUTS = 12


class MinDegree(NamedTuple):
    """The interpolator of least degree profile.

    Attributes:
      coefficients: ``float[2**d]``, in the Fourier basis.
      values: ``float[2**d]``, on the whole cube; those of the target where it is seen.
      unseen_error: mean squared difference from the target on the unseen points; 0 if there are none.
    """

    coefficients: np.ndarray
    values: np.ndarray
    unseen_error: float


def min_degree_interpolator(values: ArrayLike, seen: ArrayLike) -> MinDegree:
    r"""Interpolator of the seen points whose energy at high degree is least, from the highest degree down.

    Among functions equal to the target on the seen points it minimizes :math:`\sum_{|S| = d} \hat f_S^2`, then
    :math:`\sum_{|S| = d - 1} \hat f_S^2` among the minimizers, and so on: random features and other models without a
    preference among inputs tend to it.

    Args:
      values: ``float[2**d]``, the target on the whole cube, d at most 12.
      seen: ``bool[2**d]``, the training domain; not empty.

    Returns:
      The interpolator, in float64.

    Raises:
      TypeError: ``seen`` is not of booleans.
      ValueError: shapes disagree, the length is not a power of two or too large, a value is not finite, or nothing is
        seen.

    References:
      Abbe, Bengio, Lotfi and Rizk (2023), Generalization on the unseen, logic reasoning and degree curriculum,
      arXiv:2301.13105, definition 3 and theorem 1.

    Example:
      >>> import numpy as np
      >>> from genjax.dynamics.min_degree import min_degree_interpolator
      >>> product = np.array([1, -1, -1, 1])  # x0 x1, never seen where both are -1
      >>> print(np.round(min_degree_interpolator(product, np.arange(4) != 3).coefficients, 6) + 0.0)
      [-1.  1.  1.  0.]
    """
    values = np.asarray(values, np.float64)
    seen = np.asarray(seen)
    size = values.size
    d = size.bit_length() - 1
    if values.shape != (1 << d,) or d > _MOST_INPUTS:
        raise ValueError(f"`values` must have shape (2**d,) with d at most {_MOST_INPUTS}, but it is {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("`values` must be finite, but some are not")
    if seen.dtype != bool:
        raise TypeError(f"`seen` must be booleans, but its dtype is {seen.dtype}")
    if seen.shape != values.shape or not seen.any():
        raise ValueError(f"`seen` must mark at least one of {size} points, but {seen.sum()} of {seen.shape} came")
    index = np.arange(size)
    fourier = 1.0 - 2.0 * (np.bitwise_count(index[:, None] & index) % 2)
    degree = np.bitwise_count(index)
    # The target plus any function on the unseen points interpolates.
    coefficients = fourier @ values / size
    free = fourier[:, ~seen] / size**0.5
    for level in range(d, -1, -1):
        if not free.shape[1]:
            break
        left, s, right = np.linalg.svd(free[degree == level], full_matrices=True)
        rank = int(np.sum(s > 1e-10))
        push = right[:rank].T @ ((left[:, :rank].T @ coefficients[degree == level]) / s[:rank])
        coefficients = coefficients - free @ push
        free = free @ right[rank:].T
    found = fourier @ coefficients
    return MinDegree(coefficients, found, float(np.mean((found - values)[~seen] ** 2)) if not seen.all() else 0.0)
