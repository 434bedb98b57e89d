"""Kernels of infinitely wide networks against the plain recursion on whole matrices, side by side in one process.

Fully connected ReLU networks on 2,000 inputs of 784 numbers, three hidden layers with biases and ten without, and
three convolutions with global average pooling on images of 16 x 16 x 3. CPU seconds are the least of several rounds,
compilation apart; temporaries are what the compiler reports; errors are against the recursion in float64, relative to
the geometric mean of the diagonal entries.

    python -m experiments.benchmarks.ntk_infinite
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax import Array

from experiments.benchmarks.timing import publish, timed
from genjax.ntk import infinite as nn
from genjax.ntk.infinite.state import Layer


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    n_vectors: int = 2000
    """Inputs of the fully connected networks."""
    n_images: tuple[int, int] = (16, 64)
    """Images: in the timed comparison, and in the larger run of which temporaries are compared."""
    image_size: int = 16
    """Pixels along a side."""
    rounds: int = 3
    """Timed repetitions, of which the fastest counts."""
    run_large: bool = False
    """Whether the larger set of images is also run, not only compiled."""


def plain_fc(depth: int, bias: float, x: Array) -> tuple[Array, Array]:
    """NNGP and NTK of a fully connected ReLU network: the ten obvious lines."""
    k = 2 * jnp.matmul(x, x.T, precision="highest") / x.shape[1] + bias
    t = k
    for _ in range(depth):
        d = jnp.sqrt(jnp.diag(k))
        s = d[:, None] * d[None, :]
        c = jnp.clip(k / s, -1, 1)
        theta = jnp.arccos(c)
        k = s * (jnp.sqrt(1 - c**2) + (jnp.pi - theta) * c) / jnp.pi + bias
        t = k + (jnp.pi - theta) / jnp.pi * t
    return k, t


def plain_cnn(x: Array) -> tuple[Array, Array]:
    """NNGP and NTK of three convolutions, pooling and a dense layer: all pairs of images and pixels at once."""
    n, size = x.shape[:2]
    k = jnp.einsum("nijc,mklc->nmikjl", x, x, precision="highest") / x.shape[-1]
    t = jnp.zeros_like(k)

    def box(k: Array) -> Array:
        padded = jnp.pad(k, [(0, 0), (0, 0)] + [(1, 1)] * 4)
        rows, columns = ([slice(o, o + size) for o in range(3)] for _ in "ij")
        return sum((padded[:, :, i, i, j, j] for i in rows for j in columns), jnp.zeros_like(k)) / 9

    example, row, column = jnp.arange(n)[:, None, None], jnp.arange(size)[:, None], jnp.arange(size)[None]
    for _ in range(3):
        k, t = 2 * box(k), box(t)
        t = k + 2 * t
        d = jnp.sqrt(k[example, example, row, row, column, column])
        s = d[:, None, :, None, :, None] * d[None, :, None, :, None, :]
        c = jnp.clip(k / s, -1, 1)
        theta = jnp.arccos(c)
        k = s * (jnp.sqrt(1 - c**2) + (jnp.pi - theta) * c) / (2 * jnp.pi)
        t = (jnp.pi - theta) / (2 * jnp.pi) * t
    k, t = 2 * k.mean((2, 3, 4, 5)), 2 * t.mean((2, 3, 4, 5))
    return k, k + t


def fc(depth: int, bias: float) -> Layer:
    hidden = [part for _ in range(depth) for part in (nn.dense(2.0, bias), nn.relu())]
    return nn.serial(*hidden, nn.dense(2.0, bias))


def cnn() -> Layer:
    hidden = [part for _ in range(3) for part in (nn.conv((3, 3)), nn.relu())]
    return nn.serial(*hidden, nn.global_avg_pool(), nn.dense())


def measure(function: Callable[[Array], Any], x: Array, rounds: int) -> tuple[dict[str, float], Any]:
    """CPU seconds and temporaries of a compiled function, and its result."""
    compiled = jax.jit(function).lower(x).compile()
    out = jax.block_until_ready(compiled(x))
    seconds = [timed(lambda: jax.block_until_ready(compiled(x))) for _ in range(rounds)]
    return {
        "cpu_s": min(cpu for cpu, _ in seconds),
        "wall_s": min(wall for _, wall in seconds),
        "temp_mb": temporaries(compiled),
    }, out


def temporaries(compiled: Any) -> float:
    """Megabytes."""
    return compiled.memory_analysis().temp_size_in_bytes / 1e6


def error(found: Array, exact: np.ndarray) -> float:
    scale = np.sqrt(np.outer(np.diag(exact), np.diag(exact)))
    return float((np.abs(np.asarray(found, np.float64) - exact) / scale).max())


def compare(net: Layer, plain: Callable[[Array], tuple[Array, Array]], x: Array, rounds: int) -> dict[str, Any]:
    """Both ways to the tangent kernel, and to both kernels."""
    kernel = nn.ntk(net)
    ours, found = measure(lambda x: kernel(x, x), x, rounds)
    both, _ = measure(lambda x: nn.kernels(net, x), x, rounds)
    base, reference = measure(lambda x: plain(x)[1], x, rounds)
    base_both, _ = measure(plain, x, rounds)
    sample = np.asarray(x[:32], np.float64)
    with jax.enable_x64(True):
        exact = np.asarray(nn.kernels(net, sample).ntk)
    few = len(sample)
    return {
        "ntk": ours | {"error": error(found[:few, :few], exact)},
        "plain_ntk": base | {"error": error(reference[:few, :few], exact)},
        "both": both,
        "plain_both": base_both,
        "ratio_ntk": ours["cpu_s"] / base["cpu_s"],
        "ratio_both": both["cpu_s"] / base_both["cpu_s"],
    }


def run(config: Config) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    vectors = jnp.asarray(rng.standard_normal((config.n_vectors, 784)), jnp.float32)
    small, large = (
        jnp.asarray(rng.standard_normal((n, config.image_size, config.image_size, 3)), jnp.float32)
        for n in config.n_images
    )
    found = {
        "fc depth 3": compare(fc(3, 0.01), partial(plain_fc, 3, 0.01), vectors, config.rounds),
        "fc depth 10, no bias": compare(fc(10, 0.0), partial(plain_fc, 10, 0.0), vectors, config.rounds),
        "cnn with pooling": compare(cnn(), plain_cnn, small, config.rounds),
    }
    kernel = nn.ntk(cnn())
    lowered = jax.jit(lambda x: kernel(x, x)).lower(large).compile()
    found["cnn with pooling"]["temp_mb_large"] = temporaries(lowered)
    if config.run_large:
        found["cnn with pooling"]["cpu_s_large"] = timed(lambda: jax.block_until_ready(lowered(large)))[0]
    return {"config": dataclasses.asdict(config), "jax": jax.__version__, "found": found}


def report(result: dict[str, Any]) -> str:
    lines = [f"{'':24}{'CPU s':>9}{'plain':>9}{'ratio':>8}{'temp MB':>10}{'plain':>10}{'error':>10}{'plain':>10}"]
    for name, row in result["found"].items():
        ours, base = row["ntk"], row["plain_ntk"]
        lines.append(
            f"{name:24}{ours['cpu_s']:9.3f}{base['cpu_s']:9.3f}{row['ratio_ntk']:8.3f}{ours['temp_mb']:10.1f}"
            f"{base['temp_mb']:10.1f}{ours['error']:10.1e}{base['error']:10.1e}"
        )
        both = f"{row['both']['cpu_s']:9.3f}{row['plain_both']['cpu_s']:9.3f}{row['ratio_both']:8.3f}"
        lines.append(f"{'  both kernels':24}{both}{row['both']['temp_mb']:10.1f}{row['plain_both']['temp_mb']:10.1f}")
    large = result["found"]["cnn with pooling"]
    n_small, n_large = result["config"]["n_images"]
    lines.append(
        f"temporaries of the convolutional kernel: {large['ntk']['temp_mb']:.3f} MB for {n_small} images, "
        f"{large['temp_mb_large']:.3f} MB for {n_large}"
    )
    return "\n".join(lines)


def main(config: Config) -> None:
    publish("ntk_infinite", run(config), report)


if __name__ == "__main__":
    main(tyro.cli(Config))
