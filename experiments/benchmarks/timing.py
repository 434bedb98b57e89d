"""CPU seconds of a run, the cores a process keeps to, and where a benchmark's numbers go."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"


def timed(run: Callable[[], Any]) -> tuple[float, float]:
    """CPU and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    return time.process_time() - cpu, time.perf_counter() - wall


def pin(cores: set[int] | None = None) -> None:
    """Keep to these cores, or to one, where the system allows; before JAX or PyTorch start their threads."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores or {min(os.sched_getaffinity(0))})


def publish(name: str, found: dict[str, Any], report: Callable[[dict[str, Any]], str]) -> None:
    """Write the numbers to ``results/<name>.json``; print the report on them and where they went."""
    result = RESULTS / f"{name}.json"
    RESULTS.mkdir(exist_ok=True)
    result.write_text(json.dumps(found, indent=1) + "\n")
    print(report(found))
    print(f"written to {result.relative_to(Path.cwd()) if result.is_relative_to(Path.cwd()) else result.name}")
