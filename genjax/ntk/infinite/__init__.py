"""Infinitely wide networks: layers to compose, and the kernels of what they make.

>>> import numpy as np
>>> from genjax.ntk import infinite as nn
>>> net = nn.serial(nn.dense(), nn.relu(), nn.dense())
>>> x = np.sqrt(2) * np.eye(2)
>>> np.round(np.asarray(nn.nngp(net)(x, x), float), 4).tolist()
[[2.0, 0.6366], [0.6366, 2.0]]
"""

from genjax.ntk.infinite.activations import (
    abrelu,
    abs,
    cos,
    elementwise,
    erf,
    exp,
    gaussian,
    gelu,
    hermite,
    leaky_relu,
    monomial,
    polynomial,
    rbf,
    rectified_monomial,
    relu,
    sign,
    sin,
)
from genjax.ntk.infinite.architectures import cnn, mlp, transformer
from genjax.ntk.infinite.combinators import add, concatenate, identity, multiply, residual, serial
from genjax.ntk.infinite.finite import apply, init
from genjax.ntk.infinite.gram import Kernels, kernels, nngp, ntk
from genjax.ntk.infinite.linear import conv, dense, dropout, layer_norm, position_embedding
from genjax.ntk.infinite.mixing import (
    aggregate,
    attention,
    avg_pool,
    batch_norm,
    flatten,
    global_avg_pool,
    global_sum_pool,
    max_pool,
    sum_pool,
)

__all__ = [
    "Kernels",
    "abrelu",
    "abs",
    "add",
    "aggregate",
    "apply",
    "attention",
    "avg_pool",
    "batch_norm",
    "cnn",
    "concatenate",
    "conv",
    "cos",
    "dense",
    "dropout",
    "elementwise",
    "erf",
    "exp",
    "flatten",
    "gaussian",
    "gelu",
    "global_avg_pool",
    "global_sum_pool",
    "hermite",
    "identity",
    "init",
    "kernels",
    "layer_norm",
    "leaky_relu",
    "max_pool",
    "mlp",
    "monomial",
    "multiply",
    "nngp",
    "ntk",
    "polynomial",
    "position_embedding",
    "rbf",
    "rectified_monomial",
    "relu",
    "residual",
    "serial",
    "sign",
    "sin",
    "sum_pool",
    "transformer",
]
