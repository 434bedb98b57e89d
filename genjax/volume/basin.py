r"""Volume of the basin around given parameters, :math:`\{w : L(w) - L(w_0) \le c\}`, as Lebesgue or prior measure.

By rays from :math:`w_0`, which is quick; but in high dimension nearly all volume lies along directions that no sample
of rays contains, so they give a lower bound unless a preconditioner makes the basin round. The consistent estimate is
:func:`genjax.volume.local_log_volume`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.flatten_util import ravel_pytree
from jax.scipy.special import gammaln, logsumexp, xlogy
from jax.tree_util import Partial
from jax.typing import ArrayLike

from genjax.errors import Status, check_array, check_positive
from genjax.estimate import Estimate
from genjax.typing import Params, as_partial
from genjax.volume.flat import flat_loss, flat_values, same_structure
from genjax.volume.smc import effective_share

Preconditioner = ArrayLike | Params | Callable[[Array], Array]

_DOUBLINGS = 48
_BISECTIONS = 48
MAX_RADIUS = 1e4
# At least this share of the rays, and so many, must carry the volume for their scatter to say anything.
_MIN_SHARE = 0.1
_MIN_DIRECTIONS = 10
# exp(-45) changes nothing in float64.
_NEGLIGIBLE = -45.0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RadialVolume:
    """Volume of the star-shaped part of a basin, by rays.

    Attributes:
      log_volume: nats; ``DOUBTFUL`` if rays left the basin and came back, never left it, or if few of them carry the
        volume, in which case the interval is a lower bound only. The bounds are NaN-free unless the value is not.
      log_radius: ``float[u]``, log of the largest radius found inside on every ray.
      reentrant: ``bool[u]``, rays on which the basin begins again further out; that part is not counted.
      unbounded: ``bool[u]``, rays still inside at the largest radius.
      effective_directions: rays that would carry the volume if all were alike.
    """

    log_volume: Estimate
    log_radius: Array
    reentrant: Array
    unbounded: Array
    effective_directions: Array

    @property
    def warnings(self) -> tuple[str, ...]:
        """What looks wrong, in sentences; for concrete results."""
        n = self.reentrant.size
        few = float(self.effective_directions) < max(_MIN_DIRECTIONS, _MIN_SHARE * n)
        checks = {
            f"the basin begins again on {int(self.reentrant.sum())} of {n} rays; that part is not counted": bool(
                self.reentrant.any()
            ),
            f"{int(self.unbounded.sum())} of {n} rays are still inside at the largest radius": bool(
                self.unbounded.any()
            ),
            f"{float(self.effective_directions):.1f} of {n} rays carry the volume: a lower bound; use a preconditioner "
            "or local_log_volume": few,
        }
        return tuple(sentence for sentence, wrong in checks.items() if wrong)


def radial_log_volume(
    loss: Callable[[Params], Array],
    params: Params,
    cutoff: ArrayLike,
    key: Array,
    *,
    n_directions: int = 100,
    preconditioner: Preconditioner | None = None,
    prior_variance: ArrayLike | Params | None = None,
    prior_mean: ArrayLike | Params = 0.0,
    max_radius: float = MAX_RADIUS,
    chunk_size: int = 10,
) -> RadialVolume:
    r"""Log volume of the star-shaped part of a basin, by rays in random directions.

    .. math::
       \ln V = \ln V_D + \ln E_v\, r(P v)^D, \qquad
       r(u) = \sup\{r : L(w_0 + \rho u) - L(w_0) \le c \ \forall \rho \le r\}

    with v uniform on the unit sphere, :math:`\det P = 1` and :math:`V_D` the volume of the unit ball. Under a Gaussian
    prior :math:`r^D` becomes :math:`D \int_0^{r} \rho^{D-1} p(w_0 + \rho u)\, d\rho`.

    The estimate of V is unbiased, so by Jensen's inequality its log is low on average, and in practice it is low by far
    unless P makes the basin round: :math:`P \propto H^{-1/2}` for a quadratic one, where every ray gives the exact
    volume. Radii are doubled until outside and then bisected; the one used was itself found inside. Rays are tested at
    the doublings only, so an interruption narrower than a factor of 2 can be missed.

    Args:
      loss: ``loss(params) -> float[]``; NaN counts as outside.
      params: :math:`w_0`, any pytree of D numbers.
      cutoff: c, positive.
      key: typed PRNG key.
      n_directions: number of rays.
      preconditioner: P up to a factor, which is divided out: ``[D]`` or a pytree like ``params`` (diagonal),
        ``[D, D]``, or a linear function ``v[D] -> u[D]`` of determinant 1. Coordinates are in ``ravel_pytree``'s order.
      prior_variance: of independent Gaussian weights: a number, ``[D]`` or a pytree like ``params``. None is Lebesgue
        measure.
      prior_mean: likewise.
      max_radius: where the search ends; it begins :math:`2^{48}` times further in.
      chunk_size: rays evaluated side by side.

    Returns:
      The log volume with its standard error over the rays and diagnostics. Legal under ``jit`` and ``vmap``. Precision:
      the loss's own relative rounding error (of ``L(w)``, relative to the cutoff) times D/2: with float64 and
      ``L(w_0) = 0`` below 1e-7 nats at D = 10^4, with float32 about 1e-2 nats there.

    Raises:
      ValueError: an argument of the wrong shape, or not positive where it must be.

    References:
      Scherlis & Belrose (2025), arXiv:2501.18812 (rays, preconditioning); the verified radii, the checks along the ray
      and the interval are genjax's own.

    Example:
      >>> import jax
      >>> from genjax.volume.basin import radial_log_volume
      >>> ball = radial_log_volume(lambda w: w @ w, jax.numpy.zeros(3), 1.0, jax.random.key(0))
      >>> print(f"{ball.log_volume.value:.4f}")  # log 4 pi / 3
      1.4324
    """
    check_positive("cutoff", cutoff)
    check_positive("n_directions", n_directions, integer=True)
    check_positive("max_radius", max_radius)
    check_positive("chunk_size", chunk_size, integer=True)
    prior = None if prior_variance is None else gaussian_prior(prior_mean, prior_variance, params)
    return _radial(
        *(flat_loss(loss, params), ravel_pytree(params)[0], check_array("cutoff", cutoff, ndim=0), key),
        *(_volume_preserving(preconditioner, params), prior, jnp.asarray(max_radius), n_directions, chunk_size),
    )


@functools.partial(jax.jit, static_argnames=("n_directions", "chunk_size"))
def _radial(
    loss: Partial,
    center: Array,
    cutoff: Array,
    key: Array,
    transform: Partial,
    prior: GaussianPrior | None,
    max_radius: Array,
    n_directions: int,
    chunk_size: int,
) -> RadialVolume:
    d, start = center.size, loss(center)

    def ray(key: Array) -> tuple[Array, Array, Array, Array]:
        v = jax.random.normal(key, (d,), center.dtype)
        u = transform(v / jnp.linalg.norm(v))
        inside = lambda log_r: loss(center + jnp.exp(log_r) * u) - start <= cutoff  # noqa: E731
        log_radius, reentrant, unbounded = first_exit(inside, jnp.log(max_radius).astype(center.dtype))
        log_mass = d * log_radius if prior is None else math.log(d) + _log_integral(prior, center, u, log_radius)
        return log_mass, log_radius, reentrant, unbounded

    log_masses, log_radius, reentrant, unbounded = lax.map(
        ray, jax.random.split(key, n_directions), batch_size=min(chunk_size, n_directions)
    )
    log_ball = d / 2 * math.log(math.pi) - gammaln(jnp.asarray(d / 2 + 1, center.dtype))
    value = log_ball + logsumexp(log_masses) - math.log(n_directions)
    carrying = n_directions * effective_share(log_masses)
    few = carrying < max(_MIN_DIRECTIONS, _MIN_SHARE * n_directions)
    # Delta method: the relative standard error of the mean over rays.
    stderr = jnp.sqrt(jnp.maximum(n_directions / carrying - 1, 0) / max(n_directions - 1, 1))
    doubtful = few | jnp.any(reentrant) | jnp.any(unbounded)
    status = jnp.where(doubtful, Status.DOUBTFUL, Status.OK)
    # By Markov's inequality an unbiased estimate is 40 times the truth in fewer than one case of 40, whatever its law.
    low = jnp.where(few, value - math.log(40), value - 1.96 * stderr)
    high = jnp.where(doubtful, jnp.inf, value + 1.96 * stderr)
    valid = jnp.isfinite(start) & ~jnp.isnan(value)
    estimate = Estimate(
        value=jnp.where(valid, value, jnp.nan),
        stderr=jnp.where(valid, stderr, jnp.nan),
        error_bound=jnp.zeros_like(value),
        status=jnp.where(valid, status, Status.INVALID),
        given="star-shaped part of the basin around the given parameters",
        bounds=(jnp.where(valid, low, jnp.nan), jnp.where(valid, high, jnp.nan)),
    )
    return RadialVolume(estimate, log_radius, reentrant, unbounded, carrying)


def first_exit(inside: Callable[[Array], Array], log_max: Array) -> tuple[Array, Array, Array]:
    """Log of the largest radius found inside before the first one found outside; re-entry; and whether none was."""
    exponents = log_max - math.log(2) * jnp.arange(_DOUBLINGS, -1, -1).astype(log_max.dtype)
    within = lax.map(inside, exponents)
    first_out = jnp.argmin(within)
    unbounded = jnp.all(within)
    reentrant = jnp.any(within & (jnp.arange(within.size) > first_out)) & ~unbounded
    low = jnp.where(unbounded, log_max, exponents[jnp.maximum(first_out - 1, 0)])
    # Outside already at the smallest radius: no volume that could be resolved.
    low = jnp.where(within[0], low, -jnp.inf)

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        good = inside(middle)
        return jnp.where(good, middle, low), jnp.where(good, high, middle)

    high = jnp.where(unbounded | ~within[0], low, exponents[first_out])
    low, _ = lax.fori_loop(0, _BISECTIONS, halve, (low, high))
    return low, reentrant, unbounded


class GaussianPrior(NamedTuple):
    """Independent Gaussian weights: ``mean[D]``, ``variance[D]``."""

    mean: Array
    variance: Array

    def log_density(self, w: Array) -> Array:
        """Log density of flat parameters.

        Args:
          w: ``float[D]``.

        Returns:
          ``float[]``, nats.

        References:
          The normal law.
        """
        return -0.5 * jnp.sum((w - self.mean) ** 2 / self.variance + jnp.log(2 * math.pi * self.variance))


def _log_integral(prior: GaussianPrior, center: Array, u: Array, log_radius: Array) -> Array:
    r"""``log int_0^r rho^(D-1) p(center + rho u) d rho``, by Gauss-Legendre on the part that is not negligible."""
    d = center.size
    offset = (center - prior.mean) / prior.variance
    slope, curvature = u @ offset, jnp.sum(u**2 / prior.variance)
    radius = jnp.exp(log_radius)

    def log_integrand(r: Array) -> Array:
        return xlogy(d - 1, r) - slope * r - curvature / 2 * r**2

    # The log integrand is concave, so it falls from its mode to both sides.
    root = jnp.sqrt(slope**2 + 4 * curvature * (d - 1))
    peak = jnp.where(slope > 0, 2 * (d - 1) / jnp.where(slope > 0, root + slope, 1), (root - slope) / (2 * curvature))
    mode = jnp.minimum(peak, radius)
    top = log_integrand(mode)

    def edge(far: Array) -> Array:
        def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            near, far = ends
            middle = (near + far) / 2
            seen = log_integrand(middle) - top > _NEGLIGIBLE
            return jnp.where(seen, middle, near), jnp.where(seen, far, middle)

        return lax.fori_loop(0, 50, halve, (mode, far))[1]

    low, high = edge(jnp.zeros_like(mode)), edge(radius)
    nodes, weights = np.polynomial.legendre.leggauss(64)
    r = (low + high) / 2 + (high - low) / 2 * jnp.asarray(nodes, center.dtype)
    inner = logsumexp(log_integrand(r), b=jnp.asarray(weights, center.dtype)) + jnp.log((high - low) / 2)
    log_integral = inner + prior.log_density(center)
    return jnp.where(jnp.isneginf(log_radius), -jnp.inf, log_integral)


def gaussian_prior(mean: ArrayLike | Params, variance: ArrayLike | Params, params: Params) -> GaussianPrior:
    """A Gaussian prior from numbers, vectors ``[D]`` or pytrees like the parameters.

    Args:
      mean: of each weight.
      variance: of each weight, positive.
      params: parameters, whose shapes and dtype count.

    Returns:
      The prior over the flat parameters.

    References:
      Neal (1996), Bayesian Learning for Neural Networks (weight priors).
    """
    return GaussianPrior(
        flat_values("prior_mean", mean, params), flat_values("prior_variance", variance, params, positive=True)
    )


def _volume_preserving(preconditioner: Preconditioner | None, params: Params) -> Partial:
    """``v -> P v`` with ``|det P| = 1``."""
    d = ravel_pytree(params)[0].size
    if preconditioner is None:
        return Partial(jnp.multiply, 1.0)
    if callable(preconditioner) and not same_structure(preconditioner, params):
        return as_partial(preconditioner)
    if np.ndim(preconditioner if isinstance(preconditioner, Array | np.ndarray) else 0) == 2:
        matrix = check_array("preconditioner", preconditioner, shape=(d, d))
        return Partial(jnp.matmul, matrix * jnp.exp(-jnp.linalg.slogdet(matrix)[1] / d))
    diagonal = flat_values("preconditioner", preconditioner, params, positive=True)
    return Partial(jnp.multiply, diagonal * jnp.exp(-jnp.mean(jnp.log(diagonal))))
