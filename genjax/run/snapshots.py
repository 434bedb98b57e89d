"""What an ensemble kept, as pytrees again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

if TYPE_CHECKING:
    import xarray


def snapshot_params(dataset: xarray.Dataset, like: Any) -> Any:
    """The parameters an ensemble kept, as pytrees again: stacked models for measures and kernels.

    Args:
      dataset: of :func:`genjax.run.ensemble`, run with ``snapshots``; select members and snapshots as you like first.
      like: a pytree of the model's structure, such as parameters or what ``jax.eval_shape`` makes of ``model.init``.

    Returns:
      Pytree of ``like``'s structure; leaves ``[members..., (snapshot), ...]`` with the axes of the dataset in front.

    Raises:
      ValueError: the dataset holds no such parameters, or of another shape.
    """
    paths, structure = jax.tree_util.tree_flatten_with_path(like)
    leaves = []
    for path, leaf in paths:
        name = f"params.{jax.tree_util.keystr(path, simple=True, separator='.')}".removesuffix(".")
        if name not in dataset:
            raise ValueError(f"`dataset` must hold the variable {name!r}: run the ensemble with `snapshots`")
        values = dataset[name].values
        if values.shape[values.ndim - np.ndim(leaf) :] != np.shape(leaf):
            raise ValueError(f"`like` must have shapes of `dataset`, but {name!r} is {np.shape(leaf)} in one of them")
        leaves.append(values)
    return jax.tree.unflatten(structure, leaves)
