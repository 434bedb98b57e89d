"""Networks from layers: one after the other, or side by side."""

# ruff: noqa: ARG002 (layers share one interface, and few use all of it)
from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from genjax.ntk.infinite.state import Field, Layer, Needs, Sizes, State, layer, static


@layer
class _Identity(Layer):
    name = "identity"

    def propagate(self, state: State) -> State:
        return state

    def apply(self, params: Any, field: Field) -> Field:
        return field


class _Composite(Layer):
    layers: tuple[Layer, ...]

    @property
    def parametric(self) -> bool:
        return any(part.parametric for part in self.layers)


@layer
class _Serial(_Composite):
    layers: tuple[Layer, ...]

    name = "serial"

    def needs(self, above: Needs) -> Needs:
        return functools.reduce(lambda needs, part: part.needs(needs), reversed(self.layers), above)

    def propagate(self, state: State) -> State:
        return functools.reduce(lambda state, part: part.propagate(state), self.layers, state)

    def init(self, key: Array, shape: tuple[int, ...], sizes: Sizes, dtype: Any) -> tuple[Any, tuple[int, ...]]:
        last = max((i for i, part in enumerate(self.layers) if part.parametric), default=-1)
        params = []
        for i, (part, part_key) in enumerate(zip(self.layers, jax.random.split(key, len(self.layers)), strict=True)):
            found, shape = part.init(part_key, shape, sizes if i == last else Sizes(sizes.hidden, sizes.hidden), dtype)
            params.append(found)
        return tuple(params), shape

    def apply(self, params: Any, field: Field) -> Field:
        for part, own in zip(self.layers, params, strict=True):
            field = part.apply(own, field)
        return field


@layer
class _Parallel(_Composite):
    layers: tuple[Layer, ...]
    how: str = static()

    @property
    def name(self) -> str:
        return self.how

    def needs(self, above: Needs) -> Needs:
        return functools.reduce(Needs.union, (part.needs(above) for part in self.layers))

    def propagate(self, state: State) -> State:
        start = state.replace(fresh=False, gap=state.gap)
        branches = [part.propagate(start) for part in self.layers]
        first = branches[0]
        if any(branch.shape != first.shape for branch in branches):
            raise ValueError(
                f"branches of `{self.how}` must have outputs of one shape, but their positions are "
                f"{', '.join(str(branch.shape) for branch in branches)}"
            )
        if self.how != "concatenate" and sum(not branch.fresh for branch in branches) > 1:
            raise ValueError(
                f"at most one branch of `{self.how}` may end without a dense, conv or attention layer of its own: "
                "otherwise its branches are correlated"
            )
        combine = _COMBINE[self.how]
        nngps = [branch.nngp for branch in branches]
        channels = [branch.channels for branch in branches if branch.channels is not None]
        weights = channels if self.how == "concatenate" and len(channels) == len(branches) else None
        together = functools.partial(_together, combine, weights)
        nngps = [branch.nngp for branch in branches]
        ntks = [branch.ntk for branch in branches]
        if self.how == "multiply":
            others = [_product(nngps[:i] + nngps[i + 1 :]) for i in range(len(nngps))]
            ntk = _together(_sum, None, [None if t is None else t * k for t, k in zip(ntks, others, strict=True)])
        else:
            ntk = together(ntks)
        return first.replace(
            nngp=together(nngps),
            ntk=ntk,
            q1=together([branch.q1 for branch in branches]),
            q2=together([branch.q2 for branch in branches]),
            gap=None if self.how == "multiply" else together([branch.gap for branch in branches]),
            gaussian=self.how != "multiply" and all(branch.gaussian for branch in branches),
            fresh=all(branch.fresh for branch in branches),
            channels=sum(weights) if weights else first.channels,
        )

    def init(self, key: Array, shape: tuple[int, ...], sizes: Sizes, dtype: Any) -> tuple[Any, tuple[int, ...]]:
        keys = jax.random.split(key, len(self.layers))
        found = [part.init(k, shape, sizes, dtype) for part, k in zip(self.layers, keys, strict=True)]
        shapes = [out for _, out in found]
        whole = shapes[0]
        if self.how == "concatenate":
            whole = (*whole[:-1], sum(out[-1] for out in shapes))
        elif any(out != whole for out in shapes):
            raise ValueError(
                f"branches of a finite `{self.how}` must have outputs of one shape, but they have "
                f"{', '.join(map(str, shapes))}; put a dense layer of the network's width before them"
            )
        return tuple(params for params, _ in found), whole

    def apply(self, params: Any, field: Field) -> Field:
        keys = [None] * len(self.layers) if field.key is None else jax.random.split(field.key, len(self.layers))
        outs = [
            part.apply(own, field._replace(key=key)) for part, own, key in zip(self.layers, params, keys, strict=True)
        ]
        xs = [out.x for out in outs]
        x = jnp.concatenate(xs, axis=-1) if self.how == "concatenate" else _COMBINE[self.how](xs)
        return outs[0]._replace(x=x, key=None if field.key is None else jax.random.fold_in(field.key, 0))


