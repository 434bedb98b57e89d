"""How many nats of inductive bias do handwritten digits need, relative to a hypothesis space?

``make demo``, or ``python -m experiments.required_inductive_bias`` (``--help`` for options). Exact results, no
sampling: the required inductive bias against the target error for nine Gaussian hypothesis spaces, and for one of them
against the number of training points, irrelevant input dimensions and wrong labels. Writes ``runs/demo``.

Expected (2 CPU cores, float64, about 30 s): RBF of length 1 at target error 0.1 needs 2029.53 nats (2927.99 bits).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np
import xarray
from tqdm.auto import tqdm

from genjax.ntk import linear, mlp_nngp, mlp_ntk, rbf
from genjax.random import seed_key
from genjax.run import open_run, save_figure, save_results
from genjax.tasks import Task, add_label_noise, add_noise_dimensions, load_task, subset
from genjax.typing import Kernel
from genjax.volume import InductiveBias, gaussian_inductive_bias, inductive_bias_dataset

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the demonstration.

    Attributes:
      task: name of a classification data set.
      n_train: training points.
      n_test: test points.
      seed: of the split and of the noise.
      table_errors: target errors printed.
      n_curve: target errors per curve of the figure.
      train_sizes: training points of the second panel, the largest plus ``n_test_sweep`` at most the data set.
      n_test_sweep: test points of the sweeps.
      noise_dimensions: irrelevant input dimensions of the third panel, N(0, 0.3^2) each.
      label_noise: fractions of training labels redrawn in the fourth panel.
      linear_noise: noise variance of the linear space, which cannot interpolate.
      out: run directory, overwritten.
    """

    task: str = "digits"
    n_train: int = 500
    n_test: int = 500
    seed: int = 0
    table_errors: tuple[float, ...] = (0.3, 0.1, 0.05, 0.03, 0.01)
    n_curve: int = 48
    train_sizes: tuple[int, ...] = (50, 100, 200, 400, 800, 1200)
    n_test_sweep: int = 300
    noise_dimensions: tuple[int, ...] = (0, 4, 16, 64)
    label_noise: tuple[float, ...] = (0.0, 0.1, 0.3, 0.9)
    linear_noise: float = 0.01
    out: Path = Path("runs/demo")


def hypothesis_spaces(config: Config) -> dict[str, tuple[Kernel, float]]:
    """Kernel and noise variance of each space compared."""
    return {
        "RBF, length 0.5": (rbf(0.5), 0.0),
        "RBF, length 1": (rbf(1.0), 0.0),
        "RBF, length 2": (rbf(2.0), 0.0),
        "RBF, length 4": (rbf(4.0), 0.0),
        "linear": (linear(), config.linear_noise),
        "NNGP, depth 1": (mlp_nngp(1), 0.0),
        "NNGP, depth 3": (mlp_nngp(3), 0.0),
        "NNGP, depth 10": (mlp_nngp(10), 0.0),
        "NTK, depth 3": (mlp_ntk(3), 0.0),
    }


def run(config: Config) -> xarray.Dataset:
    """Compute the curves over ``space`` and the sweeps over train size, noise dimensions and label noise."""
    spaces = hypothesis_spaces(config)
    n_jobs = len(spaces) + len(config.train_sizes) + len(config.noise_dimensions) + len(config.label_noise)
    with tqdm(total=n_jobs, desc="required inductive bias", unit="space", disable=None) as progress:

        def measure(kernel: Kernel, task: Task, epsilon: np.ndarray, noise: float = 0.0) -> InductiveBias:
            progress.update()
            return gaussian_inductive_bias(kernel, task, epsilon, noise=noise)

        task = load_task(config.task, n_train=config.n_train, n_test=config.n_test, seed=config.seed)
        epsilon = np.unique(np.concatenate([np.geomspace(1e-3, 0.7, config.n_curve), config.table_errors]))
        curves = inductive_bias_dataset(
            {name: measure(kernel, task, epsilon, noise) for name, (kernel, noise) in spaces.items()}
        )

        sweep_errors = np.array(config.table_errors)
        pool = load_task(config.task, n_train=max(config.train_sizes), n_test=config.n_test_sweep, seed=config.seed)
        base = subset(pool, n_train=min(config.n_train, pool.n_train))

        def sweep(dimension: str, label: str, kernel: Kernel, tasks: dict[float, Task]) -> xarray.DataArray:
            nats = [measure(kernel, each, sweep_errors).nats for each in tasks.values()]
            array = xarray.DataArray(
                np.stack(nats),
                dims=(dimension, "sweep_error"),
                coords={dimension: list(tasks), "sweep_error": sweep_errors},
                attrs={"units": "nats"},
            )
            array[dimension].attrs["long_name"] = label
            return array

        key = seed_key(config.seed)
        return curves.assign(
            nats_by_train_size=sweep(
                "train_size",
                "training points",
                rbf(1.0),
                {n: subset(pool, n_train=n) for n in config.train_sizes},
            ),
            nats_by_noise_dimension=sweep(
                "noise_dimension",
                "irrelevant input dimensions",
                rbf(2.0),
                {d: add_noise_dimensions(key, base, d, 0.3) if d else base for d in config.noise_dimensions},
            ),
            nats_by_label_noise=sweep(
                "label_noise",
                "fraction of training labels redrawn",
                rbf(2.0),
                {f: add_label_noise(key, base, f) for f in config.label_noise},
            ),
        ).assign_attrs(task=task.provenance)


