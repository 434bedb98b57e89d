"""Typed PRNG keys with one convention for seeds: member ``i`` of a population does not depend on its size or order."""

from __future__ import annotations

from typing import Any

import jax
from jax import Array
from jax.typing import ArrayLike


def seed_key(base_seed: int, *path: ArrayLike) -> Array:
    """Key for one member of a population or one purpose within a run.

    ``fold_in`` along the path: ``seed_key(0, i)`` is the same whether member i runs alone, in a batch or on another
    device.

    Args:
      base_seed: the run's seed.
      *path: whole numbers, each folded in turn; they may be traced.

    Returns:
      A typed key, ``key<impl>[]``.

    References:
      Salmon et al. (2011), SC'11 (counter-based generators); the folding is ``jax.random.fold_in``.
    """
    key = jax.random.key(base_seed)
    for index in path:
        key = jax.random.fold_in(key, index)
    return key


def seed_keys(base_seed: int, n: int) -> Array:
    """Keys of members 0 to n - 1: ``seed_keys(s, n)[i]`` equals ``seed_key(s, i)``.

    Args:
      base_seed: the run's seed.
      n: number of members.

    Returns:
      Typed keys, ``key<impl>[n]``.
    """
    return jax.vmap(lambda i: seed_key(base_seed, i))(jax.numpy.arange(n))


def is_typed_key(leaf: Any) -> bool:
    """Whether an array holds typed PRNG keys rather than numbers.

    Args:
      leaf: anything; of an array, a tracer or a ``jax.ShapeDtypeStruct`` the dtype counts.

    Returns:
      False for what has no dtype.
    """
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and bool(jax.numpy.issubdtype(dtype, jax.dtypes.prng_key))
