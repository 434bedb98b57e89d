import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.dmft.causal import causal
from genjax.dmft.fixed_point import fixed_point
from genjax.dmft.problem import training_problem
from genjax.errors import Status

KX = jnp.array([[1.0, 0.5, 0.2], [0.5, 1.0, 0.1], [0.2, 0.1, 1.0]])
Y = jnp.array([1.0, -1.0, 1.0])


@pytest.fixture(scope="module")
def problem():
    return training_problem(
        KX, Y, depth=3, steps=5, activation=jnp.tanh, learning_rate=0.5, gamma=2.0, train_mask=[1, 1, 0],
        momentum=0.5, weight_decay=0.1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def forward(problem):
    return causal(problem, jax.random.key(0), samples=400, batches=2)


def test_fixed_point_on_the_same_noise_is_the_causal_solution(problem, forward):
    solution = fixed_point(problem, jax.random.key(0), samples=400, batches=2, tolerance=1e-12)
    assert solution.status == Status.OK
    for name, tolerance in [("f", 1e-10), ("features", 1e-10), ("gradients", 1e-7), ("ntk", 1e-7)]:
        # Two orders of the same arithmetic; inverses of kernels amplify rounding. Includes the same-time response.
        np.testing.assert_allclose(getattr(solution.mean, name), getattr(forward.mean, name), atol=tolerance)
    np.testing.assert_allclose(solution.mean.forward_responses, forward.mean.forward_responses, atol=1e-5)


@pytest.mark.slow
def test_responses_by_differentiation_give_the_same_solution_within_errors(problem, forward):
    solution = fixed_point(problem, jax.random.key(1), samples=400, batches=4, response="derivative")
    assert solution.status == Status.OK
    error = np.hypot(solution.stderr.f, forward.stderr.f)
    # Two batches give a poor error of their own: hence the floor, a typical error of 400 sites.
    assert np.abs((solution.mean.f - forward.mean.f) / (error + 0.01)).max() < 3
    a, b = solution.mean.forward_responses, solution.mean.backward_responses
    assert a.shape == (2, 6, 6, 3, 3)
    assert b.shape == (2, 6, 6, 3, 3)
    # A is strictly causal; B acts at the same time too.
    upper = np.triu_indices(6)
    assert np.abs(np.asarray(a)[:, upper[0], upper[1]]).max() == 0
    strictly = np.triu_indices(6, 1)
    assert np.abs(np.asarray(b)[:, strictly[0], strictly[1]]).max() == 0
    assert np.abs(np.diagonal(b, axis1=1, axis2=2)).max() > 1e-3


def test_too_few_sweeps_or_too_much_damping_are_reported(problem):
    short = fixed_point(problem, jax.random.key(0), samples=400, batches=2, sweeps=3, damping=0.5)
    assert short.status == Status.INACCURATE
    assert "more sweeps" in short.message
    with pytest.raises(ValueError, match="`damping` must be in"):
        fixed_point(problem, jax.random.key(0), damping=1.0)
    with pytest.raises(ValueError, match="`response` must be one of"):
        fixed_point(problem, jax.random.key(0), response="none")
