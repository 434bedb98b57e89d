r"""Probabilities of rare hypotheses by simulation: one entry for all spaces and methods.

.. math::
   I(\epsilon) = \log P(e_{tr} \le \tau) - \log P(e_{tr} \le \tau,\, e_{te} \le \epsilon)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial
from jax.typing import ArrayLike

from genjax.errors import Status, check_array, check_choice
from genjax.estimate import Estimate
from genjax.random import is_typed_key
from genjax.tasks import Task
from genjax.typing import Params, as_partial
from genjax.volume.curve import BiasCurve, EventCurve, Particles, condition, untrained
from genjax.volume.error_functions import ErrorFunction, error_function
from genjax.volume.guess_and_check import GuessAndCheck, guess_and_check
from genjax.volume.masses import Masses, Work, nested_masses, walk_masses
from genjax.volume.nested import Nested
from genjax.volume.replicas import WIDEST_SCATTER, Combined, jackknife, log_mean, log_ratio
from genjax.volume.smc import Events, Problem
from genjax.volume.spaces import HypothesisSpace, TrainedSpace
from genjax.volume.trained import Trained, trained
from genjax.volume.walk import Splitting, Tempered

if TYPE_CHECKING:
    from genjax.run import Execution

METHODS: dict[str, type] = {
    "guess_and_check": GuessAndCheck,
    "splitting": Splitting,
    "tempered": Tempered,
    "nested": Nested,
    "trained": Trained,
}
Walker = Splitting | Tempered | Nested
Method = Walker | GuessAndCheck | Trained
ErrorLike = str | ErrorFunction | Callable[[Array, Array], Array]

_DISAGREEMENT = 3.0


def inductive_bias(
    space: HypothesisSpace | TrainedSpace,
    task: Task,
    target_error: ArrayLike | Sequence[float],
    *,
    key: Array,
    fit_error: float | None = 0.0,
    error: ErrorLike | None = None,
    method: str | Method = "splitting",
    n_keep: int = 1024,
    verify: bool = False,
    execution: Execution | None = None,
    directory: str | Path | None = None,
    resume: bool = False,
) -> BiasCurve:
    r"""Required inductive bias of a task relative to any hypothesis space, by simulation, as a curve with intervals.

    .. math::
       I(\epsilon) = -\log P(e_{te} \le \epsilon \mid e_{tr} \le \tau), \qquad \text{hypothesis} \sim \text{space}

    ==================  ==========================================================================================
    method              for
    ==================  ==========================================================================================
    guess_and_check     anything that can be sampled, down to about 1/(number of hypotheses)
    splitting           any error, any depth; cost grows like I
    tempered            smooth errors in high dimension; cost grows like the square root of the dimension
    nested              as splitting, without a pilot; a second opinion
    trained             outcomes of a training algorithm over seeds
    ==================  ==========================================================================================

    Args:
      space: from :func:`weight_space` and its siblings, or :func:`trained_space`.
      task: training and test data.
      target_error: ``float[e]`` or a number, the epsilons.
      key: typed PRNG key.
      fit_error: :math:`\tau`, training error up to which a hypothesis fits; positive for a continuous error. None: no
        training stage, for spaces that are conditioned already.
      error: ``"squared_error"``, ``"zero_one_error"``, an :class:`ErrorFunction`, or any function of outputs and
        targets. None: the 0-1 error for classification, the squared error for regression.
      method: a name with its default settings, or :class:`Splitting`, :class:`Tempered`, :class:`Nested`,
        :class:`GuessAndCheck` or :class:`Trained`.
      n_keep: most hypotheses handed back as ``particles``, for methods that walk; the others have settings for it.
      verify: whether to repeat with twice the particles and moves; where the two disagree the status is ``DOUBTFUL``.
        For methods that walk; costs four times as much again.
      execution: engine settings: chunk width, progress. None: the engine's own.
      directory: where to keep the run, so that it can be interrupted and resumed.
      resume: go on with the run in ``directory``, to the answer it would have had.

    Returns:
      The curve. A target that no replica reached has status ``BOUND`` and a one-sided interval.

    Raises:
      TypeError: ``key`` is not a typed key.
      ValueError: an argument is out of range or does not fit the others; outputs are not shaped as the targets.

    References:
      Boopathy et al. (2024), arXiv:2406.15941 (the quantity); the methods name theirs. The two-stage estimate with
      errors from common replicas is genjax's own.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from genjax.tasks import make_task
      >>> from genjax.volume import GuessAndCheck, inductive_bias, weight_space
      >>> x = jnp.eye(12) + 1.0
      >>> task = make_task(x[:4], jnp.ones((4, 1)), x[4:], jnp.ones((8, 1)))
      >>> perceptron = weight_space(lambda w, x: x @ w[:, None], jnp.zeros(12))
      >>> curve = inductive_bias(perceptron, task, [0.25, 0.0], key=jax.random.key(0), error="zero_one_error",
      ...     method=GuessAndCheck(2**14))  # small enough to count; "splitting", the default, for what is rare
      >>> curve.nats.shape
      (2,)
    """
    settings = _settings(method)
    _check_key(key)
    epsilon = check_array("target_error", target_error, minimum=0)
    if epsilon.ndim > 1 or not epsilon.size:
        raise ValueError(f"`target_error` must be a number or a vector, but its shape is {epsilon.shape}")
    if error is None:
        error = "zero_one_error" if task.kind == "classification" else "squared_error"
    measure = error_function(error)
    _check_fit(fit_error, measure)
    _check_outputs(space, task, trained_on=fit_error is not None)
    targets = jnp.atleast_1d(epsilon)
    work = Work(execution, None if directory is None else Path(directory), resume)
    drawn = {"key": key, "fit_error": fit_error, "error": measure, **work._asdict()}
    if isinstance(settings, GuessAndCheck):
        return guess_and_check(space, task, targets, config=settings, **drawn)
    if isinstance(settings, Trained):
        return trained(space, task, targets, config=settings, **drawn)
    if not isinstance(space, HypothesisSpace):
        raise ValueError(
            f"`method` {settings.name!r} needs a space with coordinates to move in, but {type(space).__name__} came; "
            "use 'trained' or 'guess_and_check'"
        )
    problem = Problem(
        train=None if fit_error is None else Partial(_Scored(measure), space, task.x_train, task.y_train),
        test=Partial(_Scored(measure), space, task.x_test, task.y_test),
        log_weight=space.log_weight,
        dimension=space.dimension,
    )
    fit_level = jnp.inf if fit_error is None else measure.threshold(jnp.asarray(fit_error), task.n_train)
    events = Events(jnp.asarray(fit_level, float), measure.threshold(targets, task.n_test))
    masses, doubts = _simulate(problem, events, key, settings, work, verify)
    given = condition(space.prior, fit_error, task.n_train)
    fit = jackknife(log_ratio, masses.fit, masses.total)
    log_fit = untrained(space.prior)
    if fit_error is not None:
        log_fit = _estimate(fit, masses.fit, np.asarray(masses.fit_bound), False, space.prior, sign=1)
    difference = jackknife(log_ratio, masses.fit[:, None], masses.targets)
    # Where nothing fits, nothing is known of what fits: the bias is at least 0.
    with np.errstate(invalid="ignore"):
        bounds = np.nan_to_num(fit.value - masses.bounds, nan=0, posinf=0, neginf=0)
    bias = _estimate(difference, masses.targets, bounds, doubts, given, sign=-1)
    particles = _particles(key, space.transport, masses, n_keep, fit_error is not None)
    return BiasCurve(
        target_error=targets,
        bias=bias,
        log_fit=log_fit,
        particles=dataclasses.replace(
            particles,
            train_error=measure.from_score(particles.train_error, task.n_train),
            test_error=measure.from_score(particles.test_error, task.n_test),
        ),
        diagnostics=masses.diagnostics,
        warnings=masses.warnings,
        fit_error=fit_error,
        n_train=task.n_train,
        n_test=task.n_test,
        n_outputs=task.n_outputs,
        n_hypotheses=masses.n_hypotheses,
        method=settings.name,
        error_scale=measure.name,
    )


def log_probability(
    space: HypothesisSpace,
    score: Callable[[Params], Array],
    threshold: ArrayLike | Sequence[float],
    *,
    key: Array,
    method: str | Walker = "splitting",
    n_keep: int = 1024,
    verify: bool = False,
    execution: Execution | None = None,
    directory: str | Path | None = None,
    resume: bool = False,
) -> EventCurve:
    r"""Log probability that any score of a random hypothesis is at most a threshold, as a curve over thresholds.

    .. math::
       \log P(s(\theta) \le t), \qquad \theta \sim \text{space}

    The volume of a basin under a prior, the prior mass near a teacher, an orthant: whatever can be said by a number.

    Args:
      space: the prior; its ``apply_fn`` is not used.
      score: ``score(params) -> float[]``; NaN isolates a hypothesis.
      threshold: ``float[e]`` or a number.
      key: typed PRNG key.
      method: ``"splitting"``, ``"tempered"``, ``"nested"``, or their settings.
      n_keep: most hypotheses handed back.
      verify: as for :func:`inductive_bias`.
      execution: engine settings.
      directory: where to keep the run.
      resume: go on with the run in ``directory``.

    Returns:
      Log probabilities with intervals, and hypotheses from the rarest event seen.

    Raises:
      TypeError: ``key`` is not a typed key.
      ValueError: an argument is out of range.

    References:
      The methods name theirs.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from genjax.volume import Splitting, log_probability, weight_space
      >>> normal = weight_space(lambda w, x: x @ w, jnp.zeros(10))
      >>> settings = Splitting(n_particles=64, n_replicas=4)
      >>> ball = log_probability(normal, lambda w: jnp.sum(w**2), [4.0, 1.0], key=jax.random.key(0), method=settings)
      >>> bool(ball.log_prob.value[1] < ball.log_prob.value[0])  # exactly -2.94 and -8.67
      True
    """
    settings = _settings(method)
    if isinstance(settings, GuessAndCheck | Trained):
        raise ValueError(f"`method` must be splitting, tempered or nested, but {settings.name!r} came")
    _check_key(key)
    levels = check_array("threshold", threshold)
    if levels.ndim > 1 or not levels.size:
        raise ValueError(f"`threshold` must be a number or a vector, but its shape is {levels.shape}")
    levels = jnp.atleast_1d(levels)
    test = Partial(_of_params, as_partial(score), space.transport)
    problem = Problem(None, test, space.log_weight, space.dimension)
    work = Work(execution, None if directory is None else Path(directory), resume)
    masses, doubts = _simulate(problem, Events(jnp.asarray(jnp.inf), levels), key, settings, work, verify)
    found = jackknife(log_ratio, masses.targets, masses.total[:, None])
    return EventCurve(
        threshold=levels,
        log_prob=_estimate(found, masses.targets, masses.bounds, doubts, space.prior, sign=1),
        particles=_particles(key, space.transport, masses, n_keep, False),
        diagnostics=masses.diagnostics,
        warnings=masses.warnings,
        n_hypotheses=masses.n_hypotheses,
        method=settings.name,
    )


def _settings(method: str | Method) -> Method:
    if isinstance(method, str):
        check_choice("method", method, tuple(METHODS))
        return METHODS[method]()
    if not isinstance(method, tuple(METHODS.values())):
        raise TypeError(f"`method` must be a name or its settings, but {type(method).__name__} came")
    return method


def _check_key(key: Any) -> None:
    if not is_typed_key(key) or key.shape:
        raise TypeError(f"`key` must be a typed PRNG key such as jax.random.key(0), but {type(key).__name__} came")


def _check_fit(fit_error: float | None, error: ErrorFunction) -> None:
    if fit_error is None:
        return
    if not fit_error >= 0:
        raise ValueError(f"`fit_error` must be at least 0, or None, but {fit_error!r} came")
    if fit_error == 0 and error.guide is None:
        raise ValueError(
            f"`fit_error` must be positive for a continuous error ({error.name}), whose value 0 has probability zero; "
            "0.0 came. None leaves the training stage out"
        )


def _check_outputs(space: HypothesisSpace | TrainedSpace, task: Task, *, trained_on: bool) -> None:
    """Raise if outputs and targets would broadcast instead of matching."""
    if isinstance(space, HypothesisSpace):
        params = jax.eval_shape(space.transport, jax.ShapeDtypeStruct((space.dimension,), jnp.zeros(()).dtype))
    else:
        params = jax.eval_shape(space.sample, jax.random.key(0))
    data = {"train": (task.x_train, task.y_train)} if trained_on else {}
    for part, (x, y) in {**data, "test": (task.x_test, task.y_test)}.items():
        outputs = jax.eval_shape(space.apply_fn, params, x)
        if outputs.shape != y.shape:
            raise ValueError(
                f"`space.apply_fn` must give outputs of the {part} targets' shape {y.shape}, but {outputs.shape} came"
            )


@dataclasses.dataclass(frozen=True)
class _Scored:
    """Score of the hypothesis with given coordinates; equal for equal errors, so that programs are shared."""

    error: ErrorFunction

    def __call__(self, space: HypothesisSpace, x: Array, y: Array, z: Array) -> Array:
        return self.error.score(space.apply_fn(space.transport(z), x), y)


def _of_params(score: Partial, transport: Partial, z: Array) -> Array:
    return score(transport(z))


def _simulate(
    problem: Problem, events: Events, key: Array, settings: Walker, work: Work, verify: bool
) -> tuple[Masses, np.ndarray]:
    """What the replicas found, and for which targets it is doubtful."""
    run: Any = nested_masses if isinstance(settings, Nested) else walk_masses
    masses = run(problem, events, key, settings, work)
    spread = _spread(masses.targets)
    doubts = (spread > WIDEST_SCATTER) | np.isnan(spread) | masses.doubtful
    if (spread > WIDEST_SCATTER).any():
        more = (
            f"replicas scatter by up to {np.nanmax(spread):.2g} nats: the interval assumes a log-normal law; raise "
            "`n_particles` or `n_moves`",
        )
        masses = masses._replace(warnings=masses.warnings + more)
    if verify:
        again = Work(work.execution, None if work.directory is None else work.directory / "doubled", work.resume)
        other = run(problem, events, jax.random.fold_in(key, 2**16), settings.doubled(), again)
        one, two = (jackknife(log_mean, m.targets) for m in (masses, other))
        with np.errstate(invalid="ignore", divide="ignore"):
            z = (two.value - one.value) / np.hypot(one.stderr, two.stderr)
        apart = ~(np.abs(z) <= _DISAGREEMENT) & np.isfinite(two.value)
        masses.diagnostics["doubled_z"] = z
        if apart.any():
            more = (f"twice the particles and moves change the answer by up to {np.nanmax(np.abs(z)):.1f} errors",)
            masses = masses._replace(warnings=masses.warnings + more)
        doubts = doubts | apart
    return masses, doubts


def _spread(logs: np.ndarray) -> np.ndarray:
    """Standard deviation of the replicas' logs; NaN where fewer than three, or fewer than half, saw the event."""
    seen = np.isfinite(logs)
    count = seen.sum(axis=0)
    mean = np.sum(logs, axis=0, where=seen) / np.maximum(count, 1)
    squares = np.sum((np.where(seen, logs, mean) - mean) ** 2, axis=0)
    spread = np.sqrt(squares / np.maximum(count - 1, 1))
    return np.where((count > 0) & (count < max(3, len(logs) / 2)), np.nan, spread)


