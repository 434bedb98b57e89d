import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from genjax.ntk.kernels import rbf
from genjax.ntk.regression import GaussianPrediction, KernelRegression, gp_posterior, kernel_regression, spectrum
from genjax.volume import gp_log_evidence

RNG = np.random.default_rng(0)
N, M, C = 12, 5, 2
X, X_TEST = RNG.standard_normal((N, 3)), RNG.standard_normal((M, 3))
Y = RNG.standard_normal((N, C))
KERNEL = rbf(1.5)
K, K_STAR, K_TEST = (np.asarray(KERNEL(*pair)) for pair in ((X, X), (X_TEST, X), (X_TEST, X_TEST)))


def test_predictions_against_the_normal_equations():
    fit = kernel_regression(K, Y, 0.1)
    inverse = np.linalg.inv(K + 0.1 * np.eye(N))
    # Condition about 100: rounding stays below 1e-13.
    np.testing.assert_allclose(fit.predict(K_STAR), K_STAR @ inverse @ Y, rtol=0, atol=1e-12)
    posterior = gp_posterior(K, K_STAR, K_TEST, Y, 0.1)
    assert isinstance(posterior, GaussianPrediction)
    np.testing.assert_array_equal(posterior.mean, fit.predict(K_STAR))
    np.testing.assert_allclose(posterior.covariance, K_TEST - K_STAR @ inverse @ K_STAR.T, atol=1e-12)


def test_without_ridge_it_interpolates():
    np.testing.assert_allclose(kernel_regression(K, Y).predict(K), Y, atol=1e-9)


def test_leave_one_out_against_refitting():
    predicted = kernel_regression(K, Y, 0.1).leave_one_out()
    for i in range(N):
        rest = np.arange(N) != i
        refit = kernel_regression(K[rest][:, rest], Y[rest], 0.1)
        np.testing.assert_allclose(predicted[i], refit.predict(K[[i]][:, rest])[0], rtol=1e-10)


def test_log_marginal_likelihood_against_scipy():
    law = scipy.stats.multivariate_normal(cov=np.asarray(K) + 0.1 * np.eye(N))
    value = kernel_regression(K, Y, 0.1).log_marginal_likelihood
    np.testing.assert_allclose(value, law.logpdf(Y.T).sum(), rtol=1e-12)
    np.testing.assert_allclose(value, gp_log_evidence(K, Y, 0.1), rtol=1e-12)


def test_gradient_of_the_likelihood_in_hyper_parameters():
    @jax.jit
    def likelihood(length_scale, noise):
        return kernel_regression(rbf(length_scale)(X, X), Y, noise).log_marginal_likelihood

    gradient = jax.jit(jax.grad(likelihood, (0, 1)))(1.5, 0.1)
    h = 1e-5
    for i, step in enumerate([(h, 0), (0, h)]):
        difference = (likelihood(1.5 + step[0], 0.1 + step[1]) - likelihood(1.5 - step[0], 0.1 - step[1])) / (2 * h)
        # Central differences: h^2 = 1e-10 of third derivatives of order 1e3, rounding 1e-13 / h.
        np.testing.assert_allclose(gradient[i], difference, rtol=1e-6)


def test_vmap_over_ridges_and_float32():
    fits = jax.vmap(kernel_regression, (None, None, 0))(K, Y, jnp.array([0.1, 1.0]))
    assert isinstance(fits, KernelRegression)
    predictions = jax.vmap(KernelRegression.predict, (0, None))(fits, K_STAR)
    np.testing.assert_allclose(predictions[1], kernel_regression(K, Y, 1.0).predict(K_STAR), rtol=1e-12)
    single = kernel_regression(K.astype(np.float32), Y.astype(np.float32), np.float32(0.1))
    assert single.dual.dtype == np.float32
    # float32 rounding 6e-8 times a condition number of about 100
    np.testing.assert_allclose(single.predict(K_STAR.astype(np.float32)), predictions[0], atol=3e-5)


@given(st.floats(1e-3, 1e3), st.integers(0, 100))
def test_scaling_kernel_and_ridge_together_changes_nothing(scale, seed):
    y = np.random.default_rng(seed).standard_normal((N, 1))
    scaled = kernel_regression(scale * K, y, scale * 0.1).predict(scale * K_STAR)
    np.testing.assert_allclose(scaled, kernel_regression(K, y, 0.1).predict(K_STAR), rtol=1e-9, atol=1e-11)


def test_many_points_in_float32_are_not_taken_for_singular():
    # The smallest eigenvalue is 1e-4 of the largest, the resolution of float32 1e-7; a bound of n roundings fails here.
    n = 1000
    gram = (0.1 * np.eye(n) + 1).astype(np.float32)
    y = RNG.standard_normal((n, 1)).astype(np.float32)
    y -= y.mean()
    np.testing.assert_allclose(kernel_regression(gram, y).dual, 10 * y, rtol=1e-2, atol=1e-2)
    assert (spectrum(jnp.asarray(gram))[0] > 0.09).all()


def test_singular_matrices_and_bad_ridges_give_nan_under_jit():
    assert np.isnan(kernel_regression(jnp.ones((3, 3)), jnp.ones((3, 1))).dual).all()
    assert np.isnan(jax.jit(kernel_regression)(K, Y, -0.1).dual).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((3, 2)), np.ones((3, 1))), "`k_train` must be a square matrix"),
        ((np.arange(4.0).reshape(2, 2), np.ones((2, 1))), "`k_train` must be symmetric"),
        ((np.full((2, 2), np.nan), np.ones((2, 1))), "`k_train` must be finite"),
        ((np.eye(2), np.ones(2)), r"`y` must have shape \(2, any\)"),
        ((np.eye(2), np.ones((3, 1))), r"`y` must have shape \(2, any\)"),
        ((np.eye(2), np.ones((2, 1)), -1.0), "`ridge` must be at least 0"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        kernel_regression(*arguments)


def test_errors_of_predictions():
    fit = kernel_regression(K, Y, 0.1)
    with pytest.raises(ValueError, match="`k_test_train` must have shape"):
        fit.predict(K_STAR.T)
    with pytest.raises(ValueError, match="`k_test` must have shape"):
        fit.covariance(K_STAR, K)
    with pytest.raises(ValueError, match="`noise` must be at least 0"):
        gp_posterior(K, K_STAR, K_TEST, Y, -1)
    with pytest.raises(TypeError, match="`y` must be an array of real numbers"):
        kernel_regression(K, Y + 1j)
