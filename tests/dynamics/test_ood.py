import jax
import numpy as np
import pytest

from genjax.dynamics.ood import fisher_ood_error

SAMPLES = np.array([0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024])


# Digits of the design notes, at mean 5 and standard deviation 10.
def test_reference_numbers():
    np.testing.assert_allclose(fisher_ood_error(20, [64, 0, 1024], 1.8), [0.31120, 0.31279, 0.31134], atol=6e-6)
    assert SAMPLES[np.argmin(fisher_ood_error(20, SAMPLES, 1.8))] == 64
    # A larger shift: few samples help, many harm.
    error = fisher_ood_error(20, SAMPLES, 3.0)
    assert SAMPLES[np.argmin(error)] == 8
    assert float(error[-1]) > float(error[0])
    np.testing.assert_allclose(error[-1], 0.31608, atol=6e-6)
    assert SAMPLES[np.argmin(fisher_ood_error(4, SAMPLES, 5.0))] == 4


def test_simulation():
    rng = np.random.default_rng(0)
    n, m, shift, weight, draws = 4, 6, 5.0, 0.7, 200_000
    half = np.array([1, -1])
    target = 5.0 * np.tile(half, n // 2) + 10 * rng.standard_normal((draws, n))
    shifted = shift + 5.0 * np.tile(half, m // 2) + 10 * rng.standard_normal((draws, m))
    label = rng.choice(half, draws)
    x = 5.0 * label + 10 * rng.standard_normal(draws)
    pooled = np.concatenate([target, shifted], 1).mean(1)
    weighted = weight * target.mean(1) + (1 - weight) * shifted.mean(1)
    for threshold, w in ((pooled, None), (weighted, weight)):
        wrong = np.sign(x - threshold) != label
        # Four standard errors.
        assert abs(wrong.mean() - float(fisher_ood_error(n, m, shift, target_weight=w))) < 4 * 0.5 / draws**0.5


def test_the_best_weight_is_never_worse_than_either_sample_alone():
    weights = np.linspace(0, 1, 201)
    for m in (1, 64, 1024):
        best = fisher_ood_error(20, m, 3.0, target_weight=weights).min()
        assert float(best) <= float(fisher_ood_error(20, [0, m], 3.0).min()) + 1e-6


def test_bad_arguments():
    with pytest.raises(ValueError, match="`n_target` must be at least 1"):
        fisher_ood_error(0, 1, 1.0)
    with pytest.raises(ValueError, match="`std` must be at least 0"):
        fisher_ood_error(1, 1, 1.0, std=-1.0)
    assert np.isnan(jax.jit(lambda w: fisher_ood_error(1, 1, 1.0, target_weight=w))(2.0))