def table(dataset: xarray.Dataset, errors: tuple[float, ...]) -> str:
    """Nats over bits, one row a space."""
    at = dataset.sel(target_error=list(errors), method="nearest")
    lines = [
        f"{'hypothesis space':<16} {'log evidence':>12}  "
        + "  ".join(f"{f'error <= {e:g}':>20}" for e in errors)
        + f"  {'floor':>7}",
        f"{'':<16} {'(nats)':>12}  " + "  ".join(f"{'nats':>10}{'bits':>10}" for _ in errors),
    ]
    for name in dataset["space"].values:
        row = at.sel(space=name)
        cells = [
            f"{'impossible':>20}" if np.isinf(nats) else f"{nats:>10.2f}{bits:>10.2f}"
            for nats, bits in zip(row["nats"].values, row["bits"].values)
        ]
        lines.append(
            f"{name:<16} {float(row['log_evidence']):>12.5g}  " + "  ".join(cells) + f"  {float(row['floor']):>7.2g}"
        )
    return "\n".join(lines)


def sweep_table(array: xarray.DataArray) -> str:
    """Nats, one row a target error."""
    dimension = array.dims[0]
    head = f"{array[dimension].attrs['long_name']:<38}" + "".join(f"{v:>10g}" for v in array[dimension].values)
    rows = [
        f"  nats for error <= {e:<18g}" + "".join(f"{v:>10.2f}" for v in array.sel(sweep_error=e).values)
        for e in array["sweep_error"].values
    ]
    return "\n".join([head, *rows])


def sentence(dataset: xarray.Dataset, error: float) -> str:
    """What the table means."""
    nats = dataset["nats"].sel(target_error=error, method="nearest")
    bits = dataset["bits"].sel(target_error=error, method="nearest")
    finite = nats.where(np.isfinite(nats))
    best, worst = str(finite.idxmin("space").values), str(finite.idxmax("space").values)
    n_train = int(dataset["n_train"][0])
    return (
        f"With {n_train} training points, singling out a hypothesis with test error <= {error:g} takes "
        f"{float(bits.sel(space=best)):.0f} bits beyond the data in the space '{best}' but "
        f"{float(bits.sel(space=worst)):.0f} bits in '{worst}': that difference is the inductive bias "
        "the better-matched space already contains."
    )


def figure(dataset: xarray.Dataset) -> Figure:
    """Four panels: spaces, training points, irrelevant dimensions, wrong labels."""
    import matplotlib.pyplot as plt

    from genjax.plot import inductive_bias_curves

    fig, axes = plt.subplots(2, 2, figsize=(13, 9.5), layout="constrained")
    inductive_bias_curves(dataset, axes[0, 0])
    axes[0, 0].set_title(f"hypothesis spaces, {int(dataset['n_train'][0])} training points", fontsize="medium")
    panels = (
        ("nats_by_train_size", axes[0, 1], "RBF of length 1: more data, less bias needed"),
        ("nats_by_noise_dimension", axes[1, 0], "RBF of length 2: irrelevant dimensions"),
        ("nats_by_label_noise", axes[1, 1], "RBF of length 2: wrong training labels"),
    )
    for name, ax, title in panels:
        array = dataset[name]
        labelled = array.to_dataset(name="nats").assign_coords(
            error=("sweep_error", [f"error <= {e:g}" for e in array["sweep_error"].values])
        )
        inductive_bias_curves(labelled.swap_dims(sweep_error="error"), ax, over=str(array.dims[0]), by="error")
        ax.set_title(title, fontsize="medium")
    return fig


def main(config: Config) -> xarray.Dataset:
    """Run, print, write."""
    dataset = run(config)
    directory = open_run(config.out, config, overwrite=True)
    save_results(directory, dataset)
    picture = save_figure(directory, "required_inductive_bias", figure(dataset))
    print(f"\n{dataset.attrs['task']}\n\n{table(dataset, config.table_errors)}\n")
    for name in ("nats_by_train_size", "nats_by_noise_dimension", "nats_by_label_noise"):
        print(sweep_table(dataset[name]), end="\n\n")
    print(sentence(dataset, config.table_errors[-2]))
    print(f"\nfigure:  {picture}\nresults: {directory / 'results.nc'}")
    return dataset


if __name__ == "__main__":
    import tyro

    jax.config.update("jax_enable_x64", True)
    main(tyro.cli(Config))
