r"""Volume of the basin around given parameters by sequential Monte Carlo, which walks to where the volume is."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial
from jax.typing import ArrayLike

from genjax.errors import Status, check_array, check_positive, concrete
from genjax.estimate import Estimate
from genjax.typing import Params
from genjax.volume.basin import MAX_RADIUS, GaussianPrior, first_exit, gaussian_prior
from genjax.volume.flat import flat_loss, flat_values
from genjax.volume.masses import Masses, Work, walk_masses
from genjax.volume.replicas import WIDEST_SCATTER, jackknife, jackknife_covariance, log_mean
from genjax.volume.smc import (
    TEST,
    Events,
    Population,
    Problem,
    Row,
    Scores,
    draw_population,
    enter,
    evaluator,
    move_population,
    prior_row,
    resample,
)
from genjax.volume.walk import Tempered, Walk, next_power

if TYPE_CHECKING:
    from genjax.run import Execution

_N_RAYS = 16
# A warm-up that widens a direction by more, from its third quarter to its last or in all, has found no edge.
_MOST_GROWTH = 10.0
_WIDEST = 1e12

Moments = tuple[Array, Array, Array]
"""Sums of means ``[D]``, mean squares ``[D]`` and log inverse temperatures."""


@dataclasses.dataclass(frozen=True)
class LocalVolume:
    """Volume of a basin by sequential Monte Carlo.

    Attributes:
      log_volume: nats, ``Estimate []`` or ``[e]`` like the cutoff, with Student's 95 % interval over the replicas;
        ``DOUBTFUL`` with the reasons in ``warnings``. Where no replica came below the cutoff the status is ``BOUND``
        and the value the upper end of a one-sided interval.
      covariance: ``float[e, e]`` of the log volumes at several cutoffs, nats squared, for
        :func:`genjax.volume.llc_from_curve`; ``[]`` at one.
      scales: ``float[D]``, standard deviations of the Gaussian reference that the pilot fitted.
      inverse_temperature: at which the basin was first filled, 1 / loss.
      diagnostics: numbers by name, as for method ``"tempered"``.
      warnings: what looked wrong, in sentences.
    """

    log_volume: Estimate
    covariance: Array
    scales: Array
    inverse_temperature: float
    diagnostics: dict[str, Any]
    warnings: tuple[str, ...]


def local_log_volume(
    loss: Callable[[Params], Array],
    params: Params,
    cutoff: ArrayLike,
    key: Array,
    *,
    prior_variance: ArrayLike | Params | None = None,
    prior_mean: ArrayLike | Params = 0.0,
    scales: ArrayLike | Params = 1.0,
    settings: Tempered | None = None,
    n_warmup: int = 200,
    execution: Execution | None = None,
    directory: str | Path | None = None,
    resume: bool = False,
) -> LocalVolume:
    r"""Log volume of a basin by tempered sequential Monte Carlo that begins at given parameters.

    With a Gaussian reference q fitted to the basin, :math:`\Delta L = L - L(w_0)` and the measure :math:`\mu`
    (Lebesgue, or a Gaussian prior), particles pass through

    .. math::
       p_t(w) \propto q(w)^{1 - t}\, \big[\mu(w)\, e^{-\beta \Delta L(w)}\big]^t, \quad t = 0 \ldots 1, \qquad
       V(c) = Z_{\beta}\, E_{\beta}\big[e^{\beta \Delta L}\, 1(\Delta L \le c)\big],

    then on to the :math:`\beta` at which half of them are below c. A warm-up at :math:`E[\Delta L] = c` fits q; a pilot
    chooses the steps in t, step sizes and preconditioners; independent replicas repeat them, frozen, each an unbiased
    estimate of V whatever q is. Other basins count in principle, but a walk that starts here does not find them.

    Args:
      loss: ``loss(params) -> float[]``, differentiable; NaN counts as outside.
      params: :math:`w_0`, any pytree of D numbers.
      cutoff: c, positive: a number, or ``float[e]`` for a curve in one run.
      key: typed PRNG key.
      prior_variance: of independent Gaussian weights: a number, ``[D]`` or a pytree like ``params``. None is Lebesgue
        measure, under which a basin with a flat direction has no finite volume.
      prior_mean: likewise.
      scales: relative widths of the basin where the warm-up begins, likewise; their overall size does not matter.
      settings: of the walk; None is ``Tempered(max_rows=256)``. If its ``doubled()`` changes the answer, it was wrong.
      n_warmup: moves of the warm-up; with too few the reference fits badly, which costs steps, not correctness.
      execution: engine settings.
      directory: where to keep the run, so that it can be interrupted and resumed.
      resume: go on with the run in ``directory``.

    Returns:
      The volume. Not legal under ``jit``: it runs programs.

    Raises:
      ValueError: an argument of the wrong shape, or not positive where it must be, or a loss that is not finite at
        ``params``.

    References:
      Del Moral, Doucet & Jasra (2006), Sequential Monte Carlo samplers; bridging to Lebesgue measure and to the tilted
      basin at once is genjax's own.

    Example:
      >>> import jax
      >>> from genjax.volume import Tempered, local_log_volume
      >>> settings = Tempered(n_particles=64, n_replicas=4)
      >>> ball = local_log_volume(lambda w: w @ w, jax.numpy.zeros(3), 1.0, jax.random.key(0), settings=settings)
      >>> abs(float(ball.log_volume.value) - 1.4324) < 5 * float(ball.log_volume.stderr)  # log 4 pi / 3
      True
    """
    cutoffs = check_array("cutoff", cutoff)
    if cutoffs.ndim > 1 or not cutoffs.size:
        raise ValueError(f"`cutoff` must be a number or a vector, but its shape is {cutoffs.shape}")
    known = concrete(cutoffs)
    if known is not None and not (known > 0).all():
        raise ValueError(f"`cutoff` must be positive, but {known.min():g} came")
    check_positive("n_warmup", n_warmup, integer=True)
    settings = Tempered(max_rows=256) if settings is None else settings
    if not isinstance(settings, Tempered) or settings.move != "hmc":
        raise ValueError(f"`settings` must be Tempered with Hamiltonian moves, but {settings!r} came")
    walk = _Bridge(**{field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)})
    start = float(loss(params))
    if not math.isfinite(start):
        raise ValueError(f"`loss` must be finite at `params`, but {start} came")
    prior = None if prior_variance is None else gaussian_prior(prior_mean, prior_variance, params)
    widths = flat_values("scales", scales, params, positive=True)
    pilot, replicas = jax.random.split(key)
    center, _ = ravel_pytree(params)
    basin, widening = _fit_reference(
        flat_loss(loss, params), center, prior, widths, jnp.max(cutoffs), pilot, walk, -(-n_warmup // 4)
    )
    levels = basin.beta * jnp.atleast_1d(cutoffs)
    work = Work(execution, None if directory is None else Path(directory), resume)
    masses = walk_masses(basin, Events(jnp.asarray(jnp.inf), levels), replicas, walk, work)
    return _local_volume(basin, bool(widening), masses, np.shape(cutoffs))


@dataclasses.dataclass(frozen=True)
class _Bridge(Tempered):
    """Raises the power of the measure and the loss's inverse temperature at one go, for either alone is improper."""

    name: ClassVar[str] = "bridge"

    def _next_row(self, row: Row, population: Population, target: Array) -> tuple[Row, Array]:
        scores = population.scores
        joint, _ = next_power(
            row, population._replace(scores=scores._replace(weight=scores.weight - scores.test)), self.ess
        )
        joint = joint._replace(test_beta=joint.power)
        colder, done = super()._next_row(row, population, target)
        bridging = row.power < 1
        return jax.tree.map(lambda a, b: jnp.where(bridging, a, b), joint, colder), done & ~bridging


