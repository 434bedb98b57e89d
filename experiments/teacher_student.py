"""Perceptrons taught by a perceptron: finite sizes approach the replica theory of infinitely many inputs.

``python -m experiments.teacher_student`` (``--help`` for options). A teacher, uniform on the sphere, labels alpha * N
Gaussian patterns of N inputs; the hypotheses are all students on that sphere. Splitting finds the share of them that
agree with every label, down to about e^-55, and leaves students drawn from these. The angle to the teacher is a
student's test error. Means over data sets are compared with the replica-symmetric values.

What walks down is the worst margin over the patterns, which the fraction of wrong labels would not tell apart: a
student fits once it is positive.

Expected (CPU, float32, about 5 CPU minutes): at N = 40 and alpha = 0.5, 1, 2, 3 the entropies are -0.327(6),
-0.593(10), -1.046(20), -1.332(23), where theory says -0.322, -0.596, -1.031, -1.356, and the errors of a student
0.407(3), 0.335(4), 0.230(5), 0.181(4), where it says 0.410, 0.338, 0.240, 0.181. At N = 10 the errors are 0.006 to
0.019 below theory: a finite size shows there first. The point N = 20, alpha = 3 lies too low in all three, by up to
five of its errors; 40 data sets of another seed put it at -1.347(23) and 0.174(4).

References: Gardner (1988), J. Phys. A 21, 257 (volumes of version spaces); Gyorgyi and Tishby (1990), Statistical
theory of learning a rule (this one).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray
from jax import Array
from jax.tree_util import Partial
from tqdm import tqdm

from experiments.conclusion import conclude
from genjax.random import seed_key
from genjax.run import Execution
from genjax.volume import Splitting, log_probability, weight_space
from genjax.volume.oracles import teacher_student

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Of :func:`golden`, at the largest N.
GOLDEN = {
    "entropy, N = 40, alpha = 0.5": (-0.3271, 0.0063),
    "entropy, N = 40, alpha = 1": (-0.5932, 0.0100),
    "entropy, N = 40, alpha = 2": (-1.0455, 0.0199),
    "entropy, N = 40, alpha = 3": (-1.3315, 0.0231),
    "gibbs_error, N = 40, alpha = 0.5": (0.4070, 0.0030),
    "gibbs_error, N = 40, alpha = 1": (0.3353, 0.0037),
    "gibbs_error, N = 40, alpha = 2": (0.2299, 0.0047),
    "gibbs_error, N = 40, alpha = 3": (0.1810, 0.0043),
    "centre_error, N = 40, alpha = 0.5": (0.3215, 0.0062),
    "centre_error, N = 40, alpha = 1": (0.2534, 0.0059),
    "centre_error, N = 40, alpha = 2": (0.1672, 0.0055),
    "centre_error, N = 40, alpha = 3": (0.1339, 0.0045),
}

QUANTITIES = {
    "entropy": r"ln P(fit) / N  (nats)",
    "gibbs_error": "test error of a student that fits",
    "centre_error": "test error of the mean of these students",
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the experiment.

    Attributes:
      n_inputs: N.
      alphas: training patterns per input.
      n_datasets: teachers and their patterns, for each of both.
      splitting: of each share; its error is to be small against the scatter of the data sets.
      seed: of everything.
      out: run directory.
    """

    n_inputs: tuple[int, ...] = (10, 20, 40)
    alphas: tuple[float, ...] = (0.5, 1.0, 2.0, 3.0)
    n_datasets: int = 24
    splitting: Splitting = dataclasses.field(
        default_factory=lambda: Splitting(n_particles=256, n_replicas=4, n_moves=20, max_rows=256)
    )
    seed: int = 0
    out: Path = Path("runs/teacher_student")


class Students(NamedTuple):
    """Of one data set: nats per input dimension with the simulation's standard error, and shares of inputs."""

    entropy: float
    stderr: float
    gibbs_error: float
    centre_error: float


def linear(weights: Array, x: Array) -> Array:
    return x @ weights[:, None]


def worst_violation(aligned: Array, used: Array, weights: Array) -> Array:
    """By how much the worst of the used patterns, times their labels, is on the wrong side."""
    return -jnp.min(jnp.where(used, aligned @ weights, jnp.inf))


def angle_error(teacher: Array, students: Array) -> Array:
    """Share of Gaussian inputs on which students ``[..., N]`` and the teacher disagree: their angle over pi."""
    norms = jnp.linalg.norm(students, axis=-1) * jnp.linalg.norm(teacher)
    return jnp.arccos(jnp.clip(students @ teacher / norms, -1, 1)) / jnp.pi


def aligned_patterns(key: Array, n_patterns: int, n: int) -> tuple[Array, Array]:
    """Gaussian patterns times their labels, ``[n_patterns, n]``, and the teacher who gave these."""
    pattern_key, teacher_key = jax.random.split(key)
    patterns, teacher = jax.random.normal(pattern_key, (n_patterns, n)), jax.random.normal(teacher_key, (n,))
    return patterns * jnp.sign(patterns @ teacher)[:, None], teacher


def simulate(key: Array, n: int, n_train: int, room: int, settings: Splitting) -> Students:
    """Students that fit one data set.

    Args:
      key: typed key.
      n: N.
      n_train: patterns to fit.
      room: patterns drawn, of which the others go unused: sizes that share it share a compiled program.
      settings: of the splitting.

    Returns:
      What they are like.
    """
    data_key, walk_key = jax.random.split(key)
    aligned, teacher = aligned_patterns(data_key, room, n)
    found = log_probability(
        weight_space(linear, jnp.zeros(n), "spherical"),
        Partial(worst_violation, aligned, jnp.arange(room) < n_train),
        0.0,
        key=walk_key,
        method=settings,
        n_keep=settings.n_particles * settings.n_replicas,
        execution=Execution(progress=False),
    )
    weights, students = jnp.exp(found.particles.log_weights), found.particles.params
    return Students(
        float(found.log_prob.value[0]) / n,
        float(found.log_prob.stderr[0]) / n,
        float(weights @ angle_error(teacher, students)),
        float(angle_error(teacher, weights @ students)),
    )


