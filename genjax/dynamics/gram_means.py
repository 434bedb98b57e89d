"""Means of Gram matrices: closed forms of linear deep kernel machines."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import solve_triangular
from jax.typing import ArrayLike

from genjax.errors import check_array, check_positive, check_symmetric


def geometric_mean(a: ArrayLike, b: ArrayLike, weight: float = 0.5) -> Array:
    r"""Weighted geometric mean of two positive definite matrices.

    .. math::  A \#_w B = A^{1/2} (A^{-1/2} B A^{-1/2})^w A^{1/2} .

    With linear kernels, no noise and all widths 1 layer l of L is the mean of the input Gram matrix and
    :math:`y y^T / c` at weight l / (L + 1).

    Args:
      a: ``float[n, n]``.
      b: ``float[n, n]``, may be singular.
      weight: w, 0 for ``a`` and 1 for ``b``.

    Returns:
      ``float[n, n]``; NaN where ``a`` is not positive definite.

    Raises:
      TypeError: an argument is not real numbers.
      ValueError: shapes disagree, or a known matrix is asymmetric.

    References:
      Bhatia (2007), Positive Definite Matrices, chapter 4 and 6.
    """
    a, b = square("a", a), square("b", b)
    if a.shape != b.shape:
        raise ValueError(f"`b` must have shape {a.shape}, that of `a`, but its shape is {b.shape}")
    return _between(a, b, lambda x: jnp.maximum(x, 0) ** weight)


def linear_optimum(
    input_gram: ArrayLike, label_gram: ArrayLike, *, width: float = 1.0, output_width: float = 1.0
) -> Array:
    r"""The optimum of one linear layer without noise, in closed form.

    It solves :math:`\nu_o S + (\nu - \nu_o) G - \nu\, G K^{-1} G = 0`; at equal widths it is the geometric mean of K
    and S.

    Args:
      input_gram: ``float[P, P]``, K.
      label_gram: ``float[P, P]``, S, the mean of y y^T over columns.
      width: nu.
      output_width: nu_o.

    Returns:
      ``float[P, P]``, G.

    Raises:
      TypeError: an argument is not real numbers.
      ValueError: shapes disagree, a known matrix is asymmetric, or a width is not positive.

    References:
      Yang et al. (2023), arXiv:2108.13097, the linear case; the closed form is genjax's own derivation.
    """
    check_positive("width", width)
    check_positive("output_width", output_width)
    k, s = square("input_gram", input_gram), square("label_gram", label_gram)
    if k.shape != s.shape:
        raise ValueError(f"`label_gram` must have shape {k.shape}, that of `input_gram`, but its shape is {s.shape}")
    excess = width - output_width
    return _between(
        k, s, lambda x: (excess + jnp.sqrt(excess**2 + 4 * width * output_width * jnp.maximum(x, 0))) / (2 * width)
    )


def square(name: str, matrix: ArrayLike) -> Array:
    """A symmetric matrix, or say what is wrong with it."""
    matrix = check_array(name, matrix, ndim=2)
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"`{name}` must be square, but its shape is {matrix.shape}")
    check_symmetric(name, matrix)
    return matrix


@jax.default_matmul_precision("highest")
def _between(a: Array, b: Array, function: Callable[[Array], Array]) -> Array:
    factor = jnp.linalg.cholesky(a)
    half = solve_triangular(factor, b, lower=True)
    relative = solve_triangular(factor, half.T, lower=True)
    values, vectors = jnp.linalg.eigh((relative + relative.T) / 2)
    frame = factor @ vectors
    return (frame * function(values)) @ frame.T
