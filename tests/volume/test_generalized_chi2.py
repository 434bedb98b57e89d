import json

import chex
import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from genjax.volume import LogProb, generalized_chi2_logcdf, generalized_chi2_logpdf, generalized_chi2_logsf
from tests.volume.chi2_laws import GOLDEN, N_LAWS, golden_entry, random_law

GOLDEN_VALUES = [[mp.mpf(value) for value in entry] for entry in json.loads(GOLDEN.read_text())]


def evaluate(index, dtype=np.float64, **options):
    """Value and bound of log cdf and log sf; components padded to few sizes, so that few programs are compiled."""
    law = random_law(index)
    size = next(s for s in (64, 1024, 10_000) if len(law.weights) <= s)
    components = [np.pad(np.asarray(v, dtype), (0, size - len(v))) for v in law[1:]]
    arguments = (np.asarray(law.x, dtype), *components)
    return generalized_chi2_logcdf(*arguments, **options), generalized_chi2_logsf(*arguments, **options)


def error(got, exact):
    return float(abs(mp.mpf(float(got.value)) - exact))


def test_golden_values_are_complete_and_cover_the_claimed_range():
    assert len(GOLDEN_VALUES) == N_LAWS >= 300
    deepest = min(min(entry) for entry in GOLDEN_VALUES)
    sizes = [len(random_law(i).weights) for i in range(N_LAWS)]
    assert deepest < -400_000
    assert min(sizes) == 1
    assert max(sizes) == 10_000
    below = sum(entry[0] < entry[1] for entry in GOLDEN_VALUES)
    assert 0.3 * N_LAWS < below < 0.8 * N_LAWS


def test_golden_values_are_what_mpmath_gives_today():
    for index in (0, 1, 2, 3, 4, 5):
        for today, golden in zip(golden_entry(index), GOLDEN_VALUES[index]):
            assert abs(mp.mpf(today) / golden - 1) < 1e-14, index


def test_float64_is_exact_to_rounding_against_mpmath():
    for index, exact in enumerate(GOLDEN_VALUES):
        for got, truth in zip(evaluate(index), exact):
            # The project's bar; measured errors are below 1e-11 relative to it.
            assert error(got, truth) <= 1e-9 * max(1.0, abs(float(truth)) / 1e3), index
            assert float(got.error_bound) <= 1e-6 * max(1.0, abs(float(truth)) / 1e3), index


def test_float32_stays_within_its_bar():
    for index, exact in enumerate(GOLDEN_VALUES):
        for got, truth in zip(evaluate(index, np.float32), exact):
            assert got.value.dtype == jnp.float32
            # Below exp(-87) a float32 complement is zero; that is within the bar as well.
            assert error(got, truth) <= 1e-2 + 1e-6 * abs(float(truth)), index


@pytest.mark.parametrize("n_nodes", [8, 16, 32, 64, 128])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_error_bound_is_honest_at_every_resolution(n_nodes, dtype):
    for index in range(0, N_LAWS, 3):
        law = random_law(index)
        if len(law.weights) > 64:
            continue
        # The law as float32 sees it differs from the golden one: its inputs are rounded, by up to this many nats.
        rounded_inputs = dtype == np.float32
        for got, truth in zip(evaluate(index, dtype, n_nodes=n_nodes), GOLDEN_VALUES[index]):
            tiny = np.finfo(dtype).tiny
            assert error(got, truth) <= float(got.error_bound) * (3 if rounded_inputs else 1) + tiny, index


@pytest.mark.parametrize(
    ("dimension", "squared_radius", "exact"),
    [
        (10, 1, -8.66734403983606),
        (50, 1, -75.8128808504733),
        (50, 10, -22.5561058350575),
        (200, 20, -143.376723100619),
        (1000, 100, -705.213841445504),
        (10000, 10, -29548.9529464063),
    ],
)
def test_ball_reference_numbers(dimension, squared_radius, exact):
    got = generalized_chi2_logcdf(squared_radius, [1.0], dimension)
    np.testing.assert_allclose(got.value, exact, rtol=3e-15, atol=0)


