r"""The sampling estimator of 2024: draw hypotheses that fit, fit a 3-parameter tail to their test errors, extrapolate.

Rebuilt faithfully so that it can be compared against. What to know before using it:

* **The tail is extrapolated.** :math:`S` draws inform about probabilities down to :math:`1/S`, that is
  :math:`\ln S \approx 9` nats; the estimator is used at hundreds to thousands. The true law of a Gaussian test error is
  a *generalized* chi-squared with as many weights as test points; its log-tail slope grows to (test outputs)/2, the
  fitted one's only to ``df / 2``.
* **The parameters are not identifiable.** Far from zero, ``df`` and ``nc`` are told apart only by a skewness near its
  own sampling error, and ``ncx2.fit`` does not check convergence: results differ by a third between seeds.
* **The fallback** used when the fitted tail underflows, :math:`z^2/2` from a power-normal approximation, drops the
  prefactor and the sign of :math:`z`, and the approximation itself fails far below the mean.
* **The Adam solve does not converge**: constant-rate mini-batch noise leaves hypotheses that do not fit the training
  set and a "covariance" that is neither symmetric nor positive, whose matrix square root then means little.
* **Units and scale**: the published evaluation of networks sums per-batch means but divides by the number of samples,
  so its errors are too small by the batch size (``batch_size`` below); "fits the training set" is never checked.
* **The value grows with the number of test points**, often in proportion: it means little until that is stated.

References:
  Boopathy et al. (2024), Towards exact computation of inductive bias, IJCAI; arXiv:2406.15941.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike
from numpy.typing import NDArray

from genjax.errors import check_array, check_choice, check_positive
from genjax.typing import Kernel
from genjax.volume._host import host_array


class Tail(NamedTuple):
    """A scaled non-central chi-squared law, ``scale * chi2(df, nc)``.

    Attributes:
      df: degrees of freedom.
      nc: non-centrality.
      scale: factor.
    """

    df: float
    nc: float
    scale: float


class AdamFit(NamedTuple):
    """Coefficients being fitted and the optimizer's moments.

    Attributes:
      coefficients: ``float[n, p]``.
      moments: optax state of the same structure.
    """

    coefficients: Array
    moments: optax.OptState


class AdamPosterior(NamedTuple):
    """What the published solve makes of the Gaussian process posterior.

    Attributes:
      mean: ``float[m, k]``, posterior mean at the test points.
      covariance: ``float[m, m]``, of each output; in general neither symmetric nor positive.
      mean_losses: ``float[epochs]``, average mini-batch loss of the fit behind ``mean``.
      covariance_losses: ``float[epochs]``, the same for ``covariance``.
    """

    mean: Array
    covariance: Array
    mean_losses: Array
    covariance_losses: Array


def fit_tail(errors: ArrayLike) -> Tail:
    """Fit a scaled non-central chi-squared law to test errors by maximum likelihood, as published.

    Args:
      errors: ``[S]``, positive, not all equal, S at least 2: test errors of sampled hypotheses.

    Returns:
      The fitted law.

    Raises:
      ValueError: the errors are not a vector of at least two positive values that differ.

    References:
      Boopathy et al. (2024); the published code calls ``scipy.stats.ncx2.fit`` with ``loc = 0``.
    """
    from scipy.stats import ncx2

    sample = host_array("errors", errors, above=0)
    if sample.ndim != 1 or sample.size < 2 or np.ptp(sample) == 0:
        raise ValueError(
            f"`errors` must be a vector of at least 2 values that are not all equal, but its shape is {sample.shape}"
        )
    with np.errstate(all="ignore"):
        df, nc, _, scale = ncx2.fit(sample, floc=0)
    return Tail(float(df), float(nc), float(scale))


def tail_inductive_bias(tail: Tail, target_error: ArrayLike, *, fallback: bool = True) -> NDArray[np.float64]:
    r"""Inductive bias read off a fitted tail, :math:`-\ln F(\epsilon)`.

    Where :math:`F` underflows (below about -700 nats) the published code takes :math:`z^2/2` with :math:`z` the
    power-normal deviate of :math:`x = \epsilon` / scale:

    .. math::

        z = \frac{(x/(\nu+\delta))^h - 1 - hp(h - 1 - \tfrac12(2-h)mp)}{h\sqrt{2p}(1 + \tfrac12 mp)},
            \quad h = 1 - \frac{2(\nu+\delta)(\nu+3\delta)}{3(\nu+2\delta)^2},
            \quad p = \frac{\nu+2\delta}{(\nu+\delta)^2}, \quad m = (h-1)(1-3h)

    Args:
      tail: from :func:`fit_tail`; :math:`\nu` = ``df``, :math:`\delta` = ``nc``.
      target_error: :math:`\epsilon`, positive.
      fallback: use :math:`z^2/2` where :math:`F` underflows; otherwise the answer there is ``inf``.

    Returns:
      ``float64[...]`` of the shape of ``target_error``, nats.

    Raises:
      ValueError: ``tail`` is not a law (``df`` or ``scale`` not positive, ``nc`` negative); a target is not positive.

    References:
      Sankaran (1963), Approximations to the non-central chi-square distribution; Boopathy et al. (2024), code.
    """
    from scipy.stats import ncx2

    target = host_array("target_error", target_error, above=0)
    df, nc, scale = tail
    if not (df > 0 and scale > 0 and nc >= 0 and np.isfinite([df, nc, scale]).all()):
        raise ValueError(f"`tail` must have positive `df` and `scale` and non-negative `nc`, but {tail} came")
    with np.errstate(all="ignore"):
        # Zero minus, so that certainty is +0.
        nats = 0.0 - ncx2.logcdf(target, df, nc=nc, scale=scale)
    return np.where(np.isinf(nats), 0.5 * _power_normal(target / scale, df, nc) ** 2, nats) if fallback else nats


def inductive_bias(
    errors: ArrayLike, target_error: ArrayLike, *, batch_size: int | None = None, fallback: bool = True
) -> NDArray[np.float64]:
    """The published estimate: fit a tail to test errors and extrapolate it to the target.

    Args:
      errors: ``[S]``, positive: test errors (mean squared) of hypotheses that fit the training set.
      target_error: positive, any shape.
      batch_size: divide the errors by it first, as the published evaluation of networks does by mistake; the target is
        left as it is. ``None`` leaves the errors on their true scale.
      fallback: see :func:`tail_inductive_bias`.

    Returns:
      ``float64[...]`` of the shape of ``target_error``, nats.

    Raises:
      ValueError: see :func:`fit_tail`, :func:`tail_inductive_bias`; ``batch_size`` is not a positive whole number.

    References:
      Boopathy et al. (2024) and the function ``compute_inductive_bias`` of the published code.
    """
    target = host_array("target_error", target_error, above=0)
    sample = host_array("errors", errors, above=0)
    if batch_size is not None:
        check_positive("batch_size", batch_size, integer=True)
        sample = sample / batch_size
    return tail_inductive_bias(fit_tail(sample), target, fallback=fallback)


def sample_errors(
    key: Array,
    mean: ArrayLike,
    covariance: ArrayLike,
    y_test: ArrayLike,
    n_samples: int = 10_000,
    *,
    square_root: str = "sqrtm",
    chunk_size: int = 256,
) -> Array:
    r"""Draw test errors of hypotheses from a Gaussian posterior.

    .. math::

        e = \frac{1}{mk} \left\|\mu + \Sigma^{1/2} z - Y\right\|^2, \qquad z \sim N(0, I) \text{ of shape } [m, k]

    Args:
      key: random key; draw ``i`` depends on ``split(key, n_samples)[i]`` only, not on ``chunk_size``.
      mean: :math:`\mu`, ``float[m, k]``.
      covariance: :math:`\Sigma`, ``float[m, m]``, shared by the outputs.
      y_test: :math:`Y`, ``float[m, k]``.
      n_samples: number of draws.
      square_root: ``"sqrtm"`` is SciPy's general matrix square root, as published; its imaginary part, present when
        the matrix has negative eigenvalues, is dropped here (the published code would carry complex errors on).
        ``"eigh"`` is the symmetric root, exact, for a true covariance.
      chunk_size: draws made at once; memory is ``chunk_size * m * k`` numbers.

    Returns:
      ``float[n_samples]``, mean squared errors.

    Raises:
      ValueError: shapes disagree, a count is not a positive whole number, the option is unknown, or with ``"eigh"`` the
        covariance is not symmetric positive semi-definite up to rounding.

    References:
      Boopathy et al. (2024) and the function ``loss_distribution`` of the published code.
    """
    from scipy.linalg import sqrtm

    mean = check_array("mean", mean, ndim=2)
    covariance = check_array("covariance", covariance, shape=(mean.shape[0], mean.shape[0]))
    y_test = check_array("y_test", y_test, shape=mean.shape)
    check_positive("n_samples", n_samples, integer=True)
    check_positive("chunk_size", chunk_size, integer=True)
    check_choice("square_root", square_root, ("sqrtm", "eigh"))
    matrix = np.asarray(covariance)
    root = np.real(sqrtm(matrix)) if square_root == "sqrtm" else _symmetric_root(matrix)
    keys = jax.random.split(key, n_samples)
    return _draw_errors(keys, mean - y_test, jnp.asarray(root, mean.dtype), chunk_size=min(chunk_size, n_samples))


def adam_posterior(
    key: Array,
    kernel: Kernel,
    x_train: ArrayLike,
    y_train: ArrayLike,
    x_test: ArrayLike,
    *,
    n_epochs: int = 10_000,
    batch_size: int = 5,
    learning_rate_alpha: float = 1e-2,
    learning_rate_cross: float = 1e-3,
) -> AdamPosterior:
    r"""Gaussian process posterior by the published "Algorithm 1": Adam instead of a linear solve.

    Mini-batch Adam from zero fits :math:`\alpha \approx K^{-1} Y` and :math:`A \approx K^{-1} K_*`; then
    :math:`\mu = K_*^\top \alpha` and :math:`\Sigma = K_{**} - K_*^\top A`, without symmetrizing and without checking
    convergence.

    Args:
      key: random key for the shuffles.
      kernel: ``kernel(x[a, d], x[b, d]) -> float[a, b]``; published with the Gaussian kernel of unit width.
      x_train: ``float[n, d]``.
      y_train: ``float[n, k]``, one-hot labels.
      x_test: ``float[m, d]``.
      n_epochs: passes over the training set, for each of the two fits.
      batch_size: examples per step.
      learning_rate_alpha: Adam's rate for the mean.
      learning_rate_cross: Adam's rate for the covariance.

    Returns:
      Mean, "covariance" and the losses of both fits.

    Raises:
      ValueError: shapes disagree or a setting is not positive.

    References:
      Boopathy et al. (2024), algorithm 1. Deviation: the published inner loop over groups of training points, which
      only splits a sum, is one matrix product here, and the targets ``kernel(x_train, x_test)`` are computed once.
    """
    x_train = check_array("x_train", x_train, ndim=2)
    y_train = check_array("y_train", y_train, shape=(x_train.shape[0], None))
    x_test = check_array("x_test", x_test, shape=(None, x_train.shape[1]))
    check_positive("n_epochs", n_epochs, integer=True)
    check_positive("learning_rate_alpha", learning_rate_alpha)
    check_positive("learning_rate_cross", learning_rate_cross)
    cross = kernel(x_train, x_test)
    fit = functools.partial(_fit, kernel=kernel, batch_size=batch_size, n_epochs=n_epochs)
    mean_key, covariance_key = jax.random.split(key)
    alpha, mean_losses = fit(mean_key, x_train, y_train, learning_rate_alpha)
    a_x, covariance_losses = fit(covariance_key, x_train, cross, learning_rate_cross)
    mean = jnp.matmul(cross.T, alpha, precision="highest")
    covariance = kernel(x_test, x_test) - jnp.matmul(cross.T, a_x, precision="highest")
    return AdamPosterior(mean, covariance, mean_losses, covariance_losses)


def adam_init(targets: ArrayLike) -> AdamFit:
    """Start of a fit: zero coefficients and zero moments.

    Args:
      targets: ``float[n, p]``: one-hot labels, or ``kernel(x_train, x_test)``.

    Returns:
      State for :func:`adam_epoch`.

    References:
      Boopathy et al. (2024), algorithm 1.
    """
    coefficients = jnp.zeros_like(check_array("targets", targets, ndim=2))
    return AdamFit(coefficients, optax.scale_by_adam().init(coefficients))


@functools.partial(jax.jit, static_argnames=("kernel", "batch_size"))
def adam_epoch(
    fit: AdamFit,
    key: Array,
    x_train: ArrayLike,
    targets: ArrayLike,
    learning_rate: ArrayLike,
    *,
    kernel: Kernel,
    batch_size: int = 5,
) -> tuple[AdamFit, Array]:
    r"""One pass of mini-batch Adam on :math:`\|K c - t\|^2`, the rows of :math:`K` recomputed for every batch.

    Compiled: one scan over the batches, which are consecutive pieces of ``jax.random.permutation(key, n)``; a last,
    smaller batch counts as a full step, as published.

    Args:
      fit: from :func:`adam_init` or an earlier epoch.
      key: random key for the shuffle.
      x_train: ``float[n, d]``.
      targets: ``float[n, p]``.
      learning_rate: Adam's rate.
      kernel: ``kernel(x[a, d], x[b, d]) -> float[a, b]``; static.
      batch_size: examples per step; static.

    Returns:
      The new state, and the average over batches of the mean squared loss before each step.

    Raises:
      ValueError: shapes disagree or ``batch_size`` is not a positive whole number.

    References:
      Boopathy et al. (2024), algorithm 1; Kingma & Ba (2015) with the default moments.
    """
    x_train = check_array("x_train", x_train, ndim=2)
    n = x_train.shape[0]
    targets = check_array("targets", targets, shape=(n, fit.coefficients.shape[1]))
    check_positive("batch_size", batch_size, integer=True)
    n_batches = -(-n // batch_size)
    padding = n_batches * batch_size - n
    order = jnp.pad(jax.random.permutation(key, n), (0, padding)).reshape(n_batches, batch_size)
    present = jnp.pad(jnp.ones(n, targets.dtype), (0, padding)).reshape(n_batches, batch_size)

    def step(fit: AdamFit, batch: tuple[Array, Array]) -> tuple[AdamFit, Array]:
        index, weight = batch
        rows = kernel(x_train[index], x_train)

        def loss_fn(coefficients: Array) -> Array:
            residual = jnp.matmul(rows, coefficients, precision="highest") - targets[index]
            return jnp.sum(weight[:, None] * residual**2) / (jnp.sum(weight) * targets.shape[1])

        loss, gradient = jax.value_and_grad(loss_fn)(fit.coefficients)
        update, moments = optax.scale_by_adam().update(gradient, fit.moments)
        # The rate is applied by hand, so that it is an ordinary traced number.
        rate = jnp.asarray(learning_rate, fit.coefficients.dtype)
        return AdamFit(fit.coefficients - rate * update, moments), loss

    fit, losses = jax.lax.scan(step, fit, (order, present))
    return fit, jnp.mean(losses)


@functools.partial(jax.jit, static_argnames=("kernel", "batch_size", "n_epochs"))
def _fit(
    key: Array, x: Array, targets: Array, learning_rate: Array, *, kernel: Kernel, batch_size: int, n_epochs: int
) -> tuple[Array, Array]:
    def epoch(fit: AdamFit, key: Array) -> tuple[AdamFit, Array]:
        return adam_epoch(fit, key, x, targets, learning_rate, kernel=kernel, batch_size=batch_size)

    fit, losses = jax.lax.scan(epoch, adam_init(targets), jax.random.split(key, n_epochs))
    return fit.coefficients, losses


@functools.partial(jax.jit, static_argnames="chunk_size")
def _draw_errors(keys: Array, offset: Array, root: Array, *, chunk_size: int) -> Array:
    def draw(key: Array) -> Array:
        noise = jax.random.normal(key, offset.shape, offset.dtype)
        return jnp.mean((offset + jnp.matmul(root, noise, precision="highest")) ** 2)

    return jax.lax.map(draw, keys, batch_size=chunk_size)


def _symmetric_root(matrix: NDArray[np.floating]) -> NDArray[np.floating]:
    values, vectors = np.linalg.eigh(matrix)
    tolerance = 10 * len(matrix) * np.finfo(matrix.dtype).eps * np.abs(values).max()
    asymmetry = np.abs(matrix - matrix.T).max()
    if asymmetry > tolerance or values.min() < -tolerance:
        raise ValueError(
            "`covariance` must be symmetric positive semi-definite for `square_root`='eigh', but its asymmetry is "
            f"{asymmetry:.3g} and its smallest eigenvalue {values.min():.3g}"
        )
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def _power_normal(x: NDArray[np.float64], df: float, nc: float) -> NDArray[np.float64]:
    h = 1 - 2 * (df + nc) * (df + 3 * nc) / (3 * (df + 2 * nc) ** 2)
    p = (df + 2 * nc) / (df + nc) ** 2
    m = (h - 1) * (1 - 3 * h)
    center = 1 + h * p * (h - 1 - 0.5 * (2 - h) * m * p)
    return ((x / (df + nc)) ** h - center) / (h * np.sqrt(2 * p) * (1 + 0.5 * m * p))
