r"""Gaussian hypothesis spaces: the posterior over test outputs, and the law of its mean squared error.

A hypothesis is a function :math:`f \sim GP(0, k)` with independent outputs, conditioned on the training data
:math:`y = f(x) + \text{noise}`. On the test inputs it is Gaussian with a mean :math:`\mu` and a covariance
:math:`\Sigma` shared by the outputs, so its mean squared test error is a generalized chi-squared variable.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.linalg import solve_triangular
from jax.typing import ArrayLike

from genjax.errors import check_array, check_symmetric
from genjax.tasks import Task
from genjax.typing import Kernel


class GramBlocks(NamedTuple):
    """A kernel known only by its values: ``train[n, n]``, ``cross[n, m]`` and ``test[m, m]``."""

    train: Array
    cross: Array
    test: Array


class GaussianPosterior(NamedTuple):
    """Fitting hypotheses on the test inputs, Gaussian.

    ``mean[m, c]``; ``covariance[m, m]``, the same for each independent output, or ``[m, c, m, c]`` in general.
    ``log_evidence`` is the log density (nats) of the training targets under the hypothesis space, the analogue of
    log P(fit) for targets on a continuum; NaN if unknown. ``resolution`` is the absolute rounding error of the
    covariance's eigenvalues where it was computed as a difference; directions of smaller variance count as fixed.
    """

    mean: Array
    covariance: Array
    log_evidence: Array | float = float("nan")
    resolution: Array | float = 0.0


class ErrorLaw(NamedTuple):
    """Law of the mean squared test error as a generalized chi-squared variable; all ``float[r]``.

    Arguments of :func:`genjax.volume.generalized_chi2_logcdf`. Components of zero weight carry the floor: error that no
    hypothesis of the space can remove.
    """

    weights: Array
    multiplicities: Array
    offsets: Array

    @property
    def mean(self) -> Array:
        """Expected test error of a fitting hypothesis."""
        return jnp.sum(self.multiplicities * self.weights) + jnp.sum(self.offsets)

    @property
    def floor(self) -> Array:
        """Largest error that has probability zero."""
        return jnp.sum(jnp.where(self.weights == 0, self.offsets, 0))


GaussianSpace = Kernel | GramBlocks | GaussianPosterior


def gaussian_posterior(space: GaussianSpace, task: Task, noise: ArrayLike = 0.0) -> GaussianPosterior:
    r"""Condition a Gaussian hypothesis space on a task's training data.

    .. math::
       \mu = K_{*}^T (K + \sigma^2 1)^{-1} Y, \quad \Sigma = K_{**} - K_{*}^T (K + \sigma^2 1)^{-1} K_{*}, \quad
       \log p(Y) = -\tfrac12 \mathrm{tr}\, Y^T (K + \sigma^2 1)^{-1} Y - \tfrac{c}{2} \log\det 2 \pi (K + \sigma^2 1)

    Pure, and legal under ``jit``, ``vmap`` and ``grad``; a kernel matrix that is not positive definite gives NaN.

    Args:
      space: a kernel, its :class:`GramBlocks`, or a :class:`GaussianPosterior`, which is returned as it is.
      task: training inputs and targets, test inputs.
      noise: sigma squared, variance of the noise under which a hypothesis is said to fit; 0 means interpolation.

    Returns:
      Mean ``[m, c]``, covariance ``[m, m]`` and log evidence (nats).

    Raises:
      TypeError: ``space`` is none of these.
      ValueError: shapes of the blocks do not match the task, or (outside ``jit``) a matrix is not symmetric.

    References:
      Rasmussen and Williams (2006), eqs. 2.23-2.24 and 2.30.
    """
    space = check_space(space, task)
    if isinstance(space, GaussianPosterior):
        return space
    if isinstance(space, GramBlocks):
        train, cross, test = space
    else:
        train = space(task.x_train, task.x_train)
        cross = space(task.x_train, task.x_test)
        test = space(task.x_test, task.x_test)
    white, log_det = whiten(train, cross, task.y_train, noise)
    with jax.default_matmul_precision("highest"):
        products = white.T @ white
    m = task.n_test
    resolution = (task.n_train + m) * jnp.finfo(test.dtype).eps * jnp.max(test)
    evidence = log_evidence(jnp.trace(products[m:, m:]), log_det, task.y_train)
    return GaussianPosterior(products[:m, m:], test - products[:m, :m], evidence, resolution)


def check_space(space: GaussianSpace, task: Task) -> GaussianSpace:
    """Gram blocks and posteriors as arrays of the task's shapes, or an error; kernels as they are."""
    n, m, c = task.n_train, task.n_test, task.n_outputs
    if isinstance(space, GramBlocks):
        blocks = GramBlocks(
            check_array("space.train", space.train, shape=(n, n)),
            check_array("space.cross", space.cross, shape=(n, m)),
            check_array("space.test", space.test, shape=(m, m)),
        )
        check_symmetric("space.train", blocks.train)
        check_symmetric("space.test", blocks.test)
        return blocks
    if isinstance(space, GaussianPosterior):
        full = np.ndim(space.covariance) == 4
        mean = check_array("space.mean", space.mean, shape=(m, c))
        covariance = check_array("space.covariance", space.covariance, shape=(m, c, m, c) if full else (m, m))
        check_symmetric("space.covariance", covariance.reshape(m * c, m * c) if full else covariance)
        return space._replace(mean=mean, covariance=covariance)
    if not callable(space):
        raise TypeError(f"`space` must be a kernel, GramBlocks or GaussianPosterior, but {type(space).__name__} came")
    return space


