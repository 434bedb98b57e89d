"""Settings of the methods that walk, splitting and tempering, and how each chooses its next row."""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array, lax

from genjax.errors import check_choice, check_positive
from genjax.volume.moves import elliptical_slice, hamiltonian, preconditioned_crank_nicolson
from genjax.volume.smc import TRAIN, Move, Population, Row, active_score, at_level, effective_share, level_at

MOVES = ("pcn", "elliptical", "hmc")
# Acceptance to steer to, and the gain of the steering; elliptical slices have no step size.
RATES = {"pcn": (0.3, 1.0), "elliptical": (0.0, 0.0), "hmc": (0.8, 0.7)}
_BISECTIONS = 60


def kernel(move: str, n_leapfrog: int) -> Move:
    """A kind of move as a function."""
    if move == "hmc":
        return functools.partial(hamiltonian, n_leapfrog=n_leapfrog)
    return elliptical_slice if move == "elliptical" else preconditioned_crank_nicolson


@dataclasses.dataclass(frozen=True)
class Walk(abc.ABC):
    """What splitting and tempering share.

    Attributes:
      n_particles: N, hypotheses side by side in a replica.
      n_replicas: independent repetitions; their scatter is the error.
      n_moves: moves of every particle in every row.
      move: ``"pcn"`` (preconditioned Crank-Nicolson), ``"elliptical"`` (elliptical slice; nothing to tune, several
        evaluations a move) or ``"hmc"`` (Hamiltonian; needs gradients).
      n_leapfrog: leapfrog steps of a Hamiltonian move; 1 is MALA.
      max_rows: budget: rows a stage may take.
    """

    n_particles: int = 512
    n_replicas: int = 16
    n_moves: int = 10
    move: str = "pcn"
    n_leapfrog: int = 8
    max_rows: int = 1024

    name: ClassVar[str]

    def __post_init__(self) -> None:
        check_choice("move", self.move, MOVES)
        for field in ("n_particles", "n_replicas", "n_moves", "n_leapfrog", "max_rows"):
            check_positive(field, getattr(self, field), integer=True)
        if self.n_replicas < 2 or self.n_particles < 2:
            raise ValueError(
                "`n_replicas` and `n_particles` must be at least 2, for an error and for a walk, but "
                f"{self.n_replicas} and {self.n_particles} came"
            )

    @property
    def kernel(self) -> Move:
        """The move as a function."""
        return kernel(self.move, self.n_leapfrog)

    @property
    def evaluations(self) -> int:
        """Hypotheses a move evaluates, where that is a fixed number."""
        return self.n_leapfrog + 1 if self.move == "hmc" else 1

    def doubled(self) -> Walk:
        """Twice the particles and twice the moves: if that changes the answer, it was wrong.

        Returns:
          The setting.

        References:
          The usual check of a simulation's bias by its own refinement.
        """
        return dataclasses.replace(self, n_particles=2 * self.n_particles, n_moves=2 * self.n_moves)

    @abc.abstractmethod
    def _next_row(self, row: Row, population: Population, target: Array) -> tuple[Row, Array]:
        """The row after this one, as a pilot chooses it, and whether it is the stage's last, ``bool[]``."""


@dataclasses.dataclass(frozen=True)
class Splitting(Walk):
    r"""Multilevel splitting: lower the level so that a fixed share of the particles is below, restart from those.

    .. math::
       P(L \le \epsilon) = \prod_k P(L \le \ell_{k+1} \mid L \le \ell_k)

    Takes any score, smooth or not; ties are broken by a random number each particle carries, so plateaus are split like
    anything else. About :math:`I / \ln(1/\text{keep})` rows.

    Attributes:
      keep: share of the particles below the next level.

    References:
      Au & Beck (2001), Estimation of small failure probabilities by subset simulation; Cérou et al. (2012); Bréhier et
      al. (2016), Unbiasedness of some generalized adaptive multilevel splitting algorithms (unbiasedness, ties).
    """

    keep: float = 0.5

    name: ClassVar[str] = "splitting"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.keep < 1:
            raise ValueError(f"`keep` must be strictly between 0 and 1, but {self.keep!r} came")

    def _next_row(self, row: Row, population: Population, target: Array) -> tuple[Row, Array]:
        place = math.ceil(self.keep * self.n_particles) - 1
        _, level, done = level_at(population, row.stage, place, target)
        return at_level(row, row.stage, level), done


@dataclasses.dataclass(frozen=True)
class Tempered(Walk):
    r"""Tempered sequential Monte Carlo: weigh hypotheses by :math:`e^{-\beta L}` and raise :math:`\beta`.

    .. math::
       P(L \le \epsilon) = Z_\beta\, E_\beta[e^{\beta L} 1(L \le \epsilon)]

    Each row has the largest beta that leaves an effective share of the particles; the last has half of them below the
    target. For smooth scores, with Hamiltonian moves: rows grow like the square root of the dimension, where
    splitting's grow like I. At a first-order transition (two kinds of hypotheses at one temperature) it can miss one
    kind; compare with splitting.

    Attributes:
      ess: effective share of the particles that a rise of beta leaves.

    References:
      Neal (2001), Annealed importance sampling; Del Moral, Doucet & Jasra (2006); Jasra, Stephens, Doucet & Tsagaris
      (2011), Inference for Lévy-driven stochastic volatility models (the choice of beta); the tilt identity is exact.
    """

    n_particles: int = 256
    n_moves: int = 4
    move: str = "hmc"
    ess: float = 0.5

    name: ClassVar[str] = "tempered"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.ess < 1:
            raise ValueError(f"`ess` must be strictly between 0 and 1, but {self.ess!r} came")

    def _next_row(self, row: Row, population: Population, target: Array) -> tuple[Row, Array]:
        score = active_score(population.scores, row.stage)
        rise = largest_rise(jnp.min(score) - score, self.ess)
        done = jnp.mean(score <= target) >= 0.5
        # Where nothing varies, no beta gets lower.
        rise = jnp.where(done | jnp.isinf(rise), 0, rise)
        train = row.stage == TRAIN
        return row._replace(
            train_beta=jnp.where(train, row.train_beta + rise, row.train_beta),
            test_beta=jnp.where(train, row.test_beta, row.test_beta + rise),
        ), done


def largest_rise(exponent: Array, ess: float) -> Array:
    """The largest t at which weights ``exp(t exponent[N])`` leave an effective share, ``inf`` if nothing varies.

    The exponents are at most 0; those that are not finite stand for weights of zero.
    """
    finite = jnp.isfinite(exponent)
    log_scale = jnp.log(1 / jnp.abs(jnp.min(jnp.where(finite, exponent, 0))))

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = (ends[0] + ends[1]) / 2
        enough = effective_share(jnp.where(finite, jnp.exp(middle) * exponent, -jnp.inf)) >= ess
        return jnp.where(enough, middle, ends[0]), jnp.where(enough, ends[1], middle)

    low, _ = lax.fori_loop(0, _BISECTIONS, halve, (log_scale - 20, log_scale + 40))
    return jnp.exp(low)


def next_power(row: Row, population: Population, ess: float) -> tuple[Row, Array]:
    """One row nearer to a prior known by its density: raise the power of its weight to at most 1."""
    weight = population.scores.weight
    power = row.power + largest_rise(weight - jnp.max(weight), ess)
    return row._replace(power=jnp.minimum(power, 1.0)), power >= 1
