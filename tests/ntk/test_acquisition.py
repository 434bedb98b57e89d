import itertools

import jax
import numpy as np
import pytest

from genjax.ntk.acquisition import BatchSelection, expected_variance_reduction, select_batch
from genjax.ntk.kernels import mlp_ntk, rbf
from genjax.ntk.regression import gp_posterior

RNG = np.random.default_rng(0)
POOL, REFERENCE = RNG.standard_normal((9, 2)), RNG.standard_normal((30, 2))
KERNEL = rbf(1.0)
K, K_REFERENCE = np.asarray(KERNEL(POOL, POOL)), np.asarray(KERNEL(REFERENCE, POOL))


def reduction(batch, noise, kernel=K, reference=K_REFERENCE):
    batch = np.asarray(batch)
    cross = reference[:, batch]
    return np.trace(cross @ np.linalg.solve(kernel[np.ix_(batch, batch)] + noise * np.eye(len(batch)), cross.T))


def test_criterion_is_the_posterior_variance_removed():
    batch = [1, 4, 7]
    value = expected_variance_reduction(K[np.ix_(batch, batch)], K_REFERENCE[:, batch], 0.1)
    np.testing.assert_allclose(value, reduction(batch, 0.1), rtol=1e-12)
    prior = KERNEL(REFERENCE, REFERENCE)
    posterior = gp_posterior(K[np.ix_(batch, batch)], K_REFERENCE[:, batch], prior, np.zeros((3, 1)), 0.1)
    np.testing.assert_allclose(value, np.trace(prior - posterior.covariance), rtol=1e-12)


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("labelled", [[], [3, 5]])
def test_greedy_choice_against_brute_force(noise, labelled):
    batch = select_batch(K, K_REFERENCE, 4, noise, labelled=np.array(labelled, int))
    assert isinstance(batch, BatchSelection)
    chosen, before = list(labelled), reduction(labelled, noise) if labelled else 0.0
    for index, gain in zip(batch.indices, batch.gains, strict=True):
        values = {i: reduction([*chosen, i], noise) for i in range(9) if i not in chosen}
        best = max(values, key=values.get)
        assert index == best
        # Posterior variances down to 1e-2 of the prior: a condition number of 1e3 at most.
        np.testing.assert_allclose(gain, values[best] - before, rtol=1e-9)
        chosen.append(best)
        before = values[best]


def test_greedy_is_nearly_the_best_batch():
    batch = select_batch(K, K_REFERENCE, 4, 0.1)
    best = max(reduction(b, 0.1) for b in itertools.combinations(range(9), 4))
    assert 0.9 * best < batch.gains.sum() < best * (1 + 1e-12)


def test_a_repeated_point_is_worthless_without_noise():
    twice = np.concatenate([POOL[:2], POOL[:2]])
    batch = select_batch(KERNEL(twice, twice), KERNEL(REFERENCE, twice), 4)
    assert set(np.asarray(batch.indices[:2]) % 2) == {0, 1}
    assert sorted(batch.indices) == [0, 1, 2, 3]
    np.testing.assert_array_equal(batch.gains[2:], 0)


def test_network_kernel_beats_random_batches():
    pool, reference = RNG.standard_normal((40, 2)), RNG.standard_normal((40, 2))
    kernel = mlp_ntk(2, 2.0, 0.1)
    gram, cross = np.asarray(kernel(pool, pool)), np.asarray(kernel(reference, pool))
    chosen = select_batch(gram, cross, 8, 0.01)
    random = [reduction(RNG.permutation(40)[:8], 0.01, gram, cross) for _ in range(50)]
    assert chosen.gains.sum() > max(random)
    np.testing.assert_allclose(chosen.gains.sum(), reduction(chosen.indices, 0.01, gram, cross), rtol=1e-9)


def test_jit_vmap_and_nan():
    noises = np.array([0.01, 0.1, -1.0])
    batches = jax.jit(jax.vmap(lambda noise: select_batch(K, K_REFERENCE, 4, noise)))(noises)
    np.testing.assert_array_equal(batches.indices[1], select_batch(K, K_REFERENCE, 4, 0.1).indices)
    assert np.isnan(batches.gains[2]).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"batch_size": 10}, ValueError, "`batch_size` must be at most 9"),
        ({"batch_size": 8, "labelled": [0, 1]}, ValueError, "`batch_size` must be at most 7"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be a positive whole number"),
        ({"labelled": [1, 1]}, ValueError, "`labelled` must be distinct indices below 9"),
        ({"labelled": [9]}, ValueError, "`labelled` must be distinct indices below 9"),
        ({"labelled": [[1]]}, ValueError, "`labelled` must have 1 axis"),
        ({"labelled": [0.5]}, TypeError, "`labelled` must be whole numbers"),
        ({"noise": -1.0}, ValueError, "`noise` must be at least 0"),
        ({"k_reference_pool": K_REFERENCE.T}, ValueError, "`k_reference_pool` must have shape"),
    ],
)
def test_errors(change, error, message):
    with pytest.raises(error, match=message):
        select_batch(**{"k_pool": K, "k_reference_pool": K_REFERENCE, "batch_size": 2, **change})


def test_errors_of_the_criterion():
    with pytest.raises(ValueError, match="`k_reference_batch` must have shape"):
        expected_variance_reduction(np.eye(2), np.ones((3, 3)))
