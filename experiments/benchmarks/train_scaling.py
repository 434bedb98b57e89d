"""What the ensemble engine needs beside arithmetic: compilation, memory, processes, devices; each in fresh processes.

Part of :mod:`experiments.benchmarks.train_engine`, which prints and stores the numbers. By itself:
``python -m experiments.benchmarks.train_scaling gpu`` measures seeds per second on a GPU.

Compilation: CPU seconds of the first call of ``ensemble`` beyond the second, that is tracing, lowering and XLA, in a
process with an empty compilation cache and in a second process that finds it filled.

Memory: peak resident memory of a process that trains 64, 1024 or 4096 members, 8 at a time; and what the planner
predicts for one wide chunk against the growth of resident memory while that chunk runs.

Processes and devices: the same members into a directory, trained by one process on one core, by two that share the
work (``jax.distributed``, a core for each) and by one with two virtual devices on two cores; CPU seconds of all
processes, compiled beforehand, in turn. Cores are pinned where the system allows; with one core, all share it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.benchmarks.timing import RESULTS, pin, timed
from experiments.benchmarks.train_ways import SMALL, Size, engine, make_problem, sequential_train
from genjax.run import Execution, ensemble, make_members, plan_chunk, provenance

ALONE = "1 process"
MODULE = "experiments.benchmarks.train_scaling"
GPU_RESULT = RESULTS / "train_engine_gpu.json"
MEMBERS = (64, 1024, 4096)
GPU_MEMBERS = tuple(4**i for i in range(8))
N_REPETITIONS = 5
N_SEQUENTIAL = 16
PLANNED = Size(width=256, batch_size=128, steps=3, n_seeds=256, n_rates=1)
"""A chunk of several hundred megabytes, so that arrays are what counts."""
SHARED = dataclasses.replace(SMALL, steps=500, n_seeds=128)

MAX_CACHED_COMPILE_CPU_S = 0.5
MAX_PLAN_ERROR = 0.2
MIN_EFFICIENCY = 0.85
# Of a member's 29 kB of parameters and Adam state, all but its results must be gone with its chunk.
MAX_BYTES_PER_MEMBER = 2900.0


def measure() -> dict[str, Any]:
    """All of it, as JSON values."""
    with tempfile.TemporaryDirectory() as cache:
        variables = {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        compilation = {state: probe("compile", variables=variables) for state in ("empty cache", "filled cache")}
    # Freed memory goes back at once, so that what is resident is what is in use.
    exact_malloc = {"MALLOC_MMAP_THRESHOLD_": str(2**16), "MALLOC_TRIM_THRESHOLD_": "0"}
    return {
        "compilation": compilation,
        "memory": {str(n): probe("memory", n) for n in MEMBERS},
        "planner": probe("planner", variables=exact_malloc),
        "sharing": compare_sharing(),
        "gpu": probe("gpu", platform=None),
    }


def checks(found: Mapping[str, Any]) -> list[tuple[str, float, str, bool]]:
    """What was required: description, measured value, the bar in words, and whether it holds."""
    cached = found["compilation"]["filled cache"]["compile_cpu_s"]
    rows = [
        (
            "compilation in a second process, CPU-s",
            cached,
            f"<= {MAX_CACHED_COMPILE_CPU_S:g}",
            cached <= MAX_CACHED_COMPILE_CPU_S,
        )
    ]
    few, many = MEMBERS[0], MEMBERS[-1]
    least, most = (found["memory"][str(n)]["peak_bytes"] for n in (few, many))
    if least is not None and most is not None:
        growth = (most - least) / (many - few)
        text = f"peak bytes per member, {few} to {many} members at chunk {SMALL.chunk}"
        rows.append((text, growth, f"<= {MAX_BYTES_PER_MEMBER:g}", growth <= MAX_BYTES_PER_MEMBER))
    planner = found["planner"]
    if planner["measured_bytes"] is not None:
        error = planner["predicted_bytes"] / planner["measured_bytes"] - 1
        rows.append(
            ("planner's prediction over use, minus 1", error, f"+- {MAX_PLAN_ERROR:g}", abs(error) <= MAX_PLAN_ERROR)
        )
    for name, way in found["sharing"]["ways"].items():
        if name != ALONE:
            efficiency = way["efficiency"]
            text = f"CPU efficiency from {ALONE} to {name}, median of {len(way['cpu_s'])}"
            rows.append((text, efficiency, f">= {MIN_EFFICIENCY:g}", efficiency >= MIN_EFFICIENCY))
    return rows


def report(found: Mapping[str, Any]) -> list[str]:
    """Readable lines."""
    lines = [
        f"compilation, {state}: first call {run['first_cpu_s']:.2f} CPU-s, second {run['second_cpu_s']:.2f}, so "
        f"{run['compile_cpu_s']:.2f} (wall: {', '.join(f'{k} {v:.2f}' for k, v in run['wall_s'].items())})"
        for state, run in found["compilation"].items()
    ]
    peaks = ", ".join(f"{n} members {_megabytes(run['peak_bytes'])}" for n, run in found["memory"].items())
    lines.append(f"peak resident memory at chunk {SMALL.chunk}: {peaks}")
    planner = found["planner"]
    predicted, used = _megabytes(planner["predicted_bytes"]), _megabytes(planner["measured_bytes"])
    lines.append(f"planner, chunk {planner['chunk']}: predicted {predicted}, used {used}")
    sharing = found["sharing"]
    lines += [
        f"{name}: {np.median(way['cpu_s']):.2f} CPU-s, {np.median(way['wall_s']):.2f} wall-s"
        for name, way in sharing["ways"].items()
    ]
    equal = "equal to the last bit" if sharing["equal"] else "DIFFERENT"
    lines.append(f"  ({sharing['cores']} cores, {'pinned' if sharing['pinned'] else 'not pinned'}; results {equal})")
    gpu = found["gpu"]
    if gpu is None:
        lines.append("seeds per second on a GPU: not measured")
    else:
        lines.append(f"seeds per second on {gpu['device']}: one by one {gpu['sequential']:.1f}")
        lines += [f"  {n:>6} members {rate:>10,.1f}" for n, rate in gpu["seeds_per_s"].items()]
    return lines


def _megabytes(size: int | None) -> str:
    return "not measured" if size is None else f"{size / 1e6:.0f} MB"


def probe(name: str, *arguments: Any, variables: Mapping[str, str] | None = None, platform: str | None = "cpu") -> Any:
    """What one of ``PROBES`` prints in a process of its own; ``platform`` None lets JAX choose."""
    chosen = {} if platform is None else {"JAX_PLATFORMS": platform}
    done = subprocess.run(
        [sys.executable, "-m", MODULE, name, *map(str, arguments)],
        env={**os.environ, **chosen, **(variables or {})},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def compile_probe() -> dict[str, Any]:
    """CPU seconds of a first call beyond a second one, and the wall time JAX reports for the parts."""
    parts: dict[str, float] = {}

    def note(event: str, duration_secs: float, **_: str | int) -> None:
        for part, pattern in (("tracing", "jaxpr_trace"), ("lowering", "jaxpr_to_mlir"), ("XLA", "backend_compile")):
            if pattern in event:
                parts[part] = parts.get(part, 0.0) + duration_secs

    run = engine(make_problem(SMALL))
    jax.monitoring.register_event_duration_secs_listener(note)
    (first, _), (second, _) = timed(run), timed(run)
    return {"first_cpu_s": first, "second_cpu_s": second, "compile_cpu_s": first - second, "wall_s": parts}


def memory_probe(members: str) -> dict[str, Any]:
    engine(make_problem(dataclasses.replace(SMALL, steps=10, n_seeds=int(members), n_rates=1)))()
    return {"peak_bytes": _resident("VmHWM")}


def planner_probe() -> dict[str, Any]:
    """Prediction for a wide chunk, and by how much resident memory grows while it runs a second time."""
    problem = make_problem(PLANNED)
    members = make_members(problem.seeds, {"learning_rate": problem.rates})
    plan = plan_chunk(problem.train, members, 1e12)
    run = engine(make_problem(dataclasses.replace(PLANNED, chunk=plan.chunk)))
    run()
    before, peak = _resident("VmRSS"), None
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
        run()
        peak = _resident("VmHWM")
    used = None if before is None or peak is None else peak - before
    return {"chunk": plan.chunk, "predicted_bytes": plan.predicted_bytes, "measured_bytes": used}


def _resident(field: str) -> int | None:
    """Bytes of this process resident now (VmRSS) or at most so far (VmHWM); None where the system does not tell."""
    status = Path("/proc/self/status")
    found = re.search(rf"{field}:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return None if found is None else 1024 * int(found[1])


def compare_sharing() -> dict[str, Any]:
    """The same members by one process, two processes, and two virtual devices, in turn; all stay alive and compiled."""
    cores = _cores()
    port, pair = _free_port(), [cores[0], cores[-1]]
    ways = {
        ALONE: [_Worker(0, 1, 0, cores[:1])],
        "2 processes": [_Worker(i, 2, port, [core]) for i, core in enumerate(pair)],
        "2 virtual devices": [_Worker(0, 1, 0, pair, devices=2)],
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    results = set()
    try:
        with tempfile.TemporaryDirectory() as folder:
            for repetition in range(-1, N_REPETITIONS):
                for i, (name, workers) in enumerate(ways.items()):
                    for worker in workers:
                        worker.ask(f"{folder}/{i}-{repetition}")
                    answers = [worker.answer() for worker in workers]
                    results |= {answer["losses"] for answer in answers}
                    if repetition >= 0:  # the call before the first compiles
                        times[name].append((sum(a["cpu_s"] for a in answers), max(a["wall_s"] for a in answers)))
    finally:
        every = list(itertools.chain(*ways.values()))
        for worker in every:
            worker.dismiss()
        for worker in every:
            worker.wait()
    seconds = {name: np.array(values) for name, values in times.items()}
    return {
        "size": dataclasses.asdict(SHARED),
        "cores": len(set(pair)),
        "pinned": hasattr(os, "sched_setaffinity"),
        "equal": len(results) == 1,
        "ways": {
            name: {
                "cpu_s": values[:, 0].tolist(),
                "wall_s": values[:, 1].tolist(),
                "efficiency": float(np.median(seconds[ALONE][:, 0] / values[:, 0])),
            }
            for name, values in seconds.items()
        },
    }


class _Worker:
    """A process that trains the shared members into every directory it is asked for."""

    def __init__(self, process: int, processes: int, port: int, cores: Sequence[int], devices: int = 1) -> None:
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        self._process = subprocess.Popen(
            [sys.executable, "-m", MODULE, "worker", *map(str, (process, processes, port, *cores))],
            env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, directory: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(directory + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"a worker ended early with status {self._process.wait()}")

    def dismiss(self) -> None:
        """Let it end; two that share the work wait for each other."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def wait(self) -> None:
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()


