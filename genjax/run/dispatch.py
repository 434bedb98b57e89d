"""Chunks of members on devices: which executable runs where, and how wide a chunk the memory allows.

A *slot* holds one chunk at a time and advances it segment by segment. Members never communicate, so by default every
device is a slot of its own running the same single-device executable: a member's numbers do not depend on how many
devices there are. The alternative, one slot that spans the devices of this process by ``shard_map``, compiles once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from genjax.errors import GenjaxError, check_positive
from genjax.run.checkpoint import key_data
from genjax.run.grid import Members
from genjax.run.program import Hyperparameters, Pieces, Program, State, pieces, run_pieces

CPU_CHUNKS = (8, 16, 32)
CPU_CACHE_BYTES = 2**20
"""Default chunk widths on a CPU: as wide as the states of a chunk fit the second-level cache of a core."""


def init_members(program: Program, keys: Array, hparams: Hyperparameters) -> State:
    """Initial states of a chunk.

    Args:
      program: what to run.
      keys: typed keys ``[c]``.
      hparams: stacked along a leading axis of length c.

    Returns:
      States, stacked.
    """
    return jax.vmap(lambda key, hp: program.init(program.prepare(key, hp)))(keys, hparams)


class Rows(NamedTuple):
    """What a segment shows the host.

    Attributes:
      metrics: ``[c, r]`` by name, one row a piece.
      running: ``bool[c]``.
      final: what the program would finish with, ``[c, ...]`` by name.
    """

    metrics: dict[str, Any]
    running: Any
    final: Any


def advance_members(
    program: Program, states: State, keys: Array, hparams: Hyperparameters, cut: Pieces
) -> tuple[State, Rows]:
    """Advance a chunk through the pieces of one dispatch.

    Args:
      program: what to run.
      states: stacked; their buffers are reused for the result.
      keys: typed keys ``[c]``.
      hparams: stacked.
      cut: common to all members.

    Returns:
      States and what they show.
    """

    def member(state: State, key: Array, hp: Hyperparameters) -> tuple[State, Rows]:
        state, metrics = run_pieces(program, program.prepare(key, hp), state, cut)
        return state, Rows(metrics, program.running(state), program.finish(state))

    return jax.vmap(member)(states, keys, hparams)


# Compiled once a program, chunk width and device, across calls; the data inside ``program`` are arguments.
# Unused arguments are kept because they say on which device to begin.
_init = jax.jit(init_members, keep_unused=True)
_advance = jax.jit(advance_members, donate_argnums=1)


@functools.partial(jax.jit, static_argnums=0)
def _init_sharded(mesh: Mesh, *arguments: Any) -> State:
    return _sharded(init_members, mesh, (False, True, True))(*arguments)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _advance_sharded(mesh: Mesh, *arguments: Any) -> Any:
    return _sharded(advance_members, mesh, (False, True, True, True, False))(*arguments)


def _sharded(function: Any, mesh: Mesh, split: tuple[bool, ...]) -> Any:
    specs = tuple(PartitionSpec("member") if s else PartitionSpec() for s in split)
    # Replication is not checked: scans start from constants that are the same on every device, which the check refuses.
    return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=PartitionSpec("member"), check_vma=False)


class Slot:
    """A place that runs one chunk at a time.

    Args:
      program: what to run; its data are copied to the slot's devices once.
      devices: one device, or several to spread the chunk over by ``shard_map``.
    """

    def __init__(self, program: Program, devices: Sequence[jax.Device]) -> None:
        self.devices = list(devices)
        if len(devices) == 1:
            whole: Sharding = SingleDeviceSharding(devices[0])
            self._split = whole
            self._init: Callable[..., State] = _init
            self._advance: Callable[..., tuple[State, Rows]] = _advance
        else:
            mesh = Mesh(np.array(devices), ("member",), axis_types=(AxisType.Auto,))
            whole, self._split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("member"))
            self._init = functools.partial(_init_sharded, mesh)
            self._advance = functools.partial(_advance_sharded, mesh)
        self._program = jax.device_put(program, whole)
        self._members: tuple[Array, dict[str, Any]] | None = None
        self._rows: Any = None
        self.states: State = None

    def load(self, members: tuple[Array, dict[str, Any]], states: State | None = None) -> None:
        """Take up a chunk: from its beginning, or from restored states."""
        # What is not yet on a device goes where the program's data are.
        self._members = members
        if states is None:
            self.states = self._init(self._program, *members)
        else:
            self.states = jax.device_put(states, self._split)

    def idle(self, members: tuple[Array, dict[str, Any]]) -> None:
        """Hold zeros in place of a chunk's states, for checkpoints that span all devices."""
        states = jax.eval_shape(lambda *m: jax.tree.map(key_data, init_members(self._program, *m)), *members)
        self.states = jax.device_put(jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), states), self._split)

    def dispatch(self, cut: Pieces) -> None:
        """Start one segment; returns at once."""
        assert self._members is not None
        self.states, self._rows = self._advance(self._program, self.states, *self._members, cut)

    def shards(self) -> list[list[Array]]:
        """Leaves of the states, each as its arrays on the slot's devices."""
        return [
            [
                shard.data
                for shard in sorted(leaf.addressable_shards, key=lambda shard: self.devices.index(shard.device))
            ]
            for leaf in jax.tree.leaves(self.states)
        ]

    def collect(self) -> Rows:
        """Wait for the segment and bring what it shows to the host."""
        return jax.device_get(self._rows)


