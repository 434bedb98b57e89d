r"""A network as a polynomial in its parameters, around where they are."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial

from genjax.errors import check_positive
from genjax.typing import ApplyFn, Params, as_partial


def linearize(apply_fn: ApplyFn, params: Params) -> ApplyFn:
    r"""The network's tangent: linear in the parameters, as nonlinear as before in the input.

    .. math::
       f_{lin}(\theta, x) = f(\theta_0, x) + \partial_\theta f(\theta_0, x)\, (\theta - \theta_0)

    Args:
      apply_fn: pure ``apply_fn(params, x)``.
      params: :math:`\theta_0`, any pytree of floating arrays.

    Returns:
      A pure function of parameters and inputs, like ``apply_fn``, whose kernel is the tangent kernel at ``params`` for
      ever: train it with any optimizer.

    References:
      Lee et al. (2019), Wide neural networks of any depth evolve as linear models under gradient descent, eq. 4.

    Example:
      >>> from genjax.ntk import linearize
      >>> line = linearize(lambda w, x: w**2 * x, 1.0)
      >>> float(line(1.5, 1.0))  # 1 + 2 * 0.5
      2.0
    """
    return taylor_expand(apply_fn, params, 1)


def taylor_expand(apply_fn: ApplyFn, params: Params, degree: int) -> ApplyFn:
    r"""The network's Taylor polynomial of any degree in its parameters.

    .. math::
       f_k(\theta, x) = \sum_{j=0}^{k} \frac{1}{j!}\, \partial_\theta^j f(\theta_0, x)[\theta - \theta_0, \ldots]

    Args:
      apply_fn: pure ``apply_fn(params, x)``.
      params: :math:`\theta_0`, any pytree of floating arrays.
      degree: k, a positive whole number; the cost grows like :math:`2^k` evaluations of the network.

    Returns:
      A pure function of parameters and inputs, like ``apply_fn``.

    Raises:
      ValueError: ``degree`` is not a positive whole number.

    References:
      Bai and Lee (2020), Beyond linearization: on quadratic and higher-order approximation of wide neural networks.
    """
    check_positive("degree", degree, integer=True)
    return Partial(_Polynomial(degree), as_partial(apply_fn), params)


@dataclasses.dataclass(frozen=True)
class _Polynomial:
    """Equal to another of the same degree, so that programs are shared."""

    degree: int

    def __call__(self, apply_fn: Partial, start: Params, params: Params, x: Array) -> Array:
        change = jax.tree.map(lambda new, old: jnp.asarray(new, jnp.result_type(old)) - old, params, start)
        derivative: Callable[[Params], Array] = lambda p: apply_fn(p, x)  # noqa: E731
        total = derivative(start)
        for order in range(1, self.degree + 1):
            derivative = _along(derivative, change)
            total = total + derivative(start) / math.factorial(order)
        return total


def _along(function: Callable[[Params], Array], change: Params) -> Callable[[Params], Array]:
    return lambda p: jax.jvp(function, (p,), (change,))[1]
