"""Perceptrons whose volumes are known: teacher-student cap, succession, separability, Boolean inputs."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import betainc, betaln, gammaln, log_ndtr, logsumexp

from genjax.volume._host import host_array, log1mexp


def spherical_cap_log_prob(dimension: ArrayLike, angle_fraction: ArrayLike) -> NDArray[np.float64]:
    r"""Log prior probability that a random perceptron generalizes with error at most ``angle_fraction``.

    .. math::

        \ln P(\epsilon_g \le e) = \ln \tfrac12 I_{\sin^2 \pi e}\left(\tfrac{N-1}{2}, \tfrac12\right), \qquad e \le 1/2

    and :math:`1 - P(\epsilon_g \le 1 - e)` beyond, with :math:`N` = ``dimension`` and :math:`e` = ``angle_fraction``:
    on isotropic inputs the error is the angle to the teacher over :math:`\pi`, so this is the share of a spherical cap.

    Args:
      dimension: at least 2.
      angle_fraction: in [0, 1]; broadcasts against ``dimension``.

    Returns:
      ``float64[...]``, nats, at most 0; ``-inf`` at 0.

    References:
      Li (2011), Concise formulas for the area and volume of a hyperspherical cap.
    """
    a = (host_array("dimension", dimension, at_least=2) - 1) / 2
    e = host_array("angle_fraction", angle_fraction, at_least=0, at_most=1)
    a, e = np.broadcast_arrays(a, e)
    sine, cosine = np.sin(np.pi * np.minimum(e, 1 - e)) ** 2, np.cos(np.pi * e) ** 2
    log_share = _log_cap(a, sine)
    # Past a tenth of the sphere the complement is accurate where x -> 1 makes sin^2 lose digits.
    wide = (1 - betainc(0.5, a, cosine)) / 2
    log_share = np.where(wide > 0.1, np.log(np.maximum(wide, 0.1)), log_share)
    return np.where(e <= 0.5, log_share, np.log1p(-np.exp(log_share)))


def succession_log_fit(k: ArrayLike, rho: ArrayLike = 0.5) -> NDArray[np.float64]:
    r"""Log probability that a random hypothesis is right on ``k`` exchangeable examples.

    .. math::

        \ln P(k) = \ln E_{t \sim N(0,1)} \Phi\left(\sqrt{\rho/(1-\rho)}\, t\right)^k

    the orthant probability of ``k`` equicorrelated normal scores. At :math:`\rho = 1/2` (features
    :math:`(e_0 + e_i)/\sqrt2`, labels all plus) it is Laplace's :math:`1/(k+1)`; at :math:`\rho = 0`, :math:`2^{-k}`.

    Args:
      k: whole, non-negative.
      rho: correlation, in [0, 1); broadcasts against ``k``.

    Returns:
      ``float64[...]``, nats, at most 0.

    References:
      Tong (1990), The Multivariate Normal Distribution (exchangeable normal variables).
    """
    arrays = host_array("k", k, at_least=0, whole=True), host_array("rho", rho, at_least=0, below=1)
    return np.vectorize(_log_orthant, otypes=[np.float64])(*arrays)


def succession_inductive_bias(k: int, j: int, error: ArrayLike) -> NDArray[np.float64]:
    r"""Inductive bias of the succession perceptron: fit ``k`` examples, then err on at most a share of ``j`` others.

    The number of test errors is beta-binomial, :math:`\mathrm{BetaBin}(j; 1, k+1)`, so with
    :math:`e = \lfloor \epsilon j \rfloor`

    .. math::

        I(\epsilon) = -\ln\left(1 - \prod_{i=0}^{e} \frac{j-i}{k+1+j-i}\right)

    because more than :math:`e` errors happen when the :math:`e+1` largest of :math:`k+1+j` exchangeable variables are
    all test ones.

    Args:
      k: number of training examples, whole, non-negative.
      j: number of test examples, whole, positive.
      error: largest share of test errors allowed, in [0, 1].

    Returns:
      ``float64[...]`` of the shape of ``error``, nats, non-negative; accurate relatively even when tiny.

    References:
      Laplace's rule of succession; the score model of :func:`succession_log_fit` at rho = 1/2.
    """
    n_train = float(host_array("k", k, at_least=0, whole=True))
    n_test = int(host_array("j", j, at_least=1, whole=True))
    share = host_array("error", error, at_least=0, at_most=1)
    remaining = np.arange(n_test, -1, -1.0)
    with np.errstate(divide="ignore"):
        log_more = np.cumsum(np.log(remaining) - np.log(n_train + 1 + remaining))
    # 0.29 * 100 is 28.999...: a share meant to be a whole number of errors must count as one.
    return -log1mexp(log_more[np.floor(share * n_test + 1e-9).astype(int)])


def cover_log_separable(n_points: ArrayLike, dimension: ArrayLike) -> NDArray[np.float64]:
    r"""Log probability that random labels of points in general position are linearly separable.

    .. math::

        \ln P = (1-P)\ln 2 + \ln \sum_{i<N} \binom{P-1}{i}

    with :math:`P` = ``n_points``, :math:`N` = ``dimension``, separation through the origin; 1/2 at the capacity
    :math:`P = 2N`.

    Args:
      n_points: whole, positive.
      dimension: whole, positive; broadcasts against ``n_points``.

    Returns:
      ``float64[...]``, nats, at most 0.

    References:
      Cover (1965), Geometrical and statistical properties of systems of linear inequalities (function counting).
    """
    arrays = (
        host_array("n_points", n_points, at_least=1, whole=True),
        host_array("dimension", dimension, at_least=1, whole=True),
    )
    return np.vectorize(_log_separable, otypes=[np.float64])(*arrays)


def random_perceptron_log_prior(n_inputs: int, n_ones: ArrayLike) -> NDArray[np.float64]:
    r"""Log probability that a random perceptron outputs 1 on exactly ``n_ones`` of the :math:`2^n` Boolean inputs.

    .. math::

        P(T = t) = 2^{-n}, \qquad 0 \le t < 2^n

    for :math:`f(x) = [w \cdot x > 0]` on :math:`x \in \{0,1\}^n` without threshold, for any law of :math:`w` symmetric
    under the sign flips of its components and without ties: a uniform law over the counts, strongly biased over the
    functions.

    Args:
      n_inputs: :math:`n`, whole, from 1 to 1023.
      n_ones: :math:`t`, whole, from 0 to :math:`2^n`.

    Returns:
      ``float64[...]`` of the shape of ``n_ones``, nats; ``-inf`` at :math:`2^n`, because the zero input gives 0.

    References:
      Mingard et al. (2019), Neural networks are a priori biased towards Boolean functions with low entropy, thm 4.1.
    """
    n = int(host_array("n_inputs", n_inputs, at_least=1, at_most=1023, whole=True))
    t = host_array("n_ones", n_ones, at_least=0, at_most=2.0**n, whole=True)
    return np.where(t < 2.0**n, -n * np.log(2), -np.inf)


def _log_cap(a: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """``log(I_x(a, 1/2) / 2)``: SciPy where it does not underflow, the positive series where it does."""
    direct = betainc(a, 0.5, x)
    rare = direct < 1e-200
    # Elsewhere the series would need many terms: x near 1. There a harmless 0 stands in.
    x_rare = np.where(rare, x, 0)
    with np.errstate(divide="ignore"):
        prefactor = a * np.log(x_rare) + 0.5 * np.log1p(-x_rare) - np.log(a) - betaln(a, 0.5)
        return np.where(rare, prefactor + np.log(_beta_series(a, x_rare)), np.log(direct)) - np.log(2)


def _beta_series(a: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """``2F1(a + 1/2, 1; a + 1; x)``, whose terms are positive with ratio below ``x``."""
    term, total, n = np.ones_like(a), np.ones_like(a), 0
    # The rest is at most term / (1 - x).
    while np.any(term > 1e-17 * total * (1 - x)):
        term = term * x * (a + 0.5 + n) / (a + 1 + n)
        total = total + term
        n += 1
    return total


def _log_orthant(k: float, rho: float) -> float:
    if rho == 0:
        return -k * np.log(2)
    if rho == 0.5:
        return -np.log1p(k)
    slope = np.sqrt(rho / (1 - rho))

    def log_integrand(t: float) -> float:
        return k * log_ndtr(slope * t) - 0.5 * t**2

    def derivative(t: float) -> float:
        log_hazard = -0.5 * (slope * t) ** 2 - 0.5 * np.log(2 * np.pi) - log_ndtr(slope * t)
        return k * slope * np.exp(log_hazard) - t

    # The integrand's log is concave with curvature at least 1, so it is below e^-72 beyond 12 from its mode.
    mode = brentq(derivative, -1.0, np.sqrt(k) + k * slope + 1)
    peak = log_integrand(mode)
    sides = [(mode - 12, mode), (mode, mode + 12)]
    mass = sum(
        quad(lambda t: np.exp(log_integrand(t) - peak), *side, epsabs=0, epsrel=1e-13, limit=500)[0] for side in sides
    )
    return float(peak + np.log(mass) - 0.5 * np.log(2 * np.pi))


def _log_separable(n_points: float, dimension: float) -> float:
    p, n = int(n_points), int(dimension)
    if p <= n:
        return 0.0
    i = np.arange(p)
    log_weights = gammaln(p) - gammaln(i + 1) - gammaln(p - i) - (p - 1) * np.log(2)
    # Whichever side is smaller keeps the digits.
    if 2 * n <= p:
        return float(logsumexp(log_weights[:n]))
    return float(np.log1p(-np.exp(logsumexp(log_weights[n:]))))
