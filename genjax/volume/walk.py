r"""Walks to rare events: splitting and tempering as settings of one sequential Monte Carlo, run on the engine.

A *pilot* walks adaptively, stage by stage, and writes down its rows: levels or temperatures, step sizes,
preconditioners. Independent *replicas* then repeat the walk on these frozen rows; each is an unbiased estimate, their
scatter is the error. Both are :class:`genjax.run.Program`, so they run on all devices, stop and resume.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from genjax.errors import check_choice, check_positive
from genjax.volume.moves import elliptical_slice, hamiltonian, preconditioned_crank_nicolson
from genjax.volume.smc import (
    TRAIN,
    WEIGHT,
    Events,
    Move,
    Population,
    Problem,
    Report,
    Row,
    Sums,
    active_score,
    add_up,
    draw_population,
    effective_share,
    enter,
    evaluator,
    strong,
    take_step,
)

MOVES = ("pcn", "elliptical", "hmc")
# Acceptance to steer to, and the gain of the steering; elliptical slices have no step size.
RATES = {"pcn": (0.3, 1.0), "elliptical": (0.0, 0.0), "hmc": (0.8, 0.7)}
_PATIENCE = 24
_BISECTIONS = 60


def kernel(move: str, n_leapfrog: int) -> Move:
    """A kind of move as a function."""
    if move == "hmc":
        return functools.partial(hamiltonian, n_leapfrog=n_leapfrog)
    return elliptical_slice if move == "elliptical" else preconditioned_crank_nicolson


@dataclasses.dataclass(frozen=True)
class Walk:
    """What splitting and tempering share.

    Attributes:
      n_particles: N, hypotheses side by side in a replica.
      n_replicas: independent repetitions; their scatter is the error.
      n_moves: moves of every particle in every row.
      move: ``"pcn"`` (preconditioned Crank-Nicolson), ``"elliptical"`` (elliptical slice; nothing to tune, several
        evaluations a move) or ``"hmc"`` (Hamiltonian; needs gradients).
      n_leapfrog: leapfrog steps of a Hamiltonian move; 1 is MALA.
      max_rows: budget: rows a stage may take.
    """

    n_particles: int = 512
    n_replicas: int = 16
    n_moves: int = 10
    move: str = "pcn"
    n_leapfrog: int = 8
    max_rows: int = 1024

    name: ClassVar[str]

    def __post_init__(self) -> None:
        check_choice("move", self.move, MOVES)
        for field in ("n_particles", "n_replicas", "n_moves", "n_leapfrog", "max_rows"):
            check_positive(field, getattr(self, field), integer=True)
        if self.n_replicas < 2 or self.n_particles < 2:
            raise ValueError(
                "`n_replicas` and `n_particles` must be at least 2, for an error and for a walk, but "
                f"{self.n_replicas} and {self.n_particles} came"
            )

    @property
    def kernel(self) -> Move:
        """The move as a function."""
        return kernel(self.move, self.n_leapfrog)

    @property
    def evaluations(self) -> int:
        """Hypotheses a move evaluates, where that is a fixed number."""
        return self.n_leapfrog + 1 if self.move == "hmc" else 1

    def doubled(self) -> Walk:
        """Twice the particles and twice the moves: if that changes the answer, it was wrong.

        Returns:
          The setting.

        References:
          The usual check of a simulation's bias by its own refinement.
        """
        return dataclasses.replace(self, n_particles=2 * self.n_particles, n_moves=2 * self.n_moves)

    def next_row(self, row: Row, population: Population, target: Array) -> tuple[Row, Array]:
        """The row after this one, as a pilot chooses it.

        Args:
          row: the current one.
          population: its particles.
          target: score to reach.

        Returns:
          The next row, and whether it is the stage's last, ``bool[]``.

        References:
          The method's own.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Splitting(Walk):
    r"""Multilevel splitting: lower the level so that a fixed share of the particles is below, restart from those.

    .. math::
       P(L \le \epsilon) = \prod_k P(L \le \ell_{k+1} \mid L \le \ell_k)

    Takes any score, smooth or not; ties are broken by a random number each particle carries, so plateaus are split like
    anything else. About :math:`I / \ln(1/\text{keep})` rows.

    Attributes:
      keep: share of the particles below the next level.

    References:
      Au & Beck (2001), Estimation of small failure probabilities by subset simulation; Cérou et al. (2012); Bréhier et
      al. (2016), Unbiasedness of some generalized adaptive multilevel splitting algorithms (unbiasedness, ties).
    """

    keep: float = 0.5

    name: ClassVar[str] = "splitting"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.keep < 1:
            raise ValueError(f"`keep` must be strictly between 0 and 1, but {self.keep!r} came")

    def next_row(self, row: Row, population: Population, target: Array) -> tuple[Row, Array]:
        """The level that ``keep`` of the particles are below, or the target if that many are below it.

        Args:
          row: the current one.
          population: its particles.
          target: score to reach.

        Returns:
          The next row, and whether it is the stage's last, ``bool[]``.

        References:
          Au & Beck (2001), subset simulation.
        """
        score = active_score(population.scores, row.stage)
        order = jnp.lexsort((population.tie, score))
        last = order[math.ceil(self.keep * order.size) - 1]
        level, tie = score[last], population.tie[last]
        done = level <= target
        level, tie = jnp.where(done, target, level), jnp.where(done, 1.0, tie)
        train = row.stage == TRAIN
        return row._replace(
            train_level=jnp.where(train, level, row.train_level),
            train_tie=jnp.where(train, tie, row.train_tie),
            test_level=jnp.where(train, row.test_level, level),
            test_tie=jnp.where(train, row.test_tie, tie),
        ), done


