"""What methods that draw independent hypotheses share: the shell of their programs, and the record of their counts."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from genjax.tasks import Task
from genjax.typing import Params
from genjax.volume.binomial import bias_of_proportion, log_proportion
from genjax.volume.curve import BiasCurve, Particles, condition, untrained
from genjax.volume.error_functions import ErrorFunction
from genjax.volume.program import Silent
from genjax.volume.spaces import HypothesisSpace, TrainedSpace

Space = HypothesisSpace | TrainedSpace


class Draws(Silent):
    """A program of which only ``init``, ``finish`` and perhaps ``advance`` are left to say."""

    n_steps: int = 0
    space: Space

    @property
    def attributes(self) -> dict[str, Any]:
        """What was drawn from."""
        return {"prior": self.space.prior}

    def advance(self, context: Array, state: Any, start: Array, stop: Array) -> Any:  # noqa: ARG002
        """Nothing is left to do."""
        return state

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
    log_fit = untrained(space.prior) if fit_error is None else log_proportion(sample.fits, sample.n, space.prior)
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
        bias=bias_of_proportion(sample.hits, sample.fits, condition(space.prior, fit_error, task.n_train)),
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
