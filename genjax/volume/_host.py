"""Arguments as float64 NumPy arrays: the checks of genjax.errors go through JAX, which may be in single precision."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def host_array(
    name: str,
    value: ArrayLike,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    whole: bool = False,
) -> NDArray[np.float64]:
    """Convert an argument to float64, or say precisely what is wrong with it."""
    array = np.asarray(value)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"`{name}` must hold real numbers, but its dtype is {array.dtype}")
    array = array.astype(np.float64)
    bounds = {"above": above, "at least": at_least, "below": below, "at most": at_most}
    limits = " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)
    good = np.isfinite(array)
    good &= array > above if above is not None else True
    good &= array >= at_least if at_least is not None else True
    good &= array < below if below is not None else True
    good &= array <= at_most if at_most is not None else True
    good &= array == np.floor(array) if whole else True
    if not good.all():
        expected = f"{'whole' if whole else 'finite'}{' and ' if limits else ''}{limits}"
        raise ValueError(f"`{name}` must be {expected}, but {array[~good].flat[0]:g} came")
    return array


def spectrum(name: str, value: ArrayLike) -> NDArray[np.float64]:
    """Convert a non-empty vector of positive eigenvalues to float64."""
    array = host_array(name, value, above=0)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"`{name}` must be a non-empty vector, but its shape is {array.shape}")
    return array


def log1mexp(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """``log(1 - e^x)`` for ``x <= 0``, to full precision at both ends."""
    with np.errstate(divide="ignore"):
        return np.where(x > -np.log(2), np.log(-np.expm1(x)), np.log1p(-np.exp(np.minimum(x, 0))))
