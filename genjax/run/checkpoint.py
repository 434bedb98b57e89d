"""What a resumable run keeps on disk: finished chunks, states of those in flight, and what they belong to.

A chunk is determined to the last bit by the run's specification, whoever computes it: any number of processes and
devices can take up the rest. Results grow by small files, one a chunk and segment; the states of all chunks in flight
are one orbax checkpoint, written by all processes together. Every file appears under its name only once complete.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from genjax.errors import GenjaxError
from genjax.random import is_typed_key

Results = dict[str, np.ndarray]


@dataclasses.dataclass
class Flight:
    """A chunk on its way.

    Attributes:
      chunk: its index.
      step: steps done; -1 before the first dispatch.
      results: ``[c, ...]`` by name so far: recorded metrics ``[c, r]`` and snapshots ``[c, s, ...]``.
      states: the members' states that a restored flight goes on from; None begins at the beginning.
    """

    chunk: int
    step: int = -1
    results: Results = dataclasses.field(default_factory=dict)
    states: Any = None


class Store:
    """The directory of one run (or of one group of a run with static axes).

    Args:
      directory: where; parents are created.
      keep: checkpoints kept, the newest.
    """

    def __init__(self, directory: Path, keep: int = 2) -> None:
        self._chunks = directory / "chunks"
        self._checkpoints = directory / "checkpoints"
        self._keep = keep
        self._checkpointer: Any = None
        for folder in (self._chunks, self._checkpoints):
            folder.mkdir(parents=True, exist_ok=True)

    def finished(self) -> set[int]:
        """Indices of the chunks that are done."""
        return {int(path.stem) for path in self._chunks.glob("*.npz")}

    def save_chunk(self, chunk: int, results: Results) -> None:
        """Keep a finished chunk, and forget what led there."""
        _write(self._chunks / f"{chunk:06d}.npz", results)
        shutil.rmtree(self._rows(chunk), ignore_errors=True)

    def load_chunk(self, chunk: int) -> Results:
        """Read a finished chunk, checksums included."""
        return _read(self._chunks / f"{chunk:06d}.npz")

    def save_rows(self, chunk: int, step: int, results: Results) -> None:
        """Keep what one segment added to a chunk's results."""
        self._rows(chunk).mkdir(exist_ok=True)
        _write(self._rows(chunk) / f"{step:010d}.npz", results)

    def load_rows(self, chunk: int, step: int) -> Results:
        """What a chunk's segments up to a step have added; later ones, whose states are lost, are deleted."""
        results: Results = {}
        for path in sorted(self._rows(chunk).glob("*.npz")):
            if int(path.stem) <= step:
                append(results, _read(path))
            else:
                path.unlink()
        return results

    def save_states(self, tree: Mapping[str, Array]) -> None:
        """Checkpoint global arrays in the background; all processes call this together."""
        import orbax.checkpoint as ocp

        if self._checkpointer is None:
            self._checkpointer = ocp.StandardCheckpointer()
        self._checkpointer.wait_until_finished()
        numbers = self._complete()
        # Waiting above ended in a barrier, so every process counts the same; old ones go only when a newer is complete.
        path = self._checkpoints / f"{numbers[-1] + 1 if numbers else 0:08d}"
        self._checkpointer.save(path.absolute(), dict(tree))
        if jax.process_index() == 0:
            for number in numbers[: -self._keep]:
                shutil.rmtree(self._checkpoints / f"{number:08d}")

    def load_states(self) -> dict[str, np.ndarray] | None:
        """The newest complete checkpoint as NumPy arrays, or None if there is none; all processes call together."""
        import orbax.checkpoint as ocp

        numbers = self._complete()
        if not numbers:
            return None
        path = self._checkpoints / f"{numbers[-1]:08d}"
        try:
            with ocp.PyTreeCheckpointer() as checkpointer:
                names = checkpointer.metadata(path.absolute()).item_metadata.tree
                wanted = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names}
                return checkpointer.restore(path.absolute(), restore_args=wanted)
        except Exception as error:  # orbax and tensorstore raise many kinds for damaged files
            raise GenjaxError(
                f"the checkpoint {path} cannot be read: {type(error).__name__}: {str(error)[:300]}; delete that folder "
                "to go on from the one before"
            ) from error

    def wait(self) -> None:
        """Return once the last checkpoint is complete."""
        if self._checkpointer is not None:
            self._checkpointer.wait_until_finished()

    def clear(self) -> None:
        """Remove chunks and checkpoints, once the results are written."""
        for folder in (self._chunks, self._checkpoints):
            shutil.rmtree(folder, ignore_errors=True)

    def _rows(self, chunk: int) -> Path:
        return self._chunks / f"{chunk:06d}.rows"

    def _complete(self) -> list[int]:
        """Numbers of the complete checkpoints; unfinished ones bear another name until the last byte is written."""
        return sorted(int(path.name) for path in self._checkpoints.glob("*") if re.fullmatch(r"\d{8}", path.name))


