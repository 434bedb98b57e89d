"""What a resumable run keeps on disk: finished chunks, checkpoints of those in flight, and what they belong to.

A chunk is determined to the last bit by the run's specification, whoever computes it, so chunks are stored one by one:
any number of processes and devices can take up the rest. All files appear under their name only once complete.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genjax.errors import GenjaxError

Results = dict[str, np.ndarray]


@dataclasses.dataclass
class Flight:
    """A chunk on its way.

    Attributes:
      chunk: its index.
      step: steps done.
      results: ``[c, ...]`` by name so far: recorded metrics ``[c, r]`` and snapshots ``[c, s, ...]``.
      states: leaves of the members' states.
    """

    chunk: int
    step: int
    results: Results
    states: list[Any]


class Store:
    """The directory of one run (or of one group of a run with static axes).

    Args:
      directory: where; parents are created.
      process: index of this process, which writes only files of its own.
      keep: checkpoints of each process kept, the newest.
    """

    def __init__(self, directory: Path, process: int = 0, keep: int = 2) -> None:
        self._chunks = directory / "chunks"
        self._checkpoints = directory / "checkpoints"
        self._own = self._checkpoints / f"process-{process}"
        self._keep = keep
        self._process = process
        self._checkpointer: Any = None
        for folder in (self._chunks, self._own):
            folder.mkdir(parents=True, exist_ok=True)

    def finished(self) -> set[int]:
        """Indices of the chunks that are done."""
        return {int(path.stem) for path in self._chunks.glob("*.npz")}

    def save_chunk(self, chunk: int, results: Results) -> None:
        """Keep a finished chunk."""
        path = self._chunks / f"{chunk:06d}.npz"
        # Slashes are how a zip archive spells folders; names come back as they were.
        with path.with_suffix(".partial").open("wb") as file:
            np.savez(file, **results)  # type: ignore[arg-type]
        path.with_suffix(".partial").replace(path)

    def load_chunk(self, chunk: int) -> Results:
        """Read a finished chunk, checksums included."""
        path = self._chunks / f"{chunk:06d}.npz"
        try:
            with np.load(path) as file:
                return dict(file)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise GenjaxError(f"{path} is damaged ({error}); delete it to have these members computed again") from error

    def save_flights(self, flights: Sequence[Flight]) -> None:
        """Checkpoint the chunks in flight, in the background; the arrays must not be changed afterwards."""
        import orbax.checkpoint as ocp

        if self._checkpointer is None:
            # Each process saves what it alone computed, so none waits for another.
            mine = {self._process} if jax.process_count() > 1 else None
            self._checkpointer = ocp.StandardCheckpointer(
                multiprocessing_options=ocp.options.MultiprocessingOptions(
                    primary_host=self._process if mine else 0,
                    active_processes=mine,
                    barrier_sync_key_prefix=f"process-{self._process}" if mine else None,
                )
            )
        self._checkpointer.wait_until_finished()
        numbers = _complete(self._own)
        for number in numbers[: -self._keep]:
            shutil.rmtree(self._own / f"{number:08d}")
        tree: dict[str, np.ndarray] = {}
        for flight in flights:
            tree[f"{flight.chunk}/step"] = np.array(flight.step)
            leaves = {f"state/{i}": leaf for i, leaf in enumerate(flight.states)}
            leaves |= {f"results/{name}": values for name, values in flight.results.items()}
            # Empty arrays hold nothing to store, and tensorstore refuses them.
            tree |= {f"{flight.chunk}/{name}": raw for name, leaf in leaves.items() if (raw := raw_leaf(leaf)).size}
        self._checkpointer.save((self._own / f"{numbers[-1] + 1 if numbers else 0:08d}").absolute(), tree)

    def wait(self) -> None:
        """Return once the last checkpoint is complete."""
        if self._checkpointer is not None:
            self._checkpointer.wait_until_finished()

    def flights(self, states: Any) -> dict[int, Flight]:
        """The most advanced checkpoint of every unfinished chunk, whichever process wrote it.

        Args:
          states: shapes and dtypes of the members' states, as :func:`jax.eval_shape` gives them.
        """
        import orbax.checkpoint as ocp

        shapes = jax.tree.leaves(states)
        done = self.finished()
        found: dict[int, Flight] = {}
        for folder in sorted(self._checkpoints.glob("process-*")):
            numbers = _complete(folder)
            if not numbers:
                continue
            path = folder / f"{numbers[-1]:08d}"
            try:
                with ocp.PyTreeCheckpointer() as checkpointer:
                    tree = checkpointer.restore(path.absolute())
                for chunk in sorted({int(name.split("/")[0]) for name in tree} - done):
                    flight = _flight(chunk, tree, shapes)
                    if chunk not in found or found[chunk].step < flight.step:
                        found[chunk] = flight
            except Exception as error:  # orbax and tensorstore raise many kinds for damaged files
                raise GenjaxError(
                    f"the checkpoint {path} cannot be read: {type(error).__name__}: {str(error)[:300]}; delete that "
                    "folder to go on from the one before"
                ) from error
        return found

    def clear_checkpoints(self) -> None:
        """Remove this process's checkpoints, once all is done."""
        self.wait()
        shutil.rmtree(self._own, ignore_errors=True)

    def clear(self) -> None:
        """Remove chunks and checkpoints, once the results are written."""
        for folder in (self._chunks, self._checkpoints):
            shutil.rmtree(folder, ignore_errors=True)


