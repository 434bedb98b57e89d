"""One training run as a pure function of a key and hyper-parameters, interruptible and safe to ``vmap``.

Randomness is never carried: step t draws from ``fold_in(key, t)``, so a run needs only its key and step to go on. A
member that stops, because it fits or because a number is no longer finite, is frozen by ``where``; nothing it holds can
reach another member.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.typing import ArrayLike

from genjax.models import Model
from genjax.run.program import Hyperparameters, pieces, run_pieces
from genjax.run.train_config import PerExample, TrainConfig, zero_one_error
from genjax.tasks import Task

OptimizerFactory = Callable[[Hyperparameters], optax.GradientTransformation]
Optimizer: TypeAlias = optax.GradientTransformation | OptimizerFactory
TaskSource = Task | Callable[[Array, Hyperparameters], Task]


class MemberStatus(enum.IntEnum):
    """Why a member's parameters stopped changing."""

    ALL_STEPS = 0
    FITTED = 1
    LOSS_REACHED = 2
    NO_IMPROVEMENT = 3
    DIVERGED = 4


class TrainState(NamedTuple):
    """Everything one member carries from step to step.

    Attributes:
      params: the model's parameters.
      model_state: its mutable state, such as batch-norm statistics.
      opt_state: the optimizer's.
      order: ``int32[n]``, this epoch's permutation of the training set; empty when none is needed.
      status: ``int32[]``, a :class:`MemberStatus`.
      stop_step: ``int32[]``, number of updates made before it was frozen; -1 if it never was.
      stop_value: ``float[]``, the loss or error that froze it; 0 if it never was.
      best: ``float[]``, smallest recorded test loss.
      stale: ``int32[]``, records since then.
    """

    params: Any
    model_state: Any
    opt_state: Any
    order: Array
    status: Array
    stop_step: Array
    stop_value: Array
    best: Array
    stale: Array


class TrainContext(NamedTuple):
    """A member's key, hyper-parameters and data."""

    key: Array
    hparams: Hyperparameters
    task: Task


class TrainResult(NamedTuple):
    """What one run of ``train(key, hparams)`` returns.

    Attributes:
      history: ``float[r]`` by metric: ``train_loss``, ``test_loss``, and for classification ``train_error`` and
        ``test_error`` (0-1), after each of ``train.record_steps``; NaN once a member has diverged.
      params: final parameters; for a member that diverged, those that gave the offending loss.
      model_state: the model's final mutable state.
      snapshots: parameters after each of ``config.snapshots``, stacked along a leading axis.
      status: ``int32[]``, a :class:`MemberStatus`.
      stop_step: ``int32[]``, updates made when it was frozen; -1 if it never was.
      stop_value: ``float[]``, the loss or error that froze it.
    """

    history: dict[str, Array]
    params: Any
    model_state: Any
    snapshots: Any
    status: Array
    stop_step: Array
    stop_value: Array