def append(results: Results, rows: Mapping[str, np.ndarray]) -> None:
    """Add rows to results along their second axis, in place.

    Args:
      results: ``[c, r, ...]`` by name; may be empty.
      rows: ``[c, s, ...]`` by name.

    Returns:
      None.
    """
    for name, values in rows.items():
        results[name] = values if name not in results else np.concatenate([results[name], values], axis=1)


def _write(path: Path, results: Results) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, **results)  # type: ignore[arg-type]
    partial.replace(path)


def _read(path: Path) -> Results:
    try:
        with np.load(path) as file:
            return dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise GenjaxError(
            f"{path} is damaged ({error}); delete it, and if it lies in a folder named after its chunk, that folder "
            "and the checkpoints, to have those members computed again"
        ) from error


def gather_flights(
    slots: Sequence[tuple[Flight | None, list[list[Array]]]], devices: Sequence[jax.Device]
) -> dict[str, Array]:
    """Chunks in flight on all devices of all processes as global arrays, without moving any data.

    Args:
      slots: for each slot of this process what it holds, if anything, and the leaves of its states, each as its arrays
        on the slot's devices.
      devices: of all processes, in the order of the slots.

    Returns:
      ``state/i``: leaf i, ``[devices * c, ...]``; ``where``: ``int32[devices, 2]``, chunk (-1 for none) and step.
    """
    mesh = Mesh(np.array(devices), ("member",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("member"))

    def whole(shards: list[Array]) -> Array:
        shape = (len(devices) * shards[0].shape[0], *shards[0].shape[1:])
        return jax.make_array_from_single_device_arrays(shape, sharding, shards)

    tree = {}
    for i in range(len(slots[0][1])):
        shards = [key_data(shard) for _, leaves in slots for shard in leaves[i]]
        # Empty arrays hold nothing to store, and tensorstore refuses them.
        if shards[0].size:
            tree[f"state/{i}"] = whole(shards)
    table = []
    for flight, leaves in slots:
        row = np.array([[-1, -1] if flight is None else [flight.chunk, flight.step]], np.int32)
        table += [jax.device_put(row, *shard.devices()) for shard in leaves[0]]
    return tree | {"where": whole(table)}


def scatter_flights(tree: Mapping[str, np.ndarray], shapes: Any) -> list[Flight]:
    """The flights of a checkpoint, to be taken up on any devices.

    Args:
      tree: of :func:`gather_flights`, as NumPy arrays.
      shapes: of one chunk's states, as :func:`jax.eval_shape` gives them.

    Returns:
      The flights, with states and without results.

    Raises:
      GenjaxError: the states are not this run's.
    """
    where = tree["where"]
    leaves, structure = jax.tree.flatten(shapes)
    found = []
    for chunk in sorted({int(chunk) for chunk in where[:, 0] if chunk >= 0}):
        mine = where[:, 0] == chunk
        states = []
        for i, shape in enumerate(leaves):
            raw = jax.eval_shape(key_data, shape)
            leaf = np.zeros(raw.shape, raw.dtype)
            if raw.size and f"state/{i}" in tree:
                whole = np.asarray(tree[f"state/{i}"])
                leaf = whole.reshape(len(where), -1, *whole.shape[1:])[mine].reshape(-1, *whole.shape[1:])
            if leaf.shape != raw.shape or leaf.dtype != raw.dtype:
                raise GenjaxError(
                    f"the checkpoint holds another run: its state {i} is {leaf.dtype}{leaf.shape}, this run's is "
                    f"{raw.dtype}{raw.shape}"
                )
            is_key = is_typed_key(shape)
            states.append(jax.random.wrap_key_data(jnp.asarray(leaf), impl=_key_impl(shape)) if is_key else leaf)
        found.append(Flight(chunk, int(where[mine, 1][0]), states=jax.tree.unflatten(structure, states)))
    return found


def key_data(leaf: Any) -> Any:
    """A leaf, or the numbers behind it if it holds typed keys.

    Args:
      leaf: array.

    Returns:
      Array of an ordinary dtype.
    """
    return jax.random.key_data(leaf) if is_typed_key(leaf) else leaf


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
    return np.array(key_data(leaf))


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
        listing = "; ".join(_difference(name, stored.get(name), specification.get(name)) for name in differing)
        raise GenjaxError(f"`directory` {directory} holds another run: {listing}")


def _difference(name: str, old: Any, new: Any) -> str:
    digests = all(isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) for value in (old, new))
    return f"{name} differ" if digests else f"{name} was {old!r}, now {new!r}"
