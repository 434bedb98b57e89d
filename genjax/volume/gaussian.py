r"""Required inductive bias of a task in a Gaussian hypothesis space, exactly.

A hypothesis is a function :math:`f \sim GP(0, k)` with independent outputs, conditioned on the training data
:math:`y = f(x) + \text{noise}`. On the test inputs it is Gaussian with mean :math:`\mu` and a covariance
:math:`\Sigma` shared by the outputs, so its mean squared test error is a generalized chi-squared variable, and

.. math::  I(\epsilon) = -\log P\Big(\tfrac{1}{m c} \sum_{ij} (f_{ij} - y_{ij})^2 \le \epsilon \,\Big|\, \text{data}\Big)

is one call of :func:`genjax.volume.generalized_chi2_logcdf`.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from genjax.errors import Status, check_array, check_choice, check_positive
from genjax.estimate import NATS_PER_BIT, Estimate
from genjax.ntk import Kernel
from genjax.tasks import Task
from genjax.volume.generalized_chi2 import generalized_chi2_logcdf


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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class InductiveBias:
    r"""Required inductive bias of a task as a curve over target errors, with everything it depends on.

    Attributes:
      target_error: ``float[e]``, the epsilons, mean squared error per test point and output.
      bias: I(epsilon), :class:`genjax.estimate.Estimate` of shape ``[e]``, nats; ``+inf`` with status ``IMPOSSIBLE`` at
        and below the floor.
      log_evidence: log density of the training targets under the space, nats, ``float[]``.
      mean_error: expected test error of a fitting hypothesis, ``float[]``.
      center_error: test error of the posterior mean, ``float[]``.
      floor: largest test error of probability zero, ``float[]``.
      noise: variance of the observation noise, part of the hypothesis space, ``float[]``.
      n_train: number of training points.
      n_test: number of test points; I grows with it, so a value means nothing without it.
      n_outputs: number of outputs.
      method: "exact" or "lanczos".
      error_scale: what an error of 1 means.
    """

    target_error: Array
    bias: Estimate
    log_evidence: Array
    mean_error: Array
    center_error: Array
    floor: Array
    noise: Array
    n_train: int = dataclasses.field(metadata={"static": True})
    n_test: int = dataclasses.field(metadata={"static": True})
    n_outputs: int = dataclasses.field(metadata={"static": True})
    method: str = dataclasses.field(metadata={"static": True})
    error_scale: str = dataclasses.field(
        default="mean squared error per test point and output", metadata={"static": True}
    )

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

    def __str__(self) -> str:
        header = (
            f"required inductive bias ({self.method}), {self.n_train} training and {self.n_test} test points, "
            f"{self.n_outputs} outputs, noise variance {float(self.noise):g}\n"
            f"given: {self.bias.given}; error scale: {self.error_scale}\n"
            f"mean error of a fitting hypothesis {float(self.mean_error):.4g}, of their mean "
            f"{float(self.center_error):.4g}, floor {float(self.floor):.4g}; "
            f"log evidence {float(self.log_evidence):.6g} nats\n"
            f"{'target error':>12}  {'nats':>12}  {'bits':>12}  {'nats/test pt':>12}  status"
        )
        rows = [
            f"{float(e):>12.4g}  {float(v):>12.6g}  {float(v) / NATS_PER_BIT:>12.6g}  "
            f"{float(v) / self.n_test:>12.4g}  {Status(int(s)).name}"
            for e, v, s in zip(self.target_error, self.bias.value, self.bias.status)
        ]
        return "\n".join([header, *rows])


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
      ValueError: shapes of the blocks do not match the task.

    References:
      Rasmussen and Williams (2006), eqs. 2.23-2.24 and 2.30.
    """
    n, m, c = task.n_train, task.n_test, task.n_outputs
    if isinstance(space, GaussianPosterior):
        full = jnp.ndim(space.covariance) == 4
        return space._replace(
            mean=check_array("space.mean", space.mean, shape=(m, c)),
            covariance=check_array("space.covariance", space.covariance, shape=(m, c, m, c) if full else (m, m)),
        )
    if isinstance(space, GramBlocks):
        train = check_array("space.train", space.train, shape=(n, n))
        cross = check_array("space.cross", space.cross, shape=(n, m))
        test = check_array("space.test", space.test, shape=(m, m))
    else:
        train = space(task.x_train, task.x_train)
        cross = space(task.x_train, task.x_test)
        test = space(task.x_test, task.x_test)
    whitened = _whiten(train, cross, task.y_train, noise)
    with jax.default_matmul_precision("highest"):
        covariance = test - whitened.cross.T @ whitened.cross
    resolution = (n + m) * jnp.finfo(covariance.dtype).eps * jnp.max(jnp.diagonal(test))
    return GaussianPosterior(whitened.mean, covariance, whitened.log_evidence, resolution)


