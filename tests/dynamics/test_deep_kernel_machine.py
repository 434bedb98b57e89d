import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.stats import multivariate_normal, wishart

from genjax.dynamics.deep_kernel_machine import (
    DeepKernelMachine,
    deep_kernel_objective,
    fit_deep_kernel_machine,
    process_grams,
)
from genjax.dynamics.gram_means import geometric_mean, linear_optimum
from genjax.errors import GenjaxError

pytestmark = pytest.mark.slow


def problem(n=4, outputs=2, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, n + 1))
    return x @ x.T / (n + 1), rng.standard_normal((n, outputs))


def test_geometric_mean_equals_matrix_roots():
    a, y = problem(outputs=6)
    b = y @ y.T / 6
    root = sqrtm(a).real
    inverse = np.linalg.inv(root)
    expected = root @ sqrtm(inverse @ b @ inverse).real @ root
    np.testing.assert_allclose(geometric_mean(a, b), expected, atol=1e-12)
    np.testing.assert_allclose(geometric_mean(a, b, 0.0), a, atol=1e-13)
    np.testing.assert_allclose(geometric_mean(a, b, 1.0), b, atol=1e-13)


def test_linear_machine_is_the_geometric_mean():
    k, y = problem(outputs=6)
    s = y @ y.T / 6
    machine = fit_deep_kernel_machine(k, y, depth=1, kernel="linear", output_width=1.0)
    np.testing.assert_allclose(machine.grams[0], geometric_mean(k, s), rtol=0, atol=1e-8)
    assert isinstance(machine, DeepKernelMachine)
    assert float(machine.gradient_norm) < 1e-9
    # Layers lie on the geodesic between inputs and labels.
    machine = fit_deep_kernel_machine(k, y, depth=3, kernel="linear", output_width=1.0)
    for layer, gram in enumerate(machine.grams, 1):
        np.testing.assert_allclose(gram, geometric_mean(k, s, layer / 4), rtol=0, atol=1e-8)


def test_linear_optimum_at_any_width():
    k, y = problem(outputs=3)
    for width in (0.7, 3.0, 20.0):
        g = linear_optimum(k, y @ y.T / 3, width=width, output_width=3.0)
        stationarity = y @ y.T + (width - 3) * g - width * g @ jnp.linalg.solve(k, g)
        np.testing.assert_allclose(stationarity, 0, atol=1e-11 * width)
    # With fewer outputs than width the optimum has full rank although the labels have not.
    machine = fit_deep_kernel_machine(k, y, depth=1, kernel="linear", width=20.0)
    np.testing.assert_allclose(machine.grams[0], g, rtol=0, atol=1e-8)


def test_objective_from_its_definition():
    k, y = problem()
    grams = process_grams(k, depth=2, kernel="erf") + 0.2 * np.eye(4)
    total = 0.0
    previous = k
    for nu, gram in zip((2.0, 3.0), np.asarray(grams)):
        prior = np.asarray(process_grams(previous, depth=1, kernel="erf"))[0]
        ratio = np.linalg.solve(prior, gram)
        total -= nu / 2 * (np.trace(ratio) - np.linalg.slogdet(ratio)[1] - 4)
        previous = gram
    covariance = np.asarray(process_grams(previous, depth=1, kernel="erf"))[0] + 0.1 * np.eye(4)
    total += multivariate_normal(np.zeros(4), covariance).logpdf(y.T).sum()
    value = deep_kernel_objective(grams, k, y, kernel="erf", width=[2.0, 3.0], noise=0.1)
    np.testing.assert_allclose(value, total, rtol=1e-12)


def test_prior_of_finite_width_is_the_wishart_law():
    # log density of the Gram matrix of N features = -N KL - (P + 1) / 2 ln det G + constant.
    k, y = problem()
    n, rest = 9, []
    for seed in range(3):
        gram = problem(seed=seed + 1)[0]
        base = deep_kernel_objective(gram[None], k, y, kernel="linear", width=1.0, noise=1.0)
        kl = base - deep_kernel_objective(gram[None], k, y, kernel="linear", width=2.0, noise=1.0)
        density = wishart(n, k / n).logpdf(gram)
        rest.append(density + n * kl + 5 / 2 * np.linalg.slogdet(gram)[1])
    np.testing.assert_allclose(rest, rest[0], rtol=1e-11)


