"""The built-in networks: enough to train something at once, and small enough to analyse."""

from __future__ import annotations

from collections.abc import Sequence

from genjax.errors import check_choice, check_positive
from genjax.models.adapters import from_flax
from genjax.models.model import Model

MODELS = ("linear", "mlp", "cnn")
ACTIVATIONS = ("relu", "tanh", "gelu", "silu", "elu", "softplus", "sigmoid", "identity")


def linear(n_outputs: int) -> Model:
    r"""Affine map of the flattened inputs: :math:`f(x) = W x + b`.

    Weights start as truncated normals of variance 1 / d (d inputs), biases as 0: ``(d + 1) n_outputs`` parameters of
    the inputs' precision.

    Args:
      n_outputs: outputs per example, positive.

    Returns:
      The model; it flattens inputs ``[n, ...]``.

    Raises:
      ValueError: ``n_outputs`` is not positive.
    """
    from genjax.models._linen import Perceptron

    check_positive("n_outputs", n_outputs, integer=True)
    return from_flax(Perceptron(n_outputs, width=0, depth=0, activation="identity", batch_norm=False, dropout=0.0))


def mlp(
    n_outputs: int,
    width: int = 128,
    depth: int = 2,
    activation: str = "relu",
    *,
    batch_norm: bool = False,
    dropout: float = 0.0,
) -> Model:
    r"""Fully connected network of the flattened inputs.

    .. math::  h_0 = x, \qquad h_l = \varphi(W_l h_{l-1} + b_l), \qquad f(x) = W h_L + b

    Weights start as truncated normals of variance 1 / fan-in, biases as 0; all are of the inputs' precision.

    Args:
      n_outputs: outputs per example, positive.
      width: units of each hidden layer, positive.
      depth: L, number of hidden layers, positive.
      activation: varphi, one of :data:`ACTIVATIONS`.
      batch_norm: whether batch normalization stands before each activation (running averages of momentum 0.9).
      dropout: probability with which training drops each hidden unit, in [0, 1).

    Returns:
      The model; it flattens inputs ``[n, ...]``.

    Raises:
      ValueError: an argument is out of range.

    References:
      LeCun et al. (1998), Efficient BackProp, section 4.6 (initialization); Ioffe and Szegedy (2015), arXiv:1502.03167,
      algorithm 1 (batch normalization); Srivastava et al. (2014), JMLR 15, section 4 (dropout).
    """
    from genjax.models._linen import Perceptron

    check_positive("n_outputs", n_outputs, integer=True)
    check_positive("width", width, integer=True)
    check_positive("depth", depth, integer=True)
    check_choice("activation", activation, ACTIVATIONS)
    _check_dropout(dropout)
    return from_flax(Perceptron(n_outputs, width, depth, activation, batch_norm, float(dropout)))


def cnn(
    n_outputs: int,
    channels: Sequence[int] = (16, 32),
    activation: str = "relu",
    *,
    batch_norm: bool = False,
    dropout: float = 0.0,
) -> Model:
    """Convolutional network of images.

    Each block is a 3 x 3 convolution (padded with zeros to keep the size), the activation and a 2 x 2 average pool,
    which drops an odd last row or column; an affine map reads the flattened result. Initialization and precision are
    those of :func:`mlp`.

    Args:
      n_outputs: outputs per example, positive.
      channels: output channels of each block, at least one block.
      activation: one of :data:`ACTIVATIONS`.
      batch_norm: whether batch normalization stands before each activation (running averages of momentum 0.9).
      dropout: probability with which training drops each input of the last map, in [0, 1).

    Returns:
      The model, of images ``[n, height, width]`` or ``[n, height, width, channels]`` whose sides are at least 2 to the
      number of blocks; it raises ValueError for others, such as flattened ones.

    Raises:
      ValueError: an argument is out of range.

    References:
      LeCun et al. (1998), Proc. IEEE 86, section II (the pattern of blocks).
    """
    from genjax.models._linen import Convolutional

    check_positive("n_outputs", n_outputs, integer=True)
    channels = tuple(channels)
    if not channels:
        raise ValueError("`channels` must name at least one block, but it is empty")
    for n_channels in channels:
        check_positive("channels", n_channels, integer=True)
    check_choice("activation", activation, ACTIVATIONS)
    _check_dropout(dropout)
    return from_flax(Convolutional(n_outputs, channels, activation, batch_norm, float(dropout)))


def _check_dropout(dropout: float) -> None:
    if not 0 <= dropout < 1:
        raise ValueError(f"`dropout` must be a probability in [0, 1), but {dropout!r} came")
