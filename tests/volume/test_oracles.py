"""Oracles against the verified reference numbers, then against SciPy, mpmath, enumeration and Monte Carlo."""

import itertools
import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from genjax.errors import GenjaxError
from genjax.volume import oracles
from tests.volume.digits import digits_rbf_posterior


def digits(value: float) -> float:
    """Half a unit of the last decimal a reference number is printed with."""
    text = repr(value)
    mantissa, _, exponent = text.partition("e")
    return 0.51 * 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))


def agree(value, reference):
    # Printed numbers are rounded, and 15 printed digits leave a few units of float64 rounding besides.
    np.testing.assert_allclose(value, reference, rtol=1e-14, atol=digits(reference))


# --- A: balls -------------------------------------------------------------------------------------------------------

BALLS = [
    (10, 1, -8.66734403983606),
    (50, 1, -75.8128808504733),
    (50, 10, -22.5561058350575),
    (200, 20, -143.376723100619),
    (1000, 100, -705.213841445504),
    (10000, 10, -29548.9529464063),
]


@pytest.mark.parametrize(("dimension", "squared_radius", "log_prob"), BALLS)
def test_ball_reference(dimension, squared_radius, log_prob):
    agree(oracles.ball_log_prob(dimension, squared_radius), log_prob)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.3, 3e4), st.floats(1e-3, 3))
def test_ball_equals_scipy_where_it_does_not_underflow(dimension, ratio):
    a, x = dimension / 2, ratio * dimension / 2
    p = special.gammainc(a, x)
    if p > 1e-290:
        # 1e-12 relative, and 1e-12 absolute because SciPy's own P is good to about 1e-13 relative.
        np.testing.assert_allclose(oracles.ball_log_prob(dimension, 2 * x), np.log(p), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("dimension", "squared_radius"), [(3, 1e-200), (59.9, 1), (60.1, 1), (2e4, 100), (1e5, 9e4)])
def test_ball_equals_mpmath(dimension, squared_radius):
    with mpmath.workdps(40):
        a, x = mpmath.mpf(dimension) / 2, mpmath.mpf(squared_radius) / 2
        exact = float(mpmath.log(x**a * mpmath.exp(-x) / mpmath.gamma(a + 1) * mpmath.hyp1f1(1, a + 1, x)))
    np.testing.assert_allclose(oracles.ball_log_prob(dimension, squared_radius), exact, rtol=1e-13)


def test_ball_far_above_the_mean_and_at_zero():
    # Survival e^-x of two dimensions, far below the spacing of floats near 1.
    np.testing.assert_allclose(oracles.ball_log_prob(2, 100), -math.exp(-50), rtol=1e-13)
    assert oracles.ball_log_prob(5, 0) == -np.inf
    assert oracles.ball_log_prob([[1], [2]], [1, 2, 3]).shape == (2, 3)


def test_noncentral_reference():
    agree(oracles.noncentral_chi2_logcdf(1e-5, 50, 30), -378.15542328431195)
    agree(oracles.noncentral_chi2_logcdf(1000, 5000, 2000), -2835.5447968635194)


@settings(max_examples=40, deadline=None)
@given(st.floats(0.5, 100), st.floats(0, 200), st.floats(0.05, 2))
def test_noncentral_equals_scipy_in_the_bulk(df, nc, ratio):
    x = ratio * (df + nc)
    p = stats.ncx2.cdf(x, df, nc) if nc else stats.chi2.cdf(x, df)
    if p > 1e-100:
        # SciPy's series stops at about 1e-11 relative.
        np.testing.assert_allclose(oracles.noncentral_chi2_logcdf(x, df, nc), np.log(p), rtol=1e-9, atol=1e-9)


