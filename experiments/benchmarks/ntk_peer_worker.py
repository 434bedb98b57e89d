"""The peer's side of :mod:`experiments.benchmarks.ntk_peer`; runs in an environment of its own, without genjax.

``python ntk_peer_worker.py inputs.npz outputs.npz``: kernels of every case by neural-tangents, with CPU seconds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def networks(stax: Any) -> dict[str, Any]:
    """The peer's networks by the names of the comparison; ``W_std^2`` = 2, ``b_std^2`` = 0.01."""
    variances = {"W_std": 2**0.5, "b_std": 0.1}

    def dense() -> Any:
        return stax.Dense(1, **variances, parameterization="ntk")

    def conv() -> Any:
        return stax.Conv(1, (3, 3), padding="SAME", **variances, parameterization="ntk")

    def fully_connected(*activations: Any) -> Any:
        return stax.serial(*(layer for act in activations for layer in (dense(), act)), dense())

    def attention(mechanism: str) -> Any:
        return stax.GlobalSelfAttention(
            1, 1, 1, 1, linear_scaling=True, W_key_std=1.0, W_query_std=1.0, W_value_std=1.0, W_out_std=1.0, b_std=None,
            attention_mechanism=mechanism,
        )  # fmt: skip

    pooled = stax.serial(conv(), stax.Relu(), conv(), stax.Relu(), stax.GlobalAvgPool(), dense())
    return {
        "fc relu, depth 3": fully_connected(*(stax.Relu() for _ in range(3))),
        "fc erf, depth 3": fully_connected(*(stax.Erf() for _ in range(3))),
        "fc gelu, depth 2": fully_connected(*(stax.Gelu() for _ in range(2))),
        "fc sin": fully_connected(stax.Sin()),
        "fc cos": fully_connected(stax.Cos()),
        "fc abs, depth 2": fully_connected(*(stax.Abs() for _ in range(2))),
        "fc sign": fully_connected(stax.Sign()),
        "fc leaky relu": fully_connected(stax.LeakyRelu(0.3)),
        "fc gaussian": fully_connected(stax.Gaussian()),
        "fc hermite 3": stax.serial(dense(), stax.LayerNorm(), stax.Hermite(3), dense()),
        "fc monomial 3": fully_connected(stax.Monomial(3)),
        "layer norm": stax.serial(dense(), stax.LayerNorm(), stax.Relu(), dense()),
        "residual": stax.serial(
            dense(),
            stax.FanOut(2),
            stax.parallel(stax.Identity(), stax.serial(stax.Relu(), dense())),
            stax.FanInSum(),
            stax.Relu(),
            dense(),
        ),
        "cnn flatten": stax.serial(conv(), stax.Relu(), conv(), stax.Relu(), stax.Flatten(), dense()),
        "cnn average pool": stax.serial(conv(), stax.Relu(), stax.AvgPool((2, 2), (2, 2)), stax.Flatten(), dense()),
        "cnn global average": pooled,
        "attention, softmax": stax.serial(conv(), attention("SOFTMAX"), stax.GlobalAvgPool(), dense()),
        "attention, identity": stax.serial(conv(), attention("IDENTITY"), stax.GlobalAvgPool(), dense()),
    }


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """Result and CPU seconds of a second call: the first one compiles."""
    jax.block_until_ready(function(*arguments))
    start = time.process_time()
    found = jax.block_until_ready(function(*arguments))
    return found, time.process_time() - start


def main(inputs: str, outputs: str) -> None:
    """Compute every case."""
    jax.config.update("jax_enable_x64", True)
    import neural_tangents as nt
    from neural_tangents import stax

    data = np.load(inputs)
    found: dict[str, Any] = {}
    for name, network in networks(stax).items():
        kernel = jax.jit(network[2], static_argnames=("get",))
        x = data["images"] if name.startswith(("cnn", "attention")) else data["vectors"]
        for which in ("nngp", "ntk"):
            value, seconds = timed(lambda x, kernel=kernel, which=which: kernel(x, None, which), x)
            found[f"{name}: {which}"], found[f"{name}: {which} seconds"] = np.asarray(value), seconds

    weights = [jax.numpy.asarray(data[f"weights{i}"]) for i in range(3)]

    def mlp(params: list[Any], x: Any) -> Any:
        for w in params[:-1]:
            x = jax.nn.relu(x @ w)
        return x @ params[-1]

    empirical = nt.empirical_ntk_fn(
        mlp, vmap_axes=0, implementation=nt.NtkImplementation.STRUCTURED_DERIVATIVES, trace_axes=(-1,)
    )
    value, seconds = timed(jax.jit(lambda x: empirical(x, None, weights)), data["vectors"])
    found["empirical mlp: ntk"], found["empirical mlp: ntk seconds"] = np.asarray(value), seconds
    np.savez(outputs, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
