import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special

from genjax.errors import GenjaxError
from genjax.ntk.losses import LossPath, loss_path, softmax_cross_entropy, squared_error
from genjax.ntk.paths import training_path

RNG = np.random.default_rng(0)
N, M, P, C = 6, 3, 20, 3
FEATURES, FEATURES_TEST = RNG.standard_normal((N, P)) / P**0.5, RNG.standard_normal((M, P)) / P**0.5
K, K_STAR = FEATURES @ FEATURES.T, FEATURES_TEST @ FEATURES.T
Y = RNG.standard_normal((N, C))
START = 0.3 * RNG.standard_normal((P, C))
F0, F0_TEST = FEATURES @ START, FEATURES_TEST @ START
LABELS = RNG.integers(0, C, N)
TIMES = np.array([0.0, 1.0, 30.0, 200.0])


def test_squared_error_against_the_closed_form():
    path = loss_path(K, Y, TIMES, loss=squared_error, learning_rate=0.5, f0_train=F0, rtol=1e-8, atol=1e-10)
    closed = training_path(K, Y, learning_rate=0.5, f0_train=F0)
    # Local errors of 1e-8 add up over some tens of contracting steps.
    np.testing.assert_allclose(path.train, closed.train(TIMES), atol=1e-6)
    np.testing.assert_allclose(path.test(K_STAR, F0_TEST), closed.test(K_STAR, TIMES, F0_TEST), atol=1e-6)
    np.testing.assert_allclose(path.loss, np.sum((closed.train(TIMES) - Y) ** 2, axis=(1, 2)) / (2 * N), atol=1e-6)


def test_cross_entropy_against_descent_in_the_weights():
    def loss(weights):
        return jnp.mean(-jax.nn.log_softmax(FEATURES @ weights)[np.arange(N), LABELS])

    @jax.jit
    def descend(weights, n_steps):
        # Two step sizes and Richardson extrapolation: the error of order h cancels.
        def ends(h, n_steps):
            return jax.lax.fori_loop(0, n_steps, lambda _, w: w - h * jax.grad(loss)(w), weights)

        return 2 * ends(5e-3, 2 * n_steps) - ends(1e-2, n_steps)

    path = loss_path(K, LABELS, TIMES, f0_train=F0)
    for i, t in enumerate(TIMES):
        weights = descend(START, int(t * 100))
        np.testing.assert_allclose(path.train[i], FEATURES @ weights, atol=1e-5)
        np.testing.assert_allclose(path.test(K_STAR, F0_TEST)[i], FEATURES_TEST @ weights, atol=1e-5)
        np.testing.assert_allclose(path.loss[i], loss(weights), atol=1e-5)
    assert isinstance(path, LossPath)
    assert (np.diff(path.loss) < 0).all()


def test_labels_are_one_hot_probabilities():
    # Equal logits at the start: the loss of a coin with C sides.
    np.testing.assert_allclose(loss_path(K, LABELS, TIMES, n_outputs=C).loss[0], np.log(C), rtol=1e-14)
    logits = jnp.array([1.0, 2.0, 0.5])
    soft = softmax_cross_entropy(logits, jnp.array([0.2, 0.8, 0.0]))
    np.testing.assert_allclose(soft, jax.nn.logsumexp(logits) - 0.2 * 1.0 - 0.8 * 2.0, rtol=1e-14)
    hard = softmax_cross_entropy(logits, jnp.array(1))
    np.testing.assert_array_equal(hard, softmax_cross_entropy(logits, jnp.array([0.0, 1.0, 0.0])))
    assert np.isnan(softmax_cross_entropy(logits, jnp.array(3)))


def test_any_loss():
    signs = np.where(LABELS > 0, 1.0, -1.0)
    path = loss_path(K, signs[:, None], TIMES, loss=lambda f, y: jnp.sum(jax.nn.softplus(-y * f)), learning_rate=2.0)
    solution = scipy.integrate.solve_ivp(
        lambda _, f: 2.0 / N * K @ (signs * scipy.special.expit(-signs * f)),
        (0, TIMES[-1]),
        np.zeros(N),
        t_eval=TIMES,
        rtol=1e-8,
        atol=1e-10,
    )
    np.testing.assert_allclose(path.train[..., 0], solution.y.T, atol=1e-5)


def test_too_few_steps():
    with pytest.raises(GenjaxError, match="`max_steps` = 3"):
        loss_path(K, LABELS, TIMES, n_outputs=C, max_steps=3)
    train = jax.jit(lambda k: loss_path(k, LABELS, TIMES, n_outputs=C, max_steps=3).train)(K)
    assert np.isnan(train).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"times": [2.0, 1.0]}, "`times` must increase strictly"),
        ({"times": []}, "`times` must increase strictly"),
        ({"times": [-1.0]}, "`times` must be at least 0"),
        ({"times": 1.0}, "`times` must have 1 axes"),
        ({"y": Y[:2]}, "`y` must have 6 rows"),
        ({"y": LABELS}, "`n_outputs` must be given"),
        ({"f0_train": F0[:2]}, "`f0_train` must have shape"),
        ({"f0_train": F0[:, :1]}, r"`y` must have the shape of an example's outputs, \(1,\)"),
        ({"loss": softmax_cross_entropy, "n_outputs": 2}, r"`y` must have the shape of an example's outputs, \(2,\)"),
        ({"f0_train": F0, "n_outputs": 2}, "`f0_train` must have shape"),
        ({"learning_rate": -1.0}, "`learning_rate` must be a positive number"),
        ({"rtol": 0.0}, "`rtol` must be a positive number"),
        ({"k_train": np.full((N, N), np.nan)}, "`k_train` must be finite"),
    ],
)
def test_errors(change, message):
    with pytest.raises(ValueError, match=message):
        loss_path(**{"k_train": K, "y": Y, "times": TIMES, "loss": squared_error, **change})
