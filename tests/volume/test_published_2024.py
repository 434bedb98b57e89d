"""The 2024 estimator: its tail, its draws and its Adam solve, each against an independent computation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from genjax.volume import oracles
from genjax.volume.published.boopathy2024 import (
    AdamFit,
    AdamPosterior,
    Tail,
    adam_epoch,
    adam_init,
    adam_posterior,
    fit_tail,
    inductive_bias,
    sample_errors,
    tail_inductive_bias,
)
from tests.volume.digits import digits_rbf_posterior

LAW = Tail(df=12.0, nc=20.0, scale=0.03)


def rbf(x1, x2):
    return jnp.exp(-jnp.sum((x1[:, None] - x2[None]) ** 2, axis=-1) / 2)


@pytest.fixture(scope="module")
def sample():
    rng = np.random.default_rng(0)
    return LAW.scale * stats.ncx2.rvs(LAW.df, LAW.nc, size=2000, random_state=rng)


@pytest.fixture(scope="module")
def posterior():
    rng = np.random.default_rng(1)
    root = rng.standard_normal((6, 6)) / 3
    return rng.standard_normal((6, 2)), root @ root.T, rng.standard_normal((6, 2))


# --- tail -----------------------------------------------------------------------------------------------------------


def test_tail_is_scipys_log_cdf_where_that_exists():
    error = LAW.scale * np.array([1.0, 10, 30, 100])
    exact = -stats.ncx2.logcdf(error / LAW.scale, LAW.df, LAW.nc)
    np.testing.assert_allclose(tail_inductive_bias(LAW, error), exact, rtol=1e-12)


def test_tail_of_a_law_in_the_family_is_recovered_where_the_sample_reaches(sample):
    error = LAW.scale * stats.ncx2.ppf([0.02, 0.1, 0.5], LAW.df, LAW.nc)
    # The error of a log frequency from 2000 draws, which the parametric fit can only lower: four times
    # sqrt((1 - p) / (2000 p)).
    tolerance = 4 * np.sqrt(np.array([49, 9, 1]) / 2000)
    nats = inductive_bias(sample, error)
    assert np.all(np.abs(nats + np.log([0.02, 0.1, 0.5])) < tolerance)


def test_fit_does_at_least_as_well_as_the_truth(sample):
    tail = fit_tail(sample)

    def log_likelihood(df, nc, scale):
        return stats.ncx2.logpdf(sample, df, nc, scale=scale).sum()

    assert log_likelihood(*tail) >= log_likelihood(*LAW)
    np.testing.assert_allclose(tail.scale * (tail.df + tail.nc), sample.mean(), rtol=0.01)


def test_fallback_is_half_the_square_of_the_power_normal_deviate():
    # Where SciPy underflows; the approximation is written out a second time, in the sums df + i nc.
    df, nc, x = 1500.0, 40.0, 60.0
    s1, s2, s3 = df + nc, df + 2 * nc, df + 3 * nc
    h = 1 - (2 / 3) * s1 * s3 / s2**2
    p, m = s2 / s1**2, (h - 1) * (1 - 3 * h)
    mean = 1 + h * p * (h - 1) - 0.5 * h * (2 - h) * m * p**2
    deviation = h * np.sqrt(2 * p) * (1 + m * p / 2)
    exact = 0.5 * (((x / s1) ** h - mean) / deviation) ** 2
    tail = Tail(df, nc, 2.0)
    assert tail_inductive_bias(tail, 2 * x, fallback=False) == np.inf
    np.testing.assert_allclose(tail_inductive_bias(tail, 2 * x), exact, rtol=1e-12)
    # What it stands in for: not even the leading digits are right.
    truth = -oracles.noncentral_chi2_logcdf(x, df, nc)
    assert abs(exact / truth - 1) > 0.1


def test_power_normal_deviate_is_good_in_the_bulk():
    from genjax.volume.published.boopathy2024 import _power_normal

    df, nc = 50.0, 30.0
    x = stats.ncx2.ppf([0.01, 0.2, 0.5, 0.9], df, nc)
    # The approximation's own error: third moments match, so a few 1e-4 in probability.
    np.testing.assert_allclose(stats.norm.cdf(_power_normal(x, df, nc)), [0.01, 0.2, 0.5, 0.9], atol=1e-3)


def test_batch_size_puts_errors_on_the_published_scale(sample):
    # Fitting is scale-equivariant up to the optimizer's stopping rule.
    nats = inductive_bias(sample, 0.5 / 50, batch_size=50)
    np.testing.assert_allclose(nats, inductive_bias(sample, 0.5), rtol=0.02)
    assert nats > 0.5


def test_a_certain_target_costs_nothing(sample):
    nats = tail_inductive_bias(LAW, 1e3)
    assert nats == 0
    assert not np.signbit(nats)


# --- draws ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("square_root", ["sqrtm", "eigh"])
def test_draws_have_the_exact_mean_and_variance(posterior, square_root):
    mean, covariance, y = posterior
    errors = np.asarray(sample_errors(jax.random.key(0), mean, covariance, y, 20_000, square_root=square_root))
    assert errors.shape == (20_000,)
    offset = mean - y
    expected = (np.sum(offset**2) + 2 * np.trace(covariance)) / 12
    variance = (4 * np.trace(covariance @ covariance) + 4 * np.sum(offset * (covariance @ offset))) / 12**2
    # Four standard errors; that of a variance is sqrt((kurtosis - 1) / n) with kurtosis below 7 here.
    np.testing.assert_allclose(errors.mean(), expected, atol=4 * np.sqrt(variance / 20_000))
    np.testing.assert_allclose(errors.var(), variance, rtol=4 * np.sqrt(6 / 20_000))


def test_draws_depend_on_the_key_and_not_on_the_chunks(posterior):
    def draw(seed, chunk_size):
        return np.asarray(sample_errors(jax.random.key(seed), *posterior, 100, chunk_size=chunk_size))

    np.testing.assert_array_equal(draw(0, 32), draw(0, 32))
    # Other matrix shapes may sum in another order.
    np.testing.assert_allclose(draw(0, 32), draw(0, 7), rtol=1e-5)
    assert not np.any(draw(0, 32) == draw(1, 32))


def test_both_roots_agree_on_a_covariance(posterior):
    roots = [sample_errors(jax.random.key(0), *posterior, 50, square_root=root) for root in ("sqrtm", "eigh")]
    # The symmetric positive root is unique.
    np.testing.assert_allclose(*roots, rtol=1e-5)


def test_draws_without_spread_are_the_error_of_the_mean(posterior):
    mean, covariance, y = posterior
    errors = sample_errors(jax.random.key(0), mean, 0 * covariance, y, 3, square_root="eigh")
    np.testing.assert_allclose(errors, np.mean((mean - y) ** 2), rtol=1e-6)


def test_indefinite_covariance_is_kept_by_the_published_root_and_refused_by_the_exact_one(posterior):
    mean, covariance, y = posterior
    indefinite = covariance - 0.1 * np.eye(6)
    assert np.linalg.eigvalsh(indefinite).min() < -1e-3
    assert np.isfinite(sample_errors(jax.random.key(0), mean, indefinite, y, 10)).all()
    with pytest.raises(ValueError, match="`covariance` must be symmetric positive semi-definite"):
        sample_errors(jax.random.key(0), mean, indefinite, y, 10, square_root="eigh")
    skewed = covariance + 0.1 * np.triu(np.ones((6, 6)), 1)
    with pytest.raises(ValueError, match=r"its asymmetry is 0\.1"):
        sample_errors(jax.random.key(0), mean, skewed, y, 10, square_root="eigh")


# --- Adam -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def regression():
    rng = np.random.default_rng(2)
    x_train, x_test = 2 * rng.standard_normal((7, 3)), rng.standard_normal((4, 3))
    return x_train, rng.standard_normal((7, 2)), x_test


def test_one_epoch_equals_a_plain_loop(regression):
    x, y, _ = regression
    key = jax.random.key(5)
    gram = np.asarray(rbf(jnp.asarray(x), jnp.asarray(x)))
    c, first, second, losses = np.zeros((7, 2)), 0.0, 0.0, []
    order = np.asarray(jax.random.permutation(key, 7))
    # Batches of 3, 3 and 1.
    for t, batch in enumerate([order[:3], order[3:6], order[6:]], start=1):
        residual = gram[batch] @ c - y[batch]
        losses.append(np.mean(residual**2))
        gradient = 2 * gram[batch].T @ residual / residual.size
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        c = c - 0.05 * (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
    fit, loss = adam_epoch(adam_init(y), key, x, y, 0.05, kernel=rbf, batch_size=3)
    assert isinstance(fit, AdamFit)
    # Float32 rounding, should the suite run without x64.
    np.testing.assert_allclose(fit.coefficients, c, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)


def test_full_batches_converge_to_the_exact_posterior(regression):
    x_train, y_train, x_test = regression
    result = adam_posterior(
        jax.random.key(0),
        rbf,
        *regression,
        n_epochs=4000,
        batch_size=7,
        learning_rate_alpha=1e-2,
        learning_rate_cross=1e-2,
    )
    gram, cross = np.asarray(rbf(x_train, x_train)), np.asarray(rbf(x_train, x_test))
    # Well-conditioned, so that Adam can get there at all.
    assert np.linalg.cond(gram) < 20
    solved = np.linalg.solve(gram, cross)
    np.testing.assert_allclose(result.mean, solved.T @ y_train, atol=1e-3)
    exact = np.asarray(rbf(x_test, x_test)) - cross.T @ solved
    np.testing.assert_allclose(result.covariance, exact, atol=1e-3)
    assert result.mean_losses.shape == result.covariance_losses.shape == (4000,)
    assert result.mean_losses[-1] < 1e-6 * result.mean_losses[0]


def test_small_batches_do_not_converge_and_leave_an_asymmetric_covariance(regression):
    result = adam_posterior(jax.random.key(0), rbf, *regression, n_epochs=300, batch_size=2)
    assert isinstance(result, AdamPosterior)
    covariance = np.asarray(result.covariance)
    assert np.abs(covariance - covariance.T).max() > 1e-4


def test_the_solve_is_deterministic_in_its_key(regression):
    def mean(seed):
        return np.asarray(adam_posterior(jax.random.key(seed), rbf, *regression, n_epochs=20, batch_size=2).mean)

    np.testing.assert_array_equal(mean(0), mean(0))
    assert np.abs(mean(0) - mean(1)).max() > 0


def test_the_solve_is_so_many_epochs(regression):
    x_train, y_train, x_test = regression
    result = adam_posterior(jax.random.key(3), rbf, *regression, n_epochs=3, batch_size=2)
    fit, losses = adam_init(y_train), []
    for key in jax.random.split(jax.random.split(jax.random.key(3))[0], 3):
        fit, loss = adam_epoch(fit, key, x_train, y_train, 1e-2, kernel=rbf, batch_size=2)
        losses.append(loss)
    # The same operations, compiled in another loop.
    np.testing.assert_allclose(result.mean_losses, losses, rtol=1e-5)
    np.testing.assert_allclose(result.mean, rbf(x_test, x_train) @ fit.coefficients, rtol=1e-4, atol=1e-6)


# --- bad input ------------------------------------------------------------------------------------------------------

KEY = jax.random.key(0)
ONES = np.ones((3, 2))
BAD = [
    (lambda: fit_tail([1.0, -1.0]), "`errors` must be finite and above 0, but -1 came"),
    (lambda: fit_tail([1.0]), "`errors` must be a vector of at least 2 values"),
    (lambda: fit_tail(ONES), "not all equal"),
    (lambda: inductive_bias([1.0, 2.0], 0.0), "`target_error` must be finite and above 0"),
    (lambda: inductive_bias([1.0, 2.0], 1.0, batch_size=0), "`batch_size` must be a positive whole number"),
    (lambda: tail_inductive_bias(Tail(0, 1, 1), 1.0), "`tail` must have positive `df`"),
    (lambda: tail_inductive_bias(LAW, np.nan), "`target_error` must be"),
    (lambda: sample_errors(KEY, np.ones(3), np.eye(3), ONES), "`mean` must have 2 axes"),
    (lambda: sample_errors(KEY, ONES, np.eye(2), ONES), r"`covariance` must have shape \(3, 3\)"),
    (lambda: sample_errors(KEY, ONES, np.eye(3), ONES.T), r"`y_test` must have shape \(3, 2\)"),
    (lambda: sample_errors(KEY, ONES, np.eye(3), ONES, 0), "`n_samples` must be a positive whole number"),
    (lambda: sample_errors(KEY, ONES, np.eye(3), ONES, chunk_size=0), "`chunk_size` must be"),
    (
        lambda: sample_errors(KEY, ONES, np.eye(3), ONES, square_root="chol"),
        "`square_root` must be one of 'sqrtm', 'eigh'",
    ),
    (lambda: adam_posterior(KEY, rbf, ONES, np.ones((4, 1)), ONES), r"`y_train` must have shape \(3, any\)"),
    (lambda: adam_posterior(KEY, rbf, ONES, ONES, ONES.T), r"`x_test` must have shape \(any, 2\)"),
    (lambda: adam_posterior(KEY, rbf, np.ones(3), ONES, ONES), "`x_train` must have 2 axes"),
    (lambda: adam_posterior(KEY, rbf, ONES, ONES, ONES, n_epochs=0), "`n_epochs` must be"),
    (lambda: adam_posterior(KEY, rbf, ONES, ONES, ONES, n_epochs=1, batch_size=-1), "`batch_size` must be"),
    (lambda: adam_posterior(KEY, rbf, ONES, ONES, ONES, learning_rate_alpha=0), "`learning_rate_alpha` must be"),
    (lambda: adam_posterior(KEY, rbf, ONES, ONES, ONES, learning_rate_cross=0), "`learning_rate_cross` must be"),
    (lambda: adam_init(np.ones(3)), "`targets` must have 2 axes"),
    (lambda: adam_epoch(adam_init(ONES), KEY, ONES, np.ones((4, 2)), 0.1, kernel=rbf), "`targets` must have shape"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_values_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_bad_types_are_named():
    with pytest.raises(TypeError, match="`errors` must hold real numbers"):
        fit_tail(["a", "b"])


# --- the published answer on a real task -----------------------------------------------------------------------------


@pytest.mark.slow
def test_published_tail_misses_the_exact_answer_on_digits():
    mean, covariance, y_test = digits_rbf_posterior()
    covariance = (covariance + covariance.T) / 2
    errors = sample_errors(jax.random.key(0), mean, covariance, y_test, square_root="eigh")
    # sd .01329 over 10,000 draws.
    np.testing.assert_allclose(errors.mean(), oracles.DIGITS_RBF_EXPECTED_ERROR, atol=4 * 0.01329 / 100)
    exact = oracles.DIGITS_RBF_NATS[0.1]
    nats = inductive_bias(errors, 0.1)
    # Three seeds measured 824, 1101 and 1108 of 2029.5.
    assert 600 < nats < 0.7 * exact
