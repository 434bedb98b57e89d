"""What the commands share: options of the task and the run, lists of numbers, and how messages name options."""

from __future__ import annotations

import dataclasses
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.constructors import PrimitiveConstructorSpec

if TYPE_CHECKING:
    from genjax.tasks import Task


def _parse(words: list[str]) -> tuple[float, ...]:
    numbers = tuple(float(number) for word in words for number in word.split(",") if number)
    if not numbers:
        raise ValueError("at least one number is needed")
    return numbers


Numbers = Annotated[
    tuple[float, ...],
    PrimitiveConstructorSpec(
        nargs="*",
        metavar="X[,X ...]",
        instance_from_str=_parse,
        is_instance=lambda value: isinstance(value, tuple) and all(isinstance(item, float) for item in value),
        str_from_instance=lambda numbers: [f"{number:g}" for number in numbers],
    ),
]
"""One or more numbers, separated by commas or spaces."""


@dataclasses.dataclass(frozen=True)
class TaskOptions:
    """Options that make a task, the same for every command."""

    task: str = "digits"
    """digits, breast_cancer, wine, iris, diabetes (bundled); mnist, fashion_mnist, cifar10 (local files);
    or the path of a .npz or .csv file."""
    n_train: int = 500
    """Training points."""
    n_test: int = 500
    """Test points."""
    seed: int = 0
    """Seed of the split and of all random numbers."""
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


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Options that say how a command runs and what it leaves behind, the same for every command."""

    precision: Literal["float64", "float32"] = "float64"
    """Arithmetic."""
    out: Path | None = None
    """Run directory; runs/<command>-<task>-...-<time> by default. An existing run is not overwritten."""
    save: bool = True
    """Whether to write the run directory."""
    json: bool = False
    """Print machine-readable JSON instead of the table."""
    debug: bool = False
    """Show tracebacks."""


# Independent streams of random numbers from one --seed: genjax.random.seed_key(seed, STREAM).
NOISE_DIMENSIONS_STREAM, LABEL_NOISE_STREAM, LANCZOS_STREAM, MEMBERS_STREAM, SIMULATION_STREAM = range(5)


def make_task(options: TaskOptions, *, flatten: bool = True) -> Task:
    """The task the options describe.

    Args:
      options: a command.
      flatten: whether inputs become vectors; otherwise images stay images.

    Returns:
      The task, with its noises.
    """
    from genjax.random import seed_key
    from genjax.tasks import SOURCES, add_label_noise, add_noise_dimensions, load_task

    bundled = options.task in SOURCES
    task = load_task(
        options.task,
        n_train=options.n_train,
        n_test=options.n_test,
        seed=options.seed,
        encoding=options.encoding,
        scaling=options.scaling,
        standardize_targets=options.standardize_targets,
        classes=[int(c) if bundled and c.lstrip("-").isdigit() else c for c in options.classes] or None,
        flatten=flatten,
        data_dir=options.data_dir,
        target=options.target,
    )
    if options.noise_dimensions:
        key = seed_key(options.seed, NOISE_DIMENSIONS_STREAM)
        task = add_noise_dimensions(key, task, options.noise_dimensions, options.noise_scale)
    if options.label_noise:
        task = add_label_noise(seed_key(options.seed, LABEL_NOISE_STREAM), task, options.label_noise)
    return task


def run_directory(command: str, *names: str) -> Path:
    """Default run directory.

    Args:
      command: the command's name.
      *names: what tells its runs apart; paths are reduced to their stem.

    Returns:
      ``runs/<command>-<name>-...-<time>``.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return Path("runs") / "-".join([command, *(Path(name).stem for name in names), stamp])


# Arguments of the library that options set under another name.
_OPTIONS = {
    "source": "task",
    "fraction": "label_noise",
    "n_dimensions": "noise_dimensions",
    "scale": "noise_scale",
    "keys": "seeds",
    "directory": "out",
    "stopping.train_error": "stop_train_error",
    "train_loss": "stop_train_loss",
    "n_particles": "particles",
    "n_replicas": "replicas",
    "n_moves": "moves",
    "n_hypotheses": "hypotheses",
    "n_seeds": "seeds",
}


def in_options(message: str, command: type[Any]) -> str:
    """Name arguments as the command line does: `depth` becomes --depth.

    Args:
      message: of an error.
      command: dataclass whose fields are the options.

    Returns:
      The message; what is no option of this command stays as it was.
    """
    names = {field.name for field in dataclasses.fields(command)}

    def option(match: re.Match[str]) -> str:
        name = _OPTIONS.get(match[1], match[1])
        return "--" + name.replace("_", "-") if name in names else match[0]

    return re.sub(r"`([\w.]+)`", option, message)
