"""Figures from labelled results: each function draws one dataset on one axes and returns it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from genjax.estimate import NATS_PER_BIT

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes

# Okabe and Ito's palette, told apart under every common colour blindness; line styles and markers repeat the message.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#8C6D00", "#7F7F7F")
STYLES = ("-", "--", "-.", ":")
# Nine in ten random draws reach an error that needs a tenth of a nat: below it lies nothing to see.
_SMALLEST_SHOWN = 0.1
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")


def inductive_bias_curves(
    dataset: xarray.Dataset, ax: Axes | None = None, *, over: str = "target_error", by: str = "space"
) -> Axes:
    """Draw required inductive bias on a logarithmic scale, nats on the left and bits on the right.

    A point of infinite bias (an impossible target) is not drawn; where a curve along the target error meets its floor,
    a cross at the last possible point says so. Uncertain points carry bars of 1.96 standard errors.

    Args:
      dataset: holds ``nats`` over the dimensions ``over`` and ``by``, and optionally ``stderr``.
      ax: axes to draw on; None makes a figure.
      over: dimension along the horizontal axis.
      by: dimension that tells the curves apart.

    Returns:
      The axes.
    """
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(6, 4.2), layout="constrained")
    x = dataset[over].values.astype(float)
    many = x.size > 12
    for i, name in enumerate(dataset[by].values):
        curve = dataset.sel({by: name})
        y = curve["nats"].values.astype(float)
        drawable = np.isfinite(y) & (y > 0)
        color = COLORS[i % len(COLORS)]
        ax.plot(
            x[drawable],
            y[drawable],
            STYLES[i % len(STYLES)],
            color=color,
            marker=None if many else MARKERS[i % len(MARKERS)],
            label=str(name),
        )
        if "stderr" in curve and bool((curve["stderr"] > 0).any()):
            ax.errorbar(x[drawable], y[drawable], 1.96 * curve["stderr"].values[drawable], fmt="none", color=color)
        if over == "target_error" and np.isinf(y).any() and drawable.any():
            last = np.flatnonzero(drawable)[np.argmin(x[drawable])]
            ax.plot(
                x[last], y[last], "x", color=color, markersize=9, markeredgewidth=2, label=f"{name}: impossible below"
            )
    ax.set_yscale("log")
    ax.set_xlabel({"target_error": "target error (mean squared)"}.get(over, dataset[over].attrs.get("long_name", over)))
    if over == "target_error":
        ax.set_xscale("log")
    ax.set_ylabel("required inductive bias (nats)")
    shown = dataset["nats"].values[np.isfinite(dataset["nats"].values) & (dataset["nats"].values > _SMALLEST_SHOWN)]
    if shown.size:
        ax.set_ylim(max(shown.min() / 2, _SMALLEST_SHOWN), shown.max() * 2)
    bits = ax.secondary_yaxis(
        "right", functions=(lambda nats: np.divide(nats, NATS_PER_BIT), lambda bits: np.multiply(bits, NATS_PER_BIT))
    )
    bits.set_ylabel("bits")
    ax.grid(True, which="major", alpha=0.3)
    ax.legend(fontsize="small", frameon=False)
    return ax
