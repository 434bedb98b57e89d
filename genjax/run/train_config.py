"""What a training run is told: losses, number of steps, when to record and when to stop."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from genjax.errors import check_choice, check_positive

PerExample = Callable[[Array, Array], Array]


def squared_error(outputs: Array, targets: Array) -> Array:
    """Squared error of each example, averaged over outputs.

    Args:
      outputs: ``float[n, k]``.
      targets: ``float[n, k]``.

    Returns:
      ``float[n]``; its mean over a test set is the error whose small values ``genjax.volume`` finds the probability of.
    """
    return jnp.mean((outputs - targets) ** 2, axis=-1)


def cross_entropy(outputs: Array, targets: Array) -> Array:
    """Cross-entropy of each example in nats: softmax over one-hot columns, logistic for one column of +-1.

    Args:
      outputs: ``float[n, k]``, logits.
      targets: ``float[n, k]``, probabilities that sum to 1, or for ``k = 1`` labels -1 and +1.

    Returns:
      ``float[n]``, nats.
    """
    if targets.shape[-1] == 1:
        return jax.nn.softplus(-targets[..., 0] * outputs[..., 0])
    return optax.softmax_cross_entropy(outputs, targets)


def zero_one_error(outputs: Array, targets: Array) -> Array:
    """Whether each example is misclassified; a tie between the two signs of one column counts as an error.

    Args:
      outputs: ``float[n, k]``.
      targets: ``float[n, k]``, any encoding whose largest column (or sign, for ``k = 1``) is the label.

    Returns:
      ``float[n]``, 0 or 1.
    """
    if targets.shape[-1] == 1:
        wrong = outputs[..., 0] * targets[..., 0] <= 0
    else:
        wrong = jnp.argmax(outputs, axis=-1) != jnp.argmax(targets, axis=-1)
    return wrong.astype(outputs.dtype)


LOSSES: dict[str, PerExample] = {"cross_entropy": cross_entropy, "squared_error": squared_error}
ORDERS = ("epochs", "independent")
SPACINGS = ("linear", "log")


@dataclasses.dataclass(frozen=True)
class Stopping:
    """When a member is frozen before its last step. Thresholds are looked at whenever metrics are recorded.

    Attributes:
      train_error: stop once the 0-1 training error is at most this (0: the training data are fitted).
      train_loss: stop once the training loss is at most this.
      patience: stop after this many records without a new minimum of the test loss.
      min_improvement: by how much a minimum must undercut the last one to count.
      max_loss: a mini-batch loss above this counts as divergence, as NaN and infinity always do.
    """

    train_error: float | None = None
    train_loss: float | None = None
    patience: int | None = None
    min_improvement: float = 0.0
    max_loss: float = float("inf")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """What is the same for every member of an ensemble; what differs travels as traced hyper-parameters.

    Attributes:
      steps: number of updates.
      batch_size: examples per update; None takes all of them (full batch).
      order: ``"epochs"`` draws a new permutation of the training set each epoch (a last partial batch is left out);
        ``"independent"`` draws each batch with replacement.
      loss: ``"cross_entropy"``, ``"squared_error"``, or a function ``(outputs[n, k], targets[n, k]) -> [n]``.
      records: how many times metrics are recorded besides step 0, or the steps themselves.
      spacing: of the records, ``"linear"`` or ``"log"`` (in the step).
      snapshots: steps after which parameters are kept; ``(steps,)`` keeps the final ones.
      eval_batch_size: examples per forward pass when recording; None takes all at once. Bounds memory, not results.
      stopping: when to freeze a member early.
    """

    steps: int
    batch_size: int | None = None
    order: str = "epochs"
    loss: str | PerExample = "cross_entropy"
    records: int | tuple[int, ...] = 50
    spacing: str = "linear"
    snapshots: tuple[int, ...] = ()
    eval_batch_size: int | None = None
    stopping: Stopping = Stopping()

    def __post_init__(self) -> None:
        check_positive("steps", self.steps, integer=True)
        for name in ("batch_size", "eval_batch_size"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name), integer=True)
        check_choice("order", self.order, ORDERS)
        check_choice("spacing", self.spacing, SPACINGS)
        if not callable(self.loss):
            check_choice("loss", self.loss, tuple(LOSSES))
        if isinstance(self.records, int):
            check_positive("records", self.records, integer=True)
        else:
            _check_steps("records", self.records, self.steps)
        _check_steps("snapshots", self.snapshots, self.steps)

    @property
    def record_steps(self) -> tuple[int, ...]:
        """Steps after which metrics are recorded, 0 and ``steps`` among them unless they were listed one by one."""
        if not isinstance(self.records, int):
            return tuple(self.records)
        count = min(self.records, self.steps)
        spaced = np.linspace(0, self.steps, count + 1) if self.spacing == "linear" else _log_steps(self.steps, count)
        return tuple(int(step) for step in np.unique(np.round(spaced).astype(int)))

    @property
    def loss_fn(self) -> PerExample:
        """The loss as a function of outputs and targets."""
        return self.loss if callable(self.loss) else LOSSES[self.loss]


def _log_steps(steps: int, count: int) -> np.ndarray:
    # Backwards, so that a single one is the last step.
    return np.concatenate([[0], np.geomspace(steps, 1, count)])


def _check_steps(name: str, values: tuple[int, ...], steps: int) -> None:
    whole = all(isinstance(v, int | np.integer) and 0 <= v <= steps for v in values)
    if not whole or list(values) != sorted(set(values)):
        raise ValueError(f"`{name}` must be increasing whole numbers from 0 to {steps}, but {values} came")