def test_noncentral_without_offset_is_central_and_is_one_formula_for_df_1():
    np.testing.assert_allclose(oracles.noncentral_chi2_logcdf(3.0, 7, 0), oracles.ball_log_prob(7, 3.0), rtol=1e-14)
    # (z + 40)^2 <= 1: a slice of one normal, by log CDFs.
    exact = special.log_ndtr(-39) + np.log1p(-np.exp(special.log_ndtr(-41) - special.log_ndtr(-39)))
    np.testing.assert_allclose(oracles.noncentral_chi2_logcdf(1, 1, 1600), exact, rtol=1e-12)
    assert oracles.noncentral_chi2_logcdf(0, 3, 2) == -np.inf


@pytest.mark.parametrize(("d", "log_prob"), [(100, -197.36085389), (1000, -1962.83813896), (10000, -19612.44218836)])
def test_ellipsoid_reference(d, log_prob):
    agree(oracles.ellipsoid_log_prob(1 / np.arange(1, d + 1), 0.01), log_prob)


def test_ellipsoid_special_cases_and_limits():
    # All equal: a ball. Two dimensions: Rayleigh.
    np.testing.assert_allclose(
        oracles.ellipsoid_log_prob(np.full(30, 2.0), 5), oracles.ball_log_prob(30, 5), rtol=1e-13
    )
    np.testing.assert_allclose(oracles.ellipsoid_log_prob([3.0, 3.0], 1.5), np.log(-np.expm1(-0.5)), rtol=1e-13)
    # Small cutoff: flat density over the ellipsoid; the next term is cutoff / smallest eigenvalue = 1e-9.
    h = np.array([1.0, 10, 300])
    flat = oracles.quadratic_basin_log_volume(h, 1e-9) - 1.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(oracles.ellipsoid_log_prob(h, 1e-9), flat, atol=3e-9)
    rng = np.random.default_rng(0)
    hits = np.mean(0.5 * rng.standard_normal((200_000, 3)) ** 2 @ h <= 5)
    # Four standard errors of the frequency.
    np.testing.assert_allclose(np.exp(oracles.ellipsoid_log_prob(h, 5)), hits, atol=4 * np.sqrt(hits / 200_000))
    with pytest.raises(GenjaxError, match="rare events"):
        oracles.ellipsoid_log_prob([1e-6, 1.0, 1.0], 1e3)


# --- D, E: basins ---------------------------------------------------------------------------------------------------

BASINS = [(10, -11.071751054138), (100, -104.97), (1000, -1038.91), (10000, -10373.15)]
STIFF_BASINS = [(100, 127.62), (1000, 149.68), (10000, -9981.08)]


@pytest.mark.parametrize(("d", "log_volume"), BASINS)
def test_basin_reference(d, log_volume):
    agree(oracles.quadratic_basin_log_volume(1 / np.arange(1, d + 1), 1e-2), log_volume)


