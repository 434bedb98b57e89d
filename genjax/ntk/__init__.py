"""Kernels of hypothesis spaces: classical covariances and infinitely wide networks."""

from genjax.ntk.kernels import (
    from_features,
    laplace,
    linear,
    matern,
    mlp_nngp,
    mlp_ntk,
    polynomial,
    rbf,
    tangent_features,
)

__all__ = [
    "from_features",
    "laplace",
    "linear",
    "matern",
    "mlp_nngp",
    "mlp_ntk",
    "polynomial",
    "rbf",
    "tangent_features",
]
