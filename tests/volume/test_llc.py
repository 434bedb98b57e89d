import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.tree_util import Partial
from scipy.integrate import quad

from genjax.errors import Status
from genjax.volume.chains import ChainSummary, summarize_chains
from genjax.volume.llc import LLC, IntegratedLLC, llc_by_thermodynamic_integration, local_learning_coefficient
from genjax.volume.llc_curve import CurveLLC, llc_from_curve
from genjax.volume.oracles import (
    ball_log_prob,
    monomial_log_prob,
    normal_crossing_log_prob,
    quadratic_basin_log_volume,
    sgld_llc,
)

H = 1 / np.arange(1, 13.0)
N_BETA, GAMMA = 50.0, 5.0
LOCALIZED = 0.5 * np.sum(N_BETA * H / (N_BETA * H + GAMMA))


def quadratic(h, edge, w):
    w = w["a"].ravel()
    return 0.5 * jnp.sum(h * w**2) * jnp.where(w[0] > edge, jnp.nan, 1)


# Arrays bound to a Partial are arguments of the compiled program, so that the tests share programs.
LOSS = Partial(quadratic, jnp.asarray(H), jnp.asarray(jnp.inf))
PARAMS = {"a": jnp.zeros((3, 4))}


def sample(key, loss=LOSS, **options):
    settings = {"inverse_temperature": N_BETA / 500, "localization": GAMMA, "n_draws": 2000}
    return local_learning_coefficient(loss, PARAMS, 500, key, **settings | options)


def z_score(result, truth):
    return (float(result.coefficient.value) - truth) / float(result.coefficient.stderr)


@pytest.mark.parametrize("step_size", [5e-3, 4e-2])
def test_sgld_reports_its_exact_law_bias_included(step_size):
    result = sample(jax.random.key(0), sampler="sgld", step_size=step_size)
    truth = sgld_llc(H, N_BETA, GAMMA, step_size)
    assert abs(z_score(result, truth)) < 3
    # The error itself: 4 chains of 2000 draws resolve 3 %.
    assert result.coefficient.stderr < 0.03 * truth
    # The virial is 1 plus the mean relative bias of the squared coordinates.
    a = N_BETA * H + GAMMA
    np.testing.assert_allclose(result.virial, np.mean(1 / (1 - step_size * a / 4)), rtol=0.05)
    biased = step_size > 1e-2
    assert result.coefficient.status == (Status.INACCURATE if biased else Status.OK)
    assert bool(result.warnings) == biased
    assert not biased or "virial" in result.warnings[0]


def test_mala_has_no_step_size_bias():
    result = sample(jax.random.key(1))
    assert isinstance(result, LLC)
    assert abs(z_score(result, LOCALIZED)) < 3
    assert result.coefficient.stderr < 0.03 * LOCALIZED
    assert result.coefficient.status == Status.OK
    assert result.warnings == ()
    # Adapted to 0.574 while burning in, up to the noise of the adaptation.
    np.testing.assert_allclose(result.acceptance, 0.574, atol=0.12)
    np.testing.assert_allclose(result.virial, 1, atol=0.05)
    assert result.excess_loss.shape == (4, 2000)
    assert "mala" in result.coefficient.given


def test_stated_error_is_the_scatter_between_repetitions_in_float32():
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (LOSS, PARAMS))
    run = functools.partial(local_learning_coefficient, *single, 500, inverse_temperature=0.1, localization=GAMMA)
    results = jax.vmap(functools.partial(run, n_draws=500, n_burn=500))(jax.random.split(jax.random.key(2), 100))
    coefficient = results.coefficient
    assert coefficient.value.dtype == coefficient.stderr.dtype == jnp.float32
    z = (coefficient.value - LOCALIZED) / coefficient.stderr
    # 100 repetitions: the mean of z has standard error 0.1, its spread a relative one of 7 %.
    assert abs(jnp.mean(z)) < 0.3
    np.testing.assert_allclose(jnp.std(z), 1, atol=0.2)


def test_half_the_dimension_without_localization():
    # Scales 1 / sqrt(h) make the loss round, so slow directions are as quick as the others.
    scales = {"a": jnp.asarray(H**-0.5).reshape(3, 4)}
    result = sample(jax.random.key(3), localization=0.0, scales=scales)
    assert abs(z_score(result, len(H) / 2)) < 3
    flat = sample(jax.random.key(3), localization=0.0, scales=H**-0.5)
    np.testing.assert_array_equal(result.coefficient.value, flat.coefficient.value)


