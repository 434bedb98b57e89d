r"""Volume of the basin around given parameters, by tempered simulation from a Gaussian fitted to it.

.. math::
   \ln V = \ln \int 1[L(w) - L(w_0) \le c]\, dw

The walk leads from :math:`N(w_0, \mathrm{diag}\, s^2)` to the Lebesgue measure tilted by :math:`e^{-\beta L}`, prior
and loss together, so that every density on the way is proper; the tilt is then taken back exactly. Unlike the radial
estimate of :func:`genjax.volume.radial_log_volume`, a lower bound, it converges to the volume whatever the basin's
shape, as long as the walk gets around in it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial
from jax.typing import ArrayLike

from genjax.errors import check_array
from genjax.typing import Params
from genjax.volume.curve import EventCurve
from genjax.volume.simulation import simulate_events
from genjax.volume.smc import Population, Problem, Row
from genjax.volume.spaces import as_partial
from genjax.volume.walk import Tempered, largest_rise

if TYPE_CHECKING:
    from genjax.run import Execution


@dataclasses.dataclass(frozen=True)
class Annealed(Tempered):
    """Tempering that exchanges the reference for the Lebesgue measure while the loss sets in.

    Attributes:
      beta: inverse temperature when the exchange is complete; from there on as :class:`Tempered`.

    References:
      Gelman & Meng (1998), Simulating normalizing constants (geometric paths).
    """

    beta: float = 1.0

    name: ClassVar[str] = "annealed"
    joint: ClassVar[bool] = True

    def next_row(self, row: Row, population: Population, target: Array) -> tuple[Row, Array]:
        """Both at once until the reference is gone, then the temperature alone."""
        lowered, done = super().next_row(row, population, target)
        exponent = population.scores.weight - self.beta * population.scores.test
        finite = jnp.isfinite(exponent)
        best = jnp.max(jnp.where(finite, exponent, -jnp.inf))
        excess = jnp.where(finite, exponent - best, 0)
        rise = largest_rise(lambda r: jnp.where(finite, r * excess, -jnp.inf), 1 / jnp.max(-excess), self.ess)
        power = jnp.minimum(row.power + rise, 1.0)
        exchanged = row._replace(power=power, test_beta=power * self.beta)
        under_way = row.power < 1
        return jax.tree.map(lambda a, b: jnp.where(under_way, a, b), exchanged, lowered), done & ~under_way


def local_log_volume(
    loss: Callable[[Params], Array],
    params: Params,
    cutoff: ArrayLike | Sequence[float],
    *,
    key: Array,
    scale: Params | None = None,
    method: Tempered | None = None,
    n_keep: int = 1024,
    execution: Execution | None = None,
    directory: str | Path | None = None,
    resume: bool = False,
) -> EventCurve:
    r"""Log Lebesgue volume of the basin :math:`\{w : L(w) - L(w_0) \le c\}` around given parameters.

    Args:
      loss: ``loss(params) -> float[]``, differentiable.
      params: :math:`w_0`, a pytree of floating arrays, near a minimum.
      cutoff: c, ``float[e]`` or a number, positive, in units of the loss. The walk is made for the lowest; much larger
        ones come with large errors.
      key: typed PRNG key.
      scale: standard deviations of the reference, a pytree like ``params``; None: :func:`curvature_scale`.
      method: settings; None: ``Tempered()``.
      n_keep: most parameters handed back as ``particles``.
      execution: engine settings.
      directory: where to keep the run.
      resume: go on with the run in ``directory``.

    Returns:
      Curve over the cutoffs; ``log_prob`` holds log volumes (nats; not probabilities, so they may be positive).

    Raises:
      TypeError: ``key`` is not a typed key.
      ValueError: an argument is out of range.

    References:
      Chiang et al. (2023), Loss landscapes are all you need (volumes); the path is that of tempered sequential Monte
      Carlo, Del Moral, Doucet & Jasra (2006).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from genjax.volume import Tempered, local_log_volume
      >>> bowl = lambda w: jnp.sum(w**2)
      >>> settings = Tempered(n_particles=64, n_replicas=4)
      >>> found = local_log_volume(bowl, jnp.zeros(4), 1.0, key=jax.random.key(0), method=settings)
      >>> found.log_prob.value.shape  # exactly log(pi^2 / 2) = 1.60
      (1,)
    """
    cutoffs = jnp.atleast_1d(check_array("cutoff", cutoff))
    if cutoffs.ndim > 1 or not bool(jnp.all(cutoffs > 0)):
        raise ValueError(f"`cutoff` must be a positive number or a vector of them, but {cutoff!r} came")
    flat, unravel = ravel_pytree(params)
    lowest = float(jnp.min(cutoffs))
    if scale is None:
        scale = curvature_scale(loss, params, lowest, key=jax.random.fold_in(key, 2**18))
    spread, _ = ravel_pytree(scale)
    if spread.shape != flat.shape or not bool(jnp.all(spread > 0)):
        raise ValueError("`scale` must be positive, with a number for each parameter, but it is not")
    function = as_partial(loss)
    origin = function(params)
    if not bool(jnp.isfinite(origin)):
        raise ValueError(f"`loss` must be finite at `params`, but it is {float(origin):g}")
    transport = Partial(_around, Partial(unravel), flat, spread)
    log_density = 0.5 * flat.size * math.log(2 * math.pi) + jnp.sum(jnp.log(spread))
    problem = Problem(
        train=None,
        test=Partial(_excess, function, transport, origin),
        log_weight=Partial(_lebesgue, log_density),
        dimension=flat.size,
    )
    settings = Tempered() if method is None else method
    walk = Annealed(**dataclasses.asdict(settings), beta=flat.size / (2 * lowest))
    return simulate_events(
        problem, transport, cutoffs, "Lebesgue measure around given parameters", key, walk, n_keep, False,
        execution, directory, resume,
    )  # fmt: skip


def curvature_scale(
    loss: Callable[[Params], Array], params: Params, cutoff: float, *, key: Array, n_probes: int = 32
) -> Params:
    r"""Standard deviations :math:`\sqrt{2 c / (D h_i)}` of a Gaussian as wide as the basin, from the loss's curvature.

    .. math::
       h = E[v \odot H v], \qquad v_i = \pm 1

    Args:
      loss: ``loss(params) -> float[]``, twice differentiable.
      params: where.
      cutoff: c, positive.
      key: typed PRNG key.
      n_probes: random sign vectors v.

    Returns:
      Pytree like ``params``; directions of little or negative curvature count as a thousandth of the largest.

    Raises:
      ValueError: the curvature is nowhere positive.

    References:
      Hutchinson (1990), trace estimation; Bekas, Kokiopoulou & Saad (2007), An estimator for the diagonal of a matrix.
    """
    flat, unravel = ravel_pytree(params)
    slope = jax.grad(lambda w: loss(unravel(w)))

    def probe(key: Array) -> Array:
        v = jax.random.rademacher(key, flat.shape, flat.dtype)
        return v * jax.jvp(slope, (flat,), (v,))[1]

    curvature = jnp.mean(jax.lax.map(probe, jax.random.split(key, n_probes)), axis=0)
    largest = jnp.max(curvature)
    if not bool(largest > 0):
        raise ValueError("`loss` must curve upwards in some direction at `params`, but it does not; give `scale`")
    curvature = jnp.maximum(curvature, 1e-3 * largest)
    return unravel(jnp.sqrt(2 * cutoff / (flat.size * curvature)))


def _around(unravel: Partial, center: Array, scale: Array, z: Array) -> Params:
    return unravel(center + scale * z)


def _excess(loss: Partial, transport: Partial, origin: Array, z: Array) -> Array:
    return loss(transport(z)) - origin


def _lebesgue(log_density: Array, z: Array) -> Array:
    return 0.5 * jnp.sum(z**2) + log_density