class _Whitened(NamedTuple):
    cross: Array  # L^-1 K_*, where L L^T is the noisy training kernel
    mean: Array
    log_evidence: Array


@jax.jit
def _whiten(train: Array, cross: Array, y_train: Array, noise: ArrayLike) -> _Whitened:
    n, c = y_train.shape
    noisy = train + noise * jnp.eye(n, dtype=train.dtype)
    factor = jnp.linalg.cholesky(noisy)
    pivots = jnp.diagonal(factor)
    # A pivot at rounding level means a singular matrix that Cholesky happened to survive: no number may come of it.
    singular = jnp.min(pivots) ** 2 <= n * jnp.finfo(train.dtype).eps * jnp.max(jnp.diagonal(noisy))
    factor = jnp.where(singular, jnp.nan, factor)
    with jax.default_matmul_precision("highest"):
        white_cross = jax.scipy.linalg.solve_triangular(factor, cross, lower=True)
        white_y = jax.scipy.linalg.solve_triangular(factor, y_train, lower=True)
        mean = white_cross.T @ white_y
    log_det = 2 * jnp.sum(jnp.log(jnp.diagonal(factor)))
    log_evidence = -0.5 * (jnp.sum(white_y**2) + c * log_det + n * c * jnp.log(2 * jnp.pi))
    return _Whitened(white_cross, mean, log_evidence)


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
    eigenvalues, vectors = jnp.linalg.eigh((covariance + covariance.T) / 2)
    with jax.default_matmul_precision("highest"):
        offsets = jnp.sum((vectors.T @ residual) ** 2, axis=1) / (m * c)
    own = covariance.shape[0] * jnp.finfo(covariance.dtype).eps * jnp.max(jnp.abs(eigenvalues))
    variances = _resolve(eigenvalues, jnp.maximum(posterior.resolution, own))
    return ErrorLaw(variances / (m * c), jnp.full_like(variances, multiplicity), offsets)


def _resolve(eigenvalues: Array, resolution: ArrayLike) -> Array:
    """Zero what is rounding, NaN what is negative."""
    resolved = jnp.where(jnp.abs(eigenvalues) <= resolution, 0, eigenvalues)
    return jnp.where(resolved < 0, jnp.nan, resolved)


