"""Parameters as one vector, in ``ravel_pytree``'s order."""

from __future__ import annotations

import dataclasses
import math
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
from genjax.typing import Params, as_partial


def flat_loss(loss: Callable[[Params], Array], params: Params) -> Partial:
    """The loss as a function of a vector ``[D]``; equal for equal functions and shapes, so that programs are shared."""
    leaves, structure = jax.tree.flatten(params)
    shapes = tuple((np.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
    return Partial(_Unraveled(structure, shapes), as_partial(loss))


@dataclasses.dataclass(frozen=True)
class _Unraveled:
    """Calls a function of a pytree with a vector. ``ravel_pytree``'s own inverse differs from call to call."""

    structure: Any
    shapes: tuple[tuple[tuple[int, ...], Any], ...]

    def __call__(self, function: Partial, vector: Array) -> Array:
        ends = np.cumsum([math.prod(shape) for shape, _ in self.shapes])
        pieces = jnp.split(vector, ends[:-1])
        leaves = [piece.reshape(shape).astype(dtype) for piece, (shape, dtype) in zip(pieces, self.shapes, strict=True)]
        return function(jax.tree.unflatten(self.structure, leaves))


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
