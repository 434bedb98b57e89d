r"""The closed-form upper bound of 2023 on the inductive bias a task requires, in log space.

A test error below ``error`` is guaranteed once the parameters are close enough to the truth, and the hypotheses are
combinations of the Laplace-Beltrami eigenfunctions of a sphere up to the frequency that separates the classes. The
bound is the number of parameters the data leave free times a log ratio:

.. math::

    I = (\dim\Theta - nD) \ln\frac{B \sqrt{DP}\, L_f W}{\epsilon}

What to know before using it:

* It grows like (frequency)^dimension, so the published numbers (1e16 to 1e145 bits) mostly restate the intrinsic
  dimension; the training set changes nothing until it is astronomically large.
* When :math:`nD \ge \dim\Theta`, or the log ratio is not positive, the published script returns a
  negative number of bits, or a product of two negative numbers; here that is an error.
* The script computes binomials and gamma functions in ordinary floating point, which overflows in high dimension.
* It evaluates its table of architectures at dimension 99 instead of 48 (a loop variable leaks), and even at 48 it does
  not reproduce the published ImageNet bars.
* It needs four downloads and a Windows path separator to print a number; its constants are :data:`TASKS_2023` here.

References:
  Boopathy et al. (2023), Model-agnostic measure of generalization difficulty, ICML; arXiv:2305.01034.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from scipy.special import gammaln

N_WAYS = 20
"""Classes in an Omniglot episode: a training point is a set of 20 images, compared pairwise (20 x 19 pairs)."""

_CONSTANTS: dict[str, dict[str, float]] = {
    "mnist": {
        "n_train": 60_000,
        "radius": 17.179045827183984,
        "dimension": 14,
        "n_classes": 10,
        "delta": 2.3987084824335305,
        "error": 1e-3,
    },
    "svhn": {
        "n_train": 73_257,
        "radius": 53.86932485133339,
        "dimension": 19,
        "n_classes": 10,
        "delta": 1.5766998174969105,
        "error": 1e-2,
    },
    "cifar10": {
        "n_train": 50_000,
        "radius": 54.9156786783691,
        "dimension": 27,
        "n_classes": 10,
        "delta": 2.7506414616587023,
        "error": 1e-2,
    },
    "imagenet": {
        "n_train": 1_280_901,
        "radius": 943.5923,
        "dimension": 48,
        "n_classes": 1000,
        "delta": 65,
        "error": 0.1,
    },
    "omniglot": {
        "n_train": 1.8e40,
        "radius": 49.4064773081425,
        "dimension_within": 22,
        "dimension_across": 29,
        "delta": 5.477225575051661,
        "error": 1e-2,
    },
    "reacher": {"dimension": 6, "n_actions": 2},
    "hopper": {"dimension": 15, "n_actions": 4},
    "half_cheetah": {"dimension": 17, "n_actions": 6},
}

TASKS_2023: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {k: MappingProxyType(v) for k, v in _CONSTANTS.items()}
)
"""Published constants by task: arguments of :func:`supervised`, :func:`meta_learning` or :func:`reinforcement`."""


class Complexity(NamedTuple):
    """An inductive bias too large for ordinary numbers, kept as its logarithm.

    Attributes:
      log_nats: natural logarithm of the bound in nats.
    """

    log_nats: float

    @property
    def nats(self) -> float:
        """The bound in nats; ``inf`` when it exceeds the largest float."""
        return _exp(self.log_nats)

    @property
    def bits(self) -> float:
        """The bound in bits; ``inf`` when it exceeds the largest float."""
        return _exp(self.log_nats - math.log(math.log(2)))

    @property
    def log10_bits(self) -> float:
        """Decimal logarithm of the bound in bits, always finite."""
        return (self.log_nats - math.log(math.log(2))) / math.log(10)


def eigenfunction_count(dimension: float, frequency: float) -> tuple[float, float]:
    r"""Degree of the spherical harmonics up to a frequency, and the log of their number.

    .. math::

        K = \tfrac12 \left(\sqrt{(m-1)^2 + 4M^2} - (m-1)\right), \qquad E = \binom{m+K}{m} + \binom{m+K-1}{m}

    with :math:`m` = ``dimension`` and :math:`M` = ``frequency``; :math:`K` is not rounded, as published.

    Args:
      dimension: of the sphere, at least 1.
      frequency: positive.

    Returns:
      :math:`K` and :math:`\ln E`.

    Raises:
      ValueError: ``dimension`` below 1.

    References:
      Boopathy et al. (2023): Laplace-Beltrami eigenvalues up to :math:`M^2`, and the published script.
    """
    _check_positive(dimension=dimension, frequency=frequency)
    if dimension < 1:
        raise ValueError(f"`dimension` must be at least 1, but {dimension!r} came")
    m, doubled = float(dimension), 2 * float(frequency)
    # The difference of the formula, rationalized: no cancellation when M is small beside m.
    degree = doubled**2 / 2 / (math.hypot(m - 1, doubled) + m - 1)
    first = gammaln(m + degree + 1) - gammaln(m + 1) - gammaln(degree + 1)
    second = gammaln(m + degree) - gammaln(m + 1) - gammaln(degree)
    return degree, float(np.logaddexp(first, second))


def supervised(
    *, n_train: float, radius: float, dimension: float, n_classes: int, delta: float, error: float, bound: float = 1.0
) -> Complexity:
    r"""Bound for a classification task.

    With :math:`C` = ``n_classes``, :math:`D = C - 1` outputs, :math:`P = C` copies of a sphere of dimension :math:`m` =
    ``dimension`` and radius :math:`R` = ``radius``, frequency :math:`M = 2\pi R/\delta` and :math:`B` = ``bound``:

    .. math::

        \dim\Theta = 2DPE, \quad L_f = K\sqrt D/R, \quad \ln W = \tfrac12 \ln\tfrac m6 + \ln R - \tfrac1m\ln n
            + \tfrac1m\left[\ln 2 + \tfrac{m+1}{2}\ln\pi + \ln P - \ln\Gamma(\tfrac{m+1}{2})\right]

    Args:
      n_train: number of training points, positive.
      radius: largest norm of a data point, positive.
      dimension: intrinsic dimension of the data, at least 1.
      n_classes: at least 2.
      delta: smallest distance between points of different classes, positive.
      error: target error over the loss's Lipschitz constant, positive.
      bound: largest absolute output, positive.

    Returns:
      The bound.

    Raises:
      ValueError: an argument is out of range, or the bound is vacuous (the message says which term).

    References:
      Boopathy et al. (2023) and the function ``difficulty`` of the published script.

    Example:
      >>> f"{supervised(**TASKS_2023['mnist']).bits:.3e}"
      '1.485e+16'
    """
    _check_positive(n_classes=n_classes)
    if n_classes < 2 or n_classes != int(n_classes):
        raise ValueError(f"`n_classes` must be a whole number of at least 2, but {n_classes!r} came")
    return _sphere_bound(n_train, radius, dimension, math.log(n_classes - 1), n_classes, delta, error, bound)


def meta_learning(
    *, n_train: float, radius: float, dimension_within: float, dimension_across: float, delta: float, error: float
) -> Complexity:
    r"""Bound for 20-way one-shot learning, whose output is itself a classifier (Omniglot).

    The classifiers form a space of dimension :math:`D_g = 2 \cdot 20 \cdot 19\, E(m_0, 2\pi R/\delta)`, which takes the
    place of the outputs in :func:`supervised`, on sets of 20 images: :math:`m = m_1 + 19 m_0`, radius
    :math:`R\sqrt{20}`, :math:`P = 1`, :math:`B = \sqrt{380}`.

    Args:
      n_train: number of training sets of 20 images, positive.
      radius: :math:`R`, largest norm of an image, positive.
      dimension_within: :math:`m_0`, intrinsic dimension of images within an alphabet, at least 1.
      dimension_across: :math:`m_1`, the same across alphabets, positive.
      delta: smallest distance between classes, positive.
      error: target error, positive.

    Returns:
      The bound.

    Raises:
      ValueError: an argument is out of range, or the bound is vacuous (the message says which term).

    References:
      Boopathy et al. (2023) and the function ``omniglot_difficulty`` of the published script.

    Notes:
      The published count of Omniglot training sets is about 1.8e40; ten times as many change the bound by under 1e-4.
    """
    _check_positive(radius=radius, delta=delta, dimension_within=dimension_within, dimension_across=dimension_across)
    if dimension_within < 1:
        raise ValueError(f"`dimension_within` must be at least 1, but {dimension_within!r} came")
    pairs = N_WAYS * (N_WAYS - 1)
    _, log_count = eigenfunction_count(dimension_within, 2 * math.pi * radius / delta)
    dimension = dimension_across + (N_WAYS - 1) * dimension_within
    log_outputs = math.log(2 * pairs) + log_count
    return _sphere_bound(n_train, radius * math.sqrt(N_WAYS), dimension, log_outputs, 1, delta, error, math.sqrt(pairs))


def reinforcement(
    *, dimension: float, n_actions: float, n_train: float = 1e6, delta: float = 1e-3, error: float = 1e-3
) -> Complexity:
    r"""Bound for continuous control, observations in the unit cube (the MuJoCo form).

    .. math::

        I = D\left(2\left(\tfrac{2\pi}{\delta}\right)^m \frac{\pi^{m/2}}{\Gamma(m/2+1)} - n\right)
            \left[\ln\tfrac{4\pi^2}{\sqrt6} + \ln D + \tfrac12\ln m - \ln\delta - \tfrac1m\ln n - \ln\epsilon\right]

    with :math:`m` = ``dimension`` and :math:`D` = ``n_actions``. The defaults are the published ones.

    Args:
      dimension: of the observations, positive.
      n_actions: dimension of the actions, positive.
      n_train: :math:`n`, time steps seen, positive.
      delta: :math:`\delta`, spatial resolution, positive.
      error: :math:`\epsilon`, distance from the optimal action, positive.

    Returns:
      The bound.

    Raises:
      ValueError: an argument is out of range, or the bound is vacuous (the message says which term).

    References:
      Boopathy et al. (2023) and the function ``mujoco_difficulty`` of the published script.
    """
    _check_positive(dimension=dimension, n_actions=n_actions, n_train=n_train, delta=delta, error=error)
    log_modes = math.log(2) + dimension * math.log(2 * math.pi / delta) + dimension / 2 * math.log(math.pi)
    log_parameters = math.log(n_actions) + log_modes - float(gammaln(dimension / 2 + 1))
    log_ratio = (
        math.log(4 * math.pi**2 / math.sqrt(6))
        + math.log(n_actions)
        + 0.5 * math.log(dimension)
        - math.log(delta)
        - math.log(n_train) / dimension
        - math.log(error)
    )
    return _complexity(log_parameters, math.log(n_actions) + math.log(n_train), log_ratio, error)


def cartpole(n_observations: int, *, n_train: float = 1e4, delta: float = 1e-3, error: float = 1e-3) -> Complexity:
    """Bound for cart-pole with a number of past observations: :func:`reinforcement` in twice as many dimensions.

    The published formula has its own constant, 4 pi^2 / sqrt 3, and ``T`` for ``m``; with ``m = 2 T`` and one
    action the two are the same.

    Args:
      n_observations: ``T``, positive; each is an angle and a velocity.
      n_train: time steps seen, positive.
      delta: spatial resolution, positive.
      error: mistakes per time step, positive.

    Returns:
      The bound.

    Raises:
      ValueError: an argument is out of range, or the bound is vacuous (the message says which term).

    References:
      Boopathy et al. (2023) and the function ``rl_difficulty`` of the published script.
    """
    _check_positive(n_observations=n_observations)
    return reinforcement(dimension=2 * n_observations, n_actions=1, n_train=n_train, delta=delta, error=error)


def _sphere_bound(
    n_train: float,
    radius: float,
    dimension: float,
    log_outputs: float,
    copies: float,
    delta: float,
    error: float,
    bound: float,
) -> Complexity:
    # The number of outputs comes as a logarithm because for meta-learning it is astronomical.
    _check_positive(n_train=n_train, radius=radius, dimension=dimension, delta=delta, error=error, bound=bound)
    degree, log_count = eigenfunction_count(dimension, 2 * math.pi * radius / delta)
    log_sphere = math.log(2) + (dimension + 1) / 2 * math.log(math.pi) - float(gammaln((dimension + 1) / 2))
    log_transport = 0.5 * math.log(dimension / 6) + math.log(radius)
    log_transport += (log_sphere + math.log(copies) - math.log(n_train)) / dimension
    log_lipschitz = math.log(degree) + 0.5 * log_outputs - math.log(radius)
    log_ratio = math.log(bound) + 0.5 * (log_outputs + math.log(copies)) + log_lipschitz + log_transport
    log_parameters = math.log(2) + log_outputs + math.log(copies) + log_count
    return _complexity(log_parameters, math.log(n_train) + log_outputs, log_ratio - math.log(error), error)


def _complexity(log_parameters: float, log_conditions: float, log_ratio: float, error: float) -> Complexity:
    if log_conditions >= log_parameters:
        raise ValueError(
            f"`n_train` must leave free parameters, but it gives e^{log_conditions:.4g} conditions on "
            f"e^{log_parameters:.4g} parameters: dim Theta - n D is not positive and the bound says nothing"
        )
    if log_ratio <= 0:
        raise ValueError(
            f"`error` must be smaller than what the bound grants for free, {error * math.exp(log_ratio):.4g}, but "
            f"{error:g} came: the log ratio is not positive and the bound says nothing"
        )
    log_free = log_parameters + math.log(-math.expm1(log_conditions - log_parameters))
    return Complexity(log_free + math.log(log_ratio))


def _exp(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def _check_positive(**arguments: float) -> None:
    for name, value in arguments.items():
        if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
            raise TypeError(f"`{name}` must be a positive number, but {value!r} came")
        if not (0 < value < math.inf):
            raise ValueError(f"`{name}` must be positive and finite, but {value!r} came")
