"""Large batches generalize worse mostly because they make fewer updates: train longer, generalize better.

``python -m experiments.train_longer`` (``--help`` for options). The same network on handwritten digits under four
regimes: small batches; batches 32 times as large for as many epochs; those with the learning rate raised by the square
root of 32; and that rate for as many updates as the small batches make. Snapshots of the parameters tell their distance
from the initial ones: after the first descent it grows like the logarithm of the number of updates. Writes
``runs/train_longer``; running it again goes on where it was stopped.

Expected (2 CPU cores, float32, 45 s): test errors 2.42, 8.80, 3.79 and 3.09 %, so as many updates close 89 %
of the gap. For as many epochs the large batch has not even fitted the training data (8 % error); the 0.7 points left
between the first regime and the last, both at zero training error, are between the minima found. The distance grows by
2.5 and 2.4 for each factor e of updates (R2 = 0.997 and 0.9996), nearly alike as the scaled rate should make it.

References: Hoffer, Hubara, Soudry (2017), arXiv:1705.08741: ultra-slow diffusion, square-root scaling, and adapting the
number of updates (their ghost batch normalization, which removes what is left, has no place in this network).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import optax
import xarray
from jax import Array

from experiments.conclusion import conclude
from genjax.models import mlp
from genjax.random import seed_keys
from genjax.run import TrainConfig, ensemble, make_train
from genjax.tasks import Task, load_task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Of :func:`golden`.
GOLDEN = {
    "small batch": (2.418, 0.046),
    "large batch": (8.80, 0.14),
    "large batch, scaled rate": (3.792, 0.051),
    "large batch, as many updates": (3.093, 0.045),
    "small batch: slope": (2.5027, 0.0076),
    "large batch, as many updates: slope": (2.405, 0.011),
    "closed gap": (0.8942, 0.0094),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the experiment.

    Attributes:
      task: name of a classification data set.
      n_train: training points.
      n_test: test points.
      width: units of the one hidden layer.
      small_batch: examples an update, at which ``learning_rate`` is set.
      large_batch: examples an update of the other regimes.
      epochs: passes over the data; the last regime makes the updates of the first instead.
      learning_rate: of SGD with momentum 0.9; divided by 10 after one half and after three quarters of the updates.
      n_seeds: networks for each regime.
      diffusion_start: first update at which the logarithmic growth of the distance is fitted.
      seed: of the split, the initial parameters and the data order.
      out: run directory.
    """

    task: str = "digits"
    n_train: int = 1024
    n_test: int = 773
    width: int = 64
    small_batch: int = 16
    large_batch: int = 512
    epochs: int = 60
    learning_rate: float = 0.03
    n_seeds: int = 32
    diffusion_start: int = 100
    seed: int = 0
    out: Path = Path("runs/train_longer")


class Regime(NamedTuple):
    """Batch size, number of updates and first learning rate."""

    batch_size: int
    steps: int
    learning_rate: float


