"""Wider networks first generalize better, then worse until they just fit their noisy labels, then better again.

``python -m experiments.double_descent`` (``--help`` for options). Networks with one hidden layer are trained towards
interpolation of a few hundred handwritten digits, over widths, label noise and seeds, each seed with initial parameters
and wrong labels of its own. Where the parameters are as many as the numbers to fit, ``n_train * n_outputs``, a network
is barely able to fit the wrong labels and has no freedom left to do so gently: there the test loss peaks. Without wrong
labels it does not. Writes ``runs/double_descent``; running it again goes on where it was stopped.

Expected (2 CPU cores, float32, about 2 minutes): with 20 % of the labels redrawn the test loss falls to 0.044 at width
4, peaks at 0.142 at width 26, whose 1825 parameters meet 1500 targets, and falls to 0.099 at width 256.

References: Belkin, Hsu, Ma, Mandal (2019), PNAS 116, 15849 (double descent of fully connected networks in squared loss,
peaking where parameters meet targets); Nakkiran et al. (2020), arXiv:1912.02292 (it grows with label noise).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray
from jax import Array

from experiments.conclusion import conclude
from genjax.models import Model, mlp
from genjax.random import seed_keys
from genjax.run import TrainConfig, ensemble, make_train
from genjax.tasks import Task, add_label_noise, load_task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Of :func:`golden`: at the valley, at the threshold, at the end.
GOLDEN = {
    "width 4": (0.0443, 0.0016),
    "width 22": (0.1343, 0.0069),
    "width 256": (0.0988, 0.0046),
    "threshold - widest": (0.0356, 0.0051),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the experiment.

    Attributes:
      n_train: training points.
      n_test: test points, with clean labels.
      classes: digits told apart.
      widths: hidden units, each compiled once.
      label_noise: probabilities with which a training label is redrawn from all classes.
      n_seeds: networks for each width and label noise.
      steps: full-batch Adam updates.
      learning_rate: of the first update; it falls to zero along a cosine.
      seed: of the split, the initial parameters and the noise.
      out: run directory.
    """

    n_train: int = 300
    n_test: int = 500
    classes: tuple[int, ...] = (0, 1, 2, 3, 4)
    widths: tuple[int, ...] = (1, 2, 4, 6, 10, 14, 18, 22, 26, 32, 44, 64, 128, 256)
    label_noise: tuple[float, ...] = (0.0, 0.2)
    n_seeds: int = 16
    steps: int = 4000
    learning_rate: float = 0.003
    seed: int = 0
    out: Path = Path("runs/double_descent")


def with_label_noise(key: Array, task: Task, probability: Array) -> Task:
    """Task whose training labels are each redrawn with a probability, which may be traced."""
    which_key, label_key = jax.random.split(key)
    redrawn = add_label_noise(label_key, task, 1.0).y_train
    which = jax.random.uniform(which_key, (task.n_train, 1)) < probability
    return dataclasses.replace(task, y_train=jnp.where(which, redrawn, task.y_train))


def n_parameters(model: Model, task: Task) -> int:
    params, _ = jax.eval_shape(model.init, jax.random.key(0), task.x_train)
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def run(config: Config) -> xarray.Dataset:
    """Train everything; metrics over ``width``, ``label_noise``, ``seed`` and ``step``."""
    task = load_task(
        "digits",
        n_train=config.n_train,
        n_test=config.n_test,
        seed=config.seed,
        classes=config.classes,
        encoding="centered_one_hot",
    )
    optimizer = optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.steps))
    settings = TrainConfig(steps=config.steps, loss="squared_error", records=8, spacing="log")

    def sample_task(key: Array, hparams: Mapping[str, Array]) -> Task:
        return with_label_noise(key, task, hparams["label_noise"])

    def model(width: int) -> Model:
        return mlp(task.n_outputs, width=width, depth=1, activation="tanh")

    directory = config.out / "training"
    trained = ensemble(
        lambda width: make_train(model(width), sample_task, optimizer, settings),
        seed_keys(config.seed, config.n_seeds),
        {"label_noise": config.label_noise},
        static={"width": config.widths},
        directory=directory,
        config=config,
        resume=directory.exists(),
    )
    return trained.assign_coords(
        n_parameters=("width", [n_parameters(model(width), task) for width in config.widths])
    ).assign_attrs(task=task.provenance, threshold=task.n_train * task.n_outputs)


