r"""Grokking as the step from lazy to rich training, in a committee of quadratic neurons that can be solved.

The network and its task, of D-dimensional standard normal inputs, are

.. math::
   f(x) = \frac{\alpha}{N} \sum_{i=1}^N \phi\!\left(\frac{w_i \cdot x}{\sqrt D}\right), \quad
   \phi(h) = h + \frac{\epsilon}{2} h^2, \qquad  y = \kappa\, (\beta \cdot x)^2 / D .

The scale alpha sets how lazy training is; epsilon how well the initial tangent kernel is aligned with the purely
quadratic task. Training is gradient descent of learning rate :math:`\eta N` on
:math:`\frac{1}{2P} \sum_\mu (y_\mu - f_\mu)^2 / \alpha^2`, so that the lazy time scale does not depend on alpha.

:func:`quadratic_grokking` solves it exactly for given inputs, at any or infinite width, through the first two moments
of the weights; :mod:`genjax.dmft.high_dimensional` in the limit of many dimensions. Float32 is enough for figures;
agreement with a network step by step to 1e-10 needs float64.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from genjax.errors import Status, check_array, check_positive, concrete


class WeightMoments(NamedTuple):
    """First two moments of the weights over neurons, on which the network's function and its training depend.

    Attributes:
      mean: ``float[d]``.
      second: ``float[d, d]``, mean of the outer products.
    """

    mean: Array
    second: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GrokkingPath:
    """Training of the quadratic committee at the recorded times. A pytree.

    Losses are mean squared errors in units of the targets, not divided by alpha squared.

    Attributes:
      times: ``int[t]``, numbers of steps.
      train_loss: ``float[t]``.
      test_loss: ``float[t]``, exact over normal inputs: the sum of the next three.
      linear: ``float[t]``, power of the linear part, which the task does not have.
      misalignment: ``float[t]``, of the second moment with the task's direction.
      offset: ``float[t]``, square of the mean error.
      train_outputs: ``float[t, n]``.
      alignment: ``float[t]``, cosine in [0, 1] between the second moment and the task's matrix.
      weight_norm: ``float[t]``, mean square of a weight; 1 at the start of an infinitely wide network.
      moments: of the weights, at the last time.
      status: ``int[]`` of :class:`genjax.errors.Status`: ``INVALID`` if training diverged, whose losses are not finite.
    """

    times: Array
    train_loss: Array
    test_loss: Array
    linear: Array
    misalignment: Array
    offset: Array
    train_outputs: Array
    alignment: Array
    weight_norm: Array
    moments: WeightMoments
    status: Array


class GrokkingTimes(NamedTuple):
    """When a network fits its training data and when it generalizes, as :func:`grokking_times` defines it.

    Attributes:
      train: ``float[...]``, steps until the training loss is low; infinite if it never is.
      test: ``float[...]``, the same for the test loss.
      delay: ``float[...]``, ``test - train``; NaN if neither is reached.
    """

    train: Array
    test: Array
    delay: Array


def weight_moments(weights: ArrayLike) -> WeightMoments:
    """Moments of the weights of a finite network.

    Args:
      weights: ``float[k, d]``, one row per neuron.

    Returns:
      Their mean and the mean of their outer products.

    Raises:
      ValueError: not two axes.

    References:
      Kumar, Bordelon, Gershman and Pehlevan (2023), arXiv:2310.06110 (M and the mean of w of the quadratic model).
    """
    weights = check_array("weights", weights, ndim=2)
    with jax.default_matmul_precision("highest"):
        return WeightMoments(weights.mean(0), weights.T @ weights / weights.shape[0])


def quadratic_grokking(
    x: ArrayLike,
    beta: ArrayLike,
    times: ArrayLike,
    *,
    alpha: ArrayLike,
    epsilon: ArrayLike,
    learning_rate: ArrayLike = 1.0,
    kappa: ArrayLike = 1.0,
    start: WeightMoments | None = None,
) -> GrokkingPath:
    r"""Train the quadratic committee on given inputs exactly, at infinite width or as any finite network.

    The outputs depend on the weights through :math:`\bar w` and :math:`M = \frac1N \sum_i w_i w_i^T` only, and the
    gradient is affine in each weight: with the errors :math:`\Delta = y - f`, the step :math:`c = \eta / (\alpha P)`,
    :math:`s = c \sum_\mu \Delta_\mu x_\mu / \sqrt D` and
    :math:`T = I + c\, \epsilon \sum_\mu \Delta_\mu x_\mu x_\mu^T / D`,

    .. math::
       f = \alpha \left(\frac{\bar w \cdot x}{\sqrt D} + \frac{\epsilon}{2} \frac{x^T M x}{D} \right), \qquad
       \bar w' = T \bar w + s, \qquad  M' = T M T + T \bar w\, s^T + s\, (T \bar w)^T + s s^T .

    The test loss is exact: with :math:`S = (\frac{\alpha \epsilon}{2} M - \kappa \beta \beta^T) / D`,

    .. math::  E = \alpha^2 |\bar w|^2 / D + 2\, \mathrm{Tr}\, S^2 + (\mathrm{Tr}\, S)^2 .

    A step costs :math:`O(D^2 P + D^3)` whatever the width. Everything but the shapes may be traced, so that ``vmap``
    and ``jit`` apply.

    Args:
      x: ``float[n, d]``, training inputs, standard normal for the test loss to mean anything.
      beta: ``float[d]``, direction of the task, of squared length about d.
      times: ``int[t]``, numbers of steps to record, ascending; 0 is the start.
      alpha: output scale, positive; large is lazy.
      epsilon: curvature of the activation.
      learning_rate: eta, positive: the default is 0.5 N on the mean squared error over alpha squared.
      kappa: scale of the targets.
      start: moments of the initial weights, :func:`weight_moments` of a finite network's; by default those of
        infinitely many standard normal ones, zero and the identity.

    Returns:
      The path, with a status.

    Raises:
      ValueError: shapes disagree, times do not ascend or are not whole, or a scale is not positive.

    References:
      Kumar, Bordelon, Gershman and Pehlevan (2023), arXiv:2310.06110 (model, loss and its three parts).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> x = jax.random.normal(jax.random.key(0), (40, 5))
      >>> path = quadratic_grokking(x, jnp.ones(5), [0, 1000], alpha=1.0, epsilon=0.5)
      >>> [round(float(loss), 1) for loss in path.test_loss]
      [2.4, 0.0]
    """
    x = check_array("x", x, ndim=2)
    p, d = x.shape
    beta = check_array("beta", beta, shape=(d,))
    times = _check_times(times)
    for name, value in (("alpha", alpha), ("learning_rate", learning_rate)):
        check_positive(name, value)
    alpha, epsilon, kappa = (
        check_array(name, value, ndim=0) for name, value in (("alpha", alpha), ("epsilon", epsilon), ("kappa", kappa))
    )
    if start is None:
        start = WeightMoments(jnp.zeros(d, x.dtype), jnp.eye(d, dtype=x.dtype))
    start = WeightMoments(
        check_array("start.mean", start.mean, shape=(d,)), check_array("start.second", start.second, shape=(d, d))
    )
    c = check_array("learning_rate", learning_rate, ndim=0) / (alpha * p)
    with jax.default_matmul_precision("highest"):
        return _train(x / np.sqrt(d), beta, times, alpha, epsilon, kappa, c, start)


@jax.jit
def _train(
    scaled: Array,
    beta: Array,
    times: Array,
    alpha: Array,
    epsilon: Array,
    kappa: Array,
    c: Array,
    start: WeightMoments,
) -> GrokkingPath:
    d = beta.size
    y = kappa * (scaled @ beta) ** 2

    def outputs(moments: WeightMoments) -> Array:
        quadratic = jnp.sum((scaled @ moments.second) * scaled, axis=1)
        return alpha * (scaled @ moments.mean + epsilon / 2 * quadratic)

    def step(_: Array, moments: WeightMoments) -> WeightMoments:
        errors = y - outputs(moments)
        shift = c * errors @ scaled
        transport = jnp.eye(d, dtype=scaled.dtype) + c * epsilon * (scaled.T * errors) @ scaled
        moved = transport @ moments.mean
        cross = jnp.outer(moved, shift)
        second = transport @ moments.second @ transport + cross + cross.T + jnp.outer(shift, shift)
        return WeightMoments(moved + shift, second)

    def until(moments: WeightMoments, span: tuple[Array, Array]) -> tuple[WeightMoments, tuple[Array, ...]]:
        moments = jax.lax.fori_loop(*span, step, moments)
        f = outputs(moments)
        losses = _population_loss(moments, beta, alpha, epsilon, kappa)
        along = (beta @ moments.second @ beta) / (beta @ beta * jnp.linalg.norm(moments.second))
        return moments, (jnp.mean((y - f) ** 2), *losses, f, along, jnp.trace(moments.second) / d)

    spans = (jnp.concatenate([jnp.zeros(1, times.dtype), times[:-1]]), times)
    moments, (train, linear, misalignment, offset, f, alignment, norm) = jax.lax.scan(until, start, spans)
    test = linear + misalignment + offset
    finite = jnp.isfinite(train).all() & jnp.isfinite(test).all()
    status = jnp.where(finite, Status.OK, Status.INVALID)
    return GrokkingPath(times, train, test, linear, misalignment, offset, f, alignment, norm, moments, status)


def _population_loss(
    moments: WeightMoments, beta: Array, alpha: Array, epsilon: Array, kappa: Array
) -> tuple[Array, Array, Array]:
    d = beta.shape[0]
    error = (alpha * epsilon / 2 * moments.second - kappa * jnp.outer(beta, beta)) / d
    return alpha**2 * jnp.sum(moments.mean**2) / d, 2 * jnp.sum(error**2), jnp.trace(error) ** 2


def grokking_phases(
    x: ArrayLike,
    beta: ArrayLike,
    times: ArrayLike,
    *,
    alphas: ArrayLike,
    epsilons: ArrayLike,
    learning_rate: ArrayLike = 1.0,
    kappa: ArrayLike = 1.0,
    batch_size: int | None = None,
) -> GrokkingPath:
    """The infinitely wide quadratic committee over a grid of laziness and curvature: the phase diagram of grokking.

    :func:`grokking_times` of the result says for each pair when it fits and when it generalizes.

    Args:
      x: ``float[n, d]``, training inputs.
      beta: ``float[d]``, direction of the task.
      times: ``int[t]``, numbers of steps to record, ascending.
      alphas: ``float[a]``, output scales, positive.
      epsilons: ``float[e]``, curvatures.
      learning_rate: eta, positive.
      kappa: scale of the targets.
      batch_size: pairs trained at once; by default one after the other, which is fastest on a CPU.

    Returns:
      :class:`GrokkingPath` whose arrays all have the leading axes ``[a, e]``.

    Raises:
      ValueError: as :func:`quadratic_grokking`, or an axis of the grid is no vector.

    References:
      Kumar, Bordelon, Gershman and Pehlevan (2023), arXiv:2310.06110 (sweeps of alpha and of epsilon).
    """
    alphas, epsilons = check_array("alphas", alphas, ndim=1), check_array("epsilons", epsilons, ndim=1)
    known = concrete(alphas)
    if known is not None and not (known > 0).all():
        raise ValueError(f"`alphas` must be positive, but {known} came")
    x, beta = check_array("x", x, ndim=2), check_array("beta", beta, ndim=1)
    times = _check_times(times)

    def one(pair: tuple[Array, Array]) -> GrokkingPath:
        alpha, epsilon = pair
        return quadratic_grokking(
            x, beta, times, alpha=alpha, epsilon=epsilon, learning_rate=learning_rate, kappa=kappa
        )

    grid = jnp.meshgrid(alphas, epsilons, indexing="ij")
    paths = jax.lax.map(one, tuple(axis.ravel() for axis in grid), batch_size=batch_size)
    return jax.tree.map(lambda leaf: leaf.reshape(*grid[0].shape, *leaf.shape[1:]), paths)


def grokking_times(times: ArrayLike, train_loss: ArrayLike, test_loss: ArrayLike, *, level: ArrayLike) -> GrokkingTimes:
    """When the training loss and when the test loss is first at most some level.

    Between records the loss is interpolated linearly. The delay between the two is how long the network groks.

    Args:
      times: ``float[t]``, numbers of steps, ascending.
      train_loss: ``float[..., t]``.
      test_loss: ``float[..., t]``.
      level: of the loss, positive and the same for both: a fraction of the variance of the targets, for instance, but
        not of the initial loss, which depends on alpha and epsilon through the initial function.

    Returns:
      Both times and the delay.

    Raises:
      ValueError: shapes disagree, or ``level`` is not positive.

    References:
      The definition is genjax's own, in the loss rather than the accuracy, in which grokking can be an artifact:
      Kumar et al. (2023), arXiv:2310.06110.

    Example:
      >>> when = grokking_times([0, 10, 20], [1.0, 0.0, 0.0], [2.0, 2.0, 0.0], level=0.5)
      >>> float(when.test), round(float(when.delay), 3)
      (17.5, 12.5)
    """
    check_positive("level", level)
    times = check_array("times", times, ndim=1)

    def first(name: str, losses: ArrayLike) -> Array:
        losses = check_array(name, losses, finite=False)
        if losses.shape[-1:] != times.shape:
            raise ValueError(f"`{name}` must have {times.size} times on its last axis, but its shape is {losses.shape}")
        below = losses <= level
        after = jnp.argmax(below, axis=-1, keepdims=True)
        before = jnp.maximum(after - 1, 0)
        low, high = (jnp.take_along_axis(losses, i, axis=-1) for i in (after, before))
        share = jnp.where(high > low, (high - level) / jnp.where(high > low, high - low, 1), 1)
        crossing = times[before] + share * (times[after] - times[before])
        return jnp.where(below.any(-1), crossing[..., 0], jnp.inf)

    train, test = first("train_loss", train_loss), first("test_loss", test_loss)
    return GrokkingTimes(train, test, test - train)


def _check_times(times: ArrayLike) -> Array:
    known = concrete(times)
    if known is None:
        return jnp.asarray(times)
    if known.ndim != 1 or not known.size or not np.issubdtype(known.dtype, np.integer):
        raise ValueError(f"`times` must be a vector of whole numbers of steps, but {times!r} came")
    if known[0] < 0 or (np.diff(known) < 0).any():
        raise ValueError(f"`times` must ascend from 0 or later, but {times!r} came")
    return jnp.asarray(known)
