r"""What a simulated required inductive bias comes in: the curve, its intervals, and why to trust it or not."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from genjax.errors import Status
from genjax.estimate import NATS_PER_BIT, Estimate
from genjax.typing import Params


class InNats:
    """A required inductive bias in its units."""

    bias: Estimate
    n_test: int

    @property
    def nats(self) -> Array:
        """I(epsilon) in nats, ``float[e]``."""
        return self.bias.value

    @property
    def bits(self) -> Array:
        """I(epsilon) in bits, ``float[e]``."""
        return self.bias.bits

    @property
    def nats_per_test_point(self) -> Array:
        """I(epsilon) / n_test, nats, ``float[e]``."""
        return self.bias.value / self.n_test


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Particles:
    """Weighted hypotheses that survived, usable afterwards: ``jax.vmap(apply_fn, (0, None))(particles.params, x)``.

    Attributes:
      params: pytree, leaves ``[h, ...]``.
      log_weights: ``float[h]``, nats; normalized so that their exponentials sum to 1.
      train_error: ``float[h]``; NaN where there was no training stage.
      test_error: ``float[h]``.
    """

    params: Params
    log_weights: Array
    train_error: Array
    test_error: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EventCurve:
    r"""Log probability of rare events, :math:`\log P(s \le t)`, by simulation.

    Attributes:
      threshold: ``float[e]``, the t.
      log_prob: nats, :class:`genjax.estimate.Estimate` ``[e]`` with 95 % bounds; where the event was never seen the
        status is ``BOUND`` and the value the upper end of a one-sided interval.
      particles: hypotheses from the rarest event seen; ``test_error`` is their score.
      diagnostics: numbers by name that say how the simulation went.
      warnings: what looked wrong, in sentences.
      n_hypotheses: hypotheses evaluated altogether.
      method: name of the method.
    """

    threshold: Array
    log_prob: Estimate
    particles: Particles
    diagnostics: dict[str, Any]
    warnings: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    n_hypotheses: int = dataclasses.field(metadata={"static": True})
    method: str = dataclasses.field(metadata={"static": True})


def condition(prior: str, fit_error: float | None, n_train: int) -> str:
    """What a required inductive bias is given, in words."""
    fitting = "" if fit_error is None else f" with training error <= {fit_error:g} on {n_train} points"
    return f"a hypothesis from {prior}{fitting}"


def untrained(prior: str) -> Estimate:
    """Log probability of fitting where there is no training stage."""
    zero = jnp.zeros(())
    return Estimate(zero, zero, zero, jnp.asarray(Status.OK, jnp.int32), prior)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BiasCurve(InNats):
    r"""Required inductive bias by simulation, :math:`I(\epsilon) = -\log P(e_{test} \le \epsilon \mid fit)`.

    Attributes:
      target_error: ``float[e]``, the epsilons.
      bias: I(epsilon), nats, :class:`genjax.estimate.Estimate` ``[e]`` with 95 % bounds. Where the event was never
        seen the status is ``BOUND`` and the value the lower end of a one-sided interval up to infinity.
      log_fit: log P(fits the training data), nats, ``Estimate []``; 0 where there was no training stage.
      particles: hypotheses that fit and, for methods that walk there, are as good as the last target error reached.
      diagnostics: numbers by name that say how the simulation went, NumPy arrays; they differ by method.
      warnings: what looked wrong, in sentences; empty if nothing did.
      fit_error: training error up to which a hypothesis fits; None without a training stage.
      n_train: number of training points.
      n_test: number of test points; I grows with it, so a value means nothing without it.
      n_outputs: number of outputs.
      n_hypotheses: hypotheses evaluated altogether.
      method: name of the method.
      error_scale: what an error of 1 means.
    """

    target_error: Array
    bias: Estimate
    log_fit: Estimate
    particles: Particles
    diagnostics: dict[str, Any]
    warnings: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    fit_error: float | None = dataclasses.field(metadata={"static": True})
    n_train: int = dataclasses.field(metadata={"static": True})
    n_test: int = dataclasses.field(metadata={"static": True})
    n_outputs: int = dataclasses.field(metadata={"static": True})
    n_hypotheses: int = dataclasses.field(metadata={"static": True})
    method: str = dataclasses.field(metadata={"static": True})
    error_scale: str = dataclasses.field(metadata={"static": True})

    def __str__(self) -> str:
        low, high = (np.atleast_1d(end) for end in self.bias.interval())
        fit_low, fit_high = (float(end) for end in self.log_fit.interval())
        stage = (
            "no training stage"
            if self.fit_error is None
            else f"log P(training error <= {self.fit_error:g}) = {float(self.log_fit.value):.4g} nats "
            f"[{fit_low:.4g}, {fit_high:.4g}]"
        )
        header = (
            f"required inductive bias ({self.method}), {self.n_train} training and {self.n_test} test points, "
            f"{self.n_outputs} outputs, {self.n_hypotheses:,} hypotheses evaluated\n"
            f"given: {self.bias.given}; error scale: {self.error_scale}\n{stage}\n"
            f"{'target error':>12}  {'nats':>10}  {'95 % interval':>22}  {'bits':>10}  status"
        )
        rows = [
            f"{float(e):>12.4g}  {float(v):>10.5g}  {f'[{lo:.5g}, {hi:.5g}]':>22}  {float(v) / NATS_PER_BIT:>10.5g}  "
            f"{Status(int(s)).name}"
            for e, v, lo, hi, s in zip(
                *map(np.atleast_1d, (self.target_error, self.bias.value)), low, high, np.atleast_1d(self.bias.status)
            )
        ]
        return "\n".join([header, *rows, *(f"warning: {warning}" for warning in self.warnings)])