@dataclasses.dataclass(frozen=True)
class Tempered(Walk):
    r"""Tempered sequential Monte Carlo: weigh hypotheses by :math:`e^{-\beta L}` and raise :math:`\beta`.

    .. math::
       P(L \le \epsilon) = Z_\beta\, E_\beta[e^{\beta L} 1(L \le \epsilon)]

    For smooth scores, with Hamiltonian moves: rows grow like the square root of the dimension, where splitting's grow
    like I. At a first-order transition (two kinds of hypotheses at one temperature) it can miss one kind; compare with
    splitting.

    Attributes:
      ess: effective share of the particles that a rise of beta leaves.

    References:
      Neal (2001), Annealed importance sampling; Del Moral, Doucet & Jasra (2006); the tilt identity is exact.
    """

    n_particles: int = 256
    n_moves: int = 4
    move: str = "hmc"
    ess: float = 0.5

    name: ClassVar[str] = "tempered"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.ess < 1:
            raise ValueError(f"`ess` must be strictly between 0 and 1, but {self.ess!r} came")

    def next_row(self, row: Row, population: Population, target: Array) -> tuple[Row, Array]:
        """The largest beta that leaves the effective share; the last row has half its particles below the target.

        Args:
          row: the current one.
          population: its particles.
          target: score to reach.

        Returns:
          The next row, and whether it is the stage's last, ``bool[]``.

        References:
          Jasra, Stephens, Doucet & Tsagaris (2011), Inference for Lévy-driven stochastic volatility models.
        """
        score = active_score(population.scores, row.stage)
        finite = jnp.isfinite(score)
        lowest = jnp.min(score, where=finite, initial=jnp.inf)
        excess = jnp.where(finite, score - lowest, 0)
        rise = largest_rise(lambda rise: jnp.where(finite, -rise * excess, -jnp.inf), 1 / jnp.max(excess), self.ess)
        done = jnp.mean(score <= target) >= 0.5
        rise = jnp.where(done, 0, rise)
        train = row.stage == TRAIN
        return row._replace(
            train_beta=jnp.where(train, row.train_beta + rise, row.train_beta),
            test_beta=jnp.where(train, row.test_beta, row.test_beta + rise),
        ), done


def largest_rise(log_weights: Any, scale: Array, ess: float) -> Array:
    """By bisection on a log scale; 0 if nothing varies."""
    low, high = jnp.log(scale) - 20, jnp.log(scale) + 40

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = (ends[0] + ends[1]) / 2
        enough = effective_share(log_weights(jnp.exp(middle))) >= ess
        return jnp.where(enough, middle, ends[0]), jnp.where(enough, ends[1], middle)

    low, _ = lax.fori_loop(0, _BISECTIONS, halve, (low, high))
    return jnp.where(jnp.isfinite(scale), jnp.exp(low), 0)


def next_power(row: Row, population: Population, ess: float) -> tuple[Row, Array]:
    """One row nearer to a prior known by its density: raise the power of its weight to at most 1."""
    weight = population.scores.weight
    finite = jnp.isfinite(weight)
    excess = jnp.where(finite, weight - jnp.max(jnp.where(finite, weight, -jnp.inf)), 0)
    rise = largest_rise(lambda rise: jnp.where(finite, rise * excess, -jnp.inf), 1 / jnp.max(-excess), ess)
    power = row.power + jnp.where(jnp.max(-excess) > 0, rise, 1.0)
    done = power >= 1
    return row._replace(power=jnp.minimum(power, 1.0)), done


