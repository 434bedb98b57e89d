"""Local learning coefficient as the slope of a volume curve, a number without a unit; see :mod:`genjax.volume.llc`."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from genjax.errors import Status, check_array, concrete
from genjax.estimate import Estimate


class CurveLLC(NamedTuple):
    r"""Learning coefficients of a volume curve.

    Attributes:
      coefficient: :math:`\lambda` of one law fitted to the whole curve, dimensionless.
      multiplicity: m of that law, dimensionless; 1 and exact unless it was fitted.
      error: ``float[e - 1]``, geometric means of neighboring errors.
      local: ``Estimate [e - 1]``, slope there: the coefficient at a finite scale.
      residual: root mean square distance of the curve from the law, nats, in units of the standard error where there
        is one; much above 1 the law does not hold over this range.
    """

    coefficient: Estimate
    multiplicity: Estimate
    error: Array
    local: Estimate
    residual: Array


def llc_from_curve(
    error: ArrayLike, log_p: ArrayLike, *, covariance: ArrayLike | None = None, fit_multiplicity: bool = False
) -> CurveLLC:
    r"""Learning coefficient as the slope of a volume curve.

    .. math::
       \ln P(L \le \epsilon) = \lambda \ln\epsilon + (m - 1) \ln(-\ln\epsilon) + \text{const}

    fitted by weighted least squares, with m = 1 unless it is fitted too; and the slope between neighbors.

    Args:
      error: ``float[e]``, :math:`\epsilon`, positive and distinct; below 1 if the multiplicity is fitted. Errors count
        from the lowest one possible.
      log_p: ``float[e]``, log probability or log volume, nats.
      covariance: of ``log_p``: ``float[e, e]``, or ``float[e]`` variances if independent. None: taken to be exact, and
        the standard error of the fit is from its residuals.
      fit_multiplicity: whether m is fitted; needs a curve over many orders of magnitude.

    Returns:
      The fitted law and the local slopes.

    Raises:
      ValueError: shapes disagree, fewer points than the law needs, or an error that is not positive.

    References:
      Watanabe (2009), Algebraic Geometry and Statistical Learning Theory, theorem 7.1 (the law).

    Example:
      >>> from genjax.volume.llc_curve import llc_from_curve
      >>> print(round(float(llc_from_curve([1e-2, 1e-4], [-1.0, -2.0]).coefficient.value), 4))
      0.2171
    """
    error = check_array("error", error, ndim=1)
    size = error.size
    log_p = check_array("log_p", log_p, shape=(size,))
    n_terms = 3 if fit_multiplicity else 2
    if size < n_terms:
        raise ValueError(f"`error` must have at least {n_terms} entries for this law, but it has {size}")
    known = concrete(error)
    if known is not None and not (known > 0).all():
        raise ValueError(f"`error` must be positive, but {known.min():g} came")
    if known is not None and fit_multiplicity and not (known < 1).all():
        raise ValueError(f"`error` must be below 1 for a multiplicity, but {known.max():g} came")
    noise = jnp.zeros((size, size)) if covariance is None else jnp.asarray(covariance)
    noise = check_array("covariance", jnp.diag(noise) if noise.ndim == 1 else noise, shape=(size, size))

    return _fit_law(jnp.log(error), log_p, noise, covariance is None, fit_multiplicity)


@functools.partial(jax.jit, static_argnames=("exact", "fit_multiplicity"))
def _fit_law(x: Array, log_p: Array, noise: Array, exact: bool, fit_multiplicity: bool) -> CurveLLC:
    columns = [x - jnp.mean(x), jnp.ones_like(x)] + ([jnp.log(-x)] if fit_multiplicity else [])
    widest = jnp.sqrt(jnp.max(jnp.diag(noise)))
    scatter = jnp.where(widest > 0, jnp.maximum(jnp.sqrt(jnp.diag(noise)), 1e-4 * widest), 1)
    # Weighted by the variances alone, for an estimated covariance is too noisy to invert; the error uses all of it.
    design = jnp.stack(columns, axis=1) / scatter[:, None]
    solve = jnp.linalg.pinv(design) / scatter
    solution = solve @ log_p
    residuals = log_p / scatter - design @ solution
    freedom = max(design.shape[0] - design.shape[1], 1)
    misfit = jnp.sqrt(jnp.sum(residuals**2) / freedom)
    spread = jnp.sqrt(jnp.maximum(jnp.diag(solve @ noise @ solve.T), 0))
    if exact:
        spread = misfit * jnp.linalg.norm(solve, axis=1)

    width = jnp.diff(x)
    variances = jnp.diag(noise)
    between = jnp.sqrt(jnp.maximum(variances[1:] + variances[:-1] - 2 * jnp.diag(noise, 1), 0)) / jnp.abs(width)
    given = "slope of a volume curve"
    return CurveLLC(
        coefficient=_plain(solution[0], spread[0], given),
        multiplicity=_plain(1 + solution[2], spread[2], given) if fit_multiplicity else _plain(1.0, 0.0, given),
        error=jnp.exp((x[1:] + x[:-1]) / 2),
        local=_plain(jnp.diff(log_p) / width, between, given),
        residual=misfit,
    )


def _plain(value: ArrayLike, stderr: ArrayLike, given: str) -> Estimate:
    value = jnp.asarray(value, float)
    status = jnp.where(jnp.isnan(value), Status.INVALID, Status.OK)
    return Estimate(value, jnp.asarray(stderr, float), jnp.zeros_like(value), status, given)