@pytest.mark.parametrize(("d", "log_volume"), STIFF_BASINS)
def test_stiff_basin_reference(d, log_volume):
    h = np.where(np.arange(d) < d // 10, 1.0, 1e-4)
    agree(oracles.quadratic_basin_log_volume(h, 1e-2), log_volume)


def test_basin_in_one_and_two_dimensions():
    # A segment and an ellipse.
    np.testing.assert_allclose(oracles.quadratic_basin_log_volume([8.0], 1.0), np.log(2 * np.sqrt(2 / 8)), rtol=1e-14)
    area = np.pi * np.sqrt(2 / 2) * np.sqrt(2 / 8)
    np.testing.assert_allclose(oracles.quadratic_basin_log_volume([2.0, 8.0], [1.0, 2.0])[0], np.log(area), rtol=1e-14)


@pytest.mark.parametrize(("error", "log_prob"), [(1e-2, -1.10787957), (1e-4, -2.88148077), (1e-8, -6.88693940)])
def test_normal_crossing_reference(error, log_prob):
    np.testing.assert_allclose(oracles.normal_crossing_log_prob(error), log_prob, atol=5.1e-9)


def test_singular_basins_by_grid():
    w = (np.arange(2000) + 0.5) / 2000
    share = np.mean(np.outer(w, w) ** 2 <= 0.05)
    # The boundary crosses some 4000 of 4 million cells.
    np.testing.assert_allclose(np.exp(oracles.normal_crossing_log_prob(0.05)), share, atol=1e-3)
    np.testing.assert_allclose(np.exp(oracles.monomial_log_prob(0.05, 3)), np.mean(w**6 <= 0.05), atol=1e-3)
    np.testing.assert_allclose(oracles.monomial_log_prob(1e-30, [1, 2]), np.log(1e-30) / np.array([2, 4]), rtol=1e-14)
    assert oracles.normal_crossing_log_prob(2) == 0
    assert oracles.monomial_log_prob(2, 1) == 0


# --- B: spherical cap -----------------------------------------------------------------------------------------------

CAPS = [
    (2, 0.1, math.log(0.1)),
    (3, 0.1, -3.71023622088061),
    (10, 0.1, -12.5737373027571),
    (100, 0.1, -119.431426054844),
    (100, 0.01, -345.818414981306),
    (1000, 0.05, -1857.62319548587),
    (1000, 0.001, -5761.63657227706),
]


@pytest.mark.parametrize(("dimension", "e", "log_prob"), CAPS)
def test_cap_reference(dimension, e, log_prob):
    agree(oracles.spherical_cap_log_prob(dimension, e), log_prob)


@settings(max_examples=40, deadline=None)
@given(st.floats(1e-6, 1 - 1e-6))
def test_cap_in_two_and_three_dimensions(e):
    # The circle: 2 e, halved by its two sides; the sphere: (1 - cos) / 2, by Archimedes. Near 1 the share rounds to 1.
    np.testing.assert_allclose(oracles.spherical_cap_log_prob(2, e), np.log(e), rtol=1e-9, atol=1e-13)
    sphere = 2 * np.log(np.sin(np.pi * e / 2))
    np.testing.assert_allclose(oracles.spherical_cap_log_prob(3, e), sphere, rtol=1e-9, atol=1e-13)


def test_cap_series_meets_scipy_and_is_monotone():
    a, x = 50.0, np.array([1e-3, 0.1, 0.5])
    from genjax.volume.oracles.perceptron import _beta_series

    series = a * np.log(x) + 0.5 * np.log1p(-x) - np.log(a) - special.betaln(a, 0.5)
    series += np.log(_beta_series(np.full(3, a), x))
    np.testing.assert_allclose(series, np.log(special.betainc(a, 0.5, x)), rtol=1e-12)
    e = np.linspace(0, 1, 401)
    log_prob = oracles.spherical_cap_log_prob(700, e)
    assert np.all(np.diff(log_prob) >= 0)
    assert log_prob[0] == -np.inf
    np.testing.assert_allclose(log_prob[200], np.log(0.5), rtol=1e-14)


# --- C: succession perceptron ---------------------------------------------------------------------------------------

ORTHANTS = [
    (0.1, -7.97262938, -11.73282593),
    (0.25, -5.09667055, -6.74117248),
    (0.75, -1.89054348, -2.16841617),
    (0.9, -1.30947876, -1.43340225),
]
SUCCESSIONS = [
    (10, 10, [0.64662716, 0.64662716, 0.24116206, 0.09455858]),
    (50, 50, [0.68329488, 0.12512314, 0.01261790, 2.35e-4]),
    (100, 1000, [2.38885362, 0.00657331, 3.668e-5, 4.79e-10]),
]


@pytest.mark.parametrize(("rho", "at_20", "at_40"), ORTHANTS)
def test_orthant_reference(rho, at_20, at_40):
    np.testing.assert_allclose(oracles.succession_log_fit([20, 40], rho), [at_20, at_40], atol=5.1e-9)


def test_orthant_closed_forms():
    np.testing.assert_allclose(oracles.succession_log_fit(30), -3.43399, atol=5e-6)
    np.testing.assert_allclose(oracles.succession_log_fit([0, 1, 30]), -np.log([1, 2, 31]), rtol=1e-14)
    np.testing.assert_allclose(oracles.succession_log_fit([20, 40], 0), -np.log(2) * np.array([20, 40]), rtol=1e-14)
    # Sheppard's formula for two variables, and its analog for three.
    rho = np.array([0.05, 0.3, 0.8, 0.99])
    angle = np.arcsin(rho)
    np.testing.assert_allclose(oracles.succession_log_fit(2, rho), np.log(1 / 4 + angle / (2 * np.pi)), rtol=1e-11)
    np.testing.assert_allclose(oracles.succession_log_fit(3, rho), np.log(1 / 8 + 3 * angle / (4 * np.pi)), rtol=1e-11)
    # The quadrature, approached from both sides, must meet the closed form at 1/2, also for very many examples.
    around = oracles.succession_log_fit([[7], [10_000]], [0.5 - 1e-9, 0.5 + 1e-9]).mean(axis=1)
    np.testing.assert_allclose(around, -np.log([8, 10_001]), rtol=1e-11)


@pytest.mark.parametrize(("k", "j", "nats"), SUCCESSIONS)
def test_succession_reference(k, j, nats):
    shares = [0, 0.05, 0.1, 0.2]
    for v, reference, share in zip(oracles.succession_inductive_bias(k, j, shares), nats, shares, strict=True):
        # Eight decimals, or all the digits of the short ones.
        assert abs(v - reference) <= (5.1e-9 if reference > 1e-3 else digits(reference))
        more = math.prod(Fraction(j - i, k + 1 + j - i) for i in range(round(share * j) + 1))
        assert v == pytest.approx(-math.log1p(-float(more)), rel=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 60), st.integers(1, 60), st.integers(0, 60))