class PilotState(NamedTuple):
    """A pilot on the way: particles, the rows so far ``[K]``, the current row, and how it is doing."""

    population: Population
    rows: Row
    row: Row
    n_rows: Array
    done: Array
    stuck: Array
    log_z: Array
    reports: Report


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pilot:
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

    record_steps: ClassVar[tuple[int, ...]] = ()
    snapshot_steps: ClassVar[tuple[int, ...]] = ()

    @property
    def n_steps(self) -> int:
        """The budget."""
        return self.walk.max_rows

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """None are named."""
        return {}

    @property
    def attributes(self) -> dict[str, Any]:
        """The settings."""
        return {"walk": dataclasses.asdict(self.walk)}

    def prepare(self, key: Array, hparams: Mapping[str, Any]) -> Array:  # noqa: ARG002
        """Only the key."""
        return key

    def init(self, key: Array) -> PilotState:
        """Enter the stage: its first row is the density the particles come with."""
        start = draw_population(key, self.problem, self.walk.n_particles) if self.start is None else self.start
        population = enter(start, evaluator(self.problem, self.stage))
        row = self._prepared(population, self.row._replace(stage=self.stage))
        one = jnp.ones(())
        report = Report(one, one, one, one, jnp.sum(population.scores.invalid).astype(jnp.int32))
        state = PilotState(
            population,
            jax.tree.map(lambda leaf: _put(jnp.zeros((self.n_steps, *leaf.shape), leaf.dtype), 0, leaf), row),
            row,
            jnp.ones((), jnp.int32),
            jnp.zeros((), bool),
            jnp.zeros((), jnp.int32),
            jnp.zeros(()),
            jax.tree.map(lambda leaf: _put(jnp.zeros((self.n_steps,), leaf.dtype), 0, leaf), report),
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
        lowered, reached = self.walk.next_row(old, state.population, self.target)
        weighing = self.stage == WEIGHT
        new = jax.tree.map(lambda a, b: jnp.where(weighing, a, b), powered, lowered)._replace(stage=self.stage)
        done = jnp.where(weighing, full, reached)
        moved = _lower(old, new)
        population, new, log_ratio, report = take_step(
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
            jax.tree.map(lambda rows, leaf: _put(rows, n, leaf), state.reports, report),
        )

    def observe(self, key: Array, state: PilotState, step: Array) -> tuple[PilotState, dict[str, Array]]:  # noqa: ARG002
        """Nothing is recorded on the way."""
        return state, {}

    def snapshot(self, state: PilotState) -> Any:  # noqa: ARG002
        """Nothing is kept on the way."""
        return {}

    def finish(self, state: PilotState) -> dict[str, Any]:
        """Rows, particles, reports, and whether the target was reached."""
        return {
            "rows": dict(state.rows._asdict()),
            "population": flat(state.population),
            "reports": dict(state.reports._asdict()),
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


def flat(population: Population) -> dict[str, Array]:
    """A population's arrays by name, without its genealogy."""
    return {"z": population.z, "tie": population.tie, **population.scores._asdict()}


class ReplicaState(NamedTuple):
    """A replica on the way."""

    population: Population
    sums: Sums
    log_z: Array
    n_done: Array
    reports: Report


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Replica:
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

    record_steps: ClassVar[tuple[int, ...]] = ()
    snapshot_steps: ClassVar[tuple[int, ...]] = ()

    @property
    def n_steps(self) -> int:
        """Rows, with padding; those cost nothing."""
        return len(self.rows.stage)

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """None are named."""
        return {}

    @property
    def attributes(self) -> dict[str, Any]:
        """The settings."""
        return {"walk": dataclasses.asdict(self.walk)}

    def prepare(self, key: Array, hparams: Mapping[str, Any]) -> Array:  # noqa: ARG002
        """Only the key."""
        return key

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

    def observe(self, key: Array, state: ReplicaState, step: Array) -> tuple[ReplicaState, dict[str, Array]]:  # noqa: ARG002
        """Nothing is recorded on the way."""
        return state, {}

    def snapshot(self, state: ReplicaState) -> Any:  # noqa: ARG002
        """Nothing is kept on the way."""
        return {}

    def finish(self, state: ReplicaState) -> dict[str, Any]:
        """Log masses, particles and reports."""
        return {
            "sums": dict(state.sums._asdict()),
            "log_z": state.log_z,
            "population": flat(state.population),
            "reports": dict(state.reports._asdict()),
        }

    def running(self, state: ReplicaState) -> Array:
        """Until the last row."""
        return state.n_done < self.n_rows