@pytest.mark.parametrize("kernel", ["relu", "erf", "squared_exponential"])
def test_wide_layers_do_not_learn(kernel):
    k, y = problem()
    process = process_grams(k, depth=2, kernel=kernel)
    distances = []
    for width in (1.0, 100.0, 1000.0):
        machine = fit_deep_kernel_machine(k, y, depth=2, kernel=kernel, width=width, noise=0.1)
        assert float(machine.gradient_norm) < 1e-6 * width
        start = deep_kernel_objective(process, k, y, kernel=kernel, width=width, noise=0.1)
        assert float(machine.objective) > float(start)
        distances.append(jnp.linalg.norm(machine.grams - process, axis=(1, 2)) / jnp.linalg.norm(process, axis=(1, 2)))
    # The distance falls as 1 / nu, with corrections of its own size.
    np.testing.assert_allclose(distances[1] / distances[2], 10, rtol=0.2)
    assert np.all(distances[0] > 3 * distances[1])


def test_training_points_are_their_own_inducing_points():
    k, y = problem()
    settings = {"depth": 2, "kernel": "relu", "width": 2.0, "noise": 0.1}
    full = fit_deep_kernel_machine(k, y, **settings)
    sparse = fit_deep_kernel_machine(k, y, data=(k, np.diag(k)), **settings)
    np.testing.assert_allclose(sparse.objective, full.objective, rtol=1e-9)
    np.testing.assert_allclose(sparse.grams, full.grams, atol=1e-7)
    for machine in (full, sparse):
        mean, variance = machine.predict(k, np.diag(k))
        last = process_grams(machine.grams[-1], depth=1, kernel="relu")[0]
        noisy = np.linalg.inv(last + 0.1 * np.eye(4))
        np.testing.assert_allclose(mean, last @ noisy @ y, atol=1e-7)
        np.testing.assert_allclose(variance, np.diag(last - last @ noisy @ last), atol=1e-7)


@pytest.mark.slow
def test_fewer_inducing_points_bound_the_objective_from_below():
    k, y = problem(n=6)
    settings = {"depth": 2, "kernel": "erf", "width": 2.0, "noise": 0.1}
    full = fit_deep_kernel_machine(k, y, **settings)
    few = fit_deep_kernel_machine(k[:4, :4], y, data=(k[:, :4], np.diag(k)), **settings)
    assert float(few.objective) < float(full.objective)
    mean, variance = few.predict(k[:, :4], np.diag(k))
    assert mean.shape == (6, 2)
    assert np.all(np.asarray(variance) > 0)


def test_bad_arguments_are_named():
    k, y = problem()
    with pytest.raises(ValueError, match="`kernel`"):
        fit_deep_kernel_machine(k, y, depth=1, kernel="cubic")
    with pytest.raises(ValueError, match="`width` must be positive"):
        fit_deep_kernel_machine(k, y, depth=1, width=0.0)
    with pytest.raises(ValueError, match="`width` must be a number"):
        fit_deep_kernel_machine(k, y, depth=1, width=[1.0, 2.0])
    with pytest.raises(ValueError, match="`y`"):
        fit_deep_kernel_machine(k, y[:3], depth=1)
    with pytest.raises(ValueError, match="`noise`"):
        fit_deep_kernel_machine(k, y, depth=1, data=(k, np.diag(k)))
    with pytest.raises(ValueError, match="`input_gram` must be square"):
        process_grams(y, depth=1)
    with pytest.raises(ValueError, match="symmetric"):
        geometric_mean(k, np.triu(k))
    with pytest.raises(ValueError, match="`label_gram`"):
        linear_optimum(k, np.eye(3))
    with pytest.raises(GenjaxError, match="singular"):
        fit_deep_kernel_machine(np.ones((4, 4)), y, depth=1, kernel="linear")
    assert np.isnan(jax.jit(geometric_mean)(-k, k)).all()
