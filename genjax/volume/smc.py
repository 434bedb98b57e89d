r"""Sequential Monte Carlo over hypotheses: one step of a walk from the prior to a rare event, and what it adds up.

Particles :math:`z \sim N(0, 1_D)` pass through a sequence of densities, relative to the standard normal law,

.. math::
   q_k(z) = \exp\big(p_k W(z) - \beta_k^{tr} L_{tr}(z) - \beta_k^{te} L_{te}(z)\big)\, 1[z \in A_k],

by reweighting, resampling and moves that keep :math:`q_k`. Splitting lowers the levels that bound :math:`A_k`;
tempering raises the betas; a prior known by its density raises the power :math:`p_k` of its weight :math:`W` first. The
rows :math:`k` are fixed in advance, so every :math:`\hat Z_k` is unbiased, and so is, for any event E,

.. math::
   \hat P(E) = \sum_k \frac{\hat Z_k}{\tilde Z_k} \frac1N \sum_i
   \frac{e^{W(z_i)} 1[z_i \in E]}{\sum_j q_j(z_i) / \tilde Z_j},

which weighs every row by how well it covers the event (:math:`\tilde Z`: the pilot's, fixed too; the sums run over the
rows of one stage). One pass therefore gives the probability of every target error.

References: Del Moral, Doucet & Jasra (2006), Sequential Monte Carlo samplers; Cérou, Del Moral, Furon & Guyader (2012),
Sequential Monte Carlo for rare event estimation; Veach & Guibas (1995) for the balance heuristic.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.scipy.special import logsumexp
from jax.tree_util import Partial

WEIGHT, TRAIN, TEST = 0, 1, 2
"""Stages of a walk: to the prior's own density, to fitting the training data, to the target test error."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Problem:
    """What a walk needs to know of hypotheses, as functions of their coordinates ``z[D]``.

    Attributes:
      train: training score, ``float[]``; None without a training stage.
      test: test score, ``float[]``.
      log_weight: log density of the prior relative to the standard normal law; None if it is that law.
      dimension: D.
    """

    train: Partial | None
    test: Partial
    log_weight: Partial | None
    dimension: int = dataclasses.field(metadata={"static": True})

    def scores(self, z: Array, stage: int) -> Scores:
        """Of one hypothesis, as far as a stage needs them; what is not finite becomes ``inf`` and is counted."""
        zero = jnp.zeros((), z.dtype)
        weight = zero if self.log_weight is None else self.log_weight(z)
        train = zero if self.train is None or stage < TRAIN else self.train(z)
        test = zero if stage < TEST else self.test(z)
        valid = ~jnp.isnan(weight) & (weight < jnp.inf) & jnp.isfinite(train) & jnp.isfinite(test)
        return Scores(
            weight=jnp.where(valid, weight, -jnp.inf),
            train=jnp.where(valid, train, jnp.inf),
            test=jnp.where(valid, test, jnp.inf),
            invalid=~valid,
        )


class Scores(NamedTuple):
    """Of one hypothesis, or stacked ``[N]``: log weight, training and test score.

    ``invalid`` says whether the last hypothesis proposed in its place had a score that was not finite.
    """

    weight: Array
    train: Array
    test: Array
    invalid: Array


class Row(NamedTuple):
    """One density of the walk, or stacked ``[K]`` a schedule.

    ``step`` is the size of its moves, ``variance[D]`` their preconditioner (``[0]`` without one) and ``log_z`` the log
    of its mass as the pilot found it. Within a level's plateau, ``tie`` bounds the tie-breaker.
    """

    stage: Array
    power: Array
    train_beta: Array
    train_level: Array
    train_tie: Array
    test_beta: Array
    test_level: Array
    test_tie: Array
    step: Array
    variance: Array
    log_z: Array


def prior_row(stage: int, power: float, n_preconditioned: int, step: float) -> Row:
    """The density a walk begins with."""
    one, zero, infinite = (jnp.asarray(value, float) for value in (1.0, 0.0, jnp.inf))
    return Row(
        *(jnp.asarray(stage, jnp.int32), jnp.asarray(power, float), zero, infinite, one, zero, infinite, one),
        *(jnp.asarray(step, float), jnp.ones((n_preconditioned,)), zero),
    )


def inside(scores: Scores, tie: Array, row: Row) -> Array:
    """Whether hypotheses lie in a row's set: below its levels, ties broken by a number each carries."""
    below_train = (scores.train < row.train_level) | ((scores.train == row.train_level) & (tie <= row.train_tie))
    below_test = (scores.test < row.test_level) | ((scores.test == row.test_level) & (tie <= row.test_tie))
    return below_train & below_test