def worker(process: str, processes: str, port: str, *cores: str) -> None:
    """The other end of :class:`_Worker`."""
    pin(set(map(int, cores)))
    if int(processes) > 1:
        jax.distributed.initialize(f"127.0.0.1:{port}", int(processes), int(process))
    problem = make_problem(SHARED)
    grid, execution = {"learning_rate": problem.rates}, Execution(progress=False)
    for line in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        dataset = ensemble(problem.train, problem.seeds, grid, execution=execution, directory=line.strip())
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        losses = hashlib.sha256(dataset["test_loss"].values.tobytes()).hexdigest()
        print(json.dumps({"cpu_s": cpu, "wall_s": wall, "losses": losses}), flush=True)
    if int(processes) > 1:
        jax.distributed.shutdown()


def gpu_probe() -> dict[str, Any] | None:
    """Seeds per second by number of members; None without a GPU."""
    if jax.default_backend() != "gpu":
        return None
    pin(set(range(os.cpu_count() or 1)))
    found = {
        "device": jax.devices()[0].device_kind,
        **seeds_per_second(SMALL, GPU_MEMBERS),
        "where": provenance(),
    }
    GPU_RESULT.write_text(json.dumps(found, indent=1) + "\n")
    return found


def seeds_per_second(size: Size, members: Sequence[int], repetitions: int = 3) -> dict[str, Any]:
    """Wall-clock rates on this process's first device, compiled beforehand.

    Args:
      size: what one member has to do.
      members: how many at once; the engine chooses the chunk.
      repetitions: of which the median is taken.

    Returns:
      The rate by number of members, and of the same function called member by member.
    """

    def rate(n: int, run: Callable[[], Any]) -> float:
        run()
        return n / float(np.median([timed(run)[1] for _ in range(repetitions)]))

    problems = {
        n: make_problem(dataclasses.replace(size, n_seeds=n, n_rates=1, chunk=None)) for n in {*members, N_SEQUENTIAL}
    }
    return {
        "size": dataclasses.asdict(size),
        "sequential": rate(N_SEQUENTIAL, sequential_train(problems[N_SEQUENTIAL])),
        "seeds_per_s": {str(n): rate(n, engine(problems[n])) for n in members},
    }


def _cores() -> list[int]:
    """Cores this process could use, had it not pinned itself to one."""
    if not hasattr(os, "sched_setaffinity"):
        return [0]
    own = os.sched_getaffinity(0)
    pin(set(range(os.cpu_count() or 1)))
    cores = sorted(os.sched_getaffinity(0))
    pin(own)
    return cores


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


PROBES: dict[str, Callable[..., Any]] = {
    "compile": compile_probe,
    "memory": memory_probe,
    "planner": planner_probe,
    "gpu": gpu_probe,
}

if __name__ == "__main__":
    if sys.argv[1] == "worker":
        worker(*sys.argv[2:])
    else:
        print(json.dumps(PROBES[sys.argv[1]](*sys.argv[2:])))
