r"""Covariance kernels on input space, as pytrees one can call: ``kernel(x1[n1, ...], x2[n2, ...]) -> float[n1, n2]``.

Each factory returns a :class:`jax.tree_util.Partial`, so a kernel passes through ``jit`` and ``vmap`` as an argument
with its hyper-parameters as leaves: changing a length scale does not recompile. Inputs of any rank are flattened to
vectors of :math:`d` features. When ``x2`` is the very object ``x1``, the diagonal is set exactly and the result is
symmetric to the bit: matrix products alone leave an error there that acts like unrequested noise.

Precision: products run at JAX's ``"highest"`` setting. In float32, entries carry a relative error near 1e-6; squared
distances below about 1e-6 of the squared norms are rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial
from jax.typing import ArrayLike

from genjax.errors import check_array, check_choice, check_positive
from genjax.ntk.infinite.duals import arc_cosine
from genjax.typing import ApplyFn, FeatureMap, Kernel, Params, as_partial


def linear(variance: ArrayLike = 1.0) -> Kernel:
    r"""Linear functions with Gaussian weights: :math:`k(x, x') = v\, x \cdot x'`.

    Args:
      variance: v, variance of each weight, positive.

    Returns:
      The kernel. Its Gram matrix has rank at most d.

    Raises:
      ValueError: ``variance`` is not positive.

    References:
      Rasmussen and Williams (2006), Gaussian Processes for Machine Learning, eq. 2.12.
    """
    check_positive("variance", variance)
    return Partial(_linear, variance)


def polynomial(degree: int, bias: ArrayLike = 1.0) -> Kernel:
    r"""Polynomials up to a degree: :math:`k(x, x') = (x \cdot x' + b)^p`.

    Args:
      degree: p, a positive whole number.
      bias: b, not negative.

    Returns:
      The kernel.

    Raises:
      ValueError: an argument is out of range.

    References:
      Rasmussen and Williams (2006), section 4.2.2.
    """
    check_positive("degree", degree, integer=True)
    return Partial(_polynomial, degree, check_array("bias", bias, ndim=0, minimum=0))


def rbf(length_scale: ArrayLike) -> Kernel:
    r"""Smooth functions: :math:`k(x, x') = \exp(-|x - x'|^2 / 2 \ell^2)`.

    Args:
      length_scale: l, positive, in units of the inputs.

    Returns:
      The kernel, with unit diagonal.

    Raises:
      ValueError: ``length_scale`` is not positive.

    References:
      Rasmussen and Williams (2006), eq. 4.9.
    """
    check_positive("length_scale", length_scale)
    return Partial(_rbf, length_scale)


def matern(length_scale: ArrayLike, smoothness: float = 2.5) -> Kernel:
    r"""Functions of finite smoothness; with :math:`z = \sqrt{2 \nu}\,|x - x'| / \ell`.

    :math:`e^{-z}`, :math:`(1 + z) e^{-z}` and :math:`(1 + z + z^2 / 3) e^{-z}` for :math:`\nu` = 1/2, 3/2, 5/2.

    Args:
      length_scale: l, positive, in units of the inputs.
      smoothness: nu, one of 0.5, 1.5, 2.5.

    Returns:
      The kernel, with unit diagonal.

    Raises:
      ValueError: an argument is out of range.

    References:
      Rasmussen and Williams (2006), eqs. 4.16-4.17.
    """
    check_positive("length_scale", length_scale)
    check_choice("smoothness", smoothness, (0.5, 1.5, 2.5))
    return Partial({0.5: _matern12, 1.5: _matern32, 2.5: _matern52}[smoothness], length_scale)


def laplace(length_scale: ArrayLike) -> Kernel:
    r"""Rough functions: :math:`k(x, x') = \exp(-|x - x'| / \ell)`, the Matern kernel of smoothness 1/2.

    The Euclidean norm, as in comparisons with neural tangent kernels (some libraries take the 1-norm here).

    Args:
      length_scale: l, positive, in units of the inputs.

    Returns:
      The kernel, with unit diagonal.

    Raises:
      ValueError: ``length_scale`` is not positive.

    References:
      Geifman et al. (2020), arXiv:2007.01580 (its closeness to the NTK of a fully connected network).
    """
    return matern(length_scale, 0.5)


def from_features(feature_map: FeatureMap) -> Kernel:
    r"""Linear combinations of given features with standard normal weights: :math:`k(x, x') = \phi(x) \cdot \phi(x')`.

    Args:
      feature_map: ``x[n, ...] -> float[n, p]``, pure.

    Returns:
      The kernel. Its Gram matrix has rank at most p.

    References:
      Rasmussen and Williams (2006), eq. 2.12.
    """
    return Partial(_from_features, Partial(feature_map))


def tangent_features(apply_fn: ApplyFn, params: Params) -> FeatureMap:
    r"""Features of a model linearized at its parameters: the gradient of each output.

    .. math::  \phi(x) = \frac{1}{\sqrt{c}} \left[ \partial f_j(x) / \partial\theta_i \right]_{ji}, \qquad
       \phi(x) \cdot \phi(x') = \frac{1}{c} \sum_{j} \partial_\theta f_j(x) \cdot \partial_\theta f_j(x')

    ``from_features(tangent_features(apply_fn, params))`` is its empirical neural tangent kernel, averaged over outputs:
    the hypothesis space a Gaussian perturbation of all parameters reaches, to first order.

    Args:
      apply_fn: ``apply_fn(params, x[n, ...]) -> float[n, c]``, pure; each output row depends on its own input only.
      params: pytree of floating arrays, p numbers in all.

    Returns:
      The feature map ``x[n, ...] -> float[n, c p]``.

    Notes:
      Holds the whole Jacobian: ``n c p`` numbers. Meant for small models.

    References:
      Jacot et al. (2018), arXiv:1806.07572, section 4.
    """
    return Partial(_tangent_features, as_partial(apply_fn), params)


def mlp_nngp(depth: int, weight_variance: ArrayLike = 2.0, bias_variance: ArrayLike = 0.0) -> Kernel:
    r"""Infinitely wide ReLU network at random initialization (neural network Gaussian process).

    Over d inputs, then ``depth`` hidden layers, each with a bias, weights of variance
    :math:`\sigma_w^2 / \text{fan-in}` and biases of variance :math:`\sigma_b^2`:

    .. math::
       k_0 = \sigma_w^2 \frac{x \cdot x'}{d} + \sigma_b^2, \qquad
       k_{l+1} = \frac{\sigma_w^2}{2} \sqrt{k_l(x, x) k_l(x', x')}\, \kappa_1(\theta_l) + \sigma_b^2,

    with :math:`\kappa_1(\theta) = (\sin\theta + (\pi - \theta) \cos\theta) / \pi` and :math:`\theta_l` the angle
    between the two inputs under :math:`k_l`.

    Args:
      depth: number of hidden layers, at least 1.
      weight_variance: sigma_w squared, positive; 2 keeps the variance from layer to layer.
      bias_variance: sigma_b squared, not negative.

    Returns:
      The kernel of the network's output.

    Raises:
      ValueError: an argument is out of range.

    Notes:
      The recursion carries :math:`\sqrt{k k'} - k_{12}` instead of :math:`k_{12}`, which keeps full relative precision
      for nearly parallel inputs at any depth.

    References:
      Cho and Saul (2009), NeurIPS, eqs. 5-6; Lee et al. (2018), arXiv:1711.00165, eq. 5.
    """
    return _mlp(_mlp_nngp, depth, weight_variance, bias_variance)


def mlp_ntk(depth: int, weight_variance: ArrayLike = 2.0, bias_variance: ArrayLike = 0.0) -> Kernel:
    r"""Neural tangent kernel of the network of :func:`mlp_nngp`, all layers trained, NTK parameterization.

    .. math::
       \Theta_0 = k_0, \qquad \Theta_{l+1} = k_{l+1} + \sigma_w^2 \frac{\pi - \theta_l}{2 \pi} \Theta_l .

    As a hypothesis space: the functions a Gaussian perturbation of all parameters reaches in the linearized network.

    Args:
      depth: number of hidden layers, at least 1.
      weight_variance: sigma_w squared, positive.
      bias_variance: sigma_b squared, not negative.

    Returns:
      The kernel.

    Raises:
      ValueError: an argument is out of range.

    References:
      Jacot et al. (2018), arXiv:1806.07572, theorem 1.
    """
    return _mlp(_mlp_ntk, depth, weight_variance, bias_variance)


def _mlp(evaluate: Callable[..., Array], depth: int, weight_variance: ArrayLike, bias_variance: ArrayLike) -> Kernel:
    check_positive("depth", depth, integer=True)
    check_positive("weight_variance", weight_variance)
    return Partial(evaluate, depth, weight_variance, check_array("bias_variance", bias_variance, ndim=0, minimum=0))


def _flat(x1: Array, x2: Array) -> tuple[Array, Array, bool]:
    same = x2 is x1
    x1 = check_array("x1", x1)
    x2 = x1 if same else check_array("x2", x2)
    if x1.ndim < 2 or x1.shape[1:] != x2.shape[1:]:
        raise ValueError(
            f"`x1` and `x2` must be batches of inputs of one shape, but their shapes are {x1.shape} and {x2.shape}"
        )
    return x1.reshape(x1.shape[0], -1), x2.reshape(x2.shape[0], -1), same


def _set_diagonal(gram: Array, value: Array | float) -> Array:
    """Symmetric to the bit, with the diagonal that arithmetic on pairs of equal inputs would have to give."""
    gram = (gram + gram.T) / 2
    return jnp.where(jnp.eye(gram.shape[0], dtype=bool), value, gram)


def _inner(x1: Array, x2: Array) -> tuple[Array, Array, Array]:
    """Inner products ``[n1, n2]`` and squared norms ``[n1, 1]``, ``[1, n2]``."""
    x1, x2, same = _flat(x1, x2)
    inner = jnp.matmul(x1, x2.T, precision=jax.lax.Precision.HIGHEST)
    norm1, norm2 = jnp.sum(x1**2, axis=1)[:, None], jnp.sum(x2**2, axis=1)[None, :]
    return (_set_diagonal(inner, norm1) if same else inner), norm1, norm2


def _squared_distance(x1: Array, x2: Array) -> Array:
    inner, norm1, norm2 = _inner(x1, x2)
    return jnp.maximum(norm1 + norm2 - 2 * inner, 0)


def _distance(x1: Array, x2: Array) -> Array:
    squared = _squared_distance(x1, x2)
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1)), 0)


def _linear(variance: Array, x1: Array, x2: Array) -> Array:
    return variance * _inner(x1, x2)[0]


def _polynomial(degree: Array, bias: Array, x1: Array, x2: Array) -> Array:
    return (_inner(x1, x2)[0] + bias) ** degree


def _rbf(length_scale: Array, x1: Array, x2: Array) -> Array:
    return jnp.exp(-_squared_distance(x1, x2) / (2 * jnp.asarray(length_scale) ** 2))


def _matern12(length_scale: Array, x1: Array, x2: Array) -> Array:
    return jnp.exp(-_distance(x1, x2) / length_scale)


def _matern32(length_scale: Array, x1: Array, x2: Array) -> Array:
    z = 3**0.5 * _distance(x1, x2) / length_scale
    return (1 + z) * jnp.exp(-z)


def _matern52(length_scale: Array, x1: Array, x2: Array) -> Array:
    z = 5**0.5 * _distance(x1, x2) / length_scale
    return (1 + z + z**2 / 3) * jnp.exp(-z)


def _from_features(feature_map: FeatureMap, x1: Array, x2: Array) -> Array:
    features1 = feature_map(x1)
    return _inner(features1, features1 if x2 is x1 else feature_map(x2))[0]


def _tangent_features(apply_fn: ApplyFn, params: Params, x: Array) -> Array:
    def outputs(params: Params, one: Array) -> Array:
        return apply_fn(params, one[None])[0]

    jacobian = jax.vmap(jax.jacrev(outputs), (None, 0))(params, x)
    flat = jnp.concatenate([leaf.reshape(*leaf.shape[:2], -1) for leaf in jax.tree.leaves(jacobian)], axis=2)
    return flat.reshape(flat.shape[0], -1) / flat.shape[1] ** 0.5


def _mlp_nngp(depth: Array, weight_variance: Array, bias_variance: Array, x1: Array, x2: Array) -> Array:
    x1, x2, same = _flat(x1, x2)
    return _arc_cosine_recursion(depth, weight_variance, bias_variance, x1, None if same else x2)[0]


def _mlp_ntk(depth: Array, weight_variance: Array, bias_variance: Array, x1: Array, x2: Array) -> Array:
    x1, x2, same = _flat(x1, x2)
    return _arc_cosine_recursion(depth, weight_variance, bias_variance, x1, None if same else x2)[1]


@jax.jit
def _arc_cosine_recursion(
    depth: Array, weight_variance: Array, bias_variance: Array, x1: Array, x2: Array | None
) -> tuple[Array, Array]:
    """NNGP and NTK ``[n1, n2]``; carries the variances k1, k2 and the defect ``sqrt(k1 k2) - k12``."""
    x2 = x1 if x2 is None else x2
    inner, norm1, norm2 = _inner(x1, x2)
    scale = weight_variance / (x1.size // x1.shape[0])
    k1, k2 = scale * norm1 + bias_variance, scale * norm2 + bias_variance
    geometric = jnp.sqrt(k1 * k2)
    # |x||x'| - x.x' + (bias part), each a difference of like terms once; exactly zero for one and the same input.
    defect = scale * jnp.maximum(jnp.sqrt(norm1 * norm2) - inner, 0) + (
        geometric - scale * jnp.sqrt(norm1 * norm2) - bias_variance
    )
    if x2 is x1:
        defect = _set_diagonal(defect, 0.0)
    defect = jnp.maximum(defect, 0)

    def layer(_: Array, carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        k1, k2, defect, tangent = carry
        geometric = jnp.sqrt(k1 * k2)
        ratio = jnp.where(geometric > 0, defect / jnp.where(geometric > 0, geometric, 1), 0)
        _, slope, drop = arc_cosine(jnp.clip(ratio, 0, 2), (0.0, 1.0))
        half = weight_variance / 2
        next1, next2 = half * k1 + bias_variance, half * k2 + bias_variance
        next_geometric = jnp.sqrt(next1 * next2)
        # next_geometric - half * geometric - bias_variance, without its cancellation
        spread = half * bias_variance * (jnp.sqrt(k1) - jnp.sqrt(k2)) ** 2
        spread = spread / jnp.maximum(next_geometric + half * geometric + bias_variance, jnp.finfo(spread.dtype).tiny)
        next_defect = spread + weight_variance * geometric * drop
        tangent = (next_geometric - next_defect) + weight_variance * slope * tangent
        return next1, next2, next_defect, tangent

    k1, k2, defect, tangent = jax.lax.fori_loop(0, depth, layer, (k1, k2, defect, geometric - defect))
    nngp = jnp.sqrt(k1 * k2) - defect
    # Compiled loops round their last few entries in another way than the rest.
    return ((nngp + nngp.T) / 2, (tangent + tangent.T) / 2) if x2 is x1 else (nngp, tangent)