def run(config: Config) -> xarray.Dataset:
    """Simulate everything; quantities over ``n``, ``alpha`` and ``dataset``, and their ``theory`` over ``alpha``."""
    room = {n: round(max(config.alphas) * n) for n in config.n_inputs}
    shape = (len(config.n_inputs), len(config.alphas), config.n_datasets)
    values = np.empty((*shape, len(Students._fields)))
    for i, j, k in tqdm(list(np.ndindex(shape)), desc="data sets"):
        n = config.n_inputs[i]
        n_train = round(config.alphas[j] * n)
        values[i, j, k] = simulate(seed_key(config.seed, n, n_train, k), n, n_train, room[n], config.splitting)
    dims = ("n", "alpha", "dataset")
    theory = teacher_student(np.array(config.alphas))
    limits = zip(QUANTITIES, (theory.entropy, theory.gibbs_error, theory.bayes_error), strict=True)
    return xarray.Dataset(
        {name: (dims, values[..., i]) for i, name in enumerate(Students._fields)}
        | {f"{name}_theory": ("alpha", limit) for name, limit in limits},
        {"n": list(config.n_inputs), "alpha": list(config.alphas)},
        {"task": "Gaussian patterns, labels of a spherical teacher"},
    )


def mean_and_error(values: xarray.DataArray) -> tuple[xarray.DataArray, xarray.DataArray]:
    """Over data sets, and its standard error."""
    return values.mean("dataset"), values.std("dataset", ddof=1) / np.sqrt(values.sizes["dataset"])


def golden(dataset: xarray.Dataset) -> dict[str, tuple[float, float]]:
    """Means over data sets and their standard errors, by name, N and alpha."""
    found = {}
    for name in QUANTITIES:
        means, errors = mean_and_error(dataset[name])
        for n in dataset["n"].values:
            for alpha in dataset["alpha"].values:
                at = {"n": n, "alpha": alpha}
                found[f"{name}, N = {n}, alpha = {alpha:g}"] = (float(means.sel(at)), float(errors.sel(at)))
    return found


def table(dataset: xarray.Dataset) -> str:
    """One row an alpha, a block a quantity."""
    lines = []
    for name, label in QUANTITIES.items():
        means, errors = mean_and_error(dataset[name])
        lines += [label, f"{'alpha':>8}" + "".join(f"{f'N = {n}':>18}" for n in means["n"].values) + f"{'theory':>10}"]
        for alpha in means["alpha"].values:
            cells = [
                f"{float(means.sel(n=n, alpha=alpha)):>9.4f} +- {float(errors.sel(n=n, alpha=alpha)):.4f}"
                for n in means["n"].values
            ]
            limit = float(dataset[f"{name}_theory"].sel(alpha=alpha))
            lines.append(f"{alpha:>8g}" + "".join(f"{cell:>18}" for cell in cells) + f"{limit:>10.4f}")
    return "\n".join(lines)


def figure(dataset: xarray.Dataset) -> Figure:
    """Entropy and test errors against the number of examples, with the theory as curves."""
    import matplotlib.pyplot as plt

    from genjax.plot import COLORS, MARKERS, STYLES

    fig, axes = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    alphas = np.linspace(0, 1.08 * float(dataset["alpha"].max()), 120)
    theory = teacher_student(alphas)
    curves = (
        (axes[0], "entropy", theory.entropy, STYLES[0], "replica theory, N infinite"),
        (axes[1], "gibbs_error", theory.gibbs_error, STYLES[0], "one student that fits: theory"),
        (axes[1], "centre_error", theory.bayes_error, STYLES[1], "mean of all that fit: theory"),
    )
    for ax, name, curve, style, label in curves:
        ax.plot(alphas, curve, style, color="0.3", label=label)
        means, errors = mean_and_error(dataset[name])
        for i, n in enumerate(dataset["n"].values):
            shift = 0.035 * (i - (dataset.sizes["n"] - 1) / 2)  # so that bars do not cover each other
            ax.errorbar(
                dataset["alpha"].values + shift,
                means.sel(n=n),
                errors.sel(n=n),
                fmt=MARKERS[i],
                markersize=5,
                color=COLORS[i],
                markerfacecolor="white" if name == "centre_error" else COLORS[i],
                capsize=2,
                label=None if name == "centre_error" else f"N = {n}",
            )
    axes[0].set_ylabel(QUANTITIES["entropy"])
    axes[1].set_ylabel("test error")
    axes[1].set_ylim(bottom=0)
    for ax in axes:
        ax.set_xlim(left=0)
        ax.set_xlabel(r"training patterns per input, $\alpha = P / N$")
        ax.grid(True, alpha=0.3)
        bars = f"mean and standard error of {dataset.sizes['dataset']} data sets"
        ax.legend(fontsize="small", frameon=False, title=bars, title_fontsize="small", alignment="left")
    return fig


def main(config: Config) -> xarray.Dataset:
    """Run, print, write."""
    dataset = run(config)
    conclude("teacher_student", config.out, config, dataset, golden(dataset), table(dataset), figure(dataset))
    return dataset


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config))
