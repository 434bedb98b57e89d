r"""Hypothesis spaces: a prior over functions, written as a map from independent standard normal coordinates.

Every continuous or discrete weight prior is the image of :math:`z \sim N(0, 1_D)` under a *transport*, so one set of
Monte Carlo moves, those that keep the standard normal law, serves them all.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial

from genjax.errors import check_array, check_choice
from genjax.tasks import Task
from genjax.typing import ApplyFn, Kernel, Params, as_partial
from genjax.volume.gaussian import GaussianPosterior

PRIORS = ("gaussian", "uniform", "spherical", "sign")
Scale = float | Callable[[str, tuple[int, ...]], float] | Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class HypothesisSpace:
    r"""Hypotheses :math:`f_\theta`, :math:`\theta = T(z)`, :math:`z \sim N(0, 1_D)`.

    A pytree: arrays inside the functions are leaves, so equal spaces share compiled programs. Build one with
    :func:`weight_space`, :func:`log_prior_space`, :func:`linearized_space`, :func:`posterior_space` or
    :func:`gaussian_process_space`.

    Attributes:
      transport: ``transport(z[D]) -> params``.
      apply_fn: ``apply_fn(params, x[n, ...]) -> float[n, c]``.
      log_weight: ``log_weight(z[D]) -> float[]``, log density (nats, up to a constant) of the prior relative to the
        standard normal law of ``z``; None where the transport alone gives the prior.
      dimension: D, number of coordinates.
      prior: the prior in words.
    """

    transport: Partial
    apply_fn: Partial
    log_weight: Partial | None
    dimension: int = dataclasses.field(metadata={"static": True})
    prior: str = dataclasses.field(metadata={"static": True})

    def sample(self, key: Array) -> Params:
        """Draw the parameters of one hypothesis.

        Args:
          key: typed PRNG key.

        Returns:
          Parameters.

        Raises:
          ValueError: the prior is known by its log density only, so it cannot be drawn from directly.

        References:
          Transport of a standard normal draw.
        """
        if self.log_weight is not None:
            raise ValueError(
                "`space` must have a prior that can be sampled, but it is known by `log_prior` only; use method "
                "'splitting' or 'tempered'"
            )
        return self.transport(jax.random.normal(key, (self.dimension,)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainedSpace:
    """Hypotheses as outcomes of a training algorithm: a seed determines the parameters.

    Build one with :func:`trained_space`.

    Attributes:
      train: ``train(key) -> params``, pure.
      apply_fn: ``apply_fn(params, x[n, ...]) -> float[n, c]``.
      prior: the algorithm in words.
    """

    train: Partial
    apply_fn: Partial
    prior: str = dataclasses.field(metadata={"static": True})

    def sample(self, key: Array) -> Params:
        """Train one hypothesis.

        Args:
          key: typed PRNG key: everything that differs between runs.

        Returns:
          Trained parameters.

        References:
          The algorithm's own.
        """
        return self.train(key)


def weight_space(
    apply_fn: ApplyFn, like: Params, prior: str = "gaussian", scale: Scale = 1.0, *, description: str = ""
) -> HypothesisSpace:
    r"""All settings of a model's weights, under a prior that is independent between arrays.

    With :math:`s` the scale of an array of :math:`k` weights:

    ============  ==========================================================================
    prior         weights
    ============  ==========================================================================
    gaussian      :math:`N(0, s^2)`
    uniform       uniform on :math:`[-s, s]`
    spherical     the whole array uniform on the sphere of radius :math:`s \sqrt{k}`
    sign          :math:`\pm s` with equal probability
    ============  ==========================================================================

    Args:
      apply_fn: any pure ``apply_fn(params, x[n, ...]) -> float[n, c]``; of a :class:`genjax.models.Model`,
        ``model.apply_fn()``.
      like: parameters of the model, or their shapes (``jax.eval_shape(model.init, key, x)[0]``); only structure,
        shapes and dtypes count.
      prior: ``"gaussian"``, ``"uniform"``, ``"spherical"`` or ``"sign"``.
      scale: one number; a pytree of numbers with ``like``'s structure (or a prefix of it: a number for each layer); or
        a function of an array's path and shape such as :func:`fan_in_scale`.
      description: the model in words, for results.

    Returns:
      The space, of dimension the number of weights.

    Raises:
      ValueError: no parameters, an unknown prior, or a scale that is not positive.

    References:
      Neal (1996), Bayesian Learning for Neural Networks (weight priors); the whitening is genjax's own.

    Example:
      >>> import jax.numpy as jnp
      >>> from genjax.volume import weight_space
      >>> perceptron = weight_space(lambda w, x: x @ w[:, None], jnp.zeros(20), "spherical")
      >>> perceptron.dimension
      20
    """
    check_choice("prior", prior, PRIORS)
    leaves, structure = jax.tree.flatten(like)
    sizes = [math.prod(np.shape(leaf)) for leaf in leaves]
    if not sum(sizes):
        raise ValueError("`like` must hold at least one parameter, but it has none")
    shapes = tuple((tuple(np.shape(leaf)), jnp.result_type(leaf)) for leaf in leaves)
    scales = _scales(scale, like)
    words = f"{prior} weights" + (f" of {description}" if description else "")
    return HypothesisSpace(
        transport=Partial(_Transport(structure, shapes, prior), scales),
        apply_fn=as_partial(apply_fn),
        log_weight=None,
        dimension=sum(sizes),
        prior=words,
    )


def fan_in_scale(gain: float = 1.0, bias: float = 1.0) -> Callable[[str, tuple[int, ...]], float]:
    r"""Scale :math:`g / \sqrt{\text{fan-in}}` for matrices and filters, a constant for vectors and numbers.

    Args:
      gain: :math:`g`; its square is the weight variance of the infinite-width kernels.
      bias: scale of arrays of fewer than two axes.

    Returns:
      A function of path and shape for :func:`weight_space`; the fan-in is the product of all axes but the last, as in
      Flax and Haiku.

    References:
      LeCun et al. (1998), Efficient BackProp.
    """

    def scale(path: str, shape: tuple[int, ...]) -> float:  # noqa: ARG001
        return bias if len(shape) < 2 else gain / math.sqrt(math.prod(shape[:-1]))

    return scale


def log_prior_space(
    apply_fn: ApplyFn,
    like: Params,
    log_prior: Callable[[Params], Array],
    scale: Scale = 1.0,
    *,
    description: str = "",
) -> HypothesisSpace:
    r"""Weights under any prior density, known up to a constant.

    .. math::
       \log w(z) = \log p(\theta) + \tfrac12 |z|^2, \qquad \theta = s z

    Args:
      apply_fn: ``apply_fn(params, x[n, ...]) -> float[n, c]``.
      like: parameters or their shapes.
      log_prior: ``log_prior(params) -> float[]``, nats, up to a constant; ``-inf`` outside the support.
      scale: of the Gaussian reference the simulation starts from, as in :func:`weight_space`; the nearer to the
        prior's own scale, the fewer steps from it to the prior.
      description: the prior in words.

    Returns:
      The space; its prior cannot be drawn from directly, so it takes a method that moves.

    Raises:
      ValueError: as :func:`weight_space`.

    References:
      Del Moral, Doucet & Jasra (2006), Sequential Monte Carlo samplers (bridging from a reference).
    """
    reference = weight_space(apply_fn, like, "gaussian", scale)
    return dataclasses.replace(
        reference,
        log_weight=Partial(_log_weight, as_partial(log_prior), reference.transport),
        prior=description or "weights under a given log density",
    )


def linearized_space(
    apply_fn: ApplyFn, params: Params, prior: str = "gaussian", scale: Scale = 1.0, *, description: str = ""
) -> HypothesisSpace:
    r"""A model linearized at given parameters, :math:`f(\theta_0) + J(\theta_0) \delta`, with a prior over the change.

    Args:
      apply_fn: ``apply_fn(params, x[n, ...]) -> float[n, c]``, differentiable.
      params: :math:`\theta_0`.
      prior: of :math:`\delta`, as in :func:`weight_space`.
      scale: of :math:`\delta`.
      description: the model in words.

    Returns:
      The space; a hypothesis's parameters are :math:`\delta`.

    Raises:
      ValueError: as :func:`weight_space`.

    References:
      Jacot, Gabriel & Hongler (2018), arXiv:1806.07572; Lee et al. (2019), arXiv:1902.06720.
    """
    tangent = Partial(_linearized, as_partial(apply_fn), params)
    return weight_space(tangent, params, prior, scale, description=description or "a linearized model")


def posterior_space(posterior: GaussianPosterior) -> HypothesisSpace:
    r"""The fitting hypotheses of a Gaussian space, by their outputs on the test inputs: :math:`\mu + \Sigma^{1/2} z`.

    What :func:`genjax.volume.gaussian_inductive_bias` integrates exactly, in a form every simulation takes. The
    parameters of a hypothesis are its test outputs; ``apply_fn`` returns them whatever the inputs, so there is no
    training stage (``fit=False``).

    Args:
      posterior: from :func:`genjax.volume.gaussian_posterior`, with a covariance ``[m, m]`` shared by the outputs.

    Returns:
      The space, of dimension ``m c``.

    Raises:
      ValueError: the covariance is not ``[m, m]``.

    References:
      Rasmussen & Williams (2006), Gaussian Processes for Machine Learning, appendix A.2.
    """
    mean = check_array("posterior.mean", posterior.mean, ndim=2)
    m, c = mean.shape
    covariance = check_array("posterior.covariance", posterior.covariance, shape=(m, m))
    variances, directions = jnp.linalg.eigh(covariance)
    root = directions * jnp.sqrt(jnp.maximum(variances, 0))
    return HypothesisSpace(
        transport=Partial(_gaussian_outputs, mean, root),
        apply_fn=Partial(_constant),
        log_weight=None,
        dimension=m * c,
        prior="Gaussian posterior over test outputs",
    )


def trained_space(
    train: Callable[[Array], Params], apply_fn: ApplyFn, *, description: str = "outcome of training"
) -> TrainedSpace:
    """The outcomes of a training algorithm over its seeds.

    Args:
      train: ``train(key) -> params``, pure: initialization, data order and noise all from the key. From
        :func:`genjax.run.make_train`: ``lambda key: train(key, {"learning_rate": 1e-3}).params``.
      apply_fn: ``apply_fn(params, x[n, ...]) -> float[n, c]``.
      description: the algorithm in words.

    Returns:
      The space; simulate it with method ``"trained"``.

    References:
      Boopathy et al. (2024), arXiv:2406.15941, section on neural-network hypothesis spaces.
    """
    return TrainedSpace(as_partial(train), as_partial(apply_fn), description)


def gaussian_process_space(kernel: Kernel, task: Task, *, description: str = "") -> tuple[HypothesisSpace, Task]:
    r"""The functions of a Gaussian process, by their values on a task's inputs: :math:`f = K^{1/2} z`.

    What a network's space is compared with: with an infinite-width kernel it is the limit of :func:`weight_space`. Any
    error goes, the 0-1 error too, where :func:`genjax.volume.gaussian_inductive_bias` knows the squared error only.

    Args:
      kernel: ``kernel(x[n, ...], x'[m, ...]) -> float[n, m]``; outputs are independent, each with this covariance.
      task: training and test data.
      description: the kernel in words.

    Returns:
      The space, of dimension ``(n_train + n_test) c``, whose parameters are function values ``float[n_train + n_test,
      c]``; and the same task with inputs replaced by their numbers ``int[n]``, which is what ``apply_fn`` takes.

    Raises:
      ValueError: the kernel's values are not finite or not of shape ``[n, m]``.

    References:
      Rasmussen & Williams (2006), Gaussian Processes for Machine Learning, section 2.2; Lee et al. (2018),
      arXiv:1711.00165 (infinitely wide networks).

    Example:
      >>> import jax.numpy as jnp
      >>> from genjax.ntk import rbf
      >>> from genjax.tasks import make_task
      >>> from genjax.volume import gaussian_process_space
      >>> x = jnp.linspace(0, 1, 6)[:, None]
      >>> space, numbered = gaussian_process_space(rbf(0.5), make_task(x[:2], x[:2], x[2:], x[2:]))
      >>> space.dimension, numbered.x_test
      (6, Array([2, 3, 4, 5], dtype=int32))
    """
    x = jnp.concatenate([task.x_train, task.x_test])
    n = task.n_train + task.n_test
    covariance = check_array("kernel(x, x)", kernel(x, x), shape=(n, n))
    variances, directions = jnp.linalg.eigh((covariance + covariance.T) / 2)
    root = directions * jnp.sqrt(jnp.maximum(variances, 0))  # a Cholesky factor would need full rank
    space = HypothesisSpace(
        transport=Partial(_gaussian_outputs, jnp.zeros((n, task.n_outputs)), root),
        apply_fn=Partial(_values_at),
        log_weight=None,
        dimension=n * task.n_outputs,
        prior="a Gaussian process" + (f" with {description}" if description else ""),
    )
    numbers = jnp.arange(n, dtype=jnp.int32)
    return space, dataclasses.replace(task, x_train=numbers[: task.n_train], x_test=numbers[task.n_train :])


@dataclasses.dataclass(frozen=True)
class _Transport:
    """From coordinates and scales to parameters; equal to another of the same shapes, so that programs are shared."""

    structure: Any
    shapes: tuple[tuple[tuple[int, ...], Any], ...]
    prior: str

    def __call__(self, scales: list[Array], z: Array) -> Params:
        ends = np.cumsum([math.prod(shape) for shape, _ in self.shapes])
        pieces = jnp.split(z, ends[:-1])
        leaves = [
            (scale * _whiten_inverse(piece, self.prior)).reshape(shape).astype(dtype)
            for piece, scale, (shape, dtype) in zip(pieces, scales, self.shapes, strict=True)
        ]
        return jax.tree.unflatten(self.structure, leaves)


def _whiten_inverse(z: Array, prior: str) -> Array:
    if prior == "uniform":
        return jax.lax.erf(z / math.sqrt(2))  # 2 Phi(z) - 1
    if prior == "spherical":
        return z * jax.lax.rsqrt(jnp.mean(z**2))
    return jnp.where(z >= 0, 1.0, -1.0) if prior == "sign" else z


def _scales(scale: Scale, like: Params) -> list[Array]:
    paths, _ = jax.tree_util.tree_flatten_with_path(like)
    if callable(scale):
        values = [scale(jax.tree_util.keystr(path, simple=True, separator="."), np.shape(leaf)) for path, leaf in paths]
    else:
        repeated = jax.tree.map(lambda s, part: [s] * len(jax.tree.leaves(part)), scale, like)
        values = jax.tree.leaves(repeated)
    scales = [check_array("scale", value, ndim=0) for value in values]
    if len(scales) != len(paths) or any(not float(s) > 0 for s in scales):
        raise ValueError(f"`scale` must give one positive number for each of {len(paths)} arrays: {values}")
    return scales


def _log_weight(log_prior: Partial, transport: Partial, z: Array) -> Array:
    return log_prior(transport(z)) + 0.5 * jnp.sum(z**2)


def _linearized(apply_fn: Partial, params: Params, change: Params, x: Array) -> Array:
    outputs, slope = jax.jvp(lambda p: apply_fn(p, x), (params,), (change,))
    return outputs + slope


def _gaussian_outputs(mean: Array, root: Array, z: Array) -> Array:
    return mean + root @ z.reshape(mean.shape)


def _values_at(values: Array, numbers: Array) -> Array:
    return values[numbers]


def _constant(outputs: Array, x: Array) -> Array:  # noqa: ARG001
    return outputs
