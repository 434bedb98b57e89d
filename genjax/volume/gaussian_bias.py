r"""Required inductive bias of a task in a Gaussian hypothesis space, exactly.

.. math::
   I(\epsilon) = -\log P\Big(\tfrac{1}{m c} \sum_{ij} (f_{ij} - y_{ij})^2 \le \epsilon \,\Big|\, \text{data}\Big)

for m test points and c outputs: :func:`genjax.volume.generalized_chi2_logcdf` of the posterior's error law.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial
from jax.typing import ArrayLike

from genjax.errors import Status, check_array, check_choice
from genjax.estimate import NATS_PER_BIT, Estimate
from genjax.tasks import Task
from genjax.volume.curve import InNats
from genjax.volume.gaussian import (
    ErrorLaw,
    GaussianPosterior,
    GaussianSpace,
    GramBlocks,
    check_space,
    gaussian_posterior,
    squared_error_law,
)
from genjax.volume.generalized_chi2 import generalized_chi2_logcdf
from genjax.volume.lanczos import lanczos_error_law


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class InductiveBias(InNats):
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
            for e, v, s in zip(*map(np.atleast_1d, (self.target_error, self.bias.value, self.bias.status)))
        ]
        return "\n".join([header, *rows])


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
      1.21 nats
    """
    check_choice("method", method, ("exact", "lanczos"))
    epsilon = check_array("target_error", target_error, minimum=0)
    if epsilon.ndim > 1:
        raise ValueError(f"`target_error` must be a number or a vector, but its shape is {epsilon.shape}")
    noise_variance = check_array("noise", noise, ndim=0, minimum=0)
    if method == "exact":
        _check_memory(space, task, max_bytes)
    elif isinstance(space, GramBlocks | GaussianPosterior):
        raise ValueError(f"`method` 'lanczos' needs a kernel as `space`, but {type(space).__name__} came")
    elif key is None:
        raise ValueError("`key` must be a PRNG key such as jax.random.key(0) for `method` 'lanczos', but None came")
    space = check_space(space, task)
    leaves = space if isinstance(space, GramBlocks | GaussianPosterior) else Partial(space)
    # Names are static in a task: without them, tasks of one shape share one compiled program.
    anonymous = dataclasses.replace(task, name="", provenance="")
    solution = _solve(leaves, anonymous, epsilon, noise_variance, key, method, n_probes, order, n_nodes)
    if not np.isfinite(solution.center_error):
        _explain_singular_kernel(space, task, noise)
    if np.isnan(solution.mean_error):
        raise ValueError(
            f"the posterior covariance is not positive semi-definite beyond rounding ({epsilon.dtype}); "
            "use float64 or a larger `noise`"
        )
    given = "a hypothesis drawn from the space that " + (
        f"fits the {task.n_train} training points within Gaussian noise of variance {noise:g}"
        if noise > 0
        else f"interpolates the {task.n_train} training points"
    )
    return InductiveBias(
        target_error=epsilon,
        bias=dataclasses.replace(solution.bias, given=given),
        log_evidence=solution.log_evidence,
        mean_error=solution.mean_error,
        center_error=solution.center_error,
        floor=solution.floor,
        noise=noise_variance,
        n_train=task.n_train,
        n_test=task.n_test,
        n_outputs=task.n_outputs,
        method=method,
    )


class _Solution(NamedTuple):
    bias: Estimate
    log_evidence: Array
    mean_error: Array
    center_error: Array
    floor: Array


@partial(jax.jit, static_argnums=(5, 6, 7, 8))
def _solve(
    space: Any,  # a GaussianSpace; for "lanczos" a kernel
    task: Task,
    epsilon: Array,
    noise: Array,
    key: Any,  # a PRNG key for "lanczos"
    method: str,
    n_probes: int,
    order: int,
    n_nodes: int,
) -> _Solution:
    """One compiled program from the arrays to the curve."""
    if method == "exact":
        posterior = gaussian_posterior(space, task, noise)
        law = squared_error_law(posterior, task.y_test)
    else:
        law, posterior = lanczos_error_law(key, space, task, noise, n_probes=n_probes, order=order)
    log_p = generalized_chi2_logcdf(epsilon, *law, n_nodes=n_nodes)
    stderr = jnp.zeros_like(log_p.value)
    if method == "lanczos":
        stderr = _jackknife_stderr(epsilon, law, n_probes, order=min(order, task.n_test), n_nodes=n_nodes)
    nats = jnp.abs(log_p.value)  # -log P, without the -0 of certain events
    promise = 32 * jnp.finfo(nats.dtype).eps ** 0.5 * (1 + nats / 1e3)
    status = jnp.where(log_p.error_bound > promise, Status.INACCURATE, Status.OK)
    impossible = jnp.isinf(nats)
    status = jnp.where(impossible, Status.IMPOSSIBLE, status)
    stderr = jnp.where(impossible, 0, stderr)  # every probe agrees on it
    return _Solution(
        Estimate(nats, stderr, log_p.error_bound, status.astype(jnp.int32)),
        jnp.asarray(posterior.log_evidence),
        law.mean,
        jnp.mean((posterior.mean - task.y_test) ** 2),
        law.floor,
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
    # Kernel and factor; cross block twice; prior, products, covariance, eigenvectors and the eigensolver's work.
    needed = task.y_train.dtype.itemsize * (2 * n_matrix**2 + 2 * n_matrix * m + 6 * directions**2)
    if needed > max_bytes:
        raise ValueError(
            f"the dense method on {n} training points and {directions} test directions needs {needed / 2**30:.1f} GiB, "
            f"more than `max_bytes` = {max_bytes / 2**30:.1f} GiB; raise it, use fewer test points, or "
            "`method='lanczos'`"
        )


def _explain_singular_kernel(space: GaussianSpace, task: Task, noise: float) -> None:
    """Say why the posterior is NaN: only then, so that the usual path pays nothing for the diagnosis."""
    if isinstance(space, GaussianPosterior):
        raise ValueError("`task.y_test` must be finite, but it holds NaN or infinity")
    train = space.train if isinstance(space, GramBlocks) else space(task.x_train, task.x_train)
    gram = np.asarray(train, dtype=np.float64)
    if not np.isfinite(gram).all():
        raise ValueError("the kernel of the training inputs must be finite, but it holds NaN or infinity")
    eigenvalues = np.linalg.eigvalsh(gram)
    kind = "not positive semi-definite" if eigenvalues[0] < -1e-6 * eigenvalues[-1] else "singular to working precision"
    raise ValueError(
        f"the kernel matrix of the {task.n_train} training inputs plus `noise` = {noise:g} is {kind}: its "
        f"eigenvalues run from {eigenvalues[0] + noise:.3g} to {eigenvalues[-1] + noise:.3g} "
        f"({task.y_train.dtype}). No hypothesis of this space interpolates the data reliably; give a larger `noise`"
        + ("" if task.y_train.dtype == np.float64 else " or use float64")
    )
