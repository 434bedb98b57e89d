"""Inductive-bias curves as labelled :class:`xarray.Dataset`, ready for ``results.nc`` and :mod:`genjax.plot`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from genjax.volume.gaussian_bias import InductiveBias

if TYPE_CHECKING:
    import xarray


def inductive_bias_dataset(results: Mapping[str, InductiveBias]) -> xarray.Dataset:
    """Label inductive-bias curves over common target errors.

    Args:
      results: name of each curve (a hypothesis space, say) and its result; all at the same target errors.

    Returns:
      Dataset over ``space`` and ``target_error``: ``nats``, ``bits``, ``stderr`` and ``error_bound`` (nats),
      ``status``; over ``space`` alone: ``log_evidence`` (nats), ``mean_error``, ``center_error``, ``floor``, ``noise``,
      ``n_train``, ``n_test``. Units and conditions are attributes.

    Raises:
      ValueError: no results, or their target errors differ.

    References:
      The layout is genjax's own.
    """
    import xarray

    if not results:
        raise ValueError("`results` must hold at least one curve, but it is empty")
    first, *others = results.values()
    epsilon = np.atleast_1d(first.target_error)
    if any(not np.array_equal(np.atleast_1d(other.target_error), epsilon) for other in others):
        raise ValueError("`results` must share their target errors, but these differ")

    def curves(get: str) -> np.ndarray:
        return np.stack([np.atleast_1d(getattr(r.bias, get)) for r in results.values()])

    def scalars(get: str) -> np.ndarray:
        return np.array([np.asarray(getattr(r, get)) for r in results.values()])

    both, one = ("space", "target_error"), ("space",)
    return xarray.Dataset(
        {
            "nats": (both, curves("value"), {"units": "nats", "long_name": "required inductive bias"}),
            "bits": (both, curves("bits"), {"units": "bits", "long_name": "required inductive bias"}),
            "stderr": (both, curves("stderr"), {"units": "nats", "long_name": "Monte Carlo standard error"}),
            "error_bound": (both, curves("error_bound"), {"units": "nats", "long_name": "bound on numerical error"}),
            "status": (both, curves("status"), {"long_name": "genjax.errors.Status"}),
            "log_evidence": (one, scalars("log_evidence"), {"units": "nats", "long_name": "log density of targets"}),
            "mean_error": (one, scalars("mean_error"), {"long_name": "expected error of a fitting hypothesis"}),
            "center_error": (one, scalars("center_error"), {"long_name": "error of the mean hypothesis"}),
            "floor": (one, scalars("floor"), {"long_name": "largest error of probability zero"}),
            "noise": (one, scalars("noise"), {"long_name": "observation noise variance"}),
            "n_train": (one, scalars("n_train")),
            "n_test": (one, scalars("n_test")),
        },
        coords={
            "space": list(results),
            "target_error": ("target_error", epsilon, {"long_name": first.error_scale}),
        },
        attrs={"given": [r.bias.given for r in results.values()], "n_outputs": first.n_outputs},
    )
