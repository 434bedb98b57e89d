r"""Where a weight meets data, and the Gram matrix of the gradients that result.

Every rule brings a layer to one form. Weights are G independent matrices ``[d, p]``, each used at T positions,

.. math::  y_{gt} = W_g^\top a_{gt}, \qquad  \nabla_{W_g} f_o = \sum_t a_{gt} \otimes b_{ogt}, \qquad
   b_{ogt} = \partial f_o / \partial y_{gt},

so that two inputs' gradients have the inner product

.. math::  \sum_{g t s} (a_{gt} \cdot a'_{gs}) (b_{ogt} \cdot b'_{qgs}).

It is computed either as written (two Gram matrices over positions) or from the gradients themselves, whichever takes
fewer operations; with one position the first never forms anything of the size of the weights.

Axis letters: i, j examples; o, q outputs; g groups; t, s positions; d, p the axes of a weight.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import JaxprEqn

OUTPUTS = ("trace", "diag", "full", "sum")


@dataclasses.dataclass(frozen=True)
class Layer:
    """How one equation uses a weight.

    Attributes:
      kind: dense, conv, embedding, scale or bias.
      inputs: a, ``float[g, t, d]``; of an embedding the rows looked up, ``int[1, t]``, -1 for none.
      arrange: brings a cotangent of the equation's output to b, ``float[g, t, p]``.
      n_rows: length d of a weight's first axis.
    """

    kind: str
    inputs: Array
    arrange: Callable[[Array], Array]
    n_rows: int


class Outer(NamedTuple):
    """Gradients of a weight as factors: a ``[n, g, t, d]`` or rows ``[n, g, t]``, and b ``[n, o, g, t, p]``."""

    inputs: Array
    cotangents: Array


class Gradient(NamedTuple):
    """Gradients of a weight themselves, ``[n, o, ...]``."""

    values: Array


Factor = Outer | Gradient


def shape_of(variable: Any) -> tuple[int, ...]:
    """Of a variable of an equation."""
    return variable.aval.shape


def dense(eqn: JaxprEqn, position: int, data: Array) -> Layer:
    """A product with a weight; its batch axes are groups, the data's free axes positions."""
    contracted, batch = (pair if position else pair[::-1] for pair in eqn.params["dimension_numbers"])
    (data_contracted, weight_contracted), (data_batch, weight_batch) = contracted, batch
    free = [k for k in range(data.ndim) if k not in (*data_contracted, *data_batch)]
    shape = shape_of(eqn.invars[position])
    weight_free = [k for k in range(len(shape)) if k not in (*weight_contracted, *weight_batch)]
    g, t, d = (math.prod(data.shape[k] for k in axes) for axes in (data_batch, free, data_contracted))
    p = math.prod(shape[k] for k in weight_free)

    def arrange(cotangent: Array) -> Array:
        if position:
            return cotangent.reshape(g, t, p)
        return jnp.swapaxes(cotangent.reshape(g, p, t), 1, 2)

    return Layer("dense", data.transpose(*data_batch, *free, *data_contracted).reshape(g, t, d), arrange, d)


def conv(eqn: JaxprEqn, position: int, data: Array) -> Layer | None:
    """A convolution: positions are those of the output, the rows of a weight the entries of a patch."""
    if position != 1 or eqn.params["batch_group_count"] != 1:
        return None
    lhs, rhs, out = eqn.params["dimension_numbers"]
    shape = shape_of(eqn.invars[1])
    window = [shape[k] for k in rhs[2:]]
    g = eqn.params["feature_group_count"]
    p = shape[rhs[0]] // g
    patches = _patches(data.transpose(lhs), window, eqn.params)
    # [offsets, n, channels, *positions] -> [g, n * positions, offsets * channels of the group]
    k, n, channels = patches.shape[:3]
    inputs = patches.reshape(k, n, g, channels // g, -1).transpose(2, 1, 4, 0, 3)

    def arrange(cotangent: Array) -> Array:
        return cotangent.transpose(out).reshape(n, g, p, -1).transpose(1, 0, 3, 2).reshape(g, -1, p)

    d = k * (channels // g)
    return Layer("conv", inputs.reshape(g, -1, d), arrange, d)


def _patches(x: Array, window: list[int], params: dict[str, Any]) -> Array:
    """What each offset of a window meets: ``[n, channels, *space] -> [offsets, n, channels, *positions]``."""
    strides, dilations = params["window_strides"], params["rhs_dilation"]
    interior = [k - 1 for k in params["lhs_dilation"]]
    padding = [(low, high, k) for (low, high), k in zip(params["padding"], interior, strict=True)]
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (0, 0, 0), *padding])
    spans = [
        (length - (w - 1) * dilation - 1) // stride * stride + 1
        for length, w, dilation, stride in zip(x.shape[2:], window, dilations, strides, strict=True)
    ]
    shifted = []
    for offset in np.ndindex(*window):
        start = [k * dilation for k, dilation in zip(offset, dilations, strict=True)]
        stop = [low + span for low, span in zip(start, spans, strict=True)]
        shifted.append(jax.lax.slice(x, (0, 0, *start), (*x.shape[:2], *stop), (1, 1, *strides)))
    return jnp.stack(shifted)


