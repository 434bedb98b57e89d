r"""The prior over Boolean functions that a prior over parameters induces: which functions random hypotheses compute."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike
from numpy.typing import NDArray

from genjax.errors import check_array, check_positive
from genjax.estimate import Estimate
from genjax.volume.binomial import log_proportion
from genjax.volume.draws import Draws, Space
from genjax.volume.program import member_keys

if TYPE_CHECKING:
    from genjax.run import Execution

_PER_MEMBER = 2**14
_PER_ROUND = 2**20
"""Hypotheses of one member of an ensemble, and of one ensemble: what memory must hold before it is counted."""


class BooleanHistogram(NamedTuple):
    """Functions that random hypotheses compute, the most frequent first.

    Attributes:
      codes: ``uint8[f, bytes]``; input ``i`` is bit ``i % 8`` (value ``2^(i % 8)``) of byte ``i // 8``, set where the
        output is positive.
      counts: ``int64[f]``, hypotheses that compute each.
      n_inputs: number of inputs.
      n_invalid: hypotheses with an output of NaN, which are in no count.
    """

    codes: NDArray[np.uint8]
    counts: NDArray[np.int64]
    n_inputs: int
    n_invalid: int

    @property
    def functions(self) -> NDArray[np.bool_]:
        """Truth tables, ``bool[f, n_inputs]``."""
        return np.unpackbits(self.codes, axis=1, count=self.n_inputs, bitorder="little").astype(bool)

    @property
    def entropy(self) -> float:
        r"""Shannon entropy in nats, :math:`-\sum_f (k_f/n) \ln(k_f/n)`.

        Too small by about (functions seen) / 2n where every function was seen often, and by more where many never were.
        """
        share = self.counts / self.counts.sum()
        return float(-np.sum(share * np.log(share)))

    def log_prob(self, function: ArrayLike) -> Estimate:
        """Log probability that a random hypothesis computes a function, with its Clopper-Pearson interval.

        Args:
          function: ``bool[n_inputs]``, its truth table.

        Returns:
          Nats; status ``BOUND`` where the function was never seen.

        Raises:
          ValueError: a truth table of another length.

        References:
          See :func:`genjax.volume.clopper_pearson`.
        """
        table = np.asarray(function, bool)
        if table.shape != (self.n_inputs,):
            raise ValueError(f"`function` must have shape ({self.n_inputs},), but its shape is {table.shape}")
        same = (self.codes == np.packbits(table, bitorder="little")).all(axis=1)
        return log_proportion(int(self.counts[same].sum()), int(self.counts.sum()) + self.n_invalid)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Functions(Draws):
    """Functions of many hypotheses as one member of an ensemble.

    Attributes:
      space: where hypotheses come from.
      inputs: ``float[n_inputs, ...]``.
      n: hypotheses.
      batch: of which so many side by side.
    """

    space: Space
    inputs: Array
    n: int = dataclasses.field(metadata={"static": True})
    batch: int = dataclasses.field(metadata={"static": True})

    def init(self, context: Array) -> dict[str, Array]:
        """Packed outputs ``uint8[n, bytes]``, and whether they are numbers, ``bool[n]``."""

        def one(key: Array) -> dict[str, Array]:
            outputs = self.space.apply_fn(self.space.sample(key), self.inputs)[:, 0]
            return {
                "codes": jnp.packbits(outputs > 0, bitorder="little"),
                "valid": ~jnp.any(jnp.isnan(outputs)),
            }

        return lax.map(one, jax.random.split(context, self.n), batch_size=self.batch)

    def finish(self, state: dict[str, Array]) -> dict[str, Array]:
        """All of it."""
        return state


def boolean_function_histogram(
    space: Space,
    inputs: ArrayLike,
    n_hypotheses: int,
    *,
    key: Array,
    batch: int = 256,
    execution: Execution | None = None,
    directory: str | Path | None = None,
    resume: bool = False,
) -> BooleanHistogram:
    r"""Sample hypotheses and count the Boolean functions they compute, :math:`f(x) = [\text{output}(x) > 0]`.

    Hypotheses are drawn in rounds of about a million, each counted before the next: memory grows with the functions
    seen, not with the hypotheses.

    Args:
      space: where hypotheses come from; one output.
      inputs: ``float[n_inputs, ...]``, for all functions of n bits the :math:`2^n` corners of the cube.
      n_hypotheses: how many to draw.
      key: typed key.
      batch: hypotheses side by side on a device.
      execution: how each round runs. Its ``chunk`` is 1 unless set, because ``batch`` fills the device.
      directory: where to keep the rounds, so that the run can be interrupted: packed functions of all hypotheses.
      resume: go on with the run in ``directory``, to the result it would have had.

    Returns:
      The functions seen with their counts.

    Raises:
      ValueError: a number that is not a positive whole one, or hypotheses of several outputs.

    References:
      Valle-Perez, Camargo & Louis (2019), arXiv:1805.08522; Mingard et al. (2019), arXiv:1909.11522.

    Example:
      >>> import itertools, jax, jax.numpy as jnp
      >>> from genjax.volume import boolean_function_histogram, weight_space
      >>> cube = jnp.array(list(itertools.product([-1.0, 1.0], repeat=2)))
      >>> perceptron = weight_space(lambda w, x: x @ w[:, None], jnp.zeros(2))
      >>> boolean_function_histogram(perceptron, cube, 1000, key=jax.random.key(0)).functions.shape
      (4, 4)
    """
    from genjax.run import Execution, ensemble

    x = check_array("inputs", inputs)
    check_positive("n_hypotheses", n_hypotheses, integer=True)
    check_positive("batch", batch, integer=True)
    shape = jax.eval_shape(lambda key: space.apply_fn(space.sample(key), x), key).shape
    if shape != (len(x), 1):
        raise ValueError(f"`space` must give outputs of shape ({len(x)}, 1), but their shape is {shape}")
    execution = Execution() if execution is None else execution
    if execution.chunk is None:
        execution = dataclasses.replace(execution, chunk=1)
    program = Functions(space, x, min(_PER_MEMBER, n_hypotheses), batch)
    codes, counts = np.zeros((0, -(-len(x) // 8)), np.uint8), np.zeros(0, np.int64)
    n_valid = 0
    for number, begin in enumerate(range(0, n_hypotheses, _PER_ROUND)):
        n = min(_PER_ROUND, n_hypotheses - begin)
        keys = member_keys(jax.random.fold_in(key, number), -(-n // program.n))
        where = None if directory is None else Path(directory) / f"round-{number:06d}"
        # A round that the interrupted run never reached is begun, not resumed.
        going_on = resume and where is not None and (number == 0 or (where / "specification.json").exists())
        found = ensemble(program, keys, execution=execution, directory=where, resume=going_on)
        valid = found["valid"].values.ravel()[:n].astype(bool)
        new = found["codes"].values.reshape(-1, codes.shape[1])[:n][valid]
        codes, counts = _tally(np.concatenate([codes, new]), np.concatenate([counts, np.ones(len(new), np.int64)]))
        n_valid += len(new)
    order = np.argsort(-counts, kind="stable")
    return BooleanHistogram(codes[order], counts[order], len(x), n_hypotheses - n_valid)


def _tally(codes: NDArray[np.uint8], counts: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Distinct codes in ascending order and the sums of their counts."""
    if not len(codes):
        return codes, counts
    words = np.pad(codes, ((0, 0), (0, -codes.shape[1] % 8))).view("<u8")
    order = np.lexsort(words.T)
    words = words[order]
    firsts = np.flatnonzero(np.append(True, (words[1:] != words[:-1]).any(axis=1)))
    return codes[order][firsts], np.add.reduceat(counts[order], firsts)