def lanczos_error_law(
    key: Array,
    kernel: Kernel,
    task: Task,
    noise: ArrayLike = 0.0,
    *,
    n_probes: int = 16,
    order: int = 64,
    tile: int = 1024,
) -> tuple[ErrorLaw, GaussianPosterior]:
    r"""Law of the test error without forming a matrix over the test points: memory ``O(n^2 + n m + order m)``.

    Lanczos from random signs :math:`v_p` gives Ritz values :math:`\theta_{pj}` and weights :math:`\tau_{pj}^2` with
    :math:`\mathrm{tr} f(\Sigma) \approx \frac{m}{P} \sum_{pj} \tau_{pj}^2 f(\theta_{pj})`: components of
    *fractional* multiplicity. Lanczos from each output's residual gives the offsets the same way, without randomness.

    Args:
      key: typed PRNG key for the probes.
      kernel: covariance of the hypothesis space, evaluated in tiles.
      task: n training and m test points.
      noise: sigma squared.
      n_probes: P, number of random probes.
      order: Lanczos steps, at most m; a spectrum over many decades needs more.
      tile: rows of the test kernel evaluated at once.

    Returns:
      The law, its first ``n_probes * order`` components from the probes in turn, and the posterior with a covariance of
      shape ``[0, 0]``.

    Raises:
      ValueError: an option is out of range.

    References:
      Ubaru, Chen and Saad (2017), SIAM J. Matrix Anal. Appl. 38, 1075 (stochastic Lanczos quadrature);
      Golub and Meurant (2010), Matrices, Moments and Quadrature, chapter 7 (the offsets).
    """
    for name, value in (("n_probes", n_probes), ("order", order), ("tile", tile)):
        check_positive(name, value, integer=True)
    m, c = task.n_test, task.n_outputs
    order = min(order, m)
    whitened = _whiten(
        kernel(task.x_train, task.x_train), kernel(task.x_train, task.x_test), task.y_train, noise
    )
    residual = whitened.mean - task.y_test
    probes = jax.random.rademacher(key, (n_probes, m), dtype=residual.dtype)
    starts = jnp.concatenate([probes, residual.T])
    eigenvalues, portions = _ritz(kernel, task.x_test, whitened.cross, starts, order, min(tile, m))
    prior_scale = jnp.max(jnp.diagonal(kernel(task.x_test[:tile], task.x_test[:tile])))
    resolution = (task.n_train + m) * jnp.finfo(residual.dtype).eps * prior_scale
    weights = _resolve(eigenvalues, resolution) / (m * c)
    none = jnp.zeros_like
    law = ErrorLaw(
        weights.ravel(),
        jnp.concatenate([portions[:n_probes] * (m * c / n_probes), none(portions[n_probes:])]).ravel(),
        jnp.concatenate([none(portions[:n_probes]), portions[n_probes:] * jnp.sum(residual.T**2, 1)[:, None] / (m * c)])
        .ravel(),
    )
    empty = jnp.zeros((0, 0), residual.dtype)
    return law, GaussianPosterior(whitened.mean, empty, whitened.log_evidence, resolution)


@partial(jax.jit, static_argnums=(4, 5))
def _ritz(kernel: Kernel, x: Array, white_cross: Array, starts: Array, order: int, tile: int) -> tuple[Array, Array]:
    """Ritz values and squared first components, ``[starts, order]`` each, of the posterior covariance."""
    from matfree.decomp import tridiag_sym

    m = x.shape[0]
    padding = -m % tile
    tiles = jnp.pad(x, [(0, padding)] + [(0, 0)] * (x.ndim - 1)).reshape(-1, tile, *x.shape[1:])

    def covariance_product(v: Array) -> Array:
        with jax.default_matmul_precision("highest"):
            prior = jax.lax.map(lambda rows: kernel(rows, x) @ v, tiles).reshape(-1)[:m]
            return prior - white_cross.T @ (white_cross @ v)

    lanczos = tridiag_sym(order, materialize=True, reortho="full", custom_vjp=False)

    def one(start: Array) -> tuple[Array, Array]:
        eigenvalues, vectors = jnp.linalg.eigh(lanczos(covariance_product, start).J_small)
        return eigenvalues, vectors[0] ** 2

    return jax.lax.map(one, starts)


