"""The loop of an ensemble: chunks dealt to slots, advanced segment by segment, saved, and stopped when asked to."""

from __future__ import annotations

import bisect
import dataclasses
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array

from genjax.errors import check_choice, check_positive
from genjax.run.checkpoint import Flight, Results, Store, append, gather_flights, raw_leaf, scatter_flights
from genjax.run.dispatch import Slot, init_members
from genjax.run.grid import Members
from genjax.run.preemption import Interrupted, Received, any_process, wait_for_all
from genjax.run.program import Program, pieces
from genjax.run.progress import Log, MetricStream, Progress, forget_lines

DISPATCHES = ("per_device", "shard_map")
METRIC, SNAPSHOT, FINAL = "metric/", "snapshot/", "final/"
"""What a stored array is: recorded on the way, kept on the way, or returned at the end."""
SECONDS_PER_SEGMENT = 10.0
"""How long an adaptive segment aims to take: what a killed run loses, and how soon SIGTERM is obeyed."""


@dataclasses.dataclass(frozen=True)
class Execution:
    """How an ensemble runs; only ``chunk`` and ``dispatch`` can change the last bits of a result.

    Attributes:
      chunk: members side by side on one device; part of the run's specification. None: on CPUs 8, 16 or 32,
        by the size of a member; elsewhere the widest that fits the memory and leaves no device idle.
      memory_budget: bytes a chunk's segment may need on a device; None: 80 % of the device's memory where it says.
      dispatch: ``"per_device"`` (one executable a device; results do not depend on the number of devices) or
        ``"shard_map"`` (one executable across this process's devices).
      segment: steps between looks at the host: progress, checkpoint, signals. None adapts it to about ten seconds.
        Never changes a result.
      keep: checkpoints kept.
      progress: whether to show progress on the standard error.
    """

    chunk: int | None = None
    memory_budget: float | None = None
    dispatch: str = "per_device"
    segment: int | None = None
    keep: int = 2
    progress: bool = True

    def __post_init__(self) -> None:
        check_choice("dispatch", self.dispatch, DISPATCHES)
        for name in ("chunk", "segment", "keep"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name), integer=True)


