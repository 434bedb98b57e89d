"""Families of hypotheses small enough to list, so that every volume is a count."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genjax.volume._host import host_array

_N_INPUTS = 4
_N_HIDDEN = 3
_N_POINTS = 2**_N_INPUTS


class BinaryNetwork(NamedTuple):
    """All functions of a family of nets and how many nets compute each.

    Attributes:
      codes: ``int64[f]``, ascending; bit ``i`` (value ``2^i``) is the output on input ``i``, inputs in
        ``itertools.product([-1, 1], repeat=4)`` order.
      counts: ``int64[f]``, nets per function; their sum is the number of nets.
    """

    codes: NDArray[np.int64]
    counts: NDArray[np.int64]


def binary_network() -> BinaryNetwork:
    """Enumerate the 262,144 nets with 4 inputs and a bias, 3 sign units, a sign output and weights of plus or minus 1.

    Each of the 3 + 1 units sums an odd number of signs, so there are no ties.

    Returns:
      2,112 distinct functions with their counts.

    References:
      Exhaustive enumeration; the setting follows the guess-and-check experiments on small Boolean nets.
    """
    signs = np.array([-1, 1], np.int8)
    inputs = np.array(list(itertools.product(signs, repeat=_N_INPUTS)), np.int8)
    with_bias = np.column_stack([inputs, np.ones(_N_POINTS, np.int8)])
    weights = np.array(list(itertools.product(signs, repeat=_N_INPUTS + 1)), np.int8)
    unit = np.sign(weights @ with_bias.T)
    # An output weight of -1 negates its unit, and a unit's negation is again a unit (flip its weights).
    signed = signs[:, None, None] * unit
    signed = signed.reshape(-1, _N_POINTS)
    total = signed[:, None, None] + signed[:, None] + signed
    codes = (total.reshape(-1, _N_POINTS) > 0) @ (1 << np.arange(_N_POINTS, dtype=np.int64))
    return BinaryNetwork(*np.unique(codes, return_counts=True))


def binary_network_log_fit(network: BinaryNetwork, teacher: int, n_train: int) -> float:
    """Log share of nets that agree with a teacher on the first ``n_train`` inputs.

    Args:
      network: from :func:`binary_network`.
      teacher: the teacher's code, from 0 to 2^16 - 1; need not be reachable.
      n_train: from 0 to 16.

    Returns:
      Nats, at most 0; ``-inf`` when no net fits.

    References:
      Counting.
    """
    wrong = _mistakes(network, teacher)
    n = int(host_array("n_train", n_train, at_least=0, at_most=_N_POINTS, whole=True))
    fitting = network.counts[~wrong[:, :n].any(axis=1)].sum()
    with np.errstate(divide="ignore"):
        return float(np.log(fitting / network.counts.sum()))


def binary_network_inductive_bias(
    network: BinaryNetwork, teacher: int, n_train: int, error: ArrayLike
) -> NDArray[np.float64]:
    """Inductive bias of the enumerated nets: test error at most ``error``, given a perfect fit of the first inputs.

    Args:
      network: from :func:`binary_network`.
      teacher: the teacher's code, from 0 to 2^16 - 1.
      n_train: from 0 to 15; the remaining inputs are the test set.
      error: largest share of test errors allowed, in [0, 1].

    Returns:
      ``float64[...]`` of the shape of ``error``, nats; ``inf`` when no fitting net is that good.

    Raises:
      ValueError: no net fits the training inputs, so there is nothing to condition on.

    References:
      Counting.
    """
    wrong = _mistakes(network, teacher)
    n = int(host_array("n_train", n_train, at_least=0, at_most=_N_POINTS - 1, whole=True))
    share = host_array("error", error, at_least=0, at_most=1)
    fits = ~wrong[:, :n].any(axis=1)
    if not fits.any():
        raise ValueError(f"`teacher` {teacher} must be fitted by some net on its first {n} inputs, but none does")
    counts = network.counts[fits]
    allowed = wrong[fits, n:].mean(axis=1) <= share[..., None] + 1e-9
    with np.errstate(divide="ignore"):
        # The difference of logs, so that certainty is +0 and not -0.
        return np.log(counts.sum()) - np.log(np.where(allowed, counts, 0).sum(axis=-1))


def binary_perceptron_distances(patterns: ArrayLike) -> NDArray[np.int64]:
    r"""Hamming distances from the teacher of all sign-weight perceptrons that fit it.

    The teacher has all weights +1 and labels pattern :math:`x` by :math:`\mathrm{sign}\sum_i x_i`. All :math:`2^N`
    weight vectors in :math:`\{-1, 1\}^N` are tried. At distance :math:`d` the generalization error on isotropic inputs
    is :math:`\arccos(1 - 2d/N)/\pi`.

    Args:
      patterns: ``[P, N]`` with N from 2 to 24.

    Returns:
      ``int64[number that fit]``, ascending, starting with the teacher's own 0.

    Raises:
      ValueError: ``patterns`` is not a matrix with 2 to 24 columns.

    References:
      Gardner & Derrida (1989), Three unfinished works on the optimal storage capacity of networks.
    """
    x = host_array("patterns", patterns)
    if x.ndim != 2 or not 2 <= x.shape[1] <= 24:
        raise ValueError(f"`patterns` must be a matrix with 2 to 24 columns, but its shape is {x.shape}")
    x = x * np.sign(x.sum(axis=1, keepdims=True))
    # Both halves of the weights are listed; their scores only have to be added.
    half = x.shape[1] // 2
    (left, left_distance), (right, right_distance) = _half_scores(x[:, :half]), _half_scores(x[:, half:])
    found = [
        distance + right_distance[(score + right > 0).all(axis=1)]
        for score, distance in zip(left, left_distance, strict=True)
    ]
    return np.sort(np.concatenate(found))


def _mistakes(network: BinaryNetwork, teacher: int) -> NDArray[np.bool_]:
    code = int(host_array("teacher", teacher, at_least=0, at_most=2**_N_POINTS - 1, whole=True))
    return ((network.codes ^ code)[:, None] >> np.arange(_N_POINTS)) & 1 == 1


def _half_scores(x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    weights = np.array(list(itertools.product([-1, 1], repeat=x.shape[1])))
    return weights @ x.T, (weights < 0).sum(axis=1)
