import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from genjax.dynamics.deep_linear import BalancedFlow, aligned_map, balanced_flow, mode_strength, time_to_strength


def simulated(weights, correlation, times):
    """Gradient flow on |Sigma - W_D ... W_1|^2 / 2 by an adaptive solver, at 1e-11."""
    sizes = np.cumsum([w.size for w in weights])[:-1]

    def product(parts):
        total = parts[0]
        for part in parts[1:]:
            total = part @ total
        return total

    def loss(flat):
        parts = [p.reshape(w.shape) for p, w in zip(jnp.split(flat, sizes), weights)]
        return jnp.sum((correlation - product(parts)) ** 2) / 2

    gradient = jax.jit(jax.grad(loss))
    start = np.concatenate([np.ravel(w) for w in weights])
    path = solve_ivp(
        lambda _, w: -np.asarray(gradient(w)), (0, times[-1]), start, "DOP853", times, rtol=1e-11, atol=1e-13
    ).y.T
    return [[p.reshape(w.shape) for p, w in zip(np.split(flat, sizes), weights)] for flat in path]


def task(seed, c, d):
    """A correlation matrix with singular values 3, 2, 1, ..."""
    rng = np.random.default_rng(seed)
    rank = min(c, d)
    left, right = (np.linalg.qr(rng.standard_normal((n, rank)))[0] for n in (c, d))
    return left, np.arange(rank, 0, -1.0), right.T


# Digits of the design notes, from a full simulation.
def test_reference_numbers():
    np.testing.assert_allclose(mode_strength([1.0, 2.0], 3.0, 0.01), [1.72300223, 2.99449875], rtol=0, atol=5e-9)
    for depth, expected in ((2, 1.31627803), (3, 1.53705387), (4, 1.73465491)):
        np.testing.assert_allclose(time_to_strength(2.7, 3.0, 0.01, depth=depth), expected, rtol=0, atol=5e-9)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 7])
def test_mode_strength_solves_its_equation_and_inverts_the_time(depth):
    times = jnp.linspace(0, 4, 9)
    u = mode_strength(times, 2.0, 0.05, depth=depth)
    np.testing.assert_allclose(u[0], 0.05, rtol=1e-12)
    slope = jax.vmap(jax.grad(lambda t: mode_strength(t, 2.0, 0.05, depth=depth)))(times)
    np.testing.assert_allclose(slope, depth * u ** (2 - 2 / depth) * (2 - u), rtol=1e-9)
    # Near s the time amplifies the rounding of s - u: compared where u has not converged.
    back = time_to_strength(u, 2.0, 0.05, depth=depth)
    np.testing.assert_allclose(jnp.where(u < 1.99, back - times, 0), 0, atol=1e-11)


def test_infinite_time_learns_the_mode_and_tiny_starts_keep_their_digits():
    for depth in (1, 2, 3, 5):
        assert float(mode_strength(jnp.inf, 0.7, 1e-3, depth=depth)) == pytest.approx(0.7, rel=1e-15)
    assert float(mode_strength(0.0, 1.0, 1e-30, depth=3)) == pytest.approx(1e-30, rel=1e-9)
    # Small starts: the escape time is ln(1 / u0) / 2s with two layers and u0^(2/D - 1) / (D - 2) s with more.
    assert float(time_to_strength(0.5, 1.0, 1e-30)) == pytest.approx(15 * np.log(10), rel=1e-9)
    assert float(time_to_strength(0.5, 1.0, 1e-30, depth=3)) == pytest.approx(1e10, rel=1e-6)


@pytest.mark.parametrize("depth", [2, 3])
def test_aligned_map_equals_gradient_flow_of_the_network(depth):
    left, s, right = task(0, 5, 4)
    u0, times, h = 0.02, np.array([0.3, 1.0, 2.0, 4.0]), 6
    rng = np.random.default_rng(1)
    frames = [right, *(np.linalg.qr(rng.standard_normal((h, 4)))[0].T for _ in range(depth - 1)), left.T]
    weights = [u0 ** (1 / depth) * after.T @ before for before, after in itertools.pairwise(frames)]
    paths = simulated(weights, left * s @ right, times)
    expected = [np.linalg.multi_dot(w[::-1]) for w in paths]
    # The solver's tolerance, and the growth of its rounding away from the aligned manifold.
    np.testing.assert_allclose(aligned_map(times, left * s @ right, u0, depth=depth), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("c", "d", "h"), [(3, 4, 5), (4, 4, 2)])
