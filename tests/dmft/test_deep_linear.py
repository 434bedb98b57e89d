import jax.numpy as jnp
import numpy as np
import pytest

from genjax.dmft.deep_linear import deep_linear
from genjax.dmft.problem import training_problem
from genjax.errors import Status

KX, Y = jnp.array([[1.0, 0.5], [0.5, 1.0]]), jnp.array([1.0, -1.0])
TIMES = np.array([1, 5, 10, 20])


def problem(depth, **changes):
    options = {"kx": KX, "y": Y, "steps": 20, "activation": lambda h: h, "gamma": 0.5, "learning_rate": 0.5}
    return training_problem(depth=depth, **options | changes)


@pytest.mark.parametrize(
    ("depth", "rate", "gamma", "errors"),
    [
        # Two independent solvers agreed on these to 7e-13; given to eight decimals.
        (1, 0.5, 0.5, [0.75, 0.20117973, 0.02702757, 0.00038483]),
        (1, 0.5, 1.0, [0.75, 0.11533723, 0.0026771, 0.000001]),
        (2, 0.5, 0.5, [0.625, 0.03545443, 0.00029883, 0.00000002]),
        (3, 0.25, 0.5, [0.75, 0.14953269, 0.0068804, 0.00000948]),
    ],
)
def test_reference_numbers(depth, rate, gamma, errors):
    solution = deep_linear(problem(depth, gamma=gamma, learning_rate=rate))
    assert solution.status == Status.OK
    np.testing.assert_allclose(1 - solution.mean.f[TIMES, 0], errors, atol=6e-9)
    np.testing.assert_allclose(solution.mean.f[:, 1], -solution.mean.f[:, 0], atol=1e-12)
    assert not np.any(solution.stderr.f)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_lazy_limit_is_kernel_descent(depth):
    rate = 0.25
    solution = deep_linear(problem(depth, gamma=1e-4, learning_rate=rate))
    values, vectors = np.linalg.eigh(np.asarray(KX))
    decay = (1 - rate * (depth + 1) * values[:, None] / 2) ** np.arange(21)
    expected = np.asarray(Y) - (vectors @ (decay * (vectors.T @ np.asarray(Y))[:, None])).T
    np.testing.assert_allclose(solution.mean.f, expected, atol=1e-6)
    np.testing.assert_allclose(solution.mean.ntk[7, 7], (depth + 1) * KX, atol=1e-6)


def test_one_hidden_layer_is_its_closed_form():
    """Without response the moments of (h, z) obey a closed recursion: h' = h + c kx (delta z), z' = z + c delta h."""
    eta, gamma, steps, kx, y = 0.4, 1.5, 15, np.asarray(KX) + np.diag([0.3, 0]), np.array([1.0, 0.5])
    moments = np.block([[kx, np.zeros((2, 1))], [np.zeros((1, 2)), np.ones((1, 1))]])
    outputs, gram = [], []
    for _ in range(steps + 1):
        f = moments[:2, 2] / gamma
        outputs.append(f)
        gram.append(moments[:2, :2])
        kick = eta * gamma / 2 * (y - f)
        step = np.eye(3)
        step[:2, 2], step[2, :2] = kx @ kick, kick
        moments = step @ moments @ step.T
    solution = deep_linear(problem(1, kx=kx, y=y, gamma=gamma, learning_rate=eta, steps=steps))
    np.testing.assert_allclose(solution.mean.f, outputs, atol=1e-12)
    np.testing.assert_allclose(solution.mean.features[0][np.arange(16), np.arange(16)], gram, atol=1e-12)


def algebra(p, f, sweeps):
    """The fixed point of the literature's matrix equations over (time, sample), by iteration."""
    t, n, depth = p.times, 2, p.depth
    c, ones = float(p.rate), np.ones((t, t))
    hs = [np.kron(ones, np.asarray(p.kx))] * (depth + 1)
    gs = [ones] * (depth + 2)
    a, b = [np.zeros((t * n, t))] * (depth + 1), [np.zeros((t, t * n))] * (depth + 1)
    past = np.tril(np.ones((t, t)), -1)
    for _ in range(sweeps):
        delta = np.asarray(p.y)[:, 0] - f
        new = list(hs), list(gs), list(a), list(b)
        for layer in range(1, depth + 1):
            weighted = hs[layer - 1].reshape(t, n, t, n) * delta * past[:, None, :, None]
            forward = a[layer - 1] + c * weighted.sum(-1).reshape(t * n, t)
            backward = b[layer] + c * ((gs[layer + 1] * past)[:, :, None] * delta).reshape(t, t * n)
            up = np.linalg.inv(np.eye(t * n) - forward @ backward)
            down = np.linalg.inv(np.eye(t) - backward @ forward)
            h0, g0 = hs[layer - 1], gs[layer + 1]
            new[0][layer] = up @ (h0 + forward @ g0 @ forward.T) @ up.T
            new[1][layer] = down @ (g0 + backward @ h0 @ backward.T) @ down.T
            new[2][layer], new[3][layer - 1] = up @ forward, down @ backward
            if layer == depth:
                cross = up @ (h0 @ backward.T + forward @ g0) @ down.T
                f = cross.reshape(t, n, t)[np.arange(t), :, np.arange(t)] / float(p.gamma)
        new[2][0], new[2][depth], new[3][depth] = a[0], a[depth], b[depth]
        hs, gs, a, b = new
    return f, np.array(hs[1:]), np.array(gs[1 : depth + 1])


@pytest.mark.parametrize("depth", [2, 3])
def test_fixed_point_of_the_matrix_equations(depth):
    p = problem(depth, steps=8, learning_rate=0.2, y=jnp.array([1.0, 0.3]))
    f, features, gradients = algebra(p, np.zeros((9, 2)), sweeps=60)
    solution = deep_linear(p).mean
    np.testing.assert_allclose(solution.f, f, atol=1e-9)
    np.testing.assert_allclose(jnp.swapaxes(solution.features, 2, 3).reshape(features.shape), features, atol=1e-9)
    np.testing.assert_allclose(solution.gradients[..., 0, 1], gradients, atol=1e-9)


def test_single_precision_and_kernels_at_equal_times():
    p = problem(2, gamma=1.0, learning_rate=0.2)
    exact, equal = deep_linear(p), deep_linear(p, kernels="equal_time")
    np.testing.assert_allclose(equal.mean.ntk, exact.mean.ntk[np.arange(21), np.arange(21)], atol=1e-12)
    np.testing.assert_allclose(equal.diagnostics.sharpness, exact.diagnostics.sharpness, atol=1e-12)
    single = problem(2, gamma=1.0, learning_rate=0.2, kx=KX.astype(jnp.float32))
    assert single.kx.dtype == jnp.float32
    # Rounding of 1e-7, amplified by directions kept down to 1e-4 in amplitude.
    np.testing.assert_allclose(deep_linear(single).mean.f, exact.mean.f, atol=2e-3)