def regimes(config: Config) -> dict[str, Regime]:
    """The four regimes by name."""
    small, large = config.small_batch, config.large_batch
    many, few = (config.n_train // size * config.epochs for size in (small, large))
    scaled = config.learning_rate * math.sqrt(large / small)
    return {
        "small batch": Regime(small, many, config.learning_rate),
        "large batch": Regime(large, few, config.learning_rate),
        "large batch, scaled rate": Regime(large, few, scaled),
        "large batch, as many updates": Regime(large, many, scaled),
    }


def train(config: Config, task: Task, batch_size: int, steps: int, learning_rates: Sequence[float]) -> xarray.Dataset:
    """Networks over ``learning_rate`` and ``seed``, with snapshots wherever metrics are recorded."""

    def optimizer(hparams: Mapping[str, Array]) -> optax.GradientTransformation:
        drops = {steps // 2: 0.1, 3 * steps // 4: 0.1}
        return optax.sgd(optax.piecewise_constant_schedule(hparams["learning_rate"], drops), momentum=0.9)

    settings = TrainConfig(steps=steps, batch_size=batch_size, records=25, spacing="log")
    settings = dataclasses.replace(settings, snapshots=settings.record_steps)
    directory = config.out / f"batch-{batch_size}-updates-{steps}"
    return ensemble(
        make_train(mlp(task.n_outputs, width=config.width, depth=1), task, optimizer, settings),
        seed_keys(config.seed, config.n_seeds),
        {"learning_rate": learning_rates},
        directory=directory,
        config=config,
        resume=directory.exists(),
    )


def run(config: Config) -> xarray.Dataset:
    """Train everything; curves over ``regime``, ``seed`` and ``step``, NaN at steps a regime does not record."""
    task = load_task(config.task, n_train=config.n_train, n_test=config.n_test, seed=config.seed)
    named = regimes(config)
    # Learning rates are traced: one compilation serves all of a batch size and a number of updates.
    shapes = {regime[:2]: [r.learning_rate for r in named.values() if r[:2] == regime[:2]] for regime in named.values()}
    trained = {shape: train(config, task, *shape, rates) for shape, rates in shapes.items()}
    curves = []
    for regime in named.values():
        networks = trained[regime[:2]].sel(learning_rate=regime.learning_rate, drop=True)
        curve = networks[["train_error", "test_error"]].assign(distance=distance(networks))
        end = curve.isel(step=-1, drop=True)
        curves.append(curve.merge(end.rename({name: f"final_{name}" for name in end})))
    dataset = xarray.concat(curves, dim=xarray.DataArray(list(named), dims="regime", name="regime"), join="outer")
    dataset = dataset.assign_coords(
        {field: ("regime", [getattr(regime, field) for regime in named.values()]) for field in Regime._fields}
    )
    return dataset.merge(diffusion(dataset, config.diffusion_start)).assign_attrs(
        task=task.provenance, diffusion_start=config.diffusion_start
    )


def distance(trained: xarray.Dataset) -> xarray.DataArray:
    """Euclidean distance of the parameters from the first snapshot, over ``seed`` and ``step``.

    Args:
      trained: of an ensemble whose snapshots are taken at its record steps, the first before training.

    Returns:
      The distances.
    """
    total = xarray.zeros_like(trained["test_error"])
    for name, values in trained.items():
        if str(name).startswith("params."):
            moved = (values - values.isel(snapshot=0)).rename(snapshot="step")
            total = total + (moved**2).sum([dim for dim in moved.dims if dim not in total.dims])
    return total**0.5


def diffusion(dataset: xarray.Dataset, start: int) -> xarray.Dataset:
    """Least-squares fit of ``intercept + slope ln(step)`` to the distance under the first learning rate.

    Args:
      dataset: ``distance`` over ``regime``, ``seed`` and ``step``, and the number of ``steps`` of each regime.
      start: first step of the fit.

    Returns:
      ``intercept``, ``slope`` and ``explained`` (share of the variance) over ``regime`` and ``seed``; NaN for regimes
      with fewer than four records to fit.

    References:
      Hoffer, Hubara, Soudry (2017), arXiv:1705.08741, section 3: a random walk in a random potential whose differences
      grow with the square of the distance moves as the logarithm of time.
    """
    fits = []
    for regime in dataset["regime"].values:
        curve = dataset["distance"].sel(regime=regime)
        window = (curve["step"] >= start) & (curve["step"] <= curve["steps"] // 2)
        curve = curve[:, window.values].dropna("step")
        x = np.log(curve["step"].values)
        if len(x) < 4:
            fits.append(np.full((3, curve.sizes["seed"]), np.nan))
            continue
        slope, intercept = np.polyfit(x, curve.values.T, 1)
        residual = curve.values - intercept[:, None] - slope[:, None] * x
        fits.append(np.stack([intercept, slope, 1 - residual.var(axis=1) / curve.values.var(axis=1)]))
    stacked = np.stack(fits)
    return xarray.Dataset(
        {name: (("regime", "seed"), stacked[:, i]) for i, name in enumerate(("intercept", "slope", "explained"))}
    )


def closed_gap(dataset: xarray.Dataset) -> tuple[float, float]:
    """Share of the large batch's excess test error that as many updates remove, and its standard error over seeds."""
    errors = dataset["final_test_error"]
    small, large, longer = (
        errors.sel(regime=name) for name in ("small batch", "large batch", "large batch, as many updates")
    )
    share = float((large.mean() - longer.mean()) / (large.mean() - small.mean()))
    # Of a ratio of means, to first order; the same seeds start all regimes, so differences are taken seed by seed.
    residual = (large - longer) - share * (large - small)
    return share, float(residual.std(ddof=1) / np.sqrt(residual.size) / (large.mean() - small.mean()))


def _mean(values: xarray.DataArray) -> tuple[float, float]:
    """Mean over seeds and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(values.size))


def golden(dataset: xarray.Dataset) -> dict[str, tuple[float, float]]:
    """Mean test error of each regime in %, slopes of the distance over ln(updates), share of the gap that is closed.

    Args:
      dataset: of :func:`run`.

    Returns:
      Values and their standard errors over seeds.
    """
    names = [str(name) for name in dataset["regime"].values]
    errors = {name: _mean(100 * dataset["final_test_error"].sel(regime=name)) for name in names}
    slopes = {f"{name}: slope": _mean(dataset["slope"].sel(regime=name)) for name in (names[0], names[-1])}
    return errors | slopes | {"closed gap": closed_gap(dataset)}


def table(dataset: xarray.Dataset) -> str:
    """One row a regime: means over seeds and their standard errors."""
    lines = [
        f"{'':<28} {'batch':>5} {'updates':>7} {'rate':>7} {'train error %':>13} {'test error %':>15} "
        f"{'distance / ln updates':>22} {'R2':>6}"
    ]
    for name in dataset["regime"].values:
        row = dataset.sel(regime=name)
        test, stderr = _mean(100 * row["final_test_error"])
        slope, slope_stderr = _mean(row["slope"])
        fit = (
            f"{slope:>13.2f} +- {slope_stderr:.2f} {float(row['explained'].mean()):>9.4f}" if np.isfinite(slope) else ""
        )
        lines.append(
            f"{name:<28} {int(row['batch_size']):>5} {int(row['steps']):>7} {float(row['learning_rate']):>7.3f} "
            f"{100 * float(row['final_train_error'].mean()):>13.2f} {test:>8.2f} +- {stderr:.2f} {fit}"
        )
    share, stderr = closed_gap(dataset)
    lines.append(f"As many updates close {100 * share:.0f} +- {100 * stderr:.0f} % of the large batch's gap.")
    return "\n".join(lines)


def figure(dataset: xarray.Dataset) -> Figure:
    """Three panels: test error on the way, at the end, and the distance from the initial parameters."""
    import matplotlib.pyplot as plt

    from genjax.plot import COLORS, MARKERS, STYLES

    fig, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4.4), layout="constrained")
    for i, name in enumerate(dataset["regime"].values):
        row = dataset.sel(regime=name)
        for ax, values in ((left, 100 * row["test_error"]), (right, row["distance"])):
            curve = values.sel(step=values["step"] > 0).dropna("step")
            low, high = curve.quantile((0.1, 0.9), "seed")
            ax.fill_between(curve["step"], low, high, color=COLORS[i], alpha=0.18, linewidth=0)
            ax.plot(curve["step"], curve.mean("seed"), STYLES[i], color=COLORS[i], label=name)
        if np.isfinite(row["slope"]).all():
            x = np.geomspace(dataset.attrs["diffusion_start"], int(row["steps"]) // 2, 2)
            fit = float(row["intercept"].mean()) + float(row["slope"].mean()) * np.log(x)
            right.plot(x, fit, color="0.8", linewidth=7, solid_capstyle="round", zorder=1)
        errors = 100 * row["final_test_error"].values
        offsets = np.linspace(-0.18, 0.18, errors.size)
        middle.plot(i + offsets, np.sort(errors), ".", color=COLORS[i], alpha=0.35, markersize=5)
        mean, stderr = _mean(100 * row["final_test_error"])
        middle.errorbar(i, mean, 1.96 * stderr, fmt=MARKERS[i], color=COLORS[i], markersize=8, capsize=4)
        train = 100 * float(row["final_train_error"].mean())
        middle.plot(i, train, MARKERS[i], color=COLORS[i], markersize=8, markerfacecolor="white")
        middle.annotate(f"{mean:.2f}", (i, mean), (22, 0), textcoords="offset points", va="center", fontsize="small")
    right.plot([], [], color="0.8", linewidth=7, solid_capstyle="round", label="fits of a + b ln(updates)")
    left.set(xscale="log", yscale="log", xlabel="updates", ylabel="test error (%)")
    left.set_yticks([2, 5, 10, 20, 50, 100], ["2", "5", "10", "20", "50", "100"])
    left.minorticks_off()
    right.set(xscale="log", xlabel="updates", ylabel="distance from the initial parameters")
    middle.set_xticks(range(dataset.sizes["regime"]), [name.replace(", ", ",\n") for name in dataset["regime"].values])
    middle.tick_params(axis="x", labelsize="small")
    middle.set(
        xlim=(-0.5, dataset.sizes["regime"] - 0.4),
        ylim=(-0.3, None),
        ylabel="error after training (%): test filled, train open",
    )
    for ax in (left, middle, right):
        ax.grid(True, which="major", alpha=0.3)
    left.legend(fontsize="small", frameon=False)
    right.legend(fontsize="small", frameon=False)
    return fig


def main(config: Config) -> xarray.Dataset:
    """Run, print, write."""
    dataset = run(config)
    conclude("train_longer", config.out, config, dataset, golden(dataset), table(dataset), figure(dataset))
    return dataset


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config))
