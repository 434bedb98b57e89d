"""Kernels of hypothesis spaces: classical covariances and infinitely wide networks."""

from genjax.ntk.kernels import (
    Kernel,
    from_features,
    laplace,
    linear,
    matern,
    mlp_nngp,
    mlp_ntk,
    polynomial,
    rbf,
)

__all__ = ["Kernel", "from_features", "laplace", "linear", "matern", "mlp_nngp", "mlp_ntk", "polynomial", "rbf"]
