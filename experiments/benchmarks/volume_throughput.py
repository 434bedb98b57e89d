"""Hypotheses per CPU-second: ours against the plain PyTorch loop one would write, in one run, on one core.

``python -m experiments.benchmarks.volume_throughput`` (about 2 minutes on a CPU core; PyTorch is used where it is
installed).

(i) Trained hypotheses: perceptrons 64-32-10 on digits, Adam with one learning rate for 400 steps of 32 examples drawn
independently, then errors on 1297 training and 500 test images. Ours is the method ``trained`` as it is called, fit
checked and intervals included; the other trains one seed after the other.

(ii) Drawn hypotheses: perceptrons 64-32-1 without biases on digits 3 against 8, checked on 16 training images and, if
they fit, on 341 test images. Ours is the method ``guess_and_check``; the others draw one hypothesis at a time, or, so
that nobody is fooled, batches of 64. Nearly all the time goes into 2080 normal numbers for each hypothesis, and JAX's
counter-based generator, on which draws that do not depend on the number of devices rest, is slower on a CPU than
PyTorch's sequential one.

The process pins itself to one core where the system allows. Numbers are CPU seconds of the whole process, ways
interleaved, medians over repetitions, first calls (compilation) apart; ratios are medians of the ratios within one
repetition. Writes ``experiments/results/volume_throughput.json``.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.tree_util import Partial

from experiments.benchmarks.network_reference import digits_3_vs_8
from experiments.benchmarks.timing import pin, publish
from experiments.benchmarks.train_engine import compare, table
from experiments.benchmarks.train_ways import Problem, Run, Size, make_problem, torch_missing, torch_ways
from genjax.run import Execution, Train, provenance
from genjax.tasks import Task
from genjax.volume import GuessAndCheck, HypothesisSpace, Trained, inductive_bias, trained_space

TRAINED = Size(width=32, batch_size=32, steps=400, n_seeds=64, n_rates=1, chunk=32)
N_DRAWN, BATCH = 2**15, 64
N_REPETITIONS = 5
BAR = 15.0
LOOP = "plain PyTorch, one at a time"


def trained_ways(problem: Problem) -> dict[str, Run]:
    """Final test errors or losses of all seeds."""
    space = trained_space(Partial(_train, problem.train, problem.rates[0]), problem.model.apply_fn())
    execution = Execution(chunk=problem.size.chunk, progress=False)

    def ours() -> np.ndarray:
        curve = inductive_bias(
            space,
            problem.task,
            [0.1, 0.05],
            key=jax.random.key(0),
            fit_error=0.05,
            method=Trained(len(problem.seeds)),
            execution=execution,
        )
        return curve.diagnostics["test_error"]

    return {"genjax, trained": ours} | ({} if torch_missing() else {LOOP: torch_ways(problem)["(c) plain PyTorch"]})


def _train(train: Train, rate: Array, key: Array) -> Any:
    return train(key, {"learning_rate": rate}).params


def drawn_ways(space: HypothesisSpace, task: Task, n: int = N_DRAWN) -> dict[str, Run]:
    """Test errors of the hypotheses that fit."""

    def ours() -> np.ndarray:
        settings = GuessAndCheck(n, batch=BATCH, n_streams=1, n_keep=BATCH)
        execution = Execution(progress=False)
        curve = inductive_bias(
            space, task, [0.2, 0.1], key=jax.random.key(0), fit_error=0.0, method=settings, execution=execution
        )
        return np.asarray(curve.particles.test_error)

    return {"genjax, guess and check": ours} | ({} if torch_missing() else torch_draws(task, n))


def torch_draws(task: Task, n: int) -> dict[str, Run]:
    """The same in PyTorch, on one thread: one hypothesis at a time, and in batches."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    x_train, y_train, x_test, y_test = (
        torch.tensor(np.asarray(a, np.float32)) for a in (task.x_train, task.y_train, task.x_test, task.y_test)
    )
    d = x_train.shape[1]

    def one_by_one() -> np.ndarray:
        errors = []
        with torch.no_grad():
            for _ in range(n):
                hidden, output = torch.randn(d, 32) / d**0.5, torch.randn(32, 1) / 32**0.5
                if (torch.relu(x_train @ hidden) @ output * y_train > 0).all():
                    errors.append(float((torch.relu(x_test @ hidden) @ output * y_test <= 0).float().mean()))
        return np.array(errors)

    def batches() -> np.ndarray:
        errors = []
        with torch.no_grad():
            for _ in range(0, n, BATCH):
                hidden, output = torch.randn(BATCH, d, 32) / d**0.5, torch.randn(BATCH, 32, 1) / 32**0.5
                fits = (torch.relu(x_train @ hidden) @ output * y_train > 0).all(1)[:, 0]
                outputs = torch.relu(x_test @ hidden[fits]) @ output[fits]
                errors.append((outputs * y_test <= 0).float().mean((1, 2)).numpy())
        return np.concatenate(errors)

    return {LOOP: one_by_one, f"PyTorch, batches of {BATCH}": batches}


def measure() -> dict[str, Any]:
    """Both comparisons, as JSON values."""
    parts = {
        "trained": (TRAINED.n_seeds, trained_ways(make_problem(TRAINED))),
        "drawn": (N_DRAWN, drawn_ways(*digits_3_vs_8())),
    }
    return {
        **{
            name: {"hypotheses": n, "ways": rates(n, compare(ways, N_REPETITIONS))} for name, (n, ways) in parts.items()
        },
        "torch": torch_missing() or importlib.import_module("torch").__version__,
        "where": provenance(),
    }


def rates(n: int, timings: Mapping[str, Any]) -> dict[str, Any]:
    """What is of interest of each way's timings."""
    return {
        name: {
            "hypotheses_per_cpu_s": n / way["cpu_s"],
            "hypotheses_per_s": n / way["wall_s"],
            "times_ours": way["times_engine"],
            "cpu_s_all": way["cpu_s_all"],
            "first_call_extra_cpu_s": way["first_call_extra_cpu_s"],
        }
        for name, way in timings.items()
    }


def checks(found: Mapping[str, Any]) -> list[tuple[str, float, str, bool]]:
    """What was required: description, measured value, the bar in words, and whether it holds."""
    loop = found["trained"]["ways"].get(LOOP)
    if loop is None:
        return []
    ratio = loop["times_ours"]
    return [("trained hypotheses per CPU-second against plain PyTorch", ratio, f">= {BAR:g}", ratio >= BAR)]


def report(found: Mapping[str, Any]) -> str:
    """Readable tables."""
    lines = [f"PyTorch: {found['torch']}"]
    for part in ("trained", "drawn"):
        lines += [
            "",
            f"{found[part]['hypotheses']:,} {part} hypotheses",
            f"{'':<32}{'per CPU-s':>12}{'per second':>12}{'x ours':>9}{'first call +':>14}",
        ]
        lines += [
            f"{name:<32}{way['hypotheses_per_cpu_s']:>12,.1f}{way['hypotheses_per_s']:>12,.1f}{way['times_ours']:>9.2f}"
            f"{way['first_call_extra_cpu_s']:>14.2f}"
            for name, way in found[part]["ways"].items()
        ]
    return "\n".join([*lines, "", *table(checks(found))])


if __name__ == "__main__":
    pin()
    jax.config.update("jax_platforms", "cpu")
    publish("volume_throughput", measure(), report)
