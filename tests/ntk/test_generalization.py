import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genjax.ntk.generalization import Eigenlearning, KernelSpectrum, RiskEstimate, eigenlearning, kare, kernel_spectrum
from genjax.ntk.kernels import mlp_ntk
from genjax.ntk.regression import kernel_regression

RIDGE = 0.01


@functools.cache
def hypercube():
    """The 1024 corners, the kernel among them, and parities of 1, 2 and 3 coordinates."""
    corners = np.array(list(itertools.product((-1.0, 1.0), repeat=10)))
    gram = np.asarray(mlp_ntk(3, 2.0, 0.01)(corners, corners))
    return gram, np.stack([corners[:, :k].prod(axis=1) for k in (1, 2, 3)], axis=1)


@functools.cache
def hypercube_spectrum():
    gram, parities = hypercube()
    return jax.tree.map(np.asarray, kernel_spectrum(gram, parities))


def experiment(degree, n, n_draws):
    """Errors over the whole cube, and learned fractions of the parity, of draws without replacement."""
    gram, parities = hypercube()
    y = parities[:, [degree - 1]]
    rng = np.random.default_rng(0)
    orders = np.array([rng.permutation(1024) for _ in range(n_draws)])

    @jax.jit
    def draw(order):
        chosen = order[:n]
        fit = kernel_regression(jnp.asarray(gram)[chosen][:, chosen], jnp.asarray(y)[chosen], RIDGE)
        predicted = fit.predict(jnp.asarray(gram)[:, chosen])
        return jnp.mean((predicted - y) ** 2), jnp.mean(predicted * y)

    return np.array([draw(order) for order in orders]).T


def test_spectrum_of_the_hypercube():
    spectrum = hypercube_spectrum()
    # One level for each parity degree, up to degree 5 in this order; reference values to 6 digits.
    levels = {1: 2.33662, 10: 0.206559, 45: 0.0334384, 120: 0.00632466, 210: 0.00277688, 252: 0.00155995}
    for multiplicity, value, stop in zip(levels, levels.values(), np.cumsum(list(levels)), strict=True):
        np.testing.assert_allclose(spectrum.eigenvalues[stop - multiplicity : stop], value, rtol=3e-6)
    np.testing.assert_allclose(np.sum(spectrum.coefficients**2, axis=0) + spectrum.unexplained, 1, rtol=1e-10)


TABLE = [
    (1, 16, 0.4448, 0.3946, 0.3169, 1.214),
    (1, 64, 0.0581, 0.7910, 0.0546, 1.330),
    (2, 64, 0.5113, 0.3799, 0.0546, 1.330),
    (2, 256, 0.0537, 0.8164, 0.0075, 1.593),
    (3, 64, 1.0678, 0.1038, 0.0546, 1.330),
    (3, 256, 0.4699, 0.4569, 0.0075, 1.593),
]


def theory(degree, n):
    spectrum = hypercube_spectrum()
    power = spectrum.coefficients[:, degree - 1] ** 2
    return eigenlearning(spectrum.eigenvalues, power, n, RIDGE), power


@pytest.mark.parametrize(("degree", "n", "mse", "learnability", "kappa", "overfitting"), TABLE)
def test_hypercube_theory(degree, n, mse, learnability, kappa, overfitting):
    result, power = theory(degree, n)
    # The reference is rounded to four digits after the point (three for the last).
    np.testing.assert_allclose(result.test_mse, mse, rtol=0, atol=1e-4)
    np.testing.assert_allclose(np.sum(result.learnability * power), learnability, rtol=0, atol=1e-4)
    np.testing.assert_allclose(result.kappa, kappa, rtol=0, atol=1e-4)
    np.testing.assert_allclose(result.overfitting_coefficient, overfitting, rtol=0, atol=1e-3)


def check_experiment(degree, n, n_draws, slack):
    errors, learned = experiment(degree, n, n_draws)
    result, power = theory(degree, n)
    for values, expected in ((errors, result.test_mse), (learned, np.sum(result.learnability * power))):
        standard_error = values.std(ddof=1) / n_draws**0.5
        assert abs(values.mean() - expected) < max(3 * standard_error, slack * expected)


@pytest.mark.parametrize(("degree", "n"), [(1, 16), (2, 64)])
def test_hypercube_experiment(degree, n):
    check_experiment(degree, n, 20, 0.0)