def gaussian_inductive_bias(
    space: GaussianSpace,
    task: Task,
    target_error: ArrayLike,
    *,
    noise: float = 0.0,
    method: str = "exact",
    key: Array | None = None,
    n_probes: int = 16,
    order: int = 64,
    n_nodes: int = 128,
    max_bytes: int = 2**33,
) -> InductiveBias:
    r"""Required inductive bias of a task relative to a Gaussian hypothesis space, as a curve over target errors.

    .. math::
       I(\epsilon) = -\log P(\text{mean squared test error} \le \epsilon \mid f \sim GP(0, k) \text{ fits the training
       data})

    Args:
      space: a kernel ``k(x1, x2) -> Gram`` (see :mod:`genjax.ntk`; :func:`genjax.ntk.from_features` for features), its
        :class:`GramBlocks`, or a :class:`GaussianPosterior` of your own.
      task: training and test data with real targets ``[n, c]``.
      target_error: ``float[e]`` or scalar, the epsilons, mean squared error per test point and output, not negative.
      noise: sigma squared, variance of the noise under which a hypothesis fits; part of the hypothesis space. 0 demands
        interpolation.
      method: ``"exact"`` diagonalizes the posterior covariance, ``O((n + m)^3)``; ``"lanczos"`` approximates its
        spectrum without forming it, for large test sets, with a standard error.
      key: PRNG key, needed by ``"lanczos"``.
      n_probes: random probes of ``"lanczos"``.
      order: Lanczos steps.
      n_nodes: contour intervals of :func:`genjax.volume.generalized_chi2_logcdf`.
      max_bytes: memory the dense method may plan for.

    Returns:
      :class:`InductiveBias`: nats and bits with error bound (and standard error for ``"lanczos"``), log evidence, and
      n_train, n_test, noise and the scale of epsilon, without which the number means nothing.

    Raises:
      ValueError: an argument is out of range, shapes disagree, the kernel matrix is singular or not positive definite
        (the message gives its smallest eigenvalue), or the dense method needs more than ``max_bytes`` (it says how
        much).

    Notes:
      Use float64 (``jax.config.update("jax_enable_x64", True)``): in float32 directions of relative variance below
      about 1e-4 are lost to rounding. Not for use under ``jit``; its steps :func:`gaussian_posterior`,
      :func:`squared_error_law` and :func:`genjax.volume.generalized_chi2_logcdf` are.

    References:
      Boopathy et al. (2023), arXiv:2305.01034, and (2024), arXiv:2406.15941 (the quantity); the exact evaluation is
      genjax's own.

    Example:
      >>> import jax.numpy as jnp
      >>> from genjax.ntk import rbf
      >>> from genjax.tasks import make_task
      >>> from genjax.volume import gaussian_inductive_bias
      >>> x = jnp.linspace(0, 1, 8)[:, None]
      >>> task = make_task(x[::2], jnp.sin(3 * x[::2]), x[1::2], jnp.sin(3 * x[1::2]))
      >>> print(f"{gaussian_inductive_bias(rbf(0.3), task, 0.01).nats:.2f} nats")
      1.08 nats
    """
    check_choice("method", method, ("exact", "lanczos"))
    epsilon = check_array("target_error", target_error, minimum=0)
    if epsilon.ndim > 1:
        raise ValueError(f"`target_error` must be a number or a vector, but its shape is {epsilon.shape}")
    noise = check_array("noise", noise, ndim=0, minimum=0)
    if method == "exact":
        _check_memory(space, task, max_bytes)
        posterior = gaussian_posterior(space, task, noise)
        _check_posterior(posterior, space, task, noise)
        law = squared_error_law(posterior, task.y_test)
    else:
        if isinstance(space, GramBlocks | GaussianPosterior):
            raise ValueError(f"`method` 'lanczos' needs a kernel as `space`, but {type(space).__name__} came")
        if key is None:
            raise ValueError("`key` must be a PRNG key such as jax.random.key(0) for `method` 'lanczos', but None came")
        law, posterior = lanczos_error_law(key, space, task, noise, n_probes=n_probes, order=order)
        _check_posterior(posterior, space, task, noise)
    if bool(jnp.isnan(law.weights).any()):
        raise ValueError(
            f"the posterior covariance is not positive semi-definite beyond rounding ({law.weights.dtype}); "
            "use float64, or a larger `noise`"
        )

    log_p = generalized_chi2_logcdf(epsilon, *law, n_nodes=n_nodes)
    stderr = jnp.zeros_like(log_p.value)
    if method == "lanczos":
        stderr = _jackknife_stderr(epsilon, law, n_probes, order=min(order, task.n_test), n_nodes=n_nodes)
    nats = jnp.abs(log_p.value)  # -log P, without the -0 of certain events
    promise = 32 * jnp.finfo(nats.dtype).eps ** 0.5 * (1 + nats / 1e3)
    status = jnp.where(log_p.error_bound > promise, Status.INACCURATE, Status.OK)
    status = jnp.where(jnp.isinf(nats), Status.IMPOSSIBLE, status).astype(jnp.int32)
    given = "a hypothesis drawn from the space that " + (
        f"fits the {task.n_train} training points within Gaussian noise of variance {float(noise):g}"
        if float(noise) > 0
        else f"interpolates the {task.n_train} training points"
    )
    return InductiveBias(
        target_error=epsilon,
        bias=Estimate(nats, stderr, log_p.error_bound, status, given),
        log_evidence=jnp.asarray(posterior.log_evidence),
        mean_error=law.mean,
        center_error=jnp.mean((posterior.mean - task.y_test) ** 2),
        floor=law.floor,
        noise=noise,
        n_train=task.n_train,
        n_test=task.n_test,
        n_outputs=task.n_outputs,
        method=method,
    )


