"""What a task looks like through a kernel: prediction, its estimates from training data, spectrum, inductive bias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from genjax.errors import check_array
from genjax.estimate import NATS_PER_BIT
from genjax.ntk import (
    condition_number,
    cumulative_power,
    effective_rank,
    kare,
    kernel_regression,
    max_learning_rate,
    target_alignment,
    training_path,
)
from genjax.tasks import Task
from genjax.typing import Kernel
from genjax.volume.datasets import inductive_bias_dataset
from genjax.volume.gaussian import GramBlocks, check_space
from genjax.volume.gaussian_bias import gaussian_inductive_bias

if TYPE_CHECKING:
    import xarray

_STEPS = np.logspace(0, 6, 49)


def gram_blocks(kernel: Kernel | GramBlocks, task: Task) -> GramBlocks:
    """A kernel's values on a task, computed once for whatever is to be asked of them.

    Args:
      kernel: any kernel; blocks are checked and returned as they are.
      task: whose inputs have the shape the kernel takes.

    Returns:
      The values among training points, between training and test points, and among test points.

    Raises:
      TypeError: ``kernel`` is neither.
      ValueError: blocks whose shapes do not match the task.

    References:
      The layout of Rasmussen and Williams (2006), eq. 2.21.
    """
    space = check_space(kernel, task)
    if isinstance(space, GramBlocks):
        return space
    if not callable(space):
        raise TypeError(f"`kernel` must be a kernel or GramBlocks, but {type(space).__name__} came")
    return GramBlocks(
        space(task.x_train, task.x_train), space(task.x_train, task.x_test), space(task.x_test, task.x_test)
    )


def kernel_dataset(
    kernels: Mapping[str, Kernel | GramBlocks],
    task: Task,
    target_error: ArrayLike | Sequence[float],
    *,
    noise: float = 0.0,
) -> xarray.Dataset:
    """Compare kernels on a task: what each predicts, what says so beforehand, and the bias each is short of.

    Args:
      kernels: name of each and the kernel, or its values as :class:`GramBlocks`.
      task: training and test data.
      target_error: ``float[e]`` or a number, target mean squared errors per test point and output.
      noise: variance added to the diagonal: of observation noise, or the ridge.

    Returns:
      The dataset of :func:`inductive_bias_dataset`, and over ``space``:

      * kernel regression: ``train_error``, ``test_error`` (mean squared, per point and output), and for classification
        ``test_misclassified``, the share of test points whose largest output is wrong;
      * from the training data alone: ``leave_one_out`` and ``kare`` (the same unit), ``log_evidence`` (nats; bits as
        ``log_evidence_bits``), ``target_alignment``, ``effective_rank``, ``condition_number``, ``max_learning_rate``;
      * ``eigenvalue`` and ``cumulative_power`` over ``mode``: the spectrum of the training Gram matrix, descending, and
        the share of the targets' power in that many leading modes;
      * ``train_path`` and ``test_path`` over ``step``: errors of gradient flow at half the maximal learning rate.

    Raises:
      ValueError: shapes do not match the task, or an argument is out of range.

    References:
      :func:`genjax.ntk.kernel_regression`, :func:`genjax.ntk.kare`, :func:`genjax.ntk.cumulative_power` and
      :func:`gaussian_inductive_bias` name theirs.

    Example:
      >>> import jax.numpy as jnp
      >>> from genjax.ntk import rbf
      >>> from genjax.tasks import make_task
      >>> from genjax.volume import kernel_dataset
      >>> x = jnp.linspace(0, 1, 8)[:, None]
      >>> report = kernel_dataset({"rbf": rbf(0.5)}, make_task(x[::2], x[::2], x[1::2], x[1::2]), 1e-3, noise=1e-4)
      >>> bool(report["test_error"].item() < 1e-2)
      True
    """
    epsilon = jnp.atleast_1d(check_array("target_error", target_error, minimum=0))
    blocks = {name: gram_blocks(kernel, task) for name, kernel in kernels.items()}
    biases = {name: gaussian_inductive_bias(block, task, epsilon, noise=noise) for name, block in blocks.items()}
    rows = [_row(block, task, noise) for block in blocks.values()]
    found = inductive_bias_dataset(biases)

    def stack(name: str) -> np.ndarray:
        return np.stack([np.asarray(row[name]) for row in rows])

    error = {"long_name": "mean squared error per point and output"}
    scalars: dict[str, dict[str, str]] = {
        "train_error": error,
        "test_error": error,
        "leave_one_out": error,
        "kare": error,
        "test_misclassified": {"long_name": "share of test points misclassified"},
        "target_alignment": {"long_name": "alignment of kernel and targets"},
        "effective_rank": {"long_name": "exponential of the spectral entropy"},
        "condition_number": {"long_name": "largest over smallest eigenvalue, noise included"},
        "max_learning_rate": {"long_name": "learning rate at which gradient descent diverges"},
    }
    kept = {name: text for name, text in scalars.items() if name in rows[0]}
    return found.assign(
        {name: ("space", stack(name), text) for name, text in kept.items()}
        | {
            "log_evidence_bits": ("space", found["log_evidence"].values / NATS_PER_BIT, {"units": "bits"}),
            "eigenvalue": (("space", "mode"), stack("eigenvalue")),
            "cumulative_power": (("space", "mode"), stack("cumulative_power")),
            "train_path": (("space", "step"), stack("train_path"), error),
            "test_path": (("space", "step"), stack("test_path"), error),
        }
    ).assign_coords(mode=1 + np.arange(task.n_train), step=_STEPS)


def _row(blocks: GramBlocks, task: Task, noise: float) -> dict[str, Any]:
    y, y_test = task.y_train, task.y_test
    fit = kernel_regression(blocks.train, y, noise)
    predicted = fit.predict(blocks.cross.T)
    limit = max_learning_rate(blocks.train, ridge=noise)
    path = training_path(blocks.train, y, learning_rate=limit / 2, ridge=noise)
    power = cumulative_power(blocks.train, y)
    row = {
        "train_error": jnp.mean((fit.predict(blocks.train) - y) ** 2),
        "test_error": jnp.mean((predicted - y_test) ** 2),
        "leave_one_out": jnp.mean((fit.leave_one_out() - y) ** 2),
        "kare": kare(blocks.train, y, noise).mse / task.n_outputs,
        "target_alignment": target_alignment(blocks.train, y),
        "effective_rank": effective_rank(blocks.train),
        "condition_number": condition_number(blocks.train, noise),
        "max_learning_rate": limit,
        "eigenvalue": path.eigenvalues[::-1],
        "cumulative_power": power,
        "train_path": jnp.mean((path.train(_STEPS) - y) ** 2, axis=(1, 2)),
        "test_path": jnp.mean((path.test(blocks.cross.T, _STEPS) - y_test) ** 2, axis=(1, 2)),
    }
    if task.kind == "classification":
        row["test_misclassified"] = jnp.mean(_classes(predicted) != _classes(y_test))
    return row


def _classes(outputs: jnp.ndarray) -> jnp.ndarray:
    return jnp.argmax(outputs, axis=1) if outputs.shape[1] > 1 else outputs[:, 0] > 0


def kernel_table(dataset: xarray.Dataset) -> str:
    """The comparison as text, a row for each kernel.

    Args:
      dataset: of :func:`kernel_dataset`.

    Returns:
      Test error, its estimates from the training data, log evidence, and the required inductive bias at each target
      error, nats and bits.

    References:
      The layout is genjax's own.
    """
    targets = dataset["target_error"].values
    wrong = "test_misclassified" in dataset
    columns = ["test error", "leave 1 out", "KARE", *(["wrong"] if wrong else []), "alignment", "eff. rank"]
    columns += ["log evidence", *(f"I({e:g})" for e in targets)]
    lines = [f"{'kernel':<24}" + "".join(f"{name:>14}" for name in columns)]
    in_nats = 1 + len(targets)
    units = [*(len(columns) - in_nats) * [""], *in_nats * ["nats"]]
    lines.append(f"{'':<24}" + "".join(f"{unit:>14}" for unit in units))
    for name in dataset["space"].values:
        row = dataset.sel(space=name)
        numbers = [row["test_error"], row["leave_one_out"], row["kare"]]
        numbers += [row["test_misclassified"]] if wrong else []
        numbers += [row["target_alignment"], row["effective_rank"], row["log_evidence"], *row["nats"]]
        lines.append(f"{name!s:<24}" + "".join(f"{float(number):>14.4g}" for number in numbers))
        bits = [row["log_evidence_bits"], *row["bits"]]
        cells = [*(len(columns) - in_nats) * [""], *(f"{float(number):.4g}" for number in bits)]
        lines.append(f"{'  in bits':<24}" + "".join(f"{cell:>14}" for cell in cells))
    return "\n".join(lines)