def final(dataset: xarray.Dataset) -> xarray.Dataset:
    return dataset.isel(step=-1)


def golden(dataset: xarray.Dataset) -> dict[str, tuple[float, float]]:
    """Test loss at the highest label noise by width, and how far it falls from the threshold to the widest network.

    Args:
      dataset: of :func:`run`.

    Returns:
      Means over seeds and their standard errors; of the fall, taken seed by seed.
    """
    losses = final(dataset)["test_loss"].isel(label_noise=-1)
    at_threshold = int(np.abs(np.log(dataset["n_parameters"].values / dataset.attrs["threshold"])).argmin())
    values = {f"width {width}": losses.sel(width=width) for width in dataset["width"].values}
    values["threshold - widest"] = losses.isel(width=at_threshold) - losses.isel(width=-1)
    return {name: (float(v.mean()), float(v.std(ddof=1) / np.sqrt(v.size))) for name, v in values.items()}


def table(dataset: xarray.Dataset) -> str:
    """Mean over seeds of the trained networks, one row a width."""
    means = final(dataset).mean("seed")
    lines = [
        f"{'':>6} {'':>10}" + "".join(f"{f'label noise {p:g}':^44}" for p in means["label_noise"].values),
        f"{'width':>6} {'parameters':>10}"
        + "".join(f"{name:>11}" for name in ("train loss", "test loss", "train err", "test err"))
        * means.sizes["label_noise"],
    ]
    for width in means["width"].values:
        row = means.sel(width=width)
        cells = [
            f"{float(row[name].sel(label_noise=p)):>11.4f}"
            for p in means["label_noise"].values
            for name in ("train_loss", "test_loss", "train_error", "test_error")
        ]
        lines.append(f"{width:>6} {int(row['n_parameters']):>10}" + "".join(cells))
    return "\n".join(lines)


def figure(dataset: xarray.Dataset) -> Figure:
    """Loss and error against the number of parameters."""
    import matplotlib.pyplot as plt

    from genjax.plot import COLORS, MARKERS, STYLES

    fig, axes = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    x = dataset["n_parameters"].values
    threshold = dataset.attrs["threshold"]
    for ax, name, label in ((axes[0], "loss", "mean squared error"), (axes[1], "error", "misclassified fraction")):
        ax.axvline(threshold, color="0.4", linestyle=":", linewidth=1.2)
        for i, noise in enumerate(dataset["label_noise"].values):
            for part, style in (("test", STYLES[0]), ("train", STYLES[1])):
                values = final(dataset)[f"{part}_{name}"].sel(label_noise=noise).transpose("width", "seed").values
                low, high = np.quantile(values, (0.1, 0.9), axis=1)
                ax.fill_between(x, low, high, color=COLORS[i], alpha=0.18, linewidth=0)
                ax.plot(
                    x,
                    values.mean(axis=1),
                    style,
                    color=COLORS[i],
                    marker=MARKERS[i],
                    markersize=4,
                    markerfacecolor=COLORS[i] if part == "test" else "white",
                    label=f"{part}, {100 * noise:g} % label noise",
                )
        ax.set_xscale("log")
        ax.set_ylim(bottom=0)
        ax.set_xlabel("parameters")
        ax.set_ylabel(label)
        ax.grid(True, which="major", alpha=0.3)
        widths = ax.secondary_xaxis("top", functions=(lambda p: p, lambda p: p))
        widths.set_xticks(x[::2], [str(w) for w in dataset["width"].values[::2]])
        widths.minorticks_off()
        widths.set_xlabel("width")
    axes[0].set_ylim(top=1.08 * axes[0].get_ylim()[1])
    seeds = f"mean and 10-90 % of {dataset.sizes['seed']} seeds"
    axes[1].legend(fontsize="small", frameon=False, title=seeds, title_fontsize="small", alignment="left")
    axes[0].annotate(
        f"{threshold} targets to fit",
        (threshold, 1),
        xycoords=("data", "axes fraction"),
        xytext=(4, -4),
        textcoords="offset points",
        va="top",
        fontsize="small",
        color="0.3",
    )
    return fig


def main(config: Config) -> xarray.Dataset:
    """Run, print, write."""
    dataset = run(config)
    conclude("double_descent", config.out, config, dataset, golden(dataset), table(dataset), figure(dataset))
    return dataset


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config))
