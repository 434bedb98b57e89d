"""Whole networks of a few usual kinds, from the layers of this package."""

from __future__ import annotations

from jax.typing import ArrayLike

from genjax.errors import check_choice, check_positive
from genjax.ntk.infinite.activations import relu
from genjax.ntk.infinite.combinators import residual, serial
from genjax.ntk.infinite.linear import conv, dense, layer_norm, position_embedding
from genjax.ntk.infinite.mixing import attention, flatten, global_avg_pool
from genjax.ntk.infinite.state import Layer


def mlp(
    depth: int, activation: Layer | None = None, *, weight_variance: ArrayLike = 2.0, bias_variance: ArrayLike = 0.0
) -> Layer:
    """Fully connected network.

    Args:
      depth: hidden layers.
      activation: their nonlinearity; ReLU by default.
      weight_variance: of all weights, times their fan-in.
      bias_variance: of all biases.

    Returns:
      The network, for inputs ``float[n, d]``.

    Raises:
      ValueError: an argument is out of range.

    References:
      Lee et al. (2018), arXiv:1711.00165.
    """
    check_positive("depth", depth, integer=True)
    affine = dense(weight_variance, bias_variance)
    return serial(*depth * (affine, activation or relu()), affine)


def cnn(
    depth: int,
    activation: Layer | None = None,
    *,
    window: int = 3,
    readout: str = "average",
    weight_variance: ArrayLike = 2.0,
    bias_variance: ArrayLike = 0.0,
) -> Layer:
    """Convolutional network that keeps the size of its images, zero-padded.

    Args:
      depth: convolutions.
      activation: the nonlinearity after each; ReLU by default.
      window: pixels along each side of a filter.
      readout: ``"average"`` over all positions, which costs the square of their number, or ``"flatten"``.
      weight_variance: of all weights, times their fan-in.
      bias_variance: of all biases.

    Returns:
      The network, for images ``float[n, h, w, c]``.

    Raises:
      ValueError: an argument is out of range.

    References:
      Novak et al. (2019), arXiv:1810.05148; Arora et al. (2019), arXiv:1904.11955.
    """
    check_positive("depth", depth, integer=True)
    check_choice("readout", readout, ("average", "flatten"))
    convolution = conv((window, window), weight_variance=weight_variance, bias_variance=bias_variance)
    gather = global_avg_pool() if readout == "average" else flatten()
    return serial(*depth * (convolution, activation or relu()), gather, dense(weight_variance, bias_variance))


def transformer(
    depth: int, activation: Layer | None = None, *, weight_variance: ArrayLike = 2.0, bias_variance: ArrayLike = 0.0
) -> Layer:
    """Residual blocks of self-attention and a fully connected layer, averaged over tokens at the end.

    Args:
      depth: blocks.
      activation: nonlinearity of the fully connected layers; ReLU by default.
      weight_variance: of their weights, times their fan-in.
      bias_variance: of their biases.

    Returns:
      The network, for sequences of tokens ``float[n, t, d]``.

    Raises:
      ValueError: an argument is out of range.

    References:
      Hron et al. (2020), arXiv:2006.10540.
    """
    check_positive("depth", depth, integer=True)
    affine = dense(weight_variance, bias_variance)
    block = (residual(attention()), layer_norm(), residual(serial(affine, activation or relu(), affine)), layer_norm())
    return serial(affine, position_embedding(), *depth * block, global_avg_pool(), affine)
