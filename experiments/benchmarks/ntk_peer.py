"""Kernels and CPU seconds beside neural-tangents 0.6.5, the one peer, on the last JAX that runs all of it.

    python -m experiments.benchmarks.ntk_peer                    # builds the peer's environment: minutes, 2.6 GB
    python -m experiments.benchmarks.ntk_peer --python BIN       # a Python that has the peer already

The peer runs in a process of its own, with its own JAX (0.4.25) and Python 3.11 or older; where its environment cannot
be built the benchmark says so and ends. Writes ``experiments/results/ntk_peer.json``. Float64, compiled, the second
call; the peer's fastest settings for the empirical kernel.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.timing import pin, publish, timed
from genjax.ntk import empirical_ntk
from genjax.ntk import infinite as nn

PEER = (
    *("jax==0.4.25", "jaxlib==0.4.25", "neural-tangents==0.6.5", "tf2jax==0.3.6"),
    *("tensorflow-cpu==2.15.1", "scipy==1.11.4", "numpy==1.26.4"),
)
WORKER = Path(__file__).with_name("ntk_peer_worker.py")
VARIANCES = (2.0, 0.01)


def networks() -> dict[str, Any]:
    """Our networks by the names of the comparison."""
    dense = partial(nn.dense, *VARIANCES)
    conv = partial(nn.conv, (3, 3), *VARIANCES)

    def fully_connected(*activations: Any) -> Any:
        return nn.serial(*(layer for act in activations for layer in (dense(), act)), dense())

    def attention(mechanism: str) -> Any:
        return nn.serial(conv(), nn.attention(mechanism=mechanism), nn.global_avg_pool(), dense())

    block = nn.residual(nn.serial(nn.relu(), dense()))
    return {
        "fc relu, depth 3": fully_connected(*3 * [nn.relu()]),
        "fc erf, depth 3": fully_connected(*3 * [nn.erf()]),
        "fc gelu, depth 2": fully_connected(*2 * [nn.gelu()]),
        "fc sin": fully_connected(nn.sin()),
        "fc cos": fully_connected(nn.cos()),
        "fc abs, depth 2": fully_connected(*2 * [nn.abs()]),
        "fc sign": fully_connected(nn.sign()),
        "fc leaky relu": fully_connected(nn.leaky_relu(0.3)),
        "fc gaussian": fully_connected(nn.gaussian()),
        # The peer takes the variance there to be 1.
        "fc hermite 3": nn.serial(dense(), nn.layer_norm(), nn.hermite(3), dense()),
        "fc monomial 3": fully_connected(nn.monomial(3)),
        "layer norm": nn.serial(dense(), nn.layer_norm(), nn.relu(), dense()),
        "residual": nn.serial(dense(), block, nn.relu(), dense()),
        "cnn flatten": nn.serial(conv(), nn.relu(), conv(), nn.relu(), nn.flatten(), dense()),
        "cnn average pool": nn.serial(conv(), nn.relu(), nn.avg_pool((2, 2)), nn.flatten(), dense()),
        "cnn global average": nn.serial(conv(), nn.relu(), conv(), nn.relu(), nn.global_avg_pool(), dense()),
        "attention, softmax": attention("softmax"),
        "attention, identity": attention("identity"),
    }


def mlp(params: list[jax.Array], x: jax.Array) -> jax.Array:
    """Three layers without biases."""
    for w in params[:-1]:
        x = jax.nn.relu(x @ w)
    return x @ params[-1]


def cases(data: dict[str, np.ndarray]) -> dict[str, Callable[[], jax.Array]]:
    """Ours, by the names of the comparison."""
    found: dict[str, Callable[[], jax.Array]] = {}
    for name, network in networks().items():
        x = jnp.asarray(data["images" if name.startswith(("cnn", "attention")) else "vectors"])
        for which, kernel in (("nngp", nn.nngp(network)), ("ntk", nn.ntk(network))):
            compiled = jax.jit(lambda x, kernel=kernel: kernel(x, x))
            found[f"{name}: {which}"] = partial(compiled, x)
    weights = [jnp.asarray(data[f"weights{i}"]) for i in range(3)]
    found["empirical mlp: ntk"] = partial(
        jax.jit(lambda params, x: empirical_ntk(mlp, params, x)), weights, jnp.asarray(data["vectors"])
    )
    return found


def inputs() -> dict[str, np.ndarray]:
    """Small random inputs, and weights of a network."""
    rng = np.random.default_rng(0)
    shapes = [(16, 64), (64, 64), (64, 10)]
    weights = {f"weights{i}": rng.normal(size=s) / np.sqrt(s[0]) for i, s in enumerate(shapes)}
    return {"vectors": rng.normal(size=(40, 16)), "images": rng.normal(size=(6, 6, 6, 3)), **weights}


def build(folder: Path) -> Path | None:
    """Python of an environment with the peer, or None, with a message, where that cannot be had."""
    python = folder / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, capture_output=True)
    done = subprocess.run([python, "-m", "pip", "install", "-q", *PEER], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        print(f"skipped: the environment of neural-tangents 0.6.5 cannot be built here ({last})")
        return None
    return python


def measure(python: Path, folder: Path) -> dict[str, Any]:
    """Every case by both."""
    data = inputs()
    np.savez(folder / "inputs.npz", allow_pickle=False, **data)
    subprocess.run([python, WORKER, folder / "inputs.npz", folder / "outputs.npz"], check=True, capture_output=True)
    peer = np.load(folder / "outputs.npz")
    found = {}
    for name, compute in cases(data).items():
        ours = np.asarray(jax.block_until_ready(compute()))
        seconds = min(timed(partial(_finished, compute))[0] for _ in range(3))
        theirs = peer[name]
        off = ~np.eye(len(ours), dtype=bool)
        scale = np.abs(theirs).max()
        found[name] = {
            "largest_difference": float(np.abs(ours - theirs).max() / scale),
            "largest_difference_off_diagonal": float(np.abs(ours - theirs)[off].max() / scale),
            "cpu_seconds": seconds,
            "peer_cpu_seconds": float(peer[f"{name} seconds"]),
        }
    return found


def _finished(compute: Callable[[], jax.Array]) -> jax.Array:
    return jax.block_until_ready(compute())


def report(found: dict[str, Any]) -> str:
    """A table, differences relative to the largest entry."""
    lines = [f"{'kernel':<28}{'difference':>12}{'off diag.':>12}{'CPU ms':>10}{'peer':>10}"]
    lines += [
        f"{name:<28}{row['largest_difference']:>12.1e}{row['largest_difference_off_diagonal']:>12.1e}"
        f"{1e3 * row['cpu_seconds']:>10.2f}{1e3 * row['peer_cpu_seconds']:>10.2f}"
        for name, row in found.items()
    ]
    return "\n".join(lines)


def main() -> None:
    """Compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, help="Python of an environment that has the peer")
    python = parser.parse_args().python
    jax.config.update("jax_enable_x64", True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = python or build(folder / "environment")
        if python is not None:
            publish("ntk_peer", measure(python, folder), report)


if __name__ == "__main__":
    pin()
    main()
