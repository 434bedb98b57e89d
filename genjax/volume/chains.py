r"""Markov chains that keep :math:`e^{-U(z)}`, and what independent chains say about their own convergence."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

Potential = Callable[[Array, Array], tuple[tuple[Array, Array], Array]]
"""``potential(z[D], key) -> ((U, observable), gradient[D])``."""


class Position(NamedTuple):
    """Where a chain is: ``z[D]``, potential ``U``, an observable, and the gradient of U ``[D]``."""

    z: Array
    potential: Array
    observable: Array
    gradient: Array


def locate(potential: Potential, z: Array, key: Array) -> Position:
    """The position at ``z``."""
    (value, observable), gradient = potential(z, key)
    return Position(z, value, observable, gradient)


def leapfrog(
    key: Array, potential: Potential, position: Position, step_size: Array, n_leapfrog: int, corrected: bool
) -> tuple[Position, Array, Array]:
    r"""One move: draw momenta, follow Hamilton's equations, accept or not.

    With step size e the leapfrog step is :math:`h = \sqrt e`, so a single one is Langevin's

    .. math::
       z' = z - \tfrac e2 \nabla U(z) + \sqrt e\, \xi,

    MALA if corrected by Metropolis's test, else (SG)LD; several are Hamiltonian Monte Carlo, and then h varies by 20 %
    between moves, against resonances.

    Args:
      key: typed PRNG key.
      potential: U.
      position: where the chain is.
      step_size: e.
      n_leapfrog: steps of a trajectory.
      corrected: whether the test decides, or the proposal is always taken.

    Returns:
      The position, the probability with which the test accepts the proposal, and whether the proposal's potential was
      NaN.

    References:
      Roberts & Tweedie (1996), Exponential convergence of Langevin distributions; Neal (2011), MCMC using Hamiltonian
      dynamics; Welling & Teh (2011), Bayesian learning via stochastic gradient Langevin dynamics.
    """
    momenta, jitter, coin, *batches = jax.random.split(key, 3 + n_leapfrog)
    h = jnp.sqrt(step_size)
    if n_leapfrog > 1:
        h = h * jax.random.uniform(jitter, (), h.dtype, 0.8, 1.2)
    p = jax.random.normal(momenta, position.z.shape, position.z.dtype)

    def leap(carry: tuple[Position, Array], batch: Array) -> tuple[tuple[Position, Array], None]:
        here, p = carry
        p = p - h / 2 * here.gradient
        there = locate(potential, here.z + h * p, batch)
        return (there, p - h / 2 * there.gradient), None

    (end, p_end), _ = lax.scan(leap, (position, p), jnp.stack(batches))
    gain = position.potential - end.potential + 0.5 * (jnp.sum(p**2) - jnp.sum(p_end**2))
    probability = jnp.where(jnp.isnan(gain), 0, jnp.exp(jnp.minimum(gain, 0)))
    accepted = (jax.random.uniform(coin) < probability) | (not corrected)
    moved = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), end, position)
    return moved, probability, jnp.isnan(end.potential)


class ChainSummary(NamedTuple):
    """Of draws from independent chains.

    Attributes:
      mean: over the draws of the chains that stayed finite.
      stderr: Monte Carlo standard error of the mean, autocorrelation and disagreement of chains included.
      r_hat: split R-hat; 1 at convergence, huge for chains that do not move and disagree.
      effective_draws: independent draws that would have the same error.
      failed: chains with a draw that was not finite, ``bool[c]``.
    """

    mean: Array
    stderr: Array
    r_hat: Array
    effective_draws: Array
    failed: Array


def summarize_chains(draws: Array) -> ChainSummary:
    r"""Mean of an observable, its Monte Carlo standard error and the convergence of the chains.

    Every chain is cut in two, so that a drift shows as a disagreement. With W the mean variance within the m halves of
    n draws and :math:`\hat V = \tfrac{n-1}{n} W + \tfrac1n B` the variance that includes what lies between them,

    .. math::
       \hat R = \sqrt{\hat V / W}, \qquad
       n_{eff} = \frac{m n}{1 + 2 \sum_t \hat\rho_t}, \qquad \text{stderr} = \sqrt{\hat V / n_{eff}},

    the sum over autocorrelations being Geyer's initial monotone sequence.

    Args:
      draws: ``float[c, n]``, chains by draws, at least 8 of those.

    Returns:
      The summary; NaN if all chains failed.

    Raises:
      ValueError: another shape.

    References:
      Gelman & Rubin (1992); Geyer (1992), Practical Markov chain Monte Carlo; Vehtari et al. (2021), arXiv:1903.08008.
    """
    if draws.ndim != 2 or draws.shape[1] < 8:
        raise ValueError(f"`draws` must be of chains by at least 8 draws, but its shape is {draws.shape}")
    failed = ~jnp.all(jnp.isfinite(draws), axis=1)
    n = draws.shape[1] // 2
    halves = jnp.where(failed[:, None], 0, draws)[:, -2 * n :].reshape(-1, n)
    good = jnp.repeat(~failed, 2)
    m = jnp.sum(good, dtype=draws.dtype)

    def average(values: Array) -> Array:
        weights = good.reshape(good.shape + (1,) * (values.ndim - 1))
        return jnp.sum(jnp.where(weights, values, 0), axis=0) / m

    means = jnp.mean(halves, axis=1)
    mean = average(means)
    covariances = average(_autocovariances(halves - means[:, None]))
    within = covariances[0] * n / (n - 1)
    between = average((means - mean) ** 2) * m / (m - 1)
    total = covariances[0] + between
    still = total == 0
    safe = jnp.where(still, 1, total)
    correlations = 1 - (within - covariances) / safe
    pairs = correlations[: n - n % 2].reshape(-1, 2).sum(axis=1)
    alive = jnp.cumprod(pairs > 0)
    time = jnp.maximum(2 * jnp.sum(alive * lax.cummin(pairs)) - 1, 1 / jnp.log10(m * n))
    effective = m * n / time
    r_hat = jnp.where(still, 1.0, jnp.sqrt(safe / within))
    everyone = jnp.where(m > 0, 1.0, jnp.nan)
    return ChainSummary(
        mean=mean,
        stderr=jnp.sqrt(total / effective),
        r_hat=r_hat * everyone,
        effective_draws=effective * everyone,
        failed=failed,
    )


def _autocovariances(centered: Array) -> Array:
    """At lags 0 to n - 1 of every row, normalized by n."""
    n = centered.shape[1]
    spectrum = jnp.fft.rfft(centered, 2 * n, axis=1)
    return jnp.fft.irfft(jnp.abs(spectrum) ** 2, 2 * n, axis=1)[:, :n] / n
