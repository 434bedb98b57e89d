r"""Running the methods that walk, and what comes back: log masses by replica, particles, and what looked wrong."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from genjax.volume.nested import Descent, Nested
from genjax.volume.passes import Pilot, Replica
from genjax.volume.program import member_keys
from genjax.volume.replicas import Logs, log_mean
from genjax.volume.smc import (
    TEST,
    TRAIN,
    WEIGHT,
    Events,
    Population,
    Problem,
    Report,
    Row,
    Scores,
    Sums,
    log_density,
    pad_rows,
    prior_row,
)
from genjax.volume.walk import Splitting, Walk

if TYPE_CHECKING:
    import xarray

    from genjax.run import Execution

# Below these a walk is not trusted; each is far from what a healthy one shows.
_LEAST_ACCEPTANCE = {"pcn": 0.02, "elliptical": 0.5, "hmc": 0.2}
_MOST_MEMORY = 0.98
_SOME_MEMORY = 0.5
_FEWEST_ANCESTORS = 8


class Masses(NamedTuple):
    """What independent replicas found.

    Attributes:
      total: log mass of everything ``[R]``, which the others are relative to; zeros for a prior that can be drawn from.
      fit: log mass of what fits ``[R]``; ``total`` without a training stage.
      targets: log mass of what fits and meets each target ``[R, E]``; ``-inf`` for replicas that never saw it.
      fit_bound: log of an upper bound (95 %) on P(fits), for when no replica saw it.
      bounds: the same for each target ``[E]``.
      z: particles ``[h, D]``.
      log_weights: ``[h]``, unnormalized; they represent the prior given the last target reached.
      train: training scores ``[h]``.
      test: test scores ``[h]``.
      diagnostics: arrays by name.
      warnings: sentences.
      doubtful: whether some of them are about the moves; unreached targets and invalid hypotheses show by themselves.
      n_hypotheses: evaluated altogether.
    """

    total: Logs
    fit: Logs
    targets: Logs
    fit_bound: float
    bounds: Logs
    z: np.ndarray
    log_weights: np.ndarray
    train: np.ndarray
    test: np.ndarray
    diagnostics: dict[str, Any]
    warnings: tuple[str, ...]
    doubtful: bool
    n_hypotheses: int


class Work(NamedTuple):
    """How and where to run: engine settings, the run's directory, and whether to go on with what is there."""

    execution: Execution | None
    directory: Path | None
    resume: bool

    def run(self, program: Any, keys: Array, name: str, chunk: int | None = None) -> xarray.Dataset:
        """An ensemble of a program over keys ``[R]``, in a folder of its own.

        Args:
          program: what to run.
          keys: typed keys.
          name: of the folder.
          chunk: members side by side; None leaves it to the engine.

        Returns:
          Its results.

        References:
          :func:`genjax.run.ensemble`.
        """
        from genjax.run import Execution, ensemble

        execution = Execution() if self.execution is None else self.execution
        if chunk is not None:
            execution = dataclasses.replace(execution, chunk=chunk)
        directory = None if self.directory is None else self.directory / name
        resume = self.resume and directory is not None and (directory / "specification.json").exists()
        return ensemble(program, keys, execution=execution, directory=directory, resume=resume)


def _part(dataset: xarray.Dataset, name: str, kind: Callable[..., Any], fields: tuple[str, ...]) -> Any:
    return kind(*(dataset[f"{name}.{field}"].values for field in fields))


def walk_masses(problem: Problem, events: Events, key: Array, walk: Walk, work: Work) -> Masses:
    """Pilot and replicas of a walk to the lowest target.

    Args:
      problem: the hypotheses.
      events: thresholds.
      key: typed PRNG key.
      walk: settings.
      work: how and where to run.

    Returns:
      What they found.
    """
    stages = [WEIGHT] * (problem.log_weight is not None) + [TRAIN] * (problem.train is not None) + [TEST]
    goals = {WEIGHT: 1.0, TRAIN: float(events.fit), TEST: float(np.min(events.targets))}
    row = prior_row(stages[0], 0.0, problem.dimension if walk.move == "hmc" else 0, 0.5)
    start, parts, reached, log_z = None, [], True, 0.0
    for stage in stages:
        program = Pilot(problem, start, row, jnp.asarray(stage, jnp.int32), jnp.asarray(goals[stage], float), walk)
        found = work.run(program, member_keys(key, 1 + stage)[stage:], f"pilot-{stage}", chunk=1).isel(seed=0)
        n = int(found["n_rows"])
        rows = jax.tree.map(lambda leaf: leaf[:n], _part(found, "rows", Row, Row._fields))  # noqa: B023
        parts.append(rows._replace(log_z=rows.log_z + log_z))
        log_z = float(parts[-1].log_z[-1])
        reached = bool(found["reached"])
        if not reached:
            break
        row = jax.tree.map(lambda leaf: jnp.asarray(leaf[-1]), rows)._replace(log_z=jnp.zeros(()))
        start = _population(found)
    rows = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    n_rows = len(rows.stage)
    replica = Replica(
        problem,
        jax.tree.map(jnp.asarray, pad_rows(rows, 2 ** math.ceil(math.log2(n_rows)))),
        jnp.asarray(n_rows, jnp.int32),
        events,
        walk,
    )
    results = work.run(replica, member_keys(jax.random.fold_in(key, len(goals)), walk.n_replicas), "replicas")
    return _gather(events, walk, rows, results, reached, stages)


