"""The modules behind the built-in networks, apart so that only those who build one import Flax."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array


class Perceptron(nn.Module):
    """Fully connected network over flattened inputs; without hidden layers an affine map."""

    n_outputs: int
    width: int
    depth: int
    activation: str
    batch_norm: bool
    dropout: float

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        x = _floating(x)
        x = x.reshape(len(x), -1)
        for _ in range(self.depth):
            x = nn.Dense(self.width, param_dtype=x.dtype)(x)
            if self.batch_norm:
                x = _normalize(x, train)
            x = getattr(jax.nn, self.activation)(x)
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.n_outputs, param_dtype=x.dtype)(x)


class Convolutional(nn.Module):
    """Blocks of convolution, activation and pooling over images, then an affine map of all that remains."""

    n_outputs: int
    channels: tuple[int, ...]
    activation: str
    batch_norm: bool
    dropout: float

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        x = _images(_floating(x), 2 ** len(self.channels))
        for n_channels in self.channels:
            x = nn.Conv(n_channels, (3, 3), param_dtype=x.dtype)(x)
            if self.batch_norm:
                x = _normalize(x, train)
            x = nn.avg_pool(getattr(jax.nn, self.activation)(x), (2, 2), (2, 2))
        x = nn.Dropout(self.dropout, deterministic=not train)(x.reshape(len(x), -1))
        return nn.Dense(self.n_outputs, param_dtype=x.dtype)(x)


def _floating(x: Array) -> Array:
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(float)


def _images(x: Array, smallest: int) -> Array:
    """Images with a channel axis, ``[n, height, width, channels]``."""
    if x.ndim == 3:
        x = x[..., None]
    if x.ndim != 4 or min(x.shape[1:3]) < smallest:
        raise ValueError(
            f"`x` must be images [n, height, width] or [n, height, width, channels], not flattened, of at least "
            f"{smallest} x {smallest} pixels, but its shape is {x.shape}"
        )
    return x


def _normalize(x: Array, train: bool) -> Array:
    # A momentum of 0.9 rather than Flax's 0.99: statistics settle within tens of steps, as short runs need.
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, param_dtype=x.dtype)(x)
