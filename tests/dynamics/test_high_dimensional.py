import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from genjax.dynamics.high_dimensional import (
    EarlyStopping,
    LearningCurve,
    final_error,
    learning_curve,
    marchenko_pastur,
    optimal_ridge_error,
    optimal_stopping,
    simulate_student,
)


def test_moments_and_resolvent_of_the_law():
    for ratio in (0.01, 0.5, 0.999, 1.0, 1.001, 2.0, 50.0):
        eigenvalues, weights = marchenko_pastur(ratio)
        np.testing.assert_allclose(weights.sum(), min(1, ratio), rtol=1e-11)
        np.testing.assert_allclose((weights * eigenvalues).sum(), ratio, rtol=1e-11)
        np.testing.assert_allclose((weights * eigenvalues**2).sum(), ratio + ratio**2, rtol=1e-11)
        # Stieltjes transform at -z, from its quadratic equation; frozen directions contribute (1 - ratio)_+ / z.
        z = 0.3
        b = z + ratio - 1
        resolvent = (-b + np.sqrt(b * b + 4 * z)) / (2 * z) - max(1 - ratio, 0) / z
        np.testing.assert_allclose((weights / (eigenvalues + z)).sum(), resolvent, rtol=1e-10)
        if ratio != 1:
            np.testing.assert_allclose((weights / eigenvalues).sum(), min(1, ratio) / abs(1 - ratio), rtol=1e-8)


def test_curves_equal_adaptive_quadrature():
    for ratio, t in ((0.5, 2.0), (0.9, 1e3), (2.0, 0.5)):
        low, high = (1 - ratio**0.5) ** 2, (1 + ratio**0.5) ** 2

        def average(f, low=low, high=high):
            def integrand(angle):
                x = (low + high) / 2 + (high - low) / 2 * np.cos(angle)
                return f(x) * ((high - low) / 2 * np.sin(angle)) ** 2 / (2 * np.pi * x)

            return quad(integrand, 0, np.pi, epsabs=1e-13, epsrel=1e-12, limit=500)[0]

        curve = learning_curve(t, ratio, signal=1.2, noise=0.25, initial=0.3)
        test = average(lambda x, t=t: 1.5 * np.exp(-2 * x * t) + 0.25 / x * (1 - np.exp(-x * t)) ** 2)
        train = average(lambda x, t=t: (1.5 * x + 0.25) * np.exp(-2 * x * t)) / ratio
        np.testing.assert_allclose(curve.test, test + max(1 - ratio, 0) * 1.5 + 0.25, rtol=1e-10)
        np.testing.assert_allclose(curve.train, train + 0.25 * max(1 - 1 / ratio, 0), rtol=1e-10)


# Digits of the design notes: s_w = 1, s_e^2 = 1/4, s_0 = 0; a half unit in the last digit.
def test_reference_numbers():
    def test_error(ratio, t):
        return learning_curve(t, ratio, noise=0.25).test

    np.testing.assert_allclose(test_error(0.5, [0.5, 2.0, 10.0]), [0.99265, 0.89560, 0.95755], atol=6e-6)
    np.testing.assert_allclose(test_error(1.0, [2.0, 10.0, 100.0]), [0.65275, 0.78056, 1.81964], atol=6e-6)
    np.testing.assert_allclose(test_error(2.0, 2.0), 0.43216, atol=6e-6)
    np.testing.assert_allclose(learning_curve(2.0, 1.0, noise=0.25).train, 0.10293, atol=6e-6)
    np.testing.assert_allclose(
        test_error([0.5, 0.9, 1.0, 1.1, 2.0], 1e3), [1.0, 2.5782, 5.3639, 2.7159, 0.5], atol=6e-5
    )
    np.testing.assert_allclose(test_error(1.0, 1e5), 52.38, atol=6e-3)
    stop = optimal_stopping(jnp.array([0.5, 1.0, 2.0]), noise=0.25)
    np.testing.assert_allclose(stop.time, [2.2372, 2.4651, 2.0022], atol=6e-5)
    np.testing.assert_allclose(stop.test, [0.895072, 0.650032, 0.432161], atol=6e-7)
    np.testing.assert_allclose(
        optimal_ridge_error([0.5, 1.0, 2.0], noise=0.25), [0.890388, 0.640388, 0.425391], atol=6e-7
    )


def test_final_errors():
    ratio = np.array([0.25, 0.5, 2.0, 4.0])
    error = final_error(ratio, noise=0.25)
    # The finite draws of the design notes, 1.083, .999, .502, .334, lie within .002.
    np.testing.assert_allclose(error, [1.083, 0.999, 0.502, 0.334], atol=2.1e-3)
    np.testing.assert_allclose(error, learning_curve(jnp.inf, ratio, noise=0.25).test, rtol=1e-14)
    np.testing.assert_allclose(error, learning_curve(1e4, ratio, noise=0.25).test, rtol=1e-10)
    np.testing.assert_allclose(final_error(0.5, noise=0.25, initial=1.0), 1.5, rtol=1e-14)


