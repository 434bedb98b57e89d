r"""Online learning of committee machines: order parameters of two-layer students taught by two-layer teachers.

Student :math:`\sum_k v_k g(\lambda_k)` with :math:`\lambda_k = w_k \cdot x / \sqrt N`, teacher
:math:`\sum_m v^*_m g(\nu_m) + \sigma \zeta`, inputs :math:`x \sim N(0, 1_N)`, each used once:

.. math::
   w_k \leftarrow w_k - \frac{\eta}{\sqrt N} v_k\, e\, g'(\lambda_k)\, x, \qquad
   v_k \leftarrow v_k - \frac{\eta_v}{N} e\, g(\lambda_k), \qquad e = \text{student} - \text{teacher} .

As N grows the overlaps :math:`Q = w w^T / N`, :math:`R = w w^{*T} / N` and v follow ordinary differential equations in
time = steps / N, whose coefficients are averages over the jointly Gaussian local fields :math:`(\lambda, \nu)`.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental.ode import odeint
from jax.typing import ArrayLike

from genjax.dynamics.averages import ACTIVATIONS, activation_functions, averages, check_points, second_average
from genjax.errors import check_array, check_choice, check_positive, concrete


class Overlaps(NamedTuple):
    """Order parameters of a student of K units with a teacher of M; leading axes are those of times.

    Attributes:
      student: ``float[..., K, K]``, Q.
      cross: ``float[..., K, M]``, R.
      readout: ``float[..., K]``, v.
    """

    student: Array
    cross: Array
    readout: Array


class Teacher(NamedTuple):
    """A teacher of M units: ``overlaps[M, M]`` T among its weight vectors, its ``readout[M]`` v*, and label ``noise``.

    The noise is sigma, the standard deviation.
    """

    overlaps: ArrayLike
    readout: ArrayLike
    noise: ArrayLike = 0.0


class CommitteePath(NamedTuple):
    """Overlaps and generalization error over training.

    Attributes:
      times: ``float[t]``, examples per input dimension.
      overlaps: the order parameters at each time.
      error: ``float[t]``, half the mean squared difference from the teacher without noise.
    """

    times: Array
    overlaps: Overlaps
    error: Array


def generalization_error(overlaps: Overlaps, teacher: Teacher, *, activation: str = "erf") -> Array:
    r"""Half the mean squared difference between student and teacher, noise left out.

    .. math::  \epsilon_g = \frac12 \sum_{ij} W_i W_j I_2(i, j), \qquad W = (v, -v^*) .

    Args:
      overlaps: the student's order parameters, with any leading axes.
      teacher: the teacher.
      activation: ``"erf"``, ``"relu"`` or ``"linear"``.

    Returns:
      ``float[...]``.

    Raises:
      TypeError: an argument is not real numbers.
      ValueError: shapes disagree or an option is unknown.

    References:
      Saad and Solla (1995), Phys. Rev. E 52, 4225; Goldt et al. (2019), arXiv:1906.08632.
    """
    check_choice("activation", activation, ACTIVATIONS)
    overlaps, teacher = _checked(overlaps, teacher)
    return jnp.vectorize(
        lambda q, r, v: _error(Overlaps(q, r, v), teacher, activation), signature="(k,k),(k,m),(k)->()"
    )(*overlaps)


def committee_flow(
    times: ArrayLike,
    start: Overlaps,
    teacher: Teacher,
    *,
    learning_rate: ArrayLike,
    readout_learning_rate: ArrayLike = 0.0,
    activation: str = "erf",
    n_points: int = 16384,
    rtol: float | None = None,
) -> CommitteePath:
    r"""Order parameters over online training, in the limit of many inputs.

    .. math::
       \dot R_{kn} &= -\eta v_k \sum_j W_j I_3(k, n, j), \qquad
       \dot v_k = -\eta_v \sum_j W_j I_2(k, j), \\
       \dot Q_{kl} &= -\eta v_k \sum_j W_j I_3(k, l, j) - \eta v_l \sum_j W_j I_3(l, k, j)
         + \eta^2 v_k v_l \Big[ \sum_{ij} W_i W_j I_4(k, l, i, j) + \sigma^2 J_2(k, l) \Big] .

    Learning rates, start and teacher may be mapped over with ``vmap``.

    Args:
      times: ``float[t]``, ascending, examples per input dimension; the first is that of ``start``.
      start: order parameters at ``times[0]``. Units that start alike stay alike.
      teacher: the teacher.
      learning_rate: eta, of the first layer, not negative.
      readout_learning_rate: eta_v, of the readout, not negative.
      activation: ``"erf"``, ``"relu"`` or ``"linear"``.
      n_points: points of the fourth average of ReLU, see :func:`field_averages`.
      rtol: relative tolerance of the adaptive solver; by default the 0.6th power of the rounding unit, 4e-10 in
        float64, and no less than 1e-6 for ReLU. Plateaus amplify errors: leave them to float64.

    Returns:
      The path; not finite after a divergence (a learning rate too large).

    Raises:
      TypeError: an argument is not real numbers.
      ValueError: shapes disagree, or a known argument is out of range.

    References:
      Saad and Solla (1995), Phys. Rev. E 52, 4225; Goldt et al. (2019), arXiv:1906.08632, equations (9)-(12).
    """
    check_choice("activation", activation, ACTIVATIONS)
    check_points(n_points)
    start, teacher = _checked(start, teacher)
    times = check_array("times", times, ndim=1)
    known = concrete(times)
    if known is not None and (np.diff(known) <= 0).any():
        raise ValueError("`times` must ascend, but a later one is not larger")
    rates = (
        check_array("learning_rate", learning_rate, ndim=0, minimum=0),
        check_array("readout_learning_rate", readout_learning_rate, ndim=0, minimum=0),
    )
    if rtol is not None:
        check_positive("rtol", rtol)
    dtype = jnp.result_type(times, *start, *teacher)
    times, start, teacher, rates = jax.tree.map(lambda a: a.astype(dtype), (times, start, teacher, rates))
    finest = 1e-6 if activation == "relu" else 0.0
    tolerance = max(float(jnp.finfo(dtype).eps) ** 0.6, finest) if rtol is None else rtol
    return _flow(times, start, teacher, *rates, activation, n_points, tolerance)


def weight_overlaps(weights: ArrayLike, readout: ArrayLike, teacher_weights: ArrayLike) -> Overlaps:
    """Order parameters of a student with a teacher.

    Args:
      weights: ``float[K, N]``, of the student.
      readout: ``float[K]``.
      teacher_weights: ``float[M, N]``.

    Returns:
      Q, R and v; the teacher's own overlaps are Q of itself.

    Raises:
      TypeError: an argument is not real numbers.
      ValueError: shapes disagree.

    References:
      Saad and Solla (1995), Phys. Rev. E 52, 4225.
    """
    weights = check_array("weights", weights, ndim=2)
    readout = check_array("readout", readout, shape=(weights.shape[0],))
    teacher_weights = check_array("teacher_weights", teacher_weights, shape=(None, weights.shape[1]))
    return _overlaps(weights, readout, teacher_weights)


def online_sgd(
    key: Array,
    times: ArrayLike,
    weights: ArrayLike,
    readout: ArrayLike,
    teacher_weights: ArrayLike,
    teacher_readout: ArrayLike,
    *,
    learning_rate: ArrayLike,
    readout_learning_rate: ArrayLike = 0.0,
    noise: ArrayLike = 0.0,
    activation: str = "erf",
) -> CommitteePath:
    """The same training of a network of finite size, one new example a step; ``vmap`` over keys.

    Args:
      key: PRNG key of the examples.
      times: ``float[t]``, ascending, concrete, at least 0: examples per input dimension, rounded to whole steps.
      weights: ``float[K, N]``, of the student at time 0.
      readout: ``float[K]``, at time 0.
      teacher_weights: ``float[M, N]``.
      teacher_readout: ``float[M]``.
      learning_rate: eta.
      readout_learning_rate: eta_v.
      noise: sigma, standard deviation of the label noise.
      activation: ``"erf"``, ``"relu"`` or ``"linear"``.

    Returns:
      The path of this run.

    Raises:
      TypeError: an argument is not real numbers.
      ValueError: shapes disagree, an option is unknown, or times descend.

    References:
      Saad and Solla (1995), Phys. Rev. E 52, 4225.
    """
    check_choice("activation", activation, ACTIVATIONS)
    weights = check_array("weights", weights, ndim=2)
    n_units, n_inputs = weights.shape
    readout = check_array("readout", readout, shape=(n_units,))
    teacher_weights = check_array("teacher_weights", teacher_weights, shape=(None, n_inputs))
    teacher_readout = check_array("teacher_readout", teacher_readout, shape=(teacher_weights.shape[0],))
    times = check_array("times", times, ndim=1, minimum=0)
    steps = np.round(np.asarray(times) * n_inputs).astype(np.int32)
    if (np.diff(steps) < 0).any():
        raise ValueError("`times` must ascend, but a later one is smaller")
    arrays = (weights, readout, teacher_weights, teacher_readout, learning_rate, readout_learning_rate, noise)
    dtype = jnp.result_type(weights, teacher_weights)
    return _sgd(key, steps, *(jnp.asarray(a, dtype) for a in arrays), activation)


@functools.partial(jax.jit, static_argnames=("activation", "n_points", "rtol"))
@jax.default_matmul_precision("highest")
def _flow(
    times: Array,
    start: Overlaps,
    teacher: Teacher,
    learning_rate: Array,
    readout_rate: Array,
    activation: str,
    n_points: int,
    rtol: float,
) -> CommitteePath:
    def velocity(now: Overlaps, _: Array) -> Overlaps:
        k = len(now.readout)
        v = now.readout
        w = jnp.concatenate([v, -jnp.asarray(teacher.readout)])
        fields = averages(_covariance(now, teacher), activation, n_points)
        pull = -learning_rate * v[:, None] * (fields.third[:k] @ w)
        square = jnp.einsum("klij,i,j->kl", fields.fourth[:k, :k], w, w)
        diffusion = learning_rate**2 * jnp.outer(v, v) * (square + teacher.noise**2 * fields.slopes[:k, :k])
        return Overlaps(pull[:, :k] + pull[:, :k].T + diffusion, pull[:, k:], -readout_rate * fields.second[:k] @ w)

    path = odeint(velocity, start, times, rtol=rtol, atol=rtol / 10)
    return CommitteePath(times, path, jax.vmap(lambda now: _error(now, teacher, activation))(path))


@functools.partial(jax.jit, static_argnames="activation")
@jax.default_matmul_precision("highest")
def _sgd(
    key: Array,
    steps: Array,
    weights: Array,
    readout: Array,
    teacher_weights: Array,
    teacher_readout: Array,
    learning_rate: Array,
    readout_rate: Array,
    noise: Array,
    activation: str,
) -> CommitteePath:
    n_inputs = teacher_weights.shape[1]
    dtype = teacher_weights.dtype
    g, slope = activation_functions(activation)

    def one(step: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        w, v = state
        x_key, noise_key = jax.random.split(jax.random.fold_in(key, step))
        x = jax.random.normal(x_key, (n_inputs,), dtype)
        fields, taught = w @ x / math.sqrt(n_inputs), teacher_weights @ x / math.sqrt(n_inputs)
        gap = v @ g(fields) - teacher_readout @ g(taught) - noise * jax.random.normal(noise_key, (), dtype)
        return (
            w - learning_rate / math.sqrt(n_inputs) * jnp.outer(gap * v * slope(fields), x),
            v - readout_rate / n_inputs * gap * g(fields),
        )

    def until(
        state: tuple[tuple[Array, Array], Array], stop: Array
    ) -> tuple[tuple[tuple[Array, Array], Array], Overlaps]:
        student = jax.lax.fori_loop(state[1], stop, one, state[0])
        return (student, stop), _overlaps(student[0], student[1], teacher_weights)

    _, path = jax.lax.scan(until, ((weights, readout), jnp.zeros_like(steps[0])), steps)
    teacher = Teacher(teacher_weights @ teacher_weights.T / n_inputs, teacher_readout, noise)
    return CommitteePath(steps / n_inputs, path, jax.vmap(lambda now: _error(now, teacher, activation))(path))


def _overlaps(weights: Array, readout: Array, teacher_weights: Array) -> Overlaps:
    with jax.default_matmul_precision("highest"):
        n = weights.shape[1]
        return Overlaps(weights @ weights.T / n, weights @ teacher_weights.T / n, readout)


def _covariance(overlaps: Overlaps, teacher: Teacher) -> Array:
    q, r = overlaps.student, overlaps.cross
    return jnp.block([[q, r], [r.T, jnp.asarray(teacher.overlaps)]])


def _error(overlaps: Overlaps, teacher: Teacher, activation: str) -> Array:
    w = jnp.concatenate([overlaps.readout, -jnp.asarray(teacher.readout)])
    return w @ second_average(_covariance(overlaps, teacher), activation) @ w / 2


def _checked(overlaps: Overlaps, teacher: Teacher) -> tuple[Overlaps, Teacher]:
    readout = check_array("readout", overlaps.readout)
    k = readout.shape[-1]
    target = check_array("teacher.readout", teacher.readout, ndim=1)
    m = len(target)
    student, cross = check_array("student", overlaps.student), check_array("cross", overlaps.cross)
    for name, array, shape in (("student", student, (k, k)), ("cross", cross, (k, m))):
        if array.shape[-2:] != shape:
            raise ValueError(f"`{name}` must end in shape {shape}, but its shape is {array.shape}")
    return Overlaps(student, cross, readout), Teacher(
        check_array("teacher.overlaps", teacher.overlaps, shape=(m, m)),
        target,
        check_array("teacher.noise", teacher.noise, ndim=0, minimum=0),
    )
