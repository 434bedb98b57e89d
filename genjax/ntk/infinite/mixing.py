r"""Layers that mix positions, each a matrix per input: :math:`k \mapsto M_1 k M_2^\top`, the same on Theta."""

# ruff: noqa: ARG002 (layers share one interface, and few use all of it)
from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from genjax.errors import check_choice, check_positive
from genjax.ntk.infinite.linear import (
    HIGHEST,
    check_rank,
    checked_window,
    masked,
    window_mask,
    window_matrix,
    window_shape,
)
from genjax.ntk.infinite.state import Field, Layer, Needs, Scalar, Sizes, State, is_full, layer, no_closed_form, static


def mix(state: State, mixer1: Array, mixer2: Array, shape: tuple[int, ...], **changes: Any) -> State:
    """Moments after each input's positions (flattened to P) went through its matrix ``[prod(shape), P]``."""

    def sandwich(left: Array, k: Array, right: Array) -> Array:
        flat = k.reshape(left.shape[1], right.shape[1])
        half = jnp.matmul(left, flat, precision=HIGHEST)
        return jnp.matmul(half, right.T, precision=HIGHEST).reshape(shape + shape)

    def alone(q: Array | None, mixer: Array) -> Array | None:
        return sandwich(mixer, q, mixer) if q is not None and is_full(q, state.shape) else None

    if not state.full:
        raise ValueError(f"inputs of shape {state.shape} have no positions to mix")
    return state.replace(
        nngp=sandwich(mixer1, state.nngp, mixer2),
        ntk=None if state.ntk is None else sandwich(mixer1, state.ntk, mixer2),
        q1=alone(state.q1, mixer1),
        q2=alone(state.q2, mixer2),
        shape=shape,
        full=bool(shape),
        **changes,
    )


