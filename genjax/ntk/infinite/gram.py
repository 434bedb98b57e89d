r"""Kernels of infinitely wide networks on batches: one pair's moments, mapped over tiles of pairs.

A tile is a block of rows and columns small enough for ``max_bytes``; where ``x2`` is the very object ``x1`` only the
lower triangle is visited. Tiles run one after the other, so temporaries do not depend on the number of examples.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial
from jax.typing import ArrayLike

from genjax.errors import check_array, check_positive
from genjax.ntk.infinite import collapse, duals
from genjax.ntk.infinite.linear import HIGHEST
from genjax.ntk.infinite.state import Layer, Needs, State, diagonal, eye, outer
from genjax.typing import Kernel

CACHE = 2**16  # entries of one array that a CPU core keeps close
LIVE = 8  # arrays of a tile's size that are alive at once


class Kernels(NamedTuple):
    """Both kernels of a network on the same inputs.

    Attributes:
      nngp: covariance of the output at random initialization, ``float[n1, n2]``.
      ntk: neural tangent kernel, ``float[n1, n2]``.
    """

    nngp: Array
    ntk: Array


class _Side(NamedTuple):
    """One batch: inputs ``[n, *S, channels]`` and what comes with each."""

    x: Array
    mask: Array | None
    pattern: Array | None


@dataclasses.dataclass(frozen=True)
class _Evaluate:
    """One kernel of a network as a function; equal ones share compiled programs."""

    which: str
    width: int | None

    def __call__(
        self,
        net: Layer,
        x1: Array,
        x2: Array,
        mask1: Array | None = None,
        mask2: Array | None = None,
        pattern1: Array | None = None,
        pattern2: Array | None = None,
    ) -> Array:
        sides = (x1, x2, mask1, mask2, pattern1, pattern2)
        return _evaluate(net, *sides, which=(self.which,), width=self.width, max_bytes=2**28)[0]


def nngp(net: Layer) -> Kernel:
    """Covariance kernel of an infinitely wide network at random initialization (neural network Gaussian process).

    Args:
      net: the network; it must end without positions (:func:`flatten` or a global pool before the last layer).

    Returns:
      The kernel, with the network's variances as leaves. Beyond ``x1, x2`` it takes ``mask1, mask2`` (``bool[n, *S]``,
      valid positions) and ``pattern1, pattern2`` (``float[n, P, P]``, adjacencies).

    Raises:
      TypeError: ``net`` is not a network.

    Notes:
      Where ``x2`` is the very object ``x1``, the diagonal is exact and the result symmetric to the bit; arguments of
      the second batch are then those of the first.

    References:
      Lee et al. (2018), arXiv:1711.00165; Matthews et al. (2018), arXiv:1804.11271.
    """
    return Partial(_Evaluate("nngp", None), _network(net))


def ntk(net: Layer, *, width: int | None = None) -> Kernel:
    """Neural tangent kernel of an infinitely wide network, all parameters trained.

    Args:
      net: the network; it must end without positions.
      width: channels of hidden layers, needed only for the standard parameterization, whose tangent kernel grows with
        it.

    Returns:
      The kernel; arguments as for :func:`nngp`.

    Raises:
      TypeError: ``net`` is not a network.

    References:
      Jacot et al. (2018), arXiv:1806.07572; Yang (2020), arXiv:2006.14548 (any architecture).
    """
    if width is not None:
        check_positive("width", width, integer=True)
    return Partial(_Evaluate("ntk", width), _network(net))


def kernels(
    net: Layer,
    x1: ArrayLike,
    x2: ArrayLike | None = None,
    *,
    mask1: ArrayLike | None = None,
    mask2: ArrayLike | None = None,
    pattern1: ArrayLike | None = None,
    pattern2: ArrayLike | None = None,
    width: int | None = None,
    max_bytes: int = 2**28,
) -> Kernels:
    """Both kernels of an infinitely wide network at once.

    Args:
      net: the network; it must end without positions.
      x1: inputs ``[n1, *S, channels]``, S the positions (none for vectors).
      x2: inputs ``[n2, *S', channels]``; None for ``x1``.
      mask1: valid positions of each input, ``bool[n1, *S]``; None for all.
      mask2: of ``x2``.
      pattern1: adjacency of each input's graph, ``float[n1, P, P]``, for :func:`aggregate`.
      pattern2: of ``x2``.
      width: channels of hidden layers, for the standard parameterization.
      max_bytes: bound on the temporaries of one tile of pairs.

    Returns:
      The kernels.

    Raises:
      ValueError: inputs do not fit the network, or one pair needs more than ``max_bytes``.

    References:
      Novak et al. (2020), arXiv:1912.02803.
    """
    check_positive("max_bytes", max_bytes, integer=True)
    sides = (x1, x1 if x2 is None else x2, mask1, mask2, pattern1, pattern2)
    return Kernels(*_evaluate(_network(net), *sides, which=("nngp", "ntk"), width=width, max_bytes=max_bytes))


def _network(net: Any) -> Layer:
    if not isinstance(net, Layer):
        raise TypeError(f"`net` must be a network made of layers, but {type(net).__name__} came")
    return net


def _evaluate(
    net: Layer,
    x1: ArrayLike,
    x2: ArrayLike,
    mask1: ArrayLike | None,
    mask2: ArrayLike | None,
    pattern1: ArrayLike | None,
    pattern2: ArrayLike | None,
    *,
    which: tuple[str, ...],
    width: int | None,
    max_bytes: int,
) -> tuple[Array, ...]:
    same = x2 is x1
    side1 = _side("1", x1, mask1, pattern1)
    side2 = side1 if same else _side("2", x2, mask2, pattern2)
    if same and ((mask2 is not None and mask2 is not mask1) or (pattern2 is not None and pattern2 is not pattern1)):
        raise ValueError("`mask2` and `pattern2` must be left out where `x2` is `x1`")
    if side1.x.shape[-1] != side2.x.shape[-1] or side1.x.ndim != side2.x.ndim:
        raise ValueError(
            "`x1` and `x2` must have the same channels and axes of positions, but their shapes are "
            f"{side1.x.shape} and {side2.x.shape}"
        )
    if (side1.mask is None) != (side2.mask is None):
        raise ValueError("`mask1` and `mask2` must both be given, or neither")
    if side1.x.shape[1:] != side2.x.shape[1:]:
        raise ValueError(
            f"`x1` and `x2` must be padded to the same positions, but their shapes are {side1.x.shape} and "
            f"{side2.x.shape}"
        )
    needs = net.needs(Needs(False, 0))
    tiles = tuple(_tile(len(side.x), side.x.shape[1:-1], needs, side.x.dtype, max_bytes) for side in (side1, side2))
    return _gram(net, side1, None if same else side2, which=which, width=width, tiles=tiles)


def _side(name: str, x: ArrayLike, mask: ArrayLike | None, pattern: ArrayLike | None) -> _Side:
    x = check_array(f"x{name}", x)
    if x.ndim < 2 or not x.size:
        raise ValueError(f"`x{name}` must be a batch of inputs [n, ..., channels], but its shape is {x.shape}")
    if jnp.finfo(x.dtype).bits < 32:
        x = x.astype(jnp.float32)
    if mask is not None:
        mask = jnp.asarray(mask)
        if mask.dtype != bool or mask.shape != x.shape[:-1]:
            raise ValueError(
                f"`mask{name}` must be boolean of shape {x.shape[:-1]}, but it is {mask.dtype} of shape {mask.shape}"
            )
        x = jnp.where(mask[..., None], x, 0)
    if pattern is not None:
        size = math.prod(x.shape[1:-1])
        pattern = check_array(f"pattern{name}", pattern, shape=(len(x), size, size))
    return _Side(x, mask, pattern)


def _tile(n: int, shape: tuple[int, ...], needs: Needs, dtype: Any, max_bytes: int) -> int:
    """Examples on a tile's side."""
    positions = math.prod(shape)
    entries = positions**2 if needs.positions else positions
    pair = LIVE * entries * jnp.dtype(dtype).itemsize
    if pair > max_bytes:
        raise ValueError(f"`max_bytes` must be at least {pair}, which one pair of inputs needs, but {max_bytes} came")
    side = math.isqrt(max_bytes // pair)
    if jax.default_backend() == "cpu":
        # Moments of each input with itself are found once per tile, so such tiles should hold some pairs.
        least = 4 if needs.variance == 2 and positions > 1 else 1
        side = min(side, max(least, math.isqrt(CACHE // entries)))
    return -(-n // -(-n // side))


@functools.partial(jax.jit, static_argnames=("which", "width", "tiles"))
def _gram(
    net: Layer, side1: _Side, side2: _Side | None, *, which: tuple[str, ...], width: int | None, tiles: tuple[int, int]
) -> tuple[Array, ...]:
    symmetric = side2 is None
    right = side1 if side2 is None else side2
    (n1, n2), (rows, columns) = (len(side1.x), len(right.x)), tiles
    counts = -(-n1 // rows), -(-n2 // columns)
    block = _block(net, which, width, side1.x)

    def visit(_: Any, carry: tuple[Array, Array, tuple[Array, ...]]) -> tuple[Array, Array, tuple[Array, ...]]:
        i, j, grams = carry
        # The last tile reaches back over its neighbour instead of past the end.
        first, second = jnp.minimum(i * rows, n1 - rows), jnp.minimum(j * columns, n2 - columns)
        part1 = jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, first, rows), side1)
        part2 = jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, second, columns), right)
        row, column = first + jnp.arange(rows)[:, None], second + jnp.arange(columns)[None]
        values = block(part1, part2, row == column if symmetric else None, i >= 0)
        if symmetric:
            # A branch, so that the tile is computed once before it is transposed.
            values = jax.lax.cond(i == j, _mirrored, list, values)
            grams = tuple(
                jax.lax.dynamic_update_slice(gram, value.T, (second, first))
                for gram, value in zip(grams, values, strict=True)
            )
        grams = tuple(
            jax.lax.dynamic_update_slice(gram, value, (first, second))
            for gram, value in zip(grams, values, strict=True)
        )
        wrap = j == i if symmetric else j == counts[1] - 1
        return jnp.where(wrap, i + 1, i), jnp.where(wrap, 0, j + 1), grams

    steps = counts[0] * (counts[0] + 1) // 2 if symmetric else counts[0] * counts[1]
    start = (jnp.zeros((), int), jnp.zeros((), int), tuple(jnp.zeros((n1, n2), right.x.dtype) for _ in which))
    return jax.lax.fori_loop(0, steps, visit, start)[2]


def _mirrored(values: list[Array]) -> list[Array]:
    """Lower triangles on both sides."""
    return [jnp.tril(value) + jnp.tril(value, -1).T for value in values]


def _block(net: Layer, which: tuple[str, ...], width: int | None, x: Array) -> Any:
    """Function from two parts of the batches (and where they are the same) to tiles of the kernels."""
    collapsed = collapse.of_network(net, x.dtype) if x.ndim == 2 else None

    @jax.checkpoint
    def block(side1: _Side, side2: _Side, same: Array | None, always: Array) -> list[Array]:
        def pair(one: _Side, two: _Side, same: Array | None) -> list[Array]:
            state = _start(one, two, same, always, net.needs(Needs(False, 0)), width, "ntk" in which)
            if collapsed is not None:
                return _collapsed(state, collapsed, which)
            state = net.propagate(state)
            if state.shape:
                raise ValueError(
                    f"`net` must end without positions, but {state.shape} are left; add flatten() or global_avg_pool()"
                )
            found = {"nngp": state.nngp, "ntk": state.ntk}
            return [value for name in which if (value := found[name]) is not None]

        across = jax.vmap(pair, in_axes=(None, 0, 0))
        return jax.vmap(across, in_axes=(0, None, 0))(side1, side2, same)

    return block


def _start(
    one: _Side, two: _Side, same: Array | None, always: Array, needs: Needs, width: int | None, tangent: bool
) -> State:
    """Moments of a pair of inputs: products averaged over channels."""
    shape, channels = one.x.shape[:-1], one.x.shape[-1]
    full = needs.positions and bool(shape)

    def alone(x: Array) -> Array:
        variance = jnp.sum(x * x, axis=-1) / channels
        if not shape or needs.variance < 2:
            return variance
        moments = jnp.tensordot(x, x, (-1, -1), precision=HIGHEST) / channels
        return jnp.where(eye(shape), variance, moments)

    contract = functools.partial(jnp.tensordot, axes=(-1, -1)) if full else functools.partial(jnp.einsum, "...c,...c")
    q1, q2 = alone(one.x), alone(two.x)
    state = State(
        nngp=contract(one.x, two.x, precision=HIGHEST) / channels,
        ntk=None,
        q1=q1,
        q2=q2,
        gap=None,
        same=same,
        shape=shape,
        full=full,
        gaussian=False,
        fresh=False,
        channels=channels,
        width=width,
        always=always,
        mask1=one.mask,
        mask2=two.mask,
        pattern1=one.pattern,
        pattern2=two.pattern,
    )
    nngp = state.nngp
    if state.same_position is not None:
        nngp = jnp.where(state.same_position, outer(diagonal(q1, shape), diagonal(q1, shape), full)[0], nngp)
    gap = None if shape else jnp.maximum((q1 + q2) / 2 - nngp, 0)
    return state.replace(nngp=nngp, ntk=jnp.zeros_like(nngp) if tangent else None, gap=gap)


def _collapsed(state: State, collapsed: Any, which: tuple[str, ...]) -> list[Array]:
    series, scale = collapsed
    s1, s2 = (duals.root(q) for q in state.alone())
    geometric = s1 * s2
    ratio = duals.one_minus_cosine(s1, s2, state.nngp, state.gap, state.same)
    theta = duals.angle(ratio)[0]
    coefficients = dict(zip(("nngp", "ntk"), series, strict=True))
    return [(scale * geometric) * collapse.evaluate(coefficients[name], theta) for name in which]