MEASURED = [  # error and its standard error, of other draws than ours
    (1, 16, 0.4442, 0.0083),
    (1, 64, 0.0623, 0.0016),
    (2, 64, 0.5160, 0.0065),
    (2, 256, 0.0562, 0.0006),
    (3, 64, 1.0686, 0.0070),
    (3, 256, 0.4782, 0.0038),
]


@pytest.mark.slow
@pytest.mark.parametrize(("degree", "n", "mse", "standard_error"), MEASURED)
def test_hypercube_experiment_in_full(degree, n, mse, standard_error):
    # The theory is asymptotic: on so small a domain it is up to 7 % too low, which 60 draws resolve (4 standard errors
    # at degree 2, n = 256).
    check_experiment(degree, n, 60, 0.08)
    errors, _ = experiment(degree, n, 60)
    assert abs(errors.mean() - mse) < 3 * np.hypot(errors.std(ddof=1) / 60**0.5, standard_error)


@pytest.mark.parametrize("n", [16, 64])
def test_kare_estimates_kappa_and_risk(n):
    gram, parities = hypercube()
    y = parities[:, [1]]
    rng = np.random.default_rng(1)
    estimates = []
    for _ in range(10):
        chosen = rng.permutation(1024)[:n]
        estimates.append(kare(gram[np.ix_(chosen, chosen)], y[chosen], RIDGE))
    result, _ = theory(2, n)
    kappas, risks = np.array([e.kappa for e in estimates]), np.array([e.mse for e in estimates])
    np.testing.assert_allclose(kappas.mean(), result.kappa, rtol=0.06)
    np.testing.assert_allclose(risks.mean(), result.test_mse, rtol=0.05, atol=3 * risks.std(ddof=1) / 10**0.5)


def test_kare_is_generalized_cross_validation():
    gram, parities = hypercube()
    gram, y = gram[::40, ::40], parities[::40, :2]
    n = len(y)
    hat = gram @ np.linalg.inv(gram + 0.3 * np.eye(n))
    gcv = np.mean(np.sum((y - hat @ y) ** 2, axis=1)) / np.mean(1 - np.diag(hat)) ** 2
    estimate = kare(gram, y, 0.3)
    assert isinstance(estimate, RiskEstimate)
    np.testing.assert_allclose(estimate.mse, gcv, rtol=1e-10)


@given(
    st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=20),
    st.floats(0.5, 40),
    st.sampled_from([0.0, 1e-8, 1e-3, 10.0]),
)
def test_residual_and_conservation(eigenvalues, n, ridge):
    eigenvalues = np.array(eigenvalues + [0.0] * (20 - len(eigenvalues)))
    multiplicity = np.linspace(0.5, 3, 20)
    rank = multiplicity[eigenvalues > 0].sum()
    result = eigenlearning(eigenvalues, np.ones(20), n, ridge, multiplicity=multiplicity)
    learned = np.sum(multiplicity * result.learnability)
    if ridge == 0 and rank <= n:
        assert result.kappa == 0
        np.testing.assert_allclose(learned, rank, rtol=1e-12)
    else:
        assert result.kappa > 0
        # Rounding: n 1e-16 in each sum of twenty terms.
        np.testing.assert_allclose(learned + ridge / result.kappa, n, rtol=0, atol=1e-10)


def test_white_spectrum_in_closed_form():
    # Linear regression with d features and n < d samples: kappa = d / n - 1, learnability n / d.
    d, n, noise = 100, 40, 0.3
    result = eigenlearning([1.0], [2.0], n, noise=noise, multiplicity=[d])
    np.testing.assert_allclose(result.kappa, d / n - 1, rtol=1e-12)
    np.testing.assert_allclose(result.overfitting_coefficient, 1 / (1 - n / d), rtol=1e-12)
    np.testing.assert_allclose(result.bias, 2 * (1 - n / d) ** 2 + noise, rtol=1e-12)
    np.testing.assert_allclose(result.test_mse, result.bias / (1 - n / d), rtol=1e-12)
    np.testing.assert_allclose(result.variance, result.test_mse - result.bias, rtol=1e-12)
    assert result.train_mse == 0