@pytest.mark.parametrize(
    ("dimension", "exact"), [(100, -197.36085389), (1000, -1962.83813896), (10000, -19612.44218836)]
)
def test_quadratic_basin_reference_numbers(dimension, exact):
    # P(1/2 sum_i H_i z_i^2 <= 0.01), H_i = 1/i; printed to 8 decimals.
    got = generalized_chi2_logcdf(0.01, 0.5 / np.arange(1, dimension + 1))
    np.testing.assert_allclose(got.value, exact, atol=5e-9)


@pytest.mark.parametrize(
    ("x", "df", "nc", "exact"), [(1e-5, 50, 30, -378.15542328431195), (1000, 5000, 2000, -2835.5447968635194)]
)
def test_noncentral_reference_numbers(x, df, nc, exact):
    np.testing.assert_allclose(generalized_chi2_logcdf(x, [1.0], df, nc).value, exact, rtol=1e-15, atol=1e-12)


def test_against_scipy_where_scipy_has_digits():
    for df, nc, scale in [(1, 0, 1), (2, 3, 0.1), (7.5, 20, 5), (0.4, 1, 1)]:
        law = scipy.stats.ncx2(df, nc, scale=scale) if nc else scipy.stats.chi2(df, scale=scale)
        x = law.ppf([1e-8, 0.01, 0.3, 0.5, 0.7, 0.99])
        arguments = (x, [scale], df, nc * scale)
        # scipy's non-central functions hold about 10 digits.
        np.testing.assert_allclose(generalized_chi2_logcdf(*arguments).value, law.logcdf(x), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(generalized_chi2_logsf(*arguments).value, law.logsf(x), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(generalized_chi2_logpdf(*arguments).value, law.logpdf(x), rtol=1e-9, atol=1e-9)


def test_against_monte_carlo():
    rng = np.random.default_rng(0)
    weights, offsets = np.array([1.0, 0.3, 0.01]), np.array([0.5, 0.0, 0.2])
    means = np.sqrt(offsets / weights)
    draws = (weights * (rng.standard_normal((400_000, 3)) + means) ** 2).sum(1)
    x = np.array([0.1, 1.0, 2.0, 5.0])
    p = np.exp(generalized_chi2_logcdf(x, weights, 1.0, offsets).value)
    counts = (draws[:, None] <= x).mean(0)
    assert np.all(np.abs(counts - p) <= 4 * np.sqrt(p * (1 - p) / 400_000))  # 4 standard errors, fixed seed


def test_zero_multiplicity_with_offset_is_a_poisson_mixture():
    # chi'^2_0(delta) + chi^2_2: P = sum_j Poisson(j; delta/2) P(chi2_{2j+2} <= x)
    x, delta = 1.7, 3.0
    j = np.arange(80)
    exact = np.log(np.sum(scipy.stats.poisson.pmf(j, delta / 2) * scipy.stats.chi2.cdf(x, 2 * j + 2)))
    got = generalized_chi2_logcdf(x, [1.0, 1.0], [0.0, 2.0], [delta, 0.0]).value
    np.testing.assert_allclose(got, exact, rtol=1e-13)


def test_density_is_the_derivative_of_the_distribution():
    weights, multiplicities, offsets = [1.0, 0.2, 1e-3], [1.5, 4.0, 30.0], [0.7, 0.0, 0.3]
    x = jnp.array([0.31, 0.5, 1.0, 3.0, 10.0, 40.0])
    cdf = lambda v: generalized_chi2_logcdf(v, weights, multiplicities, offsets).value  # noqa: E731
    sf = lambda v: generalized_chi2_logsf(v, weights, multiplicities, offsets).value  # noqa: E731
    log_density = generalized_chi2_logpdf(x, weights, multiplicities, offsets).value
    np.testing.assert_allclose(jax.vmap(jax.grad(cdf))(x), jnp.exp(log_density - cdf(x)), rtol=1e-11)
    np.testing.assert_allclose(jax.vmap(jax.grad(sf))(x), -jnp.exp(log_density - sf(x)), rtol=1e-11)


@pytest.mark.parametrize("x", [1e-3, 0.4, 3.0, 30.0])
@pytest.mark.parametrize("function", [generalized_chi2_logcdf, generalized_chi2_logsf, generalized_chi2_logpdf])
def test_gradients_match_central_differences_in_every_argument(function, x):
    arguments = (
        jnp.asarray(x),
        jnp.array([1.0, 0.1, 1e-2, 1e-4]),
        jnp.array([1.0, 2.5, 10.0, 0.5]),
        jnp.array([0.3, 0.2, 0.0, 1e-5]),
    )
    value = jax.jit(lambda *a: function(*a).value)
    gradients = jax.grad(value, argnums=(0, 1, 2, 3))(*arguments)
    for k, gradient in enumerate(gradients):
        for i in range(gradient.size):
            at = float(arguments[k].ravel()[i])
            step = 1e-5 * max(at, 1e-5)

            def shifted(direction, k=k, i=i, step=step):
                moved = list(arguments)
                moved[k] = moved[k].ravel().at[i].add(direction * step).reshape(moved[k].shape)
                return float(value(*moved))

            if at - 2 * step < 0:  # at the boundary: second-order one-sided difference
                difference = (-3 * shifted(0) + 4 * shifted(1) - shifted(2)) / (2 * step)
            else:
                difference = (shifted(1) - shifted(-1)) / (2 * step)
            # Rounding of the difference: 1e-16 * |value| / step, plus its O(step^2) truncation.
            noise = 4e-16 * (1 + abs(float(value(*arguments)))) / step
            np.testing.assert_allclose(gradient.ravel()[i], difference, rtol=1e-6, atol=2 * noise)


def test_gradient_with_respect_to_a_vanishing_weight_is_one_sided_and_finite():
    value = lambda w: generalized_chi2_logcdf(0.5, jnp.stack([1.0, w]), 2.0, jnp.array([0.1, 0.2])).value  # noqa: E731
    step = 1e-6
    one_sided = (-3 * value(0.0) + 4 * value(step) - value(2 * step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(value)(0.0), one_sided, rtol=1e-6)


def test_vmap_over_a_thousand_thresholds_is_monotone_and_equals_the_batched_call():
    weights = jnp.geomspace(1e-8, 1, 30)
    x = jnp.geomspace(1e-9, 1e3, 1000)
    assert isinstance(generalized_chi2_logcdf(x, weights), LogProb)
    mapped = jax.vmap(lambda v: generalized_chi2_logcdf(v, weights, 2.0).value)(x)
    assert jnp.all(jnp.diff(mapped) >= 0)
    assert jnp.all(mapped <= 0)
    np.testing.assert_allclose(mapped, generalized_chi2_logcdf(x, weights, 2.0).value, rtol=1e-14, atol=1e-15)


def test_one_compilation_serves_all_laws_of_one_size():
    traced = jax.jit(chex.assert_max_traces(lambda *a: generalized_chi2_logcdf(*a).value, n=1))
    for k in range(3):
        traced(jnp.asarray(1.0 + k), jnp.ones(3) * (k + 1), jnp.ones(3), jnp.zeros(3))


def test_floor_of_directions_without_variance():
    arguments = ([0.5, 0.0, 0.0], 2.0, [0.0, 0.3, 0.1])
    x = jnp.array([0.39, 0.4, 0.4000001, 1e9, jnp.inf])
    log_cdf = generalized_chi2_logcdf(x, *arguments).value
    assert log_cdf[0] == log_cdf[1] == -jnp.inf
    # Above the floor it is chi2_2 / 2 shifted: 1 - exp(-(x - floor)).
    np.testing.assert_allclose(log_cdf[2], np.log(-np.expm1(-1e-7)), rtol=1e-8)
    np.testing.assert_array_equal(log_cdf[3:], 0)
    np.testing.assert_array_equal(generalized_chi2_logsf(x, *arguments).value[:2], 0)
    np.testing.assert_array_equal(generalized_chi2_logpdf(x, *arguments).value[:2], -jnp.inf)
    gradient = jax.grad(lambda v: generalized_chi2_logcdf(v, *arguments).value)
    assert gradient(0.2) == 0


def test_deterministic_law_is_a_step():
    log_cdf = generalized_chi2_logcdf(jnp.array([0.9, 1.0, 1.1]), [0.0, 0.0], 1.0, [0.4, 0.6]).value
    np.testing.assert_array_equal(log_cdf, [-jnp.inf, 0, 0])
    np.testing.assert_array_equal(
        generalized_chi2_logsf(jnp.array([0.9, 1.0, 1.1]), [0.0, 0.0], 1.0, [0.4, 0.6]).value, [0, -jnp.inf, -jnp.inf]
    )
    assert jnp.isnan(generalized_chi2_logpdf(1.0, [0.0], 1.0, [0.4]).value)


@given(
    scale=st.floats(1e-30, 1e30),
    x=st.floats(1e-6, 1e3),
    weights=st.lists(st.floats(1e-6, 1), min_size=4, max_size=4),
    offsets=st.lists(st.floats(0, 5), min_size=4, max_size=4),
)
def test_invariances(scale, x, weights, offsets):
    weights, offsets = np.array(weights), np.array(offsets)
    base = generalized_chi2_logcdf(x, weights, 1.5, offsets)
    tolerance = 2 * float(base.error_bound) + 1e-14

    def same(other):
        np.testing.assert_allclose(other.value, base.value, rtol=1e-13, atol=tolerance)

    same(generalized_chi2_logcdf(x * scale, weights * scale, 1.5, offsets * scale))
    same(generalized_chi2_logcdf(x, weights[::-1], 1.5, offsets[::-1]))
    # A component may be split in two of half the multiplicity and half the offset.
    same(generalized_chi2_logcdf(x, np.repeat(weights, 2), 0.75, np.repeat(offsets / 2, 2)))
    both = np.exp(float(base.value)) + np.exp(float(generalized_chi2_logsf(x, weights, 1.5, offsets).value))
    np.testing.assert_allclose(both, 1, rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.0, [1.0, -0.1]), r"`weights` must be at least 0, but its smallest value is -0.1"),
        ((1.0, [1.0, np.nan]), r"`weights` must be finite, but 1 of 2 values are not \(the first at index 1\)"),
        ((1.0, [[1.0]]), r"`weights` must have 1 axes, but its shape is \(1, 1\)"),
        ((1.0, []), r"`weights` must have at least one component"),
        ((1.0, [1.0], [1.0, 2.0]), r"`multiplicities` must have shape \(1\), but its shape is \(2,\)"),
        ((1.0, [1.0], -1.0), r"`multiplicities` must be at least 0"),
        ((1.0, [1.0], 1.0, -2.0), r"`offsets` must be at least 0"),
        ((np.nan, [1.0]), r"`x` must be free of NaN"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        generalized_chi2_logcdf(*arguments)


def test_bad_node_count_and_type():
    with pytest.raises(ValueError, match="`n_nodes` must be even and at least 8, but 7 came"):
        generalized_chi2_logcdf(1.0, [1.0], n_nodes=7)
    with pytest.raises(TypeError, match="`weights` must be an array of real numbers"):
        generalized_chi2_logcdf(1.0, ["a"])


def test_bad_values_under_jit_give_nan():
    value = jax.jit(lambda x, w, h, a: generalized_chi2_logcdf(x, w, h, a).value)
    good = (jnp.asarray(1.0), jnp.ones(2), jnp.ones(2), jnp.zeros(2))
    assert jnp.isfinite(value(*good))
    for k, bad in [(0, jnp.nan), (1, -1.0), (1, jnp.nan), (2, -1.0), (3, -1.0), (3, jnp.inf)]:
        arguments = list(good)
        arguments[k] = arguments[k].ravel().at[0].set(bad).reshape(arguments[k].shape)
        assert jnp.isnan(value(*arguments)), (k, bad)
