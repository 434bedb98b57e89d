"""Kernels of a random network by averaging over its initializations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from genjax.errors import check_choice, check_positive
from genjax.ntk.empirical import empirical_nngp, empirical_ntk
from genjax.typing import ApplyFn, Params, as_partial


class MonteCarloKernel(NamedTuple):
    """A mean over initializations and its error.

    Attributes:
      value: ``float[n1, n2]``.
      stderr: ``float[n1, n2]``, standard error of ``value``.
    """

    value: Array
    stderr: Array


def monte_carlo_kernel(
    init_fn: Callable[[Array], Params],
    apply_fn: ApplyFn,
    key: Array,
    x1: Array,
    x2: Array | None = None,
    *,
    kind: str = "ntk",
    n_samples: int,
    chunk: int = 8,
    max_bytes: int = 2**30,
) -> MonteCarloKernel:
    r"""Mean of the empirical NTK (trace over outputs) or NNGP kernel over random initializations.

    For any architecture, also those without a closed form at infinite width. The mean differs from the limit of
    infinite width by a bias of order 1 / width that more samples do not reduce.

    Args:
      init_fn: ``init_fn(key) -> params``, pure.
      apply_fn: ``apply_fn(params, x[n, ...]) -> float[n, c]``, pure, examples independent.
      key: typed PRNG key; sample i uses ``fold_in(key, i)``, whatever the number of samples or the chunk.
      x1: ``[n1, ...]``.
      x2: ``[n2, ...]``; None, or ``x1`` itself: the symmetric kernel.
      kind: ``"ntk"`` or ``"nngp"``.
      n_samples: number of initializations, at least 2.
      chunk: initializations computed at once.
      max_bytes: bound on temporary memory for a chunk, see :func:`empirical_ntk`.

    Returns:
      The mean and its standard error. Only running moments are kept.

    Raises:
      ValueError: an argument is out of range.

    References:
      Novak et al. (2019), arXiv:1810.05148, section 4; Chan et al. (1983), The American Statistician 37 (the running
      moments).
    """
    check_choice("kind", kind, ("ntk", "nngp"))
    check_positive("n_samples", n_samples, integer=True)
    check_positive("chunk", chunk, integer=True)
    check_positive("max_bytes", max_bytes, integer=True)
    if n_samples < 2:
        raise ValueError(f"`n_samples` must be at least 2 for a standard error, but {n_samples} came")
    chunk = min(chunk, n_samples)
    x2 = None if x2 is None or x2 is x1 else jnp.asarray(x2)
    options = (kind, int(n_samples), int(chunk), max(1, int(max_bytes) // chunk))
    return _monte_carlo(as_partial(init_fn), as_partial(apply_fn), key, jnp.asarray(x1), x2, *options)


@partial(jax.jit, static_argnums=(5, 6, 7, 8))
def _monte_carlo(
    init_fn: Callable[[Array], Params],
    apply_fn: ApplyFn,
    key: Array,
    x1: Array,
    x2: Array | None,
    kind: str,
    n_samples: int,
    chunk: int,
    max_bytes: int,
) -> MonteCarloKernel:
    def sample(i: Array) -> Array:
        params = init_fn(jax.random.fold_in(key, i))
        if kind == "nngp":
            return empirical_nngp(apply_fn, params, x1, x2)
        return empirical_ntk(apply_fn, params, x1, x2, max_bytes=max_bytes)

    def add(moments: tuple[Array, Array, Array], start: Array) -> tuple[tuple[Array, Array, Array], None]:
        """Mean and sum of squared deviations of two groups, joined."""
        count, mean, squares = moments
        index = start + jnp.arange(chunk)
        values = jax.vmap(sample)(index)
        weights = (index < n_samples).astype(values.dtype)
        new = jnp.sum(weights)
        new_mean = jnp.tensordot(weights, values, 1) / new
        new_squares = jnp.tensordot(weights, (values - new_mean) ** 2, 1)
        total, shift = count + new, new_mean - mean
        squares = squares + new_squares + shift**2 * (count * new / total)
        return (total, mean + shift * (new / total), squares), None

    shape = jax.eval_shape(sample, jnp.zeros((), int))
    zeros = jnp.zeros(shape.shape, shape.dtype)
    starts = jnp.arange(0, n_samples, chunk)
    (_, mean, squares), _ = jax.lax.scan(add, (jnp.zeros((), shape.dtype), zeros, zeros), starts)
    return MonteCarloKernel(mean, jnp.sqrt(squares / (n_samples - 1) / n_samples))