def _jackknife_stderr(epsilon: Array, law: ErrorLaw, n_probes: int, *, order: int, n_nodes: int) -> Array:
    """Standard error over the probes: I with each left out in turn."""
    probe = jnp.arange(law.weights.size) // order
    scale = n_probes / max(n_probes - 1, 1)

    def without(p: Array) -> Array:
        multiplicities = jnp.where(probe == p, 0, law.multiplicities * scale)
        return generalized_chi2_logcdf(epsilon, law.weights, multiplicities, law.offsets, n_nodes=n_nodes).value

    left_out = jax.lax.map(without, jnp.arange(n_probes))
    spread = jnp.sum((left_out - jnp.mean(left_out, axis=0)) ** 2, axis=0)
    return jnp.sqrt(spread * (n_probes - 1) / n_probes) if n_probes > 1 else jnp.full_like(spread, jnp.nan)


def _check_memory(space: GaussianSpace, task: Task, max_bytes: int) -> None:
    n, m, c = task.n_train, task.n_test, task.n_outputs
    directions, n_matrix = m, n
    if isinstance(space, GaussianPosterior):
        n_matrix = 0
        directions = m * c if jnp.ndim(space.covariance) == 4 else m
    # Kernel and factor; cross block twice; covariance, eigenvectors and two matrices of work for the eigensolver.
    needed = task.y_train.dtype.itemsize * (2 * n_matrix**2 + 2 * n_matrix * m + 4 * directions**2)
    if needed > max_bytes:
        raise ValueError(
            f"the dense method on {n} training points and {directions} test directions needs {needed / 2**30:.1f} GiB, "
            f"more than `max_bytes` = {max_bytes / 2**30:.1f} GiB; raise it, use fewer test points, or `method='lanczos'`"
        )


def _check_posterior(posterior: GaussianPosterior, space: GaussianSpace, task: Task, noise: Array) -> None:
    """Say why a posterior is NaN: only here, so that the usual path pays nothing for the diagnosis."""
    if bool(jnp.isfinite(posterior.mean).all()):
        return
    if isinstance(space, GaussianPosterior):
        raise ValueError("`space.mean` must be finite, but it holds NaN or infinity")
    train = space.train if isinstance(space, GramBlocks) else space(task.x_train, task.x_train)
    gram = np.asarray(train, dtype=np.float64)
    if not np.isfinite(gram).all():
        raise ValueError("the kernel of the training inputs must be finite, but it holds NaN or infinity")
    eigenvalues = np.linalg.eigvalsh(gram)
    kind = "not positive semi-definite" if eigenvalues[0] < -1e-6 * eigenvalues[-1] else "singular to working precision"
    raise ValueError(
        f"the kernel matrix of the {task.n_train} training inputs plus `noise` = {float(noise):g} is {kind}: its "
        f"eigenvalues run from {eigenvalues[0] + float(noise):.3g} to {eigenvalues[-1] + float(noise):.3g} "
        f"({task.y_train.dtype}). No hypothesis of this space interpolates the data reliably; give a larger `noise`"
        + ("" if task.y_train.dtype == np.float64 else " or use float64")
    )
