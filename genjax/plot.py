"""Figures from labelled results: each function draws one dataset on one axes and returns it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from genjax.errors import check_choice
from genjax.estimate import NATS_PER_BIT

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart under every common colour blindness; line styles and markers repeat the message.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#8C6D00", "#7F7F7F")
STYLES = ("-", "--", "-.", ":")
# Nine in ten random draws reach an error that needs a tenth of a nat: below it lies nothing to see.
_SMALLEST_SHOWN = 0.1
# Length of the arrow of a lower bound, as a share of it.
_ARROW = 0.35
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_MEDIAN: dict[str, Any] = {"fmt": "D", "color": "black", "markersize": 3.5, "elinewidth": 1.2, "capsize": 3}
# More cells than this leave no room for numbers in them.
_MOST_NUMBERED_CELLS = 49


def inductive_bias_curves(
    dataset: xarray.Dataset, ax: Axes | None = None, *, over: str = "target_error", by: str = "space"
) -> Axes:
    """Draw required inductive bias on a logarithmic scale, nats on the left and bits on the right.

    A point of infinite bias (an impossible target) is not drawn; where a curve along the target error meets its floor,
    a cross at the last possible point says so. Uncertain points carry bars: their interval where there is one, else
    1.96 standard errors. A point that is only a lower bound (its interval has no upper end) carries an arrow instead
    and is not joined to the others.

    Args:
      dataset: holds ``nats`` over the dimensions ``over`` and ``by``, and optionally ``stderr``, or ``low`` and
        ``high``.
      ax: axes to draw on; None makes a figure.
      over: dimension along the horizontal axis.
      by: dimension that tells the curves apart.

    Returns:
      The axes.
    """
    ax = _new_axes() if ax is None else ax
    x = dataset[over].values.astype(float)
    many = x.size > 12
    for i, name in enumerate(dataset[by].values):
        curve = dataset.sel({by: name})
        y = curve["nats"].values.astype(float)
        bounded = np.isinf(curve["high"].values) if "high" in curve else np.zeros(y.shape, bool)
        drawable = np.isfinite(y) & (y > 0) & ~bounded
        color = COLORS[i % len(COLORS)]
        ax.plot(
            x[drawable],
            y[drawable],
            STYLES[i % len(STYLES)],
            color=color,
            marker=None if many else MARKERS[i % len(MARKERS)],
            label=str(name),
        )
        if "high" in curve:
            ends = np.abs(np.stack([curve["low"].values, curve["high"].values])[:, drawable] - y[drawable])
            ax.errorbar(x[drawable], y[drawable], ends, fmt="none", color=color, capsize=2)
            at_least = bounded & np.isfinite(y) & (y > 0)
            style: dict[str, Any] = {"fmt": MARKERS[i % len(MARKERS)], "markerfacecolor": "white", "color": color}
            if at_least.any():
                where = x[at_least], y[at_least]
                ax.errorbar(*where, _ARROW * y[at_least], lolims=True, label=f"{name}: at least", **style)
        elif "stderr" in curve and bool((curve["stderr"] > 0).any()):
            ax.errorbar(x[drawable], y[drawable], 1.96 * curve["stderr"].values[drawable], fmt="none", color=color)
        if over == "target_error" and np.isinf(y).any() and drawable.any():
            last = np.flatnonzero(drawable)[np.argmin(x[drawable])]
            ax.plot(
                x[last], y[last], "x", color=color, markersize=9, markeredgewidth=2, label=f"{name}: impossible below"
            )
    ax.set_yscale("log")
    name = dataset[over].attrs.get("long_name", over)
    if over == "target_error":
        name = f"target error: {name.partition(' (')[0]}" if "high" in dataset else "target error (mean squared)"
    ax.set_xlabel(name)
    if over == "target_error" and (x > 0).all():
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


def kernel_power(dataset: xarray.Dataset, ax: Axes | None = None) -> Axes:
    """Draw how much of the targets lies in the leading directions of each kernel.

    Args:
      dataset: of :func:`genjax.volume.kernel_dataset`: ``cumulative_power`` over ``space`` and ``mode``.
      ax: axes to draw on; None makes a figure.

    Returns:
      The axes.
    """
    ax = _new_axes() if ax is None else ax
    for i, name in enumerate(dataset["space"].values):
        missing = 1 - dataset["cumulative_power"].sel(space=name).values
        style = {"color": COLORS[i % len(COLORS)], "linestyle": STYLES[i % len(STYLES)]}
        # The last direction completes the sum: what is missing then is rounding.
        ax.loglog(dataset["mode"].values[:-1], np.maximum(missing[:-1], 1e-12), label=str(name), **style)
    ax.set_xlabel("leading directions of the kernel")
    ax.set_ylabel("share of the targets' power outside them")
    ax.grid(True, which="major", alpha=0.3)
    ax.legend(fontsize="small", frameon=False)
    return ax


def kernel_paths(dataset: xarray.Dataset, ax: Axes | None = None) -> Axes:
    """Draw the error of each linearized network along its training by gradient flow.

    Args:
      dataset: of :func:`genjax.volume.kernel_dataset`: ``train_path`` and ``test_path`` over ``space`` and ``step``.
      ax: axes to draw on; None makes a figure.

    Returns:
      The axes: test errors in full, training errors thin.
    """
    ax = _new_axes() if ax is None else ax
    floor = dataset["test_path"].min().item() / 10
    for i, name in enumerate(dataset["space"].values):
        row, color = dataset.sel(space=name), COLORS[i % len(COLORS)]
        ax.loglog(dataset["step"], row["test_path"], STYLES[i % len(STYLES)], color=color, label=str(name))
        ax.loglog(dataset["step"], np.maximum(row["train_path"], floor), color=color, linewidth=0.7, alpha=0.7)
    ax.set_ylim(bottom=floor)
    ax.set_xlabel("steps at half the maximal learning rate")
    ax.set_ylabel("mean squared error (thin: training)")
    ax.grid(True, which="major", alpha=0.3)
    ax.legend(fontsize="small", frameon=False)
    return ax


def kernel_comparison(dataset: xarray.Dataset) -> Figure:
    """A figure of three panels: :func:`kernel_power`, :func:`kernel_paths` and :func:`inductive_bias_curves`.

    Args:
      dataset: of :func:`genjax.volume.kernel_dataset`.

    Returns:
      The figure.
    """
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
    for draw, ax in zip((kernel_power, kernel_paths, inductive_bias_curves), axes, strict=True):
        draw(dataset, ax)
    axes[1].get_legend().remove()  # the curves are those of the first
    return figure


def training_curves(
    dataset: xarray.Dataset,
    metric: str = "test_loss",
    ax: Axes | None = None,
    *,
    by: str | None = None,
    quantiles: tuple[float, float] = (0.1, 0.9),
) -> Axes:
    """Draw a recorded metric along training: median over seeds, and a band between two quantiles.

    A member with a record that is not finite has diverged. It is left out from the first step on, so that every point
    of a curve speaks of the same members, and the legend says how many were. The step axis is logarithmic where the
    records are spaced so (step 0 is then not shown), the metric's for losses, as long as they are positive.

    Args:
      dataset: of :func:`genjax.run.ensemble`: ``metric`` over ``seed``, ``step`` and hyper-parameters.
      metric: recorded variable.
      ax: axes to draw on; None makes a figure.
      by: hyper-parameter that tells the curves apart; None takes the first with more than one value. Of every other
        hyper-parameter one value must be selected before: ``dataset.sel(weight_decay=0)``.
      quantiles: lower and upper edge of the band.

    Returns:
      The axes.

    Raises:
      ValueError: an unknown metric or dimension, other dimensions not narrowed to one value, or no quantiles.
    """
    if not 0 <= quantiles[0] <= quantiles[1] <= 1:
        raise ValueError(f"`quantiles` must be two increasing numbers in [0, 1], but {quantiles!r} came")
    check_choice("metric", metric, tuple(n for n, v in dataset.items() if {"seed", "step"} <= {*v.dims}))
    values, by = _narrow(dataset[metric], {"by": by}, "seed", "step")
    ax = _new_axes() if ax is None else ax
    steps = dataset["step"].values
    drawn = steps > 0 if _log_spaced(steps) else np.full(steps.shape, True)
    shown = []
    for i, (name, members) in enumerate(_groups(values, by)):
        color, style = COLORS[i % len(COLORS)], STYLES[i % len(STYLES)]
        kept = members[np.isfinite(members).all(axis=1)][:, drawn]
        label = _with_diverged(name or "all", len(members) - len(kept), len(members), " ({})")
        low, middle, high = np.quantile(kept, (quantiles[0], 0.5, quantiles[1]), axis=0) if len(kept) else [[]] * 3
        x = steps[drawn] if len(kept) else []
        ax.plot(x, middle, style, color=color, label=label, zorder=3)
        ax.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
        shown += [low, middle]
    if not drawn.all():
        ax.set_xscale("log")
    _scale_metric(ax, metric, np.concatenate(shown))
    ax.set_xlabel("step")
    ax.set_ylabel(_title(dataset[metric]))
    ax.grid(True, which="major", alpha=0.3)
    band = f"median, {100 * quantiles[0]:g}–{100 * quantiles[1]:g} % of seeds"
    ax.legend(
        title=f"{_title(dataset[by])} ({band})" if by else band,
        fontsize="small",
        title_fontsize="small",
        frameon=False,
        alignment="left",
    )
    return ax


def member_spread(
    dataset: xarray.Dataset, metric: str = "test_error", ax: Axes | None = None, *, over: str | None = None
) -> Axes:
    """Draw the final value of every member as a point, with median and quartiles.

    Points are spread sideways by a fixed pattern so that they do not cover each other. Members whose value is not
    finite have diverged; they are left out and counted below their value of ``over``. The metric's axis is logarithmic
    for losses, as long as they are positive.

    Args:
      dataset: of :func:`genjax.run.ensemble`: ``metric`` over ``seed``, hyper-parameters and possibly ``step``.
      metric: recorded variable, of which the last record counts, or a result per member.
      ax: axes to draw on; None makes a figure.
      over: hyper-parameter along the horizontal axis; None takes the first with more than one value. Of every other
        hyper-parameter one value must be selected before: ``dataset.sel(weight_decay=0)``.

    Returns:
      The axes.

    Raises:
      ValueError: an unknown metric or dimension, or other dimensions not narrowed to one value.
    """
    check_choice("metric", metric, _per_member(dataset))
    values, over = _narrow(_final(dataset[metric]), {"over": over}, "seed")
    ax = _new_axes() if ax is None else ax
    labels, shown = [], []
    for i, (name, members) in enumerate(_groups(values, over)):
        kept = members[np.isfinite(members)]
        shown.append(kept)
        labels.append(_with_diverged(name, len(members) - len(kept), len(members), "\n{}"))
        if not len(kept):
            continue
        # Multiples of the golden ratio, modulo 1: evenly spread for any number of points, and always the same.
        sideways = 0.5 * ((np.arange(len(kept)) * (5**0.5 - 1) / 2) % 1) - 0.35
        color = COLORS[i % len(COLORS)]
        ax.scatter(i + sideways, kept, s=14, color=color, alpha=0.5, linewidth=0)
        low, middle, high = np.quantile(kept, (0.25, 0.5, 0.75))
        ax.errorbar(i + 0.27, middle, [[middle - low], [high - middle]], **_MEDIAN)
    _scale_metric(ax, metric, np.concatenate(shown))
    ax.set_xticks(range(len(labels)), labels)
    ax.tick_params(axis="x", length=0)
    ax.set_xlim(-0.6, len(labels) - 0.4)
    if over:
        ax.set_xlabel(_title(dataset[over]))
    ax.set_ylabel(f"{_title(dataset[metric])} (final)" if "step" in dataset[metric].dims else _title(dataset[metric]))
    ax.grid(True, axis="y", alpha=0.3)
    ax.plot([], [], "o", color=COLORS[-1], alpha=0.5, markersize=4, linewidth=0, label="one member")
    ax.errorbar([], [], [[], []], label="median and quartiles", **_MEDIAN)
    ax.legend(fontsize="small", frameon=False)
    return ax


def phase_diagram(
    dataset: xarray.Dataset,
    metric: str = "test_error",
    ax: Axes | None = None,
    *,
    x: str,
    y: str,
    log: bool | None = None,
) -> Axes:
    """Draw the seeds' mean of the final value over two hyper-parameters, as a map of coloured cells.

    Members whose value is not finite have diverged and are left out of the mean; hatches mark cells where some did, and
    grey ones where all did. Cells are of equal size, whatever the distance between the values on the axes.

    Args:
      dataset: of :func:`genjax.run.ensemble`: ``metric`` over ``seed``, hyper-parameters and possibly ``step``.
      metric: recorded variable, of which the last record counts, or a result per member.
      ax: axes to draw on; None makes a figure.
      x: hyper-parameter along the horizontal axis.
      y: hyper-parameter along the vertical axis. Of every other one a value must be selected before.
      log: whether colours follow the logarithm; None does so for losses, as long as they are positive.

    Returns:
      The axes; the colour bar is drawn beside them.

    Raises:
      ValueError: an unknown metric or dimension, ``x`` and ``y`` are the same, other dimensions not narrowed to one
        value, or ``log`` of means that are not positive.
    """
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.patches import Patch, Rectangle

    check_choice("metric", metric, _per_member(dataset))
    if x == y:
        raise ValueError(f"`x` and `y` must be two different hyper-parameters, but both are {x!r}")
    values, *_ = _narrow(_final(dataset[metric]), {"x": x, "y": y}, "seed")
    values = values.transpose(y, x, "seed")
    sound = np.isfinite(values.values)
    count = sound.sum(axis=-1)
    total = np.where(sound, values.values, 0).sum(axis=-1)
    mean = np.ma.masked_where(count == 0, total / np.maximum(count, 1))
    positive = bool(mean.count()) and bool((mean > 0).all())
    if log and mean.count() and not positive:
        raise ValueError(f"`log` must be false or None, because a mean of {metric} is not positive")
    log = positive and metric.endswith("loss") if log is None else log and positive
    ax = _new_axes() if ax is None else ax
    mesh = ax.pcolormesh(mean, cmap="viridis", norm=LogNorm() if log else Normalize(), edgecolors="white", linewidth=1)
    marks = {
        "some members diverged (not in the mean)": (count > 0) & (count < sound.shape[-1]),
        "all members diverged": count == 0,
    }
    styles: tuple[dict[str, Any], ...] = (
        {"facecolor": "none", "hatch": "///"},
        {"facecolor": "lightgrey", "hatch": "xxx"},
    )
    handles = []
    for (label, cells), style in zip(marks.items(), styles, strict=True):
        style = {**style, "edgecolor": "white", "linewidth": 0}
        for row, column in np.argwhere(cells):
            ax.add_patch(Rectangle((column, row), 1, 1, **style))
        if cells.any():
            handles.append(Patch(label=label, **style | {"edgecolor": "grey"}))
    if mean.size <= _MOST_NUMBERED_CELLS:
        for row, column in np.argwhere(count > 0):
            red, green, blue, _ = mesh.cmap(mesh.norm(mean[row, column]))
            # The luminance of ITU-R BT.709 decides between black and white.
            color = "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.5 else "white"
            ax.text(column + 0.5, row + 0.5, f"{mean[row, column]:.3g}", ha="center", va="center", color=color)
    for axis, dim in ((ax.xaxis, x), (ax.yaxis, y)):
        axis.set_ticks(np.arange(values.sizes[dim]) + 0.5, [_text(v) for v in values[dim].values])
        axis.set_label_text(_title(dataset[dim]))
    ax.tick_params(length=0)
    ax.figure.colorbar(mesh, ax=ax, label=f"{_title(dataset[metric])} (mean over seeds)")
    if handles:
        ax.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), fontsize="small", frameon=False)
    return ax


def _new_axes() -> Axes:
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(6, 4.2), layout="constrained")[1]


def _per_member(dataset: xarray.Dataset) -> tuple[str, ...]:
    """Variables that are one number a member and record; not snapshots of parameters."""
    return tuple(str(n) for n, v in dataset.items() if "seed" in v.dims and "snapshot" not in v.dims)


def _final(values: xarray.DataArray) -> xarray.DataArray:
    return values.isel(step=-1) if "step" in values.dims else values


def _narrow(values: xarray.DataArray, chosen: dict[str, str | None], *kept: str) -> tuple[Any, ...]:
    """Values over the chosen dimensions, in increasing order, and the kept ones; followed by the dimensions chosen."""
    free = [str(dim) for dim in values.dims if dim not in ("seed", "step")]
    names = []
    for argument, dim in chosen.items():
        if dim is None:
            dim = next((d for d in free if values.sizes[d] > 1), free[0] if free else None)
        else:
            check_choice(argument, dim, tuple(free))
        names.append(dim)
    for dim in free:
        if dim not in names and values.sizes[dim] > 1:
            raise ValueError(
                f"`dataset` must be narrowed to one value of {dim!r}, but it has {values.sizes[dim]}: select one by "
                f"dataset.sel({dim}=...)"
            )
    values = values.squeeze([dim for dim in free if dim not in names])
    for dim in names:
        if dim is not None and values[dim].dtype.kind in "fiu":
            values = values.sortby(dim)
    return values.transpose(*(dim for dim in names if dim), *kept), *names


def _groups(values: xarray.DataArray, dim: str | None) -> list[tuple[str, np.ndarray]]:
    """Name and members of each value along a dimension."""
    array = values.values.astype(float)
    return [("", array)] if dim is None else [(_text(v), a) for v, a in zip(values[dim].values, array, strict=True)]


def _log_spaced(steps: np.ndarray) -> bool:
    """Whether the middle of the positive steps is nearer, as a ratio, to the ends' geometric than arithmetic mean."""
    positive = steps[steps > 0]
    # Ends this close look alike on both axes.
    if positive.size < 3 or positive[-1] < 5 * positive[0]:
        return False
    geometric, arithmetic = (positive[0] * positive[-1]) ** 0.5, (positive[0] + positive[-1]) / 2
    return bool(np.median(positive) < (geometric * arithmetic) ** 0.5)


def _scale_metric(ax: Axes, metric: str, drawn: np.ndarray) -> None:
    if metric.endswith("loss") and drawn.size and (drawn > 0).all():
        ax.set_yscale("log")


def _with_diverged(name: str, diverged: int, total: int, form: str) -> str:
    if not diverged:
        return name
    return name + form.format("all diverged" if diverged == total else f"{diverged} of {total} diverged")


def _title(variable: xarray.DataArray) -> str:
    return str(variable.attrs.get("long_name", str(variable.name).replace("_", " ")))


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float | np.floating) else str(value)
