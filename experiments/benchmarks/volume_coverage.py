"""Honest intervals: how often the 95 % intervals of rare-event estimates hold the exact answer, over repeated runs.

Each repetition is a whole call, pilot included, with another key. Four hypothesis spaces whose probabilities are known:
a ball, the succession perceptron, an equicorrelated orthant and all nets of a binary family.

    python -m experiments.benchmarks.volume_coverage            # 200 repetitions, about 20 minutes
    python -m experiments.benchmarks.volume_coverage --repeats 40

writes ``experiments/results/volume_coverage.json``. CPU; a device does the same.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments.benchmarks.timing import RESULTS
from genjax.estimate import Estimate
from genjax.random import seed_key
from genjax.run import Execution, to_json
from genjax.tasks import make_task
from genjax.volume import (
    Nested,
    Splitting,
    Tempered,
    inductive_bias,
    log_probability,
    weight_space,
)
from genjax.volume.oracles import (
    ball_log_prob,
    binary_network,
    binary_network_inductive_bias,
    binary_network_log_fit,
    succession_inductive_bias,
    succession_log_fit,
)

OUT = RESULTS / "volume_coverage.json"
SMALL: dict[str, Any] = {"n_particles": 256, "n_replicas": 12, "max_rows": 128}
# Tempering the 0-1 errors of sign functions has no gradient to follow; it moves as splitting does.
METHODS = {
    "splitting": Splitting(**SMALL),
    "tempered": Tempered(**{**SMALL, "n_particles": 512}, move="pcn", n_moves=10),
    "nested": Nested(**{**SMALL, "max_rows": 512}),
}
QUIET = Execution(progress=False)
DIMENSION, ORTHANT, RHO = 10, 20, 0.25
SUCCESSION = (10, 20)
TEACHER = 2**16 - 1


class Case(NamedTuple):
    """Probabilities known exactly, estimated by one call.

    Attributes:
      exact: nats, by name.
      estimate: ``(key, method) -> estimates`` in the same order.
    """

    exact: dict[str, float]
    estimate: Callable[[Any, Any], tuple[Estimate, ...]]


def linear(weights: Any, x: Any) -> Any:
    return x @ weights[:, None]


def squared_norm(weights: Any) -> Any:
    return jnp.sum(weights**2)


def most_negative(weights: Any) -> Any:
    """Of equicorrelated scores; at most 0 in the orthant."""
    return -jnp.min(jnp.sqrt(RHO) * weights[0] + jnp.sqrt(1 - RHO) * weights[1:])


def sign_network(params: Any, x: Any) -> Any:
    """Four inputs and a bias, three sign units, a sign output."""
    with_bias = jnp.concatenate([x, jnp.ones_like(x[:, :1])], axis=1)
    return jnp.sign(jnp.sign(with_bias @ params["hidden"]) @ params["output"])[:, None]


def succession_task() -> Any:
    """Features ``(e_0 + e_i) / sqrt 2``, labels all plus."""
    n = sum(SUCCESSION)
    x = np.column_stack([np.ones(n), np.eye(n)]) / np.sqrt(2)
    k, y = SUCCESSION[0], np.ones((n, 1))
    return make_task(x[:k], y[:k], x[k:], y[k:], kind="classification", encoding="plus_minus_one")


def binary_task(n_train: int) -> Any:
    """The teacher with all weights +1 on the 16 inputs."""
    x = np.array(list(itertools.product([-1.0, 1.0], repeat=4)))
    y = np.sign(np.sign(x.sum(1) + 1))[:, None]
    return make_task(x[:n_train], y[:n_train], x[n_train:], y[n_train:])


def binary_code(task: Any) -> int:
    labels = np.concatenate([np.asarray(task.y_train), np.asarray(task.y_test)])[:, 0] > 0
    return int(labels @ (1 << np.arange(16)))


def cases() -> dict[str, Case]:
    normal = weight_space(linear, jnp.zeros(DIMENSION))
    scores = weight_space(linear, jnp.zeros(ORTHANT + 1))
    perceptron = weight_space(linear, jnp.zeros(sum(SUCCESSION) + 1))
    signs = weight_space(sign_network, {"hidden": jnp.zeros((5, 3)), "output": jnp.zeros(3)}, "sign")
    succession, binary, network = succession_task(), binary_task(8), binary_network()
    code = binary_code(binary)

    def event(space: Any, score: Any, threshold: float, key: Any, method: Any) -> tuple[Estimate, ...]:
        found = log_probability(space, score, threshold, key=key, method=method, execution=QUIET)
        return (found.log_prob,)

    def bias(space: Any, task: Any, key: Any, method: Any) -> tuple[Estimate, ...]:
        found = inductive_bias(
            space, task, 0.0, key=key, method=method, error="zero_one_error", n_keep=1, execution=QUIET
        )
        return found.log_fit, found.bias

    k, j = SUCCESSION
    return {
        "ball, D = 10, r^2 = 1": Case(
            {"log P": float(ball_log_prob(DIMENSION, 1))}, partial(event, normal, squared_norm, 1.0)
        ),
        "orthant, k = 20, rho = 0.25": Case(
            {"log P": float(succession_log_fit(ORTHANT, RHO))}, partial(event, scores, most_negative, 0.0)
        ),
        "succession (10, 20)": Case(
            {"log P(fit)": float(succession_log_fit(k)), "I(0)": float(succession_inductive_bias(k, j, 0.0))},
            partial(bias, perceptron, succession),
        ),
        "binary net, 8 of 16": Case(
            {
                "log P(fit)": binary_network_log_fit(network, code, 8),
                "I(0)": float(binary_network_inductive_bias(network, code, 8, 0.0)),
            },
            partial(bias, signs, binary),
        ),
    }


class Coverage(NamedTuple):
    """Of repeated estimates.

    Attributes:
      covered: share of 95 % intervals that hold the exact answer.
      ratio: mean of estimated over exact probability (for a bias, of its inverse).
      ratio_stderr: of that mean.
      scatter: standard deviation of the estimates, nats.
    """

    covered: float
    ratio: float
    ratio_stderr: float
    scatter: float


def coverage(case: Case, method: Any, repeats: int, seed: int = 0) -> dict[str, Coverage]:
    """Repeat an estimate with other keys.

    Args:
      case: what is known.
      method: settings.
      repeats: how often.
      seed: of the keys.

    Returns:
      Coverage and bias of each quantity.
    """
    exact = np.array(list(case.exact.values()))
    values, held = [], []
    for i in tqdm(range(repeats), leave=False):
        estimates = case.estimate(seed_key(seed, i), method)
        values.append([float(np.squeeze(estimate.value)) for estimate in estimates])
        ends = [[float(np.squeeze(end)) for end in estimate.interval()] for estimate in estimates]
        held.append([low <= truth <= high for (low, high), truth in zip(ends, exact, strict=True)])
    error = np.array(values) - exact
    ratio, covered = np.exp(error), np.mean(held, axis=0)
    return {
        name: Coverage(
            float(covered[i]),
            float(ratio[:, i].mean()),
            float(ratio[:, i].std(ddof=1) / np.sqrt(repeats)),
            float(error[:, i].std(ddof=1)),
        )
        for i, name in enumerate(case.exact)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--out", type=Path, default=OUT, help="table to add to")
    options = parser.parse_args()
    table: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    print(f"{'case':<32}{'nats':<12}{'exact':>8}  {'method':<11}{'covered':>8}{'P-hat/P':>17}{'scatter':>9}")
    for name, case in cases().items():
        for label in options.methods:
            for what, found in coverage(case, METHODS[label], options.repeats).items():
                exact = case.exact[what]
                table[f"{name}, {what}, {label}"] = {
                    "exact": exact,
                    "repeats": options.repeats,
                    **found._asdict(),
                }
                ratio = f"{found.ratio:.4f}({found.ratio_stderr:.4f})"
                print(
                    f"{name:<32}{what:<12}{exact:>8.4f}  {label:<11}{found.covered:>8.3f}{ratio:>17}"
                    f"{found.scatter:>9.3f}",
                    flush=True,
                )
        options.out.write_text(json.dumps(to_json(table), indent=1) + "\n")


if __name__ == "__main__":
    main()
