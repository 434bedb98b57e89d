"""How much inductive bias do two digits need beyond 16 examples, relative to networks and to kernels?

``python -m experiments.architecture_bias`` (``--help`` for options). Handwritten 3 against 8: for each hypothesis
space, random functions that classify all training examples correctly are followed down to small test errors by
multilevel splitting, and their share gives the bits still missing. Spaces: a linear perceptron, networks of several
widths and depths, a small convolutional network, all under Gaussian weights of variance 2 / fan-in, and Gaussian
processes, among them the limits of infinite width. Writes ``runs/architecture_bias``; running it again goes on where it
was stopped.

Expected (2 CPU cores, float32, 5 CPU-minutes): for a test error of 5 % the convolutional network lacks 7.2 bits, the
linear one 8.5, one hidden layer 10.5 whether 8, 32 or 128 units wide or infinitely many, two 12.6 and three 13.5. Of
two architectures, the one whose random functions fit the training data more often also generalizes more often, except
that the convolutional network, which fits less often than the linear one, generalizes more often.

References: Boopathy et al. (2024), arXiv:2406.15941 (required inductive bias of network and kernel spaces); Lee et al.
(2018), arXiv:1711.00165 (the infinitely wide network as a Gaussian process).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import xarray
from jax import Array
from tqdm.auto import tqdm

from experiments.conclusion import conclude
from genjax.estimate import NATS_PER_BIT
from genjax.models import Model, linear, mlp
from genjax.ntk import mlp_nngp, rbf
from genjax.random import seed_key
from genjax.run import Execution
from genjax.tasks import Task, load_task, make_task
from genjax.volume import (
    HypothesisSpace,
    Splitting,
    bias_curve_dataset,
    fan_in_scale,
    gaussian_process_space,
    inductive_bias,
    weight_space,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Of :func:`golden`, nats: the best and the worst, and a network with its limit.
GOLDEN = {
    "linear: bias": (5.905, 0.093),
    "width 128: log fit": (-5.64, 0.15),
    "width 128: bias": (7.55, 0.15),
    "depth 3: bias": (9.33, 0.28),
    "convolutional: bias": (4.991, 0.082),
    "infinite width, depth 1: log fit": (-5.99, 0.11),
    "infinite width, depth 1: bias": (7.359, 0.098),
}
GAIN, BIAS = 2**0.5, 0.1
"""Standard deviation of weights times the root of their fan-in, and of biases: the same for networks and limits."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the experiment.

    Attributes:
      n_train: training points.
      n_test: test points.
      target_error: shares of test points misclassified.
      widths: hidden units of the networks of depth 1.
      depths: hidden layers of the deeper networks, of ``width`` each, and of the limits.
      width: of the deeper networks.
      channels: of the convolutional network.
      n_particles: hypotheses side by side in a replica.
      n_replicas: independent repetitions; their scatter is the error.
      n_moves: moves of each hypothesis at each level.
      only: names of spaces to simulate; all if empty.
      seed: of the split and the simulation.
      out: run directory.
    """

    n_train: int = 16
    n_test: int = 200
    target_error: tuple[float, ...] = (0.3, 0.2, 0.1, 0.05)
    widths: tuple[int, ...] = (8, 32, 128)
    depths: tuple[int, ...] = (2, 3)
    width: int = 32
    channels: int = 8
    n_particles: int = 128
    n_replicas: int = 6
    n_moves: int = 10
    only: tuple[str, ...] = ()
    seed: int = 0
    out: Path = Path("runs/architecture_bias")


def make_digits(config: Config) -> Task:
    """3 against 8, every pixel centered, the inputs of mean square 1."""
    task = load_task(
        "digits",
        n_train=config.n_train,
        n_test=config.n_test,
        seed=config.seed,
        classes=(3, 8),
        encoding="plus_minus_one",
    )
    pixels = np.concatenate([task.x_train, task.x_test])
    centered = pixels - pixels.mean(axis=0)
    x = centered / np.sqrt(np.mean(centered**2))
    return make_task(
        *(x[: config.n_train], task.y_train, x[config.n_train :], task.y_test),
        name=task.name,
        kind=task.kind,
        encoding=task.encoding,
        provenance=f"{task.provenance} Pixels centered and of mean square 1 over all of them.",
    )


def convolutional(params: dict[str, Array], x: Array) -> Array:
    """3 x 3 filters, ReLU, averages over the four quarters of the image, and a linear output."""
    images = x.reshape(-1, 1, 8, 8)
    patches = jax.lax.conv_general_dilated_patches(images, (3, 3), (1, 1), "VALID")  # [n, 9, 6, 6]
    hidden = jax.nn.relu(jnp.einsum("npij,pc->nijc", patches, params["filters"]) + params["shift"])
    quarters = hidden.reshape(len(x), 2, 3, 2, 3, -1).mean(axis=(2, 4))
    return quarters.reshape(len(x), -1) @ params["output"] + params["bias"]


def spaces(config: Config, task: Task) -> dict[str, tuple[HypothesisSpace, Task]]:
    """Each hypothesis space with the task in the inputs it takes."""

    def network(model: Model) -> tuple[HypothesisSpace, Task]:
        shapes, _ = jax.eval_shape(model.init, jax.random.key(0), task.x_train)
        return weight_space(model.apply_fn(), shapes, scale=fan_in_scale(GAIN, BIAS)), task

    c = config.channels
    filters = {"filters": (9, c), "shift": (c,), "output": (4 * c, 1), "bias": (1,)}
    shapes = {name: jax.ShapeDtypeStruct(shape, float) for name, shape in filters.items()}
    every = {
        "linear": network(linear(1)),
        **{f"width {w}": network(mlp(1, w, 1)) for w in config.widths},
        **{f"depth {d}": network(mlp(1, config.width, d)) for d in config.depths},
        "convolutional": (weight_space(convolutional, shapes, scale=fan_in_scale(GAIN, BIAS)), task),
        **{
            f"infinite width, depth {d}": gaussian_process_space(mlp_nngp(d, GAIN**2, BIAS**2), task)
            for d in (1, config.depths[-1])
        },
        "RBF": gaussian_process_space(rbf(float(np.sqrt(task.x_train.shape[-1]))), task),
    }
    return {name: every[name] for name in config.only or every}


def run(config: Config) -> xarray.Dataset:
    """Simulate every space; curves over ``space`` and ``target_error``, with the number of coordinates."""
    task = make_digits(config)
    method = Splitting(config.n_particles, config.n_replicas, config.n_moves)
    chosen = spaces(config, task)
    curves = {}
    for i, (name, (space, own_task)) in enumerate(tqdm(chosen.items(), desc="hypothesis spaces", disable=None)):
        directory = config.out / "simulation" / re.sub(r"\W+", "_", name)
        curves[name] = inductive_bias(
            space,
            own_task,
            config.target_error,
            key=seed_key(config.seed, i),
            error="zero_one_error",
            method=method,
            n_keep=1,
            execution=Execution(progress=False),
            directory=directory,
            resume=directory.exists(),
        )
    return (
        bias_curve_dataset(curves)
        .assign(dimension=("space", [space.dimension for space, _ in chosen.values()]))
        .assign_attrs(task=task.provenance, shallow=f"width {config.width}")
    )


def golden(dataset: xarray.Dataset) -> dict[str, tuple[float, float]]:
    """Log P(fit) of each space, and its required inductive bias at the smallest target error.

    Args:
      dataset: of :func:`run`.

    Returns:
      Nats and half the width of the 95 % interval over 1.96.
    """
    hardest = dataset.isel(target_error=-1)
    numbers = {}
    for name in dataset["space"].values:
        row = hardest.sel(space=name)
        for what, value, low, high in (
            ("log fit", "log_fit", "log_fit_low", "log_fit_high"),
            ("bias", "nats", "low", "high"),
        ):
            numbers[f"{name}: {what}"] = (float(row[value]), float(row[high] - row[low]) / (2 * 1.96))
    return numbers


def table(dataset: xarray.Dataset) -> str:
    """Bits with half the width of the 95 % interval, one row a space."""
    errors = dataset["target_error"].values
    lines = [
        f"{'bits':<25} {'weights':>7} {'to fit':>12}" + "".join(f"{f'error <= {e:g}':>16}" for e in errors),
    ]

    def cell(value: xarray.DataArray, low: xarray.DataArray, high: xarray.DataArray) -> str:
        if not np.isfinite(value):
            return "?"
        if not np.isfinite(high - low):
            return f"> {abs(float(value)) / NATS_PER_BIT:.2f}"
        return f"{abs(float(value)) / NATS_PER_BIT:.2f} +- {float(high - low) / 2 / NATS_PER_BIT:.2f}"

    for name in dataset["space"].values:
        row = dataset.sel(space=name)
        cells = [cell(*(row[v].sel(target_error=e) for v in ("nats", "low", "high"))) for e in errors]
        fit = cell(row["log_fit"], row["log_fit_low"], row["log_fit_high"])
        weights = "" if name.startswith(("infinite", "RBF")) else int(row["dimension"])
        lines.append(f"{name:<25} {weights:>7} {fit:>12}" + "".join(f"{text:>16}" for text in cells))
    return "\n".join(lines)


def figure(dataset: xarray.Dataset) -> Figure:
    """Required inductive bias against the target error: architectures of one width, and widths up to the limit."""
    import matplotlib.pyplot as plt

    from genjax.plot import inductive_bias_curves

    names = [str(name) for name in dataset["space"].values]
    widths = [name for name in names if name.startswith(("width", "infinite", "RBF"))]
    shallow = dataset.attrs.get("shallow")
    fig, axes = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained", sharey=True)
    panels: tuple[tuple[str, Callable[[str], bool]], ...] = (
        ("architectures", lambda name: name not in widths or name == shallow),
        ("one hidden layer by width, and Gaussian processes", lambda name: name in widths),
    )
    for ax, (title, shown) in zip(axes, panels, strict=True):
        inductive_bias_curves(dataset.sel(space=[name for name in names if shown(name)]), ax)
        ax.set_xlabel("target error (share of test images misclassified)")
        errors = dataset["target_error"].values
        ax.set_xticks(errors, [f"{e:g}" for e in errors])
        ax.minorticks_off()
        ax.set_title(title, fontsize="medium")
    return fig


def main(config: Config) -> xarray.Dataset:
    """Run, print, write."""
    dataset = run(config)
    conclude("architecture_bias", config.out, config, dataset, golden(dataset), table(dataset), figure(dataset))
    return dataset


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config))
