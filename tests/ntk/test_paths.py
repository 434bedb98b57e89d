import jax
import jax.experimental
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from genjax.ntk.paths import TrainingPath, early_stopping_time, max_learning_rate, training_path
from genjax.ntk.regression import kernel_regression

RNG = np.random.default_rng(0)
N, M, P, C = 8, 3, 20, 2
FEATURES, FEATURES_TEST = RNG.standard_normal((N, P)) / P**0.5, RNG.standard_normal((M, P)) / P**0.5
K, K_STAR = FEATURES @ FEATURES.T, FEATURES_TEST @ FEATURES.T
Y = RNG.standard_normal((N, C))
START = RNG.standard_normal((P, C))
F0, F0_TEST = FEATURES @ START, FEATURES_TEST @ START
STEPS = np.array([0, 1, 2, 7, 100])


def descend(weights, learning_rate, momentum=0.0, ridge=0.0):
    """Training and test outputs of the linear model at ``STEPS``, by explicit steps on its parameters."""
    start, velocity, outputs = weights.copy(), np.zeros_like(weights), []
    for step in range(STEPS[-1] + 1):
        if step in STEPS:
            outputs.append((FEATURES @ weights, FEATURES_TEST @ weights))
        gradient = (FEATURES.T @ (FEATURES @ weights - Y) + ridge * (weights - start)) / N
        velocity = momentum * velocity - learning_rate * gradient
        weights = weights + velocity
    return (np.array(o) for o in zip(*outputs))


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_descent_against_explicit_steps(momentum, ridge):
    rate = 0.7 * float(max_learning_rate(K, momentum=momentum, ridge=ridge))
    options = {"learning_rate": rate, "momentum": momentum, "ridge": ridge}
    path = training_path(K, Y, f0_train=F0, method="gd", **options)
    train, test = descend(START, **options)
    # 100 steps of rounding
    np.testing.assert_allclose(path.train(STEPS), train, rtol=0, atol=1e-11)
    np.testing.assert_allclose(path.test(K_STAR, STEPS, F0_TEST), test, rtol=0, atol=1e-11)


def test_flow_against_the_matrix_exponential():
    path = training_path(K, Y, f0_train=F0, learning_rate=2.0, ridge=0.1)
    for t in (0.0, 0.3, 5.0):
        decay = scipy.linalg.expm(-2.0 * t / N * (K + 0.1 * np.eye(N)))
        dual = np.linalg.solve(K + 0.1 * np.eye(N), (np.eye(N) - decay) @ (Y - F0))
        np.testing.assert_allclose(path.dual(t), dual, atol=1e-12)
        np.testing.assert_allclose(path.train(t), F0 + K @ dual, atol=1e-12)
        np.testing.assert_allclose(path.test(K_STAR, t, F0_TEST), F0_TEST + K_STAR @ dual, atol=1e-12)


@pytest.mark.parametrize("options", [{"method": "flow"}, {"method": "gd"}, {"method": "gd", "momentum": 0.9}])
def test_infinite_time_is_kernel_ridge_regression(options):
    path = training_path(K, Y, learning_rate=1.0, ridge=0.2, **options)
    ridge = kernel_regression(K, Y, 0.2).predict(K_STAR)
    np.testing.assert_allclose(path.test(K_STAR, np.inf), ridge, atol=1e-12)
    np.testing.assert_allclose(path.test(K_STAR, 100_000), ridge, atol=1e-9)


def test_directions_without_kernel_are_never_learned():
    features = FEATURES[:, :3]  # rank 3 of 8
    path = training_path(features @ features.T, Y, learning_rate=1.0, method="gd")
    least_squares = features @ np.linalg.lstsq(features, Y)[0]
    np.testing.assert_allclose(path.train(np.inf), least_squares, atol=1e-12)
    np.testing.assert_allclose(path.train(10_000), least_squares, atol=1e-9)


