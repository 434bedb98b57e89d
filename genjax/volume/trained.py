r"""Outcomes of a training algorithm: the law of the test error over its seeds, and what may be said beyond it.

The hypotheses here are not drawn from a prior and then conditioned; the algorithm finds ones that fit. Whether each
does is checked. With S seeds, probabilities below 1/S are bounded or, on request, extrapolated by a tail that says so.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from genjax.errors import Status, check_choice, check_positive
from genjax.tasks import Task
from genjax.volume.curve import BiasCurve
from genjax.volume.draws import Draws, Sample, Space, counted_curve, equal_particles, evaluate, unnamed
from genjax.volume.error_functions import ErrorFunction
from genjax.volume.pareto import fit_lower_tail, tail_bias
from genjax.volume.program import member_keys
from genjax.volume.spaces import TrainedSpace

if TYPE_CHECKING:
    from genjax.run import Execution

TAILS = ("empirical", "pareto", "published")
_NORMAL = 1.959963984540054
_FEWEST = 20
"""Errors that a tail is fitted to, at least, and as many above it."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """How many seeds to train, and what to say beyond the errors they reach.

    Attributes:
      n_seeds: training runs.
      tail: ``"empirical"`` counts, and bounds what it never saw; ``"pareto"`` extrapolates below the errors that
        ``min_hits`` seeds reach by a generalized Pareto law, with an interval; ``"published"`` reads everything off a
        chi-squared law of 3 parameters, to compare with the paper of 2024.
      min_hits: seeds that must reach a target error for it to be counted rather than extrapolated.
      tail_share: share of the seeds that fit whose errors make the tail.
      keep_params: whether to keep the parameters of all seeds, which become the particles; turn it off for large
        networks.
    """

    n_seeds: int = 256
    tail: str = "empirical"
    min_hits: int = 10
    tail_share: float = 0.1
    keep_params: bool = True

    name: ClassVar[str] = "trained"

    def __post_init__(self) -> None:
        check_positive("n_seeds", self.n_seeds, integer=True)
        check_positive("min_hits", self.min_hits, integer=True)
        check_choice("tail", self.tail, TAILS)
        if not 0 < self.tail_share <= 0.5:
            raise ValueError(f"`tail_share` must be above 0 and at most 0.5, but {self.tail_share!r} came")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Outcomes(Draws):
    """One seed, trained and evaluated.

    Attributes:
      space: the training algorithm.
      task: training and test data.
      error: the error function.
      check_fit: whether there is a training stage.
      keep_params: whether to return the parameters.
    """

    space: TrainedSpace
    task: Task
    error: ErrorFunction = dataclasses.field(metadata={"static": True})
    check_fit: bool = dataclasses.field(metadata={"static": True})
    keep_params: bool = dataclasses.field(metadata={"static": True})

    def init(self, context: Array) -> dict[str, Any]:
        """Scores, errors and perhaps parameters of the trained hypothesis."""
        params = self.space.sample(context)
        task, nan = self.task, jnp.asarray(jnp.nan)
        train = evaluate(self.space, self.error, params, task.x_train, task.y_train) if self.check_fit else (nan, nan)
        test = evaluate(self.space, self.error, params, task.x_test, task.y_test)
        found = dict(zip(("train_score", "train_error", "test_score", "test_error"), (*train, *test), strict=True))
        return {**found, "params": params} if self.keep_params else found

    def finish(self, state: dict[str, Any]) -> dict[str, Any]:
        """All of it."""
        return state


def trained(
    space: Space,
    task: Task,
    target_error: Array,
    *,
    key: Array,
    fit_error: float | None,
    error: ErrorFunction,
    config: Trained | None = None,
    execution: Execution | None = None,
    directory: str | Path | None = None,
    resume: bool = False,
) -> BiasCurve:
    r"""Required inductive bias relative to what a training algorithm finds, from many seeds.

    .. math::
       \hat I(\epsilon) = -\ln (n_\epsilon / n_{fit})

    with :math:`n_{fit}` the seeds whose training error is at most ``fit_error``, :math:`n_\epsilon` those of them whose
    test error is at most :math:`\epsilon`, binomial intervals as far as there are seeds to count and ``config.tail``
    beyond. A seed that ends in NaN or infinity counts as trained, never as fitting or generalizing.

    Args:
      space: from :func:`genjax.volume.trained_space`.
      task: training and test data.
      target_error: ``float[e]``, the epsilons.
      key: typed key.
      fit_error: training error up to which a seed fits; None: no training stage.
      error: the error function.
      config: number of seeds, and the tail.
      execution: how the seeds run side by side.
      directory: where to keep the run, so that it can be interrupted; seeds finished by then are not trained again.
      resume: go on with the run in ``directory``, to the result it would have had.

    Returns:
      The curve. What is extrapolated has status ``DOUBTFUL``, and ``warnings`` say by which law; where nothing but a
      bound is known, ``BOUND``. ``diagnostics`` holds the counts, and ``train_error``, ``test_error`` and ``fits`` of
      every seed ``[s]``.

    Raises:
      TypeError: the space is no training algorithm.

    References:
      Boopathy et al. (2024), arXiv:2406.15941, for the quantity and the published tail; see
      :mod:`genjax.volume.pareto` for the other.
    """
    from genjax.run import ensemble

    if not isinstance(space, TrainedSpace):
        raise TypeError(
            f"`space` must be a TrainedSpace for method 'trained', but {type(space).__name__} came; to draw from a "
            "prior, use 'guess_and_check'"
        )
    config = Trained() if config is None else config
    outcomes = Outcomes(space, unnamed(task), error, fit_error is not None, config.keep_params)
    keys = member_keys(key, config.n_seeds)
    found = ensemble(outcomes, keys, execution=execution, directory=directory, config=config, resume=resume)

    train_score, test_score, train_error, test_error = (
        found[name].values for name in ("train_score", "test_score", "train_error", "test_error")
    )
    invalid = ~np.isfinite(test_score)
    if fit_error is None:
        fits = np.ones_like(invalid)
    else:
        invalid |= ~np.isfinite(train_score)
        fits = train_score <= np.asarray(error.threshold(jnp.asarray(fit_error), task.n_train))
    hits = fits[:, None] & (test_score[:, None] <= np.asarray(error.threshold(target_error, task.n_test)))
    usable = fits & ~invalid
    params = _params(found, space, usable) if config.keep_params else None
    particles = equal_particles(params, *(jnp.asarray(errors[usable]) for errors in (train_error, test_error)))
    sample = Sample(config.n_seeds, int(invalid.sum()), int(fits.sum()), hits.sum(axis=0), particles)
    curve = counted_curve(sample, space, task, target_error, fit_error=fit_error, error=error, method=config.name)
    curve.diagnostics.update(train_error=train_error, test_error=test_error, fits=fits)
    errors = np.where(invalid, np.inf, test_error)[fits].astype(np.float64)
    return _with_tail(curve, errors, config, whole=error.guide is not None)


def _params(found: Any, space: TrainedSpace, chosen: np.ndarray) -> Any:
    from genjax.run import snapshot_params

    like = jax.eval_shape(space.sample, jax.random.key(0))
    kept = snapshot_params(found, like)
    return jax.tree.map(lambda leaf, values: jnp.asarray(values[chosen], leaf.dtype), like, kept)


def _with_tail(curve: BiasCurve, errors: np.ndarray, config: Trained, *, whole: bool) -> BiasCurve:
    """The curve with what the tail says in place of what the counts cannot."""
    few = curve.diagnostics["hits"] < config.min_hits
    if config.tail == "empirical" or (config.tail == "pareto" and not few.any()):
        return curve
    target = np.asarray(curve.target_error, np.float64)
    low, high = (np.asarray(end, np.float64) for end in curve.bias.interval())
    if config.tail == "published":
        from genjax.volume.published.boopathy2024 import fit_tail, tail_inductive_bias

        errors = errors[np.isfinite(errors)]
        if problem := _unfit(errors, 2):
            return _warn(curve, f"no tail was fitted, because {problem}")
        value = np.full(target.shape, np.inf)  # at 0; the published code knows positive targets only
        value[target > 0] = tail_inductive_bias(fit_tail(errors), target[target > 0])
        outside = ~few & ((value < low) | (value > high))
        return _warn(
            _replace(curve, np.ones_like(few), value, low, high, few | outside),
            f"all values are read off a chi-squared law of 3 parameters fitted to {len(errors)} errors, as published; "
            f"the intervals are those of the counts, and {outside.sum()} of the {(~few).sum()} values that can be "
            "checked lie outside theirs",
        )
    if whole:
        # As numbers of points; 0.29 * 100 is 28.999...
        errors, target = np.rint(errors * curve.n_test), np.floor(target * curve.n_test + 1e-4)
    n_tail = max(int(config.tail_share * len(errors)), _FEWEST)
    smallest = np.sort(errors)[:n_tail] if len(errors) >= 2 * _FEWEST else np.zeros(0)
    if problem := _unfit(smallest, n_tail, whole):
        return _warn(curve, f"no tail was fitted, because {problem}")
    tail = fit_lower_tail(errors, n_tail, whole=whole)
    value, tail_low, tail_high = tail_bias(tail, target)
    low = np.maximum(low, tail_low)  # that of the counts needs no law
    return _warn(
        _replace(curve, few, np.maximum(value, low), low, np.maximum(tail_high, low), few),
        f"target errors that fewer than {config.min_hits} seeds reach are extrapolated by a generalized Pareto law "
        f"fitted to the {tail.n_below} smallest of {tail.n} errors; their intervals assume that law above, and below a "
        "log probability that is concave in the error",
    )


def _unfit(errors: np.ndarray, fewest: int, zero: bool = False) -> str:
    """Why a tail cannot be fitted to these errors; empty if it can."""
    if len(errors) < fewest or not np.isfinite(errors).all():
        return "errors are too few"
    if np.ptp(errors) == 0:
        return f"all {len(errors)} errors it would be fitted to are equal"
    if errors.min() < 0 or (errors.min() == 0 and not zero):
        return "it is a law of positive errors, and some are not"
    return ""


def _replace(
    curve: BiasCurve, where: np.ndarray, value: np.ndarray, low: np.ndarray, high: np.ndarray, doubtful: np.ndarray
) -> BiasCurve:
    """Other numbers at some target errors; no more than the lower end where the value is not finite."""
    finite = np.isfinite(value)
    new = dataclasses.replace(
        curve.bias,
        value=jnp.asarray(np.where(finite, value, low)),
        stderr=jnp.asarray((high - low) / (2 * _NORMAL)),
        status=jnp.asarray(np.where(finite, np.where(doubtful, Status.DOUBTFUL, Status.OK), Status.BOUND)),
        bounds=(jnp.asarray(low), jnp.asarray(high)),
    )
    merged = jax.tree.map(lambda n, old: jnp.where(where, n, old).astype(old.dtype), new, curve.bias)
    return dataclasses.replace(curve, bias=merged)


def _warn(curve: BiasCurve, warning: str) -> BiasCurve:
    return dataclasses.replace(curve, warnings=(*curve.warnings, warning))
