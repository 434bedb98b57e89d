"""Gram matrices of any kernel, a tile at a time, on one device or spread over many."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from genjax.errors import check_array, check_positive
from genjax.typing import Kernel, as_partial


def gram_matrix(
    kernel: Kernel, x1: ArrayLike, x2: ArrayLike | None = None, *, tile: int = 512, mesh: Mesh | None = None
) -> Array:
    """A kernel between all pairs of inputs, computed in square tiles.

    Between inputs and themselves only the tiles on and below the diagonal are computed, and the result is symmetric to
    the bit. With a mesh, the row tiles are dealt to its devices forth and back (0 1 2 2 1 0 ...), so that all have
    equally many tiles below the diagonal.

    Args:
      kernel: any kernel; what it holds while it computes a tile bounds the memory beyond about three results.
      x1: ``float[n1, ...]``.
      x2: ``float[n2, ...]``; None: x1.
      tile: rows and columns of a tile; n1 and n2 need not be multiples.
      mesh: devices to spread rows over, along its first axis; None: where the inputs are.

    Returns:
      ``float[n1, n2]``; with a mesh whose devices divide n1, rows are spread over them, else every device has all.

    Raises:
      ValueError: a tile that is not a positive whole number.

    References:
      The layout is genjax's own.

    Example:
      >>> import jax.numpy as jnp
      >>> from genjax.ntk import gram_matrix, linear
      >>> gram_matrix(linear(), jnp.array([[1.0], [2.0], [3.0]]), tile=2).tolist()
      [[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [3.0, 6.0, 9.0]]
    """
    check_positive("tile", tile, integer=True)
    x1 = check_array("x1", x1)
    x2 = None if x2 is None else check_array("x2", x2)
    kernel = as_partial(kernel)
    n_devices = 1 if mesh is None else mesh.devices.shape[0]
    if x2 is None:
        tile = min(tile, -(-len(x1) // (2 * n_devices)))
        return _symmetric(kernel, x1, tile=tile, mesh=mesh)
    return _rectangular(kernel, x1, x2, tile=min(tile, -(-len(x1) // n_devices)), mesh=mesh)


def _tiles(x: Array, tile: int, multiple: int) -> Array:
    """``[k, tile, ...]`` with k a multiple; what is missing repeats the last input."""
    k = -(-len(x) // (tile * multiple)) * multiple
    return jnp.pad(x, [(0, k * tile - len(x))] + [(0, 0)] * (x.ndim - 1), mode="edge").reshape(k, tile, *x.shape[1:])


def _on(mesh: Mesh | None, n: int, array: Array) -> Array:
    if mesh is None:
        return array
    rows = PartitionSpec(mesh.axis_names[0]) if n % mesh.devices.shape[0] == 0 else PartitionSpec()
    return lax.with_sharding_constraint(array, NamedSharding(mesh, rows))


@functools.partial(jax.jit, static_argnames=("tile", "mesh"))
def _rectangular(kernel: Kernel, x1: Array, x2: Array, *, tile: int, mesh: Mesh | None) -> Array:
    def share(kernel: Kernel, rows: Array, columns: Array) -> Array:
        return lax.map(lambda r: lax.map(lambda c: kernel(r, c), columns), rows)

    n_devices = 1 if mesh is None else mesh.devices.shape[0]
    rows, columns = _tiles(x1, tile, n_devices), _tiles(x2, tile, 1)
    if mesh is not None:
        whole, split = PartitionSpec(), PartitionSpec(mesh.axis_names[0])
        share = jax.shard_map(share, mesh=mesh, in_specs=(whole, split, whole), out_specs=split, check_vma=False)
    tiles = share(kernel, rows, columns)
    gram = tiles.transpose(0, 2, 1, 3).reshape(len(rows) * tile, -1)[: len(x1), : len(x2)]
    return _on(mesh, len(x1), gram)


@functools.partial(jax.jit, static_argnames=("tile", "mesh"))
def _symmetric(kernel: Kernel, x: Array, *, tile: int, mesh: Mesh | None) -> Array:
    def share(kernel: Kernel, x: Array, own: Array, pairs: Array) -> tuple[Array, Array]:
        # A tile with itself is the same array twice, so that the kernel can set its diagonal exactly.
        diagonal = lax.map(lambda i: (lambda same: kernel(same, same))(x[i]), own[0])
        return diagonal[None], lax.map(lambda ij: kernel(x[ij[0]], x[ij[1]]), pairs[0])[None]

    n_devices = 1 if mesh is None else mesh.devices.shape[0]
    tiles = _tiles(x, tile, 2 * n_devices)
    own, pairs = _deal(len(tiles), n_devices)
    if mesh is not None:
        whole, split = PartitionSpec(), PartitionSpec(mesh.axis_names[0])
        share = jax.shard_map(
            share, mesh=mesh, in_specs=(whole, whole, split, split), out_specs=(split, split), check_vma=False
        )
    diagonal, below = share(kernel, tiles, jnp.asarray(own), jnp.asarray(pairs))
    blocks = jnp.zeros((len(tiles), len(tiles), tile, tile), diagonal.dtype)
    i, j = pairs.reshape(-1, 2).T
    below = below.reshape(-1, tile, tile)
    blocks = blocks.at[own.ravel(), own.ravel()].set(diagonal.reshape(-1, tile, tile))
    blocks = blocks.at[i, j].set(below).at[j, i].set(below.transpose(0, 2, 1))
    gram = blocks.transpose(0, 2, 1, 3).reshape(len(tiles) * tile, -1)[: len(x), : len(x)]
    return _on(mesh, len(x), gram)


def _deal(n_tiles: int, n_devices: int) -> tuple[np.ndarray, np.ndarray]:
    """Row tiles of every device ``[d, r]``, and the pairs of tiles below the diagonal in those rows ``[d, p, 2]``."""
    hands = np.arange(n_tiles).reshape(-1, 2 * n_devices)
    own = np.stack([np.ravel(hands[:, [d, 2 * n_devices - 1 - d]]) for d in range(n_devices)])
    pairs = [[(i, j) for i in rows for j in range(i)] for rows in own]
    return own, np.asarray(pairs)
