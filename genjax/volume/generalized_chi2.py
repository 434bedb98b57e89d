r"""The law of a non-negative quadratic form in Gaussian variables, in log space, to rounding, however rare the event.

.. math::  Q = \sum_i w_i\,\chi'^2_{h_i}(\delta_i), \qquad a_i = w_i \delta_i,

with weights :math:`w_i \ge 0`, multiplicities :math:`h_i \ge 0` (any real number) and offsets :math:`a_i \ge 0`.
Offsets instead of non-centralities, because they stay finite when a weight vanishes: a component with
:math:`w_i = 0` adds the constant :math:`a_i`, and the sum of those constants is the floor of Q.

Method. With :math:`K(t) = \log E e^{-tQ} = -\sum_i [\tfrac12 h_i \log(1 + 2 t w_i) + a_i t / (1 + 2 t w_i)]`,

.. math::  P(Q \le x) = \frac{1}{2\pi i} \int e^{K(t) + t x} \frac{dt}{t}

is taken along a hyperbola through the real saddle point of the whole integrand, pole included: right of the pole below
the mean, left of it (which gives the survival function) above. Tilting by the saddle turns a probability of
:math:`e^{-100000}` into an integral of order one. All singularities lie on the real axis left of the saddle, where the
hyperbola never passes, so the trapezoid rule converges geometrically.

References:
  Rice (1980), SIAM J. Sci. Stat. Comput. 1, 438 (saddle-point contours for quadratic forms);
  Weideman and Trefethen (2007), Math. Comp. 76, 1341 (hyperbolic contours);
  Davies (1973), Biometrika 60, 415 (the untilted inversion this replaces).
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from genjax.errors import check_array, check_positive

# The hyperbola leaves the saddle vertically and ends at arctan(1 / 0.5) = 63 degrees from the negative real axis.
_OPENING = 0.5
# Lengths tried, in u: where the saddle is Gaussian 3 suffice; few degrees of freedom need up to 3 * 1.165^16 = 35.
_SHORTEST_CONTOUR, _CONTOUR_GROWTH, _CONTOUR_TRIALS = 3.0, 1.165, 16
# 1e-12 of the bracket, far below the width of any saddle.
_BISECTIONS = 50
# Thresholds are evaluated together while threshold * node * component fits in this many numbers (32 MB of float64).
_BATCH_ELEMENTS = 2**22


class LogProb(NamedTuple):
    """A log-probability or log-density in nats with the parts of its numerical error, ``float[...]`` each.

    ``halving_error`` is twice the change seen when every second node is dropped (convergence is geometric, so this
    exceeds the error of the finer rule); ``truncation_error`` bounds what lies past the last node; ``rounding_error``
    is machine precision times the size of the terms summed.
    """

    value: Array
    halving_error: Array
    truncation_error: Array
    rounding_error: Array

    @property
    def error_bound(self) -> Array:
        """Bound on ``|value - exact|`` in nats: the sum of the three parts."""
        return self.halving_error + self.truncation_error + self.rounding_error


def generalized_chi2_logcdf(
    x: ArrayLike, weights: ArrayLike, multiplicities: ArrayLike = 1.0, offsets: ArrayLike = 0.0, *, n_nodes: int = 128
) -> LogProb:
    r"""Log-probability :math:`\log P(\sum_i w_i \chi'^2_{h_i}(a_i / w_i) \le x)`.

    Args:
      x: ``float[...]``, thresholds, any shape.
      weights: ``float[m]``, :math:`w_i \ge 0`; zeros are legal.
      multiplicities: ``float[m]`` or scalar, :math:`h_i \ge 0`, degrees of freedom, not necessarily whole. A component
        with zero multiplicity and positive offset is a Poisson mixture and legal too.
      offsets: ``float[m]`` or scalar, :math:`a_i \ge 0`, weight times non-centrality.
      n_nodes: even number of contour intervals. 64 reach 1e-7 nats or better, 128 reach rounding.

    Returns:
      :class:`LogProb` of shape ``x.shape``, nats. ``-inf`` at and below the floor (the summed offsets of the
      components without weight), ``0`` far above the mean.

    Raises:
      TypeError: an argument is not real numbers.
      ValueError: shapes disagree, or (outside ``jit``) a value is negative, infinite or NaN. Inside ``jit`` such values
        give NaN.

    Notes:
      Cost ``O((n_nodes + 50) m)`` per threshold, evaluated in batches of bounded memory. Differentiable in every
      argument: the contour is held fixed, which is exact because the integral does not depend on it. float64: rounding,
      about ``1e-15 |value|`` and never worse than :attr:`LogProb.error_bound`; float32: about ``1e-6 |value|``, the
      error bound says how much.

    References:
      See the module's docstring.

    Example:
      >>> from genjax.volume import generalized_chi2_logcdf
      >>> print(f"{generalized_chi2_logcdf(1.0, [1.0], 10.0).value:.4f}")  # log P(chi2_10 <= 1)
      -8.6673
    """
    return _evaluate(x, weights, multiplicities, offsets, n_nodes, "logcdf")


def generalized_chi2_logsf(
    x: ArrayLike, weights: ArrayLike, multiplicities: ArrayLike = 1.0, offsets: ArrayLike = 0.0, *, n_nodes: int = 128
) -> LogProb:
    r"""Log of the survival function, :math:`\log P(Q > x)`, as accurate in the upper tail as in the lower.

    Args:
      x: as in :func:`generalized_chi2_logcdf`, like all arguments.
      weights: ``float[m]``.
      multiplicities: ``float[m]`` or scalar.
      offsets: ``float[m]`` or scalar.
      n_nodes: even number of contour intervals.

    Returns:
      :class:`LogProb` of shape ``x.shape``, nats; ``0`` at and below the floor.

    Raises:
      TypeError: an argument is not real numbers.
      ValueError: shapes disagree, or a known value is out of range.

    References:
      See the module's docstring.
    """
    return _evaluate(x, weights, multiplicities, offsets, n_nodes, "logsf")


def generalized_chi2_logpdf(
    x: ArrayLike, weights: ArrayLike, multiplicities: ArrayLike = 1.0, offsets: ArrayLike = 0.0, *, n_nodes: int = 128
) -> LogProb:
    r"""Log of the density of Q at x, in nats (of a density per unit of x).

    Args:
      x: as in :func:`generalized_chi2_logcdf`, like all arguments.
      weights: ``float[m]``; at least one positive with positive multiplicity, or there is no density and NaN results.
      multiplicities: ``float[m]`` or scalar.
      offsets: ``float[m]`` or scalar.
      n_nodes: even number of contour intervals.

    Returns:
      :class:`LogProb` of shape ``x.shape``; ``-inf`` at and below the floor.

    Raises:
      TypeError: an argument is not real numbers.
      ValueError: shapes disagree, or a known value is out of range.

    References:
      See the module's docstring; the contour has no pole here.
    """
    return _evaluate(x, weights, multiplicities, offsets, n_nodes, "logpdf")


def _evaluate(
    x: ArrayLike, weights: ArrayLike, multiplicities: ArrayLike, offsets: ArrayLike, n_nodes: int, kind: str
) -> LogProb:
    check_positive("n_nodes", n_nodes, integer=True)
    if n_nodes < 8 or n_nodes % 2:
        raise ValueError(f"`n_nodes` must be even and at least 8, but {n_nodes} came")
    w = check_array("weights", weights, ndim=1, minimum=0)
    if w.size == 0:
        raise ValueError("`weights` must have at least one component, but its shape is (0,)")
    h, a = (
        jnp.broadcast_to(check_array(name, value, shape=() if np.ndim(value) == 0 else w.shape, minimum=0), w.shape)
        for name, value in (("multiplicities", multiplicities), ("offsets", offsets))
    )
    thresholds = check_array("x", x, finite=False)
    dtype = jnp.result_type(thresholds, w, h, a)
    return _evaluate_batched(*(v.astype(dtype) for v in (thresholds, w, h, a)), n_nodes, kind)


@partial(jax.jit, static_argnums=(4, 5))
def _evaluate_batched(x: Array, w: Array, h: Array, a: Array, n_nodes: int, kind: str) -> LogProb:
    ok = (w >= 0) & (h >= 0) & (a >= 0) & (w + h + a < jnp.inf)
    w = jnp.where((h == 0) & (a == 0), 0, w)  # absent components must not count as the largest
    rows = [h * w + a, jnp.where(w == 0, a, 0), jnp.where(ok, 0, jnp.nan)]
    mean, floor, invalid = jnp.sum(jnp.stack(rows), axis=1)
    random = mean > floor
    # In units of the mean nothing over- or underflows, in float32 either. Stand-ins, here and for x below, keep values
    # and gradients finite where the contour's result is not used.
    unit = jax.lax.stop_gradient(jnp.where(mean > 0, mean, 1))
    law = jnp.where(random, w / unit, 1), jnp.where(random, h, 1), jnp.where(random, a / unit, 0)

    def evaluate(x: Array) -> tuple[Array, Array]:
        interior = random & (x > floor) & (x < jnp.inf)
        below = x < mean
        value, errors = _contour_integral(jnp.where(interior, x / unit, 1), *law, below, n_nodes, kind != "logpdf")
        if kind == "logpdf":
            value = value - jnp.log(unit)
            outside = jnp.where(random, -jnp.inf, jnp.nan)
        else:
            # The contour gave the smaller side of the mean; the errors of the other are smaller by the odds.
            other = _log_complement(value)
            direct = below == (kind == "logcdf")
            errors = errors * jnp.where(direct, 1, jnp.exp(jnp.minimum(value - other, 0)))
            value = jnp.where(direct, value, other)
            beyond = (x > floor) | (~random & (x == floor))
            outside = jnp.where(beyond == (kind == "logcdf"), 0.0, -jnp.inf)
        poison = jnp.where(jnp.isnan(x), jnp.nan, invalid)
        return jnp.where(interior, value, outside) + poison, jnp.where(interior, errors, 0) + poison

    batch = max(1, _BATCH_ELEMENTS // (n_nodes * w.size))
    # A single batch needs no loop, and compiles faster without one.
    flat = jax.vmap(evaluate)(x.ravel()) if x.size <= batch else jax.lax.map(evaluate, x.ravel(), batch_size=batch)
    return LogProb(flat[0].reshape(x.shape), *(flat[1][:, i].reshape(x.shape) for i in range(3)))


def _log_complement(log_p: Array) -> Array:
    """``log(1 - exp(log_p))`` without cancellation at either end."""
    log_p = jnp.minimum(log_p, -jnp.finfo(log_p.dtype).tiny)
    small = log_p < -0.6931
    return jnp.where(
        small,
        jnp.log1p(-jnp.exp(jnp.where(small, log_p, -1.0))),
        jnp.log(-jnp.expm1(jnp.where(small, -1.0, log_p))),
    )


def _saddle(x: Array, w: Array, h: Array, a: Array, below: Array, has_pole: bool) -> tuple[Array, Array]:
    """Real saddle ``t`` of ``K(t) + t x - log|t| - log(t + apex)``, and its width.

    ``-apex`` is the singularity nearest zero. The last term keeps the contour away from it when the multiplicities are
    small and costs nothing otherwise: only a contour is chosen here, the integral does not depend on it. The
    derivative is monotone in ``t`` on each side of the pole, so bisection in ``log(t + apex)`` cannot fail.
    """
    largest = jnp.max(w)
    apex = 1 / (2 * largest)
    reach = 0.4 * jnp.log(jnp.finfo(x.dtype).max)
    at_zero = jnp.log(apex)
    low, high = at_zero - reach, at_zero + reach
    if has_pole:
        low, high = jnp.where(below, at_zero, low), jnp.where(below, high, at_zero)

    def tilted(log_distance: Array) -> tuple[Array, Array, Array]:
        distance = jnp.exp(log_distance)
        return distance, distance - apex, jnp.maximum(1 - w / largest, 0) + 2 * w * distance  # distance, t, 1 + 2 t w

    def step(_: Array, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = (low + high) / 2
        distance, t, r = tilted(middle)
        mean = jnp.sum(h * w / r + a / r**2) + 1 / distance + (1 / t if has_pole else 0)
        return jnp.where(mean > x, middle, low), jnp.where(mean > x, high, middle)

    distance, t, r = tilted(sum(jax.lax.fori_loop(0, _BISECTIONS, step, (low, high))) / 2)
    variance = jnp.sum(2 * h * (w / r) ** 2 + 4 * a * w / r**3) + 1 / distance**2 + (1 / t**2 if has_pole else 0)
    return t, variance**-0.5


def _contour_integral(
    x: Array, w: Array, h: Array, a: Array, below: Array, n_nodes: int, has_pole: bool
) -> tuple[Array, Array]:
    """Log of the inverse Laplace transform at an interior ``x``, and its errors in the order of :class:`LogProb`.

    With ``t = t0 + s z`` on the hyperbola, ``1 + 2 t w = r (1 + g z)`` where ``r = 1 + 2 t0 w`` and ``g = 2 s w / r``:
    every term is a difference from its value at the saddle, which is what keeps full precision at -1e5 nats.
    """
    eps = jnp.finfo(x.dtype).eps
    t0, s = jax.lax.stop_gradient(_saddle(*jax.lax.stop_gradient((x, w, h, a)), below, has_pole))
    r = 1 + 2 * t0 * w
    log_terms, offset_terms = 0.5 * h * jnp.log1p(2 * t0 * w), a * t0 / r
    terms, size = jnp.sum(jnp.stack([log_terms + offset_terms, jnp.abs(log_terms) + jnp.abs(offset_terms)]), axis=1)
    at_saddle = t0 * x - terms
    g, b = 2 * s * w / r, a * s / r**2

    def tilted(z: Array) -> Array:
        """``K(t) - K(t0) + (t - t0) x``."""
        q = g * z[:, None]
        return s * x * z - jnp.sum(0.5 * h * jnp.log1p(q) + b * z[:, None] / (1 + q), axis=-1)

    # The contour ends at the first of a few trial lengths where the integrand is below rounding.
    trials = jnp.asarray(_SHORTEST_CONTOUR * _CONTOUR_GROWTH ** np.arange(_CONTOUR_TRIALS), x.dtype)
    n_needed = jnp.sum(tilted(_hyperbola(trials)[0]).real > jnp.log(0.01 * eps))
    last = _SHORTEST_CONTOUR * jnp.asarray(_CONTOUR_GROWTH, x.dtype) ** n_needed

    u = last * jnp.asarray(np.linspace(0, 1, n_nodes + 1), x.dtype)
    z, step = _hyperbola(u)
    step = step * (s * last / n_nodes / jnp.pi)
    if has_pole:  # the sign makes the survival function positive left of the pole
        step = step * jnp.sign(t0) / (t0 + s * z)
    integrand = jnp.exp(tilted(z)) * step
    # Trapezoid rule, and beside it the rule without the odd nodes.
    fine = np.ones(n_nodes + 1)
    fine[[0, -1]] = 0.5
    coarse = 2 * fine * (np.arange(n_nodes + 1) % 2 == 0)
    rows = [jnp.asarray(rule, x.dtype) * integrand.imag for rule in (fine, coarse)]
    size_of = jnp.abs(integrand.real) + jnp.abs(integrand.imag)
    total, total_coarse, total_size = jnp.sum(jnp.stack([*rows, size_of]), axis=1)

    halving = 2 * jnp.abs(total - total_coarse) / total
    # Past the last node the integrand falls faster than exp(-u): its area is below a few of the last heights.
    truncation = n_nodes * size_of[-1] / total
    rounding = 32 * eps * (1 + size + jnp.abs(t0 * x) + total_size / total)
    return at_saddle + jnp.log(total), jnp.stack([halving, truncation, rounding])


def _hyperbola(u: Array) -> tuple[Array, Array]:
    """Points ``z(u)`` for ``u >= 0``, from 0 upwards at unit speed, then to the left; and ``dz/du``."""
    cosh, sinh = (jnp.exp(u) + jnp.exp(-u)) / 2, (jnp.exp(u) - jnp.exp(-u)) / 2
    return 1j * sinh - _OPENING * (cosh - 1), 1j * cosh - _OPENING * sinh
