import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from jax.scipy.stats import multivariate_normal

from genjax.ntk.diffusion import (
    KernelScore,
    empirical_score,
    explained_variance,
    gaussian_mixture_score,
    gaussian_probability_flow,
    gaussian_score,
    score_error,
    score_regression,
)
from genjax.ntk.kernels import laplace, mlp_ntk
from genjax.ntk.paths import early_stopping_time

RNG = np.random.default_rng(0)
D = 3
ROOTS = RNG.standard_normal((2, D, D))
COVARIANCES = ROOTS @ ROOTS.transpose(0, 2, 1)
MEANS, WEIGHTS = 2 * RNG.standard_normal((2, D)), np.array([0.3, 0.7])
X = RNG.standard_normal((6, D))


@jax.jit
def mixture_score(weights, means, covariances, x, sigma):
    """Gradient of the log density."""

    def log_density(point):
        noised = covariances + sigma**2 * jnp.eye(D)
        return jax.nn.logsumexp(jax.vmap(multivariate_normal.logpdf, (None, 0, 0))(point, means, noised), b=weights)

    return jax.vmap(jax.grad(log_density))(x)


@pytest.mark.parametrize("sigma", [0.1, 1.0, 30.0])
def test_scores_are_gradients_of_log_densities(sigma):
    expected = mixture_score(WEIGHTS, MEANS, COVARIANCES, X, sigma)
    # Weights need not be normalized.
    np.testing.assert_allclose(gaussian_mixture_score(5 * WEIGHTS, MEANS, COVARIANCES)(X, sigma), expected, rtol=1e-10)
    expected = np.linalg.solve(COVARIANCES[0] + sigma**2 * np.eye(D), (MEANS[0] - X).T).T
    np.testing.assert_allclose(gaussian_score(MEANS[0], COVARIANCES[0])(X, sigma), expected, rtol=1e-10)
    deltas = (np.ones(2), MEANS, np.zeros((2, D, D)))
    expected = mixture_score(*deltas, X, sigma)
    # 1e-16 of |x|^2 / sigma^2 = 1e3 in a weight's exponent
    np.testing.assert_allclose(empirical_score(MEANS)(X, sigma), expected, rtol=1e-10)
    np.testing.assert_allclose(gaussian_mixture_score(*deltas)(X, sigma), expected, rtol=1e-10)


def test_noise_levels_may_differ_from_point_to_point():
    score = gaussian_mixture_score(WEIGHTS, MEANS, COVARIANCES)
    sigmas = np.linspace(0.1, 3, 6)
    each = np.concatenate([score(X[i : i + 1], sigmas[i]) for i in range(6)])
    np.testing.assert_allclose(score(X, sigmas), each, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(lambda s, x, sigma: s(x, sigma))(score, X, sigmas), each, rtol=1e-12)


def test_memorizing_score_points_to_the_nearest_sample():
    points = RNG.standard_normal((5, D))
    step = 1e-4 * empirical_score(points)(points + 1e-3, 1e-2)
    np.testing.assert_allclose(points + 1e-3 + step, points, atol=1e-12)


def test_probability_flow_against_its_differential_equation():
    mean, covariance = MEANS[0], COVARIANCES[0]
    covariance = covariance - np.linalg.eigvalsh(covariance)[0] * np.eye(D)  # singular
    score = jax.jit(lambda x, sigma: gaussian_score(mean, covariance)(x, sigma))
    solution = scipy.integrate.solve_ivp(
        lambda sigma, x: np.ravel(-sigma * score(x.reshape(6, D), sigma)), (20.0, 0.1), X.ravel() * 20, rtol=1e-7
    )
    flowed = gaussian_probability_flow(mean, covariance, X * 20, 20.0, 0.1)
    np.testing.assert_allclose(flowed, solution.y[:, -1].reshape(6, D), atol=1e-4)
    back = gaussian_probability_flow(mean, covariance, flowed, 0.1, 20.0)
    np.testing.assert_allclose(back, X * 20, rtol=1e-10)


def sample_mixture(n, rng):
    which = rng.random(n) < WEIGHTS[1]
    noise = rng.standard_normal((n, D))
    return MEANS[which.astype(int)] + np.einsum("nij,nj->ni", ROOTS[which.astype(int)], noise)


def test_linear_score_explains_more_at_higher_noise():
    spread = np.linalg.norm(MEANS[1] - MEANS[0])
    means = MEANS * 10 / spread
    x = means[RNG.integers(0, 2, 2000)] + 0.5 * RNG.standard_normal((2000, D))
    oracle = gaussian_mixture_score(np.ones(2), means, 0.25 * np.stack([np.eye(D)] * 2))
    linear = gaussian_score(x.mean(0), np.cov(x.T))
    part = explained_variance(jax.random.key(0), oracle, linear, x, [0.3, 1.0, 3.0, 10.0, 30.0])
    assert (np.diff(part) > 0).all()
    assert part[-1] > 0.999
    assert part[0] < 0.7


