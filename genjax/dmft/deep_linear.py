r"""Deep linear networks: the mean-field theory without Monte Carlo.

All fields of a linear network are linear in the Gaussian noise, and averages of their products are inner products of
coefficients. The causal solver is therefore exact when its sites are the coordinates of the noise: white rows are
orthonormal vectors. The gradients are the same at every sample, so that one backward direction serves all of them.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from genjax.dmft.causal import sweep
from genjax.dmft.problem import Diagnostics, Problem, Solution, check_kernels, sharpness, verdict
from genjax.dmft.sampling import Noise, input_root


def deep_linear(problem: Problem, *, kernels: str = "full") -> Solution:
    r"""Solve the training of a deep linear network of infinite width exactly, step by step.

    The coefficients of the fields in the noise obey the causal equations of :func:`genjax.dmft.causal.causal`. Their
    fixed point is the matrix algebra of the literature: with :math:`\Delta` diagonal over (time, sample),

    .. math::
       C^l &= A^{l-1} + c\, [H^{l-1} \Delta]_{s<t}, \qquad D^l = B^l + c\, [G^{l+1} \Delta]_{s<t}, \\
       H^l &= (1 - C D)^{-1} [H^{l-1} + C G^{l+1} C^T] (1 - C D)^{-T}, \qquad
       A^l = (1 - C D)^{-1} C, \\
       G^l &= (1 - D C)^{-1} [G^{l+1} + D H^{l-1} D^T] (1 - D C)^{-T}, \qquad
       B^{l-1} = (1 - D C)^{-1} D .

    Args:
      problem: the training, from :func:`training_problem`; its activation is replaced by the identity.
      kernels: ``"full"`` or ``"equal_time"``, as for the causal solver.

    Returns:
      The solution, with standard errors of zero. In double precision it is exact to rounding, except at the edge of
      stability, where rounding grows.

    Raises:
      ValueError: ``kernels`` is not one of the choices.

    References:
      Bordelon and Pehlevan (2022), arXiv:2205.09653, section 4.1 and appendix F (deep linear networks).

    Example:
      >>> import jax.numpy as jnp
      >>> from genjax.dmft.deep_linear import deep_linear
      >>> from genjax.dmft.problem import training_problem
      >>> kx, y = jnp.array([[1.0, 0.5], [0.5, 1.0]]), jnp.array([1.0, -1.0])
      >>> problem = training_problem(kx, y, depth=2, steps=5, activation=lambda h: h, gamma=0.5, learning_rate=0.5)
      >>> print(f"{1 - deep_linear(problem).mean.f[5, 0]:.4f}")
      0.0355
    """
    check_kernels(kernels)
    return _deep_linear(dataclasses.replace(problem, activation=_identity), kernels)


def _identity(h: Array) -> Array:
    return h


@partial(jax.jit, static_argnums=1)
def _deep_linear(problem: Problem, kernels: str) -> Solution:
    mean, residual = sweep(problem, _coordinates(problem), kernels)
    stderr = jax.tree.map(jnp.zeros_like, mean)
    infinite = jnp.asarray(jnp.inf, problem.kx.dtype)
    diagnostics = Diagnostics(infinite, residual, sharpness(problem, mean))
    accurate = residual < jnp.finfo(residual.dtype).eps ** 0.25
    return Solution(mean, stderr, diagnostics, verdict(problem, mean, diagnostics, accurate))


def _coordinates(problem: Problem) -> Noise:
    """Noise whose sites are its own coordinates, forward ones first, of mean square one over sites."""
    times, (n, c) = problem.times, problem.y.shape
    size = times * (n + c)
    forward, backward = jnp.split(jnp.sqrt(size) * jnp.eye(size, dtype=problem.kx.dtype), [times * n])
    # The one direction that n equal gradients span, shared among them.
    shared = backward.reshape(times, 1, c, size) / jnp.sqrt(n)
    shared = jnp.broadcast_to(shared, (times, n, c, size)).reshape(times * n * c, size)
    matrices = problem.depth - 1
    return Noise(input_root(problem) @ forward[:n], backward[:c], (forward,) * matrices, (shared,) * matrices)
