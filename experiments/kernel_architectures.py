"""What do depth, convolution, pooling and attention buy on digits, at infinite width?

``python -m experiments.kernel_architectures`` (``--help`` for options). Kernel regression with the neural tangent
kernels of fully connected, convolutional (with and without averaging over positions) and attention networks: their test
errors, what the training data alone say of them (leave-one-out, KARE, evidence), how much of the labels lies in the
leading directions of each kernel, and the nats and bits of inductive bias each is short of, exactly. Writes
``runs/kernel_architectures``.

Expected (2 CPU cores, float64, 40 CPU-seconds): kernel regression errs by 0.024 to 0.039 per output, depth 10 worst;
averaging over positions misclassifies fewest (4 %, the others 7 to 9 %). A random function of these spaces that fits
the 100 training digits is far from that: fully connected ones are short of 1169 (depth 1) to 2437 nats (depth 10) of an
error of 0.03, convolutional ones of 1556, with attention of 326, averaged over positions of 68. The same order holds
for the log evidence of the training labels.

References: Arora et al. (2019), arXiv:1904.11955 (convolutional tangent kernels); Hron et al. (2020), arXiv:2006.10540
(attention); Jacot et al. (2020), arXiv:2006.09796 (KARE); Boopathy et al. (2024), arXiv:2406.15941.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import jax
from tqdm.auto import tqdm

from experiments.conclusion import conclude
from genjax.ntk import infinite
from genjax.plot import kernel_comparison
from genjax.tasks import Task, load_task
from genjax.volume import gram_blocks, kernel_dataset, kernel_table

if TYPE_CHECKING:
    import xarray

    from genjax.ntk.infinite.state import Layer

# Of :func:`golden`.
GOLDEN = {
    "FC, depth 1: test error": 0.02426945,
    "FC, depth 1: bias": 1168.9175,
    "FC, depth 10: test error": 0.03854470,
    "FC, depth 10: bias": 2437.4569,
    "CNN, depth 3: test error": 0.02362236,
    "CNN, depth 3: bias": 1556.4461,
    "CNN, averaged, depth 3: test error": 0.02767148,
    "CNN, averaged, depth 3: bias": 68.0374,
    "attention, 1 block: test error": 0.03020750,
    "attention, 1 block: bias": 325.6787,
}
TOKENS, VECTORS = (8, 8), (64,)
IMAGES = (8, 8, 1)


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the experiment.

    Attributes:
      n_train: training points.
      n_test: test points.
      target_error: mean squared, per test point and output; the one-hot labels have 0.09 around their mean.
      noise: ridge, and variance of the noise within which a hypothesis fits.
      bias_variance: of all layers; weights have 2 over their fan-in.
      depths: of the fully connected networks.
      depth: of the convolutional ones.
      only: names of networks to compare; all if empty.
      seed: of the split.
      out: run directory.
    """

    n_train: int = 100
    n_test: int = 100
    target_error: tuple[float, ...] = (0.05, 0.04, 0.03)
    noise: float = 1e-3
    bias_variance: float = 0.01
    depths: tuple[int, ...] = (1, 3, 10)
    depth: int = 3
    only: tuple[str, ...] = ()
    seed: int = 0
    out: Path = Path("runs/kernel_architectures")


def networks(config: Config) -> dict[str, tuple[Layer, tuple[int, ...]]]:
    """Each network and the shape of the inputs it takes."""
    bias = config.bias_variance
    every = {
        **{f"FC, depth {d}": (infinite.mlp(d, bias_variance=bias), VECTORS) for d in config.depths},
        f"CNN, depth {config.depth}": (infinite.cnn(config.depth, readout="flatten", bias_variance=bias), IMAGES),
        f"CNN, averaged, depth {config.depth}": (infinite.cnn(config.depth, bias_variance=bias), IMAGES),
        "attention, 1 block": (infinite.transformer(1, bias_variance=bias), TOKENS),
    }
    return {name: every[name] for name in config.only or every}


def in_shape(task: Task, shape: tuple[int, ...]) -> Task:
    """The task with inputs of another shape."""
    return dataclasses.replace(task, x_train=task.x_train.reshape(-1, *shape), x_test=task.x_test.reshape(-1, *shape))


def run(config: Config) -> xarray.Dataset:
    """All kernels on one split."""
    task = load_task("digits", n_train=config.n_train, n_test=config.n_test, seed=config.seed, scaling="standardize")
    blocks = {
        name: gram_blocks(infinite.ntk(network), in_shape(task, shape))
        for name, (network, shape) in tqdm(networks(config).items(), desc="kernels", disable=None)
    }
    return kernel_dataset(blocks, task, config.target_error, noise=config.noise).assign_attrs(task=task.provenance)


def golden(dataset: xarray.Dataset) -> dict[str, float]:
    """Test error of each network, and its required inductive bias at the smallest target error, nats.

    Args:
      dataset: of :func:`run`.

    Returns:
      Numbers by name; there is no randomness in them.
    """
    numbers = {}
    for name in dataset["space"].values:
        row = dataset.sel(space=name)
        numbers[f"{name}: test error"] = float(row["test_error"])
        numbers[f"{name}: bias"] = float(row["nats"][-1])
    return numbers


def main(config: Config) -> xarray.Dataset:
    """Run, print, write."""
    dataset = run(config)
    table, figure = kernel_table(dataset), kernel_comparison(dataset)
    conclude("kernel_architectures", config.out, config, dataset, golden(dataset), table, figure)
    return dataset


if __name__ == "__main__":
    import tyro

    # Small eigenvalues of deep kernels need it.
    jax.config.update("jax_enable_x64", True)
    main(tyro.cli(Config))
