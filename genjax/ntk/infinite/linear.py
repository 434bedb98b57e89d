"""Affine layers that leave positions where they are or sum over windows of them: dense, conv, norm, dropout."""

# ruff: noqa: ARG002 (layers share one interface, and few use all of it)
from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from genjax.errors import check_array, check_choice, check_positive, concrete
from genjax.ntk.infinite.state import (
    Field,
    Layer,
    Needs,
    Scalar,
    Sizes,
    State,
    diagonal,
    eye,
    is_full,
    layer,
    outer,
    static,
)

HIGHEST = jax.lax.Precision.HIGHEST


class _Affine(Layer):
    """Weights of variance sigma_w^2 / fan-in and biases of variance sigma_b^2, in either parameterization."""

    weight_variance: Scalar
    bias_variance: Scalar
    bias: bool
    parameterization: str

    @property
    def parametric(self) -> bool:
        return True

    def affine(self, state: State, window: int = 1) -> State:
        """The layer on moments already averaged over its window."""
        weight, bias = self.weight_variance, self.bias_variance
        nngp = weight * state.nngp + bias
        ntk = None if state.ntk is None else self._tangent(state, nngp, window)
        return state.replace(
            nngp=nngp,
            ntk=ntk,
            q1=None if state.q1 is None else weight * state.q1 + bias,
            q2=None if state.q2 is None else weight * state.q2 + bias,
            gap=None if state.gap is None else weight * state.gap,
            gaussian=True,
            fresh=True,
            channels=state.width,
        )

    def _tangent(self, state: State, nngp: Array, window: int) -> Array:
        assert state.ntk is not None
        if self.parameterization == "ntk":
            return nngp + self.weight_variance * state.ntk
        if state.channels is None:
            raise ValueError(
                f"`width` must be given: in the standard parameterization the tangent kernel of `{self.name}` grows "
                "with the number of channels below it"
            )
        return state.channels * window * state.nngp + float(self.bias) + self.weight_variance * state.ntk

    def _parameters(self, key: Array, shape: tuple[int, ...], dtype: Any) -> dict[str, Array]:
        """Kernel ``[..., in, out]`` and bias ``[out]``; unit variances in the NTK parameterization."""
        key_w, key_b = jax.random.split(key)
        w, b = jax.random.normal(key_w, shape, dtype), jax.random.normal(key_b, shape[-1:], dtype)
        scale_w, scale_b = (1, 1) if self.parameterization == "ntk" else self._scales(shape)
        return {"w": w * scale_w, **({"b": b * scale_b} if self.bias else {})}

    def _scales(self, shape: tuple[int, ...]) -> tuple[Array, Array]:
        return jnp.sqrt(self.weight_variance / math.prod(shape[:-1])), jnp.sqrt(jnp.asarray(self.bias_variance))

    def _weights(self, params: dict[str, Array]) -> tuple[Array, Array | float]:
        """Effective kernel and bias."""
        w, b = params["w"], params.get("b", 0.0)
        scale_w, scale_b = self._scales(w.shape) if self.parameterization == "ntk" else (1, 1)
        return (w * scale_w).astype(w.dtype), jnp.asarray(b * scale_b, w.dtype)


@layer
class _Dense(_Affine):
    weight_variance: Scalar
    bias_variance: Scalar
    bias: bool = static()
    parameterization: str = static()

    name = "dense"

    def propagate(self, state: State) -> State:
        return self.affine(state)

    def init(self, key: Array, shape: tuple[int, ...], sizes: Sizes, dtype: Any) -> tuple[Any, tuple[int, ...]]:
        return self._parameters(key, (shape[-1], sizes.outputs), dtype), (*shape[:-1], sizes.outputs)

    def apply(self, params: Any, field: Field) -> Field:
        w, b = self._weights(params)
        return field._replace(x=jnp.matmul(field.x, w, precision=HIGHEST) + b)


