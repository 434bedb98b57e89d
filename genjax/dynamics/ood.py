r"""The value of out-of-distribution data, in closed form for a threshold between two Gaussian classes.

Classes :math:`N(\pm\mu, \sigma^2)` are equally likely; in n target samples they are where they are tested, in m others
both are shifted by Delta. The classifier thresholds at the mean of what it saw (Fisher's discriminant in one
dimension, each class seen equally often).
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.scipy.special import ndtr
from jax.typing import ArrayLike

from genjax.errors import check_array


def fisher_ood_error(
    n_target: ArrayLike,
    n_shifted: ArrayLike,
    shift: ArrayLike,
    *,
    mean: ArrayLike = 5.0,
    std: ArrayLike = 10.0,
    target_weight: ArrayLike | None = None,
) -> Array:
    r"""Expected error on the target distribution of a threshold learned from target and shifted samples.

    With w the weight of the target samples' mean in the threshold,

    .. math::
       \text{error} = \tfrac12 \left[ \Phi\left( \tfrac{c - \mu}{s} \right)
         + \Phi\left( \tfrac{-c - \mu}{s} \right) \right], \qquad
       c = (1 - w) \Delta, \quad s^2 = \sigma^2 \left( 1 + \tfrac{w^2}{n} + \tfrac{(1 - w)^2}{m} \right).

    Pooling all samples is :math:`w = n / (n + m)`: then the error need not be monotone in m.

    Args:
      n_target: ``float[...]``, n, at least 1; all arguments broadcast.
      n_shifted: ``float[...]``, m, at least 0.
      shift: ``float[...]``, Delta.
      mean: ``float[...]``, mu.
      std: ``float[...]``, sigma, positive.
      target_weight: ``float[...]``, w in [0, 1]; without shifted samples it is 1 whatever is given. Pooled by default.

    Returns:
      ``float[...]``; NaN where a traced argument is out of range.

    Raises:
      TypeError: an argument is not real numbers.
      ValueError: a known argument is out of range.

    References:
      De Silva et al. (2023), The value of out-of-distribution data, arXiv:2208.10967.

    Example:
      >>> from genjax.dynamics.ood import fisher_ood_error
      >>> print(" ".join(f"{error:.4f}" for error in fisher_ood_error(20, [0, 64, 1024], 1.8)))
      0.3128 0.3112 0.3113
    """
    n = check_array("n_target", n_target, minimum=1)
    m = check_array("n_shifted", n_shifted, minimum=0)
    shift, mean = check_array("shift", shift), check_array("mean", mean)
    std = check_array("std", std, minimum=0)
    w = n / (n + m) if target_weight is None else check_array("target_weight", target_weight, minimum=0)
    w = jnp.where(m > 0, w, 1)
    c = (1 - w) * shift
    s = std * jnp.sqrt(1 + w**2 / n + jnp.where(m > 0, (1 - w) ** 2 / jnp.where(m > 0, m, 1), 0))
    error = (ndtr((c - mean) / s) + ndtr((-c - mean) / s)) / 2
    return jnp.where((n >= 1) & (m >= 0) & (std > 0) & (w >= 0) & (w <= 1), error, jnp.nan)