def _population(found: xarray.Dataset) -> Population:
    scores = jax.tree.map(jnp.asarray, _part(found, "population", Scores, Scores._fields))
    scores = scores._replace(invalid=scores.invalid.astype(bool))
    z, tie = (jnp.asarray(found[f"population.{name}"].values) for name in ("z", "tie"))
    return Population(z, scores, tie, jnp.arange(len(tie), dtype=jnp.int32))


def _gather(events: Events, walk: Walk, rows: Row, results: xarray.Dataset, reached: bool, stages: list[int]) -> Masses:
    n_rows, last = len(rows.stage), int(rows.stage[-1])
    sums = jax.tree.map(lambda leaf: leaf.astype(np.float64), _part(results, "sums", Sums, Sums._fields))
    log_z = results["log_z"].values.astype(np.float64)
    reports = jax.tree.map(lambda leaf: leaf[:, :n_rows], _part(results, "reports", Report, Report._fields))
    total = sums.total if WEIGHT in stages else np.zeros(walk.n_replicas)
    fit = sums.fit if TRAIN in stages else total
    ancestors = reports.ancestors * walk.n_particles
    # Nobody saw the event: of n descendants of distinct ancestors none did. A tilted mass bounds by Chernoff's
    # inequality instead, P <= Z exp(beta L).
    n_lines = max(float(ancestors[:, -1].sum()), 1.0)
    seldom = math.log(-math.expm1(math.log(0.05) / n_lines)) if isinstance(walk, Splitting) else 0.0
    fit_beta, beta = float(rows.train_beta[-1]), float(rows.test_beta[-1])
    level = log_mean(log_z) - log_mean(total) + seldom + (fit_beta * float(events.fit) if fit_beta else 0.0)
    bounds = level + beta * np.asarray(events.targets, np.float64)
    if last != TEST:
        bounds = np.full_like(bounds, np.nan)
    scores, log_weights = _final_particles(events, rows, results, log_z, last)
    lengths = np.sqrt(np.maximum(-np.log(np.maximum(reports.survivors.mean(axis=0), 1e-30)), 0))
    diagnostics = {
        "stage": rows.stage,
        "train_level": rows.train_level,
        "test_level": rows.test_level,
        "train_beta": rows.train_beta,
        "test_beta": rows.test_beta,
        "step": rows.step,
        "pilot_log_mass": rows.log_z,
        "acceptance": reports.acceptance,
        "ancestors": ancestors,
        "memory": reports.memory,
        "survivors": reports.survivors,
        "thermodynamic_length": float(lengths.sum()),
        "n_invalid": int(reports.invalid.sum()),
        "log_fit": fit - total,
        "log_targets": sums.targets - total[:, None],
    }
    doubts = _doubts(walk, reports)
    warnings = (*_unreached(walk, rows, reached), *doubts, *_invalid(int(reports.invalid.sum())))
    per_row = walk.n_particles * walk.n_moves * walk.evaluations
    return Masses(
        total=total,
        fit=fit,
        targets=sums.targets,
        fit_bound=float(level),
        bounds=bounds,
        **_stacked(results, scores, log_weights),
        diagnostics=diagnostics,
        warnings=warnings,
        doubtful=bool(doubts),
        n_hypotheses=(walk.n_replicas + 1) * n_rows * per_row,
    )


def _final_particles(
    events: Events, rows: Row, results: xarray.Dataset, log_z: Logs, last: int
) -> tuple[Scores, np.ndarray]:
    """Scores and log weights ``[R, N]`` that represent the prior given the hardest event some replica reached."""
    scores: Scores = _part(results, "population", Scores, Scores._fields)
    row = jax.tree.map(lambda leaf: leaf[-1], rows)
    tie = jnp.asarray(results["population.tie"].values)
    density = np.asarray(log_density(jax.tree.map(jnp.asarray, scores), tie, row), np.float64)
    event = _hardest_event(events, scores, tested=last == TEST)
    with np.errstate(invalid="ignore"):
        return scores, np.where(event & np.isfinite(density), scores.weight - density + log_z[:, None], -np.inf)


def _hardest_event(events: Events, scores: Scores, *, tested: bool) -> np.ndarray:
    """Who fits and, if anyone does, meets the lowest target that someone meets."""
    train, test = np.asarray(scores.train), np.asarray(scores.test)
    event = train <= float(events.fit)
    if tested:
        met = [t for t in np.sort(np.asarray(events.targets)) if (event & (test <= t)).any()]
        event = event & (test <= (met[0] if met else np.inf))
    return event