@layer
class _Conv(_Affine):
    weight_variance: Scalar
    bias_variance: Scalar
    bias: bool = static()
    parameterization: str = static()
    window: tuple[int, ...] = static()
    strides: tuple[int, ...] = static()
    padding: str = static()

    name = "conv"

    def propagate(self, state: State) -> State:
        check_rank(self.name, self.window, state.shape)
        state = masked(state)
        size = math.prod(self.window)

        def average(k: Array | None, full: bool) -> Array | None:
            if k is None:
                return None
            for axis in range(len(self.window)):
                axes = (axis, axis + len(self.window)) if full else (axis,)
                k = window_sum(k, axes, self.window[axis], self.strides[axis], self.padding)
            return k / size

        def alone(q: Array | None) -> Array | None:
            if q is None or is_full(q, state.shape):
                return average(q, True)
            # A product, because XLA would do shifted sums over again for every pair of positions that reads them.
            matrix = window_matrix(state.shape, self.window, self.strides, self.padding) / size
            return jnp.matmul(jnp.asarray(matrix, q.dtype), q.reshape(-1), precision=HIGHEST).reshape(shape)

        shape = window_shape(state.shape, self.window, self.strides, self.padding)
        state = state.replace(
            nngp=average(state.nngp, state.full),
            ntk=average(state.ntk, state.full),
            q1=alone(state.q1),
            q2=alone(state.q2),
            shape=shape,
            mask1=self.mask(state.mask1),
            mask2=self.mask(state.mask2),
        )
        return self.affine(state, size)

    def mask(self, mask: Array | None) -> Array | None:
        """Mask of the output."""
        return window_mask(self.name, mask, self.window, self.strides, self.padding)

    def init(self, key: Array, shape: tuple[int, ...], sizes: Sizes, dtype: Any) -> tuple[Any, tuple[int, ...]]:
        check_rank(self.name, self.window, shape[:-1])
        positions = window_shape(shape[:-1], self.window, self.strides, self.padding)
        return self._parameters(key, (*self.window, shape[-1], sizes.outputs), dtype), (*positions, sizes.outputs)

    def apply(self, params: Any, field: Field) -> Field:
        w, b = self._weights(params)
        x = field.x if field.mask is None else field.x * field.mask[..., None]
        if self.padding == "CIRCULAR":
            sizes = zip(x.shape[1:-1], self.window, self.strides, strict=True)
            x = jnp.pad(x, [(0, 0), *(padding_of(*size) for size in sizes), (0, 0)], mode="wrap")
        spatial = "HW"[: len(self.window)]
        x = jax.lax.conv_general_dilated(
            x,
            w,
            self.strides,
            "SAME" if self.padding == "SAME" else "VALID",
            dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
            precision=HIGHEST,
        )
        return field._replace(x=x + b, mask=self.mask(field.mask))


@layer
class _LayerNorm(Layer):
    name = "layer_norm"

    def needs(self, above: Needs) -> Needs:
        return Needs(above.positions, max(above.variance, 1))

    def propagate(self, state: State) -> State:
        if not state.gaussian:
            raise ValueError("`layer_norm` needs inputs of mean 0: put it after a dense, conv or attention layer")
        q1, q2 = state.alone()
        r1, r2 = (_inverse_root(diagonal(q, state.shape)) for q in (q1, q2))

        def alone(q: Array, r: Array) -> Array:
            left, right = outer(r, r, is_full(q, state.shape))
            scaled = q * (left * right)
            return jnp.where(eye(state.shape), 1, scaled) if is_full(q, state.shape) else jnp.where(r > 0, 1.0, 0.0)

        left, right = outer(r1, r2, state.full)
        nngp = state.nngp * (left * right)
        gap = None
        if state.gap is not None:
            spread = (jnp.sqrt(q1) - jnp.sqrt(q2)) ** 2 / 2
            gap = (state.gap - spread) * (left * right)
        return state.replace(
            nngp=nngp,
            ntk=None if state.ntk is None else state.ntk * (left * right),
            q1=alone(q1, r1).astype(nngp.dtype),
            q2=alone(q2, r2).astype(nngp.dtype),
            gap=gap,
        )

    def apply(self, params: Any, field: Field) -> Field:
        centred = field.x - field.x.mean(-1, keepdims=True)
        variance = jnp.mean(centred**2, -1, keepdims=True)
        return field._replace(x=centred * _inverse_root(variance))


def _inverse_root(v: Array) -> Array:
    positive = v > 0
    return jnp.where(positive, jax.lax.rsqrt(jnp.where(positive, v, 1)), 0)