def test_succession_equals_the_beta_binomial_law(k, j, errors):
    errors = min(errors, j)
    value = oracles.succession_inductive_bias(k, j, errors / j)
    # SciPy's sum of gamma functions is good to about 1e-12 here.
    np.testing.assert_allclose(value, -np.log(stats.betabinom.cdf(errors, j, 1, k + 1)), rtol=1e-9, atol=1e-11)


def test_succession_counts_a_share_that_rounding_makes_too_small():
    assert 0.29 * 100 < 29
    exact = -np.log(stats.betabinom.cdf(29, 100, 1, 6))
    np.testing.assert_allclose(oracles.succession_inductive_bias(5, 100, 0.29), exact, rtol=1e-9)
    assert oracles.succession_inductive_bias(5, 100, 1.0) == 0


# --- F: counting perceptrons ----------------------------------------------------------------------------------------

COVER = [(20, 0.0), (30, -0.03119574), (40, -math.log(2)), (50, -2.57434282), (60, -5.44432632), (100, -22.23875180)]


@pytest.mark.parametrize(("n_points", "log_prob"), COVER)
def test_cover_reference(n_points, log_prob):
    np.testing.assert_allclose(oracles.cover_log_separable(n_points, 20), log_prob, atol=5.1e-9)


def test_cover_equals_the_integer_count():
    for p, n in itertools.product([1, 2, 7, 60, 300], [1, 2, 3, 29, 31]):
        # Python's integers do not round; logs of integers neither.
        count = sum(math.comb(p - 1, i) for i in range(n))
        exact = math.log(count) - (p - 1) * math.log(2)
        np.testing.assert_allclose(oracles.cover_log_separable(p, n), exact, rtol=1e-12, atol=2e-13)
    assert oracles.cover_log_separable([[5], [6]], [1, 2, 3]).shape == (2, 3)


def test_random_perceptron_law_of_counts():
    # Law of the count of ones, by Monte Carlo over Gaussian weights.
    inputs = np.array(list(itertools.product([0, 1], repeat=3)))
    counts = (np.random.default_rng(1).standard_normal((40_000, 3)) @ inputs.T > 0).sum(axis=1)
    frequency = np.bincount(counts, minlength=9) / 40_000
    # Four standard errors of a frequency near 1/8.
    log_prior = oracles.random_perceptron_log_prior(3, np.arange(9))
    np.testing.assert_allclose(np.exp(log_prior), frequency, atol=4 * np.sqrt(1 / 8 / 40_000))
    np.testing.assert_array_equal(log_prior, [-3 * np.log(2)] * 8 + [-np.inf])