def crossing_coefficient(n_beta, gamma):
    """Exact: the second coordinate is Gaussian given the first."""

    def density(w):
        return np.exp(-gamma * w**2 / 2) / np.sqrt(2 * n_beta * w**2 + gamma)

    ends = {"points": [0, 0.01, 0.1, 1], "limit": 500}
    top = quad(lambda w: density(w) * n_beta * w**2 / (2 * n_beta * w**2 + gamma), -12, 12, **ends)[0]
    return top / quad(density, -12, 12, **ends)[0]


def test_normal_crossing_tends_to_one_half():
    def run(beta, key):
        return local_learning_coefficient(
            lambda w: (w[0] * w[1]) ** 2, jnp.zeros(2), 1000, key, sampler="hmc", inverse_temperature=beta, n_draws=4000
        )

    betas = jnp.asarray([0.003, 0.03, 0.3])
    results = jax.vmap(run)(betas, jax.random.split(jax.random.key(5), 3))
    truth = np.array([crossing_coefficient(1000 * beta, 1.0) for beta in betas])
    z = (results.coefficient.value - truth) / results.coefficient.stderr
    assert (jnp.abs(z) < 3).all()
    # 0.23, 0.31, 0.36: below 1/2 by about 1 / ln(n beta), because the multiplicity is 2.
    assert (np.diff(truth) > 0).all()
    gaps = np.array([0.5 - crossing_coefficient(n_beta, 1.0) for n_beta in (1e3, 1e6)])
    assert 0 < gaps[1] < 0.6 * gaps[0]
    assert (results.coefficient.stderr < 0.04).all()


def test_thermodynamic_integration_of_a_quadratic():
    settings = {"sampler": "hmc", "n_leapfrog": 4, "n_burn": 300, "n_draws": 500}
    integrate = functools.partial(llc_by_thermodynamic_integration, LOSS, PARAMS, 500, **settings)
    result = integrate(jax.random.key(6), localization=GAMMA, n_temperatures=5)
    assert isinstance(result, IntegratedLLC)
    betas = np.asarray(result.inverse_temperature)
    np.testing.assert_allclose(betas[[0, -1]], [1 / np.log(500), 1])
    free_energy = 0.5 * np.sum(np.log(500 * betas[:, None] * H + GAMMA), axis=1)
    free_energy -= free_energy[0]
    error = result.coefficient.stderr * np.log(betas[-1] / betas[0])
    np.testing.assert_allclose(result.free_energy[-1], free_energy[-1], atol=3 * error)
    assert abs(z_score(result, free_energy[-1] / np.log(betas[-1] / betas[0]))) < 3
    each = result.at_temperature.coefficient
    truth = 0.5 * np.sum(1 - GAMMA / (500 * betas[:, None] * H + GAMMA), axis=1)
    assert (abs(each.value - truth) < 3.5 * each.stderr).all()
    # Without localization every temperature has D / 2.
    betas = np.linspace(0.2, 1, 5)
    free = integrate(jax.random.key(7), localization=0.0, inverse_temperature=betas, scales=H**-0.5)
    assert abs(z_score(free, len(H) / 2)) < 3
    assert (free.at_temperature.coefficient.status == Status.OK).all()
    assert free.coefficient.status == Status.OK


def two_wells(curvature, depth, w):
    """Wells at 0 and 4, apart by a barrier; the second of another curvature and depth."""
    return jnp.minimum(10 * w[0] ** 2, curvature * (w[0] - 4) ** 2 - depth) + 0.5 * w[1] ** 2


def test_r_hat_catches_chains_stuck_in_two_wells():
    start = jnp.asarray([[0.0, 0.0], [0.0, 0.1], [4.0, 0.0], [4.0, 0.1]])
    run = functools.partial(local_learning_coefficient, params=jnp.zeros(2), n=100, key=jax.random.key(8), start=start)
    stuck = run(Partial(two_wells, 100.0, 5.0), localization=0.01)
    assert stuck.loss_r_hat > 1.5
    assert stuck.coefficient.status == Status.DOUBTFUL
    assert any("R-hat" in warning for warning in stuck.warnings)
    # Wells of equal loss look alike; the distance tells them apart.
    alike = run(Partial(two_wells, 10.0, 0.0), localization=0.01)
    assert alike.loss_r_hat < 1.1 < alike.distance_r_hat
    assert alike.coefficient.status == Status.DOUBTFUL


