"""Measures along training against the same numbers from whole kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.ntk.empirical import empirical_ntk
from genjax.ntk.evolution import Evolution, kernel_evolution

X = jax.random.normal(jax.random.key(0), (6, 3))
Y = jnp.sign(X[:, 0])
TIMES = jnp.array([0.0, 1.0, 3.0])


def apply(params, x):
    return jnp.tanh(x @ params["w"]) @ params["v"]


@pytest.fixture(scope="module")
def stack():
    """Two seeds, three times."""
    w, v = jax.random.split(jax.random.key(1))
    return {"w": jax.random.normal(w, (2, 3, 3, 4)), "v": jax.random.normal(v, (2, 3, 4, 2))}


def alignment(a, b):
    return np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b)


def test_measures_of_seeds_and_times(stack):
    found = kernel_evolution(apply, stack, X, Y, times=TIMES, n_axes=2, n_eigenvalues=2)
    assert isinstance(found, Evolution)
    assert [leaf.shape for leaf in jax.tree.leaves(found)] == [(2, 3), (2, 2), (2, 3), (2, 3), (2, 3, 2), (2, 3)]
    for s in range(2):
        kernels = [np.asarray(empirical_ntk(apply, {k: a[s, t] for k, a in stack.items()}, X)) for t in range(3)]
        # The same kernels in float64; a distance is a difference from 1.
        same = {"rtol": 1e-10, "atol": 1e-13}
        np.testing.assert_allclose(found.distance[s], [1 - alignment(k, kernels[0]) for k in kernels], **same)
        velocity = [1 - alignment(kernels[1], kernels[0]), (1 - alignment(kernels[2], kernels[1])) / 2]
        np.testing.assert_allclose(found.velocity[s], velocity, **same)
        np.testing.assert_allclose(found.trace[s], [np.trace(k) for k in kernels], **same)
        np.testing.assert_allclose(found.norm[s], [np.linalg.norm(k) for k in kernels], **same)
        np.testing.assert_allclose(found.label_alignment[s], [alignment(k, np.outer(Y, Y)) for k in kernels], **same)
        eigenvalues = [np.linalg.eigvalsh(k)[::-1][:2] for k in kernels]
        np.testing.assert_allclose(found.eigenvalues[s], eigenvalues, **same)


def test_one_run_without_labels(stack):
    run = jax.tree.map(lambda leaf: leaf[0], stack)
    found = kernel_evolution(apply, run, X)
    both = kernel_evolution(apply, stack, X, n_axes=2)
    assert found.label_alignment is None
    assert found.eigenvalues.shape == (3, 6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[0], rtol=1e-12, atol=1e-13), found, both)
    single = kernel_evolution(apply, jax.tree.map(lambda leaf: leaf[:1], run), X)
    assert single.velocity.shape == (0,)
    np.testing.assert_allclose(single.distance, 0, atol=1e-15)


def test_a_linear_model_does_not_move():
    found = kernel_evolution(lambda w, x: x @ w, jnp.arange(6.0).reshape(2, 3, 1), X)
    np.testing.assert_allclose(found.distance, 0, atol=1e-15)
    np.testing.assert_allclose(found.velocity, 0, atol=1e-15)


def test_bad_arguments_are_named(stack):
    with pytest.raises(ValueError, match="`params_stack` must hold arrays with the same 3 leading axes"):
        kernel_evolution(apply, stack, X, n_axes=3)
    with pytest.raises(ValueError, match=r"`y` must have shape \(6,\)"):
        kernel_evolution(apply, stack, X, Y[:5], n_axes=2)
    with pytest.raises(ValueError, match=r"`times` must have shape \(3\)"):
        kernel_evolution(apply, stack, X, times=TIMES[:2], n_axes=2)
