r"""Nested sampling, or adaptive multilevel splitting: remove the worst hypotheses, replace them by moved copies.

Removing k of N multiplies the remaining prior mass by (N - k) / N, so one descent gives the probability of every error
on its way, without a pilot. Ties are broken by a random number each hypothesis carries, which keeps the estimate
unbiased on plateaus.

References: Skilling (2006), Nested sampling for general Bayesian computation; Bréhier et al. (2016), Unbiasedness of
some generalized adaptive multilevel splitting algorithms; Fowlie, Handley & Su (2021), Nested sampling with plateaus.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from genjax.errors import check_choice, check_positive
from genjax.volume.program import Silent
from genjax.volume.smc import (
    TEST,
    TRAIN,
    Events,
    Population,
    Problem,
    Row,
    active_score,
    ancestor_share,
    at_level,
    draw_population,
    enter,
    evaluator,
    level_at,
    move_population,
    prior_row,
    steer,
    strong,
)
from genjax.volume.walk import RATES, kernel

_HALVINGS = 24


@dataclasses.dataclass(frozen=True)
class Nested:
    """Settings of nested sampling.

    Attributes:
      n_particles: N, live hypotheses of a replica.
      n_replicas: independent descents; their scatter is the error.
      batch: share of the live hypotheses replaced at a time.
      n_moves: moves of each replacement.
      move: ``"pcn"`` or ``"elliptical"``.
      max_rows: budget: replacements of a batch.

    References:
      See the module.
    """

    n_particles: int = 256
    n_replicas: int = 16
    batch: float = 0.125
    n_moves: int = 20
    move: str = "pcn"
    max_rows: int = 4096

    name: ClassVar[str] = "nested"

    def __post_init__(self) -> None:
        check_choice("move", self.move, ("pcn", "elliptical"))
        for field in ("n_particles", "n_replicas", "n_moves", "max_rows"):
            check_positive(field, getattr(self, field), integer=True)
        if self.n_replicas < 2:
            raise ValueError(f"`n_replicas` must be at least 2, for an error, but {self.n_replicas} came")
        if not (0 < self.batch <= 0.5 and self.batch * self.n_particles >= 1):
            raise ValueError(f"`batch` must be at most 0.5 and at least one hypothesis, but {self.batch!r} came")

    def doubled(self) -> Nested:
        """Twice the hypotheses and twice the moves: if that changes the answer, it was wrong.

        Returns:
          The setting.

        References:
          The usual check of a simulation's bias by its own refinement.
        """
        return dataclasses.replace(
            self, n_particles=2 * self.n_particles, n_moves=2 * self.n_moves, max_rows=2 * self.max_rows
        )


class DescentState(NamedTuple):
    """A descent on its way.

    Attributes:
      population: live hypotheses.
      row: the current level and step size.
      fitting: whether the training level has been reached.
      done: whether the lowest target has.
      log_x: log of the remaining prior mass.
      fit: log mass of what fits, so far.
      targets: log mass of each target among it, so far.
      n_rows: batches replaced.
      stuck: batches since the level last fell.
      acceptance: least acceptance of a batch's moves.
      invalid: hypotheses met whose score was not finite.
    """

    population: Population
    row: Row
    fitting: Array
    done: Array
    log_x: Array
    fit: Array
    targets: Array
    n_rows: Array
    stuck: Array
    acceptance: Array
    invalid: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Descent(Silent):
    """One nested-sampling run as a program of the engine.

    Attributes:
      problem: the hypotheses.
      events: thresholds whose masses are wanted.
      settings: of the run.
    """

    problem: Problem
    events: Events
    settings: Nested = dataclasses.field(metadata={"static": True})

    @property
    def n_steps(self) -> int:
        """The budget."""
        return self.settings.max_rows

    @property
    def attributes(self) -> dict[str, Any]:
        """The settings."""
        return {"nested": dataclasses.asdict(self.settings)}

    def init(self, key: Array) -> DescentState:
        """Live hypotheses from the prior."""
        population = draw_population(key, self.problem, self.settings.n_particles)
        population = enter(population, evaluator(self.problem, jnp.asarray(TEST)))
        row = prior_row(TEST, 0.0, 0, 0.5)
        state = DescentState(
            population,
            row,
            jnp.asarray(self.problem.train is None),
            jnp.zeros((), bool),
            jnp.zeros(()),
            jnp.zeros(()),
            jnp.full(self.events.targets.shape, -jnp.inf),
            jnp.zeros((), jnp.int32),
            jnp.zeros((), jnp.int32),
            jnp.ones(()),
            jnp.sum(population.scores.invalid).astype(jnp.int32),
        )
        return strong(self._measured(state, fitted=self.problem.train is None))

    def _measured(self, state: DescentState, fitted: Array | bool) -> DescentState:
        """Masses of the events that the live set still covers; that of fitting is settled once it is reached."""
        scores, row = state.population.scores, state.row

        def mass(event: Array) -> Array:
            return state.log_x + jnp.log(jnp.mean(event, axis=0))

        fits = scores.train <= self.events.fit
        good = fits[:, None] & (scores.test[:, None] <= self.events.targets)
        targets = self.events.targets
        covered = (targets < row.test_level) | ((targets == row.test_level) & (row.test_tie >= 1))
        return state._replace(
            fit=jnp.where(fitted, state.fit, mass(fits)), targets=jnp.where(covered, mass(good), state.targets)
        )

    def advance(self, key: Array, state: DescentState, start: Array, stop: Array) -> DescentState:
        """Batch by batch, until the lowest target, the budget or a floor is reached."""

        def more(carry: tuple[Array, DescentState]) -> Array:
            step, state = carry
            return (step < stop) & self.running(state)

        def body(carry: tuple[Array, DescentState]) -> tuple[Array, DescentState]:
            step, state = carry
            return step + 1, self._step(jax.random.fold_in(key, step), state)

        return lax.while_loop(more, body, (start, state))[1]

    def _step(self, key: Array, state: DescentState) -> DescentState:
        copying, moving = jax.random.split(key)
        population, row = state.population, state.row
        n = population.tie.size
        k = int(self.settings.batch * n)
        fitting = state.fitting
        stage = jnp.where(fitting, TEST, TRAIN)
        target = jnp.where(fitting, jnp.min(self.events.targets), self.events.fit)
        # The best of those removed: given its level, the others are independent draws from below it.
        order, level, there = level_at(population, stage, n - k, target)
        n_left = jnp.where(there, jnp.sum(active_score(population.scores, stage) <= target), n - k)
        fell = level[0] < jnp.where(fitting, row.test_level, row.train_level)
        row = at_level(row, stage, level)
        chosen = jnp.floor(jax.random.uniform(copying, (k,)) * n_left).astype(jnp.int32)
        clones = jax.tree.map(lambda leaf: leaf[order[chosen]], population)
        # The step size changes between batches only: moves steered by their own acceptance would not be reversible.
        clones, _, acceptance, invalid = move_population(
            moving, self.problem, row, clones, kernel(self.settings.move, 1), self.settings.n_moves, (0.0, 0.0)
        )
        step = steer(row.step, acceptance, RATES[self.settings.move])
        population = jax.tree.map(lambda leaf, new: leaf.at[order[n - k :]].set(new), population, clones)
        state = state._replace(
            population=population,
            row=row._replace(step=step),
            fitting=fitting | there,
            done=fitting & there,
            log_x=state.log_x + jnp.log(n_left / n),
            n_rows=state.n_rows + 1,
            stuck=jnp.where(fell, 0, state.stuck + 1),
            acceptance=jnp.minimum(state.acceptance, acceptance),
            invalid=state.invalid + invalid.astype(jnp.int32),
        )
        return self._measured(state, fitting)

    def finish(self, state: DescentState) -> dict[str, Any]:
        """Log masses, live hypotheses and how it went."""
        return {
            "fit": state.fit,
            "targets": state.targets,
            "log_x": state.log_x,
            "population": state.population.arrays(),
            "fitting": state.fitting,
            "done": state.done,
            "n_rows": state.n_rows,
            "acceptance": state.acceptance,
            "ancestors": ancestor_share(state.population),
            "invalid": state.invalid,
        }

    def running(self, state: DescentState) -> Array:
        """Until done, out of budget or stuck on a plateau."""
        # A plateau loses a batch each time; a share of 2^-24 of it without anything below is the end.
        patience = math.ceil(_HALVINGS * math.log(2) / -math.log1p(-self.settings.batch))
        return ~state.done & (state.n_rows < self.n_steps) & (state.stuck < patience)
