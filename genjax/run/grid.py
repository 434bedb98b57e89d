"""The members of an ensemble: every pair of a hyper-parameter setting and a seed, with the labels of their axes."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from genjax.errors import check_positive
from genjax.random import is_typed_key, seed_keys

RESERVED = ("seed", "step", "snapshot", "setting")


@dataclasses.dataclass(frozen=True)
class Members:
    """Members in row-major order of ``dims``, the seed fastest.

    Attributes:
      dims: names of the axes; the last is ``"seed"``.
      shape: their lengths.
      coords: labels: one-dimensional, by the axis they belong to: ``{name: (axis, values)}``.
      keys: typed keys by seed.
      settings: hyper-parameters by name, stacked along a leading axis of settings.
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    coords: dict[str, tuple[str, np.ndarray]]
    keys: Array
    settings: dict[str, Any]

    @property
    def n(self) -> int:
        """Number of members."""
        return int(np.prod(self.shape))

    def take(self, rows: np.ndarray) -> tuple[Array, dict[str, Any]]:
        """Keys and hyper-parameters of some members.

        Args:
          rows: ``int[c]``, flat indices.

        Returns:
          Keys ``[c]`` and hyper-parameters stacked along a leading axis of length c.
        """
        setting, seed = np.divmod(rows, self.shape[-1])
        # Picked in NumPy: indexing an array of keys would cost more than a short chunk's training.
        picked: Any = np.asarray(jax.random.key_data(self.keys))[seed]
        keys = jax.random.wrap_key_data(picked, impl=jax.random.key_impl(self.keys))
        return keys, jax.tree.map(lambda leaf: leaf[setting], self.settings)


def make_members(keys: int | Array, hparams: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None) -> Members:
    """Cross seeds with hyper-parameters.

    Args:
      keys: number of seeds (their keys are ``seed_keys(0, n)``), or typed keys ``[s]``.
      hparams: a mapping from names to values is a product: one axis a name, in its order. A sequence of mappings is a
        list: one axis ``"setting"``. A value may itself be an array or a pytree of arrays with the axis in front (a
        stack of initial parameters, say). None: no hyper-parameters.

    Returns:
      The members; the seed is the last axis and runs fastest.

    Raises:
      TypeError: keys that are not typed keys; an untyped list.
      ValueError: no members, a reserved or repeated name, or values that differ in shape or names.
    """
    if isinstance(keys, int | np.integer) and not isinstance(keys, bool):
        check_positive("keys", keys, integer=True)
        keys = seed_keys(0, int(keys))
    if not (isinstance(keys, Array) and is_typed_key(keys)):
        raise TypeError(f"`keys` must be a number of seeds or typed keys (jax.random.key), but {keys!r} came")
    if keys.ndim != 1 or not keys.size:
        raise ValueError(f"`keys` must have shape [s] with s > 0, but their shape is {keys.shape}")
    seed = {"seed": ("seed", np.arange(len(keys)))}
    if hparams is None:
        hparams = {}
    if isinstance(hparams, Mapping):
        _check_names(hparams)
        axes = {name: _axis(name, values) for name, values in hparams.items()}
        lengths = {name: len(labels) for name, (_, labels) in axes.items()}
        rows = np.array(list(itertools.product(*map(range, lengths.values()))), int).reshape(
            math.prod(lengths.values()), len(lengths)
        )
        settings = {
            name: jax.tree.map(lambda leaf, i=i: leaf[rows[:, i]], axes[name][0]) for i, name in enumerate(axes)
        }
        coords = {name: (name, labels) for name, (_, labels) in axes.items()}
        return Members((*axes, "seed"), (*lengths.values(), len(keys)), coords | seed, keys, settings)
    if isinstance(hparams, str) or not all(isinstance(setting, Mapping) for setting in hparams):
        raise TypeError(f"`hparams` must be a mapping of values or a sequence of mappings, but {hparams!r} came")
    if not hparams:
        raise ValueError("`hparams` must hold at least one setting, but the list is empty")
    names = list(hparams[0])
    _check_names(hparams[0])
    for i, setting in enumerate(hparams):
        if list(setting) != names:
            raise ValueError(f"`hparams` must name {names} in every setting, but setting {i} names {list(setting)}")
    listed = {name: _axis(name, [setting[name] for setting in hparams]) for name in names}
    settings = {name: values for name, (values, _) in listed.items()}
    coords = {name: ("setting", labels) for name, (_, labels) in listed.items()}
    coords["setting"] = ("setting", np.arange(len(hparams)))
    return Members(("setting", "seed"), (len(hparams), len(keys)), coords | seed, keys, settings)


def _check_names(names: Mapping[str, Any]) -> None:
    for name in names:
        if not isinstance(name, str) or name in RESERVED:
            raise ValueError(f"`hparams` must be named by strings other than {RESERVED}, but {name!r} came")


def _axis(name: str, values: Any) -> tuple[Any, np.ndarray]:
    """Values of one hyper-parameter, stacked along a leading axis, and their labels."""
    if isinstance(values, list | tuple | range) and not hasattr(values, "_fields"):
        if not len(values):
            raise ValueError(f"`hparams[{name!r}]` must have at least one value, but it is empty")
        try:
            values = jax.tree.map(lambda *leaves: np.stack(leaves), *values)
        except (ValueError, TypeError) as error:
            raise ValueError(f"`hparams[{name!r}]` must hold values of one shape and structure: {error}") from None
    leaves = jax.tree.leaves(values)
    lengths = {np.shape(leaf)[:1] for leaf in leaves}
    if len(lengths) != 1 or lengths & {(), (0,)}:
        raise ValueError(
            f"`hparams[{name!r}]` must have one or more values along a common leading axis, but the leading axes of "
            f"its leaves are {sorted(lengths)}"
        )
    plain = len(leaves) == 1 and np.ndim(leaves[0]) == 1 and not is_typed_key(leaves[0])
    # Labels keep the precision they were written in, so that 0.01 is found as 0.01.
    labels = np.asarray(leaves[0]) if plain else np.arange(len(leaves[0]))
    return jax.tree.map(lambda leaf: _numbers(name, leaf), values), labels


def _numbers(name: str, leaf: Any) -> Any:
    """As an array of the default precision; a weakly typed number would change the program's types with its kind."""
    if isinstance(leaf, Array) and is_typed_key(leaf):
        return leaf
    array = np.asarray(leaf)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"`hparams[{name!r}]` must be numbers, but their dtype is {array.dtype}")
    return np.asarray(jnp.asarray(array))