class Whitened(NamedTuple):
    """``cross[n, m]`` is ``L^-1 K_*`` with ``L L^T`` the noisy training kernel; mean and evidence of the posterior."""

    cross: Array
    mean: Array
    log_evidence: Array


@jax.jit
def whiten(train: Array, cross: Array, y_train: Array, noise: ArrayLike) -> tuple[Array, Array]:
    """``L^-1 [K_*, Y]``, ``[n, m + c]``, with ``L L^T`` the noisy training kernel, and the log determinant of that."""
    noisy = train + noise * jnp.eye(train.shape[0], dtype=train.dtype)
    factor = jnp.linalg.cholesky(noisy, symmetrize_input=False)
    pivots = jnp.diagonal(factor)
    # A pivot at rounding level means a singular matrix that Cholesky happened to survive: no number may come of it.
    threshold = train.shape[0] * jnp.finfo(train.dtype).eps
    poison = jnp.where(jnp.min(pivots) ** 2 > threshold * jnp.max(pivots) ** 2, 0, jnp.nan)
    white = solve_triangular(factor, jnp.concatenate([cross, y_train], axis=1) + poison, lower=True)
    return white, 2 * jnp.sum(jnp.log(pivots))


def log_evidence(quadratic_form: Array, log_det: Array, y_train: Array) -> Array:
    """Log density of the targets, nats, from ``tr Y^T K^-1 Y`` and ``log det K``."""
    n, c = y_train.shape
    return -0.5 * (quadratic_form + c * log_det + n * c * jnp.log(2 * jnp.pi))


@jax.jit
def squared_error_law(posterior: GaussianPosterior, y_test: ArrayLike) -> ErrorLaw:
    r"""Law of the mean squared test error of a hypothesis drawn from the posterior.

    With :math:`\Sigma = U \mathrm{diag}(s) U^T` and :math:`b = U^T (\mu - Y)`: weights :math:`s_i / mc`,
    multiplicities c, offsets :math:`\sum_j b_{ij}^2 / mc` (one component a direction and multiplicity 1 where the
    outputs are correlated). Directions of variance below rounding count as fixed and make the floor.

    Args:
      posterior: mean ``[m, c]`` and covariance ``[m, m]`` or ``[m, c, m, c]``.
      y_test: ``float[m, c]``.

    Returns:
      :class:`ErrorLaw` of m (or m c) components. NaN weights where the covariance has an eigenvalue below minus the
      rounding level, that is, where it is no covariance.

    References:
      Boopathy et al. (2024), arXiv:2406.15941, section 3 (the Gaussian law; the chi-squared fit is theirs, not ours).
    """
    residual = posterior.mean - jnp.asarray(y_test)
    m, c = residual.shape
    covariance = posterior.covariance
    multiplicity = c
    if covariance.ndim == 4:
        covariance, residual, multiplicity = covariance.reshape(m * c, m * c), residual.reshape(m * c, 1), 1
    eigenvalues, vectors = jnp.linalg.eigh(covariance, symmetrize_input=False)
    with jax.default_matmul_precision("highest"):
        offsets = jnp.sum((vectors.T @ residual) ** 2, axis=1) / (m * c)
    own = covariance.shape[0] * jnp.finfo(covariance.dtype).eps * jnp.maximum(-eigenvalues[0], eigenvalues[-1])
    variances = resolve(eigenvalues, jnp.maximum(posterior.resolution, own))
    return ErrorLaw(variances / (m * c), jnp.full_like(variances, multiplicity), offsets)


def resolve(eigenvalues: Array, resolution: ArrayLike) -> Array:
    """Zero what is rounding, NaN what is negative."""
    resolved = jnp.where(jnp.abs(eigenvalues) <= resolution, 0, eigenvalues)
    return jnp.where(resolved < 0, jnp.nan, resolved)