def embedding(eqn: JaxprEqn, position: int, indices: Array) -> Layer | None:
    """Rows of a table: a is the one-hot code of the row, kept as its number."""
    table, out = shape_of(eqn.invars[0]), shape_of(eqn.outvars[0])
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    plain = (
        position == 0
        and tuple(numbers.collapsed_slice_dims) == tuple(numbers.start_index_map) == (0,)
        and not numbers.operand_batching_dims
        and tuple(sizes) == (1, *table[1:])
    )
    if not plain:
        return None
    n_rows, offset = table[0], tuple(numbers.offset_dims)
    rows = indices.reshape(-1)
    if eqn.params["mode"] == jax.lax.GatherScatterMode.CLIP:
        rows = jnp.clip(rows, 0, n_rows - 1)
    rows = jnp.where((rows >= 0) & (rows < n_rows), rows, -1)
    n_positions = rows.size
    order = [k for k in range(len(out)) if k not in offset] + list(offset)

    def arrange(cotangent: Array) -> Array:
        return cotangent.transpose(order).reshape(1, n_positions, -1)

    return Layer("embedding", rows[None], arrange, n_rows)


def elementwise(eqn: JaxprEqn, copied: tuple[bool, ...], data: Array) -> Layer:
    """A scale (every entry a weight of its own) or a bias; positions are the axes along which it is repeated."""
    shape = shape_of(eqn.outvars[0])
    order = [k for k in range(len(shape)) if not copied[k]] + [k for k in range(len(shape)) if copied[k]]
    g = math.prod(n for n, repeated in zip(shape, copied, strict=True) if not repeated)

    def by_weight(x: Array) -> Array:
        return x.transpose(order).reshape(g, -1)

    if eqn.primitive.name == "mul":
        a = by_weight(jnp.broadcast_to(data, shape) if data.ndim else jnp.full(shape, data))
        return Layer("scale", a[..., None], lambda b: by_weight(b)[..., None], 1)
    ones = jnp.ones((1, math.prod(shape) // max(g, 1), 1), jnp.result_type(data))
    return Layer("bias", ones, lambda b: by_weight(b).T[None], 1)


def n_products(outputs: str, n_outputs: int) -> int:
    """How many pairs of outputs are multiplied."""
    return {"trace": n_outputs, "diag": n_outputs, "full": n_outputs**2, "sum": 1}[outputs]


def instantiate(factor: Outer, n_rows: int) -> Gradient:
    """The gradients ``[n, o, g, d, p]`` of a weight from their factors."""
    a, b = factor
    if a.ndim == 4:
        return Gradient(jnp.einsum("igtd,iogtp->iogdp", a, b))

    def scatter(rows: Array, b: Array) -> Array:
        return jnp.zeros((n_rows, b.shape[-1]), b.dtype).at[rows].add(b, mode="drop")

    return Gradient(jax.vmap(jax.vmap(jax.vmap(scatter), (None, 0)))(jnp.where(a < 0, n_rows, a), b))


def contract(factor1: Factor, factor2: Factor, outputs: str) -> Array:
    """Inner products of the gradients of one weight: ``[n1, n2]``, ``[n1, n2, c]`` or ``[n1, n2, c, c]``."""
    factor1, factor2 = jax.tree.map(_at_least_float32, (factor1, factor2))
    if isinstance(factor1, Outer) and isinstance(factor2, Outer):
        return _contract_outer(factor1, factor2, outputs)
    subscripts = {"diag": "iop,jop->ijo", "full": "iop,jqp->ijoq"}.get(outputs, "iop,jop->ij")
    flat1, flat2 = (f[0].reshape(*f[0].shape[:2], -1) for f in (factor1, factor2))
    return jnp.einsum(subscripts, flat1, flat2)


def _contract_outer(factor1: Outer, factor2: Outer, outputs: str) -> Array:
    (a1, b1), (a2, b2) = factor1, factor2
    if a1.ndim == 4:
        a = jnp.einsum("igtd,jgsd->gitjs", a1, a2)
    else:
        rows1, rows2 = (jnp.moveaxis(rows, 1, 0) for rows in (a1, a2))
        rows1 = rows1[..., None, None]
        a = ((rows1 == rows2[:, None, None]) & (rows1 >= 0)).astype(b1.dtype)
    products = {"diag": "iogtp,jogsp->goitjs", "full": "iogtp,jqgsp->goqitjs"}.get(outputs, "iogtp,jogsp->gitjs")
    weighed = {"diag": "gitjs,goitjs->ijo", "full": "gitjs,goqitjs->ijoq"}.get(outputs, "gitjs,gitjs->ij")
    return jnp.einsum(weighed, a, jnp.einsum(products, b1, b2))


def _at_least_float32(x: Array) -> Array:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
