import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from genjax.dynamics.averages import FieldAverages, field_averages
from genjax.dynamics.committee import (
    CommitteePath,
    Overlaps,
    Teacher,
    committee_flow,
    generalization_error,
    online_sgd,
    weight_overlaps,
)

pytestmark = pytest.mark.slow

FUNCTIONS = {
    "erf": (lambda u: erf(u / np.sqrt(2)), lambda u: np.sqrt(2 / np.pi) * np.exp(-u * u / 2)),
    "relu": (lambda u: np.maximum(u, 0), lambda u: (u > 0) * 1.0),
    "linear": (lambda u: u, np.ones_like),
}
PLATEAU = Overlaps(np.diag([0.25, 0.16]), np.diag([0.01, 0.02]), np.ones(2))


def covariance(n, seed=0):
    a = np.random.default_rng(seed).standard_normal((n, n + 1))
    return a @ a.T / n


@pytest.mark.parametrize("activation", ["erf", "relu", "linear"])
def test_averages_equal_monte_carlo(activation):
    c = covariance(4)
    averages = field_averages(c, activation)
    assert isinstance(averages, FieldAverages)
    fields = np.random.default_rng(1).standard_normal((400_000, 4)) @ np.linalg.cholesky(c).T
    g, slope = (f(fields) for f in FUNCTIONS[activation])
    # The average over quasi-random points has an error of its own.
    own = 3e-3 * c.diagonal().max() if activation == "relu" else 1e-12
    for a, b, c_, d in ((0, 1, 2, 3), (0, 0, 1, 2), (0, 1, 0, 1), (1, 1, 1, 1), (0, 1, 2, 2), (2, 3, 3, 1)):
        for sample, value, extra in (
            (g[:, a] * g[:, b], averages.second[a, b], 1e-12),
            (slope[:, a] * slope[:, b], averages.slopes[a, b], 1e-12),
            (slope[:, a] * fields[:, b] * g[:, c_], averages.third[a, b, c_], 1e-12),
            (slope[:, a] * slope[:, b] * g[:, c_] * g[:, d], averages.fourth[a, b, c_, d], own),
        ):
            # 4.5 standard errors: some seventy comparisons in all.
            assert abs(sample.mean() - float(value)) < 4.5 * sample.std() / len(sample) ** 0.5 + extra


def test_erf_averages_equal_published_forms():
    c = covariance(4, seed=2)
    averages = field_averages(c, "erf")
    for a, b, i, j in ((0, 1, 2, 3), (0, 0, 1, 2), (1, 2, 1, 3), (3, 3, 3, 3)):
        l4 = (1 + c[a, a]) * (1 + c[b, b]) - c[a, b] ** 2

        def product(i, j, a=a, b=b, l4=l4, diagonal=0.0):
            return (
                l4 * (diagonal + c[i, j])
                - c[b, i] * c[b, j] * (1 + c[a, a])
                - c[a, i] * c[a, j] * (1 + c[b, b])
                + c[a, b] * (c[a, i] * c[b, j] + c[a, j] * c[b, i])
            )

        scale = np.sqrt(product(i, i, diagonal=1.0) * product(j, j, diagonal=1.0))
        expected = 4 / np.pi**2 / np.sqrt(l4) * np.arcsin(product(i, j) / scale)
        np.testing.assert_allclose(averages.fourth[a, b, i, j], expected, rtol=1e-12)
    # Gauss-Hermite cube of 48 points, at rounding for fields of this size.
    nodes, weights = np.polynomial.hermite_e.hermegauss(48)
    small = 0.3 * covariance(2)
    fields = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1) @ np.linalg.cholesky(small).T
    g, slope = (f(fields) for f in FUNCTIONS["erf"])
    mass = np.outer(weights, weights) / (2 * np.pi)
    averages = field_averages(small, "erf")
    np.testing.assert_allclose(averages.second[0, 1], np.sum(mass * g[..., 0] * g[..., 1]), rtol=1e-10)
    np.testing.assert_allclose(
        averages.third[0, 1, 1], np.sum(mass * slope[..., 0] * fields[..., 1] * g[..., 1]), rtol=1e-10
    )


