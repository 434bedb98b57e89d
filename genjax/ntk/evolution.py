"""How the empirical NTK changes while a network trains: is training lazy, and what does the kernel align with?"""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from genjax.errors import check_array, check_positive
from genjax.ntk.diagnostics import kernel_distance, target_alignment
from genjax.ntk.empirical import empirical_ntk
from genjax.typing import ApplyFn, Params, as_partial


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Evolution:
    """Measures of a kernel along training; leading axes are those of the parameters, times last.

    Attributes:
      distance: ``float[..., T]``, :func:`kernel_distance` from the first kernel.
      velocity: ``float[..., T - 1]``, distance of each kernel to the next over the time between them.
      trace: ``float[..., T]``.
      norm: ``float[..., T]``, Frobenius norm.
      eigenvalues: ``float[..., T, k]``, the largest, descending.
      label_alignment: ``float[..., T]``, :func:`target_alignment`; None without labels.
    """

    distance: Array
    velocity: Array
    trace: Array
    norm: Array
    eigenvalues: Array
    label_alignment: Array | None


def kernel_evolution(
    apply_fn: ApplyFn,
    params_stack: Params,
    x: Array,
    y: ArrayLike | None = None,
    *,
    times: ArrayLike | None = None,
    n_axes: int = 1,
    n_eigenvalues: int = 10,
    max_bytes: int = 2**30,
) -> Evolution:
    r"""Follow the empirical NTK (trace over outputs) over checkpoints of one run or of many seeds.

    A label alignment that grows before the loss falls is silent alignment. The kernel of the trained network, whose
    ridge regression is compared with it (the after-kernel), is ``empirical_ntk`` at the last parameters.

    Args:
      apply_fn: ``apply_fn(params, x[n, ...]) -> float[n, c]``, pure, examples independent.
      params_stack: pytree of arrays with the same leading axes: T times, or seeds and T times.
      x: ``[n, ...]``, the examples.
      y: ``float[n]`` or ``float[n, c]``, labels, best centered; one-hot or signs for classes.
      times: ``float[T]``, increasing, for the velocity; None: each checkpoint is one unit of time after the last.
      n_axes: number of leading axes, of which the last is time.
      n_eigenvalues: how many eigenvalues are returned, at most n.
      max_bytes: bound on temporary memory of a kernel, see :func:`empirical_ntk`; three kernels are held at a time.

    Returns:
      The measures.

    Raises:
      ValueError: an argument is out of range, or shapes do not match.

    References:
      Fort et al. (2020), arXiv:2010.15110 (distance, velocity); Atanasov et al. (2022), arXiv:2111.00034 (silent
      alignment); Long (2021), arXiv:2105.10585 (after-kernel).
    """
    check_positive("n_axes", n_axes, integer=True)
    check_positive("n_eigenvalues", n_eigenvalues, integer=True)
    x = jnp.asarray(x)
    leaves = jax.tree.leaves(params_stack)
    leading = {jnp.shape(leaf)[:n_axes] for leaf in leaves}
    if len(leading) != 1 or len(lead := leading.pop()) != n_axes or 0 in lead:
        shapes = ", ".join(str(jnp.shape(leaf)) for leaf in leaves)
        raise ValueError(
            f"`params_stack` must hold arrays with the same {n_axes} leading axes, but shapes are {shapes}"
        )
    steps = jnp.ones(lead[-1] - 1) if times is None else jnp.diff(check_array("times", times, shape=(lead[-1],)))
    if y is not None:
        y = check_array("y", y)
        if y.ndim not in (1, 2) or len(y) != len(x):
            raise ValueError(f"`y` must have shape ({len(x)},) or ({len(x)}, c), but its shape is {y.shape}")
        y = y.reshape(len(x), -1)
    flat = jax.tree.map(lambda leaf: jnp.asarray(leaf).reshape(-1, *jnp.shape(leaf)[n_axes - 1 :]), params_stack)
    found = _evolution(as_partial(apply_fn), flat, x, y, steps, min(n_eigenvalues, len(x)), max_bytes)
    return jax.tree.map(lambda leaf: leaf.reshape(*lead[:-1], *leaf.shape[1:]), found)


@partial(jax.jit, static_argnums=(5, 6))
def _evolution(
    apply_fn: ApplyFn, params: Params, x: Array, y: Array | None, steps: Array, n_eigenvalues: int, max_bytes: int
) -> Evolution:
    """Over ``[seeds, times]``: seeds one after the other, along each the first and the previous kernel are kept."""

    def kernel(params: Params) -> Array:
        return empirical_ntk(apply_fn, params, x, max_bytes=max_bytes)

    def run(params: Params) -> Evolution:
        initial = kernel(jax.tree.map(lambda leaf: leaf[0], params))

        def step(previous: Array, params: Params) -> tuple[Array, Evolution]:
            gram = kernel(params)
            measures = Evolution(
                distance=kernel_distance(gram, initial),
                velocity=kernel_distance(gram, previous),
                trace=jnp.trace(gram),
                norm=jnp.linalg.norm(gram),
                eigenvalues=jnp.linalg.eigvalsh(gram)[::-1][:n_eigenvalues],
                label_alignment=None if y is None else target_alignment(gram, y),
            )
            return gram, measures

        _, found = jax.lax.scan(step, initial, params)
        return dataclasses.replace(found, velocity=found.velocity[1:] / steps)

    return jax.lax.map(run, params)
