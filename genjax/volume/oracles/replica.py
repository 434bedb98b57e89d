"""Perceptrons of infinitely many inputs, by the replica-symmetric theory of their version space."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import log_ndtr

from genjax.volume._host import host_array

# Every integrand below is analytic, varies over distances of order one and is below e^-72 at the ends: there the
# trapezoid rule is exact to rounding.
_NODES = np.linspace(-12, 12, 385)
_STEP = _NODES[1] - _NODES[0]
_LOG_ROOT_2PI = 0.5 * np.log(2 * np.pi)


class TeacherStudent(NamedTuple):
    """Typical version space of a perceptron taught by a perceptron; ``float64`` of the shape of ``alpha``.

    ``overlap``: cosine between teacher and a hypothesis that fits, and between two of those. ``entropy``: log prior
    probability of fitting, nats per input dimension. ``gibbs_error``: test error of a hypothesis that fits, at random.
    ``bayes_error``: test error of the vote of all of them.
    """

    overlap: NDArray[np.float64]
    entropy: NDArray[np.float64]
    gibbs_error: NDArray[np.float64]
    bayes_error: NDArray[np.float64]


def teacher_student(alpha: ArrayLike) -> TeacherStudent:
    r"""Spherical perceptron that fits :math:`\alpha N` Gaussian examples of a spherical teacher, :math:`N \to \infty`.

    The overlap :math:`R` solves

    .. math::

        \frac{R}{\sqrt{1-R}} = \frac{\alpha}{\pi} \int Dt\, \frac{e^{-R t^2/2}}{H(\sqrt R\, t)}

    with :math:`Dt` the standard normal law and :math:`H(x) = \Phi(-x)`; it makes stationary the entropy

    .. math::

        s = \lim \frac{E \ln P(\text{fit})}{N}
          = \tfrac12 \ln(1-R) + \tfrac R2 + 2 \alpha \int Dt\, H(-gt) \ln H(-gt), \qquad g = \sqrt{R/(1-R)}.

    The errors are :math:`\epsilon_\text{Gibbs} = \arccos(R)/\pi`, about :math:`0.625/\alpha` for many examples, and
    :math:`\epsilon_\text{Bayes} = \arccos(\sqrt R)/\pi`.

    Args:
      alpha: examples per input dimension, non-negative.

    Returns:
      :class:`TeacherStudent`: overlap, entropy (nats per dimension, at most 0) and errors (at most 1/2).

    References:
      Gyorgyi and Tishby (1990), Statistical theory of learning a rule; Engel and Van den Broeck (2001), Statistical
      Mechanics of Learning, chapters 2 and 3.
    """
    alpha = host_array("alpha", alpha, at_least=0)
    g = np.vectorize(_odds_root, otypes=[np.float64])(alpha)
    overlap = g**2 / (1 + g**2)
    # Logarithm and angles in g: no digits are lost as the overlap nears 0 or 1.
    return TeacherStudent(
        overlap,
        0.5 * (overlap - np.log1p(g**2)) + 2 * alpha * _mean_h_log_h(g),
        2 * np.arctan2(1, np.sqrt(1 + 2 * g**2)) / np.pi,
        np.arctan2(1, g) / np.pi,
    )


def _odds_root(alpha: float) -> float:
    """The solution as ``g = sqrt(R / (1 - R))``, of which the left-hand side is ``g^2 / sqrt(1 + g^2)``."""
    if alpha == 0:
        return 0.0

    def excess(log_g: float) -> float:
        g2 = np.exp(2 * log_g)
        overlap = g2 / (1 + g2)
        # The normal density of t, e^{-R t^2 / 2}, and H in its logarithm, which is safe in both tails.
        t = _NODES
        log_integrand = -0.5 * (1 + overlap) * t**2 - log_ndtr(-np.sqrt(overlap) * t) - _LOG_ROOT_2PI
        integral = _STEP * np.sum(np.exp(log_integrand))
        return 2 * log_g - 0.5 * np.log1p(g2) - np.log(alpha / np.pi * integral)

    # The integral is 2 at R = 0 and 2.26 at R = 1; a left-hand side v has g^2 = (v^2 + v sqrt(v^2 + 4)) / 2.
    v = alpha / np.pi * np.array([1.5, 3.0])
    low, high = 0.5 * np.log((v**2 + v * np.sqrt(v**2 + 4)) / 2)
    return float(np.exp(brentq(excess, low, high, xtol=1e-15, rtol=1e-15)))


def _mean_h_log_h(g: NDArray[np.float64]) -> NDArray[np.float64]:
    """``Int Dt H(-gt) ln H(-gt)``, in ``g t`` where that is the wider scale."""
    scale = np.maximum(g, 1)[..., None]
    t = _NODES / scale
    log_h = log_ndtr(g[..., None] * t)
    return _STEP * np.sum(np.exp(log_h - 0.5 * t**2 - _LOG_ROOT_2PI) * log_h / scale, axis=-1)