# --- H: enumerated nets ---------------------------------------------------------------------------------------------

ALL_ONES = [
    (4, 17856, 2.686554, [2.495718, 1.765233, 0.994059]),
    (8, 6400, 3.712596, [1.469676, 0.948039, 0.948039]),
    (12, 2096, 4.828863, [0.353409, 0.353409, 0.096074]),
]
RAREST = [(4, 8640, [5.192957, 3.806662]), (8, 192, [1.386294, 1.386294]), (12, 48, [0, 0])]


@pytest.fixture(scope="module")
def network():
    return oracles.binary_network()


@pytest.fixture(scope="module")
def all_ones_teacher():
    inputs = np.array(list(itertools.product([-1, 1], repeat=4)))
    return int((inputs.sum(axis=1) + 1 > 0) @ (1 << np.arange(16)))


def test_binary_network_reference(network):
    assert network.counts.sum() == 2**18
    assert network.codes.size == 2112
    assert (network.counts.max(), network.counts.min()) == (1472, 48)
    np.testing.assert_allclose(stats.entropy(network.counts), 7.294532161692, atol=5.1e-13)
    np.testing.assert_allclose(network.counts.max() / 2**18, 0.005615, atol=5.1e-7)


def test_binary_network_equals_a_loop_over_random_nets(network):
    rng = np.random.default_rng(0)
    for _ in range(50):
        hidden, output = rng.choice([-1, 1], (3, 5)), rng.choice([-1, 1], 3)
        bits = [output @ np.sign(hidden @ [*x, 1]) > 0 for x in itertools.product([-1, 1], repeat=4)]
        assert sum(int(b) << i for i, b in enumerate(bits)) in network.codes


@pytest.mark.parametrize(("k", "n_fit", "nats", "biases"), ALL_ONES)
def test_binary_network_with_the_all_ones_teacher(network, all_ones_teacher, k, n_fit, nats, biases):
    log_fit = oracles.binary_network_log_fit(network, all_ones_teacher, k)
    np.testing.assert_allclose(log_fit, np.log(n_fit / 2**18), rtol=1e-14)
    np.testing.assert_allclose(-log_fit, nats, atol=5.1e-7)
    value = oracles.binary_network_inductive_bias(network, all_ones_teacher, k, [0, 1 / 8, 1 / 4])
    np.testing.assert_allclose(value, biases, atol=5.1e-7)


@pytest.mark.parametrize(("k", "n_fit", "biases"), RAREST)
def test_binary_network_with_the_rarest_teacher(network, k, n_fit, biases):
    teacher = int(network.codes[network.counts == 48].min())
    log_fit = oracles.binary_network_log_fit(network, teacher, k)
    np.testing.assert_allclose(np.exp(log_fit) * 2**18, n_fit, rtol=1e-12)
    value = oracles.binary_network_inductive_bias(network, teacher, k, [0, 1 / 4])
    np.testing.assert_allclose(value, biases, atol=5.1e-7)


@pytest.mark.parametrize(("k", "nats"), [(4, 4.628076), (8, 2.440746), (12, 0.744446)])
def test_binary_network_average_bias_is_a_difference_of_entropies(network, k, nats):
    labels = np.bincount(network.codes % 2**k, weights=network.counts)
    difference = stats.entropy(network.counts) - stats.entropy(labels)
    np.testing.assert_allclose(difference, nats, atol=5.1e-7)
    some = np.random.default_rng(0).choice(network.codes.size, 60, replace=False)
    for i in some:
        value = oracles.binary_network_inductive_bias(network, network.codes[i], k, 0)
        exact = np.log(labels[network.codes[i] % 2**k] / network.counts[i])
        np.testing.assert_allclose(value, exact, atol=1e-13)