def _estimate(
    found: Combined,
    logs: np.ndarray,
    bounds: np.ndarray,
    doubts: np.ndarray | bool,
    given: str,
    *,
    sign: int,
) -> Estimate:
    """The estimate where some replica saw the event, a one-sided bound where none did.

    ``bounds`` are ends of one-sided intervals in the estimate's own direction; ``sign`` is 1 for a log probability,
    which they bound above, and -1 for a bias, which they bound below.
    """
    seen = np.isfinite(logs).any(axis=0)
    end = np.minimum(bounds, 0) if sign > 0 else np.maximum(bounds, 0)
    value = np.where(seen, found.value, end)
    stderr = np.where(np.isfinite(found.stderr), found.stderr, np.inf)
    low = np.where(np.isfinite(found.low), found.low, -np.inf)
    high = np.where(np.isfinite(found.high), found.high, np.inf)
    if sign > 0:
        low, high = np.where(seen, low, -np.inf), np.where(seen, np.minimum(high, 0), end)
    else:
        low, high = np.where(seen, np.maximum(low, 0), end), np.where(seen, high, np.inf)
    status = np.where(doubts, Status.DOUBTFUL, Status.OK)
    status = np.where(seen, status, Status.BOUND)
    as_array = lambda a: jnp.asarray(a, float)  # noqa: E731
    return Estimate(
        value=as_array(value),
        stderr=as_array(np.where(seen, stderr, np.inf)),
        error_bound=jnp.zeros(value.shape),
        status=jnp.asarray(status, jnp.int32),
        given=given,
        bounds=(as_array(low), as_array(high)),
    )


def _particles(key: Array, transport: Partial, masses: Masses, n_keep: int, trained_on: bool) -> Particles:
    """At most ``n_keep`` hypotheses that represent all; copies, if there must be fewer, are drawn by weight."""
    alive = np.flatnonzero(np.isfinite(masses.log_weights))
    log_weights = masses.log_weights[alive]
    if alive.size > n_keep:
        weights = np.exp(log_weights - log_weights.max())
        ends = np.cumsum(weights)
        offset = float(jax.random.uniform(jax.random.fold_in(key, 2**17)))
        points = (np.arange(n_keep) + offset) * ends[-1] / n_keep
        alive = alive[np.minimum(np.searchsorted(ends, points, side="right"), alive.size - 1)]
        log_weights = np.zeros(n_keep)
    if alive.size:
        log_weights = log_weights - np.logaddexp.reduce(log_weights)
    z = jnp.asarray(masses.z[alive])
    train = masses.train[alive] if trained_on else np.full(alive.size, np.nan)
    return Particles(
        params=jax.vmap(transport)(z),
        log_weights=jnp.asarray(log_weights, float),
        train_error=jnp.asarray(train, float),
        test_error=jnp.asarray(masses.test[alive], float),
    )
