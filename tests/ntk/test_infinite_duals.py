"""Closed forms of every nonlinearity against two-dimensional quadrature."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from scipy.special import eval_hermitenorm, factorial

from genjax.ntk import infinite as nn
from genjax.ntk.infinite import duals

ACTIVATIONS = {
    "relu": nn.relu(),
    "leaky_relu": nn.leaky_relu(0.2),
    "abrelu": nn.abrelu(-0.3, 1.4),
    "abs": nn.abs(),
    "sign": nn.sign(),
    "step": nn.rectified_monomial(0),
    "rectified_monomial 1": nn.rectified_monomial(1),
    "rectified_monomial 2": nn.rectified_monomial(2),
    "erf": nn.erf(),
    "gelu": nn.gelu(),
    "sin": nn.sin(1.3, 0.8, 0.4),
    "cos": nn.cos(0.7, 1.2, 0.1),
    "rbf": nn.rbf(0.6),
    "exp": nn.exp(0.4),
    "gaussian": nn.gaussian(0.7),
    "hermite": nn.hermite(3),
    "monomial": nn.monomial(4),
    "polynomial": nn.polynomial([0.3, -1.0, 0.5, 0.2]),
    "elementwise": nn.elementwise(jnp.tanh, 40),
}
# Unequal variances, both signs of the correlation, and one close to 1.
MOMENTS = [(1.0, 1.0, 0.5), (0.7, 1.6, -0.6), (1.2, 0.5, 0.7)]


@jax.jit
def pair(layer, v1, v2, k, same=None):
    """Dual and dual of the derivative."""
    return layer.pair(jnp.asarray(v1), jnp.asarray(v2), jnp.asarray(k), None, same, True)[:2]


def quadrature(f, v1, v2, k, n=160):
    """E[f(u) f(u')], Gauss-Legendre on each quadrant, where every function here is smooth."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    half = (nodes + 1) / 2
    axis = np.concatenate([-half[::-1], half]) * 9
    weights = np.concatenate([weights[::-1], weights]) * 4.5
    u, v = axis * v1**0.5, axis * v2**0.5
    determinant = v1 * v2 - k**2
    exponent = (v2 * u[:, None] ** 2 - 2 * k * u[:, None] * v + v1 * v**2) / (2 * determinant)
    density = np.exp(-exponent) / (2 * np.pi * determinant**0.5) * (v1 * v2) ** 0.5
    return (weights * np.asarray(f(jnp.asarray(u)))) @ density @ (weights * np.asarray(f(jnp.asarray(v))))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_duals_against_quadrature(name):
    layer = ACTIVATIONS[name]
    value, slope = pair(layer, *zip(*MOMENTS, strict=True))
    # Quadrature of analytic pieces is exact to rounding; the series of tanh to degree 40 at rho^40 c_40^2.
    tolerance = 1e-7 if name == "elementwise" else 1e-10
    function = jax.jit(layer.function)
    np.testing.assert_allclose(value, [quadrature(function, *m) for m in MOMENTS], rtol=tolerance, atol=1e-13)
    derivative = jax.jit(jax.vmap(jax.grad(layer.function)))
    np.testing.assert_allclose(slope, [quadrature(derivative, *m) for m in MOMENTS], rtol=10 * tolerance, atol=1e-13)


@pytest.mark.parametrize("name", sorted(set(ACTIVATIONS) - {"sign", "step"}))
def test_slope_is_the_derivative_of_the_dual(name):
    """Price's theorem; a jump has a delta function for a derivative, which no gradient of a network sees."""
    layer = ACTIVATIONS[name]
    v1, v2, k = map(jnp.asarray, MOMENTS[1])
    gradient = jax.jit(jax.grad(lambda k: layer.pair(v1, v2, k, None, None, False)[0]))(k)
    np.testing.assert_allclose(pair(layer, v1, v2, k)[1], gradient, rtol=1e-12)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_equal_inputs_have_the_second_moment(name):
    layer = ACTIVATIONS[name]
    v = jnp.asarray(1.3)
    value, slope = pair(layer, v, v, v, True)
    nodes, weights = np.polynomial.legendre.leggauss(400)
    u = np.concatenate([-(nodes + 1), nodes + 1]) * 5
    weights = np.tile(weights, 2) * 5 * np.exp(-(u**2) / 2.6) / (2 * np.pi * 1.3) ** 0.5
    tolerance = 1e-5 if name == "elementwise" else 1e-11  # the last coefficient of the series, squared
    np.testing.assert_allclose(value, weights @ np.asarray(layer.function(u)) ** 2, rtol=tolerance)
    derivative = jax.jit(jax.vmap(jax.grad(layer.function)))
    np.testing.assert_allclose(slope, weights @ np.asarray(derivative(u)) ** 2, rtol=100 * tolerance, atol=1e-12)


def test_reference_numbers_of_the_error_function():
    value, slope = duals.with_derivative(duals.erf, *map(jnp.asarray, (1.0, 1.0, 0.5)))
    np.testing.assert_allclose([value, slope], [0.2163468960, 0.4501581581], atol=1e-10)


@pytest.mark.parametrize("degree", [1, 2, 5])
def test_hermite_polynomials_have_powers_for_duals(degree):
    u = np.linspace(-2, 2, 9)
    np.testing.assert_allclose(
        nn.hermite(degree).function(jnp.asarray(u)), eval_hermitenorm(degree, u) / factorial(degree) ** 0.5, atol=1e-12
    )
    one = jnp.asarray(1.0)
    np.testing.assert_allclose(nn.hermite(degree).dual(one, one, jnp.asarray(0.6)), 0.6**degree, rtol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-15), (np.float32, 3e-7)])
def test_angle_has_full_relative_precision_from_0_to_pi(dtype, tolerance):
    tiny = 10.0 ** -np.arange(1, 17)
    ratio = np.concatenate([tiny, np.linspace(0.1, 2, 200)]).astype(dtype)
    theta, sine = duals.angle(jnp.asarray(ratio))
    assert theta.dtype == sine.dtype == dtype
    with mp.workdps(40):
        exact = np.array([float(2 * mp.asin(mp.sqrt(mp.mpf(float(r)) / 2))) for r in ratio])
        sines = np.array([float(mp.sqrt(mp.mpf(float(r)) * (2 - mp.mpf(float(r))))) for r in ratio])
    np.testing.assert_allclose(theta, exact, rtol=tolerance)
    np.testing.assert_allclose(sine, sines, rtol=tolerance)
    np.testing.assert_array_equal(duals.angle(jnp.zeros(1, dtype)), np.zeros((2, 1)))


def test_fallback_reproduces_closed_forms():
    for layer, peer in ((nn.elementwise(jax.lax.erf, 60), nn.erf()), (nn.elementwise(jnp.sin), nn.sin())):
        moments = list(zip(*MOMENTS, strict=True))
        np.testing.assert_allclose(pair(layer, *moments), pair(peer, *moments), rtol=1e-6)
