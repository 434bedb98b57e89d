"""Command line: ``genjax bias ...``, ``genjax info``. Bad arguments exit with 2 and a sentence, failed runs with 1."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from genjax.errors import GenjaxError, Status

if TYPE_CHECKING:
    from genjax.tasks import Task
    from genjax.typing import Kernel
    from genjax.volume import InductiveBias


@dataclasses.dataclass(frozen=True)
class Bias:
    """Required inductive bias of a task relative to a Gaussian hypothesis space, exactly.

    How many nats, beyond the training data, it takes to pick a hypothesis whose test error is at most the target:
    I(eps) = -log P(test error <= eps | hypothesis ~ space, fits the training data). Prints a table and writes a run
    directory with config.json, meta.json, results.nc and a figure.

    Example: genjax bias --task digits --space nngp --depth 3 --target-error 0.05 0.01
    """

    task: str = "digits"
    """digits, breast_cancer, wine, iris, diabetes (bundled); mnist, fashion_mnist, cifar10 (local files); or the
    path of a .npz or .csv file."""
    space: Literal["rbf", "matern", "laplace", "linear", "polynomial", "nngp", "ntk"] = "nngp"
    """Hypothesis space: a covariance, or an infinitely wide ReLU net at initialization (nngp) or linearized (ntk)."""
    depth: int = 3
    """nngp, ntk: number of hidden layers."""
    weight_variance: float = 2.0
    """nngp, ntk: variance of the weights times fan-in."""
    bias_variance: float = 0.0
    """nngp, ntk: variance of the biases."""
    length_scale: float = 1.0
    """rbf, matern, laplace: length scale in units of the scaled inputs."""
    smoothness: float = 2.5
    """matern: smoothness nu, one of 0.5, 1.5, 2.5."""
    degree: int = 2
    """polynomial: degree."""
    noise: float = 0.0
    """Variance of the noise within which a hypothesis fits; 0 demands interpolation. Part of the hypothesis space."""
    target_error: Annotated[tuple[float, ...], tyro.conf.arg(metavar="EPS [EPS ...]")] = (0.3, 0.1, 0.05, 0.03, 0.01)
    """Target mean squared test errors, per test point and output."""
    n_train: int = 500
    """Training points."""
    n_test: int = 500
    """Test points; the result grows with them."""
    seed: int = 0
    """Seed of the split and of all noise."""
    classes: tuple[str, ...] = ()
    """Keep only these classes (for example 3 8); all by default."""
    encoding: Literal["one_hot", "centered_one_hot", "plus_minus_one"] | None = None
    """Labels as numbers; one_hot by default for classification."""
    scaling: Literal["none", "unit", "standardize", "sphere"] = "unit"
    """Inputs: as they come, divided by their range, standardized per feature, or normalized to length 1."""
    standardize_targets: bool = False
    """Regression: targets to zero mean and unit variance."""
    label_noise: float = 0.0
    """Fraction of training labels redrawn at random."""
    noise_dimensions: int = 0
    """Number of irrelevant N(0, noise_scale^2) input dimensions appended."""
    noise_scale: float = 0.3
    """Standard deviation of those."""
    data_dir: Path | None = None
    """Folder of the local image files."""
    target: str | None = None
    """Target column of a .csv file, by name or index; the last by default."""
    method: Literal["exact", "lanczos"] = "exact"
    """exact, or lanczos (matrix-free, with a standard error) for large test sets."""
    precision: Literal["float64", "float32"] = "float64"
    """Arithmetic."""
    out: Path | None = None
    """Run directory; runs/bias-<task>-<space>-<time> by default. An existing run is not overwritten."""
    save: bool = True
    """Whether to write the run directory."""
    json: bool = False
    """Print machine-readable JSON instead of the table."""
    debug: bool = False
    """Show tracebacks."""


@dataclasses.dataclass(frozen=True)
class Info:
    """Versions, devices and precision, as JSON: what to paste into a report."""

    debug: bool = False
    """Show tracebacks."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
      arguments: words after the program's name; None takes them from the system.

    Returns:
      Exit status: 0 success, 1 failed run; bad arguments leave by ``SystemExit`` or status 2.
    """
    commands = Annotated[Bias, tyro.conf.subcommand("bias")] | Annotated[Info, tyro.conf.subcommand("info")]
    command: Bias | Info = tyro.cli(commands, prog="genjax", description=__doc__, args=arguments)
    try:
        return _bias(command) if isinstance(command, Bias) else _info()
    except (ValueError, TypeError, OSError, GenjaxError) as error:
        if command.debug:
            raise
        print(f"genjax {type(command).__name__.lower()}: {_in_options(str(error))}", file=sys.stderr)
        return 1 if isinstance(error, GenjaxError) else 2


def _in_options(message: str) -> str:
    """Name arguments as the command line does: `depth` becomes --depth."""
    aliases = {"source": "task", "fraction": "label_noise", "n_dimensions": "noise_dimensions", "scale": "noise_scale"}
    names = {field.name for field in dataclasses.fields(Bias)}

    def option(match: re.Match[str]) -> str:
        name = aliases.get(match[1], match[1])
        return "--" + name.replace("_", "-") if name in names else match[0]

    return re.sub(r"`(\w+)`", option, message)


def _info() -> int:
    from genjax.run import provenance

    print(json.dumps(provenance(), indent=2))
    return 0


def _bias(command: Bias) -> int:
    import jax

    from genjax.random import seed_key
    from genjax.run import inductive_bias_dataset, open_run, require_no_run, save_figure, save_results, to_json
    from genjax.volume import gaussian_inductive_bias

    stamp = time.strftime("%Y%m%d-%H%M%S")
    directory = command.out or Path("runs") / f"bias-{Path(command.task).stem}-{command.space}-{stamp}"
    if command.save:
        require_no_run(directory)
    jax.config.update("jax_enable_x64", command.precision == "float64")
    kernel = _kernel(command)
    task = _task(command)
    result = gaussian_inductive_bias(
        kernel,
        task,
        jax.numpy.asarray(sorted(command.target_error, reverse=True)),
        noise=command.noise,
        method=command.method,
        key=seed_key(command.seed, 2),
    )
    written: dict[str, Path] = {}
    if command.save:
        import matplotlib

        matplotlib.use("Agg")
        from genjax.plot import inductive_bias_curves

        open_run(directory, command)
        dataset = inductive_bias_dataset({command.space: result}).assign_attrs(task=task.provenance)
        written["results"] = save_results(directory, dataset)
        figure = inductive_bias_curves(dataset).figure
        written["figure"] = save_figure(directory, "required_inductive_bias", figure)  # type: ignore[arg-type]
    if command.json:
        document = {**to_json(result), "bits": to_json(result.bits), "task": task.provenance, "files": to_json(written)}
        document["bias"]["status"] = [Status(s).name for s in document["bias"]["status"]]
        print(json.dumps(document, indent=2))
        return 0
    print(f"{task.provenance}\n\n{result}\n\n{_sentence(command, result)}")
    for what, path in written.items():
        print(f"{what + ':':<9}{path}")
    return 0


def _kernel(command: Bias) -> Kernel:
    from genjax import ntk

    variances = (command.weight_variance, command.bias_variance)
    build: dict[str, Callable[[], Kernel]] = {
        "rbf": lambda: ntk.rbf(command.length_scale),
        "matern": lambda: ntk.matern(command.length_scale, command.smoothness),
        "laplace": lambda: ntk.laplace(command.length_scale),
        "linear": ntk.linear,
        "polynomial": lambda: ntk.polynomial(command.degree),
        "nngp": lambda: ntk.mlp_nngp(command.depth, *variances),
        "ntk": lambda: ntk.mlp_ntk(command.depth, *variances),
    }
    return build[command.space]()


def _task(command: Bias) -> Task:
    from genjax.random import seed_key
    from genjax.tasks import SOURCES, add_label_noise, add_noise_dimensions, load_task

    bundled = command.task in SOURCES
    task = load_task(
        command.task,
        n_train=command.n_train,
        n_test=command.n_test,
        seed=command.seed,
        encoding=command.encoding,
        scaling=command.scaling,
        standardize_targets=command.standardize_targets,
        classes=[int(c) if bundled and c.lstrip("-").isdigit() else c for c in command.classes] or None,
        data_dir=command.data_dir,
        target=command.target,
    )
    if command.noise_dimensions:
        task = add_noise_dimensions(seed_key(command.seed, 0), task, command.noise_dimensions, command.noise_scale)
    if command.label_noise:
        task = add_label_noise(seed_key(command.seed, 1), task, command.label_noise)
    return task


def _sentence(command: Bias, result: InductiveBias) -> str:
    """What the last row of the table means."""
    hardest, nats, bits = (float(v[-1]) for v in (result.target_error, result.nats, result.bits))
    if nats == float("inf"):
        return (
            f"No {command.space} hypothesis that fits the training data reaches a test error of {hardest:g}: "
            f"the floor of this space is {float(result.floor):.4g}."
        )
    return (
        f"Beyond the {result.n_train} training points it takes {nats:.4g} nats ({bits:.4g} bits) to pick a hypothesis "
        f"of the {command.space} space with test error <= {hardest:g}: a random fitting hypothesis succeeds with "
        f"probability e^-{nats:.4g}."
    )