def test_nan_isolates_a_chain_and_is_counted():
    fragile = Partial(quadratic, jnp.asarray(H), jnp.asarray(5.0))
    run = functools.partial(sample, loss=fragile, sampler="sgld", step_size=5e-3)
    result = run(jax.random.key(9), start={"a": jnp.zeros((4, 3, 4)).at[2, 0, 0].set(6.0)})
    np.testing.assert_array_equal(result.failed, [False, False, True, False])
    assert result.invalid[2] == 2000
    assert abs(z_score(result, sgld_llc(H, N_BETA, GAMMA, 5e-3))) < 3
    assert result.coefficient.status == Status.DOUBTFUL
    assert any("1 of 4 chains" in warning for warning in result.warnings)
    lost = run(jax.random.key(9), start={"a": jnp.full((4, 3, 4), 6.0)})
    assert np.isnan(lost.coefficient.value)
    assert lost.coefficient.status == Status.INVALID


def test_minibatch_sgld():
    """Targets 1 + noise of a mean: the minibatch's gradient noise is small against the Langevin noise."""
    targets = 1 + 0.1 * jax.random.normal(jax.random.key(10), (200, 4))
    best = jnp.mean(targets, axis=0)

    def loss(w, key):
        batch = jax.random.choice(key, targets, (50,))
        return 0.5 * jnp.mean(jnp.sum((batch - w) ** 2, axis=1))

    settings = {"sampler": "sgld", "step_size": 2e-3, "minibatch": True, "n_draws": 4000}
    result = local_learning_coefficient(loss, best, 200, jax.random.key(11), localization=0.0, **settings)
    n_beta = 200 / np.log(200)
    # Gradient noise adds its variance to that of the steps: e (n beta)^2 0.01 / 50 / 4 = 0.4 % here.
    truth = sgld_llc(np.ones(4), n_beta, 0.0, 2e-3)
    np.testing.assert_allclose(result.coefficient.value, truth, atol=3 * result.coefficient.stderr + 0.01 * truth)


def test_exact_curves_give_their_coefficients():
    error = np.logspace(-4, -2, 9)
    basin = llc_from_curve(error, quadratic_basin_log_volume(H, error))
    assert isinstance(basin, CurveLLC)
    np.testing.assert_allclose(basin.coefficient.value, len(H) / 2, rtol=1e-10)
    np.testing.assert_allclose(basin.local.value, len(H) / 2, rtol=1e-10)
    np.testing.assert_allclose(basin.error, np.sqrt(error[1:] * error[:-1]))
    np.testing.assert_allclose(basin.residual, 0, atol=1e-10)
    for k in (1, 2, 3):
        flat = llc_from_curve(error, monomial_log_prob(error, k))
        np.testing.assert_allclose(flat.coefficient.value, 1 / (2 * k), rtol=1e-10)
        assert flat.multiplicity.value == 1
    # A ball under the normal law: D / 2 up to the curvature of the density over the ball, of relative size r^2 / D.
    np.testing.assert_allclose(llc_from_curve(error, ball_log_prob(10, error)).coefficient.value, 5, rtol=1e-3)
    # ln(1 - ln z) = ln(-ln e) + O(1 / ln e): small only for errors this deep.
    deep = np.logspace(-300, -100, 21)
    crossing = llc_from_curve(deep, normal_crossing_log_prob(deep), fit_multiplicity=True)
    np.testing.assert_allclose(crossing.coefficient.value, 0.5, atol=1e-4)
    np.testing.assert_allclose(crossing.multiplicity.value, 2, atol=0.02)
    assert llc_from_curve(deep, normal_crossing_log_prob(deep)).residual > 10 * crossing.residual


@given(st.floats(0.1, 50), st.integers(1, 4), st.floats(-100, 100))
def test_any_law_is_recovered(coefficient, multiplicity, constant):
    error = np.logspace(-8, -1, 12)
    log_p = coefficient * np.log(error) + (multiplicity - 1) * np.log(-np.log(error)) + constant
    law = llc_from_curve(error, log_p, fit_multiplicity=True)
    np.testing.assert_allclose(law.coefficient.value, coefficient, rtol=1e-6)
    np.testing.assert_allclose(law.multiplicity.value, multiplicity, rtol=1e-5, atol=1e-6)


def test_errors_of_a_noisy_curve():
    """Neighbors share noise, as thresholds of one simulation do; the stated errors are those of the repetitions."""
    error, rng = np.logspace(-3, -1, 6), np.random.default_rng(0)
    shared = rng.normal(size=(400, 6)).cumsum(axis=1) * 0.1
    covariance = 0.01 * np.minimum.outer(np.arange(1, 7), np.arange(1, 7))
    fit = jax.jit(lambda noise: llc_from_curve(error, 3 * np.log(error) + noise, covariance=covariance))
    laws = jax.vmap(fit)(shared)
    # 400 repetitions: a relative error of 3.5 % of the spread, three times that allowed.
    np.testing.assert_allclose(np.std(laws.coefficient.value), laws.coefficient.stderr[0], rtol=0.11)
    np.testing.assert_allclose(np.std(laws.local.value, axis=0), laws.local.stderr[0], rtol=0.11)
    independent = llc_from_curve(error, 3 * np.log(error), covariance=np.full(6, 0.01))
    np.testing.assert_allclose(independent.local.stderr, np.sqrt(0.02) / np.diff(np.log(error)))
    assert (llc_from_curve(error, 3 * np.log(error), covariance=np.zeros(6)).coefficient.stderr) == 0