def test_double_descent_peaks_where_samples_equal_weights():
    ratio = jnp.linspace(0.2, 3, 29)
    test = learning_curve(1e6, ratio, noise=0.25).test
    assert float(ratio[jnp.argmax(test)]) == pytest.approx(1.0)
    assert np.isinf(final_error(1.0, noise=0.25))
    assert np.isinf(learning_curve(jnp.inf, 1.0, noise=0.25).test)
    # Without noise there is none, and stopping early removes it.
    assert np.all(np.diff(final_error(ratio)) <= 0)
    assert np.all(np.diff(optimal_stopping(ratio, noise=0.25).test) < 0)
    # At the peak the error grows as the square root of time.
    late = learning_curve(jnp.array([1e8, 4e8]), 1.0, noise=0.25).test
    assert float(late[1] / late[0]) == pytest.approx(2, rel=1e-4)


def test_stopping_is_the_minimum_and_no_better_than_ridge():
    times = jnp.logspace(-2, 3, 2001)
    for ratio, initial in ((0.3, 0.0), (1.0, 0.5), (3.0, 0.0)):
        stop = optimal_stopping(ratio, noise=0.1, initial=initial)
        curve = learning_curve(times, ratio, noise=0.1, initial=initial).test
        assert float(stop.test) <= float(curve.min())
        # The grid of times is 0.6% fine.
        assert float(stop.time) == pytest.approx(float(times[jnp.argmin(curve)]), rel=6e-3)
        assert float(stop.test) > float(optimal_ridge_error(ratio, noise=0.1))
    assert isinstance(stop, EarlyStopping)
    assert np.isinf(optimal_stopping(0.5).time)
    np.testing.assert_allclose(optimal_stopping(0.5).test, 0.5)
    # Many samples leave every direction alike: one time, ln(1 + l / s_e^2) / l, suits all.
    ratio = 1e6
    np.testing.assert_allclose(optimal_stopping(ratio, noise=0.25).time, np.log1p(4 * ratio) / ratio, rtol=1e-3)


@pytest.mark.slow
def test_simulation_agrees_within_its_error():
    times = jnp.array([0.5, 2.0, 10.0, jnp.inf])
    for n_samples, initial in ((25, 0.0), (100, 0.5)):
        draws = jax.vmap(
            lambda key, p=n_samples, s=initial: simulate_student(
                key, times, n_inputs=50, n_samples=p, noise=0.25, initial=s
            )
        )(jax.random.split(jax.random.key(0), 100))
        theory = learning_curve(times, n_samples / 50, noise=0.25, initial=initial)
        for drawn, expected in zip(draws, theory):
            sem = drawn.std(0) / 100**0.5
            # Four standard errors (training error vanishes at the end with few samples), and corrections of order 1/N.
            np.testing.assert_array_less(jnp.abs(drawn.mean(0) - expected), 4 * sem + 0.04 * expected + 1e-12)


@pytest.mark.slow
def test_simulation_at_the_size_of_the_notes():
    times = jnp.array([2.0, jnp.inf])
    for ratio in (0.25, 0.5, 2.0, 4.0):
        draws = jax.lax.map(
            lambda key, p=int(400 * ratio): simulate_student(key, times, n_inputs=400, n_samples=p, noise=0.25).test,
            jax.random.split(jax.random.key(1), 40),
        )
        sem = draws.std(0) / 40**0.5
        expected = learning_curve(times, ratio, noise=0.25).test
        np.testing.assert_array_less(jnp.abs(draws.mean(0) - expected), 4 * sem + 0.005)


def test_single_precision_and_compilation():
    curve = jax.jit(learning_curve)(jnp.float32([2.0, 100.0]), jnp.float32(1.0), noise=jnp.float32(0.25))
    assert isinstance(curve, LearningCurve)
    assert curve.test.dtype == jnp.float32
    np.testing.assert_allclose(curve.test, [0.65275, 1.81964], rtol=3e-5)
    assert np.isnan(jax.jit(final_error)(-1.0))
    assert np.isnan(jax.jit(learning_curve)(1.0, -1.0).test)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="`ratio` must be positive"):
        learning_curve(1.0, 0.0)
    with pytest.raises(ValueError, match="`noise` must be at least 0"):
        final_error(0.5, noise=-1.0)
    with pytest.raises(ValueError, match="`times` must be at least 0"):
        learning_curve(-1.0, 0.5)
    with pytest.raises(ValueError, match="`n_samples`"):
        simulate_student(jax.random.key(0), [1.0], n_inputs=3, n_samples=0)