def test_binary_network_impossible_teachers(network):
    assert oracles.binary_network_inductive_bias(network, 2**16 - 1, 4, 0) == np.inf
    reachable = np.unique(network.codes % 2**12)
    missing = next(code for code in range(2**12) if code not in reachable)
    assert oracles.binary_network_log_fit(network, missing, 12) == -np.inf
    with pytest.raises(ValueError, match=r"`teacher` .* fitted by some net on its first 12 inputs"):
        oracles.binary_network_inductive_bias(network, missing, 12, 0)


def test_binary_perceptron_reference():
    distances = oracles.binary_perceptron_distances(np.random.default_rng(0).standard_normal((20, 21)))
    np.testing.assert_array_equal(distances, [0, 1, 2, 4, 6])
    error = np.arccos(1 - 2 * distances / 21) / np.pi
    bias = [np.log(5 / np.sum(error <= e)) for e in (0.1, 0.15, 0.2)]
    np.testing.assert_allclose(bias, [1.609438, 0.916291, 0.510826], atol=5.1e-7)


def test_binary_perceptron_equals_brute_force():
    x = np.random.default_rng(3).standard_normal((4, 7))
    weights = np.array(list(itertools.product([-1, 1], repeat=7)))
    fits = (np.sign(weights @ x.T) == np.sign(x.sum(axis=1))).all(axis=1)
    np.testing.assert_array_equal(oracles.binary_perceptron_distances(x), np.sort((weights[fits] < 0).sum(axis=1)))


# --- I: reference numbers -------------------------------------------------------------------------------------------


def test_sgld_without_localization_and_small_steps_is_half_the_dimension():
    np.testing.assert_allclose(oracles.sgld_llc(np.geomspace(1e-3, 1, 200), 1e3, 0, 1e-12), 100, rtol=1e-8)


def test_sgld_equals_the_iterated_second_moment():
    h, n_beta, localization, step = np.array([0.1, 1.0, 4.0]), 3.0, 2.0, 0.05
    contraction = 1 - step / 2 * (n_beta * h + localization)
    second = np.zeros(3)
    # The slowest direction shrinks by 0.89 per iteration: 0.89^500 = 1e-26.
    for _ in range(500):
        second = contraction**2 * second + step
    exact = n_beta * np.sum(h * second) / 2
    np.testing.assert_allclose(oracles.sgld_llc(h, n_beta, localization, step), exact, rtol=1e-13)


@pytest.fixture(scope="module")
def digits_posterior():
    mean, covariance, y_test = digits_rbf_posterior()
    return mean - y_test, covariance


def test_digits_means(digits_posterior):
    offset, covariance = digits_posterior
    np.testing.assert_allclose(np.mean(offset**2), oracles.DIGITS_RBF_ERROR_OF_MEAN, atol=5.1e-6)
    expected = np.mean(offset**2) + np.trace(covariance) / 500
    np.testing.assert_allclose(expected, oracles.DIGITS_RBF_EXPECTED_ERROR, atol=5.1e-6)


def test_digits_nats_by_laplace_inversion_on_a_vertical_line(digits_posterior):
    from scipy.optimize import brentq

    offset, covariance = digits_posterior
    values, vectors = np.linalg.eigh(covariance)
    w, a = values / 5000, ((vectors.T @ offset) ** 2).sum(axis=1) / 5000

    def log_laplace(t):
        r = 1 + 2 * np.multiply.outer(t, w)
        return -5 * np.log(r).sum(axis=-1) - t * (a / r).sum(axis=-1)

    for error, nats in oracles.DIGITS_RBF_NATS.items():

        def slope(log_t, error=error):
            r = 1 + 2 * np.exp(log_t) * w
            return np.sum(10 * w / r + a / r**2) + np.exp(-log_t) - error

        t = np.exp(brentq(slope, -5, 40))
        # The integrand falls like a Gaussian of width s; steps of s / 5 to 12 s leave e^-70 and e^-700.
        r = 1 + 2 * t * w
        s = (np.sum(20 * w**2 / r**2 + 4 * a * w / r**3) + t**-2) ** -0.5
        y = s * np.arange(-60, 61) / 5
        line = np.exp(log_laplace(t + 1j * y) - log_laplace(t) + 1j * y * error) / (t + 1j * y)
        log_prob = log_laplace(t) + t * error + np.log(np.real(line.sum()) * s / 5 / (2 * np.pi))
        assert abs(-log_prob - nats) <= digits(nats)


