"""Empirical tangent kernels as one calls them, against the ten lines one would write: CPU seconds and temporaries.

    python -m experiments.benchmarks.ntk_empirical  # about 2 CPU-minutes

The ten lines: ``vmap(jacrev)`` of the function, then a product for each parameter. MLP 784-512-512-10 (669 thousand
parameters), 128 examples; convolutions 2 x (3x3, 32 channels, ReLU), mean over the image, dense 10 (10.5 thousand
parameters), 64 images 16x16x3; both traced over outputs and in float32. Ways are interleaved; CPU seconds are medians
over repetitions, ratios those of the medians; temporaries are XLA's own count. For the larger n the count alone is
taken. Writes ``experiments/results/ntk_empirical.json``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.benchmarks.ntk_operators import initial, network
from experiments.benchmarks.timing import pin, publish, timed
from experiments.benchmarks.train_engine import table
from genjax.ntk.empirical import empirical_ntk
from genjax.run import provenance
from genjax.typing import ApplyFn, Params

KEY = jax.random.key(0)
MEGABYTE = 1e6


def ten_lines(apply_fn: ApplyFn, params: Params, x: Array) -> Array:
    """The whole Jacobian, then a product for each parameter."""

    def outputs(params: Params, one: Array) -> Array:
        return apply_fn(params, one[None])[0]

    jacobian = jax.vmap(jax.jacrev(outputs), (None, 0))(params, x)
    flat = [leaf.reshape(*leaf.shape[:2], -1) for leaf in jax.tree.leaves(jacobian)]
    return sum(jnp.einsum("iop,jop->ij", leaf, leaf) for leaf in flat) / flat[0].shape[1]


def convolutional(params: dict[str, Array], x: Array) -> Array:
    """Two convolutions, mean over positions, a dense layer."""
    for k in "12":
        layout = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, params[f"w{k}"], (1, 1), "SAME", dimension_numbers=layout)
        x = jax.nn.relu(x + params[f"b{k}"])
    return x.mean((1, 2)) @ params["w3"] + params["b3"]


def convolutional_params() -> dict[str, Array]:
    """Weights of variance 2 over fan-in."""
    shapes = {"w1": (3, 3, 3, 32), "w2": (3, 3, 32, 32), "w3": (32, 10)}
    keys = dict(zip(shapes, jax.random.split(KEY, len(shapes)), strict=True))
    weights = {
        name: jax.random.normal(keys[name], shape) * (2 / np.prod(shape[:-1])) ** 0.5 for name, shape in shapes.items()
    }
    return weights | {"b1": jnp.zeros(32), "b2": jnp.zeros(32), "b3": jnp.zeros(10)}


def compare(apply_fn: ApplyFn, params: Params, x: Array, repetitions: int) -> dict[str, Any]:
    """The default call and the ten lines, in turn."""
    plain = jax.jit(partial(ten_lines, apply_fn))
    ways: dict[str, Callable[[], Array]] = {
        "genjax": lambda: empirical_ntk(apply_fn, params, x),
        "ten lines": lambda: plain(params, x),
    }
    kernels = {name: np.asarray(way()) for name, way in ways.items()}
    rounds = [{name: timed(partial(_finish, way)) for name, way in ways.items()} for _ in range(repetitions)]
    times = {name: np.array([seconds[name] for seconds in rounds]) for name in ways}
    cpu, wall = ({name: float(np.median(t[:, k])) for name, t in times.items()} for k in (0, 1))
    return {
        "n": len(x),
        "cpu_seconds": cpu,
        "wall_seconds": wall,
        "cpu_ratio": cpu["genjax"] / cpu["ten lines"],
        "temporary_bytes": {
            "genjax": temporary_bytes(partial(empirical_ntk, apply_fn), params, x),
            "ten lines": temporary_bytes(plain, params, x),
        },
        "largest_relative_difference": float(
            np.abs(kernels["genjax"] - kernels["ten lines"]).max() / np.abs(kernels["ten lines"]).max()
        ),
    }


def _finish(way: Callable[[], Array]) -> None:
    jax.block_until_ready(way())


def temporary_bytes(kernel: Callable[..., Array], params: Params, x: Array) -> int:
    """By XLA's own count."""
    memory: Any = jax.jit(kernel).lower(params, x).compile().memory_analysis()
    return memory.temp_size_in_bytes


def measure() -> dict[str, Any]:
    """Both networks, and the memory of larger kernels, as JSON values."""
    params = initial()
    images, rows = jax.random.normal(KEY, (64, 16, 16, 3)), jax.random.normal(KEY, (2000, 784))
    full = partial(empirical_ntk, network, outputs="full")
    small = partial(empirical_ntk, network, max_bytes=2**27)
    return {
        "mlp": compare(network, params, rows[:128], 5),
        "cnn": compare(convolutional, convolutional_params(), images, 9),
        "mlp_n2000_temporary_bytes": temporary_bytes(partial(empirical_ntk, network), params, rows),
        "mlp_n2000_128MiB_temporary_bytes": temporary_bytes(small, params, rows),
        "mlp_full_temporary_bytes": temporary_bytes(full, params, rows[:128]),
        "where": provenance(),
    }


def checks(found: dict[str, Any]) -> list[tuple[str, float, str, bool]]:
    """What was required: description, measured value, the bar in words, and whether it holds."""
    mlp, cnn = found["mlp"], found["cnn"]
    ratio, megabytes = 1 / mlp["cpu_ratio"], mlp["temporary_bytes"]["genjax"] / MEGABYTE
    large, bounded = (found[f"mlp_n2000{k}_temporary_bytes"] / MEGABYTE for k in ("", "_128MiB"))
    return [
        ("MLP: times faster than the ten lines", ratio, ">= 150", ratio >= 150),
        ("MLP: temporaries, MB", megabytes, "<= 20", megabytes <= 20),
        ("CNN: CPU time against the ten lines", cnn["cpu_ratio"], "<= 1", cnn["cpu_ratio"] <= 1),
        ("MLP, n = 2000: temporaries, MB", large, "<= 2000", large <= 2000),
        ("MLP, n = 2000, max_bytes 128 MiB: temporaries, MB", bounded, "<= 150", bounded <= 2**27 / MEGABYTE + 16),
    ]


def report(found: dict[str, Any]) -> str:
    """Readable table."""
    lines = [f"{'':<12}{'n':>6}{'CPU s':>12}{'ten lines':>12}{'temp MB':>12}{'ten lines':>12}{'difference':>12}"]
    for name in ("mlp", "cnn"):
        one = found[name]
        numbers = [one["cpu_seconds"][way] for way in ("genjax", "ten lines")]
        numbers += [one["temporary_bytes"][way] / MEGABYTE for way in ("genjax", "ten lines")]
        cells = "".join(f"{number:>12.4g}" for number in [*numbers, one["largest_relative_difference"]])
        lines.append(f"{name:<12}{one['n']:>6}{cells}")
    return "\n".join([*lines, "", *table(checks(found))])


if __name__ == "__main__":
    pin()
    publish("ntk_empirical", measure(), report)
