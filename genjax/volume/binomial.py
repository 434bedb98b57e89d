r"""Probabilities counted in independent draws: log proportions with intervals that hold for every count."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray

from genjax.errors import Status
from genjax.estimate import Estimate
from genjax.volume._host import host_array

LEVEL = 0.95
"""Coverage of the intervals in an :class:`genjax.estimate.Estimate`."""


def clopper_pearson(
    hits: ArrayLike, trials: ArrayLike, level: float = LEVEL
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""Log of the Clopper-Pearson interval of a probability: it covers at least as often as it says.

    .. math::
       \big[\ln B_{\alpha/2}(k, n - k + 1),\ \ln B_{1 - \alpha/2}(k + 1, n - k)\big], \qquad \alpha = 1 - \text{level}

    with :math:`B_q(a, b)` the q-quantile of the beta law, 0 at :math:`k = 0` and 1 at :math:`k = n`. There, too, the
    other end leaves out :math:`\alpha / 2` only: a bound that becomes tighter because nothing was seen would cover less
    often than the interval says.

    Args:
      hits: k, whole, from 0 to ``trials``.
      trials: n, whole, up to :math:`2^{53}`; broadcasts against ``hits``. 0 gives the interval from 0 to 1.
      level: coverage, in (0, 1).

    Returns:
      Lower and upper end, ``float64[...]``, nats, at most 0; ``-inf`` for the lower one where there are no hits.

    Raises:
      ValueError: counts that are not whole or out of range, or a level that is.

    References:
      Clopper & Pearson (1934), Biometrika 26; Brown, Cai & DasGupta (2001), Statistical Science 16 (its coverage).
    """
    from scipy.special import betainccinv, betaincinv

    k, n = host_array("hits", hits, at_least=0, whole=True), host_array("trials", trials, at_least=0, whole=True)
    k, n = np.broadcast_arrays(k, n)
    if (k > n).any():
        raise ValueError(f"`hits` must be at most `trials`, but {k[k > n].flat[0]:g} of {n[k > n].flat[0]:g} came")
    if not 0 < level < 1:
        raise ValueError(f"`level` must be strictly between 0 and 1, but {level!r} came")
    left_out = (1 - level) / 2

    def log_quantile(a: NDArray[np.float64], b: NDArray[np.float64], upper: bool) -> NDArray[np.float64]:
        share, rest = (betainccinv, betaincinv) if upper else (betaincinv, betainccinv)
        p = share(a, b, left_out)
        # Near 1 it is the complement that has the digits: q is a quantile of B(a, b) as 1 - q is of B(b, a).
        complement = rest(b, a, left_out)
        return np.where(p < 0.5, np.log(p), np.log1p(-complement))

    with np.errstate(all="ignore"):
        # Where a parameter is 0 the law is a point mass, and the quantile is set by hand.
        low = np.where(k > 0, log_quantile(np.maximum(k, 1), n - k + 1, False), -np.inf)
        high = np.where(k < n, log_quantile(k + 1, np.maximum(n - k, 1), True), 0.0)
    return low, high


def log_proportion(hits: ArrayLike, trials: ArrayLike, given: str = "") -> Estimate:
    r"""Log probability of an event from its share among independent draws, with its Clopper-Pearson interval.

    Args:
      hits: k, ``[...]``, whole, from 0 to ``trials``.
      trials: n, whole; broadcasts against ``hits``.
      given: what the probability is conditioned on, in words.

    Returns:
      :math:`\ln k/n` in nats with 95 % bounds and standard error :math:`\sqrt{1/k - 1/n}`. Where there are no hits the
      status is ``BOUND`` and the value the upper end of the interval; where there are no trials either, 0.

    Raises:
      ValueError: see :func:`clopper_pearson`.

    References:
      See :func:`clopper_pearson`; the standard error is the delta method's.
    """
    low, high = clopper_pearson(hits, trials)
    k, n = np.broadcast_arrays(np.asarray(hits, float), np.asarray(trials, float))
    with np.errstate(divide="ignore", invalid="ignore"):
        seen = k > 0
        value = np.where(seen, np.log(k / n), high)
        stderr = np.where(seen, np.sqrt(1 / k - 1 / n), np.inf)
    return Estimate(
        value=jnp.asarray(value),
        stderr=jnp.asarray(stderr),
        error_bound=jnp.zeros_like(jnp.asarray(value)),
        status=jnp.where(seen, Status.OK, Status.BOUND).astype(jnp.int32),
        given=given,
        bounds=(jnp.asarray(low), jnp.asarray(high)),
    )


def bias_of_proportion(hits: ArrayLike, trials: ArrayLike, given: str = "") -> Estimate:
    r"""Required inductive bias :math:`I = -\ln P` from the share of draws that generalize among those that fit.

    Given the number that fit, the number among them that generalize is binomial, so the interval is exact.

    Args:
      hits: draws that fit and generalize, ``[...]``, whole, from 0 to ``trials``.
      trials: draws that fit, whole.
      given: what the probability is conditioned on, in words.

    Returns:
      Minus :func:`log_proportion`: where there are no hits the value is the lower end of an interval up to infinity.

    Raises:
      ValueError: see :func:`clopper_pearson`.

    References:
      See :func:`clopper_pearson`.
    """
    log_p = log_proportion(hits, trials, given)
    assert log_p.bounds is not None
    low, high = log_p.bounds
    # Zero minus, so that certainty is +0.
    return Estimate(0.0 - log_p.value, log_p.stderr, log_p.error_bound, log_p.status, given, (0.0 - high, 0.0 - low))
