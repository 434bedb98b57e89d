"""The ensemble engine against other ways to train the same members, on one core, in one run.

``python -m experiments.benchmarks.train_engine`` (about 5 minutes on 2 CPU cores; PyTorch is used where it is
installed).

Members are perceptrons 64-H-10 on digits with Adam: 8 seeds times 8 learning rates, the same number of steps, batches
drawn independently in every step, losses and errors on all training and test data at the end and nowhere else. The
process pins itself to one core where the system allows. Numbers are CPU seconds of the whole process, ways interleaved,
medians over repetitions, first calls (compilation) apart; ratios are medians of the ratios within one repetition.

(a) the whole run as one jitted function, called member by member: hand-written, and our own ``train``;
(b) one step as a jitted function, called from a Python loop;
(c) plain PyTorch; (d) PyTorch's ``torch.func`` over all members at once.

What the engine adds is its time beyond a hand-written scan under ``vmap``, called on the same chunks. Compilation,
memory, processes and devices are measured in processes of their own: see
:mod:`experiments.benchmarks.train_scaling`.

Writes ``experiments/results/train_engine.json``.
"""

from __future__ import annotations

import dataclasses
import importlib
import time
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from experiments.benchmarks import train_scaling
from experiments.benchmarks.timing import pin, publish, timed
from experiments.benchmarks.train_ways import (
    LARGE,
    MANY,
    SMALL,
    Run,
    engine,
    hand_written,
    hand_written_scan,
    make_problem,
    torch_missing,
    ways,
)
from genjax.run import provenance

N_REPETITIONS = 5
# How many times less CPU time the engine must take than each other way.
BARS = {
    SMALL: {"(a)": 1.4, "(b)": 5.0, "(c)": 20.0, "(d)": 3.0},
    LARGE: {"(a)": 0.92, "(b)": 1.5, "(c)": 6.0, "(d)": 2.5},
}
MAX_OVERHEAD = 0.10
MAX_CPU_S_OF_MANY = 3.0


def compare(runs: Mapping[str, Run], repetitions: int = N_REPETITIONS) -> dict[str, Any]:
    """Time every way in turn, again and again; first calls apart.

    Args:
      runs: ways by name; the first is the one the others are compared with.
      repetitions: how often each is timed.

    Returns:
      By way: CPU and wall seconds of the median repetition, CPU seconds of each and of the first call beyond them,
      how many times the first way's CPU seconds it took, and its mean final test loss.
    """
    losses, first = {}, {}
    for name, run in runs.items():
        cpu = time.process_time()
        losses[name] = float(np.mean(run()))
        first[name] = time.process_time() - cpu
    times = {name: np.empty((repetitions, 2)) for name in runs}
    for i in range(repetitions):
        for name, run in runs.items():
            times[name][i] = timed(run)
    reference = times[next(iter(runs))][:, 0]
    return {
        name: {
            "cpu_s": float(np.median(seconds[:, 0])),
            "wall_s": float(np.median(seconds[:, 1])),
            "cpu_s_all": seconds[:, 0].tolist(),
            "first_call_extra_cpu_s": first[name] - float(np.median(seconds[:, 0])),
            "times_engine": float(np.median(seconds[:, 0] / reference)),
            "mean_test_loss": losses[name],
        }
        for name, seconds in times.items()
    }


def measure() -> dict[str, Any]:
    """Everything, as JSON values."""
    throughput = [
        {"size": dataclasses.asdict(size), "bars": bars, "ways": compare(ways(make_problem(size)))}
        for size, bars in BARS.items()
    ]
    problem = make_problem(MANY)
    many = {"engine": engine(problem), "hand-written vmapped scan": hand_written_scan(problem, hand_written(problem))}
    return {
        "task": problem.task.provenance,
        "throughput": throughput,
        "torch": torch_missing() or importlib.import_module("torch").__version__,
        "many": {"size": dataclasses.asdict(MANY), "ways": compare(many)},
        **train_scaling.measure(),
        "where": provenance(),
    }


def checks(found: Mapping[str, Any]) -> list[tuple[str, float, str, bool]]:
    """What was required: description, measured value, the bar in words, and whether it holds."""
    rows = []
    for part in found["throughput"]:
        label = f"H = {part['size']['width']}"
        for name, way in part["ways"].items():
            ratio, bar = way["times_engine"], part["bars"].get(name[:3])
            if bar is not None:
                rows.append((f"{label}: engine faster than {name}", ratio, f">= {bar:g}", ratio >= bar))
        rows.append(_overhead(label, part["ways"]))
    many = found["many"]["ways"]
    cpu = many["engine"]["cpu_s"]
    rows.append(_overhead("1024 members, H = 32", many))
    rows.append(("1024 members x 100 steps, CPU-s", cpu, f"<= {MAX_CPU_S_OF_MANY:g}", cpu <= MAX_CPU_S_OF_MANY))
    return rows


def _overhead(label: str, ways: Mapping[str, Any]) -> tuple[str, float, str, bool]:
    overhead = 1 / ways["hand-written vmapped scan"]["times_engine"] - 1
    text = f"{label}: engine beyond a hand-written scan"
    return text, overhead, f"<= {MAX_OVERHEAD:g}", overhead <= MAX_OVERHEAD


def report(found: Mapping[str, Any]) -> str:
    """Readable tables."""
    lines = [found["task"], f"PyTorch: {found['torch']}"]
    for part in [*found["throughput"], found["many"]]:
        size = part["size"]
        members = size["n_seeds"] * size["n_rates"]
        lines += [
            "",
            f"{members} members, 64-{size['width']}-10, batches of {size['batch_size']}, {size['steps']} steps",
            f"{'':<30}{'CPU-s':>8}{'wall-s':>8}{'first call +':>14}{'steps/CPU-s':>13}"
            f"{'x engine':>10}{'test loss':>11}",
        ]
        for name, way in part["ways"].items():
            rate = members * size["steps"] / way["cpu_s"]
            lines.append(
                f"{name:<30}{way['cpu_s']:>8.3f}{way['wall_s']:>8.3f}{way['first_call_extra_cpu_s']:>14.2f}"
                f"{rate:>13,.0f}{way['times_engine']:>10.2f}{way['mean_test_loss']:>11.4f}"
            )
    lines += ["", *train_scaling.report(found), "", *table([*checks(found), *train_scaling.checks(found)])]
    return "\n".join(lines)


def table(rows: Iterable[tuple[str, float, str, bool]]) -> list[str]:
    return [
        f"{what:<62}{value:>10.3g}   {bar:<8}  {'holds' if holds else 'MISSED'}" for what, value, bar, holds in rows
    ]


if __name__ == "__main__":
    pin()
    jax.config.update("jax_platforms", "cpu")
    publish("train_engine", measure(), report)
