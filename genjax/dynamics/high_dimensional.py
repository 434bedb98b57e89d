r"""Generalization of a linear student over training time, in high dimension.

A teacher :math:`\bar w \in R^N` labels P samples, :math:`y = x \cdot \bar w + \epsilon` with
:math:`x_i \sim N(0, 1/N)`; a student starting at :math:`w_0` follows gradient flow on the squared error,
:math:`\dot w = X^T (y - X w)`. Entries of teacher, student and noise have variances :math:`\sigma_w^2`,
:math:`\sigma_0^2`, :math:`\sigma_\epsilon^2`. As N grows with :math:`\alpha = P / N` fixed the eigenvalues of
:math:`X^T X` follow the Marchenko-Pastur law,

.. math::
   \rho(\lambda) = \frac{\sqrt{(\lambda_+ - \lambda)(\lambda - \lambda_-)}}{2 \pi \lambda}, \qquad
   \lambda_\pm = (1 \pm \sqrt\alpha)^2,

beside a fraction :math:`(1 - \alpha)_+` of directions that no sample reaches.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from genjax.errors import check_array, check_positive, concrete

# Nodes of the quadrature: error below 1e-12 for ratios and times of any size.
_NODES = 400
_REACH = 3.3
# Halvings of a bracket of stopping times, in nats, down to the rounding of float64.
_HALVINGS = 60


class LearningCurve(NamedTuple):
    """Mean squared errors over training time: ``test`` on new noisy samples, ``train`` on the samples given."""

    test: Array
    train: Array


class EarlyStopping(NamedTuple):
    """The best ``time`` to stop training, and the ``test`` error there."""

    time: Array
    test: Array


def marchenko_pastur(ratio: ArrayLike) -> tuple[Array, Array]:
    r"""Quadrature for averages over the continuous part of the Marchenko-Pastur law.

    With :math:`\lambda = \lambda_- + 4 \sqrt\alpha \sin^2 \psi` the law is
    :math:`\rho\, d\lambda = 16\, \alpha \sin^2 \psi \cos^2 \psi\, d\psi / \pi \lambda`, smooth but for scales that
    shrink at the lower edge as alpha approaches 1 or as times grow; nodes are exponentially dense there.

    Args:
      ratio: ``float[...]``, alpha, samples per dimension, positive.

    Returns:
      ``float[..., k]`` eigenvalues, and as many weights, of sum min(1, alpha).

    Raises:
      TypeError: ``ratio`` is not real numbers.
      ValueError: a known ratio is not positive.

    References:
      Marchenko and Pastur (1967); Takahasi and Mori (1974) for the double-exponential nodes.

    Example:
      >>> from genjax.dynamics.high_dimensional import marchenko_pastur
      >>> eigenvalues, weights = marchenko_pastur(0.5)
      >>> print(f"{weights.sum():.4f} {(weights * eigenvalues).sum():.4f}")
      0.5000 0.5000
    """
    alpha = _ratio(ratio)[..., None]
    x = np.linspace(-_REACH, _REACH, _NODES)
    psi = np.pi / 2 / (1 + np.exp(-np.pi * np.sinh(x)))
    # d psi / dx; the complement of psi keeps its digits near pi / 2.
    jacobian = psi * np.pi * np.cosh(x) / (1 + np.exp(np.pi * np.sinh(x))) * (x[1] - x[0])
    sine, cosine = np.sin(psi), np.sin(np.pi / 2 / (1 + np.exp(np.pi * np.sinh(x))))
    root = jnp.sqrt(alpha)
    eigenvalues = (1 - root) ** 2 + 4 * root * jnp.asarray(sine**2, alpha.dtype)
    # Where both the edge and sin^2 underflow, at alpha = 1, the density is cos^2 psi.
    share = jnp.asarray(sine**2, alpha.dtype) / eigenvalues
    return eigenvalues, 16 * alpha / jnp.pi * share * jnp.asarray(cosine**2 * jacobian, alpha.dtype)


def learning_curve(
    times: ArrayLike,
    ratio: ArrayLike,
    *,
    signal: ArrayLike = 1.0,
    noise: ArrayLike = 0.0,
    initial: ArrayLike = 0.0,
) -> LearningCurve:
    r"""Test and training error of a linear student over training time.

    .. math::
       E_g(t) = \int \rho \left[ (\sigma_w^2 + \sigma_0^2) e^{-2 \lambda t}
         + \frac{\sigma_\epsilon^2}{\lambda} (1 - e^{-\lambda t})^2 \right] d\lambda
         + (1 - \alpha)_+ (\sigma_w^2 + \sigma_0^2) + \sigma_\epsilon^2,

    .. math::
       E_t(t) = \frac1\alpha \int \rho \left[ \lambda (\sigma_w^2 + \sigma_0^2) + \sigma_\epsilon^2 \right]
         e^{-2 \lambda t} d\lambda + \sigma_\epsilon^2 (1 - 1 / \alpha)_+ .

    Args:
      times: ``float[...]``, t, at least 0; may be infinite. Broadcasts against all the others.
      ratio: ``float[...]``, alpha, samples per dimension, positive.
      signal: ``float[...]``, variance of the teacher's weights.
      noise: ``float[...]``, variance of the label noise.
      initial: ``float[...]``, variance of the student's initial weights.

    Returns:
      The curve; infinite where noise is fitted for ever at ``ratio`` 1.

    Raises:
      TypeError: an argument is not real numbers.
      ValueError: a known argument is not finite (times may be infinite) or out of range.

    References:
      Advani, Saxe and Sompolinsky (2020), arXiv:1710.03667, sections 2.1-2.3.

    Example:
      >>> from genjax.dynamics.high_dimensional import learning_curve
      >>> curve = learning_curve([2.0, 10.0, 100.0], 1.0, noise=0.25)
      >>> print(" ".join(f"{error:.4f}" for error in curve.test))
      0.6528 0.7806 1.8196
    """
    t = check_array("times", times, minimum=0, finite=False)
    alpha = _ratio(ratio)
    signal, noise, initial = _variances(signal, noise, initial)
    return _curve(*jnp.broadcast_arrays(t, alpha, signal + initial, noise))


def final_error(
    ratio: ArrayLike, *, signal: ArrayLike = 1.0, noise: ArrayLike = 0.0, initial: ArrayLike = 0.0
) -> Array:
    r"""Test error at the end of training, with its peak where samples are as many as weights.

    .. math::
       E_g(\infty) = \sigma_\epsilon^2 + (1 - \alpha)(\sigma_w^2 + \sigma_0^2)
         + \frac{\sigma_\epsilon^2 \alpha}{1 - \alpha} \;(\alpha < 1), \qquad
       \sigma_\epsilon^2 + \frac{\sigma_\epsilon^2}{\alpha - 1} \;(\alpha > 1) .

    Args:
      ratio: ``float[...]``, alpha, samples per dimension, positive.
      signal: ``float[...]``, variance of the teacher's weights.
      noise: ``float[...]``, variance of the label noise.
      initial: ``float[...]``, variance of the student's initial weights.

    Returns:
      ``float[...]``; infinite at ``ratio`` 1 with noise.

    Raises:
      TypeError: an argument is not real numbers.
      ValueError: a known argument is not finite or out of range.

    References:
      Advani, Saxe and Sompolinsky (2020), arXiv:1710.03667; Krogh and Hertz (1992), J. Phys. A 25, 1135.

    Example:
      >>> from genjax.dynamics.high_dimensional import final_error
      >>> print(" ".join(f"{error:.4f}" for error in final_error([0.25, 0.5, 2.0, 4.0], noise=0.25)))
      1.0833 1.0000 0.5000 0.3333
    """
    alpha = _ratio(ratio)
    signal, noise, initial = _variances(signal, noise, initial)
    valid = (alpha > 0) & (signal + initial >= 0) & (noise >= 0)
    return jnp.where(valid, _final(alpha, signal + initial, noise), jnp.nan)


def optimal_stopping(
    ratio: ArrayLike, *, signal: ArrayLike = 1.0, noise: ArrayLike = 0.0, initial: ArrayLike = 0.0
) -> EarlyStopping:
    r"""The time of lowest test error.

    Direction :math:`\lambda` is best stopped at
    :math:`\ln(1 + \lambda (\sigma_w^2 + \sigma_0^2) / \sigma_\epsilon^2) / \lambda`; the time for all lies between
    those of the largest and the smallest, where the derivative of the test error vanishes.

    Args:
      ratio: ``float[...]``, alpha, samples per dimension, positive.
      signal: ``float[...]``, variance of the teacher's weights.
      noise: ``float[...]``, variance of the label noise.
      initial: ``float[...]``, variance of the student's initial weights.

    Returns:
      Time and error; without noise the time is infinite.

    Raises:
      TypeError: an argument is not real numbers.
      ValueError: a known argument is not finite or out of range.

    References:
      Advani, Saxe and Sompolinsky (2020), arXiv:1710.03667, section 2.3.

    Example:
      >>> from genjax.dynamics.high_dimensional import optimal_stopping
      >>> stop = optimal_stopping(0.5, noise=0.25)
      >>> print(f"{stop.time:.4f} {stop.test:.4f}")
      2.2372 0.8951
    """
    alpha = _ratio(ratio)
    signal, noise, initial = _variances(signal, noise, initial)
    return _stopping(*jnp.broadcast_arrays(alpha, signal + initial, noise))


def optimal_ridge_error(ratio: ArrayLike, *, signal: ArrayLike = 1.0, noise: ArrayLike = 0.0) -> Array:
    r"""Test error of ridge regression at its best ridge, :math:`\sigma_\epsilon^2 / \sigma_w^2`: no estimator has less.

    .. math::
       E = \int \rho\, \frac{\sigma_w^2 \sigma_\epsilon^2}{\sigma_\epsilon^2 + \lambda \sigma_w^2}\, d\lambda
         + (1 - \alpha)_+ \sigma_w^2 + \sigma_\epsilon^2 .

    Args:
      ratio: ``float[...]``, alpha, samples per dimension, positive.
      signal: ``float[...]``, variance of the teacher's weights.
      noise: ``float[...]``, variance of the label noise.

    Returns:
      ``float[...]``.

    Raises:
      TypeError: an argument is not real numbers.
      ValueError: a known argument is not finite or out of range.

    References:
      Advani, Saxe and Sompolinsky (2020), arXiv:1710.03667, section 2.3.

    Example:
      >>> from genjax.dynamics.high_dimensional import optimal_ridge_error
      >>> print(f"{optimal_ridge_error(2.0, noise=0.25):.4f}")
      0.4254
    """
    alpha = _ratio(ratio)
    signal, noise, _ = _variances(signal, noise, 0.0)
    alpha, signal, noise = jnp.broadcast_arrays(alpha, signal, noise)
    eigenvalues, weights = marchenko_pastur(alpha)
    denominator = noise[..., None] + eigenvalues * signal[..., None]
    left = signal[..., None] * noise[..., None] / jnp.where(denominator > 0, denominator, 1)
    error = jnp.sum(weights * left, -1) + jnp.maximum(1 - alpha, 0) * signal + noise
    return jnp.where((alpha > 0) & (signal >= 0) & (noise >= 0), error, jnp.nan)


def simulate_student(
    key: Array,
    times: ArrayLike,
    *,
    n_inputs: int,
    n_samples: int,
    signal: float = 1.0,
    noise: float = 0.0,
    initial: float = 0.0,
) -> LearningCurve:
    """One student of finite size, trained by exact gradient flow on one draw of everything; ``vmap`` over keys.

    Args:
      key: PRNG key.
      times: ``float[k]``, at least 0; may be infinite.
      n_inputs: N.
      n_samples: P.
      signal: variance of the teacher's weights.
      noise: variance of the label noise.
      initial: variance of the student's initial weights.

    Returns:
      The curve of this student, its test error averaged over new samples.

    Raises:
      TypeError: an argument is not real numbers.
      ValueError: an argument is out of range.

    References:
      Advani, Saxe and Sompolinsky (2020), arXiv:1710.03667, section 2.
    """
    check_positive("n_inputs", n_inputs, integer=True)
    check_positive("n_samples", n_samples, integer=True)
    times = check_array("times", times, ndim=1, minimum=0, finite=False)
    _variances(signal, noise, initial)
    x_key, teacher_key, start_key, noise_key = jax.random.split(key, 4)
    x = jax.random.normal(x_key, (n_samples, n_inputs)) / math.sqrt(n_inputs)
    teacher = math.sqrt(signal) * jax.random.normal(teacher_key, (n_inputs,))
    start = math.sqrt(initial) * jax.random.normal(start_key, (n_inputs,))
    disturbance = math.sqrt(noise) * jax.random.normal(noise_key, (n_samples,))
    with jax.default_matmul_precision("highest"):
        left, s, right = jnp.linalg.svd(x, full_matrices=False)
        residual = right @ (teacher - start)
        frozen = jnp.sum((teacher - start) ** 2) - jnp.sum(residual**2)
        pushed = left.T @ disturbance
        unfitted = jnp.sum(disturbance**2) - jnp.sum(pushed**2)
    rate = s**2 * times[:, None]
    distance = residual * jnp.exp(-rate) + pushed / s * jnp.expm1(-rate)
    test = (jnp.sum(distance**2, -1) + frozen) / n_inputs + noise
    train = (jnp.sum(((s * residual + pushed) * jnp.exp(-rate)) ** 2, -1) + unfitted) / n_samples
    return LearningCurve(test, train)


@jax.jit
def _curve(t: Array, alpha: Array, power: Array, noise: Array) -> LearningCurve:
    eigenvalues, weights = marchenko_pastur(alpha)
    # An eigenvalue that underflows is never learned, not even at infinite time.
    rate = jnp.where(eigenvalues > 0, eigenvalues * t[..., None], 0)
    fitted = -jnp.expm1(-rate)
    decay = jnp.exp(-2 * rate)
    gain = jnp.where(eigenvalues > 0, fitted**2 / jnp.where(eigenvalues > 0, eigenvalues, 1), 0)
    test = jnp.sum(weights * (power[..., None] * decay + noise[..., None] * gain), -1)
    test += jnp.maximum(1 - alpha, 0) * power + noise
    test = jnp.where(jnp.isinf(t), _final(alpha, power, noise), test)
    train = jnp.sum(weights * (eigenvalues * power[..., None] + noise[..., None]) * decay, -1) / alpha
    train += noise * jnp.maximum(1 - 1 / alpha, 0)
    valid = (t >= 0) & (alpha > 0) & (power >= 0) & (noise >= 0)
    return LearningCurve(jnp.where(valid, test, jnp.nan), jnp.where(valid, train, jnp.nan))


@jax.jit
def _stopping(alpha: Array, power: Array, noise: Array) -> EarlyStopping:
    eigenvalues, weights = marchenko_pastur(alpha)
    eigenvalues = jnp.maximum(eigenvalues, jnp.finfo(eigenvalues.dtype).tiny)
    never = (noise == 0) & (power > 0)
    snr = jnp.where(noise > 0, power / jnp.where(noise > 0, noise, 1), 1)

    def rising(log_time: Array) -> Array:
        decay = jnp.exp(-eigenvalues * jnp.exp(log_time)[..., None])
        return jnp.sum(weights * decay * (1 - decay - eigenvalues * snr[..., None] * decay), -1) > 0

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        above = rising(middle)
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    best = jnp.log1p(eigenvalues * snr[..., None]) / eigenvalues
    low, high = jnp.log(jnp.min(best, -1)), jnp.log(jnp.max(best, -1))
    low, high = jax.lax.fori_loop(0, _HALVINGS, halve, (low, high))
    time = jnp.where(never, jnp.inf, jnp.exp((low + high) / 2))
    valid = (alpha > 0) & (power >= 0) & (noise >= 0)
    time = jnp.where(valid, time, jnp.nan)
    return EarlyStopping(time, _curve(time, alpha, power, noise).test)


def _final(alpha: Array, power: Array, noise: Array) -> Array:
    distance = jnp.abs(1 - alpha)
    fitted = jnp.where(noise > 0, noise * jnp.minimum(alpha, 1) / distance, 0)
    return noise + jnp.maximum(1 - alpha, 0) * power + fitted


def _ratio(ratio: ArrayLike) -> Array:
    alpha = check_array("ratio", ratio)
    known = concrete(alpha)
    if known is not None and (known <= 0).any():
        raise ValueError(f"`ratio` must be positive, but its smallest value is {known.min():g}")
    return alpha


def _variances(signal: ArrayLike, noise: ArrayLike, initial: ArrayLike) -> tuple[Array, Array, Array]:
    return (
        check_array("signal", signal, minimum=0),
        check_array("noise", noise, minimum=0),
        check_array("initial", initial, minimum=0),
    )