@layer
class _Dropout(Layer):
    keep: Scalar

    name = "dropout"

    def propagate(self, state: State) -> State:
        def scale(k: Array | None, same: Array | None) -> Array | None:
            return k if k is None or same is None else jnp.where(same, k / self.keep, k)

        def alone(q: Array | None) -> Array | None:
            return None if q is None else scale(q, eye(state.shape) if is_full(q, state.shape) else jnp.array(True))

        same = state.same_position
        return state.replace(
            nngp=scale(state.nngp, same),
            ntk=scale(state.ntk, same),
            q1=alone(state.q1),
            q2=alone(state.q2),
            gaussian=False,
        )

    def apply(self, params: Any, field: Field) -> Field:
        if field.key is None:
            return field
        key, use = jax.random.split(field.key)
        kept = jax.random.bernoulli(use, self.keep, field.x.shape)
        return field._replace(x=jnp.where(kept, field.x / self.keep, 0), key=key)


@layer
class _PositionEmbedding(Layer):
    variance: Scalar
    length_scale: Scalar

    name = "position_embedding"

    def _covariance(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """``[*S, *S]``."""
        positions = jnp.stack(jnp.meshgrid(*map(jnp.arange, shape), indexing="ij"), -1).reshape(-1, len(shape))
        if self.length_scale is None:
            correlation = jnp.eye(len(positions))
        else:
            square = ((positions[:, None] - positions[None]) ** 2).sum(-1)
            correlation = jnp.exp(-square / (2 * jnp.asarray(self.length_scale) ** 2))
        return (self.variance * correlation).reshape(shape + shape).astype(dtype)

    def propagate(self, state: State) -> State:
        added = self._covariance(state.shape, state.nngp.dtype)
        cross = added if state.full else diagonal(added, state.shape)

        def alone(q: Array | None) -> Array | None:
            return None if q is None else q + (added if is_full(q, state.shape) else diagonal(added, state.shape))

        return state.replace(
            nngp=state.nngp + cross,
            ntk=None if state.ntk is None else state.ntk + cross,
            q1=alone(state.q1),
            q2=alone(state.q2),
        )

    def init(self, key: Array, shape: tuple[int, ...], sizes: Sizes, dtype: Any) -> tuple[Any, tuple[int, ...]]:
        return jax.random.normal(key, (math.prod(shape[:-1]), shape[-1]), dtype), shape

    def apply(self, params: Any, field: Field) -> Field:
        shape = field.x.shape[1:]
        covariance = self._covariance(shape[:-1], params.dtype).reshape(2 * params.shape[:1])
        value, vectors = jnp.linalg.eigh(covariance)
        root = vectors * jnp.sqrt(jnp.maximum(value, 0))
        return field._replace(x=field.x + jnp.matmul(root, params, precision=HIGHEST).reshape(shape))


def masked(state: State) -> State:
    """Moments with nothing at masked positions."""
    if state.mask1 is None or state.mask2 is None:
        return state
    left, right = outer(state.mask1, state.mask2, state.full)

    def alone(q: Array | None, mask: Array) -> Array | None:
        if q is None:
            return None
        a, b = outer(mask, mask, is_full(q, state.shape))
        return q * (a & b)

    return state.replace(
        nngp=state.nngp * (left & right),
        ntk=None if state.ntk is None else state.ntk * (left & right),
        q1=alone(state.q1, state.mask1),
        q2=alone(state.q2, state.mask2),
    )


def check_rank(name: str, window: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """Raise unless the window has as many axes as the positions."""
    if len(window) != len(shape):
        raise ValueError(
            f"`window` of `{name}` must have one size per axis of positions, but it is {window} and inputs have "
            f"positions {shape}"
        )


def padding_of(n: int, size: int, stride: int) -> tuple[int, int]:
    """Padding that gives ceil(n / stride) windows, the odd one at the end."""
    total = max((-(-n // stride) - 1) * stride + size - n, 0)
    return total // 2, total - total // 2


def window_count(n: int, size: int, stride: int, padding: str) -> int:
    """Number of windows along an axis of n positions."""
    if padding != "VALID":
        return -(-n // stride)
    if n < size:
        raise ValueError(f"`window` must fit into the positions with padding 'VALID', but {size} > {n}")
    return (n - size) // stride + 1


def window_shape(
    shape: tuple[int, ...], window: tuple[int, ...], strides: tuple[int, ...], padding: str
) -> tuple[int, ...]:
    """Positions of the output."""
    return tuple(window_count(n, w, s, padding) for n, w, s in zip(shape, window, strides, strict=True))


def window_matrix(
    shape: tuple[int, ...], window: tuple[int, ...], strides: tuple[int, ...], padding: str
) -> np.ndarray:
    """Which positions a window sums, ``float64[windows, positions]``, both flattened."""
    whole = np.ones((1, 1))
    for n, size, stride in zip(shape, window, strides, strict=True):
        low = 0 if padding == "VALID" else padding_of(n, size, stride)[0]
        reached = np.arange(window_count(n, size, stride, padding))[:, None] * stride + np.arange(size) - low
        if padding == "CIRCULAR":
            reached = reached % n
        whole = np.kron(whole, (reached[:, :, None] == np.arange(n)).sum(1))
    return whole


def window_mask(
    name: str, mask: Array | None, window: tuple[int, ...], strides: tuple[int, ...], padding: str
) -> Array | None:
    """Mask ``[..., *S]`` of the windows' outputs: what a window over the bare sequence would have given."""
    if mask is None:
        return None
    if padding == "CIRCULAR" or (padding == "SAME" and any(s > 1 for s in strides)):
        raise ValueError(
            f"`{name}` under a mask must have padding 'VALID', or 'SAME' with strides of 1, so that a padded sequence "
            f"gives what the bare one does; padding {padding!r} and strides {strides} came"
        )
    if padding == "SAME":
        return mask
    for axis, (size, stride) in enumerate(zip(window, strides, strict=True)):
        mask = window_sum(mask.astype(int), (axis - len(window),), size, stride, "VALID") == size
    return mask


def window_sum(k: Array, axes: tuple[int, ...], size: int, stride: int, padding: str) -> Array:
    """Sum over a window that moves along all ``axes`` at once (all of one length)."""
    n = k.shape[axes[0]]
    count = window_count(n, size, stride, padding)
    if padding != "VALID":
        width = [(0, 0)] * k.ndim
        for axis in axes:
            width[axis] = padding_of(n, size, stride)
        k = jnp.pad(k, width, mode="wrap" if padding == "CIRCULAR" else "constant")

    def shifted(offset: int) -> Array:
        part = k
        for axis in axes:
            part = jax.lax.slice_in_dim(part, offset, offset + (count - 1) * stride + 1, stride, axis % k.ndim)
        return part

    return sum((shifted(offset) for offset in range(1, size)), shifted(0))


def checked_window(
    window: int | tuple[int, ...], strides: int | tuple[int, ...] | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Window and strides as tuples of one length."""
    window = (window,) if isinstance(window, int) else tuple(window)
    steps = (1,) * len(window) if strides is None else (strides,) if isinstance(strides, int) else tuple(strides)
    for size in window:
        check_positive("window", size, integer=True)
    for step in steps:
        check_positive("strides", step, integer=True)
    if len(window) not in (1, 2) or len(steps) != len(window):
        raise ValueError(f"`window` and `strides` must have 1 or 2 sizes alike, but {window} and {steps} came")
    return window, steps


def _affine(weight_variance: ArrayLike, bias_variance: ArrayLike, parameterization: str) -> tuple[Any, Any, bool, str]:
    check_positive("weight_variance", weight_variance)
    known = concrete(bias_variance)
    if known is not None:
        check_array("bias_variance", bias_variance, ndim=0, minimum=0)
    check_choice("parameterization", parameterization, ("ntk", "standard"))
    return weight_variance, bias_variance, known is None or bool(known > 0), parameterization


def dense(weight_variance: ArrayLike = 2.0, bias_variance: ArrayLike = 0.0, *, parameterization: str = "ntk") -> Layer:
    r"""Fully connected layer over channels, :math:`\frac{\sigma_w}{\sqrt{N}} W u + \sigma_b b`, at every position.

    .. math::
       k \mapsto \sigma_w^2 k + \sigma_b^2, \qquad \Theta \mapsto \sigma_w^2 k + \sigma_b^2 + \sigma_w^2 \Theta

    In the standard parameterization the parameters themselves have variances :math:`\sigma_w^2 / N` and
    :math:`\sigma_b^2`: the function at initialization is the same, but
    :math:`\Theta \mapsto N k + 1 + \sigma_w^2 \Theta` grows with the N channels below (``width``), and the 1 is absent
    without a bias.

    Args:
      weight_variance: sigma_w squared, positive.
      bias_variance: sigma_b squared, not negative; 0, where known, means no bias.
      parameterization: ``"ntk"`` or ``"standard"``.

    Returns:
      The layer.

    References:
      Jacot et al. (2018), arXiv:1806.07572; Sohl-Dickstein et al. (2020), arXiv:2001.07301 (standard parameterization).
    """
    return _Dense(*_affine(weight_variance, bias_variance, parameterization))


def conv(
    window: int | tuple[int, ...],
    weight_variance: ArrayLike = 2.0,
    bias_variance: ArrayLike = 0.0,
    *,
    strides: int | tuple[int, ...] | None = None,
    padding: str = "SAME",
    parameterization: str = "ntk",
) -> Layer:
    r"""Convolution over one or two axes of positions.

    With F the window, the moments are averaged along shared displacements before the affine map of :func:`dense`:

    .. math::  \bar{k}(p, p') = \frac{1}{|F|} \sum_{o \in F} k(p + o, p' + o), \qquad \bar\Theta \text{ alike}

    Args:
      window: sizes along the axes of positions; a number for sequences.
      weight_variance: sigma_w squared, positive; weights have variance sigma_w^2 / (channels |F|).
      bias_variance: sigma_b squared, not negative.
      strides: steps along the axes; 1 by default.
      padding: ``"SAME"`` (zeros), ``"VALID"`` or ``"CIRCULAR"``.
      parameterization: ``"ntk"`` or ``"standard"``, as for :func:`dense`.

    Returns:
      The layer.

    References:
      Novak et al. (2019), arXiv:1810.05148; Arora et al. (2019), arXiv:1904.11955.
    """
    check_choice("padding", padding, ("SAME", "VALID", "CIRCULAR"))
    sizes, steps = checked_window(window, strides)
    return _Conv(*_affine(weight_variance, bias_variance, parameterization), sizes, steps, padding)


def layer_norm() -> Layer:
    r"""Layer normalization over channels, without gains: :math:`k \mapsto k / \sqrt{v_1 v_2}`, Theta alike.

    Returns:
      The layer. It must follow a dense, conv or attention layer, where the mean over channels vanishes.

    References:
      Ba et al. (2016), arXiv:1607.06450; Novak et al. (2020), arXiv:1912.02803.
    """
    return _LayerNorm()


def dropout(rate: ArrayLike) -> Layer:
    r"""Inverted dropout: the kernel averages over masks, drawn afresh for every example.

    Moments of one example with itself at one position grow by 1 / (1 - rate), all others stay. In
    :func:`~genjax.ntk.infinite.apply` it acts only if a key is given.

    Args:
      rate: probability that a unit is zeroed, in [0, 1).

    Returns:
      The layer.

    Raises:
      ValueError: ``rate`` is out of range.

    References:
      Schoenholz et al. (2017), arXiv:1611.01232, section 5.
    """
    known = concrete(rate)
    if known is not None and not 0 <= known < 1:
        raise ValueError(f"`rate` must be in [0, 1), but {rate!r} came")
    return _Dropout(1 - rate)


def position_embedding(variance: ArrayLike = 1.0, length_scale: ArrayLike | None = None) -> Layer:
    r"""Trained vectors added to every position: :math:`k(p, p') \mapsto k(p, p') + \sigma^2 R(p, p')`, Theta alike.

    Args:
      variance: sigma squared, positive.
      length_scale: l of :math:`R = e^{-|p - p'|^2 / 2 l^2}`, in positions; None makes the vectors independent.

    Returns:
      The layer.

    Raises:
      ValueError: an argument is not positive.

    References:
      Hron et al. (2020), arXiv:2006.10540, section 4.
    """
    check_positive("variance", variance)
    if length_scale is not None:
        check_positive("length_scale", length_scale)
    return _PositionEmbedding(variance, length_scale)
