"""What the engine runs: one ensemble member as a computation in steps that can be interrupted between any two.

A :class:`Program` is a pytree (its data are leaves, its functions static), so one compiled executable serves every
member, and data are arguments of it rather than constants inside it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

State = Any
Context = Any
Hyperparameters = Mapping[str, Any]


class Program(Protocol):
    """One member of an ensemble; :func:`genjax.run.make_train` makes one, a user may write another.

    Everything must be a pure function of its arguments. Steps are counted from 0 by the engine, the same for all
    members of a chunk, so a ``lax.cond`` on the step stays a branch under ``vmap``.
    """

    @property
    def n_steps(self) -> int:
        """Number of steps; 0 for a computation that cannot be interrupted."""

    @property
    def record_steps(self) -> tuple[int, ...]:
        """Increasing steps, from 0 to ``n_steps``, after which ``observe`` is called and its metrics kept."""

    @property
    def snapshot_steps(self) -> tuple[int, ...]:
        """Increasing steps after which ``snapshot`` is kept."""

    @property
    def attributes(self) -> Mapping[str, Any]:
        """JSON values about the run, for the result's attributes."""

    @property
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        """Names for the axes of results: ``{"curve": ("time",)}``; what is not named gets numbered axes."""

    def prepare(self, key: Array, hparams: Hyperparameters) -> Context:
        """What the other functions need of a member; recomputed on resume, never stored.

        Args:
          key: the member's typed key.
          hparams: its hyper-parameters by name; traced.

        Returns:
          Any pytree.
        """

    def init(self, context: Context) -> State:
        """State before step 0.

        Args:
          context: of :meth:`prepare`.

        Returns:
          A pytree of arrays.
        """

    def advance(self, context: Context, state: State, start: Array, stop: Array) -> State:
        """Take the steps ``start`` to ``stop - 1``.

        Args:
          context: of :meth:`prepare`.
          state: after ``start`` steps.
          start: ``int32[]``, traced.
          stop: ``int32[]``, traced; may equal ``start``.

        Returns:
          The state after ``stop`` steps.
        """

    def observe(self, context: Context, state: State, step: Array) -> tuple[State, dict[str, Array]]:
        """Measure, and change the state by what is seen (stopping), if at all.

        Args:
          context: of :meth:`prepare`.
          state: after ``step`` steps.
          step: ``int32[]``, traced.

        Returns:
          The state and the metrics by name.
        """

    def snapshot(self, state: State) -> Any:
        """The part of the state worth keeping, such as the parameters.

        Args:
          state: of one member.

        Returns:
          A pytree of arrays by name.
        """

    def finish(self, state: State) -> dict[str, Any]:
        """Results beyond the recorded metrics; looked at after every segment, so it should pick, not compute.

        Args:
          state: of one member.

        Returns:
          A pytree of arrays by name.
        """

    def running(self, state: State) -> Array:
        """Whether further steps can change what ``observe`` and ``snapshot`` show.

        Args:
          state: of one member.

        Returns:
          ``bool[]``.
        """


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Function:
    """A plain function of a key and hyper-parameters as a program of no steps.

    Attributes:
      function: ``function(key, hparams) -> array or dict of arrays``.
      axes: names of the axes of its results, as a hashable ``((name, (axis, ...)), ...)``.
    """

    function: Callable[[Array, Hyperparameters], Any] = dataclasses.field(metadata={"static": True})
    axes: tuple[tuple[str, tuple[str, ...]], ...] = dataclasses.field(default=(), metadata={"static": True})

    @property
    def n_steps(self) -> int:
        """None: it runs as a whole."""
        return 0

    @property
    def record_steps(self) -> tuple[int, ...]:
        """None."""
        return ()

    @property
    def snapshot_steps(self) -> tuple[int, ...]:
        """None."""
        return ()

    @property
    def attributes(self) -> dict[str, Any]:
        """The function's name."""
        return {"function": getattr(self.function, "__qualname__", repr(self.function))}

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the axes of each result."""
        return dict(self.axes)

    def prepare(self, key: Array, hparams: Hyperparameters) -> Context:
        """The arguments themselves."""
        return key, hparams

    def init(self, context: Context) -> State:
        """The whole computation."""
        value = self.function(*context)
        value = dict(value) if isinstance(value, Mapping) else {"value": value}
        return jax.tree.map(jnp.asarray, value)

    def advance(self, context: Context, state: State, start: Array, stop: Array) -> State:  # noqa: ARG002
        """Nothing is left to do."""
        return state

    def observe(self, context: Context, state: State, step: Array) -> tuple[State, dict[str, Array]]:  # noqa: ARG002
        """Nothing is recorded on the way."""
        return state, {}

    def snapshot(self, state: State) -> Any:  # noqa: ARG002
        """Nothing is kept on the way."""
        return {}

    def finish(self, state: State) -> dict[str, Any]:
        """What the function returned."""
        return state

    def running(self, state: State) -> Array:  # noqa: ARG002
        """Never: it is done at once."""
        return jnp.asarray(False)


class Pieces(NamedTuple):
    """Steps of one dispatch cut where something is recorded; padded with empty pieces to a fixed length.

    Attributes:
      starts: ``int32[r]``.
      stops: ``int32[r]``.
      recorded: ``bool[r]``, whether the piece ends in a record.
    """

    starts: Any
    stops: Any
    recorded: Any


def pieces(program: Program, start: int, stop: int, *, first: bool) -> Pieces:
    """Cut the steps from ``start`` to ``stop`` at the program's record steps.

    The number of pieces is the same for every dispatch, so that one executable serves them all.

    Args:
      program: whose record steps count.
      start: first step, inclusive.
      stop: last step, exclusive.
      first: whether nothing came before, so that a record at step 0 is due.

    Returns:
      One more piece than the program has record steps.
    """
    records = [step for step in program.record_steps if start < step <= stop or (first and step == 0)]
    ends = [(step, True) for step in records]
    if not ends or ends[-1][0] < stop:
        ends.append((stop, False))
    padding = len(program.record_steps) + 1 - len(ends)
    ends += [(stop, False)] * padding
    stops = np.array([end for end, _ in ends], np.int32)
    starts = np.concatenate([np.array([start], np.int32), stops[:-1]])
    return Pieces(starts, stops, np.array([flag for _, flag in ends]))


def run_pieces(program: Program, context: Context, state: State, cut: Pieces) -> tuple[State, dict[str, Array]]:
    """Advance one member through the pieces of a dispatch.

    Args:
      program: the computation.
      context: ``program.prepare(key, hparams)``.
      state: at the first piece's start.
      cut: the pieces, as :func:`pieces` cuts them.

    Returns:
      The state after the last, and metrics ``[r]`` by name, of which only rows of recorded pieces mean anything.
    """

    def piece(state: State, cut: Pieces) -> tuple[State, dict[str, Array]]:
        state = program.advance(context, state, cut.starts, cut.stops)
        _, shapes = jax.eval_shape(program.observe, context, state, cut.stops)
        blank = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        return lax.cond(
            cut.recorded, lambda state: program.observe(context, state, cut.stops), lambda state: (state, blank), state
        )

    return lax.scan(piece, state, Pieces(*map(jnp.asarray, cut)))
