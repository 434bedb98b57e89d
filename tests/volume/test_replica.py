"""The replica theory of the teacher-student perceptron against its table, its own calculus, limits and simulation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import ndtr

from genjax.errors import Status
from genjax.volume.evidence import sign_log_evidence
from genjax.volume.oracles import TeacherStudent, teacher_student

TABLE = np.array(
    [
        # alpha, overlap, entropy, Gibbs error, Bayes error
        [0.5, 0.28032573, -0.32166581, 0.409558, 0.322395],
        [1, 0.48626364, -0.59644126, 0.338359, 0.254373],
        [2, 0.72829817, -1.03103816, 0.240312, 0.174534],
        [3, 0.84260588, -1.35588820, 0.181020, 0.129855],
        [5, 0.93206425, -1.81536596, 0.118006, 0.083935],
        [10, 0.98137809, -2.48375237, 0.061525, 0.043573],
        [20, 0.99522692, -3.17034656, 0.031113, 0.022009],
    ]
)


def test_reference_table():
    theory = teacher_student(TABLE[:, 0])
    for found, printed, unit in zip(theory, TABLE.T[1:], (1e-8, 1e-8, 1e-6, 1e-6), strict=True):
        # Half a unit of the last printed digit.
        np.testing.assert_allclose(found, printed, rtol=0, atol=0.51 * unit)


@pytest.mark.parametrize("alpha", [0.03, 1.0, 50.0])
def test_order_parameter_solves_its_equation(alpha):
    r = float(teacher_student(alpha).overlap)

    def integrand(t):
        return np.exp(-0.5 * (1 + r) * t**2) / ndtr(-np.sqrt(r) * t) / np.sqrt(2 * np.pi)

    # The plain formulas and adaptive quadrature; beyond 12 the integrand is below e^-70.
    integral = quad(integrand, -12, 12, epsabs=0, epsrel=1e-12, limit=200)[0]
    np.testing.assert_allclose(r / np.sqrt(1 - r), alpha / np.pi * integral, rtol=1e-9)


@pytest.mark.parametrize("alpha", [0.2, 2.0, 20.0])
def test_entropy_is_stationary_in_the_overlap(alpha):
    """So its slope in alpha is the explicit one: minus the entropy of the next label, given the others."""
    theory, h = teacher_student([alpha, 0.999 * alpha, 1.001 * alpha]), 0.001 * alpha
    g = np.sqrt(theory.overlap[0] / (1 - theory.overlap[0]))

    def integrand(t):
        p = ndtr(g * t)
        return np.exp(-0.5 * t**2) * p * np.log(p) / np.sqrt(2 * np.pi)

    # Beyond -37 / g the logarithm underflows, where the integrand is nil.
    slope = 2 * quad(integrand, max(-12, -37 / g), 12, epsabs=1e-13, limit=200)[0]
    # A central difference of relative step 1e-3.
    np.testing.assert_allclose((theory.entropy[2] - theory.entropy[1]) / (2 * h), slope, rtol=1e-5)


def test_few_examples():
    theory = teacher_student([0, 1e-12, 1e-4])
    np.testing.assert_array_equal([field[0] for field in theory], [0, 0, 0.5, 0.5])
    # One example halves the space, and its pull is 2 / pi; corrections are of first order in alpha, below 0.5 alpha.
    np.testing.assert_allclose(theory.entropy[1:] / [1e-12, 1e-4], -np.log(2), atol=5e-5)
    np.testing.assert_allclose(theory.overlap[1:] / [1e-12, 1e-4], 2 / np.pi, atol=5e-5)
    np.testing.assert_allclose(theory.entropy[1] / 1e-12, -np.log(2), rtol=1e-11)


def test_many_examples():
    alpha = np.array([1e3, 1e6, 1e9])
    theory = teacher_student(alpha)
    # 0.625 as published to three digits; Bayes is better by the square root of two; the errors are of order 1 / alpha.
    np.testing.assert_allclose(alpha * theory.gibbs_error, 0.625, atol=5e-4)
    np.testing.assert_allclose(alpha[1:] * theory.gibbs_error[1:], 0.624658192138, rtol=1e-6)
    np.testing.assert_allclose(theory.gibbs_error / theory.bayes_error, np.sqrt(2), rtol=1e-3)
    # The version space is a ball of that radius: a decade of examples costs ln 10 nats per dimension.
    np.testing.assert_allclose(np.diff(theory.entropy), -3 * np.log(10), rtol=1e-3)


def test_more_examples_never_hurt():
    theory = teacher_student(np.geomspace(1e-3, 1e3, 60))
    assert isinstance(theory, TeacherStudent)
    assert (np.diff(theory.overlap) > 0).all()
    for falling in (theory.entropy, theory.gibbs_error, theory.bayes_error):
        assert (np.diff(falling) < 0).all()
    assert (theory.bayes_error < theory.gibbs_error).all()


def test_shapes_and_refusals():
    assert teacher_student(1).overlap.shape == ()
    assert teacher_student([[1, 2, 3]]).entropy.shape == (1, 3)
    with pytest.raises(ValueError, match="`alpha` must be finite and at least 0, but -1 came"):
        teacher_student(-1)


def test_rejection_sampling_of_few_dimensions_comes_close():
    """N = 10, alpha = 1, by brute force."""
    n, teachers, students = 10, 60, 60_000
    rng = np.random.default_rng(0)
    entropies, errors = [], []
    for _ in range(teachers):
        teacher = rng.standard_normal(n)
        x = rng.standard_normal((n, n))
        students_w = rng.standard_normal((students, n)).astype(np.float32)
        fitting = students_w[((students_w @ x.T.astype(np.float32) > 0) == (x @ teacher > 0)).all(axis=1)]
        entropies.append(np.log(len(fitting) / students) / n)
        cosine = fitting @ teacher / np.linalg.norm(fitting, axis=1) / np.linalg.norm(teacher)
        errors.append(np.arccos(cosine).mean() / np.pi)
    theory = teacher_student(1.0)
    # Four standard errors over teachers, and a correction of order 1 / N.
    for sample, exact in ((entropies, theory.entropy), (errors, theory.gibbs_error)):
        np.testing.assert_allclose(np.mean(sample), exact, atol=4 * np.std(sample) / teachers**0.5 + 0.3 / n)


def test_expectation_propagation_agrees_with_the_replica_entropy():
    """Two theories without a line in common, both exact in many dimensions."""
    n, alpha, teachers = 50, 2.0, 8
    keys = jax.random.split(jax.random.key(0), teachers)

    def evidence(key):
        x = jax.random.normal(key, (int(alpha * n), n))
        return sign_log_evidence(x @ x.T, jnp.sign(x[:, 0]))  # the teacher is the first axis, without loss

    result = jax.lax.map(evidence, keys)
    assert (result.status == Status.OK).all()
    entropy = result.value / n
    # Four standard errors over teachers, and a correction of order 1 / N.
    np.testing.assert_allclose(
        entropy.mean(), teacher_student(alpha).entropy, atol=4 * float(entropy.std()) / teachers**0.5 + 0.3 / n
    )
