import itertools

import numpy as np
import pytest

from genjax.dynamics.min_degree import MinDegree, min_degree_interpolator


def cube(d):
    return 1.0 - 2.0 * (np.arange(2**d)[:, None] >> np.arange(d) & 1)


def test_product_seen_unless_both_are_negative():
    x = cube(5)
    result = min_degree_interpolator(x[:, 0] * x[:, 1], (x[:, 0] == 1) | (x[:, 1] == 1))
    assert isinstance(result, MinDegree)
    np.testing.assert_allclose(result.values, x[:, 0] + x[:, 1] - 1, atol=1e-12)
    assert result.unseen_error == pytest.approx(16)


def test_frozen_input_is_set_to_its_seen_value():
    # The error is four times the influence of the frozen input.
    rng = np.random.default_rng(0)
    x = cube(4)
    f = rng.standard_normal(16)
    result = min_degree_interpolator(f, x[:, 2] == 1)
    partner = np.arange(16) & ~4
    np.testing.assert_allclose(result.values, f[partner], atol=1e-12)
    influence = np.mean(((f - f[np.arange(16) ^ 4]) / 2) ** 2)
    assert result.unseen_error == pytest.approx(4 * influence)
    assert min_degree_interpolator(x[:, 0] * x[:, 1] * x[:, 2], x[:, 0] == 1).unseen_error == pytest.approx(4)


def test_profile_is_the_limit_of_weighted_norms():
    rng = np.random.default_rng(1)
    d = 4
    x, f = cube(d), rng.standard_normal(2**d)
    seen = rng.random(2**d) < 0.6
    subsets = [[i for i in range(d) if s >> i & 1] for s in range(2**d)]
    basis = np.stack([x[:, s].prod(1) for s in subsets], 1)
    result = min_degree_interpolator(f, seen)
    np.testing.assert_allclose(result.values[seen], f[seen], atol=1e-12)
    np.testing.assert_allclose(basis @ result.coefficients, result.values, atol=1e-12)
    # Least norm where degree k weighs 100^k: the limit is approached at a rate of 1e-4.
    scale = 100.0 ** -np.array([len(s) for s in subsets])
    weighted = scale * (np.linalg.pinv(basis[seen] * scale, rcond=1e-15) @ f[seen])
    np.testing.assert_allclose(result.coefficients, weighted, atol=2e-2)


def test_nothing_unseen_leaves_the_target():
    f = np.array([float(np.prod(p)) for p in itertools.product([1, -1], repeat=3)])
    result = min_degree_interpolator(f, np.ones(8, bool))
    np.testing.assert_allclose(result.values, f, atol=1e-14)
    assert result.unseen_error == 0


def test_bad_arguments():
    with pytest.raises(ValueError, match="`values` must have shape"):
        min_degree_interpolator(np.ones(5), np.ones(5, bool))
    with pytest.raises(ValueError, match="`seen` must mark"):
        min_degree_interpolator(np.ones(4), np.zeros(4, bool))
    with pytest.raises(TypeError, match="`seen` must be booleans"):
        min_degree_interpolator(np.ones(4), np.ones(4))
    with pytest.raises(ValueError, match="`values` must be finite"):
        min_degree_interpolator(np.full(4, np.nan), np.ones(4, bool))