# Digits of the design notes: eta = 1, no noise, a plateau and its escape; rtol 1e-10 there.
def test_reference_numbers():
    path = committee_flow([0.0, 10, 20, 50, 100, 200], PLATEAU, Teacher(np.eye(2), np.ones(2)), learning_rate=1.0)
    expected = [0.42908695, 0.02099869, 0.02078034, 0.01881124, 0.00139283]
    # The escape from the plateau amplifies the tolerance of 4e-10.
    np.testing.assert_allclose(path.error[:5], expected, rtol=0, atol=2e-8)
    assert float(path.error[5]) == pytest.approx(2.6e-7, rel=0.05)
    # Specialized: each student unit has found one unit of the teacher.
    np.testing.assert_allclose(path.overlaps.cross[-1], np.eye(2), atol=2e-3)
    error = generalization_error(path.overlaps, Teacher(np.eye(2), np.ones(2)))
    np.testing.assert_allclose(error, path.error, rtol=1e-9, atol=1e-15)


def test_linear_machine_equals_least_mean_squares():
    # The summed weights obey E' = -2 k E + k^2 (E + sigma^2), E = |sum_k w_k - w*|^2 / N, with k = eta K.
    times, noise = jnp.linspace(0, 6, 7), 0.5
    for k in (1, 3):
        start = Overlaps(0.2 * np.eye(k), np.full((k, 1), 0.05), np.ones(k))

        @jax.vmap
        def errors(rate, start=start):
            teacher = Teacher(np.ones((1, 1)), np.ones(1), noise)
            return committee_flow(times, start, teacher, learning_rate=rate, activation="linear").error

        rates = jnp.array([0.1, 0.3, 0.5])
        together = k * rates[:, None]
        initial = 0.2 * k - 0.1 * k + 1
        final = together * noise**2 / (2 - together)
        expected = final + (initial - final) * jnp.exp(-together * (2 - together) * times)
        np.testing.assert_allclose(errors(rates), expected / 2, rtol=1e-7)


def test_error_that_noise_leaves_grows_with_the_learning_rate_and_with_more_units():
    def final(k, rate):
        rng = np.random.default_rng(0)
        spread = np.diag(0.3 + 0.05 * np.arange(k))
        start = Overlaps(spread, rng.uniform(0.05, 0.1, (k, 1)), np.ones(k))
        path = committee_flow([0.0, 200.0 / rate], start, Teacher(np.ones((1, 1)), np.ones(1), 0.1), learning_rate=rate)
        return float(path.error[-1])

    small, double, wide = final(1, 0.05), final(1, 0.1), final(3, 0.05)
    # First order in the learning rate; the next order is that of the learning rate itself.
    assert double / small == pytest.approx(2, rel=0.1)
    # Units beyond the teacher's fit noise: with the first layer alone trained the error rises with their number.
    assert 1.2 * small < wide


def finite(n_inputs, n_units, seed=0):
    rng = np.random.default_rng(seed)
    teacher = np.linalg.qr(rng.standard_normal((n_inputs, 2)))[0].T * np.sqrt(n_inputs)
    student = 0.4 * rng.standard_normal((n_units, n_inputs)) + 0.3 * rng.standard_normal((n_units, 2)) @ teacher
    return student, np.linspace(0.8, 1.2, n_units), teacher


