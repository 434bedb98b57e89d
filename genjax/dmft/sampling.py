"""The random fields of the sites of every layer, and means over independent batches of sites with their errors."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from genjax.dmft.problem import Diagnostics, OrderParameters, Problem, Solution, sharpness, verdict
from genjax.errors import check_positive


class Noise(NamedTuple):
    """White and colored Gaussian fields at every site, in rows. A row is one sample (and output) at one time.

    Attributes:
      inputs: ``float[n, s]``, first-layer fields at the start, of covariance ``kx``.
      readout: ``float[c, s]``, readout weights at the start.
      forward: ``float[t n, s]`` white, for each matrix between hidden layers, at sites of the layer above.
      backward: ``float[t n c, s]`` white, for each, at sites of the layer below.
    """

    inputs: Array
    readout: Array
    forward: tuple[Array, ...]
    backward: tuple[Array, ...]


def input_root(problem: Problem) -> Array:
    """Symmetric square root of the input Gram matrix; NaN where it has negative eigenvalues beyond rounding."""
    values, vectors = jnp.linalg.eigh(problem.kx)
    floor = -len(values) * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values))
    values = jnp.where(values >= floor, jnp.maximum(values, 0), jnp.nan)
    with jax.default_matmul_precision("highest"):
        return (vectors * jnp.sqrt(values)) @ vectors.T


def draw(problem: Problem, key: Array, samples: int) -> Noise:
    """Antithetic sites: backward fields change sign between halves, so that outputs vanish at the start.

    Where a half has twice as many sites as there are rows of one kind, these rows are whitened exactly.
    """
    n, c = problem.y.shape
    half = samples // 2

    def rows(index: int, count: int, sign: int) -> Array:
        z = jax.random.normal(jax.random.fold_in(key, index), (count, half), problem.kx.dtype)
        if half >= 2 * count:
            z = z - jnp.mean(z, axis=1, keepdims=True)
            factor = jnp.linalg.cholesky(z @ z.T / half)
            z = jax.scipy.linalg.solve_triangular(factor, z, lower=True)
        return jnp.concatenate([z, sign * z], axis=1)

    with jax.default_matmul_precision("highest"):
        inputs = input_root(problem) @ rows(0, n, 1)
        hidden = range(1, problem.depth)
        forward = tuple(rows(2 * layer, problem.times * n, 1) for layer in hidden)
        backward = tuple(rows(2 * layer + 1, problem.times * n * c, -1) for layer in hidden)
        return Noise(inputs, rows(1, c, -1), forward, backward)


# (problem, key, samples, *options) -> (order parameters, residual, accurate)
BatchSolver = Callable[..., tuple[OrderParameters, Array, Array]]


@partial(jax.jit, static_argnums=(0, 3, 4, 5))
def batched(
    solver: BatchSolver, problem: Problem, key: Array, samples: int, batches: int, options: tuple[Hashable, ...]
) -> Solution:
    """Mean over batches, one after another."""

    def add(moments: tuple, batch: Array) -> tuple[tuple, tuple[Array, Array]]:
        mean, squares = moments
        new, residual, accurate = solver(problem, jax.random.fold_in(key, batch), samples, *options)
        shift = jax.tree.map(jnp.subtract, new, mean)
        mean = jax.tree.map(lambda m, d: m + d / (batch + 1), mean, shift)
        squares = jax.tree.map(lambda s, d, x, m: s + d * (x - m), squares, shift, new, mean)
        return (mean, squares), (residual, accurate)

    shapes = jax.eval_shape(lambda: solver(problem, key, samples, *options)[0])
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    (mean, squares), (residual, accurate) = jax.lax.scan(add, (zeros, zeros), jnp.arange(batches))
    stderr = jax.tree.map(lambda s: jnp.sqrt(s / (batches - 1) / batches), squares)
    n, c = problem.y.shape
    directions = n if problem.depth == 1 else problem.times * n * c
    ratio = jnp.asarray(samples / directions, problem.kx.dtype)
    diagnostics = Diagnostics(ratio, jnp.max(residual), sharpness(problem, mean))
    status = verdict(problem, mean, diagnostics, jnp.all(accurate) & (ratio >= 4))
    return Solution(mean, stderr, diagnostics, status)


def check_sampling(samples: int, batches: int) -> None:
    """Raise unless there are whole numbers of pairs of sites and of batches, two at least."""
    check_positive("samples", samples, integer=True)
    check_positive("batches", batches, integer=True)
    if samples % 2:
        raise ValueError(f"`samples` must be even, for antithetic pairs, but {samples} came")
    if batches < 2:
        raise ValueError(f"`batches` must be at least 2 for a standard error, but {batches} came")


def causal_part(matrix: Array, times: int, *, strictly: bool = False) -> Array:
    """Zero where the second time is later than the first (``strictly``: or equal)."""
    blocks = matrix.reshape(times, matrix.shape[0] // times, times, -1)
    mask = jnp.tril(jnp.ones((times, times), matrix.dtype), -1 if strictly else 0)
    return (blocks * mask[:, None, :, None]).reshape(matrix.shape)


def causal_root(kernel: Array, times: int) -> tuple[Array, Array]:
    """Block lower-triangular square root of a covariance over (time, row) and its pseudo-inverse.

    Gram-Schmidt in terms of the kernel: blocks on the diagonal are symmetric, and directions without variance of their
    own are zero.
    """
    size = kernel.shape[0]
    width = size // times
    eye = jnp.eye(size, dtype=kernel.dtype)

    def extend(state: tuple[Array, Array], t: Array) -> tuple[tuple[Array, Array], None]:
        root, inverse = state
        rows = jax.lax.dynamic_slice_in_dim(kernel, t * width, width)
        coefficients = rows @ inverse.T
        own = jax.lax.dynamic_slice_in_dim(rows, t * width, width, axis=1)
        values, vectors = jnp.linalg.eigh(own - coefficients @ coefficients.T)
        threshold = jnp.finfo(kernel.dtype).eps ** 0.625 * jnp.trace(own) / width
        keep = values > threshold
        values = jnp.where(keep, values, 1)
        half = (vectors * (keep * jnp.sqrt(values))) @ vectors.T
        unhalf = (vectors * (keep / jnp.sqrt(values))) @ vectors.T
        here = jax.lax.dynamic_slice_in_dim(eye, t * width, width)
        root = jax.lax.dynamic_update_slice_in_dim(root, coefficients + half @ here, t * width, 0)
        new = unhalf @ (here - coefficients @ inverse)
        return (root, jax.lax.dynamic_update_slice_in_dim(inverse, new, t * width, 0)), None

    zero = jnp.zeros_like(kernel)
    return jax.lax.scan(extend, (zero, zero), jnp.arange(times))[0]
