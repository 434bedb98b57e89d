r"""The passes of a walk as programs of the engine.

A *pilot* walks adaptively, stage by stage, and writes down its rows: levels or temperatures, step sizes,
preconditioners. Independent *replicas* then repeat the walk on these frozen rows; each is an unbiased estimate, their
scatter is the error. Both are :class:`genjax.run.Program`, so they run on all devices, stop and resume.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from genjax.volume.program import Silent
from genjax.volume.smc import (
    WEIGHT,
    Events,
    Population,
    Problem,
    Report,
    Row,
    Sums,
    add_up,
    draw_population,
    enter,
    evaluator,
    strong,
    take_step,
)
from genjax.volume.walk import RATES, Walk, next_power

_PATIENCE = 24


class PilotState(NamedTuple):
    """A pilot on the way: particles, the rows so far ``[K]``, the current row, and how it is doing."""

    population: Population
    rows: Row
    row: Row
    n_rows: Array
    done: Array
    stuck: Array
    log_z: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pilot(Silent):
    """The adaptive walk of one stage; ``n_steps`` is its budget.

    Attributes:
      problem: the hypotheses.
      start: particles from the stage before; None draws them from the reference.
      row: the density they are at, of this stage.
      stage: which one.
      target: score to reach.
      walk: settings.
    """

    problem: Problem
    start: Population | None
    row: Row
    stage: Array
    target: Array
    walk: Walk = dataclasses.field(metadata={"static": True})

    @property
    def n_steps(self) -> int:
        """The budget."""
        return self.walk.max_rows

    @property
    def attributes(self) -> dict[str, Any]:
        """The settings."""
        return {"walk": dataclasses.asdict(self.walk)}

    def init(self, key: Array) -> PilotState:
        """Enter the stage: its first row is the density the particles come with."""
        start = draw_population(key, self.problem, self.walk.n_particles) if self.start is None else self.start
        population = enter(start, evaluator(self.problem, self.stage))
        row = self._prepared(population, self.row._replace(stage=self.stage))
        state = PilotState(
            population,
            jax.tree.map(lambda leaf: _put(jnp.zeros((self.n_steps, *leaf.shape), leaf.dtype), 0, leaf), row),
            row,
            jnp.ones((), jnp.int32),
            jnp.zeros((), bool),
            jnp.zeros((), jnp.int32),
            jnp.zeros(()),
        )
        return strong(state)

    def _prepared(self, population: Population, row: Row) -> Row:
        """The row with the particles' variances, for moves that are preconditioned."""
        if not row.variance.size:
            return row
        return row._replace(variance=jnp.clip(jnp.var(population.z, axis=0), 1e-10, 4.0))

    def advance(self, key: Array, state: PilotState, start: Array, stop: Array) -> PilotState:
        """Row by row, until the target or the budget is reached or nothing gets lower any more."""

        def more(carry: tuple[Array, PilotState]) -> Array:
            step, state = carry
            return (step < stop) & self.running(state)

        def body(carry: tuple[Array, PilotState]) -> tuple[Array, PilotState]:
            step, state = carry
            return step + 1, self._step(jax.random.fold_in(key, step + 1), state)

        return lax.while_loop(more, body, (start, state))[1]

    def _step(self, key: Array, state: PilotState) -> PilotState:
        old = state.row._replace(stage=self.stage)  # the stage is everyone's, so that it stays a branch under vmap
        powered, full = next_power(old, state.population, getattr(self.walk, "ess", 0.5))
        lowered, reached = self.walk._next_row(old, state.population, self.target)
        weighing = self.stage == WEIGHT
        new = jax.tree.map(lambda a, b: jnp.where(weighing, a, b), powered, lowered)._replace(stage=self.stage)
        done = jnp.where(weighing, full, reached)
        moved = _lower(old, new)
        population, new, log_ratio, _ = take_step(
            *(key, self.problem, old, new, state.population, self.walk.kernel, self.walk.n_moves),
            rate=RATES[self.walk.move],
            prepare=self._prepared,
        )
        log_z = state.log_z + log_ratio
        new = new._replace(log_z=log_z)
        n = state.n_rows
        return PilotState(
            population,
            jax.tree.map(lambda rows, leaf: _put(rows, n, leaf), state.rows, new),
            new,
            n + 1,
            done,
            jnp.where(moved, 0, state.stuck + 1),
            log_z,
        )

    def finish(self, state: PilotState) -> dict[str, Any]:
        """Rows, particles, and whether the target was reached."""
        return {
            "rows": dict(state.rows._asdict()),
            "population": state.population.arrays(),
            "n_rows": state.n_rows,
            "reached": state.done,
        }

    def running(self, state: PilotState) -> Array:
        """Until done, out of budget, stuck on a plateau, or without a finite mass."""
        return ~state.done & (state.n_rows < self.n_steps) & (state.stuck < _PATIENCE) & (state.log_z > -jnp.inf)


