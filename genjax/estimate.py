"""The record every estimated quantity comes in: a value in nats, its error, its status and its conditions."""

from __future__ import annotations

import dataclasses
import math
from statistics import NormalDist

import jax
import jax.numpy as jnp
from jax import Array

NATS_PER_BIT = math.log(2)


def _static(default: str = "") -> str:
    return dataclasses.field(default=default, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Estimate:
    """A quantity in nats with two separate errors, a status and what it was conditioned on.

    A pytree: all fields but ``given`` are arrays of one shape and pass through ``jit`` and ``vmap``.

    Attributes:
      value: ``float[...]``, nats.
      stderr: ``float[...]``, Monte Carlo standard error in nats; zero for a deterministic method.
      error_bound: ``float[...]``, bound in nats on the numerical (quadrature, rounding) error.
      status: ``int[...]`` of :class:`genjax.errors.Status`.
      given: what the quantity is conditioned on, in words.
      bounds: 95 % interval ``(low, high)``, ``float[...]`` each, of methods that have one of their own: binomial,
        Student's t over replicas, one-sided. None: normal, from ``stderr``.
    """

    value: Array
    stderr: Array
    error_bound: Array
    status: Array
    given: str = _static()
    bounds: tuple[Array, Array] | None = None

    @property
    def bits(self) -> Array:
        """The value in bits: nats / ln 2."""
        return self.value / NATS_PER_BIT

    def interval(self, level: float = 0.95) -> tuple[Array, Array]:
        """Interval in nats: the method's own, else ``value -+ (z * stderr + error_bound)``, normal in its first part.

        Args:
          level: coverage of the statistical part, in (0, 1).

        Returns:
          Lower and upper ends, ``float[...]`` each, nats.

        Raises:
          ValueError: ``level`` is not strictly between 0 and 1, or not 0.95 for a method with an interval of its own.

        References:
          The normal quantile; the numerical bound is added, not combined in quadrature, because it is a bound.
        """
        if not 0 < level < 1:
            raise ValueError(f"`level` must be strictly between 0 and 1, but {level!r} came")
        if self.bounds is not None:
            if level != 0.95:
                raise ValueError(f"`level` must be 0.95, for which the method gave its interval, but {level!r} came")
            return self.bounds
        half = NormalDist().inv_cdf((1 + level) / 2) * self.stderr + self.error_bound
        # An impossible event has value +inf and no width; inf - 0 stays inf, inf - nan would not.
        half = jnp.where(jnp.isinf(self.value), 0, half)
        return self.value - half, self.value + half