# Compared by identity, so that ``jax.jit(train)`` can hash it; as a pytree its static parts are compared by value.
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Train:
    """A training run as a pure function of a key and hyper-parameters; make one with :func:`make_train`.

    It is called by itself, under a user's own ``jit`` and ``vmap``, or given to :func:`genjax.run.ensemble`, for which
    it is a :class:`genjax.run.Program`. A pytree whose leaves are the data.

    Attributes:
      model: the model.
      optimizer: an optax transformation, or a function from hyper-parameters to one.
      config: what is the same for all members.
      data: the task, or nothing if ``sample_task`` makes one.
      sample_task: ``(key, hparams) -> Task``, for data that differ from member to member.
    """

    data: Task | None
    model: Model = dataclasses.field(metadata={"static": True})
    optimizer: Optimizer = dataclasses.field(metadata={"static": True})
    config: TrainConfig = dataclasses.field(metadata={"static": True})
    sample_task: Callable[[Array, Hyperparameters], Task] | None = dataclasses.field(
        default=None, metadata={"static": True}
    )

    @property
    def n_steps(self) -> int:
        """Number of updates."""
        return self.config.steps

    @property
    def record_steps(self) -> tuple[int, ...]:
        """Steps after which metrics are recorded."""
        return self.config.record_steps

    @property
    def snapshot_steps(self) -> tuple[int, ...]:
        """Steps after which parameters are kept."""
        return self.config.snapshots

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Metrics and results are scalars; parameters get numbered axes."""
        return {}

    @property
    def attributes(self) -> dict[str, Any]:
        """Task and configuration."""
        source = self.sample_task if self.data is None else self.data.provenance
        return {"task": source, "train": dataclasses.asdict(self.config)}

    def __call__(self, key: Array, hparams: Hyperparameters | None = None) -> TrainResult:
        """Train from initialization to the last step.

        Args:
          key: typed PRNG key of the member: initialization, data order, dropout and, if sampled, the task.
          hparams: what the optimizer and the task read of it, by name; traced numbers are welcome.

        Returns:
          History, final parameters and why the run stopped.
        """
        context = self.prepare(key, {} if hparams is None else hparams)
        state = self.init(context)
        # One scan over the stretches between snapshots; all have the same number of pieces.
        ends = [*(step for step in self.config.snapshots if step < self.n_steps), self.n_steps]
        starts = [0, *ends[:-1]]
        cuts = [
            pieces(self, start, stop, first=i == 0) for i, (start, stop) in enumerate(zip(starts, ends, strict=True))
        ]
        stacked = jax.tree.map(lambda *rows: jnp.stack([jnp.asarray(row) for row in rows]), *cuts)

        def stretch(state: TrainState, cut: Any) -> tuple[TrainState, tuple[Any, Any]]:
            state, rows = run_pieces(self, context, state, cut)
            return state, (rows, state.params)

        state, (rows, params) = lax.scan(stretch, state, stacked)
        kept = np.flatnonzero(np.stack([cut.recorded for cut in cuts]).ravel())
        history = {name: values.reshape(-1, *values.shape[2:])[kept] for name, values in rows.items()}
        wanted = np.array([ends.index(step) for step in self.config.snapshots], int)
        return TrainResult(
            history=history,
            params=state.params,
            model_state=state.model_state,
            snapshots=jax.tree.map(lambda leaf: leaf[wanted], params),
            **self.finish(state),
        )

    def prepare(self, key: Array, hparams: Hyperparameters) -> TrainContext:
        """A member's key, hyper-parameters and data.

        Args:
          key: the member's key.
          hparams: its hyper-parameters.

        Returns:
          The context of the other functions.
        """
        task = self.data if self.sample_task is None else self.sample_task(_stream(key, _TASK), hparams)
        assert task is not None
        return TrainContext(key, hparams, task)

    def init(self, context: TrainContext) -> TrainState:
        """Initial parameters and optimizer state.

        Args:
          context: of :meth:`prepare`.

        Returns:
          The state before the first update.

        Raises:
          ValueError: a batch larger than the training set.
        """
        x = context.task.x_train
        n = context.task.n_train
        batch_size = self.config.batch_size
        if batch_size is not None and batch_size > n:
            raise ValueError(f"`batch_size` must be at most the {n} training examples, but {batch_size} came")
        params, model_state = self.model.init(_stream(context.key, _INIT), x)
        real = jnp.result_type(float)
        shuffled = batch_size is not None and self.config.order == "epochs"
        return TrainState(
            params=params,
            model_state=model_state,
            opt_state=self._optimizer(context).init(params),
            order=jnp.zeros(n if shuffled else 0, jnp.int32),
            status=jnp.asarray(MemberStatus.ALL_STEPS, jnp.int32),
            stop_step=jnp.asarray(-1, jnp.int32),
            stop_value=jnp.zeros((), real),
            best=jnp.asarray(jnp.inf, real),
            stale=jnp.asarray(0, jnp.int32),
        )

    def advance(self, context: TrainContext, state: TrainState, start: ArrayLike, stop: ArrayLike) -> TrainState:
        """Make the updates ``start`` to ``stop - 1``.

        Args:
          context: of :meth:`prepare`.
          state: after ``start`` updates.
          start: ``int[]``.
          stop: ``int[]``.

        Returns:
          The state after ``stop`` updates.
        """
        optimizer = self._optimizer(context)
        batch_key, noise_key = _stream(context.key, _BATCHES), _stream(context.key, _NOISE)

        def update(step: Array, state: TrainState) -> TrainState:
            order, x, y = self._batch(context, state.order, step, jax.random.fold_in(batch_key, step))
            model_key = jax.random.fold_in(noise_key, step)

            def loss_fn(params: Any) -> tuple[Array, Any]:
                outputs, model_state = self.model.apply(params, state.model_state, x, key=model_key, train=True)
                return jnp.mean(self.config.loss_fn(outputs, y)), model_state

            (loss, model_state), gradient = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
            updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            # What an update breaks shows in the next loss; looking at the parameters too would cost small nets 15 %.
            sound = (loss <= self.config.stopping.max_loss) & jnp.isfinite(loss)
            running = self.running(state)
            diverged = running & ~sound
            # Nothing reads the optimizer's state once the parameters are frozen, so it may run on.
            params, model_state = _where(running & sound, (params, model_state), (state.params, state.model_state))
            return state._replace(
                params=params,
                model_state=model_state,
                opt_state=opt_state,
                order=order,
                status=jnp.where(diverged, MemberStatus.DIVERGED, state.status),
                stop_step=jnp.where(diverged, step, state.stop_step).astype(jnp.int32),
                stop_value=jnp.where(diverged, loss, state.stop_value).astype(state.stop_value.dtype),
            )

        return lax.fori_loop(start, stop, update, state)

    def observe(self, context: TrainContext, state: TrainState, step: ArrayLike) -> tuple[TrainState, dict[str, Array]]:
        """Metrics on the whole training and test set, and the stopping rules applied to them.

        Args:
          context: of :meth:`prepare`.
          state: after ``step`` updates.
          step: ``int[]``.

        Returns:
          The state, its status changed where a rule applies, and scalar metrics by name.

        Raises:
          ValueError: a rule about the 0-1 error, for regression.
        """
        task, rules = context.task, self.config.stopping
        measures = {"loss": self.config.loss_fn}
        if task.kind == "classification":
            measures["error"] = zero_one_error
        elif rules.train_error is not None:
            raise ValueError("`stopping.train_error` needs a classification task; for regression use `train_loss`")
        metrics = {
            f"{part}_{name}": value
            for part, x, y in (("train", task.x_train, task.y_train), ("test", task.x_test, task.y_test))
            for name, value in self._averages(state, x, y, measures).items()
        }
        real = state.best.dtype
        better = metrics["test_loss"] < state.best - rules.min_improvement
        best = jnp.where(better, metrics["test_loss"], state.best).astype(real)
        stale = jnp.where(better, 0, state.stale + 1).astype(jnp.int32)
        status, value = state.status, state.stop_value
        rules_met: list[tuple[MemberStatus, Array, Array]] = [
            (MemberStatus.DIVERGED, ~jnp.isfinite(metrics["train_loss"]), metrics["train_loss"])
        ]
        if rules.train_error is not None:
            error = metrics["train_error"]
            rules_met.append((MemberStatus.FITTED, error <= rules.train_error, error))
        if rules.train_loss is not None:
            loss = metrics["train_loss"]
            rules_met.append((MemberStatus.LOSS_REACHED, loss <= rules.train_loss, loss))
        if rules.patience is not None:
            rules_met.append((MemberStatus.NO_IMPROVEMENT, stale >= rules.patience, metrics["test_loss"]))
        for reason, met, metric in rules_met:
            met = met & (status == MemberStatus.ALL_STEPS)
            status = jnp.where(met, reason, status).astype(jnp.int32)
            value = jnp.where(met, metric, value).astype(real)
        stopped = status != state.status
        diverged = status == MemberStatus.DIVERGED
        state = state._replace(
            best=best,
            stale=stale,
            status=status,
            stop_step=jnp.where(stopped, step, state.stop_step).astype(jnp.int32),
            stop_value=value,
        )
        return state, {name: jnp.where(diverged, jnp.nan, value) for name, value in metrics.items()}

    def snapshot(self, state: TrainState) -> dict[str, Any]:
        """The parameters.

        Args:
          state: of a member.

        Returns:
          ``{"params": params}``.
        """
        return {"params": state.params}

    def finish(self, state: TrainState) -> dict[str, Array]:
        """Why and when the member stopped.

        Args:
          state: after the last step.

        Returns:
          ``status``, ``stop_step`` and ``stop_value``.
        """
        return {"status": state.status, "stop_step": state.stop_step, "stop_value": state.stop_value}

    def running(self, state: TrainState) -> Array:
        """Whether further steps change the parameters.

        Args:
          state: of a member.

        Returns:
          ``bool[]``.
        """
        return state.status == MemberStatus.ALL_STEPS

    def _optimizer(self, context: TrainContext) -> optax.GradientTransformation:
        if isinstance(self.optimizer, optax.GradientTransformation):
            return self.optimizer
        return self.optimizer(context.hparams)

    def _batch(self, context: TrainContext, order: Array, step: Array, key: Array) -> tuple[Array, Array, Array]:
        """This step's examples, and the permutation they were taken from."""
        x, y = context.task.x_train, context.task.y_train
        n, size = len(x), self.config.batch_size
        if size is None:
            return order, x, y
        if self.config.order == "independent":
            rows = jax.random.randint(key, (size,), 0, n)
        else:
            batches = n // size
            # The step is the same for all members, so under ``vmap`` this stays a branch taken once an epoch.
            order = lax.cond(
                step % batches == 0,
                lambda: jax.random.permutation(key, jnp.arange(n, dtype=jnp.int32)),
                lambda: order,
            )
            rows = lax.dynamic_slice_in_dim(order, (step % batches) * size, size)
        return order, x[rows], y[rows]

    def _averages(self, state: TrainState, x: Array, y: Array, measures: Mapping[str, PerExample]) -> dict[str, Array]:
        """Mean of each per-example measure over a data set, in batches that bound the memory."""

        def sums(x: Array, y: Array, weight: Array) -> dict[str, Array]:
            outputs, _ = self.model.apply(state.params, state.model_state, x, key=None, train=False)
            return {name: jnp.sum(jnp.where(weight, fn(outputs, y), 0)) for name, fn in measures.items()}

        n, size = len(x), self.config.eval_batch_size
        if size is None or size >= n:
            totals = sums(x, y, jnp.ones(n, bool))
        else:
            batches = -(-n // size)

            def fold(array: Array) -> Array:
                # The last rows are filled up with the first ones, which the weights leave out.
                return array[jnp.arange(batches * size) % n].reshape(batches, size, *array.shape[1:])

            weight = (jnp.arange(batches * size) < n).reshape(batches, size)
            totals = jax.tree.map(jnp.sum, lax.map(lambda part: sums(*part), (fold(x), fold(y), weight)))
        return {name: total / n for name, total in totals.items()}


def make_train(model: Model, task: TaskSource, optimizer: Optimizer, config: TrainConfig) -> Train:
    """Training as a pure function ``train(key, hparams)``, to be mapped over seeds and hyper-parameters.

    Each step draws its batch and dropout masks from ``fold_in(key, step)``. Every member keeps a status: one that fits,
    reaches a loss, stops improving or diverges is frozen, and the others are not touched. NaN and infinity are recorded
    with their step; the parameters kept are those that gave the offending loss.

    Args:
      model: of :mod:`genjax.models`, where adapters take Flax, Equinox, Haiku and hand-written models.
      task: shared by all members; or a function ``(key, hparams) -> Task`` of fixed shapes, for data that differ.
      optimizer: an optax transformation, or a function of the hyper-parameters that returns one, such as
        ``lambda hp: optax.adamw(hp["learning_rate"], weight_decay=hp["weight_decay"])``; traced numbers go straight in.
      config: number of steps, batches, loss, records, snapshots and stopping rules.

    Returns:
      The function; also a program for :func:`genjax.run.ensemble`.

    Raises:
      TypeError: an argument is of the wrong kind.

    References:
      The pattern of a whole run as one pure function: Lu et al. (2022), NeurIPS 35, arXiv:2210.05639.
    """
    if not isinstance(model, Model):
        raise TypeError(
            f"`model` must be a genjax.models.Model, but {type(model).__name__} came; genjax.models.from_functions, "
            "from_flax, from_nnx, from_equinox and from_haiku make one"
        )
    if not isinstance(config, TrainConfig):
        raise TypeError(f"`config` must be a TrainConfig, but {type(config).__name__} came")
    if not (isinstance(optimizer, optax.GradientTransformation) or callable(optimizer)):
        raise TypeError(f"`optimizer` must be an optax transformation or a function of hparams, but {optimizer!r} came")
    if isinstance(task, Task):
        return Train(task, model, optimizer, config)
    if not callable(task):
        raise TypeError(f"`task` must be a Task or a function (key, hparams) -> Task, but {task!r} came")
    return Train(None, model, optimizer, config, task)


# Separate streams of one member's key.
_INIT, _BATCHES, _NOISE, _TASK = range(4)


def _stream(key: Array, stream: int) -> Array:
    return jax.random.fold_in(key, stream)


def _where(condition: Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)
