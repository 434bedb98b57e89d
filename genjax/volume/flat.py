"""Parameters as one vector, in ``ravel_pytree``'s order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial
from jax.typing import ArrayLike

from genjax.errors import check_array, concrete
from genjax.typing import Params
from genjax.volume.spaces import as_partial, weight_space


def flat_loss(loss: Callable[[Params], Array], params: Params) -> Partial:
    """The loss as a function of a vector ``[D]``; equal for equal functions and shapes, so that programs are shared."""
    loss = as_partial(loss)
    return Partial(_compose, loss, weight_space(loss, params).transport)


def _compose(outer: Partial, inner: Partial, x: Array) -> Array:
    return outer(inner(x))


def same_structure(one: Any, other: Any) -> bool:
    """Whether two pytrees have the same structure."""
    structures: list[Any] = [jax.tree.structure(tree) for tree in (one, other)]
    return structures[0] == structures[1]


def flat_values(name: str, value: ArrayLike | Params, params: Params, *, positive: bool = False) -> Array:
    """One value for each parameter, ``[D]``: from a number, a vector, or a pytree of numbers or arrays like ``params``.

    Args:
      name: the argument's name.
      value: what came.
      params: parameters, whose shapes and dtype count.
      positive: whether values must be.

    Returns:
      The vector.

    Raises:
      ValueError: another shape, or (where values are known) not positive.
    """
    flat, _ = ravel_pytree(params)
    if same_structure(value, params):
        pairs = list(zip(jax.tree.leaves(value), jax.tree.leaves(params), strict=True))
        if all(np.shape(v) in ((), np.shape(p)) for v, p in pairs):
            value = ravel_pytree([jnp.broadcast_to(v, np.shape(p)) for v, p in pairs])[0]
    array = check_array(name, value)
    if array.shape not in ((), flat.shape):
        raise ValueError(f"`{name}` must be a number, of shape {flat.shape} or like `params`, but {array.shape} came")
    known = concrete(array)
    if positive and known is not None and not (known > 0).all():
        raise ValueError(f"`{name}` must be positive, but {known.min():g} came")
    return jnp.broadcast_to(array, flat.shape).astype(flat.dtype)