def test_balanced_flow_equals_gradient_flow_of_unaligned_networks(c, d, h):
    rng = np.random.default_rng(2)
    left, s, right = task(3, c, d)
    scale = np.linspace(0.1, 0.4, min(c, d, h))
    hidden = np.linalg.qr(rng.standard_normal((h, len(scale))))[0]
    w1 = hidden * scale @ np.linalg.qr(rng.standard_normal((d, len(scale))))[0].T
    w2 = np.linalg.qr(rng.standard_normal((c, len(scale))))[0] * scale @ hidden.T
    times = np.array([0.0, 0.2, 1.0, 3.0, 8.0])
    flow = balanced_flow(times, left * s @ right, w1, w2)
    for k, (first, second) in enumerate(simulated([w1, w2], left * s @ right, times)):
        np.testing.assert_allclose(flow.input_gram[k], first.T @ first, atol=1e-8)
        np.testing.assert_allclose(flow.linear_map[k], second @ first, atol=1e-8)
        np.testing.assert_allclose(flow.output_gram[k], second @ second.T, atol=1e-8)


def test_balanced_flow_keeps_slow_modes_and_the_rank_of_the_network():
    correlation = np.diag([20.0, 0.05, 0.01])
    w = np.sqrt(1e-3) * np.eye(2, 3)
    flow = balanced_flow([0.0, 30.0, 2000.0], correlation, w, w.T)
    expected = mode_strength(jnp.array([0.0, 30.0, 2000.0])[:, None], jnp.array([20.0, 0.05]), 1e-3)
    diagonal = np.diagonal(flow.linear_map, axis1=1, axis2=2)
    np.testing.assert_allclose(diagonal[:, :2], expected, rtol=1e-8)
    assert isinstance(flow, BalancedFlow)
    # Two hidden units never learn a third mode.
    assert np.all(diagonal[:, 2] == 0)


def test_single_precision():
    times = np.linspace(0, 3, 7)
    for depth in (2, 3):
        single = mode_strength(times.astype("f4"), np.float32(3), np.float32(0.01), depth=depth)
        assert single.dtype == jnp.float32
        # Relative rounding of the time is multiplied by the rate, 2 s t.
        np.testing.assert_allclose(single, mode_strength(times, 3.0, 0.01, depth=depth), rtol=1e-4)
    w = 0.1 * np.eye(3, dtype="f4")
    flow = balanced_flow(times.astype("f4"), np.diag([3, 2, 1]).astype("f4"), w, w)
    assert flow.linear_map.dtype == jnp.float32
    np.testing.assert_allclose(flow.linear_map[:, 0, 0], mode_strength(times, 3.0, 0.01), rtol=1e-4)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="`singular_value` must be positive"):
        mode_strength(1.0, 0.0, 0.1)
    with pytest.raises(ValueError, match="`initial` must be positive"):
        mode_strength(1.0, 1.0, -0.1)
    with pytest.raises(ValueError, match="`initial` must lie below"):
        time_to_strength(1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="`depth`"):
        mode_strength(1.0, 1.0, 0.1, depth=0)
    with pytest.raises(ValueError, match="balanced"):
        balanced_flow([1.0], np.eye(2), np.eye(2), 2 * np.eye(2))
    with pytest.raises(ValueError, match="ascend"):
        balanced_flow([1.0, 0.5], np.eye(2), np.eye(2), np.eye(2))
    assert np.isnan(jax.jit(mode_strength)(1.0, 1.0, 2.0))
    assert np.isnan(time_to_strength(1.5, 1.0, 0.1))
