r"""Rejection: draw hypotheses, count those that fit, and among them those that generalize.

The plainest estimator, and the one whose error needs no trust: counts of independent draws are binomial. Probabilities
below one in the number of draws it only bounds.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from genjax.errors import check_positive
from genjax.tasks import Task
from genjax.typing import Params
from genjax.volume.curve import BiasCurve, Particles
from genjax.volume.draws import Draws, Sample, Space, counted_curve, equal_particles, evaluate, unnamed
from genjax.volume.error_functions import ErrorFunction
from genjax.volume.program import member_keys

if TYPE_CHECKING:
    import xarray

    from genjax.run import Execution

_MAX_INT32 = 2**31 - 1
_BLOCKS = 16
"""A batch is checked against the test data in so many blocks, if all its hypotheses fit; in one, if few do."""


@dataclasses.dataclass(frozen=True)
class GuessAndCheck:
    """How many hypotheses to draw, and how many at a time.

    Attributes:
      n_hypotheses: at least so many are drawn; rounded up to whole batches of all streams.
      batch: hypotheses side by side on a device; memory is that of their parameters and training outputs.
      n_streams: independent streams, dealt out to devices. Batch and streams, not devices, determine the draws.
      n_keep: particles kept, of each stream the first that fit.
    """

    n_hypotheses: int = 2**20
    batch: int = 256
    n_streams: int = 8
    n_keep: int = 64

    name: ClassVar[str] = "guess_and_check"

    def __post_init__(self) -> None:
        for field in ("n_hypotheses", "batch", "n_streams"):
            check_positive(field, getattr(self, field), integer=True)
        if self.n_keep:
            check_positive("n_keep", self.n_keep, integer=True)
        if self.n_steps * self.batch > _MAX_INT32:
            needed = -(-self.n_hypotheses // max(_MAX_INT32 - self.batch, 1))
            raise ValueError(
                f"`n_streams` must be at least {needed} for {self.n_hypotheses:,} hypotheses, because a stream counts "
                f"to 2^31 - 1, but {self.n_streams} came"
            )

    @property
    def n_steps(self) -> int:
        """Batches of each stream."""
        return -(-self.n_hypotheses // (self.n_streams * self.batch))


class Counts(NamedTuple):
    """What one stream has seen so far.

    Attributes:
      invalid: ``int32[]``, hypotheses whose score was NaN or infinite.
      fits: ``int32[]``, hypotheses that fit.
      hits: ``int32[e]``, of those, how many reach each target error.
      kept: particles, leaves ``[k, ...]``: the first that fit.
      train_error: ``float[k]``.
      test_error: ``float[k]``; NaN where nothing was kept yet.
    """

    invalid: Array
    fits: Array
    hits: Array
    kept: Params
    train_error: Array
    test_error: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Stream(Draws):
    """One stream of draws; a step is a batch.

    Attributes:
      space: where hypotheses come from.
      task: training and test data.
      fit_threshold: training score of a hypothesis that fits; None: all do.
      thresholds: ``float[e]``, test scores that reach the target errors.
      error: the error function.
      batch: hypotheses a step.
      n_keep: particles to keep.
      n_steps: batches.
    """

    space: Space
    task: Task
    fit_threshold: Array | None
    thresholds: Array
    error: ErrorFunction = dataclasses.field(metadata={"static": True})
    batch: int = dataclasses.field(metadata={"static": True})
    n_keep: int = dataclasses.field(metadata={"static": True})
    n_steps: int = dataclasses.field(metadata={"static": True})

    def init(self, context: Array) -> Counts:
        """Nothing counted."""
        zero = jnp.zeros((), jnp.int32)
        none = jnp.full(self.n_keep, jnp.nan)
        shapes = jax.eval_shape(self.space.sample, context)
        kept = jax.tree.map(lambda leaf: jnp.zeros((self.n_keep, *leaf.shape), leaf.dtype), shapes)
        return Counts(zero, zero, jnp.zeros(self.thresholds.shape, jnp.int32), kept, none, none)

    def advance(self, context: Array, state: Counts, start: Array, stop: Array) -> Counts:
        """Draw and check the batches ``start`` to ``stop - 1``."""

        def step(i: Array, counts: Counts) -> Counts:
            keys = jax.random.split(jax.random.fold_in(context, i), self.batch)
            return self._check(counts, jax.vmap(self.space.sample)(keys))

        return lax.fori_loop(start, stop, step, state)

    def finish(self, state: Counts) -> dict[str, Any]:
        """The counts and the particles."""
        found = state._asdict()
        return {"params": found.pop("kept"), **found}

    def _check(self, counts: Counts, params: Params) -> Counts:
        """Count one batch: the training data for all, the test data, often far more, in blocks of those that fit."""
        fits, train_error = jnp.ones(self.batch, bool), jnp.full(self.batch, jnp.nan)
        if self.fit_threshold is not None:
            score, train_error = self._evaluate(params, self.task.x_train, self.task.y_train)
            fits = score <= self.fit_threshold
            counts = counts._replace(invalid=counts.invalid + _count(~jnp.isfinite(score)))
        n_fits = _count(fits)
        block = -(-self.batch // _BLOCKS)
        order = jnp.argsort(~fits, stable=True)  # those that fit first

        def check_block(carry: tuple[Array, Counts]) -> tuple[Array, Counts]:
            begin, counts = carry
            place = begin + jnp.arange(block)
            rows = order[jnp.minimum(place, self.batch - 1)]
            real = place < n_fits  # the last block may hold others
            chosen = jax.tree.map(lambda leaf: leaf[rows], params)
            score, test_error = self._evaluate(chosen, self.task.x_test, self.task.y_test)
            valid = real & jnp.isfinite(score)
            n_kept = _count(~jnp.isnan(counts.test_error))
            # What is not to be kept is written past the end, where it is dropped.
            slot = jnp.where(valid, n_kept + jnp.cumsum(valid) - 1, self.n_keep)

            def write(kept: Array, new: Array) -> Array:
                return kept.at[slot].set(new.astype(kept.dtype), mode="drop")

            return begin + block, counts._replace(
                invalid=counts.invalid + _count(real & ~valid),
                hits=counts.hits + jnp.sum(real[:, None] & (score[:, None] <= self.thresholds), 0, jnp.int32),
                kept=jax.tree.map(write, counts.kept, chosen),
                train_error=write(counts.train_error, train_error[rows]),
                test_error=write(counts.test_error, test_error),
            )

        counts = counts._replace(fits=counts.fits + n_fits)
        return lax.while_loop(lambda carry: carry[0] < n_fits, check_block, (jnp.zeros((), jnp.int32), counts))[1]

    def _evaluate(self, params: Params, x: Array, y: Array) -> tuple[Array, Array]:
        return jax.vmap(lambda params: evaluate(self.space, self.error, params, x, y))(params)


def guess_and_check(
    space: Space,
    task: Task,
    target_error: Array,
    *,
    key: Array,
    fit_error: float | None,
    error: ErrorFunction,
    config: GuessAndCheck | None = None,
    execution: Execution | None = None,
    directory: str | Path | None = None,
    resume: bool = False,
) -> BiasCurve:
    r"""Required inductive bias by rejection, with exact binomial intervals.

    .. math::
       \hat P(\text{fit}) = n_{fit} / n, \qquad \hat I(\epsilon) = -\ln (n_\epsilon / n_{fit})

    with n hypotheses drawn, of which :math:`n_{fit}` fit the training data and :math:`n_\epsilon` of these have a test
    error of at most :math:`\epsilon`. The number of draws is fixed in advance: stopping at a number of hits would bias
    both. A hypothesis whose score is NaN or infinite counts as drawn, never as fitting or generalizing.

    Args:
      space: where hypotheses come from; a prior known by its log density only cannot be drawn from.
      task: training and test data.
      target_error: ``float[e]``, the epsilons.
      key: typed key.
      fit_error: training error up to which a hypothesis fits; None: no training stage.
      error: the error function.
      config: number of draws and batches.
      execution: how the streams run. Its ``chunk`` is 1 unless set, because ``config.batch`` fills the device.
      directory: where to keep the run, so that it can be interrupted; None keeps nothing.
      resume: go on with the run in ``directory``, to the result it would have had.

    Returns:
      The curve; status ``BOUND`` where no hypothesis was seen. ``diagnostics`` holds the counts ``n_fit``,
      ``n_invalid`` and ``hits[e]``.

    Raises:
      ValueError: the space cannot be drawn from.

    References:
      Chiang et al. (2023), Loss landscapes are all you need, ICLR (guess and check); Clopper & Pearson (1934).
    """
    from genjax.run import Execution, ensemble

    config = GuessAndCheck() if config is None else config
    stream = Stream(
        space=space,
        task=unnamed(task),
        fit_threshold=None if fit_error is None else error.threshold(jnp.asarray(fit_error), task.n_train),
        thresholds=error.threshold(target_error, task.n_test),
        error=error,
        batch=config.batch,
        n_keep=-(-config.n_keep // config.n_streams),
        n_steps=config.n_steps,
    )
    execution = Execution() if execution is None else execution
    if execution.chunk is None:
        execution = dataclasses.replace(execution, chunk=1)
    keys = member_keys(key, config.n_streams)
    found = ensemble(stream, keys, execution=execution, directory=directory, config=config, resume=resume)
    # As int64: there may be more than 2^31 of anything in all streams together.
    invalid, fits, hits = (found[name].values.astype(np.int64).sum(axis=0) for name in ("invalid", "fits", "hits"))
    n = config.n_streams * config.n_steps * config.batch
    sample = Sample(n, int(invalid), int(fits), hits, _particles(found, space, config.n_keep))
    return counted_curve(sample, space, task, target_error, fit_error=fit_error, error=error, method=config.name)


def _particles(found: xarray.Dataset, space: Space, n_keep: int) -> Particles:
    """What the streams kept, in their order."""
    from genjax.run import snapshot_params

    like = jax.eval_shape(space.sample, jax.random.key(0))
    errors = [found[name].values.ravel() for name in ("train_error", "test_error")]
    chosen = np.flatnonzero(~np.isnan(errors[1]))[:n_keep]

    def pick(leaf: jax.ShapeDtypeStruct, values: np.ndarray) -> Array:
        return jnp.asarray(values.reshape(-1, *leaf.shape)[chosen], leaf.dtype)

    params = jax.tree.map(pick, like, snapshot_params(found, like))
    return equal_particles(params, *(jnp.asarray(values[chosen]) for values in errors))


def _count(flags: Array) -> Array:
    return jnp.sum(flags, dtype=jnp.int32)