def level_at(
    population: Population, stage: Array, place: int, target: Array
) -> tuple[Array, tuple[Array, Array], Array]:
    """Particles in the order of their scores, ``int32[N]``; the level and tie-breaker of the one at a place.

    The target takes the place of a level that is as low; the last output says whether it did.
    """
    score = active_score(population.scores, stage)
    order = jnp.lexsort((population.tie, score))
    level, tie = score[order[place]], population.tie[order[place]]
    there = level <= target
    return order, (jnp.where(there, target, level), jnp.where(there, 1.0, tie)), there


def at_level(row: Row, stage: Array, level: tuple[Array, Array]) -> Row:
    """The row with another level and tie-breaker of one stage."""
    train = stage == TRAIN
    return row._replace(
        train_level=jnp.where(train, level[0], row.train_level),
        train_tie=jnp.where(train, level[1], row.train_tie),
        test_level=jnp.where(train, row.test_level, level[0]),
        test_tie=jnp.where(train, row.test_tie, level[1]),
    )


def smooth_log_density(scores: Scores, row: Row) -> Array:
    """``log q_k`` without its set; a coefficient of zero silences even an infinite score."""

    def term(coefficient: Array, score: Array) -> Array:
        return jnp.where(coefficient == 0, 0, coefficient * score)

    return term(row.power, scores.weight) - term(row.train_beta, scores.train) - term(row.test_beta, scores.test)


def log_density(scores: Scores, tie: Array, row: Row) -> Array:
    """``log q_k``, relative to the standard normal law; ``-inf`` outside its set."""
    return jnp.where(inside(scores, tie, row), smooth_log_density(scores, row), -jnp.inf)


def break_ties(key: Array, scores: Scores, row: Row) -> Array:
    """Tie-breakers ``[N]`` drawn anew from their conditional law: uniform below whatever bounds them."""
    bound = jnp.minimum(
        jnp.where(scores.train == row.train_level, row.train_tie, 1),
        jnp.where(scores.test == row.test_level, row.test_tie, 1),
    )
    return bound * jax.random.uniform(key, scores.train.shape)


Evaluate = Callable[[Array], Scores]
"""Scores ``[N]`` of stacked coordinates ``[N, D]``, for the stage at hand."""


def evaluator(problem: Problem, stage: Array) -> Evaluate:
    """Scores as far as a stage needs them; the stage is a branch, not a mask, because it is the same for everyone."""
    return _by_stage(problem, stage, lambda s: jax.vmap(lambda z: problem.scores(z, s)))


def gradient(problem: Problem, row: Row) -> Callable[[Array], tuple[Array, Scores]]:
    """Gradients ``[N, D]`` of ``smooth_log_density`` and the scores, of stacked coordinates."""

    def branch(stage: int) -> Callable[[Array], tuple[Array, Scores]]:
        def value(z: Array) -> tuple[Array, Scores]:
            scores = problem.scores(z, stage)
            return smooth_log_density(scores, row), scores

        return jax.vmap(jax.grad(value, has_aux=True))

    return _by_stage(problem, row.stage, branch)


def _by_stage(problem: Problem, stage: Array, branch: Callable[[int], Callable[[Array], Any]]) -> Callable[..., Any]:
    """The stage's branch; stages a problem does not have are not compiled."""
    has = {WEIGHT: problem.log_weight is not None, TRAIN: problem.train is not None, TEST: True}
    kept = [s for s in (WEIGHT, TRAIN, TEST) if has[s]]
    position = jnp.searchsorted(jnp.asarray(kept), stage)
    return lambda z: lax.switch(position, [branch(s) for s in kept], z)


class Population(NamedTuple):
    """Particles on the way.

    Attributes:
      z: ``float[N, D]``.
      scores: ``[N]`` each.
      tie: ``float[N]``, tie-breakers in [0, 1].
      ancestor: ``int32[N]``, index of the first particle of the stage each descends from.
    """

    z: Array
    scores: Scores
    tie: Array
    ancestor: Array

    def arrays(self) -> dict[str, Array]:
        """Everything by name, but the genealogy."""
        return {"z": self.z, "tie": self.tie, **self.scores._asdict()}


def draw_population(key: Array, problem: Problem, n: int) -> Population:
    """Particles from the standard normal law, not yet scored."""
    coordinates, ties = jax.random.split(key)
    z = jax.random.normal(coordinates, (n, problem.dimension))
    zeros = jnp.zeros(n, z.dtype)
    scores = Scores(zeros, zeros, zeros, jnp.zeros(n, bool))
    return Population(z, scores, jax.random.uniform(ties, (n,)), jnp.arange(n, dtype=jnp.int32))


