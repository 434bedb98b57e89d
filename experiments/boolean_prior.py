"""Boolean functions: does training find those that a random network is likely to compute?

``python -m experiments.boolean_prior`` (``--help`` for options). Small networks on all 2^n corners of a cube, of which
half are training examples of a simple function. Two laws over the functions that fit them are counted: P_B(f), of
random networks conditioned on fitting, by drawing millions; and P_SGD(f), of networks trained by Adam from draws of the
same prior until they fit, over thousands of seeds. The first is the Bayesian posterior of the prior over functions.

Expected (CPU, float32, about half a CPU minute): the logarithms of the two probabilities correlate by 0.55 over 113
functions, and 95 % of the trained networks compute a function that some of the 5,000 guesses that fit compute, too:
almost the same support, but not the same law. The target, which the prior likes best, has P_B = 0.33 and P_SGD = 0.17;
trained networks err on 15.6 % of the other corners, guessed ones on 10.6 %.

References: Mingard, Valle-Perez, Skalse & Louis (2021), Is SGD a Bayesian sampler? Well, almost, JMLR 22, 79;
Valle-Perez, Camargo & Louis (2019), arXiv:1805.08522 (the prior over Boolean functions).
"""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
import optax
import xarray
from jax import Array
from jax.tree_util import Partial
from numpy.typing import NDArray