def _local_volume(basin: _Basin, widening: bool, masses: Masses, shape: tuple[int, ...]) -> LocalVolume:
    # What one unit of the walk's mass, relative to the standard normal law, stands for.
    scales = np.asarray(basin.scales, np.float64)
    unit = np.sum(np.log(scales)) + scales.size / 2 * math.log(2 * math.pi)
    logs = masses.targets + unit
    seen = np.isfinite(logs)
    found, some = jackknife(log_mean, logs), np.any(seen, axis=0)
    warnings = masses.warnings
    if widening:
        warnings += (
            "the basin was still widening when the warm-up ended: raise `n_warmup`, or give a prior if it has no edge",
        )
    # A replica that missed the cutoff scatters without limit.
    spread = np.std(np.where(seen.all(axis=0), logs, 0), axis=0, ddof=1)
    if (some & ~seen.all(axis=0) | (spread > WIDEST_SCATTER)).any():
        warnings += ("replicas scatter by more than a nat, or miss the cutoff: raise `n_particles` or `n_moves`",)
    # Chernoff's bound V <= Z exp(beta c) holds once the walk has left the reference behind.
    crossed = masses.diagnostics["test_beta"][-1] >= 1
    end = masses.bounds + unit if crossed else np.full(masses.bounds.shape, np.nan)
    status = np.where(some, Status.DOUBTFUL if warnings else Status.OK, Status.BOUND if crossed else Status.INVALID)
    low = np.where(some & np.isfinite(found.low), found.low, -np.inf)
    high = np.where(some, np.where(np.isfinite(found.high) & (not widening), found.high, np.inf), end)

    def shaped(column: np.ndarray) -> Array:
        return jnp.asarray(column, float).reshape(shape)

    estimate = Estimate(
        value=shaped(np.where(some, found.value, end)),
        stderr=shaped(np.where(np.isfinite(found.stderr), found.stderr, np.inf)),
        error_bound=jnp.zeros(shape),
        status=jnp.asarray(status, jnp.int32).reshape(shape),
        given="basin around the given parameters",
        bounds=(shaped(low), shaped(high)),
    )
    return LocalVolume(
        log_volume=estimate,
        covariance=jnp.asarray(jackknife_covariance(logs), float).reshape(shape + shape),
        scales=basin.scales,
        inverse_temperature=float(basin.beta),
        diagnostics=masses.diagnostics,
        warnings=warnings,
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Basin(Problem):
    r"""A basin in coordinates :math:`z = (w - \text{center}) / \text{scales}`, the loss counted from its start.

    The score is :math:`\beta \Delta L`, the weight the log density of the measure relative to the standard normal law
    of z, up to a constant.
    """

    loss: Partial
    prior: GaussianPrior | None
    start: Array
    center: Array
    scales: Array
    beta: Array

    def scores(self, z: Array, stage: int) -> Scores:  # noqa: ARG002
        w = self.center + self.scales * z
        weight = jnp.sum(z**2) / 2 + (0 if self.prior is None else self.prior.log_density(w))
        score = self.beta * (self.loss(w) - self.start)
        valid = jnp.isfinite(weight) & jnp.isfinite(score)
        zero = jnp.zeros((), z.dtype)
        return Scores(jnp.where(valid, weight, -jnp.inf), zero, jnp.where(valid, score, jnp.inf), ~valid)


@functools.partial(jax.jit, static_argnames=("walk", "n_quarter"))
def _fit_reference(
    loss: Partial,
    center: Array,
    prior: GaussianPrior | None,
    widths: Array,
    cutoff: Array,
    key: Array,
    walk: Walk,
    n_quarter: int,
) -> tuple[_Basin, Array]:
    """The basin in coordinates in which it is roughly normal at the temperature that fills it; is it still widening?"""
    d, start = center.size, loss(center)
    rays, draw, again, moving = jax.random.split(key, 4)
    log_max = jnp.asarray(math.log(MAX_RADIUS), center.dtype)

    def reach(key: Array) -> Array:
        u = widths * jax.random.normal(key, (d,), center.dtype) / math.sqrt(d)
        return first_exit(lambda log_r: loss(center + jnp.exp(log_r) * u) - start <= cutoff, log_max)[0]

    log_size = jnp.median(lax.map(reach, jax.random.split(rays, _N_RAYS)))
    scales = widths * jnp.exp(log_size) / math.sqrt(d)
    basin = _Basin(None, loss, None, d, loss, prior, start, center, scales, 1 / cutoff)
    row = prior_row(TEST, 1.0, d, 0.5)
    row = row._replace(test_beta=jnp.asarray(d / 2, float))
    population = enter(draw_population(draw, basin, walk.n_particles), evaluator(basin, row.stage))
    # Who begins outside the finite numbers could never leave.
    population = resample(again, population, jnp.where(population.scores.invalid, -jnp.inf, 0.0))

    def sweep(carry: tuple[Population, Row, Moments], key: Array) -> tuple[tuple[Population, Row, Moments], None]:
        population, row, sums = carry
        mean, square = jnp.mean(population.z, axis=0), jnp.mean(population.z**2, axis=0)
        beta = row.test_beta * jnp.sqrt(jnp.clip(jnp.mean(population.scores.test), 0.25, 4.0))
        row = row._replace(variance=jnp.clip(square - mean**2, 1 / _WIDEST, _WIDEST), test_beta=beta)
        population, row, *_ = move_population(key, basin, row, population, walk.kernel, 1, (0.8, 0.7))
        return (population, row, jax.tree.map(jnp.add, sums, (mean, square, jnp.log(beta)))), None

    # The first half forgets the start, the other quarters are averaged.
    averages = []
    for keys in jnp.split(jax.random.split(moving, 4 * n_quarter), [2 * n_quarter, 3 * n_quarter]):
        nothing = (jnp.zeros(d), jnp.zeros(d), jnp.zeros(()))
        (population, row, sums), _ = lax.scan(sweep, (population, row, nothing), keys)
        averages.append(jax.tree.map(lambda leaf: leaf / n_quarter, sums))
    growth = jnp.max(averages[2][1] / averages[1][1])
    mean, square, log_beta = jax.tree.map(lambda *quarters: sum(quarters) / 2, *averages[1:])
    basin = dataclasses.replace(
        basin,
        center=center + scales * mean,
        scales=scales * jnp.sqrt(square - mean**2),
        beta=jnp.exp(log_beta) / cutoff,
    )
    return basin, ~((growth < _MOST_GROWTH) & (jnp.max(square) < _WIDEST))
