"""Whole networks: against other programs, and against finite networks of the same layers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.ntk import infinite as nn
from genjax.ntk import mlp_nngp, mlp_ntk, monte_carlo_kernel

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (5, 4))
IMAGES = jax.random.normal(jax.random.key(2), (3, 4, 4, 2))


def sampled(net, x, kind, width, n):
    """The recipe that errors about closed forms give."""
    return monte_carlo_kernel(
        lambda key: nn.init(net, key, x.shape[1:], width), partial(nn.apply, net), KEY, x, kind=kind, n_samples=n
    )


def test_mlp_is_the_recursion():
    net = nn.mlp(3, weight_variance=1.7, bias_variance=0.2)
    np.testing.assert_allclose(nn.nngp(net)(X, X), mlp_nngp(3, 1.7, 0.2)(X, X), rtol=1e-10)
    np.testing.assert_allclose(nn.ntk(net)(X, X), mlp_ntk(3, 1.7, 0.2)(X, X), rtol=1e-10)


def test_cnn_of_single_pixels_is_an_mlp():
    """A window of one pixel on images of one pixel; and an average over one position is that position."""
    pixels = X[:, None, None]
    for readout in ("average", "flatten"):
        net = nn.cnn(2, nn.erf(), window=1, readout=readout, bias_variance=0.1)
        np.testing.assert_allclose(nn.ntk(net)(pixels, pixels), nn.ntk(nn.mlp(2, nn.erf(), bias_variance=0.1))(X, X))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("net", "x"),
    [
        (nn.cnn(1, nn.erf()), IMAGES),
        (nn.cnn(1, readout="flatten"), IMAGES),
        (nn.transformer(1), IMAGES.reshape(3, 4, 8)),
    ],
    ids=["average", "flatten", "attention"],
)
def test_wide_networks(net, x):
    """Within five standard errors and a bias of order 1 / width."""
    for kind, kernel in (("nngp", nn.nngp(net)), ("ntk", nn.ntk(net))):
        found = sampled(net, x, kind, 256, 200)
        exact = kernel(x, x)
        assert np.all(np.abs(found.value - exact) < 5 * found.stderr + 0.05 * jnp.max(exact)), kind


def test_without_a_closed_form_there_is_sampling():
    """Max pooling of the inputs and a linear layer: its tangent kernel does not depend on its weights."""
    net = nn.serial(nn.max_pool((4, 4)), nn.flatten(), nn.dense(1.0))
    with pytest.raises(ValueError, match=r"monte_carlo_kernel\(lambda key: init\(net, key, x.shape\[1:\], width\)"):
        nn.ntk(net)(IMAGES, IMAGES)
    largest = jnp.max(IMAGES, axis=(1, 2))
    found = sampled(net, IMAGES, "ntk", 8, 2)
    np.testing.assert_allclose(found.value, largest @ largest.T / 2, rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.mlp(0), "`depth`"),
        (lambda: nn.cnn(1, readout="max"), "`readout`"),
        (lambda: nn.transformer(0), "`depth`"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
