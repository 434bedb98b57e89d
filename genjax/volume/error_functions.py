r"""What "error" means: a number for each hypothesis and data set, with an order among hypotheses of equal error.

Rare-event methods walk down a *score*. For a continuous error it is the error. The 0-1 error takes few values, and on
such plateaus a walk is blind; there the score adds a *guide* in [0, 1) errors, how badly the wrong examples are
wrong, so that fewer errors always mean a smaller score.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from genjax.errors import check_choice

# The guide stays this far from the next error, more than float32 loses on a million examples' mean.
_GUIDE = 0.9
_ROUNDING = 1e-4


@dataclasses.dataclass(frozen=True)
class ErrorFunction:
    """An error of a hypothesis on a data set, and the score that methods walk down.

    Attributes:
      name: what an error of 1 means.
      error: ``error(outputs[n, c], targets[n, c]) -> float[]``; smaller is better, NaN isolates the hypothesis.
      guide: ``guide(outputs, targets) -> float[]`` in [0, 1], the order among hypotheses of equal error, for errors
        that are whole multiples of 1/n; None for continuous errors.
    """

    name: str
    error: Callable[[Array, Array], Array]
    guide: Callable[[Array, Array], Array] | None = None

    def score(self, outputs: Array, targets: Array) -> Array:
        """What methods minimize.

        Args:
          outputs: ``float[n, c]``.
          targets: ``float[n, c]``.

        Returns:
          ``float[]``: the error, plus less than 1/n for the guide.

        References:
          Genjax's own; margins as tie-breakers follow the usage of rare-event simulation.
        """
        error = self.error(outputs, targets)
        if self.guide is None:
            return error
        return error + _GUIDE * self.guide(outputs, targets) / targets.shape[0]

    def from_score(self, score: Array, n: int) -> Array:
        """The error that a score stands for.

        Args:
          score: ``float[...]``.
          n: number of examples.

        Returns:
          ``float[...]``.

        References:
          Genjax's own.
        """
        return score if self.guide is None else jnp.floor(score * n + _ROUNDING) / n

    def threshold(self, target_error: Array, n: int) -> Array:
        """The score that a hypothesis of at most this error does not exceed, and every other does.

        Args:
          target_error: ``float[...]``.
          n: number of examples.

        Returns:
          ``float[...]``.

        References:
          Genjax's own.
        """
        if self.guide is None:
            return jnp.asarray(target_error)
        # 0.29 * 100 is 28.999...: a share meant to be a whole number of errors must count as one.
        return (jnp.floor(jnp.asarray(target_error) * n + _ROUNDING) + (1 + _GUIDE) / 2) / n


def _squared_error(outputs: Array, targets: Array) -> Array:
    return jnp.mean((outputs - targets) ** 2)


def _margins(outputs: Array, targets: Array) -> Array:
    """By how much the label's output exceeds the others; not positive is wrong, NaN stays NaN."""
    if targets.shape[-1] == 1:
        return outputs[..., 0] * targets[..., 0]
    label = jnp.argmax(targets, axis=-1)
    own = jnp.take_along_axis(outputs, label[..., None], axis=-1)[..., 0]
    is_label = jnp.arange(targets.shape[-1]) == label[..., None]
    return own - jnp.max(jnp.where(is_label, -jnp.inf, outputs), axis=-1)


def _zero_one_error(outputs: Array, targets: Array) -> Array:
    margins = _margins(outputs, targets)
    return jnp.mean(jnp.where(jnp.isnan(margins), jnp.nan, margins <= 0))


def _violation(outputs: Array, targets: Array) -> Array:
    margins = _margins(outputs, targets)
    total = jnp.sum(jnp.abs(margins))
    return jnp.where(total > 0, jnp.sum(jnp.maximum(-margins, 0)) / jnp.where(total > 0, total, 1), 0)


SQUARED_ERROR = ErrorFunction("mean squared error per point and output", _squared_error)
ZERO_ONE_ERROR = ErrorFunction("share of points misclassified (a tie counts as wrong)", _zero_one_error, _violation)
ERRORS = {"squared_error": SQUARED_ERROR, "zero_one_error": ZERO_ONE_ERROR}


def error_function(error: str | ErrorFunction | Callable[[Array, Array], Array]) -> ErrorFunction:
    """An error function by name, or made of any function of outputs and targets.

    Args:
      error: ``"squared_error"``, ``"zero_one_error"``, an :class:`ErrorFunction`, or
        ``error(outputs[n, c], targets[n, c]) -> float[]``.

    Returns:
      The error function.

    Raises:
      ValueError: an unknown name.

    References:
      The convention is genjax's own.
    """
    if isinstance(error, ErrorFunction):
        return error
    if callable(error):
        return ErrorFunction(getattr(error, "__name__", "given error"), error)
    check_choice("error", error, tuple(ERRORS))
    return ERRORS[error]