def _stacked(results: xarray.Dataset, scores: Scores, log_weights: np.ndarray) -> dict[str, np.ndarray]:
    """Particles of all replicas as one population."""
    z = results["population.z"].values
    return {
        "z": z.reshape(-1, z.shape[-1]),
        "log_weights": log_weights.reshape(-1),
        "train": np.asarray(scores.train).reshape(-1),
        "test": np.asarray(scores.test).reshape(-1),
    }


def _unreached(walk: Walk, rows: Row, reached: bool) -> list[str]:
    if reached:
        return []
    what = {WEIGHT: "the prior's own density", TRAIN: "fitting the training data", TEST: "the lowest target"}
    why = "its budget `max_rows` was used up" if len(rows.stage) >= walk.max_rows else "nothing lower was found"
    return [f"the walk ended after {len(rows.stage)} rows without reaching {what[int(rows.stage[-1])]}: {why}"]


def _invalid(n: int) -> list[str]:
    return [f"{n} hypotheses had a score that is NaN or infinite and were left out"] if n else []


def _doubts(walk: Walk, reports: Report) -> list[str]:
    """What looks wrong with the moves."""
    doubts = []
    acceptance = reports.acceptance.mean(axis=0)
    if acceptance.min() < _LEAST_ACCEPTANCE[walk.move]:
        doubts.append(f"moves are hardly ever accepted ({acceptance.min():.2g} at row {acceptance.argmin()})")
    memory = np.nan_to_num(np.median(reports.memory, axis=0))
    if memory.max() > _MOST_MEMORY:
        doubts.append(
            f"{walk.n_moves} moves do not forget where they began (correlation {memory.max():.3f} at row "
            f"{memory.argmax()}): raise `n_moves`"
        )
    # Copies of one ancestor are as good as others once they have forgotten it.
    lines = reports.ancestors.mean(axis=0).min() * walk.n_particles
    if lines < min(_FEWEST_ANCESTORS, walk.n_particles / 4) and memory.max() > _SOME_MEMORY:
        doubts.append(f"only {lines:.1f} of {walk.n_particles} ancestors are left: raise `n_particles`")
    return doubts


def nested_masses(problem: Problem, events: Events, key: Array, settings: Nested, work: Work) -> Masses:
    """Independent descents to the lowest target.

    Args:
      problem: the hypotheses; the prior must be the standard normal law.
      events: thresholds.
      key: typed PRNG key.
      settings: of the descents.
      work: how and where to run.

    Returns:
      What they found.

    Raises:
      ValueError: the prior is known by its density only.
    """
    if problem.log_weight is not None:
        raise ValueError("`method` 'nested' needs a prior that can be drawn from; use 'splitting' or 'tempered'")
    found = work.run(Descent(problem, events, settings), member_keys(key, settings.n_replicas), "replicas")
    fit, targets, log_x = (found[name].values.astype(np.float64) for name in ("fit", "targets", "log_x"))
    scores: Scores = _part(found, "population", Scores, Scores._fields)
    event = _hardest_event(events, scores, tested=True)
    ancestors, acceptance = found["ancestors"].values * settings.n_particles, found["acceptance"].values
    n_invalid, n_rows = int(found["invalid"].values.sum()), found["n_rows"].values
    done = found["done"].values.astype(bool)
    bound = float(log_mean(log_x) + math.log(-math.expm1(math.log(0.05) / max(ancestors.sum(), 1.0))))
    fitting = found["fitting"].values.astype(bool).any()
    unreached, doubts = [], []
    if not done.all():
        why = "the budget `max_rows` was used up" if n_rows.max() >= settings.max_rows else "nothing lower was found"
        unreached.append(f"{(~done).sum()} of {done.size} descents ended above the lowest target: {why}")
    if acceptance.min() < _LEAST_ACCEPTANCE[settings.move]:
        doubts.append(f"moves are hardly ever accepted ({acceptance.min():.2g} in the worst batch)")
    if ancestors.mean() < min(_FEWEST_ANCESTORS, settings.n_particles / 4):
        doubts.append(f"only {ancestors.mean():.1f} of {settings.n_particles} ancestors are left: more are needed")
    per_row = int(settings.batch * settings.n_particles) * settings.n_moves
    return Masses(
        total=np.zeros_like(fit),
        fit=fit,
        targets=targets,
        fit_bound=bound,
        bounds=np.full(len(np.asarray(events.targets)), bound if fitting else np.nan),
        **_stacked(found, scores, np.where(event, log_x[:, None], -np.inf)),
        diagnostics={
            "acceptance": acceptance,
            "ancestors": ancestors,
            "n_rows": n_rows,
            "n_invalid": n_invalid,
            "log_fit": fit,
            "log_targets": targets,
        },
        warnings=(*unreached, *doubts, *_invalid(n_invalid)),
        doubtful=bool(doubts),
        n_hypotheses=int(settings.n_replicas * settings.n_particles + n_rows.sum() * per_row),
    )
