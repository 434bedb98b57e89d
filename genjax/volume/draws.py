"""What methods that draw independent hypotheses share: the shell of their programs, and the record of their counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from genjax.errors import Status
from genjax.estimate import Estimate
from genjax.tasks import Task
from genjax.typing import Params
from genjax.volume.binomial import bias_of_proportion, log_proportion
from genjax.volume.curve import BiasCurve, Particles
from genjax.volume.error_functions import ErrorFunction
from genjax.volume.spaces import HypothesisSpace, TrainedSpace

Space = HypothesisSpace | TrainedSpace


class Draws:
    """A :class:`genjax.run.Program` of which only ``init``, ``finish`` and perhaps ``advance`` are left to say."""

    record_steps: ClassVar[tuple[int, ...]] = ()
    snapshot_steps: ClassVar[tuple[int, ...]] = ()
    dims: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    n_steps: int = 0
    space: Space

    @property
    def attributes(self) -> dict[str, Any]:
        """What was drawn from."""
        return {"prior": self.space.prior}

    def prepare(self, key: Array, hparams: Any) -> Array:  # noqa: ARG002
        """The member's key."""
        return key

    def advance(self, context: Array, state: Any, start: Array, stop: Array) -> Any:  # noqa: ARG002
        """Nothing is left to do."""
        return state

    def observe(self, context: Array, state: Any, step: Array) -> tuple[Any, dict[str, Array]]:  # noqa: ARG002
        """Nothing is recorded on the way."""
        return state, {}

    def snapshot(self, state: Any) -> dict[str, Any]:  # noqa: ARG002
        """Nothing is kept on the way."""
        return {}

    def running(self, state: Any) -> Array:  # noqa: ARG002
        """Always: a stop that depends on what was drawn would bias the estimate."""
        return jnp.asarray(True)


def evaluate(space: Space, error: ErrorFunction, params: Params, x: Array, y: Array) -> tuple[Array, Array]:
    """Score and error of one hypothesis, ``float[]`` each."""
    outputs = space.apply_fn(params, x)
    return error.score(outputs, y), error.error(outputs, y)


def unnamed(task: Task) -> Task:
    """The task without words, which are static: tasks of one shape then share compiled programs."""
    return dataclasses.replace(task, name="", provenance="")


def member_keys(key: Array, n: int) -> Array:
    """Keys ``[n]``; that of a member depends on neither their number nor their order."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(n))


class Sample(NamedTuple):
    """Independent draws, counted: of ``n``, ``invalid``, ``fits`` and ``hits[e]``, and some that fit."""

    n: int
    invalid: int
    fits: int
    hits: np.ndarray
    particles: Particles


def equal_particles(params: Params, train_error: Array, test_error: Array) -> Particles:
    """Hypotheses of equal weight, leaves ``[h, ...]``."""
    h = len(test_error)
    return Particles(params, jnp.full(h, -np.log(max(h, 1))), jnp.asarray(train_error), jnp.asarray(test_error))


def counted_curve(
    sample: Sample,
    space: Space,
    task: Task,
    target_error: Array,
    *,
    fit_error: float | None,
    error: ErrorFunction,
    method: str,
) -> BiasCurve:
    """The record of counted draws, with binomial intervals and what is to be said about them."""
    given = f"a hypothesis from {space.prior}"
    if fit_error is None:
        zero = jnp.zeros(())
        log_fit = Estimate(zero, zero, zero, jnp.asarray(Status.OK, jnp.int32), space.prior)
    else:
        log_fit = log_proportion(sample.fits, sample.n, space.prior)
        given = f"{given} with training error <= {fit_error:g} on {task.n_train} points"
    warnings = []
    if sample.invalid:
        warnings.append(
            f"{sample.invalid:,} of {sample.n:,} hypotheses have a score that is NaN or infinite; they count as drawn, "
            "never as fitting or generalizing"
        )
    if not sample.fits:
        warnings.append(f"none of {sample.n:,} hypotheses fits, so nothing is known of how those that do generalize")
    elif not np.all(sample.hits):
        warnings.append(
            f"none of the {sample.fits:,} hypotheses that fit reaches {np.sum(sample.hits == 0)} of the "
            f"{len(sample.hits)} target errors; the counts only bound I there"
        )
    return BiasCurve(
        target_error=target_error,
        bias=bias_of_proportion(sample.hits, sample.fits, given),
        log_fit=log_fit,
        particles=sample.particles,
        diagnostics={
            "n_fit": np.asarray(sample.fits),
            "n_invalid": np.asarray(sample.invalid),
            "hits": np.asarray(sample.hits),
        },
        warnings=tuple(warnings),
        fit_error=fit_error,
        n_train=task.n_train,
        n_test=task.n_test,
        n_outputs=task.n_outputs,
        n_hypotheses=sample.n,
        method=method,
        error_scale=error.name,
    )