def test_digits_task_is_read_only_and_described():
    with pytest.raises(TypeError, match="does not support item assignment"):
        oracles.DIGITS_RBF_NATS[0.1] = 0
    assert "default_rng(0)" in oracles.DIGITS_RBF_TASK


# --- bad input ------------------------------------------------------------------------------------------------------

BAD = [
    (lambda: oracles.ball_log_prob(0, 1), "`dimension` must be finite and above 0, but 0 came"),
    (lambda: oracles.ball_log_prob(3, [1, -2]), "`squared_radius` must be finite and at least 0, but -2 came"),
    (lambda: oracles.ball_log_prob(3, np.nan), "`squared_radius` must be finite"),
    (lambda: oracles.noncentral_chi2_logcdf(1, 2, -1), "`nc` must be"),
    (lambda: oracles.noncentral_chi2_logcdf(1, 0, 1), "`df` must be"),
    (lambda: oracles.noncentral_chi2_logcdf(-1, 2, 1), "`x` must be"),
    (lambda: oracles.ellipsoid_log_prob([], 1), "`eigenvalues` must be a non-empty vector"),
    (lambda: oracles.ellipsoid_log_prob([1.0], 0), "`cutoff` must be"),
    (lambda: oracles.quadratic_basin_log_volume([1.0, 0], 1), "`eigenvalues` must be finite and above 0"),
    (lambda: oracles.normal_crossing_log_prob(0), "`error` must be"),
    (lambda: oracles.monomial_log_prob(0.1, 0), "`k` must be"),
    (lambda: oracles.spherical_cap_log_prob(1, 0.1), "`dimension` must be finite and at least 2"),
    (lambda: oracles.spherical_cap_log_prob(5, 1.1), "`angle_fraction` must be finite and at least 0 and at most 1"),
    (lambda: oracles.succession_log_fit(2.5), "`k` must be whole and at least 0, but 2.5 came"),
    (lambda: oracles.succession_log_fit(2, 1.0), "`rho` must be finite and at least 0 and below 1"),
    (lambda: oracles.succession_inductive_bias(2, 0, 0.1), "`j` must be whole"),
    (lambda: oracles.succession_inductive_bias(2, 3, -0.1), "`error` must be"),
    (lambda: oracles.cover_log_separable(0, 3), "`n_points` must be whole"),
    (lambda: oracles.cover_log_separable(3, 0), "`dimension` must be whole"),
    (lambda: oracles.random_perceptron_log_prior(3, 9), "`n_ones` must be whole and at least 0 and at most 8"),
    (lambda: oracles.random_perceptron_log_prior(0, 0), "`n_inputs` must be"),
    (lambda: oracles.binary_network_log_fit(oracles.BinaryNetwork(np.arange(2), np.ones(2)), 2**16, 1), "`teacher`"),
    (lambda: oracles.binary_network_log_fit(oracles.BinaryNetwork(np.arange(2), np.ones(2)), 0, 17), "`n_train`"),
    (lambda: oracles.binary_perceptron_distances(np.ones((2, 30))), "`patterns` must be a matrix with 2 to 24"),
    (lambda: oracles.sgld_llc([1.0], 10, 0, 1), "`step_size` must be below 0.4 .* but 1 came"),
    (lambda: oracles.sgld_llc([1.0], -1, 0, 1), "`n_beta` must be"),
    (lambda: oracles.sgld_llc([1.0], 1, -1, 1), "`localization` must be"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_values_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("value", ["3", 1j, None, True])
def test_bad_types_are_named(value):
    with pytest.raises(TypeError, match="`dimension` must hold real numbers"):
        oracles.ball_log_prob(value, 1)