def test_chain_summary_of_autoregressive_draws():
    """Lag-one autocorrelation a: the mean of n draws has variance (1 + a) / (1 - a) / n for unit variance."""
    rng, a, shape = np.random.default_rng(1), 0.8, (200, 4, 2000)
    noise, draws = rng.normal(size=shape) * np.sqrt(1 - a**2), np.empty(shape)
    draws[..., 0] = rng.normal(size=shape[:2])
    for t in range(1, shape[2]):
        draws[..., t] = a * draws[..., t - 1] + noise[..., t]
    summary = jax.jit(jax.vmap(summarize_chains))(jnp.asarray(draws))
    assert isinstance(summary, ChainSummary)
    # Geyer's estimate scatters by 10 % a chain set; averaged over 200 sets its bias shows, a few per cent.
    np.testing.assert_allclose(jnp.mean(summary.effective_draws), 8000 * (1 - a) / (1 + a), rtol=0.05)
    z = summary.mean / summary.stderr
    np.testing.assert_allclose(jnp.std(z), 1, atol=0.15)
    assert (summary.r_hat < 1.05).all()
    broken = jax.jit(summarize_chains)(jnp.asarray(draws[0]).at[1, 7].set(jnp.nan))
    np.testing.assert_array_equal(broken.failed, [False, True, False, False])
    np.testing.assert_allclose(broken.mean, np.delete(draws[0], 1, axis=0).mean(), rtol=1e-12)
    apart, alike = jnp.arange(4.0)[:, None] + jnp.zeros((4, 2000)), jnp.zeros((4, 2000))
    assert jax.jit(summarize_chains)(apart).r_hat > 1e6
    assert jax.jit(summarize_chains)(alike).r_hat == 1
    with pytest.raises(ValueError, match="`draws` must be of chains by at least 8 draws"):
        summarize_chains(jnp.zeros(9))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "nuts"}, "`sampler` must be one of 'sgld', 'mala', 'hmc'"),
        ({"sampler": "sgld"}, "`step_size` must be given for 'sgld'"),
        ({"step_size": -1.0}, "`step_size` must be a positive number"),
        ({"minibatch": True}, "`minibatch` must be False for 'mala'"),
        ({"n": 1}, "`n` must be at least 2"),
        ({"n": 2.5}, "`n` must be a positive whole number"),
        ({"inverse_temperature": 0.0}, "`inverse_temperature` must be a positive number"),
        ({"localization": -1.0}, "`localization` must be at least 0"),
        ({"n_draws": 7}, "`n_draws` must be at least 8"),
        ({"n_chains": 0}, "`n_chains` must be a positive whole number"),
        ({"scales": np.ones(5)}, "`scales` must be a number, of shape"),
        ({"scales": -1.0}, "`scales` must be positive"),
        ({"start": {"a": np.zeros((3, 3, 4))}}, "`start` must have leaves of leading length `n_chains` = 4"),
    ],
)
def test_bad_sampling_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        local_learning_coefficient(LOSS, PARAMS, **{"n": 500, "key": jax.random.key(0), **options})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: llc_from_curve([1e-2], [0.0]), "`error` must have at least 2 entries"),
        (lambda: llc_from_curve([0.0, 1e-2], [0.0, 0.0]), "`error` must be positive"),
        (lambda: llc_from_curve([0.1, 0.5, 2.0], [0.0] * 3, fit_multiplicity=True), "`error` must be below 1"),
        (lambda: llc_from_curve([0.1, 0.5], [0.0] * 3), "`log_p` must have shape"),
        (lambda: llc_from_curve([0.1, 0.5], [0.0] * 2, covariance=np.eye(3)), "`covariance` must have shape"),
    ],
)
def test_bad_curves(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("betas", [[1.0], [1.0, 0.5], [0.0, 1.0]])
def test_bad_temperatures(betas):
    with pytest.raises(ValueError, match="`inverse_temperature` must be at least two increasing positive numbers"):
        llc_by_thermodynamic_integration(LOSS, PARAMS, 500, jax.random.key(0), inverse_temperature=betas)
