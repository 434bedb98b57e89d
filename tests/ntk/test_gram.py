import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from genjax.ntk.gram import _deal, gram_matrix
from genjax.ntk.kernels import mlp_ntk, rbf

X = jax.random.normal(jax.random.key(0), (23, 4))
KERNEL = mlp_ntk(2)
CLOSE = {"rtol": 1e-11, "atol": 1e-11}  # rounding of float64


def mesh(n):
    return Mesh(np.array(jax.devices()[:n]), ("data",))


@pytest.mark.parametrize("tile", [1, 5, 12, 100])
def test_tiles_make_the_gram_matrix(tile):
    gram = gram_matrix(KERNEL, X, tile=tile)
    np.testing.assert_allclose(gram, KERNEL(X, X), **CLOSE)
    np.testing.assert_array_equal(gram, gram.T)
    np.testing.assert_allclose(jnp.diagonal(gram), jnp.diagonal(KERNEL(X, X)), rtol=1e-15)


@pytest.mark.parametrize("n", [22, 23])
@pytest.mark.parametrize("n_devices", [1, 2])
def test_tiles_on_several_devices(n, n_devices):
    """Rows stay where they were computed if the devices divide them."""
    x = X[:n]
    gram = gram_matrix(KERNEL, x, tile=4, mesh=mesh(n_devices))
    np.testing.assert_allclose(gram, KERNEL(x, x), **CLOSE)
    np.testing.assert_array_equal(gram, gram.T)
    shares = {shard.data.shape[0] for shard in gram.addressable_shards}
    assert shares == {n // n_devices if n % n_devices == 0 else n}
    cross = gram_matrix(KERNEL, x, X[:7] + 1, tile=4, mesh=mesh(n_devices))
    np.testing.assert_allclose(cross, KERNEL(x, X[:7] + 1), **CLOSE)


@pytest.mark.parametrize("n_devices", [1, 2, 3, 8])
def test_every_device_gets_as_many_tiles(n_devices):
    own, pairs = _deal(4 * n_devices, n_devices)
    assert sorted(own.ravel()) == list(range(4 * n_devices))
    everything = {tuple(pair) for pair in pairs.reshape(-1, 2)}
    assert everything == {(i, j) for i in range(4 * n_devices) for j in range(i)}


def test_bad_tile():
    with pytest.raises(ValueError, match="`tile`"):
        gram_matrix(rbf(1.0), X, tile=0)
