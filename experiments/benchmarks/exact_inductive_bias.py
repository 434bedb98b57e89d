"""Exact required inductive bias against the published procedure of 2024, in one run, on digits 500 / 500.

``make bench``, or ``python -m experiments.benchmarks.exact_inductive_bias`` (about 1 minute on 2 CPU cores).

Three measurements on one core (the process pins itself where the system allows), in CPU seconds, compilation included
unless said otherwise:

1. our exact route, from arrays to I at ten target errors, first call in a fresh process, median of five;
2. the published procedure: one epoch of its Adam solve (both fits, float32, compiled beforehand), times its 10,000
   epochs. This is our own compiled re-implementation, so the algorithm is compared, not the original's Python loops;
3. the published tail (maximum-likelihood scaled non-central chi-squared, with its fallback) on 10,000 *exact* draws of
   the test error, for three seeds, against the exact answer at each target error.

Writes ``experiments/results/exact_inductive_bias.json``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.timing import pin, publish, timed
from genjax.ntk import rbf
from genjax.random import seed_key
from genjax.run import provenance
from genjax.tasks import load_task
from genjax.volume import gaussian_inductive_bias, gaussian_posterior
from genjax.volume.oracles import DIGITS_RBF_NATS
from genjax.volume.published import boopathy2024

PUBLISHED_EPOCHS = 10_000
N_TIMED_EPOCHS = 20
N_SEEDS = 3
N_PROCESSES = 5
MODULE = "experiments.benchmarks.exact_inductive_bias"


def measure() -> dict[str, Any]:
    """Run the three measurements."""
    epsilon = np.array(list(DIGITS_RBF_NATS))
    task = load_task("digits", n_train=500, n_test=500)

    result = gaussian_inductive_bias(rbf(1.0), task, epsilon)
    runs = [json.loads(subprocess.check_output([sys.executable, "-m", MODULE, "exact"])) for _ in range(N_PROCESSES)]

    single = jax.tree.map(lambda v: v.astype(jnp.float32), task)
    kernel = rbf(1.0)
    cross = kernel(single.x_train, single.x_test)
    epoch: dict[str, float] = {}
    for name, targets, rate in (("alpha", single.y_train, 1e-2), ("a_x", cross, 1e-3)):
        step = lambda fit, i, targets=targets, rate=rate: boopathy2024.adam_epoch(  # noqa: E731
            fit, seed_key(1, i), single.x_train, targets, rate, kernel=kernel
        )
        fit, _ = jax.block_until_ready(step(boopathy2024.adam_init(targets), 0))
        cpu = time.process_time()
        for i in range(N_TIMED_EPOCHS):
            fit, _ = step(fit, i)
        jax.block_until_ready(fit)
        epoch[name] = (time.process_time() - cpu) / N_TIMED_EPOCHS

    posterior = gaussian_posterior(kernel, task)
    tails = []
    cpu = time.process_time()
    for seed in range(N_SEEDS):
        draws = boopathy2024.sample_errors(
            seed_key(2, seed), posterior.mean, posterior.covariance, task.y_test, square_root="eigh"
        )
        tails.append(boopathy2024.inductive_bias(draws, epsilon))
    tail_cpu = (time.process_time() - cpu) / N_SEEDS
    published = np.array(tails)
    return {
        "task": task.provenance,
        "target_error": epsilon.tolist(),
        "exact_nats": np.asarray(result.nats).tolist(),
        "exact_error_bound_nats": np.asarray(result.bias.error_bound).tolist(),
        "exact_seconds": sorted(runs, key=lambda run: run["cpu_s"])[N_PROCESSES // 2],
        "exact_seconds_all": runs,
        "published_cpu_s_per_epoch": epoch,
        "published_solve_cpu_s": PUBLISHED_EPOCHS * sum(epoch.values()),
        "published_tail_cpu_s_per_seed": tail_cpu,
        "published_tail_nats": published.tolist(),
        "published_tail_relative_error": (published / np.asarray(result.nats) - 1).tolist(),
        "where": provenance(),
    }


def first_call() -> dict[str, float]:
    """CPU and wall seconds of the exact route, compilation included, if nothing was compiled before."""
    task, epsilon = load_task("digits", n_train=500, n_test=500), np.array(list(DIGITS_RBF_NATS))
    cpu, wall = timed(lambda: jax.block_until_ready(gaussian_inductive_bias(rbf(1.0), task, epsilon)))
    return {"cpu_s": cpu, "wall_s": wall}


def report(found: dict[str, Any]) -> str:
    """Readable table."""
    exact, solve = found["exact_seconds"], found["published_solve_cpu_s"]
    per_epoch = sum(found["published_cpu_s_per_epoch"].values())
    published = np.array(found["published_tail_nats"])
    error = np.array(found["published_tail_relative_error"])
    lines = [
        found["task"],
        f"exact route, compilation included: {exact['cpu_s']:.2f} CPU-s, median of {N_PROCESSES} fresh processes",
        f"published solve: {per_epoch:.4f} CPU-s an epoch x {PUBLISHED_EPOCHS} = {solve:.0f} CPU-s, "
        f"{solve / exact['cpu_s']:.0f} times the exact route; "
        f"its tail: {found['published_tail_cpu_s_per_seed']:.1f} CPU-s more",
        f"{'target error':>12}  {'exact (nats)':>14}  "
        f"{f'published tail, {N_SEEDS} seeds (nats)':>34}  {'its error':>18}",
    ]
    for i, epsilon in enumerate(found["target_error"]):
        seeds = " / ".join(f"{v:.1f}" for v in published[:, i])
        spread = f"{100 * error[:, i].min():+.0f} to {100 * error[:, i].max():+.0f} %"
        lines.append(f"{epsilon:>12g}  {found['exact_nats'][i]:>14.3f}  {seeds:>34}  {spread:>18}")
    return "\n".join(lines)


if __name__ == "__main__":
    pin()
    jax.config.update("jax_enable_x64", True)
    if sys.argv[1:] == ["exact"]:
        print(json.dumps(first_call()))
        sys.exit()
    publish("exact_inductive_bias", measure(), report)