class Group:
    """The members of one program: dealt to slots chunk by chunk, advanced segment by segment."""

    def __init__(
        self,
        program: Program,
        members: Members,
        chunk: int,
        slots: list[Slot],
        directory: Path | None,
        execution: Execution,
        log: Log | None,
    ) -> None:
        self.program, self.members, self.slots = program, members, slots
        self.directory, self.execution, self.log = directory, execution, log
        self.width = chunk * len(slots[0].devices)
        self.n_chunks = -(-members.n // self.width)
        self.store = None if directory is None else Store(directory, execution.keep)
        self.results: dict[int, Results] = {}
        own = [device for slot in slots for device in slot.devices]
        self.devices = own if jax.process_count() == 1 else jax.devices()
        self.length = execution.segment or max(program.n_steps // 100, 1)

    def run(self, received: Received, resume: bool) -> Results:
        """Results of all members, ``[n, ...]`` by name."""
        finished, flights = self._restore() if resume else (set(), {})
        wait_for_all("genjax: restored")
        mine = [i for i in range(self.n_chunks) if i not in finished][jax.process_index() :: jax.process_count()]
        queue, active = deque(mine), dict[Slot, Flight]()
        done = sum(self._size(i) for i in finished) * self._steps + sum(
            f.step * self._size(i) for i, f in flights.items()
        )
        lead = jax.process_index() == 0
        progress = Progress(
            self.members.n * self._steps,
            done,
            unit="member-steps" if self.program.n_steps else "members",
            enabled=self.execution.progress and lead,
        )
        stream = MetricStream(self._stream_path(jax.process_index()), self.log if lead else None)
        try:
            while True:
                begun = any(flight.step > 0 for flight in active.values())
                stop, busy, begun = any_process(received.signum is not None, bool(queue or active), begun)
                if self.store is not None and begun:
                    held = [(active.get(slot), slot.shards()) for slot in self.slots]
                    self.store.save_states(gather_flights(held, self.devices))
                if not busy:
                    break
                if stop:
                    raise Interrupted(self._farewell(received.signum), received.signum or 0)
                for slot in self.slots:
                    if slot not in active and queue:
                        active[slot] = self._take_up(slot, queue.popleft(), flights)
                    elif slot.states is None:
                        slot.idle(self._take(0))
                self._round(active, progress, stream)
        finally:
            if self.store is not None:
                self.store.wait()
            progress.close()
            stream.close()
        wait_for_all("genjax: chunks")
        every = [self.results[i] if self.store is None else self.store.load_chunk(i) for i in range(self.n_chunks)]
        wait_for_all("genjax: chunks read")  # the first process to go on removes them
        return {name: np.concatenate([results[name] for results in every]) for name in every[0]}

    @property
    def _steps(self) -> int:
        return max(self.program.n_steps, 1)

    def _size(self, chunk: int) -> int:
        return min(self.width, self.members.n - chunk * self.width)

    def _stream_path(self, process: int) -> Path | None:
        if self.directory is None or not self.program.n_steps:
            return None
        return self.directory / ("metrics.jsonl" if process == 0 else f"metrics.{process}.jsonl")

    def _farewell(self, signum: int | None) -> str:
        return (
            f"stopped by {'another process' if signum is None else f'signal {signum}'}; what was done is kept in "
            f"{self.directory}, resume to go on"
        )

    def _restore(self) -> tuple[set[int], dict[int, Flight]]:
        assert self.store is not None
        assert self.directory is not None
        finished = self.store.finished()
        shapes = jax.eval_shape(init_members, self.program, *self._take(0))
        tree = self.store.load_states()
        found = [] if tree is None else scatter_flights(tree, shapes)
        flights = {flight.chunk: flight for flight in found if flight.chunk not in finished and flight.step > 0}
        wait_for_all("genjax: read")
        if jax.process_index() == 0:
            steps = {i: flight.step for i, flight in flights.items()}
            for path in self.directory.glob("metrics*.jsonl"):
                forget_lines(path, finished, steps)
        return finished, flights

    def _take(self, chunk: int) -> tuple[Array, dict[str, Any]]:
        rows = np.arange(chunk * self.width, (chunk + 1) * self.width)
        # The last chunk is filled up with copies of the last member, whose results are dropped.
        return self.members.take(np.minimum(rows, self.members.n - 1))

    def _take_up(self, slot: Slot, chunk: int, flights: Mapping[int, Flight]) -> Flight:
        flight = flights.get(chunk, Flight(chunk))
        if self.store is not None:
            flight.results = self.store.load_rows(chunk, flight.step)
        slot.load(self._take(chunk), flight.states)
        flight.states = None
        return flight

    def _round(self, active: dict[Slot, Flight], progress: Progress, stream: MetricStream) -> None:
        """One segment on every slot; chunks that end leave ``active``."""
        began = time.monotonic()
        cuts = {}
        for slot, flight in active.items():
            start = max(flight.step, 0)
            ahead = [s for s in self.program.snapshot_steps if s > flight.step]
            stop = min([start + self.length, self.program.n_steps, *ahead])
            cuts[slot] = pieces(self.program, start, stop, first=flight.step < 0), start, stop
            slot.dispatch(cuts[slot][0])
        if self.store is not None:
            self.store.wait()  # while the devices work: no more than one segment told of is ever without a checkpoint
        for slot, (cut, start, stop) in cuts.items():
            flight = active[slot]
            shown = slot.collect()
            flight.step = stop
            kept = np.flatnonzero(cut.recorded)
            rows = {f"{METRIC}{name}": values[:, kept] for name, values in shown.metrics.items()}
            append(flight.results, rows)
            size = self._size(flight.chunk)
            scalars = [name for name in rows if flight.results[name].ndim == 2]
            line = {name.removeprefix(METRIC): _mean(flight.results[name][:size, -1:]) for name in scalars}
            stream.write(
                {"chunk": flight.chunk, "first_member": flight.chunk * self.width, "members": size, "step": stop}
                | {"running": int(shown.running[:size].sum())}
                | line
            )
            times = self.program.snapshot_steps.count(stop)
            # When all have stopped, and the last record shows them so, the rest of the way would only repeat it.
            if not shown.running.any() and stop in (*self.program.record_steps, self.program.n_steps):
                flight.step = self.program.n_steps
                missing = len(self.program.record_steps) - bisect.bisect(self.program.record_steps, stop)
                append(flight.results, {n: np.repeat(flight.results[n][:, -1:], missing, axis=1) for n in rows})
                times += len(self.program.snapshot_steps) - bisect.bisect(self.program.snapshot_steps, stop)
            if times:
                snapshot = _plain(named(SNAPSHOT, jax.vmap(self.program.snapshot)(slot.states)))
                repeated = {name: np.stack([leaf] * times, axis=1) for name, leaf in snapshot.items()}
                append(flight.results, repeated)
                rows |= repeated
            if self.store is not None and flight.step < self.program.n_steps:
                self.store.save_rows(flight.chunk, flight.step, rows)
            done = size * (flight.step - start) if self.program.n_steps else size
            progress.advance(done, ", ".join(f"{n} {v:.4g}" for n, v in line.items()))
            if flight.step == self.program.n_steps:
                self._land(flight, _plain(named(FINAL, shown.final)))
                del active[slot]
        elapsed = time.monotonic() - began
        if self.execution.segment is None and cuts:
            longest = max(stop - start for _, start, stop in cuts.values())
            self.length = int(np.clip(longest * SECONDS_PER_SEGMENT / elapsed, 1, 10 * self.length))

    def _land(self, flight: Flight, final: Results) -> None:
        size = self._size(flight.chunk)
        results = {name: values[:size] for name, values in (flight.results | final).items()}
        if self.store is None:
            self.results[flight.chunk] = results
        else:
            self.store.save_chunk(flight.chunk, results)


def _mean(values: np.ndarray) -> float:
    """Mean of what is finite, NaN if nothing is."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")


def named(kind: str, tree: Any) -> dict[str, Any]:
    """Leaves by dotted path, marked with what they are.

    Args:
      kind: ``METRIC``, ``SNAPSHOT`` or ``FINAL``.
      tree: pytree of arrays.

    Returns:
      The leaves; a lone leaf is named by its kind alone.
    """
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {kind + jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _plain(leaves: Mapping[str, Any]) -> Results:
    """As NumPy arrays; of the types netCDF has no name for, as float32."""
    raw = {name: raw_leaf(leaf) for name, leaf in leaves.items()}
    return {name: leaf if leaf.dtype.kind in "fiub" else leaf.astype(np.float32) for name, leaf in raw.items()}
