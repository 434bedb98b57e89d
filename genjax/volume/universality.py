r"""The weight of a truth under a prior, and what learning it costs: the universal-prediction lens.

A Bayesian mixture over the prior predicts n examples with a regret, relative to the truth :math:`f^*`, of at most

.. math::
   n \bar R \le \min_\epsilon\, [\, n \epsilon - \log W(\epsilon)\, ], \qquad
   W(\epsilon) = P_{f \sim \text{prior}}(KL(f^* \| f) \le \epsilon),

so the prior mass near the truth is all that matters. References: Barron & Cover (1991), Minimum complexity density
estimation; Wilson (2025), arXiv:2503.02113 (the lens on deep learning).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial
from jax.typing import ArrayLike
from numpy.typing import NDArray

from genjax.errors import check_array, check_positive
from genjax.typing import Params
from genjax.volume.curve import EventCurve
from genjax.volume.simulation import log_probability
from genjax.volume.spaces import HypothesisSpace


def truth_log_weight(
    space: HypothesisSpace,
    x: ArrayLike,
    truth: ArrayLike,
    target_divergence: ArrayLike,
    *,
    noise: float,
    **options: Any,
) -> EventCurve:
    r"""Log prior mass of the hypotheses within a Kullback-Leibler ball of the truth, under Gaussian noise.

    .. math::
       KL(f^* \| f) = \frac{1}{2 \sigma^2 n} \sum_i |f(x_i) - f^*(x_i)|^2

    in nats per example, an average over the inputs given.

    Args:
      space: the prior.
      x: ``float[n, ...]``, inputs that stand for their law.
      truth: ``float[n, c]``, the true function on them.
      target_divergence: ``float[e]``, the epsilons, nats per example, positive.
      noise: :math:`\sigma^2`, variance of the observation noise.
      **options: of :func:`log_probability`: ``key`` is required; ``method`` and the others as there.

    Returns:
      Curve of log W(epsilon).

    Raises:
      ValueError: a divergence or noise that is not positive, or shapes that disagree.

    References:
      Barron & Cover (1991); see the module.
    """
    check_positive("noise", noise)
    inputs = check_array("x", x)
    outputs = check_array("truth", truth, shape=(inputs.shape[0], None))
    epsilon = check_array("target_divergence", target_divergence)
    if not bool(jnp.all(epsilon > 0)):
        raise ValueError(f"`target_divergence` must be positive, but {float(epsilon.min()):g} came")
    divergence = Partial(_divergence, space.apply_fn, inputs, outputs, jnp.asarray(noise, float))
    return log_probability(space, divergence, epsilon, **options)


def _divergence(apply_fn: Partial, x: Array, truth: Array, noise: Array, params: Params) -> Array:
    return jnp.sum((apply_fn(params, x) - truth) ** 2) / (2 * noise * len(x))


class RegretBound(NamedTuple):
    """What the mixture pays at most.

    Attributes:
      per_example: bound on the mean regret, nats per example, ``float64[n]`` by number of examples.
      divergence: the epsilon that attains it, ``float64[n]``.
    """

    per_example: NDArray[np.float64]
    divergence: NDArray[np.float64]


def regret_bound(target_divergence: ArrayLike, log_weight: ArrayLike, n_examples: ArrayLike) -> RegretBound:
    r"""Bound on the regret of the Bayesian mixture from a curve of prior masses.

    .. math::
       \bar R(n) \le \min_\epsilon\, [\, \epsilon - \tfrac1n \log W(\epsilon)\, ]

    Args:
      target_divergence: ``float[e]``, nats per example.
      log_weight: ``float[e]``, log W, nats, at most 0; for a guaranteed bound its lower confidence ends.
      n_examples: ``float[...]``, numbers of examples, positive.

    Returns:
      The bound, over the epsilons given, for each number of examples.

    Raises:
      ValueError: lengths disagree, a weight is positive, or a number of examples is not positive.

    References:
      Barron & Cover (1991), Minimum complexity density estimation (index of resolvability).
    """
    epsilon, weight = np.atleast_1d(np.asarray(target_divergence, float)), np.atleast_1d(np.asarray(log_weight, float))
    n = np.asarray(n_examples, float)
    if epsilon.shape != weight.shape or epsilon.ndim != 1:
        raise ValueError(
            f"`target_divergence` and `log_weight` must be vectors of one length, but {epsilon.shape} and "
            f"{weight.shape} came"
        )
    if not (weight <= 0).all():
        raise ValueError("`log_weight` must be at most 0, being the log of a probability, but a larger one came")
    if not (n > 0).all():
        raise ValueError("`n_examples` must be positive, but a smaller one came")
    bounds = epsilon - weight / n[..., None]
    return RegretBound(bounds.min(axis=-1), epsilon[bounds.argmin(axis=-1)])