def test_max_learning_rate_separates_convergence_from_divergence():
    for momentum in (0.0, 0.9):
        largest = max_learning_rate(K, momentum=momentum)
        for factor, converges in ((0.99, True), (1.01, False)):
            path = training_path(K, Y, learning_rate=factor * largest, method="gd", momentum=momentum)
            residual = np.abs(path.train(20_000) - Y).max()
            assert (residual < 1e-3) == converges
            assert np.isfinite(path.train(jnp.inf)).all() == converges


def test_small_rates_survive_float32():
    # h s = 1e-8 is lost in 1 - h s at this precision; a relative error of 31 roundings is not.
    path = training_path(
        jnp.eye(1, dtype=jnp.float32), jnp.ones((1, 1), jnp.float32), learning_rate=1e-8, method="gd", momentum=0.9
    )
    np.testing.assert_allclose(path.train(10_000_000)[0, 0], 1 - np.exp(-1.0), rtol=1e-5)
    assert path.train(3).dtype == jnp.float32


def test_descent_with_small_steps_is_flow():
    descent = training_path(K, Y, learning_rate=1e-4, method="gd").train(100_000)
    np.testing.assert_allclose(descent, training_path(K, Y, learning_rate=1e-4).train(100_000), atol=1e-3)


@pytest.mark.parametrize("method", ["flow", "gd"])
def test_ensemble_against_trained_linear_models(method):
    # Linear models with random initial weights: the tangent kernel and the NNGP are both theirs, up to the variance.
    n_models, variance, rate = 20_000, 0.5, 1.0
    starts = variance**0.5 * np.random.default_rng(1).standard_normal((n_models, P))
    path = training_path(K, Y[:, :1], learning_rate=rate, method=method)
    times = np.array([0, 5, np.inf])
    law = path.ensemble(K_STAR, variance * K, variance * K_STAR, variance * FEATURES_TEST @ FEATURES_TEST.T, times)
    outputs = jax.vmap(
        lambda w: training_path(K, Y[:, :1], f0_train=(FEATURES @ w)[:, None], learning_rate=rate, method=method).test(
            K_STAR, times, (FEATURES_TEST @ w)[:, None]
        )
    )(starts)[..., 0]  # models, times, points
    # A correct estimate of the path of one model is tested above; 5 standard errors of mean and covariance.
    np.testing.assert_allclose(outputs.mean(0), law.mean[..., 0], atol=5 * (variance / n_models) ** 0.5)
    for i in range(3):
        np.testing.assert_allclose(
            np.cov(outputs[:, i].T), law.covariance[i], atol=5 * 1.5 * variance * (2 / n_models) ** 0.5
        )
    # At the end: the deterministic part of the posterior, and a trained model knows nothing off its features.
    projector = np.eye(P) - np.linalg.pinv(FEATURES) @ FEATURES
    np.testing.assert_allclose(law.covariance[2], variance * FEATURES_TEST @ projector @ FEATURES_TEST.T, atol=1e-12)


def test_ensemble_keeps_the_mean_of_the_start():
    path = training_path(K, Y, f0_train=F0, learning_rate=1.0)
    law = path.ensemble(K_STAR, K, K_STAR, np.eye(M), 3.0, F0_TEST)
    np.testing.assert_array_equal(law.mean, path.test(K_STAR, 3.0, F0_TEST))


def test_paths_pass_through_jit_vmap_and_grad():
    def final(learning_rate, momentum):
        return jnp.sum(training_path(K, Y, learning_rate=learning_rate, method="gd", momentum=momentum).train(9) ** 2)

    rates = jnp.array([0.1, 1.0])
    together = jax.jit(jax.vmap(final))(rates, jnp.array([0.0, 0.9]))
    np.testing.assert_allclose(together[1], final(1.0, 0.9), rtol=1e-12)
    slope = (final(1.0 + 1e-6, 0.5) - final(1.0 - 1e-6, 0.5)) / 2e-6
    np.testing.assert_allclose(jax.grad(final)(1.0, 0.5), slope, rtol=1e-7)
    assert isinstance(jax.tree.map(lambda x: x, training_path(K, Y, learning_rate=1.0)), TrainingPath)


