"""Inductive-bias curves as labelled :class:`xarray.Dataset`, ready for ``results.nc`` and :mod:`genjax.plot`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from genjax.volume.curve import BiasCurve
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

    epsilon = _common_target_error(results)
    first = next(iter(results.values()))

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


def bias_curve_dataset(results: Mapping[str, BiasCurve]) -> xarray.Dataset:
    """Label simulated inductive-bias curves over common target errors.

    Args:
      results: name of each curve (a hypothesis space, say) and its result; all at the same target errors and measured
        by the same error.

    Returns:
      Dataset over ``space`` and ``target_error``: ``nats``, ``bits``, ``low`` and ``high`` (95 % interval, nats),
      ``stderr`` (nats), ``status``; over ``space`` alone: ``log_fit`` with ``log_fit_low`` and ``log_fit_high`` (nats),
      ``fit_error`` (NaN without a training stage), ``n_train``, ``n_test``, ``n_outputs``, ``n_hypotheses``,
      ``method``. Conditions and warnings are attributes.

    Raises:
      ValueError: no results, or their target errors or error functions differ.

    References:
      The layout is genjax's own.
    """
    import xarray

    epsilon = _common_target_error(results)
    scales = {r.error_scale for r in results.values()}
    if len(scales) > 1:
        raise ValueError(f"`results` must share their error function, but these came: {', '.join(sorted(scales))}")

    def curves(get: Callable[[BiasCurve], Any]) -> np.ndarray:
        return np.stack([np.atleast_1d(get(r)) for r in results.values()])

    def scalars(get: Callable[[BiasCurve], Any]) -> np.ndarray:
        return np.array([np.asarray(get(r)) for r in results.values()])

    both, one, nats = ("space", "target_error"), ("space",), {"units": "nats"}
    interval, fit = "end of the 95 % interval of the required inductive bias", "log P(fits the training data)"
    return xarray.Dataset(
        {
            "nats": (both, curves(lambda r: r.nats), {**nats, "long_name": "required inductive bias"}),
            "bits": (both, curves(lambda r: r.bits), {"units": "bits", "long_name": "required inductive bias"}),
            "low": (both, curves(lambda r: r.bias.interval()[0]), {**nats, "long_name": f"lower {interval}"}),
            "high": (both, curves(lambda r: r.bias.interval()[1]), {**nats, "long_name": f"upper {interval}"}),
            "stderr": (both, curves(lambda r: r.bias.stderr), {**nats, "long_name": "Monte Carlo standard error"}),
            "status": (both, curves(lambda r: r.bias.status), {"long_name": "genjax.errors.Status"}),
            "log_fit": (one, scalars(lambda r: r.log_fit.value), {**nats, "long_name": fit}),
            "log_fit_low": (one, scalars(lambda r: r.log_fit.interval()[0]), nats),
            "log_fit_high": (one, scalars(lambda r: r.log_fit.interval()[1]), nats),
            "fit_error": (one, scalars(lambda r: np.nan if r.fit_error is None else r.fit_error)),
            **{
                name: (one, scalars(lambda r: getattr(r, name)))  # noqa: B023
                for name in ("n_train", "n_test", "n_outputs", "n_hypotheses", "method")
            },
        },
        coords={
            "space": list(results),
            "target_error": ("target_error", epsilon, {"long_name": scales.pop()}),
        },
        attrs={
            "given": [r.bias.given for r in results.values()],
            "warnings": {name: list(r.warnings) for name, r in results.items() if r.warnings},
        },
    )


def _common_target_error(results: Mapping[str, InductiveBias] | Mapping[str, BiasCurve]) -> np.ndarray:
    if not results:
        raise ValueError("`results` must hold at least one curve, but it is empty")
    first, *others = (np.atleast_1d(r.target_error) for r in results.values())
    if any(not np.array_equal(other, first) for other in others):
        raise ValueError("`results` must share their target errors, but these differ")
    return first