def enter(population: Population, evaluate: Evaluate) -> Population:
    """Begin a stage: score everyone and count ancestors anew."""
    n = population.ancestor.size
    return population._replace(scores=evaluate(population.z), ancestor=jnp.arange(n, dtype=jnp.int32))


def reweight(population: Population, old: Row, new: Row) -> Array:
    """Log incremental weights ``[N]`` from one row to the next; ``-inf`` for who is left behind."""
    before = smooth_log_density(population.scores, old)
    after = log_density(population.scores, population.tie, new)
    # Invalid hypotheses have both at -inf; they are left behind.
    return jnp.where(jnp.isfinite(before) & jnp.isfinite(after), after - before, -jnp.inf)


def resample(key: Array, population: Population, log_weights: Array) -> Population:
    """Systematic resampling: every particle is copied its expected number of times, up to rounding."""
    n = log_weights.size
    weights = jnp.exp(log_weights - jnp.max(log_weights))
    ends = jnp.cumsum(weights)
    points = (jnp.arange(n) + jax.random.uniform(key)) * (ends[-1] / n)
    chosen = jnp.minimum(jnp.searchsorted(ends, points, side="right"), n - 1)
    # Rounding may point past the last particle with weight; it must never choose one without.
    chosen = jnp.where(weights[chosen] > 0, chosen, jnp.argmax(weights))
    return jax.tree.map(lambda leaf: leaf[chosen], population)


class Events(NamedTuple):
    """Thresholds: ``fit[]`` on the training score, ``targets[E]`` on the test score."""

    fit: Array
    targets: Array


class Sums(NamedTuple):
    """Running estimates, nats: log masses of everything, of what fits ``[]``, and of each target among it ``[E]``."""

    total: Array
    fit: Array
    targets: Array


def add_up(sums: Sums, population: Population, row: Row, rows: Row, log_z: Array, events: Events) -> Sums:
    r"""Add a row's share of every event's mass.

    Args:
      sums: so far.
      population: particles of the row, after its moves.
      row: the row.
      rows: the whole schedule ``[K]``; unused rows have ``stage`` -1.
      log_z: :math:`\log \hat Z_k`.
      events: thresholds.

    Returns:
      The new sums.
    """
    scores = population.scores
    each, tie = jax.tree.map(lambda leaf: leaf[:, None], (scores, population.tie))
    # Rows of other stages are silent; so are those whose mass the pilot found to be zero.
    covering = (rows.stage == row.stage) & jnp.isfinite(rows.log_z)
    log_cover = jnp.where(covering, log_density(each, tie, rows) - jnp.where(covering, rows.log_z, 0), -jnp.inf)
    log_share = scores.weight - logsumexp(log_cover, axis=1)
    log_share = jnp.where(jnp.isfinite(log_share), log_share, -jnp.inf)

    def mass(event: Array) -> Array:
        sums = logsumexp(jnp.where(event, log_share[:, None], -jnp.inf), axis=0)
        return log_z - row.log_z + sums - np.log(log_share.size)

    fits = scores.train <= events.fit
    good = fits[:, None] & (scores.test[:, None] <= events.targets)
    everyone = jnp.ones_like(fits)[:, None]
    return Sums(
        total=jnp.where(row.stage == WEIGHT, jnp.logaddexp(sums.total, mass(everyone)[0]), sums.total),
        fit=jnp.where(row.stage == TRAIN, jnp.logaddexp(sums.fit, mass(fits[:, None])[0]), sums.fit),
        targets=jnp.where(row.stage == TEST, jnp.logaddexp(sums.targets, mass(good)), sums.targets),
    )


class Report(NamedTuple):
    """What one row says about its own health.

    Attributes:
      acceptance: mean acceptance of its moves.
      ancestors: distinct ancestors since the stage began, as a share of the particles.
      memory: correlation of the score before and after the moves.
      survivors: effective share of particles that carry on from the row before.
      invalid: hypotheses met whose score was not finite.
    """

    acceptance: Array
    ancestors: Array
    memory: Array
    survivors: Array
    invalid: Array


def ancestor_share(population: Population) -> Array:
    """Distinct ancestors since the stage began, as a share of the particles."""
    return jnp.mean(jnp.zeros(population.ancestor.size, bool).at[population.ancestor].set(True))


def correlation(a: Array, b: Array) -> Array:
    """Of two vectors; NaN where either does not vary, or is not finite: nothing can be remembered then."""
    a, b = a - jnp.mean(a), b - jnp.mean(b)
    scale = jnp.sqrt(jnp.sum(a**2) * jnp.sum(b**2))
    return jnp.where((scale > 0) & jnp.isfinite(scale), jnp.sum(a * b) / scale, jnp.nan)


