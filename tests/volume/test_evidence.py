"""Evidences against SciPy's normal laws, exact orthants, quadrature, finite differences and their symmetries."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special, stats

from genjax.errors import Status
from genjax.ntk import rbf
from genjax.tasks import make_task
from genjax.volume.evidence import (
    gp_log_evidence,
    gp_predictive_log_evidence,
    sign_log_evidence,
    sign_predictive_log_evidence,
)
from genjax.volume.gaussian import GramBlocks, gaussian_posterior
from genjax.volume.oracles import succession_log_fit


def equicorrelated(n, rho):
    return (1 - rho) * jnp.eye(n) + rho


def random_correlation(seed, n):
    x = np.random.default_rng(seed).standard_normal((n, 2 * n))
    gram = x @ x.T
    scale = np.sqrt(np.diag(gram))
    return gram / np.outer(scale, scale)


def small_task(labels=False):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((9, 2))
    y = np.sin(2 * x[:, :1]) + 0.3 * rng.standard_normal((9, 1))
    y = np.where(y > 0, 1.0, -1.0) if labels else y
    return make_task(x[:5], y[:5], x[5:], y[5:])


# --- real targets ---------------------------------------------------------------------------------------------------


def test_gp_evidence_equals_scipy():
    gram, y = random_correlation(0, 6), np.random.default_rng(1).standard_normal((6, 2))
    noisy = gram + 0.3 * np.eye(6)
    exact = sum(stats.multivariate_normal.logpdf(column, np.zeros(6), noisy) for column in y.T)
    # Two factorizations of a well-conditioned matrix.
    np.testing.assert_allclose(gp_log_evidence(gram, y, 0.3), exact, rtol=1e-12)


def test_gp_evidence_is_that_of_the_posterior():
    task = small_task()
    evidence = gp_log_evidence(rbf(1.0)(task.x_train, task.x_train), task.y_train, 0.1)
    np.testing.assert_allclose(evidence, gaussian_posterior(rbf(1.0), task, 0.1).log_evidence, rtol=1e-12)


@pytest.mark.parametrize("gram", [[[1.0, 1.0], [1.0, 1.0]], [[1.0, 2.0], [2.0, 1.0]]])
def test_gp_evidence_of_a_matrix_not_positive_definite_is_nan(gram):
    assert jnp.isnan(jax.jit(gp_log_evidence)(jnp.array(gram), jnp.ones((2, 1))))


def test_gp_evidence_under_jit_refuses_negative_noise():
    assert jnp.isnan(jax.jit(gp_log_evidence)(jnp.eye(2), jnp.ones((2, 1)), -0.1))


def test_gp_evidence_has_gradients_in_hyperparameters():
    task = small_task()

    def evidence(parameters):
        scale, noise = parameters
        return gp_log_evidence(rbf(scale)(task.x_train, task.x_train), task.y_train, noise)

    at = np.array([0.7, 0.2])
    gradient = jax.grad(evidence)(at)
    numeric = optimize.approx_fprime(at, lambda p: float(evidence(p)), 1e-7)
    # A forward difference of step 1e-7 is good to about 1e-7 times the curvature.
    np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-5)


def test_gp_predictive_density_is_the_posterior_density():
    task = small_task()
    posterior = gaussian_posterior(rbf(1.0), task, 0.1)
    covariance = posterior.covariance + 0.1 * jnp.eye(task.n_test)
    exact = stats.multivariate_normal.logpdf(task.y_test[:, 0], posterior.mean[:, 0], covariance)
    np.testing.assert_allclose(gp_predictive_log_evidence(rbf(1.0), task, 0.1), exact, rtol=1e-10)


# --- signs: accuracy ------------------------------------------------------------------------------------------------

# Errors of EP in nats, as printed in the reference table (its first column has one digit, the rest three decimals).
EP_ERROR = {
    5: [-0.0001, -0.001, -0.007, -0.029, -0.074],
    20: [-0.0005, -0.004, -0.018, -0.060, -0.133],
    100: [-0.002, -0.009, -0.032, -0.090, -0.188],
}
CORRELATIONS = [0.1, 0.25, 0.5, 0.75, 0.9]


@pytest.mark.parametrize("k", EP_ERROR)
def test_ep_errors_on_equicorrelated_orthants(k):
    result = jax.lax.map(lambda rho: sign_log_evidence(equicorrelated(k, rho), jnp.ones(k)), jnp.array(CORRELATIONS))
    error = result.value - succession_log_fit(k, CORRELATIONS)
    assert (result.status == Status.OK).all()
    assert ((error < 0) & (error > -0.2)).all()
    # Half a unit of the last printed digit.
    np.testing.assert_allclose(error, EP_ERROR[k], atol=5.1e-4)


def test_ep_of_a_random_orthant():
    gram, labels = random_correlation(5, 5), np.array([1, -1, -1, 1, 1])
    signed = gram * np.outer(labels, labels)
    exact = stats.multivariate_normal.cdf(np.zeros(5), np.zeros(5), signed, abseps=1e-7, releps=1e-7)
    draws = np.random.default_rng(0).multivariate_normal(np.zeros(5), gram, size=400_000)
    share = np.mean((draws * labels > 0).all(axis=1))
    # Four standard errors of the frequency: the integral is right.
    assert abs(share - exact) < 4 * np.sqrt(exact / 400_000)
    # EP's own error at correlations of this size, as in the table above.
    np.testing.assert_allclose(sign_log_evidence(gram, labels).value, np.log(exact), atol=0.01)


@pytest.mark.parametrize("gap", [0.5, 1e-2, 1e-5, 1e-8])
def test_two_nearly_equal_functions_with_opposite_labels(gap):
    """Rare events push the cavities far into the tail, where the closed forms of the moments cancel."""
    result = sign_log_evidence(equicorrelated(2, 1 - gap), jnp.array([1.0, -1.0]))
    exact = np.log(2 * np.arcsin(np.sqrt(gap / 2)) / (2 * np.pi))
    assert result.status == Status.OK
    # EP's own error, measured at 0.0043.
    np.testing.assert_allclose(result.value, exact, atol=0.005)


def test_probit_noise_against_exact_pairs():
    rho, noise, labels = 0.6, 0.4, jnp.array([1.0, 1.0])
    exact = np.log(0.25 + np.arcsin(rho / (1 + noise)) / (2 * np.pi))
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    f, g = np.meshgrid(nodes, nodes)
    pairs = special.ndtr(f / noise**0.5) * special.ndtr((rho * f + np.sqrt(1 - rho**2) * g) / noise**0.5)
    np.testing.assert_allclose(np.log(weights @ pairs @ weights / (2 * np.pi)), exact, atol=1e-8)
    ep = sign_log_evidence(equicorrelated(2, rho), labels, noise)
    laplace = sign_log_evidence(equicorrelated(2, rho), labels, noise, method="laplace")
    # EP's error of a pair is below 0.003; Laplace's is measured at -0.05 and shrinks as the noise grows.
    np.testing.assert_allclose(ep.value, exact, atol=3e-3)
    np.testing.assert_allclose(laplace.value, exact, atol=0.06)
    wide = [sign_log_evidence(equicorrelated(2, rho), labels, 10.0, method=m).value for m in ("ep", "laplace")]
    np.testing.assert_allclose(*wide, atol=2e-3)


@pytest.mark.parametrize("noise", [0.05, 1.0])
def test_laplace_is_the_integral_at_the_mode(noise):
    gram, labels = random_correlation(2, 5), np.array([1, 1, -1, 1, -1])
    inverse = np.linalg.inv(gram)

    def energy(f):
        return f @ inverse @ f / 2 - special.log_ndtr(labels * f / noise**0.5).sum()

    mode = optimize.minimize(energy, np.zeros(5), tol=1e-12).x
    z = labels * mode / noise**0.5
    hazard = np.exp(-0.5 * z**2 - 0.5 * np.log(2 * np.pi) - special.log_ndtr(z))
    curvature = np.diag(hazard * (z + hazard) / noise)
    exact = -energy(mode) - np.linalg.slogdet(np.eye(5) + gram @ curvature)[1] / 2
    # SciPy finds the mode to about 1e-6 and the determinant is of first order in that.
    np.testing.assert_allclose(sign_log_evidence(gram, labels, noise, method="laplace").value, exact, atol=1e-5)


# --- signs: symmetries and transformations --------------------------------------------------------------------------

SIGNS = st.lists(st.sampled_from([-1.0, 1.0]), min_size=5, max_size=5).map(np.array)


@settings(max_examples=10)
@given(st.integers(0, 10**6), SIGNS, SIGNS, st.permutations(range(5)), st.sampled_from(["ep", "laplace"]))
def test_symmetries_of_the_labels(seed, labels, flips, order, method):
    gram, noise = random_correlation(seed, 5), 0.5
    value = sign_log_evidence(gram, labels, noise, method=method).value
    same = [
        sign_log_evidence(gram, -labels, noise, method=method),
        sign_log_evidence(gram * np.outer(flips, flips), labels * flips, noise, method=method),
        sign_log_evidence(gram[np.ix_(order, order)], labels[list(order)], noise, method=method),
        sign_log_evidence(9 * gram, labels, 9 * noise, method=method),
    ]
    # The fixed point is found to 1.5e-8, and the evidence to the square of that or to rounding.
    np.testing.assert_allclose([result.value for result in same], value, rtol=1e-7)


def test_step_likelihood_does_not_see_the_scale_of_a_function():
    gram, scale = random_correlation(0, 5), np.array([1e-3, 1, 10, 1e4, 2])
    labels = np.array([1, 1, -1, 1, -1])
    value = sign_log_evidence(gram * np.outer(scale, scale), labels).value
    np.testing.assert_allclose(value, sign_log_evidence(gram, labels).value, rtol=1e-7)


def test_all_labelings_have_a_total_probability_near_one():
    gram = random_correlation(1, 4)
    labelings = jnp.array(list(itertools.product([-1.0, 1.0], repeat=4)))
    values = jax.vmap(sign_log_evidence, (None, 0))(gram, labelings).value
    one = [sign_log_evidence(gram, labels).value for labels in labelings[:3]]
    # vmap iterates until the slowest labeling has converged, but changes no other.
    np.testing.assert_allclose(values[:3], one, rtol=1e-12)
    # Correlations up to 0.65, where EP is a few hundredths of a nat low for the probable labelings.
    np.testing.assert_allclose(jnp.exp(values).sum(), 1, atol=0.03)


@pytest.mark.parametrize("method", ["ep", "laplace"])
def test_sign_evidence_has_gradients(method):
    base, labels = random_correlation(7, 5), np.array([1, 1, -1, 1, -1])
    direction = jnp.array(random_correlation(8, 5))

    @jax.jit
    def evidence(parameters):
        return sign_log_evidence(base + parameters[0] * direction, labels, parameters[1], method=method).value

    at = jnp.array([0.1, 0.3])
    numeric = [(evidence(at + h) - evidence(at - h)) / 2e-4 for h in 1e-4 * jnp.eye(2)]
    # A central difference of step 1e-4 is good to about 1e-8.
    np.testing.assert_allclose(jax.jit(jax.grad(evidence))(at), numeric, rtol=1e-6, atol=1e-7)


def test_laplace_gradient_where_a_site_vanishes():
    # The second function is a hundred times the first: its label follows, with a likelihood flat to underflow.
    gram, labels = jnp.array([[1.0, 100.0], [100.0, 1e4]]), jnp.ones(2)

    def evidence(gram, labels, noise):
        return sign_log_evidence(gram, labels, noise, method="laplace").value

    slope = jax.jit(jax.value_and_grad(evidence, 2))
    both, alone = slope(gram, labels, 0.1), slope(gram[:1, :1], labels[:1], 0.1)
    np.testing.assert_allclose(both, alone, rtol=1e-6)


def test_laplace_at_next_to_no_noise_in_single_precision():
    gram, labels = jnp.ones((1, 1)), jnp.ones(1)
    exact = sign_log_evidence(gram, labels, 1e-10, method="laplace").value
    single = sign_log_evidence(gram.astype(np.float32), labels, jnp.float32(1e-10), method="laplace").value
    # The curvature at the mode is 1e-8, less than a rounding of one; the log determinant loses 1e-7 times 6 squared.
    np.testing.assert_allclose(single, exact, rtol=1e-4)


@pytest.mark.parametrize("method", ["ep", "laplace"])
def test_single_precision(method):
    gram, labels = random_correlation(0, 5), np.array([1, 1, -1, 1, -1])
    result = sign_log_evidence(gram.astype(np.float32), labels.astype(np.float32), 0.5, method=method)
    assert result.value.dtype == np.float32
    assert result.status == Status.OK
    # A few hundred roundings of 1e-7.
    np.testing.assert_allclose(result.value, sign_log_evidence(gram, labels, 0.5, method=method).value, rtol=2e-5)


# --- signs: prediction ----------------------------------------------------------------------------------------------


def test_predicting_the_succession_perceptron():
    k, j = 10, 10
    blocks = GramBlocks(equicorrelated(k, 0.5), jnp.full((k, j), 0.5), equicorrelated(j, 0.5))
    task = make_task(np.zeros((k, 1)), np.ones((k, 1)), np.zeros((j, 1)), np.ones((j, 1)))
    result = sign_predictive_log_evidence(blocks, task)
    assert result.status == Status.OK
    assert "10 training labels" in result.given
    # I(0) = ln(21 / 11) = 0.6466; the two EP errors are -0.018 and -0.012.
    np.testing.assert_allclose(-result.value, np.log(21 / 11), atol=0.01)


def test_prediction_from_a_kernel_and_from_its_blocks():
    task, kernel = small_task(labels=True), rbf(1.0)
    blocks = GramBlocks(
        kernel(task.x_train, task.x_train), kernel(task.x_train, task.x_test), kernel(task.x_test, task.x_test)
    )
    values = [sign_predictive_log_evidence(space, task, 0.1).value for space in (kernel, blocks)]
    np.testing.assert_allclose(*values, rtol=1e-10)
    np.testing.assert_allclose(
        gp_predictive_log_evidence(kernel, task, 0.1), gp_predictive_log_evidence(blocks, task, 0.1), rtol=1e-10
    )


def test_training_labels_say_nothing_about_independent_test_labels():
    task = small_task(labels=True)
    blocks = GramBlocks(equicorrelated(5, 0.3), jnp.zeros((5, 4)), equicorrelated(4, 0.3))
    for method in ("ep", "laplace"):
        alone = sign_log_evidence(blocks.test, task.y_test[:, 0], 0.5, method=method).value
        given_train = sign_predictive_log_evidence(blocks, task, 0.5, method=method).value
        np.testing.assert_allclose(given_train, alone, rtol=1e-8)


# --- refusals -------------------------------------------------------------------------------------------------------


def test_status_says_when_not_to_trust():
    gram, labels = equicorrelated(5, 0.5), jnp.ones(5)
    assert sign_log_evidence(gram, labels, max_sweeps=2).status == Status.INACCURATE
    assert sign_log_evidence(jnp.ones((2, 2)), jnp.array([1.0, -1.0])).status != Status.OK
    assert sign_log_evidence(gram, labels).error_bound == jnp.inf


@pytest.mark.parametrize(
    ("gram", "labels", "noise"),
    [
        ([[1.0, 1.5], [1.5, 1.0]], [1.0, 1.0], 0.0),
        ([[1.0, 0.0], [0.0, 0.0]], [1.0, 1.0], 0.0),
        ([[1.0, 0.0], [0.0, 1.0]], [1.0, 0.0], 0.0),
        ([[1.0, 0.0], [0.0, 1.0]], [1.0, 1.0], -0.1),
        ([[1.0, jnp.nan], [jnp.nan, 1.0]], [1.0, 1.0], 0.0),
    ],
)
def test_bad_values_under_jit_are_invalid(gram, labels, noise):
    result = jax.jit(sign_log_evidence)(jnp.array(gram), jnp.array(labels), noise)
    assert jnp.isnan(result.value)
    assert result.status == Status.INVALID


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gram": np.ones((2, 3))}, r"`gram` must be a square matrix, but its shape is \(2, 3\)"),
        ({"gram": np.array([[1.0, 0.5], [0.1, 1.0]])}, "`gram` must be symmetric"),
        ({"labels": np.ones(3)}, r"`labels` must have shape \(2\), but its shape is \(3,\)"),
        ({"labels": np.array([1, 0])}, r"`labels` must be \+1 or -1, but 0 came"),
        ({"noise": -1.0}, "`noise` must be at least 0"),
        ({"method": "vb"}, "`method` must be one of 'ep', 'laplace', but 'vb' came"),
        ({"method": "laplace"}, "`noise` must be positive for `method` 'laplace'"),
        ({"max_sweeps": 0}, "`max_sweeps` must be a positive whole number"),
    ],
)
def test_sign_evidence_names_what_is_wrong(change, message):
    arguments = {"gram": np.eye(2), "labels": np.ones(2), **change}
    with pytest.raises(ValueError, match=message):
        sign_log_evidence(**arguments)


def test_gp_evidence_names_what_is_wrong():
    with pytest.raises(ValueError, match=r"`y` must have shape \(2, any\), but its shape is \(3, 1\)"):
        gp_log_evidence(np.eye(2), np.ones((3, 1)))


def test_prediction_names_what_is_wrong():
    task = small_task()
    with pytest.raises(ValueError, match=r"`labels` must be \+1 or -1"):
        sign_predictive_log_evidence(rbf(1.0), task)
    two = make_task(task.x_train, np.ones((5, 2)), task.x_test, np.ones((4, 2)))
    with pytest.raises(ValueError, match="`task` must have one column of labels, but its targets have 2"):
        sign_predictive_log_evidence(rbf(1.0), two)
    with pytest.raises(TypeError, match="`space` must be a kernel or GramBlocks, but GaussianPosterior came"):
        gp_predictive_log_evidence(gaussian_posterior(rbf(1.0), task), task)
