r"""What an infinitely wide network knows about one pair of inputs, and what every layer is.

At infinite width the channels at a layer are independent and alike, so two inputs :math:`x, x'` are described by the
second moments of one channel, :math:`k(p, p') = E[u_p(x) u_{p'}(x')]` over positions :math:`p` (pixels, tokens, nodes;
none for vectors), and by the tangent kernel of the layers below, :math:`\Theta(p, p')`. Layers are written for *one*
pair; :mod:`genjax.ntk.infinite.gram` maps them over tiles of pairs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
from jax import Array

Scalar = Any  # a number, or what stands for one under JAX's transformations
T = TypeVar("T")


def static(**options: Any) -> Any:
    """A field that belongs to the structure of a layer, not to its leaves."""
    return dataclasses.field(metadata={"static": True}, **options)


@dataclass_transform(frozen_default=True, field_specifiers=(static, dataclasses.field))
def layer(cls: type[T]) -> type[T]:
    """Class decorator: a frozen dataclass and pytree whose ``static()`` fields belong to its structure."""
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(cls))


class Needs(NamedTuple):
    """Which moments the layers above read: of the pair, and of each input with itself.

    ``positions``: all pairs of positions rather than equal ones. ``variance``: 0 nothing, 1 equal positions, 2 all.
    """

    positions: bool
    variance: int

    def union(self, other: Needs) -> Needs:
        """What serves both."""
        return Needs(self.positions or other.positions, max(self.variance, other.variance))


@dataclasses.dataclass(frozen=True)
class State:
    r"""Second moments of one channel for a pair of inputs; S is the shape of the positions.

    Attributes:
      nngp: k, ``float[*S, *S]``, or its entries at equal positions ``float[*S]`` (``full`` tells).
      ntk: tangent kernel, alike; None where only the NNGP is asked for.
      q1: moments of the first input with itself, ``[*S, *S]`` or ``[*S]``; None once no layer above needs them.
      q2: of the second.
      gap: half the mean squared difference, :math:`(k(x, x) + k(x', x')) / 2 - k(x, x')`: what angles near 0 hang on.
        Carried for vectors through layers that keep its precision, else None.
      same: whether both are the same example, ``bool[]``; None if that is never so.
      shape: S.
      full: whether ``nngp`` and ``ntk`` have all pairs of positions.
      gaussian: whether the channels are Gaussian given nothing (so a nonlinearity may follow).
      fresh: whether the last weights were drawn within the current branch, so that it has mean 0 given all others.
      channels: number of channels in a finite network; None where the width is not said.
      width: of hidden layers, for the standard parameterization.
      always: true, ``bool[]``, though the compiler cannot know it; see :func:`apart`.
      mask1: valid positions of the first input, ``bool[*S]`` or None for all.
      mask2: of the second.
      pattern1: adjacency of the first input's graph, ``float[P, P]`` or None.
      pattern2: of the second.
    """

    nngp: Array
    ntk: Array | None
    q1: Array | None
    q2: Array | None
    gap: Array | None
    same: Array | None
    shape: tuple[int, ...]
    full: bool
    gaussian: bool
    fresh: bool
    channels: int | None
    width: int | None
    always: Array
    mask1: Array | None = None
    mask2: Array | None = None
    pattern1: Array | None = None
    pattern2: Array | None = None

    def replace(self, **changes: Any) -> State:
        """The state with some fields changed; the gap is dropped unless it is given."""
        return dataclasses.replace(self, **{"gap": None, **changes})

    def alone(self) -> tuple[Array, Array]:
        """Moments of each input with itself, for layers whose needs ask for them."""
        if self.q1 is None or self.q2 is None:
            raise AssertionError("a layer reads variances that its needs do not name")
        return self.q1, self.q2

    @property
    def same_position(self) -> Array | None:
        """Where ``nngp`` refers to one example at one position, broadcast against it."""
        if self.same is None or not self.full:
            return self.same
        return self.same & eye(self.shape)


def apart(always: Array, function: Callable[..., tuple[Array, ...]], *operands: Array) -> tuple[Array, ...]:
    """A function of arrays compiled by itself, with outputs shaped like the operands.

    On CPUs XLA would merge a nonlinearity into the shifted sums of the next convolution and so evaluate it once per
    shift and layer above; optimization barriers do not hinder it, a branch does.
    """
    return jax.lax.cond(always, function, lambda *unchanged: unchanged, *operands)


def eye(shape: tuple[int, ...]) -> Array:
    """``bool[*S, *S]``, true at equal positions."""
    return jnp.eye(math.prod(shape), dtype=bool).reshape(shape + shape)


def is_full(q: Array, shape: tuple[int, ...]) -> bool:
    """Whether moments of an input with itself have all pairs of positions (vectors have one either way)."""
    return q.ndim == 2 * len(shape) and bool(shape)


def diagonal(q: Array, shape: tuple[int, ...]) -> Array:
    """Variances ``[*S]`` from either form of the moments of an input with itself."""
    return jnp.diagonal(q.reshape(2 * (math.prod(shape),))).reshape(shape) if is_full(q, shape) else q


def outer(values1: Array, values2: Array, full: bool) -> tuple[Array, Array]:
    """Two fields over positions, shaped to broadcast against the moments of the pair."""
    return (values1.reshape(values1.shape + values2.ndim * (1,)), values2) if full else (values1, values2)


class Field(NamedTuple):
    """Activations of a finite network: ``x[n, *S, channels]``, ``mask[n, *S]``, ``pattern[n, P, P]`` and a key."""

    x: Array
    mask: Array | None = None
    pattern: Array | None = None
    key: Array | None = None


class Sizes(NamedTuple):
    """Channels of a finite layer: inside, and of its output."""

    hidden: int
    outputs: int


class Layer:
    """One layer: how the moments of infinitely many channels pass through, and the finite layer itself.

    Subclasses are frozen dataclasses and pytrees: variances are leaves, everything that decides shapes is static.
    """

    @property
    def parametric(self) -> bool:
        """Whether the finite layer has parameters that set its number of channels."""
        return False

    def needs(self, above: Needs) -> Needs:
        """What must be known of this layer's input so that ``above`` is known of its output."""
        return above

    def propagate(self, state: State) -> State:
        """Moments of the output from those of the input."""
        raise NotImplementedError

    def init(self, key: Array, shape: tuple[int, ...], sizes: Sizes, dtype: Any) -> tuple[Any, tuple[int, ...]]:
        """Parameters of the finite layer for one input of ``shape = (*S, channels)``, and the output's shape."""
        del key, sizes
        abstract = jax.ShapeDtypeStruct((1, *shape), dtype)
        out = jax.eval_shape(lambda x: self.apply((), Field(x)).x, abstract)
        return (), out.shape[1:]

    def apply(self, params: Any, field: Field) -> Field:
        """The finite layer on a batch."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """As its factory is called."""
        return type(self).__name__


def no_closed_form(layer: str, why: str) -> ValueError:
    """The error for a layer whose kernel only sampling gives."""
    return ValueError(
        f"`{layer}` has no closed form at infinite width: {why}; "
        "estimate its kernel from finite networks, with init and apply of genjax.ntk.infinite: "
        "genjax.ntk.monte_carlo_kernel(lambda key: init(net, key, x.shape[1:], width), partial(apply, net), key, x, "
        "n_samples=...)"
    )