@pytest.mark.parametrize(
    "activation", ["erf", pytest.param("relu", marks=pytest.mark.slow), pytest.param("linear", marks=pytest.mark.slow)]
)
def test_flow_equals_online_training(activation):
    n_inputs, times = 300, [0.0, 1.0, 3.0, 6.0]
    student, readout, teacher = finite(n_inputs, 3)
    rates = {"learning_rate": 0.3, "readout_learning_rate": 0.2, "activation": activation}
    flow = committee_flow(
        times, weight_overlaps(student, readout, teacher), Teacher(np.eye(2), np.ones(2), 0.2), **rates
    )
    runs = jax.vmap(lambda key: online_sgd(key, times, student, readout, teacher, np.ones(2), noise=0.2, **rates))(
        jax.random.split(jax.random.key(0), 16)
    )
    np.testing.assert_allclose(runs.error[0, 0], flow.error[0], rtol=1e-12)
    for run, theory in zip(jax.tree.leaves((runs.overlaps, runs.error)), jax.tree.leaves((flow.overlaps, flow.error))):
        sem = run.std(0) / 16**0.5
        # Standard errors, and bias of order 1/N.
        np.testing.assert_array_less(jnp.abs(run.mean(0) - theory), 4.5 * sem + 4 / n_inputs)


@pytest.mark.slow
def test_flow_equals_online_training_of_a_thousand_inputs():
    times = [0.0, 5.0, 10.0, 20.0, 40.0, 60.0]
    student, _, teacher = finite(1000, 2, seed=1)
    readout = np.ones(2)
    flow = committee_flow(
        times, weight_overlaps(student, readout, teacher), Teacher(np.eye(2), np.ones(2), 0.1), learning_rate=0.5
    )
    runs = jax.vmap(
        lambda key: online_sgd(key, times, student, readout, teacher, np.ones(2), noise=0.1, learning_rate=0.5)
    )(jax.random.split(jax.random.key(0), 4))
    sem = runs.error.std(0) / 4**0.5
    np.testing.assert_array_less(jnp.abs(runs.error.mean(0) - flow.error), 5 * sem + 2e-3)


def test_divergence_and_single_precision():
    start = Overlaps(np.eye(1), np.zeros((1, 1)), np.ones(1))
    teacher = Teacher(np.ones((1, 1)), np.ones(1))
    path = committee_flow([0.0, 10.0], start, teacher, learning_rate=4.0, activation="linear")
    np.testing.assert_allclose(path.error[-1], np.exp(80.0), rtol=1e-5)
    single = jax.tree.map(np.float32, (np.array([0.0, 5.0]), PLATEAU, Teacher(np.eye(2), np.ones(2), 0.0)))
    double = committee_flow([0.0, 5.0], PLATEAU, Teacher(np.eye(2), np.ones(2)), learning_rate=0.5)
    path = committee_flow(*single, learning_rate=np.float32(0.5))
    assert isinstance(path, CommitteePath)
    assert path.error.dtype == jnp.float32
    np.testing.assert_allclose(path.error, double.error, rtol=2e-3)


def test_bad_arguments_are_named():
    teacher = Teacher(np.eye(2), np.ones(2))
    with pytest.raises(ValueError, match="`activation`"):
        committee_flow([0.0, 1.0], PLATEAU, teacher, learning_rate=1.0, activation="tanh")
    with pytest.raises(ValueError, match="`cross` must end in shape"):
        committee_flow([0.0, 1.0], PLATEAU._replace(cross=np.eye(3)), teacher, learning_rate=1.0)
    with pytest.raises(ValueError, match="`times` must ascend"):
        committee_flow([1.0, 0.0], PLATEAU, teacher, learning_rate=1.0)
    with pytest.raises(ValueError, match="`learning_rate` must be at least 0"):
        committee_flow([0.0, 1.0], PLATEAU, teacher, learning_rate=-1.0)
    with pytest.raises(ValueError, match="`n_points` must be a power of two"):
        field_averages(np.eye(2), "relu", n_points=100)
    with pytest.raises(ValueError, match="`covariance` must be square"):
        field_averages(np.ones((2, 3)), "erf")
    with pytest.raises(ValueError, match="`teacher_weights`"):
        weight_overlaps(np.ones((2, 3)), np.ones(2), np.ones((2, 4)))