def test_score_error_of_a_constant_offset():
    score = gaussian_score(MEANS[0], COVARIANCES[0])
    error = score_error(jax.random.key(0), lambda x, sigma: score(x, sigma) + 2.0, score, X, [0.5, 2.0])
    np.testing.assert_allclose(error, [4 * D * 0.25, 4 * D * 4], rtol=1e-10)


@pytest.mark.slow
def test_kernel_score_overfits_in_time_and_stops_early():
    x, fresh = sample_mixture(40, np.random.default_rng(1)), sample_mixture(200, np.random.default_rng(2))
    sigmas = np.array([0.5, 1.0, 2.0])
    learned = score_regression(jax.random.key(0), mlp_ntk(2, 2.0, 0.1), x, sigmas)
    assert isinstance(learned, KernelScore)
    oracle = gaussian_mixture_score(WEIGHTS, MEANS, COVARIANCES)
    times = jnp.array([0.0, 10.0, 100.0, 1000.0, jnp.inf])
    stopped = [dataclasses.replace(learned, time=t) for t in times]
    errors = [score_error(jax.random.key(4), score, oracle, fresh, sigmas).sum() for score in stopped]
    # Neither at the start nor at the end, where the noise of the targets is interpolated.
    best = int(np.argmin(errors))
    assert 0 < best < 4
    assert errors[best] < 0.7 * min(errors[0], errors[-1])
    # The rule that knows nothing of the oracle stops before the best time, and does better than not to start.
    rule = early_stopping_time(learned.kernel(learned.inputs, learned.inputs), 1.0, learning_rate=1.0)
    assert rule < times[best]
    by_rule = score_error(jax.random.key(4), dataclasses.replace(learned, time=rule), oracle, fresh, sigmas).sum()
    assert by_rule < errors[0]
    # One regression stands for all times, and the time given to it is one of them.
    np.testing.assert_allclose(stopped[2](X, 1.0), learned.at_times(X, 1.0, times)[2], rtol=1e-10)
    at_once = score_regression(jax.random.key(0), mlp_ntk(2, 2.0, 0.1), x, sigmas, time=times[2])
    np.testing.assert_array_equal(at_once(X, 1.0), stopped[2](X, 1.0))


def test_kernel_score_at_infinite_time_interpolates_the_noise():
    learned = score_regression(jax.random.key(0), laplace(1.0), X, [0.5, 1.0], n_noise=2)
    assert learned.inputs.shape == (24, D + 1)
    np.testing.assert_allclose(learned.path.train(np.inf), learned.path.y, atol=1e-8)
    # The inputs invert to noised points: x / sqrt(v + sigma^2) and log(sigma) / 4.
    sigma = np.exp(4 * learned.inputs[:, -1])
    noised = learned.inputs[:, :D] * np.sqrt(learned.scale**2 + sigma**2)[:, None]
    # At equal inputs the kernel has a kink, so 1e-16 in the angle's cosine is 1e-8 in the kernel, times dual
    # coefficients of order 10 to 100.
    np.testing.assert_allclose(learned(noised, sigma), learned.path.y / sigma[:, None], atol=1e-5)
    clean = noised.reshape(2, 2, 6, D) + (sigma[:, None] * learned.path.y).reshape(2, 2, 6, D)
    np.testing.assert_allclose(clean, np.broadcast_to(X, clean.shape), atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gaussian_score(np.zeros(2), np.eye(3)), r"`mean` must have shape \(3\)"),
        (lambda: gaussian_score(np.zeros(2), np.triu(np.ones((2, 2)))), "`covariance` must be symmetric"),
        (lambda: gaussian_mixture_score([1.0], MEANS, COVARIANCES), "`weights` must have shape"),
        (lambda: gaussian_mixture_score([-1.0, 2.0], MEANS, COVARIANCES), "`weights` must be at least 0"),
        (lambda: empirical_score(np.full((2, 2), np.nan)), "`points` must be finite"),
        (lambda: empirical_score(X)(X[:, :2], 1.0), "`x` must have shape"),
        (lambda: empirical_score(X)(X, np.ones(2)), "`sigma` must be a scalar or have shape"),
        (lambda: empirical_score(X)(X, -1.0), "`sigma` must be at least 0"),
        (lambda: gaussian_probability_flow(np.zeros(3), np.eye(3), X, 0.0, 1.0), "`sigma_from` must be a positive"),
        (lambda: gaussian_probability_flow(np.zeros(3), np.eye(3), X, 1.0, -1.0), "`sigma_to` must be at least 0"),
        (lambda: score_regression(jax.random.key(0), mlp_ntk(1), X, [0.0, 1.0]), "`sigmas` must be positive"),
        (lambda: score_regression(jax.random.key(0), mlp_ntk(1), X, 1.0), "`sigmas` must have 1 axes"),
        (lambda: score_regression(jax.random.key(0), mlp_ntk(1), X, [1.0], time=-1.0), "`time` must be at least 0"),
        (lambda: score_regression(jax.random.key(0), mlp_ntk(1), X, [1.0], n_noise=0), "`n_noise` must be a positive"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