class _Mixer(Layer):
    """A layer that is one matrix over positions per example, known from masks and graphs alone."""

    def needs(self, above: Needs) -> Needs:
        return Needs(True, 2 if above.variance else 0)

    def out_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Positions of the output."""
        return shape

    def mask(self, mask: Array | None) -> Array | None:
        """Mask of the output."""
        return mask

    def matrix(self, shape: tuple[int, ...], mask: Array | None, pattern: Array | None, dtype: Any) -> Array:
        """``[prod(out_shape), P]`` for one example."""
        raise NotImplementedError

    def propagate(self, state: State) -> State:
        dtype = state.nngp.dtype
        mixer1 = self.matrix(state.shape, state.mask1, state.pattern1, dtype)
        mixer2 = self.matrix(state.shape, state.mask2, state.pattern2, dtype)
        masks = {"mask1": self.mask(state.mask1), "mask2": self.mask(state.mask2)}
        return mix(state, mixer1, mixer2, self.out_shape(state.shape), **masks)

    def init(self, key: Array, shape: tuple[int, ...], sizes: Sizes, dtype: Any) -> tuple[Any, tuple[int, ...]]:
        return (), (*self.out_shape(shape[:-1]), shape[-1])

    def apply(self, params: Any, field: Field) -> Field:
        shape, channels = field.x.shape[1:-1], field.x.shape[-1]

        def one(x: Array, mask: Array | None, pattern: Array | None) -> Array:
            mixer = self.matrix(shape, mask, pattern, x.dtype)
            return jnp.matmul(mixer, x.reshape(-1, channels), precision=HIGHEST)

        out = jax.vmap(one)(field.x, field.mask, field.pattern)
        return field._replace(x=out.reshape(len(out), *self.out_shape(shape), channels), mask=self.mask(field.mask))


@layer
class _Pool(_Mixer):
    window: tuple[int, ...] = static()
    strides: tuple[int, ...] = static()
    padding: str = static()
    mean: bool = static()

    @property
    def name(self) -> str:
        return "avg_pool" if self.mean else "sum_pool"

    def out_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        check_rank(self.name, self.window, shape)
        return window_shape(shape, self.window, self.strides, self.padding)

    def mask(self, mask: Array | None) -> Array | None:
        return window_mask(self.name, mask, self.window, self.strides, self.padding)

    def matrix(self, shape: tuple[int, ...], mask: Array | None, pattern: Array | None, dtype: Any) -> Array:
        whole = window_matrix(shape, self.window, self.strides, self.padding)
        return _normalized(jnp.asarray(whole, dtype), mask, self.mean)


@layer
class _GlobalPool(_Mixer):
    mean: bool = static()

    @property
    def name(self) -> str:
        return "global_avg_pool" if self.mean else "global_sum_pool"

    def out_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return ()

    def mask(self, mask: Array | None) -> Array | None:
        return None

    def matrix(self, shape: tuple[int, ...], mask: Array | None, pattern: Array | None, dtype: Any) -> Array:
        return _normalized(jnp.ones((1, math.prod(shape)), dtype), mask, self.mean)


def _normalized(mixer: Array, mask: Array | None, mean: bool) -> Array:
    if mask is not None:
        mixer = mixer * mask.reshape(-1)
    return mixer / jnp.maximum(mixer.sum(1, keepdims=True), 1) if mean else mixer


@layer
class _Aggregate(_Mixer):
    name = "aggregate"

    def matrix(self, shape: tuple[int, ...], mask: Array | None, pattern: Array | None, dtype: Any) -> Array:
        size = math.prod(shape)
        if pattern is None or pattern.shape != (size, size):
            came = "none" if pattern is None else f"one of shape {pattern.shape}"
            raise ValueError(f"`pattern` must be given for `aggregate`, ({size}, {size}) per example, but {came} came")
        return pattern.astype(dtype) if mask is None else pattern.astype(dtype) * mask.reshape(-1)


@layer
class _Flatten(Layer):
    name = "flatten"

    def needs(self, above: Needs) -> Needs:
        return Needs(False, min(above.variance, 1))

    def propagate(self, state: State) -> State:
        state = masked(state)
        positions = math.prod(state.shape)

        def collapse(k: Array | None, full: bool) -> Array | None:
            if k is None:
                return None
            return jnp.trace(k.reshape(positions, positions)) / positions if full else k.mean()

        return state.replace(
            nngp=collapse(state.nngp, state.full),
            ntk=collapse(state.ntk, state.full),
            q1=None if state.q1 is None else collapse(state.q1, is_full(state.q1, state.shape)),
            q2=None if state.q2 is None else collapse(state.q2, is_full(state.q2, state.shape)),
            gap=state.gap if not state.shape else None,
            shape=(),
            full=False,
            channels=None if state.channels is None else state.channels * positions,
            mask1=None,
            mask2=None,
        )

    def apply(self, params: Any, field: Field) -> Field:
        x = field.x if field.mask is None else field.x * field.mask[..., None]
        return field._replace(x=x.reshape(len(x), -1), mask=None)


@layer
class _Attention(Layer):
    query_key_variance: Scalar
    value_variance: Scalar
    output_variance: Scalar
    mechanism: str = static()
    scaling: str = static()

    name = "attention"

    @property
    def parametric(self) -> bool:
        return True

    def needs(self, above: Needs) -> Needs:
        return Needs(True, 2)

    def _weights(self, logits: Array, mask: Array | None) -> Array:
        """Attention weights ``[..., T, T]`` from logits; masked keys have none."""
        allowed = True if mask is None else mask.reshape(*mask.shape[: logits.ndim - 2], 1, -1)
        if self.mechanism == "identity":
            return jnp.where(allowed, logits, 0)
        return jnp.where(allowed, jax.nn.softmax(jnp.where(allowed, logits, -jnp.inf), axis=-1), 0)

    def propagate(self, state: State) -> State:
        if self.scaling == "sqrt":
            raise no_closed_form(
                "attention(scaling='sqrt')", "its weights stay random, so the outputs of one head are not Gaussian"
            )
        q1, q2 = state.alone()
        tokens = math.prod(state.shape)

        def weights(q: Array, mask: Array | None) -> Array:
            return self._weights(self.query_key_variance * q.reshape(tokens, tokens), mask)

        before = mix(state, weights(q1, state.mask1), weights(q2, state.mask2), state.shape)
        gain = jnp.asarray(self.value_variance) * self.output_variance
        q1, q2 = before.alone()
        nngp = gain * before.nngp
        return before.replace(
            nngp=nngp,
            ntk=None if before.ntk is None else 2 * nngp + gain * before.ntk,
            q1=gain * q1,
            q2=gain * q2,
            gaussian=True,
            fresh=True,
            channels=state.width,
        )

    def init(self, key: Array, shape: tuple[int, ...], sizes: Sizes, dtype: Any) -> tuple[Any, tuple[int, ...]]:
        channels = shape[-1]
        widths = {"query": (channels, sizes.hidden), "value": (channels, sizes.hidden)}
        widths["output"] = (sizes.hidden, sizes.outputs)
        if self.scaling == "sqrt":
            widths["key"] = (channels, sizes.hidden)
        keys = jax.random.split(key, len(widths))
        params = {name: jax.random.normal(k, size, dtype) for k, (name, size) in zip(keys, widths.items(), strict=True)}
        return params, (*shape[:-1], sizes.outputs)

    def apply(self, params: Any, field: Field) -> Field:
        n, *shape, channels = field.x.shape
        x = field.x.reshape(n, -1, channels)

        def linear(x: Array, name: str, variance: ArrayLike) -> Array:
            weight = params[name]
            scale = jnp.sqrt(jnp.asarray(variance, x.dtype) / len(weight))
            return scale * jnp.matmul(x, weight, precision=HIGHEST)

        # One matrix for queries and keys: with independent ones the logits' limit under 1/d scaling is 0.
        query = linear(x, "query", jnp.sqrt(jnp.asarray(self.query_key_variance)))
        key = linear(x, "key", jnp.sqrt(jnp.asarray(self.query_key_variance))) if self.scaling == "sqrt" else query
        size = query.shape[-1] ** (0.5 if self.scaling == "sqrt" else 1)
        logits = jnp.einsum("ntd,nsd->nts", query, key, precision=HIGHEST) / size
        weights = self._weights(logits, None if field.mask is None else field.mask.reshape(n, -1))
        value = linear(x, "value", self.value_variance)
        out = linear(jnp.matmul(weights, value, precision=HIGHEST), "output", self.output_variance)
        return field._replace(x=out.reshape(n, *shape, -1))


@layer
class _MaxPool(Layer):
    window: tuple[int, ...] = static()
    strides: tuple[int, ...] = static()
    padding: str = static()

    name = "max_pool"

    def propagate(self, state: State) -> State:
        raise no_closed_form("max_pool", "the maximum over a window of correlated Gaussians has none")

    def apply(self, params: Any, field: Field) -> Field:
        window, strides = (1, *self.window, 1), (1, *self.strides, 1)
        x = jax.lax.reduce_window(field.x, -jnp.inf, jax.lax.max, window, strides, self.padding)
        return field._replace(x=x, mask=window_mask(self.name, field.mask, self.window, self.strides, self.padding))


@layer
class _BatchNorm(Layer):
    epsilon: Scalar

    name = "batch_norm"

    def propagate(self, state: State) -> State:
        raise no_closed_form("batch_norm", "its statistics join all examples of a batch, and a kernel sees two")

    def apply(self, params: Any, field: Field) -> Field:
        axes = tuple(range(field.x.ndim - 1))
        centred = field.x - field.x.mean(axes)
        return field._replace(x=centred * jax.lax.rsqrt(jnp.mean(centred**2, axes) + self.epsilon))


def avg_pool(
    window: int | tuple[int, ...], *, strides: int | tuple[int, ...] | None = None, padding: str = "VALID"
) -> Layer:
    """Mean over windows of positions; padding and masked positions do not count.

    Args:
      window: sizes along the axes of positions; a number for sequences.
      strides: steps along the axes; the window's sizes by default.
      padding: ``"VALID"``, ``"SAME"`` or ``"CIRCULAR"``.

    Returns:
      The layer.

    References:
      Novak et al. (2019), arXiv:1810.05148, section 3.
    """
    return _pool(window, strides, padding, True)


def sum_pool(
    window: int | tuple[int, ...], *, strides: int | tuple[int, ...] | None = None, padding: str = "VALID"
) -> Layer:
    """Sum over windows of positions.

    Args:
      window: sizes along the axes of positions; a number for sequences.
      strides: steps along the axes; the window's sizes by default.
      padding: ``"VALID"``, ``"SAME"`` or ``"CIRCULAR"``.

    Returns:
      The layer.

    References:
      Novak et al. (2019), arXiv:1810.05148, section 3.
    """
    return _pool(window, strides, padding, False)


def _pool(window: int | tuple[int, ...], strides: int | tuple[int, ...] | None, padding: str, mean: bool) -> Layer:
    check_choice("padding", padding, ("SAME", "VALID", "CIRCULAR"))
    return _Pool(*checked_window(window, window if strides is None else strides), padding, mean)


def global_avg_pool() -> Layer:
    """Mean over all (valid) positions.

    Returns:
      The layer.

    References:
      Novak et al. (2019), arXiv:1810.05148, section 3; Arora et al. (2019), arXiv:1904.11955.
    """
    return _GlobalPool(True)


def global_sum_pool() -> Layer:
    """Sum over all (valid) positions.

    Returns:
      The layer.

    References:
      Du et al. (2019), arXiv:1905.13192 (the read-out of graphs).
    """
    return _GlobalPool(False)


def flatten() -> Layer:
    r"""All positions and channels become channels: :math:`k \mapsto \frac{1}{P} \sum_p k(p, p)`.

    Kernels of networks that mix no positions above or below keep P numbers per pair instead of :math:`P^2`.

    Returns:
      The layer.

    References:
      Novak et al. (2019), arXiv:1810.05148, section 3.
    """
    return _Flatten()


def aggregate() -> Layer:
    r"""Sum over neighbours in each example's graph, :math:`u_p \mapsto \sum_{p'} A_{p p'} u_{p'}`.

    The adjacency matrices, normalized as one likes, come with the inputs as ``pattern`` arguments, ``float[n, P, P]``.

    Returns:
      The layer.

    References:
      Du et al. (2019), arXiv:1905.13192.
    """
    return _Aggregate()


def attention(
    query_key_variance: ArrayLike = 1.0,
    value_variance: ArrayLike = 1.0,
    output_variance: ArrayLike = 1.0,
    *,
    mechanism: str = "softmax",
    scaling: str = "linear",
) -> Layer:
    r"""Self-attention over all positions, queries and keys from one matrix, logits divided by the key dimension d.

    The weights :math:`A = \mathrm{softmax}(\sigma_{qk}^2\, k(x, x))` then have a deterministic limit, and

    .. math::
       k \mapsto \sigma_v^2 \sigma_o^2\, A_1 k A_2^\top, \qquad
       \Theta \mapsto \sigma_v^2 \sigma_o^2\, (2 A_1 k A_2^\top + A_1 \Theta A_2^\top):

    training the weights' matrix moves the output at vanishing order.

    Args:
      query_key_variance: sigma_qk squared, positive: the logits' scale.
      value_variance: sigma_v squared, positive.
      output_variance: sigma_o squared, positive.
      mechanism: ``"softmax"`` or ``"identity"`` (the logits are the weights).
      scaling: ``"linear"`` for 1/d; with ``"sqrt"`` (1 / sqrt(d), independent keys) only the finite layer exists.

    Returns:
      The layer.

    References:
      Hron et al. (2020), arXiv:2006.10540, sections 3-4; Yang (2019), arXiv:1910.12478.
    """
    for name, value in (
        ("query_key_variance", query_key_variance),
        ("value_variance", value_variance),
        ("output_variance", output_variance),
    ):
        check_positive(name, value)
    check_choice("mechanism", mechanism, ("softmax", "identity"))
    check_choice("scaling", scaling, ("linear", "sqrt"))
    return _Attention(query_key_variance, value_variance, output_variance, mechanism, scaling)


def max_pool(
    window: int | tuple[int, ...], *, strides: int | tuple[int, ...] | None = None, padding: str = "VALID"
) -> Layer:
    """Maximum over windows: a finite layer only; its kernel needs sampling, and asking for it raises.

    Args:
      window: sizes along the axes of positions; a number for sequences.
      strides: steps along the axes; the window's sizes by default.
      padding: ``"VALID"`` or ``"SAME"``.

    Returns:
      The layer.

    References:
      Novak et al. (2019), arXiv:1810.05148 (Monte Carlo kernels).
    """
    check_choice("padding", padding, ("SAME", "VALID"))
    return _MaxPool(*checked_window(window, window if strides is None else strides), padding)


def batch_norm(epsilon: ArrayLike = 1e-5) -> Layer:
    """Normalization over the batch: a finite layer only; its kernel needs sampling, and asking for it raises.

    Args:
      epsilon: added to the variances, positive.

    Returns:
      The layer.

    References:
      Ioffe and Szegedy (2015), arXiv:1502.03167; Yang et al. (2019), arXiv:1902.08129 (its mean-field limit).
    """
    check_positive("epsilon", epsilon)
    return _BatchNorm(epsilon)