def _lower(old: Row, new: Row) -> Array:
    """Whether the walk goes on by more than splitting one plateau again."""
    return (
        (new.train_level < old.train_level)
        | (new.test_level < old.test_level)
        | (new.train_beta > old.train_beta)
        | (new.test_beta > old.test_beta)
        | (new.power > old.power)
    )


def _put(rows: Array, index: Any, value: Array) -> Array:
    return rows.at[index].set(value)


class ReplicaState(NamedTuple):
    """A replica on the way."""

    population: Population
    sums: Sums
    log_z: Array
    n_done: Array
    reports: Report


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Replica(Silent):
    """The walk on frozen rows.

    Attributes:
      problem: the hypotheses.
      rows: the schedule, padded ``[K]``.
      n_rows: how many of them count.
      events: thresholds whose masses are added up.
      walk: settings.
    """

    problem: Problem
    rows: Row
    n_rows: Array
    events: Events
    walk: Walk = dataclasses.field(metadata={"static": True})

    @property
    def n_steps(self) -> int:
        """Rows, with padding; those cost nothing."""
        return len(self.rows.stage)

    @property
    def attributes(self) -> dict[str, Any]:
        """The settings."""
        return {"walk": dataclasses.asdict(self.walk)}

    def init(self, key: Array) -> ReplicaState:
        """Particles of the reference law, before the first row."""
        never = jnp.asarray(-jnp.inf)
        zeros = jnp.zeros((self.n_steps,))
        state = ReplicaState(
            draw_population(jax.random.fold_in(key, self.n_steps), self.problem, self.walk.n_particles),
            Sums(never, never, jnp.full(self.events.targets.shape, -jnp.inf)),
            jnp.zeros(()),
            jnp.zeros((), jnp.int32),
            Report(zeros, zeros, zeros, zeros, zeros.astype(jnp.int32)),
        )
        return strong(state)

    def advance(self, key: Array, state: ReplicaState, start: Array, stop: Array) -> ReplicaState:
        """Row by row; what lies beyond the last row is skipped."""
        return lax.fori_loop(start, jnp.minimum(stop, self.n_rows), lambda k, s: self._step(key, k, s), state)

    def _step(self, key: Array, k: Array, state: ReplicaState) -> ReplicaState:
        old = jax.tree.map(lambda leaf: leaf[jnp.maximum(k - 1, 0)], self.rows)
        new = jax.tree.map(lambda leaf: leaf[k], self.rows)
        entering = (k == 0) | (old.stage != new.stage)
        population = lax.cond(
            entering, lambda p: enter(p, evaluator(self.problem, new.stage)), lambda p: p, state.population
        )
        # A stage's first row is the density the particles come with.
        old = jax.tree.map(lambda a, b: jnp.where(entering, a, b), new, old)
        population, _, log_ratio, report = take_step(
            *(jax.random.fold_in(key, k), self.problem, old, new, population, self.walk.kernel, self.walk.n_moves)
        )
        log_z = state.log_z + log_ratio
        sums = add_up(state.sums, population, new, self.rows, log_z, self.events)
        reports = jax.tree.map(lambda rows, leaf: _put(rows, k, leaf), state.reports, report)
        return ReplicaState(population, sums, log_z, k + 1, reports)

    def finish(self, state: ReplicaState) -> dict[str, Any]:
        """Log masses, particles and reports."""
        return {
            "sums": dict(state.sums._asdict()),
            "log_z": state.log_z,
            "population": state.population.arrays(),
            "reports": dict(state.reports._asdict()),
        }

    def running(self, state: ReplicaState) -> Array:
        """Until the last row."""
        return state.n_done < self.n_rows
