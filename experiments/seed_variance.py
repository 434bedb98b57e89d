"""How much of the spread between seeds is initialization, how much data order, and how much the finite test set?

``python -m experiments.seed_variance`` (``--help`` for options). A network for every pair of 64 initializations and 32
data orders, all else equal, so that the variance of the test error splits into a part of each and their interaction.
Part of it only says that the test set is finite: networks of the same true error, erring independently on each example,
would still differ by as much. What is left is the variance of the true error. Writes ``runs/seed_variance``; running it
again goes on where it was stopped.

Expected (2 CPU cores, float32, 45 s): test error 5.01 % with a standard deviation of 0.30 points. Early on
the order of the data decides which network is better (72 % of the variance after 43 updates), in the end the
initialization (62 %, data order 2 %, interaction 36 %). Equally good networks would spread by 0.28 points on these 1000
examples, so the true error does by 0.12 (95 % interval 0.00 to 0.19). The textbook's sqrt(p (1 - p) / m), 0.69 points,
is twice too large: it is for networks tested on examples of their own, but these meet the same easy and hard ones.

References: Jordan (2024), arXiv:2304.01910 (independent errors, unbiased variance of the true error); Searle, Casella,
McCulloch (1992), Variance Components (crossed random effects); Bouthillier et al. (2021), arXiv:2103.03098 (sources of
variance).
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray
from jax import Array

from experiments.conclusion import conclude
from genjax.models import mlp
from genjax.random import seed_key
from genjax.run import Train, TrainConfig, ensemble, zero_one_error
from genjax.tasks import load_task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Of :func:`golden`.
GOLDEN = {
    "mean": (5.007, 0.031),
    "initialization": (0.057, 0.010),
    "interaction": (0.0328, 0.0010),
    "total": (0.092, 0.010),
    "true error": (0.015, 0.010),
}
COMPONENTS = ("initialization", "data order", "interaction", "total")
_INITIALIZATIONS, _ORDERS = range(2)


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the experiment.

    Attributes:
      task: name of a classification data set.
      n_train: training points.
      n_test: test points.
      width: units of the one hidden layer.
      n_initializations: initial parameters, crossed with
      n_orders: sequences of mini-batches.
      steps: updates of SGD with momentum 0.9.
      batch_size: examples an update.
      learning_rate: of the first update; it falls to zero along a cosine.
      seed: of the split, the initializations and the orders.
      out: run directory.
    """

    task: str = "digits"
    n_train: int = 400
    n_test: int = 1000
    width: int = 64
    n_initializations: int = 64
    n_orders: int = 32
    steps: int = 1000
    batch_size: int = 32
    learning_rate: float = 0.1
    seed: int = 0
    out: Path = Path("runs/seed_variance")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class CrossedTrain(Train):
    """Training whose initial parameters come from the hyper-parameter ``initialization``, a key, not the member's key.

    What is left to the member's key is the data order. Which test examples are wrong is recorded as well.
    """

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Errors are recorded by example."""
        return {"wrong": ("example",)}

    def init(self, context: Any) -> Any:
        """State before the first update."""
        return super().init(context._replace(key=context.hparams["initialization"]))

    def observe(self, context: Any, state: Any, step: Any) -> tuple[Any, dict[str, Array]]:
        """The usual metrics, and ``wrong``, ``bool[m]``."""
        state, metrics = super().observe(context, state, step)
        task = context.task
        outputs, _ = self.model.apply(state.params, state.model_state, task.x_test)
        return state, metrics | {"wrong": zero_one_error(outputs, task.y_test).astype(bool)}


def variance_components(values: xarray.DataArray) -> xarray.Dataset:
    r"""Split the variance of a crossed table without repetitions.

    For :math:`y_{ij} = \mu + a_i + b_j + c_{ij}` with independent effects, the mean squares of rows, columns and
    remainder have expectations :math:`J \sigma_a^2 + \sigma_c^2`, :math:`I \sigma_b^2 + \sigma_c^2` and
    :math:`\sigma_c^2`, which gives unbiased estimates; they may come out negative. Standard errors are those of
    Gaussian effects, :math:`2 \mathrm{MS}^2 / (\mathrm{df} + 2)` being unbiased for the variance of a mean square.

    Args:
      values: over ``initialization`` [I], ``order`` [J] and further dimensions, which are kept.

    Returns:
      ``variance`` and ``stderr`` over ``component``: initialization, data order, interaction and their total, the
      variance of a network whose initialization and data order are both new; ``share`` of the total and its
      ``share_stderr``, to first order.

    References:
      Searle, Casella, McCulloch (1992), Variance Components, chapter 4 (two-way crossed random model).
    """
    values = values.astype(float)
    n_rows, n_columns = values.sizes["initialization"], values.sizes["order"]
    rows, columns = values.mean("order"), values.mean("initialization")
    remainder = values - rows - columns + values.mean(("initialization", "order"))
    df = np.array([n_rows - 1, n_columns - 1, (n_rows - 1) * (n_columns - 1)])
    squares = xarray.concat(
        [
            n_columns * rows.var("initialization", ddof=1),
            n_rows * columns.var("order", ddof=1),
            (remainder**2).sum(("initialization", "order")) / df[2],
        ],
        dim="square",
    )
    a, b = 1 / n_columns, 1 / n_rows
    weights = xarray.DataArray(
        [[a, 0, -a], [0, b, -b], [0, 0, 1], [a, b, 1 - a - b]],
        dims=("component", "square"),
        coords={"component": list(COMPONENTS)},
    )
    spread = 2 * squares**2 / (xarray.DataArray(df, dims="square") + 2)
    variance = (weights * squares).sum("square")
    total = variance.sel(component="total", drop=True)
    share = variance / total
    slopes = (weights - share * weights.sel(component="total", drop=True)) / total
    return xarray.Dataset(
        {
            "variance": variance,
            "stderr": np.sqrt((weights**2 * spread).sum("square")),
            "share": share,
            "share_stderr": np.sqrt((slopes**2 * spread).sum("square")),
        }
    )


def sampling_variance(wrong: xarray.DataArray) -> xarray.DataArray:
    """Variance over networks of one example's being wrong, averaged over examples.

    Divided by the number of test examples it is the variance of the test error of networks that err independently on
    each.
    """
    per_example = variance_components(wrong)["variance"].sel(component="total", drop=True)
    return per_example.mean("example")


def true_error_variance(total: xarray.DataArray, sampling: xarray.DataArray, n_test: int) -> xarray.DataArray:
    r"""Variance of the error on the whole distribution, unbiased over draws of the test set.

    A test set of size m shows :math:`V_m = v / m + (1 - 1/m) V`, with v the variance of one example's error and V that
    of the true error, the covariance of the errors on two different examples.

    Args:
      total: variance of the test error, :math:`V_m`.
      sampling: v, as :func:`sampling_variance` gives it.
      n_test: m.

    Returns:
      V.

    References:
      Jordan (2024), arXiv:2304.01910, theorem on estimating distribution-wise variance.
    """
    return (total - sampling / n_test) * n_test / (n_test - 1)


def run(config: Config) -> xarray.Dataset:
    """Train everything and take the variance apart."""
    task = load_task(config.task, n_train=config.n_train, n_test=config.n_test, seed=config.seed)
    optimizer = optax.sgd(optax.cosine_decay_schedule(config.learning_rate, config.steps), momentum=0.9)
    settings = TrainConfig(steps=config.steps, batch_size=config.batch_size, records=12, spacing="log")
    directory = config.out / "training"
    trained = ensemble(
        CrossedTrain(task, mlp(task.n_outputs, width=config.width, depth=1), optimizer, settings),
        _keys(config.seed, _ORDERS, config.n_orders),
        {"initialization": _keys(config.seed, _INITIALIZATIONS, config.n_initializations)},
        directory=directory,
        config=config,
        resume=directory.exists(),
    ).rename(seed="order")
    return analyse(trained).assign_attrs(task=task.provenance)


def _keys(seed: int, stream: int, n: int) -> Array:
    return jax.vmap(lambda i: seed_key(seed, stream, i))(jnp.arange(n))


def analyse(trained: xarray.Dataset) -> xarray.Dataset:
    """Variances of the test error, from the networks over ``initialization`` and ``order``."""
    wrong = trained["wrong"]
    n_test = wrong.sizes["example"]
    parts = variance_components(trained["test_error"])
    total = parts.sel(component="total", drop=True)
    sampling = sampling_variance(wrong)
    sizes = [size for size in (10, 20, 50, 100, 200, 500, 1000) if size < n_test] + [n_test]
    last = wrong.isel(step=-1, drop=True).astype(float)
    subsets = [
        variance_components(last.coarsen(example=size, boundary="trim").mean()).sel(component="total", drop=True)
        for size in sizes
    ]
    return parts.assign(
        test_error=trained["test_error"],
        train_error=trained["train_error"],
        sampling_variance=sampling,
        # The sampling part is an average over examples, so its own error is small beside that of the total.
        true_error_variance=true_error_variance(total["variance"], sampling, n_test),
        true_error_stderr=total["stderr"] * n_test / (n_test - 1),
        subset_variance=("test_size", [float(part["variance"].mean()) for part in subsets]),
    ).assign_coords(test_size=sizes)


def summary(dataset: xarray.Dataset) -> xarray.Dataset:
    """Of the trained networks: variances with standard errors over ``source``."""
    end = dataset.isel(step=-1, drop=True)
    n_test = int(dataset["test_size"][-1])
    error = float(end["test_error"].mean())
    rows: dict[str, tuple[Any, Any]] = {
        name: (end["variance"].sel(component=name), end["stderr"].sel(component=name)) for name in COMPONENTS
    } | {
        "independent errors": (end["sampling_variance"] / n_test, 0.0),
        "true error": (end["true_error_variance"], end["true_error_stderr"]),
        "test set of its own": (error * (1 - error) / n_test, 0.0),
    }
    values = np.array([[float(value), float(stderr)] for value, stderr in rows.values()])
    return xarray.Dataset(
        {"variance": ("source", values[:, 0]), "stderr": ("source", values[:, 1])}, coords={"source": list(rows)}
    )


def golden(dataset: xarray.Dataset) -> dict[str, tuple[float, float]]:
    """Mean test error after training in %, and parts of its variance in squared points, with standard errors."""
    end = summary(dataset)
    errors = 100 * dataset["test_error"].isel(step=-1)
    # Rows and columns are shared, so the mean is no better known than the averages over few of them.
    rows, columns = errors.mean("order"), errors.mean("initialization")
    variance = float(rows.var(ddof=1)) / rows.size + float(columns.var(ddof=1)) / columns.size
    values = {
        name: (1e4 * float(end["variance"].sel(source=name)), 1e4 * float(end["stderr"].sel(source=name)))
        for name in (*COMPONENTS, "true error")
    }
    return {"mean": (float(errors.mean()), math.sqrt(variance))} | values


def _deviation(variance: Any) -> Any:
    """Standard deviation in percentage points; an estimate of a variance that came out negative counts as none."""
    return 100 * np.sqrt(np.maximum(variance, 0))


def table(dataset: xarray.Dataset) -> str:
    """Shares of the components over training, then standard deviations at its end."""
    lines = [
        f"{'step':>6} {'test error':>11}" + "".join(f"{name:>17}" for name in COMPONENTS[:3]) + "  of the variance"
    ]
    for step in dataset["step"].values:
        row = dataset.sel(step=step)
        shares = [
            f"{f'{100 * row.share.sel(component=name):z.0f} +- {100 * row.share_stderr.sel(component=name):.0f} %':>17}"
            for name in COMPONENTS[:3]
        ]
        lines.append(f"{step:>6} {100 * float(row['test_error'].mean()):>9.2f} %" + "".join(shares))
    lines += ["", f"{'standard deviation of the test error, points':<46}{'value':>7}{'95 % interval':>17}"]
    words = {"total": "observed", "independent errors": "networks equally good, errors independent"} | {
        "true error": "of the true error",
        "test set of its own": "networks equally good, each its own test set",
    }
    end = summary(dataset)
    for source in end["source"].values:
        variance, stderr = (float(end[name].sel(source=source)) for name in ("variance", "stderr"))
        low, high = _deviation(variance - 1.96 * stderr), _deviation(variance + 1.96 * stderr)
        interval = f"{low:.3f} to {high:.3f}" if stderr else ""
        lines.append(f"{words.get(source, source):<46}{_deviation(variance):>7.3f}{interval:>17}")
    return "\n".join(lines)


def figure(dataset: xarray.Dataset) -> Figure:
    """Three panels: the distribution of test errors, the sources of its variance, and what more test data would do."""
    import matplotlib.pyplot as plt
    from scipy.stats import norm

    from genjax.plot import COLORS, MARKERS, STYLES

    end = summary(dataset)["variance"]
    errors = 100 * dataset["test_error"].isel(step=-1).values.ravel()
    n_test = int(dataset["test_size"][-1])
    fig, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained")

    width = 100 / n_test
    edges = np.arange(errors.min() - width / 2, errors.max() + width, width)
    left.hist(errors, edges, density=True, color=COLORS[4], alpha=0.6, label=f"{errors.size} networks")
    spread = _deviation(float(end.sel(source="test set of its own")))
    grid = np.linspace(errors.mean() - 3.2 * spread, errors.mean() + 3.2 * spread, 300)
    for source, label, color, style in (
        ("independent errors", "equally good,\nerrors independent", COLORS[0], STYLES[0]),
        ("test set of its own", "equally good,\neach its own test set", COLORS[5], STYLES[1]),
    ):
        density = norm.pdf(grid, errors.mean(), _deviation(float(end.sel(source=source))))
        left.plot(grid, density, style, color=color, label=label)
    left.set_xlabel(f"test error on {n_test} examples (%)")
    left.set_ylabel("density (1 / %)")
    left.set_ylim(top=1.25 * left.get_ylim()[1])

    later = dataset.sel(step=dataset["step"] > 0)
    for i, name in enumerate(COMPONENTS[:3]):
        part = later.sel(component=name)
        middle.errorbar(
            part["step"],
            100 * part["share"],
            196 * part["share_stderr"],
            fmt=MARKERS[i] + STYLES[i],
            color=COLORS[i],
            markersize=4,
            elinewidth=1,
            label=name,
        )
    middle.set_xscale("log")
    middle.set_xlabel("updates")
    middle.set_ylabel("share of the variance of test error (%)")

    sizes = dataset["test_size"].values
    relative = float((dataset["stderr"] / dataset["variance"]).sel(component="total").isel(step=-1))
    observed = dataset["subset_variance"].values
    bars = [
        _deviation(observed) - _deviation(observed * (1 - 1.96 * relative)),
        _deviation(observed * (1 + 1.96 * relative)) - _deviation(observed),
    ]
    right.errorbar(sizes, _deviation(observed), bars, fmt="o", color="black", markersize=4, label="observed")
    fine = np.geomspace(sizes[0], 10 * sizes[-1], 100)
    sampling = n_test * float(end.sel(source="independent errors"))
    own = n_test * float(end.sel(source="test set of its own"))
    true = float(end.sel(source="true error"))
    right.plot(
        fine, _deviation(true + (sampling - true) / fine), color="black", linewidth=1, label="expected at this size"
    )
    right.plot(fine, _deviation(sampling / fine), STYLES[0], color=COLORS[0], label="equally good, errors independent")
    right.plot(fine, _deviation(own / fine), STYLES[1], color=COLORS[5], label="equally good, own test sets")
    stderr = float(summary(dataset)["stderr"].sel(source="true error"))
    right.axhline(_deviation(true), linestyle=STYLES[3], color=COLORS[2], label="of the true error")
    right.axhspan(
        _deviation(true - 1.96 * stderr), _deviation(true + 1.96 * stderr), color=COLORS[2], alpha=0.15, linewidth=0
    )
    right.set(xscale="log", yscale="log", xlabel="test examples", ylabel="standard deviation of test error (points)")
    right.set_ylim(bottom=_deviation(sampling / fine[-1]) / 2)
    for ax, bars_mean in ((left, None), (middle, "95 % intervals"), (right, "95 % intervals")):
        ax.grid(True, which="major", alpha=0.3)
        ax.legend(fontsize="small", frameon=False, title=bars_mean, title_fontsize="small")
    return fig


def main(config: Config) -> xarray.Dataset:
    """Run, print, write."""
    dataset = run(config)
    conclude("seed_variance", config.out, config, dataset, golden(dataset), table(dataset), figure(dataset))
    return dataset


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config))