def effective_share(log_weights: Array) -> Array:
    """Effective sample size over the number of particles, ``(sum w)^2 / (N sum w^2)``; 0 if all weights are."""
    alive = jnp.max(log_weights) > -jnp.inf
    safe = jnp.where(alive, log_weights, 0)
    return jnp.where(alive, jnp.exp(2 * logsumexp(safe) - logsumexp(2 * safe)) / log_weights.size, 0)


def active_score(scores: Scores, stage: Array) -> Array:
    """The score a stage walks down."""
    return jnp.where(stage == TEST, scores.test, jnp.where(stage == TRAIN, scores.train, -scores.weight))


Move = Callable[..., tuple[Array, Population]]
"""``move(key, problem, row, population) -> (acceptance[N], population)``, keeping the row's density."""


def steer(step: Array, acceptance: Array, rate: tuple[float, float]) -> Array:
    """The step size after moves accepted so often; ``rate``: the acceptance wanted, and the gain (0: leave it)."""
    wanted, gain = rate
    return jnp.clip(step * jnp.exp(gain * (acceptance - wanted)), 1e-6, 1.0)


def move_population(
    key: Array, problem: Problem, row: Row, population: Population, move: Move, n_moves: int, rate: tuple[float, float]
) -> tuple[Population, Row, Array, Array]:
    """Apply moves, each after drawing the tie-breakers anew.

    Args:
      key: typed PRNG key.
      problem: the hypotheses.
      row: whose density is kept, with the step size to begin with.
      population: particles.
      move: the kind of move.
      n_moves: how many.
      rate: see :func:`steer`.

    Returns:
      Particles, the row with the step size arrived at, the mean acceptance, and the number of invalid proposals.
    """

    def once(carry: tuple[Population, Array], key: Array) -> tuple[tuple[Population, Array], tuple[Array, Array]]:
        population, step = carry
        ties, proposal = jax.random.split(key)
        population = population._replace(tie=break_ties(ties, population.scores, row))
        acceptance, population = move(proposal, problem, row._replace(step=step), population)
        mean = jnp.mean(acceptance)
        return (population, steer(step, mean, rate)), (mean, jnp.sum(population.scores.invalid))

    (population, step), (acceptance, invalid) = lax.scan(once, (population, row.step), jax.random.split(key, n_moves))
    return population, row._replace(step=step), jnp.mean(acceptance), jnp.sum(invalid)


def take_step(
    key: Array,
    problem: Problem,
    old: Row,
    new: Row,
    population: Population,
    move: Move,
    n_moves: int,
    rate: tuple[float, float] = (0.0, 0.0),
    prepare: Callable[[Population, Row], Row] | None = None,
) -> tuple[Population, Row, Array, Report]:
    """From one row to the next: reweight, resample, move.

    Args:
      key: typed PRNG key.
      problem: the hypotheses.
      old: row the particles are at.
      new: row to go to.
      population: particles.
      move: the kind of move.
      n_moves: how many.
      rate: see :func:`steer`.
      prepare: what a pilot adds to the row, such as a preconditioner, once the particles are resampled.

    Returns:
      Particles; the row; log ratio of the two rows' masses, ``-inf`` if nobody survived (the particles are then
      meaningless); and the report.
    """
    again, moving = jax.random.split(key)
    log_weights = reweight(population, old, new)
    population = resample(again, population, log_weights)
    new = new if prepare is None else prepare(population, new)
    before = active_score(population.scores, new.stage)
    population, new, acceptance, invalid = move_population(moving, problem, new, population, move, n_moves, rate)
    after = active_score(population.scores, new.stage)
    report = Report(
        acceptance=acceptance,
        ancestors=ancestor_share(population),
        memory=correlation(before, after),
        survivors=effective_share(log_weights),
        invalid=invalid.astype(jnp.int32),
    )
    return population, new, logsumexp(log_weights) - np.log(log_weights.size), report


def pad_rows(rows: Any, length: int) -> Any:
    """Rows on the host, ``[K]``, lengthened by unused ones."""

    def pad(leaf: np.ndarray) -> np.ndarray:
        extra = np.repeat(leaf[-1:], length - len(leaf), axis=0)
        return np.concatenate([leaf, extra])

    padded = jax.tree.map(pad, rows)
    unused = np.arange(length) >= len(rows.stage)
    return padded._replace(stage=np.where(unused, -1, padded.stage).astype(np.int32))


def strong(state: Any) -> Any:
    """A state without weak types, so that what comes out of a step has the types of what went in: one compilation."""
    return jax.tree.map(lambda leaf: lax.convert_element_type(leaf, leaf.dtype), state)
