r"""The lower tail of a positive error as a generalized Pareto law, and how far it can be read beyond the sample.

Below a threshold :math:`u`, errors of almost any law follow approximately

.. math::
   P(E \le \epsilon \mid E \le u) = \Big(\frac{\epsilon - e_0}{u - e_0}\Big)^a,

a generalized Pareto law of :math:`u - E` with shape :math:`-1/a` that ends at an error :math:`e_0`. An error is never
negative, so :math:`0 \le e_0`: that, as much as the sample, is what makes an extrapolation possible.

Numbers of misclassified points are whole. They are treated as the same law rounded down, so u is a whole number too,
and :math:`\epsilon` stands for the largest number allowed plus one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from genjax.volume.binomial import clopper_pearson

Numbers = NDArray[np.float64]

_GRID = 200
_DROP = 1.920729410347062
"""By how much a log likelihood may fall in a 95 % region: half the quantile of chi-squared with one degree."""
_NORMAL = 1.959963984540054


class LowerTail(NamedTuple):
    """All laws that a sample does not refute, the likeliest first.

    Attributes:
      endpoint: :math:`e_0 / u`, ``[g]``.
      exponent: :math:`a`, ``[g]``.
      threshold: u.
      mean_excess: by how much errors below u undercut it on average; of whole ones, the largest below u.
      n_below: errors below u.
      n: all errors.
      whole: whether errors are whole numbers.
    """

    endpoint: Numbers
    exponent: Numbers
    threshold: float
    mean_excess: float
    n_below: int
    n: int
    whole: bool


def fit_lower_tail(errors: Numbers, n_tail: int, *, whole: bool = False) -> LowerTail:
    r"""Fit the law to the smallest errors, by likelihood.

    Args:
      errors: ``[n]``, positive; whole ones may be 0.
      n_tail: how many of them make the tail, at least: with ties there may be more.
      whole: whether errors are whole numbers.

    Returns:
      The tail.

    References:
      Pickands (1975), Annals of Statistics 3; Coles (2001), An Introduction to Statistical Modeling of Extreme Values,
      chapter 4; Hitz, Davis & Samorodnitsky (2024), Discrete extremes, for whole numbers.
    """
    ordered, step = np.sort(np.asarray(errors, np.float64)), float(whole)
    threshold = float(ordered[n_tail - 1] + 1 if whole else ordered[n_tail - 1 : n_tail + 1].mean())
    values, repeats = np.unique(ordered[ordered < threshold], return_counts=True)
    low, high = values / threshold, (values + step) / threshold
    n = int(repeats.sum())
    # The endpoint by its distance from the smallest error, the exponent by its ratio to Hill's estimate: almost
    # orthogonal, so that a box holds the region.
    spread = 4 / np.sqrt(n) + step / 2
    gap, ratio = np.linspace(np.log(1e-4), 0, _GRID), np.linspace(-spread, spread, _GRID)
    for _ in range(2):  # over everything, then over what is not refuted
        endpoint = -high[0] * np.expm1(gap)[:, None]
        hill = -n / (_log_cdf((low + high) / 2, endpoint) @ repeats)[:, None]
        exponent = np.maximum(hill * np.exp(ratio), 1)
        if whole:
            fit = np.zeros_like(exponent)
            for edges, repeat in zip(zip(low, high, strict=True), repeats, strict=True):
                fit += repeat * _log_cell(*edges, endpoint, exponent)
        else:
            fit = n * (np.log(exponent) - np.log1p(-endpoint) - (exponent - 1) / hill)
        rows, columns = np.nonzero(fit >= fit.max() - _DROP)
        laws = endpoint[rows, 0], exponent[rows, columns]
        gap, ratio = _around(gap, rows), _around(ratio, columns)
    likeliest = np.argsort(-fit[rows, columns])
    mean_excess = float((threshold - step - values) @ repeats / n)
    return LowerTail(laws[0][likeliest], laws[1][likeliest], threshold, mean_excess, n, len(ordered), whole)


def tail_bias(tail: LowerTail, target_error: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    r"""Required inductive bias read off a tail.

    .. math::
       I(\epsilon) = -\ln \frac{n_u}{n} - a \ln \frac{\epsilon - e_0}{u - e_0} \quad\text{between}\quad
       -\ln \frac{n_u}{n} + \frac{u - \epsilon}{\bar y} \quad\text{and}\quad \max_{e_0, a} I(\epsilon),

    the maximum over what the likelihood does not refute: ``inf`` means that errors may well end before the target. The
    lower end is that of an exponential (of whole errors, geometric) tail of the sample's mean excess :math:`\bar y`
    below u, which a log probability concave in the error outruns in the end, or the least that the likelihood does not
    refute. Both ends allow for the errors of what they are made of.

    Args:
      tail: from :func:`fit_lower_tail`.
      target_error: ``[e]``, below the threshold; whole where errors are.

    Returns:
      The likeliest value within a 95 % interval, and its ends, nats, ``float64[e]`` each.

    References:
      Coles (2001), chapter 4 (profile likelihood of an extrapolated quantile); Bagnoli & Bergstrom (2005), Economic
      Theory 26 (log-concave laws); Zou & Donner (2008), Statistics in Medicine 27 (intervals of sums).
    """
    target = np.minimum(np.asarray(target_error, np.float64) + tail.whole, tail.threshold)
    log_share = np.log(tail.n_below / tail.n)
    share_low, share_high = clopper_pearson(tail.n_below, tail.n)

    def steepness(mean_excess: float) -> float:
        """Nats per unit of error."""
        return float(np.log1p(1 / mean_excess)) if tail.whole else 1 / mean_excess

    stderr = np.sqrt((1 + tail.whole / tail.mean_excess) / tail.n_below)  # of the log of the mean excess
    slope, slope_low = (steepness(tail.mean_excess * np.exp(shift)) for shift in (0, _NORMAL * stderr))
    excess = tail.threshold - target
    low = excess * slope - log_share - np.hypot(excess * (slope - slope_low), share_high - log_share)

    nats = -tail.exponent[:, None] * _log_cdf(target / tail.threshold, tail.endpoint[:, None])
    likeliest, least, most = nats[0], nats.min(axis=0), nats.max(axis=0)
    with np.errstate(invalid="ignore"):
        below = likeliest - log_share - np.hypot(likeliest - least, share_high - log_share)
        above = likeliest - log_share + np.hypot(most - likeliest, log_share - share_low)
    low = np.fmin(low, below)
    high = np.where(np.isinf(most), np.inf, above)
    return likeliest - log_share, low, high


def _log_cdf(x: Numbers, endpoint: Numbers) -> Numbers:
    """``ln (x - e0) / (1 - e0)``, in units of the threshold."""
    with np.errstate(divide="ignore"):
        return np.log(np.maximum(x - endpoint, 0)) - np.log1p(-endpoint)


def _log_cell(low: Numbers, high: Numbers, endpoint: Numbers, exponent: Numbers) -> Numbers:
    """Log probability of a whole number; ``-inf`` beyond the endpoint."""
    below, above = exponent * _log_cdf(low, endpoint), exponent * _log_cdf(high, endpoint)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.isinf(above), -np.inf, above + np.log(-np.expm1(below - above)))


def _around(grid: Numbers, chosen: NDArray[np.int_]) -> Numbers:
    """A finer grid over the chosen part of one, and a cell more on either side."""
    return np.linspace(grid[max(chosen.min() - 1, 0)], grid[min(chosen.max() + 1, _GRID - 1)], _GRID)