from experiments.conclusion import conclude
from genjax.models import from_functions
from genjax.random import seed_key
from genjax.run import Execution, Stopping, Train, TrainConfig, make_train
from genjax.tasks import Task, make_task
from genjax.volume import (
    BooleanHistogram,
    HypothesisSpace,
    TrainedSpace,
    boolean_function_histogram,
    clopper_pearson,
    fan_in_scale,
    trained_space,
    weight_space,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Of :func:`golden`: value and standard error.
GOLDEN = {
    "correlation of logs": (0.5521, 0.0256),
    "functions compared": (113.0000, 10.6301),
    "test error, prior": (0.1058, 0.0015),
    "test error, trained": (0.1557, 0.0009),
    "P(target), prior": (0.3331, 0.0066),
    "P(target), trained": (0.1737, 0.0030),
    "P_SGD of functions the guesses found": (0.9493, 0.0017),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the experiment.

    Attributes:
      n_bits: n; the cube has 2^n corners.
      width: hidden units.
      n_train: corners to fit, chosen at random.
      n_guesses: networks drawn from the prior.
      n_seeds: networks trained.
      steps: most Adam updates.
      learning_rate: of Adam.
      min_count: networks of each kind that a function needs to enter the correlation.
      seed: of everything.
      out: run directory.
    """

    n_bits: int = 5
    width: int = 24
    n_train: int = 16
    n_guesses: int = 2**22
    n_seeds: int = 2**14
    steps: int = 150
    learning_rate: float = 0.02
    min_count: int = 5
    seed: int = 0
    out: Path = Path("runs/boolean_prior")


def network(params: dict[str, Array], x: Array) -> Array:
    hidden = jnp.tanh(x @ params["hidden"] + params["bias"])
    return hidden @ params["output"] + params["output_bias"]


def target(x: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The first bit."""
    return x[:, 0] > 0


def cube_task(config: Config) -> Task:
    """The target on some corners of the cube, to predict on the others."""
    x = np.array(list(itertools.product([-1.0, 1.0], repeat=config.n_bits)))
    x = x[np.random.default_rng(config.seed).permutation(len(x))]
    y, k = np.where(target(x), 1.0, -1.0)[:, None], config.n_train
    return make_task(x[:k], y[:k], x[k:], y[k:], kind="classification", encoding="plus_minus_one")


def train_params(train: Train, key: Array) -> Any:
    return train(key).params


def that_fit(histogram: BooleanHistogram, task: Task) -> dict[bytes, int]:
    """Counts of the functions right on the training examples, by their values on the others."""
    functions = histogram.functions
    fit = (functions[:, : task.n_train] == (np.asarray(task.y_train)[:, 0] > 0)).all(axis=1)
    return {
        function[task.n_train :].tobytes(): int(count)
        for function, count in zip(functions[fit], histogram.counts[fit], strict=True)
    }


def run(config: Config) -> xarray.Dataset:
    """Count everything; functions of either kind over ``function``, the prior's most frequent first."""
    task = cube_task(config)
    corners = jnp.concatenate([task.x_train, task.x_test])
    n, width = config.n_bits, config.width
    like = {
        "hidden": jnp.zeros((n, width)),
        "bias": jnp.zeros(width),
        "output": jnp.zeros((width, 1)),
        "output_bias": jnp.zeros(1),
    }
    prior = weight_space(network, like, scale=fan_in_scale())
    settings = TrainConfig(config.steps, records=config.steps, stopping=Stopping(train_error=0.0))
    model = from_functions(lambda key: prior.sample(key), network)
    train = make_train(model, task, optax.adam(config.learning_rate), settings)
    trained = trained_space(Partial(train_params, train), network)
    quiet = Execution(progress=False)
    draws: tuple[tuple[HypothesisSpace | TrainedSpace, int], ...] = (
        (prior, config.n_guesses),
        (trained, config.n_seeds),
    )
    guessed, found = (
        that_fit(boolean_function_histogram(space, corners, n, key=seed_key(config.seed, i), execution=quiet), task)
        for i, (space, n) in enumerate(draws)
    )
    names = sorted({*guessed, *found}, key=lambda name: (-guessed.get(name, 0), -found.get(name, 0), name))
    values = np.array([np.frombuffer(name, bool) for name in names])
    wrong = (values != (np.asarray(task.y_test)[:, 0] > 0)).mean(axis=1)
    return xarray.Dataset(
        {
            "prior_count": ("function", [guessed.get(name, 0) for name in names]),
            "trained_count": ("function", [found.get(name, 0) for name in names]),
            "test_error": ("function", wrong),
        },
        attrs={
            "task": f"the first of {config.n_bits} bits, {config.n_train} of {2**config.n_bits} corners to fit",
            "n_guesses": config.n_guesses,
            "n_seeds": config.n_seeds,
            "min_count": config.min_count,
        },
    )


def shares(dataset: xarray.Dataset) -> tuple[xarray.DataArray, xarray.DataArray]:
    """P_B(f) and P_SGD(f)."""
    prior, trained = dataset["prior_count"], dataset["trained_count"]
    return prior / prior.sum(), trained / trained.sum()


def often(dataset: xarray.Dataset) -> xarray.DataArray:
    """Whether a function was found often enough in both ways for its logarithms to mean something."""
    return np.minimum(dataset["prior_count"], dataset["trained_count"]) >= dataset.attrs["min_count"]


def log_correlation(prior: NDArray[np.float64], trained: NDArray[np.float64]) -> float:
    return float(np.corrcoef(np.log(prior), np.log(trained))[0, 1])


def golden(dataset: xarray.Dataset) -> dict[str, tuple[float, float]]:
    """Correlation of the logs, mean test errors, and how much of either law the other knows, with standard errors.

    Args:
      dataset: of :func:`run`.

    Returns:
      By name; the errors are those of multinomial counts, for the correlation by 200 redrawn pairs of histograms.
    """
    prior, trained = shares(dataset)
    rng, chosen = np.random.default_rng(0), often(dataset).values
    counts = {name: int(dataset[f"{name}_count"].sum()) for name in ("prior", "trained")}
    redrawn = []
    for _ in range(200):
        again = [rng.multinomial(counts[name], p.values)[chosen] for name, p in zip(counts, (prior, trained))]
        redrawn.append(log_correlation(*(np.maximum(count, 1) for count in again)))
    found = {
        "correlation of logs": (log_correlation(prior.values[chosen], trained.values[chosen]), float(np.std(redrawn))),
        "functions compared": (float(chosen.sum()), float(np.sqrt(chosen.sum()))),
    }
    for name, law in (("prior", prior), ("trained", trained)):
        mean = float((law * dataset["test_error"]).sum())
        variance = float((law * (dataset["test_error"] - mean) ** 2).sum())
        found[f"test error, {name}"] = (mean, float(np.sqrt(variance / counts[name])))
        right = float(law.where(dataset["test_error"] == 0, 0).sum())
        found[f"P(target), {name}"] = (right, float(np.sqrt(max(right * (1 - right), 1e-9) / counts[name])))
    known = float(trained.where(dataset["prior_count"] > 0, 0).sum())
    found["P_SGD of functions the guesses found"] = (known, float(np.sqrt(known * (1 - known) / counts["trained"])))
    fit = counts["prior"] / dataset.attrs["n_guesses"]
    found["P(fit), prior"] = (fit, float(np.sqrt(fit * (1 - fit) / dataset.attrs["n_guesses"])))
    fit = counts["trained"] / dataset.attrs["n_seeds"]
    return found | {"P(fit), trained": (fit, float(np.sqrt(max(fit * (1 - fit), 1e-9) / dataset.attrs["n_seeds"])))}


def table(dataset: xarray.Dataset) -> str:
    """The golden numbers and the ten most likely functions."""
    prior, trained = shares(dataset)
    lines = [f"{name:<40}{value:>10.4f} +- {stderr:.4f}" for name, (value, stderr) in golden(dataset).items()]
    lines += ["", f"{'function':>8} {'P_B':>10} {'P_SGD':>10} {'test error':>11}"]
    for i in range(min(10, prior.size)):
        error = float(dataset["test_error"][i])
        lines.append(f"{i + 1:>8} {float(prior[i]):>10.4g} {float(trained[i]):>10.4g} {error:>11.4f}")
    return "\n".join(lines)


def figure(dataset: xarray.Dataset) -> Figure:
    """Probability of each function in training against that in the posterior, with binomial intervals."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(6.6, 5.2), layout="constrained")
    counts = [dataset[f"{name}_count"].values for name in ("prior", "trained")]
    both = (counts[0] > 0) & (counts[1] > 0)
    centres, bars = [], []
    for count in counts:
        low, high = (np.exp(end) for end in clopper_pearson(count[both], count.sum()))
        share = count[both] / count.sum()
        centres.append(share)
        bars.append(np.maximum([share - low, high - share], 0))
    x, y = centres
    ax.errorbar(x, y, bars[1], bars[0], fmt="none", color="0.75", elinewidth=0.7, zorder=1)
    points = ax.scatter(x, y, c=dataset["test_error"].values[both], cmap="viridis", s=16, zorder=2)
    fig.colorbar(points, ax=ax, label="test error of the function")
    ends = np.array([min(x.min(), y.min()) / 2, max(x.max(), y.max()) * 2])
    ax.plot(ends, ends, "--", color="0.3", linewidth=1, label="equal probabilities")
    for count, line in zip(counts, (ax.axvline, ax.axhline), strict=True):
        line(dataset.attrs["min_count"] / count.sum(), color="0.6", linestyle=":", linewidth=1)
    value, stderr = golden(dataset)["correlation of logs"]
    n = int(often(dataset).sum())
    ax.plot([], [], " ", label=f"correlation of logs {value:.3f}({1e3 * stderr:.0f}) over {n} functions")
    ax.plot([], [], ":", color="0.6", label=f"compared: at least {dataset.attrs['min_count']} networks of each kind")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(left=0.5 / counts[0].sum())
    ax.set_ylim(bottom=0.5 / counts[1].sum())
    ax.set_xlabel("P_B(f): random networks that fit")
    ax.set_ylabel("P_SGD(f): trained networks")
    ax.grid(True, alpha=0.3)
    ax.legend(fontsize="small", frameon=False, loc="upper left")
    return fig


def main(config: Config) -> xarray.Dataset:
    """Run, print, write."""
    dataset = run(config)
    conclude("boolean_prior", config.out, config, dataset, golden(dataset), table(dataset), figure(dataset))
    return dataset


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config))
