r"""Moves that keep a row's density: the standard normal law times ``exp(log_density)``, particle by particle.

All are reversible, so a chain started in the density stays in it; none is ever tuned by where its own particles are.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax

from genjax.volume.smc import (
    Population,
    Problem,
    Row,
    Scores,
    evaluator,
    gradient,
    inside,
    log_density,
    smooth_log_density,
)

_MAX_SHRINKS = 64


def preconditioned_crank_nicolson(
    key: Array, problem: Problem, row: Row, population: Population
) -> tuple[Array, Population]:
    r"""Propose :math:`z' = \sqrt{1 - b^2} z + b \xi`, which keeps the prior, and accept by the density alone.

    Cotter, Roberts, Stuart & White (2013), MCMC methods for functions.
    """
    noise, coin = jax.random.split(key)
    z = population.z
    proposal = jnp.sqrt(1 - row.step**2) * z + row.step * jax.random.normal(noise, z.shape)
    scores = evaluator(problem, row.stage)(proposal)
    log_ratio = log_density(scores, population.tie, row) - smooth_log_density(population.scores, row)
    return _accept(coin, population, population._replace(z=proposal, scores=scores), log_ratio)


def elliptical_slice(key: Array, problem: Problem, row: Row, population: Population) -> tuple[Array, Population]:
    """Turn on a random ellipse through the particle, shrinking the arc until the density is above a random height.

    Murray, Adams & MacKay (2010), Elliptical slice sampling. Needs no step size; a step takes several evaluations.
    """
    keys = jax.random.split(key, 4)
    z, n = population.z, len(population.z)
    evaluate = evaluator(problem, row.stage)
    other = jax.random.normal(keys[0], z.shape)
    height = smooth_log_density(population.scores, row) + jnp.log(jax.random.uniform(keys[1], (n,)))
    angle = jax.random.uniform(keys[2], (n,), maxval=2 * jnp.pi)

    def searching(carry: tuple) -> Array:
        *_, found, turns = carry
        return (turns < _MAX_SHRINKS) & ~jnp.all(found)

    def shrink(carry: tuple) -> tuple:
        current, angle, low, high, invalid, found, turns = carry
        proposal = jnp.cos(angle)[:, None] * z + jnp.sin(angle)[:, None] * other
        scores = evaluate(proposal)
        good = ~found & (log_density(scores, population.tie, row) > height)
        current = _where(good, population._replace(z=proposal, scores=scores), current)
        low, high = jnp.where(angle < 0, angle, low), jnp.where(angle < 0, high, angle)
        fresh = jax.random.uniform(jax.random.fold_in(keys[3], turns), (n,))
        found = found | good
        angle = jnp.where(found, angle, low + fresh * (high - low))
        return current, angle, low, high, invalid | scores.invalid, found, turns + 1

    nobody = jnp.zeros(n, bool)
    start = (population, angle, angle - 2 * jnp.pi, angle, nobody, nobody, jnp.zeros((), jnp.int32))
    current, *_, invalid, found, _ = lax.while_loop(searching, shrink, start)
    return found.astype(z.dtype), _flag(current, invalid)


def hamiltonian(
    key: Array, problem: Problem, row: Row, population: Population, n_leapfrog: int
) -> tuple[Array, Population]:
    r"""Hamiltonian trajectories of random length, in coordinates scaled by the row's variance.

    With scales :math:`s = \sqrt{v}` and step h, momenta are :math:`N(0, 1)` and :math:`z' = z + h s p`. One leapfrog
    step is the Metropolis-adjusted Langevin move (MALA). Duane et al. (1987); Neal (2011), MCMC using Hamiltonian
    dynamics.
    """
    momenta, lengths, coin = jax.random.split(key, 3)
    z, n = population.z, len(population.z)
    scale = jnp.sqrt(row.variance)
    # Whole trajectories stay within a quarter period; jitter breaks resonances.
    step = jnp.minimum(row.step, 1.0) * (jnp.pi / 2 / n_leapfrog)
    step = (step * jax.random.uniform(lengths, (n,), minval=0.5, maxval=1.0))[:, None]
    slope_of = gradient(problem, row)

    def slope(z: Array) -> tuple[Array, Scores]:
        smooth, scores = slope_of(z)
        return scale * (smooth - z), scores

    p = jax.random.normal(momenta, z.shape)
    force, scores = slope(z)

    def leap(carry: tuple, _: None) -> tuple[tuple, None]:
        z, p, force, _ = carry
        p = p + step / 2 * force
        z = z + step * scale * p
        force, scores = slope(z)
        return (z, p + step / 2 * force, force, scores), None

    (end, p_end, _, scores), _ = lax.scan(leap, (z, p, force, scores), None, length=n_leapfrog)
    energy = 0.5 * jnp.sum(z**2 + p**2, axis=1) - smooth_log_density(population.scores, row)
    energy_end = 0.5 * jnp.sum(end**2 + p_end**2, axis=1) - smooth_log_density(scores, row)
    log_ratio = jnp.where(inside(scores, population.tie, row), energy - energy_end, -jnp.inf)
    return _accept(coin, population, population._replace(z=end, scores=scores), log_ratio)


def _accept(key: Array, population: Population, proposal: Population, log_ratio: Array) -> tuple[Array, Population]:
    probability = jnp.where(jnp.isnan(log_ratio), 0, jnp.exp(jnp.minimum(log_ratio, 0)))
    accepted = jax.random.uniform(key, probability.shape) < probability
    return probability, _flag(_where(accepted, proposal, population), proposal.scores.invalid)


def _where(condition: Array, new: Population, old: Population) -> Population:
    return jax.tree.map(
        lambda a, b: jnp.where(condition.reshape(condition.shape + (1,) * (a.ndim - 1)), a, b), new, old
    )


def _flag(population: Population, invalid: Array) -> Population:
    """Say which proposals were invalid, accepted or not."""
    return population._replace(scores=population.scores._replace(invalid=invalid))
