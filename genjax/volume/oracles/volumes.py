"""Balls, ellipsoids and basins: Gaussian mass and Lebesgue volume, in log space."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaincc, gammaln, logsumexp

from genjax.errors import GenjaxError
from genjax.volume._host import host_array, spectrum

# Terms below e^-45 of the largest change nothing in float64, even summed over a long window.
_NEGLIGIBLE = -45.0
_MAX_RUBEN_TERMS = 4096


def ball_log_prob(dimension: ArrayLike, squared_radius: ArrayLike) -> NDArray[np.float64]:
    r"""Log probability that a standard normal vector falls in a centered ball.

    .. math::

        \ln P(|z|^2 \le r^2) = \ln P(D/2, r^2/2), \qquad
            P(a, x) = \frac{x^a e^{-x}}{\Gamma(a+1)} \sum_{n \ge 0} \frac{x^n}{(a+1) \cdots (a+n)}

    with :math:`D` = ``dimension`` and :math:`r^2` = ``squared_radius``. All terms are positive, so the relative error
    stays near 1e-13 at any depth below the mean; above it the complement is used.

    Args:
      dimension: positive; need not be whole, so this is also the chi-squared log CDF.
      squared_radius: non-negative; broadcasts against ``dimension``.

    Returns:
      ``float64[...]``, nats, at most 0; ``-inf`` at radius zero.

    References:
      Abramowitz & Stegun (1964), 6.5.29.

    Example:
      >>> round(float(ball_log_prob(1000, 100)), 9)
      -705.213841446
    """
    a = host_array("dimension", dimension, above=0) / 2
    x = host_array("squared_radius", squared_radius, at_least=0) / 2
    a, x = np.broadcast_arrays(a, x)
    low = np.minimum(x, a)
    with np.errstate(divide="ignore"):
        below = _log_poisson(a, low) + np.log(_positive_series(a, low))
        above = np.log1p(-gammaincc(a, np.maximum(x, a)))
    return np.where(x < a, below, above)


def noncentral_chi2_logcdf(x: ArrayLike, df: ArrayLike, nc: ArrayLike) -> NDArray[np.float64]:
    r"""Log CDF of the non-central chi-squared law, at depths where libraries underflow.

    .. math::

        \ln P(\chi'^2_\nu(\delta) \le x)
            = \ln \sum_j e^{-\delta/2} \frac{(\delta/2)^j}{j!} P\left(\tfrac{\nu}{2} + j, \tfrac{x}{2}\right)

    with :math:`\nu` = ``df`` and :math:`\delta` = ``nc``, summed over a window around the largest term that grows until
    both ends are negligible.

    Args:
      x: non-negative.
      df: positive degrees of freedom.
      nc: non-negative non-centrality; the three broadcast.

    Returns:
      ``float64[...]``, nats, at most 0.

    References:
      Johnson, Kotz & Balakrishnan (1995), Continuous Univariate Distributions 2, ch. 29.
    """
    arrays = (host_array("x", x, at_least=0), host_array("df", df, above=0), host_array("nc", nc, at_least=0))
    return np.vectorize(_noncentral_logcdf, otypes=[np.float64])(*arrays)


def ellipsoid_log_prob(eigenvalues: ArrayLike, cutoff: float) -> float:
    r"""Log probability of a quadratic basin under a standard normal prior.

    .. math::

        \ln P(\tfrac12 z^\top H z \le c) = \ln \sum_k c_k\, P\left(\tfrac{D}{2} + k, \tfrac{c}{h_{min}}\right),
            \qquad c_0 = \prod_i \sqrt{h_{min} / h_i}, \qquad
            c_k = \frac{1}{2k} \sum_{r<k} c_r \sum_i (1 - h_{min}/h_i)^{k-r}

    with :math:`h` = ``eigenvalues`` of :math:`H` and :math:`c` = ``cutoff``. A mixture with positive weights: exact,
    and quick for rare events, whatever the depth.

    Args:
      eigenvalues: ``[D]``, positive.
      cutoff: positive.

    Returns:
      Nats, at most 0.

    Raises:
      GenjaxError: the series needs too many terms: the event is common and the spectrum wide.

    References:
      Ruben (1962), Probability content of regions under spherical normal distributions IV.
    """
    h = spectrum("eigenvalues", eigenvalues)
    x = float(host_array("cutoff", cutoff, above=0)) / h.min()
    a = h.size / 2
    # Weights carry a factor s^k, the rate at which the chi-squared terms shrink, so that neither over- nor underflows.
    s = min(1.0, x / a)
    ratios = 1 - h.min() / h
    weights, sums, size = np.ones(1), np.zeros(0), 64
    while size <= _MAX_RUBEN_TERMS:
        orders = np.arange(sums.size + 1, size + 1)
        sums = np.concatenate([sums, [0.5 * np.sum((s * ratios) ** k) for k in orders]])
        for k in orders:
            weights = np.append(weights, weights @ sums[k - 1 :: -1] / k)
        with np.errstate(divide="ignore"):
            order = np.arange(weights.size)
            terms = np.log(weights) - order * np.log(s) + ball_log_prob(2 * (a + order), 2 * x)
        if not ratios.any() or terms[-1] - terms.max() < _NEGLIGIBLE:
            return min(0.0, float(logsumexp(terms) + 0.5 * np.sum(np.log(h.min() / h))))
        size *= 2
    raise GenjaxError(
        f"the series for {h.size} eigenvalues with ratio {h.max() / h.min():.3g} at cutoff {cutoff:g} needs more than "
        f"{_MAX_RUBEN_TERMS} terms; it is meant for rare events"
    )


def quadratic_basin_log_volume(eigenvalues: ArrayLike, cutoff: ArrayLike) -> NDArray[np.float64]:
    r"""Log Lebesgue volume of a quadratic basin.

    .. math::

        \ln \mathrm{vol}\{w : \tfrac12 w^\top H w \le c\} = \ln V_D + \tfrac{D}{2} \ln 2c - \tfrac12 \ln \det H, \qquad
            V_D = \pi^{D/2} / \Gamma(D/2 + 1)

    with the ``eigenvalues`` of :math:`H` and :math:`c` = ``cutoff``.

    Args:
      eigenvalues: ``[D]``, positive.
      cutoff: positive, any shape.

    Returns:
      ``float64[...]`` of the cutoff's shape, nats.

    References:
      Volume of an ellipsoid.
    """
    h = spectrum("eigenvalues", eigenvalues)
    c = host_array("cutoff", cutoff, above=0)
    d = h.size
    return d / 2 * np.log(2 * np.pi * c) - gammaln(d / 2 + 1) - 0.5 * np.sum(np.log(h))


def normal_crossing_log_prob(error: ArrayLike) -> NDArray[np.float64]:
    r"""Log probability of a singular basin: two crossing lines.

    .. math::

        \ln P((w_1 w_2)^2 \le \epsilon) = \ln z + \ln(1 - \ln z), \quad z = \sqrt\epsilon, \qquad
            w \sim \mathrm{U}[-1, 1]^2

    with :math:`\epsilon` = ``error``. Learning coefficient 1/2, multiplicity 2.

    Args:
      error: positive.

    Returns:
      ``float64[...]``, nats, at most 0 (from error 1 on).

    References:
      Watanabe (2009), Algebraic Geometry and Statistical Learning Theory (normal crossings).
    """
    log_z = np.minimum(np.log(host_array("error", error, above=0)) / 2, 0)
    return log_z + np.log1p(-log_z)


def monomial_log_prob(error: ArrayLike, k: ArrayLike) -> NDArray[np.float64]:
    r"""Log probability of a flat minimum on a line.

    .. math::

        \ln P(w^{2k} \le \epsilon) = \frac{\ln \epsilon}{2k}, \qquad w \sim \mathrm{U}[-1, 1]

    Args:
      error: :math:`\epsilon`, positive.
      k: positive; half the degree. The learning coefficient is ``1 / (2 k)``.

    Returns:
      ``float64[...]``, nats, at most 0 (from error 1 on).

    References:
      Watanabe (2009), Algebraic Geometry and Statistical Learning Theory.
    """
    return np.minimum(np.log(host_array("error", error, above=0)), 0) / (2 * host_array("k", k, above=0))


def _log_poisson(a: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """``log(x^a e^-x / Gamma(a + 1))``; for large ``a`` the big terms are cancelled by hand (Stirling)."""
    large = np.maximum(a, 30)
    stirling = (1 / 12 - (1 / 360 - (1 / 1260 - 1 / 1680 / large**2) / large**2) / large**2) / large
    offset = (x - large) / large
    with np.errstate(divide="ignore", invalid="ignore"):
        log_ratio = np.where(np.abs(offset) < 0.5, np.log1p(np.maximum(offset, -0.5)), np.log(x / large))
        big = large * (log_ratio - offset) - 0.5 * np.log(2 * np.pi * large) - stirling
        # 0 log 0 is 0 here: the Poisson law of mean zero.
        small = np.where(a == 0, 0, a * np.log(x)) - x - gammaln(a + 1)
    return np.where(a < 30, small, big)


def _positive_series(a: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """``sum_n x^n / ((a+1) ... (a+n))``; for ``x <= a`` about ``9 sqrt(a)`` terms suffice."""
    term, total, n = np.ones_like(a), np.ones_like(a), 0
    while np.any(term > 1e-18 * total):
        n += 1
        term = term * x / (a + n)
        total = total + term
    return total


def _noncentral_logcdf(x: float, df: float, nc: float) -> float:
    if x == 0:
        return -np.inf
    # In the far tail consecutive terms have ratio (nc/2) (x/2) / (j (df/2 + j)); in the bulk (nc/2) / j.
    tail_mode = (np.sqrt((df / 2) ** 2 + nc * x) - df / 2) / 2
    mode = int(min(tail_mode, nc / 2))
    width = int(12 * np.sqrt(mode + 1) + 40)
    while True:
        j = np.arange(max(0, mode - width), mode + width + 1, dtype=np.float64)
        terms = _log_poisson(j, np.asarray(nc / 2)) + ball_log_prob(df + 2 * j, x)
        ends = terms[-1] if j[0] == 0 else max(terms[0], terms[-1])
        if ends - terms.max() < _NEGLIGIBLE:
            return min(0.0, float(logsumexp(terms)))
        width *= 2
