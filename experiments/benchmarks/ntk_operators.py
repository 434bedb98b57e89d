"""Tangent kernels as operators: cost of a product in forward passes, its memory, and what solvers make of products.

    python -m experiments.benchmarks.ntk_operators            # about 3 CPU-minutes
    python -m experiments.benchmarks.ntk_operators --n 200000

MLP 784-512-512-10 (669 thousand parameters) at n examples: CPU seconds of a product against those of a forward pass in
the same run, and temporaries by XLA's own count. Infinitely wide network at 2,000 points: conjugate gradients against a
dense solution, log determinant against a Cholesky factor's, leading eigenvalues against ``eigh``. Float32. Writes
``experiments/results/ntk_operators.json``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.timing import pin, publish, timed
from genjax.ntk import (
    kernel_operator,
    log_determinant,
    mlp_ntk,
    ntk_operator,
    nystrom,
    solve_psd,
    top_eigenpairs,
)

WIDTHS = (784, 512, 512, 10)
KEY = jax.random.key(0)


def network(params: list[tuple[jax.Array, jax.Array]], x: jax.Array) -> jax.Array:
    """ReLU layers with biases."""
    for w, b in params[:-1]:
        x = jax.nn.relu(x @ w + b)
    w, b = params[-1]
    return x @ w + b


def initial() -> list[tuple[jax.Array, jax.Array]]:
    """Weights of variance 2 over fan-in."""
    keys = jax.random.split(KEY, len(WIDTHS) - 1)
    return [
        (jax.random.normal(key, (a, b)) * (2 / a) ** 0.5, jnp.zeros(b))
        for key, a, b in zip(keys, WIDTHS[:-1], WIDTHS[1:], strict=True)
    ]


def _least(run: Callable[[], Any], repeats: int = 5) -> tuple[float, float]:
    jax.block_until_ready(run())
    times = [timed(lambda: jax.block_until_ready(run())) for _ in range(repeats)]
    return min(cpu for cpu, _ in times), min(wall for _, wall in times)


def product(n: int) -> dict[str, Any]:
    """One product of the empirical kernel."""
    params, x = initial(), jax.random.normal(KEY, (n, WIDTHS[0]))
    operator = ntk_operator(network, params, x)
    v = jax.random.normal(KEY, operator.shape)
    compiled = jax.jit(lambda operator, v: operator @ v).lower(operator, v).compile()
    forward = jax.jit(network)
    cpu, wall = _least(partial(compiled, operator, v))
    forward_cpu, forward_wall = _least(partial(forward, params, x))
    return {
        "n": n,
        "cpu_seconds": cpu,
        "wall_seconds": wall,
        "forward_cpu_seconds": forward_cpu,
        "forward_wall_seconds": forward_wall,
        "temporary_bytes": getattr(compiled.memory_analysis(), "temp_size_in_bytes", None),
    }


def solvers(n: int) -> dict[str, Any]:
    """What products alone give, against dense linear algebra in float64."""
    x = jax.random.normal(KEY, (n, 20))
    kernel, ridge = mlp_ntk(3), 0.1
    operator = kernel_operator(kernel, x)
    gram = np.asarray(kernel(x, x), np.float64)
    y = jnp.sin(x[:, 0])
    exact = np.linalg.solve(gram + ridge * np.eye(n), np.asarray(y, np.float64))
    plain = solve_psd(operator, y, ridge=ridge, tolerance=1e-5)
    known = nystrom(operator, KEY, 200)
    found = solve_psd(operator, y, ridge=ridge, preconditioner=known, tolerance=1e-5)
    logdet = log_determinant(operator, KEY, ridge=ridge)
    exact_logdet = np.linalg.slogdet(gram + ridge * np.eye(n))[1]
    values, _ = top_eigenpairs(operator, KEY, 20)
    top = np.linalg.eigvalsh(gram)[::-1][:20]
    return {
        "n": n,
        "cg_error": float(np.abs(plain.value - exact).max() / np.abs(exact).max()),
        "preconditioned_cg_error": float(np.abs(found.value - exact).max() / np.abs(exact).max()),
        "cg_converged": bool(plain.converged),
        "preconditioned_cg_converged": bool(found.converged),
        "log_determinant": float(logdet.value),
        "log_determinant_stderr": float(logdet.stderr),
        "log_determinant_exact": float(exact_logdet),
        "top_eigenvalue_error": float(np.abs(values / top - 1).max()),
    }


def report(found: dict[str, Any]) -> str:
    """In words."""
    s = found["solvers"]
    return "\n".join(
        [
            *(
                f"product at n = {p['n']}: {p['cpu_seconds']:.3g} CPU-s, "
                f"{p['cpu_seconds'] / p['forward_cpu_seconds']:.2f} forward passes, "
                f"{(p['temporary_bytes'] or np.nan) / 2**20:.1f} MiB of temporaries ({found['device']})"
                for p in found["products"]
            ),
            f"CG at n = {s['n']}: error {s['cg_error']:.1e}, preconditioned {s['preconditioned_cg_error']:.1e}",
            f"log determinant {s['log_determinant']:.5g} +- {s['log_determinant_stderr']:.2g}, "
            f"exactly {s['log_determinant_exact']:.5g}",
            f"20 leading eigenvalues within {s['top_eigenvalue_error']:.1e}",
        ]
    )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[10_000, 50_000])
    products = [product(n) for n in parser.parse_args().n]
    found = {"device": jax.devices()[0].device_kind, "products": products, "solvers": solvers(2000)}
    publish("ntk_operators", found, report)


if __name__ == "__main__":
    pin()
    main()
