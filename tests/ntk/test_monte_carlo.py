"""Averages over initializations against closed forms, and against plain averages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.ntk.empirical import empirical_ntk
from genjax.ntk.kernels import mlp_nngp, mlp_ntk
from genjax.ntk.monte_carlo import MonteCarloKernel, monte_carlo_kernel

X = jax.random.normal(jax.random.key(0), (4, 3))
KEY = jax.random.key(1)


def init(key, width=256, n_outputs=8):
    first, last = jax.random.split(key)
    return jax.random.normal(first, (3, width)), jax.random.normal(last, (width, n_outputs))


def apply(params, x):
    """NTK parameterization, one hidden layer."""
    hidden, output = params
    return jax.nn.relu(x @ hidden * (2 / 3) ** 0.5) @ output * (2 / len(output)) ** 0.5


@pytest.mark.parametrize(("kind", "limit"), [("ntk", mlp_ntk(1)), ("nngp", mlp_nngp(1))])
def test_mean_over_seeds_is_the_kernel_of_infinite_width(kind, limit):
    """One hidden layer: the mean has no bias at any width. Five standard errors on 10 entries."""
    got = monte_carlo_kernel(init, apply, KEY, X, kind=kind, n_samples=150, chunk=16)
    assert isinstance(got, MonteCarloKernel)
    deviation = jnp.abs(got.value - limit(X, X)) / got.stderr
    assert float(deviation.max()) < 5
    assert float(deviation.mean()) < 2  # mean of |normal| is 0.8: the error bars are not too small
    # Of 150 samples of 8 outputs: sqrt(2 / 1200) = 0.04 for a second moment.
    assert float(jnp.max(jnp.diag(got.stderr) / jnp.diag(got.value))) < 0.06


def small(key):
    return init(key, 5, 2)


def test_moments_do_not_depend_on_the_chunk():
    """Against numpy on all kernels, with chunks that do not divide the number of samples."""

    @jax.jit
    @jax.vmap
    def kernel(i):
        return empirical_ntk(apply, small(jax.random.fold_in(KEY, i)), X, X[:2])

    all_kernels = kernel(jnp.arange(7))
    for chunk in (3, 100):
        got = monte_carlo_kernel(small, apply, KEY, X, X[:2], n_samples=7, chunk=chunk)
        # Sums of seven terms in another order, in float64.
        np.testing.assert_allclose(got.value, all_kernels.mean(0), rtol=1e-12)
        np.testing.assert_allclose(got.stderr, np.std(all_kernels, axis=0, ddof=1) / 7**0.5, rtol=1e-9)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="`kind` must be one of 'ntk', 'nngp'"):
        monte_carlo_kernel(small, apply, KEY, X, kind="both", n_samples=4)
    with pytest.raises(ValueError, match="`n_samples` must be at least 2"):
        monte_carlo_kernel(small, apply, KEY, X, n_samples=1)
