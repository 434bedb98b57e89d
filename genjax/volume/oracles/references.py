"""Reference numbers: the exact law of SGLD on a quadratic, and the digits task solved once to high accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from genjax.volume._host import host_array, spectrum

DIGITS_RBF_TASK = (
    "scikit-learn digits, pixels / 16, shuffled by numpy.random.default_rng(0).permutation(1797); the first 500 train, "
    "the next 500 test; Gaussian process with kernel exp(-|x - x'|^2 / 2), no noise, conditioned on one-hot labels; "
    "error = mean squared error over the 500 x 10 test outputs"
)
"""What the DIGITS_RBF_* numbers are about."""

DIGITS_RBF_NATS: Mapping[float, float] = MappingProxyType(
    {
        0.5: 18.936,
        0.3: 347.26,
        0.1: 2029.53,
        0.05: 3471.35,
        0.03: 4628.24,
        0.01: 7252.09,
        1e-3: 12952.45,
        1e-4: 18703.27,
        1e-6: 30215.57,
        1e-10: 53241.42,
    }
)
"""Exact inductive bias in nats by target error, good to the last digit given."""

DIGITS_RBF_EXPECTED_ERROR = 0.57180
"""Mean over the posterior of the test error."""

DIGITS_RBF_ERROR_OF_MEAN = 0.01097
"""Test error of the posterior mean."""


def sgld_llc(eigenvalues: ArrayLike, n_beta: float, localization: float, step_size: float) -> float:
    r"""Local learning coefficient that SGLD reports, in expectation, on a quadratic loss.

    The chain :math:`w' = w - \tfrac{e}{2}(n\beta H + \gamma) w + \sqrt{e}\, \xi` on :math:`L = \tfrac12 w^\top H w` is
    a linear recursion, so at stationarity, and with no other error,

    .. math::

        \hat\lambda = n\beta\, E[L] = \frac12 \sum_i \frac{n\beta h_i}{a_i (1 - e a_i / 4)}, \qquad
            a_i = n\beta h_i + \gamma

    while the true coefficient is :math:`D/2`: localization lowers it, the step size raises it.

    Args:
      eigenvalues: ``[D]``, positive, of the Hessian :math:`H`.
      n_beta: :math:`n\beta`, positive: number of examples times inverse temperature.
      localization: :math:`\gamma`, non-negative: strength of the pull to the start.
      step_size: :math:`e`, positive.

    Returns:
      The expected estimate, dimensionless.

    Raises:
      ValueError: the step is too large for the chain to have a stationary law.

    References:
      Lau et al. (2023), arXiv:2308.12108, for the estimator; the law is that of a first-order linear recursion.
    """
    h = spectrum("eigenvalues", eigenvalues)
    pull = float(host_array("n_beta", n_beta, above=0)) * h
    a = pull + float(host_array("localization", localization, at_least=0))
    step = float(host_array("step_size", step_size, above=0))
    if step * a.max() >= 4:
        raise ValueError(f"`step_size` must be below {4 / a.max():g} for the chain to be stable, but {step:g} came")
    return float(0.5 * np.sum(pull / (a * (1 - step * a / 4))))