def test_impossible_values_under_jit_are_nan():
    def train(t, momentum):
        return training_path(K, Y, learning_rate=1.0, method="gd", momentum=momentum).train(t)

    assert np.isnan(jax.jit(train)(1.5, 0.0)).all()
    assert np.isnan(jax.jit(train)(-1.0, 0.0)).all()
    assert np.isnan(jax.jit(train)(1e10, 0.0)).all()
    assert np.isnan(jax.jit(train)(1.0, 1.0)).all()
    assert np.isnan(training_path(-K, Y, learning_rate=1.0).train(1.0)).any()


@given(st.floats(1e-3, 10), st.floats(1e-2, 1e2))
def test_early_stopping_time_is_where_complexity_meets_noise(noise, learning_rate):
    t = early_stopping_time(K, noise, learning_rate=learning_rate)
    tau = t * learning_rate
    complexity = np.sqrt(np.mean(np.minimum(np.linalg.eigvalsh(K) / N, 1 / tau)))
    np.testing.assert_allclose(complexity, 1 / (2 * np.e * noise**0.5 * tau), rtol=1e-9)


def test_early_stopping_never_stops_without_noise():
    assert early_stopping_time(K, 0.0, learning_rate=1.0) == np.inf
    assert np.isnan(jax.jit(lambda noise: early_stopping_time(K, noise, learning_rate=1.0))(-1.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"momentum": 1.0, "method": "gd"}, r"`momentum` must be in \[0, 1\)"),
        ({"momentum": -0.1, "method": "gd"}, "`momentum` must be at least 0"),
        ({"momentum": 0.9}, "`momentum` must be 0 for gradient flow"),
        ({"method": "adam"}, "`method` must be one of 'flow', 'gd'"),
        ({"learning_rate": 0.0}, "`learning_rate` must be a positive number"),
        ({"ridge": -1.0}, "`ridge` must be at least 0"),
        ({"f0_train": F0[:2]}, "`f0_train` must have shape"),
        ({"y": Y[:2]}, "`y` must have shape"),
        ({"k_train": K[:2]}, "`k_train` must be a square matrix"),
    ],
)
def test_errors(change, message):
    with pytest.raises(ValueError, match=message):
        training_path(**{"k_train": K, "y": Y, "learning_rate": 1.0, **change})


def test_errors_of_times_and_blocks():
    path = training_path(K, Y, learning_rate=1.0, method="gd")
    with pytest.raises(ValueError, match="`times` must be whole numbers of steps"):
        path.train(0.5)
    with pytest.raises(ValueError, match="`times` must be at least 0"):
        path.train(-1)
    with pytest.raises(ValueError, match="`times` must be below"):
        path.train(1e10)
    with pytest.raises(ValueError, match="`k_test_train` must have shape"):
        path.test(K_STAR.T, 1)
    with pytest.raises(ValueError, match="`f0_test` must have shape"):
        path.test(K_STAR, 1, F0)
    with pytest.raises(ValueError, match="`nngp_test` must have shape"):
        path.ensemble(K_STAR, K, K_STAR, K, 1)
    with pytest.raises(ValueError, match="`momentum` must be in"):
        max_learning_rate(K, momentum=2.0)


def test_default_precision():
    # The suite runs with 64-bit types enabled; most users do not.
    without_x64 = jax.enable_x64(False) if hasattr(jax, "enable_x64") else jax.experimental.disable_x64()
    with without_x64:
        path = training_path(K.astype(np.float32), Y.astype(np.float32), learning_rate=1.0, method="gd", momentum=0.9)
        outputs = path.train(jnp.array([0, 20, jnp.inf]))
        assert outputs.dtype == np.float32
        outputs = np.asarray(outputs)
    exact = training_path(K, Y, learning_rate=1.0, method="gd", momentum=0.9).train([0, 20, np.inf])
    # A hundred roundings of float32.
    np.testing.assert_allclose(outputs, exact, atol=1e-5)
