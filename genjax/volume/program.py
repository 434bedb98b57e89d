"""What the programs that estimate volumes share: nothing to say before they end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array


class Silent:
    """A :class:`genjax.run.Program` without records and snapshots, whose context is the member's key."""

    record_steps: ClassVar[tuple[int, ...]] = ()
    snapshot_steps: ClassVar[tuple[int, ...]] = ()
    dims: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def prepare(self, key: Array, hparams: Mapping[str, Any]) -> Array:  # noqa: ARG002
        """The member's key."""
        return key

    def observe(self, context: Array, state: Any, step: Array) -> tuple[Any, dict[str, Array]]:  # noqa: ARG002
        """Nothing is recorded on the way."""
        return state, {}

    def snapshot(self, state: Any) -> dict[str, Any]:  # noqa: ARG002
        """Nothing is kept on the way."""
        return {}


def member_keys(key: Array, n: int) -> Array:
    """Keys ``[n]``; that of a member depends on neither their number nor their order."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(n))