def _product(values: list[Array]) -> Array:
    return functools.reduce(jnp.multiply, values)


def _sum(values: list[Array]) -> Array:
    return functools.reduce(jnp.add, values)


def _mean(values: list[Array]) -> Array:
    return _sum(values) / len(values)


_COMBINE: dict[str, Callable[[list[Array]], Array]] = {"add": _sum, "multiply": _product, "concatenate": _mean}


def _together(
    combine: Callable[[list[Array]], Array], weights: list[int] | None, values: Sequence[Array | None]
) -> Array | None:
    """Moments of the whole; None where a branch no longer knows its own."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    if weights is None:
        return combine(known)
    return _sum([w * value for w, value in zip(weights, known, strict=True)]) / sum(weights)


def _checked(name: str, layers: tuple[Layer, ...], at_least: int) -> tuple[Layer, ...]:
    if len(layers) < at_least or not all(isinstance(part, Layer) for part in layers):
        kinds = ", ".join(type(part).__name__ for part in layers) or "nothing"
        raise TypeError(f"`layers` of `{name}` must be {at_least} or more layers, but {kinds} came")
    return layers


def serial(*layers: Layer) -> Layer:
    """Layers one after the other.

    Args:
      *layers: from input to output, at least one.

    Returns:
      The network, itself a layer.

    References:
      Novak et al. (2020), arXiv:1912.02803.
    """
    return _Serial(_checked("serial", layers, 1))


def identity() -> Layer:
    """Nothing done: a skip connection inside :func:`add` or :func:`concatenate`.

    Returns:
      The layer.

    References:
      He et al. (2016), arXiv:1603.05027.
    """
    return _Identity()


def add(*layers: Layer) -> Layer:
    r"""Sum of branches with independent weights: :math:`k = \sum_i k_i`, :math:`\Theta = \sum_i \Theta_i`.

    Args:
      *layers: branches, two or more; all but one must end in a dense, conv or attention layer of their own.

    Returns:
      The layer.

    References:
      Yang (2019), arXiv:1910.12478; Huang et al. (2020), arXiv:2002.06262.
    """
    return _Parallel(_checked("add", layers, 2), "add")


def residual(branch: Layer) -> Layer:
    r"""Input plus a branch, :math:`u + f(u)`.

    Args:
      branch: f, ending in a dense, conv or attention layer.

    Returns:
      The layer.

    References:
      He et al. (2016), arXiv:1603.05027; Huang et al. (2020), arXiv:2002.06262.
    """
    return add(identity(), branch)


def multiply(*layers: Layer) -> Layer:
    r"""Product of branches with independent weights.

    .. math::  k = \prod_i k_i, \qquad \Theta = \sum_i \Theta_i \prod_{j \ne i} k_j

    Args:
      *layers: branches, two or more; all but one must end in a dense, conv or attention layer of their own.

    Returns:
      The layer. Its outputs are not Gaussian.

    References:
      Novak et al. (2020), arXiv:1912.02803.
    """
    return _Parallel(_checked("multiply", layers, 2), "multiply")


def concatenate(*layers: Layer) -> Layer:
    """Channels of branches side by side: kernels are averaged, weighted by numbers of channels where known.

    Without a ``width`` all branches count alike.

    Args:
      *layers: branches, two or more.

    Returns:
      The layer.

    References:
      Huang et al. (2017), arXiv:1608.06993; Novak et al. (2020), arXiv:1912.02803.
    """
    return _Parallel(_checked("concatenate", layers, 2), "concatenate")
