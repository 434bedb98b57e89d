import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genjax.ntk.diagnostics import (
    alignment,
    cka,
    condition_number,
    cumulative_power,
    effective_rank,
    kernel_distance,
    target_alignment,
)

RNG = np.random.default_rng(0)
N = 12
A, B = RNG.standard_normal((N, 5)), RNG.standard_normal((N, 4))
K, L = A @ A.T, B @ B.T + 0.3 * A @ A.T
Y = RNG.standard_normal((N, 2))


def unbiased_inner(a, b):
    """Average of a_ij b_ij - 2 a_ij b_ik + a_ij b_kq over distinct indices, the definition."""
    off = 1 - np.eye(N)
    a, b = a * off, b * off
    pairs = (a * b).sum()
    triples = (a @ b).sum() - pairs
    quadruples = a.sum() * b.sum() - 4 * triples - 2 * pairs
    two, three, four = (math.perm(N, r) for r in (2, 3, 4))
    return pairs / two - 2 * triples / three + quadruples / four


def test_alignments_against_naive_formulas():
    h = np.eye(N) - 1 / N
    naive = np.trace(K @ L) / np.sqrt(np.trace(K @ K) * np.trace(L @ L))
    np.testing.assert_allclose(alignment(K, L), naive, rtol=1e-13)
    np.testing.assert_allclose(kernel_distance(K, L), 1 - naive, rtol=1e-12)
    np.testing.assert_allclose(cka(K, L), alignment(h @ K @ h, h @ L @ h), rtol=1e-13)
    naive = unbiased_inner(K, L) / np.sqrt(unbiased_inner(K, K) * unbiased_inner(L, L))
    np.testing.assert_allclose(cka(K, L, estimator="unbiased"), naive, rtol=1e-12)


def test_unbiased_estimate_vanishes_for_independent_features():
    # 200 features for 12 points: the biased estimate is near 1.
    def draw(key):
        a, b = jax.random.normal(key, (2, N, 200))
        grams = a @ a.T, b @ b.T
        return cka(*grams, estimator="unbiased"), cka(*grams)

    unbiased, biased = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 200))
    assert abs(unbiased.mean()) < 4 * unbiased.std() / 200**0.5
    assert biased.min() > 0.8


@given(st.floats(1e-3, 1e3), st.floats(-10, 10), st.integers(0, 1000))
def test_invariances(scale, offset, seed):
    rotation = np.linalg.qr(np.random.default_rng(seed).standard_normal((5, 5)))[0]
    moved = scale * (A @ rotation + offset)
    # Centering cancels up to offset^2 = 100 times the kernel.
    for estimator in ("biased", "unbiased"):
        np.testing.assert_allclose(
            cka(moved @ moved.T, L, estimator=estimator), cka(K, L, estimator=estimator), rtol=1e-9, atol=1e-10
        )
    np.testing.assert_allclose(alignment(scale * K, L), alignment(K, L), rtol=1e-12)


def test_distance_of_nearby_kernels_in_float32():
    k = K.astype(np.float32)
    bump = np.zeros_like(k)
    bump[0, 0] = 1e-3 * np.linalg.norm(k)
    exact = kernel_distance(k.astype(float), (k + bump).astype(float))
    assert 1e-7 < exact < 1e-6
    # 1 - alignment would be off by 1e-7, of the order of the value itself.
    np.testing.assert_allclose(kernel_distance(k, k + bump), exact, rtol=1e-3)
    assert kernel_distance(k, k) == 0


def test_target_alignment_and_power():
    y = Y[:, :1]
    naive = (y.T @ K @ y)[0, 0] / (np.linalg.norm(K) * np.sum(y**2))
    np.testing.assert_allclose(target_alignment(K, y), naive, rtol=1e-13)
    np.testing.assert_allclose(target_alignment(K, Y), alignment(K, Y @ Y.T), rtol=1e-13)
    np.testing.assert_allclose(target_alignment(Y @ Y.T, Y), 1, rtol=1e-13)
    eigenvectors = np.linalg.eigh(L)[1][:, ::-1]
    power = cumulative_power(L, eigenvectors[:, [1]] * 2 + eigenvectors[:, [3]])
    np.testing.assert_allclose(power[:5], [0, 0.8, 0.8, 1, 1], atol=1e-12)


def test_ranks_and_condition():
    for kind in ("entropy", "participation"):
        np.testing.assert_allclose(effective_rank(np.eye(7), kind=kind), 7, rtol=1e-13)
        np.testing.assert_allclose(effective_rank(np.ones((7, 7)), kind=kind), 1, rtol=1e-12)
    p = np.array([0.5, 0.3, 0.2])
    np.testing.assert_allclose(effective_rank(np.diag(p)), np.exp(-np.sum(p * np.log(p))), rtol=1e-13)
    np.testing.assert_allclose(effective_rank(np.diag(p), kind="participation"), 1 / np.sum(p**2), rtol=1e-13)
    full = L + np.eye(N)
    np.testing.assert_allclose(condition_number(full), np.linalg.cond(full), rtol=1e-11)
    np.testing.assert_allclose(condition_number(L, 1.0), np.linalg.cond(full), rtol=1e-11)
    assert condition_number(K) == np.inf  # rank 5 of 12


def test_negative_eigenvalues_are_nan():
    assert np.isnan(effective_rank(np.diag([1.0, -0.5])))
    assert np.isnan(condition_number(np.diag([1.0, -0.5])))


def test_jit_and_vmap():
    stack = jnp.stack([jnp.asarray(K), jnp.asarray(L)])
    found = jax.jit(jax.vmap(lambda k: (alignment(k, L), cka(k, L), effective_rank(k), target_alignment(k, Y))))(stack)
    np.testing.assert_allclose(found[0], [alignment(K, L), 1], rtol=1e-12)
    np.testing.assert_allclose(found[3][0], target_alignment(K, Y), rtol=1e-12)


def test_errors():
    with pytest.raises(ValueError, match="`k1` and `k2` must be on the same points"):
        alignment(K, L[:3, :3])
    with pytest.raises(ValueError, match="`k2` must be a square matrix"):
        kernel_distance(K, A)
    with pytest.raises(ValueError, match="`estimator` must be one of 'biased', 'unbiased'"):
        cka(K, L, estimator="best")
    with pytest.raises(ValueError, match="at least 4 points"):
        cka(K[:3, :3], L[:3, :3], estimator="unbiased")
    with pytest.raises(ValueError, match="`kind` must be one of"):
        effective_rank(K, kind="stable")
    with pytest.raises(ValueError, match="`ridge` must be at least 0"):
        condition_number(K, -1.0)
    with pytest.raises(ValueError, match="`y` must have shape"):
        cumulative_power(K, Y[:3])
    with pytest.raises(ValueError, match="`gram` must be finite"):
        target_alignment(np.full((N, N), np.nan), Y)
