"""Corrections of order 1/N: the theory of one hidden layer against ensembles, and fits to ensembles."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.dmft.ensembles import train_networks
from genjax.dmft.finite_width import WidthCorrections, WidthFit, extrapolate_width, two_layer_corrections
from genjax.dmft.problem import training_problem

pytestmark = pytest.mark.slow


def problem(steps, **options):
    x = jax.random.normal(jax.random.key(3), (4, 8))
    settings = {"depth": 1, "activation": jnp.tanh, "learning_rate": 0.4, "gamma": 1.0} | options
    return training_problem(x @ x.T / 8, [1.0, -1.0, 1.0, -1.0], steps=steps, **settings)


def variance(corrections):
    return jnp.einsum("tata->ta", corrections.covariance)


def test_one_step_of_a_linear_network_in_closed_form():
    """f(1) - f(0) = (eta / P) K y with K = (w.w + u^T u) kx / N: its noise is that of two chi-squares per weight."""
    task = problem(1, activation=lambda h: h)
    got = two_layer_corrections(jax.random.key(0), task, samples=40_000)
    assert isinstance(got, WidthCorrections)
    kx, y = np.array(task.kx), np.array(task.y[:, 0])
    rate = 0.4 / 4
    np.testing.assert_allclose(got.f[0], 0, atol=1e-12)
    # Without centring Delta(0) is y: the kernel is E[z^2] kx + E[h h^T] = 2 kx.
    assert np.all(np.abs(got.f[1] - rate * 2 * kx @ y) < 5 * np.array(got.f_stderr[1]))
    # Site: z^2 kx y + h (h.y), independent parts; Var z^2 = 2, Cov h (h.y) = kx (y.kx y) + (kx y)(kx y)^T.
    projected = kx @ y
    expected = rate**2 * (3 * np.outer(projected, projected) + kx * (y @ projected))
    # Fourth moments of 20,000 pairs.
    np.testing.assert_allclose(got.covariance[1, :, 1], expected, atol=0.08 * np.abs(expected).max())
    # The mean over networks has no correction in the first step.
    np.testing.assert_allclose(got.bias, 0, atol=1e-10)


def test_variance_and_bias_of_networks():
    task = problem(12)
    theory = two_layer_corrections(jax.random.key(1), task)
    width = 32
    networks = train_networks(jax.random.key(2), task, width=width, networks=4000, batch_size=500).f
    ratio = width * jnp.sum(networks.var(0)[1:]) / jnp.sum(variance(theory)[1:])
    # Next order at width 32 is 1 %, noise of 4000 networks 1 to 2 %.
    assert 0.93 < ratio < 1.07
    bias = width * (networks.mean(0) - theory.f)
    noise = jnp.sqrt(
        (width * theory.f_stderr) ** 2 + theory.bias_stderr**2 + variance(theory) * width / networks.shape[0]
    )
    # Noise of the mean of networks times the width hides much of it at this size, not all.
    assert np.abs((bias - theory.bias)[1:] / noise[1:]).max() < 4.5


@pytest.mark.slow
def test_corrections_at_the_reference_setting():
    """P = 4, T = 40; the mean over networks from three widths against the bias, an error of each included."""
    task = problem(40)
    theory = two_layer_corrections(jax.random.key(1), task, samples=40_000)
    widths = (32, 64, 128)
    ensembles = [
        train_networks(jax.random.key(width), task, width=width, networks=8000, batch_size=500).f for width in widths
    ]
    for width, networks in zip(widths, ensembles, strict=True):
        ratio = width * jnp.sum(networks.var(0)[1:]) / jnp.sum(variance(theory)[1:])
        assert abs(ratio - 1) < 0.03 + 0.5 / width
        measured = jnp.cov(networks[:, 1:].reshape(len(networks), -1).T).ravel()
        predicted = theory.covariance[1:, :, 1:].reshape(-1)
        assert np.corrcoef(measured, predicted)[0, 1] > 0.99
    fit = extrapolate_width(widths, ensembles)
    for got, expected, errors in (
        (fit.limit, theory.f, (fit.limit_stderr, theory.f_stderr)),
        (fit.slope, theory.bias, (fit.slope_stderr, theory.bias_stderr)),
    ):
        off = (got - expected)[1:] / jnp.hypot(*errors)[1:]
        assert np.abs(off).max() < 4.5
        assert np.mean(off**2) < 3
    # It is there, from the second step on: a theory without bias would be told apart.
    assert np.abs(theory.bias[2:] / theory.bias_stderr[2:]).max() > 10


def test_fit_recovers_limit_slope_and_variance_with_honest_errors():
    rng = np.random.default_rng(0)
    widths, counts = [10, 20, 40, 80], [100, 200, 300, 400]
    truth = np.linspace(-1, 1, 300)
    samples = [
        truth + 3 / n + np.sqrt(2 / n) * rng.standard_normal((count, 300))
        for n, count in zip(widths, counts, strict=True)
    ]
    fit = extrapolate_width(widths, samples)
    assert isinstance(fit, WidthFit)
    for got, expected, stderr in (
        (fit.limit, truth, fit.limit_stderr),
        (fit.slope, 3, fit.slope_stderr),
        (fit.variance, 2, fit.variance_stderr),
    ):
        off = (got - expected) / stderr
        # 300 standard normal numbers: mean within 4 / sqrt(300), standard deviation within 4 / sqrt(600).
        assert abs(off.mean()) < 0.24
        assert 0.83 < off.std() < 1.17
    np.testing.assert_allclose(fit.chi_square.mean(), 1, atol=0.24)
    assert np.isnan(extrapolate_width(widths[:2], samples[:2]).chi_square).all()


def test_wrong_arguments_are_named():
    key, task = jax.random.key(0), problem(2)
    with pytest.raises(ValueError, match="`problem` must have depth 1"):
        two_layer_corrections(key, dataclasses.replace(task, depth=2))
    with pytest.raises(ValueError, match="`problem` must have no momentum"):
        two_layer_corrections(key, problem(2, momentum=0.5))
    with pytest.raises(ValueError, match="`samples` must be a multiple of twice `groups`"):
        two_layer_corrections(key, task, samples=30)
    with pytest.raises(ValueError, match="`groups` must be a positive whole number"):
        two_layer_corrections(key, task, groups=0)
    for widths, samples, words in (
        ([4, 4], [[1.0, 2.0]] * 2, "`widths` must hold at least 2 different"),
        ([4, 0], [[1.0, 2.0]] * 2, "`widths` must be a positive whole number"),
        ([4, 8], [[1.0, 2.0]], "`samples` must have one ensemble per width"),
        ([4, 8], [[1.0, 2.0], [1.0]], "`samples` must have at least 2 networks"),
        ([4, 8], [[1.0, 2.0], [[1.0], [2.0]]], "`samples` must have shape"),
    ):
        with pytest.raises(ValueError, match=words):
            extrapolate_width(widths, samples)