def test_more_samples_than_modes():
    # Ordinary least squares: test n / (n - d), train (n - d) / n, times the noise, to leading order.
    result = eigenlearning(np.ones(10), np.ones(10), 40, noise=0.5)
    np.testing.assert_allclose(result.test_mse, 0.5 * 40 / 30, rtol=1e-12)
    np.testing.assert_allclose(result.train_mse, 0.5 * 30 / 40, rtol=1e-12)
    assert eigenlearning(np.ones(10), np.ones(10), 10, noise=0.5).test_mse == np.inf
    assert eigenlearning(np.ones(10), np.ones(10), 10).test_mse == 0


def test_levels_are_modes_together():
    apart = eigenlearning(np.repeat([2.0, 0.1], 3), np.ones(6), 4, 0.1, 0.2)
    together = eigenlearning([2.0, 0.1], [3.0, 3.0], 4, 0.1, 0.2, multiplicity=[3, 3])
    for name in ("kappa", "test_mse", "train_mse", "bias", "variance", "overfitting_coefficient"):
        np.testing.assert_allclose(getattr(apart, name), getattr(together, name), rtol=1e-12)


def test_learning_curve_by_vmap_and_derivatives():
    eigenvalues = 1 / np.arange(1, 50) ** 2
    sizes = jnp.array([2.0, 10.0, 30.0])
    curve = jax.jit(jax.vmap(lambda n: eigenlearning(eigenvalues, eigenvalues, n, 1e-3, 0.01)))(sizes)
    assert isinstance(curve, Eigenlearning)
    assert (np.diff(curve.kappa) < 0).all()
    np.testing.assert_allclose(curve.test_mse[1], eigenlearning(eigenvalues, eigenvalues, 10, 1e-3, 0.01).test_mse)

    def test_error(scale, n, ridge):
        return eigenlearning(eigenvalues**scale, eigenvalues, n, ridge, 0.01).test_mse

    point = np.array([1.1, 12.0, 1e-3])
    gradient = jax.jit(jax.grad(test_error, (0, 1, 2)))(*point)
    evaluate = jax.jit(test_error)
    for i in range(3):
        h = np.zeros(3)
        h[i] = 1e-5 * point[i]
        difference = (evaluate(*(point + h)) - evaluate(*(point - h))) / (2 * h[i])
        np.testing.assert_allclose(gradient[i], difference, rtol=1e-7)


def test_unexplained_power():
    gram, parities = hypercube()
    spectrum = kernel_spectrum(gram, parities, n_modes=11)
    assert isinstance(spectrum, KernelSpectrum)
    np.testing.assert_allclose(spectrum.unexplained, [0, 1, 1], atol=1e-12)
    np.testing.assert_allclose(spectrum.power.sum(), 1, rtol=1e-12)
    # A kernel of rank one explains the constant only.
    np.testing.assert_allclose(kernel_spectrum(np.ones((4, 4)), np.eye(4)[:, :1]).unexplained, 3 / 16, rtol=1e-12)


def test_impossible_values_under_jit_are_nan():
    solve = jax.jit(lambda scale, n, ridge: eigenlearning(scale * np.ones(3), np.ones(3), n, ridge).test_mse)
    assert solve(1.0, 2.0, 1.0) > 0
    for arguments in ((1.0, 2.0, -1.0), (1.0, -2.0, 1.0), (-1.0, 2.0, 1.0), (np.nan, 2.0, 1.0)):
        assert np.isnan(solve(*arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([-1.0], [1.0], 1), "`eigenvalues` must be at least 0"),
        (([1.0, np.nan], [1.0, 1.0], 1), "`eigenvalues` must be finite"),
        (([1.0], [1.0, 1.0], 1), r"`power` must have shape \(1\)"),
        (([1.0], [-1.0], 1), "`power` must be at least 0"),
        (([1.0], [1.0], 0), "`n` must be a positive number"),
        (([1.0], [1.0], 1, -1.0), "`ridge` must be at least 0"),
        (([1.0], [1.0], 1, 0.0, -1.0), "`noise` must be at least 0"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        eigenlearning(*arguments)


def test_errors_of_data():
    with pytest.raises(ValueError, match="`multiplicity` must have shape"):
        eigenlearning([1.0], [1.0], 1, multiplicity=[1, 2])
    with pytest.raises(ValueError, match="`n_modes` must be at most 2"):
        kernel_spectrum(np.eye(2), np.ones((2, 1)), n_modes=3)
    with pytest.raises(ValueError, match="`y` must have shape"):
        kare(np.eye(2), np.ones(2))