def lower_members(program: Program, members: tuple[Array, dict[str, Any]]) -> list[jax.stages.Lowered]:
    """The computations of one chunk, traced and lowered but neither compiled nor run.

    Args:
      program: what to run.
      members: keys and hyper-parameters of a chunk; only shapes matter.

    Returns:
      Initialization and segment.
    """
    states = jax.eval_shape(init_members, program, *members)
    cut = pieces(program, 0, program.n_steps, first=True)
    return [_init.lower(program, *members), _advance.lower(program, states, *members, cut)]


class ChunkPlan(NamedTuple):
    """How wide a chunk fits.

    Attributes:
      chunk: members side by side.
      predicted_bytes: memory its segment needs at that width: arguments, results and temporaries.
      bytes_per_member: by how much one member more raises it.
      fixed_bytes: what no member adds to, such as the data.
    """

    chunk: int
    predicted_bytes: int
    bytes_per_member: int
    fixed_bytes: int


def plan_chunk(program: Program, members: Members, memory_budget: float, *, largest: int | None = None) -> ChunkPlan:
    """The widest chunk whose compiled segment stays within a memory budget, without running anything.

    The compiler's own account of arguments, results and temporaries is read at two widths; it is linear in the width.

    Args:
      program: what to run, as :func:`make_train` returns it.
      members: of which chunks are taken.
      memory_budget: bytes.
      largest: no wider than this; None: no wider than there are members.

    Returns:
      The plan.

    Raises:
      ValueError: a budget that is not positive.
      GenjaxError: not even one member fits, or the backend gives no account.
    """
    check_positive("memory_budget", memory_budget)
    narrow, wide = (_memory(program, members, width) for width in (4, 8))
    per_member = max((wide - narrow) / 4, 1.0)
    fixed = max(narrow - 4 * per_member, 0.0)
    fits = int((memory_budget - fixed) // per_member)
    if fits < 1:
        raise GenjaxError(
            f"`memory_budget` is {memory_budget:.3g} bytes, but one member needs {fixed + per_member:.3g}; raise it "
            "or lower batch_size or eval_batch_size"
        )
    chunk = min(fits, members.n if largest is None else largest)
    return ChunkPlan(chunk, int(fixed + chunk * per_member), int(per_member), int(fixed))


def _memory(program: Program, members: Members, width: int) -> int:
    """Of whichever of a chunk's computations needs more."""
    chunk = members.take(np.arange(width) % members.n)
    needs = []
    for lowered in lower_members(program, chunk):
        account = lowered.compile().memory_analysis()
        if account is None:
            raise GenjaxError("this backend gives no account of memory; set `chunk` yourself")
        arrays = account.argument_size_in_bytes + account.output_size_in_bytes - account.alias_size_in_bytes
        needs.append(arrays + account.temp_size_in_bytes)
    return max(needs)


def cpu_chunk(program: Program, members: Members) -> int:
    """Default width on a CPU: not so wide that the states leave the cache, or that half of two devices idles.

    Args:
      program: what to run.
      members: all of them.

    Returns:
      One of ``CPU_CHUNKS``.
    """
    states = jax.eval_shape(init_members, program, *members.take(np.zeros(1, int)))
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(states))
    fitting = [width for width in CPU_CHUNKS if width * size <= CPU_CACHE_BYTES and 2 * width <= members.n]
    return max(fitting, default=CPU_CHUNKS[0])


def device_memory(device: jax.Device) -> int | None:
    """Bytes this device may allocate; None where it does not say (CPUs).

    Args:
      device: which.

    Returns:
      Bytes, or None.
    """
    statistics = device.memory_stats()
    return None if statistics is None else statistics.get("bytes_limit")
