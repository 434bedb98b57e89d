import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genjax.random import is_typed_key, seed_key, seed_keys

SEEDS = st.integers(0, 2**31 - 1)


def bits(key):
    return np.asarray(jax.random.key_data(key))


@given(SEEDS, st.integers(0, 2**32 - 1))
def test_key_is_the_folded_base(seed, index):
    expected = jax.random.fold_in(jax.random.key(seed), index)
    np.testing.assert_array_equal(bits(seed_key(seed, index)), bits(expected))


def test_path_folds_in_turn_and_order_matters():
    np.testing.assert_array_equal(bits(seed_key(3)), bits(jax.random.key(3)))
    np.testing.assert_array_equal(bits(seed_key(3, 1, 2)), bits(jax.random.fold_in(seed_key(3, 1), 2)))
    assert not np.array_equal(bits(seed_key(3, 1, 2)), bits(seed_key(3, 2, 1)))


@pytest.mark.parametrize("n", [1, 3, 7])
def test_member_does_not_depend_on_the_population(n):
    keys = seed_keys(5, n)
    assert keys.shape == (n,)
    assert jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    for i in range(n):
        np.testing.assert_array_equal(bits(keys[i]), bits(seed_key(5, i)))


def test_members_and_seeds_differ():
    rows = np.concatenate([bits(seed_keys(seed, 50)) for seed in range(4)])
    assert len(np.unique(rows, axis=0)) == 200


def test_same_under_jit_vmap_and_sharding():
    alone = np.stack([bits(seed_key(9, i, 4)) for i in range(6)])
    fold = jax.vmap(lambda i: seed_key(9, i, 4))
    np.testing.assert_array_equal(bits(fold(jnp.arange(6))), alone)
    np.testing.assert_array_equal(bits(jax.jit(fold)(jnp.arange(6))), alone)
    assert len(jax.devices()) > 1
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("seed",))
    spread = jax.device_put(jnp.arange(6), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("seed")))
    np.testing.assert_array_equal(bits(jax.jit(fold)(spread)), alone)


def test_typed_keys_are_told_from_numbers():
    key = jax.random.key(0)
    assert is_typed_key(key)
    assert is_typed_key(jax.random.split(jax.random.key(0, impl="rbg"), 3))
    assert is_typed_key(jax.eval_shape(lambda: key))
    assert not any(is_typed_key(other) for other in (jax.random.key_data(key), np.zeros(2, np.uint32), 1.0, None))