def _complete(folder: Path) -> list[int]:
    """Numbers of the complete checkpoints; unfinished ones bear another name until the last byte is written."""
    return sorted(int(path.name) for path in folder.glob("*") if re.fullmatch(r"\d{8}", path.name))


def _flight(chunk: int, tree: dict[str, Any], shapes: list[jax.ShapeDtypeStruct]) -> Flight:
    mine = {name.split("/", 1)[1]: leaf for name, leaf in tree.items() if name.split("/")[0] == str(chunk)}
    states = []
    for i, shape in enumerate(shapes):
        raw = jax.eval_shape(_key_data, shape)
        leaf = np.asarray(mine[f"state/{i}"]) if raw.size else np.zeros(raw.shape, raw.dtype)
        if leaf.shape != raw.shape or leaf.dtype != raw.dtype:
            raise ValueError(f"state {i} is {leaf.dtype}{leaf.shape}, this run's is {raw.dtype}{raw.shape}")
        if jnp.issubdtype(shape.dtype, jax.dtypes.prng_key):
            states.append(jax.random.wrap_key_data(jnp.asarray(leaf), impl=_key_impl(shape)))
        else:
            states.append(leaf)
    results = {n.removeprefix("results/"): np.asarray(leaf) for n, leaf in mine.items() if n.startswith("results/")}
    return Flight(chunk, int(mine["step"]), results, states)


def _key_data(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def _key_impl(shape: jax.ShapeDtypeStruct) -> Any:
    """Name of the generator, which a traced array of keys tells and its shape does not."""
    found = []
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), shape)
    return found[0]


def raw_leaf(leaf: Any) -> np.ndarray:
    """A leaf as numbers of its own, typed keys as their data.

    Args:
      leaf: array or typed key array.

    Returns:
      A copy: the device's buffer may be reused by the next segment.
    """
    return np.array(_key_data(leaf))


def check_same_run(directory: Path, specification: dict[str, Any]) -> None:
    """Refuse to continue a run that was started as another.

    Args:
      directory: holds ``specification.json``.
      specification: what is to be run now, JSON values.

    Returns:
      None.

    Raises:
      FileNotFoundError: there is no run in the directory.
      GenjaxError: it is another run, or the file is damaged; the message names what differs.
    """
    path = directory / "specification.json"
    if not path.exists():
        raise FileNotFoundError(f"`directory` {directory} holds no run to resume; leave out `resume` to start one")
    try:
        stored = json.loads(path.read_text())
    except ValueError as error:
        raise GenjaxError(f"{path} is damaged ({error}); the run cannot be resumed") from error
    names = sorted({*stored, *specification})
    differing = [name for name in names if stored.get(name) != specification.get(name)]
    if differing:
        listing = "; ".join(f"{name} was {stored.get(name)!r}, now {specification.get(name)!r}" for name in differing)
        raise GenjaxError(f"`directory` {directory} holds another run: {listing}")
