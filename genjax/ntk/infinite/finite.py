"""The finite network of the same architecture: what the kernels are limits of."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from genjax.errors import check_positive
from genjax.ntk.infinite.state import Field, Layer, Sizes
from genjax.typing import Params


def init(
    net: Layer, key: Array, x_shape: tuple[int, ...], width: int, *, outputs: int = 1, dtype: Any = None
) -> Params:
    """Random parameters of the network at a finite width.

    Args:
      net: the network.
      key: typed PRNG key.
      x_shape: shape of one input, ``(*S, channels)``.
      width: channels of hidden layers.
      outputs: c, channels of the last layer with parameters.
      dtype: of the parameters; JAX's default floating type if None.

    Returns:
      The parameters: standard normal numbers in the NTK parameterization, scaled ones in the standard one.

    Raises:
      ValueError: a size is not positive, or the input does not fit the network.

    References:
      Jacot et al. (2018), arXiv:1806.07572, section 3.
    """
    check_positive("width", width, integer=True)
    check_positive("outputs", outputs, integer=True)
    dtype = jnp.zeros(()).dtype if dtype is None else dtype
    return net.init(key, tuple(x_shape), Sizes(width, outputs), dtype)[0]


def apply(
    net: Layer,
    params: Params,
    x: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    pattern: ArrayLike | None = None,
    key: Array | None = None,
) -> Array:
    """Outputs of the finite network.

    Args:
      net: the network.
      params: of :func:`init`.
      x: inputs ``[n, *S, channels]``.
      mask: valid positions, ``bool[n, *S]``; None for all.
      pattern: adjacency matrices, ``float[n, P, P]``, for :func:`aggregate`.
      key: draws the masks of :func:`dropout`; without one nothing is dropped.

    Returns:
      ``float[n, c]``.

    References:
      Jacot et al. (2018), arXiv:1806.07572, section 3.
    """
    x = jnp.asarray(x)
    if mask is not None:
        mask = jnp.asarray(mask)
        x = jnp.where(mask[..., None], x, 0)
    return net.apply(params, Field(x, mask, None if pattern is None else jnp.asarray(pattern), key)).x
